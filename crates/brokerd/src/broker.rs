//! Everything one daemon holds, shared by all its connections.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broker_core::event::Event;
use broker_core::lease::LeaseEnd;
use broker_policy::Policy;
use broker_protocol::directories::Directories;
use broker_protocol::message::{PROTOCOL, Status};
use broker_providers::registry::Context;
use tokio::sync::{Notify, Semaphore, watch};

use crate::audit::Audit;
use crate::config::ConfigFiles;
use crate::fetch::Stores;
use crate::give_back::give_back;
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::ledger_memory::LedgerMemory;
use crate::project::Projects;
use crate::quota::Quota;
use crate::scopes::Scopes;
use crate::server::BODIES_KIB;
use crate::trust::Trust;

/// The broker of one user.
pub(crate) struct Broker {
    /// Whom it serves.
    pub(crate) owner: u32,
    /// Where its files lie.
    pub(crate) directories: Directories,
    /// The configuration files.
    pub(crate) config: ConfigFiles,
    /// The manifests parsed so far.
    pub(crate) projects: Projects,
    /// The manifests agreed to.
    pub(crate) trust: Trust,
    /// The rules in force.
    pub(crate) policy: Policy,
    /// The log.
    pub(crate) audit: Arc<Audit>,
    /// The live leases.
    pub(crate) leases: Arc<Leases>,
    /// The providers.
    pub(crate) stores: Arc<Stores>,
    /// How much each project had lately.
    pub(crate) quota: Quota,
    /// For whom secrets are fetched.
    pub(crate) scopes: Scopes,
    started: Instant,
    grants: AtomicU64,
    connections: AtomicUsize,
    last_activity: Mutex<Instant>,
    quiet: Notify,
    /// What the bodies of requests under way may hold, in KiB.
    pub(crate) bodies: Arc<Semaphore>,
    stop: watch::Sender<Option<&'static str>>,
}

/// How long nobody is connected before a burst counts as over.
const QUIET: Duration = Duration::from_millis(100);

/// How long a daemon that stops waits for managers to revoke what was issued.
const LAST_REVOCATIONS: Duration = Duration::from_secs(5);

impl Broker {
    /// Returns a broker that holds nothing yet but what `memory` does.
    pub(crate) fn new(directories: &Directories, memory: LedgerMemory) -> Arc<Self> {
        let config = ConfigFiles::new(&directories.config);
        // A broken file refuses requests; until it is mended, records are kept the careful way.
        let always = config.current().map_or(true, |config| config.sync_always());
        let audit = Audit::new(directories.state.join("audit.jsonl"), always);
        let keyring = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some_and(|address| !address.is_empty());
        let ledger = Ledger::new(memory);
        let context = Context { data_dir: directories.data.clone(), keyring, ledger: ledger.clone() };
        let stores = Arc::new(Stores::new(context));
        let owner = rustix::process::getuid().as_raw();
        Arc::new(Self {
            owner,
            directories: directories.clone(),
            config,
            projects: Projects::default(),
            trust: Trust::new(directories.state.join("trust.json")),
            policy: Policy::shipped(),
            leases: Leases::new(audit.clone(), ledger, stores.clone()),
            audit,
            stores,
            quota: Quota::default(),
            scopes: Scopes::new(owner),
            started: Instant::now(),
            grants: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            last_activity: Mutex::new(Instant::now()),
            quiet: Notify::new(),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            stop: watch::Sender::new(None),
        })
    }

    /// Takes up what an earlier daemon left, and starts what runs beside the requests.
    pub(crate) fn begin(self: &Arc<Self>, socket: Option<PathBuf>) {
        self.leases.adopt(self.audit.open_leases());
        let started = Event::DaemonStarted { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
        if let Err(error) = self.audit.append(started) {
            tracing::error!(%error, "nothing is delivered until the audit log can be written");
        }
        tokio::spawn(self.audit.clone().sync_in_groups());
        tokio::spawn(self.leases.clone().expire());
        tokio::spawn(self.clone().keep_house(socket));
        tokio::spawn(self.clone().give_back_after_bursts());
    }

    /// Stops a daemon that has no work or cannot be reached any more, and sets a large log aside.
    async fn keep_house(self: Arc<Self>, socket: Option<PathBuf>) {
        loop {
            if socket.as_ref().is_some_and(|socket| !socket.exists()) {
                return self.stop("the socket was removed");
            }
            let idle = self.config.current().map_or(Duration::MAX, |config| config.idle());
            let quiet = self.last_activity.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let busy = self.connections.load(Ordering::Acquire) > 0 || self.leases.count() > 0;
            if !busy && quiet >= idle {
                return self.stop("idle");
            }
            if let Err(error) = self.audit.rotate_if_large(self.leases.list()) {
                tracing::error!(%error, "the audit log cannot be set aside");
            }
            let left = if busy { idle } else { idle.saturating_sub(quiet) };
            tokio::time::sleep(left.clamp(Duration::from_millis(50), Duration::from_secs(30))).await;
        }
    }

    /// Gives memory back when nobody is connected any more and managers were asked since the last time.
    async fn give_back_after_bursts(self: Arc<Self>) {
        let mut asked_before = 0;
        loop {
            self.quiet.notified().await;
            tokio::time::sleep(QUIET).await;
            let asked = self.stores.calls();
            if asked != asked_before && self.connections.load(Ordering::Acquire) == 0 {
                asked_before = asked;
                let _ = tokio::task::spawn_blocking(give_back).await;
            }
        }
    }

    /// Counts a connection as long as the returned value lives.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::AcqRel);
        Connected(self.clone())
    }

    /// Counts a grant.
    pub(crate) fn count_grant(&self) {
        self.grants.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets the daemon end soon.
    pub(crate) fn stop(&self, reason: &'static str) {
        self.stop.send_replace(Some(reason));
    }

    /// Waits until the daemon shall end and returns why.
    pub(crate) async fn stopped(&self) -> &'static str {
        let mut stop = self.stop.subscribe();
        let reason = stop.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or("stopped")
    }

    /// Ends what only this daemon can revoke, writes the last record and puts the log on the disk.
    pub(crate) async fn end(&self, reason: &str) {
        self.leases.end_revocable(LeaseEnd::Stopped);
        // Those too that were under way already.
        let left = self.leases.settled(LAST_REVOCATIONS).await;
        if left > 0 {
            tracing::error!(left, "the managers of some leases could not be asked; what they issued ends by itself");
        }
        if let Err(error) = self.audit.append(Event::DaemonStopped { reason: reason.to_owned() }) {
            tracing::error!(%error, "the end of the daemon is not recorded");
        }
        self.audit.sync();
    }

    /// Returns what `daemon status` shows.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            leases: self.leases.count(),
            credentials: self.leases.credentials(),
            cached_values: 0,
            calls: Vec::new(),
            grants: self.grants.load(Ordering::Relaxed),
            local_store: String::new(),
            local_store_key: String::new(),
            audit: self.audit.path().to_owned(),
            audit_problem: self.audit.problem(),
            config: self.config.current().map(|config| config.files.clone()).unwrap_or_default(),
        };
        self.stores.describe(&mut status);
        status
    }
}

/// One open connection.
pub(crate) struct Connected(Arc<Broker>);

impl Drop for Connected {
    fn drop(&mut self) {
        *self.0.last_activity.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.0.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.quiet.notify_one();
        }
    }
}
