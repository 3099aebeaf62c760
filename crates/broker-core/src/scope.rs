//! For whom and for what a session at a manager is cut, and the ids under which the manager's log and ours join.
//!
//! A scope is the answer to "who may reach what": a project, a profile, a person, the tier in which they were attested, and
//! the very references of one run. Everything that is fetched or issued for a run is fetched or issued under its scope, and
//! nothing that one scope got is ever served to another.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::lease::{LeaseId, letters};
use crate::principal::Tier;
use crate::reference::{SecretRef, Version};

/// The name of one narrow session: `s-` and 24 letters and digits. It stands in the manager's log (as a tag, in the name of
/// the session, in the metadata of a token) and in the audit record of every run that used the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId([u8; 24]);

/// The text is no session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is `s-` and 24 letters and digits")]
pub struct SessionIdError;

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("s-")?;
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl TryFrom<String> for SessionId {
    type Error = SessionIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.strip_prefix("s-").and_then(crate::lease::letters_of).map(Self).ok_or(SessionIdError)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.to_string()
    }
}

/// For whom and for what a session is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The name of the session: another one for every other scope. Sessions of single runs share it, and differ in `lease`.
    pub session: SessionId,
    /// The project; empty outside one.
    pub project: String,
    /// The profile; empty outside a project.
    pub profile: String,
    /// The person whom the broker serves, by the name of their account on this machine.
    pub person: String,
    /// The tier in which the principal was attested.
    pub tier: Tier,
    /// The run; set where a session belongs to one run alone.
    pub lease: Option<LeaseId>,
    /// What is wanted, whole, of every instance, ordered, each once.
    pub references: Vec<SecretRef>,
}

impl Scope {
    /// Makes the scope of `references`. `nonce` keeps the sessions of one life of the daemon, and of the time between two
    /// locks, apart from all others.
    #[must_use]
    pub fn new(
        nonce: &[u8; 32],
        project: &str,
        profile: &str,
        person: &str,
        tier: Tier,
        references: impl IntoIterator<Item = SecretRef>,
    ) -> Self {
        let mut references: Vec<SecretRef> = references.into_iter().map(|reference| reference.whole()).collect();
        references.sort_unstable();
        references.dedup();
        let mut hash = Sha256::new_with_prefix(nonce);
        let mut add = |text: &str| {
            // With its length, so that no two lists are the same bytes.
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        [project, profile, person, tier.word()].into_iter().for_each(&mut add);
        for SecretRef { instance, path, field: _, version, options } in &references {
            let version = match version {
                Version::Current => ["current", ""],
                Version::Previous => ["previous", ""],
                Version::Pending => ["pending", ""],
                Version::Id(id) => ["id", id],
            };
            [instance, path].into_iter().map(String::as_str).chain(version).for_each(&mut add);
            options.iter().flat_map(|(name, value)| [name, value]).for_each(|text| add(text));
            // Ends the options, which have names.
            add("");
        }
        let session = SessionId(letters(&hash.finalize()));
        let [project, profile, person] = [project, profile, person].map(str::to_owned);
        Self { session, project, profile, person, tier, lease: None, references }
    }

    /// Returns the scope of one run alone. The run is what tells its session from others; the name stays the one that is in
    /// the run's audit record.
    #[must_use]
    pub fn of_run(&self, lease: LeaseId) -> Self {
        Self { lease: Some(lease), ..self.clone() }
    }

    /// Returns what is wanted of one instance.
    pub fn of_instance<'s>(&'s self, instance: &'s str) -> impl Iterator<Item = &'s SecretRef> {
        self.references.iter().filter(move |reference| reference.instance == instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(project: &str, profile: &str, references: &[&str]) -> Scope {
        let references = references.iter().map(|text| text.parse().unwrap());
        Scope::new(&[7; 32], project, profile, "ada", Tier::Unattended, references)
    }

    #[test]
    fn the_same_wish_is_the_same_session_and_every_other_one_is_another() {
        let one = scope("shop", "dev", &["org://b#x", "org://a", "org://b#y"]);
        assert_eq!(one.references.len(), 2);
        assert_eq!(one.session, scope("shop", "dev", &["org://a", "org://b"]).session);
        for other in [
            scope("shop", "dev", &["org://a"]),
            scope("shop", "dev", &["org://a", "org://b?stage=previous"]),
            scope("shop", "dev", &["org://a", "org://b?version=1"]),
            scope("shop", "dev", &["org://a", "org://b?x=1"]),
            scope("shop", "dev", &["org://a?x=1", "org://b"]),
            scope("sho", "pdev", &["org://a", "org://b"]),
            scope("shop", "migrate", &["org://a", "org://b"]),
            Scope::new(&[8; 32], "shop", "dev", "ada", Tier::Unattended, one.references.clone()),
            Scope::new(&[7; 32], "shop", "dev", "ada", Tier::Human, one.references.clone()),
        ] {
            assert_ne!(one.session, other.session, "{other:?}");
        }
    }

    #[test]
    fn the_scope_of_one_run_has_the_name_that_is_on_record_and_is_another_one() {
        let shared = scope("shop", "dev", &["org://a"]);
        let [one, other] = [1, 2].map(|run| shared.of_run(LeaseId::from_random([run; 24])));
        assert!(one.session == shared.session && one != shared && one != other);
    }

    #[test]
    fn an_id_is_read_back() {
        let id = scope("shop", "dev", &[]).session;
        assert_eq!(SessionId::try_from(id.to_string()), Ok(id));
        assert_eq!(SessionId::try_from("s-short".to_owned()), Err(SessionIdError));
    }
}
