//! The kinds of providers, one row each, and the instances that are open.
//!
//! A provider is opened for one instance, its settings and the identity of whoever asks: the digest of the sign-in
//! variables that its kind reads is part of the key, so one identity never gets what another one fetched. Where the files
//! of the sign-in changed since, it is opened anew and what it held is forgotten. A new kind is one file, its `mod` line
//! and one row of [`KINDS`].

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_core::manifest::KnownKind;
use broker_core::scope::{Scope, SessionId};
use broker_core::sign_in::{SignIn, travels};
use serde::{Deserialize, Serialize};

use crate::aws::http::Transport;
use crate::cached::Cached;
use crate::file_stamp::FilesStamp;
use crate::issue::Ledger;
use crate::local::LocalStore;
use crate::login::Login;
use crate::provider::{Capabilities, ErrorKind, Provider, ProviderError, Retry};
use crate::resolve::Opened;
use crate::rest::Pool;
use crate::sign_ins::{SignInWay, SignIns};
use crate::{aws, azure, gcp, github, vault};

/// How many providers stay open; the least recently used one goes first.
const MAX_OPEN: usize = 256;

/// How many instances are counted by name; more than can be open at once.
const MAX_COUNTED: usize = 512;

/// The name under which the requests of instances are counted that closed long ago. No instance can be called so.
const OTHERS: &str = "(others)";

/// One kind of provider: what it is called, what it reads and how it is opened.
#[derive(Debug)]
pub struct Kind {
    /// The name in `kind = "..."`.
    pub kind: &'static str,
    /// The scheme of its default instance; none for a kind that only exists as configured.
    pub scheme: Option<&'static str>,
    /// What people call it.
    pub title: &'static str,
    /// Whether a manifest may configure it. A kind that runs programs stands in user or machine configuration only.
    pub in_manifest: bool,
    /// The keys of an instance that it understands, besides `kind`.
    pub keys: &'static [&'static str],
    /// The keys without which a configured instance serves nobody.
    pub needs: &'static [&'static str],
    /// The keys whose value is one of a few words, and these words.
    pub words: &'static [(&'static str, &'static [&'static str])],
    /// The caller's variables that it reads. They are part of the identity.
    pub sign_in_env: &'static [&'static str],
    /// Variables that are or lead to a credential of its manager, which a child must not inherit.
    pub bootstrap_env: &'static [&'static str],
    /// Looks at the files that it signs in with. Their state is part of the identity, too.
    pub(crate) sign_in_files: fn(&SignIn) -> FilesStamp,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Whether some of what its references name is issued and not stored, which only the manager knows.
    pub issues_too: bool,
    /// Whether fetched values are held for the instance's `ttl`. Not for a store that is at hand anyway.
    pub cached: bool,
    /// What its references may say behind `?`, besides a version.
    pub options: &'static [&'static str],
    /// The variables that a whole reference of it fills, each with its field; empty for the one of its name.
    pub variables: &'static [(&'static str, &'static str)],
    /// How the daemon can serve what it issues as an endpoint, if it can.
    pub endpoint: Option<Endpoint>,
    /// Opens an instance for one identity. Quick, and reaches nobody: sign-in happens with the first request.
    pub open: fn(&Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError>,
    /// Opens the instance's way for a person to sign in; nothing where the settings name none.
    pub(crate) login: OpenLogin,
}

/// The protocols by which a program asks its machine for the credentials of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// That of containers on AWS: `AWS_CONTAINER_CREDENTIALS_FULL_URI` and its token.
    AwsContainer,
    /// The metadata server of Google Cloud: `GCE_METADATA_HOST`.
    GceMetadata,
}

/// Opens a way to sign in, if the settings name one.
type OpenLogin = fn(&Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError>;

/// The keys that instances of every cached kind understand.
macro_rules! with_timing {
    ($($key:literal),*) => { &[$($key,)* "ttl", "negative-ttl", "max-stale", "timeout"] };
}

/// Every kind of provider there is.
pub const KINDS: &[Kind] = &[
    Kind {
        kind: "aws-secrets-manager",
        scheme: Some("aws-sm"),
        title: "AWS Secrets Manager",
        in_manifest: true,
        keys: with_timing![
            "region",
            "replicas",
            "profile",
            "sso-session",
            "assume-role",
            "session",
            "session-ttl",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso"
        ],
        needs: &[],
        words: &[("session", &["per-scope", "per-run"])],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::sm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: aws::sm::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-parameter-store",
        scheme: Some("aws-ssm"),
        title: "AWS Systems Manager Parameter Store",
        in_manifest: true,
        keys: with_timing![
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "session",
            "session-ttl",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso"
        ],
        needs: &[],
        words: &[("session", &["per-scope", "per-run"])],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::ssm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: aws::ssm::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-sts",
        scheme: Some("aws-sts"),
        title: "Sessions of AWS roles",
        in_manifest: true,
        keys: &[
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso",
            "session-ttl",
            "timeout",
        ],
        needs: &[],
        words: &[],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::issuer::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: aws::sts::OPTIONS,
        variables: aws::sts::VARIABLES,
        endpoint: Some(Endpoint::AwsContainer),
        open: aws::sts::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-rds-iam",
        scheme: Some("aws-rds-iam"),
        title: "Sign-in tokens of Amazon RDS and Aurora",
        in_manifest: true,
        keys: &[
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso",
            "timeout",
        ],
        needs: &[],
        words: &[],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::issuer::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: aws::rds::OPTIONS,
        variables: &[],
        endpoint: None,
        open: aws::rds::open,
        login: aws::login::open,
    },
    Kind {
        kind: "gcp-secret-manager",
        scheme: Some("gcp-sm"),
        title: "Google Cloud Secret Manager",
        in_manifest: true,
        keys: with_timing!["project", "location", "impersonate", "session-ttl", "auth", "endpoint"],
        needs: &[],
        words: &[("auth", &["adc", "anonymous"])],
        sign_in_env: gcp::sm::SIGN_IN_ENV,
        bootstrap_env: gcp::sm::BOOTSTRAP_ENV,
        sign_in_files: gcp::sm::stamp,
        capabilities: gcp::sm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: gcp::sm::open,
        login: no_login,
    },
    Kind {
        kind: "gcp-token",
        scheme: Some("gcp-token"),
        title: "Google Cloud access tokens, made for one run",
        in_manifest: true,
        keys: &["impersonate", "session-ttl", "endpoint", "timeout"],
        needs: &[],
        words: &[],
        sign_in_env: gcp::sm::SIGN_IN_ENV,
        bootstrap_env: gcp::sm::BOOTSTRAP_ENV,
        sign_in_files: gcp::sm::stamp,
        capabilities: gcp::issued::CAPABILITIES,
        cached: false,
        issues_too: false,
        options: gcp::issued::OPTIONS,
        variables: &[],
        endpoint: Some(Endpoint::GceMetadata),
        open: gcp::issued::open,
        login: no_login,
    },
    Kind {
        kind: "vault",
        scheme: Some("vault"),
        title: "HashiCorp Vault and OpenBao",
        in_manifest: true,
        keys: vault::KEYS,
        needs: &["address"],
        words: &[
            ("auth", &["token", "approle", "userpass", "jwt", "oidc", "kubernetes"]),
            ("session", &["shared", "per-scope", "per-run"]),
        ],
        sign_in_env: vault::SIGN_IN_ENV,
        bootstrap_env: vault::BOOTSTRAP_ENV,
        sign_in_files: vault::stamp,
        capabilities: vault::CAPABILITIES,
        issues_too: true,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: vault::open,
        login: vault::login,
    },
    Kind {
        kind: "azure-key-vault",
        scheme: Some("azure-kv"),
        title: "Azure Key Vault",
        in_manifest: true,
        keys: with_timing!["address", "tenant", "client-id", "auth", "authority"],
        needs: &["address"],
        words: &[("auth", &["client-secret", "workload-identity", "managed-identity", "az", "device-code"])],
        sign_in_env: azure::kv::SIGN_IN_ENV,
        bootstrap_env: azure::kv::BOOTSTRAP_ENV,
        sign_in_files: azure::kv::stamp,
        capabilities: azure::kv::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: azure::kv::open,
        login: azure::kv::login,
    },
    Kind {
        kind: "github-app",
        scheme: Some("github-app"),
        title: "GitHub App, whose tokens are made for one run",
        in_manifest: true,
        keys: &["app-id", "key", "endpoint", "timeout"],
        needs: &["app-id", "key"],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: github::BOOTSTRAP_ENV,
        sign_in_files: |_| FilesStamp::default(),
        capabilities: github::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: github::OPTIONS,
        variables: &[],
        endpoint: None,
        open: github::open,
        login: no_login,
    },
    Kind {
        kind: "keyring",
        scheme: Some("keyring"),
        title: "Keyring of the operating system",
        in_manifest: true,
        keys: &["store", "timeout"],
        needs: &[],
        words: &[("store", &["secret-service", "keyutils"])],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::keyring::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::keyring::open,
        login: no_login,
    },
    Kind {
        kind: "local",
        scheme: Some("local"),
        title: "Embedded store",
        in_manifest: true,
        keys: &["timeout"],
        needs: &[],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::local::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::local::open,
        login: no_login,
    },
    Kind {
        kind: "exec",
        scheme: None,
        title: "Any program of yours; what it can it says itself",
        in_manifest: false,
        keys: with_timing!["command", "sha256", "environment"],
        needs: &["command", "sha256"],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::exec::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::exec::open,
        login: no_login,
    },
];

/// Most kinds have no way for a person to sign in.
fn no_login(_: &Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError> {
    Ok(None)
}

impl Kind {
    /// Finds a kind by its name.
    #[must_use]
    pub fn named(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|row| row.kind == kind)
    }

    /// Finds the kind whose default instance has this scheme.
    #[must_use]
    pub fn of_scheme(scheme: &str) -> Option<&'static Self> {
        KINDS.iter().find(|row| row.scheme == Some(scheme))
    }

    /// Returns it as far as a manifest is concerned.
    #[must_use]
    pub fn known(&self) -> KnownKind<'static> {
        let Self { kind, keys, needs, words, in_manifest, options, variables, .. } = *self;
        let endpoint = self.endpoint.is_some();
        KnownKind { name: kind, keys, needs, words, in_manifest, options, variables, endpoint }
    }

    /// Returns the keys that `settings` says and this kind does not understand.
    #[must_use]
    pub fn foreign_keys(&self, settings: &InstanceSettings) -> Vec<&'static str> {
        settings.keys().into_iter().filter(|key| !self.keys.contains(key)).collect()
    }

    /// Returns the caller's variables that an instance with these settings reads: those of its kind, and those that its
    /// `environment` passes on.
    #[must_use]
    pub fn sign_in_names<'a>(&self, settings: &'a InstanceSettings) -> Vec<&'a str> {
        let words = settings.environment.as_ref().map(Words::as_slice).unwrap_or_default();
        self.sign_in_env.iter().copied().chain(crate::exec::passed_on(words)).collect()
    }

    /// Returns the variables that a child must not inherit from an instance with these settings: what is or leads to a
    /// credential of its manager, and what its `environment` passes on to its program.
    #[must_use]
    pub fn bootstrap_names<'a>(&self, settings: &'a InstanceSettings) -> Vec<&'a str> {
        let words = settings.environment.as_ref().map(Words::as_slice).unwrap_or_default();
        let passed_on = crate::exec::passed_on(words).filter(|name| travels(name));
        self.bootstrap_env.iter().copied().chain(passed_on).collect()
    }
}

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
