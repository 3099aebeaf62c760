//! From HTTP requests to operations and back. No decision is made here.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use broker_core::code::ErrorCode;
use broker_core::secret::SecretValue;
use broker_protocol::message::{
    Ask, Attested, Done, LeaseEndAsk, Leases, MAX_MESSAGE_BYTES, PROTOCOL, SecretList, SecretNamed, TrustAsk, WhoAmI,
};
use broker_protocol::sign_in::LoginAsk;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::broker::Broker;
use crate::operations;
use crate::pipeline::{self, Delivery, control};
use crate::refusal::Refusal;
use crate::server::Connection;
use crate::sign_in;

type Shared = State<Arc<Broker>>;
type Asking = Extension<Arc<Connection>>;

/// Returns every route of the protocol.
pub(crate) fn router(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/v1/attest", get(attest))
        .route("/v1/grant", post(grant))
        .route("/v1/explain", post(explain))
        .route("/v1/check", post(check))
        .route("/v1/trust", post(trust))
        .route("/v1/secret/get", post(secret_get))
        .route("/v1/secret/set", post(secret_set))
        .route("/v1/secret/rm", post(secret_rm))
        .route("/v1/secret/list", post(secret_list))
        .route("/v1/secret/history", post(secret_history))
        .route("/v1/login", post(login))
        .route("/v1/login/wait", post(login_wait))
        .route("/v1/login/answer", post(login_answer))
        .route("/v1/logout", post(logout))
        .route("/v1/logins", post(logins))
        .route("/v1/unlock", post(unlock))
        .route("/v1/lock", post(lock))
        .route("/v1/leases", get(leases))
        .route("/v1/leases/end", post(end_lease))
        .route("/v1/status", get(status))
        .route("/v1/providers", get(providers))
        .route("/v1/whoami", get(whoami))
        .route("/v1/stop", post(stop))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .with_state(broker)
}

async fn attest(State(broker): Shared, Extension(connection): Asking) -> Response {
    let attested = Attested {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        directories: Some(broker.directories.clone()),
    };
    reply(connection.attest(broker.owner).map(|()| attested))
}

async fn grant(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    deliver(async { pipeline::grant(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn explain(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    let done = || crate::explain::explain(&broker, connection.peer()?, &parse::<Ask>(&body)?);
    reply(done())
}

async fn check(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { operations::check(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn trust(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    let done = || operations::trust(&broker, connection.peer()?, parse::<TrustAsk>(&body)?);
    reply(done())
}

async fn secret_get(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    deliver(async { operations::get(&broker, connection.peer()?, parse(&body)?).await }.await)
}

/// The body is one line of JSON and, behind the line feed, the bytes of the value as they are.
async fn secret_set(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    let done = async {
        let cut = body.iter().position(|b| *b == b'\n').ok_or_else(|| Refusal::Malformed("no value follows".into()))?;
        let value = SecretValue::new(body[cut + 1..].to_vec());
        operations::set(&broker, connection.peer()?, parse::<SecretNamed>(&body[..cut])?, value).await
    };
    reply(done.await)
}

async fn secret_rm(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { operations::remove(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn secret_list(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { operations::list(&broker, connection.peer()?, parse::<SecretList>(&body)?).await }.await)
}

async fn secret_history(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { operations::history(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn login(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { sign_in::login(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn login_wait(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { sign_in::wait(&broker, connection.peer()?, parse(&body)?).await }.await)
}

/// The body is one line of JSON, which says how long each answer is, and behind the line feed the answers as they are.
async fn login_answer(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    let done = async {
        let cut =
            body.iter().position(|b| *b == b'\n').ok_or_else(|| Refusal::Malformed("no answer follows".into()))?;
        let (asked, lengths) = parse::<(LoginAsk, Vec<usize>)>(&body[..cut])?;
        let mut rest = &body[cut + 1..];
        let mut answers = Vec::with_capacity(lengths.len().min(MAX_ANSWERS));
        for length in lengths {
            let (answer, after) =
                rest.split_at_checked(length).ok_or_else(|| Refusal::Malformed("an answer is cut off".into()))?;
            answers.push(SecretValue::new(answer.to_vec()));
            rest = after;
        }
        sign_in::answer(&broker, connection.peer()?, asked, answers).await
    };
    reply(done.await)
}

/// How many answers are made room for at once; no sign-in asks more.
const MAX_ANSWERS: usize = 16;

async fn logout(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { sign_in::logout(&broker, connection.peer()?, parse(&body)?).await }.await)
}

async fn logins(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { sign_in::logins(&broker, connection.peer()?, parse(&body)?).await }.await)
}

#[derive(Deserialize)]
struct UnlockQuery {
    #[serde(default)]
    create: u8,
}

/// The body is the passphrase as it was typed.
async fn unlock(
    State(broker): Shared,
    Extension(connection): Asking,
    Query(query): Query<UnlockQuery>,
    body: Bytes,
) -> Response {
    let done = async {
        control(&broker, connection.peer()?)?;
        let create = query.create != 0;
        broker.stores.unlock(SecretValue::new(body.to_vec()), create).await?;
        Ok(Done { message: if create { "created and unlocked" } else { "unlocked" }.to_owned() })
    };
    reply(done.await)
}

async fn lock(State(broker): Shared, Extension(connection): Asking) -> Response {
    reply(async { operations::lock(&broker, connection.peer()?).await }.await)
}

async fn leases(State(broker): Shared, Extension(connection): Asking) -> Response {
    let done = || control(&broker, connection.peer()?).map(|()| Leases { leases: broker.leases.list() });
    reply(done())
}

async fn end_lease(State(broker): Shared, Extension(connection): Asking, body: Bytes) -> Response {
    reply(async { operations::end_lease(&broker, connection.peer()?, parse::<LeaseEndAsk>(&body)?).await }.await)
}

async fn status(State(broker): Shared, Extension(connection): Asking) -> Response {
    let done = || control(&broker, connection.peer()?).map(|()| broker.status());
    reply(done())
}

async fn providers(State(broker): Shared, Extension(connection): Asking) -> Response {
    let done = || control(&broker, connection.peer()?).and_then(|()| operations::providers(&broker));
    reply(done())
}

async fn whoami(Extension(connection): Asking) -> Response {
    reply(connection.peer().map(|peer| WhoAmI { principal: peer.principal.clone() }))
}

async fn stop(State(broker): Shared, Extension(connection): Asking) -> Response {
    let done = || {
        control(&broker, connection.peer()?)?;
        broker.stop("asked to");
        Ok(Done { message: "stopping".to_owned() })
    };
    reply(done())
}

async fn unknown() -> Response {
    refuse(&Refusal::Malformed("there is no such operation".into()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // Serde's words can quote what it met, and that can be a sign-in variable: say where, not what.
    serde_json::from_slice(body).map_err(|e| Refusal::Malformed(format!("line {}, column {}", e.line(), e.column())))
}

fn reply<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// Writes the head as one line and the values behind it as they are, into one buffer that is wiped when it was sent.
fn deliver(result: Result<Delivery, Refusal>) -> Response {
    let Delivery { head, values } = match result {
        Ok(delivery) => delivery,
        Err(refusal) => return refuse(&refusal),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        256 + 64 * head.values.len() + values.iter().map(|v| v.len()).sum::<usize>(),
    ));
    if serde_json::to_writer(&mut *bytes, &head).is_err() {
        return refuse(&Refusal::Malformed("the answer has no JSON form".into()));
    }
    bytes.push(b'\n');
    for value in &values {
        // Opened to cross the socket: the one place where values leave the daemon.
        bytes.extend_from_slice(value.expose());
    }
    let body = Body::from(Bytes::from_owner(bytes));
    ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
}

pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal.code() {
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Denied | ErrorCode::Untrusted | ErrorCode::ApprovalNeeded => StatusCode::FORBIDDEN,
        ErrorCode::Throttled | ErrorCode::Quota => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unavailable | ErrorCode::Provider | ErrorCode::Stale => StatusCode::BAD_GATEWAY,
        ErrorCode::Audit | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    (status, axum::Json(refusal.to_failure())).into_response()
}
