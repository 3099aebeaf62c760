//! The embedded store.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::generate::Generate;
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use tokio::time::Instant;

use crate::provider::{Capabilities, ErrorKind, FetchOptions, Fetched, Listed, Provider, ProviderError, Retry};
use crate::registry::Opening;

/// What the embedded store can do.
pub(crate) const CAPABILITIES: Capabilities =
    Capabilities { write: true, list: true, versions: true, stages: true, batch: usize::MAX };

/// Opens an instance on the one store there is.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    Ok(Arc::new(opening.shared.local.clone()))
}

/// Whether there is a store and whether it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// There is none.
    Absent,
    /// There is one; its key is not in memory.
    Locked,
    /// Its key is in memory.
    Unlocked,
}

/// Where the key that opens the store comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The keyring of the operating system.
    Keyring,
    /// A passphrase.
    Passphrase,
}

/// The embedded store.
#[derive(Clone, Debug)]
pub struct LocalStore {
    _dir: Arc<PathBuf>,
    _keyring: bool,
}

impl LocalStore {
    pub(crate) fn new(dir: PathBuf, keyring: bool) -> Self {
        Self { _dir: Arc::new(dir), _keyring: keyring }
    }

    /// Tells whether there is a store and whether it can be read.
    #[must_use]
    pub fn state(&self) -> StoreState {
        StoreState::Absent
    }

    /// Returns where its key comes from, if there is a store.
    #[must_use]
    pub fn key_source(&self) -> Option<KeySource> {
        None
    }

    /// Unlocks it.
    ///
    /// # Errors
    /// Wrong passphrase.
    pub async fn unlock(&self, _passphrase: SecretValue) -> Result<(), ProviderError> {
        Err(absent())
    }

    /// Creates it.
    ///
    /// # Errors
    /// Exists already.
    pub async fn create(&self, _passphrase: Option<SecretValue>) -> Result<(), ProviderError> {
        Err(absent())
    }

    /// Makes the value on first use.
    ///
    /// # Errors
    /// Locked.
    pub async fn generate(&self, _reference: &SecretRef, _way: Generate) -> Result<Fetched, ProviderError> {
        Err(absent())
    }
}

fn absent() -> ProviderError {
    ProviderError {
        kind: ErrorKind::NotCreated,
        instance: "local".to_owned(),
        reference: None,
        cause: String::new(),
        hint: None,
        retry: Retry::Never,
    }
}

#[async_trait]
impl Provider for LocalStore {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    async fn fetch(&self, references: &[SecretRef], _options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        references.iter().map(|_| Err(absent())).collect()
    }
    async fn put(&self, _r: &SecretRef, _v: SecretValue, _d: Instant) -> Result<Option<String>, ProviderError> {
        Err(absent())
    }
    async fn delete(&self, _r: &SecretRef, _d: Instant) -> Result<(), ProviderError> {
        Err(absent())
    }
    async fn list(&self, _p: &str, _d: Instant) -> Result<Vec<Listed>, ProviderError> {
        Err(absent())
    }
    fn forget(&self) {}
}
