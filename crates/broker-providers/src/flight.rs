//! One fetch under way, which any number of callers wait for.
//!
//! It runs as a task of its own: a caller that goes away does not take it from the others. Its end is the drop of its
//! sender, so that a task that panics or is dropped ends it too and nobody waits for ever.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use broker_core::reference::SecretRef;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::provider::{Fetched, ProviderError};

/// What a fetch brought, by reference.
pub(crate) type Brought = HashMap<SecretRef, Result<Fetched, ProviderError>>;

/// The side of those who wait.
#[derive(Debug)]
pub(crate) struct Flight {
    brought: OnceLock<Brought>,
    ended: watch::Receiver<()>,
    /// Whether it was started to see past what is held.
    pub(crate) refresh: bool,
    /// When it ends at the latest.
    pub(crate) until: Instant,
}

/// The side of the task. Dropping it ends the flight.
#[derive(Debug)]
pub(crate) struct Pilot {
    flight: Arc<Flight>,
    _ends: watch::Sender<()>,
}

/// How waiting ended.
pub(crate) enum Landing<'a> {
    /// The flight ended and brought this.
    Brought(&'a Brought),
    /// The flight ended without a result: its task panicked or was dropped.
    Lost,
    /// The waiter's own deadline came first.
    Late,
}

impl Flight {
    /// Returns a flight and the side that must end it.
    pub(crate) fn new(refresh: bool, until: Instant) -> (Arc<Self>, Pilot) {
        let (sender, ended) = watch::channel(());
        let flight = Arc::new(Self { brought: OnceLock::new(), ended, refresh, until });
        (Arc::clone(&flight), Pilot { flight, _ends: sender })
    }

    /// Tells whether it has ended, or will this very moment without an answer: nobody joins it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.has_changed().is_err() || Instant::now() >= self.until
    }

    /// Waits for the end, at most until `deadline`.
    pub(crate) async fn landed(&self, deadline: Instant) -> Landing<'_> {
        let mut ended = self.ended.clone();
        // Nothing is ever sent: the only news is that the sender is gone.
        if timeout_at(deadline, ended.changed()).await.is_err() {
            return Landing::Late;
        }
        self.brought.get().map_or(Landing::Lost, Landing::Brought)
    }
}

impl Pilot {
    /// Returns the flight.
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Ends the flight with what it brought.
    pub(crate) fn land(self, brought: Brought) {
        // A pilot lands once: it is consumed.
        let _ = self.flight.brought.set(brought);
    }
}
