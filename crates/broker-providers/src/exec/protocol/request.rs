//! What a program is asked: one JSON object on one line.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::exec::protocol::{Problem, VERSION};
use crate::provider::ErrorKind;

/// What is asked.
#[derive(Serialize)]
struct Request<'a> {
    broker: u32,
    operation: &'static str,
    /// How much time is left.
    seconds: f64,
    #[serde(flatten)]
    task: Task<'a>,
}

/// The part of a request that belongs to its operation.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Task<'a> {
    /// `capabilities`
    None {},
    /// `fetch`
    Many { references: Vec<Asked<'a>> },
    /// `delete` and `describe`
    One { path: &'a str },
    /// `put`
    Put {
        path: &'a str,
        /// Base64, so that every value survives every tool.
        value: &'a str,
    },
    /// `list`
    List { prefix: &'a str },
}

/// One reference of a request.
#[derive(Serialize)]
pub(crate) struct Asked<'a> {
    id: String,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
}

impl<'a> Asked<'a> {
    /// Returns the question for the reference at `place`.
    pub(crate) fn new(place: usize, reference: &'a SecretRef) -> Self {
        let (version, stage) = match &reference.version {
            Version::Current => (None, None),
            Version::Previous => (None, Some("previous")),
            Version::Pending => (None, Some("pending")),
            Version::Id(id) => (Some(id.as_str()), None),
        };
        Self { id: place.to_string(), path: &reference.path, version, stage }
    }
}

/// Writes a request; `seconds` are left for it.
pub(crate) fn request(operation: &'static str, left: Duration, task: Task<'_>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Zeroizing::new(Vec::new());
    let seconds = (left.as_secs_f64() * 1000.0).floor() / 1000.0;
    let request = Request { broker: VERSION, operation, seconds, task };
    serde_json::to_writer(&mut *bytes, &request)
        .map_err(|_| Problem::new(ErrorKind::Unsupported, "the request cannot be written as JSON"))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Encodes a value for [`Task::Put`].
pub(crate) fn encoded(value: &SecretValue) -> Zeroizing<String> {
    // Opened to be handed to the program, on its standard input.
    Zeroizing::new(STANDARD.encode(value.expose()))
}
