//! Programs for `exec` instances: written, pinned, opened.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_core::instance::{InstanceSettings, Words};
use broker_core::sign_in::SignIn;
use broker_providers::provider::Provider;
use broker_providers::registry::{Instance, Registry};
use sha2::{Digest as _, Sha256};

/// Writes a program into `dir`.
pub fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Returns the instance whose program is `path`, pinned as it is now.
pub fn pinned(path: &Path, arguments: &[&str]) -> InstanceSettings {
    let words = std::iter::once(path.to_str().unwrap()).chain(arguments.iter().copied());
    InstanceSettings {
        command: Some(Words::Many(words.map(str::to_owned).collect())),
        sha256: Some(digest(path)),
        timeout: Some("10s".to_owned()),
        ..InstanceSettings::of_kind("exec")
    }
}

/// Returns the digest of a file, in hex.
pub fn digest(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens an instance of the user's configuration, without its cache's help: what is asked for twice is fetched twice.
pub fn opened(registry: &Registry, name: &str, settings: &InstanceSettings) -> Arc<dyn Provider> {
    let settings = InstanceSettings { ttl: Some("0".into()), negative_ttl: Some("0".into()), ..settings.clone() };
    registry.open(name, &Instance::fixed(settings), &SignIn::default()).unwrap().provider
}
