//! The stable codes of our own failures.
//!
//! A code is part of the interface: scripts match on it, `docs/errors.md` explains it. Codes are added, never renamed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Says what kind of failure it is and, by that, whose turn it is to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The command line does not make sense.
    Usage,
    /// A manifest or a configuration file has problems, or there is none.
    Manifest,
    /// The manifest is not (or no longer) the one that was trusted.
    Untrusted,
    /// A name, reference, lease or command that does not exist.
    NotFound,
    /// No usable sign-in, an expired one, or a locked store.
    Unauthenticated,
    /// Policy or the secret manager said no.
    Denied,
    /// A person has to answer first and nobody can be asked here.
    ApprovalNeeded,
    /// Nobody answered in time.
    ApprovalTimeout,
    /// The secret manager asked us to slow down for longer than we may wait.
    Throttled,
    /// The secret manager could not be reached or failed.
    Unavailable,
    /// Only a value older than allowed is at hand.
    Stale,
    /// Too many leases, or too many at once.
    Quota,
    /// A value cannot be delivered as asked.
    Value,
    /// The audit record could not be written, so nothing was delivered.
    Audit,
    /// The secret manager answered something we cannot use.
    Provider,
    /// The daemon cannot be started, reached or spoken to.
    Daemon,
    /// A fault of ours.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::Usage,
        Self::Manifest,
        Self::Untrusted,
        Self::NotFound,
        Self::Unauthenticated,
        Self::Denied,
        Self::ApprovalNeeded,
        Self::ApprovalTimeout,
        Self::Throttled,
        Self::Unavailable,
        Self::Stale,
        Self::Quota,
        Self::Value,
        Self::Audit,
        Self::Provider,
        Self::Daemon,
        Self::Internal,
    ];

    /// Returns the code as it is printed and documented.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Manifest => "manifest",
            Self::Untrusted => "untrusted",
            Self::NotFound => "not-found",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::ApprovalNeeded => "approval-needed",
            Self::ApprovalTimeout => "approval-timeout",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Stale => "stale",
            Self::Quota => "quota",
            Self::Value => "value",
            Self::Audit => "audit",
            Self::Provider => "provider",
            Self::Daemon => "daemon",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_in_json_as_it_is_printed() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
    }
}
