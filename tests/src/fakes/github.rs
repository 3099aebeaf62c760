//! GitHub's REST API as far as a GitHub App gets: `api.github.com`, version 2022-11-28.
//!
//! Speaks: the app and its installations, installation access tokens (made, narrowed to repositories and permissions,
//! revoked), the repositories that a token reaches, and the contents of those. An app is whoever signs a JWT with its key;
//! a token counts for an hour of the server's own clock, which a test moves. Sources: "REST API endpoints for GitHub Apps",
//! "for GitHub App installations" and "for repository contents", "Generating a JSON Web Token (JWT) for a GitHub App",
//! "Rate limits for the REST API"; the words of refusals as users of the real one reported them.
//!
//! Checked with `PyGithub` and with `githubkit`, whose models are GitHub's own description of this API (`github/clients.rs`).
//!
//! What it can't show: TLS, HTTP/2, conditional requests, GraphQL, git itself (a token is good for `git clone` on the real
//! one), accounts other than organisations, public repositories, permissions of an organisation rather than a repository,
//! policies of an enterprise, the most repositories that one token may name, several keys of one app, the delay until a new
//! token is known everywhere, and whether an app's id that is sent as text counts (here it does: one client sends it so,
//! and others report that it was refused). How far ahead `iat` may be is not documented; here it may not be at all.

mod app_jwt;
mod bodies;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod clients;
mod key;
mod problem;
mod route;
mod tokens;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::serve::Serve;
use key::Key;
use world::World;
pub use world::{App, Limit};

/// A running server; it stops when it is dropped.
pub struct Github {
    serve: Serve,
    world: Arc<Mutex<World>>,
}

impl Github {
    /// Starts it without an app.
    #[must_use]
    pub fn start() -> Self {
        let world = Arc::<Mutex<World>>::default();
        let own = Arc::clone(&world);
        let serve = Serve::start(move |request| lock(&own).answer(request));
        Self { serve, world }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.serve.url()
    }

    /// Returns `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.serve.address()
    }

    /// Registers an app with a fresh key, which asks for these permissions (`("contents", "read")`).
    ///
    /// # Panics
    /// When the Python of the test servers, which makes the key, is not there.
    #[must_use]
    pub fn register(&self, slug: &str, permissions: &[(&str, &str)]) -> App {
        // Made before the lock is taken: it takes a while.
        let key = Key::generate();
        self.world().register(slug, permissions, key)
    }

    /// Installs an app at an organisation for these of its repositories, which are made where needed, with what the app
    /// asks for; returns the installation's id.
    #[must_use]
    pub fn install(&self, app: &App, organisation: &str, repositories: &[&str]) -> u64 {
        let mut world = self.world();
        let selected = repositories.iter().map(|name| world.repository(organisation, name)).collect();
        world.install(app.id, organisation, Some(selected))
    }

    /// Installs an app for every repository that the organisation has or will have.
    #[must_use]
    pub fn install_for_all(&self, app: &App, organisation: &str) -> u64 {
        self.world().install(app.id, organisation, None)
    }

    /// Lets an installation have these permissions from now on, and no others: an app may ask for more than was granted.
    pub fn grant(&self, installation: u64, permissions: &[(&str, &str)]) {
        self.world().grant(installation, permissions);
    }

    /// Takes a repository out of those that were selected for an installation. Tokens that are out lose it, too.
    pub fn deselect(&self, installation: u64, organisation: &str, repository: &str) {
        self.world().deselect(installation, organisation, repository);
    }

    /// Suspends an installation, or lifts the suspension.
    pub fn suspend(&self, installation: u64, suspended: bool) {
        self.world().suspend(installation, suspended);
    }

    /// Removes an installation, and its tokens.
    pub fn uninstall(&self, installation: u64) {
        self.world().uninstall(installation);
    }

    /// Replaces the key of an app: JWTs that the former one signed count no more.
    #[must_use]
    pub fn rotate_key(&self, app: &App) -> App {
        let key = Key::generate();
        self.world().rotate_key(app, key)
    }

    /// Adds a repository, and returns its id.
    pub fn add_repository(&self, organisation: &str, name: &str) -> u64 {
        self.world().repository(organisation, name)
    }

    /// Stores a file in a repository, which is made where needed.
    pub fn put(&self, organisation: &str, repository: &str, path: &str, content: &[u8]) {
        self.world().put(organisation, repository, path, content);
    }

    /// Returns the tokens that count, in the order in which they were made.
    #[must_use]
    pub fn alive_tokens(&self) -> Vec<String> {
        self.world().alive_tokens()
    }

    /// Tells whether a token counts: it was made here, not revoked, and its hour is not over.
    #[must_use]
    pub fn is_alive(&self, token: &str) -> bool {
        self.world().is_alive(token)
    }

    /// Returns every token that was ever made, in their order.
    #[must_use]
    pub fn issued_tokens(&self) -> Vec<String> {
        self.world().issued.clone()
    }

    /// Makes new tokens in the format of 2026, `ghs_APPID_JWT`, some 500 characters long, or in the former one of 40. A
    /// client's `X-GitHub-Stateless-S2S-Token` decides before this does.
    pub fn use_long_tokens(&self, long: bool) {
        self.world().long_tokens = long;
    }

    /// Moves its clock forward.
    pub fn advance(&self, time: Duration) {
        self.world().ahead += i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 2);
    }

    /// Sets by which limit calls are refused; `None` is the usual one of 5000 an hour.
    pub fn set_limit(&self, limit: Option<Limit>) {
        self.world().limit = limit;
    }

    /// Returns the requests that came, `METHOD /path`, in their order.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.world().requests.clone()
    }

    /// Returns how often `METHOD /path` was asked for.
    #[must_use]
    pub fn count(&self, request: &str) -> usize {
        self.world().requests.iter().filter(|known| *known == request).count()
    }

    /// Returns each different `User-Agent` that came.
    #[must_use]
    pub fn user_agents(&self) -> Vec<String> {
        self.world().user_agents.iter().cloned().collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
