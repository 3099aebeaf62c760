//! Live leases: each is bound to one process by its pidfd and to a time, and ends with whichever ends first.
//!
//! The process, not the client's good will, ends a lease: the kernel makes the pidfd readable when the process exits,
//! is killed or crashes. Time is counted on `CLOCK_BOOTTIME`, which neither a clock that is set back nor a suspended
//! machine stretches. Every end is one audit record.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::code::ErrorCode;
use broker_core::event::Event;
use broker_core::lease::{Lease, LeaseEnd, LeaseId};
use broker_core::principal::ProcessId;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::audit::Audit;

/// Longest sleep between two looks at the clock: a suspended machine wakes with timers that slept too.
const TICK: Duration = Duration::from_secs(5);

/// The live leases of one daemon.
pub(crate) struct Leases {
    audit: Arc<Audit>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    live: HashMap<LeaseId, (Lease, Duration)>,
    by_expiry: BTreeMap<(Duration, LeaseId), ()>,
    by_process: HashMap<ProcessId, Vec<LeaseId>>,
}

impl Leases {
    /// Returns a book of leases that writes their ends to `audit`.
    pub(crate) fn new(audit: Arc<Audit>) -> Arc<Self> {
        Arc::new(Self { audit, state: Mutex::default(), changed: Notify::new() })
    }

    /// Begins a lease whose record is written already, and watches its process.
    pub(crate) fn begin(self: &Arc<Self>, lease: Lease, pidfd: Arc<OwnedFd>) {
        let left = Duration::try_from(lease.expires - Timestamp::now()).unwrap_or_default();
        let ends = since_boot() + left;
        let process = lease.process.clone();
        tracing::debug!(lease = %lease.id, pid = process.pid, names = ?lease.names, "a lease begins");
        let mut state = self.lock();
        state.by_expiry.insert((ends, lease.id), ());
        let first = !state.by_process.contains_key(&process);
        state.by_process.entry(process.clone()).or_default().push(lease.id);
        state.live.insert(lease.id, (lease, ends));
        drop(state);
        self.changed.notify_one();
        if first {
            tokio::spawn(self.clone().watch(process, pidfd));
        }
    }

    /// Waits for the process to end and ends its leases.
    async fn watch(self: Arc<Self>, process: ProcessId, pidfd: Arc<OwnedFd>) {
        let ended = async {
            let owned = pidfd.as_fd().try_clone_to_owned()?;
            #[expect(
                deprecated,
                reason = "unsound only for a type whose descriptor changes; that of an `OwnedFd` does not"
            )]
            let pidfd = AsyncFd::with_interest(owned, Interest::READABLE)?;
            pidfd.readable().await.map(drop)
        };
        if let Err(error) = ended.await {
            // Without a way to see the end of the process, the lease is not kept: narrower beats longer.
            tracing::error!(%error, "a process cannot be watched; its leases end now");
        }
        let ids = self.lock().by_process.remove(&process).unwrap_or_default();
        for id in ids {
            self.end(&id, LeaseEnd::Exit, None);
        }
    }

    /// Ends one lease; tells whether it was live.
    pub(crate) fn end(&self, id: &LeaseId, how: LeaseEnd, error: Option<ErrorCode>) -> bool {
        let mut state = self.lock();
        let Some((lease, ends)) = state.live.remove(id) else { return false };
        state.by_expiry.remove(&(ends, *id));
        // The watch of the process goes on while the process lives: a later lease joins it.
        if let Some(ids) = state.by_process.get_mut(&lease.process) {
            ids.retain(|other| other != id);
        }
        drop(state);
        tracing::debug!(lease = %id, ?how, "a lease ends");
        self.record_end(id, how, error);
        true
    }

    /// Writes the end of a lease that never became live.
    pub(crate) fn record_end(&self, id: &LeaseId, how: LeaseEnd, error: Option<ErrorCode>) {
        if let Err(error) = self.audit.append(Event::LeaseEnded { lease: *id, how, error, credentials: Vec::new() }) {
            // Nothing is delivered by an end, so there is nothing to refuse; the next start writes what is missing.
            tracing::error!(%error, "the end of a lease is not recorded");
        }
    }

    /// Ends every lease and returns how many there were.
    pub(crate) fn end_all(&self, how: LeaseEnd) -> usize {
        let ids: Vec<_> = self.lock().live.keys().cloned().collect();
        ids.iter().filter(|id| self.end(id, how, None)).count()
    }

    /// Returns the live leases, oldest first.
    pub(crate) fn list(&self) -> Vec<Lease> {
        let mut all: Vec<_> = self.lock().live.values().map(|(lease, _)| lease.clone()).collect();
        all.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        all
    }

    /// Returns how many leases are live.
    pub(crate) fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// Takes up the leases that an earlier daemon left: those whose process still runs go on, the others end.
    pub(crate) fn adopt(self: &Arc<Self>, left: Vec<Lease>) {
        for lease in left {
            match crate::peer::reopen(&lease.process) {
                Some(pidfd) if lease.expires > Timestamp::now() => self.begin(lease, Arc::new(pidfd)),
                Some(_) => self.record_end(&lease.id, LeaseEnd::Expired, None),
                None => self.record_end(&lease.id, LeaseEnd::Unattended, None),
            }
        }
    }

    /// Ends leases whose time is up, until the daemon stops.
    pub(crate) async fn expire(self: Arc<Self>) {
        loop {
            let now = since_boot();
            let (due, next) = {
                let state = self.lock();
                let due = state.by_expiry.keys().take_while(|(ends, _)| *ends <= now);
                let due: Vec<LeaseId> = due.map(|(_, id)| *id).collect();
                (due, state.by_expiry.keys().find(|(ends, _)| *ends > now).map(|(ends, _)| *ends))
            };
            for id in due {
                self.end(&id, LeaseEnd::Expired, None);
            }
            match next {
                Some(ends) => {
                    let nap = (ends - now).min(TICK);
                    let _ = tokio::time::timeout(nap, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn process_of(pid: u32) -> (ProcessId, Arc<OwnedFd>) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let start_time = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let process = ProcessId { pid: pid.cast_signed(), start_time, boot_id: crate::peer::boot_id().to_owned() };
        let pidfd = crate::peer::reopen(&process).unwrap();
        (process, Arc::new(pidfd))
    }

    fn lease(n: u8, process: &ProcessId, lasts: Duration) -> Lease {
        let started = Timestamp::now();
        Lease {
            id: LeaseId::from_random([n; 24]),
            project: "shop".into(),
            profile: "dev".into(),
            names: Vec::new(),
            argv: Vec::new(),
            process: process.clone(),
            started,
            expires: started + lasts,
            expires_since_boot_ms: 0,
            session: None,
            credentials: Vec::new(),
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn book(dir: &tempfile::TempDir) -> (Arc<Leases>, std::path::PathBuf) {
        let path = dir.path().join("audit.jsonl");
        (Leases::new(Audit::new(path.clone(), false)), path)
    }

    #[tokio::test]
    async fn a_lease_ends_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, log) = book(&dir);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let (process, pidfd) = process_of(child.id());
        leases.begin(lease(1, &process, Duration::from_secs(600)), pidfd.clone());
        leases.begin(lease(2, &process, Duration::from_secs(600)), pidfd);
        assert_eq!(leases.count(), 2);
        child.kill().unwrap();
        child.wait().unwrap();
        until("the end of both leases", || leases.count() == 0).await;
        assert_eq!(std::fs::read_to_string(log).unwrap().matches("\"how\":\"exit\"").count(), 2);
    }

    #[tokio::test]
    async fn a_lease_ends_when_its_time_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, log) = book(&dir);
        tokio::spawn(leases.clone().expire());
        let (process, pidfd) = process_of(std::process::id());
        leases.begin(lease(1, &process, Duration::from_millis(30)), pidfd.clone());
        leases.begin(lease(2, &process, Duration::from_secs(600)), pidfd);
        until("the end of the short lease", || leases.count() == 1).await;
        assert!(std::fs::read_to_string(log).unwrap().contains("\"how\":\"expired\""));
    }

    #[tokio::test]
    async fn what_an_earlier_daemon_left_goes_on_or_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, log) = book(&dir);
        let (process, _) = process_of(std::process::id());
        let dead = ProcessId { start_time: 1, ..process.clone() };
        leases.adopt(vec![lease(1, &process, Duration::from_secs(600)), lease(2, &dead, Duration::from_secs(600))]);
        assert_eq!(leases.count(), 1);
        assert!(std::fs::read_to_string(log).unwrap().contains("\"how\":\"unattended\""));
    }
}
