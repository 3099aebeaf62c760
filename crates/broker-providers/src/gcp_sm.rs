//! Google Cloud Secret Manager, on the official client.
//!
//! The service has no batch: secrets are fetched side by side, a bounded number at a time. Every payload's CRC32C is
//! checked, and sent with every write. The current version is the service's `latest`, the one made last, whatever its
//! state; the previous one is the newest enabled one before it. Versions never move, so promoting one writes its bytes once
//! more. Regional secrets are asked for at their region. Source: the reference of the Secret Manager API, v1.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::instance::InstanceSettings;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use futures_util::future::join_all;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::{self, Replication, Secret, SecretPayload, secret_version};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fault::{Fault, persist};
use crate::file_stamp::FilesStamp;
use crate::gcp_name::{Defaults, Listing, Parent, Target, Wanted};
pub(crate) use crate::gcp_sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV, stamp};
use crate::gcp_sign_in::{Places, Plan, chain, is_google};
use crate::gcp_token::Tokens;
use crate::gcp_wire::{Wire, fault_of};
use crate::provider::{
    Capabilities, Described, DescribedVersion, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider,
    ProviderError, Retry, Stage, unsupported,
};
use crate::registry::Opening;
use crate::rest::Rest;

/// Most reads of one instance at the same time.
const MAX_READS: usize = 16;
/// Most repeated requests of one fetch, all secrets together: an outage is not met with a storm.
const MAX_REPEATS: u32 = 32;
/// How many times in all a write is sent that was surely not done.
const MAX_WRITES: u32 = 4;
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
    let elsewhere = settings.endpoint.as_deref().filter(|endpoint| !is_google(endpoint));
    let anonymous = match settings.auth.as_deref() {
        None | Some("adc") => false,
        Some("anonymous") if elsewhere.is_some_and(is_loopback) => true,
        Some("anonymous") => {
            return Err(unusable(
                "`auth = \"anonymous\"` is for test servers on this machine",
                "give it an `endpoint`",
            ));
        }
        Some(_) => return Err(unusable("`auth` is not one of this kind", "it is `adc` or `anonymous`")),
    };
    if elsewhere.is_some() && !opening.fixed && !anonymous {
        // Whoever wrote the manifest would get a token that opens all of Google Cloud.
        return Err(unusable(
            "a manifest cannot send your sign-in of Google to another `endpoint`",
            "put this instance into your own configuration, which may",
        ));
    }
    chain(settings).map_err(|fault| refuse(fault, None))?;
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls)).map_err(|fault| refuse(fault, None))?;
    let project = ["GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"];
    let project = project.into_iter().find_map(|name| opening.sign_in.text(name)).map(str::to_owned);
    Ok(Arc::new(GcpSecretManager {
        instance: opening.instance.to_owned(),
        defaults: Defaults { project: settings.project.clone().or(project), location: settings.location.clone() },
        settings: settings.clone(),
        sign_in: opening.sign_in.clone(),
        places: Places::of(elsewhere),
        anonymous,
        rest,
        session: Mutex::default(),
        reads: Semaphore::new(MAX_READS),
    }))
}

struct GcpSecretManager {
    instance: String,
    defaults: Defaults,
    settings: InstanceSettings,
    sign_in: SignIn,
    places: Places,
    anonymous: bool,
    rest: Rest,
    session: Mutex<Option<Session>>,
    reads: Semaphore,
}

/// An identity that is signed in, or will be with its first request.
#[derive(Clone)]
struct Session {
    tokens: Arc<Tokens>,
    /// The file of the sign-in as it was: a session of an edited file is no longer anybody's.
    files: FilesStamp,
    rest: Rest,
    endpoint: Option<String>,
}

impl Session {
    /// Returns the client of a location's endpoint.
    fn client(&self, location: Option<&str>) -> SecretManagerService {
        let endpoint = match (&self.endpoint, location) {
            (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
            (None, None) => "https://secretmanager.googleapis.com".to_owned(),
            (None, Some(location)) => format!("https://secretmanager.{location}.rep.googleapis.com"),
        };
        let wire = Wire::new(self.rest.clone(), endpoint, Arc::clone(&self.tokens));
        SecretManagerService::from_stub::<Wire>(wire)
    }
}

impl GcpSecretManager {
    /// Returns a session with a token in hand, and whether that token is of an earlier request.
    async fn session(&self, deadline: Instant) -> Result<(Session, bool), Fault> {
        let files = stamp(&self.sign_in);
        let held = self.held().clone().filter(|session| session.files == files);
        let session = match held {
            Some(session) => session,
            None => {
                let plan = timeout_at(deadline, self.plan()).await.map_err(|_| Fault::late())??;
                let (rest, endpoint) = (self.rest.clone(), self.settings.endpoint.clone());
                let tokens = Arc::new(Tokens::new(rest.clone(), plan));
                let session = Session { tokens, files, rest, endpoint };
                *self.held() = Some(session.clone());
                session
            }
        };
        let had = session.tokens.had();
        // Once and before everything else: a sign-in that fails is not tried for each secret.
        let signed_in = persist(deadline, || session.tokens.bearer()).await;
        signed_in.map(|_| (session, had)).inspect_err(|_| *self.held() = None)
    }

    async fn plan(&self) -> Result<Plan, Fault> {
        if self.anonymous {
            return Ok(Plan::anonymous());
        }
        let (settings, sign_in, places) = (self.settings.clone(), self.sign_in.clone(), self.places.clone());
        let read = tokio::task::spawn_blocking(move || Plan::read(&settings, &sign_in, places)).await;
        read.unwrap_or_else(|_| Err(Fault::new(ErrorKind::Unavailable, "the credentials could not be read")))
    }

    fn held(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a session that the service no longer takes, unless somebody else already did.
    fn drop_session(&self, session: &Session) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.tokens, &session.tokens)) {
            *held = None;
        }
    }

    /// Does one thing signed in. A token of an earlier request that is refused is replaced once: it may have ended early.
    async fn signed_in<T, F>(&self, deadline: Instant, mut act: impl FnMut(Session) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let (session, had) = self.session(deadline).await?;
        let done = act(session.clone()).await;
        let refused = done.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated);
        if refused {
            self.drop_session(&session);
        }
        if !refused || !had || self.anonymous {
            return done;
        }
        let (session, _) = self.session(deadline).await?;
        act(session).await
    }

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
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let client = session.client(target.parent.location.as_deref());
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
        let client = session.client(target.parent.location.as_deref());
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
        self.signed_in(deadline, |session| {
            let (repeats, filter) = (&repeats, &filter);
            async move {
                let client = session.client(listing.parent.location.as_deref());
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
        let target = reference.and_then(|reference| Target::of(reference, &self.defaults).ok());
        Some(match fault.kind {
            ErrorKind::NotFound if fault.is("FAILED_PRECONDITION") => {
                "enable that version, or add a new one".to_owned()
            }
            ErrorKind::NotFound => match target {
                Some(Target { parent: Parent { project, location: None }, .. }) => {
                    format!("it was looked for in the project `{project}`: check its name")
                }
                Some(Target { parent: Parent { project, location: Some(location) }, .. }) => {
                    format!("it was looked for in the project `{project}` in `{location}`: check its name")
                }
                None => "check the version and the name".to_owned(),
            },
            ErrorKind::Denied if fault.is("SERVICE_DISABLED") => {
                "enable the API with `gcloud services enable secretmanager.googleapis.com`".to_owned()
            }
            ErrorKind::Denied if fault.cause.starts_with("to act as") => {
                "your identity lacks `roles/iam.serviceAccountTokenCreator` on that service account".to_owned()
            }
            ErrorKind::Denied => {
                let role = match missing_permission(&fault.cause) {
                    Some("secretmanager.versions.add") => "roles/secretmanager.secretVersionAdder",
                    Some(
                        "secretmanager.versions.list" | "secretmanager.secrets.get" | "secretmanager.secrets.list",
                    ) => "roles/secretmanager.viewer",
                    None | Some("secretmanager.versions.access") => "roles/secretmanager.secretAccessor",
                    Some(_) => "roles/secretmanager.admin",
                };
                format!("the signed-in identity lacks `{role}` on it, or it does not exist")
            }
            ErrorKind::Unauthenticated if self.anonymous => "this server wants a sign-in".to_owned(),
            ErrorKind::Unauthenticated => {
                let base = "sign in with `gcloud auth application-default login`";
                match self.sign_in.text("GOOGLE_APPLICATION_CREDENTIALS") {
                    Some(_) => {
                        format!("{base}, or check `GOOGLE_APPLICATION_CREDENTIALS` and the clock of this machine")
                    }
                    None => format!("{base}, or set `GOOGLE_APPLICATION_CREDENTIALS`"),
                }
            }
            ErrorKind::Unsupported if fault.cause.contains("which project") => {
                format!("give `{}` a `project`, or write `PROJECT/SECRET`", self.instance)
            }
            ErrorKind::Throttled => "try again in a while, or raise `timeout` of the instance".to_owned(),
            ErrorKind::Unavailable => "check the network, or allow older values with `max-stale`".to_owned(),
            _ => return None,
        })
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
            let (session, had) = match self.session(deadline).await {
                Ok(session) => session,
                Err(fault) => {
                    answers.extend(open.into_keys().map(|key| (key, Err(fault.clone()))));
                    break;
                }
            };
            let each = open.into_iter().map(|(key, target)| {
                let (session, repeats) = (&session, &repeats);
                async move { (key, target, self.fetch_one(session, target, repeats, deadline).await) }
            });
            let mut refused = HashMap::new();
            for (key, target, answer) in join_all(each).await {
                if answer.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated) {
                    refused.insert(key.clone(), target);
                }
                answers.insert(key, answer);
            }
            if !refused.is_empty() {
                self.drop_session(&session);
            }
            if round > 0 || !had || self.anonymous {
                break;
            }
            open = refused;
        }
        let answer = |target: &Target| {
            let missing = || Err(Fault::new(ErrorKind::Malformed, "there was no answer for it"));
            answers.get(&asked_as(target)).cloned().unwrap_or_else(missing)
        };
        let results = targets.iter().map(|target| target.as_ref().map_err(Clone::clone).and_then(answer));
        results.zip(references).map(|(result, r)| result.map_err(|fault| self.error(fault, Some(r)))).collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let target = Target::of(reference, &self.defaults).map_err(|fault| self.error(fault, Some(reference)))?;
        if target.version != Wanted::Latest {
            return Err(unsupported(reference, "only the current version can be written"));
        }
        let (target, value) = (&target, &value);
        let added =
            self.signed_in(deadline, |session| async move { self.add(&session, target, value, deadline).await });
        added.await.map(Some).map_err(|fault| self.error(of_write(fault), Some(reference)))
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let target = Target::of(reference, &self.defaults).map_err(|fault| self.error(fault, Some(reference)))?;
        if target.version != Wanted::Latest {
            return Err(unsupported(reference, "a secret is deleted with all its versions"));
        }
        let target = &target;
        let deleted = self.signed_in(deadline, |session| async move {
            let client = session.client(target.parent.location.as_deref());
            once(deadline, || client.delete_secret().set_name(target.secret_name()).send()).await
        });
        deleted.await.map_err(|fault| self.error(of_write(fault), Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        match Listing::of(options.prefix, &self.defaults) {
            Ok(Some(listing)) => {
                self.find(&listing, options.tags, deadline).await.map_err(|fault| self.error(fault, None))
            }
            Ok(None) => Ok(Vec::new()),
            Err(fault) => Err(self.error(fault, None)),
        }
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let whole = SecretRef { version: Version::Current, ..reference.clone() };
        let target = Target::of(&whole, &self.defaults).map_err(|fault| self.error(fault, Some(reference)))?;
        let (repeats, target) = (&AtomicU32::new(MAX_REPEATS), &target);
        let found = self.signed_in(deadline, |session| async move {
            let client = session.client(target.parent.location.as_deref());
            let secret = self.read(deadline, repeats, || client.get_secret().set_name(target.secret_name()).send());
            let versions = self.versions(&client, target, repeats, deadline, false);
            let (secret, versions) = futures_util::future::join(secret, versions).await;
            Ok((secret?, versions?))
        });
        let (secret, versions) = found.await.map_err(|fault| self.error(fault, Some(reference)))?;
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
        *self.held() = None;
    }
}

/// One version as a listing says it.
struct Standing {
    number: u64,
    usable: bool,
    created: Option<SystemTime>,
}

impl Standing {
    fn of(version: model::SecretVersion) -> Option<Self> {
        let number = version.name.rsplit('/').next()?.parse().ok()?;
        let created = version.create_time.and_then(|time| SystemTime::try_from(time).ok());
        Some(Self { number, usable: version.state == secret_version::State::Enabled, created })
    }
}

/// Checks an answer and takes the value out of it.
fn fetched(answer: model::AccessSecretVersionResponse, target: &Target) -> Result<Fetched, Fault> {
    let version = number_in(&answer.name, target)?.to_owned();
    let payload = answer.payload.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds no payload"))?;
    let sum = payload.data_crc32c.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds no checksum"))?;
    let value = SecretValue::new(payload.data.into());
    // Opened to be checked against Google's checksum.
    if i64::from(crc32c(value.expose())) != sum {
        return Err(Fault::new(ErrorKind::Malformed, "the value was damaged on its way: its checksum does not fit"));
    }
    Ok(Fetched {
        value: Arc::new(value),
        version: Some(version),
        fetched_at: Instant::now(),
        stale: false,
        lone_field: None,
    })
}

/// Returns the version's number in the name that an answer gives, which must be of the secret that was asked for. The
/// project there is a number, whatever was asked.
fn number_in<'a>(name: &'a str, target: &Target) -> Result<&'a str, Fault> {
    let of_secret = name.rsplit_once("/versions/").filter(|(secret, number)| {
        secret.rsplit('/').next() == Some(&target.secret) && number.bytes().all(|b| b.is_ascii_digit())
    });
    let number = of_secret.map(|(_, number)| number).filter(|number| !number.is_empty());
    number.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer is about another secret"))
}

/// Returns what makes two targets the same request.
fn asked_as(target: &Target) -> String {
    match &target.version {
        Wanted::Latest => target.version_name("latest"),
        Wanted::Named(version) => target.version_name(version),
        Wanted::Previous => target.version_name("?previous"),
    }
}

/// Sends a request that must not be done twice: a version that was added twice would be its own previous one. It is
/// repeated only where it surely was not done, because nobody was reached or the service was too busy.
async fn once<T, F>(deadline: Instant, send: impl Fn() -> F) -> Result<T, Fault>
where
    F: Future<Output = google_cloud_secretmanager_v1::Result<T>>,
{
    let mut attempt = 1;
    loop {
        let fault = match timeout_at(deadline, send()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => fault_of(&error),
            Err(_) => return Err(Fault::late()),
        };
        let undone = fault.kind == ErrorKind::Throttled || fault.cause.starts_with("no connection");
        let wake = Instant::now() + fault.retry_after.unwrap_or(Duration::from_millis(100) * attempt);
        if !undone || attempt >= MAX_WRITES || wake >= deadline {
            return Err(fault);
        }
        attempt += 1;
        sleep_until(wake).await;
    }
}

/// What cannot be found out for a read cannot be done for a write.
fn of_write(fault: Fault) -> Fault {
    match fault.is("INVALID_ARGUMENT") || fault.is("FAILED_PRECONDITION") {
        true => Fault { kind: ErrorKind::Unsupported, ..fault },
        false => fault,
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

/// Returns the permission in Google's sentence `Permission '...' denied for resource '...'`.
fn missing_permission(cause: &str) -> Option<&str> {
    cause.split("Permission '").nth(1)?.split('\'').next()
}

fn is_loopback(address: &str) -> bool {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the Castagnoli CRC of `bytes` (RFC 3720 appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
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
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720 appendix B.4, and the check value of the catalogues.
        for (bytes, sum) in [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (b"123456789", 0xe306_9283)] {
            assert_eq!(crc32c(bytes), sum);
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for address in ["http://127.0.0.1:1", "http://localhost:1/x", "http://[::1]:80"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["https://localhost.example.com", "https://10.0.0.1", "https://secretmanager.googleapis.com"] {
            assert!(!is_loopback(address), "{address}");
        }
    }

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
