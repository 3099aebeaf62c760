//! HashiCorp Vault and OpenBao: the KV engines of versions 1 and 2, by their HTTP API.
//!
//! The path of a reference is the mount and the name below it: `vault://secret/shop/db`. Which mount and which engine that
//! is says the server. There is no batch: secrets are read side by side, at most sixteen at a time. What the JSON object of
//! a secret means as one value is in `vault/kv.rs`, signing in in `vault/sign_in.rs`. Source: HTTP API, "KV secrets
//! engine".

pub(crate) mod kv;
pub(crate) mod list;
pub(crate) mod mounts;
pub(crate) mod oidc;
pub(crate) mod sign_in;
pub(crate) mod wire;

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::file_stamp::{FileStamp, FilesStamp};
use crate::login::Login;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use crate::registry::Opening;
use crate::rest::{Pool, Rest};
use crate::vault::kv::{Engine, Metadata, Object, Options, Place, Stored, Write, value_of, written};
use crate::vault::mounts::Mounts;
pub(crate) use crate::vault::sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV};
use crate::vault::sign_in::{Held, Method, SERVICE_ACCOUNT, STALE, VaultSignIn};
use crate::vault::wire::{Call, Wire, is_plain, is_sendable};

/// Most reads of one instance at the same time.
const MAX_READS: usize = 16;
/// How many versions are looked at, back from the current one, to find the previous one that is still there.
const MAX_STEPS_BACK: u64 = 20;
/// How often a write is tried anew because somebody else wrote in between.
const MAX_RACES: usize = 3;

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
    Ok(Arc::new(Vault {
        instance: opening.instance.to_owned(),
        wire: sign_in.wire.clone(),
        sign_in,
        mounts: Mounts::default(),
        reads: Semaphore::new(MAX_READS),
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

pub(crate) struct Vault {
    instance: String,
    wire: Wire,
    sign_in: VaultSignIn,
    mounts: Mounts,
    reads: Semaphore,
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

    /// Sends a request that reads, when it is its turn. What was deleted is an answer.
    pub(crate) async fn ask(
        &self,
        held: &Held,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<crate::rest::Answer, Fault> {
        match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.wire.ask_for_deleted(Some(held.token()), call, deadline).await,
            Err(_) => Err(Fault::late()),
        }
    }

    /// Finds the place of one path.
    async fn place(&self, held: &Held, path: &str, deadline: Instant) -> Result<Place, Fault> {
        if !is_sendable(path) {
            let cause = "a path of Vault has no empty, `.` or `..` segment and no control character";
            return Err(Fault::new(ErrorKind::NotFound, cause));
        }
        if let Some(place) = self.mounts.place(path) {
            return Ok(place);
        }
        let asked = format!("sys/internal/ui/mounts/{path}");
        let answer = self.ask(held, &Call::read(&asked), deadline).await.map_err(|fault| match fault.kind {
            ErrorKind::Denied | ErrorKind::NotFound => Fault { code: Some(NO_MOUNT.to_owned()), ..fault },
            _ => fault,
        })?;
        self.mounts.learn(path, &answer)
    }

    /// Finds the places of many paths. One that names a mount names it for all that lie in it.
    async fn places(&self, held: &Held, paths: &[&str], deadline: Instant) -> Vec<Result<Place, Fault>> {
        let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        let mut found: Vec<Option<Result<Place, Fault>>> = vec![None; paths.len()];
        // First one path of each kind, then whatever that did not settle.
        for is_last in [false, true] {
            let mut asked: Vec<usize> = Vec::new();
            for (at, path) in paths.iter().enumerate().filter(|(at, _)| found[*at].is_none()) {
                let known = self.mounts.place(path).is_some();
                let is_first = !asked.iter().any(|other| first(paths[*other]) == first(path));
                if known || is_last || is_first {
                    asked.push(at);
                }
            }
            let answers = join_all(asked.iter().map(|at| self.place(held, paths[*at], deadline))).await;
            for (at, answer) in asked.into_iter().zip(answers) {
                let is_of_all = answer.as_ref().is_err_and(|fault| {
                    !matches!(fault.kind, ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unsupported)
                });
                for other in 0..paths.len() {
                    if is_of_all && found[other].is_none() && first(paths[other]) == first(paths[at]) {
                        found[other] = Some(answer.clone());
                    }
                }
                found[at] = Some(answer);
            }
        }
        found.into_iter().map(|place| place.unwrap_or_else(|| Err(Fault::late()))).collect()
    }

    /// Reads many secrets, one result each.
    async fn read_all(&self, held: &Held, references: &[&SecretRef], deadline: Instant) -> Vec<Result<Fetched, Fault>> {
        let paths: Vec<&str> = references.iter().map(|reference| reference.path.as_str()).collect();
        let places = self.places(held, &paths, deadline).await;
        let read = references.iter().zip(places).map(|(reference, place)| async move {
            let place = place?;
            match (&reference.version, place.engine) {
                (Version::Current, _) => self.read(held, &place, None, deadline).await,
                (Version::Previous, Engine::Versioned) => self.previous(held, &place, deadline).await.map(|(_, f)| f),
                (Version::Id(id), Engine::Versioned) => self.read(held, &place, Some(number_of(id)?), deadline).await,
                (Version::Pending, _) => Err(Fault::new(ErrorKind::NotFound, "Vault has no pending stage")),
                (_, Engine::Plain) => Err(Fault::new(ErrorKind::NotFound, KEEPS_NO_VERSIONS)),
            }
        });
        join_all(read).await
    }

    /// Reads one version, or the current one.
    async fn read(
        &self,
        held: &Held,
        place: &Place,
        version: Option<u64>,
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let (path, query) = (place.data(), version.map(|number| format!("version={number}")).unwrap_or_default());
        let answer = self.ask(held, &Call { query: &query, ..Call::read(&path) }, deadline).await;
        let answer = answer.inspect_err(|fault| {
            if fault.cause.contains("versioned K/V") {
                self.mounts.forget_one(&place.mount);
            }
        })?;
        let stored = Stored::read(place.engine, &answer)?;
        let Some(object) = stored.object else { return Err(gone(&stored.version.unwrap_or_default())) };
        let (value, lone_field) = value_of(object);
        let version = stored.version.map(|known| known.version.to_string());
        Ok(Fetched { value: Arc::new(value), version, fetched_at: Instant::now(), stale: false, lone_field })
    }

    /// Finds the newest version before the current one that was neither deleted nor destroyed. Needs no more permission
    /// than reading does.
    async fn previous(&self, held: &Held, place: &Place, deadline: Instant) -> Result<(u64, Fetched), Fault> {
        let path = place.data();
        let answer = self.ask(held, &Call::read(&path), deadline).await?;
        let current = Stored::read(place.engine, &answer)?.version.unwrap_or_default().version;
        for number in (current.saturating_sub(MAX_STEPS_BACK).max(1)..current).rev() {
            match self.read(held, place, Some(number), deadline).await {
                Err(fault) if fault.kind == ErrorKind::NotFound && fault.code.is_some() => {}
                Err(fault) if fault.kind == ErrorKind::NotFound => break,
                done => return done.map(|fetched| (number, fetched)),
            }
        }
        Err(Fault::new(ErrorKind::NotFound, format!("there is no version before {current}")))
    }

    /// Returns what is known of a secret besides its values; nothing where there is none.
    async fn metadata(&self, held: &Held, place: &Place, deadline: Instant) -> Result<Option<Metadata>, Fault> {
        let path = place.metadata();
        match self.ask(held, &Call::read(&path), deadline).await {
            Ok(answer) => Metadata::read(&answer).map(Some),
            Err(fault) if fault.kind == ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Returns the number of the newest version, 0 where there is none; nothing when it may not be looked at.
    async fn newest(&self, held: &Held, place: &Place, deadline: Instant) -> Result<Option<u64>, Fault> {
        match self.metadata(held, place, deadline).await {
            Ok(known) => Ok(Some(known.map_or(0, |known| known.current_version))),
            Err(fault) if fault.kind == ErrorKind::Denied => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a new version. Where the token may look, a repeated request does not write twice.
    async fn write(&self, held: &Held, place: &Place, object: &Object<'_>, deadline: Instant) -> Result<u64, Fault> {
        for _ in 0..MAX_RACES {
            let newest = self.newest(held, place, deadline).await?;
            match self.write_after(held, place, object, newest, deadline).await {
                Err(fault) if fault.cause.contains("did not match the current version") => {
                    let next = newest.unwrap_or_default() + 1;
                    // The answer to our own write may have been lost on its way.
                    if self.is_there(held, place, next, object, deadline).await {
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
        held: &Held,
        place: &Place,
        object: &Object<'_>,
        newest: Option<u64>,
        deadline: Instant,
    ) -> Result<u64, Fault> {
        let body = Write { data: object, options: newest.map(|cas| Options { cas }) };
        let path = place.data();
        written(&self.wire.ask(Some(held.token()), &Call::write(&path, &body), deadline).await?)
    }

    async fn is_there(&self, held: &Held, place: &Place, number: u64, object: &Object<'_>, deadline: Instant) -> bool {
        let (path, query) = (place.data(), format!("version={number}"));
        let Ok(answer) = self.ask(held, &Call { query: &query, ..Call::read(&path) }, deadline).await else {
            return false;
        };
        let stored = Stored::read(place.engine, &answer).ok().and_then(|stored| stored.object);
        let stored = stored.and_then(|stored| serde_json::from_str::<serde_json::Value>(stored.get()).ok());
        stored.is_some() && stored == serde_json::to_value(object).ok()
    }

    async fn put_as(
        &self,
        held: &Held,
        path: &str,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let place = self.place(held, path, deadline).await?;
        let object = Object::of(value);
        match place.engine {
            Engine::Versioned => {
                self.write(held, &place, &object, deadline).await.map(|number| Some(number.to_string()))
            }
            Engine::Plain => {
                let path = place.data();
                self.wire.ask(Some(held.token()), &Call::write(&path, &object), deadline).await.map(|_| None)
            }
        }
    }

    async fn delete_as(&self, held: &Held, path: &str, deadline: Instant) -> Result<(), Fault> {
        let place = self.place(held, path, deadline).await?;
        // The server deletes what is not there without a word.
        match self.ask(held, &Call::read(&place.metadata()), deadline).await {
            Err(fault) if fault.kind != ErrorKind::Denied => return Err(fault),
            _ => {}
        }
        self.wire.ask(Some(held.token()), &Call::delete(&place.metadata()), deadline).await.map(|_| ())
    }

    async fn describe_as(&self, held: &Held, path: &str, deadline: Instant) -> Result<Described, Fault> {
        let place = self.place(held, path, deadline).await?;
        match place.engine {
            Engine::Versioned => {
                let known = self.metadata(held, &place, deadline).await?;
                Ok(known.ok_or_else(|| Fault::new(ErrorKind::NotFound, ""))?.described())
            }
            // There is nothing to tell but that it is there.
            Engine::Plain => self.read(held, &place, None, deadline).await.map(|_| Described::default()),
        }
    }

    /// Writes an older version once more, its whole object as it was, if nobody changes the secret meanwhile.
    async fn promote_as(&self, held: &Held, reference: &SecretRef, deadline: Instant) -> Result<(), Fault> {
        let place = self.place(held, &reference.path, deadline).await?;
        if place.engine == Engine::Plain {
            return Err(Fault::new(ErrorKind::Unsupported, KEEPS_NO_VERSIONS));
        }
        let number = match &reference.version {
            Version::Id(id) => number_of(id)?,
            Version::Previous => self.previous(held, &place, deadline).await?.0,
            _ => return Err(Fault::new(ErrorKind::Unsupported, "there is no version to promote")),
        };
        let newest = self.newest(held, &place, deadline).await?;
        let (path, query) = (place.data(), format!("version={number}"));
        let answer = self.ask(held, &Call { query: &query, ..Call::read(&path) }, deadline).await?;
        let stored = Stored::read(place.engine, &answer)?;
        let Some(object) = stored.object else { return Err(gone(&stored.version.unwrap_or_default())) };
        if newest == Some(number) {
            return Ok(());
        }
        let object = Object::Again(object);
        match self.write_after(held, &place, &object, newest, deadline).await {
            Err(fault) if fault.cause.contains("did not match the current version") => {
                let next = newest.unwrap_or_default() + 1;
                let is_ours = self.is_there(held, &place, next, &object, deadline).await;
                if is_ours {
                    Ok(())
                } else {
                    Err(Fault::new(ErrorKind::Unavailable, "somebody else changed it meanwhile"))
                }
            }
            done => done.map(|_| ()),
        }
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>) -> ProviderError {
        ProviderError {
            hint: self.hint(&fault, reference),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }

    fn hint(&self, fault: &Fault, reference: Option<&SecretRef>) -> Option<String> {
        let place = reference.and_then(|reference| self.mounts.place(&reference.path));
        let code = fault.code.as_deref().unwrap_or_default();
        Some(match (fault.kind, place) {
            (ErrorKind::NotFound, Some(place)) if code.starts_with(DELETED) => format!(
                "`vault kv undelete -mount={} -versions={} {}` brings it back",
                place.mount.trim_end_matches('/'),
                code.trim_start_matches(DELETED),
                place.name
            ),
            (ErrorKind::NotFound, _) if code == DESTROYED => "its bytes are gone: name another `?version=`".to_owned(),
            (ErrorKind::NotFound | ErrorKind::Denied, None) if code == NO_MOUNT => {
                "there is no such mount, or no policy of the token grants anything in it".to_owned()
            }
            (ErrorKind::NotFound, Some(place)) => {
                format!("it was looked for at `{}`: check the path and the namespace", place.data())
            }
            (ErrorKind::NotFound, None) => format!("check the path and the namespace of `{}`", self.instance),
            (ErrorKind::Denied, _) if !code.is_empty() => format!("a policy of the token must grant it: `{code}`"),
            (ErrorKind::Denied, _) => "no policy of the token grants this".to_owned(),
            (ErrorKind::Unauthenticated, _) if code == STALE => format!(
                "put a good one there or remove it, or sign in with `broker login {}`, which goes before it",
                self.instance
            ),
            (ErrorKind::Unauthenticated, _) => self.sign_in.hint(),
            (ErrorKind::Unavailable, _) if fault.cause.contains("sealed") => {
                "somebody who holds its keys has to unseal it: `vault operator unseal`".to_owned()
            }
            (ErrorKind::Throttled, _) => "try again in a while, or raise `timeout` of the instance".to_owned(),
            (ErrorKind::Unavailable, _) => "check the network, or allow older values with `max-stale`".to_owned(),
            (ErrorKind::Unsupported, _) if fault.cause.contains("check-and-set parameter required") => {
                "let the token read `metadata/` of it, too, so that the version is known".to_owned()
            }
            _ => return None,
        })
    }
}

const KEEPS_NO_VERSIONS: &str = "a KV engine of version 1 keeps no versions";
/// Codes of our own: there is no mount, a version was deleted (its number follows), a version was destroyed.
const NO_MOUNT: &str = "no mount";
const DELETED: &str = "deleted ";
const DESTROYED: &str = "destroyed";

/// Reads the number of a version. `03` and `0` are none: a version has one name.
fn number_of(id: &str) -> Result<u64, Fault> {
    let number = id.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == id);
    number.ok_or_else(|| Fault::new(ErrorKind::NotFound, "a version of Vault is a number, such as `3`"))
}

/// Speaks of a version whose value can no longer be had.
fn gone(version: &crate::vault::kv::Numbered) -> Fault {
    let number = version.version;
    let (code, cause) = if version.destroyed {
        (DESTROYED.to_owned(), format!("version {number} was destroyed"))
    } else {
        let when = crate::words::safe(&version.deletion_time);
        (format!("{DELETED}{number}"), format!("version {number} was deleted at {when}"))
    };
    Fault { code: Some(code), ..Fault::new(ErrorKind::NotFound, cause) }
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
                let mut results = self.read_all(&held, &all, deadline).await;
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
                            let anew = self.read_all(&held, &again, deadline).await;
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
        let done =
            self.signed_in(deadline, |held| async move { self.put_as(&held, &reference.path, value, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    /// Removes the secret with all its versions and what is known of it, for good.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done =
            self.signed_in(deadline, |held| async move { self.delete_as(&held, &reference.path, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        if !options.tags.is_empty() {
            let fault = Fault::new(ErrorKind::Unsupported, "Vault does not list by tag");
            return Err(self.error(fault, None));
        }
        let prefix = options.prefix;
        let done = self.signed_in(deadline, |held| async move { self.list_as(&held, prefix, deadline).await });
        done.await.map_err(|fault| self.error(fault, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let done =
            self.signed_in(deadline, |held| async move { self.describe_as(&held, &reference.path, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = self.signed_in(deadline, |held| async move { self.promote_as(&held, reference, deadline).await });
        done.await.map_err(|fault| self.error(fault, Some(reference)))
    }

    fn forget(&self) {
        self.sign_in.forget();
        self.mounts.forget();
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("instance", &self.instance).finish_non_exhaustive()
    }
}
