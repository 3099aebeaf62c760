//! A person's sign-in to Azure: a code to confirm in a browser, then tokens that renew themselves.
//!
//! The session is the refresh token with the access token it last yielded. It is bound to the cloud that its tokens are
//! good for, or to the one address that configuration fixes. Source: "OAuth 2.0 device authorization grant flow".

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker_core::secret::{SecretValue, SharedValue};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::azure::place::Place;
use crate::azure::token::{Form, TokenAnswer, post};
use crate::fault::Fault;
use crate::login::{Begun, DeviceCode, Login, Poll, Session, SessionKey};
use crate::provider::ErrorKind;
use crate::rest::{Rest, SecretText};
use crate::words::safe;

/// The kind in session keys.
const KIND: &str = "azure-key-vault";
/// The application of the Azure CLI, which every tenant knows; `client-id` names an organisation's own.
const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
/// The tenant of whoever signs in.
const ANY_TENANT: &str = "organizations";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// One instance's way for a person to sign in.
#[derive(Clone, Debug)]
pub(crate) struct AzureLogin {
    rest: Rest,
    authority: String,
    scope: String,
    bound_to: String,
    tenant: String,
    client_id: String,
}

#[derive(Deserialize)]
struct CodeAnswer {
    user_code: String,
    device_code: SecretText,
    verification_uri: String,
    expires_in: u64,
    #[serde(default)]
    interval: Option<u64>,
}

/// What a session keeps, each in a buffer of its own.
#[derive(Deserialize)]
struct Kept {
    access: SecretText,
    #[serde(default)]
    refresh: Option<SecretText>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    preferred_username: Option<String>,
}

impl AzureLogin {
    pub(crate) fn new(place: &Place, rest: Rest, tenant: Option<&str>, client_id: Option<&str>) -> Self {
        Self {
            rest,
            authority: place.authority.clone(),
            // The refresh token and the person's name come with these.
            scope: format!("{} offline_access openid profile", place.scope()),
            bound_to: place.bound_to.clone(),
            tenant: tenant.unwrap_or(ANY_TENANT).to_owned(),
            client_id: client_id.unwrap_or(AZURE_CLI).to_owned(),
        }
    }

    fn url(&self, end: &str) -> String {
        format!("{}/{}/oauth2/v2.0/{end}", self.authority, self.tenant)
    }

    fn session_of(&self, answer: TokenAnswer, before: Option<(SecretText, String)>) -> Session {
        let life = Duration::from_secs(answer.life());
        let name = answer.id_token.as_ref().and_then(|token| name_in(&token.0));
        let (refresh, who) = match (answer.refresh_token, before) {
            (Some(fresh), Some((_, who))) => (Some(fresh), Some(who)),
            (Some(fresh), None) => (Some(fresh), None),
            (None, Some((old, who))) => (Some(old), Some(who)),
            (None, None) => (None, None),
        };
        Session {
            renewable: refresh.is_some(),
            credential: Arc::new(kept(&answer.access_token.0, refresh.as_ref().map(|token| &token.0))),
            expires: SystemTime::now().checked_add(life),
            who: name.or(who).unwrap_or_else(|| "somebody".to_owned()),
        }
    }
}

/// Returns the access token of a session.
pub(crate) fn access_token(session: &Session) -> Option<SharedValue> {
    Some(Arc::new(read_kept(session)?.access.0))
}

fn read_kept(session: &Session) -> Option<Kept> {
    // Opened to take the tokens out.
    serde_json::from_slice(session.credential.expose()).ok()
}

/// Writes the credential of a session. Tokens are ASCII without quotes (RFC 6749 appendix A.12); one that is not is left
/// out, and then nobody is signed in.
fn kept(access: &SecretValue, refresh: Option<&SecretValue>) -> SecretValue {
    let plain = |token: &&SecretValue| token.expose().iter().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(b));
    let size = access.len() + refresh.map_or(0, SecretValue::len) + 64;
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    let mut add = |name: &str, token: &SecretValue, first: bool| {
        text.extend_from_slice(if first { b"{\"" } else { b",\"" });
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":\"");
        // Opened to be kept with the session.
        text.extend_from_slice(token.expose());
        text.push(b'"');
    };
    if let Some(access) = Some(access).filter(plain) {
        add("access", access, true);
        if let Some(refresh) = refresh.filter(plain) {
            add("refresh", refresh, false);
        }
        text.push(b'}');
    }
    SecretValue::new(std::mem::take(&mut *text))
}

/// Returns the name in an OpenID token, whose signature is nothing to us: it came from the authority itself, and is shown
/// and not trusted.
fn name_in(token: &SecretValue) -> Option<String> {
    // Opened for the name in it.
    let body = token.expose().split(|b| *b == b'.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&Zeroizing::new(URL_SAFE_NO_PAD.decode(body).ok()?)).ok()?;
    claims.preferred_username.map(|name| safe(&name)).filter(|name| !name.is_empty())
}

#[async_trait]
impl Login for AzureLogin {
    fn session(&self) -> SessionKey {
        let Self { tenant, client_id, authority, .. } = self;
        let detail = SessionKey::detail_of(&[("tenant", tenant), ("application", client_id), ("authority", authority)]);
        SessionKey { kind: KIND, origin: self.bound_to.clone(), detail }
    }

    async fn begin(&self, deadline: Instant) -> Result<Begun, Fault> {
        let form = Form::new().with("client_id", &self.client_id).with("scope", &self.scope);
        let answer: CodeAnswer = post(&self.rest, &self.url("devicecode"), &form, deadline).await?;
        let address = safe(&answer.verification_uri);
        if !address.starts_with("https://") {
            return Err(Fault::new(ErrorKind::Malformed, "the address to visit is no `https://` address"));
        }
        Ok(Begun::Device(DeviceCode {
            user_code: Some(safe(&answer.user_code)),
            address,
            address_complete: None,
            interval: Duration::from_secs(answer.interval.unwrap_or(5)),
            expires_in: Duration::from_secs(answer.expires_in),
            secret: answer.device_code.0,
        }))
    }

    async fn poll(&self, code: &DeviceCode, deadline: Instant) -> Result<Poll, Fault> {
        let form = Form::new().with("grant_type", DEVICE_GRANT).with("client_id", &self.client_id);
        let form = form.with_secret("device_code", &code.secret);
        match post(&self.rest, &self.url("token"), &form, deadline).await {
            Ok(answer) => Ok(Poll::Done(self.session_of(answer, None))),
            Err(fault) => match fault.code.as_deref() {
                Some("authorization_pending") => Ok(Poll::Pending),
                Some("slow_down") => Ok(Poll::SlowDown),
                Some("authorization_declined") => {
                    Err(Fault::new(ErrorKind::Unauthenticated, "the sign-in was declined in the browser"))
                }
                Some("expired_token") => {
                    Err(Fault::new(ErrorKind::Unauthenticated, "the code expired before it was confirmed"))
                }
                _ => Err(fault),
            },
        }
    }

    async fn answer(&self, _: Vec<SecretValue>, _: Instant) -> Result<Session, Fault> {
        Err(Fault::new(ErrorKind::Unsupported, "Azure asks nothing here"))
    }

    async fn renew(&self, session: &Session, deadline: Instant) -> Result<Session, Fault> {
        let none = || Fault::new(ErrorKind::Unauthenticated, "it cannot be renewed");
        let refresh = read_kept(session).and_then(|kept| kept.refresh).ok_or_else(none)?;
        let form = Form::new().with("grant_type", "refresh_token").with("client_id", &self.client_id);
        let form = form.with("scope", &self.scope).with_secret("refresh_token", &refresh.0);
        let answer = post(&self.rest, &self.url("token"), &form, deadline).await?;
        Ok(self.session_of(answer, Some((refresh, session.who.clone()))))
    }

    /// Does nothing there: Entra ends single sessions of an application nowhere. What we hold is forgotten.
    async fn end(&self, _: &Session, _: Instant) -> Result<(), Fault> {
        Ok(())
    }
}
