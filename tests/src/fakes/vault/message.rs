//! What a request asks for and what is answered, in the API's own envelope.

use serde_json::{Map, Value, json};

use super::world::World;
use crate::http::Message;

/// What a request wants to do with its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    List,
    /// `create` or `update`, which depends on what is there.
    Write,
    Patch,
    Delete,
}

/// A request, its path decoded and relative to its namespace.
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) namespace: String,
    pub(super) path: String,
    /// The parameters: of the query and of the body.
    pub(super) body: Map<String, Value>,
    pub(super) token: Option<String>,
    pub(super) wrap_ttl: Option<u64>,
}

impl Request {
    /// Returns a parameter that is text; a number counts as its digits.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.body.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// Returns a parameter that is a list, or text with commas.
    pub(super) fn words(&self, name: &str) -> Vec<String> {
        words(self.body.get(name))
    }

    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        match self.body.get(name)? {
            Value::Bool(truth) => Some(*truth),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Reads a list of words, or text with commas.
pub(super) fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect(),
        Some(Value::String(text)) => {
            text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
        }
        _ => Vec::new(),
    }
}

/// A lease on what is answered.
pub(super) struct Leased {
    pub(super) id: String,
    pub(super) duration: u64,
    pub(super) renewable: bool,
}

/// An answer that is no error.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) data: Option<Value>,
    pub(super) auth: Option<Value>,
    pub(super) lease: Option<Leased>,
    pub(super) wrap_info: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// The whole body, for the few answers that come without the envelope.
    pub(super) bare: Option<Value>,
}

/// An error: a status and words.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) u16, pub(super) Vec<String>);

pub(super) type Outcome = Result<Reply, Refusal>;

impl Reply {
    pub(super) fn data(data: Value) -> Self {
        Self { status: 200, data: Some(data), ..Self::default() }
    }

    pub(super) fn bare(status: u16, body: Value) -> Self {
        Self { status, bare: Some(body), ..Self::default() }
    }

    pub(super) fn empty() -> Self {
        Self { status: 204, ..Self::default() }
    }

    pub(super) fn keys(keys: impl IntoIterator<Item = String>) -> Outcome {
        let keys: Vec<String> = keys.into_iter().collect();
        // An empty listing is no listing.
        if keys.is_empty() { Err(Refusal::nothing()) } else { Ok(Self::data(json!({ "keys": keys }))) }
    }

    fn body(self) -> Value {
        if let Some(body) = self.bare {
            return body;
        }
        let lease = self.lease.unwrap_or(Leased { id: String::new(), duration: 0, renewable: false });
        let warnings = if self.warnings.is_empty() { Value::Null } else { json!(self.warnings) };
        json!({
            "request_id": World::uuid(), "lease_id": lease.id, "renewable": lease.renewable,
            "lease_duration": lease.duration, "data": self.data, "wrap_info": self.wrap_info, "warnings": warnings,
            "auth": self.auth, "mount_type": "",
        })
    }
}

impl Refusal {
    pub(super) fn new(status: u16, words: impl Into<String>) -> Self {
        Self(status, vec![words.into()])
    }

    /// There is nothing at this path.
    pub(super) fn nothing() -> Self {
        Self(404, Vec::new())
    }

    pub(super) fn denied() -> Self {
        Self::new(403, "1 error occurred:\n\t* permission denied\n\n")
    }

    pub(super) fn invalid_token() -> Self {
        Self::new(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
    }

    pub(super) fn unsupported() -> Self {
        Self::new(405, "1 error occurred:\n\t* unsupported operation\n\n")
    }
}

/// Writes an outcome as HTTP.
pub(super) fn written(outcome: Outcome) -> Message {
    let (status, body) = match outcome {
        Ok(reply) if reply.status == 204 => return Message::empty(204),
        Ok(reply) => (reply.status, reply.body()),
        Err(Refusal(status, errors)) => (status, json!({ "errors": errors })),
    };
    let mut message = Message::json(status, &body);
    message.body = escaped(&body.to_string()).into_bytes();
    message.headers.push(("cache-control".to_owned(), "no-store".to_owned()));
    if status == 429 {
        message.headers.push(("retry-after".to_owned(), "1".to_owned()));
    }
    message
}

/// Escapes what Go's JSON escapes: these characters stand only inside of strings.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            c => text.push(c),
        }
    }
    text
}
