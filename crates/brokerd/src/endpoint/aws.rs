//! The protocol of containers on AWS: one GET with a token, answered with keys. Source: "Container credential provider", AWS
//! SDKs and Tools Reference Guide.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use broker_core::secret::{SecretValue, SharedValue};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{Server, Variables, json, refused};

/// The one path there is.
const PATH: &str = "/credentials";

/// Returns the variables that lead a command to the endpoint at `address`.
pub(super) fn variables(address: SocketAddr, token: &SharedValue) -> Variables {
    let text = |text: &str| Arc::new(SecretValue::from(text.to_owned()));
    vec![
        // SDKs look into these files before they ask anybody: what lies there is the person's and not this run's.
        ("AWS_CONFIG_FILE".to_owned(), text("/dev/null")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned(), Arc::clone(token)),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), text(&format!("http://{address}{PATH}"))),
        ("AWS_SHARED_CREDENTIALS_FILE".to_owned(), text("/dev/null")),
    ]
}

/// The keys as a provider issues them: the form of `credential_process`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: &'a str,
}

/// The keys as the protocol has them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: &'a str,
}

/// Answers one request of a process of the run.
pub(super) async fn answer(server: &Server, request: &Request<Incoming>) -> Response<Body> {
    if request.uri().path() != PATH || request.method() != Method::GET {
        return refused(StatusCode::NOT_FOUND, "there is one path here, that of `AWS_CONTAINER_CREDENTIALS_FULL_URI`");
    }
    let shown = request.headers().get(header::AUTHORIZATION).map(|shown| SecretValue::new(shown.as_bytes().to_vec()));
    if !shown.is_some_and(|shown| shown.same_as(&server.token)) {
        return refused(StatusCode::UNAUTHORIZED, "the token of `AWS_CONTAINER_AUTHORIZATION_TOKEN` was not shown");
    }
    let fresh = match server.fresh().await {
        Ok(fresh) => fresh,
        Err(error) => return refused(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    // Opened to be served to the run that it was issued for.
    let Ok(keys) = serde_json::from_slice::<Keys<'_>>(fresh.value.expose()) else {
        return refused(StatusCode::BAD_GATEWAY, "what was issued are no keys");
    };
    let Keys { access_key_id, secret_access_key, session_token, expiration } = keys;
    let answer = Answer { access_key_id, secret_access_key, token: session_token, expiration };
    // Texts always have a JSON form.
    json(serde_json::to_vec(&answer).unwrap_or_default())
}
