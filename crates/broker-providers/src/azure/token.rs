//! The ways to a token: Microsoft Entra's token endpoint, and the metadata service of a machine in Azure.
//!
//! Times are counted from when an answer came, by the clock that nobody sets: a laptop whose clock is wrong signs in all
//! the same. Sources: "OAuth 2.0 client credentials flow", "OAuth 2.0 device authorization grant flow" and "Microsoft
//! Entra authentication error codes" of the Microsoft identity platform; "How managed identities acquire an access token".

use std::sync::Arc;
use std::time::Duration;

use broker_core::secret::{SecretValue, SharedValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::fault::{Fault, persist};
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest, SecretText};

/// The version of the metadata service's interface.
const METADATA_VERSION: &str = "2018-02-01";
/// How long a token is good whose answer does not say so.
const SHORT_LIFE: u64 = 300;
/// The longest life that is believed, in seconds.
const LONG_LIFE: u64 = 86_400;

/// An access token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) value: SharedValue,
    /// How long it is good, from when it came.
    pub(crate) life: Duration,
    pub(crate) came: Instant,
}

impl Token {
    pub(crate) fn new(value: SecretValue, life: u64) -> Self {
        Self { value: Arc::new(value), life: Duration::from_secs(life.min(LONG_LIFE)), came: Instant::now() }
    }

    /// Tells whether it will be good for a while.
    pub(crate) fn is_young(&self) -> bool {
        // Five minutes, as Microsoft's clients take it, or half of a shorter life.
        let spare = Duration::from_secs(300).min(self.life / 2);
        self.came.elapsed() + spare < self.life
    }
}

/// What the token endpoint answers. Numbers come as strings from the metadata service.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    pub(crate) access_token: SecretText,
    #[serde(default)]
    expires_in: Option<Seconds>,
    #[serde(default)]
    pub(crate) refresh_token: Option<SecretText>,
    #[serde(default)]
    pub(crate) id_token: Option<SecretText>,
}

impl TokenAnswer {
    /// Returns how long the token is good, in seconds.
    pub(crate) fn life(&self) -> u64 {
        self.expires_in.as_ref().map_or(SHORT_LIFE, Seconds::count)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn count(&self) -> u64 {
        match self {
            Self::Number(count) => *count,
            Self::Text(text) => text.parse().unwrap_or(SHORT_LIFE),
        }
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What is sent to the token endpoint: a form whose values may be secret.
pub(crate) struct Form(Zeroizing<String>);

impl Form {
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(String::new()))
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let written = Zeroizing::new(utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        // Grown at once, so that no part stays behind in a smaller buffer.
        let mut grown = Zeroizing::new(String::with_capacity(self.0.len() + name.len() + written.len() + 2));
        grown.push_str(&self.0);
        if !grown.is_empty() {
            grown.push('&');
        }
        grown.push_str(name);
        grown.push('=');
        grown.push_str(&written);
        self.0 = grown;
        self
    }

    /// Adds a value that is a secret; one that is no text is left out.
    pub(crate) fn with_secret(self, name: &str, value: &SecretValue) -> Self {
        // Opened to prove to the login authority who we are.
        match std::str::from_utf8(value.expose()) {
            Ok(text) => self.with(name, text),
            Err(_) => self,
        }
    }
}

/// Sends a form to `url` and reads what it answers, when it is done.
pub(crate) async fn post<T: for<'de> Deserialize<'de>>(
    rest: &Rest,
    url: &str,
    form: &Form,
    deadline: Instant,
) -> Result<T, Fault> {
    let answer = persist(deadline, || async {
        let request = rest.request(Method::POST, url);
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").header("accept", "application/json");
        let answer = rest.send(request.body(form.0.as_bytes().to_vec())).await?;
        if answer.is_success() { answer.json() } else { Err(refused(&answer)) }
    });
    answer.await.map_err(|fault| said_by(url, fault))
}

/// Asks the metadata service for a token of the machine's identity.
pub(crate) async fn of_machine(
    rest: &Rest,
    metadata: &str,
    resource: &str,
    client_id: Option<&str>,
    deadline: Instant,
) -> Result<Token, Fault> {
    let written = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut url = format!(
        "{metadata}/metadata/identity/oauth2/token?api-version={METADATA_VERSION}&resource={}",
        written(resource)
    );
    if let Some(client_id) = client_id {
        url.push_str(&format!("&client_id={}", written(client_id)));
    }
    let answer = persist(deadline, || async {
        let answer = rest.send(rest.request(Method::GET, &url).header("metadata", "true")).await?;
        match answer.status {
            200..=299 => answer.json::<TokenAnswer>(),
            // Being updated, for up to 70 seconds.
            410 => Err(Fault::new(ErrorKind::Unavailable, "HTTP 410, the service is being updated")),
            _ => Err(refused(&answer)),
        }
    });
    let answer = answer.await.map_err(|fault| said_by("the metadata service of this machine", fault))?;
    let life = answer.life();
    Ok(Token::new(answer.access_token.0, life))
}

/// Says of `fault` who said it.
fn said_by(url: &str, fault: Fault) -> Fault {
    let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(url);
    Fault { cause: format!("{host}: {}", fault.cause), ..fault }
}

/// Returns what a refusal means. Its code is OAuth's word, such as `authorization_pending`.
fn refused(answer: &Answer) -> Fault {
    let Ok(Refusal { error, error_description }) = answer.json::<Refusal>() else { return answer.fault() };
    let kind = match (error.as_str(), answer.status) {
        (_, 429) => ErrorKind::Throttled,
        ("temporarily_unavailable" | "server_error", _) | (_, 500..) => ErrorKind::Unavailable,
        _ => ErrorKind::Unauthenticated,
    };
    // What follows is for Microsoft's support.
    let words = error_description.split(" Trace ID:").next().unwrap_or_default();
    let told = Fault::coded(kind, words, "");
    let cause = if words.is_empty() { Fault::coded(kind, &error, "").cause } else { told.cause };
    Fault { code: Some(error), retry_after: answer.retry_after(), ..Fault::new(kind, cause) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_keeps_values_apart_whatever_they_hold() {
        let form = Form::new().with("a", "x&b=1 ü").with_secret("secret", &SecretValue::from("p+%".to_owned()));
        assert_eq!(form.0.as_str(), "a=x%26b%3D1%20%C3%BC&secret=p%2B%25");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_it_ends() {
        for (life, spare) in [(3600, 300), (60, 30)] {
            let token = Token::new(SecretValue::new(Vec::new()), life);
            tokio::time::advance(Duration::from_secs(life - spare - 1)).await;
            assert!(token.is_young(), "{life}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!token.is_young(), "{life}");
        }
    }
}
