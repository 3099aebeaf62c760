//! Azure as far as a reader of secrets sees it: Key Vault's secrets, Microsoft Entra's token endpoint, and the metadata
//! service of a machine. Three servers on three addresses, one world and one clock behind them.
//!
//! Speaks: the secrets of the data plane, versions 7.0 to 7.6 and the dated ones (set, read, versions, list, update, soft
//! delete, recover, purge; pages; the bearer challenge; role assignments at the vault or at one secret, and access
//! policies); client credentials by secret and by federated assertion, device code, refresh; the managed identity of a
//! virtual machine. Sources: the Key Vault REST reference, "Key Vault REST API error codes", "OAuth 2.0 device
//! authorization grant flow" and "client credentials flow" of the Microsoft identity platform, "How to use managed
//! identities on a VM to acquire an access token"; error texts as users of the real ones reported them.
//!
//! Checked with `azure-keyvault-secrets` and `azure-identity` (`azure/official_clients.rs`).
//!
//! What it can't show: TLS of its own; signatures of assertions and tokens (a token counts because it was issued here);
//! replication and its delays (a role that is not yet known everywhere, a deletion under way); network rules beyond one
//! switch; continuous access evaluation; in which case of letters Azure returns a name that was asked for in another one
//! (here: as stored); the order of versions (here: by their random ids, as seen); Azure's exact words for a value that is
//! too long; keys, certificates and managed secrets.

mod entra;
mod metadata;
#[cfg(test)]
mod official_clients;
mod vault;
mod world;

use std::sync::Arc;
use std::time::Duration;

use world::World;
pub use world::{Application, DeviceAnswer, Person, Role, TENANT};

use crate::serve::Serve;

/// The three servers. They stop when this is dropped.
pub struct Azure {
    vault: Serve,
    login: Serve,
    metadata: Serve,
    world: Arc<World>,
}

impl Azure {
    /// Starts an empty vault in a tenant without applications.
    #[must_use]
    pub fn start() -> Self {
        let world = Arc::<World>::default();
        let at = |answer: fn(&World, &crate::http::Message) -> crate::http::Message| {
            let world = Arc::clone(&world);
            Serve::start(move |request| {
                world.log(request);
                answer(&world, request)
            })
        };
        Self { vault: at(vault::answer), login: at(entra::answer), metadata: at(metadata::answer), world }
    }

    /// Returns the address of the vault.
    #[must_use]
    pub fn vault(&self) -> &Serve {
        &self.vault
    }

    /// Returns the login authority.
    #[must_use]
    pub fn login(&self) -> &Serve {
        &self.login
    }

    /// Returns the metadata service.
    #[must_use]
    pub fn metadata(&self) -> &Serve {
        &self.metadata
    }

    /// Registers an application of the tenant, with a client secret.
    #[must_use]
    pub fn application(&self) -> Application {
        self.world.application()
    }

    /// Registers a person who may sign in with a device code.
    #[must_use]
    pub fn person(&self) -> Person {
        self.world.person()
    }

    /// Lets the object `oid` act in `role` on the whole vault.
    pub fn assign(&self, oid: &str, role: Role) {
        self.world.assign(oid, role, None);
    }

    /// Lets the object `oid` act in `role` on one secret.
    pub fn assign_at(&self, oid: &str, role: Role, secret: &str) {
        self.world.assign(oid, role, Some(secret));
    }

    /// Lets the object `oid` do this on one secret, as a role of one's own defines it.
    pub fn assign_actions_at(&self, oid: &str, data_actions: &[&str], secret: &str) {
        self.world.assign_actions(oid, data_actions, Some(secret));
    }

    /// Lets assertions of this issuer and subject sign in as `application`.
    pub fn federate(&self, application: &Application, issuer: &str, subject: &str) {
        self.world.federate(application, issuer, subject);
    }

    /// Returns an assertion as a cluster writes it into a file, valid for `life`.
    #[must_use]
    pub fn assertion(&self, issuer: &str, subject: &str, life: Duration) -> String {
        self.world.assertion(issuer, subject, life)
    }

    /// Gives the machine of the metadata service the identity of `application`.
    pub fn give_identity(&self, application: &Application) {
        self.world.state().machine_identity = Some(application.client_id.clone());
    }

    /// Lets every client secret of `application` end now.
    pub fn expire_secret(&self, application: &Application) {
        self.world.expire_secret(&application.client_id);
    }

    /// Answers the device code that was given out last.
    ///
    /// # Panics
    /// When there is none.
    pub fn answer_device(&self, answer: &DeviceAnswer) {
        self.world.answer_device(answer);
    }

    /// Answers every device code by itself with `person`'s consent, after so many polls.
    pub fn consent_after(&self, polls: usize, person: &Person) {
        self.world.state().consent = Some((polls, person.oid.clone()));
    }

    /// Sets how long a device code asks to wait between polls.
    pub fn set_device_interval(&self, interval: Duration) {
        self.world.state().device_interval = interval;
    }

    /// Refuses every refresh token given out so far.
    pub fn revoke_sessions(&self) {
        self.world.state().refresh_tokens.clear();
    }

    /// Refuses every access token given out so far, as a change of the tenant's keys does.
    pub fn revoke_tokens(&self) {
        self.world.state().tokens.clear();
    }

    /// Sets how long tokens live that are given out from now on.
    pub fn set_token_life(&self, life: Duration) {
        self.world.state().token_life = life;
    }

    /// Decides by access policies of the vault instead of role assignments: what stands at one secret counts no more.
    pub fn use_access_policies(&self) {
        self.world.state().by_policy = true;
    }

    /// Lets the vault's firewall refuse everybody, or nobody.
    pub fn set_firewall(&self, closed: bool) {
        self.world.state().firewall = closed;
    }

    /// Lets the vault answer so many requests more, then throttle with this `Retry-After`, in seconds.
    pub fn set_quota(&self, requests: usize, retry_after: Option<u32>) {
        self.world.state().quota = Some((requests, retry_after));
    }

    /// Ends throttling.
    pub fn lift_quota(&self) {
        self.world.state().quota = None;
    }

    /// Moves the clock forward after every write, since times of the vault are whole seconds.
    pub fn each_write_takes(&self, time: Duration) {
        self.world.state().write_takes = time;
    }

    /// Moves the clock of all three servers.
    pub fn advance(&self, time: Duration) {
        self.world.advance(time);
    }

    /// Moves the clock of all three servers by so many seconds, forward or back.
    pub fn move_clock(&self, seconds: i64) {
        self.world.move_clock(seconds);
    }

    /// Returns the seconds since 1970 by the servers' clock.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.world.now()
    }

    /// Stores a secret without asking anybody, and returns the new version's id.
    #[must_use]
    pub fn seed(&self, name: &str, value: &str) -> String {
        self.world.store(name, value, None, Default::default())
    }

    /// Changes the attributes of the newest version, as `{"enabled": false}` or `{"exp": 1700000000}`.
    ///
    /// # Panics
    /// When there is no such secret.
    pub fn set_attributes(&self, name: &str, attributes: &serde_json::Value) {
        self.world.set_attributes(name, attributes);
    }

    /// Sets the tags of the newest version.
    ///
    /// # Panics
    /// When there is no such secret.
    pub fn set_tags(&self, name: &str, tags: &[(&str, &str)]) {
        self.world.set_tags(name, tags);
    }

    /// Returns the requests that came, `METHOD PATH`, in their order.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.world.state().requests.clone()
    }

    /// Returns every bearer token, client secret, assertion and refresh token that was sent to any of the servers.
    #[must_use]
    pub fn credentials_seen(&self) -> Vec<String> {
        self.world.state().credentials_seen.clone()
    }
}
