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
use broker_core::principal::ProcessId;
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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;

use crate::endpoint::caller::{Caller, is_of_run};
use crate::leases::Leases;

/// How many connections of one run are open at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// How many connections are looked at, whose they are, at the same time.
const MAX_LOOKS: usize = 8;

/// What is said to others.
const NOT_OURS: &str = "this endpoint serves the processes of one run, and this is none of them";

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
    root: ProcessId,
    /// What a request names as its host. A browser that was led here by a name of its own names that.
    host: String,
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
    root: ProcessId,
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
        host: address.to_string(),
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
    let looks = Arc::new(Semaphore::new(MAX_LOOKS));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(look) = looks.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: those who are served already will give some back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (server, places) = (server.clone(), places.clone());
        open.spawn(async move {
            let caller = Caller { local: address, peer };
            // Before it takes a place: who is not of the run cannot keep the run from its own.
            let is_ours = server.is_ours(caller).await;
            drop(look);
            if !is_ours {
                tracing::warn!(lease = %server.run.order.lease, "an endpoint was asked by a process that is not of its run");
                return turn_away(stream).await;
            }
            let Ok(_place) = places.acquire_owned().await else { return };
            connection(stream, caller, server).await;
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
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(SILENCE));
    if let Err(error) = http.serve_connection(TokioIo::new(Box::pin(stream)), service).await {
        tracing::debug!(%error, "a connection to an endpoint ended early");
    }
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>, caller: Caller) -> Response<Body> {
        // Once more: a connection can be handed to another process.
        if !self.is_ours(caller).await {
            return refused(StatusCode::FORBIDDEN, NOT_OURS);
        }
        if request.headers().get(header::HOST).is_none_or(|host| host != self.host.as_str()) {
            return refused(StatusCode::FORBIDDEN, "the request names another host than this endpoint");
        }
        match self.protocol {
            Endpoint::AwsContainer => aws::answer(self, request).await,
            Endpoint::GceMetadata => gce::answer(self, request).await,
        }
    }

    /// Tells whether a connection is of a process of the run.
    async fn is_ours(&self, caller: Caller) -> bool {
        let (root, uid) = (self.root.clone(), self.uid);
        // Reads files of the kernel, many of them for a large run.
        tokio::task::spawn_blocking(move || is_of_run(caller, &root, uid)).await.unwrap_or(false)
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

/// Tells a process that is not of the run so, whatever it was about to ask, and hangs up.
async fn turn_away(mut stream: TcpStream) {
    let body = format!("{{\"code\":\"Forbidden\",\"message\":\"{NOT_OURS}\"}}");
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
    let answer = format!("{head} {}\r\n\r\n{body}", body.len());
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What it sent is read before the end, or the kernel takes the answer back.
        let mut asked = [0; 4096];
        while stream.read(&mut asked).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whoever does not listen is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
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
