//! One sign-in under way: a code that a person confirms elsewhere, while one task asks the manager now and then.
//!
//! The task asks as often as the manager allows (RFC 8628 section 3.5), goes on when a request fails for want of a
//! network, and ends when the code is confirmed, refused or expired, or when the flow is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::fault::Fault;
use crate::login::{DeviceCode, Login, Poll, Question, Session};
use crate::provider::ErrorKind;

/// How much longer the pauses become when the manager asks for it (RFC 8628 section 3.5).
const SLOWER_BY: Duration = Duration::from_secs(5);
/// The shortest pause, whatever the manager says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// How long a code is waited for, whatever the manager says.
const LONGEST_CODE: Duration = Duration::from_secs(60 * 60);
/// How long one question may take.
const POLL_LIMIT: Duration = Duration::from_secs(10);

/// What a person is to be shown.
#[derive(Debug)]
pub enum Prompt {
    /// An address to visit, perhaps with a code.
    Visit {
        /// The code, where there is one.
        user_code: Option<String>,
        /// Where to enter or compare it.
        address: String,
        /// The address that holds the code already.
        address_complete: Option<String>,
        /// How much longer the code is good.
        expires_in: Duration,
        /// Whether nobody was shown it before.
        first: bool,
    },
    /// Questions to answer.
    Ask(Vec<Question>),
    /// Nothing is left to do.
    Done {
        /// Who is signed in.
        session: Arc<Session>,
        /// Whether that is so since just now.
        new: bool,
    },
}

type Landed = Option<Result<Arc<Session>, Fault>>;

/// A code under way.
pub(crate) struct Flow {
    code: Arc<DeviceCode>,
    ends: Instant,
    landed: watch::Receiver<Landed>,
    task: tokio::task::JoinHandle<()>,
}

impl Flow {
    /// Starts to ask whether `code` was confirmed.
    pub(crate) fn start(login: Arc<dyn Login>, code: DeviceCode) -> Arc<Self> {
        let ends = Instant::now() + code.expires_in.min(LONGEST_CODE);
        let code = Arc::new(code);
        let (sender, landed) = watch::channel(None);
        let asked = Arc::clone(&code);
        let task = tokio::spawn(async move {
            let result = ask_until_confirmed(&*login, &asked, ends).await;
            let _ = sender.send(Some(result.map(Arc::new)));
        });
        Arc::new(Self { code, ends, landed, task })
    }

    /// Tells whether it came to an end, good or bad.
    pub(crate) fn is_over(&self) -> bool {
        self.landed.borrow().is_some() || self.task.is_finished()
    }

    /// Returns what it led to, if it came to a good end.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.landed.borrow().as_ref()?.as_ref().ok().cloned()
    }

    pub(crate) fn prompt(&self, first: bool) -> Prompt {
        Prompt::Visit {
            user_code: self.code.user_code.clone(),
            address: self.code.address.clone(),
            address_complete: self.code.address_complete.clone(),
            expires_in: self.ends.saturating_duration_since(Instant::now()),
            first,
        }
    }

    /// Waits for its end; nothing when `deadline` comes first.
    pub(crate) async fn landed(&self, deadline: Instant) -> Landed {
        let mut landed = self.landed.clone();
        match timeout_at(deadline, landed.wait_for(Option::is_some)).await {
            Err(_) => None,
            Ok(Ok(result)) => result.clone(),
            Ok(Err(_)) => Some(Err(Fault::new(ErrorKind::Unauthenticated, "it was given up"))),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_until_confirmed(login: &dyn Login, code: &DeviceCode, ends: Instant) -> Result<Session, Fault> {
    let mut pause = code.interval.max(SHORTEST_PAUSE);
    loop {
        // A pause past the end of the code, however long, ends with it.
        sleep(pause.min(ends.saturating_duration_since(Instant::now()))).await;
        let now = Instant::now();
        if now >= ends {
            return Err(Fault::new(ErrorKind::Unauthenticated, "the code expired before it was confirmed"));
        }
        match login.poll(code, now + POLL_LIMIT).await {
            Ok(Poll::Done(session)) => return Ok(session),
            Ok(Poll::Pending) => {}
            Ok(Poll::SlowDown) => pause = pause.saturating_add(SLOWER_BY),
            // A laptop between two networks: the code is still good.
            Err(fault) if matches!(fault.kind, ErrorKind::Unavailable | ErrorKind::Throttled) => {
                pause = pause.saturating_mul(2).min(Duration::from_secs(30)).max(fault.retry_after.unwrap_or_default());
            }
            Err(fault) => return Err(fault),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("address", &self.code.address).finish_non_exhaustive()
    }
}
