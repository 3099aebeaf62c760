//! The only way to the providers: every method that reads, issues or writes a secret takes a [`Permit`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use broker_core::generate::Generate;
use broker_core::instance::Timing;
use broker_core::lease::LeaseId;
use broker_core::manifest::Deliver;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::{SecretValue, SharedValue};
use broker_core::sign_in::SignIn;
use broker_protocol::message::{Ask, CheckedSecret, SignInVariable, Status};
use broker_providers::issue::{Credential, Ending, Order, SessionPolicy};
use broker_providers::local::{KeySource, StoreState};
use broker_providers::provider::{Described, ErrorKind, ListOptions, Listed, ProviderError, Retry, unsupported};
use broker_providers::registry::{Context, Instance, Kind, Registry};
use broker_providers::resolve::{Opened, ResolveOptions, Resolved, Run, resolve};
use broker_providers::sign_ins::{SignInWay, SignIns};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::endpoint::Seed;
use crate::pipeline::Permit;
use crate::refusal::{Refusal, problem_of_provider};
use crate::subject::{Subject, Wanted};

/// The open providers of one daemon.
pub(crate) struct Stores {
    registry: Registry,
}

/// What a fetch for a child found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Variables and their values, ordered by name.
    pub(crate) values: Vec<(String, SharedValue)>,
    /// Optional variables that stay unset.
    pub(crate) missing: Vec<String>,
    /// Credentials of the managers used, which the child must not inherit.
    pub(crate) bootstrap: Vec<String>,
    /// What the person should know.
    pub(crate) notes: Vec<String>,
    /// What was issued, each credential once, and whether it is for an endpoint.
    pub(crate) credentials: Vec<(Arc<Credential>, bool)>,
    /// What is to be served.
    pub(crate) endpoints: Vec<Seed>,
}

impl Stores {
    /// Returns stores with nothing open. Touches neither disk nor network.
    pub(crate) fn new(context: Context) -> Self {
        Self { registry: Registry::new(context) }
    }

    /// Fetches everything that was permitted and issues, for the run `lease`, what is not stored; one failing secret hides
    /// no other.
    ///
    /// # Errors
    /// Every required secret that could not be had. What was issued beside it stands in the ledger.
    pub(crate) async fn fetch(
        &self,
        permit: &Permit,
        lease: Option<LeaseId>,
        sign_in: &SignIn,
        ask: &Ask,
    ) -> Result<Found, Refusal> {
        let subject = permit.subject();
        let run = self.run(permit, lease, sign_in, ask).await?;
        let results = self.resolve(permit, run.as_ref(), sign_in, ask).await;
        let mut found = Found { bootstrap: bootstrap_of(subject), ..Found::default() };
        let mut failed = Vec::new();
        for (wanted, result) in subject.wanted.iter().zip(results) {
            let name = wanted.name.clone().unwrap_or_default();
            if let Ok(Resolved { credential: Some(credential), .. }) = &result {
                let is_known = |(known, _): &(Arc<Credential>, bool)| Arc::ptr_eq(known, credential);
                if !found.credentials.iter().any(is_known) {
                    found.credentials.push((Arc::clone(credential), wanted.deliver == Deliver::Endpoint));
                }
            }
            match result {
                Ok(resolved) if wanted.deliver == Deliver::Endpoint => {
                    let seed = self.seed(permit, wanted, resolved, run.as_ref(), sign_in)?;
                    if let Some(other) = found.endpoints.iter().find(|other| other.protocol == seed.protocol) {
                        return Err(Refusal::TwoEndpoints(other.name.clone(), seed.name));
                    }
                    found.endpoints.push(seed);
                }
                Ok(resolved) => {
                    if resolved.stale {
                        let age = resolved.fetched_at.elapsed().as_secs();
                        found.notes.push(format!("`{}` is away: `{name}` is {age} s old", wanted.reference.instance));
                    }
                    found.values.push((name, resolved.value));
                }
                Err(error) if !wanted.required => {
                    found.notes.push(format!("`{name}` is not required and stays unset: {error}"));
                    found.missing.push(name);
                }
                Err(error) => failed.push((wanted.name.clone(), error)),
            }
        }
        if failed.is_empty() { Ok(found) } else { Err(self.failure(permit, sign_in, failed)) }
    }

    /// Returns what an endpoint is made from.
    fn seed(
        &self,
        permit: &Permit,
        wanted: &Wanted,
        resolved: Resolved,
        run: Option<&Run>,
        sign_in: &SignIn,
    ) -> Result<Seed, Refusal> {
        let instance = &wanted.reference.instance;
        let kind = permit.subject().instance(instance).and_then(|instance| Kind::named(&instance.settings.kind));
        let (Some(protocol), Some(credential), Some(run)) =
            (kind.and_then(|kind| kind.endpoint), resolved.credential, run)
        else {
            return Err(unsupported(&wanted.reference, "it cannot be served as an endpoint").into());
        };
        Ok(Seed {
            name: wanted.name.clone().unwrap_or_default(),
            reference: wanted.reference.clone(),
            protocol,
            opened: self.open_for(permit, run.order.lease.into(), instance, sign_in)?,
            run: run.clone(),
            value: resolved.value,
            credential,
        })
    }

    /// Returns what is needed to have something issued for a run: above all the keys that instances sign with, which stand
    /// at other managers.
    async fn run(
        &self,
        permit: &Permit,
        lease: Option<LeaseId>,
        sign_in: &SignIn,
        ask: &Ask,
    ) -> Result<Option<Run>, Refusal> {
        let Some(lease) = lease else { return Ok(None) };
        let (instances, references): (Vec<_>, Vec<_>) = permit.subject().keys()?.iter().cloned().unzip();
        let options = ResolveOptions { refresh: ask.refresh, offline: ask.offline, deadline: None, run: None };
        let results = resolve(&references, options, |name| self.open_for(permit, Some(lease), name, sign_in)).await;
        let mut keys = HashMap::new();
        let mut failed = Vec::new();
        for (instance, result) in instances.into_iter().zip(results) {
            match result {
                Ok(resolved) => drop(keys.insert(instance, resolved.value)),
                Err(error) => failed.push((Some(format!("the key of {instance}")), error)),
            }
        }
        if !failed.is_empty() {
            return Err(self.failure(permit, sign_in, failed));
        }
        let (scope, ttl) = (Arc::clone(permit.scope()), permit.subject().ttl);
        Ok(Some(Run { order: Order { lease, scope, ttl, key: None }, keys }))
    }

    /// Returns, of every instance that is narrowed for what was permitted, what its session is cut by. Asks nobody.
    ///
    /// # Errors
    /// The provider's, for settings or references that make no sense.
    pub(crate) fn session_policies(
        &self,
        subject: &Subject,
        scope: &Arc<Scope>,
        sign_in: &SignIn,
    ) -> Result<Vec<(String, SessionPolicy)>, Refusal> {
        let mut all = Vec::new();
        for (name, instance) in subject.instances() {
            let opened = self.registry.open_for(name, instance, sign_in, scope, None)?;
            all.extend(opened.provider.session_policies().into_iter().map(|policy| (name.clone(), policy)));
        }
        Ok(all)
    }

    /// Prolongs what was issued, for a run that may last `left` longer, and returns when it ends now.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn renew(
        &self,
        ending: &Ending,
        left: Duration,
        deadline: Instant,
    ) -> Result<Timestamp, ProviderError> {
        self.issuer(ending)?.provider.renew(ending, left, deadline).await
    }

    /// Ends what was issued. Takes no permit: it can only take away.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn revoke(&self, ending: &Ending, deadline: Instant) -> Result<(), ProviderError> {
        self.issuer(ending)?.provider.revoke(ending, deadline).await
    }

    /// Opens who issued a credential, signed in as nobody: it is ended and prolonged by what stands in the ledger.
    fn issuer(&self, ending: &Ending) -> Result<Opened, ProviderError> {
        self.registry.open(&ending.about.name, &ending.about.instance, &SignIn::default())
    }

    /// Says what failed, and which instances a person could sign in to.
    fn failure(&self, permit: &Permit, sign_in: &SignIn, mut failed: Vec<(Option<String>, ProviderError)>) -> Refusal {
        let mut instances: Vec<String> = Vec::new();
        for (_, error) in &mut failed {
            let waits = error.kind == ErrorKind::Unauthenticated;
            if waits && self.way_to_sign_in(permit.subject(), &error.instance, sign_in).is_ok_and(|way| way.is_some()) {
                error.hint = Some(format!("sign in: broker login {}", error.instance));
                if !instances.contains(&error.instance) {
                    instances.push(error.instance.clone());
                }
            }
        }
        if instances.is_empty() { Refusal::Providers(failed) } else { Refusal::SignIn(failed, instances) }
    }

    /// Returns the way for a person to sign in to an instance, if it has one.
    ///
    /// # Errors
    /// The provider's, for settings that make no sense.
    pub(crate) fn way_to_sign_in(
        &self,
        subject: &Subject,
        instance: &str,
        sign_in: &SignIn,
    ) -> Result<Option<SignInWay>, Refusal> {
        let known = subject.instance(instance);
        let known = known.ok_or_else(|| Refusal::UnknownInstance(instance.to_owned()))?;
        Ok(self.registry.login(instance, &known, sign_in)?)
    }

    /// Returns the sessions of those who signed in. Nothing leaves for a manager without a [`Permit`]: see `sign_in.rs`.
    pub(crate) fn sign_ins(&self) -> &SignIns {
        self.registry.sign_ins()
    }

    /// Forgets every value: somebody signed in or out.
    pub(crate) fn forget_values(&self) {
        self.registry.forget_values();
    }

    /// Fetches everything that was permitted and returns only whether it could be had.
    ///
    /// # Errors
    /// Only that the embedded store is locked or not there yet, since its passphrase would change the answer.
    pub(crate) async fn check(
        &self,
        permit: &Permit,
        lease: LeaseId,
        sign_in: &SignIn,
        ask: &Ask,
    ) -> Result<Vec<CheckedSecret>, Refusal> {
        let run = self.run(permit, Some(lease), sign_in, ask).await?;
        let results = self.resolve(permit, run.as_ref(), sign_in, ask).await;
        let locked = |e: &&ProviderError| matches!(e.kind, ErrorKind::Locked | ErrorKind::NotCreated);
        if let Some(error) = results.iter().filter_map(|result| result.as_ref().err()).find(locked) {
            return Err(error.clone().into());
        }
        let row = |(wanted, result): (&Wanted, Result<Resolved, ProviderError>)| CheckedSecret {
            name: wanted.name.clone().unwrap_or_default(),
            reference: wanted.reference.to_string(),
            required: wanted.required,
            bytes: result.as_ref().ok().map(|resolved| resolved.value.len()),
            problem: result.err().map(|error| problem_of_provider(None, &error)),
        };
        Ok(permit.subject().wanted.iter().zip(results).map(row).collect())
    }

    async fn resolve(
        &self,
        permit: &Permit,
        run: Option<&Run>,
        sign_in: &SignIn,
        ask: &Ask,
    ) -> Vec<Result<Resolved, ProviderError>> {
        let subject = permit.subject();
        let references: Vec<SecretRef> = subject.wanted.iter().map(|wanted| wanted.reference.clone()).collect();
        let options = ResolveOptions { refresh: ask.refresh, offline: ask.offline, deadline: None, run };
        tracing::debug!(references = ?references.iter().map(ToString::to_string).collect::<Vec<_>>(), ?sign_in, "fetching");
        let lease = run.map(|run| run.order.lease);
        let mut results = resolve(&references, options, |name| self.open_for(permit, lease, name, sign_in)).await;
        tracing::trace!(?results, "fetched");
        for (wanted, result) in subject.wanted.iter().zip(&mut results) {
            if let (Some(way), Err(error)) = (wanted.generate, &*result)
                && matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotCreated)
            {
                *result = self.generate(&wanted.reference, way).await;
            }
        }
        results
    }

    async fn generate(&self, reference: &SecretRef, way: Generate) -> Result<Resolved, ProviderError> {
        let made = self.registry.local().generate(reference, way).await?;
        Ok(Resolved {
            value: made.value,
            version: made.version,
            fetched_at: made.fetched_at,
            stale: false,
            credential: None,
        })
    }

    /// Stores a value under the permitted reference.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn put(
        &self,
        permit: &Permit,
        sign_in: &SignIn,
        value: SecretValue,
    ) -> Result<Option<String>, Refusal> {
        let reference = permit.subject().whole()?;
        let opened = self.open(permit.subject(), &reference.instance, sign_in)?;
        let stored = opened.provider.put(reference, value, deadline(opened.timing)).await;
        stored.map_err(|error| self.failure(permit, sign_in, vec![(None, error)]))
    }

    /// Removes the permitted reference.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn delete(&self, permit: &Permit, sign_in: &SignIn) -> Result<(), Refusal> {
        let reference = permit.subject().whole()?;
        let opened = self.open(permit.subject(), &reference.instance, sign_in)?;
        let removed = opened.provider.delete(reference, deadline(opened.timing)).await;
        removed.map_err(|error| self.failure(permit, sign_in, vec![(None, error)]))
    }

    /// Says what is known of the permitted secret besides its value. A field or a version in the reference does not matter.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn describe_secret(
        &self,
        permit: &Permit,
        sign_in: &SignIn,
    ) -> Result<(SecretRef, Described), Refusal> {
        let wanted = permit.subject().wanted.first().ok_or_else(|| Refusal::Malformed("nothing is named".into()))?;
        let reference = SecretRef { version: Version::Current, ..wanted.reference.whole() };
        let opened = self.open(permit.subject(), &reference.instance, sign_in)?;
        let described = opened.provider.describe(&reference, deadline(opened.timing)).await;
        Ok((reference, described.map_err(|error| self.failure(permit, sign_in, vec![(None, error)]))?))
    }

    /// Lists what an instance holds below a prefix.
    ///
    /// # Errors
    /// The provider's.
    pub(crate) async fn list(
        &self,
        permit: &Permit,
        sign_in: &SignIn,
        instance: &str,
        options: ListOptions<'_>,
    ) -> Result<Vec<Listed>, Refusal> {
        let opened = self.open(permit.subject(), instance, sign_in)?;
        let listed = opened.provider.list(options, deadline(opened.timing)).await;
        listed.map_err(|error| self.failure(permit, sign_in, vec![(None, error)]))
    }

    /// Opens the embedded store with its passphrase; with `create`, makes it.
    ///
    /// # Errors
    /// A wrong passphrase, or a store that cannot be read or made.
    pub(crate) async fn unlock(&self, passphrase: SecretValue, create: bool) -> Result<(), Refusal> {
        let local = self.registry.local();
        let done = if create { local.create(Some(passphrase)).await } else { local.unlock(passphrase).await };
        Ok(done?)
    }

    /// Forgets every value, negative answer, sign-in and key.
    pub(crate) fn forget(&self) {
        self.registry.forget_all();
    }

    /// Returns how many requests went to managers since the start.
    pub(crate) fn calls(&self) -> u64 {
        self.registry.calls().iter().map(|(_, calls)| calls).sum()
    }

    /// Fills in what the providers know of themselves.
    pub(crate) fn describe(&self, status: &mut Status) {
        let state = self.registry.local().state();
        status.local_store = match state {
            StoreState::Absent => "absent",
            StoreState::Locked => "locked",
            StoreState::Unlocked => "unlocked",
        }
        .to_owned();
        status.local_store_key = match self.registry.local().key_source() {
            Some(KeySource::Keyring) => "keyring",
            Some(KeySource::Passphrase) => "passphrase",
            None => "",
        }
        .to_owned();
        status.cached_values = self.registry.held_values();
        status.calls = self.registry.calls();
    }

    /// Opens an instance for what changes or lists secrets: with the whole sign-in.
    fn open(&self, subject: &Subject, name: &str, sign_in: &SignIn) -> Result<Opened, ProviderError> {
        self.registry.open(name, known(subject, name)?.as_ref(), sign_in)
    }

    /// Opens an instance for what was permitted, narrowed to it.
    fn open_for(
        &self,
        permit: &Permit,
        lease: Option<LeaseId>,
        name: &str,
        sign_in: &SignIn,
    ) -> Result<Opened, ProviderError> {
        self.registry.open_for(name, known(permit.subject(), name)?.as_ref(), sign_in, permit.scope(), lease)
    }
}

fn known(subject: &Subject, name: &str) -> Result<Arc<Instance>, ProviderError> {
    subject.instance(name).ok_or_else(|| ProviderError {
        kind: ErrorKind::Unsupported,
        instance: name.to_owned(),
        reference: None,
        cause: "there is no such instance".to_owned(),
        hint: Some("see which exist: broker provider list".to_owned()),
        retry: Retry::Never,
    })
}

fn deadline(timing: Timing) -> Instant {
    Instant::now() + timing.timeout.max(Duration::from_millis(1))
}

/// Returns the names of the credentials that the subject's instances sign in with.
pub(crate) fn bootstrap_of(subject: &Subject) -> Vec<String> {
    let settings = subject.instances().values().map(|instance| &instance.settings);
    let names = settings.filter_map(|settings| {
        let names = Kind::named(&settings.kind)?.bootstrap_names(settings);
        Some(names.into_iter().map(str::to_owned).collect::<Vec<_>>())
    });
    let mut names: Vec<_> = names.flatten().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Takes the caller's sign-in variables out of a request.
pub(crate) fn sign_in_of(ask: &Ask) -> SignIn {
    SignIn::new(ask.sign_in.iter().map(|SignInVariable(name, value)| (name.clone(), SecretValue::from(value.clone()))))
}
