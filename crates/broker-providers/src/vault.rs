//! HashiCorp Vault and OpenBao: the KV engines of versions 1 and 2, and whatever else is made when it is read, by their
//! HTTP API.
//!
//! The path of a reference is the mount and the name below it: `vault://secret/shop/db`, `vault://database/creds/shop`.
//! Which mount and which engine that is says the server. There is no batch: secrets are read side by side, at most sixteen
//! at a time. An instance narrowed to a scope reads with a child token for each fetch (`vault/narrow.rs`); what an engine
//! issues hangs on one child token for each run (`vault/issued.rs`). What the JSON object of a secret means as one value is
//! in `vault/kv.rs`, signing in in `vault/sign_in.rs`. Source: HTTP API, "KV secrets engine".

pub(crate) mod child;
pub(crate) mod hint;
pub(crate) mod issued;
pub(crate) mod kv;
pub(crate) mod list;
pub(crate) mod mounts;
pub(crate) mod narrow;
pub(crate) mod oidc;
pub(crate) mod policies;
pub(crate) mod read;
pub(crate) mod sign_in;
pub(crate) mod wire;
pub(crate) mod write;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::instance::Words;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::file_stamp::{FileStamp, FilesStamp};
use crate::issue::{Ending, Issued, Ledger, Order, SessionPolicy};
use crate::login::Login;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use crate::registry::{Instance, Opening};
use crate::rest::{Pool, Rest};
use crate::vault::issued::SESSION_TTL;
use crate::vault::kv::Engine;
use crate::vault::mounts::{Found, Mounts};
use crate::vault::policies::Grants;
pub(crate) use crate::vault::sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV};
use crate::vault::sign_in::{Held, Method, SERVICE_ACCOUNT, VaultSignIn};
use crate::vault::wire::{Call, Wire, is_plain};

/// Most reads of one instance at the same time.
const MAX_READS: usize = 16;

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: false,
    describe: true,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    issues: false,
    batch: 1,
};

/// The keys of an instance.
pub(crate) const KEYS: &[&str] = &[
    "address",
    "namespace",
    "auth",
    "auth-mount",
    "role",
    "ca",
    "session",
    "session-ttl",
    "policies",
    "ttl",
    "negative-ttl",
    "max-stale",
    "timeout",
];

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let sign_in = sign_in(opening)?;
    let wire = sign_in.wire.clone();
    let mut settings = opening.as_instance();
    // The caller's variables may have named it, and whoever ends what is issued here does not have them.
    settings.settings.namespace = wire.namespace().map(str::to_owned);
    let session_ttl = opening.settings.session_ttl().ok().flatten().unwrap_or(SESSION_TTL);
    Ok(Arc::new(Vault {
        instance: opening.instance.to_owned(),
        settings,
        session_ttl,
        wire,
        sign_in: Arc::new(sign_in),
        mounts: Arc::default(),
        grants: Arc::new(Grants::new(opening.settings.policies.as_ref().map(Words::as_slice))),
        reads: Arc::new(Semaphore::new(MAX_READS)),
        ledger: Arc::clone(&opening.shared.ledger),
        scope: None,
    }))
}

/// Opens the way for a person to sign in.
pub(crate) fn login(opening: &Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError> {
    sign_in(opening).map(|sign_in| Some(Arc::new(sign_in) as _))
}

/// Looks at the files that a sign-in reads.
pub(crate) fn stamp(_: &broker_core::sign_in::SignIn) -> FilesStamp {
    FilesStamp(vec![token_file().and_then(|path| FileStamp::of(&path))])
}

/// Where `vault login` and `bao login` leave their token.
fn token_file() -> Option<std::path::PathBuf> {
    Some(std::env::home_dir()?.join(".vault-token"))
}

fn sign_in(opening: &Opening<'_>) -> Result<VaultSignIn, ProviderError> {
    let settings = opening.settings;
    let refuse = |cause: String, hint: Option<String>| ProviderError {
        kind: ErrorKind::Unsupported,
        instance: opening.instance.to_owned(),
        reference: None,
        cause,
        hint,
        retry: Retry::Never,
    };
    let Some(address) = &settings.address else {
        let hint = "give it one: `address = \"https://vault.example.com:8200\"`; `VAULT_ADDR` does not count";
        return Err(refuse(format!("`{}` has no `address`", opening.instance), Some(hint.to_owned())));
    };
    let method =
        settings.auth.as_deref().map_or(Ok(Method::Token), Method::named).map_err(|cause| refuse(cause, None))?;
    let mount = settings.auth_mount.as_deref().unwrap_or(method.name()).trim_matches('/');
    let mount = mount.strip_prefix("auth/").unwrap_or(mount).to_owned();
    if !is_plain(&mount) {
        return Err(refuse("`auth-mount` must be a path such as `approle`".to_owned(), None));
    }
    // A role id may end like base64 does.
    if settings.role.as_deref().is_some_and(|role| !is_plain(role.trim_end_matches('='))) {
        return Err(refuse("`role` must be a name without spaces".to_owned(), None));
    }
    let rest = connections(opening).map_err(|fault| refuse(fault.cause, None))?;
    let named = |name| opening.sign_in.text(name);
    let namespace =
        settings.namespace.as_deref().or_else(|| named("VAULT_NAMESPACE")).or_else(|| named("BAO_NAMESPACE"));
    if namespace.map(|name| name.trim_matches('/')).is_some_and(|name| !name.is_empty() && !is_plain(name)) {
        return Err(refuse("`namespace` must be a path such as `team/shop`".to_owned(), None));
    }
    Ok(VaultSignIn {
        instance: opening.instance.to_owned(),
        wire: Wire::new(rest, address, namespace),
        method,
        mount,
        role: settings.role.clone(),
        fixed: opening.fixed,
        sign_in: opening.sign_in.clone(),
        token_file: token_file(),
        service_account: SERVICE_ACCOUNT.into(),
        sign_ins: Arc::clone(&opening.shared.sign_ins),
        own: Default::default(),
        waiting: Mutex::default(),
    })
}

fn connections(opening: &Opening<'_>) -> Result<Rest, Fault> {
    let calls = Arc::clone(&opening.calls);
    let Some(ca) = &opening.settings.ca else { return opening.shared.http.counting(calls) };
    let path = std::path::Path::new(ca);
    if !path.is_absolute() {
        return Err(Fault::new(ErrorKind::Unsupported, "`ca` must be an absolute path"));
    }
    let pem = crate::aws::profile::read_text(path);
    let pem = pem.map_err(|error| Fault::new(ErrorKind::Unsupported, format!("`ca` cannot be read: {error}")))?;
    Pool::trusting(pem.as_bytes(), calls)
}

/// One instance, opened for one identity. Narrowed to a scope it is the same one, but for the token that it reads with.
#[derive(Clone)]
pub(crate) struct Vault {
    instance: String,
    settings: Instance,
    session_ttl: Duration,
    wire: Wire,
    sign_in: Arc<VaultSignIn>,
    mounts: Arc<Mounts>,
    grants: Arc<Grants>,
    reads: Arc<Semaphore>,
    ledger: Arc<dyn Ledger>,
    /// What it is narrowed to, if it is.
    scope: Option<Arc<Scope>>,
}

impl Vault {
    /// Does something with a token; once more when the server no longer took it and there is another.
    async fn signed_in<T, F>(&self, deadline: Instant, act: impl Fn(Held) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let held = self.held(deadline).await?;
        match act(held.clone()).await {
            Err(fault) if fault.kind == ErrorKind::Unauthenticated => {
                match self.sign_in.refused(&held, deadline).await? {
                    Some(held) => act(held).await,
                    None => Err(fault),
                }
            }
            done => done,
        }
    }

    async fn held(&self, deadline: Instant) -> Result<Held, Fault> {
        timeout_at(deadline, self.sign_in.held(deadline)).await.unwrap_or_else(|_| Err(Fault::late()))
    }

    /// Reads many secrets, one result each: with the sign-in's own token, or narrowed with one of their own.
    async fn fetch_as(
        &self,
        held: &Held,
        references: &[&SecretRef],
        options: FetchOptions,
    ) -> Vec<Result<Fetched, Fault>> {
        let FetchOptions { deadline, lease, .. } = options;
        match &self.scope {
            Some(scope) => self.read_narrowly(held.token(), scope, references, lease, deadline).await,
            None => self.read_all(held.token(), references, deadline).await,
        }
    }

    async fn delete_as(&self, token: &SecretValue, path: &str, deadline: Instant) -> Result<(), Fault> {
        let place = self.place(token, path, deadline).await?;
        // The server deletes what is not there without a word.
        match self.ask(token, &Call::read(&place.metadata()), deadline).await {
            Err(fault) if fault.kind != ErrorKind::Denied => return Err(fault),
            _ => {}
        }
        self.wire.ask(Some(token), &Call::delete(&place.metadata()), deadline).await.map(|_| ())
    }

    async fn describe_as(&self, token: &SecretValue, path: &str, deadline: Instant) -> Result<Described, Fault> {
        let place = self.place(token, path, deadline).await?;
        match place.engine {
            Engine::Versioned => {
                let known = self.metadata(token, &place, deadline).await?;
                Ok(known.ok_or_else(|| Fault::new(ErrorKind::NotFound, ""))?.described())
            }
            // There is nothing to tell but that it is there.
            Engine::Plain => self.read(token, &place, None, deadline).await.map(|_| Described::default()),
        }
    }
}

#[async_trait]
impl Provider for Vault {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let deadline = options.deadline;
        let all: Vec<&SecretRef> = references.iter().collect();
        let mut results = match self.held(deadline).await {
            Err(fault) => vec![Err(fault); all.len()],
            Ok(held) => {
                let mut results = self.fetch_as(&held, &all, options).await;
                let is_refused = |result: &Result<Fetched, Fault>| {
                    result.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated)
                };
                let refused: Vec<usize> = (0..all.len()).filter(|at| is_refused(&results[*at])).collect();
                if !refused.is_empty() {
                    // Another token, if there is one, for those that the first one did not get.
                    let another = timeout_at(deadline, self.sign_in.refused(&held, deadline)).await;
                    match another.unwrap_or_else(|_| Err(Fault::late())) {
                        Ok(Some(held)) => {
                            let again: Vec<&SecretRef> = refused.iter().map(|at| all[*at]).collect();
                            let anew = self.fetch_as(&held, &again, options).await;
                            refused.into_iter().zip(anew).for_each(|(at, result)| results[at] = result);
                        }
                        Ok(None) => {}
                        Err(fault) => refused.into_iter().for_each(|at| results[at] = Err(fault.clone())),
                    }
                }
                results
            }
        };
        let said = results.drain(..).zip(references);
        said.map(|(result, reference)| result.map_err(|fault| self.error(fault, Some(reference)))).collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        if reference.version != Version::Current {
            let fault = Fault::new(ErrorKind::Unsupported, "only the current version can be written");
            return Err(self.error(fault, Some(reference)));
        }
        let value = &value;
        let done = self.signed_in(deadline, |held| async move {
            self.put_as(held.token(), &reference.path, value, deadline).await
        });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    /// Removes the secret with all its versions and what is known of it, for good.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = self
            .signed_in(deadline, |held| async move { self.delete_as(held.token(), &reference.path, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        if !options.tags.is_empty() {
            let fault = Fault::new(ErrorKind::Unsupported, "Vault does not list by tag");
            return Err(self.error(fault, None));
        }
        let prefix = options.prefix;
        let done = self.signed_in(deadline, |held| async move { self.list_as(held.token(), prefix, deadline).await });
        done.await.map_err(|fault| self.error(fault, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let done = self
            .signed_in(deadline, |held| async move { self.describe_as(held.token(), &reference.path, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done =
            self.signed_in(deadline, |held| async move { self.promote_as(held.token(), reference, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    fn can_narrow(&self) -> bool {
        true
    }

    fn narrowed(&self, scope: &Arc<Scope>) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
        if self.settings.settings.session.as_deref() == Some("shared") {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self { scope: Some(Arc::clone(scope)), ..self.clone() })))
    }

    fn session_policies(&self) -> Vec<SessionPolicy> {
        self.scope.as_ref().map(|scope| self.policies_of(scope)).unwrap_or_default()
    }

    /// Asks the server with the sign-in's token what kind of mount each is in, and no one where that is known.
    async fn issues(&self, references: &[SecretRef], deadline: Instant) -> Vec<bool> {
        let is_issued = |found: Option<Found>| matches!(found, Some(Found::Issued { .. }));
        let known: Vec<Option<Found>> = references.iter().map(|reference| self.mounts.find(&reference.path)).collect();
        if known.iter().all(Option::is_some) {
            return known.into_iter().map(is_issued).collect();
        }
        let paths: Vec<&str> = references.iter().map(|reference| reference.path.as_str()).collect();
        let paths = &paths;
        let found = self.signed_in(deadline, |held| async move {
            let found = self.find_all(held.token(), paths, deadline).await;
            let is_refused = |fault: &&Fault| fault.kind == ErrorKind::Unauthenticated;
            match found.iter().filter_map(|found| found.as_ref().err()).find(is_refused) {
                Some(fault) => Err(fault.clone()),
                None => Ok(found),
            }
        });
        match found.await {
            Ok(found) => found.into_iter().map(|found| is_issued(found.ok())).collect(),
            Err(_) => known.into_iter().map(is_issued).collect(),
        }
    }

    async fn issue(
        &self,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Vec<Result<Issued, ProviderError>> {
        let done = self
            .signed_in(deadline, |held| async move { self.issue_all(held.token(), references, order, deadline).await });
        let results = done.await.unwrap_or_else(|fault| references.iter().map(|_| Err(fault.clone())).collect());
        let said = results.into_iter().zip(references);
        said.map(|(result, reference)| result.map_err(|fault| self.error(fault, Some(reference)))).collect()
    }

    async fn renew(&self, ending: &Ending, left: Duration, deadline: Instant) -> Result<Timestamp, ProviderError> {
        let done = self.prolong_all(ending, left, deadline).await;
        done.map_err(|fault| self.error(fault, ending.about.references.first()))
    }

    async fn revoke(&self, ending: &Ending, deadline: Instant) -> Result<(), ProviderError> {
        let done = self.revoke_all(ending, deadline).await;
        done.map_err(|fault| self.error(fault, ending.about.references.first()))
    }

    fn forget(&self) {
        // What is narrowed shares all this with others, who are not to sign in anew because of it.
        if self.scope.is_none() {
            self.sign_in.forget();
            self.mounts.forget();
            self.grants.forget();
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("instance", &self.instance).finish_non_exhaustive()
    }
}
