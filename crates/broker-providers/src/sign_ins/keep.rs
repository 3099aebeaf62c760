//! Where sign-ins outlive the daemon: in the keyring of the operating system, sealed.
//!
//! Every process of the user can read that keyring, so what stands there is of no use by itself: it is sealed with a key
//! that lies, alone, in a private file of the data directory. No sign-in is ever in a file. Where there is no keyring,
//! sign-ins end with the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_core::secret::SecretValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::local::crypto::{Key, open, random, seal};
use crate::local::files;
use crate::local::keyring;
use crate::login::{Session, SessionKey};
use crate::words::chain;

const LABEL: &str = "broker: a sign-in, sealed";
const KEY_FILE: &str = "sign-in.key";

/// The keyring as a place for sign-ins.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    dir: PathBuf,
    keyring: bool,
}

/// A session as it is sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    expires: Option<u64>,
    renewable: bool,
    who: String,
    /// Base64, since it may be any bytes.
    credential: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.credential.zeroize();
    }
}

impl Keep {
    pub(crate) fn new(dir: PathBuf, keyring: bool) -> Self {
        Self { dir, keyring }
    }

    /// Reads what is kept, if it is there and ours.
    pub(crate) async fn find(&self, key: &SessionKey) -> Option<Session> {
        if !self.keyring {
            return None;
        }
        let account = account(key);
        // Without a keyring nothing was kept; its failures are told when something is to be kept.
        let sealed = keyring::find(&account, LABEL).await.ok().flatten()?;
        let sealing = self.sealing_key(false).await.ok().flatten()?;
        let text = open(&sealing, account.as_bytes(), &sealed)?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let credential = STANDARD.decode(kept.credential.as_bytes()).ok()?;
        Some(Session {
            credential: Arc::new(SecretValue::new(credential)),
            expires: kept.expires.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
            renewable: kept.renewable,
            who: kept.who.clone(),
        })
    }

    /// Keeps a session, sealed.
    ///
    /// # Errors
    /// In words: there is no keyring, it is locked, or the key file cannot be made.
    pub(crate) async fn store(&self, key: &SessionKey, session: &Session) -> Result<(), String> {
        if !self.keyring {
            return Err("there is no keyring".to_owned());
        }
        let account = account(key);
        let sealing = self.sealing_key(true).await?.ok_or("there is no key to seal it with")?;
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kept = Kept {
            expires: session.expires.map(seconds),
            renewable: session.renewable,
            who: session.who.clone(),
            // Opened to be sealed.
            credential: STANDARD.encode(session.credential.expose()),
        };
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(|error| error.to_string())?);
        let sealed = seal(&sealing, account.as_bytes(), &text).map_err(|error| error.to_string())?;
        keyring::keep(&account, LABEL, sealed).await.map_err(|error| error.to_string())
    }

    /// Removes what is kept.
    pub(crate) async fn remove(&self, key: &SessionKey) {
        if self.keyring {
            // What is not there, or cannot be reached, is not found later either.
            let _ = keyring::remove(&account(key)).await;
        }
    }

    async fn sealing_key(&self, make: bool) -> Result<Option<Key>, String> {
        let dir = self.dir.clone();
        let read = tokio::task::spawn_blocking(move || {
            let path = dir.join(KEY_FILE);
            let words = |error: &files::FileError| chain(error);
            if make && !path.exists() {
                files::private_dir(&dir).map_err(|error| words(&error))?;
                let fresh = random::<32>().map_err(|error| error.to_string())?;
                let made = files::write_new(&path, |file| std::io::Write::write_all(file, fresh.as_slice()));
                // Another daemon may have been first, and its key is as good.
                made.or_else(|error| if error.is_exists() { Ok(()) } else { Err(words(&error)) })?;
            }
            let bytes = files::read(&path).map_err(|error| words(&error))?.map(Zeroizing::new);
            let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
            Ok(key.map(Zeroizing::new))
        });
        read.await.map_err(|error| error.to_string())?
    }
}

/// Returns the account under which a session stands: it tells nothing of the organisation.
fn account(key: &SessionKey) -> String {
    let mut hash = Sha256::new();
    for part in [key.kind, &key.origin, &key.detail] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sign-in-{hex}")
}
