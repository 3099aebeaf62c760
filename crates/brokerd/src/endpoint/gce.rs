//! The metadata server of Google's machines, as far as client libraries ask it for tokens: the default service account, its
//! address, scopes and token, and the project. Source: "Predefined metadata keys" and "Authenticate applications", Compute
//! Engine documentation.
//!
//! The protocol knows no secret between client and server, only a header that no browser sends. Which process asks is what
//! protects it, and is looked at before.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use broker_core::secret::SecretValue;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::json;

use super::{Server, Variables, json, refused};

const FLAVOR: &str = "metadata-flavor";
const ROOT: &str = "/computeMetadata/v1/";

/// Returns the variables that lead a command to the endpoint at `address`.
pub(super) fn variables(address: SocketAddr) -> Variables {
    let text = |name: &str, text: &str| (name.to_owned(), Arc::new(SecretValue::from(text.to_owned())));
    // One each for the libraries of Go, Java, Node and Python; the second is how Python's looks whether it is there.
    let names = ["GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"];
    let mut variables: Variables = names.map(|name| text(name, &address.to_string())).into();
    // Most libraries look here before they ask anybody: what lies there is the person's and not this run's.
    variables.push(text("CLOUDSDK_CONFIG", "/dev/null"));
    variables
}

/// Answers one request of a process of the run.
pub(super) async fn answer(server: &Server, request: &Request<Incoming>) -> Response<Body> {
    let is_direct = !request.headers().contains_key("x-forwarded-for");
    let has_flavor = request.headers().get(FLAVOR).is_some_and(|flavor| flavor == "Google");
    let mut response = if request.method() != Method::GET {
        refused(StatusCode::METHOD_NOT_ALLOWED, "metadata is read only")
    } else if request.uri().path() == "/" {
        plain("computeMetadata/\n")
    } else if !has_flavor || !is_direct {
        refused(
            StatusCode::FORBIDDEN,
            "a request for metadata has the header `Metadata-Flavor: Google`, and no proxy's",
        )
    } else {
        metadata(server, request).await
    };
    response.headers_mut().insert(FLAVOR, HeaderValue::from_static("Google"));
    response
}

async fn metadata(server: &Server, request: &Request<Incoming>) -> Response<Body> {
    let email = server.reference.path.as_str();
    let scopes = || {
        let said = server.reference.options.get("scopes").map_or("cloud-platform", String::as_str);
        let url = |scope: &str| match scope.starts_with("https://") {
            true => scope.to_owned(),
            false => format!("https://www.googleapis.com/auth/{scope}"),
        };
        said.split(',').map(url).collect::<Vec<_>>()
    };
    let Some(path) = request.uri().path().strip_prefix(ROOT) else {
        return refused(StatusCode::NOT_FOUND, "there is no such metadata");
    };
    if let Some(project) = path.strip_prefix("project/") {
        let of = email.split_once('@').and_then(|(_, domain)| domain.strip_suffix(".iam.gserviceaccount.com"));
        return match (project, of) {
            ("project-id", Some(of)) => plain(of),
            _ => refused(StatusCode::NOT_FOUND, "there is no such metadata"),
        };
    }
    if path == "universe/universe-domain" || path == "universe/universe_domain" {
        return plain("googleapis.com");
    }
    let Some(account) = path.strip_prefix("instance/service-accounts/") else {
        return refused(StatusCode::NOT_FOUND, "there is no such metadata");
    };
    if account.is_empty() {
        return plain(&format!("default/\n{email}/\n"));
    }
    let asked = account.strip_prefix("default").or_else(|| account.strip_prefix(email));
    match asked {
        Some("/token") => token(server).await,
        Some("/email") => plain(email),
        Some("/scopes") => plain(&scopes().join("\n")),
        Some("" | "/") => {
            let about = json!({ "aliases": ["default"], "email": email, "scopes": scopes() });
            json(about.to_string().into_bytes())
        }
        _ => refused(StatusCode::NOT_FOUND, "this endpoint serves one service account, and its tokens only"),
    }
}

async fn token(server: &Server) -> Response<Body> {
    let fresh = match server.fresh().await {
        Ok(fresh) => fresh,
        Err(error) => return refused(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    // Opened to be served to the run that it was issued for.
    let Ok(token) = std::str::from_utf8(fresh.value.expose()) else {
        return refused(StatusCode::BAD_GATEWAY, "what was issued is no token");
    };
    let left = (fresh.expires - Timestamp::now()).total(jiff::Unit::Second).unwrap_or_default().max(0.0);
    let answer = json!({ "access_token": token, "expires_in": left as u64, "token_type": "Bearer" });
    json(answer.to_string().into_bytes())
}

fn plain(text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/text"));
    response
}
