//! The calls of Google's own Secret Manager client, carried by our own connections.
//!
//! The client crate can be given another transport. Its own follows redirects, takes proxies and the domain of the service
//! from the environment of the process, reads answers of any size and speaks HTTP/1.1 only; ours does none of that, and
//! counts. Paths, queries and bodies are those of the discovery document `secretmanager.v1`; messages are the crate's.

use std::sync::Arc;
use std::time::Duration;

use google_cloud_gax::options::RequestOptions;
use google_cloud_gax::response::Response;
use google_cloud_secretmanager_v1::model;
use google_cloud_secretmanager_v1::stub::SecretManagerService;
use google_cloud_secretmanager_v1::{Error, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::gcp::token::{REASON, Tokens};
use crate::provider::ErrorKind;
use crate::rest::{Answer, Rest};

/// How many times in all a write is sent that was surely not done.
const MAX_WRITES: u32 = 4;

/// The connections to one endpoint, for one identity.
#[derive(Debug)]
pub(crate) struct Wire {
    rest: Rest,
    /// `https://HOST`, without a slash at the end.
    endpoint: String,
    tokens: Arc<Tokens>,
    /// What Google's audit log is told.
    reason: Option<HeaderValue>,
}

impl Wire {
    pub(crate) fn new(rest: Rest, endpoint: String, tokens: Arc<Tokens>, reason: Option<HeaderValue>) -> Self {
        Self { rest, endpoint, tokens, reason }
    }

    async fn call<T: for<'de> Deserialize<'de>>(&self, call: Call<'_>) -> Result<Response<T>> {
        let answered = self.ask(call).await;
        answered.and_then(|answer| answer.json()).map(Response::from).map_err(|fault| Error::io(Failed(fault)))
    }

    async fn ask(&self, call: Call<'_>) -> std::result::Result<Answer, Fault> {
        // Enums as numbers: those that are unknown here cannot fail an answer.
        let mut url = format!("{}/v1/{}?%24alt=json%3Benum-encoding%3Dint", self.endpoint, call.path);
        for (name, value) in call.query.iter().filter(|(_, value)| !value.is_empty()) {
            url.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
        let mut request = self.rest.request(call.method, &url);
        if let Some(bearer) = self.tokens.bearer().await? {
            request = bearer.sign(request)?;
        }
        if let Some(reason) = &self.reason {
            request = request.header(REASON, reason.clone());
        }
        if let Some(body) = call.body {
            request = request.header("content-type", "application/json").body(body.to_vec());
        }
        let answer = self.rest.send(request).await?;
        if answer.is_success() { Ok(answer) } else { Err(refusal(&answer)) }
    }
}

/// One request.
struct Call<'a> {
    method: Method,
    /// What follows `/v1/`. Only names that were checked are part of it.
    path: String,
    query: &'a [(&'a str, String)],
    body: Option<Zeroizing<Vec<u8>>>,
}

impl Call<'static> {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: &[], body: None }
    }
}

fn json(message: &impl Serialize) -> Result<Option<Zeroizing<Vec<u8>>>> {
    serde_json::to_vec(message).map(|bytes| Some(Zeroizing::new(bytes))).map_err(Error::ser)
}

impl SecretManagerService for Wire {
    async fn access_secret_version(
        &self,
        asked: model::AccessSecretVersionRequest,
        _: RequestOptions,
    ) -> Result<Response<model::AccessSecretVersionResponse>> {
        self.call(Call::get(format!("{}:access", asked.name))).await
    }

    async fn get_secret(&self, asked: model::GetSecretRequest, _: RequestOptions) -> Result<Response<model::Secret>> {
        self.call(Call::get(asked.name)).await
    }

    async fn list_secrets(
        &self,
        asked: model::ListSecretsRequest,
        _: RequestOptions,
    ) -> Result<Response<model::ListSecretsResponse>> {
        let query =
            &[("pageSize", asked.page_size.to_string()), ("pageToken", asked.page_token), ("filter", asked.filter)];
        self.call(Call { query, ..Call::get(format!("{}/secrets", asked.parent)) }).await
    }

    async fn list_secret_versions(
        &self,
        asked: model::ListSecretVersionsRequest,
        _: RequestOptions,
    ) -> Result<Response<model::ListSecretVersionsResponse>> {
        let query =
            &[("pageSize", asked.page_size.to_string()), ("pageToken", asked.page_token), ("filter", asked.filter)];
        self.call(Call { query, ..Call::get(format!("{}/versions", asked.parent)) }).await
    }

    async fn create_secret(
        &self,
        asked: model::CreateSecretRequest,
        _: RequestOptions,
    ) -> Result<Response<model::Secret>> {
        let body = json(&asked.secret)?;
        let query = &[("secretId", asked.secret_id)];
        self.call(Call { method: Method::POST, path: format!("{}/secrets", asked.parent), query, body }).await
    }

    async fn add_secret_version(
        &self,
        asked: model::AddSecretVersionRequest,
        _: RequestOptions,
    ) -> Result<Response<model::SecretVersion>> {
        let path = format!("{}:addVersion", asked.parent);
        self.call(Call { method: Method::POST, path, query: &[], body: json(&asked)? }).await
    }

    async fn delete_secret(&self, asked: model::DeleteSecretRequest, _: RequestOptions) -> Result<Response<()>> {
        let call = Call { method: Method::DELETE, path: asked.name, query: &[("etag", asked.etag)], body: None };
        self.ask(call).await.map(|_| Response::from(())).map_err(|fault| Error::io(Failed(fault)))
    }
}

/// A fault on its way through the client.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.cause)]
struct Failed(Fault);

/// Takes the fault out of what the client returns.
pub(crate) fn fault_of(error: &Error) -> Fault {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<Failed>()) {
        Some(Failed(fault)) => fault.clone(),
        // The client itself refuses nothing but what we asked it wrongly. Its words may hold the request.
        None => Fault::new(ErrorKind::Malformed, "the request could not be written"),
    }
}

/// Sends a request that must not be done twice: a version that was added twice would be its own previous one. It is
/// repeated only where it surely was not done, because nobody was reached or the service was too busy.
pub(crate) async fn once<T, F>(deadline: Instant, send: impl Fn() -> F) -> std::result::Result<T, Fault>
where
    F: Future<Output = Result<T>>,
{
    let mut attempt = 1;
    loop {
        let fault = match timeout_at(deadline, send()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => fault_of(&error),
            Err(_) => return Err(Fault::late()),
        };
        let undone = fault.kind == ErrorKind::Throttled || fault.cause.starts_with("no connection");
        let wake = Instant::now() + fault.retry_after.unwrap_or(Duration::from_millis(100) * attempt);
        if !undone || attempt >= MAX_WRITES || wake >= deadline {
            return Err(fault);
        }
        attempt += 1;
        sleep_until(wake).await;
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    reason: String,
}

/// Returns what a refused call of one of Google's APIs means. The code is the reason where one is given, else the status.
pub(crate) fn refusal(answer: &Answer) -> Fault {
    let Ok(Refusal { error }) = answer.json::<Refusal>() else { return answer.fault() };
    let kind = match error.status.as_str() {
        "NOT_FOUND" => ErrorKind::NotFound,
        // A version that is disabled or destroyed, for a call that reads.
        "FAILED_PRECONDITION" | "INVALID_ARGUMENT" => ErrorKind::NotFound,
        "PERMISSION_DENIED" => ErrorKind::Denied,
        "UNAUTHENTICATED" => ErrorKind::Unauthenticated,
        "RESOURCE_EXHAUSTED" => ErrorKind::Throttled,
        "UNAVAILABLE" | "INTERNAL" | "ABORTED" | "DEADLINE_EXCEEDED" | "CANCELLED" | "UNKNOWN" => {
            ErrorKind::Unavailable
        }
        "UNIMPLEMENTED" | "ALREADY_EXISTS" => ErrorKind::Unsupported,
        _ => answer.fault().kind,
    };
    let reason = error.details.into_iter().map(|detail| detail.reason).find(|reason| !reason.is_empty());
    let code = reason.as_deref().unwrap_or(&error.status);
    if code.is_empty() {
        return answer.fault();
    }
    Fault { retry_after: answer.retry_after(), ..Fault::coded(kind, code, &error.message) }
}
