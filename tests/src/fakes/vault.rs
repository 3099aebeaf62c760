//! A server that speaks the HTTP API of Vault and OpenBao: secrets, policies, tokens, sign-ins, wrapping and leases.
//!
//! Everything is set up over the wire with the root token, so that the same suite runs against a real server. What a real
//! server leaves to time, to an operator or to a person in a browser is a method of [`Vault`]. It refuses what the real
//! one refuses: each request is checked for seal, namespace, token and policy before anything else. Sources: the API
//! documentation of Vault 1.20 and OpenBao 2.5, "Policies", "Tokens", "Response wrapping", and OpenBao's `jwt` method for
//! the device mode.
//!
//! What it can't show: storage, several nodes (a standby only answers `sys/health` and 429 for its sake), audit devices,
//! identity (an entity is the list of policies that [`Vault::identify`] gives a token;
//! no groups, no templated policies), control groups, Sentinel, `allowed_parameters` of a policy, `patch` of a
//! JSON merge deeper than one level, the exact text of a number in a secret (`1.10` comes back as `1.1`), an identity
//! provider's own pages and its certificates, Kubernetes' token review (a service account is whoever holds a token signed by
//! [`Vault::jwt`]), a database (accounts are names in a list), and TLS.

mod auth;
mod database;
mod duration;
mod jwt;
mod kv;
mod login;
mod message;
mod oidc;
mod policy;
mod route;
mod sys;
mod token;
mod world;
mod wrapping;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::serve::Serve;
use world::World;

#[cfg(test)]
mod checks;

/// A living token.
#[derive(Clone, Debug)]
pub struct Alive {
    /// What it is known by to those who don't have it.
    pub accessor: String,
    /// `token-` and the name that it was made under.
    pub display_name: String,
    /// Without those of its identity.
    pub policies: Vec<String>,
    /// What was said of it when it was made.
    pub meta: Map<String, Value>,
    /// How many requests are left; 0 is no limit.
    pub uses: u64,
    /// How many seconds are left.
    pub ttl: u64,
}

/// One request, as an audit device would tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `read`, `list`, `write`, `patch` or `delete`.
    pub operation: String,
    /// Below `/v1/`, relative to its namespace where the header names that.
    pub path: String,
    /// That of the token it was asked with, if that was alive.
    pub accessor: Option<String>,
}

/// A running server. It is unsealed and holds a KV engine of version 2 at `secret/`, like one in development mode.
pub struct Vault {
    server: Serve,
    world: Arc<Mutex<World>>,
    root: String,
}

impl Vault {
    /// Starts a server with nothing in it.
    #[must_use]
    pub fn start() -> Self {
        let (world, root) = World::new();
        let world = Arc::new(Mutex::new(world));
        let own = Arc::clone(&world);
        let server = Serve::start(move |request| {
            route::answer(&mut own.lock().unwrap_or_else(PoisonError::into_inner), request)
        });
        Self { server, world, root }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Returns `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// Returns the root token.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Moves the server's clock forward.
    pub fn advance(&self, time: Duration) {
        self.turn_clock(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    }

    /// Moves the server's clock by so many seconds, back too.
    pub fn turn_clock(&self, seconds: i64) {
        self.world().ahead += seconds;
    }

    /// Seals it, or lifts the seal.
    pub fn seal(&self, sealed: bool) {
        self.world().sealed = sealed;
    }

    /// Makes it a standby, or the active node again. 473 is what a performance standby says of its health.
    pub fn standby(&self, health: Option<u16>) {
        self.world().standby = health;
    }

    /// Lets the next `reads` of secrets find a node that lags behind: 412.
    pub fn lag(&self, reads: usize) {
        self.world().lag = reads;
    }

    /// Lets only so many more requests through; then 429. `None` lifts the quota.
    pub fn quota(&self, requests: Option<usize>) {
        self.world().quota = requests;
    }

    /// Returns the key with which [`Vault::jwt`] signs, as PEM, for `jwt_validation_pubkeys`.
    #[must_use]
    pub fn jwt_key(&self) -> String {
        self.world().signer.pem()
    }

    /// Signs a token with these claims (Ed25519); `exp` and `iat` are added where they are missing.
    #[must_use]
    pub fn jwt(&self, claims: &Value) -> String {
        let world = self.world();
        world.signer.token(claims, world.now())
    }

    /// Signs in at the identity provider, as a person with these claims in a browser that opened `address`.
    ///
    /// Returns where the browser is sent: the callback with `code` and `state`. For a code of a device there is nowhere to
    /// go, and `None` is returned.
    ///
    /// # Errors
    /// When the address is none that a running sign-in gave.
    pub fn sign_in_at(&self, address: &str, claims: &Value) -> Result<Option<String>, String> {
        oidc::confirm(&mut self.world(), address, claims)
    }

    /// Signs in at the identity provider with a code that a person types.
    ///
    /// # Errors
    /// When nobody waits with that code.
    pub fn confirm_code(&self, user_code: &str, claims: &Value) -> Result<(), String> {
        oidc::confirm_code(&mut self.world(), user_code, claims)
    }

    /// Returns the accounts that exist in the database named by its configuration.
    #[must_use]
    pub fn accounts(&self, database: &str) -> BTreeSet<String> {
        let mut world = self.world();
        world.tidy();
        world.accounts.get(database).cloned().unwrap_or_default()
    }

    /// Returns how many tokens are alive, the root token among them.
    #[must_use]
    pub fn live_tokens(&self) -> usize {
        let mut world = self.world();
        world.tidy();
        world.tokens.len()
    }

    /// Gives a token an entity with these policies. Its children to come inherit them.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn identify(&self, token: &str, policies: &[&str]) {
        let mut world = self.world();
        let token = world.tokens.get_mut(token).expect("the token is alive");
        token.identity_policies = policies.iter().map(|policy| (*policy).to_owned()).collect();
    }

    /// Returns the living tokens that were made under a name by another token: neither the root token nor those of sign-ins
    /// are among them.
    #[must_use]
    pub fn alive_tokens(&self) -> Vec<Alive> {
        let mut world = self.world();
        world.tidy();
        let now = world.now();
        let made = world.tokens.values().filter(|token| token.display_name.starts_with("token-"));
        made.map(|token| Alive {
            accessor: token.accessor.clone(),
            display_name: token.display_name.clone(),
            policies: token.policies.clone(),
            meta: token.meta.clone(),
            uses: token.uses,
            ttl: token.expires.saturating_sub(now),
        })
        .collect()
    }

    /// Tells whether the token with this accessor is alive.
    #[must_use]
    pub fn is_alive(&self, accessor: &str) -> bool {
        let mut world = self.world();
        world.tidy();
        world.tokens.values().any(|token| token.accessor == accessor)
    }

    /// Returns the ids of the leases that are alive.
    #[must_use]
    pub fn alive_leases(&self) -> Vec<String> {
        let mut world = self.world();
        world.tidy();
        world.leases.keys().cloned().collect()
    }

    /// Returns what was asked for so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.world().log.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
