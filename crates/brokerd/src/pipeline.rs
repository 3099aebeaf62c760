//! The order of the security steps, read downwards: parse, trust, decide, approve, record, fetch or issue, lease, answer.
//!
//! Each step takes what the step before it proved: deciding takes a trusted subject, recording an approved request,
//! fetching a [`Permit`], and only [`record`] makes one. So nothing is fetched that was not decided on and written down,
//! whichever command asked. No record, no secret.

use std::path::PathBuf;
use std::sync::Arc;

use broker_core::code::ErrorCode;
use broker_core::decision::Decision;
use broker_core::event::Event;
use broker_core::lease::{Credential, Lease, LeaseEnd, LeaseId};
use broker_core::request::{Request, Right};
use broker_core::scope::Scope;
use broker_core::secret::SharedValue;
use broker_protocol::message::{Ask, GrantHead};
use broker_providers::issue;
use jiff::Timestamp;

use crate::broker::Broker;
use crate::endpoint::{self, Serving};
use crate::fetch::{Found, sign_in_of};
use crate::leases::since_boot;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::subject::Subject;
use crate::trust::Trust;

/// Proof that a request was allowed and is on record. Fetching, writing and removing take one.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit {
    subject: Subject,
    scope: Arc<Scope>,
    lease: Option<Lease>,
}

impl Permit {
    /// Returns what was permitted.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Returns for whom, and for what alone, managers are asked.
    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }
}

/// A subject whose manifest, if it has one, is the one that was agreed to.
struct Trusted(Subject);

/// A request that policy allows.
struct Allowed {
    subject: Subject,
    request: Request,
    decision: Decision,
}

/// A request that policy allows, with whatever answer of a person that took.
struct Approved(Allowed);

/// What leaves through the socket: the head and the values it announces.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Everything but the values.
    pub(crate) head: GrantHead,
    /// The values, in the order of the head.
    pub(crate) values: Vec<SharedValue>,
}

/// Serves `exec`: the secrets of a profile for one process, as a lease.
pub(crate) async fn grant(broker: &Broker, peer: &Peer, ask: Ask) -> Result<Delivery, Refusal> {
    let subject = Subject::of_profile(broker, &ask)?;
    let epoch = broker.leases.epoch();
    let permit = permit(broker, peer, Right::Use, subject, &ask, true)?;
    let mut unused = Unused::of(broker, &permit);

    let lease = permit.lease.as_ref().map(|lease| lease.id);
    let fetched = broker.stores.fetch(&permit, lease, &sign_in_of(&ask), &ask).await;
    let mut found = fetched.inspect_err(|refusal| unused.because(LeaseEnd::NotFetched, refusal))?;
    let issued = record_issued(broker, &permit, &found);
    unused.credentials = issued.inspect_err(|refusal| unused.because(LeaseEnd::NotDelivered, refusal))?;
    let served = serve(broker, peer, &mut found).await;
    let endpoints = served.inspect_err(|refusal| unused.because(LeaseEnd::NotDelivered, refusal))?;

    let looked = peer.look_again().map_err(Refusal::from);
    looked.inspect_err(|refusal| unused.because(LeaseEnd::NotDelivered, refusal))?;
    let credentials = std::mem::take(&mut unused.credentials);
    if let Some(lease) = &permit.lease {
        let lease = Lease { credentials: credentials.clone(), ..lease.clone() };
        if !broker.leases.begin(lease, peer.pidfd(), endpoints, epoch) {
            unused.credentials = credentials;
            unused.because(LeaseEnd::Ended, &Refusal::EndedMeanwhile);
            return Err(Refusal::EndedMeanwhile);
        }
    }
    unused.disarm();
    broker.count_grant();
    Ok(answer(&permit, found))
}

/// Puts on record what was issued, before any of it leaves. Returns it as the lease holds it.
fn record_issued(broker: &Broker, permit: &Permit, found: &Found) -> Result<Vec<Credential>, Refusal> {
    let Some(lease) = permit.lease.as_ref().filter(|_| !found.credentials.is_empty()) else { return Ok(Vec::new()) };
    let credential = |(issued, endpoint): &(Arc<issue::Credential>, bool)| Credential {
        references: issued.references.clone(),
        expires: issued.expires,
        revocable: issued.revocation.is_some(),
        endpoint: *endpoint,
    };
    let credentials: Vec<_> = found.credentials.iter().map(credential).collect();
    broker.quota.issued(&lease.project, since_boot(), credentials.len());
    broker.audit.append(Event::Issued { lease: lease.id, credentials: credentials.clone() })?;
    Ok(credentials)
}

/// Opens the endpoints of a run, and adds the variables that lead to them to its values.
async fn serve(broker: &Broker, peer: &Peer, found: &mut Found) -> Result<Vec<Serving>, Refusal> {
    let (root, uid) = (&peer.principal.process, peer.principal.uid);
    let mut endpoints = Vec::with_capacity(found.endpoints.len());
    for seed in std::mem::take(&mut found.endpoints) {
        let name = seed.name.clone();
        let served = endpoint::serve(seed, &broker.leases, root.clone(), uid).await;
        let (serving, variables) = served.map_err(|error| Refusal::Endpoint(name, error))?;
        endpoints.push(serving);
        found.values.extend(variables);
    }
    Ok(endpoints)
}

/// Takes a request through every step before fetching. With `leased` a lease starts in the same record.
///
/// # Errors
/// Untrusted, denied, approval needed, not recorded: in this order.
pub(crate) fn permit(
    broker: &Broker,
    peer: &Peer,
    right: Right,
    subject: Subject,
    ask: &Ask,
    leased: bool,
) -> Result<Permit, Refusal> {
    let trusted = trust(broker, subject)?;
    let allowed = decide(broker, peer, right, trusted, ask)?;
    let approved = approve(allowed)?;
    let within = if leased { quota(broker, approved)? } else { approved };
    let project = within.0.request.project.clone();
    record(broker, within, ask, leased).inspect_err(|_| {
        if leased {
            broker.quota.settled(&project)
        }
    })
}

/// Lets through what needs no manifest, and manifests whose bytes were agreed to in this directory.
fn trust(broker: &Broker, subject: Subject) -> Result<Trusted, Refusal> {
    if let Some(project) = &subject.project {
        let pin = Trust::pin_of(&project.path, &project.sha256)?;
        if !broker.trust.holds(&pin) {
            return Err(Refusal::Untrusted(project.path.clone()));
        }
    }
    Ok(Trusted(subject))
}

/// Asks policy. A denial is on record before it is told.
fn decide(broker: &Broker, peer: &Peer, right: Right, trusted: Trusted, ask: &Ask) -> Result<Allowed, Refusal> {
    let Trusted(subject) = trusted;
    let request = request_for(peer, right, &subject, ask);
    let decision = broker.policy.decide(&request);
    tracing::debug!(pid = request.principal.process.pid, right = ?right, rule = decision.rule(), "decided");
    match &decision {
        Decision::Allow { .. } | Decision::Ask { .. } => Ok(Allowed { subject, request, decision }),
        Decision::Deny { rule, because } => {
            let refusal = Refusal::Denied { rule: rule.clone(), because: because.clone() };
            broker.audit.append(event(&request, decision.clone(), None))?;
            Err(refusal)
        }
    }
}

/// Gets the answer of a person where policy wants one. Nobody can be asked yet, and silence denies.
fn approve(allowed: Allowed) -> Result<Approved, Refusal> {
    match &allowed.decision {
        Decision::Ask { rule } => Err(Refusal::ApprovalNeeded { rule: rule.clone() }),
        Decision::Allow { .. } | Decision::Deny { .. } => Ok(Approved(allowed)),
    }
}

/// Counts a lease that is to begin. A project that has all it may have is refused, and that is on record.
fn quota(broker: &Broker, approved: Approved) -> Result<Approved, Refusal> {
    let Allowed { subject, request, .. } = &approved.0;
    let limits = subject.config.limits();
    let live = broker.leases.count_of(&request.project);
    match broker.quota.begin(&request.project, limits, since_boot(), live, subject.issues()) {
        Ok(()) => Ok(approved),
        Err(exceeded) => {
            let decision = Decision::Deny { rule: "quota".to_owned(), because: exceeded.to_string() };
            broker.audit.append(event(request, decision, None))?;
            Err(exceeded.into())
        }
    }
}

/// Writes the decision and, where one starts, the lease: one record, complete before anything is fetched.
fn record(broker: &Broker, approved: Approved, ask: &Ask, leased: bool) -> Result<Permit, Refusal> {
    let Approved(Allowed { subject, request, decision }) = approved;
    let scope = broker.scopes.scope(&request.principal, &subject)?;
    let lease = leased.then(|| lease_for(&request, &subject, &scope, ask)).transpose()?;
    broker.audit.append(event(&request, decision, lease.clone()))?;
    Ok(Permit { subject, scope, lease })
}

fn answer(permit: &Permit, found: Found) -> Delivery {
    let subject = &permit.subject;
    let mut head = GrantHead {
        lease: permit.lease.as_ref().map(|lease| lease.id),
        values: Vec::with_capacity(found.values.len()),
        settings: Vec::new(),
        remove: subject.withheld.clone(),
        notes: found.notes,
    };
    if let Some(project) = &subject.project {
        head.settings = project.manifest.settings.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    }
    head.remove.extend(found.bootstrap.iter().cloned());
    let mut values = Vec::with_capacity(found.values.len());
    for (name, value) in found.values {
        head.values.push((name, value.len()));
        values.push(value);
    }
    // What this run sets itself is not taken from it; an optional secret that is missing is not inherited either.
    head.remove.extend(found.missing);
    head.remove.retain(|name| !head.values.iter().any(|(set, _)| set == name));
    Delivery { head, values }
}

/// Ends a lease that is on record and whose values never left: on failure, and when the client goes away meanwhile,
/// which drops the request wherever it stands.
struct Unused<'b> {
    broker: &'b Broker,
    project: Option<String>,
    lease: Option<LeaseId>,
    credentials: Vec<Credential>,
    how: LeaseEnd,
    error: Option<ErrorCode>,
}

impl<'b> Unused<'b> {
    fn of(broker: &'b Broker, permit: &Permit) -> Self {
        let lease = permit.lease.as_ref().map(|lease| lease.id);
        let project = permit.lease.as_ref().map(|lease| lease.project.clone());
        Self { broker, project, lease, credentials: Vec::new(), how: LeaseEnd::NotDelivered, error: None }
    }

    fn because(&mut self, how: LeaseEnd, refusal: &Refusal) {
        self.how = how;
        self.error = Some(refusal.code());
    }

    fn disarm(mut self) {
        self.lease = None;
    }
}

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Some(project) = &self.project {
            self.broker.quota.settled(project);
        }
        if let Some(lease) = self.lease.take() {
            tracing::debug!(%lease, how = ?self.how, "nothing was delivered");
            let credentials = std::mem::take(&mut self.credentials);
            self.broker.leases.finish(lease, credentials, self.how, self.error);
        }
    }
}

/// Returns the request as policy and audit see it.
pub(crate) fn request_for(peer: &Peer, right: Right, subject: &Subject, ask: &Ask) -> Request {
    Request {
        principal: peer.principal.clone(),
        right,
        project: subject.project.as_ref().map(|p| p.manifest.project.name.clone()).unwrap_or_default(),
        profile: subject.profile.clone(),
        references: subject.references(),
        argv: ask.argv.iter().take(MAX_ARGUMENTS).map(|argument| shortened(argument, MAX_TEXT)).collect(),
        cwd: ask.cwd.clone(),
        reason: ask.reason.as_deref().map(|reason| shortened(reason, MAX_TEXT)),
        ttl: subject.ttl,
    }
}

/// Most arguments of a command, and most bytes of each and of a reason, that are put on record.
const MAX_ARGUMENTS: usize = 64;
const MAX_TEXT: usize = 1024;

fn shortened(text: &str, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if end == text.len() { text.to_owned() } else { format!("{}… ({} bytes)", &text[..end], text.len()) }
}

/// Decides on a request about the broker itself: leases, lock, status, stop, trust.
///
/// # Errors
/// [`Refusal::Denied`]; the denial is on record.
pub(crate) fn control(broker: &Broker, peer: &Peer) -> Result<(), Refusal> {
    let request = Request {
        principal: peer.principal.clone(),
        right: Right::Admin,
        project: String::new(),
        profile: String::new(),
        references: Vec::new(),
        argv: Vec::new(),
        cwd: PathBuf::new(),
        reason: None,
        ttl: std::time::Duration::ZERO,
    };
    match broker.policy.decide(&request) {
        Decision::Allow { .. } => Ok(()),
        Decision::Ask { rule } => Err(Refusal::ApprovalNeeded { rule }),
        Decision::Deny { rule, because } => {
            let decision = Decision::Deny { rule: rule.clone(), because: because.clone() };
            broker.audit.append(event(&request, decision, None))?;
            Err(Refusal::Denied { rule, because })
        }
    }
}

fn event(request: &Request, decision: Decision, lease: Option<Lease>) -> Event {
    Event::Request {
        principal: Box::new(request.principal.clone()),
        right: request.right,
        decision,
        project: request.project.clone(),
        profile: request.profile.clone(),
        references: request.references.clone(),
        argv: request.argv.clone(),
        cwd: request.cwd.clone(),
        reason: request.reason.clone(),
        lease: lease.map(Box::new),
    }
}

/// Returns the id of a lease that nobody can guess.
pub(crate) fn new_lease_id() -> Result<LeaseId, Refusal> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| Refusal::Malformed(format!("no random bytes: {error}")))?;
    Ok(LeaseId::from_random(random))
}

fn lease_for(request: &Request, subject: &Subject, scope: &Scope, ask: &Ask) -> Result<Lease, Refusal> {
    let started = Timestamp::now();
    let ends = since_boot() + subject.ttl;
    Ok(Lease {
        id: new_lease_id()?,
        project: request.project.clone(),
        profile: request.profile.clone(),
        names: subject.wanted.iter().filter_map(|wanted| wanted.name.clone()).collect(),
        argv: request.argv.clone(),
        process: request.principal.process.clone(),
        started,
        expires: started.checked_add(subject.ttl).unwrap_or(Timestamp::MAX),
        expires_since_boot_ms: u64::try_from(ends.as_millis()).unwrap_or(u64::MAX),
        session: Some(scope.session),
        credentials: Vec::new(),
        watch: ask.watch,
    })
}
