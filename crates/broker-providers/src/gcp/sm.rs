//! Google Cloud Secret Manager, on the official client.
//!
//! The service has no batch: secrets are fetched side by side, a bounded number at a time. Every payload's CRC32C is
//! checked, and sent with every write. The current version is the service's `latest`, the one made last, whatever its
//! state; the previous one is the newest enabled one before it. Versions never move, so promoting one writes its bytes once
//! more. Regional secrets are asked for at their region. Source: the reference of the Secret Manager API, v1.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use broker_core::lease::LeaseId;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::{self, Replication, Secret, SecretPayload};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::fault::{Fault, persist};
use crate::gcp::answer::{Standing, crc32c, fetched, number_in, of_write};
use crate::gcp::endpoint::{self, EndpointError};
use crate::gcp::hint::{About, Does, hint};
use crate::gcp::name::{Defaults, Listing, Target, Wanted};
use crate::gcp::session::{Session, Sessions};
pub(crate) use crate::gcp::sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV, stamp};
use crate::gcp::sign_in::{Places, chain};
use crate::gcp::token::LIVES;
use crate::gcp::wire::{fault_of, once};
use crate::provider::{
    Capabilities, Described, DescribedVersion, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider,
    ProviderError, Retry, Stage, unsupported,
};
use crate::registry::Opening;

/// Most reads of one instance at the same time.
const MAX_READS: usize = 16;
/// Most repeated requests of one fetch, all secrets together: an outage is not met with a storm.
const MAX_REPEATS: u32 = 32;
/// Most pages that are followed; more is a server gone wrong.
const MAX_PAGES: usize = 1000;

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: true,
    describe: true,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    issues: false,
    batch: 1,
};

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    let refuse = |fault: Fault, hint: Option<&str>| ProviderError {
        kind: fault.kind,
        instance: opening.instance.to_owned(),
        reference: None,
        cause: fault.cause,
        hint: hint.map(str::to_owned),
        retry: Retry::Never,
    };
    let unusable = |cause: &str, hint: &str| refuse(Fault::new(ErrorKind::Unsupported, cause), Some(hint));
    let named = settings.endpoint.as_deref();
    let elsewhere = named.filter(|address| !endpoint::is_of_service(address));
    let anonymous = match settings.auth.as_deref() {
        None | Some("adc") => false,
        Some("anonymous") => true,
        Some(_) => return Err(unusable("`auth` is not one of this kind", "it is `adc` or `anonymous`")),
    };
    if let Some(error) = named.and_then(|address| endpoint::check(address, opening.fixed, anonymous).err()) {
        let hint = match error {
            EndpointError::NoAddress => "leave it out for Google's own",
            // Whoever wrote the manifest would get a token that opens all of Google Cloud.
            EndpointError::Foreign => "put this instance into your own configuration, which may",
        };
        return Err(unusable(&error.to_string(), hint));
    }
    if anonymous && !elsewhere.is_some_and(endpoint::is_loopback) {
        return Err(unusable("`auth = \"anonymous\"` is for test servers on this machine", "give it an `endpoint`"));
    }
    chain(settings).map_err(|fault| refuse(fault, None))?;
    if settings.session_ttl().ok().flatten().is_some_and(|ttl| !LIVES.contains(&ttl)) {
        return Err(unusable("`session-ttl` of this kind is from `2m` to `12h`", "left out it is `5m`"));
    }
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls)).map_err(|fault| refuse(fault, None))?;
    let project = ["GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"];
    let project = project.into_iter().find_map(|name| opening.sign_in.text(name)).map(str::to_owned);
    Ok(Arc::new(GcpSecretManager {
        instance: opening.instance.to_owned(),
        defaults: Defaults { project: settings.project.clone().or(project), location: settings.location.clone() },
        sessions: Sessions {
            settings: settings.clone(),
            sign_in: opening.sign_in.clone(),
            places: Places::of(elsewhere),
            anonymous,
            rest,
            held: Mutex::default(),
        },
        reads: Semaphore::new(MAX_READS),
    }))
}

struct GcpSecretManager {
    instance: String,
    defaults: Defaults,
    sessions: Sessions,
    reads: Semaphore,
}

impl GcpSecretManager {
    /// Sends a request that reads, when it is its turn. `repeats` is what all requests of one fetch have left.
    async fn read<T, F>(&self, deadline: Instant, repeats: &AtomicU32, send: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = google_cloud_secretmanager_v1::Result<T>>,
    {
        let Ok(_turn) = timeout_at(deadline, self.reads.acquire()).await else { return Err(Fault::late()) };
        self.persist(deadline, repeats, || async { send().await.map_err(|error| fault_of(&error)) }).await
    }

    async fn persist<T, F>(&self, deadline: Instant, repeats: &AtomicU32, send: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let sent = persist(deadline, || async {
            match send().await {
                Ok(answer) => Ok(Ok(answer)),
                Err(fault) if take(repeats) => Err(fault),
                Err(fault) => Ok(Err(fault)),
            }
        });
        sent.await?
    }

    /// Fetches one version.
    async fn fetch_one(
        &self,
        session: &Session,
        target: &Target,
        repeats: &AtomicU32,
        (lease, deadline): (Option<LeaseId>, Instant),
    ) -> Result<Fetched, Fault> {
        let client = session.client(target.parent.location.as_deref(), lease);
        let version = match &target.version {
            Wanted::Latest => "latest".to_owned(),
            Wanted::Named(version) => version.clone(),
            Wanted::Previous => self.previous(&client, target, repeats, deadline).await?,
        };
        let name = target.version_name(&version);
        let Ok(_turn) = timeout_at(deadline, self.reads.acquire()).await else { return Err(Fault::late()) };
        self.persist(deadline, repeats, || async {
            let answer = client.access_secret_version().set_name(&name).send().await;
            fetched(answer.map_err(|error| fault_of(&error))?, target)
        })
        .await
    }

    /// Finds the number of the newest enabled version before the latest.
    async fn previous(
        &self,
        client: &SecretManagerService,
        target: &Target,
        repeats: &AtomicU32,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let standing = self.versions(client, target, repeats, deadline, true).await?;
        let previous = standing.into_iter().skip(1).find(|version| version.usable).map(|version| version.number);
        let missing = || Fault::new(ErrorKind::NotFound, "there is no enabled version before the latest");
        previous.map(|number| number.to_string()).ok_or_else(missing)
    }

    /// Lists the versions, newest first; `until_previous` stops as soon as the previous one is among them.
    async fn versions(
        &self,
        client: &SecretManagerService,
        target: &Target,
        repeats: &AtomicU32,
        deadline: Instant,
        until_previous: bool,
    ) -> Result<Vec<Standing>, Fault> {
        let parent = target.secret_name();
        let (mut versions, mut page): (Vec<Standing>, String) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let listed = self.read(deadline, repeats, || {
                client.list_secret_versions().set_parent(&parent).set_page_size(100).set_page_token(&page).send()
            });
            let listed = listed.await?;
            versions.extend(listed.versions.into_iter().filter_map(Standing::of));
            page = listed.next_page_token;
            if page.is_empty() || (until_previous && versions.iter().skip(1).any(|version| version.usable)) {
                break;
            }
        }
        // The service lists the newest first; the numbers say which that is.
        versions.sort_unstable_by_key(|version| std::cmp::Reverse(version.number));
        Ok(versions)
    }

    /// Adds a version, and the secret where there is none.
    async fn add(
        &self,
        session: &Session,
        target: &Target,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let client = session.client(target.parent.location.as_deref(), None);
        let mut added = self.add_version(&client, target, value, deadline).await;
        if added.as_ref().is_err_and(|fault| fault.is("NOT_FOUND")) {
            let created = once(deadline, || {
                let (parent, id) = (target.parent.name(), target.secret.clone());
                let mut secret = Secret::new();
                if target.parent.location.is_none() {
                    secret =
                        secret.set_replication(Replication::new().set_automatic(model::replication::Automatic::new()));
                }
                client.create_secret().set_parent(parent).set_secret_id(id).set_secret(secret).send()
            });
            match created.await {
                // Somebody else made it in between.
                Err(fault) if !fault.is("ALREADY_EXISTS") => return Err(fault),
                _ => added = self.add_version(&client, target, value, deadline).await,
            }
        }
        added
    }

    async fn add_version(
        &self,
        client: &SecretManagerService,
        target: &Target,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let parent = target.secret_name();
        let added = once(deadline, || {
            // Opened to be sent to the manager. The client owns its copy.
            let payload = SecretPayload::new().set_data(value.expose().to_vec());
            let payload = payload.set_data_crc32c(i64::from(crc32c(value.expose())));
            client.add_secret_version().set_parent(&parent).set_payload(payload).send()
        });
        let added = added.await?;
        number_in(&added.name, target).map(str::to_owned)
    }

    async fn find(
        &self,
        listing: &Listing,
        tags: &[(String, String)],
        deadline: Instant,
    ) -> Result<Vec<Listed>, Fault> {
        let repeats = AtomicU32::new(MAX_REPEATS);
        let filter = label_filter(tags);
        self.sessions
            .signed_in(deadline, |session| {
                let (repeats, filter) = (&repeats, &filter);
                async move {
                    let client = session.client(listing.parent.location.as_deref(), None);
                    let parent = listing.parent.name();
                    let (mut found, mut page) = (Vec::new(), String::new());
                    for _ in 0..MAX_PAGES {
                        let listed = self.read(deadline, repeats, || {
                            let request = client.list_secrets().set_parent(&parent).set_page_size(1000);
                            request.set_page_token(&page).set_filter(filter).send()
                        });
                        let listed = listed.await?;
                        found.extend(listed.secrets.into_iter().filter_map(|secret| {
                            let id = secret.name.rsplit('/').next().filter(|id| id.starts_with(&listing.secret))?;
                            let tagged = tags.iter().all(|(name, value)| secret.labels.get(name) == Some(value));
                            let path = format!("{}{id}", listing.stem);
                            tagged.then_some(Listed { path, version: None, changed: None })
                        }));
                        page = listed.next_page_token;
                        if page.is_empty() {
                            break;
                        }
                    }
                    found.sort_unstable_by(|a: &Listed, b| a.path.cmp(&b.path));
                    found.dedup_by(|a, b| a.path == b.path);
                    Ok(found)
                }
            })
            .await
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>, does: Does) -> ProviderError {
        let about = About {
            instance: &self.instance,
            target: reference.and_then(|reference| Target::of(reference, &self.defaults).ok()),
            does,
            anonymous: self.sessions.anonymous,
            sign_in: &self.sessions.sign_in,
        };
        ProviderError {
            hint: hint(&fault, about),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }
}

#[async_trait]
impl Provider for GcpSecretManager {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let deadline = options.deadline;
        let targets: Vec<_> = references.iter().map(|r| Target::of(r, &self.defaults)).collect();
        let repeats = AtomicU32::new(MAX_REPEATS);
        let mut answers: HashMap<String, Result<Fetched, Fault>> = HashMap::new();
        let mut open: HashMap<String, &Target> =
            targets.iter().flatten().map(|target| (asked_as(target), target)).collect();
        // A second round only for those whose token, had earlier, was refused: it may have ended early.
        for round in 0..2 {
            if open.is_empty() {
                break;
            }
            let (session, had) = match self.sessions.session(deadline).await {
                Ok(session) => session,
                Err(fault) => {
                    answers.extend(open.into_keys().map(|key| (key, Err(fault.clone()))));
                    break;
                }
            };
            let each = open.into_iter().map(|(key, target)| {
                let (session, repeats) = (&session, &repeats);
                let with = (options.lease, deadline);
                async move { (key, target, self.fetch_one(session, target, repeats, with).await) }
            });
            let mut refused = HashMap::new();
            for (key, target, answer) in join_all(each).await {
                if answer.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated) {
                    refused.insert(key.clone(), target);
                }
                answers.insert(key, answer);
            }
            if !refused.is_empty() {
                self.sessions.reject(&session);
            }
            if round > 0 || !had || self.sessions.anonymous {
                break;
            }
            open = refused;
        }
        let answer = |target: &Target| {
            let missing = || Err(Fault::new(ErrorKind::Malformed, "there was no answer for it"));
            answers.get(&asked_as(target)).cloned().unwrap_or_else(missing)
        };
        let results = targets.iter().map(|target| target.as_ref().map_err(Clone::clone).and_then(answer));
        results
            .zip(references)
            .map(|(result, r)| result.map_err(|fault| self.error(fault, Some(r), Does::Fetch)))
            .collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let target =
            Target::of(reference, &self.defaults).map_err(|fault| self.error(fault, Some(reference), Does::Put))?;
        if target.version != Wanted::Latest {
            return Err(unsupported(reference, "only the current version can be written"));
        }
        let (target, value) = (&target, &value);
        let added = self
            .sessions
            .signed_in(deadline, |session| async move { self.add(&session, target, value, deadline).await });
        added.await.map(Some).map_err(|fault| self.error(of_write(fault), Some(reference), Does::Put))
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let target =
            Target::of(reference, &self.defaults).map_err(|fault| self.error(fault, Some(reference), Does::Delete))?;
        if target.version != Wanted::Latest {
            return Err(unsupported(reference, "a secret is deleted with all its versions"));
        }
        let target = &target;
        let deleted = self.sessions.signed_in(deadline, |session| async move {
            let client = session.client(target.parent.location.as_deref(), None);
            once(deadline, || client.delete_secret().set_name(target.secret_name()).send()).await
        });
        deleted.await.map_err(|fault| self.error(of_write(fault), Some(reference), Does::Delete))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        match Listing::of(options.prefix, &self.defaults) {
            Ok(Some(listing)) => {
                self.find(&listing, options.tags, deadline).await.map_err(|fault| self.error(fault, None, Does::Look))
            }
            Ok(None) => Ok(Vec::new()),
            Err(fault) => Err(self.error(fault, None, Does::Look)),
        }
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let whole = SecretRef { version: Version::Current, ..reference.clone() };
        let target =
            Target::of(&whole, &self.defaults).map_err(|fault| self.error(fault, Some(reference), Does::Look))?;
        let (repeats, target) = (&AtomicU32::new(MAX_REPEATS), &target);
        let found = self.sessions.signed_in(deadline, |session| async move {
            let client = session.client(target.parent.location.as_deref(), None);
            let secret = self.read(deadline, repeats, || client.get_secret().set_name(target.secret_name()).send());
            let versions = self.versions(&client, target, repeats, deadline, false);
            let (secret, versions) = futures_util::future::join(secret, versions).await;
            Ok((secret?, versions?))
        });
        let (secret, versions) = found.await.map_err(|fault| self.error(fault, Some(reference), Does::Look))?;
        let created = secret.create_time.and_then(|time| SystemTime::try_from(time).ok());
        let changed = versions.iter().filter_map(|version| version.created).max().or(created);
        let mut tags: Vec<_> = secret.labels.into_iter().collect();
        tags.sort_unstable();
        let previous = versions.iter().skip(1).position(|version| version.usable).map(|at| at + 1);
        let described = versions.into_iter().enumerate().map(|(at, version)| DescribedVersion {
            id: version.number.to_string(),
            stages: match at {
                0 => vec![Stage::Current],
                _ if Some(at) == previous => vec![Stage::Previous],
                _ => Vec::new(),
            },
            created: version.created,
            usable: version.usable,
        });
        Ok(Described { versions: described.collect(), created, changed, tags })
    }

    fn forget(&self) {
        self.sessions.forget();
    }
}

/// Returns what makes two targets the same request.
fn asked_as(target: &Target) -> String {
    match &target.version {
        Wanted::Latest => target.version_name("latest"),
        Wanted::Named(version) => target.version_name(version),
        Wanted::Previous => target.version_name("?previous"),
    }
}

fn take(repeats: &AtomicU32) -> bool {
    repeats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Returns the filter for labels, empty where the service's would not mean that: other characters never stand in one.
fn label_filter(tags: &[(String, String)]) -> String {
    let plain = |text: &String| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
    };
    if !tags.iter().all(|(name, value)| plain(name) && plain(value)) {
        return String::new();
    }
    tags.iter().map(|(name, value)| format!("labels.{name}={value}")).collect::<Vec<_>>().join(" AND ")
}

impl fmt::Debug for GcpSecretManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcpSecretManager").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_holds_nothing_but_labels() {
        let tags = |pairs: &[(&str, &str)]| {
            label_filter(&pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(tags(&[("team", "shop"), ("env", "dev")]), "labels.team=shop AND labels.env=dev");
        assert_eq!(tags(&[("team", "shop OR name:x")]), "");
        assert_eq!(tags(&[]), "");
    }
}
