//! What can be asked besides a grant: each operation walks the same steps of the pipeline and then does its one thing.

use std::time::{Duration, SystemTime};

use broker_core::event::Event;
use broker_core::lease::{LeaseEnd, LeaseId};
use broker_core::reference::SecretRef;
use broker_core::request::Right;
use broker_core::secret::SecretValue;
use broker_protocol::message::{
    Ask, Checked, GrantHead, LeaseEndAsk, Locked, ProviderRow, Providers, SecretDone, SecretHistory, SecretList,
    SecretNamed, SecretRow, SecretVersion, TrustAsk, TrustShown,
};
use broker_providers::provider::{DescribedVersion, ListOptions, Stage};
use broker_providers::registry::{KINDS, Kind};
use jiff::Timestamp;

use crate::broker::Broker;
use crate::fetch::sign_in_of;
use crate::leases::since_boot;
use crate::peer::Peer;
use crate::pipeline::{Delivery, control, new_lease_id, permit};
use crate::refusal::Refusal;
use crate::subject::Subject;
use crate::trust::Trust;

/// Fetches everything a profile lists and shows nothing of it.
pub(crate) async fn check(broker: &Broker, peer: &Peer, ask: Ask) -> Result<Checked, Refusal> {
    let subject = Subject::of_profile(broker, &ask)?;
    let permit = permit(broker, peer, Right::Use, subject, &ask, false)?;
    // What is issued for nobody's run is given back whatever comes of the check.
    let subject = permit.subject();
    let project = subject.project.as_ref().map(|p| p.manifest.project.name.clone()).unwrap_or_default();
    let (limits, issues) = (subject.config.limits(), subject.issues());
    broker.quota.begin(&project, limits, since_boot(), 0, issues)?;
    broker.quota.settled(&project);
    let tried = GivenBack { broker, lease: new_lease_id()?, project, sure: issues.sure };
    let secrets = broker.stores.check(&permit, tried.lease, &sign_in_of(&ask), &ask).await?;
    Ok(Checked { profile: permit.subject().profile.clone(), secrets })
}

/// Ends what was issued under a lease that never was one.
struct GivenBack<'b> {
    broker: &'b Broker,
    lease: LeaseId,
    project: String,
    sure: usize,
}

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        let given = self.broker.leases.give_back(self.lease);
        self.broker.quota.issued(&self.project, since_boot(), given.max(self.sure));
    }
}

/// Shows one value to a person.
pub(crate) async fn get(broker: &Broker, peer: &Peer, named: SecretNamed) -> Result<Delivery, Refusal> {
    let SecretNamed { ask, target } = named;
    let subject = Subject::of_target(broker, &ask, &target)?;
    let permit = permit(broker, peer, Right::Read, subject, &ask, false)?;
    let found = broker.stores.fetch(&permit, None, &sign_in_of(&ask), &ask).await?;
    peer.look_again()?;
    let (names, values): (Vec<_>, Vec<_>) = found.values.into_iter().unzip();
    let lengths = names.into_iter().zip(values.iter().map(|value| value.len())).collect();
    let head = GrantHead { lease: None, values: lengths, settings: Vec::new(), remove: Vec::new(), notes: found.notes };
    Ok(Delivery { head, values })
}

/// Stores a value.
pub(crate) async fn set(
    broker: &Broker,
    peer: &Peer,
    named: SecretNamed,
    value: SecretValue,
) -> Result<SecretDone, Refusal> {
    let SecretNamed { ask, target } = named;
    let subject = Subject::of_target(broker, &ask, &target)?;
    subject.whole()?;
    let permit = permit(broker, peer, Right::Write, subject, &ask, false)?;
    let reference = permit.subject().whole()?.clone();
    let stored = broker.stores.put(&permit, &sign_in_of(&ask), value).await;
    record_change(broker, &reference, "set", stored.as_ref().err())?;
    Ok(SecretDone { reference: reference.to_string(), version: stored? })
}

/// Removes a secret.
pub(crate) async fn remove(broker: &Broker, peer: &Peer, named: SecretNamed) -> Result<SecretDone, Refusal> {
    let SecretNamed { ask, target } = named;
    let subject = Subject::of_target(broker, &ask, &target)?;
    subject.whole()?;
    let permit = permit(broker, peer, Right::Write, subject, &ask, false)?;
    let reference = permit.subject().whole()?.clone();
    let removed = broker.stores.delete(&permit, &sign_in_of(&ask)).await;
    record_change(broker, &reference, "removed", removed.as_ref().err())?;
    removed.map(|()| SecretDone { reference: reference.to_string(), version: None })
}

fn record_change(
    broker: &Broker,
    reference: &SecretRef,
    change: &str,
    failure: Option<&Refusal>,
) -> Result<(), Refusal> {
    let outcome = failure.map_or("done".to_owned(), |refusal| refusal.code().to_string());
    let event = Event::SecretChanged { reference: reference.clone(), change: change.to_owned(), outcome };
    Ok(broker.audit.append(event)?)
}

/// Lists secrets: those of the manifest, or those of an instance below a prefix. Never a value.
pub(crate) async fn list(broker: &Broker, peer: &Peer, asked: SecretList) -> Result<Vec<SecretRow>, Refusal> {
    let SecretList { ask, prefix, tags } = asked;
    let Some(prefix) = prefix else {
        let subject = Subject::of_profile(broker, &ask)?;
        let row = |wanted: crate::subject::Wanted| SecretRow {
            name: wanted.name,
            reference: wanted.reference.to_string(),
            version: None,
            description: wanted.description,
        };
        return Ok(subject.wanted.into_iter().map(row).collect());
    };
    let (instance, below) = match prefix.split_once("://") {
        Some((instance, "")) => (instance.to_owned(), String::new()),
        Some((instance, _)) => {
            let reference: SecretRef = prefix.parse().map_err(|error| Refusal::Malformed(format!("{error}")))?;
            (instance.to_owned(), reference.path)
        }
        None => (prefix.clone(), String::new()),
    };
    let subject = Subject::of_instance(broker, &ask, &instance)?;
    let permit = permit(broker, peer, Right::Use, subject, &ask, false)?;
    let listed =
        broker.stores.list(&permit, &sign_in_of(&ask), &instance, ListOptions { prefix: &below, tags: &tags }).await?;
    let reference = |path: String| SecretRef {
        instance: instance.clone(),
        path,
        field: Vec::new(),
        version: Default::default(),
        options: Default::default(),
    };
    let row = |l: broker_providers::provider::Listed| SecretRow {
        name: None,
        reference: reference(l.path).to_string(),
        version: l.version,
        description: None,
    };
    Ok(listed.into_iter().map(row).collect())
}

/// Says what is known of a secret besides its value.
pub(crate) async fn history(broker: &Broker, peer: &Peer, named: SecretNamed) -> Result<SecretHistory, Refusal> {
    let SecretNamed { ask, target } = named;
    let subject = Subject::of_target(broker, &ask, &target)?;
    let permit = permit(broker, peer, Right::Use, subject, &ask, false)?;
    let (reference, described) = broker.stores.describe_secret(&permit, &sign_in_of(&ask)).await?;
    let timestamp = |time: SystemTime| Timestamp::try_from(time).ok();
    let stage = |stage: &Stage| match stage {
        Stage::Current => "current".to_owned(),
        Stage::Previous => "previous".to_owned(),
        Stage::Pending => "pending".to_owned(),
    };
    let version = |version: DescribedVersion| SecretVersion {
        stages: version.stages.iter().map(stage).collect(),
        id: version.id,
        created: version.created.and_then(timestamp),
        usable: version.usable,
    };
    Ok(SecretHistory {
        reference: reference.to_string(),
        created: described.created.and_then(timestamp),
        changed: described.changed.and_then(timestamp),
        tags: described.tags,
        versions: described.versions.into_iter().map(version).collect(),
    })
}

/// Shows what a manifest asks for and, when the person agreed to these very bytes, remembers that.
pub(crate) fn trust(broker: &Broker, peer: &Peer, asked: TrustAsk) -> Result<TrustShown, Refusal> {
    control(broker, peer)?;
    let config = broker.config.current().map_err(Refusal::Text)?;
    let project = broker.projects.parse(asked.manifest, &config)?;
    let pin = Trust::pin_of(&project.path, &project.sha256)?;
    let sha256 = pin.sha256.clone();
    match asked.agreed {
        Some(agreed) if agreed != sha256 => return Err(Refusal::ChangedMeanwhile(project.path.clone())),
        Some(_) => {
            broker.audit.append(Event::Trusted { manifest: project.path.clone(), sha256: sha256.clone() })?;
            broker.trust.agree(pin.clone())?;
        }
        None => {}
    }
    let manifest = &project.manifest;
    let destinations = manifest.providers.iter().flat_map(|(name, settings)| {
        settings.destinations().into_iter().map(|(key, value)| (name.clone(), key.to_owned(), value))
    });
    let instances = manifest
        .providers
        .iter()
        .flat_map(|(name, settings)| settings.said().into_iter().map(|(key, value)| (name.clone(), key, value)));
    Ok(TrustShown {
        instances: instances.collect(),
        sha256,
        trusted: broker.trust.holds(&pin),
        project: manifest.project.name.clone(),
        destinations: destinations.collect(),
        secrets: manifest.secrets.iter().map(|(n, s)| (n.clone(), s.reference.to_string())).collect(),
        settings: manifest.settings.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
    })
}

/// Ends every lease and forgets everything held.
pub(crate) async fn lock(broker: &Broker, peer: &Peer) -> Result<Locked, Refusal> {
    control(broker, peer)?;
    // Forgetting comes first: whatever happens to the record, the values are gone.
    broker.stores.forget();
    broker.scopes.renew();
    let leases = broker.leases.end_all(LeaseEnd::Ended);
    broker.audit.append(Event::Locked { leases })?;
    Ok(Locked { leases, ending: broker.leases.settled(SETTLE).await })
}

/// Ends one lease, or all.
pub(crate) async fn end_lease(broker: &Broker, peer: &Peer, asked: LeaseEndAsk) -> Result<Locked, Refusal> {
    control(broker, peer)?;
    let leases = match asked.lease {
        None => broker.leases.end_all(LeaseEnd::Ended),
        Some(id) if broker.leases.end(id, LeaseEnd::Ended, None) => 1,
        Some(id) => return Err(Refusal::UnknownLease(id.to_string())),
    };
    Ok(Locked { leases, ending: broker.leases.settled(SETTLE).await })
}

/// How long whoever ended leases waits to hear that what was issued for them is revoked.
const SETTLE: Duration = Duration::from_secs(5);

/// Lists the kinds of provider and the configured instances.
pub(crate) fn providers(broker: &Broker) -> Result<Providers, Refusal> {
    let config = broker.config.current().map_err(Refusal::Text)?;
    let can = |kind: &str| Kind::named(kind).map(|row| row.capabilities.words());
    let row = |instance: &str, kind: &str, from: &str| ProviderRow {
        instance: instance.to_owned(),
        kind: kind.to_owned(),
        from: from.to_owned(),
        can: can(kind).unwrap_or_default().into_iter().map(str::to_owned).collect(),
    };
    let defaults = KINDS.iter().filter_map(|kind| Some((kind.scheme?, kind.kind)));
    let defaults = defaults.filter(|(scheme, _)| !config.instances.contains_key(*scheme));
    let configured = config.instances.iter().map(|(name, (settings, from))| row(name, &settings.kind, from));
    Ok(Providers { providers: defaults.map(|(scheme, kind)| row(scheme, kind, "default")).chain(configured).collect() })
}
