//! Access tokens of Google: got from a source, passed on through impersonated service accounts, held until they expire.
//!
//! There is one flight at a time, however many calls wait for it, and a token's life is measured by the clock that no one
//! sets: Google says how long, not until when. Tokens live in memory only. Sources: RFC 6749 section 6, RFC 7523, RFC 8693,
//! AIP-4111, AIP-4115, the IAM Service Account Credentials API v1.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use broker_core::lease::LeaseId;
use broker_core::scope::Scope;
use broker_core::secret::{SecretValue, SharedValue};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::HeaderValue;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::aws::profile::read_text;
use crate::fault::Fault;
use crate::gcp::sign_in::{Hop, Plan, Source, Subject, SubjectPlace};
use crate::gcp::wire::refusal;
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest, SecretText};

/// The header that Google's audit log keeps. Source: "System parameters" of the Cloud APIs.
pub(crate) const REASON: &str = "x-goog-request-reason";
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long before its end a token is replaced.
const SLACK: Duration = Duration::from_secs(60);
/// How long a token counts that a service account signs itself, and the longest life that Google gives without a policy.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a token of an impersonated account lives where nothing is said: the shortest in Google's own examples. No
/// shortest life is documented.
pub(crate) const SHORT: Duration = Duration::from_secs(300);
/// The lives that can be asked for: not so short that a token is over before it is used, and what a policy of the
/// organisation allows at the most.
pub(crate) const LIVES: RangeInclusive<Duration> = Duration::from_secs(120)..=Duration::from_secs(12 * 3600);
/// How long the metadata server may take; elsewhere than on Google's machines nobody answers there.
const METADATA_BUDGET: Duration = Duration::from_secs(1);
/// Largest subject token that is read, in bytes.
const MAX_SUBJECT: usize = 64 << 10;

/// The tokens of one identity.
#[derive(Debug)]
pub(crate) struct Tokens {
    rest: Rest,
    plan: Plan,
    /// How long tokens of impersonated accounts live.
    life: Duration,
    held: Mutex<Option<Bearer>>,
    flight: tokio::sync::Mutex<()>,
}

/// A token that is good for a while.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    token: SharedValue,
    until: Instant,
    quota_project: Option<String>,
}

/// A token of another service account, as it is wanted.
pub(crate) struct Wish<'w> {
    pub(crate) hop: &'w Hop,
    pub(crate) scopes: &'w [String],
    pub(crate) life: Duration,
    /// What Google's audit log is told.
    pub(crate) reason: Option<HeaderValue>,
}

/// A token that was made for somebody else than us.
pub(crate) struct Generated {
    pub(crate) token: SecretValue,
    pub(crate) expires: Timestamp,
}

/// Returns what Google's audit log is told of a request for a run.
pub(crate) fn reason(lease: LeaseId, scope: Option<&Scope>) -> HeaderValue {
    let plain = format!("broker lease {lease}");
    let of = scope.filter(|scope| !scope.project.is_empty());
    let whole = of.map(|scope| format!("{plain}, {}/{}", scope.project, scope.profile));
    // A profile's name may hold what no header does.
    let header = whole.filter(|text| text.is_ascii()).and_then(|text| HeaderValue::from_str(&text).ok());
    header.or_else(|| HeaderValue::from_str(&plain).ok()).unwrap_or(HeaderValue::from_static("broker"))
}

impl Bearer {
    /// Puts the token onto a request.
    pub(crate) fn sign(&self, request: reqwest::RequestBuilder) -> Result<reqwest::RequestBuilder, Fault> {
        // Opened to be sent to Google; `bearer_auth` marks the header as sensitive.
        let token = std::str::from_utf8(self.token.expose()).map_err(|_| nonsense())?;
        let request = request.bearer_auth(token);
        Ok(match &self.quota_project {
            None => request,
            Some(project) => request.header("x-goog-user-project", project),
        })
    }
}

impl Tokens {
    pub(crate) fn new(rest: Rest, plan: Plan, life: Duration) -> Self {
        Self { rest, plan, life, held: Mutex::default(), flight: tokio::sync::Mutex::default() }
    }

    /// Returns a token that is still good, or nothing for nobody.
    pub(crate) async fn bearer(&self) -> Result<Option<Bearer>, Fault> {
        if matches!(self.plan.source, Source::Anonymous) {
            return Ok(None);
        }
        if let Some(bearer) = self.good() {
            return Ok(Some(bearer));
        }
        let _flight = self.flight.lock().await;
        // Somebody else may have landed meanwhile.
        if let Some(bearer) = self.good() {
            return Ok(Some(bearer));
        }
        let bearer = self.fetch().await?;
        *self.lock() = Some(bearer.clone());
        Ok(Some(bearer))
    }

    /// Tells whether a token was ever had: then a refusal may mean no more than that it ended early.
    pub(crate) fn had(&self) -> bool {
        self.lock().is_some()
    }

    fn good(&self) -> Option<Bearer> {
        self.lock().clone().filter(|bearer| Instant::now() + SLACK < bearer.until)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bearer>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<Bearer, Fault> {
        let mut bearer = match &self.plan.source {
            Source::Anonymous => return Err(nonsense()),
            Source::User { client_id, client_secret, refresh_token } => {
                let form = Form::new("refresh_token")
                    .text("client_id", client_id)
                    .secret("client_secret", client_secret)
                    .secret("refresh_token", refresh_token);
                let url = format!("{}/token", self.plan.places.oauth);
                self.bearer_of(self.post(&url, form).await?)?
            }
            Source::ServiceAccount { email, key_id, key } => self.own_jwt(email, key_id, key)?,
            Source::External { audience, token_type, subject, hop } => {
                let subject = self.subject(subject).await?;
                let form = Form::new("urn:ietf:params:oauth:grant-type:token-exchange")
                    .text("audience", audience)
                    .text("scope", SCOPE)
                    .text("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
                    .text("subject_token_type", token_type)
                    .secret("subject_token", &subject);
                let url = format!("{}/v1/token", self.plan.places.sts);
                let bearer = self.bearer_of(self.post(&url, form).await?)?;
                match hop {
                    None => bearer,
                    Some(hop) => self.hop(&bearer, hop).await?,
                }
            }
            Source::Metadata => self.metadata().await?,
        };
        for hop in &self.plan.hops {
            bearer = self.hop(&bearer, hop).await?;
        }
        Ok(Bearer { quota_project: self.plan.quota_project.clone(), ..bearer })
    }

    async fn post(&self, url: &str, form: Form) -> Result<Answer, Fault> {
        let request = self.rest.request(Method::POST, url);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.0.to_vec());
        let answer = self.rest.send(request).await?;
        if answer.is_success() { Ok(answer) } else { Err(oauth_refusal(&answer)) }
    }

    fn bearer_of(&self, answer: Answer) -> Result<Bearer, Fault> {
        #[derive(Deserialize)]
        struct Issued {
            access_token: SecretText,
            expires_in: u64,
        }
        let issued: Issued = answer.json()?;
        Ok(bearer(issued.access_token.0, Duration::from_secs(issued.expires_in)))
    }

    /// A JWT that the account signs itself is taken as a token; nobody has to be asked for one (AIP-4111).
    fn own_jwt(&self, email: &str, key_id: &str, key: &KeyPair) -> Result<Bearer, Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": key_id });
        let claims = json!({
            "iss": email, "sub": email, "scope": SCOPE, "iat": now, "exp": now + LIFETIME.as_secs(),
        });
        let part = |part: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let mut jwt = format!("{}.{}", part(&head), part(&claims));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), jwt.as_bytes(), &mut signature)
            .map_err(|_| Fault::new(ErrorKind::Unauthenticated, "the service account's key cannot sign"))?;
        jwt.push('.');
        jwt.push_str(&BASE64_URL_SAFE_NO_PAD.encode(signature));
        Ok(bearer(SecretValue::from(jwt), LIFETIME))
    }

    /// Acts as another service account.
    async fn hop(&self, acting: &Bearer, hop: &Hop) -> Result<Bearer, Fault> {
        let wish = Wish { hop, scopes: &[SCOPE.to_owned()], life: self.life, reason: None };
        Ok(bearer(self.generate(acting, &wish).await?.token, self.life))
    }

    /// Makes a token of another service account (`generateAccessToken`).
    pub(crate) async fn generate(&self, acting: &Bearer, wish: &Wish<'_>) -> Result<Generated, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Issued {
            access_token: SecretText,
            expire_time: Timestamp,
        }
        let name = |email: &str| format!("projects/-/serviceAccounts/{email}");
        let delegates: Vec<_> = wish.hop.delegates.iter().map(|email| name(email)).collect();
        let lifetime = format!("{}s", wish.life.as_secs());
        let body = json!({ "scope": wish.scopes, "lifetime": lifetime, "delegates": delegates });
        let url = format!("{}/v1/{}:generateAccessToken", self.plan.places.iam, name(&wish.hop.email));
        let mut request = acting.sign(self.rest.request(Method::POST, &url))?;
        if let Some(reason) = &wish.reason {
            request = request.header(REASON, reason.clone());
        }
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = self.rest.send(request).await?;
        if !answer.is_success() {
            let fault = refusal(&answer);
            return Err(Fault { cause: format!("to act as `{}`: {}", wish.hop.email, fault.cause), ..fault });
        }
        let issued: Issued = answer.json()?;
        Ok(Generated { token: issued.access_token.0, expires: issued.expire_time })
    }

    /// Cuts a token down to an access boundary (RFC 8693 with Google's `options`). What comes of it ends with the token.
    pub(crate) async fn cut_down(
        &self,
        token: &SecretValue,
        options: &serde_json::Value,
    ) -> Result<SecretValue, Fault> {
        #[derive(Deserialize)]
        struct Issued {
            access_token: SecretText,
        }
        const KIND: &str = "urn:ietf:params:oauth:token-type:access_token";
        let form = Form::new("urn:ietf:params:oauth:grant-type:token-exchange")
            .text("requested_token_type", KIND)
            .text("subject_token_type", KIND)
            .text("options", &options.to_string())
            .secret("subject_token", token);
        let answer = self.post(&format!("{}/v1/token", self.plan.places.sts), form).await?;
        Ok(answer.json::<Issued>()?.access_token.0)
    }

    async fn metadata(&self) -> Result<Bearer, Fault> {
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/token?scopes={}",
            self.plan.places.metadata,
            utf8_percent_encode(SCOPE, NON_ALPHANUMERIC)
        );
        let request = self.rest.request(Method::GET, &url).header("metadata-flavor", "Google");
        let nobody = || Fault::new(ErrorKind::Unauthenticated, "no credentials were found");
        let Ok(Ok(answer)) = timeout(METADATA_BUDGET, self.rest.send(request)).await else { return Err(nobody()) };
        // Whoever answers there without the header is not the metadata server.
        if answer.headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return Err(nobody());
        }
        match answer.status {
            200..=299 => self.bearer_of(answer),
            404 => Err(nobody()),
            _ => Err(answer.fault()),
        }
    }

    /// Reads the token of another house, anew each time: it is rotated in place.
    async fn subject(&self, subject: &Subject) -> Result<SecretValue, Fault> {
        let text = match &subject.place {
            SubjectPlace::File(path) => {
                let own = path.clone();
                let read = tokio::task::spawn_blocking(move || read_text(&own)).await.map_err(|_| nonsense())?;
                let cause = |error| format!("`{}`: {error}", path.display());
                let text = read.map_err(|error| Fault::new(ErrorKind::Unauthenticated, cause(error)))?;
                Zeroizing::new(text.into_bytes())
            }
            SubjectPlace::Url { url, headers } => {
                let mut request = self.rest.request(Method::GET, url);
                for (name, value) in headers {
                    // Opened to be sent where the file says that its token is.
                    let value = HeaderValue::from_bytes(value.0.expose());
                    let mut value = value.map_err(|_| nonsense())?;
                    value.set_sensitive(true);
                    request = request.header(name, value);
                }
                let answer = self.rest.send(request).await?;
                if !answer.is_success() {
                    let fault = answer.fault();
                    return Err(Fault { cause: format!("`{url}`: {}", fault.cause), ..fault });
                }
                answer.body
            }
        };
        let missing = || Fault::new(ErrorKind::Unauthenticated, "there is no token where the credentials file says");
        let token = match &subject.field {
            None => SecretValue::new(text.trim_ascii().to_vec()),
            Some(field) => {
                let mut members: std::collections::HashMap<String, SecretOrOther> =
                    serde_json::from_slice(&text).map_err(|_| missing())?;
                match members.remove(field) {
                    Some(SecretOrOther::Secret(token)) => token.0,
                    _ => return Err(missing()),
                }
            }
        };
        if token.is_empty() || token.len() > MAX_SUBJECT { Err(missing()) } else { Ok(token) }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SecretOrOther {
    Secret(SecretText),
    Other(serde::de::IgnoredAny),
}

fn bearer(token: SecretValue, lifetime: Duration) -> Bearer {
    Bearer { token: SharedValue::new(token), until: Instant::now() + lifetime.min(LIFETIME * 12), quota_project: None }
}

/// A body in `application/x-www-form-urlencoded`, wiped when it is dropped.
struct Form(Zeroizing<Vec<u8>>);

impl Form {
    fn new(grant_type: &str) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(4096))).text("grant_type", grant_type)
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, value.as_bytes())
    }

    fn secret(self, name: &str, value: &SecretValue) -> Self {
        // Opened to be sent to Google's token endpoint.
        self.bytes(name, value.expose())
    }

    fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        for byte in value {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => self.0.push(*byte),
                _ => self.0.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        self
    }
}

/// Returns what a refusal of a token endpoint means (RFC 6749 section 5.2).
fn oauth_refusal(answer: &Answer) -> Fault {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        #[serde(default)]
        error_description: String,
    }
    match answer.json::<Refusal>() {
        Ok(refusal) if (400..=403).contains(&answer.status) => {
            Fault::coded(ErrorKind::Unauthenticated, &refusal.error, &refusal.error_description)
        }
        _ => answer.fault(),
    }
}

fn nonsense() -> Fault {
    Fault::new(ErrorKind::Malformed, "a token that makes no sense")
}
