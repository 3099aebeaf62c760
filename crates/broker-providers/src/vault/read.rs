//! Reading: where a path leads, and the values there.
//!
//! There is no batch: secrets are read side by side, at most as many at a time as the instance has turns. Whose token is
//! shown is the caller's affair.

use std::sync::Arc;

use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::provider::{ErrorKind, Fetched};
use crate::rest::Answer;
use crate::vault::Vault;
use crate::vault::hint::{DELETED, DESTROYED, KEEPS_NO_VERSIONS, NO_MOUNT};
use crate::vault::kv::{Engine, Metadata, Numbered, Place, Stored, value_of};
use crate::vault::mounts::Found;
use crate::vault::wire::{Call, is_sendable};
use crate::words::safe;

/// How many versions are looked at, back from the current one, to find the previous one that is still there.
pub(crate) const MAX_STEPS_BACK: u64 = 20;

impl Vault {
    /// Sends a request that reads, when it is its turn. What was deleted is an answer.
    pub(crate) async fn ask(&self, token: &SecretValue, call: &Call<'_>, deadline: Instant) -> Result<Answer, Fault> {
        match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.wire.ask_for_deleted(Some(token), call, deadline).await,
            Err(_) => Err(Fault::late()),
        }
    }

    /// Finds the place of one stored secret.
    pub(crate) async fn place(&self, token: &SecretValue, path: &str, deadline: Instant) -> Result<Place, Fault> {
        self.find(token, path, deadline).await?.stored()
    }

    /// Finds where one path leads.
    async fn find(&self, token: &SecretValue, path: &str, deadline: Instant) -> Result<Found, Fault> {
        if !is_sendable(path) {
            let cause = "a path of Vault has no empty, `.` or `..` segment and no control character";
            return Err(Fault::new(ErrorKind::NotFound, cause));
        }
        if let Some(found) = self.mounts.find(path) {
            return Ok(found);
        }
        let asked = format!("sys/internal/ui/mounts/{path}");
        let answer = self.ask(token, &Call::read(&asked), deadline).await.map_err(|fault| match fault.kind {
            ErrorKind::Denied | ErrorKind::NotFound => Fault { code: Some(NO_MOUNT.to_owned()), ..fault },
            _ => fault,
        })?;
        self.mounts.learn(path, &answer)
    }

    /// Finds where many paths lead. One that names a mount names it for all that lie in it.
    pub(crate) async fn find_all(
        &self,
        token: &SecretValue,
        paths: &[&str],
        deadline: Instant,
    ) -> Vec<Result<Found, Fault>> {
        let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        let mut found: Vec<Option<Result<Found, Fault>>> = vec![None; paths.len()];
        // First one path of each kind, then whatever that did not settle.
        for is_last in [false, true] {
            let mut asked: Vec<usize> = Vec::new();
            for (at, path) in paths.iter().enumerate().filter(|(at, _)| found[*at].is_none()) {
                let known = self.mounts.find(path).is_some();
                let is_first = !asked.iter().any(|other| first(paths[*other]) == first(path));
                if known || is_last || is_first {
                    asked.push(at);
                }
            }
            let answers = join_all(asked.iter().map(|at| self.find(token, paths[*at], deadline))).await;
            for (at, answer) in asked.into_iter().zip(answers) {
                let is_of_all = answer.as_ref().is_err_and(|fault| {
                    !matches!(fault.kind, ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unsupported)
                });
                for other in 0..paths.len() {
                    if is_of_all && found[other].is_none() && first(paths[other]) == first(paths[at]) {
                        found[other] = Some(answer.clone());
                    }
                }
                found[at] = Some(answer);
            }
        }
        found.into_iter().map(|found| found.unwrap_or_else(|| Err(Fault::late()))).collect()
    }

    /// Reads many secrets, one result each.
    pub(crate) async fn read_all(
        &self,
        token: &SecretValue,
        references: &[&SecretRef],
        deadline: Instant,
    ) -> Vec<Result<Fetched, Fault>> {
        let paths: Vec<&str> = references.iter().map(|reference| reference.path.as_str()).collect();
        let found = self.find_all(token, &paths, deadline).await;
        let read = references.iter().zip(found).map(|(reference, found)| async move {
            self.read_one(token, &found?.stored()?, &reference.version, deadline).await
        });
        join_all(read).await
    }

    /// Reads one secret at the version that is meant.
    pub(crate) async fn read_one(
        &self,
        token: &SecretValue,
        place: &Place,
        version: &Version,
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        match (version, place.engine) {
            (Version::Current, _) => self.read(token, place, None, deadline).await,
            (Version::Previous, Engine::Versioned) => self.previous(token, place, deadline).await.map(|(_, f)| f),
            (Version::Id(id), Engine::Versioned) => self.read(token, place, Some(number_of(id)?), deadline).await,
            (Version::Pending, _) => Err(Fault::new(ErrorKind::NotFound, "Vault has no pending stage")),
            (_, Engine::Plain) => Err(Fault::new(ErrorKind::NotFound, KEEPS_NO_VERSIONS)),
        }
    }

    /// Reads one version, or the current one.
    pub(crate) async fn read(
        &self,
        token: &SecretValue,
        place: &Place,
        version: Option<u64>,
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let (path, query) = (place.data(), version.map(|number| format!("version={number}")).unwrap_or_default());
        let answer = self.ask(token, &Call { query: &query, ..Call::read(&path) }, deadline).await;
        let answer = answer.inspect_err(|fault| {
            if fault.cause.contains("versioned K/V") {
                self.mounts.forget_one(&place.mount);
            }
        })?;
        let stored = Stored::read(place.engine, &answer)?;
        let Some(object) = stored.object else { return Err(gone(&stored.version.unwrap_or_default())) };
        let (value, lone_field) = value_of(object);
        let version = stored.version.map(|known| known.version.to_string());
        Ok(Fetched { value: Arc::new(value), version, fetched_at: Instant::now(), stale: false, lone_field })
    }

    /// Finds the newest version before the current one that was neither deleted nor destroyed. Needs no more permission
    /// than reading does.
    pub(crate) async fn previous(
        &self,
        token: &SecretValue,
        place: &Place,
        deadline: Instant,
    ) -> Result<(u64, Fetched), Fault> {
        let path = place.data();
        let answer = self.ask(token, &Call::read(&path), deadline).await?;
        let current = Stored::read(place.engine, &answer)?.version.unwrap_or_default().version;
        for number in (current.saturating_sub(MAX_STEPS_BACK).max(1)..current).rev() {
            match self.read(token, place, Some(number), deadline).await {
                Err(fault) if fault.kind == ErrorKind::NotFound && fault.code.is_some() => {}
                Err(fault) if fault.kind == ErrorKind::NotFound => break,
                done => return done.map(|fetched| (number, fetched)),
            }
        }
        Err(Fault::new(ErrorKind::NotFound, format!("there is no version before {current}")))
    }

    /// Returns what is known of a secret besides its values; nothing where there is none.
    pub(crate) async fn metadata(
        &self,
        token: &SecretValue,
        place: &Place,
        deadline: Instant,
    ) -> Result<Option<Metadata>, Fault> {
        let path = place.metadata();
        match self.ask(token, &Call::read(&path), deadline).await {
            Ok(answer) => Metadata::read(&answer).map(Some),
            Err(fault) if fault.kind == ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Reads the number of a version. `03` and `0` are none: a version has one name.
pub(crate) fn number_of(id: &str) -> Result<u64, Fault> {
    let number = id.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == id);
    number.ok_or_else(|| Fault::new(ErrorKind::NotFound, "a version of Vault is a number, such as `3`"))
}

/// Speaks of a version whose value can no longer be had.
pub(crate) fn gone(version: &Numbered) -> Fault {
    let number = version.version;
    let (code, cause) = if version.destroyed {
        (DESTROYED.to_owned(), format!("version {number} was destroyed"))
    } else {
        let when = safe(&version.deletion_time);
        (format!("{DELETED}{number}"), format!("version {number} was deleted at {when}"))
    };
    Fault { code: Some(code), ..Fault::new(ErrorKind::NotFound, cause) }
}
