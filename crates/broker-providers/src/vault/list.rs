//! Listing below a prefix, folder by folder, and what a secret's metadata says.
//!
//! Folders of one depth are asked for side by side. A folder that may not be listed fails the listing: one that leaves
//! something out must not look complete.

use std::time::SystemTime;

use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::provider::{Described, DescribedVersion, ErrorKind, Listed, Stage};
use crate::vault::Vault;
use crate::vault::kv::{Engine, Metadata, Numbered, Place, keys};
use crate::vault::mounts::Mounts;
use crate::vault::wire::{Call, is_sendable};
use crate::words::safe;

/// Most folders that one listing opens.
const MAX_FOLDERS: usize = 10_000;

impl Vault {
    pub(crate) async fn list_as(
        &self,
        token: &SecretValue,
        prefix: &str,
        deadline: Instant,
    ) -> Result<Vec<Listed>, Fault> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && !is_sendable(folder) {
            return Ok(Vec::new());
        }
        let answer = self.ask(token, &Call::read("sys/internal/ui/mounts"), deadline).await?;
        let mounts = Mounts::all(&answer)?;
        let mounts = mounts.into_iter().filter(|(mount, _)| prefix.starts_with(mount) || mount.starts_with(prefix));
        let listed =
            join_all(mounts.map(|(mount, engine)| self.list_mount(token, mount, engine, prefix, deadline))).await;
        let listed: Result<Vec<Vec<Listed>>, Fault> = listed.into_iter().collect();
        let mut listed: Vec<Listed> = listed?.into_iter().flatten().collect();
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }

    async fn list_mount(
        &self,
        token: &SecretValue,
        mount: String,
        engine: Engine,
        prefix: &str,
        deadline: Instant,
    ) -> Result<Vec<Listed>, Fault> {
        let below = prefix.strip_prefix(&mount).and_then(|below| below.rsplit_once('/'));
        let mut folders = vec![below.map(|(folder, _)| folder.to_owned()).unwrap_or_default()];
        let (mut listed, mut opened) = (Vec::new(), 0);
        while !folders.is_empty() {
            opened += folders.len();
            if opened > MAX_FOLDERS {
                let cause = format!("`{}` has more than {MAX_FOLDERS} folders: name a longer prefix", safe(&mount));
                return Err(Fault::new(ErrorKind::Unsupported, cause));
            }
            let places = folders.iter().map(|folder| Place { mount: mount.clone(), engine, name: folder.clone() });
            let found = join_all(places.map(|place| self.folder(token, place, deadline))).await;
            let mut deeper = Vec::new();
            for (folder, names) in folders.iter().zip(found) {
                for name in names? {
                    let slash = if folder.is_empty() { "" } else { "/" };
                    let name = format!("{folder}{slash}{name}");
                    let path = format!("{mount}{name}");
                    match name.strip_suffix('/') {
                        Some(inner) if path.starts_with(prefix) || prefix.starts_with(&path) => {
                            deeper.push(inner.to_owned())
                        }
                        None if path.starts_with(prefix) => listed.push(Listed { path, version: None, changed: None }),
                        _ => {}
                    }
                }
            }
            folders = deeper;
        }
        Ok(listed)
    }

    async fn folder(&self, token: &SecretValue, place: Place, deadline: Instant) -> Result<Vec<String>, Fault> {
        let path = place.metadata();
        match self.ask(token, &Call::list(path.trim_end_matches('/')), deadline).await {
            Ok(answer) => keys(&answer),
            Err(fault) if fault.kind == ErrorKind::NotFound => Ok(Vec::new()),
            Err(fault) => Err(Fault { cause: format!("{}, listing `{}`", fault.cause, safe(&path)), ..fault }),
        }
    }
}

impl Metadata {
    /// Says it in our words: versions newest first, with the stages in which they stand.
    pub(crate) fn described(&self) -> Described {
        let usable = |version: &Numbered| {
            // A version may be given a time at which it is deleted.
            let is_deleted = !version.deletion_time.is_empty()
                && time(&version.deletion_time).is_none_or(|deleted| deleted <= SystemTime::now());
            !version.destroyed && !is_deleted
        };
        let before = self.versions.range(..self.current_version).rev().find(|(_, version)| usable(version));
        let before = before.map(|(number, _)| *number);
        let versions = self.versions.iter().rev().map(|(number, version)| DescribedVersion {
            id: number.to_string(),
            stages: match *number {
                number if number == self.current_version => vec![Stage::Current],
                number if Some(number) == before => vec![Stage::Previous],
                _ => vec![],
            },
            created: time(&version.created_time),
            usable: usable(version),
        });
        let tags = self.custom_metadata.iter().flatten().map(|(name, value)| (safe(name), safe(value)));
        Described {
            versions: versions.collect(),
            created: time(&self.created_time),
            changed: time(&self.updated_time),
            tags: tags.collect(),
        }
    }
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}
