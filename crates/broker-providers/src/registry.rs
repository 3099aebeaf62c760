//! The instances that are open.
//!
//! A provider is opened for one instance, its settings and the identity of whoever asks: the digest of the sign-in
//! variables that its kind reads is part of the key, so one identity never gets what another one fetched. Where the files
//! of the sign-in changed since, it is opened anew and what it held is forgotten. The same instance narrowed to one scope is
//! another one, with a cache of its own.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_core::instance::InstanceSettings;
use broker_core::lease::LeaseId;
use broker_core::scope::{Scope, SessionId};
use broker_core::sign_in::SignIn;
use serde::{Deserialize, Serialize};

use crate::aws::http::Transport;
use crate::cached::Cached;
use crate::file_stamp::FilesStamp;
use crate::issue::Ledger;
pub use crate::kinds::{Endpoint, KINDS, Kind};
use crate::local::LocalStore;
use crate::provider::{ErrorKind, Provider, ProviderError, Retry};
use crate::resolve::Opened;
use crate::rest::Pool;
use crate::sign_ins::{SignInWay, SignIns};

/// How many providers stay open; the least recently used one goes first.
const MAX_OPEN: usize = 256;

/// How many instances are counted by name; more than can be open at once.
const MAX_COUNTED: usize = 512;

/// The name under which the requests of instances are counted that closed long ago. No instance can be called so.
const OTHERS: &str = "(others)";

/// What a row's `open` gets.
#[derive(Debug)]
pub struct Opening<'a> {
    /// The instance's name.
    pub instance: &'a str,
    /// Its settings, addresses checked.
    pub settings: &'a InstanceSettings,
    /// Whether user or machine configuration fixes them. A manifest's own address never gets a credential that was not
    /// obtained for it.
    pub fixed: bool,
    /// The caller's variables, only those that the kind reads.
    pub sign_in: SignIn,
    /// Counts the requests that are sent to the manager.
    pub calls: Arc<AtomicU64>,
    /// What all instances share.
    pub shared: &'a Shared,
}

/// What all instances share: the connections, the sign-ins and the embedded store.
#[derive(Debug)]
pub struct Shared {
    pub(crate) transport: Transport,
    pub(crate) http: Pool,
    pub(crate) sign_ins: Arc<SignIns>,
    pub(crate) local: LocalStore,
    pub(crate) ledger: Arc<dyn Ledger>,
}

/// The settings of an instance and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// What is said.
    pub settings: InstanceSettings,
    /// Whether user or machine configuration says it, and not a manifest. So for default instances, too.
    pub fixed: bool,
}

impl Instance {
    /// Returns an instance as a manifest configures it.
    #[must_use]
    pub fn of_manifest(settings: InstanceSettings) -> Self {
        Self { settings, fixed: false }
    }

    /// Returns an instance as user or machine configuration fixes it.
    #[must_use]
    pub fn fixed(settings: InstanceSettings) -> Self {
        Self { settings, fixed: true }
    }
}

impl Opening<'_> {
    /// Returns the instance as it is opened.
    #[must_use]
    pub fn as_instance(&self) -> Instance {
        Instance { settings: self.settings.clone(), fixed: self.fixed }
    }
}

/// What the registry needs to know of the machine.
#[derive(Clone, Debug)]
pub struct Context {
    /// The directory of the embedded store, such as `~/.local/share/broker`.
    pub data_dir: PathBuf,
    /// Whether the keyring of the operating system may be used.
    pub keyring: bool,
    /// Where credentials stand that have to be ended.
    pub ledger: Arc<dyn Ledger>,
}

/// The open instances of all identities.
pub struct Registry {
    shared: Shared,
    open: Mutex<OpenSet>,
}

#[derive(Default)]
struct OpenSet {
    providers: HashMap<Key, Open>,
    narrowed: HashMap<NarrowKey, Narrowed>,
    calls: HashMap<String, Arc<AtomicU64>>,
    /// Rises with every use: the order of use.
    uses: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    instance: Instance,
    identity: [u8; 32],
}

/// A narrow session is of one instance, one identity and one scope.
type NarrowKey = (String, [u8; 32], SessionId);

/// An instance narrowed to one scope.
struct Narrowed {
    /// What it was narrowed from: another one means other settings or another sign-in.
    from: Arc<dyn Provider>,
    opened: Opened,
    cached: Arc<Cached>,
    last_use: u64,
}

struct Open {
    opened: Opened,
    /// The files of its sign-in when it was opened.
    files: FilesStamp,
    cached: Option<Arc<Cached>>,
    last_use: u64,
}

impl Registry {
    /// Returns a registry with nothing open. Touches neither disk nor network.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let sign_ins = Arc::new(SignIns::new(context.data_dir.clone(), context.keyring));
        let local = LocalStore::new(context.data_dir, context.keyring);
        let (transport, http, ledger) = (Transport::default(), Pool::default(), context.ledger);
        let shared = Shared { transport, http, sign_ins, local, ledger };
        Self { shared, open: Mutex::default() }
    }

    /// Opens the instance `name` for the identity of `sign_in`, or returns it as it is already open.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a kind, a key or a value of the settings that makes no sense.
    pub fn open(&self, name: &str, instance: &Instance, sign_in: &SignIn) -> Result<Opened, ProviderError> {
        let kind = known_kind(name, instance)?;
        let settings = &instance.settings;
        let timing = settings.timing().map_err(|error| refused(name, error.to_string(), None))?;
        let sign_in = sign_in.only(&kind.sign_in_names(&instance.settings));
        let key = Key { name: name.to_owned(), instance: instance.clone(), identity: sign_in.digest() };
        // Looked at before anything is read: what was read of a later state is held under an earlier one, and dropped.
        let files = (kind.sign_in_files)(&sign_in);

        let mut open = self.lock();
        open.uses += 1;
        let now = open.uses;
        match open.providers.get_mut(&key) {
            Some(known) if known.files == files => {
                known.last_use = now;
                return Ok(known.opened.clone());
            }
            Some(_) => {
                // The same variables now lead to other credentials: what the former ones fetched is nobody's.
                if let Some(gone) = open.providers.remove(&key) {
                    gone.forget();
                }
            }
            None => {}
        }
        let calls = open.counter(name);
        let fixed = instance.fixed;
        let opening = Opening { instance: name, settings, fixed, sign_in, calls, shared: &self.shared };
        let provider = (kind.open)(&opening)?;
        let (provider, cached): (Arc<dyn Provider>, _) = if kind.cached {
            let cached = Arc::new(Cached::new(name, provider, timing));
            (Arc::clone(&cached) as _, Some(cached))
        } else {
            (provider, None)
        };
        let opened = Opened { provider, timing };
        if open.providers.len() >= MAX_OPEN {
            let oldest = open.providers.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            if let Some(gone) = oldest.and_then(|key| open.providers.remove(&key)) {
                gone.forget();
            }
        }
        open.providers.insert(key, Open { opened: opened.clone(), files, cached, last_use: now });
        Ok(opened)
    }

    /// Opens the instance `name` narrowed to what `scope` needs of it, or as it is where it knows no narrower session. A
    /// narrow session of one run alone is kept for nobody: it has no cache either.
    ///
    /// # Errors
    /// Those of [`Registry::open`], and a reference that no session can be cut for.
    pub fn open_for(
        &self,
        name: &str,
        instance: &Instance,
        sign_in: &SignIn,
        scope: &Arc<Scope>,
        lease: Option<LeaseId>,
    ) -> Result<Opened, ProviderError> {
        let base = self.open(name, instance, sign_in)?;
        if !base.provider.can_narrow() {
            return Ok(base);
        }
        if let Some(lease) = lease.filter(|_| instance.settings.session.as_deref() == Some("per-run")) {
            let narrowed = base.provider.narrowed(&Arc::new(scope.of_run(lease)))?;
            return Ok(narrowed.map_or(base.clone(), |provider| Opened { provider, ..base }));
        }
        let kind = known_kind(name, instance)?;
        let identity = sign_in.only(&kind.sign_in_names(&instance.settings)).digest();
        let key = (name.to_owned(), identity, scope.session);
        let mut open = self.lock();
        open.uses += 1;
        let now = open.uses;
        if let Some(known) = open.narrowed.get_mut(&key).filter(|known| Arc::ptr_eq(&known.from, &base.provider)) {
            known.last_use = now;
            return Ok(known.opened.clone());
        }
        let Some(provider) = base.provider.narrowed(scope)? else { return Ok(base) };
        let cached = Arc::new(Cached::new(name, provider, base.timing));
        let opened = Opened { provider: Arc::clone(&cached) as _, timing: base.timing };
        if open.narrowed.len() >= MAX_OPEN {
            let oldest = open.narrowed.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            if let Some(gone) = oldest.and_then(|key| open.narrowed.remove(&key)) {
                gone.cached.forget();
            }
        }
        let narrowed = Narrowed { from: base.provider, opened: opened.clone(), cached, last_use: now };
        if let Some(gone) = open.narrowed.insert(key, narrowed) {
            gone.cached.forget();
        }
        Ok(opened)
    }

    /// Returns the way for a person to sign in to an instance, if it has one.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for settings that make no sense.
    pub fn login(&self, name: &str, instance: &Instance, sign_in: &SignIn) -> Result<Option<SignInWay>, ProviderError> {
        let kind = known_kind(name, instance)?;
        let calls = self.lock().counter(name);
        let sign_in = sign_in.only(&kind.sign_in_names(&instance.settings));
        let (settings, fixed) = (&instance.settings, instance.fixed);
        let login = (kind.login)(&Opening { instance: name, settings, fixed, sign_in, calls, shared: &self.shared })?;
        Ok(login.map(|login| SignInWay { instance: name.to_owned(), login }))
    }

    /// Returns the sessions of those who signed in.
    #[must_use]
    pub fn sign_ins(&self) -> &SignIns {
        &self.shared.sign_ins
    }

    /// Forgets the values of every instance: somebody signed in or out, and what was fetched before is not theirs.
    pub fn forget_values(&self) {
        let (all, narrowed) = {
            let mut open = self.lock();
            (std::mem::take(&mut open.providers), std::mem::take(&mut open.narrowed))
        };
        for open in all.into_values() {
            open.forget();
        }
        for open in narrowed.into_values() {
            open.cached.forget();
        }
    }

    /// Returns the embedded store.
    #[must_use]
    pub fn local(&self) -> &LocalStore {
        &self.shared.local
    }

    /// Forgets values, negatives, sign-ins and keys of every instance. A fetch that is under way answers those who wait
    /// for it and leaves nothing behind.
    pub fn forget_all(&self) {
        self.forget_values();
        self.shared.sign_ins.forget();
        self.shared.local.forget();
    }

    /// Returns the number of requests sent to managers since the start, by instance, ordered by name. Those of instances
    /// that closed long ago may stand together as `(others)`.
    #[must_use]
    pub fn calls(&self) -> Vec<(String, u64)> {
        let mut calls: Vec<_> =
            self.lock().calls.iter().map(|(name, count)| (name.clone(), count.load(Ordering::Relaxed))).collect();
        calls.sort();
        calls
    }

    /// Returns the number of values held in memory.
    #[must_use]
    pub fn held_values(&self) -> usize {
        let open = self.lock();
        let whole = open.providers.values().filter_map(|open| open.cached.as_ref());
        whole.chain(open.narrowed.values().map(|open| &open.cached)).map(|cached| cached.held()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, OpenSet> {
        // Nothing between taking and releasing leaves the set half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the kind of an instance whose settings it understands.
fn known_kind(name: &str, instance: &Instance) -> Result<&'static Kind, ProviderError> {
    let settings = &instance.settings;
    let Some(kind) = Kind::named(&settings.kind) else {
        let kinds: Vec<_> = KINDS.iter().map(|row| format!("`{}`", row.kind)).collect();
        let hint = format!("kinds are {}", kinds.join(", "));
        return Err(refused(name, format!("there is no kind `{}`", settings.kind), Some(hint)));
    };
    if !kind.in_manifest && !instance.fixed {
        let hint = "put the instance into `config.toml`; a manifest can then use it by its name".to_owned();
        return Err(refused(name, format!("kind `{}` is for configuration only", kind.kind), Some(hint)));
    }
    if let Some(key) = kind.foreign_keys(settings).first() {
        let keys = format!("keys of this kind are {}", kind.keys.join(", "));
        return Err(refused(name, format!("kind `{}` has no key `{key}`", kind.kind), Some(keys)));
    }
    settings.check_addresses().map_err(|error| refused(name, error.to_string(), None))?;
    Ok(kind)
}

fn refused(name: &str, cause: String, hint: Option<String>) -> ProviderError {
    let (kind, instance) = (ErrorKind::Unsupported, name.to_owned());
    ProviderError { kind, instance, reference: None, cause, hint, retry: Retry::Never }
}

impl OpenSet {
    /// Returns the counter of `instance`. When there are too many, those that nobody counts with any more become one.
    fn counter(&mut self, instance: &str) -> Arc<AtomicU64> {
        if self.calls.len() >= MAX_COUNTED && !self.calls.contains_key(instance) {
            let mut sum = 0;
            self.calls.retain(|name, count| {
                // Under the lock, so that nobody else can begin to.
                let is_idle = name == OTHERS || Arc::strong_count(count) == 1;
                sum += if is_idle { count.load(Ordering::Relaxed) } else { 0 };
                !is_idle
            });
            self.calls.insert(OTHERS.to_owned(), Arc::new(AtomicU64::new(sum)));
        }
        Arc::clone(self.calls.entry(instance.to_owned()).or_default())
    }
}

impl Open {
    fn forget(&self) {
        // The cache passes it on to the provider below. A store without one is shared and outlives this entry.
        if let Some(cached) = &self.cached {
            cached.forget();
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("open", &self.lock().providers.len()).finish_non_exhaustive()
    }
}
