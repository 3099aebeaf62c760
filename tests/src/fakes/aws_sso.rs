//! IAM Identity Center: the device flow of `sso-oidc` and the portal of `sso`, at one address.
//!
//! Speaks `RegisterClient`, `StartDeviceAuthorization`, `CreateToken` (device code and refresh token), `GetRoleCredentials`,
//! `ListAccounts`, `ListAccountRoles` and `Logout`, REST with JSON, as botocore's service models `sso-oidc` 2019-06-10 and
//! `sso` 2019-06-10 describe them, errors with their `x-amzn-errortype`. Every refusal is one of those models, except that
//! a role which is not assigned answers `ForbiddenException`, which the models leave out and the service sends. A code is
//! good once, a refresh token too, and all of them end by a clock that tests can move. `POST /_person/approve`,
//! `/_person/reject` and `/_clock/advance` are the person and the time, for programs that are not the test itself.
//!
//! What it can't show: TLS, the sign-in page itself, `CreateTokenWithIAM`, the authorization-code grant, what AWS would
//! say in its descriptions, its quotas, and whether it rotates refresh tokens each time (this one does).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::http::Message;
use crate::serve::Serve;

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The scope without which there is neither access to accounts nor a refresh token.
const SCOPE: &str = "sso:account:access";
const DAY: u64 = 86_400;
/// How long a registration counts, in seconds.
const CLIENT_LIFE: u64 = 90 * DAY;
/// How long a device code counts, in seconds.
const CODE_LIFE: u64 = 600;
/// How long an access token counts, in seconds.
const TOKEN_LIFE: u64 = 3600;
/// How long a session can be refreshed, in seconds: the portal's default.
const SESSION_LIFE: u64 = 8 * 3600;
/// What polling too fast adds to the interval, in seconds. RFC 8628, section 3.5.
const SLOW_DOWN: u64 = 5;

/// The running portal.
pub struct AwsSso {
    serve: Serve,
    state: Arc<Mutex<State>>,
}

/// Keys that the portal hands out for a role.
#[derive(Clone, Debug)]
pub struct RoleKeys {
    /// The access key's id.
    pub key_id: String,
    /// The access key.
    pub key: String,
    /// The session's token.
    pub token: String,
}

struct State {
    start_url: String,
    interval: u64,
    offset: u64,
    clients: BTreeMap<String, Client>,
    devices: BTreeMap<String, Device>,
    sessions: Vec<Session>,
    roles: BTreeMap<(String, String), RoleKeys>,
    calls: BTreeMap<String, usize>,
}

struct Client {
    secret: String,
    scopes: Vec<String>,
    grants: Vec<String>,
    expires: u64,
}

struct Device {
    client: String,
    user_code: String,
    expires: u64,
    interval: u64,
    polled: Option<u64>,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Pending,
    Approved,
    Rejected,
    Used,
}

struct Session {
    client: String,
    access: String,
    access_expires: u64,
    refresh: Option<String>,
    ends: u64,
}

/// A refusal: status, the model's error, and the words.
struct Refusal(u16, &'static str, &'static str);

type Answered = Result<Value, Refusal>;

impl AwsSso {
    /// Starts a portal whose start URL is `start_url`.
    #[must_use]
    pub fn start(start_url: &str) -> Self {
        let state = Arc::new(Mutex::new(State {
            start_url: start_url.to_owned(),
            interval: 1,
            offset: 0,
            clients: BTreeMap::new(),
            devices: BTreeMap::new(),
            sessions: Vec::new(),
            roles: BTreeMap::new(),
            calls: BTreeMap::new(),
        }));
        let own = Arc::clone(&state);
        let serve = Serve::start(move |request| lock(&own).answer(request));
        Self { serve, state }
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

    /// Assigns a role of an account to whoever signs in.
    pub fn assign(&self, account: &str, role: &str, keys: RoleKeys) {
        lock(&self.state).roles.insert((account.to_owned(), role.to_owned()), keys);
    }

    /// Sets how long a client has to wait between two polls, in seconds, for codes given from now on.
    pub fn set_interval(&self, seconds: u64) {
        lock(&self.state).interval = seconds;
    }

    /// Moves the clock of the portal.
    pub fn advance(&self, time: Duration) {
        lock(&self.state).offset += time.as_secs();
    }

    /// Answers a code as the person would; tells whether it waits for an answer.
    #[must_use]
    pub fn approve(&self, user_code: &str) -> bool {
        lock(&self.state).person(user_code, Answer::Approved)
    }

    /// Refuses a code as the person would; tells whether it waits for an answer.
    #[must_use]
    pub fn reject(&self, user_code: &str) -> bool {
        lock(&self.state).person(user_code, Answer::Rejected)
    }

    /// Returns the codes that wait for the person.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let state = lock(&self.state);
        let waits = state.devices.values().filter(|device| device.answer == Answer::Pending);
        waits.map(|device| device.user_code.clone()).collect()
    }

    /// Ends every session, as an administrator can.
    pub fn end_sessions(&self) {
        lock(&self.state).sessions.clear();
    }

    /// Returns how many calls of a path came, such as `/token`.
    #[must_use]
    pub fn calls(&self, path: &str) -> usize {
        lock(&self.state).calls.get(path).copied().unwrap_or(0)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + self.offset
    }

    fn person(&mut self, user_code: &str, answer: Answer) -> bool {
        let now = self.now();
        let waits = |d: &&mut Device| d.user_code == user_code && d.answer == Answer::Pending && d.expires > now;
        let Some(device) = self.devices.values_mut().find(waits) else { return false };
        device.answer = answer;
        true
    }

    fn answer(&mut self, request: &Message) -> Message {
        *self.calls.entry(request.path().to_owned()).or_default() += 1;
        let body = request.body_json();
        let (answered, is_oidc) = match (request.method(), request.path()) {
            ("POST", "/client/register") => (self.register(&body), true),
            ("POST", "/device_authorization") => (self.authorize(&body), true),
            ("POST", "/token") => (self.token(&body), true),
            ("GET", "/federation/credentials") => (self.credentials(request), false),
            ("GET", "/assignment/accounts") => (self.accounts(request), false),
            ("GET", "/assignment/roles") => (self.account_roles(request), false),
            ("POST", "/logout") => (self.log_out(request), false),
            ("POST", "/_person/approve") => return acted(self.by_code(request, Answer::Approved)),
            ("POST", "/_person/reject") => return acted(self.by_code(request, Answer::Rejected)),
            ("POST", "/_clock/advance") => {
                let seconds = request.query("seconds").and_then(|seconds| seconds.parse::<u64>().ok());
                self.offset += seconds.unwrap_or(0);
                return acted(seconds.is_some());
            }
            _ => (Err(Refusal(404, "UnknownOperationException", "there is no such operation")), false),
        };
        match answered {
            Ok(body) => Message::json(200, &body),
            Err(refusal) => refusal.told(is_oidc),
        }
    }

    fn by_code(&mut self, request: &Message, answer: Answer) -> bool {
        request.query("user_code").is_some_and(|code| self.person(&code, answer))
    }

    fn register(&mut self, body: &Value) -> Answered {
        let (_, kind) = (text(body, "clientName")?, text(body, "clientType")?);
        if kind != "public" {
            return Err(Refusal(400, "InvalidClientMetadataException", "only public clients register"));
        }
        let scopes = texts(body, "scopes");
        if scopes.iter().any(|scope| scope != SCOPE) {
            return Err(Refusal(400, "InvalidScopeException", "the scope is not known"));
        }
        let mut grants = texts(body, "grantTypes");
        if grants.iter().any(|grant| grant != DEVICE_GRANT && grant != "refresh_token") {
            return Err(Refusal(400, "UnsupportedGrantTypeException", "the grant type is not supported"));
        }
        if grants.is_empty() {
            grants = vec![DEVICE_GRANT.to_owned(), "refresh_token".to_owned()];
        }
        let (id, secret, now) = (word("client"), word("client-secret"), self.now());
        let expires = now + CLIENT_LIFE;
        self.clients.insert(id.clone(), Client { secret: secret.clone(), scopes, grants, expires });
        Ok(json!({
            "clientId": id, "clientSecret": secret, "clientIdIssuedAt": now, "clientSecretExpiresAt": expires,
        }))
    }

    /// Checks who asks and returns the client's id.
    fn client(&self, body: &Value) -> Result<String, Refusal> {
        let (id, secret) = (text(body, "clientId")?, text(body, "clientSecret")?);
        match self.clients.get(&id) {
            Some(client) if client.secret == secret && client.expires > self.now() => Ok(id),
            _ => Err(Refusal(401, "InvalidClientException", "the client is not valid")),
        }
    }

    fn authorize(&mut self, body: &Value) -> Answered {
        let client = self.client(body)?;
        if !self.clients.get(&client).is_some_and(|client| client.grants.iter().any(|grant| grant == DEVICE_GRANT)) {
            return Err(Refusal(400, "UnauthorizedClientException", "the client registered for no device code"));
        }
        if text(body, "startUrl")?.trim_end_matches('/') != self.start_url.trim_end_matches('/') {
            return Err(Refusal(400, "InvalidRequestException", "the start URL is not known"));
        }
        let (code, interval) = (word("device"), self.interval);
        let letters: Vec<char> = word("").chars().filter(char::is_ascii_hexdigit).take(8).collect();
        let letter = |c: &char| char::from(b'B' + u8::try_from(c.to_digit(16).unwrap_or(0)).unwrap_or(0));
        let letters: String = letters.iter().map(letter).collect();
        let user_code = format!("{}-{}", &letters[..4], &letters[4..]);
        let device = Device {
            client,
            user_code: user_code.clone(),
            expires: self.now() + CODE_LIFE,
            interval,
            polled: None,
            answer: Answer::Pending,
        };
        self.devices.insert(code.clone(), device);
        let page = format!("{}/#/device", self.start_url.trim_end_matches('/'));
        Ok(json!({
            "deviceCode": code, "userCode": user_code, "verificationUri": page,
            "verificationUriComplete": format!("{page}?user_code={user_code}"),
            "expiresIn": CODE_LIFE, "interval": interval,
        }))
    }

    fn token(&mut self, body: &Value) -> Answered {
        let client = self.client(body)?;
        let grant = text(body, "grantType")?;
        let known = self.clients.get(&client);
        if grant != DEVICE_GRANT && grant != "refresh_token" {
            return Err(Refusal(400, "UnsupportedGrantTypeException", "the grant type is not supported"));
        }
        if !known.is_some_and(|client| client.grants.contains(&grant)) {
            return Err(Refusal(400, "UnauthorizedClientException", "the client did not register for this grant"));
        }
        let refreshes = known.is_some_and(|client| {
            client.scopes.iter().any(|scope| scope == SCOPE) && client.grants.iter().any(|g| g == "refresh_token")
        });
        let ends = if grant == DEVICE_GRANT { self.by_device(&client, body)? } else { self.by_refresh(&client, body)? };
        let now = self.now();
        let session = Session {
            client,
            access: word("access"),
            access_expires: (now + TOKEN_LIFE).min(ends),
            refresh: refreshes.then(|| word("refresh")),
            ends,
        };
        let mut answer = json!({
            "accessToken": session.access, "tokenType": "Bearer", "expiresIn": session.access_expires - now,
        });
        if let (Some(refresh), Some(answer)) = (&session.refresh, answer.as_object_mut()) {
            answer.insert("refreshToken".to_owned(), json!(refresh));
        }
        self.sessions.push(session);
        Ok(answer)
    }

    /// Takes a device code and returns when its session ends.
    fn by_device(&mut self, client: &str, body: &Value) -> Result<u64, Refusal> {
        let (now, code) = (self.now(), text(body, "deviceCode")?);
        let Some(device) = self.devices.get_mut(&code).filter(|device| device.client == client) else {
            return Err(Refusal(400, "InvalidGrantException", "the device code is not one of this client"));
        };
        if device.answer == Answer::Used {
            return Err(Refusal(400, "InvalidGrantException", "the device code was used"));
        }
        if device.expires <= now {
            return Err(Refusal(400, "ExpiredTokenException", "the device code expired"));
        }
        if device.polled.is_some_and(|before| now < before + device.interval) {
            device.interval += SLOW_DOWN;
            device.polled = Some(now);
            return Err(Refusal(400, "SlowDownException", "polled too fast"));
        }
        device.polled = Some(now);
        match device.answer {
            Answer::Pending => Err(Refusal(400, "AuthorizationPendingException", "the person has not answered yet")),
            Answer::Rejected => Err(Refusal(400, "AccessDeniedException", "the person refused")),
            _ => {
                device.answer = Answer::Used;
                Ok(now + SESSION_LIFE)
            }
        }
    }

    /// Takes a refresh token, ends what it refreshes, and returns when the session ends.
    fn by_refresh(&mut self, client: &str, body: &Value) -> Result<u64, Refusal> {
        let (now, refresh) = (self.now(), text(body, "refreshToken")?);
        let is_it = |s: &Session| s.client == client && s.refresh.as_deref() == Some(refresh.as_str());
        let Some(at) = self.sessions.iter().position(is_it) else {
            return Err(Refusal(400, "InvalidGrantException", "the refresh token is not one of this client"));
        };
        let session = &mut self.sessions[at];
        if session.ends <= now {
            return Err(Refusal(400, "ExpiredTokenException", "the session ended"));
        }
        // The access token counts until its own end.
        session.refresh = None;
        Ok(session.ends)
    }

    /// Checks the bearer of a request to the portal.
    fn session(&self, request: &Message) -> Result<usize, Refusal> {
        let Some(bearer) = request.header("x-amz-sso_bearer_token").filter(|bearer| !bearer.is_empty()) else {
            return Err(Refusal(400, "InvalidRequestException", "there is no access token"));
        };
        let now = self.now();
        let found = self.sessions.iter().position(|s| s.access == bearer && s.access_expires > now);
        found.ok_or(Refusal(401, "UnauthorizedException", "Session token not found or invalid"))
    }

    fn credentials(&self, request: &Message) -> Answered {
        self.session(request)?;
        let (account, role) = (query(request, "account_id")?, query(request, "role_name")?);
        self.known(&account)?;
        let Some(keys) = self.roles.get(&(account, role)) else {
            return Err(Refusal(403, "ForbiddenException", "No access"));
        };
        Ok(json!({ "roleCredentials": {
            "accessKeyId": keys.key_id, "secretAccessKey": keys.key, "sessionToken": keys.token,
            "expiration": (self.now() + TOKEN_LIFE) * 1000,
        } }))
    }

    fn known(&self, account: &str) -> Result<(), Refusal> {
        let known = self.roles.keys().any(|(known, _)| known == account);
        if known { Ok(()) } else { Err(Refusal(404, "ResourceNotFoundException", "the account does not exist")) }
    }

    fn accounts(&self, request: &Message) -> Answered {
        self.session(request)?;
        let mut accounts: Vec<&String> = self.roles.keys().map(|(account, _)| account).collect();
        accounts.dedup();
        let entry = |id: &&String| json!({ "accountId": id, "accountName": format!("account {id}"), "emailAddress": "a@example.com" });
        paged(request, "accountList", accounts.iter().map(entry).collect())
    }

    fn account_roles(&self, request: &Message) -> Answered {
        self.session(request)?;
        let account = query(request, "account_id")?;
        self.known(&account)?;
        let own = self.roles.keys().filter(|(known, _)| *known == account);
        paged(
            request,
            "roleList",
            own.map(|(account, role)| json!({ "accountId": account, "roleName": role })).collect(),
        )
    }

    fn log_out(&mut self, request: &Message) -> Answered {
        let at = self.session(request)?;
        let ends = (self.sessions[at].client.clone(), self.sessions[at].ends);
        // With everything that was refreshed from the same sign-in.
        self.sessions.retain(|session| (session.client.clone(), session.ends) != ends);
        Ok(json!({}))
    }
}

impl Refusal {
    fn told(&self, is_oidc: bool) -> Message {
        let Self(status, error, words) = self;
        let body = if is_oidc {
            json!({ "error": oauth(error), "error_description": words })
        } else {
            json!({ "__type": error, "message": words })
        };
        let mut message = Message::json(*status, &body);
        message.headers.push(("x-amzn-errortype".to_owned(), (*error).to_owned()));
        message
    }
}

/// Returns the word of OAuth for an error of the model: `invalid_grant` for `InvalidGrantException`.
fn oauth(error: &str) -> String {
    let mut word = String::new();
    for c in error.trim_end_matches("Exception").chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

fn acted(done: bool) -> Message {
    Message::empty(if done { 204 } else { 404 })
}

fn text(body: &Value, name: &str) -> Result<String, Refusal> {
    let text = body[name].as_str().filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or(Refusal(400, "InvalidRequestException", "a parameter is missing"))
}

fn texts(body: &Value, name: &str) -> Vec<String> {
    let all = body[name].as_array().into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn query(request: &Message, name: &str) -> Result<String, Refusal> {
    let text = request.query(name).filter(|text| !text.is_empty());
    text.ok_or(Refusal(400, "InvalidRequestException", "a parameter is missing"))
}

/// Answers one page; the token of the next one is the place where it begins.
fn paged(request: &Message, name: &str, all: Vec<Value>) -> Answered {
    let most = request.query("max_result").and_then(|n| n.parse::<usize>().ok()).unwrap_or(100).clamp(1, 100);
    let from = match request.query("next_token") {
        None => 0,
        Some(token) => {
            let at = token.strip_prefix("at-").and_then(|at| at.parse().ok()).filter(|at| *at < all.len());
            at.ok_or(Refusal(400, "InvalidRequestException", "the next token is not one of ours"))?
        }
    };
    let next = (from + most < all.len()).then(|| format!("at-{}", from + most));
    let page: Vec<Value> = all.into_iter().skip(from).take(most).collect();
    Ok(json!({ name: page, "nextToken": next }))
}

/// Returns a word that no one can guess.
fn word(kind: &str) -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    if kind.is_empty() { random.replace('-', "").trim().to_owned() } else { format!("{kind}-{}", random.trim()) }
}

#[cfg(test)]
mod checks;
