//! Google Cloud Secret Manager v1 over HTTP/JSON, with the services that signing in to it needs: IAM Service Account
//! Credentials v1, the OAuth 2.0 token endpoint, the Security Token Service and the metadata server.
//!
//! Paths, parameters and bodies: the discovery documents `secretmanager.v1` and `iamcredentials.v1`. Error words: the
//! product's documentation and public reports. Every call is authorised: a bearer token of its table that has not expired,
//! or a JWT that a known key of a service account signed, and a role that is bound to it. Names in answers hold the
//! project's number, as the real ones do, whatever was asked for. Time is its own clock, which a test moves.
//!
//! What it can't show: TLS, HTTP/2, quotas, replication and keys of the customer (`userManaged` is kept and means nothing),
//! expiry, topics, rotation and tags of a secret (`501`), conditions beyond `resource.name` and `resource.type`, deny
//! policies, organisation policies, audit logs, eventual consistency (a new binding counts at once), the limits on labels,
//! Cloud Storage, which alone honours an access boundary (here every call refuses a token with one), and the
//! `generateIdToken`, `signBlob`, `signJwt`, `getAllowedLocations` of IAM. Its two addresses stand for the global and one
//! regional endpoint.

mod answer;
mod ask;
#[cfg(test)]
mod checked;
mod iam;
mod names;
mod secrets;
mod set_up;
mod sign_in;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::http::Message;
use crate::serve::Serve;
use answer::Problem;
use iam::{Accounts, Binding, Held};
use names::Place;
use secrets::Secret;

/// The methods of the discovery documents that it answers with 501.
pub const NOT_SPOKEN: &[&str] = &[
    "iamcredentials.locations.workforcePools.getAllowedLocations",
    "iamcredentials.projects.locations.workloadIdentityPools.getAllowedLocations",
    "iamcredentials.projects.serviceAccounts.generateIdToken",
    "iamcredentials.projects.serviceAccounts.getAllowedLocations",
    "iamcredentials.projects.serviceAccounts.signBlob",
    "iamcredentials.projects.serviceAccounts.signJwt",
    "secretmanager.projects.locations.secrets.enableManagedRotation",
    "secretmanager.projects.locations.secrets.rotateSecret",
    "secretmanager.projects.secrets.enableManagedRotation",
    "secretmanager.projects.secrets.rotateSecret",
];

/// A running server; it stops when it is dropped.
pub struct FakeGcp {
    global: Serve,
    regional: Serve,
    shared: Arc<Mutex<World>>,
}

/// What a bearer token is good for.
#[derive(Clone, Debug, PartialEq)]
pub struct GcpToken {
    /// Whose it is: `user:NAME`, `serviceAccount:NAME`.
    pub member: String,
    /// The scopes that it was asked for with; none where nobody asked for any.
    pub scopes: Vec<String>,
    /// The access boundary that it was cut down to.
    pub boundary: Option<Value>,
    /// How long it still counts.
    pub left: Duration,
}

/// Everything that there is.
struct World {
    /// Seconds that its clock is ahead of the machine's.
    ahead: i64,
    anonymous: bool,
    region: String,
    /// Project ids and their numbers.
    projects: BTreeMap<String, String>,
    secrets: BTreeMap<Place, Secret>,
    bindings: BTreeMap<String, Vec<Binding>>,
    accounts: Accounts,
    /// Most entries of one page, whatever is asked for.
    page: usize,
    /// How often an etag was made.
    etags: u64,
    calls: Vec<String>,
    reasons: Vec<String>,
    flip_crc: bool,
}

impl FakeGcp {
    /// Starts with the project `shop-dev` (number 111122223333), no secret and nobody who may anything.
    #[must_use]
    pub fn start() -> Self {
        let world = World {
            ahead: 0,
            anonymous: false,
            region: "europe-west3".to_owned(),
            projects: BTreeMap::from([("shop-dev".to_owned(), "111122223333".to_owned())]),
            secrets: BTreeMap::new(),
            bindings: BTreeMap::new(),
            accounts: Accounts::default(),
            page: 25_000,
            etags: 0,
            calls: Vec::new(),
            reasons: Vec::new(),
            flip_crc: false,
        };
        let shared = Arc::new(Mutex::new(world));
        let serve = |regional: bool| {
            let shared = Arc::clone(&shared);
            Serve::start(move |request| lock(&shared).answer(request, regional))
        };
        Self { global: serve(false), regional: serve(true), shared: Arc::clone(&shared) }
    }

    /// Returns `http://127.0.0.1:PORT` of the global endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        self.global.url()
    }

    /// Returns `127.0.0.1:PORT` of the global endpoint.
    #[must_use]
    pub fn address(&self) -> String {
        self.global.address()
    }

    /// Returns `http://127.0.0.1:PORT` of the endpoint of `europe-west3`, which knows that region's secrets and no others.
    #[must_use]
    pub fn regional_url(&self) -> String {
        self.regional.url()
    }

    /// Lets everybody do everything without a token, which the real service never does: for clients that a test can't sign in.
    pub fn allow_anonymous(&self) {
        self.world().anonymous = true;
    }

    /// Adds a project.
    pub fn add_project(&self, id: &str, number: &str) {
        self.world().projects.insert(id.to_owned(), number.to_owned());
    }

    /// Makes `token` a bearer token of `member` (`user:NAME`, `serviceAccount:NAME`) for so long.
    pub fn add_token(&self, token: &str, member: &str, lifetime: Duration) {
        let mut world = self.world();
        let expires = world.now() + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        world.accounts.add_token(token, member, expires);
    }

    /// Adds a service account; `public_key` (PKCS #1, DER) belongs to its key `key_id`.
    pub fn add_service_account(&self, email: &str, key: Option<(&str, Vec<u8>)>) {
        let key = key.map(|(id, public)| (id.to_owned(), public));
        self.world().accounts.add_service_account(email, key);
    }

    /// Adds a user's refresh token, issued to the client `id` with `secret`.
    pub fn add_refresh_token(&self, refresh_token: &str, member: &str, client_id: &str, client_secret: &str) {
        self.world().accounts.add_refresh_token(refresh_token, member, client_id, client_secret);
    }

    /// Revokes a user's refresh token.
    pub fn revoke_refresh_token(&self, refresh_token: &str) {
        self.world().accounts.revoke_refresh_token(refresh_token);
    }

    /// Lets the Security Token Service take `subject_token` for `member` at `audience`.
    pub fn add_subject_token(&self, audience: &str, subject_token: &str, member: &str) {
        self.world().accounts.add_subject_token(audience, subject_token, member);
    }

    /// Lets the metadata server answer, as on a machine that runs as this service account.
    pub fn set_metadata(&self, email: &str) {
        self.world().accounts.set_metadata(email);
    }

    /// Binds `role` to `member` on `resource`: `projects/ID`, a secret's name or `serviceAccounts/EMAIL`. `condition` is an
    /// expression over `resource.name` and `resource.type`.
    ///
    /// # Panics
    /// When the role or the condition is not one that it knows.
    pub fn bind(&self, resource: &str, role: &str, member: &str, condition: Option<&str>) {
        let mut world = self.world();
        let resource = world.canonical(resource);
        let binding = Binding::new(role, &[member], condition).expect("a known role and condition");
        world.bindings.entry(resource).or_default().push(binding);
    }

    /// Adds a version to a secret of `shop-dev`, which is made where needed; returns the version's number.
    pub fn put(&self, secret: &str, payload: &[u8]) -> usize {
        self.world().put(secret, payload)
    }

    /// Disables a version of a secret of `shop-dev`.
    pub fn disable(&self, secret: &str, version: usize) {
        self.world().disable(secret, version);
    }

    /// Sets a label of a secret of `shop-dev`.
    pub fn label(&self, secret: &str, name: &str, value: &str) {
        self.world().label(secret, name, value);
    }

    /// Tells whether a version of a secret of `shop-dev` came with a checksum.
    #[must_use]
    pub fn was_checked(&self, secret: &str, version: usize) -> bool {
        self.world().was_checked(secret, version)
    }

    /// Moves its clock.
    pub fn advance(&self, seconds: i64) {
        self.world().ahead += seconds;
    }

    /// Lets a page hold at most so many entries.
    pub fn set_page(&self, entries: usize) {
        self.world().page = entries;
    }

    /// Lets the checksums of answers be wrong.
    pub fn flip_crc(&self, flipped: bool) {
        self.world().flip_crc = flipped;
    }

    /// Returns the calls since the last time, `METHOD /path`, in their order.
    #[must_use]
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.world().calls)
    }

    /// Returns the reasons (`x-goog-request-reason`) that came with calls since the last time: `METHOD /path: REASON`.
    #[must_use]
    pub fn take_reasons(&self) -> Vec<String> {
        std::mem::take(&mut self.world().reasons)
    }

    /// Returns what a bearer token is good for, if it still is for anything.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<GcpToken> {
        let world = self.world();
        world.accounts.tokens.get(token).and_then(|held| world.shown(held))
    }

    /// Returns what the bearer tokens of `member` are good for that still count, in no order.
    #[must_use]
    pub fn tokens_of(&self, member: &str) -> Vec<GcpToken> {
        let world = self.world();
        let all = world.accounts.tokens.values().filter(|held| held.member == member);
        all.filter_map(|held| world.shown(held)).collect()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared)
    }
}

fn lock(shared: &Mutex<World>) -> MutexGuard<'_, World> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Returns the seconds since 1970 by its own clock.
    fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_secs()).expect("not that late") + self.ahead
    }

    /// Returns what a token is good for, if it still counts.
    fn shown(&self, held: &Held) -> Option<GcpToken> {
        let left = u64::try_from(held.expires - self.now()).ok().filter(|left| *left > 0)?;
        let Held { member, scopes, boundary, .. } = held.clone();
        Some(GcpToken { member, scopes: scopes.unwrap_or_default(), boundary, left: Duration::from_secs(left) })
    }

    /// Returns the next etag, quotes included, as the real ones have them.
    fn etag(&mut self) -> String {
        self.etags += 1;
        format!("\"16{:x}\"", self.etags)
    }

    fn answer(&mut self, request: &Message, regional: bool) -> Message {
        let call = format!("{} {}", request.method(), request.path());
        self.reasons.extend(request.header("x-goog-request-reason").map(|reason| format!("{call}: {reason}")));
        self.calls.push(call);
        let path = percent_encoding::percent_decode_str(request.path()).decode_utf8_lossy().into_owned();
        if let Some(answered) = self.sign_in_endpoint(request, &path) {
            return answered;
        }
        let answered = match path.strip_prefix("/v1/") {
            Some(name) if name.contains("/serviceAccounts/") => self.generate_access_token(request, name),
            Some(name) => self.secret_manager(request, name, regional),
            None => Err(Problem::NoSuchPage),
        };
        match answered {
            Ok(body) => Message::json(200, &body),
            Err(problem) => problem.to_message(),
        }
    }

    /// Returns a resource's name with the project's number, under which its bindings stand.
    fn canonical(&self, resource: &str) -> String {
        let Some(rest) = resource.strip_prefix("projects/") else { return resource.to_owned() };
        let (project, rest) = rest.split_once('/').map_or((rest, None), |(project, rest)| (project, Some(rest)));
        let number = self.projects.get(project).map_or(project, String::as_str);
        rest.map_or_else(|| format!("projects/{number}"), |rest| format!("projects/{number}/{rest}"))
    }
}

/// Returns a time as JSON has it: RFC 3339 in UTC.
fn timestamp(seconds: i64) -> Value {
    let days = seconds.div_euclid(86_400);
    let within = seconds.rem_euclid(86_400);
    // Days to a civil date, after H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (within / 3600, within / 60 % 60, within % 60);
    json!(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}
