//! AWS Secrets Manager, on the official SDK.
//!
//! Current values are fetched by `BatchGetSecretValue`, twenty to a call, the calls in parallel; other versions and what a
//! batch cannot answer by `GetSecretValue`. The path of a reference is the secret's name or its ARN, whole or without the
//! random suffix; an ARN is asked for in its own region. Text and binary secrets are their bytes. Source: Secrets Manager
//! API Reference, version 2017-10-17.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_sdk_secretsmanager::primitives::Blob;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use broker_core::instance::Words;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::aws::answer::{Action, is_deleted, persist};
use crate::aws::json::is_region;
use crate::aws::narrow::Service;
use crate::aws::scoped;
use crate::aws::session::AwsSession;
use crate::aws::sign_in::SignedIn;
use crate::aws::sm_fetch::{Asked, Found, no_answer, region_of};
use crate::aws::sm_manage::PENDING;
use crate::fault::Fault;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError,
};
use crate::registry::Opening;

/// Most ids of one `BatchGetSecretValue`.
pub(crate) const BATCH: usize = 20;
/// Most reads of one instance at the same time: enough for 320 secrets at once, and far below AWS's quotas.
const MAX_READS: usize = 16;
/// Most pages that are followed; more is a server gone wrong.
pub(crate) const MAX_PAGES: usize = 1000;
/// How long it is remembered that this identity may not batch.
const NO_BATCH_FOR: Duration = Duration::from_secs(600);
/// How long a region that was away is asked last.
const AWAY_FOR: Duration = Duration::from_secs(30);

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: true,
    describe: true,
    versions: true,
    previous: true,
    pending: true,
    promote: true,
    issues: false,
    batch: BATCH,
};

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    Ok(Arc::new(AwsSecretsManager {
        session: Arc::new(AwsSession::new(opening)?),
        replicas: settings.replicas.as_ref().map(Words::as_slice).unwrap_or_default().to_vec(),
        endpoint: settings.endpoint.clone(),
        http: opening.shared.transport.counting(Arc::clone(&opening.calls)),
        clients: Mutex::default(),
        known: Arc::default(),
        reads: Arc::new(Semaphore::new(MAX_READS)),
    }))
}

pub(crate) struct AwsSecretsManager {
    session: Arc<AwsSession>,
    replicas: Vec<String>,
    endpoint: Option<String>,
    http: SharedHttpClient,
    clients: Mutex<Clients>,
    /// Shared with what is narrowed from it, as its turns are.
    known: Arc<Mutex<Known>>,
    pub(crate) reads: Arc<Semaphore>,
}

/// The clients by region, and the sign-in that they are of.
type Clients = Option<(Arc<SignedIn>, HashMap<String, Client>)>;

/// What is known from earlier requests.
#[derive(Default)]
struct Known {
    no_batch_until: Option<Instant>,
    away_until: HashMap<String, Instant>,
}

/// Secrets Manager in one region.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) client: Client,
}

impl AwsSecretsManager {
    /// Returns the client for a region, with the credentials of `signed_in`.
    pub(crate) fn place(&self, signed_in: &Arc<SignedIn>, region: &str) -> Place {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = clients.as_ref().is_some_and(|(before, _)| Arc::ptr_eq(before, signed_in));
        if !is_same {
            *clients = None;
        }
        let (_, clients) = clients.get_or_insert_with(|| (Arc::clone(signed_in), HashMap::new()));
        let client = clients.entry(region.to_owned()).or_insert_with(|| self.client(signed_in, region)).clone();
        Place { client }
    }

    fn client(&self, signed_in: &SignedIn, region: &str) -> Client {
        let mut config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(signed_in.credentials.clone())
            .http_client(self.http.clone())
            // Repeating is ours: the deadline rules it and the last answer is kept.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_endpoint_url(self.endpoint.clone());
        Client::from_conf(config.build())
    }

    /// Returns where an id is asked for, when all is well.
    async fn place_of(&self, id: &str, deadline: Instant) -> Result<Place, Fault> {
        let (signed_in, _) = self.session.credentials(deadline).await?;
        let region = region_of(id).filter(|region| is_region(region)).unwrap_or(signed_in.region.as_ref());
        Ok(self.place(&signed_in, region))
    }

    /// Returns the regions to ask for what belongs to `region`, in order. Those that were just away come last.
    pub(crate) fn regions_for(&self, signed_in: &SignedIn, region: &str) -> Vec<String> {
        let mut regions = vec![region.to_owned()];
        if region == signed_in.region.as_ref() {
            regions.extend(self.replicas.iter().filter(|replica| *replica != region).cloned());
        }
        let (known, now) = (self.known(), Instant::now());
        regions.sort_by_key(|region| known.away_until.get(region).is_some_and(|until| now < *until));
        regions
    }

    pub(crate) fn remember_away(&self, region: &str, is_away: bool) {
        let mut known = self.known();
        if is_away {
            known.away_until.insert(region.to_owned(), Instant::now() + AWAY_FOR);
        } else {
            known.away_until.remove(region);
        }
    }

    pub(crate) fn may_batch(&self) -> bool {
        self.known().no_batch_until.is_none_or(|until| Instant::now() >= until)
    }

    pub(crate) fn remember_no_batch(&self) {
        self.known().no_batch_until = Some(Instant::now() + NO_BATCH_FOR);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(
        &self,
        place: &Place,
        name: &str,
        value: &Value,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let token = token()?;
        let answer = persist(deadline, Action::Write, || {
            let request = place.client.create_secret().name(name).client_request_token(&token);
            request.set_secret_string(value.text.clone()).set_secret_binary(value.binary.clone()).send()
        });
        Ok(answer.await?.version_id)
    }

    async fn put_version(
        &self,
        place: &Place,
        id: &str,
        value: &Value,
        stage: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let token = token()?;
        let answer = persist(deadline, Action::Write, || {
            let request = place.client.put_secret_value().secret_id(id).client_request_token(&token);
            let request = request.set_version_stages(stage.map(|stage| vec![stage.to_owned()]));
            request.set_secret_string(value.text.clone()).set_secret_binary(value.binary.clone()).send()
        });
        Ok(answer.await?.version_id)
    }

    async fn put_current(&self, id: &str, value: &Value, deadline: Instant) -> Result<Option<String>, Fault> {
        let place = self.place_of(id, deadline).await?;
        let done = self.put_version(&place, id, value, None, deadline).await;
        let is_missing = |fault: &Fault| fault.is("ResourceNotFoundException");
        if !done.as_ref().is_err_and(is_missing) || id.starts_with("arn:") {
            return done;
        }
        match self.create(&place, id, value, deadline).await {
            // Somebody else created it in between.
            Err(fault) if fault.is("ResourceExistsException") => {
                self.put_version(&place, id, value, None, deadline).await
            }
            done => done,
        }
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>, region: Option<&str>) -> ProviderError {
        let place = region.map(|region| format!(" in `{region}`")).unwrap_or_default();
        let instance = self.session.instance();
        let hint = match fault.kind {
            ErrorKind::NotFound if is_deleted(&fault.cause) => {
                Some("it still exists: `aws secretsmanager restore-secret` takes the deletion back".to_owned())
            }
            ErrorKind::NotFound => {
                Some(format!("it was looked for{place}: check its name and the region of `{instance}`"))
            }
            _ => None,
        };
        let is_unknown = fault.kind == ErrorKind::Denied;
        let mut error = self.session.error(fault, reference, hint);
        if is_unknown && error.hint.is_none() {
            error.hint = Some("ask for `secretsmanager:GetSecretValue` on it".to_owned());
        }
        error
    }
}

#[async_trait]
impl Provider for AwsSecretsManager {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let deadline = options.deadline;
        let signed_in = match self.session.credentials(deadline).await {
            Ok((signed_in, _)) => signed_in,
            Err(fault) => return references.iter().map(|r| Err(self.error(fault.clone(), Some(r), None))).collect(),
        };
        let own = signed_in.region.as_ref();
        let region = |reference: &SecretRef| -> Result<String, Fault> {
            match region_of(&reference.path) {
                Some(region) if !is_region(region) => {
                    Err(Fault::new(ErrorKind::NotFound, "its ARN names no region that there can be"))
                }
                region => Ok(region.unwrap_or(own).to_owned()),
            }
        };
        let mut wanted: HashMap<String, Vec<Asked>> = HashMap::new();
        for reference in references {
            if let Ok(region) = region(reference) {
                wanted.entry(region).or_default().push((reference.path.clone(), reference.version.clone()));
            }
        }
        let fetches = wanted.into_iter().map(|(region, mut asked)| {
            asked.sort_unstable();
            asked.dedup();
            let signed_in = &signed_in;
            async move { self.fetch_from(signed_in, &region, asked, deadline).await }
        });
        let found: Found = join_all(fetches).await.into_iter().flatten().collect();
        references
            .iter()
            .map(|reference| {
                let region = region(reference);
                let answer = region.clone().and_then(|_| {
                    let asked = (reference.path.clone(), reference.version.clone());
                    found.get(&asked).cloned().unwrap_or_else(|| Err(no_answer()))
                });
                answer.map_err(|fault| self.error(fault, Some(reference), region.as_deref().ok()))
            })
            .collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let (id, value) = (reference.path.as_str(), Value::of(&value));
        let done = match reference.version {
            Version::Current => self.put_current(id, &value, deadline).await,
            Version::Pending => match self.place_of(id, deadline).await {
                Ok(place) => self.put_version(&place, id, &value, Some(PENDING), deadline).await,
                Err(fault) => Err(fault),
            },
            _ => Err(Fault::new(ErrorKind::Unsupported, "only the current and the pending version can be written")),
        };
        done.map_err(|fault| self.error(fault, Some(reference), None))
    }

    /// Schedules the secret for deletion, with AWS's default recovery window of 30 days.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = async {
            let place = self.place_of(&reference.path, deadline).await?;
            persist(deadline, Action::Write, || place.client.delete_secret().secret_id(&reference.path).send()).await
        };
        done.await.map(|_| ()).map_err(|fault| self.error(fault, Some(reference), None))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        let done = async { self.list_in(&self.place_of("", deadline).await?, options, deadline).await };
        done.await.map_err(|fault| self.error(fault, None, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let id = reference.path.as_str();
        let done = async { self.describe_in(&self.place_of(id, deadline).await?, id, deadline).await };
        done.await.map_err(|fault| self.error(fault, Some(reference), None))
    }

    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let id = reference.path.as_str();
        let done =
            async { self.promote_in(&self.place_of(id, deadline).await?, id, &reference.version, deadline).await };
        done.await.map_err(|fault| self.error(fault, Some(reference), None))
    }

    async fn demote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let id = reference.path.as_str();
        let done = async {
            let place = self.place_of(id, deadline).await?;
            match reference.version {
                Version::Current => self.promote_in(&place, id, &Version::Previous, deadline).await,
                Version::Pending => self.abandon_in(&place, id, deadline).await,
                _ => Err(Fault::new(
                    ErrorKind::Unsupported,
                    "only the current and the pending version can be taken back",
                )),
            }
        };
        done.await.map_err(|fault| self.error(fault, Some(reference), None))
    }

    fn can_narrow(&self) -> bool {
        true
    }

    fn narrowed(&self, scope: &Arc<Scope>) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
        let (replicas, endpoint, http) = (self.replicas.clone(), self.endpoint.clone(), self.http.clone());
        let (known, reads) = (Arc::clone(&self.known), Arc::clone(&self.reads));
        let open = move |session| -> Arc<dyn Provider> {
            Arc::new(AwsSecretsManager {
                session,
                replicas: replicas.clone(),
                endpoint: endpoint.clone(),
                http: http.clone(),
                clients: Mutex::default(),
                known: Arc::clone(&known),
                reads: Arc::clone(&reads),
            })
        };
        scoped::narrowed(&self.session, Service::SecretsManager, &self.replicas, scope, Box::new(open))
    }

    fn forget(&self) {
        self.session.forget();
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.known() = Known::default();
    }
}

/// A value as AWS takes it: text where it is text, since that is what its console and other clients show.
struct Value {
    text: Option<String>,
    binary: Option<Blob>,
}

impl Value {
    fn of(value: &SecretValue) -> Self {
        // Opened to be sent to the manager. The SDK owns its copy.
        match std::str::from_utf8(value.expose()) {
            Ok(text) => Self { text: Some(text.to_owned()), binary: None },
            Err(_) => Self { text: None, binary: Some(Blob::new(value.expose())) },
        }
    }
}

/// Returns a fresh idempotency token: AWS takes a repeated request with the same one for the same request.
fn token() -> Result<String, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Fault::new(ErrorKind::Unavailable, "the system gives no random bytes"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Debug for AwsSecretsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSecretsManager").field("instance", &self.session.instance()).finish_non_exhaustive()
    }
}
