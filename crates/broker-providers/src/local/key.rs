//! The key file of the embedded store, `store.key`: what is needed to open the store, short of the secret itself.
//!
//! A random root key seals everything. It stands here wrapped by a second key that is either held by the keyring of the
//! operating system or derived from a passphrase with Argon2id (RFC 9106), whose parameters stand beside it. The wrapping
//! binds the parameters, so they cannot be exchanged. The file's appearance is the birth of the store: it is written aside
//! and renamed, whole or not at all.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params};
use broker_core::secret::SecretValue;
use serde::{Deserialize, Serialize};

use crate::local::crypto::{Key, NoRandom, open, random, seal};
use crate::local::files::{self, FileError};

/// The name of the file.
pub(crate) const KEY_FILE: &str = "store.key";

const FORMAT: u32 = 1;
/// Memory in KiB, passes and lanes. RFC 9106 section 4 recommends 64 MiB and three passes where memory is scarce.
const COST: (u32, u32, u32) = (64 * 1024, 3, 1);
/// Most that a file may ask for, in KiB and passes: more is an attack on memory or patience.
const MOST: (u32, u32, u32) = (1024 * 1024, 64, 16);

/// Where the key that opens the store comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The keyring of the operating system.
    Keyring,
    /// A passphrase.
    Passphrase,
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyring => "keyring",
            Self::Passphrase => "passphrase",
        })
    }
}

/// The file, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct KeyFile {
    format: u32,
    /// Random; names the store in the keyring.
    pub(crate) id: String,
    wrapping: Wrapping,
    /// The sealed root key, in hex.
    wrapped: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "source")]
enum Wrapping {
    Keyring,
    #[serde(rename_all = "kebab-case")]
    Passphrase {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        salt: String,
    },
}

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no key file, or one of a later version.
    #[error("`{KEY_FILE}` is damaged or was written by a newer version")]
    Damaged,
    /// It does not open with this passphrase or key.
    #[error("the passphrase is wrong")]
    Wrong,
    /// The key that was held by the keyring is another store's.
    #[error("the key in the keyring does not open this store")]
    WrongKeyringKey,
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    Empty,
    /// A database without a key file: its content is lost, and a new store must not hide that.
    #[error("there is a `store.redb` without its `store.key`")]
    Orphan,
    /// Argon2 could not get its memory.
    #[error("there is not enough memory to derive the key")]
    Memory,
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// A new store's file and its keys, not yet written.
pub(crate) struct NewKey {
    pub(crate) file: KeyFile,
    pub(crate) root: Key,
    /// What the keyring must hold, for a store of the keyring.
    pub(crate) for_keyring: Option<Key>,
}

impl KeyFile {
    /// Reads the file in `dir`, if there is one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, KeyError> {
        let Some(bytes) = files::read(&dir.join(KEY_FILE))? else { return Ok(None) };
        let file: Self = serde_json::from_slice(&bytes).map_err(|_| KeyError::Damaged)?;
        if file.format == FORMAT { Ok(Some(file)) } else { Err(KeyError::Damaged) }
    }

    /// Makes the keys of a new store. Slow with a passphrase, on purpose.
    pub(crate) fn create(passphrase: Option<&SecretValue>) -> Result<NewKey, KeyError> {
        let root = random::<32>()?;
        let id = hex(random::<16>()?.as_slice());
        let (wrapping, key, for_keyring) = match passphrase {
            None => {
                let key = random::<32>()?;
                (Wrapping::Keyring, key.clone(), Some(key))
            }
            Some(passphrase) if passphrase.is_empty() => return Err(KeyError::Empty),
            Some(passphrase) => {
                let (memory_kib, passes, lanes) = COST;
                let salt = hex(random::<16>()?.as_slice());
                let wrapping = Wrapping::Passphrase { memory_kib, passes, lanes, salt };
                let key = wrapping.derived(passphrase)?;
                (wrapping, key, None)
            }
        };
        let wrapped = hex(&seal(&key, &bound(&id, &wrapping), root.as_slice())?);
        Ok(NewKey { file: Self { format: FORMAT, id, wrapping, wrapped }, root, for_keyring })
    }

    /// Writes the file into `dir`, unless there is one.
    pub(crate) fn write_new(&self, dir: &Path) -> Result<(), KeyError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|_| KeyError::Damaged)?;
        text.push(b'\n');
        Ok(files::write_new(&dir.join(KEY_FILE), |file| file.write_all(&text))?)
    }

    pub(crate) fn source(&self) -> KeySource {
        match self.wrapping {
            Wrapping::Keyring => KeySource::Keyring,
            Wrapping::Passphrase { .. } => KeySource::Passphrase,
        }
    }

    /// Unwraps the root key with a passphrase. Slow, on purpose.
    pub(crate) fn open_with_passphrase(&self, passphrase: &SecretValue) -> Result<Key, KeyError> {
        self.unwrapped(&self.wrapping.derived(passphrase)?).ok_or(KeyError::Wrong)
    }

    /// Unwraps the root key with the key that the keyring holds.
    pub(crate) fn open_with_key(&self, key: &Key) -> Result<Key, KeyError> {
        self.unwrapped(key).ok_or(KeyError::WrongKeyringKey)
    }

    fn unwrapped(&self, key: &Key) -> Option<Key> {
        let bytes = open(key, &bound(&self.id, &self.wrapping), &unhex(&self.wrapped)?)?;
        let mut root = Key::default();
        if bytes.len() != root.len() {
            return None;
        }
        root.copy_from_slice(&bytes);
        Some(root)
    }
}

impl Wrapping {
    /// Derives the wrapping key from `passphrase`.
    fn derived(&self, passphrase: &SecretValue) -> Result<Key, KeyError> {
        let Self::Passphrase { memory_kib, passes, lanes, salt } = self else { return Err(KeyError::Wrong) };
        let (memory, passes, lanes) = (*memory_kib, *passes, *lanes);
        if memory > MOST.0 || passes > MOST.1 || lanes > MOST.2 {
            return Err(KeyError::Damaged);
        }
        let params = Params::new(memory, passes, lanes, Some(32)).map_err(|_| KeyError::Damaged)?;
        let salt = unhex(salt).ok_or(KeyError::Damaged)?;
        let mut key = Key::default();
        // Opened for the key derivation, here and nowhere else.
        let derived = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params).hash_password_into(
            passphrase.expose(),
            &salt,
            key.as_mut_slice(),
        );
        match derived {
            Ok(()) => Ok(key),
            Err(argon2::Error::OutOfMemory) => Err(KeyError::Memory),
            Err(_) => Err(KeyError::Damaged),
        }
    }
}

/// Returns what the wrapped key is bound to: everything else in the file.
fn bound(id: &str, wrapping: &Wrapping) -> Vec<u8> {
    let how = match wrapping {
        Wrapping::Keyring => "keyring".to_owned(),
        Wrapping::Passphrase { memory_kib, passes, lanes, salt } => {
            format!("argon2id v19 m={memory_kib} t={passes} p={lanes} salt={salt}")
        }
    };
    format!("broker store key, format {FORMAT}, id {id}, {how}").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
