//! Which mount a path is in, and what that is: a KV engine, or one that issues. Asked of the server, never guessed.
//!
//! The answer for one path names its mount and covers everything below it, since no mount lies inside another. It is
//! remembered for the instance. Source: `GET sys/internal/ui/mounts/:path`, which the server answers to any token that may
//! do anything in the mount, and which its own command line asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::Answer;
use crate::vault::kv::{Engine, Place};
use crate::words::safe;

/// How many mounts are remembered; more is a server gone wrong.
const MAX_MOUNTS: usize = 4096;

/// The mounts that are known.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Mutex<BTreeMap<String, Kind>>);

/// What a mount is.
#[derive(Clone, Debug)]
enum Kind {
    Stores(Engine),
    /// Its type, in the server's words.
    Issues(String),
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// To a secret that is stored.
    Stored(Place),
    /// To an engine that makes what is read there: in which mount, and of which type.
    Issued { mount: String, kind: String },
}

impl Found {
    /// Returns the place of a stored secret.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where nothing is stored.
    pub(crate) fn stored(self) -> Result<Place, Fault> {
        match self {
            Self::Stored(place) => Ok(place),
            Self::Issued { mount, kind } => {
                let cause = format!("`{}` is of type `{}`, and only KV secrets are read", safe(&mount), safe(&kind));
                Err(Fault::new(ErrorKind::Unsupported, cause))
            }
        }
    }
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Mount {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    options: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct All {
    secret: BTreeMap<String, Mount>,
}

impl Mount {
    /// Returns which KV engine it is, if it is one.
    fn engine(&self) -> Option<Engine> {
        let version = self.options.as_ref().and_then(|options| options.get("version"));
        match (self.kind.as_str(), version) {
            ("kv", Some(version)) if version == "2" || version == 2 => Some(Engine::Versioned),
            ("kv" | "generic", _) => Some(Engine::Plain),
            _ => None,
        }
    }
}

impl Mounts {
    /// Finds where a path leads, in a mount that is known.
    pub(crate) fn find(&self, path: &str) -> Option<Found> {
        let known = self.lock();
        let (mount, kind) = known.iter().rev().find(|(mount, _)| path.starts_with(mount.as_str()))?;
        found(mount, kind, path)
    }

    /// Finds the place of a stored secret, in a mount that is known.
    pub(crate) fn place(&self, path: &str) -> Option<Place> {
        self.find(path)?.stored().ok()
    }

    /// Remembers what the server said of `path`, and returns where it leads.
    pub(crate) fn learn(&self, path: &str, answer: &Answer) -> Result<Found, Fault> {
        let mount = answer.json::<Envelope<Mount>>()?.data;
        let kind = mount.engine().map_or_else(|| Kind::Issues(mount.kind.clone()), Kind::Stores);
        let found = found(&mount.path, &kind, path).filter(|_| mount.path.ends_with('/'));
        let stray = || Fault::new(ErrorKind::Malformed, "the server named a mount that the path is not in");
        let found = found.ok_or_else(stray)?;
        let mut known = self.lock();
        if known.len() >= MAX_MOUNTS {
            known.clear();
        }
        known.insert(mount.path, kind);
        Ok(found)
    }

    /// Returns the KV mounts among those that the server shows.
    pub(crate) fn all(answer: &Answer) -> Result<Vec<(String, Engine)>, Fault> {
        let all = answer.json::<Envelope<All>>()?.data.secret;
        Ok(all.into_iter().filter_map(|(path, mount)| mount.engine().map(|engine| (path, engine))).collect())
    }

    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    /// Forgets a mount that was not what we took it for: an administrator upgraded or moved it.
    pub(crate) fn forget_one(&self, mount: &str) {
        self.lock().remove(mount);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(mount: &str, kind: &Kind, path: &str) -> Option<Found> {
    let name = path.strip_prefix(mount)?.to_owned();
    let mount = mount.to_owned();
    Some(match kind {
        Kind::Stores(engine) => Found::Stored(Place { mount, engine: *engine, name }),
        Kind::Issues(kind) => Found::Issued { mount, kind: kind.clone() },
    })
}
