//! Live leases: each is bound to one process by its pidfd and to a time, and ends with whichever ends first.
//!
//! The process, not the client's good will, ends a lease: the kernel makes the pidfd readable when the process exits,
//! is killed or crashes. Time is counted on `CLOCK_BOOTTIME`, which neither a clock that is set back nor a suspended
//! machine stretches. What was issued for a lease is prolonged while it lives and revoked when it ends, and then its end is
//! one audit record.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::code::ErrorCode;
use broker_core::event::Event;
use broker_core::lease::{Credential, CredentialEnd, EndedCredential, Lease, LeaseEnd, LeaseId, WatchSignal};
use broker_core::principal::ProcessId;
use broker_core::reference::SecretRef;
use jiff::Timestamp;
use rustix::process::{Signal, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::audit::{Audit, AuditError};
use crate::endpoint::Serving;
use crate::fetch::Stores;
use crate::ledger::{Entry, Ledger};
use crate::revocation;

/// Longest sleep between two looks at the clock: a suspended machine wakes with timers that slept too.
const TICK: Duration = Duration::from_secs(5);

/// Shortest sleep between two looks at what is to be prolonged.
const SHORTEST_NAP: Duration = Duration::from_millis(100);

/// After how long a failed renewal is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long one renewal may take.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// The live leases of one daemon.
pub(crate) struct Leases {
    audit: Arc<Audit>,
    ledger: Arc<Ledger>,
    stores: Arc<Stores>,
    state: Mutex<State>,
    /// A lease began: the next one to expire may be another.
    began: Notify,
    /// A lease has ended with all that was issued for it.
    ended: Notify,
}

#[derive(Default)]
struct State {
    live: HashMap<LeaseId, Live>,
    /// Those whose credentials are being revoked.
    ending: HashSet<LeaseId>,
    by_expiry: BTreeMap<(Duration, LeaseId), ()>,
    by_process: HashMap<ProcessId, Vec<LeaseId>>,
    /// How many are live of each project that has any.
    by_project: HashMap<String, usize>,
    /// How often all leases were ended.
    epoch: u64,
    /// How many tasks end what belongs to no lease.
    strays: usize,
}

struct Live {
    lease: Lease,
    /// Since boot.
    ends: Duration,
    pidfd: Arc<OwnedFd>,
    /// What is served to the process; it is closed when this is dropped.
    _endpoints: Vec<Serving>,
}

impl Leases {
    /// Returns a book of leases that writes their ends to `audit` and revokes what `ledger` holds for them.
    pub(crate) fn new(audit: Arc<Audit>, ledger: Arc<Ledger>, stores: Arc<Stores>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { audit, ledger, stores, state, began: Notify::new(), ended: Notify::new() })
    }

    /// Returns the present epoch: another one begins whenever all leases are ended.
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Begins a lease whose record is written already, and watches its process. Tells whether it did: not when all leases
    /// were ended since `epoch`, and this one was too late to be among them.
    pub(crate) fn begin(
        self: &Arc<Self>,
        lease: Lease,
        pidfd: Arc<OwnedFd>,
        endpoints: Vec<Serving>,
        epoch: u64,
    ) -> bool {
        let ends = Duration::from_millis(lease.expires_since_boot_ms);
        let (id, process) = (lease.id, lease.process.clone());
        tracing::debug!(lease = %id, pid = process.pid, names = ?lease.names, "a lease begins");
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        state.by_expiry.insert((ends, id), ());
        let first = !state.by_process.contains_key(&process);
        state.by_process.entry(process.clone()).or_default().push(id);
        *state.by_project.entry(lease.project.clone()).or_default() += 1;
        state.live.insert(id, Live { lease, ends, pidfd: pidfd.clone(), _endpoints: endpoints });
        drop(state);
        self.began.notify_one();
        if first {
            tokio::spawn(self.clone().watch(process, pidfd));
        }
        if self.ledger.of_lease(id).iter().any(|(_, ending)| ending.about.renewable) {
            tokio::spawn(self.clone().renew(id));
        }
        true
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
            self.end(id, LeaseEnd::Exit, None);
        }
    }

    /// Prolongs what was issued for a lease ahead of its end, for as long as the lease lives and no longer.
    async fn renew(self: Arc<Self>, id: LeaseId) {
        let began = Timestamp::now();
        // When each was prolonged last: a third of its life before its end it is prolonged again.
        let mut since: HashMap<Vec<SecretRef>, Timestamp> = HashMap::new();
        loop {
            let Some(left) = self.left(id) else { return };
            let entries = self.ledger.of_lease(id);
            let mut next = TICK;
            for (entry, ending) in entries.iter().filter(|(_, ending)| ending.about.renewable) {
                let (now, expires) = (Timestamp::now(), ending.about.expires);
                let last = *since.get(&ending.about.references).unwrap_or(&began);
                let life = Duration::try_from(expires - last).unwrap_or_default();
                let due = Duration::try_from(expires - now).unwrap_or_default().saturating_sub(life / 3);
                if !due.is_zero() {
                    next = next.min(due);
                    continue;
                }
                // What lasts as long as its run needs no more.
                if Duration::try_from(expires - now).unwrap_or_default() >= left {
                    continue;
                }
                match self.stores.renew(ending, left, Instant::now() + RENEW_WITHIN).await {
                    Ok(expires) => {
                        since.insert(ending.about.references.clone(), now);
                        self.ledger.prolonged(*entry, expires);
                        if let Err(error) = self.prolonged(id, &ending.about.references, expires) {
                            // Nothing new is delivered by it.
                            tracing::error!(lease = %id, %error, "what was prolonged is not recorded");
                        }
                        // When it is due again says the next look.
                        next = SHORTEST_NAP;
                    }
                    Err(error) => {
                        tracing::warn!(lease = %id, %error, "a credential is not renewed");
                        next = next.min(AGAIN);
                    }
                }
            }
            tokio::time::sleep(next.max(SHORTEST_NAP)).await;
        }
    }

    /// Takes note that a credential of a live lease lasts until `expires`, and puts it on record.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub(crate) fn prolonged(
        &self,
        id: LeaseId,
        references: &[SecretRef],
        expires: Timestamp,
    ) -> Result<(), AuditError> {
        let mut state = self.lock();
        let Some(live) = state.live.get_mut(&id) else { return Ok(()) };
        for credential in live.lease.credentials.iter_mut().filter(|credential| credential.references == references) {
            credential.expires = expires;
        }
        let credentials = live.lease.credentials.clone();
        drop(state);
        self.audit.append(Event::Issued { lease: id, credentials })
    }

    /// Returns how much longer a lease may live; nothing when it does not.
    pub(crate) fn left(&self, id: LeaseId) -> Option<Duration> {
        let ends = self.lock().live.get(&id)?.ends;
        Some(ends.saturating_sub(since_boot())).filter(|left| !left.is_zero())
    }

    /// Ends one lease; tells whether it was live. What was issued for it is revoked by and by, and then its end is recorded.
    pub(crate) fn end(self: &Arc<Self>, id: LeaseId, how: LeaseEnd, error: Option<ErrorCode>) -> bool {
        let mut state = self.lock();
        let Some(Live { lease, ends, pidfd, .. }) = state.live.remove(&id) else { return false };
        state.by_expiry.remove(&(ends, id));
        if let Some(count) = state.by_project.get_mut(&lease.project) {
            *count -= 1;
            if *count == 0 {
                state.by_project.remove(&lease.project);
            }
        }
        // The watch of the process goes on while the process lives: a later lease joins it.
        if let Some(ids) = state.by_process.get_mut(&lease.process) {
            ids.retain(|other| *other != id);
        }
        drop(state);
        tracing::debug!(lease = %id, ?how, "a lease ends");
        if let Some(signal) = lease.watch.filter(|_| how != LeaseEnd::Exit) {
            // It may end in this very moment: then there is nobody to tell.
            let _ = pidfd_send_signal(&pidfd, signal_of(signal));
        }
        self.finish(id, lease.credentials, how, error);
        true
    }

    /// Ends what was issued for a lease that is not live, or no longer, and then records how the lease ended.
    pub(crate) fn finish(
        self: &Arc<Self>,
        id: LeaseId,
        credentials: Vec<Credential>,
        how: LeaseEnd,
        error: Option<ErrorCode>,
    ) {
        let entries = self.ledger.close(id);
        let is_held = |c: &Credential| entries.iter().any(|(_, ending)| ending.about.references == c.references);
        let rest = credentials.into_iter().filter(|credential| !credential.revocable || !is_held(credential));
        let dropped = rest.map(|Credential { references, expires, revocable, .. }| EndedCredential {
            references,
            end: if revocable { CredentialEnd::Lost } else { CredentialEnd::Dropped },
            expires: Some(expires).filter(|expires| *expires > Timestamp::now()),
        });
        let mut ended: Vec<_> = dropped.collect();
        if entries.is_empty() {
            return self.record_end(id, how, error, ended);
        }
        if let Err(error) = self.audit.append(Event::LeaseEnding { lease: id, how }) {
            tracing::error!(%error, "that a lease is ending is not recorded");
        }
        self.lock().ending.insert(id);
        let leases = self.clone();
        tokio::spawn(async move {
            ended.extend(revocation::revoke(&leases.stores, &leases.ledger, entries).await);
            leases.record_end(id, how, error, ended);
            leases.lock().ending.remove(&id);
            leases.ended.notify_waiters();
        });
    }

    /// Ends what was issued under a lease that was never recorded: it served a look and no run.
    /// Returns how much there was.
    pub(crate) fn give_back(self: &Arc<Self>, id: LeaseId) -> usize {
        let entries = self.ledger.close(id);
        let count = entries.len();
        self.revoke_strays(entries);
        count
    }

    fn record_end(&self, lease: LeaseId, how: LeaseEnd, error: Option<ErrorCode>, credentials: Vec<EndedCredential>) {
        if let Err(error) = self.audit.append(Event::LeaseEnded { lease, how, error, credentials }) {
            // Nothing is delivered by an end, so there is nothing to refuse; the next start writes what is missing.
            tracing::error!(%error, "the end of a lease is not recorded");
        }
    }

    /// Waits until everything that was issued for ended leases has ended too, at most `within`. Returns how many leases are
    /// still ending.
    pub(crate) async fn settled(&self, within: Duration) -> usize {
        let until = Instant::now() + within;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Before the look, so that no end between the two is missed.
            ended.as_mut().enable();
            let ending = {
                let state = self.lock();
                state.ending.len() + state.strays
            };
            if ending == 0 || tokio::time::timeout_at(until, ended).await.is_err() {
                return ending;
            }
        }
    }

    /// Ends every lease and returns how many there were.
    pub(crate) fn end_all(self: &Arc<Self>, how: LeaseEnd) -> usize {
        let ids: Vec<_> = {
            let mut state = self.lock();
            state.epoch += 1;
            state.live.keys().copied().collect()
        };
        ids.into_iter().filter(|id| self.end(*id, how, None)).count()
    }

    /// Ends the leases for which something was issued that only this daemon can revoke, and returns how many there were.
    pub(crate) fn end_revocable(self: &Arc<Self>, how: LeaseEnd) -> usize {
        let is_revocable = |live: &Live| live.lease.credentials.iter().any(|credential| credential.revocable);
        let ids: Vec<_> = {
            let mut state = self.lock();
            state.epoch += 1;
            state.live.iter().filter(|(_, live)| is_revocable(live)).map(|(id, _)| *id).collect()
        };
        ids.into_iter().filter(|id| self.end(*id, how, None)).count()
    }

    /// Returns the live leases, oldest first.
    pub(crate) fn list(&self) -> Vec<Lease> {
        let mut all: Vec<_> = self.lock().live.values().map(|live| live.lease.clone()).collect();
        all.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        all
    }

    /// Returns how many leases are live or still ending.
    pub(crate) fn count(&self) -> usize {
        let state = self.lock();
        state.live.len() + state.ending.len()
    }

    /// Returns how many credentials stand in the ledger.
    pub(crate) fn credentials(&self) -> usize {
        self.ledger.count()
    }

    /// Returns how many leases of a project are live.
    pub(crate) fn count_of(&self, project: &str) -> usize {
        self.lock().by_project.get(project).copied().unwrap_or_default()
    }

    /// Takes up the leases that an earlier daemon left: those whose process still runs go on, the others end. What was
    /// issued for no lease that goes on is revoked.
    pub(crate) fn adopt(self: &Arc<Self>, left: Vec<(Lease, Option<LeaseEnd>)>) {
        let mut known = HashSet::new();
        for (lease, ending) in left {
            known.insert(lease.id);
            if let Some(how) = ending {
                self.finish(lease.id, lease.credentials, how, None);
                continue;
            }
            match crate::peer::reopen(&lease.process) {
                // Of this boot, since its process is: that clock stands still for nobody.
                Some(pidfd) if Duration::from_millis(lease.expires_since_boot_ms) > since_boot() => {
                    self.begin(lease, Arc::new(pidfd), Vec::new(), self.epoch());
                }
                Some(_) => self.finish(lease.id, lease.credentials, LeaseEnd::Expired, None),
                None => self.finish(lease.id, lease.credentials, LeaseEnd::Unattended, None),
            }
        }
        self.revoke_strays(self.ledger.strays(&known));
    }

    /// Ends entries that belong to no lease any more, with nobody waiting but a daemon that stops.
    fn revoke_strays(self: &Arc<Self>, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        tracing::info!(count = entries.len(), "credentials of no lease are revoked");
        self.lock().strays += 1;
        let leases = self.clone();
        tokio::spawn(async move {
            revocation::revoke(&leases.stores, &leases.ledger, entries).await;
            leases.lock().strays -= 1;
            leases.ended.notify_waiters();
        });
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
                self.end(id, LeaseEnd::Expired, None);
            }
            match next {
                Some(ends) => {
                    let nap = (ends - now).min(TICK);
                    let _ = tokio::time::timeout(nap, self.began.notified()).await;
                }
                None => self.began.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_of(signal: WatchSignal) -> Signal {
    match signal {
        WatchSignal::Hup => Signal::HUP,
        WatchSignal::Int => Signal::INT,
        WatchSignal::Quit => Signal::QUIT,
        WatchSignal::Term => Signal::TERM,
        WatchSignal::Usr1 => Signal::USR1,
        WatchSignal::Usr2 => Signal::USR2,
    }
}

/// Returns the time since boot, which goes on while the machine sleeps and which nobody sets.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use broker_providers::registry::Context;

    use super::*;
    use crate::ledger_memory::LedgerMemory;

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
            expires_since_boot_ms: (since_boot() + lasts).as_millis() as u64,
            session: None,
            credentials: Vec::new(),
            watch: None,
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
        let ledger = Ledger::new(LedgerMemory::open(None).unwrap());
        let context = Context { data_dir: dir.path().to_owned(), keyring: false, ledger: ledger.clone() };
        (Leases::new(Audit::new(path.clone(), false), ledger, Arc::new(Stores::new(context))), path)
    }

    #[tokio::test]
    async fn a_lease_ends_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, log) = book(&dir);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let (process, pidfd) = process_of(child.id());
        leases.begin(lease(1, &process, Duration::from_secs(600)), pidfd.clone(), Vec::new(), 0);
        leases.begin(lease(2, &process, Duration::from_secs(600)), pidfd, Vec::new(), 0);
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
        leases.begin(lease(1, &process, Duration::from_millis(30)), pidfd.clone(), Vec::new(), 0);
        leases.begin(lease(2, &process, Duration::from_secs(600)), pidfd, Vec::new(), 0);
        until("the end of the short lease", || leases.count() == 1).await;
        assert!(std::fs::read_to_string(log).unwrap().contains("\"how\":\"expired\""));
    }

    #[tokio::test]
    async fn a_lease_that_was_under_way_when_all_were_ended_does_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, _) = book(&dir);
        let (process, pidfd) = process_of(std::process::id());
        let lasting = || lease(1, &process, Duration::from_secs(600));
        let before = leases.epoch();
        leases.end_all(LeaseEnd::Ended);
        assert!(!leases.begin(lasting(), pidfd.clone(), Vec::new(), before));
        assert_eq!(leases.count(), 0);
        assert!(leases.begin(lasting(), pidfd.clone(), Vec::new(), leases.epoch()));
        leases.end_revocable(LeaseEnd::Stopped);
        assert!(!leases.begin(lease(2, &process, Duration::from_secs(600)), pidfd, Vec::new(), before + 1));
    }

    #[tokio::test]
    async fn what_an_earlier_daemon_left_goes_on_or_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, log) = book(&dir);
        let (process, _) = process_of(std::process::id());
        let dead = ProcessId { start_time: 1, ..process.clone() };
        // A clock that was set back would give it years more.
        let over = Lease { expires: Timestamp::MAX, ..lease(3, &process, Duration::ZERO) };
        let lasting = Duration::from_secs(600);
        let told = lease(4, &process, lasting);
        let left = [lease(1, &process, lasting), lease(2, &dead, lasting), over].map(|lease| (lease, None));
        leases.adopt(left.into_iter().chain([(told, Some(LeaseEnd::Ended))]).collect());
        assert_eq!(leases.count(), 1);
        assert!(std::fs::read_to_string(&log).unwrap().contains("\"how\":\"ended\""));
        assert!(std::fs::read_to_string(&log).unwrap().contains("\"how\":\"expired\""));
        assert!(std::fs::read_to_string(log).unwrap().contains("\"how\":\"unattended\""));
    }
}
