//! The audit log: one JSON object a line, appended before anything is delivered.
//!
//! A record's `write` completes before [`Audit::append`] returns, so it survives the death of this process at any later
//! moment; `fdatasync` follows in groups at most [`GROUP`] behind (or at once, with `audit.sync = "always"`), for the
//! death of the machine. A record that cannot be written is an error, and who needs it delivers nothing. A line torn by
//! a crash is closed on the next start, never overwritten. Also the write-ahead log of leases: what was live when a
//! daemon died is read back from here.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::event::{Event, Record};
use broker_core::lease::{Lease, LeaseEnd, LeaseId};
use broker_protocol::regular;
use jiff::Timestamp;
use tokio::sync::Notify;

/// How far `fdatasync` may lag behind a record's `write`.
pub(crate) const GROUP: Duration = Duration::from_millis(100);

/// Size at which the log is set aside as `audit.N.jsonl`.
const ROTATE_BYTES: u64 = 32 << 20;

/// Longest line that is read back, and most bytes of a log: neither is longer than what is written here.
const MAX_LINE: u64 = 8 << 20;
const MAX_READ: u64 = 4 * ROTATE_BYTES;

/// The log of one daemon.
pub(crate) struct Audit {
    path: PathBuf,
    always: bool,
    file: Mutex<Option<File>>,
    dirty: Notify,
}

/// The record could not be made durable; nothing may be delivered on its strength.
#[derive(Debug, thiserror::Error)]
#[error("the audit record cannot be written to `{path}`: {source}")]
pub(crate) struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Audit {
    /// Prepares the log at `path`; with `always`, each record is on the disk when `append` returns.
    pub(crate) fn new(path: PathBuf, always: bool) -> Arc<Self> {
        Arc::new(Self { path, always, file: Mutex::new(None), dirty: Notify::new() })
    }

    /// Returns where the log lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one record.
    ///
    /// # Errors
    /// The log cannot be opened, written or (with `always`) synced: disk full, read-only, no permission.
    pub(crate) fn append(&self, event: Event) -> Result<(), AuditError> {
        self.append_at(Timestamp::now(), event)
    }

    fn append_at(&self, time: Timestamp, event: Event) -> Result<(), AuditError> {
        let line = line(&Record { time, event });
        let mut slot = self.lock();
        let written = self.open(&mut slot).and_then(|file| {
            let before = file.metadata()?.len();
            let written =
                file.write_all(line.as_bytes()).and_then(|()| if self.always { file.sync_data() } else { Ok(()) });
            if written.is_err() {
                // Half a line would swallow the next record: take it back, and if even that fails the next open closes it.
                let _ = file.set_len(before);
            }
            written
        });
        if let Err(source) = written {
            *slot = None;
            return Err(AuditError { path: self.path.clone(), source });
        }
        drop(slot);
        if !self.always {
            self.dirty.notify_one();
        }
        Ok(())
    }

    /// Returns why the log cannot be opened for the next record, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        let mut slot = self.lock();
        self.open(&mut slot).err().map(|source| AuditError { path: self.path.clone(), source }.to_string())
    }

    /// Sets a large log aside and begins the next one with the leases that are still live.
    pub(crate) fn rotate_if_large(&self, live: Vec<Lease>) -> Result<(), AuditError> {
        self.rotate_above(ROTATE_BYTES, live)
    }

    fn rotate_above(&self, limit: u64, live: Vec<Lease>) -> Result<(), AuditError> {
        let fail = |source| AuditError { path: self.path.clone(), source };
        let mut slot = self.lock();
        let file = self.open(&mut slot).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() <= limit {
            return Ok(());
        }
        file.sync_data().map_err(fail)?;
        let aside = (1..).map(|n| self.path.with_extension(format!("{n}.jsonl"))).find(|p| !p.exists());
        std::fs::rename(&self.path, aside.unwrap_or_else(|| self.path.clone())).map_err(fail)?;
        *slot = None;
        drop(slot);
        self.append(Event::Carried { leases: live })
    }

    /// Makes records durable in groups until the process ends.
    pub(crate) async fn sync_in_groups(self: Arc<Self>) {
        loop {
            self.dirty.notified().await;
            tokio::time::sleep(GROUP / 2).await;
            let audit = self.clone();
            let _ = tokio::task::spawn_blocking(move || audit.sync()).await;
        }
    }

    /// Puts everything that was appended on the disk.
    pub(crate) fn sync(&self) {
        let clone = self.lock().as_ref().and_then(|file| file.try_clone().ok());
        if let Some(Err(error)) = clone.map(|file| file.sync_data()) {
            // What the kernel could not keep it will not report twice: reopen, so that the next record meets the fault.
            tracing::error!(%error, "the audit log cannot be synced");
            *self.lock() = None;
        }
    }

    /// Returns the leases that the log began and never ended, and how those end that had begun to.
    pub(crate) fn open_leases(&self) -> Vec<(Lease, Option<LeaseEnd>)> {
        let Ok(file) = regular::open(&self.path, OpenOptions::new().read(true)) else { return Vec::new() };
        let mut open: BTreeMap<LeaseId, (Lease, Option<LeaseEnd>)> = BTreeMap::new();
        let mut reader = BufReader::new(file.take(MAX_READ));
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).unwrap_or(false) {
            match serde_json::from_slice::<Record>(&line).map(|record| record.event) {
                Ok(Event::Request { lease: Some(lease), .. }) => drop(open.insert(lease.id, (*lease, None))),
                Ok(Event::Issued { lease, credentials }) => {
                    open.entry(lease).and_modify(|(lease, _)| lease.credentials = credentials);
                }
                Ok(Event::LeaseEnding { lease, how }) => {
                    open.entry(lease).and_modify(|(_, ending)| *ending = Some(how));
                }
                Ok(Event::LeaseEnded { lease, .. }) => drop(open.remove(&lease)),
                Ok(Event::Carried { leases }) => open.extend(leases.into_iter().map(|l| (l.id, (l, None)))),
                _ => {}
            }
        }
        open.into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open log; opens it anew when it was removed or moved away under us, or another file put in its place.
    fn open<'f>(&self, slot: &'f mut Option<File>) -> io::Result<&'f mut File> {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let there = std::fs::symlink_metadata(&self.path).ok().map(identity);
        let ours = slot.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        if there.is_none() || there != ours {
            *slot = Some(open_for_append(&self.path)?);
        }
        slot.as_mut().ok_or_else(|| io::Error::other("the log is not open"))
    }
}

/// Reads the next line; one that is too long is passed over and read as empty. Tells whether there was one.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if reader.by_ref().take(MAX_LINE).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() != Some(&b'\n') {
        line.clear();
        line.shrink_to_fit();
        loop {
            let (used, is_over) = match reader.fill_buf()? {
                [] => (0, true),
                part => part.iter().position(|byte| *byte == b'\n').map_or((part.len(), false), |at| (at + 1, true)),
            };
            reader.consume(used);
            if is_over {
                break;
            }
        }
    }
    Ok(true)
}

fn line(record: &Record) -> String {
    // A record is plain data without maps of foreign keys; it always has a JSON form.
    let mut line = serde_json::to_string(record).unwrap_or_else(|_| "{}".to_owned());
    line.push('\n');
    line
}

fn open_for_append(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut file = regular::open(path, OpenOptions::new().read(true).append(true).create(true).mode(0o600))?;
    let meta = file.metadata()?;
    if meta.len() > 0 {
        let mut last = [0];
        file.read_exact_at(&mut last, meta.len() - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(reason: &str) -> Event {
        Event::DaemonStopped { reason: reason.to_owned() }
    }

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_torn_line_is_closed_and_the_next_record_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"time\":\"2026").unwrap();
        let audit = Audit::new(path.clone(), false);
        audit.append(stopped("test")).unwrap();
        let lines: Vec<_> = text(&path).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "{\"time\":\"2026");
        assert!(serde_json::from_str::<Record>(&lines[1]).is_ok());
    }

    #[test]
    fn a_line_without_end_is_passed_over_and_not_held() {
        let endless = vec![b'x'; usize::try_from(MAX_LINE).unwrap() + 10];
        let text = [&endless[..], b"\nnext\n", &endless[..]].concat();
        let (mut reader, mut line) = (BufReader::new(&text[..]), Vec::new());
        let mut lines = Vec::new();
        while read_line(&mut reader, &mut line).unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["", "next\n", ""]);
    }

    #[test]
    fn a_log_that_was_removed_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/audit.jsonl");
        let audit = Audit::new(path.clone(), true);
        audit.append(stopped("one")).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        audit.append(stopped("two")).unwrap();
        assert!(text(&path).contains("two"));
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::new(path.clone(), false);
        audit.append(stopped("one")).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        audit.append(stopped("two")).unwrap();
        assert!(text(&path).contains("two"));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("audit.jsonl")).unwrap();
        assert!(Audit::new(dir.path().join("audit.jsonl"), false).append(stopped("x")).is_err());
        std::os::unix::fs::symlink("/dev/full", dir.path().join("full")).unwrap();
        assert!(Audit::new(dir.path().join("full"), false).append(stopped("x")).is_err());
    }

    #[test]
    fn a_large_log_is_set_aside_with_nothing_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::new(path.clone(), false);
        audit.append(stopped("one")).unwrap();
        audit.rotate_above(10, Vec::new()).unwrap();
        audit.append(stopped("two")).unwrap();
        audit.rotate_above(10, Vec::new()).unwrap();
        assert!(text(&dir.path().join("audit.1.jsonl")).contains("one"));
        assert!(text(&dir.path().join("audit.2.jsonl")).contains("two"));
    }
}
