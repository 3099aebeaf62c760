//! Credentials that are made for one run: how they are ordered, what comes of an order, and how they end.
//!
//! What is issued is never cached, shared or fetched again: it belongs to the run of its order. Where the manager can
//! revoke it, what that takes stands in the [`Ledger`] from before it is used until it was revoked, so that the death of this
//! process at any moment leaves nothing behind. Where the manager can't, it is asked for with the shortest life that serves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use broker_core::lease::LeaseId;
use broker_core::reference::SecretRef;
use broker_core::scope::Scope;
use broker_core::secret::SharedValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::registry::Instance;

/// What a run wants to be issued.
#[derive(Clone, Debug)]
pub struct Order {
    /// The run. Its id stands in the manager's log.
    pub lease: LeaseId,
    /// For whom it is.
    pub scope: Arc<Scope>,
    /// How long the run may last at most. What is issued may end earlier, and then it is renewed or issued anew.
    pub ttl: Duration,
    /// The value behind the `key` of the instance, where its settings name one.
    pub key: Option<SharedValue>,
}

/// One issued secret, whole.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its bytes.
    pub value: SharedValue,
    /// The field by which the whole value can be named, too, as in [`crate::provider::Fetched::lone_field`].
    pub lone_field: Option<&'static str>,
    /// The credential that it is or belongs to. Several secrets can share one and end together.
    pub credential: Arc<Credential>,
}

/// One credential of a manager, as far as its end is concerned.
#[derive(Debug)]
pub struct Credential {
    /// The instance that issued it.
    pub instance: String,
    /// What it was issued for.
    pub references: Vec<SecretRef>,
    /// When it ends by itself, unless it is renewed.
    pub expires: Timestamp,
    /// How the manager ends it before; none where it can't.
    pub revocation: Option<Revocation>,
}

/// A credential that can be revoked, and where it stands in the ledger.
#[derive(Debug)]
pub struct Revocation {
    /// Its entry in the ledger.
    pub entry: EntryId,
    /// What revoking and renewing it takes.
    pub ending: Ending,
}

/// What ending or renewing a credential takes.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Everything but the credential.
    pub about: About,
    /// What the manager has to be shown: mostly the credential itself.
    pub credential: SharedValue,
}

/// Which credential an [`Ending`] is of. Holds no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The run that it was issued for; none for one that serves a single fetch.
    pub lease: Option<LeaseId>,
    /// The instance's name.
    pub name: String,
    /// Its settings, for a daemon that has never seen them.
    pub instance: Instance,
    /// What it was issued for.
    pub references: Vec<SecretRef>,
    /// When it ends by itself, as was known when it was written down.
    pub expires: Timestamp,
    /// Whether [`crate::provider::Provider::renew`] can prolong it.
    pub renewable: bool,
    /// The manager's names of what hangs on it and is renewed with it, such as the leases of Vault.
    pub leases: Vec<String>,
}

/// The name of one entry of a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub u64);

/// Why nothing can be written down.
#[derive(Debug, thiserror::Error)]
#[error("what revoking a credential takes cannot be kept: {0}")]
pub struct LedgerError(#[from] pub std::io::Error);

/// Where credentials stand that have to be ended, whatever becomes of this process.
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Writes an ending down. When this returns, it survives the death of this process.
    ///
    /// # Errors
    /// There is no room, or the system refuses. Nothing may be used then that could not be ended.
    fn hold(&self, ending: &Ending) -> Result<EntryId, LedgerError>;

    /// Forgets an entry: the credential ended. One that is not there is no error.
    fn strike(&self, entry: EntryId);
}

/// A ledger that keeps nothing: for those who fetch without a daemon around them, and live to end what they ordered.
#[derive(Debug)]
pub struct Unkept;

impl Ledger for Unkept {
    fn hold(&self, _: &Ending) -> Result<EntryId, LedgerError> {
        Ok(EntryId(0))
    }

    fn strike(&self, _: EntryId) {}
}

/// One policy or limit that a narrow session is cut by, for people to review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    /// What it is: `session policy 1 of 2`.
    pub title: String,
    /// Its exact text, as the manager gets it.
    pub text: String,
}

impl LedgerError {
    /// Says it as the failure of a request. Not a conversion: a `?` is not to hide that nothing was written down.
    pub(crate) fn fault(&self) -> Fault {
        Fault::new(ErrorKind::Unavailable, self.to_string())
    }
}
