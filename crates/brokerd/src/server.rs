//! The Unix socket: accepts connections, bounds them, and lets the routes answer.
//!
//! A connection that says nothing is closed after [`SILENCE`] and disturbs nobody; at most [`MAX_CONNECTIONS`] are open
//! at once, more wait in the kernel's queue.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use broker_protocol::message::MAX_MESSAGE_BYTES;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::broker::Broker;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::routes;

/// How long a connection may be silent between two requests.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a new connection may take to be attested.
const FIRST: Duration = Duration::from_secs(5);

/// How long a request's body may take to come, and each part of an answer to be taken.
const BODY: Duration = Duration::from_secs(10);

/// What the bodies of all requests together may hold, in KiB.
pub(crate) const BODIES_KIB: usize = 64 << 10;

/// How many connections are open at once.
const MAX_CONNECTIONS: usize = 1024;

/// How long requests that are under way may still take when the daemon stops.
const DRAIN: Duration = Duration::from_secs(2);

/// One connection and, once it was attested, its peer.
pub(crate) struct Connection {
    socket: OwnedFd,
    peer: OnceLock<Peer>,
}

impl Connection {
    /// Takes the first look at the peer.
    ///
    /// # Errors
    /// It cannot be attested.
    pub(crate) fn attest(&self, owner: u32) -> Result<(), Refusal> {
        let peer = Peer::attest(&self.socket, owner)?;
        // A second `attest` on one connection changes nothing: the first look stands.
        let _ = self.peer.set(peer);
        Ok(())
    }

    /// Returns the attested peer.
    ///
    /// # Errors
    /// [`Refusal::NotAttested`].
    pub(crate) fn peer(&self) -> Result<&Peer, Refusal> {
        self.peer.get().ok_or(Refusal::NotAttested)
    }
}

/// Serves until the broker is told to stop; requests that are under way are finished.
pub(crate) async fn serve(listener: UnixListener, broker: Arc<Broker>) {
    let router = routes::router(broker.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = TaskTracker::new();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, stream) = tokio::select! {
            _ = broker.stopped() => break,
            accepted = accepted => match accepted {
                Some((place, Ok((stream, _)))) => (place, stream),
                Some((_, Err(error))) => {
                    // Out of descriptors or memory: those who are served already will give some back.
                    tracing::error!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                None => break,
            },
        };
        let (router, broker) = (router.clone(), broker.clone());
        open.spawn(async move {
            let _counted = (place, broker.connected());
            connection(stream, router, &broker).await;
        });
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!("requests that did not end in time are cut off");
    }
}

/// Ends when a connection had its time to say who it is and did not.
async fn unattested(connection: &Connection) {
    tokio::time::sleep(FIRST).await;
    if connection.peer.get().is_some() {
        std::future::pending::<()>().await;
    }
}

/// Reads a request's body whole, within its time and within what all bodies together may hold.
///
/// Only an attested peer may send one. What is read counts against the budget for as long as the returned permit lives.
async fn whole(
    request: Request<Incoming>,
    connection: &Arc<Connection>,
    budget: &Arc<Semaphore>,
) -> Result<(Request<Body>, Option<OwnedSemaphorePermit>), Refusal> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(connection.clone());
    if body.is_end_stream() {
        return Ok((Request::from_parts(head, Body::empty()), None));
    }
    connection.peer()?;
    let announced = body.size_hint().upper().unwrap_or(u64::MAX);
    let limit = MAX_MESSAGE_BYTES.min(usize::try_from(announced).unwrap_or(usize::MAX));
    let read = async {
        let kib = u32::try_from(limit.div_ceil(1024)).unwrap_or(u32::MAX);
        let held = budget.clone().acquire_many_owned(kib).await.ok();
        (axum::body::to_bytes(Body::new(body), limit).await, held)
    };
    match tokio::time::timeout(BODY, read).await {
        Ok((Ok(bytes), held)) => Ok((Request::from_parts(head, Body::from(bytes)), held)),
        Ok((Err(_), _)) => Err(Refusal::Malformed("its body is cut off or too large".into())),
        Err(_) => Err(Refusal::Malformed("its body did not come in time".into())),
    }
}

async fn connection(stream: UnixStream, router: axum::Router, broker: &Broker) {
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let connection = Arc::new(Connection { socket, peer: OnceLock::new() });
    let waiting = connection.clone();
    let budget = broker.bodies.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (connection, mut router, budget) = (connection.clone(), router.clone(), budget.clone());
        async move {
            let response = match whole(request, &connection, &budget).await {
                Ok((request, _held)) => {
                    Service::call(&mut router, request).await.unwrap_or_else(|never| match never {})
                }
                Err(refusal) => routes::refuse(&refusal),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(BODY));
    let serving = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = unattested(&waiting) => {
            tracing::debug!("a connection that said nothing is closed");
            return;
        }
        _ = broker.stopped() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
