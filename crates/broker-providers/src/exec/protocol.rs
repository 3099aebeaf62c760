//! What an `exec` program is asked and how its answer is read: version 1 of the exchange of docs/providers/exec.md.
//!
//! One JSON object each way. Results are found by the `id` of what was asked and never by their place, so that a program
//! that leaves one out can't shift a value into the wrong variable. What is not exactly as documented is refused: an
//! unknown key, an unknown id, a result that is given twice or not at all, `null` where a value belongs. No error quotes
//! an answer, and a cause that holds a value of the same exchange is not passed on.

pub(crate) mod answer;
pub(crate) mod request;
mod shape;

use std::time::Duration;

use crate::provider::{ErrorKind, Retry};

/// The version of the exchange.
const VERSION: u32 = 1;

/// What is wrong, before it is said of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    pub(crate) cause: String,
    pub(crate) hint: Option<String>,
    pub(crate) retry: Retry,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        let retry = match kind {
            ErrorKind::Throttled | ErrorKind::Unavailable => Retry::After(Duration::from_secs(1)),
            _ => Retry::Never,
        };
        Self { kind, cause: cause.into(), hint: None, retry }
    }

    pub(crate) fn malformed(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, cause)
    }
}

#[cfg(test)]
mod tests;
