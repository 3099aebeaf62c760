//! How a person signs in to AWS: a device code of IAM Identity Center, and keys for one role from then on.
//!
//! The portal is the one of the instance's `session`, else of its profile. The sign-in is for the portal and not for the
//! instance: every instance that names the same one shares it. What is kept is the access token, the refresh token and
//! our registration, which refreshing needs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use broker_core::secret::SecretValue;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::aws::sign_in::SignInPlan;
use crate::aws::sso::{AwsSso, Grant, Tokens};
use crate::aws::sso_cache as cache;
use crate::fault::Fault;
use crate::login::{Begun, DeviceCode, Login, Poll, Session, SessionKey};
use crate::provider::{ErrorKind, ProviderError, Retry};
use crate::registry::Opening;
use crate::rest::SecretText;
use crate::sign_ins::SignIns;

/// How long getting keys may take when nobody says so.
const BUDGET: Duration = Duration::from_secs(30);

/// The way to sign in to one portal.
#[derive(Clone, Debug)]
pub(crate) struct AwsLogin {
    pub(crate) sso: AwsSso,
}

/// Opens the way to sign in, if the instance or its profile names a portal.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError> {
    let login = SignInPlan::new(opening).login().map_err(|error| ProviderError {
        kind: ErrorKind::Unauthenticated,
        instance: opening.instance.to_owned(),
        reference: None,
        cause: error.to_string(),
        hint: Some("check the `sso-session` in `~/.aws/config`".to_owned()),
        retry: Retry::Never,
    })?;
    Ok(login.map(|login| Arc::new(login) as _))
}

/// What a session consists of, as it is kept.
#[derive(Serialize, Deserialize)]
struct Credential<'a> {
    access: &'a str,
    refresh: Option<&'a str>,
    client: Registration<'a>,
}

/// Our registration at the portal.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Registration<'a> {
    id: &'a str,
    secret: &'a str,
    /// In seconds since 1970.
    expires: u64,
}

/// What proves to the portal that we began: the registration and the device code.
#[derive(Serialize, Deserialize)]
struct Pending<'a> {
    code: &'a str,
    client: Registration<'a>,
}

impl Registration<'_> {
    /// Tells whether the portal still takes it. A time past what the clock can tell is far away.
    fn is_good_at(&self, now: SystemTime) -> bool {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.expires)).is_none_or(|end| end > now)
    }
}

impl AwsLogin {
    fn session_of(&self, tokens: &Tokens, client: Registration<'_>) -> Result<Session, Fault> {
        let refresh = tokens.refresh_token.as_ref().map(text).transpose()?;
        let credential = Credential { access: text(&tokens.access_token)?, refresh, client };
        let written = written(&credential)?;
        let now = SystemTime::now();
        Ok(Session {
            credential: Arc::new(written),
            expires: now.checked_add(Duration::from_secs(tokens.expires_in)),
            renewable: refresh.is_some() && client.is_good_at(now),
            who: match &self.sso.portal.session {
                Some(session) => format!("`{session}` ({})", self.sso.portal.start_url),
                None => self.sso.portal.start_url.clone(),
            },
        })
    }
}

#[async_trait]
impl Login for AwsLogin {
    fn session(&self) -> SessionKey {
        let region = &self.sso.portal.region;
        SessionKey {
            kind: "aws-iam-identity-center",
            origin: self.sso.endpoint.clone().unwrap_or_else(|| format!("https://oidc.{region}.amazonaws.com")),
            detail: self.sso.portal.start_url.clone(),
        }
    }

    async fn begin(&self, deadline: Instant) -> Result<Begun, Fault> {
        let made = self.sso.register(deadline).await?;
        let client = Registration {
            id: &made.client_id,
            secret: text(&made.client_secret)?,
            expires: made.client_secret_expires_at,
        };
        let code = self.sso.authorize(client.id, client.secret, deadline).await?;
        let pending = Pending { code: text(&code.device_code)?, client };
        Ok(Begun::Device(DeviceCode {
            secret: written(&pending)?,
            user_code: Some(crate::words::safe(&code.user_code)),
            address: crate::words::safe(&code.verification_uri),
            address_complete: code.verification_uri_complete.as_deref().map(crate::words::safe),
            // RFC 8628: five seconds unless said otherwise.
            interval: Duration::from_secs(code.interval.unwrap_or(5)),
            expires_in: Duration::from_secs(code.expires_in),
        }))
    }

    async fn poll(&self, code: &DeviceCode, _: Instant) -> Result<Poll, Fault> {
        // Opened for the request that it belongs to.
        let pending: Pending<'_> = read(code.secret.expose())?;
        match self.sso.token(pending.client.id, pending.client.secret, Grant::Device(pending.code)).await {
            Ok(tokens) => Ok(Poll::Done(self.session_of(&tokens, pending.client)?)),
            Err(fault) if fault.is("authorization_pending") => Ok(Poll::Pending),
            Err(fault) if fault.is("slow_down") => Ok(Poll::SlowDown),
            Err(fault) => Err(fault),
        }
    }

    async fn answer(&self, _: Vec<SecretValue>, _: Instant) -> Result<Session, Fault> {
        Err(Fault::new(ErrorKind::Unsupported, "IAM Identity Center asks for a code, not for answers"))
    }

    async fn renew(&self, session: &Session, _: Instant) -> Result<Session, Fault> {
        // Opened for the request that it belongs to.
        let held: Credential<'_> = read(session.credential.expose())?;
        let Some(refresh) = held.refresh else {
            return Err(Fault::new(ErrorKind::Unauthenticated, "it cannot be refreshed"));
        };
        let tokens = self.sso.token(held.client.id, held.client.secret, Grant::Refresh(refresh)).await?;
        if tokens.refresh_token.is_some() {
            return self.session_of(&tokens, held.client);
        }
        // A portal that names no new one means the same again.
        let again = SecretText(SecretValue::new(refresh.as_bytes().to_vec()));
        self.session_of(&Tokens { refresh_token: Some(again), ..tokens }, held.client)
    }

    async fn end(&self, session: &Session, deadline: Instant) -> Result<(), Fault> {
        self.sso.log_out(&access(session)?, deadline).await
    }
}

/// Returns the access token of a session.
fn access(session: &Session) -> Result<SecretValue, Fault> {
    // Opened to take the token out, into a value of its own.
    let held: Credential<'_> = read(session.credential.expose())?;
    Ok(SecretValue::new(held.access.as_bytes().to_vec()))
}

fn text(secret: &SecretText) -> Result<&str, Fault> {
    // Opened to be written into the session or a request. It was text when it was read.
    std::str::from_utf8(secret.0.expose()).map_err(|_| Fault::new(ErrorKind::Malformed, "a token that is no text"))
}

fn written(value: &impl Serialize) -> Result<SecretValue, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|_| Fault::new(ErrorKind::Malformed, "a token that is no text"))?;
    Ok(SecretValue::new(bytes))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|_| Fault::new(ErrorKind::Unauthenticated, "what was kept makes no sense"))
}

/// The keys of one role, for whoever is signed in: here first, with the AWS CLI else.
pub(crate) struct PortalKeys {
    pub(crate) login: AwsLogin,
    pub(crate) sign_ins: Arc<SignIns>,
    /// The account and the role, where they are known beforehand.
    pub(crate) role: Option<(String, String)>,
    /// Whether the session of the AWS CLI may be used: not at an address that a manifest names.
    pub(crate) cli: bool,
}

impl PortalKeys {
    async fn keys(&self) -> Result<aws_credential_types::Credentials, Fault> {
        let deadline = Instant::now() + BUDGET;
        if let Some(session) = self.sign_ins.session(&self.login, deadline).await? {
            return match self.keys_for(&access(&session)?, deadline).await {
                Err(fault) if fault.kind == ErrorKind::Unauthenticated => {
                    match self.sign_ins.refused(&self.login, &session, deadline).await? {
                        Some(session) => self.keys_for(&access(&session)?, deadline).await,
                        None => Err(fault),
                    }
                }
                settled => settled,
            };
        }
        if self.cli
            && let Some(token) = cache::token(&self.login.sso).await?
        {
            return self.keys_for(&token, deadline).await;
        }
        let cause = format!("nobody is signed in to {}", self.login.sso.portal.start_url);
        Err(Fault::new(ErrorKind::Unauthenticated, crate::words::safe(&cause)))
    }

    async fn keys_for(
        &self,
        token: &SecretValue,
        deadline: Instant,
    ) -> Result<aws_credential_types::Credentials, Fault> {
        let (account, role) = match &self.role {
            Some(role) => role.clone(),
            None => self.login.sso.only_role(token, deadline).await?,
        };
        self.login.sso.role_keys(token, &account, &role, deadline).await
    }
}

/// A fault on its way through the SDK's kind of error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.cause)]
pub(crate) struct PortalFault(pub(crate) Fault);

impl ProvideCredentials for PortalKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let keys = async { self.keys().await.map_err(|fault| CredentialsError::provider_error(PortalFault(fault))) };
        let keys: futures_util::future::BoxFuture<'a, provider::Result> = Box::pin(keys);
        future::ProvideCredentials::new(keys)
    }
}

impl std::fmt::Debug for PortalKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortalKeys")
            .field("portal", &self.login.sso.portal)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::aws::profile_walk::Portal;
    use crate::rest::Pool;

    #[test]
    fn a_registration_and_a_token_that_end_with_time_itself_are_good() {
        let rest = Pool::default().counting(Arc::new(AtomicU64::new(0))).unwrap();
        let portal = Portal { session: None, start_url: "https://x".to_owned(), region: "eu-west-1".to_owned() };
        let login = AwsLogin { sso: AwsSso { rest, portal, endpoint: None } };
        let secret = |text: &str| SecretText(SecretValue::from(text.to_owned()));
        let session = |expires: u64| {
            let tokens = Tokens { access_token: secret("a"), refresh_token: Some(secret("r")), expires_in: expires };
            login.session_of(&tokens, Registration { id: "id", secret: "s", expires }).unwrap()
        };
        let far = session(u64::MAX);
        assert_eq!((far.expires, far.renewable), (None, true));
        assert!(!session(0).renewable);
    }
}
