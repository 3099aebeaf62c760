//! What a secret manager can do for us, and the few ways in which it can fail.
//!
//! A provider is one instance, opened for one identity. It knows nothing of who asks, of policy or of leases, and never
//! sees a `#field`: references arrive whole and values leave as the bytes that are stored. Every operation ends by
//! `deadline`, retries included. Wrappers such as the cache are providers themselves.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::code::ErrorCode;
use broker_core::lease::LeaseId;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::{SecretValue, SharedValue};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::issue::{Ending, Issued, Order, SessionPolicy};

/// What a kind of provider can do, as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `put` and `delete` work.
    pub write: bool,
    /// `list` works.
    pub list: bool,
    /// `list` can select by tag.
    pub tags: bool,
    /// `describe` works.
    pub describe: bool,
    /// References may name a version id.
    pub versions: bool,
    /// References may name the previous stage.
    pub previous: bool,
    /// References may name the pending stage, and `put` can write it.
    pub pending: bool,
    /// `promote` and `demote` work.
    pub promote: bool,
    /// What its references name is issued for each run and never stored. (A kind where that depends on the reference
    /// answers [`Provider::issues`].)
    pub issues: bool,
    /// How many references one call fetches; 1 for a manager that cannot batch.
    pub batch: usize,
}

impl Capabilities {
    /// Says in words what it can do, fetching aside.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let words = [
            (self.write, "write"),
            (self.list, "list"),
            (self.tags, "tags"),
            (self.describe, "describe"),
            (self.versions, "versions"),
            (self.previous, "previous"),
            (self.pending, "pending"),
            (self.promote, "promote"),
            (self.issues, "issue"),
            (self.batch > 1, "batch"),
        ];
        words.into_iter().filter(|(can, _)| *can).map(|(_, word)| word).collect()
    }
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
    /// The run that it is for, if it is for one: managers that keep a log are told.
    pub lease: Option<LeaseId>,
}

/// What a listing selects.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListOptions<'a> {
    /// The beginning of the path, decoded; empty for all.
    pub prefix: &'a str,
    /// Tags (or labels) that an entry must have, name and value.
    pub tags: &'a [(String, String)],
}

impl FetchOptions {
    /// Returns the ordinary way to fetch, to be done within `budget`.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self { deadline: Instant::now() + budget, refresh: false, offline: false, lease: None }
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
    /// The name under which the manager itself keeps the value, where its secrets are objects and this is the only field of
    /// one: as a `#field` it names the value, too.
    pub lone_field: Option<&'static str>,
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

/// What a manager knows of one secret besides its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its versions, newest first; empty for a manager without versions.
    pub versions: Vec<DescribedVersion>,
    /// When it was made, where known.
    pub created: Option<SystemTime>,
    /// When it last changed, where known.
    pub changed: Option<SystemTime>,
    /// Its tags (or labels), ordered by name.
    pub tags: Vec<(String, String)>,
}

/// One version of a [`Described`] secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedVersion {
    /// The manager's id of it, as a reference's `?version=` takes it.
    pub id: String,
    /// The stages that it stands in.
    pub stages: Vec<Stage>,
    /// When it was written, where known.
    pub created: Option<SystemTime>,
    /// Whether its value can be had: not disabled, deleted or expired.
    pub usable: bool,
}

/// A stage of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Served when nothing else is said.
    Current,
    /// Was current before the last change.
    Previous,
    /// Is being prepared by a rotation.
    Pending,
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
    /// the manager has one. A reference to the pending stage stores it there and leaves the current version as it is.
    ///
    /// # Errors
    /// Denied, unavailable and the like; [`ErrorKind::Unsupported`] for a reference that names another version, and for
    /// the pending stage of a manager that has none.
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

    /// Lists the secrets that `options` selects, ordered by path.
    ///
    /// # Errors
    /// Denied, unavailable and the like; [`ErrorKind::Unsupported`] for tags where there are none.
    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError>;

    /// Says what is known of a secret besides its value. A version in the reference does not matter.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, and the like; [`ErrorKind::Unsupported`] where it cannot be told.
    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError>;

    /// Makes the version that `reference` names (by id, previous or pending) the current one; the former current version
    /// is the previous one then. As it stands here the bytes are written once more, as a new version: the way of
    /// managers whose versions cannot be moved.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a version that is not there; [`ErrorKind::Unsupported`] for a reference to the current
    /// version and for a manager without versions.
    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        if reference.version == Version::Current || !self.capabilities().promote {
            return Err(unsupported(reference, "there is no version to promote"));
        }
        let options = FetchOptions { deadline, refresh: true, offline: false, lease: None };
        let mut fetched = self.fetch(std::slice::from_ref(reference), options).await;
        let found =
            fetched.pop().unwrap_or_else(|| Err(unsupported(reference, "the provider gave no answer for it")))?;
        // Opened to be written once more, by the same manager under the same name.
        let value = SecretValue::new(found.value.expose().to_vec());
        let current = SecretRef { version: Version::Current, ..reference.clone() };
        self.put(&current, value, deadline).await.map(|_| ())
    }

    /// Takes a stage off: a reference to the current version brings the previous one back, one to the pending stage gives
    /// that version up.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such version or none before it; [`ErrorKind::Unsupported`] for every
    /// other reference and where stages cannot be moved.
    async fn demote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        match reference.version {
            Version::Current => {
                let previous = SecretRef { version: Version::Previous, ..reference.clone() };
                self.promote(&previous, deadline).await
            }
            _ => Err(unsupported(reference, "only the current version can be taken back")),
        }
    }

    /// Tells whether it can be narrowed at all. Asked before each run: quick.
    fn can_narrow(&self) -> bool {
        false
    }

    /// Returns this provider narrowed to what one scope needs, with a session of its own at the manager; nothing where its
    /// settings, or its manager, know no narrower session. Quick, and reaches nobody.
    ///
    /// # Errors
    /// A reference that no session can be cut for.
    fn narrowed(&self, scope: &Arc<Scope>) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
        let _ = scope;
        Ok(None)
    }

    /// Returns what a narrowed provider's session is cut by, exactly as the manager gets it.
    fn session_policies(&self) -> Vec<SessionPolicy> {
        Vec::new()
    }

    /// Tells which references name what is issued for each run, and not stored; in their order. What cannot be told is
    /// fetched, and that says why.
    async fn issues(&self, references: &[SecretRef], deadline: Instant) -> Vec<bool> {
        let _ = deadline;
        vec![self.capabilities().issues; references.len()]
    }

    /// Issues what several references name, for one run. One result per reference, in their order; what was issued beside
    /// one that failed is the caller's to end.
    async fn issue(
        &self,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Vec<Result<Issued, ProviderError>> {
        let _ = (order, deadline);
        references.iter().map(|reference| Err(unsupported(reference, "nothing is issued here"))).collect()
    }

    /// Prolongs what was issued, for a run that may last `left` longer, and returns when it ends now.
    ///
    /// # Errors
    /// The manager no longer knows it, cannot prolong it, or cannot be asked.
    async fn renew(&self, ending: &Ending, left: Duration, deadline: Instant) -> Result<Timestamp, ProviderError> {
        let _ = (left, deadline);
        Err(not_issued(ending))
    }

    /// Ends what was issued. Ending what has ended is no error.
    ///
    /// # Errors
    /// The manager cannot be asked, or refuses.
    async fn revoke(&self, ending: &Ending, deadline: Instant) -> Result<(), ProviderError> {
        let _ = deadline;
        Err(not_issued(ending))
    }

    /// Forgets everything held in memory: values, negatives, sign-ins, keys.
    fn forget(&self);
}

fn not_issued(ending: &Ending) -> ProviderError {
    ProviderError {
        kind: ErrorKind::Unsupported,
        instance: ending.about.name.clone(),
        reference: ending.about.references.first().cloned(),
        cause: "nothing is issued here".to_owned(),
        hint: None,
        retry: Retry::Never,
    }
}

/// Returns the failure of a provider that cannot do what was asked.
#[must_use]
pub fn unsupported(reference: &SecretRef, cause: &str) -> ProviderError {
    ProviderError {
        kind: ErrorKind::Unsupported,
        instance: reference.instance.clone(),
        reference: Some(reference.clone()),
        cause: cause.to_owned(),
        hint: None,
        retry: Retry::Never,
    }
}
