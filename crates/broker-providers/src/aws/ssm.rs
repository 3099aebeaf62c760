//! AWS Systems Manager Parameter Store.
//!
//! Values are fetched by `GetParameters`, ten to a call, the calls in parallel; what does not exist comes back in the same
//! answer. Encrypted and plain parameters alike are the bytes of their text. A parameter holds text only, its newest
//! version is always the current one, and an old version becomes current by being written once more. Writing keeps the
//! key and never makes a plain parameter of an encrypted one. Source: Systems Manager API Reference, version 2014-11-06.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use broker_core::reference::{SecretRef, Version};
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use futures_util::future::{join, join_all};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::aws::json::{AwsJson, Signer};
use crate::aws::narrow::Service;
use crate::aws::scoped;
use crate::aws::session::AwsSession;
use crate::aws::sign_in::SignedIn;
use crate::aws::ssm_list as listing;
use crate::aws::ssm_name::{Asked, BATCH, calls};
use crate::aws::ssm_value as value;
use crate::fault::Fault;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError,
};
use crate::registry::Opening;
use crate::rest::SecretText;

/// Most reads of one instance at the same time: enough for 160 parameters at once, within AWS's default of 40 a second.
const MAX_READS: usize = 16;

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
    batch: BATCH,
};

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let session = Arc::new(AwsSession::new(opening)?);
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls));
    let rest = rest.map_err(|fault| session.error(fault, None, None))?;
    let endpoint = opening.settings.endpoint.clone();
    Ok(Arc::new(AwsParameterStore {
        session,
        api: AwsJson { rest, service: "ssm", target: "AmazonSSM", endpoint },
        reads: Arc::new(Semaphore::new(MAX_READS)),
    }))
}

pub(crate) struct AwsParameterStore {
    session: Arc<AwsSession>,
    api: AwsJson,
    /// Shared with what is narrowed from it.
    reads: Arc<Semaphore>,
}

/// Who asks, for as long as one operation takes.
pub(crate) struct Identity {
    signed_in: Arc<SignedIn>,
    credentials: Credentials,
}

impl Identity {
    fn signer<'a>(&'a self, region: Option<&'a str>) -> Signer<'a> {
        Signer { credentials: &self.credentials, region: region.unwrap_or(self.signed_in.region.as_ref()) }
    }
}

/// The answer of `GetParameters`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    #[serde(default)]
    parameters: Vec<Parameter>,
    #[serde(default)]
    invalid_parameters: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    name: String,
    #[serde(rename = "ARN", default)]
    arn: String,
    value: SecretText,
    version: u64,
    selector: Option<String>,
}

/// The results of one fetch, by what was asked.
type Answers = HashMap<Asked, Result<Fetched, Fault>>;

impl AwsParameterStore {
    async fn identity(&self, deadline: Instant) -> Result<Identity, Fault> {
        let (signed_in, credentials) = self.session.credentials(deadline).await?;
        Ok(Identity { signed_in, credentials })
    }

    /// Sends a request that reads, when it is its turn.
    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        signer: Signer<'_>,
        operation: &str,
        input: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, Fault> {
        match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => self.api.read(signer, operation, input, deadline).await,
            Err(_) => Err(Fault::late()),
        }
    }

    /// Fetches all that is asked for, each parameter and version once.
    async fn ask(&self, identity: &Identity, asked: Vec<Asked>, deadline: Instant) -> Answers {
        let calls = calls(asked).into_iter().map(|call| self.several(identity, call, deadline));
        join_all(calls).await.into_iter().flatten().collect()
    }

    /// Fetches what fits into one call. Every question gets its own answer.
    async fn several(&self, identity: &Identity, asked: Vec<Asked>, deadline: Instant) -> Answers {
        match self.call(identity, &asked, deadline).await {
            Ok(got) => distribute(asked, got),
            // One parameter that this identity may not read, or whose name AWS does not like, spoils the whole call.
            Err(fault) if asked.len() > 1 && matches!(fault.kind, ErrorKind::Denied | ErrorKind::NotFound) => {
                let each = asked.into_iter().map(|one| async move {
                    match self.call(identity, std::slice::from_ref(&one), deadline).await {
                        Ok(got) => distribute(vec![one], got),
                        Err(fault) => Answers::from([(one, Err(fault))]),
                    }
                });
                join_all(each).await.into_iter().flatten().collect()
            }
            Err(fault) => asked.into_iter().map(|one| (one, Err(fault.clone()))).collect(),
        }
    }

    async fn call(&self, identity: &Identity, asked: &[Asked], deadline: Instant) -> Result<Got, Fault> {
        let region = asked.first().and_then(|one| one.region.as_deref());
        let names: Vec<String> = asked.iter().map(Asked::wire).collect();
        let input = json!({ "Names": names, "WithDecryption": true });
        self.read(identity.signer(region), "GetParameters", &input, deadline).await
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>, region: Option<&str>) -> ProviderError {
        let hint = match fault.kind {
            ErrorKind::NotFound => {
                let place = region.map(|region| format!(" in `{region}`")).unwrap_or_default();
                let name = reference.map(|reference| reference.path.as_str()).unwrap_or_default();
                let slash = if name.contains('/') && !name.starts_with('/') && !name.starts_with("arn:") {
                    format!(", and whether it begins with a slash (`{}:///{name}`)", self.session.instance())
                } else {
                    String::new()
                };
                Some(format!(
                    "it was looked for{place}: check its name and the region of `{}`{slash}",
                    self.session.instance()
                ))
            }
            ErrorKind::Denied if !fault.cause.contains("perform: ") && !fault.cause.contains("ciphertext") => {
                Some("ask for `ssm:GetParameters` on it".to_owned())
            }
            _ => None,
        };
        self.session.error(fault, reference, hint)
    }
}

/// Gives each question its answer out of one call's.
fn distribute(asked: Vec<Asked>, got: Got) -> Answers {
    let mut parameters: Vec<(Parameter, Option<Fetched>)> = got.parameters.into_iter().map(|p| (p, None)).collect();
    let answer = |one: &Asked| {
        let is_it = |p: &Parameter| one.is_answered_by(&p.name, &p.arn, p.selector.as_deref(), p.version);
        if let Some((parameter, fetched)) = parameters.iter_mut().find(|(parameter, _)| is_it(parameter)) {
            return Ok(fetched.get_or_insert_with(|| fetched_from(parameter)).clone());
        }
        let wire = one.wire();
        let slash = |name: &str| name.trim_start_matches('/') == one.name.trim_start_matches('/');
        if got.invalid_parameters.contains(&wire) || parameters.iter().any(|(p, _)| slash(&p.name)) {
            let cause = match one.selector {
                None => "there is no such parameter",
                Some(_) => "there is no such parameter, version or label",
            };
            return Err(Fault::new(ErrorKind::NotFound, cause));
        }
        Err(Fault::new(ErrorKind::Malformed, "AWS gave no answer for it"))
    };
    let mut answer = answer;
    asked.into_iter().map(|one| (one.clone(), answer(&one))).collect()
}

fn fetched_from(parameter: &mut Parameter) -> Fetched {
    let empty = SecretText(SecretValue::new(Vec::new()));
    let value = std::mem::replace(&mut parameter.value, empty).0;
    Fetched {
        value: Arc::new(value),
        version: Some(parameter.version.to_string()),
        fetched_at: Instant::now(),
        stale: false,
        lone_field: None,
    }
}

#[async_trait]
impl Provider for AwsParameterStore {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let deadline = options.deadline;
        let asked: Vec<Result<Asked, Fault>> = references.iter().map(Asked::of).collect();
        let wanted: Vec<Asked> = asked.iter().flatten().cloned().collect();
        let identity = match self.identity(deadline).await {
            Ok(identity) => identity,
            Err(fault) => return references.iter().map(|r| Err(self.error(fault.clone(), Some(r), None))).collect(),
        };
        let mut answers = self.ask(&identity, wanted, deadline).await;
        // Which version is the previous one is known when the current one is.
        let before = |one: &Asked, answers: &Answers| match answers.get(one) {
            Some(Ok(current)) => {
                let version = current.version.as_deref().and_then(|version| version.parse::<u64>().ok());
                match version.and_then(|version| version.checked_sub(1)).filter(|version| *version > 0) {
                    Some(version) => Ok(one.at(version)),
                    None => Err(Fault::new(ErrorKind::NotFound, "there is only one version")),
                }
            }
            Some(Err(fault)) => Err(fault.clone()),
            None => Err(Fault::new(ErrorKind::Malformed, "AWS gave no answer for it")),
        };
        let asked: Vec<Result<Asked, Fault>> = references
            .iter()
            .zip(asked)
            .map(|(reference, one)| match reference.version {
                Version::Previous => before(&one?, &answers),
                _ => one,
            })
            .collect();
        let more: Vec<Asked> = asked.iter().flatten().filter(|one| !answers.contains_key(one)).cloned().collect();
        if !more.is_empty() {
            answers.extend(self.ask(&identity, more, deadline).await);
        }
        let region = identity.signed_in.region.as_ref();
        references
            .iter()
            .zip(asked)
            .map(|(reference, one)| {
                let missing = || Err(Fault::new(ErrorKind::Malformed, "AWS gave no answer for it"));
                let region = one.as_ref().ok().and_then(|one| one.region.clone()).unwrap_or_else(|| region.to_owned());
                let answer = one.and_then(|one| answers.get(&one).cloned().unwrap_or_else(missing));
                answer.map_err(|fault| self.error(fault, Some(reference), Some(&region)))
            })
            .collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let done = async {
            let input = value::Checked::of(reference, &value)?;
            let identity = self.identity(deadline).await?;
            let signer = identity.signer(None);
            // The key and the type that it has: AWS would take its own default key otherwise, which more people may use.
            let known = listing::find(self, signer, &reference.path, deadline).await?;
            let input = input.over(known.as_ref())?;
            let done: value::Put = self.api.write(signer, "PutParameter", &input, deadline).await?;
            Ok(Some(done.version.to_string()))
        };
        done.await.map_err(|fault| {
            let hint = value::hint(&fault);
            match hint {
                Some(hint) => self.session.error(fault, Some(reference), Some(hint)),
                None => self.error(fault, Some(reference), None),
            }
        })
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = async {
            let asked = Asked::of(&SecretRef { version: Version::Current, ..reference.clone() })?;
            let identity = self.identity(deadline).await?;
            let signer = identity.signer(asked.region.as_deref());
            let input = json!({ "Name": asked.name });
            self.api.write::<IgnoredAny>(signer, "DeleteParameter", &input, deadline).await.map(|_| ())
        };
        done.await.map_err(|fault| self.error(fault, Some(reference), None))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        let done = async {
            let identity = self.identity(deadline).await?;
            listing::list(self, identity.signer(None), options, deadline).await
        };
        done.await.map_err(|fault| self.error(fault, None, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let done = async {
            let asked = Asked::of(&SecretRef { version: Version::Current, ..reference.clone() })?;
            let identity = self.identity(deadline).await?;
            let signer = identity.signer(asked.region.as_deref());
            let history = listing::history(self, signer, &asked.name, deadline);
            let (history, tags) = join(history, listing::tags(self, signer, &asked.name, deadline)).await;
            Ok(Described { tags, ..history? })
        };
        done.await.map_err(|fault| self.error(fault, Some(reference), None))
    }

    fn can_narrow(&self) -> bool {
        true
    }

    fn narrowed(&self, scope: &Arc<Scope>) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
        let (api, reads) = (self.api.clone(), Arc::clone(&self.reads));
        let open = move |session| -> Arc<dyn Provider> {
            Arc::new(AwsParameterStore { session, api: api.clone(), reads: Arc::clone(&reads) })
        };
        scoped::narrowed(&self.session, Service::ParameterStore, &[], scope, Box::new(open))
    }

    fn forget(&self) {
        self.session.forget();
    }
}

impl fmt::Debug for AwsParameterStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsParameterStore").field("instance", &self.session.instance()).finish_non_exhaustive()
    }
}
