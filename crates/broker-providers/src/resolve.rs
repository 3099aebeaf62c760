//! Turns the references of one run into values: every instance asked once, all of them at the same time.
//!
//! References are grouped by instance and stripped of their `#field`s, so that ten fields of one secret are one fetch.
//! Each instance has its own deadline; a slow one delays nobody's answer but its own. There is exactly one result per
//! reference, in their order, so that every problem of a manifest is reported together.

use std::collections::HashMap;
use std::sync::Arc;

use broker_core::instance::Timing;
use broker_core::reference::SecretRef;
use broker_core::secret::SharedValue;
use futures_util::future::{join, join_all};
use tokio::time::Instant;

use crate::field::Document;
use crate::issue::{Credential, Issued, Order};
use crate::provider::{ErrorKind, FetchOptions, Fetched, Provider, ProviderError, Retry, unsupported};

/// An instance ready to be asked.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The provider, cache included.
    pub provider: Arc<dyn Provider>,
    /// The durations of its instance.
    pub timing: Timing,
}

/// How the references are fetched.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResolveOptions<'o> {
    /// Ask the managers even for what is held (`--refresh`).
    pub refresh: bool,
    /// Never ask a manager (`--offline`).
    pub offline: bool,
    /// When the caller gives up, if before an instance's own `timeout`.
    pub deadline: Option<Instant>,
    /// For which run, and how what is issued for it is ordered. Without one nothing is issued.
    pub run: Option<&'o Run>,
}

/// One run that secrets are resolved for.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it orders, but for the key of an instance.
    pub order: Order,
    /// The values behind the `key`s of the instances that have one, by instance.
    pub keys: HashMap<String, SharedValue>,
}

/// The value of one reference.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its bytes: the whole secret or the field.
    pub value: SharedValue,
    /// The manager's id of the version that was served, where it has one.
    pub version: Option<String>,
    /// When the manager answered.
    pub fetched_at: Instant,
    /// Set when it is older than its `ttl` and served because the manager is away.
    pub stale: bool,
    /// The credential that it belongs to, where it was issued for this run.
    pub credential: Option<Arc<Credential>>,
}

/// Fetches `references`; `open` turns the name of an instance into its provider and is called once per instance.
///
/// The result at each place belongs to the reference at that place. Nothing outlives the instance's `timeout`. What was
/// issued beside something that failed is the caller's to end.
pub async fn resolve(
    references: &[SecretRef],
    options: ResolveOptions<'_>,
    open: impl Fn(&str) -> Result<Opened, ProviderError>,
) -> Vec<Result<Resolved, ProviderError>> {
    let mut instances: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, reference) in references.iter().enumerate() {
        instances.entry(&reference.instance).or_default().push(place);
    }
    let asked = instances.into_iter().map(|(instance, places)| {
        let opened = open(instance);
        async move {
            let results = match opened {
                Ok(opened) => fetch_from(&opened, references, &places, options).await,
                Err(error) => places.iter().map(|place| Err(about(error.clone(), references.get(*place)))).collect(),
            };
            places.into_iter().zip(results).collect::<Vec<_>>()
        }
    });
    let mut placed: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    placed.sort_unstable_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, result)| result).collect()
}

/// Fetches what stands at `places` from one instance, each whole secret once. One result per place, in order.
async fn fetch_from(
    opened: &Opened,
    references: &[SecretRef],
    places: &[usize],
    options: ResolveOptions<'_>,
) -> Vec<Result<Resolved, ProviderError>> {
    let mut wholes: Vec<SecretRef> = Vec::with_capacity(places.len());
    let mut known: HashMap<SecretRef, usize> = HashMap::with_capacity(places.len());
    let wanted: Vec<(&SecretRef, usize)> = places
        .iter()
        .filter_map(|place| references.get(*place))
        .map(|reference| {
            let whole = reference.whole();
            let at = *known.entry(whole).or_insert_with_key(|whole| {
                wholes.push(whole.clone());
                wholes.len() - 1
            });
            (reference, at)
        })
        .collect();
    let own = Instant::now() + opened.timing.timeout;
    let deadline = options.deadline.map_or(own, |given| given.min(own));
    let fetched = wholes_from(opened, &wholes, deadline, options).await;
    let mut documents: HashMap<usize, Document<'_>> = HashMap::new();
    wanted
        .into_iter()
        .map(|(reference, at)| match fetched.get(at) {
            Some(Ok((whole, credential))) if reference.field.is_empty() || is_lone_field(whole, &reference.field) => {
                Ok(resolved(whole, credential.clone(), Arc::clone(&whole.value)))
            }
            Some(Ok((whole, credential))) => {
                // Opened to find the field; only the field's bytes are copied, into a value of their own.
                let document = documents.entry(at).or_insert_with(|| Document::read(whole.value.expose()));
                match document.pick(&reference.field) {
                    Ok(value) => Ok(resolved(whole, credential.clone(), Arc::new(value))),
                    Err(error) => Err(ProviderError {
                        kind: if error.is_missing() { ErrorKind::NotFound } else { ErrorKind::Malformed },
                        instance: reference.instance.clone(),
                        reference: Some(reference.clone()),
                        cause: error.to_string(),
                        hint: Some(format!("check the `#field` of `{reference}`, or name the whole secret")),
                        retry: Retry::Never,
                    }),
                }
            }
            Some(Err(error)) => Err(about(error.clone(), Some(reference))),
            None => Err(ProviderError {
                kind: ErrorKind::Malformed,
                instance: reference.instance.clone(),
                reference: Some(reference.clone()),
                cause: "the provider gave no answer for it".to_owned(),
                hint: None,
                retry: Retry::Never,
            }),
        })
        .collect()
}

/// Tells whether `field` is the name under which the manager keeps the whole value.
fn is_lone_field(whole: &Fetched, field: &[String]) -> bool {
    whole.lone_field.is_some_and(|lone| matches!(field, [name] if name == lone))
}

fn resolved(whole: &Fetched, credential: Option<Arc<Credential>>, value: SharedValue) -> Resolved {
    Resolved { value, version: whole.version.clone(), fetched_at: whole.fetched_at, stale: whole.stale, credential }
}

/// One whole secret and, where it was issued, the credential that it belongs to.
type Whole = (Fetched, Option<Arc<Credential>>);

/// Fetches what is stored and issues what is not, at the same time. One result per reference, in order.
async fn wholes_from(
    opened: &Opened,
    wholes: &[SecretRef],
    deadline: Instant,
    options: ResolveOptions<'_>,
) -> Vec<Result<Whole, ProviderError>> {
    let ResolveOptions { refresh, offline, run, .. } = options;
    let is_issued = opened.provider.issues(wholes, deadline).await;
    let of = |issued: bool| -> Vec<SecretRef> {
        let chosen = wholes.iter().zip(&is_issued).filter(|(_, is)| **is == issued);
        chosen.map(|(reference, _)| reference.clone()).collect()
    };
    let (stored, ordered) = (of(false), of(true));
    let fetch = async {
        if stored.is_empty() {
            return Vec::new();
        }
        let lease = run.map(|run| run.order.lease);
        opened.provider.fetch(&stored, FetchOptions { deadline, refresh, offline, lease }).await
    };
    let issue = async {
        let refused = |kind, cause: &str, hint: &str| -> Vec<Result<Issued, ProviderError>> {
            let error = |reference: &SecretRef| ProviderError {
                kind,
                hint: Some(hint.to_owned()),
                ..unsupported(reference, cause)
            };
            ordered.iter().map(|reference| Err(error(reference))).collect()
        };
        match run {
            _ if ordered.is_empty() => Vec::new(),
            None => {
                let hint = "give it to a command: broker exec -- CMD";
                refused(ErrorKind::Unsupported, "it is issued for one run, and this is none", hint)
            }
            Some(_) if offline => {
                refused(ErrorKind::Stale, "what is issued is never held", "run it without `--offline`")
            }
            Some(run) => {
                let key = ordered.first().and_then(|reference| run.keys.get(&reference.instance)).cloned();
                let (provider, order) = (Arc::clone(&opened.provider), Order { key, ..run.order.clone() });
                let wanted = ordered.clone();
                // A task of its own: a caller that goes away in between must not leave a credential that nobody knows of.
                let issued = tokio::spawn(async move { provider.issue(&wanted, &order, deadline).await });
                issued.await.unwrap_or_default()
            }
        }
    };
    let (fetched, issued) = join(fetch, issue).await;
    let (mut fetched, mut issued) = (fetched.into_iter(), issued.into_iter());
    let take = |(reference, is_issued): (&SecretRef, bool)| {
        let none = || unsupported(reference, "the provider gave no answer for it");
        if is_issued {
            let Issued { value, lone_field, credential } = issued.next().unwrap_or_else(|| Err(none()))?;
            let whole = Fetched { value, version: None, fetched_at: Instant::now(), stale: false, lone_field };
            Ok((whole, Some(credential)))
        } else {
            Ok((fetched.next().unwrap_or_else(|| Err(none()))?, None))
        }
    };
    wholes.iter().zip(is_issued.iter().copied()).map(take).collect()
}

/// Lets an error speak of the reference as it was written, field included.
fn about(error: ProviderError, reference: Option<&SecretRef>) -> ProviderError {
    ProviderError { reference: reference.cloned().or(error.reference), ..error }
}
