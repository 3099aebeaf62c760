//! What revoking takes: every credential that is to be ended, by the run that it was issued for.
//!
//! A book in memory over a file in memory that outlives this process, so that a daemon which is killed at any moment
//! leaves nothing behind: the next one finds here what is to be ended. A run that has ended takes no more entries: what was
//! on its way to it is given back by whoever ordered it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker_core::lease::LeaseId;
use broker_providers::issue::{About, Ending, EntryId, LedgerError};
use jiff::Timestamp;

use crate::ledger_memory::LedgerMemory;

/// How long it is remembered that a run has ended: longer than any request of it can still be under way.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Longest description and longest credential of an entry, in bytes: one server is not to fill the ledger of all.
const MAX_HEAD: usize = 64 << 10;
const MAX_CREDENTIAL: usize = 16 << 10;

/// The ledger of one daemon.
pub(crate) struct Ledger {
    file: LedgerMemory,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<EntryId, Arc<Ending>>,
    closed: HashMap<LeaseId, Instant>,
}

/// One entry of the ledger.
pub(crate) type Entry = (EntryId, Arc<Ending>);

impl Ledger {
    /// Takes up what stands in the file.
    pub(crate) fn new(file: LedgerMemory) -> Arc<Self> {
        let mut book = Book::default();
        for (id, head, credential) in file.entries() {
            match serde_json::from_slice::<About>(&head) {
                Ok(about) => {
                    let ending = Ending { about, credential: Arc::new(credential) };
                    book.entries.insert(EntryId(id), Arc::new(ending));
                }
                // Of another version of this program: it cannot be ended, and ends by itself.
                Err(error) => {
                    tracing::error!(%error, "an entry of the ledger cannot be read");
                    file.strike(id);
                }
            }
        }
        Arc::new(Self { file, book: Mutex::new(book) })
    }

    /// Returns what was issued for a run.
    pub(crate) fn of_lease(&self, lease: LeaseId) -> Vec<Entry> {
        let book = self.lock();
        let of = book.entries.iter().filter(|(_, ending)| ending.about.lease == Some(lease));
        of.map(|(id, ending)| (*id, Arc::clone(ending))).collect()
    }

    /// Returns what was issued for a run that ends here, and takes no more for it.
    pub(crate) fn close(&self, lease: LeaseId) -> Vec<Entry> {
        let mut book = self.lock();
        let now = Instant::now();
        book.closed.retain(|_, since| now.duration_since(*since) < REMEMBERED);
        book.closed.insert(lease, now);
        drop(book);
        self.of_lease(lease)
    }

    /// Returns what belongs to no run of `live`: an earlier daemon was on its way to end it.
    pub(crate) fn strays(&self, live: &HashSet<LeaseId>) -> Vec<Entry> {
        let book = self.lock();
        let is_stray = |ending: &Ending| ending.about.lease.is_none_or(|lease| !live.contains(&lease));
        let strays = book.entries.iter().filter(|(_, ending)| is_stray(ending));
        strays.map(|(id, ending)| (*id, Arc::clone(ending))).collect()
    }

    /// Returns how many entries there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().entries.len()
    }

    /// Takes note that a credential lives longer now, for a later daemon too.
    pub(crate) fn prolonged(&self, entry: EntryId, expires: Timestamp) {
        let Some(ending) = self.lock().entries.get(&entry).cloned() else { return };
        let about = About { expires, ..ending.about.clone() };
        let ending = Ending { about, credential: Arc::clone(&ending.credential) };
        match broker_providers::issue::Ledger::hold(self, &ending) {
            // The new entry first: at no moment is there none.
            Ok(_) => broker_providers::issue::Ledger::strike(self, entry),
            Err(error) => tracing::error!(%error, "that a credential was prolonged is not written down"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl broker_providers::issue::Ledger for Ledger {
    fn hold(&self, ending: &Ending) -> Result<EntryId, LedgerError> {
        // Held over both steps, so that no run ends between them.
        let mut book = self.lock();
        if ending.about.lease.is_some_and(|lease| book.closed.contains_key(&lease)) {
            return Err(io::Error::other("the run that it is for has ended").into());
        }
        // Plain data always has a JSON form.
        let head = serde_json::to_vec(&ending.about).map_err(io::Error::other)?;
        if head.len() > MAX_HEAD || ending.credential.len() > MAX_CREDENTIAL {
            return Err(io::Error::other("it is larger than any credential that is to be revoked").into());
        }
        let id = EntryId(self.file.hold(&head, &ending.credential)?);
        book.entries.insert(id, Arc::new(ending.clone()));
        Ok(id)
    }

    fn strike(&self, entry: EntryId) {
        let mut book = self.lock();
        if book.entries.remove(&entry).is_some() {
            self.file.strike(entry.0);
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("entries", &self.lock().entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use broker_core::instance::InstanceSettings;
    use broker_core::secret::SecretValue;
    use broker_providers::issue::Ledger as _;
    use broker_providers::registry::Instance;

    use super::*;

    fn ending(lease: Option<u8>, credential: &str) -> Ending {
        let about = About {
            lease: lease.map(|n| LeaseId::from_random([n; 24])),
            name: "org".to_owned(),
            instance: Instance::fixed(InstanceSettings::of_kind("vault")),
            references: vec!["org://database/creds/app".parse().unwrap()],
            expires: Timestamp::MAX,
            renewable: true,
            leases: Vec::new(),
        };
        Ending { about, credential: Arc::new(SecretValue::from(credential.to_owned())) }
    }

    #[test]
    fn a_run_that_has_ended_takes_no_more_entries() {
        let ledger = Ledger::new(LedgerMemory::open(None).unwrap());
        let lease = LeaseId::from_random([1; 24]);
        let first = ledger.hold(&ending(Some(1), "one")).unwrap();
        ledger.hold(&ending(Some(2), "two")).unwrap();
        let closed = ledger.close(lease);
        assert_eq!(closed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first]);
        assert!(ledger.hold(&ending(Some(1), "late")).is_err());
        ledger.strike(first);
        assert!(ledger.of_lease(lease).is_empty());
    }

    #[test]
    fn what_belongs_to_no_live_run_is_a_stray() {
        let ledger = Ledger::new(LedgerMemory::open(None).unwrap());
        let live = HashSet::from([LeaseId::from_random([1; 24])]);
        ledger.hold(&ending(Some(1), "one")).unwrap();
        let gone = ledger.hold(&ending(Some(2), "two")).unwrap();
        let fetch = ledger.hold(&ending(None, "three")).unwrap();
        assert_eq!(ledger.strays(&live).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [gone, fetch]);
    }
}
