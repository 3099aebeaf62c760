//! AWS Secrets Manager, on the official SDK.
//!
//! Current values are fetched by `BatchGetSecretValue`, twenty to a call, the calls in parallel; other versions and what a
//! batch cannot answer by `GetSecretValue`. The path of a reference is the secret's name or its ARN, whole or without the
//! random suffix. Text and binary secrets are their bytes. Source: Secrets Manager API Reference, version 2017-10-17.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, StalledStreamProtectionConfig};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::primitives::Blob;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::aws_answer::{Action, is_deleted, persist};
use crate::aws_sign_in::SignInPlan;
pub(crate) use crate::aws_sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV};
use crate::fault::Fault;
use crate::file_stamp::FilesStamp;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError,
    unsupported,
};
use crate::registry::Opening;

/// Most ids of one `BatchGetSecretValue`.
const BATCH: usize = 20;
/// Most reads of one instance at the same time: enough for 320 secrets at once, and far below AWS's quotas.
const MAX_READS: usize = 16;
/// Most pages that are followed; more is a server gone wrong.
const MAX_PAGES: usize = 1000;
/// How long it is remembered that this identity may not batch.
const NO_BATCH_FOR: Duration = Duration::from_secs(600);

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: false,
    describe: false,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    batch: BATCH,
};

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    let transport = &opening.shared.transport;
    Ok(Arc::new(AwsSecretsManager {
        instance: opening.instance.to_owned(),
        endpoint: settings.endpoint.clone(),
        plan: SignInPlan::new(settings, opening.sign_in.clone(), transport.client()),
        http: transport.counting(Arc::clone(&opening.calls)),
        session: Mutex::default(),
        no_batch_until: Mutex::default(),
        reads: Semaphore::new(MAX_READS),
    }))
}

struct AwsSecretsManager {
    instance: String,
    endpoint: Option<String>,
    plan: SignInPlan,
    http: SharedHttpClient,
    session: Mutex<Option<Session>>,
    no_batch_until: Mutex<Option<Instant>>,
    reads: Semaphore,
}

/// A client that is signed in, or will be with its first request. Holds its credentials until they expire.
#[derive(Clone)]
struct Session {
    client: Client,
    region: String,
    /// The files of the sign-in as they were: a session of an edited file is no longer anybody's.
    files: FilesStamp,
}

/// The results of one fetch, by id as asked for.
type Answers<'a> = HashMap<&'a str, Result<Fetched, Fault>>;

impl AwsSecretsManager {
    async fn session(&self) -> Result<Session, Fault> {
        let files = self.plan.files_stamp();
        if let Some(session) = self.held_session().clone().filter(|session| session.files == files) {
            return Ok(session);
        }
        let signed_in =
            self.plan.prepare().await.map_err(|error| Fault::new(ErrorKind::Unauthenticated, error.to_string()))?;
        let mut config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(signed_in.region.clone())
            .credentials_provider(signed_in.credentials)
            .http_client(self.http.clone())
            // Repeating is ours: the deadline rules it and the last answer is kept.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_endpoint_url(self.endpoint.clone());
        let session =
            Session { client: Client::from_conf(config.build()), region: signed_in.region.to_string(), files };
        *self.held_session() = Some(session.clone());
        Ok(session)
    }

    fn held_session(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_batch(&self) -> bool {
        let until = self.no_batch_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() >= until)
    }

    fn remember_no_batch(&self) {
        *self.no_batch_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + NO_BATCH_FOR);
    }

    /// Fetches the current values of at most [`BATCH`] ids. Every id gets its own answer.
    async fn batch<'a>(&self, session: &Session, ids: &[&'a str], deadline: Instant) -> Answers<'a> {
        // One id needs no second permission.
        if ids.len() < 2 || !self.may_batch() {
            return self.singly(session, ids, deadline).await;
        }
        let mut answers = Answers::new();
        let mut page = None;
        for _ in 0..MAX_PAGES {
            let owned: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            let sent = self.read(deadline, || {
                let request = session.client.batch_get_secret_value();
                request.set_secret_id_list(Some(owned.clone())).set_next_token(page.clone()).send()
            });
            let answer = match sent.await {
                Ok(answer) => answer,
                Err(fault) if fault.kind == ErrorKind::Denied => {
                    // The action itself is refused: what a role may not read comes back entry by entry.
                    self.remember_no_batch();
                    break;
                }
                // One malformed id spoils the whole call, and a server may not know the action at all.
                Err(fault) if fault.kind == ErrorKind::NotFound || fault.is("UnknownOperationException") => break,
                Err(fault) => {
                    for id in ids {
                        answers.entry(id).or_insert_with(|| Err(fault.clone()));
                    }
                    break;
                }
            };
            for value in answer.secret_values.unwrap_or_default() {
                let (name, arn) = (value.name.unwrap_or_default(), value.arn.unwrap_or_default());
                let fetched = fetched(value.secret_string, value.secret_binary, value.version_id);
                for id in ids {
                    if *id == name.as_str() || *id == arn.as_str() {
                        answers.insert(id, fetched.clone());
                    } else if is_partial(id, &arn) {
                        // The whole ARN of one secret can be the partial ARN of another: the exact answer wins.
                        answers.entry(id).or_insert_with(|| fetched.clone());
                    }
                }
            }
            for error in answer.errors.unwrap_or_default() {
                let named = error.secret_id.unwrap_or_default();
                let code = error.error_code.unwrap_or_default();
                let fault = Fault::named(&code, &error.message.unwrap_or_default(), 400, Action::Read);
                for id in ids.iter().filter(|id| **id == named) {
                    answers.entry(id).or_insert_with(|| Err(fault.clone()));
                }
            }
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        let unanswered: Vec<&str> = ids.iter().copied().filter(|id| !answers.contains_key(id)).collect();
        if !unanswered.is_empty() {
            answers.extend(self.singly(session, &unanswered, deadline).await);
        }
        answers
    }

    async fn singly<'a>(&self, session: &Session, ids: &[&'a str], deadline: Instant) -> Answers<'a> {
        let each = ids.iter().map(|id| async { (*id, self.single(session, id, &Version::Current, deadline).await) });
        join_all(each).await.into_iter().collect()
    }

    async fn single(
        &self,
        session: &Session,
        id: &str,
        version: &Version,
        deadline: Instant,
    ) -> Result<Fetched, Fault> {
        let answer = self.read(deadline, || {
            let request = session.client.get_secret_value().secret_id(id);
            match version {
                Version::Current => request,
                Version::Previous => request.version_stage("AWSPREVIOUS"),
                Version::Pending => request.version_stage("AWSPENDING"),
                Version::Id(version) => request.version_id(version),
            }
            .send()
        });
        let answer = answer.await?;
        fetched(answer.secret_string, answer.secret_binary, answer.version_id)
    }

    /// Sends a request that reads, when it is its turn.
    async fn read<T, E, F>(&self, deadline: Instant, send: impl Fn() -> F) -> Result<T, Fault>
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => persist(deadline, Action::Read, send).await,
            Err(_) => Err(Fault::new(ErrorKind::Unavailable, "no answer before the deadline")),
        }
    }

    async fn create(
        &self,
        session: &Session,
        name: &str,
        value: &Value,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let token = token()?;
        let answer = persist(deadline, Action::Write, || {
            let request = session.client.create_secret().name(name).client_request_token(&token);
            request.set_secret_string(value.text.clone()).set_secret_binary(value.binary.clone()).send()
        });
        Ok(answer.await?.version_id)
    }

    async fn put_version(
        &self,
        session: &Session,
        id: &str,
        value: &Value,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let token = token()?;
        let answer = persist(deadline, Action::Write, || {
            let request = session.client.put_secret_value().secret_id(id).client_request_token(&token);
            request.set_secret_string(value.text.clone()).set_secret_binary(value.binary.clone()).send()
        });
        Ok(answer.await?.version_id)
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>, region: Option<&str>) -> ProviderError {
        if fault.kind == ErrorKind::Unauthenticated {
            // Next time everything is read anew: the person may have signed in meanwhile.
            *self.held_session() = None;
        }
        ProviderError {
            hint: self.hint(&fault, region),
            retry: fault.retry(),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            cause: fault.cause,
        }
    }

    fn hint(&self, fault: &Fault, region: Option<&str>) -> Option<String> {
        let profile = self.plan.profile_name();
        let place = region.map(|region| format!(" in `{region}`")).unwrap_or_default();
        Some(match fault.kind {
            ErrorKind::NotFound if is_deleted(&fault.cause) => {
                "it still exists: `aws secretsmanager restore-secret` takes the deletion back".to_owned()
            }
            ErrorKind::NotFound => {
                format!("it was looked for{place}: check its name and the region of `{}`", self.instance)
            }
            ErrorKind::Denied if fault.is("DecryptionFailure") || fault.cause.contains("kms:") => {
                "the role lacks `kms:Decrypt` on the key of this secret".to_owned()
            }
            ErrorKind::Denied => match missing_action(&fault.cause) {
                Some(action) => format!("the signed-in identity lacks `{action}` on it"),
                None => "ask for `secretsmanager:GetSecretValue` on it".to_owned(),
            },
            ErrorKind::Unauthenticated if fault.cause.starts_with("no region") => {
                format!("give `{}` a `region`, or set `AWS_REGION`", self.instance)
            }
            ErrorKind::Unauthenticated if fault.is("RequestTimeTooSkewed") => {
                "set the clock of this machine".to_owned()
            }
            ErrorKind::Unauthenticated => format!(
                "sign in with `aws sso login --profile {profile}`, or set `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and \
                 `AWS_SECRET_ACCESS_KEY`, or give `{}` a `profile`",
                self.instance
            ),
            ErrorKind::Throttled => "try again in a while, or raise `timeout` of the instance".to_owned(),
            ErrorKind::Unavailable => "check the network, or allow older values with `max-stale`".to_owned(),
            _ => return None,
        })
    }
}

#[async_trait]
impl Provider for AwsSecretsManager {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let deadline = options.deadline;
        let session = match timeout_at(deadline, self.session()).await {
            Ok(Ok(session)) => session,
            Ok(Err(fault)) => {
                return references.iter().map(|r| Err(self.error(fault.clone(), Some(r), None))).collect();
            }
            Err(_) => {
                let fault =
                    Fault::new(ErrorKind::Unavailable, "the sign-in files could not be read before the deadline");
                return references.iter().map(|r| Err(self.error(fault.clone(), Some(r), None))).collect();
            }
        };
        let mut current: Vec<&str> =
            references.iter().filter(|r| r.version == Version::Current).map(|r| r.path.as_str()).collect();
        current.sort_unstable();
        current.dedup();
        let batches = join_all(current.chunks(BATCH).map(|ids| self.batch(&session, ids, deadline)));
        let others = references.iter().map(|reference| async {
            match reference.version {
                Version::Current => None,
                _ => Some(self.single(&session, &reference.path, &reference.version, deadline).await),
            }
        });
        let (batches, others) = futures_util::future::join(batches, join_all(others)).await;
        let answers: Answers<'_> = batches.into_iter().flatten().collect();
        references
            .iter()
            .zip(others)
            .map(|(reference, other)| {
                let answer = other.or_else(|| answers.get(reference.path.as_str()).cloned());
                let answer =
                    answer.unwrap_or_else(|| Err(Fault::new(ErrorKind::Malformed, "AWS gave no answer for it")));
                answer.map_err(|fault| self.error(fault, Some(reference), Some(&session.region)))
            })
            .collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let fail = |fault, region| Err(self.error(fault, Some(reference), region));
        if reference.version != Version::Current {
            return fail(Fault::new(ErrorKind::Unsupported, "only the current version can be written"), None);
        }
        let session = match self.session().await {
            Ok(session) => session,
            Err(fault) => return fail(fault, None),
        };
        let (id, value) = (reference.path.as_str(), Value::of(&value));
        let mut done = self.put_version(&session, id, &value, deadline).await;
        let is_missing = |fault: &Fault| fault.is("ResourceNotFoundException");
        if done.as_ref().is_err_and(is_missing) && !id.starts_with("arn:") {
            done = self.create(&session, id, &value, deadline).await;
            // Somebody else created it in between.
            if done.as_ref().is_err_and(|fault| fault.is("ResourceExistsException")) {
                done = self.put_version(&session, id, &value, deadline).await;
            }
        }
        done.or_else(|fault| fail(fault, Some(&session.region)))
    }

    /// Schedules the secret for deletion, with AWS's default recovery window of 30 days.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let fail = |fault, region| Err(self.error(fault, Some(reference), region));
        let session = match self.session().await {
            Ok(session) => session,
            Err(fault) => return fail(fault, None),
        };
        let sent =
            persist(deadline, Action::Write, || session.client.delete_secret().secret_id(&reference.path).send());
        sent.await.map(|_| ()).or_else(|fault| fail(fault, Some(&session.region)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        let prefix = options.prefix;
        let session = self.session().await.map_err(|fault| self.error(fault, None, None))?;
        let mut listed = Vec::new();
        let mut page: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let sent = persist(deadline, Action::Read, || {
                session
                    .client
                    .list_secrets()
                    .max_results(100)
                    .set_filters(name_filter(prefix))
                    .set_next_token(page.clone())
                    .send()
            });
            let answer = sent.await.map_err(|fault| self.error(fault, None, Some(&session.region)))?;
            listed.extend(answer.secret_list.unwrap_or_default().into_iter().filter_map(|entry| {
                // The filter ignores case and matches words; a prefix means its very characters.
                let path = entry.name.filter(|name| name.starts_with(prefix))?;
                let stages = entry.secret_versions_to_stages.unwrap_or_default();
                let current = stages.into_iter().find(|(_, stages)| stages.iter().any(|stage| stage == "AWSCURRENT"));
                let changed = entry.last_changed_date.and_then(|date| date.try_into().ok());
                Some(Listed { path, version: current.map(|(version, _)| version), changed })
            }));
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                break;
            }
        }
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        listed.dedup_by(|a, b| a.path == b.path);
        Ok(listed)
    }

    async fn describe(&self, reference: &SecretRef, _: Instant) -> Result<Described, ProviderError> {
        Err(unsupported(reference, "it cannot be described"))
    }

    fn forget(&self) {
        *self.held_session() = None;
        *self.no_batch_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

fn fetched(text: Option<String>, binary: Option<Blob>, version: Option<String>) -> Result<Fetched, Fault> {
    let bytes = text.map(String::into_bytes).or_else(|| binary.map(Blob::into_inner));
    let bytes = bytes.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds neither text nor binary"))?;
    Ok(Fetched { value: Arc::new(SecretValue::new(bytes)), version, fetched_at: Instant::now(), stale: false })
}

/// Tells whether `id` is `arn` without the hyphen and six random characters that AWS appends.
fn is_partial(id: &str, arn: &str) -> bool {
    id.starts_with("arn:") && arn.strip_prefix(id).is_some_and(|rest| rest.len() == 7 && rest.starts_with('-'))
}

/// Returns the filter for names that begin with `prefix`, or none where AWS's filter would not mean that: `!` negates,
/// and other characters never stand in a name.
fn name_filter(prefix: &str) -> Option<Vec<aws_sdk_secretsmanager::types::Filter>> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b);
    if prefix.is_empty() || !prefix.bytes().all(is_plain) {
        return None;
    }
    use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};
    Some(vec![Filter::builder().key(FilterNameStringType::Name).values(prefix).build()])
}

/// Returns the action in AWS's sentence `... is not authorized to perform: ACTION on resource: ...`.
fn missing_action(cause: &str) -> Option<&str> {
    let action = cause.split("perform: ").nth(1)?.split_whitespace().next()?;
    action.contains(':').then_some(action)
}

/// Returns a fresh idempotency token: AWS takes a repeated request with the same one for the same request.
fn token() -> Result<String, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Fault::new(ErrorKind::Unavailable, "the system gives no random bytes"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Debug for AwsSecretsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSecretsManager").field("instance", &self.instance).finish_non_exhaustive()
    }
}
