//! What the three servers know: who there is, which tokens were given out, what may be done, what is stored, what time it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::http::Message;

/// The tenant of everything.
pub const TENANT: &str = "b3a1f0c2-7d64-4e55-9d0e-2f6a5c8b9e01";
/// What a token must be for to count at the vault.
pub(super) const VAULT_AUDIENCE: &str = "https://vault.azure.net";
/// What an assertion must be for to count at the token endpoint.
const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// A registered application.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its client id.
    pub client_id: String,
    /// The id of its service principal, which roles are assigned to.
    pub oid: String,
    /// Its client secret.
    pub secret: String,
}

/// Somebody with a browser.
#[derive(Clone, Debug)]
pub struct Person {
    /// The id that roles are assigned to.
    pub oid: String,
    /// The name to sign in with.
    pub name: String,
}

/// What a person says to a device code.
#[derive(Clone, Debug)]
pub enum DeviceAnswer {
    /// Signs in.
    Consent(Person),
    /// Declines.
    Decline,
}

/// A built-in role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `Key Vault Reader`: metadata, no value.
    Reader,
    /// `Key Vault Secrets User`: values and metadata.
    SecretsUser,
    /// `Key Vault Secrets Officer`: everything that concerns secrets.
    SecretsOfficer,
}

impl Role {
    /// Returns its data actions that concern secrets, as the role is defined.
    fn data_actions(self) -> &'static [&'static str] {
        match self {
            Self::Reader => &["Microsoft.KeyVault/vaults/secrets/readMetadata/action"],
            Self::SecretsUser => &[
                "Microsoft.KeyVault/vaults/secrets/getSecret/action",
                "Microsoft.KeyVault/vaults/secrets/readMetadata/action",
            ],
            Self::SecretsOfficer => &["Microsoft.KeyVault/vaults/secrets/*"],
        }
    }
}

/// What an object may do, at the vault or at one secret.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    oid: String,
    data_actions: Vec<String>,
    secret: Option<String>,
}

/// An access token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) oid: String,
    pub(super) audience: String,
    pub(super) expires: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Registered {
    pub(super) oid: String,
    pub(super) secret: String,
    pub(super) secret_ends: Option<u64>,
    /// Issuer and subject of the assertions that count.
    pub(super) federated: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) client_id: String,
    pub(super) scope: String,
    pub(super) expires: u64,
    pub(super) last_poll: Option<u64>,
    pub(super) polls: usize,
    pub(super) answer: Option<Option<String>>,
}

#[derive(Clone, Debug)]
pub(super) struct Refresh {
    pub(super) client_id: String,
    pub(super) oid: String,
    pub(super) expires: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) value: String,
    pub(super) content_type: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) enabled: bool,
    pub(super) not_before: Option<u64>,
    pub(super) expires: Option<u64>,
    pub(super) created: u64,
    pub(super) updated: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Secret {
    /// As it was first written: Azure ignores case.
    pub(super) name: String,
    /// The oldest first.
    pub(super) versions: Vec<Version>,
    pub(super) deleted: Option<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) applications: HashMap<String, Registered>,
    pub(super) people: HashMap<String, String>,
    pub(super) assignments: Vec<Assignment>,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) refresh_tokens: HashMap<String, Refresh>,
    pub(super) devices: Vec<(String, Device)>,
    pub(super) consent: Option<(usize, String)>,
    pub(super) device_interval: Duration,
    pub(super) token_life: Duration,
    pub(super) machine_identity: Option<String>,
    pub(super) by_policy: bool,
    pub(super) firewall: bool,
    pub(super) quota: Option<(usize, Option<u32>)>,
    pub(super) write_takes: Duration,
    /// By the name in lower case.
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) requests: Vec<String>,
    pub(super) credentials_seen: Vec<String>,
    /// How far the clock is ahead of the real one, in seconds.
    ahead: i64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            applications: HashMap::new(),
            people: HashMap::new(),
            assignments: Vec::new(),
            tokens: HashMap::new(),
            refresh_tokens: HashMap::new(),
            devices: Vec::new(),
            consent: None,
            device_interval: Duration::from_secs(5),
            token_life: Duration::from_secs(3599),
            machine_identity: None,
            by_policy: false,
            firewall: false,
            quota: None,
            write_takes: Duration::ZERO,
            secrets: BTreeMap::new(),
            requests: Vec::new(),
            credentials_seen: Vec::new(),
            ahead: 0,
        }
    }
}

impl State {
    pub(super) fn now(&self) -> u64 {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        real.as_secs().saturating_add_signed(self.ahead)
    }

    /// Tells whether `oid` may do this to one secret, or to the vault where there is none.
    pub(super) fn allows(&self, oid: &str, action: &str, secret: Option<&str>) -> bool {
        let action = format!("Microsoft.KeyVault/vaults/secrets/{action}");
        let is_allowed = |known: &String| match known.strip_suffix('*') {
            Some(beginning) => action.starts_with(beginning),
            None => *known == action,
        };
        self.assignments.iter().any(|assignment| {
            let covers = match &assignment.secret {
                None => true,
                Some(at) => !self.by_policy && secret.is_some_and(|secret| secret.eq_ignore_ascii_case(at)),
            };
            assignment.oid == oid && covers && assignment.data_actions.iter().any(is_allowed)
        })
    }

    /// Gives out an access token; it looks like one of Entra's.
    pub(super) fn issue(&mut self, tenant: &str, client_id: &str, oid: &str, audience: &str) -> String {
        let now = self.now();
        let expires = now + self.token_life.as_secs();
        let issuer = format!("https://sts.windows.net/{tenant}/");
        let claims =
            json!({ "aud": audience, "iss": issuer, "iat": now, "exp": expires, "oid": oid, "appid": client_id });
        let token = jwt(&claims);
        let known = Token {
            tenant: tenant.to_owned(),
            client_id: client_id.to_owned(),
            oid: oid.to_owned(),
            audience: audience.to_owned(),
            expires,
        };
        self.tokens.insert(token.clone(), known);
        token
    }
}

#[derive(Debug, Default)]
pub(super) struct World {
    state: Mutex<State>,
}

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        self.state().now()
    }

    pub(super) fn advance(&self, time: Duration) {
        self.move_clock(seconds(time));
    }

    pub(super) fn move_clock(&self, seconds: i64) {
        self.state().ahead += seconds;
    }

    /// Keeps what was asked, and which credentials came with it.
    pub(super) fn log(&self, request: &Message) {
        let mut state = self.state();
        state.requests.push(format!("{} {}", request.method(), request.path()));
        let mut seen: Vec<String> = request.header("authorization").map(str::to_owned).into_iter().collect();
        for name in ["client_secret", "client_assertion", "refresh_token", "device_code"] {
            seen.extend(request.form(name));
        }
        state.credentials_seen.extend(seen);
    }

    pub(super) fn application(&self) -> Application {
        let made = Application { client_id: uuid(), oid: uuid(), secret: format!("q8Q~{}", uuid().replace('-', "")) };
        let known =
            Registered { oid: made.oid.clone(), secret: made.secret.clone(), secret_ends: None, federated: Vec::new() };
        self.state().applications.insert(made.client_id.clone(), known);
        made
    }

    pub(super) fn person(&self) -> Person {
        let made = Person { oid: uuid(), name: "dev@shop.example".to_owned() };
        self.state().people.insert(made.oid.clone(), made.name.clone());
        made
    }

    pub(super) fn assign(&self, oid: &str, role: Role, secret: Option<&str>) {
        self.assign_actions(oid, role.data_actions(), secret);
    }

    pub(super) fn assign_actions(&self, oid: &str, data_actions: &[&str], secret: Option<&str>) {
        let data_actions = data_actions.iter().map(|action| (*action).to_owned()).collect();
        let (oid, secret) = (oid.to_owned(), secret.map(str::to_owned));
        self.state().assignments.push(Assignment { oid, data_actions, secret });
    }

    pub(super) fn federate(&self, application: &Application, issuer: &str, subject: &str) {
        let mut state = self.state();
        let known = state.applications.get_mut(&application.client_id).expect("the application is registered");
        known.federated.push((issuer.to_owned(), subject.to_owned()));
    }

    pub(super) fn assertion(&self, issuer: &str, subject: &str, life: Duration) -> String {
        let now = self.now();
        let claims = json!({ "iss": issuer, "sub": subject, "aud": [EXCHANGE_AUDIENCE], "iat": now, "exp": now + life.as_secs() });
        jwt(&claims)
    }

    pub(super) fn expire_secret(&self, client_id: &str) {
        let mut state = self.state();
        let now = state.now();
        state.applications.get_mut(client_id).expect("the application is registered").secret_ends = Some(now);
    }

    pub(super) fn answer_device(&self, answer: &DeviceAnswer) {
        let mut state = self.state();
        let (_, device) = state.devices.last_mut().expect("a device code was given out");
        device.answer = Some(match answer {
            DeviceAnswer::Consent(person) => Some(person.oid.clone()),
            DeviceAnswer::Decline => None,
        });
    }

    pub(super) fn store(
        &self,
        name: &str,
        value: &str,
        content_type: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> String {
        let mut state = self.state();
        let now = state.now();
        let id = uuid().replace('-', "");
        let version = Version {
            id: id.clone(),
            value: value.to_owned(),
            content_type,
            tags,
            enabled: true,
            not_before: None,
            expires: None,
            created: now,
            updated: now,
        };
        let secret = state.secrets.entry(name.to_ascii_lowercase());
        let secret = secret.or_insert_with(|| Secret { name: name.to_owned(), versions: Vec::new(), deleted: None });
        secret.versions.push(version);
        let takes = state.write_takes;
        state.ahead += seconds(takes);
        id
    }

    pub(super) fn set_tags(&self, name: &str, tags: &[(&str, &str)]) {
        let mut state = self.state();
        let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("the secret is stored");
        let version = secret.versions.last_mut().expect("it has a version");
        version.tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    pub(super) fn set_attributes(&self, name: &str, attributes: &Value) {
        let mut state = self.state();
        let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("the secret is stored");
        secret.versions.last_mut().expect("it has a version").change(attributes);
    }
}

impl Version {
    /// Takes over the attributes that a request names.
    pub(super) fn change(&mut self, attributes: &Value) {
        if let Some(enabled) = attributes["enabled"].as_bool() {
            self.enabled = enabled;
        }
        self.not_before = attributes["nbf"].as_u64().or(self.not_before);
        self.expires = attributes["exp"].as_u64().or(self.expires);
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the claims of an assertion; signatures are not looked at.
pub(super) fn claims(token: &str) -> Option<Value> {
    let body = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()
}

/// Tells whether the claims are meant for the token endpoint.
pub(super) fn is_for_exchange(claims: &Value) -> bool {
    let audience = &claims["aud"];
    audience == EXCHANGE_AUDIENCE || audience.as_array().is_some_and(|all| all.iter().any(|a| a == EXCHANGE_AUDIENCE))
}

pub(super) fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "test" });
    format!("{}.{}.{}", part(&header), part(claims), URL_SAFE_NO_PAD.encode(uuid()))
}

/// Returns a random id.
pub(super) fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes ids").trim().to_owned()
}
