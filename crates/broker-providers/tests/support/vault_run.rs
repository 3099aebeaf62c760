//! A run that wants secrets of Vault: a server with some, a sign-in with some policies, and a ledger that tells.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::lease::LeaseId;
use broker_core::principal::Tier;
use broker_core::reference::SecretRef;
use broker_core::scope::Scope;
use broker_core::sign_in::SignIn;
use broker_providers::issue::{Ending, EntryId, Ledger, LedgerError, Order};
use broker_providers::provider::{FetchOptions, Fetched, Provider, ProviderError};
use broker_providers::registry::{Context, Instance, Registry};
use broker_tests::deadline::within;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use crate::support::reference;
use crate::support::vault::{Server, at, ours, with_token};

/// What a [`Recording`] does with what is to be written down.
type Then = Box<dyn Fn(&Ending) -> io::Result<()> + Send + Sync>;

/// A ledger in memory.
pub struct Recording {
    next: AtomicU64,
    held: Mutex<BTreeMap<EntryId, Ending>>,
    all: Mutex<Vec<Ending>>,
    then: Mutex<Then>,
}

impl Recording {
    pub fn new() -> Arc<Self> {
        let then: Then = Box::new(|_| Ok(()));
        Arc::new(Self {
            next: AtomicU64::new(1),
            held: Mutex::default(),
            all: Mutex::default(),
            then: Mutex::new(then),
        })
    }

    /// Does this with each that is written down from now on.
    pub fn then(&self, then: impl Fn(&Ending) -> io::Result<()> + Send + Sync + 'static) {
        *self.then.lock().unwrap() = Box::new(then);
    }

    /// What stands in it.
    pub fn held(&self) -> Vec<Ending> {
        self.held.lock().unwrap().values().cloned().collect()
    }

    /// What ever stood in it.
    pub fn all(&self) -> Vec<Ending> {
        self.all.lock().unwrap().clone()
    }

    pub fn is_empty_soon(&self) -> bool {
        within(Duration::from_secs(20), || self.held().is_empty().then_some(())).is_some()
    }
}

impl Ledger for Recording {
    fn hold(&self, ending: &Ending) -> Result<EntryId, LedgerError> {
        (self.then.lock().unwrap())(ending)?;
        let entry = EntryId(self.next.fetch_add(1, Ordering::SeqCst));
        self.held.lock().unwrap().insert(entry, ending.clone());
        self.all.lock().unwrap().push(ending.clone());
        Ok(entry)
    }

    fn strike(&self, entry: EntryId) {
        self.held.lock().unwrap().remove(&entry);
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

/// A server behind a proxy, an instance at it, and whoever is signed in.
pub struct World {
    pub server: Arc<Server>,
    pub proxy: Proxy,
    pub ledger: Arc<Recording>,
    pub registry: Registry,
    pub settings: InstanceSettings,
    pub sign_in: SignIn,
    _dir: tempfile::TempDir,
}

/// What a sign-in needs besides what a run reads.
pub const MAKE: &str = "path \"auth/token/create\" { capabilities = [\"update\"] }";

impl World {
    /// Signs in with a token that has these policies, named and with their text.
    pub fn new(policies: &[(&str, &str)]) -> Self {
        let server = ours();
        for (name, text) in policies {
            policy(&server, name, text);
        }
        let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
        let token = token(&server, &json!({ "policies": names, "ttl": "1h" }));
        Self::with(server, &token)
    }

    /// Signs in with a token.
    pub fn with(server: Server, token: &str) -> Self {
        let proxy = Proxy::new(&server.ours().address());
        let (dir, ledger) = (tempfile::tempdir().unwrap(), Recording::new());
        let registry = opened_anew(dir.path(), &ledger);
        let (settings, sign_in) = (at(&proxy.url()), with_token(token));
        Self { server: Arc::new(server), proxy, ledger, registry, settings, sign_in, _dir: dir }
    }

    pub fn instance(&self) -> Instance {
        Instance::fixed(self.settings.clone())
    }

    /// Opens the instance for a run of these references.
    pub fn narrowed(&self, references: &[&str], lease: Option<LeaseId>) -> Arc<dyn Provider> {
        let scope = Arc::new(scope(references));
        self.registry.open_for("org", &self.instance(), &self.sign_in, &scope, lease).unwrap().provider
    }

    /// Opens the instance as it is.
    pub fn whole(&self) -> Arc<dyn Provider> {
        self.registry.open("org", &self.instance(), &self.sign_in).unwrap().provider
    }

    /// Fetches for a run, anew.
    pub async fn fetch(&self, references: &[&str]) -> Vec<Result<Fetched, ProviderError>> {
        let provider = self.narrowed(references, None);
        let references: Vec<SecretRef> = references.iter().map(|text| reference(text)).collect();
        provider.fetch(&references, FetchOptions { refresh: true, lease: Some(lease()), ..options() }).await
    }

    pub async fn text(&self, reference: &str) -> Result<String, ProviderError> {
        let fetched = self.fetch(&[reference]).await.remove(0)?;
        Ok(String::from_utf8(fetched.value.expose().to_vec()).unwrap())
    }

    /// How many requests the server got that begin like this.
    pub fn asked(&self, operation: &str, path: &str) -> usize {
        let asked = self.server.ours().asked();
        asked.iter().filter(|asked| asked.operation == operation && asked.path.starts_with(path)).count()
    }

    /// Asks the server with the credential of an ending.
    pub fn ask_with(&self, ending: &Ending, method: &str, path: &str) -> (u16, Value) {
        ask_with(&self.server, ending, method, path)
    }
}

/// Asks a server with the credential of an ending.
pub fn ask_with(server: &Server, ending: &Ending, method: &str, path: &str) -> (u16, Value) {
    // Opened to ask what it is good for.
    let token = String::from_utf8(ending.credential.expose().to_vec()).unwrap();
    server.ask(&token, "", method, path, &Value::Null)
}

/// Returns a registry in which nothing is open.
pub fn opened_anew(dir: &std::path::Path, ledger: &Arc<Recording>) -> Registry {
    let ledger = Arc::clone(ledger) as Arc<dyn Ledger>;
    Registry::new(Context { data_dir: dir.join("data"), keyring: false, ledger })
}

pub fn policy(server: &Server, name: &str, text: &str) {
    server.set("PUT", &format!("sys/policies/acl/{name}"), &json!({ "policy": text }));
}

/// Makes a token as root.
pub fn token(server: &Server, body: &Value) -> String {
    server.set("POST", "auth/token/create", body)["auth"]["client_token"].as_str().unwrap().to_owned()
}

/// Writes a policy that reads one path.
pub fn reads(path: &str) -> String {
    format!("path \"{path}\" {{ capabilities = [\"read\"] }}")
}

pub fn lease() -> LeaseId {
    LeaseId::from_random([7; 24])
}

pub fn scope(references: &[&str]) -> Scope {
    let references = references.iter().map(|text| reference(text));
    Scope::new(&[1; 32], "shop", "dev", "ada", Tier::Agent, references)
}

pub fn order(references: &[&str], ttl: Duration) -> Order {
    Order { lease: lease(), scope: Arc::new(scope(references)), ttl, key: None }
}

pub fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}

pub fn options() -> FetchOptions {
    FetchOptions::within(Duration::from_secs(20))
}
