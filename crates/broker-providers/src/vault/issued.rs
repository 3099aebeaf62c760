//! Dynamic secrets: what an engine that is no KV makes when it is read, for one run.
//!
//! All that one run gets of an instance hangs on one child token, and is gone when that is revoked. Who dies between making
//! the token and writing it down leaves one that ends by itself within seconds: it is made with two of them to live, and
//! prolonged when it stands in the ledger. It ends for good with the run, however often it is renewed. Renewing and revoking
//! take the token itself, its server and its namespace, and no sign-in. Source: HTTP API, `auth/token/renew-self`,
//! `sys/leases/renew`; documentation, "Lease, renew, and revoke".

use std::sync::Arc;
use std::time::Duration;

use broker_core::reference::{SecretRef, Version};
use broker_core::secret::{SecretValue, SharedValue};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::issue::{About, Credential, Ending, Issued, Order, Revocation};
use crate::provider::ErrorKind;
use crate::vault::Vault;
use crate::vault::child::{Child, LONGEST, Wish, Wisher, revoke};
use crate::vault::mounts::Found;
use crate::vault::narrow::{after, refused};
use crate::vault::wire::{Call, Wire};

/// How long a token lives that was not written down yet: longer for a ledger or a network that was too slow before.
const UNWRITTEN: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];
/// How much longer than the run a token may live: clocks differ.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a token lives that nobody renews, where the settings don't say it.
pub(crate) const SESSION_TTL: Duration = Duration::from_secs(15 * 60);

/// An answer that may be leased.
#[derive(Deserialize)]
struct Leased<'a> {
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// What one read made.
struct Made {
    value: SharedValue,
    /// The lease and how long it lasts.
    lease: Option<(String, Duration)>,
}

#[derive(Deserialize)]
struct Prolonged {
    auth: Life,
}

#[derive(Deserialize)]
struct Life {
    lease_duration: u64,
}

#[derive(Deserialize)]
struct LeaseLeft {
    lease_duration: u64,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Left,
}

#[derive(Deserialize)]
struct Left {
    ttl: u64,
}

impl Vault {
    /// Issues what several references name, one result each.
    ///
    /// # Errors
    /// What concerns all of them: the sign-in, its right to make tokens, or the ledger.
    pub(crate) async fn issue_all(
        &self,
        token: &SecretValue,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Result<Vec<Result<Issued, Fault>>, Fault> {
        let paths: Vec<&str> = references.iter().map(|reference| reference.path.as_str()).collect();
        let found = self.find_all(token, &paths, deadline).await;
        let mut faults: Vec<Option<Fault>> =
            references.iter().zip(found).map(|(reference, found)| is_issued(reference, found).err()).collect();
        if let Some(fault) = faults.iter().flatten().find(|fault| fault.kind == ErrorKind::Unauthenticated) {
            return Err(fault.clone());
        }
        let of = |faults: &[Option<Fault>]| -> Vec<usize> {
            (0..references.len()).filter(|at| faults[*at].is_none()).collect()
        };
        let mut wanted: Vec<String> = of(&faults).into_iter().map(|at| references[at].path.clone()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(faults.into_iter().map(|fault| Err(fault.unwrap_or_else(Fault::late))).collect());
        }
        let wisher = Wisher { scope: &order.scope, lease: Some(order.lease) };
        let needed = self.needed(token, &wanted, &wisher, deadline).await?;
        for (reference, fault) in references.iter().zip(&mut faults) {
            if fault.is_none() && needed.refused.contains(&reference.path) {
                *fault = Some(refused(&reference.path));
            }
        }
        let open = of(&faults);
        let mut results: Vec<Result<Issued, Fault>> =
            faults.into_iter().map(|fault| Err(fault.unwrap_or_else(Fault::late))).collect();
        if open.is_empty() {
            return Ok(results);
        }
        let asked: Vec<SecretRef> = open.iter().map(|at| references[*at].clone()).collect();
        let (child, about) = self.written_down(token, &needed.policies, &asked, &wisher, order, deadline).await?;
        let made = join_all(asked.iter().map(|reference| self.make(child.token(), &reference.path, deadline))).await;
        let issued = self.one_credential(child, about, &asked, made);
        open.into_iter().zip(issued).for_each(|(at, result)| results[at] = result);
        Ok(results)
    }

    /// Makes the token of one run, writes it down and only then lets it live on.
    async fn written_down(
        &self,
        token: &SecretValue,
        policies: &[String],
        references: &[SecretRef],
        wisher: &Wisher<'_>,
        order: &Order,
        deadline: Instant,
    ) -> Result<(Child, About), Fault> {
        let life = self.session_ttl.min(order.ttl);
        let mut last = Fault::late();
        for ttl in UNWRITTEN {
            let wish = Wish { policies, ttl, most: order.ttl + MARGIN, uses: 0, renewable: true };
            let mut child = self.child(token, &wish, wisher, deadline).await?;
            let about = self.about(Some(order.lease), references.to_vec(), life);
            let about = About { renewable: true, ..about };
            child.hold(&child.ending(about.clone()))?;
            // Before the request: what the server counts begins later.
            let now = Timestamp::now();
            match prolong(&self.wire, child.token(), life, deadline).await {
                Ok(life) => {
                    child.lives(life);
                    let expires = now.checked_add(life).unwrap_or(about.expires);
                    return Ok((child, About { expires, ..about }));
                }
                Err(fault) if fault.kind == ErrorKind::Unauthenticated => {
                    let cause = "the token ended before it was written down and prolonged";
                    last = Fault::new(ErrorKind::Unavailable, cause);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(last)
    }

    /// Reads what an engine makes. A repeated request may make two: both hang on the token.
    async fn make(&self, token: &SecretValue, path: &str, deadline: Instant) -> Result<Made, Fault> {
        let answer = match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.wire.ask(Some(token), &Call::read(path), deadline).await,
            Err(_) => Err(Fault::late()),
        };
        let answer = answer.map_err(|fault| match fault.kind {
            // Not the sign-in's end: nobody is to sign in anew.
            ErrorKind::Unauthenticated => Fault { kind: ErrorKind::Unavailable, ..fault },
            _ => fault,
        })?;
        let Leased { lease_id, lease_duration, data } = answer.json_within()?;
        let data = data.filter(|data| data.get().starts_with('{'));
        let data = data.ok_or_else(|| Fault::new(ErrorKind::Malformed, "what was issued is no JSON object"))?;
        let lease = (!lease_id.is_empty()).then(|| (lease_id, bounded(lease_duration)));
        Ok(Made { value: Arc::new(SecretValue::new(data.get().as_bytes().to_vec())), lease })
    }

    /// Lets everything that was made end as one. Where nothing was, the token ends here.
    fn one_credential(
        &self,
        mut child: Child,
        about: About,
        references: &[SecretRef],
        made: Vec<Result<Made, Fault>>,
    ) -> Vec<Result<Issued, Fault>> {
        let leases = || made.iter().flatten().filter_map(|made| made.lease.as_ref());
        let expires = leases().map(|(_, life)| after(*life)).fold(about.expires, Timestamp::min);
        let names: Vec<String> = leases().map(|(id, _)| id.clone()).collect();
        let is_leased = !names.is_empty();
        let issued: Vec<SecretRef> = references
            .iter()
            .zip(&made)
            .filter(|(_, made)| made.is_ok())
            .map(|(reference, _)| reference.clone())
            .collect();
        let Some(first) = child.entry().filter(|_| !issued.is_empty()) else {
            return made.into_iter().map(|made| Err(made.err().unwrap_or_else(Fault::late))).collect();
        };
        let ending = child.ending(About { references: issued.clone(), expires, leases: names, ..about });
        // What was written down before is enough to revoke it with all its leases: a ledger that is full now ends nothing.
        let entry = if is_leased { child.hold(&ending).unwrap_or(first) } else { first };
        child.keep();
        let credential = Arc::new(Credential {
            instance: self.instance.clone(),
            references: issued,
            expires,
            revocation: Some(Revocation { entry, ending }),
        });
        let issue = |made: Made| Issued { value: made.value, lone_field: None, credential: Arc::clone(&credential) };
        made.into_iter().map(|made| made.map(issue)).collect()
    }

    /// Prolongs the token of a run and all its leases, and returns when the first of them ends now.
    pub(crate) async fn prolong_all(
        &self,
        ending: &Ending,
        left: Duration,
        deadline: Instant,
    ) -> Result<Timestamp, Fault> {
        let wire = self.wire_of(&ending.about)?;
        let (wire, token) = (&wire, &*ending.credential);
        let life = self.session_ttl.min(left);
        let now = Timestamp::now();
        let own = prolong(wire, token, life, deadline).await;
        let own = own.map_err(|fault| match fault.kind {
            ErrorKind::Unauthenticated => Fault { kind: ErrorKind::NotFound, ..fault },
            _ => fault,
        })?;
        let leases = ending.about.leases.iter().map(|lease| prolong_lease(wire, token, lease, life, deadline));
        let mut earliest = own;
        for life in join_all(leases).await {
            earliest = earliest.min(life?);
        }
        Ok(now.checked_add(earliest).unwrap_or(now))
    }

    /// Revokes the token of a run, and with it all its leases.
    pub(crate) async fn revoke_all(&self, ending: &Ending, deadline: Instant) -> Result<(), Fault> {
        revoke(&self.wire_of(&ending.about)?, &ending.credential, deadline).await
    }

    /// Returns the way to the server and the namespace that something was issued in, and to no other server.
    fn wire_of(&self, about: &About) -> Result<Wire, Fault> {
        let settings = &about.instance.settings;
        let address = settings.address.as_deref().unwrap_or_default().trim_end_matches('/');
        if address != self.wire.address() {
            return Err(Fault::new(ErrorKind::Unsupported, format!("it was issued at `{address}`, not here")));
        }
        Ok(self.wire.in_namespace(settings.namespace.as_deref()))
    }
}

/// Checks that a reference is one of what is issued.
fn is_issued(reference: &SecretRef, found: Result<Found, Fault>) -> Result<(), Fault> {
    match found? {
        Found::Issued { .. } if reference.version == Version::Current => Ok(()),
        Found::Issued { .. } => Err(Fault::new(ErrorKind::NotFound, "what is issued for a run has no versions")),
        Found::Stored(_) => Err(Fault::new(ErrorKind::Unsupported, "it is stored, and nothing is issued for it")),
    }
}

/// Lets a token live so long from now, as far as it may, and returns how long that is.
async fn prolong(wire: &Wire, token: &SecretValue, life: Duration, deadline: Instant) -> Result<Duration, Fault> {
    let call = Call::write("auth/token/renew-self", &json!({ "increment": life.as_secs().max(1) }));
    let answer = wire.ask(Some(token), &call, deadline).await?;
    Ok(bounded(answer.json::<Prolonged>()?.auth.lease_duration))
}

/// Lets a lease last so long from now, as far as it may, and returns how long that is. One that can't be renewed is looked
/// at: it ends when it ends.
async fn prolong_lease(
    wire: &Wire,
    token: &SecretValue,
    lease: &str,
    life: Duration,
    deadline: Instant,
) -> Result<Duration, Fault> {
    let call = Call::write("sys/leases/renew", &json!({ "lease_id": lease, "increment": life.as_secs().max(1) }));
    let fault = match wire.ask(Some(token), &call, deadline).await {
        Ok(answer) => return Ok(bounded(answer.json::<LeaseLeft>()?.lease_duration)),
        Err(fault) => fault,
    };
    if fault.cause.contains("not renewable") {
        let call = Call::write("sys/leases/lookup", &json!({ "lease_id": lease }));
        let answer = wire.ask(Some(token), &call, deadline).await?;
        return Ok(bounded(answer.json::<LookedUp>()?.data.ttl));
    }
    let is_gone = fault.kind == ErrorKind::Unsupported
        && (fault.cause.contains("lease not found") || fault.cause.contains("invalid lease"));
    Err(if is_gone { Fault { kind: ErrorKind::NotFound, ..fault } } else { fault })
}

/// Reads a life in seconds, as far as clocks can count with it.
fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LONGEST)
}
