//! Writing to the KV engines: a new version, and an older one once more.
//!
//! Where the token may look, a write names the version that must be current (check-and-set), so that a request whose answer
//! was lost does not write twice, and nobody's write in between is lost. Source: HTTP API, "KV secrets engine", "Create/update
//! secret".

use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::vault::Vault;
use crate::vault::hint::KEEPS_NO_VERSIONS;
use crate::vault::kv::{Engine, Object, Options, Place, Stored, Write, written};
use crate::vault::read::{gone, number_of};
use crate::vault::wire::Call;

/// How often a write is tried anew because somebody else wrote in between.
const MAX_RACES: usize = 3;

impl Vault {
    /// Returns the number of the newest version, 0 where there is none; nothing when it may not be looked at.
    async fn newest(&self, token: &SecretValue, place: &Place, deadline: Instant) -> Result<Option<u64>, Fault> {
        match self.metadata(token, place, deadline).await {
            Ok(known) => Ok(Some(known.map_or(0, |known| known.current_version))),
            Err(fault) if fault.kind == ErrorKind::Denied => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a new version. Where the token may look, a repeated request does not write twice.
    async fn write(
        &self,
        token: &SecretValue,
        place: &Place,
        object: &Object<'_>,
        deadline: Instant,
    ) -> Result<u64, Fault> {
        for _ in 0..MAX_RACES {
            let newest = self.newest(token, place, deadline).await?;
            match self.write_after(token, place, object, newest, deadline).await {
                Err(fault) if fault.cause.contains("did not match the current version") => {
                    let next = newest.unwrap_or_default() + 1;
                    // The answer to our own write may have been lost on its way.
                    if self.is_there(token, place, next, object, deadline).await {
                        return Ok(next);
                    }
                }
                done => return done,
            }
        }
        Err(Fault::new(ErrorKind::Unavailable, "somebody else changes it at the same time"))
    }

    async fn write_after(
        &self,
        token: &SecretValue,
        place: &Place,
        object: &Object<'_>,
        newest: Option<u64>,
        deadline: Instant,
    ) -> Result<u64, Fault> {
        let body = Write { data: object, options: newest.map(|cas| Options { cas }) };
        let path = place.data();
        written(&self.wire.ask(Some(token), &Call::write(&path, &body), deadline).await?)
    }

    async fn is_there(
        &self,
        token: &SecretValue,
        place: &Place,
        number: u64,
        object: &Object<'_>,
        deadline: Instant,
    ) -> bool {
        let (path, query) = (place.data(), format!("version={number}"));
        let Ok(answer) = self.ask(token, &Call { query: &query, ..Call::read(&path) }, deadline).await else {
            return false;
        };
        let stored = Stored::read(place.engine, &answer).ok().and_then(|stored| stored.object);
        let stored = stored.and_then(|stored| serde_json::from_str::<serde_json::Value>(stored.get()).ok());
        stored.is_some() && stored == serde_json::to_value(object).ok()
    }

    pub(crate) async fn put_as(
        &self,
        token: &SecretValue,
        path: &str,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let place = self.place(token, path, deadline).await?;
        let object = Object::of(value);
        match place.engine {
            Engine::Versioned => {
                self.write(token, &place, &object, deadline).await.map(|number| Some(number.to_string()))
            }
            Engine::Plain => {
                let path = place.data();
                self.wire.ask(Some(token), &Call::write(&path, &object), deadline).await.map(|_| None)
            }
        }
    }

    /// Writes an older version once more, its whole object as it was, if nobody changes the secret meanwhile.
    pub(crate) async fn promote_as(
        &self,
        token: &SecretValue,
        reference: &SecretRef,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let place = self.place(token, &reference.path, deadline).await?;
        if place.engine == Engine::Plain {
            return Err(Fault::new(ErrorKind::Unsupported, KEEPS_NO_VERSIONS));
        }
        let number = match &reference.version {
            Version::Id(id) => number_of(id)?,
            Version::Previous => self.previous(token, &place, deadline).await?.0,
            _ => return Err(Fault::new(ErrorKind::Unsupported, "there is no version to promote")),
        };
        let newest = self.newest(token, &place, deadline).await?;
        let (path, query) = (place.data(), format!("version={number}"));
        let answer = self.ask(token, &Call { query: &query, ..Call::read(&path) }, deadline).await?;
        let stored = Stored::read(place.engine, &answer)?;
        let Some(object) = stored.object else { return Err(gone(&stored.version.unwrap_or_default())) };
        if newest == Some(number) {
            return Ok(());
        }
        let object = Object::Again(object);
        match self.write_after(token, &place, &object, newest, deadline).await {
            Err(fault) if fault.cause.contains("did not match the current version") => {
                let next = newest.unwrap_or_default() + 1;
                let is_ours = self.is_there(token, &place, next, &object, deadline).await;
                if is_ours {
                    Ok(())
                } else {
                    Err(Fault::new(ErrorKind::Unavailable, "somebody else changed it meanwhile"))
                }
            }
            done => done.map(|_| ()),
        }
    }
}
