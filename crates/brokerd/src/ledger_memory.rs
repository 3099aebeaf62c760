//! What must outlive this process and must not be on disk: credentials that are still to be revoked.
//!
//! One anonymous memory file (memfd_create(2)) of fixed size, sealed against growing and shrinking. The keeper holds it
//! open and every daemon is its copy, so an entry that was held survives the daemon however it ends.
//! An entry is a body (what it is of, then the credential) and a slot of 64 bytes that names it; the slot is written last,
//! within one page, and carries a digest of both. A slot that does not match its body is no entry, and hides no other.
//! What was struck, or torn by a sudden end, is overwritten with zeros. The file is never mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker_core::secret::SecretValue;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, memfd_create};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The first bytes of the file, which name its format.
const FORMAT: &[u8; 16] = b"broker-ledger-1\n";

/// The size of the file.
const SIZE: u64 = 4 << 20;

/// The size of a slot; a page holds a whole number of them.
const SLOT: usize = 64;

/// How many entries there can be. Slot 0 has the format.
const MAX_ENTRIES: usize = 4096;

/// Where the bodies begin.
const BODIES: u64 = ((MAX_ENTRIES + 1) * SLOT) as u64;

/// What is read at once while nobody's bytes are sought.
const BLOCK: usize = 64 << 10;

/// What is done to the file once it has its size. Sealing it against writing would make it useless.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The entries of one memory file.
pub(crate) struct LedgerMemory {
    book: Mutex<Book>,
}

struct Book {
    file: File,
    /// By where their bodies begin.
    held: BTreeMap<u64, Held>,
    free_slots: BTreeSet<usize>,
    next_id: u64,
}

struct Held {
    slot: usize,
    id: u64,
    head: u64,
    credential: u64,
}

/// Makes an empty memory file.
///
/// # Errors
/// The kernel has no memory files (memfd_create(2)) or no memory.
pub(crate) fn create() -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("brokerd-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(SIZE)?;
    file.write_all_at(FORMAT, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

impl LedgerMemory {
    /// Opens `memory`, or a new file of this process alone. What a sudden end left torn in it is wiped.
    ///
    /// # Errors
    /// It is no file that [`create`] made, or the kernel refuses.
    pub(crate) fn open(memory: Option<OwnedFd>) -> io::Result<Self> {
        let file = File::from(memory.map_or_else(create, Ok)?);
        let mut format = [0; FORMAT.len()];
        file.read_exact_at(&mut format, 0)?;
        if &format != FORMAT || file.metadata()?.len() != SIZE || !fcntl_get_seals(&file)?.contains(SEALS) {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is no memory of a ledger"));
        }
        let mut book = Book { file, held: BTreeMap::new(), free_slots: BTreeSet::new(), next_id: 1 };
        book.read_slots()?;
        book.wipe_between()?;
        Ok(Self { book: Mutex::new(book) })
    }

    /// Holds `credential` under what it is of. When this returns, the entry survives the end of this process.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] when there is no room; what the kernel refuses. Nothing is held then.
    pub(crate) fn hold(&self, head: &[u8], credential: &SecretValue) -> io::Result<u64> {
        self.lock().hold(head, credential)
    }

    /// Strikes an entry out and wipes it. One that is none changes nothing.
    pub(crate) fn strike(&self, id: u64) {
        if let Err(error) = self.lock().strike(id) {
            tracing::error!(%error, "an entry of the ledger cannot be struck");
        }
    }

    /// Returns all entries, oldest first: id, what it is of, credential.
    pub(crate) fn entries(&self) -> Vec<(u64, Vec<u8>, SecretValue)> {
        let book = self.lock();
        let read = |(start, held): (&u64, &Held)| {
            let [head, credential] = book.body(*start, held.head, held.credential).ok()?;
            Some((held.id, head, SecretValue::new(credential)))
        };
        let mut entries: Vec<_> = book.held.iter().filter_map(read).collect();
        entries.sort_by_key(|(id, ..)| *id);
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn hold(&mut self, head: &[u8], credential: &SecretValue) -> io::Result<u64> {
        let full = || io::Error::new(ErrorKind::StorageFull, "the ledger has no room for another credential");
        let slot = *self.free_slots.first().ok_or_else(full)?;
        let held = Held { slot, id: self.next_id, head: head.len() as u64, credential: credential.len() as u64 };
        let start = self.room(held.length()).ok_or_else(full)?;
        // The one place that the credential is kept for; the file is as private as this process.
        let credential = credential.expose();
        let written = self.file.write_all_at(head, start).and_then(|()| {
            self.file.write_all_at(credential, start + held.head)?;
            self.file.write_all_at(&encoded(start, &held, head, credential), at(slot))
        });
        if let Err(error) = written {
            self.file.write_all_at(&[0; SLOT], at(slot))?;
            self.wipe(start, start + held.length())?;
            return Err(error);
        }
        self.free_slots.remove(&slot);
        self.next_id += 1;
        let id = held.id;
        self.held.insert(start, held);
        Ok(id)
    }

    fn strike(&mut self, id: u64) -> io::Result<()> {
        let Some((start, held)) = self.held.iter().find(|(_, held)| held.id == id) else { return Ok(()) };
        let (start, end, slot) = (*start, start + held.length(), held.slot);
        self.file.write_all_at(&[0; SLOT], at(slot))?;
        self.held.remove(&start);
        self.free_slots.insert(slot);
        self.wipe(start, end)?;
        if self.held.is_empty() {
            // Pages of zeros are no use to anybody. Keeping them does no harm either.
            let _ =
                fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, BODIES, SIZE - BODIES);
        }
        Ok(())
    }

    /// Returns where the first `length` bytes lie that belong to nobody.
    fn room(&self, length: u64) -> Option<u64> {
        let mut gaps = self.gaps().into_iter();
        gaps.find(|(start, end)| end - start >= length).map(|(start, _)| start)
    }

    /// Returns what lies between the bodies.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let ends = self.held.iter().map(|(start, held)| start + held.length());
        let starts = self.held.keys().copied().chain([SIZE]);
        [BODIES].into_iter().chain(ends).zip(starts).collect()
    }

    /// Reads the slots and clears those that belong to no entry.
    fn read_slots(&mut self) -> io::Result<()> {
        let mut table = vec![0; MAX_ENTRIES * SLOT];
        self.file.read_exact_at(&mut table, at(1))?;
        for (slot, bytes) in (1..).zip(table.as_chunks::<SLOT>().0) {
            if let Some((start, held)) = self.read_slot(slot, bytes)? {
                self.next_id = self.next_id.max(held.id + 1);
                self.held.insert(start, held);
                continue;
            }
            if bytes != &[0; SLOT] {
                self.file.write_all_at(&[0; SLOT], at(slot))?;
            }
            self.free_slots.insert(slot);
        }
        Ok(())
    }

    fn read_slot(&self, slot: usize, bytes: &[u8; SLOT]) -> io::Result<Option<(u64, Held)>> {
        let numbers = bytes.as_chunks::<8>().0;
        let number = |n: usize| u64::from_le_bytes(numbers[n]);
        let (start, held) = (number(1), Held { slot, id: number(0), head: number(2), credential: number(3) });
        let fits = held.head <= SIZE && held.credential <= SIZE && (BODIES..=SIZE).contains(&start);
        if !fits || held.id == 0 || held.id == u64::MAX || start + held.length() > SIZE {
            return Ok(None);
        }
        let [head, credential] = self.body(start, held.head, held.credential)?.map(Zeroizing::new);
        Ok((encoded(start, &held, &head, &credential) == *bytes).then_some((start, held)))
    }

    fn body(&self, start: u64, head: u64, credential: u64) -> io::Result<[Vec<u8>; 2]> {
        // Both are less than `SIZE`.
        let mut parts = [head, credential].map(|length| vec![0; length as usize]);
        self.file.read_exact_at(&mut parts[0], start)?;
        self.file.read_exact_at(&mut parts[1], start + head)?;
        Ok(parts)
    }

    /// Wipes what belongs to nobody and is not zero: a body without a slot, or one that was struck in part.
    fn wipe_between(&self) -> io::Result<()> {
        let mut block = Zeroizing::new(vec![0; BLOCK]);
        let zeros = vec![0; BLOCK];
        for (start, end) in self.gaps() {
            for from in (start..end).step_by(BLOCK) {
                let length = (end - from).min(BLOCK as u64) as usize;
                self.file.read_exact_at(&mut block[..length], from)?;
                if block[..length] != zeros[..length] {
                    self.file.write_all_at(&zeros[..length], from)?;
                }
            }
        }
        Ok(())
    }

    fn wipe(&self, start: u64, end: u64) -> io::Result<()> {
        self.file.write_all_at(&vec![0; (end - start) as usize], start)
    }
}

impl Held {
    /// Returns the length of the body. None is empty, so that no two begin at the same place.
    fn length(&self) -> u64 {
        (self.head + self.credential).max(1)
    }
}

/// Returns where a slot lies.
fn at(slot: usize) -> u64 {
    (slot * SLOT) as u64
}

/// Returns a slot's bytes: id, place and lengths, and a digest of these and of the body.
fn encoded(start: u64, held: &Held, head: &[u8], credential: &[u8]) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    let numbers = [held.id, start, held.head, held.credential];
    for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    let digest = Sha256::new().chain_update(&bytes[..32]).chain_update(head).chain_update(credential).finalize();
    bytes[32..].copy_from_slice(&digest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretValue {
        SecretValue::from(text.to_owned())
    }

    /// A memory file and a second descriptor of it, as the keeper has one.
    fn kept() -> (File, LedgerMemory) {
        let keeper = File::from(create().unwrap());
        let ledger = reopened(&keeper);
        (keeper, ledger)
    }

    fn reopened(keeper: &File) -> LedgerMemory {
        LedgerMemory::open(Some(keeper.try_clone().unwrap().into())).unwrap()
    }

    fn seen(ledger: &LedgerMemory) -> Vec<(u64, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        ledger.entries().iter().map(|(id, head, value)| (*id, text(head), text(value.expose()))).collect()
    }

    fn whole(keeper: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        keeper.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn contains(bytes: &[u8], wanted: &str) -> bool {
        bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    }

    #[test]
    fn what_is_held_is_there_for_whoever_opens_the_file_next() {
        let (keeper, ledger) = kept();
        let first = ledger.hold(b"vault", &secret("hvs.one")).unwrap();
        let second = ledger.hold(b"", &secret("")).unwrap();
        drop(ledger);
        let next = reopened(&keeper);
        let expected = [(first, "vault".into(), "hvs.one".into()), (second, String::new(), String::new())];
        assert_eq!(seen(&next), expected);
        let third = next.hold(b"github", &secret("ghs_three")).unwrap();
        assert!(third > second, "an id is never given twice while it is in use");
        assert_eq!(seen(&next).len(), 3);
    }

    #[test]
    fn what_is_struck_is_wiped_and_its_space_used_again() {
        let (keeper, ledger) = kept();
        let ids: Vec<_> = (0..3).map(|n| ledger.hold(b"head-word", &secret(&format!("secret-{n}"))).unwrap()).collect();
        assert!(contains(&whole(&keeper), "secret-1"), "the test can find it");
        ledger.strike(ids[1]);
        ledger.strike(ids[1]);
        assert!(!contains(&whole(&keeper), "secret-1"));
        let again = ledger.hold(b"head-word", &secret("secret-3")).unwrap();
        let starts: Vec<_> = ledger.lock().held.values().map(|held| held.id).collect();
        assert_eq!(starts, [ids[0], again, ids[2]], "by where they lie");
        for id in [ids[0], ids[2], again] {
            ledger.strike(id);
        }
        assert_eq!(whole(&keeper)[FORMAT.len()..], vec![0; whole(&keeper).len() - FORMAT.len()]);
        assert!(seen(&reopened(&keeper)).is_empty());
    }

    #[test]
    fn a_body_without_its_slot_is_no_entry_and_is_wiped() {
        let (keeper, ledger) = kept();
        let id = ledger.hold(b"a", &secret("whole")).unwrap();
        keeper.write_all_at(b"torn-credential", SIZE - 100).unwrap();
        drop(ledger);
        let next = reopened(&keeper);
        assert_eq!(seen(&next), [(id, "a".into(), "whole".into())]);
        assert!(!contains(&whole(&keeper), "torn"));
    }

    #[test]
    fn a_slot_that_is_torn_anywhere_is_no_entry_and_hides_no_other() {
        for cut in [0, 1, 8, 31, 32, 33, 63] {
            let (keeper, ledger) = kept();
            let first = ledger.hold(b"a", &secret("first")).unwrap();
            let torn = ledger.hold(b"b", &secret("torn-credential")).unwrap();
            let last = ledger.hold(b"c", &secret("last")).unwrap();
            let slot = ledger.lock().held.values().find(|held| held.id == torn).unwrap().slot;
            drop(ledger);
            keeper.write_all_at(&vec![0; SLOT - cut], at(slot) + cut as u64).unwrap();
            let next = reopened(&keeper);
            assert_eq!(seen(&next), [(first, "a".into(), "first".into()), (last, "c".into(), "last".into())], "{cut}");
            assert!(!contains(&whole(&keeper), "torn"), "{cut}");
            assert_eq!(whole(&keeper)[at(slot) as usize..][..SLOT], [0; SLOT], "{cut}");
            next.hold(b"d", &secret("its place is free")).unwrap();
            assert_eq!(seen(&reopened(&keeper)).len(), 3);
        }
    }

    #[test]
    fn an_entry_whose_body_was_struck_in_part_is_none() {
        let (keeper, ledger) = kept();
        ledger.hold(b"a", &secret("torn-credential")).unwrap();
        keeper.write_all_at(&[0; 4], BODIES).unwrap();
        drop(ledger);
        assert!(seen(&reopened(&keeper)).is_empty());
        assert!(!contains(&whole(&keeper), "credential"));
    }

    #[test]
    fn a_slot_of_absurd_numbers_is_no_entry() {
        for number in [1, SIZE, u64::MAX - 1, u64::MAX] {
            for place in 0..4 {
                let (keeper, ledger) = kept();
                ledger.hold(b"a", &secret("b")).unwrap();
                drop(ledger);
                keeper.write_all_at(&number.to_le_bytes(), at(1) + place * 8).unwrap();
                // Only what stood there before matches the digest.
                let same = number == 1 && place != 1;
                assert_eq!(seen(&reopened(&keeper)).len(), usize::from(same), "{number} {place}");
            }
        }
    }

    #[test]
    fn it_is_bounded_in_entries_and_in_bytes() {
        let ledger = LedgerMemory::open(None).unwrap();
        let large = SecretValue::new(vec![b'x'; 1 << 20]);
        let held: Vec<_> = (0..3).map(|_| ledger.hold(b"", &large).unwrap()).collect();
        assert_eq!(ledger.hold(b"", &large).unwrap_err().kind(), ErrorKind::StorageFull);
        for _ in held.len()..MAX_ENTRIES {
            ledger.hold(b"h", &secret("v")).unwrap();
        }
        assert_eq!(ledger.hold(b"h", &secret("v")).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(ledger.entries().len(), MAX_ENTRIES);
        ledger.strike(held[1]);
        ledger.hold(b"", &large).unwrap();
    }

    #[test]
    fn a_file_of_another_making_is_refused() {
        let plain = memfd_create("other", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let plain = File::from(plain);
        plain.set_len(SIZE).unwrap();
        assert!(LedgerMemory::open(Some(plain.try_clone().unwrap().into())).is_err());
        plain.write_all_at(FORMAT, 0).unwrap();
        assert!(LedgerMemory::open(Some(plain.into())).is_err(), "its size is not sealed");
        let keeper = File::from(create().unwrap());
        assert!(keeper.set_len(0).is_err() && keeper.set_len(SIZE + 1).is_err());
    }
}
