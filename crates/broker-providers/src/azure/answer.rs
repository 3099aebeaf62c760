//! What a Key Vault's answer means: its errors in our own few kinds, and one secret as it tells of it.
//!
//! The inner code decides, then the code, then the HTTP status. Sources: "Azure Key Vault REST API error codes"; the pages
//! `Get Secret`, `Get Secrets` and `Set Secret` of the Key Vault REST reference, version 7.4.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_core::secret::SecretValue;
use serde::Deserialize;

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::{Answer, SecretText};

/// What was asked for: the same status means different things for a read and for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    // Both spellings are seen.
    #[serde(default, alias = "innerError")]
    innererror: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    code: String,
}

/// Returns what a failed request means.
pub(crate) fn fault_of(answer: &Answer, action: Action) -> Fault {
    let Ok(ErrorAnswer { error }) = answer.json::<ErrorAnswer>() else { return answer.fault() };
    let inner = error.innererror.map(|inner| inner.code).unwrap_or_default();
    let code = if inner.is_empty() { error.code } else { inner };
    if code.is_empty() {
        return answer.fault();
    }
    let kind = kind_of(&code, answer.status, action);
    // What Azure says of a value that it does not take might repeat a part of it.
    let message = if action == Action::Write && answer.status == 400 { String::new() } else { error.message };
    Fault { retry_after: answer.retry_after(), ..Fault::coded(kind, &code, without_links(&message)) }
}

fn kind_of(code: &str, status: u16, action: Action) -> ErrorKind {
    match code {
        "SecretNotFound" | "ObjectIsDeletedButRecoverable" => ErrorKind::NotFound,
        "ObjectIsBeingDeleted" | "ObjectIsBeingRecovered" => ErrorKind::Unavailable,
        "Throttled" => ErrorKind::Throttled,
        _ => match status {
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::Denied,
            404 => ErrorKind::NotFound,
            429 => ErrorKind::Throttled,
            500.. => ErrorKind::Unavailable,
            _ if action == Action::Write => ErrorKind::Unsupported,
            _ => ErrorKind::Malformed,
        },
    }
}

/// Leaves out what stands at the end of Azure's sentences for a browser.
fn without_links(message: &str) -> &str {
    message.split(" For help resolving this issue").next().unwrap_or_default()
}

/// One version of a secret, as a vault tells of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Item {
    id: String,
    #[serde(default)]
    pub(crate) attributes: Attributes,
    #[serde(default)]
    pub(crate) tags: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "contentType")]
    pub(crate) content_type: Option<String>,
}

/// The same with its value. Not flattened: a buffer in between would hold the value.
#[derive(Debug, Deserialize)]
pub(crate) struct Bundle {
    id: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    value: SecretText,
}

impl Bundle {
    /// Takes the value and what is said of it apart.
    pub(crate) fn into_parts(self) -> (Item, SecretValue) {
        let Self { id, attributes, tags, value: SecretText(value) } = self;
        (Item { id, attributes, tags, content_type: None }, value)
    }
}

/// One page of a listing.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    // A page without this field is no page.
    pub(crate) value: Option<Vec<Item>>,
    #[serde(default, rename = "nextLink")]
    pub(crate) next: Option<String>,
}

/// What is said of a version besides its value. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Attributes {
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) nbf: Option<u64>,
    #[serde(default)]
    pub(crate) exp: Option<u64>,
    #[serde(default)]
    pub(crate) created: Option<u64>,
    #[serde(default)]
    pub(crate) updated: Option<u64>,
}

impl Item {
    /// Returns the name, in lower case: Azure does not tell cases apart.
    pub(crate) fn name(&self) -> Option<String> {
        self.part(0).map(str::to_ascii_lowercase)
    }

    /// Returns the version's id.
    pub(crate) fn version(&self) -> Option<&str> {
        self.part(1).filter(|id| is_version_id(id))
    }

    /// Returns a part of `https://VAULT/secrets/NAME/VERSION`, counted from the name.
    fn part(&self, at: usize) -> Option<&str> {
        let (_, path) = self.id.split_once("://")?.1.split_once("/secrets/")?;
        path.split('/').nth(at).filter(|part| !part.is_empty())
    }
}

impl Attributes {
    /// Tells whether its value can be had, and is meant to be used at `now`.
    pub(crate) fn is_usable(&self, now: SystemTime) -> bool {
        self.enabled != Some(false) && self.lapse(now).is_none()
    }

    /// Returns which of its times, and when, keeps it from being used at `now`.
    pub(crate) fn lapse(&self, now: SystemTime) -> Option<(Lapse, u64)> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expired = self.exp.filter(|exp| *exp <= now).map(|exp| (Lapse::Expired, exp));
        expired.or_else(|| self.nbf.filter(|nbf| *nbf > now).map(|nbf| (Lapse::NotYet, nbf)))
    }
}

/// Why a version is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
}

/// Tells whether `id` can be the id of a version: 32 hex digits.
pub(crate) fn is_version_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Returns the time of so many seconds since 1970.
pub(crate) fn time(seconds: Option<u64>) -> Option<SystemTime> {
    seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
}

/// Returns the manager's own time, where it says it: a laptop's clock may be wrong.
pub(crate) fn now_at(answer: &Answer) -> SystemTime {
    let date = answer.headers.get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
    date.map_or_else(SystemTime::now, SystemTime::from)
}
