//! How an instance of Vault or OpenBao signs in, and the token that comes of it.
//!
//! A token of `broker login` is bound to the address it was obtained from. What lies around for anybody to use (`VAULT_TOKEN`,
//! `~/.vault-token`, a secret id, a signed token, a service account) is sent only to an address that user or machine
//! configuration fixes: a manifest could name its author's. Tokens are renewed in silence and revoked at logout. A wrapped
//! token is opened only when it was wrapped where it should have been: another path means that somebody opened it before.

pub(crate) mod method;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::secret::{SecretValue, SharedValue};
use broker_core::sign_in::SignIn;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::login::{Begun, DeviceCode, Login, Poll, Question, Session, SessionKey};
use crate::provider::ErrorKind;
use crate::rest::{Answer, SecretText};
use crate::sign_ins::SignIns;
use crate::vault::oidc::{self, Waiting};
pub(crate) use crate::vault::sign_in::method::Method;
use crate::vault::wire::{Call, Wire, json_with};
use crate::words::safe;

/// The variables that a sign-in reads.
pub(crate) const SIGN_IN_ENV: &[&str] =
    &["VAULT_TOKEN", "BAO_TOKEN", "VAULT_NAMESPACE", "BAO_NAMESPACE", "VAULT_SECRET_ID", "VAULT_JWT"];

/// The variables that are or lead to a credential.
pub(crate) const BOOTSTRAP_ENV: &[&str] =
    &["BAO_CLIENT_KEY", "BAO_TOKEN", "VAULT_CLIENT_KEY", "VAULT_JWT", "VAULT_SECRET_ID", "VAULT_TOKEN"];

/// The code of our own for an address that answers like no Vault, or like one without the method.
const WRONG_SERVER: &str = "wrong server";

/// The code of our own for a token that was found and refused.
pub(crate) const STALE: &str = "stale";

/// How long what lies around is not tried again after it was refused.
const REFUSED: Duration = Duration::from_secs(2);

/// Where Kubernetes puts the token of a service account.
pub(crate) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What one instance signs in with.
pub(crate) struct VaultSignIn {
    pub(crate) instance: String,
    pub(crate) wire: Wire,
    pub(crate) method: Method,
    /// Where the method is mounted, below `auth/`.
    pub(crate) mount: String,
    pub(crate) role: Option<String>,
    /// Whether user or machine configuration fixes where credentials are sent.
    pub(crate) fixed: bool,
    pub(crate) sign_in: SignIn,
    /// Where `vault login` leaves its token.
    pub(crate) token_file: Option<PathBuf>,
    /// Where Kubernetes leaves the token of a service account.
    pub(crate) service_account: PathBuf,
    pub(crate) sign_ins: Arc<SignIns>,
    pub(crate) own: Own,
    /// A sign-in under way in a browser.
    pub(crate) waiting: Mutex<Option<Waiting>>,
}

/// The session that an instance got by itself, for the identity that it was opened for.
#[derive(Default)]
pub(crate) struct Own {
    held: Mutex<Option<(Arc<Session>, SystemTime)>>,
    /// The refusal of what lies around, and since when.
    refusal: Mutex<Option<(Fault, Instant)>>,
    turn: tokio::sync::Mutex<()>,
}

/// A token in use, and where it is from.
#[derive(Clone)]
pub(crate) enum Held {
    /// Found, and where: it is what it is.
    Found(SharedValue, &'static str),
    /// Of a sign-in that needed nobody.
    Own(Arc<Session>),
    /// Of `broker login`.
    Shared(Arc<Session>),
}

impl Held {
    pub(crate) fn token(&self) -> &SecretValue {
        match self {
            Self::Found(token, _) => token,
            Self::Own(session) | Self::Shared(session) => &session.credential,
        }
    }
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct AuthAnswer {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct DataAnswer<T> {
    data: T,
}

impl VaultSignIn {
    /// Returns a token to go on with.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] where there is none, and the server's.
    pub(crate) async fn held(&self, deadline: Instant) -> Result<Held, Fault> {
        let is_token = self.fixed && self.method == Method::Token;
        // Who signed in on purpose means it: a variable that was forgotten does not go before that.
        if let Some(session) = self.sign_ins.session(self, deadline).await? {
            return Ok(Held::Shared(session));
        }
        for name in ["VAULT_TOKEN", "BAO_TOKEN"].into_iter().filter(|_| is_token) {
            if let Some(token) = self.sign_in.text(name) {
                return Ok(Held::Found(Arc::new(SecretValue::new(token.trim().as_bytes().to_vec())), name));
            }
        }
        if is_token && let Some(token) = self.token_of_file().await {
            return Ok(Held::Found(Arc::new(token), "~/.vault-token"));
        }
        if self.signs_in_alone() {
            return self.own_session(None, deadline).await.map(Held::Own);
        }
        Err(Fault::new(ErrorKind::Unauthenticated, "nobody is signed in"))
    }

    /// Says that the server no longer takes a token. Returns the one to go on with, if there is one.
    ///
    /// # Errors
    /// Like [`VaultSignIn::held`].
    pub(crate) async fn refused(&self, held: &Held, deadline: Instant) -> Result<Option<Held>, Fault> {
        match held {
            Held::Found(_, place) => {
                let cause = format!("the token in `{place}` was refused");
                Err(Fault { code: Some(STALE.to_owned()), ..Fault::new(ErrorKind::Unauthenticated, cause) })
            }
            Held::Shared(session) => Ok(self.sign_ins.refused(self, session, deadline).await?.map(Held::Shared)),
            Held::Own(session) => self.own_session(Some(session), deadline).await.map(|own| Some(Held::Own(own))),
        }
    }

    /// Forgets what it signed in with by itself.
    pub(crate) fn forget(&self) {
        *self.own.lock() = None;
        *self.own.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says how a person gets it to work.
    pub(crate) fn hint(&self) -> String {
        let instance = &self.instance;
        match self.method {
            Method::Token if self.fixed => format!("sign in with `broker login {instance}`, or set `VAULT_TOKEN`"),
            Method::AppRole if self.fixed => {
                format!(
                    "set `VAULT_SECRET_ID`, or sign in with `broker login {instance}`; does the secret id still count?"
                )
            }
            Method::Jwt if self.fixed => format!("set `VAULT_JWT`, or sign in with `broker login {instance}`"),
            Method::Kubernetes => {
                format!(
                    "this needs a service account token at `{SERVICE_ACCOUNT}` and `{instance}` in user or machine configuration"
                )
            }
            _ if self.fixed => format!("sign in with `broker login {instance}`"),
            _ => format!(
                "sign in with `broker login {instance}`; credentials that lie around count only for an instance of user or \
                 machine configuration"
            ),
        }
    }

    async fn token_of_file(&self) -> Option<SecretValue> {
        let path = self.token_file.clone()?;
        // Reading a file blocks, if only for a moment.
        let text = tokio::task::spawn_blocking(move || crate::aws::profile::read_text(&path)).await.ok()?.ok()?;
        let token = text.trim();
        (!token.is_empty()).then(|| SecretValue::new(token.as_bytes().to_vec()))
    }

    /// Tells whether it can sign in without a person, with what lies around.
    fn signs_in_alone(&self) -> bool {
        self.fixed
            && match self.method {
                Method::AppRole => self.role.is_some() && self.sign_in.text("VAULT_SECRET_ID").is_some(),
                Method::Jwt => self.sign_in.text("VAULT_JWT").is_some(),
                Method::Kubernetes => true,
                _ => false,
            }
    }

    /// Returns the session that needs nobody: as it is while it is young, renewed, or made. `spoilt` is good no longer.
    async fn own_session(&self, spoilt: Option<&Arc<Session>>, deadline: Instant) -> Result<Arc<Session>, Fault> {
        if let Some(session) = self.own.young(spoilt) {
            return Ok(session);
        }
        let _turn = timeout_at(deadline, self.own.turn.lock()).await.map_err(|_| Fault::late())?;
        if let Some(session) = self.own.young(spoilt) {
            return Ok(session);
        }
        // One command asks more than once, and a wrong secret id tried twice may be the one that locks somebody out.
        if let Some(fault) = self.own.just_refused() {
            return Err(fault);
        }
        let old = self.own.lock().as_ref().map(|(session, _)| Arc::clone(session));
        let old = old.filter(|old| old.renewable && spoilt.is_none_or(|spoilt| !Arc::ptr_eq(old, spoilt)));
        let renewed = match old {
            Some(old) => self.renew(&old, deadline).await.ok(),
            None => None,
        };
        let session = match renewed {
            Some(session) => session,
            None => {
                let done = timeout_at(deadline, self.alone(deadline)).await.unwrap_or_else(|_| Err(Fault::late()));
                done.inspect_err(|fault| self.own.was_refused(fault))?
            }
        };
        let session = Arc::new(session);
        *self.own.lock() = Some((Arc::clone(&session), SystemTime::now()));
        Ok(session)
    }

    async fn alone(&self, deadline: Instant) -> Result<Session, Fault> {
        let given = |name| self.sign_in.text(name).map(|text| SecretValue::new(text.trim().as_bytes().to_vec()));
        let missing = || Fault::new(ErrorKind::Unauthenticated, "nobody is signed in");
        match self.method {
            Method::AppRole => {
                let role = self.role.as_deref().ok_or_else(missing)?;
                self.with_secret_id(role, given("VAULT_SECRET_ID").ok_or_else(missing)?, deadline).await
            }
            Method::Jwt => self.with_jwt(given("VAULT_JWT").ok_or_else(missing)?, deadline).await,
            Method::Kubernetes => {
                let path = self.service_account.clone();
                let read = move || crate::aws::profile::read_text(&path);
                let text = tokio::task::spawn_blocking(read).await.ok().and_then(Result::ok);
                let text = text.ok_or_else(|| {
                    Fault::new(
                        ErrorKind::Unauthenticated,
                        format!("there is no service account at `{}`", self.service_account.display()),
                    )
                })?;
                self.with_jwt(SecretValue::new(text.trim().as_bytes().to_vec()), deadline).await
            }
            _ => Err(missing()),
        }
    }

    async fn with_secret_id(&self, role: &str, id: SecretValue, deadline: Instant) -> Result<Session, Fault> {
        let wrapped_at = |path: &str| {
            let below = path.strip_prefix(&format!("auth/{}/role/", self.mount));
            below
                .and_then(|below| below.split_once('/'))
                .is_some_and(|(_, end)| end == "secret-id" || end == "custom-secret-id")
        };
        let id = match self.unwrapped(&id, wrapped_at, deadline).await? {
            Some(answer) => {
                #[derive(Deserialize)]
                struct Made {
                    secret_id: SecretText,
                }
                answer.json::<DataAnswer<Made>>()?.data.secret_id.0
            }
            None => id,
        };
        let body = json_with("secret_id", &id, &[("role_id", role)])?;
        // Once: a secret id may be good for one sign-in only.
        let path = format!("auth/{}/login", self.mount);
        let answer =
            self.wire.once(None, &Call::write(&path, &body)).await.map_err(|fault| self.refused_sign_in(fault))?;
        self.session_of(&answer, "approle")
    }

    async fn with_jwt(&self, token: SecretValue, deadline: Instant) -> Result<Session, Fault> {
        let role: Vec<_> = self.role.as_deref().map(|role| ("role", role)).into_iter().collect();
        let body = json_with("jwt", &token, &role)?;
        let path = format!("auth/{}/login", self.mount);
        let answer = self
            .wire
            .ask(None, &Call::write(&path, &body), deadline)
            .await
            .map_err(|fault| self.refused_sign_in(fault))?;
        self.session_of(&answer, self.method.name())
    }

    async fn with_password(&self, user: &str, password: SecretValue, deadline: Instant) -> Result<Session, Fault> {
        if !crate::vault::wire::is_sendable(user) || user.contains('/') {
            return Err(Fault::new(ErrorKind::Unauthenticated, "that is no user name"));
        }
        let body = json_with("password", &password, &[])?;
        let path = format!("auth/{}/login/{user}", self.mount);
        let answer = self
            .wire
            .ask(None, &Call::write(&path, &body), deadline)
            .await
            .map_err(|fault| self.refused_sign_in(fault))?;
        self.session_of(&answer, "userpass")
    }

    async fn with_token(&self, token: SecretValue, deadline: Instant) -> Result<Session, Fault> {
        let wrapped_at = |path: &str| {
            path.starts_with("auth/token/create") || (path.starts_with("auth/") && path.contains("/login"))
        };
        if let Some(answer) = self.unwrapped(&token, wrapped_at, deadline).await? {
            return self.session_of(&answer, "token");
        }
        #[derive(Deserialize)]
        struct About {
            #[serde(default)]
            display_name: String,
            #[serde(default)]
            ttl: u64,
            #[serde(default)]
            renewable: bool,
        }
        let answer = self.wire.ask(Some(&token), &Call::read("auth/token/lookup-self"), deadline).await;
        let answer = answer.map_err(|fault| self.refused_sign_in(fault))?;
        let about = answer.json::<DataAnswer<About>>()?.data;
        Ok(Session {
            credential: Arc::new(token),
            expires: end_of(about.ttl),
            renewable: about.renewable,
            who: self.named(&about.display_name),
        })
    }

    /// Opens a wrapped answer, if `token` wraps one. Once: afterwards the token is good for nothing.
    async fn unwrapped(
        &self,
        token: &SecretValue,
        wrapped_at: impl Fn(&str) -> bool,
        deadline: Instant,
    ) -> Result<Option<Answer>, Fault> {
        // Opened to be told from other words: only what looks like a token can wrap something.
        let looks_like_a_token =
            [b"hvs.".as_slice(), b"s.", b"b."].iter().any(|start| token.expose().starts_with(start));
        if !looks_like_a_token {
            return Ok(None);
        }
        #[derive(Deserialize)]
        struct Wrapping {
            creation_path: String,
        }
        let body = json_with("token", token, &[])?;
        let found = match self.wire.ask(None, &Call::write("sys/wrapping/lookup", &body), deadline).await {
            Ok(answer) => answer.json::<DataAnswer<Wrapping>>()?.data.creation_path,
            // Not a wrapping token, or one that was opened: whoever takes it next says so.
            Err(fault)
                if matches!(fault.kind, ErrorKind::Unsupported | ErrorKind::Unauthenticated | ErrorKind::Denied) =>
            {
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        };
        if !wrapped_at(&found) {
            let cause = format!(
                "it was wrapped at `{}`, not where it should have been: somebody may have opened it",
                safe(&found)
            );
            return Err(Fault::new(ErrorKind::Unauthenticated, cause));
        }
        self.wire.once(Some(token), &Call::write("sys/wrapping/unwrap", &json!({}))).await.map(Some)
    }

    /// Reads the session that a sign-in yields.
    fn session_of(&self, answer: &Answer, method: &str) -> Result<Session, Fault> {
        let auth = answer.json::<AuthAnswer>()?.auth;
        let auth = auth.ok_or_else(|| Fault::new(ErrorKind::Malformed, "a sign-in without a token"))?;
        if auth.client_token.0.is_empty() {
            let cause = "the server asks for a second factor, which is not supported";
            return Err(Fault::new(ErrorKind::Unsupported, cause));
        }
        let metadata = auth.metadata.unwrap_or_default();
        let names = ["username", "role_name", "service_account_name", "role"];
        let who = names.into_iter().find_map(|name| metadata.get(name)?.as_str());
        Ok(Session {
            credential: Arc::new(auth.client_token.0),
            expires: end_of(auth.lease_duration),
            renewable: auth.renewable,
            who: self.named(&format!("{method} {}", who.unwrap_or_default())),
        })
    }

    /// A refusal while signing in is about the sign-in, whatever its status. Where nothing is to be found it may be another
    /// server than the person thinks.
    fn refused_sign_in(&self, fault: Fault) -> Fault {
        let is_strange = matches!(fault.kind, ErrorKind::NotFound | ErrorKind::Malformed)
            || (fault.kind == ErrorKind::Unsupported && fault.cause.contains("no handler for route"));
        if is_strange {
            let said = if fault.cause.is_empty() { "HTTP 404" } else { &fault.cause };
            let cause = format!("`{}` does not sign in at `auth/{}/`: {said}", self.wire.address(), self.mount);
            return Fault { code: Some(WRONG_SERVER.to_owned()), ..Fault::new(ErrorKind::Unsupported, cause) };
        }
        match fault.kind {
            ErrorKind::Unsupported | ErrorKind::Denied => Fault { kind: ErrorKind::Unauthenticated, ..fault },
            _ => fault,
        }
    }

    /// Says who somebody is and where, which a person sees whenever they signed in.
    fn named(&self, who: &str) -> String {
        safe(&format!("{} at {}", who.trim(), self.wire.address()))
    }

    fn question(&self, label: String, hidden: bool) -> Question {
        Question { label: format!("{label} for {}", self.wire.address()), hidden }
    }
}

#[async_trait]
impl Login for VaultSignIn {
    fn session(&self) -> SessionKey {
        let mut parts = vec![("auth", self.method.name()), ("mount", self.mount.as_str())];
        // What one authority's server handed out is not shown to another one's at the same address.
        let more = [("role", self.role.as_deref()), ("namespace", self.wire.namespace()), ("ca", self.wire.trust())];
        parts.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let detail = SessionKey::detail_of(&parts);
        SessionKey { kind: "vault", origin: self.wire.address().to_owned(), detail }
    }

    fn hint(&self, fault: &Fault) -> Option<String> {
        if fault.is(WRONG_SERVER) {
            let hint = "is that a Vault? Else check `address`, and with `auth-mount` where the method is mounted";
            return Some(hint.to_owned());
        }
        (fault.cause == oidc::NOT_FIXED).then(|| {
            let instance = &self.instance;
            format!("if you know it, put `[providers.{instance}]` with its `address` into your `config.toml`")
        })
    }

    async fn begin(&self, deadline: Instant) -> Result<Begun, Fault> {
        if self.signs_in_alone() {
            return self.alone(deadline).await.map(Begun::Done);
        }
        let ask = |label: &str, hidden| self.question(label.to_owned(), hidden);
        Ok(match (self.method, self.role.as_deref()) {
            (Method::Token, _) => Begun::Ask(vec![ask("token", true)]),
            (Method::AppRole, Some(role)) => {
                Begun::Ask(vec![self.question(format!("secret id of role `{role}`"), true)])
            }
            (Method::AppRole, None) => Begun::Ask(vec![ask("role id", false), ask("secret id", true)]),
            (Method::Userpass, Some(user)) => Begun::Ask(vec![self.question(format!("password of `{user}`"), true)]),
            (Method::Userpass, None) => Begun::Ask(vec![ask("user name", false), ask("password", true)]),
            (Method::Jwt, _) => Begun::Ask(vec![ask("signed token (JWT)", true)]),
            (Method::Kubernetes, _) => return Err(Fault::new(ErrorKind::Unauthenticated, self.hint())),
            (Method::Oidc, role) => {
                let begun = oidc::begin(&self.wire, &self.mount, role, self.fixed, deadline).await;
                let (code, waiting) =
                    begun.map_err(
                        |fault| if fault.cause == oidc::NOT_FIXED { fault } else { self.refused_sign_in(fault) },
                    )?;
                *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiting);
                Begun::Device(code)
            }
        })
    }

    async fn poll(&self, _: &DeviceCode, deadline: Instant) -> Result<Poll, Fault> {
        let asked = {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.as_ref().map(|waiting| waiting.question(&self.mount))
        };
        let gone = || Fault::new(ErrorKind::Unauthenticated, "nobody is signing in");
        let Some(asked) = asked.ok_or_else(gone)?? else { return Ok(Poll::Pending) };
        match self.wire.once_within(&asked, deadline).await {
            Ok(answer) => self.session_of(&answer, "oidc").map(Poll::Done),
            Err(fault) if fault.cause.ends_with("authorization_pending") => Ok(Poll::Pending),
            Err(fault) if fault.cause.ends_with("slow_down") => Ok(Poll::SlowDown),
            Err(fault) => Err(self.refused_sign_in(fault)),
        }
    }

    async fn answer(&self, answers: Vec<SecretValue>, deadline: Instant) -> Result<Session, Fault> {
        let few = || Fault::new(ErrorKind::Unauthenticated, "an answer is missing");
        let mut answers = answers.into_iter();
        // A role or a user name is the first answer where configuration does not say it.
        let named = match (self.method, self.role.clone()) {
            (Method::AppRole | Method::Userpass, None) => {
                let name = answers.next().ok_or_else(few)?;
                // Opened: a name is no secret.
                String::from_utf8_lossy(name.expose()).trim().to_owned()
            }
            (_, role) => role.unwrap_or_default(),
        };
        let secret = answers.next().ok_or_else(few)?;
        match self.method {
            Method::Token => self.with_token(secret, deadline).await,
            Method::AppRole => self.with_secret_id(&named, secret, deadline).await,
            Method::Userpass => self.with_password(&named, secret, deadline).await,
            Method::Jwt => self.with_jwt(secret, deadline).await,
            Method::Oidc | Method::Kubernetes => Err(few()),
        }
    }

    async fn renew(&self, session: &Session, deadline: Instant) -> Result<Session, Fault> {
        let call = Call::write("auth/token/renew-self", &json!({}));
        let answer = self
            .wire
            .ask(Some(&session.credential), &call, deadline)
            .await
            .map_err(|fault| self.refused_sign_in(fault))?;
        let auth = answer.json::<AuthAnswer>()?.auth;
        let auth = auth.ok_or_else(|| Fault::new(ErrorKind::Malformed, "a renewal without a token"))?;
        Ok(Session { expires: end_of(auth.lease_duration), renewable: auth.renewable, ..session.clone() })
    }

    async fn end(&self, session: &Session, deadline: Instant) -> Result<(), Fault> {
        let call = Call::write("auth/token/revoke-self", &json!({}));
        match self.wire.ask(Some(&session.credential), &call, deadline).await {
            // It had ended already.
            Err(fault) if fault.kind == ErrorKind::Unauthenticated => Ok(()),
            done => done.map(|_| ()),
        }
    }
}

impl Own {
    fn young(&self, spoilt: Option<&Arc<Session>>) -> Option<Arc<Session>> {
        let held = self.lock();
        let (session, since) = held.as_ref()?;
        if spoilt.is_some_and(|spoilt| Arc::ptr_eq(session, spoilt)) {
            return None;
        }
        let Some(expires) = session.expires else { return Some(Arc::clone(session)) };
        let left = expires.duration_since(SystemTime::now()).ok()?;
        let life = expires.duration_since(*since).unwrap_or_default();
        let is_young = if session.renewable { left >= life / 3 } else { !left.is_zero() };
        is_young.then(|| Arc::clone(session))
    }

    /// Returns the refusal of a moment ago.
    fn just_refused(&self) -> Option<Fault> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, since) = refusal.as_ref()?;
        (since.elapsed() < REFUSED).then(|| fault.clone())
    }

    fn was_refused(&self, fault: &Fault) {
        if fault.kind == ErrorKind::Unauthenticated {
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault.clone(), Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Session>, SystemTime)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when something ends that lives so many seconds; 0 is never.
fn end_of(seconds: u64) -> Option<SystemTime> {
    (seconds > 0).then(|| SystemTime::now().checked_add(Duration::from_secs(seconds))).flatten()
}

impl fmt::Debug for VaultSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultSignIn").field("wire", &self.wire).field("method", &self.method).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
