//! Fetching with a token of its own: as narrow as the fetch, gone when it is over.
//!
//! The sign-in's token asks where things are and which policies they need, and reads no value. The token that does has the
//! uses that the fetch takes and one to revoke itself; where a repeated request used one up, what is still missing is read
//! with another one.

use std::sync::Arc;
use std::time::Duration;

use broker_core::lease::LeaseId;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::issue::{About, SessionPolicy};
use crate::provider::{ErrorKind, Fetched};
use crate::vault::Vault;
use crate::vault::child::{Body, Wish, Wisher};
use crate::vault::kv::{Engine, Place};
use crate::vault::mounts::Found;
use crate::vault::read::{MAX_STEPS_BACK, number_of};
use crate::words::safe;

/// How long the tokens of one fetch live at most, the first one and those that are made when it was too short. It is revoked
/// after the fetch; who is killed between making one and writing it down leaves it no longer than this.
const FETCH_TTLS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// A secret to be read, and where its result belongs.
struct Wanted<'a> {
    at: usize,
    version: &'a Version,
    place: Place,
}

impl Wanted<'_> {
    /// How many requests reading it takes. The version before the current one is mostly the next one, and the second time
    /// there is room for every step.
    fn uses(&self, is_again: bool) -> u64 {
        match (self.version, self.place.engine) {
            (Version::Current, _) => 1,
            (Version::Id(id), Engine::Versioned) => number_of(id).map_or(0, |_| 1),
            (Version::Previous, Engine::Versioned) if is_again => 1 + MAX_STEPS_BACK,
            (Version::Previous, Engine::Versioned) => 2,
            _ => 0,
        }
    }
}

impl Vault {
    /// Reads many secrets with a child of `token`, one result each.
    pub(crate) async fn read_narrowly(
        &self,
        token: &SecretValue,
        scope: &Scope,
        references: &[&SecretRef],
        lease: Option<LeaseId>,
        deadline: Instant,
    ) -> Vec<Result<Fetched, Fault>> {
        let paths: Vec<&str> = references.iter().map(|reference| reference.path.as_str()).collect();
        let mut results: Vec<Option<Result<Fetched, Fault>>> = vec![None; references.len()];
        let mut wanted = Vec::with_capacity(references.len());
        for (at, found) in self.find_all(token, &paths, deadline).await.into_iter().enumerate() {
            match found.and_then(Found::stored) {
                Ok(place) => wanted.push(Wanted { at, version: &references[at].version, place }),
                Err(fault) => results[at] = Some(Err(fault)),
            }
        }
        let wisher = Wisher { scope, lease };
        if let Err(fault) = self.read_wanted(token, &wisher, references, &mut wanted, &mut results, deadline).await {
            wanted.iter().for_each(|wanted| results[wanted.at] = Some(Err(fault.clone())));
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(Fault::late()))).collect()
    }

    /// Reads what is wanted, and leaves in `wanted` what could not be.
    async fn read_wanted(
        &self,
        token: &SecretValue,
        wisher: &Wisher<'_>,
        references: &[&SecretRef],
        wanted: &mut Vec<Wanted<'_>>,
        results: &mut [Option<Result<Fetched, Fault>>],
        deadline: Instant,
    ) -> Result<(), Fault> {
        // What can't be meant at all is not asked for.
        let read = wanted.extract_if(.., |wanted| wanted.uses(false) == 0).collect::<Vec<_>>();
        for Wanted { at, version, place } in read {
            results[at] = Some(self.read_one(token, &place, version, deadline).await);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut paths: Vec<String> = wanted.iter().map(|wanted| wanted.place.data()).collect();
        paths.sort_unstable();
        paths.dedup();
        let needed = self.needed(token, &paths, wisher, deadline).await?;
        for Wanted { at, place, .. } in wanted.extract_if(.., |wanted| needed.refused.contains(&wanted.place.data())) {
            results[at] = Some(Err(refused(&place.data())));
        }
        for (round, life) in FETCH_TTLS.into_iter().enumerate() {
            if wanted.is_empty() {
                return Ok(());
            }
            let uses = wanted.iter().map(|wanted| wanted.uses(round > 0)).sum::<u64>() + 1;
            let wish = Wish { policies: &needed.policies, ttl: life, most: life, uses, renewable: false };
            let mut child = self.child(token, &wish, wisher, deadline).await?;
            let of = wanted.iter().map(|wanted| references[wanted.at].clone()).collect();
            let ending = child.ending(self.about(None, of, life));
            child.hold(&ending)?;
            let reads =
                wanted.iter().map(|wanted| self.read_one(child.token(), &wanted.place, wanted.version, deadline));
            let read = join_all(reads).await;
            drop(child);
            for (wanted, result) in wanted.iter().zip(read) {
                if result.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Denied) {
                    // Somebody changed a policy: next time it is asked again what they grant.
                    self.grants.forget();
                }
                results[wanted.at] = Some(result);
            }
            // Its uses or its time were over, or it was revoked: by the end of its parent, which then can't have another child.
            wanted.retain(
                |wanted| matches!(&results[wanted.at], Some(Err(fault)) if fault.kind == ErrorKind::Unauthenticated),
            );
        }
        if wanted.is_empty() {
            return Ok(());
        }
        Err(Fault::new(ErrorKind::Unavailable, "requests had to be repeated so often that its tokens were used up"))
    }

    /// Says what is written down of a child: everything but the token.
    pub(crate) fn about(&self, lease: Option<LeaseId>, references: Vec<SecretRef>, life: Duration) -> About {
        About {
            lease,
            name: self.instance.clone(),
            instance: self.settings.clone(),
            references,
            expires: after(life),
            renewable: false,
            leases: Vec::new(),
        }
    }

    /// Says what a token of this scope is made with, and the rules that its references need.
    pub(crate) fn policies_of(&self, scope: &Arc<Scope>) -> Vec<SessionPolicy> {
        let references: Vec<&SecretRef> = scope.of_instance(&self.instance).collect();
        let known = self.grants.candidates();
        let policies = known.clone().unwrap_or_default();
        let uses = references.len() as u64 + 1;
        let [life, ..] = FETCH_TTLS;
        let wish = Wish { policies: &policies, ttl: life, most: life, uses, renewable: false };
        let body = Body::new(&wish, &Wisher { scope, lease: None });
        // Our own structure always becomes JSON.
        let text = serde_json::to_string_pretty(&body).unwrap_or_default();
        let title = match (&known, policies.len()) {
            (None, _) => "token of a fetch, with those policies of the sign-in that the rules below need",
            (Some(_), 0 | 1) => "token of a fetch",
            _ => "token of a fetch, with those of its `policies` that the rules below need",
        };
        let mut rules: Vec<String> = references.iter().flat_map(|reference| self.rules(&reference.path)).collect();
        rules.sort_unstable();
        rules.dedup();
        let mut all = vec![
            SessionPolicy { title: title.to_owned(), text },
            SessionPolicy { title: "rules that its references need".to_owned(), text: rules.join("\n") },
        ];
        let of_identity = self.grants.of_identity();
        if !of_identity.is_empty() {
            let title = "policies of the sign-in's identity, which hold for every token of it".to_owned();
            all.push(SessionPolicy { title, text: of_identity.join("\n") });
        }
        all
    }

    /// Writes the rule that reading `path` needs; both that it may be where its mount is not known yet.
    fn rules(&self, path: &str) -> Vec<String> {
        let rule = |path: &str| {
            let path = safe(path).replace('\\', "\\\\").replace('"', "\\\"");
            format!("path \"{path}\" {{ capabilities = [\"read\"] }}")
        };
        match (self.mounts.find(path), path.split_once('/')) {
            (Some(Found::Stored(place)), _) => vec![rule(&place.data())],
            (None, Some((mount, name))) => vec![rule(&format!("{mount}/data/{name}")), rule(path)],
            _ => vec![rule(path)],
        }
    }
}

/// Says when something ends that lives so long from now.
pub(crate) fn after(life: Duration) -> Timestamp {
    Timestamp::now().checked_add(life).unwrap_or(Timestamp::MAX)
}

/// Speaks of a path that the sign-in itself may not read.
pub(crate) fn refused(path: &str) -> Fault {
    let rule = format!("path \"{}\" {{ capabilities = [\"read\"] }}", safe(path));
    let cause = "the sign-in may not read it, says `sys/capabilities-self`";
    Fault { code: Some(rule), ..Fault::new(ErrorKind::Denied, cause) }
}
