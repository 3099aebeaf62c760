//! The shape of an answer. What is not written here is refused, an unknown key included.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_core::secret::SecretValue;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text that may be a value.
pub(super) struct Text(pub(super) SecretValue);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretValue::from(text)))
    }
}

/// How a program says what went wrong, of one reference or of all.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Named {
    NotFound,
    Denied,
    Unauthenticated,
    Throttled,
    Unavailable,
    Malformed,
    Unsupported,
}

/// Every key of an answer; which of them make sense depends on the operation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer<'a> {
    pub(super) broker: u32,
    pub(super) error: Option<Named>,
    pub(super) cause: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) retry_after: Option<f64>,
    #[serde(borrow)]
    pub(super) results: Option<Vec<&'a RawValue>>,
    pub(super) version: Option<String>,
    pub(super) entries: Option<Vec<Entry>>,
    pub(super) created: Option<u64>,
    pub(super) changed: Option<u64>,
    pub(super) history: Option<Vec<Past>>,
    pub(super) operations: Option<Vec<String>>,
    pub(super) versions: Option<bool>,
    pub(super) stages: Option<Vec<String>>,
}

/// Every key of one result.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) text: Option<Text>,
    pub(super) base64: Option<Text>,
    pub(super) version: Option<String>,
    pub(super) error: Option<Named>,
    pub(super) cause: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) retry_after: Option<f64>,
}

/// The one key that tells where a broken result belongs.
#[derive(Deserialize)]
pub(super) struct IdAlone {
    pub(super) id: String,
}

/// One entry of a listing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) version: Option<String>,
    pub(super) changed: Option<u64>,
}

impl Entry {
    /// Returns when it last changed.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        self.changed.and_then(time)
    }
}

/// One version of a description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Past {
    pub(super) version: String,
    #[serde(default)]
    pub(super) stages: Vec<Standing>,
    pub(super) created: Option<u64>,
    pub(super) usable: Option<bool>,
}

/// A stage, as a program writes it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Standing {
    Current,
    Previous,
    Pending,
}

pub(super) fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
