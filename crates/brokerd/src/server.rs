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
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::broker::Broker;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::routes;

/// How long a connection may be silent between two requests.
const SILENCE: Duration = Duration::from_secs(30);

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

async fn connection(stream: UnixStream, router: axum::Router, broker: &Broker) {
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let connection = Arc::new(Connection { socket, peer: OnceLock::new() });
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let mut router = router.clone();
        async move {
            Ok::<_, Infallible>(
                Service::call(&mut router, request.map(Body::new)).await.unwrap_or_else(|never| match never {}),
            )
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = broker.stopped() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
