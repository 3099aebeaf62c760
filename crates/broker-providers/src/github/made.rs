//! A token as GitHub says that it made it: its value, its end, and that it is no more than was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use broker_core::secret::SharedValue;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::wanted::Wanted;
use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::{Answer, SecretText};

/// How long a token lives at the most.
const LIFE: SignedDuration = SignedDuration::from_hours(1);

#[derive(Deserialize)]
struct Body {
    token: SecretText,
}

/// What stands around a token. Read after it, so that nothing here can keep a token from being revoked.
#[derive(Deserialize)]
struct Around {
    expires_at: Timestamp,
    permissions: Option<BTreeMap<String, String>>,
    repositories: Option<Vec<Repository>>,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
}

/// A token that exists.
pub(super) struct Made {
    pub(super) token: SharedValue,
    around: Option<Around>,
}

impl Made {
    /// Takes the token out of an answer, whatever else stands there.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] for an answer without one.
    pub(super) fn read(answer: &Answer) -> Result<Self, Fault> {
        let Body { token } = answer.json()?;
        if token.0.is_empty() {
            return Err(Fault::new(ErrorKind::Malformed, "the answer holds an empty token"));
        }
        Ok(Self { token: Arc::new(token.0), around: answer.json().ok() })
    }

    /// Returns when it ends, as far as that is known.
    pub(super) fn expires_at_the_latest(&self) -> Timestamp {
        self.around.as_ref().map_or_else(|| Timestamp::now() + LIFE, |around| around.expires_at)
    }

    /// Checks that it is no more than was asked for, and returns when it ends.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] where it is more, or where the answer does not say.
    pub(super) fn checked(&self, wanted: &Wanted) -> Result<Timestamp, Fault> {
        let strange = |what: &str| Fault::new(ErrorKind::Malformed, format!("the answer {what}"));
        let around = self.around.as_ref().ok_or_else(|| strange("does not say what the token is good for"))?;
        if !wanted.repositories.is_empty() {
            let named = around.repositories.as_deref().unwrap_or_default();
            let is_wanted =
                |known: &Repository| wanted.repositories.iter().any(|name| name.eq_ignore_ascii_case(&known.name));
            if named.is_empty() || !named.iter().all(is_wanted) {
                return Err(strange("is a token for other repositories than were asked for, which nobody gets"));
            }
        }
        if !wanted.permissions.is_empty() {
            let granted = around.permissions.clone().unwrap_or_default();
            // `metadata:read` comes with every token of a repository.
            let is_wanted = |name: &String, level: &String| {
                wanted.permissions.get(name) == Some(level) || (name == "metadata" && level == "read")
            };
            if granted.is_empty() || !granted.iter().all(|(name, level)| is_wanted(name, level)) {
                return Err(strange("is a token with other permissions than were asked for, which nobody gets"));
            }
        }
        Ok(around.expires_at)
    }
}
