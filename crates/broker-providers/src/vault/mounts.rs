//! Which mount a secret is in, and which KV engine that is: asked of the server, never guessed.
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
pub(crate) struct Mounts(Mutex<BTreeMap<String, Engine>>);

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
    /// Finds the place of a path in a mount that is known.
    pub(crate) fn place(&self, path: &str) -> Option<Place> {
        let known = self.lock();
        let (mount, engine) = known.iter().rev().find(|(mount, _)| path.starts_with(mount.as_str()))?;
        let name = path.get(mount.len()..)?.to_owned();
        Some(Place { mount: mount.clone(), engine: *engine, name })
    }

    /// Remembers what the server said of `path`, and returns its place.
    pub(crate) fn learn(&self, path: &str, answer: &Answer) -> Result<Place, Fault> {
        let mount = answer.json::<Envelope<Mount>>()?.data;
        let below = path.strip_prefix(&mount.path).filter(|_| mount.path.ends_with('/'));
        let Some(name) = below else {
            return Err(Fault::new(ErrorKind::Malformed, "the server named a mount that the path is not in"));
        };
        let Some(engine) = mount.engine() else {
            let cause =
                format!("`{}` is of type `{}`, and only KV secrets are read", safe(&mount.path), safe(&mount.kind));
            return Err(Fault::new(ErrorKind::Unsupported, cause));
        };
        let mut known = self.lock();
        if known.len() >= MAX_MOUNTS {
            known.clear();
        }
        known.insert(mount.path.clone(), engine);
        Ok(Place { name: name.to_owned(), mount: mount.path, engine })
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Engine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
