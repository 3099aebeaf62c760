//! The embedded store: secrets of this machine, sealed at rest, for those who have no manager or want no account.
//!
//! It lives in one directory: `store.key` (the wrapped root key) and `store.redb` (the sealed records). It is absent,
//! locked or unlocked; unlocked means that the root key's two children are in this process's memory, and nothing else is:
//! values are opened for each request and held by nobody here. A store of the keyring unlocks by itself on first use, and
//! is made by itself on first write where the keyring works. Wrong passphrases cost Argon2id, one at a time.

pub(crate) mod crypto;
pub(crate) mod db;
pub(crate) mod files;
pub(crate) mod key;
pub(crate) mod keyring;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_core::generate::Generate;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use tokio::time::{Instant, timeout_at};

use crate::local::crypto::Key;
use crate::local::db::{DB_FILE, Db, DbError, StoreKeys};
pub use crate::local::key::KeySource;
use crate::local::key::{KEY_FILE, KeyError, KeyFile};
use crate::local::keyring::KeyringError;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use crate::registry::Opening;

/// What the embedded store can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: false,
    describe: true,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    issues: false,
    batch: usize::MAX,
};

/// Largest value, in bytes. A larger one is a file and belongs elsewhere.
const MAX_VALUE: usize = 1 << 20;

/// Opens an instance on the one store there is.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let store = opening.shared.local.clone();
    Ok(Arc::new(LocalStore { instance: opening.instance.into(), ..store }))
}

/// Whether there is a store and whether its key is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// There is none.
    Absent,
    /// There is one; its key is not in memory. A store of the keyring unlocks by itself when it is needed.
    Locked,
    /// Its key is in memory.
    Unlocked,
}

/// The embedded store, as one instance of it. Clones share everything.
#[derive(Clone)]
pub struct LocalStore {
    instance: Arc<str>,
    store: Arc<Store>,
}

struct Store {
    dir: PathBuf,
    keyring: bool,
    held: Mutex<Held>,
    /// One at a time creates or unlocks: guesses cannot run side by side.
    opening: tokio::sync::Mutex<()>,
    /// Rises with every `forget`, so that an unlocking under way leaves no key behind.
    forgets: AtomicU64,
}

#[derive(Default)]
struct Held {
    /// Open since the first unlock: redb holds a lock on the file, which a second opening of ours would meet.
    db: Option<Arc<Db>>,
    keys: Option<Arc<StoreKeys>>,
}

/// An unlocked store.
type Unlocked = (Arc<Db>, Arc<StoreKeys>);

/// What went wrong, before it is said of a reference.
struct Trouble {
    kind: ErrorKind,
    cause: String,
    hint: Option<&'static str>,
}

impl LocalStore {
    pub(crate) fn new(dir: PathBuf, keyring: bool) -> Self {
        let store = Store {
            dir,
            keyring,
            held: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            forgets: AtomicU64::new(0),
        };
        Self { instance: "local".into(), store: Arc::new(store) }
    }

    /// Tells whether there is a store and whether its key is in memory.
    #[must_use]
    pub fn state(&self) -> StoreState {
        if self.store.unlocked().is_some() {
            StoreState::Unlocked
        } else if self.store.dir.join(KEY_FILE).exists() {
            StoreState::Locked
        } else {
            StoreState::Absent
        }
    }

    /// Returns where the store's key comes from, if there is a store. Reads a small file.
    #[must_use]
    pub fn key_source(&self) -> Option<KeySource> {
        KeyFile::read(&self.store.dir).ok().flatten().map(|file| file.source())
    }

    /// Writes, reads and deletes a throwaway item of the system's keyring. For `doctor`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] with the reason.
    pub async fn probe_keyring(&self) -> Result<(), ProviderError> {
        keyring::probe().await.map_err(|error| self.error(error.into(), None))
    }

    /// Unlocks the store with its passphrase. Takes as long as Argon2id does; attempts wait for each other.
    ///
    /// # Errors
    /// [`ErrorKind::NotCreated`] when there is none, [`ErrorKind::Unauthenticated`] for a wrong passphrase,
    /// [`ErrorKind::Unsupported`] for a store of the keyring, [`ErrorKind::Unavailable`] for its files.
    pub async fn unlock(&self, passphrase: SecretValue) -> Result<(), ProviderError> {
        let _turn = self.store.opening.lock().await;
        let forgets = self.store.forgets.load(Ordering::Acquire);
        let unlocked = async {
            let file = self.store.key_file().await?.ok_or_else(Trouble::absent)?;
            if file.source() == KeySource::Keyring {
                return Err(Trouble::new(ErrorKind::Unsupported, "its key is in the keyring and it has no passphrase"));
            }
            let root = blocking(move || file.open_with_passphrase(&passphrase)).await?;
            self.store.hold(&root, forgets).await
        };
        unlocked.await.map(|_| ()).map_err(|trouble| self.error(trouble, None))
    }

    /// Creates the store, unlocked. `None` puts its key into the keyring of the operating system.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when there is one already or the passphrase is empty; [`ErrorKind::Unavailable`] for
    /// its files and a keyring that does not work.
    pub async fn create(&self, passphrase: Option<SecretValue>) -> Result<(), ProviderError> {
        let _turn = self.store.opening.lock().await;
        self.store.create(passphrase).await.map(|_| ()).map_err(|trouble| self.error(trouble, None))
    }

    /// Returns the secret, making it on first use. Callers that race get the same value.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`], [`ErrorKind::NotCreated`], [`ErrorKind::Unavailable`];
    /// [`ErrorKind::Unsupported`] for a reference to a version.
    pub async fn generate(&self, reference: &SecretRef, way: Generate) -> Result<Fetched, ProviderError> {
        let path = reference.path.clone();
        let done = async {
            self.store.refuse_versions(reference)?;
            let (db, keys) = self.store.ready(true).await?;
            blocking(move || {
                // Read first: the value exists from the second run on, and reading writes nothing.
                if let Some(stored) = db.read(&keys, &path, &Version::Current)? {
                    return Ok(stored);
                }
                let mut random = zeroize::Zeroizing::new(vec![0; way.random_len()]);
                let value = loop {
                    getrandom::fill(&mut random).map_err(|_| DbError::NoRandom(crate::local::crypto::NoRandom))?;
                    // `alnum` rejects bytes and can, very rarely, run out.
                    if let Some(value) = way.value(&random) {
                        break value;
                    }
                };
                db.write_first(&keys, &path, &value)?;
                // What stands there now, be it ours or that of whoever was first.
                db.read(&keys, &path, &Version::Current)?.ok_or(DbError::Damaged)
            })
            .await
        };
        done.await.map(fetched).map_err(|trouble| self.error(trouble, Some(reference)))
    }

    fn error(&self, trouble: Trouble, reference: Option<&SecretRef>) -> ProviderError {
        ProviderError {
            kind: trouble.kind,
            instance: self.instance.to_string(),
            reference: reference.cloned(),
            cause: trouble.cause,
            hint: trouble.hint.map(str::to_owned),
            retry: Retry::Never,
        }
    }
}

impl Store {
    /// Returns the store unlocked, unlocking or creating it where that needs nobody.
    async fn ready(&self, may_create: bool) -> Result<Unlocked, Trouble> {
        if let Some(unlocked) = self.unlocked() {
            return Ok(unlocked);
        }
        let _turn = self.opening.lock().await;
        if let Some(unlocked) = self.unlocked() {
            return Ok(unlocked);
        }
        let forgets = self.forgets.load(Ordering::Acquire);
        match self.key_file().await? {
            None if may_create && self.keyring => match self.create(None).await {
                Err(trouble) if trouble.kind == ErrorKind::Unavailable => Err(Trouble {
                    cause: format!("{}, and no passphrase was given", trouble.cause),
                    ..Trouble::absent()
                }),
                done => done,
            },
            None => Err(Trouble::absent()),
            Some(file) if file.source() == KeySource::Passphrase => Err(Trouble {
                hint: Some("enter its passphrase: run the command in a terminal"),
                ..Trouble::new(ErrorKind::Locked, "")
            }),
            Some(_) if !self.keyring => {
                Err(Trouble::new(ErrorKind::Locked, "its key is in the keyring, which may not be used here"))
            }
            Some(file) => {
                let key = keyring::read(&file.id).await.map_err(|error| Trouble {
                    kind: ErrorKind::Locked,
                    hint: Some("unlock the keyring of this session"),
                    ..Trouble::from(error)
                })?;
                let root = file.open_with_key(&key)?;
                self.hold(&root, forgets).await
            }
        }
    }

    /// Returns the open store, unless its file was taken away: then it is no longer a store.
    fn unlocked(&self) -> Option<Unlocked> {
        let mut held = self.lock();
        let (db, keys) = (held.db.clone()?, held.keys.clone()?);
        if db.is_in_place() {
            return Some((db, keys));
        }
        *held = Held::default();
        None
    }

    async fn key_file(&self) -> Result<Option<KeyFile>, Trouble> {
        let dir = self.dir.clone();
        blocking(move || KeyFile::read(&dir)).await
    }

    async fn create(&self, passphrase: Option<SecretValue>) -> Result<Unlocked, Trouble> {
        let forgets = self.forgets.load(Ordering::Acquire);
        let dir = self.dir.clone();
        let new = blocking(move || {
            files::private_dir(&dir)?;
            if dir.join(KEY_FILE).exists() {
                return Err(KeyError::File(files::FileError::Exists { path: dir.join(KEY_FILE) }));
            }
            if dir.join(DB_FILE).exists() {
                return Err(KeyError::Orphan);
            }
            KeyFile::create(passphrase.as_ref())
        })
        .await?;
        let id = new.file.id.clone();
        let in_keyring = new.for_keyring.is_some();
        if let Some(key) = new.for_keyring {
            keyring::write(&id, key).await?;
        }
        let (dir, file) = (self.dir.clone(), new.file);
        // The store is born with its key file; the database is made when it is opened.
        if let Err(trouble) = blocking(move || file.write_new(&dir)).await {
            if in_keyring {
                let _ = keyring::remove(&id).await;
            }
            return Err(trouble);
        }
        self.hold(&new.root, forgets).await
    }

    /// Opens the database and keeps the keys in memory.
    async fn hold(&self, root: &Key, forgets: u64) -> Result<Unlocked, Trouble> {
        let keys = Arc::new(StoreKeys::of(root));
        let known = self.lock().db.clone().filter(|db| db.is_in_place());
        let db = match known {
            Some(db) => db,
            None => {
                self.lock().db = None;
                let dir = self.dir.clone();
                Arc::new(blocking(move || Db::open(&dir)).await?)
            }
        };
        let mut held = self.lock();
        held.db = Some(Arc::clone(&db));
        if self.forgets.load(Ordering::Acquire) != forgets {
            return Err(Trouble::new(ErrorKind::Locked, "it was locked meanwhile"));
        }
        held.keys = Some(Arc::clone(&keys));
        Ok((db, keys))
    }

    fn refuse_versions(&self, reference: &SecretRef) -> Result<(), Trouble> {
        if reference.version == Version::Current {
            return Ok(());
        }
        Err(Trouble::new(ErrorKind::Unsupported, "only the current version can be written"))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for LocalStore {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let all = |trouble: &Trouble| references.iter().map(|r| Err(self.error(trouble.copy(), Some(r)))).collect();
        let wanted: Vec<_> = references.iter().map(|r| (r.path.clone(), r.version.clone())).collect();
        let read = async {
            let (db, keys) = self.store.ready(false).await?;
            blocking(move || {
                let each = wanted.into_iter().map(|(path, version)| db.read(&keys, &path, &version));
                Ok::<_, DbError>(each.collect::<Vec<_>>())
            })
            .await
        };
        let stored = match timeout_at(options.deadline, read).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(trouble)) => return all(&trouble),
            Err(_) => return all(&Trouble::late()),
        };
        let results = references.iter().zip(stored).map(|(reference, stored)| match stored {
            Ok(Some(stored)) => Ok(fetched(stored)),
            Ok(None) => Err(self.error(Trouble::missing(&reference.version), Some(reference))),
            Err(error) => Err(self.error(error.into(), Some(reference))),
        });
        results.collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let path = reference.path.clone();
        let write = async {
            self.store.refuse_versions(reference)?;
            if value.len() > MAX_VALUE {
                let cause = format!("a value of {} bytes is larger than the {MAX_VALUE} that fit", value.len());
                return Err(Trouble::new(ErrorKind::Unsupported, cause));
            }
            let (db, keys) = self.store.ready(true).await?;
            blocking(move || db.write(&keys, &path, &value)).await
        };
        let done = timeout_at(deadline, write).await.unwrap_or_else(|_| Err(Trouble::late()));
        done.map(|version| Some(version.to_string())).map_err(|trouble| self.error(trouble, Some(reference)))
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let path = reference.path.clone();
        let remove = async {
            self.store.refuse_versions(reference)?;
            let (db, keys) = self.store.ready(false).await?;
            match blocking(move || db.remove(&keys, &path)).await? {
                true => Ok(()),
                false => Err(Trouble::missing(&Version::Current)),
            }
        };
        let done = timeout_at(deadline, remove).await.unwrap_or_else(|_| Err(Trouble::late()));
        done.map_err(|trouble| self.error(trouble, Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        let prefix = options.prefix.to_owned();
        let list = async {
            if !options.tags.is_empty() {
                return Err(Trouble::new(ErrorKind::Unsupported, "the embedded store has no tags"));
            }
            let (db, keys) = self.store.ready(false).await?;
            blocking(move || db.list(&keys, &prefix)).await
        };
        let done = timeout_at(deadline, list).await.unwrap_or_else(|_| Err(Trouble::late()));
        done.map_err(|trouble| self.error(trouble, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let path = reference.path.clone();
        let look = async {
            let (db, keys) = self.store.ready(false).await?;
            blocking(move || db.describe(&keys, &path)).await?.ok_or_else(|| Trouble::missing(&Version::Current))
        };
        let done = timeout_at(deadline, look).await.unwrap_or_else(|_| Err(Trouble::late()));
        done.map_err(|trouble| self.error(trouble, Some(reference)))
    }

    /// Locks it. Reads and writes that are under way end with the keys that they have.
    fn forget(&self) {
        self.store.forgets.fetch_add(1, Ordering::AcqRel);
        self.store.lock().keys = None;
    }
}

fn fetched(stored: crate::local::db::Stored) -> Fetched {
    let version = Some(stored.version.to_string());
    Fetched { value: Arc::new(stored.value), version, fetched_at: Instant::now(), stale: false, lone_field: None }
}

/// Runs `work`, which blocks, where it may. A panic in it is a damaged file that redb did not expect.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Trouble>
where
    T: Send + 'static,
    E: Into<Trouble> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Trouble::new(ErrorKind::Malformed, format!("`{DB_FILE}` is damaged beyond reading"))),
    }
}

impl Trouble {
    fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), hint: None }
    }

    fn absent() -> Self {
        Self {
            hint: Some("store a first secret with `broker secret set`, in a terminal"),
            ..Self::new(ErrorKind::NotCreated, "")
        }
    }

    fn missing(version: &Version) -> Self {
        let cause = match version {
            Version::Current => "",
            Version::Pending => "the embedded store has no pending stage",
            Version::Previous => "there is no version before the current one",
            Version::Id(_) => "there is no such version, or it is no longer kept",
        };
        Self {
            hint: Some("see `broker secret list local://`, or store it with `broker secret set`"),
            ..Self::new(ErrorKind::NotFound, cause)
        }
    }

    fn late() -> Self {
        Self::new(ErrorKind::Unavailable, "no answer before the deadline")
    }

    fn copy(&self) -> Self {
        Self { kind: self.kind, cause: self.cause.clone(), hint: self.hint }
    }
}

impl From<KeyError> for Trouble {
    fn from(error: KeyError) -> Self {
        let (kind, hint) = match &error {
            KeyError::File(file) if file.is_exists() => (ErrorKind::Unsupported, None),
            KeyError::File(_) | KeyError::Memory | KeyError::NoRandom(_) => (ErrorKind::Unavailable, None),
            KeyError::Damaged => (ErrorKind::Malformed, Some("put a copy of the file back")),
            KeyError::Wrong | KeyError::WrongKeyringKey => (ErrorKind::Unauthenticated, None),
            KeyError::Empty => (ErrorKind::Unsupported, Some("choose a passphrase")),
            KeyError::Orphan => (ErrorKind::Unsupported, Some("put its key file back, or move the database away")),
        };
        Self { hint, ..Self::new(kind, error.to_string()) }
    }
}

impl From<DbError> for Trouble {
    fn from(error: DbError) -> Self {
        let (kind, hint) = match &error {
            DbError::Damaged => (ErrorKind::Malformed, None),
            DbError::Empty => {
                (ErrorKind::Malformed, Some("put a copy back, or remove it and `store.key` to begin anew"))
            }
            _ => (ErrorKind::Unavailable, None),
        };
        Self { hint, ..Self::new(kind, error.to_string()) }
    }
}

impl From<KeyringError> for Trouble {
    fn from(error: KeyringError) -> Self {
        Self { hint: Some("use a passphrase instead"), ..Self::new(ErrorKind::Unavailable, error.to_string()) }
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("dir", &self.store.dir).field("state", &self.state()).finish_non_exhaustive()
    }
}
