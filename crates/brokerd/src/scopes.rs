//! For whom secrets are fetched: the scope of a request, and the name of its session in the manager's log and in ours.

use std::sync::{Arc, Mutex, PoisonError};

use broker_core::principal::Principal;
use broker_core::scope::Scope;

use crate::refusal::Refusal;
use crate::subject::Subject;

/// The scopes of one daemon.
pub(crate) struct Scopes {
    /// The person whom the broker serves, by the name of their account.
    person: String,
    /// Keeps the sessions of this daemon, and of the time between two locks, apart from all others.
    nonce: Mutex<[u8; 32]>,
}

impl Scopes {
    /// Returns the scopes of a daemon that begins now and serves `owner`.
    pub(crate) fn new(owner: u32) -> Self {
        let user = nix::unistd::User::from_uid(owner.into()).ok().flatten();
        let person = user.map_or_else(|| format!("uid-{owner}"), |user| user.name);
        let scopes = Self { person, nonce: Mutex::default() };
        scopes.renew();
        scopes
    }

    /// Lets every later session be another one.
    pub(crate) fn renew(&self) {
        let mut nonce = [0; 32];
        // Without randomness the sessions before and after would share their names, and nothing else.
        if getrandom::fill(&mut nonce).is_ok() {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = nonce;
        }
    }

    /// Returns the scope of what `principal` wants.
    ///
    /// # Errors
    /// The `key` of an instance is no reference.
    pub(crate) fn scope(&self, principal: &Principal, subject: &Subject) -> Result<Arc<Scope>, Refusal> {
        let nonce = *self.nonce.lock().unwrap_or_else(PoisonError::into_inner);
        let project = subject.project.as_ref().map_or("", |project| &project.manifest.project.name);
        let wanted = subject.wanted.iter().map(|wanted| wanted.reference.clone());
        let keys = subject.keys()?.iter().map(|(_, reference)| reference.clone());
        let (profile, tier) = (&subject.profile, principal.tier());
        Ok(Arc::new(Scope::new(&nonce, project, profile, &self.person, tier, wanted.chain(keys))))
    }
}
