//! What GitHub's refusals mean in our own few kinds, and one way out of each.
//!
//! Its words decide where a status has several meanings: a limit and a missing permission are both `403`. Sources: "Rate
//! limits for the REST API", "Troubleshooting the REST API".

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::Answer;
use crate::words::safe;

/// How far a clock may be off before it is spoken of.
const CLOCK: SignedDuration = SignedDuration::from_secs(30);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The installation at an account.
    Account,
    /// A new token.
    Token,
    /// The end of one.
    End,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Tells whether a refused request surely made no token: it was refused as it was, or not taken on. What stands between us
/// and GitHub (502, 504) does not know.
pub(super) fn made_none(answer: &Answer) -> bool {
    !answer.is_success() && !matches!(answer.status, 502 | 504)
}

/// Returns what a failed request means.
pub(super) fn fault_of(answer: &Answer, asked: Asked) -> Fault {
    let Ok(Refusal { message }) = answer.json::<Refusal>() else { return answer.fault() };
    if answer.status >= 500 {
        return answer.fault();
    }
    let cause = safe(&format!("HTTP {}, {message}", answer.status));
    if is_limit(answer, &message) {
        return Fault { retry_after: patience(answer), ..Fault::new(ErrorKind::Throttled, cause) };
    }
    let (kind, code) = match (answer.status, asked) {
        (401, Asked::End) => (ErrorKind::Unauthenticated, ""),
        (401, _) => match clock(answer) {
            Some(words) => {
                let fault = Fault::new(ErrorKind::Unauthenticated, format!("{cause} ({words})"));
                return Fault { code: Some("clock".to_owned()), ..fault };
            }
            None if message.contains("'Issuer'") => (ErrorKind::Unauthenticated, "app-id"),
            None => (ErrorKind::Unauthenticated, "key"),
        },
        (404, _) if message.starts_with("Integration") => (ErrorKind::Unauthenticated, "app-id"),
        (404, Asked::Account) => (ErrorKind::NotFound, "account"),
        (404, _) => (ErrorKind::NotFound, "installation"),
        (403, _) if message.contains("suspended") => (ErrorKind::Denied, "suspended"),
        (403, _) => (ErrorKind::Denied, ""),
        (422, _) if message.contains("repository") => (ErrorKind::Denied, "repositories"),
        (422, _) if message.contains("permissions") => (ErrorKind::Denied, "permissions"),
        (422, _) => (ErrorKind::Unsupported, ""),
        _ => (ErrorKind::Malformed, ""),
    };
    Fault { code: Some(code.to_owned()).filter(|code| !code.is_empty()), ..Fault::new(kind, cause) }
}

/// Returns one way out, where there is one.
pub(super) fn hint(fault: &Fault) -> Option<String> {
    let known = match fault.code.as_deref() {
        Some("clock") => "set the clock of this machine",
        Some("key") => "check that `key` is a private key of the app that `app-id` names, and that GitHub still has it",
        Some("app-id") => "`app-id` stands at the top of the app's settings: its number, or its client id",
        Some("account") => "is the app installed there, and for that account?",
        Some("installation") => {
            "the number stands at the end of the address of the installation's settings; or write the account's name instead"
        }
        Some("suspended") => "an owner of the account can lift that in the installation's settings",
        Some("repositories") => "select them in the installation's settings, and write their names without the owner",
        Some("permissions") => {
            "grant them in the app's settings, and have an owner of the account accept that at the installation"
        }
        _ => match fault.kind {
            ErrorKind::Throttled => "try again in a while",
            ErrorKind::Unavailable => "check the network, and https://www.githubstatus.com",
            ErrorKind::Unsupported if fault.cause.starts_with("its name") => {
                "write the number of the installation, or the name of the account that has it"
            }
            ErrorKind::Unauthenticated => "`key` is the reference of the app's private key",
            _ => return None,
        },
    };
    Some(known.to_owned())
}

fn is_limit(answer: &Answer, message: &str) -> bool {
    let is_spent = answer.headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    let says_so = answer.retry_after().is_some() || message.to_ascii_lowercase().contains("rate limit");
    answer.status == 429 || (answer.status == 403 && (is_spent || says_so))
}

/// Returns how long GitHub wants to be left alone: as it says, or until the hour of its limit is over.
fn patience(answer: &Answer) -> Option<Duration> {
    let reset = || {
        let at: i64 = answer.headers.get("x-ratelimit-reset")?.to_str().ok()?.parse().ok()?;
        let wait = Timestamp::from_second(at).ok()?.duration_since(date(answer).unwrap_or_else(Timestamp::now));
        Some(Duration::try_from(wait).unwrap_or_default().min(Duration::from_secs(24 * 60 * 60)))
    };
    answer.retry_after().or_else(reset)
}

fn date(answer: &Answer) -> Option<Timestamp> {
    let text = answer.headers.get(reqwest::header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// Says how far this machine's clock is off, where that is far.
fn clock(answer: &Answer) -> Option<String> {
    let ahead = Timestamp::now().duration_since(date(answer)?);
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    (ahead.abs() > CLOCK).then(|| format!("the clock of this machine is {} s {way} GitHub's", ahead.abs().as_secs()))
}
