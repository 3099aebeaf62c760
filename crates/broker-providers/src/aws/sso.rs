//! IAM Identity Center: signing a person in by a device code, and keys for the roles of whoever is signed in.
//!
//! Two public REST APIs, neither of which signs requests: `sso-oidc` (2019-06-10) for the sign-in and `sso` (2019-06-10)
//! for the keys. Tokens go to the portal's own hosts, or to the `endpoint-sso` that they were obtained from, and nowhere
//! else. Bodies are wiped.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use broker_core::secret::SecretValue;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::aws::json::{body_of, host};
use crate::aws::profile_walk::Portal;
use crate::fault::{Fault, persist};
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest, SecretText};

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// What lets a token list accounts and be refreshed.
const SCOPE: &str = "sso:account:access";

/// One portal, as one instance reaches it.
#[derive(Clone, Debug)]
pub(crate) struct AwsSso {
    pub(crate) rest: Rest,
    pub(crate) portal: Portal,
    /// The instance's own address, for test servers.
    pub(crate) endpoint: Option<String>,
}

/// A registration of ours at the portal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Client {
    pub(crate) client_id: String,
    pub(crate) client_secret: SecretText,
    /// In seconds since 1970.
    pub(crate) client_secret_expires_at: u64,
}

/// A device code.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Code {
    pub(crate) device_code: SecretText,
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) expires_in: u64,
    pub(crate) interval: Option<u64>,
}

/// The tokens of a person who signed in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tokens {
    pub(crate) access_token: SecretText,
    pub(crate) refresh_token: Option<SecretText>,
    pub(crate) expires_in: u64,
}

/// What a token is asked for with.
pub(crate) enum Grant<'a> {
    Device(&'a str),
    Refresh(&'a str),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequest<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

impl AwsSso {
    /// Registers us at the portal.
    pub(crate) async fn register(&self, deadline: Instant) -> Result<Client, Fault> {
        let input = serde_json::json!({
            "clientName": "broker", "clientType": "public", "scopes": [SCOPE],
            "grantTypes": [DEVICE_GRANT, "refresh_token"],
        });
        self.post("/client/register", &input, deadline).await
    }

    /// Asks for a code that a person confirms.
    pub(crate) async fn authorize(&self, id: &str, secret: &str, deadline: Instant) -> Result<Code, Fault> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Input<'a> {
            client_id: &'a str,
            client_secret: &'a str,
            start_url: &'a str,
        }
        let input = Input { client_id: id, client_secret: secret, start_url: &self.portal.start_url };
        let code: Code = self.post("/device_authorization", &input, deadline).await?;
        let is_local = self.endpoint.as_deref().is_some_and(|endpoint| page_host(endpoint, true).is_some());
        let pages = [Some(&code.verification_uri), code.verification_uri_complete.as_ref()];
        if pages.into_iter().flatten().all(|page| page_host(page, is_local).is_some()) {
            return Ok(code);
        }
        // A browser is opened there: `file:` and the like are no sign-in.
        Err(Fault::new(ErrorKind::Malformed, "the page that the portal names to sign in at is no `https` address"))
    }

    /// Asks for tokens, once: a code and a refresh token are good once.
    pub(crate) async fn token(&self, id: &str, secret: &str, grant: Grant<'_>) -> Result<Tokens, Fault> {
        let (grant_type, device_code, refresh_token) = match grant {
            Grant::Device(code) => (DEVICE_GRANT, Some(code), None),
            Grant::Refresh(token) => ("refresh_token", None, Some(token)),
        };
        let input = TokenRequest { client_id: id, client_secret: secret, grant_type, device_code, refresh_token };
        self.post_once("/token", &input).await
    }

    /// Returns the keys of a role.
    pub(crate) async fn role_keys(
        &self,
        token: &SecretValue,
        account: &str,
        role: &str,
        deadline: Instant,
    ) -> Result<Credentials, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Output {
            role_credentials: Keys,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Keys {
            access_key_id: String,
            secret_access_key: SecretText,
            session_token: Option<SecretText>,
            /// In milliseconds since 1970.
            expiration: u64,
        }
        let query = format!("account_id={}&role_name={}", escaped(account), escaped(role));
        let keys: Output = self.get(&format!("/federation/credentials?{query}"), token, deadline).await?;
        let keys = keys.role_credentials;
        // Opened for the SDK, which signs with its own copies.
        let text = |secret: &SecretText| String::from_utf8_lossy(secret.0.expose()).into_owned();
        Ok(Credentials::new(
            keys.access_key_id,
            text(&keys.secret_access_key),
            keys.session_token.as_ref().map(text),
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(keys.expiration)),
            "IAM Identity Center",
        ))
    }

    /// Returns the account and the role of a person who has exactly one, else what there is, in words.
    pub(crate) async fn only_role(&self, token: &SecretValue, deadline: Instant) -> Result<(String, String), Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Accounts {
            account_list: Vec<Account>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Account {
            account_id: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Roles {
            role_list: Vec<Role>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Role {
            role_name: String,
        }
        let accounts: Accounts = self.get("/assignment/accounts?max_result=100", token, deadline).await?;
        let mut all = Vec::new();
        // Enough to tell one from several, and to name some.
        for account in accounts.account_list.into_iter().take(5) {
            let id = account.account_id;
            let path = format!("/assignment/roles?max_result=100&account_id={}", escaped(&id));
            let roles: Roles = self.get(&path, token, deadline).await?;
            all.extend(roles.role_list.into_iter().map(|role| (id.clone(), role.role_name)));
        }
        if let [only] = all.as_slice() {
            return Ok(only.clone());
        }
        let words: Vec<_> = all.iter().take(8).map(|(account, role)| format!("{role} of {account}")).collect();
        let found =
            if words.is_empty() { "none is assigned".to_owned() } else { format!("there are {}", words.join(", ")) };
        let cause = format!("no profile says which role to take: {}", crate::words::safe(&found));
        Err(Fault::new(ErrorKind::Unauthenticated, cause))
    }

    /// Ends a session.
    pub(crate) async fn log_out(&self, token: &SecretValue, deadline: Instant) -> Result<(), Fault> {
        let address = format!("{}/logout", self.base("portal.sso")?);
        persist(deadline, || async {
            let request = self.rest.request(Method::POST, &address).header("x-amz-sso_bearer_token", bearer(token)?);
            let answer = self.rest.send(request).await?;
            match fault_of(&answer) {
                // It was over already.
                Some(fault) if fault.kind == ErrorKind::Unauthenticated => Ok(()),
                Some(fault) => Err(fault),
                None => Ok(()),
            }
        })
        .await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        input: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, Fault> {
        persist(deadline, || self.post_once(path, input)).await
    }

    async fn post_once<T: DeserializeOwned>(&self, path: &str, input: &impl Serialize) -> Result<T, Fault> {
        let address = format!("{}{path}", self.base("oidc")?);
        let request = self.rest.request(Method::POST, &address).header("content-type", "application/json");
        let answer = self.rest.send(request.body(body_of(input)?)).await?;
        fault_of(&answer).map_or_else(|| answer.json(), Err)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, token: &SecretValue, deadline: Instant) -> Result<T, Fault> {
        let address = format!("{}{path}", self.base("portal.sso")?);
        persist(deadline, || async {
            let request = self.rest.request(Method::GET, &address).header("x-amz-sso_bearer_token", bearer(token)?);
            let answer = self.rest.send(request).await?;
            fault_of(&answer).map_or_else(|| answer.json(), Err)
        })
        .await
    }

    fn base(&self, service: &str) -> Result<String, Fault> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.trim_end_matches('/').to_owned()),
            None => host(service, &self.portal.region),
        }
    }
}

/// Returns the host of a page that a browser may be sent to: by `https`, and where the portal itself is a server on this
/// machine also by `http` there.
fn page_host(page: &str, is_local: bool) -> Option<String> {
    // A sign of anything but one address: the text is shown and opened as it is.
    if page.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return None;
    }
    let url = reqwest::Url::parse(page).ok().filter(|url| url.username().is_empty() && url.password().is_none())?;
    let host = url.host_str()?;
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().ok();
    let is_loopback = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
    let is_named = ip.is_none() && host.contains('.') && !host.starts_with('.') && !host.ends_with('.');
    let is_page = match url.scheme() {
        "https" => is_named || (is_local && is_loopback),
        "http" => is_local && is_loopback,
        _ => false,
    };
    is_page.then(|| host.to_owned())
}

fn bearer(token: &SecretValue) -> Result<HeaderValue, Fault> {
    // Opened for the header that carries it, which is never shown.
    let mut value = HeaderValue::from_bytes(token.expose())
        .map_err(|_| Fault::new(ErrorKind::Unauthenticated, "the token of the sign-in is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Reads a refusal, in OAuth's words or in AWS's.
fn fault_of(answer: &Answer) -> Option<Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named {
        error: String,
        error_description: Option<String>,
        message: Option<String>,
    }
    if answer.is_success() {
        return None;
    }
    let Ok(named) = answer.json::<Named>() else { return Some(answer.fault()) };
    let header = answer.headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = if named.error.is_empty() { header.split(':').next().unwrap_or_default() } else { &named.error };
    if code.is_empty() {
        return Some(answer.fault());
    }
    let kind = match (code, answer.status) {
        ("slow_down" | "TooManyRequestsException", _) | (_, 429) => ErrorKind::Throttled,
        (_, 500..) => ErrorKind::Unavailable,
        ("access_denied" | "ForbiddenException" | "AccessDeniedException" | "ResourceNotFoundException", _)
        | (_, 403) => ErrorKind::Denied,
        ("invalid_grant" | "expired_token" | "invalid_client" | "authorization_pending", _) | (_, 401) => {
            ErrorKind::Unauthenticated
        }
        _ => ErrorKind::Unsupported,
    };
    let words = named.error_description.or(named.message).unwrap_or_default();
    Some(Fault { retry_after: answer.retry_after(), ..Fault::coded(kind, code, &words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_sent_to_https_and_to_this_machine_only_where_the_portal_is_on_it() {
        for page in
            ["https://device.sso.eu-north-1.amazonaws.com/", "https://corp.awsapps.com/start/#/device?user_code=A-B"]
        {
            assert!(page_host(page, false).is_some() && page_host(page, true).is_some(), "{page}");
        }
        for page in ["http://127.0.0.1:8080/x", "http://localhost/x", "http://[::1]:1/", "https://127.0.0.1/x"] {
            assert!(page_host(page, true).is_some() && page_host(page, false).is_none(), "{page}");
        }
        for page in [
            "file:///etc/passwd",
            "http://corp.awsapps.com/start",
            "javascript:alert(1)",
            "ms-settings:x",
            "https://corp.awsapps.com@evil.example/",
            "https://10.0.0.1/",
            "https://evil/",
            "https://corp.awsapps.com/ --x",
            "https://corp.awsapps.com\\evil",
            "/start",
            "",
        ] {
            assert!(page_host(page, false).is_none() && page_host(page, true).is_none(), "{page}");
        }
    }
}
