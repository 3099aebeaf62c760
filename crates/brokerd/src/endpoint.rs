//! Credentials that are served to a running command instead of being handed over, so that it outlives each of them.
//!
//! Every such secret of a lease has a server of its own on a free port of 127.0.0.1, for as long as the lease lives: its end
//! closes the port. It answers the processes of that run and nobody else: the kernel says which process a connection is of,
//! whatever the request claims. What is served is issued anew ahead of its end, one flight however many ask, and is on
//! record before it leaves. How a request and an answer look is in [`aws`] and [`gce`].

pub(crate) mod aws;
pub(crate) mod caller;
pub(crate) mod gce;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use broker_core::reference::SecretRef;
use broker_core::secret::{SecretValue, SharedValue};
use broker_providers::issue::{Credential, Issued};
use broker_providers::provider::{ProviderError, unsupported};
use broker_providers::registry::Endpoint;
use broker_providers::resolve::{Opened, Run};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::endpoint::caller::{Caller, is_of_run};
use crate::leases::Leases;

/// How many connections of one run are open at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What an endpoint is made from.
#[derive(Debug)]
pub(crate) struct Seed {
    /// The entry of the manifest.
    pub(crate) name: String,
    /// What is issued.
    pub(crate) reference: SecretRef,
    /// How it is served.
    pub(crate) protocol: Endpoint,
    /// Who issues it.
    pub(crate) opened: Opened,
    /// For which run.
    pub(crate) run: Run,
    /// What was issued for the start.
    pub(crate) value: SharedValue,
    /// The credential of that.
    pub(crate) credential: Arc<Credential>,
}

/// An endpoint that is served. Dropping it closes its port and forgets what it held.
#[derive(Debug)]
pub(crate) struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One endpoint.
struct Server {
    reference: SecretRef,
    protocol: Endpoint,
    opened: Opened,
    run: Run,
    /// The process at the root of the run.
    root: i32,
    uid: u32,
    /// What a request of AWS's protocol has to show; the other protocol knows nothing of the kind.
    token: SharedValue,
    held: Mutex<Fresh>,
    turn: tokio::sync::Mutex<()>,
    leases: Weak<Leases>,
}

/// What is served now.
#[derive(Clone)]
struct Fresh {
    value: SharedValue,
    issued: Timestamp,
    expires: Timestamp,
}

impl Fresh {
    fn of(value: SharedValue, credential: &Credential) -> Self {
        Self { value, issued: Timestamp::now(), expires: credential.expires }
    }

    /// Tells whether it is in the first third of its life. Programs ask again well before an end that they are told of.
    fn is_young(&self, now: Timestamp) -> bool {
        let (life, age) = (self.expires - self.issued, now - self.issued);
        let of = |span| Duration::try_from(span).unwrap_or_default();
        of(age) < of(life) / 3
    }
}

/// The variables that lead a command to its endpoint.
pub(crate) type Variables = Vec<(String, SharedValue)>;

/// Opens the endpoint of a lease that is about to begin. Returns what keeps it open and the variables that lead to it.
///
/// # Errors
/// No port, or no randomness for the token.
pub(crate) async fn serve(
    seed: Seed,
    leases: &Arc<Leases>,
    root: i32,
    uid: u32,
) -> Result<(Serving, Variables), std::io::Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let token = Arc::new(token()?);
    let variables = match seed.protocol {
        Endpoint::AwsContainer => aws::variables(address, &token),
        Endpoint::GceMetadata => gce::variables(address),
    };
    let server = Arc::new(Server {
        held: Mutex::new(Fresh::of(seed.value, &seed.credential)),
        reference: seed.reference,
        protocol: seed.protocol,
        opened: seed.opened,
        run: seed.run,
        root,
        uid,
        token,
        turn: tokio::sync::Mutex::default(),
        leases: Arc::downgrade(leases),
    });
    let serving = tokio::spawn(accept(listener, address, server));
    Ok((Serving(serving.abort_handle()), variables))
}

/// Returns 256 random bits in hex.
fn token() -> std::io::Result<SecretValue> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    Ok(SecretValue::from(crate::peer::hex(&random)))
}

/// Accepts until it is aborted; the connections end with it.
async fn accept(listener: TcpListener, address: SocketAddr, server: Arc<Server>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: those who are served already will give some back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let server = server.clone();
        open.spawn(async move {
            let _place = place;
            connection(stream, Caller { local: address, peer }, server).await;
        });
        while open.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, caller: Caller, server: Arc<Server>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(&request, caller).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to an endpoint ended early");
    }
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>, caller: Caller) -> Response<Body> {
        let (root, uid) = (self.root, self.uid);
        // Reads files of the kernel, many of them for a large run.
        let is_ours = tokio::task::spawn_blocking(move || is_of_run(caller, root, uid)).await.unwrap_or(false);
        if !is_ours {
            tracing::warn!(lease = %self.run.order.lease, "an endpoint was asked by a process that is not of its run");
            return refused(
                StatusCode::FORBIDDEN,
                "this endpoint serves the processes of one run, and this is none of them",
            );
        }
        match self.protocol {
            Endpoint::AwsContainer => aws::answer(self, request).await,
            Endpoint::GceMetadata => gce::answer(self, request).await,
        }
    }

    /// Returns what is to be served, issued anew where it is no longer young.
    async fn fresh(&self) -> Result<Fresh, ProviderError> {
        let held = self.held();
        if held.is_young(Timestamp::now()) {
            return Ok(held);
        }
        let _turn = self.turn.lock().await;
        let held = self.held();
        let now = Timestamp::now();
        if held.is_young(now) {
            return Ok(held);
        }
        match self.issue().await {
            Ok(fresh) => Ok(fresh),
            // What is held may do for a while yet.
            Err(_) if now < held.expires => Ok(held),
            Err(error) => Err(error),
        }
    }

    async fn issue(&self) -> Result<Fresh, ProviderError> {
        let gone = || unsupported(&self.reference, "the lease has ended");
        let leases = self.leases.upgrade().ok_or_else(gone)?;
        let mut order = self.run.order.clone();
        order.ttl = leases.left(order.lease).ok_or_else(gone)?;
        order.key = self.run.keys.get(&self.reference.instance).cloned();
        let lease = order.lease;
        let deadline = Instant::now() + self.opened.timing.timeout;
        let wanted = std::slice::from_ref(&self.reference);
        let issued = self.opened.provider.issue(wanted, &order, deadline).await.pop();
        let Issued { value, credential, .. } = issued.unwrap_or_else(|| Err(gone()))?;
        // No record, no secret.
        let recorded = leases.prolonged(lease, wanted, credential.expires);
        recorded.map_err(|error| unsupported(&self.reference, &error.to_string()))?;
        let fresh = Fresh::of(value, &credential);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }

    fn held(&self) -> Fresh {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers with JSON that holds a credential.
fn json(body: Vec<u8>) -> Response<Body> {
    // The body is freed by hyper, and with it wiped: so is every allocation of this process.
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// Answers with a refusal, in the form that AWS's containers have and that Google's clients print.
fn refused(status: StatusCode, why: &str) -> Response<Body> {
    let body = serde_json::json!({ "code": status.canonical_reason().unwrap_or_default(), "message": why });
    let mut response = json(body.to_string().into_bytes());
    *response.status_mut() = status;
    response
}
