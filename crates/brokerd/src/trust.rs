//! Which manifests this user agreed to: pinned by content and by the directory they lie in.
//!
//! A manifest decides where credentials go and what is fetched, and it lies in a repository that others write. So it
//! counts only while its bytes are those that were shown and agreed to, in that very directory (device and inode): a
//! changed manifest, a copy elsewhere and one swapped between check and use are all untrusted, since the bytes that are
//! used are the bytes that are compared.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker_protocol::regular;
use serde::{Deserialize, Serialize};

/// The agreed manifests of one user.
pub(crate) struct Trust {
    path: PathBuf,
    pins: Mutex<Option<BTreeMap<String, String>>>,
}

/// One manifest, told apart from every other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// Device and inode of the directory.
    directory: String,
    /// SHA-256 of the bytes, in hex.
    pub(crate) sha256: String,
}

/// Why trust cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The manifest's directory is not to be seen from here.
    #[error("the directory of `{0}` cannot be looked at: {1}")]
    Directory(PathBuf, io::Error),
    /// The file of pins cannot be written.
    #[error("`{0}` cannot be written: {1}")]
    Write(PathBuf, io::Error),
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    /// Directory (device:inode) to SHA-256 of the manifest in it.
    pins: BTreeMap<String, String>,
}

impl Trust {
    /// Keeps pins in the file `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, pins: Mutex::new(None) }
    }

    /// Returns what tells this manifest apart: where it lies and the digest of its bytes.
    ///
    /// # Errors
    /// Its directory cannot be looked at.
    pub(crate) fn pin_of(manifest: &Path, sha256: &str) -> Result<Pin, TrustError> {
        let directory = manifest.parent().unwrap_or(Path::new("/"));
        let meta = std::fs::metadata(directory).map_err(|e| TrustError::Directory(manifest.to_owned(), e))?;
        Ok(Pin { directory: format!("{}:{}", meta.dev(), meta.ino()), sha256: sha256.to_owned() })
    }

    /// Tells whether this very manifest was agreed to.
    pub(crate) fn holds(&self, pin: &Pin) -> bool {
        self.pins().as_ref().is_some_and(|pins| pins.get(&pin.directory) == Some(&pin.sha256))
    }

    /// Remembers that it was agreed to, instead of what was agreed to there before.
    ///
    /// # Errors
    /// The file cannot be written; the earlier pins stay.
    pub(crate) fn agree(&self, pin: Pin) -> Result<(), TrustError> {
        let mut slot = self.pins();
        let mut pins = slot.clone().unwrap_or_default();
        pins.insert(pin.directory, pin.sha256);
        self.write(&pins).map_err(|error| TrustError::Write(self.path.clone(), error))?;
        *slot = Some(pins);
        Ok(())
    }

    fn pins(&self) -> MutexGuard<'_, Option<BTreeMap<String, String>>> {
        let mut slot = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            // A file that cannot be read or understood holds no agreement: the person is asked again.
            let read = read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
            *slot = Some(read.unwrap_or_default().pins);
        }
        slot
    }

    fn write(&self, pins: &BTreeMap<String, String>) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let next = self.path.with_extension("json.next");
        let text = serde_json::to_vec_pretty(&File { pins: pins.clone() })?;
        // Whatever lies there is not written through, be it a link or a leftover.
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = regular::open(&next, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)
    }
}

/// Largest file of pins that is read.
const MAX_BYTES: u64 = 16 << 20;

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular::open(path, OpenOptions::new().read(true))?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_of_these_bytes_in_this_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        std::fs::create_dir_all(&here).unwrap();
        std::fs::create_dir_all(&there).unwrap();
        let trust = Trust::new(dir.path().join("state/trust.json"));
        let pin = |place: &Path, text: &str| Trust::pin_of(&place.join("broker.toml"), text).unwrap();
        assert!(!trust.holds(&pin(&here, "a")));
        trust.agree(pin(&here, "a")).unwrap();
        assert!(trust.holds(&pin(&here, "a")));
        assert!(!trust.holds(&pin(&here, "b")));
        assert!(!trust.holds(&pin(&there, "a")));
        let again = Trust::new(dir.path().join("state/trust.json"));
        assert!(again.holds(&pin(&here, "a")));
    }

    #[test]
    fn a_damaged_file_trusts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("trust.json"), "{\"pins\": {").unwrap();
        let trust = Trust::new(dir.path().join("trust.json"));
        let pin = Trust::pin_of(&dir.path().join("broker.toml"), "a").unwrap();
        assert!(!trust.holds(&pin));
        trust.agree(pin.clone()).unwrap();
        assert!(trust.holds(&pin));
    }
}
