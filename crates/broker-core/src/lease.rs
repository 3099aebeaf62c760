//! A lease: what one run was given, until when, and how it ended.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::principal::ProcessId;
use crate::reference::SecretRef;
use crate::scope::SessionId;

/// The name of one lease: `l-` and 24 letters and digits, unguessable, free to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseId([u8; 26]);

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Turns bytes into the letters of an id: 120 bits of them count.
pub(crate) fn letters(bytes: &[u8]) -> [u8; 24] {
    let mut letters = [b'a'; 24];
    for (letter, byte) in letters.iter_mut().zip(bytes) {
        *letter = ALPHABET[usize::from(byte % 32)];
    }
    letters
}

/// Reads the letters of an id.
pub(crate) fn letters_of(text: &str) -> Option<[u8; 24]> {
    let letters: [u8; 24] = text.as_bytes().try_into().ok()?;
    letters.iter().all(|letter| ALPHABET.contains(letter)).then_some(letters)
}

impl LeaseId {
    /// Makes an id from random bytes (120 bits of them count).
    #[must_use]
    pub fn from_random(random: [u8; 24]) -> Self {
        Self::of_letters(letters(&random))
    }

    fn of_letters(letters: [u8; 24]) -> Self {
        let mut id = *b"l-aaaaaaaaaaaaaaaaaaaaaaaa";
        id[2..].copy_from_slice(&letters);
        Self(id)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Made of letters and digits only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no lease id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is `l-` and 24 letters and digits, as `broker lease list` shows it")]
pub struct LeaseIdError;

impl FromStr for LeaseId {
    type Err = LeaseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("l-").and_then(letters_of).map(Self::of_letters).ok_or(LeaseIdError)
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
        id.as_str().to_owned()
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
    /// The same, in milliseconds since the boot that `process` names: a clock that is set back stretches nothing.
    #[serde(default)]
    pub expires_since_boot_ms: u64,
    /// The narrow session that its secrets are fetched under, as the manager's own log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What was issued for it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// How its process is told when it ends before the process does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchSignal>,
}

/// A signal by which a command can be told that its lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WatchSignal {
    /// `SIGHUP`
    Hup,
    /// `SIGINT`
    Int,
    /// `SIGQUIT`
    Quit,
    /// `SIGTERM`
    Term,
    /// `SIGUSR1`
    Usr1,
    /// `SIGUSR2`
    Usr2,
}

impl WatchSignal {
    /// All there are, by their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("HUP", Self::Hup),
        ("INT", Self::Int),
        ("QUIT", Self::Quit),
        ("TERM", Self::Term),
        ("USR1", Self::Usr1),
        ("USR2", Self::Usr2),
    ];

    /// Finds one by its name, with or without `SIG`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.strip_prefix("SIG").unwrap_or(name);
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, signal)| signal)
    }
}

/// What was issued for one lease: where it is from and how it ends, never what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The references that it was issued for.
    pub references: Vec<SecretRef>,
    /// When it ends by itself. Renewed while the command runs, where it can be.
    pub expires: Timestamp,
    /// Whether the manager can end it before.
    pub revocable: bool,
    /// Whether the daemon serves it to the command, fresh, instead of handing it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub endpoint: bool,
}

/// How a credential ended with its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialEnd {
    /// The manager revoked it.
    Revoked,
    /// Its own time was up before or while it was to be revoked.
    Expired,
    /// It cannot be revoked, is held by nobody here any more, and ends by itself.
    Dropped,
    /// What revoking takes was lost with the memory that held it: it ends by itself.
    Lost,
}

/// One credential of a [`crate::event::Event::LeaseEnded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedCredential {
    /// The references that it was issued for.
    pub references: Vec<SecretRef>,
    /// How it ended.
    pub end: CredentialEnd,
    /// When it ends by itself, where that is still ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
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
    /// The daemon was stopped, and nobody else could have revoked what was issued.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_found_by_its_name_and_written_by_it() {
        for (name, signal) in WatchSignal::ALL {
            assert_eq!(WatchSignal::named(&format!("SIG{name}")), Some(signal));
            assert_eq!(serde_json::to_value(signal).unwrap(), name);
        }
        assert_eq!(WatchSignal::named("KILL"), None);
    }

    #[test]
    fn an_id_is_read_back_and_nothing_else_is() {
        let id = LeaseId::from_random([255; 24]);
        assert_eq!(id.as_str().parse(), Ok(id));
        for text in ["", "l-", "l-short", "x-aaaaaaaaaaaaaaaaaaaaaaaa", "l-aaaaaaaaaaaaaaaaaaaaaaa/"] {
            assert_eq!(text.parse::<LeaseId>(), Err(LeaseIdError), "{text}");
        }
    }
}
