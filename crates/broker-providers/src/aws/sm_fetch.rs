//! Reading from Secrets Manager: twenty current values to a call, single calls for what a batch cannot answer, and the
//! replica regions when the first one is away.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::primitives::Blob;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use broker_core::reference::Version;
use broker_core::secret::SecretValue;
use futures_util::future::{join, join_all};
use tokio::time::{Instant, timeout_at};

use crate::aws::answer::{Action, persist};
use crate::aws::sign_in::SignedIn;
use crate::aws::sm::{AwsSecretsManager, BATCH, MAX_PAGES, Place};
use crate::fault::Fault;
use crate::provider::{ErrorKind, Fetched};

/// A secret, by its name or ARN, and which version of it.
pub(crate) type Asked = (String, Version);

/// The results of one fetch, by what was asked.
pub(crate) type Found = HashMap<Asked, Result<Fetched, Fault>>;

/// The results of one batch, by id as asked for.
type Answers<'a> = HashMap<&'a str, Result<Fetched, Fault>>;

impl AwsSecretsManager {
    /// Fetches from one region, and what that region is too broken to answer from its replicas. What is not there or not
    /// allowed is not asked for elsewhere.
    pub(crate) async fn fetch_from(
        &self,
        signed_in: &Arc<SignedIn>,
        region: &str,
        asked: Vec<Asked>,
        deadline: Instant,
    ) -> Found {
        let mut found = Found::new();
        let mut open = asked;
        let regions = self.regions_for(signed_in, region);
        for (at, other) in regions.iter().enumerate() {
            if open.is_empty() || (at > 0 && Instant::now() >= deadline) {
                break;
            }
            // Each region gets its share of the time that is left.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = Instant::now() + left / u32::try_from(regions.len() - at).unwrap_or(1);
            let place = self.place(signed_in, other);
            let there: Vec<Asked> = open.iter().map(|(id, version)| (in_region(id, other), version.clone())).collect();
            let mut answers = self.ask(&place, &there, share).await;
            let mut away = false;
            let mut still_open = Vec::new();
            for (one, there) in open.into_iter().zip(&there) {
                let answer = answers.remove(there).unwrap_or_else(|| Err(no_answer()));
                let is_away = answer.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unavailable);
                away |= is_away;
                // A replica that lacks it does not know better than a region that is away.
                let replaces = answer.is_ok() || !found.contains_key(&one);
                let goes_on = is_away || (at > 0 && found.contains_key(&one) && answer.is_err());
                if replaces {
                    found.insert(one.clone(), answer);
                }
                if goes_on {
                    still_open.push(one);
                }
            }
            self.remember_away(other, away);
            open = still_open;
        }
        found
    }

    /// Fetches from one region. Every question gets its own answer.
    async fn ask(&self, place: &Place, asked: &[Asked], deadline: Instant) -> Found {
        let mut current: Vec<&str> =
            asked.iter().filter(|(_, version)| *version == Version::Current).map(|(id, _)| id.as_str()).collect();
        current.sort_unstable();
        current.dedup();
        let batches = join_all(current.chunks(BATCH).map(|ids| self.batch(place, ids, deadline)));
        let others = asked
            .iter()
            .filter(|(_, version)| *version != Version::Current)
            .map(|one| async { (one.clone(), self.single(place, &one.0, &one.1, deadline).await) });
        let (batches, others) = join(batches, join_all(others)).await;
        let current = batches.into_iter().flatten().map(|(id, answer)| ((id.to_owned(), Version::Current), answer));
        current.chain(others).collect()
    }

    /// Fetches the current values of at most [`BATCH`] ids. Every id gets its own answer.
    async fn batch<'a>(&self, place: &Place, ids: &[&'a str], deadline: Instant) -> Answers<'a> {
        // One id needs no second permission.
        if ids.len() < 2 || !self.may_batch() {
            return self.singly(place, ids, deadline).await;
        }
        let mut answers = Answers::new();
        let mut page = None;
        for _ in 0..MAX_PAGES {
            let owned: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            let sent = self.read(deadline, || {
                let request = place.client.batch_get_secret_value();
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
            answers.extend(self.singly(place, &unanswered, deadline).await);
        }
        answers
    }

    async fn singly<'a>(&self, place: &Place, ids: &[&'a str], deadline: Instant) -> Answers<'a> {
        let each = ids.iter().map(|id| async { (*id, self.single(place, id, &Version::Current, deadline).await) });
        join_all(each).await.into_iter().collect()
    }

    async fn single(&self, place: &Place, id: &str, version: &Version, deadline: Instant) -> Result<Fetched, Fault> {
        let answer = self.read(deadline, || {
            let request = place.client.get_secret_value().secret_id(id);
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
    pub(crate) async fn read<T, E, F>(&self, deadline: Instant, send: impl Fn() -> F) -> Result<T, Fault>
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        match timeout_at(deadline, self.reads.acquire()).await {
            Ok(_turn) => persist(deadline, Action::Read, send).await,
            Err(_) => Err(Fault::new(ErrorKind::Unavailable, "no answer before the deadline")),
        }
    }
}

/// Returns the region that an ARN names.
pub(crate) fn region_of(id: &str) -> Option<&str> {
    id.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// Returns `id` as it is called in another region: a replica differs from its primary in the region of its ARN alone.
fn in_region(id: &str, region: &str) -> String {
    match region_of(id) {
        Some(own) if own != region => id.replacen(&format!(":{own}:"), &format!(":{region}:"), 1),
        _ => id.to_owned(),
    }
}

pub(crate) fn no_answer() -> Fault {
    Fault::new(ErrorKind::Malformed, "AWS gave no answer for it")
}

fn fetched(text: Option<String>, binary: Option<Blob>, version: Option<String>) -> Result<Fetched, Fault> {
    let bytes = text.map(String::into_bytes).or_else(|| binary.map(Blob::into_inner));
    let bytes = bytes.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds neither text nor binary"))?;
    Ok(Fetched {
        value: Arc::new(SecretValue::new(bytes)),
        version,
        fetched_at: Instant::now(),
        stale: false,
        lone_field: None,
    })
}

/// Tells whether `id` is `arn` without the hyphen and six random characters that AWS appends.
fn is_partial(id: &str, arn: &str) -> bool {
    id.starts_with("arn:") && arn.strip_prefix(id).is_some_and(|rest| rest.len() == 7 && rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region_and_a_replica_has_another() {
        let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf";
        assert_eq!(region_of(arn), Some("eu-west-1"));
        assert_eq!(region_of("shop/eu-west-1"), None);
        assert_eq!(
            in_region(arn, "eu-central-1"),
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/db-AbCdEf"
        );
        assert_eq!(in_region("shop/db", "eu-central-1"), "shop/db");
    }
}
