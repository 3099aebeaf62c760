//! A lease: what one run was given, until when, and how it ended.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::principal::ProcessId;

/// The name of one lease: `l-` and 24 letters and digits, unguessable, free to print.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseId(String);

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

impl LeaseId {
    /// Makes an id from random bytes (120 bits of them count).
    #[must_use]
    pub fn from_random(random: [u8; 24]) -> Self {
        Self(format!("l-{}", random.map(|b| ALPHABET[usize::from(b % 32)] as char).iter().collect::<String>()))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no lease id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is `l-` and 24 letters and digits, as `broker lease list` shows it")]
pub struct LeaseIdError;

impl FromStr for LeaseId {
    type Err = LeaseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("l-").ok_or(LeaseIdError)?;
        let good = body.len() == 24 && body.bytes().all(|b| ALPHABET.contains(&b));
        good.then(|| Self(text.to_owned())).ok_or(LeaseIdError)
    }
}

impl TryFrom<String> for LeaseId {
    type Error = LeaseIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LeaseId> for String {
    fn from(id: LeaseId) -> Self {
        id.0
    }
}

/// A live lease. Holds names and references, never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The project it was given in.
    pub project: String,
    /// The profile it was given for.
    pub profile: String,
    /// The variables it covers, by name.
    pub names: Vec<String>,
    /// The command that runs.
    pub argv: Vec<String>,
    /// The process that holds it.
    pub process: ProcessId,
    /// When it began.
    pub started: Timestamp,
    /// When it ends at the latest.
    pub expires: Timestamp,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseEnd {
    /// The process ended.
    Exit,
    /// Its time was up.
    Expired,
    /// Somebody ended it: `lease end`, `lock`.
    Ended,
    /// The values could not be fetched, so nothing was delivered.
    NotFetched,
    /// The values were ready and the peer was gone or had changed, so nothing was delivered.
    NotDelivered,
    /// The process ended while no daemon was there to see it.
    Unattended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_nothing_else_is() {
        let id = LeaseId::from_random([255; 24]);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for text in ["", "l-", "l-short", "x-aaaaaaaaaaaaaaaaaaaaaaaa", "l-aaaaaaaaaaaaaaaaaaaaaaa/"] {
            assert_eq!(text.parse::<LeaseId>(), Err(LeaseIdError), "{text}");
        }
    }
}
