//! All that the server holds: its clock, namespaces, mounts, tokens and leases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::Asked;
use super::auth::Method;
use super::database::Database;
use super::jwt::Signer;
use super::kv::Versioned;
use super::oidc::Waiting;
use super::policy;
use super::token::Token;
use super::wrapping::Wrapped;

/// The longest life that a mount gives to a token or a lease unless its role says less: 32 days.
pub(super) const MAX_TTL: u64 = 768 * 3_600;

pub(super) struct World {
    pub(super) ahead: i64,
    pub(super) sealed: bool,
    pub(super) standby: Option<u16>,
    pub(super) lag: usize,
    pub(super) quota: Option<usize>,
    pub(super) spaces: BTreeMap<String, Space>,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) wrapped: HashMap<String, Wrapped>,
    pub(super) leases: BTreeMap<String, Lease>,
    pub(super) waiting: BTreeMap<String, Waiting>,
    pub(super) accounts: BTreeMap<String, BTreeSet<String>>,
    pub(super) signer: Signer,
    pub(super) log: Vec<Asked>,
}

/// One namespace.
#[derive(Default)]
pub(super) struct Space {
    /// By path, with the slash at its end; sign-in methods stand under `auth/`.
    pub(super) mounts: BTreeMap<String, Mount>,
    /// The texts of policies.
    pub(super) policies: BTreeMap<String, String>,
}

pub(super) struct Mount {
    pub(super) kind: &'static str,
    pub(super) accessor: String,
    pub(super) uuid: String,
    pub(super) description: String,
    pub(super) engine: Engine,
}

pub(super) enum Engine {
    Plain(BTreeMap<String, Map<String, Value>>),
    Versioned(Versioned),
    Database(Database),
    Method(Method),
    Token,
}

/// A lease of a credential that was made for somebody.
pub(super) struct Lease {
    pub(super) token: String,
    pub(super) issued: u64,
    pub(super) expires: u64,
    pub(super) max: u64,
    pub(super) ttl: u64,
    pub(super) database: String,
    pub(super) account: String,
}

impl World {
    pub(super) fn new() -> (Self, String) {
        let mut world = Self {
            ahead: 0,
            sealed: false,
            standby: None,
            lag: 0,
            quota: None,
            spaces: BTreeMap::from([(String::new(), Space::fresh())]),
            tokens: HashMap::new(),
            wrapped: HashMap::new(),
            leases: BTreeMap::new(),
            waiting: BTreeMap::new(),
            accounts: BTreeMap::new(),
            signer: Signer::new(),
            log: Vec::new(),
        };
        let versioned = Mount::new("kv", Engine::Versioned(Versioned::default()));
        world.space("").mounts.insert("secret/".to_owned(), versioned);
        let root = Token::root(world.now());
        let id = root.id.clone();
        world.tokens.insert(id.clone(), root);
        (world, id)
    }

    pub(super) fn now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        now.saturating_add_signed(self.ahead)
    }

    /// Returns a namespace that is known to exist.
    pub(super) fn space(&mut self, name: &str) -> &mut Space {
        self.spaces.entry(name.to_owned()).or_default()
    }

    /// Returns the mount that a path belongs to: its own path, and itself.
    pub(super) fn mount(&mut self, namespace: &str, path: &str) -> Option<(String, &mut Mount)> {
        let space = self.spaces.get_mut(namespace)?;
        let found = space.mounts.iter_mut().filter(|(mount, _)| format!("{path}/").starts_with(mount.as_str()));
        found.max_by_key(|(mount, _)| mount.len()).map(|(path, mount)| (path.clone(), mount))
    }

    /// Forgets what has ended: tokens with everything that hangs on them, leases, wrapped answers.
    pub(super) fn tidy(&mut self) {
        let now = self.now();
        let ended: Vec<String> =
            self.tokens.values().filter(|token| token.has_ended(now)).map(|token| token.id.clone()).collect();
        for id in ended {
            self.revoke(&id);
        }
        let ended: Vec<String> =
            self.leases.iter().filter(|(_, lease)| lease.expires <= now).map(|(id, _)| id.clone()).collect();
        for id in ended {
            self.end_lease(&id);
        }
        self.wrapped.retain(|_, wrapped| wrapped.expires > now);
        self.waiting.retain(|_, waiting| waiting.expires > now);
    }

    /// Ends a token, its children and their leases.
    pub(super) fn revoke(&mut self, id: &str) {
        self.tokens.remove(id);
        let children: Vec<String> =
            self.tokens.values().filter(|token| token.parent.as_deref() == Some(id)).map(|t| t.id.clone()).collect();
        for child in children {
            self.revoke(&child);
        }
        let leases: Vec<String> =
            self.leases.iter().filter(|(_, lease)| lease.token == id).map(|(id, _)| id.clone()).collect();
        for lease in leases {
            self.end_lease(&lease);
        }
    }

    /// Ends a lease and the account behind it. Tells whether there was one.
    pub(super) fn end_lease(&mut self, id: &str) -> bool {
        let Some(lease) = self.leases.remove(id) else { return false };
        if let Some(accounts) = self.accounts.get_mut(&lease.database) {
            accounts.remove(&lease.account);
        }
        true
    }

    /// Returns something random that nobody can guess, after `prefix`.
    pub(super) fn random(prefix: &str) -> String {
        format!("{prefix}{}", Self::uuid().replace('-', ""))
    }

    pub(super) fn uuid() -> String {
        fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel gives random names").trim().to_owned()
    }
}

impl Space {
    pub(super) fn fresh() -> Self {
        let mounts = [("auth/token/", Mount::new("token", Engine::Token))];
        Self {
            mounts: mounts.into_iter().map(|(path, mount)| (path.to_owned(), mount)).collect(),
            policies: BTreeMap::from([("default".to_owned(), policy::DEFAULT.to_owned())]),
        }
    }
}

impl Mount {
    pub(super) fn new(kind: &'static str, engine: Engine) -> Self {
        let accessor = format!("{kind}_{}", &World::random("")[..8]);
        Self { kind, accessor, uuid: World::uuid(), description: String::new(), engine }
    }

    /// Returns how it is described in listings.
    pub(super) fn described(&self) -> Value {
        let options = match self.engine {
            Engine::Versioned(_) => serde_json::json!({ "version": "2" }),
            Engine::Plain(_) => serde_json::json!({ "version": "1" }),
            _ => Value::Null,
        };
        serde_json::json!({
            "type": self.kind, "accessor": self.accessor, "uuid": self.uuid, "description": self.description, "options": options,
            "local": false, "seal_wrap": false, "external_entropy_access": false,
            "config": { "default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": false },
        })
    }
}
