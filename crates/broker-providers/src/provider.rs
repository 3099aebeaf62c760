//! What a secret manager can do for us, and the few ways in which it can fail.
//!
//! A provider is one instance, opened for one identity. It knows nothing of who asks, of policy or of leases, and never
//! sees a `#field`: references arrive whole and values leave as the bytes that are stored. Every operation ends by
//! `deadline`, retries included. Wrappers such as the cache are providers themselves.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::code::ErrorCode;
use broker_core::reference::SecretRef;
use broker_core::secret::{SecretValue, SharedValue};
use tokio::time::Instant;

/// What a kind of provider can do, as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `put` and `delete` work.
    pub write: bool,
    /// `list` works.
    pub list: bool,
    /// References may name a version id.
    pub versions: bool,
    /// References may name the previous and the pending stage.
    pub stages: bool,
    /// How many references one call fetches; 1 for a manager that cannot batch.
    pub batch: usize,
}

/// How one fetch is made.
#[derive(Clone, Copy, Debug)]
pub struct FetchOptions {
    /// When the fetch must have ended, whatever happened.
    pub deadline: Instant,
    /// Ask the manager even for what is held.
    pub refresh: bool,
    /// Never ask the manager: serve what is held, within `max-stale`.
    pub offline: bool,
}

impl FetchOptions {
    /// Returns the ordinary way to fetch, to be done within `budget`.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self { deadline: Instant::now() + budget, refresh: false, offline: false }
    }
}

/// One fetched secret, whole.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its bytes.
    pub value: SharedValue,
    /// The manager's id of the version that was served, where it has one.
    pub version: Option<String>,
    /// When the manager answered it.
    pub fetched_at: Instant,
    /// Set when it is older than its `ttl` and served because the manager is away.
    pub stale: bool,
}

/// One entry of a listing: never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The path, as a reference writes it (decoded).
    pub path: String,
    /// The current version's id, where the manager has one.
    pub version: Option<String>,
    /// When it last changed, where known.
    pub changed: Option<SystemTime>,
}

/// Whether it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The answer will be the same.
    Never,
    /// Not before this much time.
    After(Duration),
}

/// The ways in which a manager fails, the same for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such secret or version.
    NotFound,
    /// The identity may not.
    Denied,
    /// There is no identity, or it expired.
    Unauthenticated,
    /// The embedded store waits for its passphrase.
    Locked,
    /// The embedded store does not exist yet and waits for a first passphrase.
    NotCreated,
    /// The manager asks for patience beyond the deadline.
    Throttled,
    /// Refused, unreachable, failing, or silent past the deadline.
    Unavailable,
    /// The answer makes no sense.
    Malformed,
    /// This provider cannot do that at all.
    Unsupported,
    /// Nothing young enough is held, and the manager was not to be asked.
    Stale,
}

impl ErrorKind {
    /// Returns the code under which it is shown.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::NotFound,
            Self::Denied => ErrorCode::Denied,
            Self::Unauthenticated | Self::Locked | Self::NotCreated => ErrorCode::Unauthenticated,
            Self::Throttled => ErrorCode::Throttled,
            Self::Unavailable => ErrorCode::Unavailable,
            Self::Malformed | Self::Unsupported => ErrorCode::Provider,
            Self::Stale => ErrorCode::Stale,
        }
    }

    /// Tells whether a held value may stand in within `max-stale`.
    #[must_use]
    pub fn allows_stale(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Malformed)
    }
}

/// A failure for one reference (or, from `list`, for one instance). Never holds a value.
#[derive(Clone, Debug)]
pub struct ProviderError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// The instance's name.
    pub instance: String,
    /// The reference concerned, where it is one.
    pub reference: Option<SecretRef>,
    /// The manager's own words: `AccessDeniedException: User ... is not authorized`. Control characters escaped.
    pub cause: String,
    /// One way out, where the provider knows one.
    pub hint: Option<String>,
    /// Whether to ask again.
    pub retry: Retry,
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            ErrorKind::NotFound => "has no",
            ErrorKind::Denied => "refused",
            ErrorKind::Unauthenticated => "has no valid sign-in for",
            ErrorKind::Locked => "is locked and cannot serve",
            ErrorKind::NotCreated => "does not exist yet and cannot serve",
            ErrorKind::Throttled => "throttled",
            ErrorKind::Unavailable => "could not be asked for",
            ErrorKind::Malformed => "answered nonsense for",
            ErrorKind::Unsupported => "cannot do that for",
            ErrorKind::Stale => "has no fresh value of",
        };
        write!(f, "`{}` {verb}", self.instance)?;
        match &self.reference {
            Some(reference) => write!(f, " `{reference}`")?,
            None => f.write_str(" this request")?,
        }
        if self.cause.is_empty() { Ok(()) } else { write!(f, ": {}", self.cause) }
    }
}

impl std::error::Error for ProviderError {}

/// One instance of a secret manager, opened for one identity.
///
/// Contract, checked for every provider by `contract.rs` (feature `contract`):
/// - `fetch` returns exactly one result per reference, in their order; one failing reference leaves the others unharmed;
/// - values are the stored bytes, unchanged;
/// - nothing outlives the deadline;
/// - no error text holds a value.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    /// Returns what this provider can do.
    fn capabilities(&self) -> Capabilities;

    /// Fetches many secrets at once, whole.
    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>>;

    /// Stores `value` as the new current version, creating the secret where needed, and returns the version's id where
    /// the manager has one.
    ///
    /// # Errors
    /// Denied, unavailable and the like; [`ErrorKind::Unsupported`] for a reference that names a version.
    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError>;

    /// Removes a secret with all its versions.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, and the like.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError>;

    /// Lists the secrets whose path begins with `prefix`, ordered by path.
    ///
    /// # Errors
    /// Denied, unavailable and the like.
    async fn list(&self, prefix: &str, deadline: Instant) -> Result<Vec<Listed>, ProviderError>;

    /// Forgets everything held in memory: values, negatives, sign-ins, keys.
    fn forget(&self);
}
