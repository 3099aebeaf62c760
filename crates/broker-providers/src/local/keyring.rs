//! The keyring of the operating system (Secret Service), as the place of what must outlive the daemon: one 32-byte key per
//! embedded store, and the sealed sign-ins.
//!
//! Its calls block, and one that waits for a person to unlock a collection blocks without end. So each runs on a thread
//! of its own, which a runtime that shuts down does not wait for, and the caller waits at most its time. Whether a keyring
//! works is only known from writing, reading and deleting: a connection alone proves nothing.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use keyring_core::api::CredentialStoreApi as _;
use keyring_core::{Entry, Error};
use tokio::sync::oneshot;
use zbus_secret_service_keyring_store::Store;
use zeroize::Zeroizing;

use crate::local::crypto::{Key, random};
use crate::words::safe;

/// The service under which our keys stand.
const SERVICE: &str = crate::keyring::store::OWN_SERVICE;
/// How long a working keyring may take; without a bus the answer is immediate.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the keyring did not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyringError {
    /// There is no session bus.
    #[error("there is no session bus, so there is no keyring")]
    NoBus,
    /// The keyring works and lacks the key.
    #[error("the keyring does not hold the key of this store")]
    NoKey,
    /// It took too long, perhaps since it waits for a person to unlock it.
    #[error("the keyring did not answer within {} s; it may be waiting to be unlocked", PATIENCE.as_secs())]
    Silent,
    /// What is held there is no key of ours.
    #[error("the keyring holds something else in the place of the key")]
    NotAKey,
    /// Its own words.
    #[error("the keyring failed: {0}")]
    Failed(String),
}

/// What a key of an embedded store is called for people who look into their keyring.
const KEY_LABEL: &str = "broker: key of the embedded store";

/// Reads what is kept under `account`; nothing when there is none.
pub(crate) async fn find(account: &str, label: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
    let account = account.to_owned();
    let found = on_own_thread(move || entry(&account, label)?.get_secret().map(Zeroizing::new).map_err(failed)).await;
    match found {
        Ok(bytes) => Ok(Some(bytes)),
        Err(KeyringError::NoKey) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps `bytes` under `account`, in place of what was there.
pub(crate) async fn keep(account: &str, label: &'static str, bytes: Vec<u8>) -> Result<(), KeyringError> {
    let (account, bytes) = (account.to_owned(), Zeroizing::new(bytes));
    on_own_thread(move || entry(&account, label)?.set_secret(&bytes).map_err(failed)).await
}

/// Reads the key of the store `id`.
pub(crate) async fn read(id: &str) -> Result<Key, KeyringError> {
    let id = id.to_owned();
    on_own_thread(move || read_back(&entry(&id, KEY_LABEL)?)).await
}

/// Stores the key of the store `id`, and proves it by reading it back.
pub(crate) async fn write(id: &str, key: Key) -> Result<(), KeyringError> {
    let id = id.to_owned();
    on_own_thread(move || {
        let entry = entry(&id, KEY_LABEL)?;
        entry.set_secret(key.as_slice()).map_err(failed)?;
        if *read_back(&entry)? == *key { Ok(()) } else { Err(KeyringError::NotAKey) }
    })
    .await
}

/// Removes what is kept under `id`.
pub(crate) async fn remove(id: &str) -> Result<(), KeyringError> {
    let id = id.to_owned();
    on_own_thread(move || entry(&id, KEY_LABEL)?.delete_credential().map_err(failed)).await
}

/// Writes, reads and deletes a throwaway item.
pub(crate) async fn probe() -> Result<(), KeyringError> {
    let failed = |error: crate::local::crypto::NoRandom| KeyringError::Failed(error.to_string());
    let name: String = random::<8>().map_err(failed)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("probe-{name}");
    let written = write(&id, random::<32>().map_err(failed)?).await;
    if written == Err(KeyringError::NoBus) {
        return written;
    }
    // Deleted even where reading it back failed.
    let removed = remove(&id).await;
    written.and(removed)
}

fn entry(id: &str, label: &str) -> Result<Entry, KeyringError> {
    let label = HashMap::from([("label", label)]);
    Store::new().and_then(|store| store.build(SERVICE, id, Some(&label))).map_err(failed)
}

fn read_back(entry: &Entry) -> Result<Key, KeyringError> {
    let bytes = Zeroizing::new(entry.get_secret().map_err(failed)?);
    let mut key = Key::default();
    if bytes.len() != key.len() {
        return Err(KeyringError::NotAKey);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

fn failed(error: Error) -> KeyringError {
    match error {
        Error::NoEntry => KeyringError::NoKey,
        // These carry the bytes that were read.
        Error::BadEncoding(_) | Error::BadDataFormat(..) => KeyringError::NotAKey,
        other => KeyringError::Failed(safe(&other.to_string())),
    }
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyringError> + Send + 'static,
) -> Result<T, KeyringError> {
    if !has_bus() {
        return Err(KeyringError::NoBus);
    }
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("keyring".to_owned());
    // A receiver that gave up drops the result, wiped.
    let started = thread.spawn(move || drop(sender.send(work())));
    started.map_err(|error| KeyringError::Failed(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(KeyringError::Failed("its client broke down".to_owned())),
        Err(_) => Err(KeyringError::Silent),
    }
}

/// Tells whether a session bus can exist: its address is given, or its socket stands at the usual place.
pub(crate) fn has_bus() -> bool {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    named("DBUS_SESSION_BUS_ADDRESS").is_some()
        || named("XDG_RUNTIME_DIR").is_some_and(|dir| Path::new(&dir).join("bus").exists())
}
