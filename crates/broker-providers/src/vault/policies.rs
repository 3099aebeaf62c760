//! Which of the sign-in's policies a run needs: what the server says of each of them alone.
//!
//! A child token gets the fewest policies that let it read the paths of one fetch. What a policy grants is never guessed
//! from its text, which the sign-in may not even read: a token that has it alone, two uses and two seconds asks
//! `sys/capabilities-self`. The sign-in's own token is asked, too, so that a policy of it that denies a path counts though
//! it is left out. What was learnt holds for ten minutes and for one token of the sign-in; that a path is refused is never
//! held. Source: HTTP API, `sys/capabilities-self`, `auth/token`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::vault::Vault;
use crate::vault::child::{Wish, Wisher};
use crate::vault::hint::ROOT;
use crate::vault::wire::Call;

/// How long it is believed what a policy grants.
const BELIEVED: Duration = Duration::from_secs(10 * 60);
/// How long a token lives that asks what one policy grants, and how long when that was too short.
const PROBE_TTLS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];
/// It asks, and revokes itself.
const PROBE_USES: u64 = 2;
/// The policy that every token has unless it renounces it, and that grants no secret.
pub(crate) const DEFAULT: &str = "default";

/// What is known of the policies of one instance and identity.
#[derive(Debug)]
pub(crate) struct Grants {
    /// The candidates that the instance names; none for all of the sign-in's token.
    named: Option<Vec<String>>,
    known: Mutex<Known>,
    /// One at a time learns, so that nothing is asked twice.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// Since when, and of which token.
    since: Option<(Instant, [u8; 32])>,
    own: Option<Own>,
    /// What the sign-in's token may read.
    readable: HashMap<String, bool>,
    /// What each policy alone grants, by policy and path.
    granted: HashMap<String, HashMap<String, bool>>,
}

/// What the sign-in's token has.
#[derive(Clone, Debug, Default, Deserialize)]
struct Own {
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    identity_policies: Vec<String>,
}

/// What the paths of one fetch need.
#[derive(Debug)]
pub(crate) struct Needed {
    /// The policies of the child token; never none, which would mean all.
    pub(crate) policies: Vec<String>,
    /// The paths that the sign-in itself may not read.
    pub(crate) refused: Vec<String>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

impl Grants {
    /// Returns a memory with nothing in it. `named` are the candidates that the instance's settings name.
    pub(crate) fn new(named: Option<&[String]>) -> Self {
        Self { named: named.map(candidates), known: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    pub(crate) fn forget(&self) {
        *self.lock() = Known::default();
    }

    /// Returns the candidates, where they are known without asking.
    pub(crate) fn candidates(&self) -> Option<Vec<String>> {
        self.named.clone().or_else(|| self.lock().own.as_ref().map(|own| candidates(&own.policies)))
    }

    /// Returns the policies that hold for every token of the sign-in, since they are its identity's; as far as known.
    pub(crate) fn of_identity(&self) -> Vec<String> {
        self.lock().own.as_ref().map(|own| own.identity_policies.clone()).unwrap_or_default()
    }

    /// Forgets what is too old, or of another token.
    fn believe(&self, token: &SecretValue) {
        // Opened to be told from another one; only the digest stays.
        let digest: [u8; 32] = Sha256::digest(token.expose()).into();
        let mut known = self.lock();
        if known.since.is_none_or(|(since, of)| since.elapsed() >= BELIEVED || of != digest) {
            *known = Known { since: Some((Instant::now(), digest)), ..Known::default() };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Finds the fewest policies that let a token read `paths`.
    ///
    /// # Errors
    /// Candidates are not known, or the sign-in may make no token or ask for no capability; and the server's.
    pub(crate) async fn needed(
        &self,
        token: &SecretValue,
        paths: &[String],
        wisher: &Wisher<'_>,
        deadline: Instant,
    ) -> Result<Needed, Fault> {
        let grants = &self.grants;
        let _turn = timeout_at(deadline, grants.turn.lock()).await.map_err(|_| Fault::late())?;
        grants.believe(token);
        let candidates = self.candidates(token, deadline).await?;
        if grants.named.is_none() && candidates.len() <= 1 {
            // The child has what the sign-in has: there is nothing to choose.
            return Ok(Needed { policies: or_default(candidates), refused: Vec::new() });
        }
        let is_unsure = |path: &&String| grants.lock().readable.get(*path) != Some(&true);
        let unsure: Vec<&String> = paths.iter().filter(is_unsure).collect();
        if !unsure.is_empty() {
            let said = self.capabilities(token, &unsure, deadline).await?;
            grants.lock().readable.extend(said);
        }
        let (wanted, refused): (Vec<String>, Vec<String>) = {
            let known = grants.lock();
            paths.iter().cloned().partition(|path| known.readable.get(path) == Some(&true))
        };
        if candidates.len() > 1 && !wanted.is_empty() {
            // What nobody was known to grant is asked anew: somebody may have changed a policy.
            let is_covered = |known: &Known, path: &String| {
                candidates.iter().any(|policy| known.granted.get(policy).is_some_and(|of| of.get(path) == Some(&true)))
            };
            let asked = candidates.iter().map(|policy| {
                let known = grants.lock();
                let of = known.granted.get(policy);
                let is_unknown =
                    |path: &&String| of.is_none_or(|of| !of.contains_key(*path)) || !is_covered(&known, path);
                (policy, wanted.iter().filter(is_unknown).collect::<Vec<_>>())
            });
            let asked: Vec<_> = asked.filter(|(_, paths)| !paths.is_empty()).collect();
            let probes = asked.iter().map(|(policy, paths)| self.probe(token, policy, paths, wisher, deadline));
            for ((policy, _), said) in asked.iter().zip(join_all(probes).await) {
                grants.lock().granted.entry((*policy).clone()).or_default().extend(said?);
            }
        }
        let known = grants.lock();
        let grant =
            |policy: &String, path: &String| known.granted.get(policy).is_some_and(|of| of.get(path) == Some(&true));
        let chosen = if candidates.len() > 1 { cover(&candidates, &wanted, grant) } else { candidates.clone() };
        // Of what nobody grants the server says so itself, whatever the token has.
        let policies = if chosen.is_empty() { candidates.into_iter().take(1).collect() } else { chosen };
        Ok(Needed { policies: or_default(policies), refused })
    }

    async fn candidates(&self, token: &SecretValue, deadline: Instant) -> Result<Vec<String>, Fault> {
        if let Some(known) = self.grants.candidates() {
            return Ok(known);
        }
        let answer = self.wire.ask(Some(token), &Call::read("auth/token/lookup-self"), deadline).await?;
        let own = answer.json::<Envelope<Own>>()?.data;
        if own.policies.iter().any(|policy| policy == "root") {
            let cause = "the sign-in is root, and so would be every token that it makes";
            return Err(Fault { code: Some(ROOT.to_owned()), ..Fault::new(ErrorKind::Unsupported, cause) });
        }
        let candidates = candidates(&own.policies);
        self.grants.lock().own = Some(own);
        Ok(candidates)
    }

    /// Asks what one policy alone grants.
    async fn probe(
        &self,
        token: &SecretValue,
        policy: &str,
        paths: &[&String],
        wisher: &Wisher<'_>,
        deadline: Instant,
    ) -> Result<HashMap<String, bool>, Fault> {
        let policies = [policy.to_owned()];
        let mut told = Err(Fault::late());
        for life in PROBE_TTLS {
            let wish = Wish { policies: &policies, ttl: life, most: life, uses: PROBE_USES, renewable: false };
            // Not written down: it reads nothing, and who dies here leaves it for some seconds.
            let child = self.child(token, &wish, wisher, deadline).await?;
            told = self.capabilities(child.token(), paths, deadline).await;
            // A slow answer finds its token ended.
            if !told.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated) {
                break;
            }
        }
        told
    }

    /// Asks which of these paths a token may read.
    async fn capabilities(
        &self,
        token: &SecretValue,
        paths: &[&String],
        deadline: Instant,
    ) -> Result<HashMap<String, bool>, Fault> {
        let body = json!({ "paths": paths });
        let call = Call::write("sys/capabilities-self", &body);
        let answer = match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.wire.ask(Some(token), &call, deadline).await?,
            Err(_) => return Err(Fault::late()),
        };
        let mut said = answer.json::<Envelope<BTreeMap<String, Value>>>()?.data;
        let is_read = |words: Option<Value>| {
            let words = words.as_ref().and_then(Value::as_array).into_iter().flatten();
            words.filter_map(Value::as_str).any(|word| word == "read" || word == "root")
        };
        Ok(paths.iter().map(|path| ((*path).clone(), is_read(said.remove(*path)))).collect())
    }
}

/// Returns those that can be given to a child: each once, without the one that it has anyway, and never root.
fn candidates(policies: &[String]) -> Vec<String> {
    let mut candidates: Vec<String> = Vec::with_capacity(policies.len());
    for policy in policies {
        if policy != DEFAULT && policy != "root" && !candidates.contains(policy) {
            candidates.push(policy.clone());
        }
    }
    candidates
}

/// A token for which no policy is named gets all of its parent's.
fn or_default(policies: Vec<String>) -> Vec<String> {
    if policies.is_empty() { vec![DEFAULT.to_owned()] } else { policies }
}

/// Chooses few of `candidates` that grant all of `paths` that any of them grants: time after time the one that grants most
/// of what is left, the first of several; then those go that the others make needless. In the order of `candidates`.
fn cover(candidates: &[String], paths: &[String], grants: impl Fn(&String, &String) -> bool) -> Vec<String> {
    let mut left: Vec<&String> = paths.iter().collect();
    let mut chosen: Vec<&String> = Vec::new();
    loop {
        let gain = |policy: &&String| left.iter().filter(|path| grants(policy, path)).count();
        // The last of the greatest, of the reverse order: the first one.
        let Some(best) = candidates.iter().rev().max_by_key(gain).filter(|best| gain(best) > 0) else { break };
        left.retain(|path| !grants(best, path));
        chosen.push(best);
    }
    let covered: Vec<&String> = paths.iter().filter(|path| !left.contains(path)).collect();
    for policy in chosen.clone() {
        let others: Vec<&String> = chosen.iter().copied().filter(|other| *other != policy).collect();
        if covered.iter().all(|path| others.iter().any(|other| grants(other, path))) {
            chosen = others;
        }
    }
    candidates.iter().filter(|policy| chosen.contains(policy)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Each policy grants the paths whose letters are in its name.
    fn chosen(candidates: &str, paths: &str) -> Vec<String> {
        cover(&words(candidates), &words(paths), |policy, path| policy.contains(path.as_str()))
    }

    #[test]
    fn few_policies_are_chosen_that_grant_all_and_none_is_needless() {
        assert_eq!(chosen("a b ab", "a b"), ["ab"]);
        assert_eq!(chosen("ax ay", "a"), ["ax"], "the first of several");
        assert_eq!(chosen("a x b", "a b"), ["a", "b"]);
        assert_eq!(chosen("abc ade bcf", "a b c d e f"), ["ade", "bcf"], "the greatest step was needless in the end");
        assert!(chosen("a b", "z").is_empty());
        assert_eq!(chosen("a b", "a z"), ["a"], "what nobody grants keeps nobody");
    }

    #[test]
    fn neither_root_nor_default_is_a_candidate_and_none_is_not_all() {
        assert_eq!(candidates(&words("root default a a b")), ["a", "b"]);
        assert_eq!(or_default(Vec::new()), ["default"]);
    }
}
