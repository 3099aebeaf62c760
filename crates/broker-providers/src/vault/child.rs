//! Tokens that are made for one fetch or one run, as children of the sign-in's.
//!
//! A child says for whom it is, in its name and its metadata, so that the server's log joins ours. It has only the policies
//! that are asked for and `default`, without which it could not even revoke itself: the server adds that where the parent
//! has it. Who drops a [`Child`] has it revoked, in a task of its own, and struck from the ledger when that is done or its
//! time is over; only what is [kept](Child::keep) is somebody else's to end. The end of the parent is the end of its
//! children. Source: HTTP API, `auth/token/create`; documentation, "Tokens", "Token hierarchies and orphan tokens".

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker_core::lease::LeaseId;
use broker_core::scope::Scope;
use broker_core::secret::{SecretValue, SharedValue};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fault::Fault;
use crate::issue::{About, Ending, EntryId, Ledger};
use crate::provider::ErrorKind;
use crate::rest::SecretText;
use crate::vault::Vault;
use crate::vault::hint::{CHILDLESS, NO_CHILD, NOT_SUBSET};
use crate::vault::wire::{Call, Wire};

/// The longest life that is counted with, whatever a server says: more is added to no clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long one attempt to revoke may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited before the next one.
const PAUSE: Duration = Duration::from_secs(5);

/// What a child shall be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Never none: that would mean all of the parent's.
    pub(crate) policies: &'a [String],
    pub(crate) ttl: Duration,
    /// How long it can live at most, renewed as it may be.
    pub(crate) most: Duration,
    /// How many requests it is good for; 0 is no limit.
    pub(crate) uses: u64,
    pub(crate) renewable: bool,
}

/// For whom it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wisher<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) lease: Option<LeaseId>,
}

/// The body of the request for a child.
#[derive(Debug, Serialize)]
pub(crate) struct Body<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    policies: &'a [String],
    #[serde(rename = "type")]
    kind: &'static str,
    ttl: String,
    explicit_max_ttl: String,
    renewable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_uses: Option<u64>,
    display_name: String,
    meta: BTreeMap<&'static str, String>,
}

impl<'a> Body<'a> {
    pub(crate) fn new(wish: &Wish<'a>, wisher: &Wisher<'_>) -> Self {
        let Scope { session, project, profile, person, tier, lease, .. } = wisher.scope;
        let lease = wisher.lease.or(*lease).map(|lease| lease.to_string()).unwrap_or_default();
        let meta = [
            ("project", project.clone()),
            ("profile", profile.clone()),
            ("person", person.clone()),
            ("tier", tier.word().to_owned()),
            ("session", session.to_string()),
            ("lease", lease),
        ];
        let name = ["broker", project, profile].into_iter().filter(|part| !part.is_empty());
        Self {
            policies: wish.policies,
            kind: "service",
            ttl: seconds(wish.ttl),
            explicit_max_ttl: seconds(wish.most),
            renewable: wish.renewable,
            num_uses: (wish.uses > 0).then_some(wish.uses),
            display_name: name.collect::<Vec<_>>().join("-"),
            meta: meta.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
        }
    }
}

/// Writes a duration as the API reads it, in whole seconds and never none.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs().max(1))
}

/// A living child.
#[derive(Debug)]
pub(crate) struct Child {
    token: SharedValue,
    wire: Wire,
    ledger: Arc<dyn Ledger>,
    entry: Option<EntryId>,
    /// When it has certainly ended by itself.
    ends: Instant,
    is_kept: bool,
}

#[derive(Deserialize)]
struct Made {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    #[serde(default)]
    lease_duration: u64,
}

impl Vault {
    /// Makes a child of `token`. What it is for begins when it was [written down](Child::hold).
    ///
    /// # Errors
    /// The sign-in may make none, or the server's.
    pub(crate) async fn child(
        &self,
        token: &SecretValue,
        wish: &Wish<'_>,
        wisher: &Wisher<'_>,
        deadline: Instant,
    ) -> Result<Child, Fault> {
        let body = Body::new(wish, wisher);
        let call = Call::write("auth/token/create", &body);
        let answer = match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.wire.ask(Some(token), &call, deadline).await.map_err(not_made)?,
            Err(_) => return Err(Fault::late()),
        };
        let auth = answer.json::<Made>()?.auth;
        let auth = auth.ok_or_else(|| Fault::new(ErrorKind::Malformed, "a new token without the token"))?;
        let life = Duration::from_secs(auth.lease_duration).min(wish.most);
        Ok(Child {
            token: Arc::new(auth.client_token.0),
            wire: self.wire.clone(),
            ledger: Arc::clone(&self.ledger),
            entry: None,
            ends: Instant::now() + life,
            is_kept: false,
        })
    }
}

impl Child {
    pub(crate) fn token(&self) -> &SecretValue {
        &self.token
    }

    /// Returns where it was written down.
    pub(crate) fn entry(&self) -> Option<EntryId> {
        self.entry
    }

    /// Says what ending it takes.
    pub(crate) fn ending(&self, about: About) -> Ending {
        Ending { about, credential: Arc::clone(&self.token) }
    }

    /// Writes it down, instead of what was written down of it before.
    ///
    /// # Errors
    /// Nothing more can be written down. What was before stands.
    pub(crate) fn hold(&mut self, ending: &Ending) -> Result<EntryId, Fault> {
        let entry = self.ledger.hold(ending).map_err(|error| error.fault())?;
        if let Some(old) = self.entry.replace(entry) {
            self.ledger.strike(old);
        }
        Ok(entry)
    }

    /// Says that it now lives so much longer.
    pub(crate) fn lives(&mut self, life: Duration) {
        self.ends = Instant::now() + life.min(LONGEST);
    }

    /// Leaves it to whoever has its ending.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Without a runtime the process is about to end: it stands in the ledger, or ends by itself.
        if let (false, Ok(runtime)) = (self.is_kept, Handle::try_current()) {
            let (token, wire, ledger) = (Arc::clone(&self.token), self.wire.clone(), Arc::clone(&self.ledger));
            let (entry, ends) = (self.entry, self.ends);
            runtime.spawn(async move {
                end(&wire, &token, ends).await;
                entry.into_iter().for_each(|entry| ledger.strike(entry));
            });
        }
    }
}

/// Revokes a token, and tries again until its time is over.
async fn end(wire: &Wire, token: &SecretValue, ends: Instant) {
    while Instant::now() < ends {
        if revoke(wire, token, ends.min(Instant::now() + PATIENCE)).await.is_ok() {
            return;
        }
        sleep_until(ends.min(Instant::now() + PAUSE)).await;
    }
}

/// Revokes a token by itself, and with it all that hangs on it. One that has ended is no error: the server says that it does
/// not know it. That it may not revoke itself is one.
pub(crate) async fn revoke(wire: &Wire, token: &SecretValue, deadline: Instant) -> Result<(), Fault> {
    let call = Call::write("auth/token/revoke-self", &serde_json::json!({}));
    match wire.ask(Some(token), &call, deadline).await {
        Err(fault) if fault.kind == ErrorKind::Unauthenticated => Ok(()),
        done => done.map(|_| ()),
    }
}

/// Says why there is no child.
fn not_made(fault: Fault) -> Fault {
    let has = |part: &str| fault.cause.contains(part);
    let code = match fault.kind {
        ErrorKind::Denied => NO_CHILD,
        ErrorKind::Unsupported if has("batch tokens cannot") || has("restricted use token") => CHILDLESS,
        ErrorKind::Unsupported if has("must be subset of parent") => NOT_SUBSET,
        _ => return fault,
    };
    Fault { cause: format!("{}, making a token for this run", fault.cause), code: Some(code.to_owned()), ..fault }
}
