//! The KV engines of Vault and OpenBao: where a secret is, and how one value and a JSON object stand for each other.
//!
//! A secret there is a JSON object. One whose only field is `value` is that text, since so people store one value
//! (`vault kv put secret/x value=...`); one whose only field is `value_base64` is the bytes that it decodes to; every other
//! secret is the JSON text of its object. What is written is written in the first two forms, so that each value comes back
//! as it went. See docs/design on values in Vault.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_core::secret::SecretValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::{Answer, SecretText};

/// The field of a secret that holds one text.
pub(crate) const TEXT: &str = "value";
/// The field of a secret that holds bytes which are no text.
pub(crate) const BYTES: &str = "value_base64";

/// Which KV engine a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Plain,
    Versioned,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// With the slash at its end.
    pub(crate) mount: String,
    pub(crate) engine: Engine,
    /// Below the mount.
    pub(crate) name: String,
}

impl Place {
    /// Returns the path of the value.
    pub(crate) fn data(&self) -> String {
        match self.engine {
            Engine::Plain => format!("{}{}", self.mount, self.name),
            Engine::Versioned => format!("{}data/{}", self.mount, self.name),
        }
    }

    /// Returns the path of what is known besides the value, or of a listing.
    pub(crate) fn metadata(&self) -> String {
        match self.engine {
            Engine::Plain => format!("{}{}", self.mount, self.name),
            Engine::Versioned => format!("{}metadata/{}", self.mount, self.name),
        }
    }
}

/// What is stored, as an answer tells it.
pub(crate) struct Stored<'a> {
    /// The object as the server wrote it; none for a version that was deleted or destroyed.
    pub(crate) object: Option<&'a RawValue>,
    pub(crate) version: Option<Numbered>,
}

/// What is known of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Numbered {
    #[serde(default)]
    pub(crate) version: u64,
    #[serde(default)]
    pub(crate) created_time: String,
    #[serde(default)]
    pub(crate) deletion_time: String,
    #[serde(default)]
    pub(crate) destroyed: bool,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct VersionedData<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Numbered,
}

impl<'a> Stored<'a> {
    /// Reads an answer about one secret.
    pub(crate) fn read(engine: Engine, answer: &'a Answer) -> Result<Self, Fault> {
        match engine {
            Engine::Plain => {
                let whole: Envelope<&RawValue> = answer.json_within()?;
                Ok(Self { object: Some(object(whole.data, answer.status)?), version: None })
            }
            Engine::Versioned => {
                let whole: Envelope<VersionedData<'_>> = answer.json_within()?;
                let stored = whole.data.data.filter(|data| data.get() != "null");
                let object = stored.map(|stored| object(stored, answer.status)).transpose()?;
                Ok(Self { object, version: Some(whole.data.metadata) })
            }
        }
    }
}

/// Checks that it is an object.
fn object(raw: &RawValue, status: u16) -> Result<&RawValue, Fault> {
    if raw.get().starts_with('{') {
        return Ok(raw);
    }
    Err(Fault::new(ErrorKind::Malformed, format!("HTTP {status}, a secret that is no JSON object")))
}

/// The value that an object stands for, and the name of the field where it is one alone.
pub(crate) fn value_of(object: &RawValue) -> (SecretValue, Option<&'static str>) {
    if let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(object.get())
        && fields.len() == 1
    {
        let text = |name: &str| fields.get(name).and_then(|raw| serde_json::from_str::<SecretText>(raw.get()).ok());
        if let Some(SecretText(value)) = text(TEXT) {
            return (value, Some(TEXT));
        }
        // Opened to be decoded; what does not decode is no value of ours.
        if let Some(bytes) = text(BYTES).and_then(|SecretText(encoded)| STANDARD.decode(encoded.expose()).ok()) {
            return (SecretValue::new(bytes), Some(BYTES));
        }
    }
    (SecretValue::new(object.get().as_bytes().to_vec()), None)
}

/// An object that stands for a value.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Object<'a> {
    Text {
        value: &'a str,
    },
    Bytes {
        value_base64: String,
    },
    /// What was stored before, as it was.
    Again(&'a RawValue),
}

impl<'a> Object<'a> {
    pub(crate) fn of(value: &'a SecretValue) -> Self {
        // Opened to be sent to the manager.
        match std::str::from_utf8(value.expose()) {
            Ok(value) => Self::Text { value },
            Err(_) => Self::Bytes { value_base64: STANDARD.encode(value.expose()) },
        }
    }
}

/// The body of a write to an engine of version 2.
#[derive(Serialize)]
pub(crate) struct Write<'a> {
    pub(crate) data: &'a Object<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<Options>,
}

/// The version that must be current for a write to happen.
#[derive(Serialize)]
pub(crate) struct Options {
    pub(crate) cas: u64,
}

/// What an engine of version 2 knows of a secret besides its values.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) current_version: u64,
    #[serde(default)]
    pub(crate) created_time: String,
    #[serde(default)]
    pub(crate) updated_time: String,
    #[serde(default)]
    pub(crate) custom_metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) versions: BTreeMap<u64, Numbered>,
}

impl Metadata {
    pub(crate) fn read(answer: &Answer) -> Result<Self, Fault> {
        answer.json::<Envelope<Self>>().map(|whole| whole.data)
    }
}

/// Reads the version that a write made.
pub(crate) fn written(answer: &Answer) -> Result<u64, Fault> {
    answer.json::<Envelope<Numbered>>().map(|whole| whole.data.version)
}

/// Reads the names of a listing.
pub(crate) fn keys(answer: &Answer) -> Result<Vec<String>, Fault> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<String>,
    }
    answer.json::<Envelope<Keys>>().map(|whole| whole.data.keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> (Vec<u8>, Option<&'static str>) {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        let (value, field) = value_of(raw);
        (value.expose().to_vec(), field)
    }

    #[test]
    fn a_lone_value_is_the_text_and_everything_else_the_object_as_it_stands() {
        assert_eq!(value(r#"{"value":"a\n\u003c"}"#), (b"a\n<".to_vec(), Some("value")));
        assert_eq!(value(r#"{"value_base64":"/wA="}"#), (vec![0xff, 0], Some("value_base64")));
        for whole in [
            r#"{}"#,
            r#"{"value":5}"#,
            r#"{"value":null}"#,
            r#"{"value_base64":"no base64!"}"#,
            r#"{"value":"a","other":"b"}"#,
            r#"{"password":"a", "n": 1.10}"#,
        ] {
            assert_eq!(value(whole), (whole.as_bytes().to_vec(), None), "{whole}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_whatever_it_is() {
        for bytes in [b"".as_slice(), b"x", b"\xff\xfe", b"{\"value\":\"x\"}", b"\0", "\u{2028}<".as_bytes(), b"null"] {
            let secret = SecretValue::new(bytes.to_vec());
            let json = serde_json::to_string(&Object::of(&secret)).unwrap();
            assert_eq!(value(&json).0, bytes, "{json}");
        }
    }
}
