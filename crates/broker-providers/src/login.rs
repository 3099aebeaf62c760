//! How a person signs in to an instance, whatever its kind: a code to confirm elsewhere, or questions to answer.
//!
//! A kind that has such a way implements [`Login`]; what it yields is a [`Session`], held by
//! [`SignIns`](crate::sign_ins::SignIns) under a [`SessionKey`] that names the origin it was obtained for, so that it is
//! never shown to another one.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::secret::{SecretValue, SharedValue};
use tokio::time::Instant;

use crate::fault::Fault;

/// Names a session: the kind of provider, the origin it is good for, and what else tells two apart. Prints freely.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// The kind of provider.
    pub kind: &'static str,
    /// Where it was obtained and may be shown, such as `https://vault.example.com:8200`.
    pub origin: String,
    /// The namespace, role, tenant and the like, and whose certificates are believed there.
    pub detail: String,
}

impl SessionKey {
    /// Writes what tells two sessions apart: quoted, so that no part can pass for another one.
    pub(crate) fn detail_of(parts: &[(&str, &str)]) -> String {
        parts.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.origin)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " {}", self.detail) }
    }
}

/// What a sign-in yields.
#[derive(Clone, Debug)]
pub struct Session {
    /// The credential, in the kind's own form.
    pub credential: SharedValue,
    /// When it ends, where known.
    pub expires: Option<SystemTime>,
    /// Whether it can be renewed without a person.
    pub renewable: bool,
    /// As whom, in the manager's words; safe to print.
    pub who: String,
}

/// What a person must do.
#[derive(Debug)]
pub enum Begun {
    /// Confirm a code elsewhere, while we ask now and then.
    Device(DeviceCode),
    /// Answer these.
    Ask(Vec<Question>),
    /// Nothing: it needed nobody.
    Done(Session),
}

/// A code to be confirmed in a browser (RFC 8628), or just an address to visit.
#[derive(Debug)]
pub struct DeviceCode {
    /// The code that the person compares or enters, where there is one.
    pub user_code: Option<String>,
    /// Where.
    pub address: String,
    /// The address that holds the code already, where the manager gives one.
    pub address_complete: Option<String>,
    /// How often to ask.
    pub interval: Duration,
    /// How long the code is good.
    pub expires_in: Duration,
    /// What proves to the manager that we are the ones who began, in the kind's own form.
    pub secret: SecretValue,
}

/// Something that a person is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What for, such as `password of alice`.
    pub label: String,
    /// Whether it stays invisible while it is typed.
    pub hidden: bool,
}

/// What became of a code.
#[derive(Debug)]
pub(crate) enum Poll {
    /// Nobody has confirmed it yet.
    Pending,
    /// The same, and we ask too often.
    SlowDown,
    /// It is confirmed.
    Done(Session),
}

/// One instance's way to sign in.
#[async_trait]
pub(crate) trait Login: Send + Sync {
    /// Names the session that this leads to.
    fn session(&self) -> SessionKey;

    /// Says the way out of a fault, where it is another one than to try again.
    fn hint(&self, _: &Fault) -> Option<String> {
        None
    }

    /// Begins, and says what a person must do.
    async fn begin(&self, deadline: Instant) -> Result<Begun, Fault>;

    /// Asks once whether the code was confirmed.
    async fn poll(&self, code: &DeviceCode, deadline: Instant) -> Result<Poll, Fault>;

    /// Signs in with the answers, in the order of the questions.
    async fn answer(&self, answers: Vec<SecretValue>, deadline: Instant) -> Result<Session, Fault>;

    /// Makes a session last longer, without a person.
    async fn renew(&self, session: &Session, deadline: Instant) -> Result<Session, Fault>;

    /// Ends a session at the manager, where it can be ended.
    async fn end(&self, session: &Session, deadline: Instant) -> Result<(), Fault>;
}
