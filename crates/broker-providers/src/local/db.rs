//! The database of the embedded store: sealed records in `store.redb`.
//!
//! Two tables. `heads` has one record per secret: its name, its current version and the versions kept. `values` has one
//! record per kept version. Keys are keyed digests of names, so no name can be read from the disk or guessed at. Every
//! change is one transaction of redb, on disk before it is acknowledged; a killed writer or a torn write leaves the state
//! before it or after it. Freed pages keep sealed bytes until they are written anew. Someone who can put an older copy of
//! the whole file in place is not noticed. Everything here blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_core::reference::Version;
use broker_core::secret::SecretValue;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::{Deserialize, Serialize};

use crate::local::crypto::{Key, NoRandom, derive, mac, open, seal};
use crate::local::files::{self, FileError};
use crate::provider::{Described, DescribedVersion, Listed, Stage};
use crate::words::chain;

/// The name of the file.
pub(crate) const DB_FILE: &str = "store.redb";

const HEADS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("heads");
const VALUES: TableDefinition<'_, (&[u8], u64), &[u8]> = TableDefinition::new("values");
/// How many versions of a secret are kept, the current one included.
const KEPT: usize = 5;
/// Memory for pages, in bytes. They are sealed.
const CACHE: usize = 2 << 20;

/// Why the database did not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// redb's own words: damaged, full disk, held by another process.
    #[error("`{DB_FILE}`: {0}")]
    Database(String),
    /// A record that does not open.
    #[error("a record of `{DB_FILE}` is damaged or of another store")]
    Damaged,
    /// Its content was lost: a database that was made is never empty.
    #[error("`{DB_FILE}` was cut off: it is empty")]
    Empty,
    /// The file was removed or replaced under us.
    #[error("`{DB_FILE}` was removed or replaced")]
    Gone,
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

macro_rules! from_redb {
    ($($error:ty),*) => { $(impl From<$error> for DbError {
        fn from(error: $error) -> Self {
            Self::Database(chain(&error))
        }
    })* };
}
from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// The keys under which records are sealed and names are hidden.
pub(crate) struct StoreKeys {
    records: Key,
    names: Key,
}

impl StoreKeys {
    pub(crate) fn of(root: &Key) -> Self {
        Self { records: derive(root, "broker store: records"), names: derive(root, "broker store: names") }
    }
}

/// The open file.
pub(crate) struct Db {
    database: Database,
    path: PathBuf,
    file: (u64, u64),
}

/// Opens the database in `file`, making its tables where they are missing.
fn database(file: File) -> Result<Database, DbError> {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?;
    let write = database.begin_write()?;
    write.open_table(HEADS)?;
    write.open_table(VALUES)?;
    write.commit()?;
    Ok(database)
}

/// One version of a secret.
pub(crate) struct Stored {
    pub(crate) value: SecretValue,
    pub(crate) version: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    path: String,
    current: u64,
    /// The versions kept, oldest first.
    kept: Vec<u64>,
    /// Seconds since 1970.
    changed: u64,
}

impl Db {
    /// Opens the file in `dir`, making it where it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, DbError> {
        let path = dir.join(DB_FILE);
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // Made aside and linked whole: a database of ours is never seen empty, whatever happens to its writer.
            let made = files::write_new(&path, |file| {
                database(file.try_clone()?).map(drop).map_err(|error| io::Error::other(error.to_string()))
            });
            // Another process may have been first.
            made.or_else(|error| if error.is_exists() { Ok(()) } else { Err(error) })?;
        }
        let file = files::open_private(&path)?;
        let about = file.metadata().map_err(|source| FileError::Io { path: path.clone(), source })?;
        // redb would take it for a new one, and what was lost would look as if it had never been.
        if about.len() == 0 {
            return Err(DbError::Empty);
        }
        Ok(Self { database: database(file)?, path, file: (about.dev(), about.ino()) })
    }

    /// Tells whether the open file is still the one at its place.
    pub(crate) fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.file)
    }

    /// Reads one version of the secret `path`, if it is there.
    pub(crate) fn read(&self, keys: &StoreKeys, path: &str, version: &Version) -> Result<Option<Stored>, DbError> {
        let name = mac(&keys.names, path.as_bytes());
        let read = self.database.begin_read()?;
        let heads = match read.open_table(HEADS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            heads => heads?,
        };
        let Some(head) = heads.get(name.as_slice())? else { return Ok(None) };
        let head = open_head(keys, &name, head.value())?;
        let version = match version {
            Version::Current => Some(head.current),
            Version::Previous => head.kept.iter().rev().find(|kept| **kept < head.current).copied(),
            Version::Pending => None,
            Version::Id(id) => id.parse().ok().filter(|id| head.kept.contains(id)),
        };
        let Some(version) = version else { return Ok(None) };
        let values = read.open_table(VALUES)?;
        let sealed = values.get((name.as_slice(), version))?.ok_or(DbError::Damaged)?;
        let mut bytes = open(&keys.records, &value_place(&name, version), sealed.value()).ok_or(DbError::Damaged)?;
        Ok(Some(Stored { value: SecretValue::new(std::mem::take(&mut *bytes)), version }))
    }

    /// Writes a new current version and returns its number.
    pub(crate) fn write(&self, keys: &StoreKeys, path: &str, value: &SecretValue) -> Result<u64, DbError> {
        self.change(keys, path, |_| Some(value)).map(|(version, _)| version)
    }

    /// Writes `value` unless the secret is there. Returns the current version's number and whether it was written.
    pub(crate) fn write_first(
        &self,
        keys: &StoreKeys,
        path: &str,
        value: &SecretValue,
    ) -> Result<(u64, bool), DbError> {
        self.change(keys, path, |exists| (!exists).then_some(value))
    }

    fn change<'v>(
        &self,
        keys: &StoreKeys,
        path: &str,
        value: impl FnOnce(bool) -> Option<&'v SecretValue>,
    ) -> Result<(u64, bool), DbError> {
        let name = mac(&keys.names, path.as_bytes());
        // redb has one writer at a time: what is read here is still so at the commit.
        let write = self.database.begin_write()?;
        let version;
        {
            let mut heads = write.open_table(HEADS)?;
            let mut values = write.open_table(VALUES)?;
            let head = heads.get(name.as_slice())?.map(|head| open_head(keys, &name, head.value())).transpose()?;
            let Some(value) = value(head.is_some()) else {
                return Ok((head.map_or(0, |head| head.current), false));
            };
            let mut head =
                head.unwrap_or_else(|| Head { path: path.to_owned(), current: 0, kept: Vec::new(), changed: 0 });
            head.current += 1;
            head.kept.push(head.current);
            head.changed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            version = head.current;
            // Opened to be sealed.
            let sealed = seal(&keys.records, &value_place(&name, version), value.expose())?;
            values.insert((name.as_slice(), version), sealed.as_slice())?;
            while head.kept.len() > KEPT {
                values.remove((name.as_slice(), head.kept.remove(0)))?;
            }
            let text = serde_json::to_vec(&head).map_err(|_| DbError::Damaged)?;
            heads.insert(name.as_slice(), seal(&keys.records, &head_place(&name), &text)?.as_slice())?;
        }
        self.commit(write)?;
        Ok((version, true))
    }

    /// Removes the secret `path` with all its versions. Tells whether it was there.
    pub(crate) fn remove(&self, keys: &StoreKeys, path: &str) -> Result<bool, DbError> {
        let name = mac(&keys.names, path.as_bytes());
        let write = self.database.begin_write()?;
        {
            let mut heads = write.open_table(HEADS)?;
            let mut values = write.open_table(VALUES)?;
            let head = heads.remove(name.as_slice())?.map(|head| open_head(keys, &name, head.value())).transpose()?;
            let Some(head) = head else { return Ok(false) };
            for version in head.kept {
                values.remove((name.as_slice(), version))?;
            }
        }
        self.commit(write)?;
        Ok(true)
    }

    /// Lists the secrets whose path begins with `prefix`, ordered by path. Opens no value.
    pub(crate) fn list(&self, keys: &StoreKeys, prefix: &str) -> Result<Vec<Listed>, DbError> {
        let read = self.database.begin_read()?;
        let mut listed = Vec::new();
        for record in read.open_table(HEADS)?.iter()? {
            let (name, head) = record?;
            let head = open_head(keys, name.value(), head.value())?;
            if head.path.starts_with(prefix) {
                let changed = UNIX_EPOCH.checked_add(Duration::from_secs(head.changed));
                listed.push(Listed { path: head.path, version: Some(head.current.to_string()), changed });
            }
        }
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }

    /// Says what is known of the secret `path` besides its value, if it is there. Opens no value.
    pub(crate) fn describe(&self, keys: &StoreKeys, path: &str) -> Result<Option<Described>, DbError> {
        let name = mac(&keys.names, path.as_bytes());
        let read = self.database.begin_read()?;
        let heads = read.open_table(HEADS)?;
        let Some(head) = heads.get(name.as_slice())? else { return Ok(None) };
        let head = open_head(keys, &name, head.value())?;
        let previous = head.kept.iter().rev().find(|kept| **kept < head.current).copied();
        let stage_of = |version| match version {
            _ if version == head.current => vec![Stage::Current],
            _ if Some(version) == previous => vec![Stage::Previous],
            _ => vec![],
        };
        let version = |version: &u64| DescribedVersion {
            id: version.to_string(),
            stages: stage_of(*version),
            created: None,
            usable: true,
        };
        Ok(Some(Described {
            versions: head.kept.iter().rev().map(version).collect(),
            created: None,
            changed: UNIX_EPOCH.checked_add(Duration::from_secs(head.changed)),
            tags: Vec::new(),
        }))
    }

    fn commit(&self, write: redb::WriteTransaction) -> Result<(), DbError> {
        // Written into a file that nobody will find again, a value would be lost and called stored.
        if !self.is_in_place() {
            return Err(DbError::Gone);
        }
        Ok(write.commit()?)
    }
}

fn head_place(name: &[u8]) -> Vec<u8> {
    [b"head".as_slice(), name].concat()
}

fn value_place(name: &[u8], version: u64) -> Vec<u8> {
    [b"value".as_slice(), name, &version.to_le_bytes()].concat()
}

fn open_head(keys: &StoreKeys, name: &[u8], sealed: &[u8]) -> Result<Head, DbError> {
    let text = open(&keys.records, &head_place(name), sealed).ok_or(DbError::Damaged)?;
    serde_json::from_slice(&text).map_err(|_| DbError::Damaged)
}
