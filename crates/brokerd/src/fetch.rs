//! The only way to the providers: every method that reads or writes a secret takes a [`Permit`].

use std::time::Duration;

use broker_core::generate::Generate;
use broker_core::instance::Timing;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::{SecretValue, SharedValue};
use broker_core::sign_in::SignIn;
use broker_protocol::message::{Ask, CheckedSecret, SignInVariable, Status};
use broker_providers::local::{KeySource, StoreState};
use broker_providers::provider::{Described, ErrorKind, ListOptions, Listed, ProviderError, Retry};
use broker_providers::registry::{Context, Kind, Registry};
use broker_providers::resolve::{Opened, ResolveOptions, Resolved, resolve};
use broker_providers::sign_ins::{SignInWay, SignIns};
use tokio::time::Instant;

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
}

impl Stores {
    /// Returns stores with nothing open. Touches neither disk nor network.
    pub(crate) fn new(context: Context) -> Self {
        Self { registry: Registry::new(context) }
    }

    /// Fetches everything that was permitted; one failing secret hides no other.
    ///
    /// # Errors
    /// Every required secret that could not be had.
    pub(crate) async fn fetch(&self, permit: &Permit, sign_in: &SignIn, ask: &Ask) -> Result<Found, Refusal> {
        let subject = permit.subject();
        let results = self.resolve(permit, sign_in, ask).await;
        let mut found = Found { bootstrap: bootstrap_of(subject), ..Found::default() };
        let mut failed = Vec::new();
        for (wanted, result) in subject.wanted.iter().zip(results) {
            let name = wanted.name.clone().unwrap_or_default();
            match result {
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
        sign_in: &SignIn,
        ask: &Ask,
    ) -> Result<Vec<CheckedSecret>, Refusal> {
        let results = self.resolve(permit, sign_in, ask).await;
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

    async fn resolve(&self, permit: &Permit, sign_in: &SignIn, ask: &Ask) -> Vec<Result<Resolved, ProviderError>> {
        let subject = permit.subject();
        let references: Vec<SecretRef> = subject.wanted.iter().map(|wanted| wanted.reference.clone()).collect();
        let options = ResolveOptions { refresh: ask.refresh, offline: ask.offline, deadline: None, run: None };
        tracing::debug!(references = ?references.iter().map(ToString::to_string).collect::<Vec<_>>(), ?sign_in, "fetching");
        let mut results = resolve(&references, options, |name| self.open(subject, name, sign_in)).await;
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

    fn open(&self, subject: &Subject, name: &str, sign_in: &SignIn) -> Result<Opened, ProviderError> {
        match subject.instance(name) {
            Some(instance) => self.registry.open(name, &instance, sign_in),
            None => Err(ProviderError {
                kind: ErrorKind::Unsupported,
                instance: name.to_owned(),
                reference: None,
                cause: "there is no such instance".to_owned(),
                hint: Some("see which exist: broker provider list".to_owned()),
                retry: Retry::Never,
            }),
        }
    }
}

fn deadline(timing: Timing) -> Instant {
    Instant::now() + timing.timeout.max(Duration::from_millis(1))
}

/// Returns the names of the credentials that the subject's instances sign in with.
pub(crate) fn bootstrap_of(subject: &Subject) -> Vec<String> {
    let mut instances: Vec<_> = subject.wanted.iter().map(|wanted| wanted.reference.instance.as_str()).collect();
    instances.sort_unstable();
    instances.dedup();
    let settings = instances.into_iter().filter_map(|name| subject.instance(name)).map(|instance| instance.settings);
    let names = settings.filter_map(|settings| {
        let names = Kind::named(&settings.kind)?.bootstrap_names(&settings);
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
