//! What went wrong with one request to a manager, before it is said of a reference, and how long it is worth asking again.
//!
//! Every manager's failures become the same few kinds here, and one loop repeats requests for all of them. The deadline
//! rules it, the pauses are random and short, and a manager that names a time is not asked before it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::provider::{ErrorKind, Retry};
use crate::words::safe;

/// The longest wait that a manager can ask for: more is added to no clock.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The code of a request for which there was no connection. No manager's is written so.
const NOT_SENT: &str = "(not sent)";

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    /// The manager's code, where it named one.
    pub(crate) code: Option<String>,
    pub(crate) cause: String,
    /// When the manager wants to be asked again at the earliest (`Retry-After`).
    pub(crate) retry_after: Option<Duration>,
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, code: None, cause: cause.into(), retry_after: None }
    }

    /// Returns the fault that a manager names by `code` and explains by `message`, which are made safe.
    pub(crate) fn coded(kind: ErrorKind, code: &str, message: &str) -> Self {
        // Cut as a whole: a code may be as long as a message.
        let cause = if message.is_empty() { safe(code) } else { safe(&format!("{code}: {message}")) };
        Self { kind, code: Some(safe(code)), cause, retry_after: None }
    }

    /// Returns the fault of a request that was not answered in time.
    pub(crate) fn late() -> Self {
        Self::new(ErrorKind::Unavailable, "no answer before the deadline")
    }

    /// Says that nothing of the request ever left.
    pub(crate) fn not_sent(self) -> Self {
        Self { code: Some(NOT_SENT.to_owned()), ..self }
    }

    /// Tells whether nothing of the request ever left.
    pub(crate) fn was_not_sent(&self) -> bool {
        self.is(NOT_SENT)
    }

    /// Tells whether the manager named this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Returns what callers are advised to do.
    pub(crate) fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::Throttled | ErrorKind::Unavailable => {
                Retry::After(self.retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => Retry::Never,
        }
    }

    /// How many times in all a request is sent that fails like this.
    fn attempts(&self) -> u32 {
        match self.kind {
            ErrorKind::Throttled => 8,
            ErrorKind::Unavailable => 4,
            ErrorKind::Malformed => 2,
            _ => 1,
        }
    }
}

/// Sends a request until it is answered, makes no sense to repeat, or `deadline` comes.
///
/// The first attempt gets two fifths of the time: a kept connection that died silently (a laptop that moved) leaves
/// enough for a second one. Pauses have full jitter.
pub(crate) async fn persist<T, F>(deadline: Instant, send: impl Fn() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let first = Instant::now() + deadline.saturating_duration_since(Instant::now()) * 2 / 5;
    let mut attempt = 1;
    let mut last = None;
    loop {
        let until = if attempt == 1 { first } else { deadline };
        let fault = match timeout_at(until, send()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(fault)) => fault,
            Err(_) if Instant::now() < deadline => {
                Fault::new(ErrorKind::Unavailable, "no answer, and the time is running out")
            }
            Err(_) => return Err(last.unwrap_or_else(Fault::late)),
        };
        let wake = Instant::now() + pause(attempt).max(fault.retry_after.unwrap_or_default());
        if attempt >= fault.attempts() || wake >= deadline {
            return Err(fault);
        }
        attempt += 1;
        last = Some(fault);
        sleep_until(wake).await;
    }
}

/// Reads a `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(header: &str) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST_WAIT));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header.trim()).ok()?;
    let wait: Duration = date.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default();
    Some(wait.min(LONGEST_WAIT))
}

/// Returns a random pause before the attempt after `attempt`: between nothing and 50 ms, 100 ms and so on up to 2 s.
fn pause(attempt: u32) -> Duration {
    let most = (50_u64 << attempt.saturating_sub(1).min(6)).min(2000);
    // Without randomness the longest pause is taken, which is merely less polite.
    let random = getrandom::u64().unwrap_or(u64::MAX);
    Duration::from_millis(1 + random % most)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn however_long_a_code_and_a_message_are_the_cause_is_cut_at_500_characters() {
        let long = "\u{202e}x".repeat(100_000);
        for (code, message) in [("AccessDenied", long.as_str()), (&long, ""), (&long, &long)] {
            let fault = Fault::coded(ErrorKind::Denied, code, message);
            assert!(fault.cause.chars().count() <= 501 && fault.cause.ends_with('…'), "{}", fault.cause);
            assert!(fault.code.is_some_and(|code| code.chars().count() <= 501));
        }
    }

    #[test]
    fn pauses_are_random_and_bounded() {
        let pauses: std::collections::HashSet<_> = (0..50).map(|_| pause(7)).collect();
        assert!(pauses.len() > 10);
        assert!((1..40).all(|attempt| pause(attempt) <= Duration::from_millis(2000)));
        assert!((0..100).all(|_| pause(1) <= Duration::from_millis(50)));
    }

    #[test]
    fn a_time_is_named_in_seconds_or_as_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let date = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(retry_after(&date).is_some_and(|wait| (98..=100).contains(&wait.as_secs())), "{date}");
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_names_the_end_of_time_is_asked_again_in_a_day() {
        let day = Duration::from_secs(24 * 60 * 60);
        for header in [u64::MAX.to_string().as_str(), "Wed, 01 Dec 9999 00:00:00 GMT"] {
            assert_eq!(retry_after(header), Some(day), "{header}");
            let named = retry_after(header).unwrap();
            assert_eq!(times_of_a_busy_manager(Duration::from_secs(10), named).await.len(), 1);
        }
    }

    /// Asks a manager that is busy and names a time; returns the times of the requests, from the first one on.
    async fn times_of_a_busy_manager(budget: Duration, named: Duration) -> Vec<Duration> {
        let started = Instant::now();
        let times = Cell::new(Vec::new());
        let busy = || async {
            let mut all = times.take();
            all.push(started.elapsed());
            times.set(all);
            Err::<(), _>(Fault { retry_after: Some(named), ..Fault::new(ErrorKind::Throttled, "busy") })
        };
        let fault = persist(started + budget, busy).await.expect_err("it is busy for ever");
        assert_eq!(fault.retry(), Retry::After(named));
        assert!(started.elapsed() <= budget);
        times.take()
    }

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_names_a_time_is_not_asked_before_it() {
        let times = times_of_a_busy_manager(Duration::from_secs(10), Duration::from_secs(3)).await;
        assert!(times.len() >= 3 && times.windows(2).all(|two| two[1] - two[0] >= Duration::from_secs(3)), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_past_the_deadline_ends_it_at_once() {
        assert_eq!(times_of_a_busy_manager(Duration::from_secs(10), Duration::from_secs(60)).await.len(), 1);
    }
}
