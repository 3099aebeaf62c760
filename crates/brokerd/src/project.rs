//! Manifests as requests bring them: parsed once per text and configuration, kept for the next request.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use broker_core::manifest::{Manifest, Narrowing, parse, parse_local};
use broker_protocol::message::ManifestBytes;
use broker_providers::registry::{Instance, KINDS, Kind};
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::refusal::Refusal;

/// How many parsed manifests are kept.
const MAX_KEPT: usize = 64;

/// A manifest at its place, parsed, with the configuration it was read under.
#[derive(Debug)]
pub(crate) struct Project {
    /// The path of its `broker.toml`.
    pub(crate) path: PathBuf,
    /// Its text.
    text: String,
    /// SHA-256 of its text, in hex, as trust compares it.
    pub(crate) sha256: String,
    /// What it says.
    pub(crate) manifest: Manifest,
    /// What `broker.local.toml` takes away.
    pub(crate) narrowing: Narrowing,
}

impl Project {
    /// Returns the settings of an instance that this project can name.
    pub(crate) fn instance(&self, name: &str, config: &Config) -> Option<Instance> {
        let own = || self.manifest.providers.get(name).cloned().map(Instance::of_manifest);
        config.instance(name).or_else(own)
    }
}

/// The manifests parsed so far.
#[derive(Default)]
pub(crate) struct Projects {
    kept: Mutex<HashMap<PathBuf, Kept>>,
}

struct Kept {
    local: Option<String>,
    config: Arc<Config>,
    project: Arc<Project>,
}

impl Projects {
    /// Parses a manifest, or returns it as it was parsed for these very bytes.
    pub(crate) fn parse(&self, bytes: ManifestBytes, config: &Arc<Config>) -> Result<Arc<Project>, Refusal> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&bytes.path) {
            let same =
                known.project.text == bytes.text && known.local == bytes.local && Arc::ptr_eq(&known.config, config);
            if same {
                return Ok(known.project.clone());
            }
        }
        drop(kept);
        // A large manifest takes its time: others are served meanwhile.
        let project = Arc::new(tokio::task::block_in_place(|| read(&bytes, config))?);
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(bytes.path, Kept { local: bytes.local, config: config.clone(), project: project.clone() });
        Ok(project)
    }
}

fn read(bytes: &ManifestBytes, config: &Config) -> Result<Project, Refusal> {
    let shown = |name: &str| bytes.path.file_name().map_or(name.to_owned(), |file| file.to_string_lossy().into_owned());
    let kinds: Vec<_> = KINDS.iter().map(Kind::known).collect();
    let manifest =
        parse(&shown("broker.toml"), &bytes.text, &config.instance_kinds(), &kinds).map_err(Refusal::Text)?;
    let narrowing = match &bytes.local {
        Some(local) => {
            let known = manifest.secrets.keys().map(String::as_str);
            parse_local("broker.local.toml", local, known).map_err(Refusal::Text)?
        }
        None => Narrowing::default(),
    };
    let sha256 = crate::peer::hex(&Sha256::digest(&bytes.text));
    Ok(Project { path: bytes.path.clone(), text: bytes.text.clone(), sha256, manifest, narrowing })
}
