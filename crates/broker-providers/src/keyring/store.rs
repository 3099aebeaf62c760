//! The stores that a keyring can be in, and how the one that works is found.
//!
//! Which one serves is only known from writing, reading and deleting: a connection alone proves nothing. A Secret Service
//! that is there but locked is not passed over: what is stored in the kernel is gone with the next boot, and that must
//! not happen because somebody was late with a password.

use std::collections::HashMap;
use std::sync::Arc;

use keyring_core::{CredentialStore, Error};

use crate::local::crypto::random;
use crate::local::keyring::has_bus;
use crate::words::safe;

/// The service under which the broker keeps its own things, and tries whether a keyring works.
pub(crate) const OWN_SERVICE: &str = "broker";

/// What the stand-in of a process without a session begins with, before the user's number (user-session-keyring(7)).
const USER_SESSION: &str = "_uid_ses.";

/// An open keyring.
pub(crate) type Store = CredentialStore;

/// One of the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// `org.freedesktop.secrets` on the session bus: GNOME Keyring, KWallet, KeePassXC.
    SecretService,
    /// The session keyring of the kernel, and the user's persistent one where there is such (keyrings(7)).
    Keyutils,
}

/// Why no store is open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStore {
    /// There is no session bus.
    #[error("there is no session bus, so there is no Secret Service")]
    NoBus,
    /// There is neither.
    #[error("there is neither a Secret Service nor a keyring of the kernel")]
    Neither,
    /// The daemon has the session keyring of nobody in particular.
    #[error("the session that the daemon was started in has no keyring of its own")]
    NoSession,
    /// The session keyring was revoked, as `pam_keyinit revoke` does at logout.
    #[error("the keyring of the session that the daemon was started in is gone ({0})")]
    SessionGone(String),
    /// One is there and does not serve.
    #[error(transparent)]
    Failed(Error),
}

impl Which {
    /// Finds a store by the name that settings give it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "secret-service" => Some(Self::SecretService),
            "keyutils" => Some(Self::Keyutils),
            _ => None,
        }
    }

    /// Returns the longest value that it takes, in bytes.
    pub(crate) fn longest(self) -> usize {
        match self {
            // What a message of D-Bus holds with room to spare (128 MiB), and what its daemons keep in memory.
            Self::SecretService => 1 << 20,
            // add_key(2), type "user".
            Self::Keyutils => 32_767,
        }
    }

    fn open(self) -> Result<Arc<Store>, NoStore> {
        match self {
            Self::SecretService if !has_bus() => Err(NoStore::NoBus),
            Self::SecretService => {
                let store = zbus_secret_service_keyring_store::Store::new().map_err(NoStore::Failed)?;
                Ok(store)
            }
            Self::Keyutils => {
                // A key is called `keyring:ACCOUNT@SERVICE`. Only without `@` in the service is that one item.
                let config = HashMap::from([("service_no_divider", "true")]);
                let store = linux_keyutils_keyring_store::Store::new_with_configuration(&config);
                let store: Arc<Store> = store.map_err(NoStore::Failed)?;
                own_session(&*store)?;
                Ok(store)
            }
        }
    }
}

/// Makes sure that this thread possesses the session keyring before anything is written there.
///
/// A process that was given no session has the one of its user as a stand-in. Naming it is enough to write into it, but
/// not to read, change or delete what was written: the client looks for the persistent keyring next, and the kernel then
/// gives the thread an empty session of its own (keyctl(2), `KEYCTL_GET_PERSISTENT`). What was written would stay behind.
fn own_session(store: &Store) -> Result<(), NoStore> {
    let gone = |why: &dyn std::fmt::Display| NoStore::SessionGone(safe(&why.to_string()));
    // Nothing is created by this, and the keyring is named before the thread can get another one.
    let entry = match store.build(OWN_SERVICE, "session", None) {
        Ok(entry) => entry,
        Err(Error::NoStorageAccess(why)) => return Err(gone(&why)),
        Err(error) => return Err(NoStore::Failed(error)),
    };
    let Some(item) = entry.as_any().downcast_ref::<linux_keyutils_keyring_store::Cred>() else { return Ok(()) };
    let about = item.session.metadata().map_err(|error| gone(&error))?;
    if about.get_description().starts_with(USER_SESSION) { Err(NoStore::NoSession) } else { Ok(()) }
}

/// Opens the store `known`, or the first that works.
///
/// # Errors
/// See [`NoStore`].
pub(crate) fn connect(known: Option<Which>) -> Result<(Which, Arc<Store>), NoStore> {
    if let Some(which) = known {
        return Ok((which, which.open()?));
    }
    if let Ok(store) = Which::SecretService.open() {
        probe(&*store).map_err(NoStore::Failed)?;
        return Ok((Which::SecretService, store));
    }
    let store = Which::Keyutils.open()?;
    probe(&*store).map_err(|_| NoStore::Neither)?;
    Ok((Which::Keyutils, store))
}

/// Writes, reads and deletes a throwaway item.
fn probe(store: &Store) -> Result<(), Error> {
    let random = random::<16>().map_err(|error| Error::PlatformFailure(Box::new(error)))?;
    let name: String = random.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let entry = store.build(OWN_SERVICE, &format!("probe-{name}"), None)?;
    entry.set_secret(random.as_slice())?;
    let read = entry.get_secret();
    // Deleted even where reading it back failed.
    let deleted = entry.delete_credential();
    if read? != random.as_slice() {
        return Err(Error::BadStoreFormat("it returned something else than was stored".to_owned()));
    }
    deleted
}
