//! How an answer is read, whole and result by result, and what of a program's words is passed on.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_core::secret::SecretValue;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::exec::protocol::shape::{Answer, Entry, IdAlone, Item, Named, Past, Standing, Text, time};
use crate::exec::protocol::{Problem, VERSION};
use crate::provider::{Described, DescribedVersion, ErrorKind, Retry, Stage};
use crate::words::{MAX_CHARS, safe};

/// Longest pause that a program can ask for.
const MAX_PAUSE: f64 = 3600.0;
/// Longest id of a version, in bytes.
const MAX_VERSION: usize = 512;
/// Shortest value that is looked for in a cause, in bytes: a shorter one is found everywhere.
const SHORTEST: usize = 4;

/// What a program says that it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    operations: Vec<String>,
    /// References may name a version id.
    pub(crate) versions: bool,
    stages: Vec<String>,
}

impl Abilities {
    /// Tells whether it knows `operation`.
    pub(crate) fn can(&self, operation: &str) -> bool {
        self.operations.iter().any(|known| known == operation)
    }

    /// Tells whether references may name `stage`.
    pub(crate) fn knows(&self, stage: &str) -> bool {
        self.stages.iter().any(|known| known == stage)
    }
}

/// One result of `fetch`.
pub(crate) struct Found {
    /// The bytes.
    pub(crate) value: SecretValue,
    /// The id of the version that was served.
    pub(crate) version: Option<String>,
}

/// Reads the answer to `capabilities`.
pub(crate) fn abilities(answer: &[u8]) -> Result<Abilities, Problem> {
    let answer = read(answer)?;
    let operations = answer.operations.ok_or_else(|| Problem::malformed("its answer names no `operations`"))?;
    Ok(Abilities {
        operations,
        versions: answer.versions.unwrap_or_default(),
        stages: answer.stages.unwrap_or_default(),
    })
}

/// Reads the answer to `put`, given the value that was sent: the id of the new version.
pub(crate) fn stored(answer: &[u8], sent: &SecretValue) -> Result<Option<String>, Problem> {
    let answer = read(answer).map_err(|problem| without(&problem, &[as_shown(sent)]))?;
    checked_version(answer.version)
}

/// Reads the answer to `delete`.
pub(crate) fn done(answer: &[u8]) -> Result<(), Problem> {
    read(answer).map(drop)
}

/// Reads the answer to `list`.
pub(crate) fn entries(answer: &[u8]) -> Result<Vec<Entry>, Problem> {
    let entries = read(answer)?.entries.ok_or_else(|| Problem::malformed("its answer has no `entries`"))?;
    if entries.iter().any(|entry| entry.path.is_empty() || entry.path.chars().any(char::is_control)) {
        return Err(Problem::malformed("an entry of its listing has a path that no reference can name"));
    }
    entries.into_iter().map(|entry| Ok(Entry { version: checked_version(entry.version)?, ..entry })).collect()
}

/// Reads the answer to `describe`.
pub(crate) fn described(answer: &[u8]) -> Result<Described, Problem> {
    let answer = read(answer)?;
    let version = |past: Past| {
        let stages = past.stages.into_iter().map(|stage| match stage {
            Standing::Current => Stage::Current,
            Standing::Previous => Stage::Previous,
            Standing::Pending => Stage::Pending,
        });
        let (stages, created, usable) = (stages.collect(), past.created.and_then(time), past.usable.unwrap_or(true));
        let id = checked_version(Some(past.version))?.unwrap_or_default();
        Ok(DescribedVersion { id, stages, created, usable })
    };
    Ok(Described {
        versions: answer.history.unwrap_or_default().into_iter().map(version).collect::<Result<_, _>>()?,
        created: answer.created.and_then(time),
        changed: answer.changed.and_then(time),
        tags: Vec::new(),
    })
}

/// Reads the answer to `fetch` about `count` references: one result for each, in order.
pub(crate) fn results(answer: &[u8], count: usize) -> Vec<Result<Found, Problem>> {
    let mut places = match placed(answer, count) {
        Ok(places) => places,
        Err(problem) => return (0..count).map(|_| Err(problem.clone())).collect(),
    };
    let missing = || Err(Problem::malformed("the program gave no result for it"));
    let mut all: Vec<_> = (0..count).map(|place| places.remove(&place).unwrap_or_else(missing)).collect();
    let values: Vec<_> = all.iter().flatten().map(|found| as_shown(&found.value)).collect();
    let cleaned: Vec<_> = all.iter().map(|result| result.as_ref().err().map(|error| without(error, &values))).collect();
    for (result, problem) in all.iter_mut().zip(cleaned) {
        if let Some(problem) = problem {
            *result = Err(problem);
        }
    }
    all
}

/// Finds the result of every place. A problem of the whole is the error.
fn placed(answer: &[u8], count: usize) -> Result<HashMap<usize, Result<Found, Problem>>, Problem> {
    let raw = read(answer)?.results.ok_or_else(|| Problem::malformed("its answer has no `results`"))?;
    let mut places = HashMap::with_capacity(count);
    for text in raw {
        let text = text.get().as_bytes();
        let item = parse::<Item>(text);
        let id = match &item {
            Ok(item) => Some(item.id.clone()),
            Err(_) => parse::<IdAlone>(text).ok().map(|alone| alone.id),
        };
        // Whose result it was meant to be shows in who has none.
        let Some(id) = id else { continue };
        let place = id.parse::<usize>().ok().filter(|place| *place < count && place.to_string() == id);
        let place = place.ok_or_else(|| Problem::malformed("the program answered for what it was not asked"))?;
        let result = item.and_then(found);
        let twice = || Problem::malformed("the program gave two results for it");
        places.entry(place).and_modify(|held| *held = Err(twice())).or_insert(result);
    }
    Ok(places)
}

/// Makes sense of one result.
fn found(item: Item) -> Result<Found, Problem> {
    let Item { id: _, text, base64, version, error, cause, hint, retry_after } = item;
    let value = match (text, base64, error) {
        (None, None, Some(named)) => return Err(said(named, cause, hint, retry_after)),
        (Some(Text(text)), None, None) => text,
        (None, Some(Text(encoded)), None) => decoded(&encoded)?,
        (None, None, None) => return Err(Problem::malformed("its result holds neither `text`, `base64` nor `error`")),
        _ => return Err(Problem::malformed("its result holds more than one of `text`, `base64`, `error`")),
    };
    if cause.is_some() || hint.is_some() || retry_after.is_some() {
        return Err(Problem::malformed("its result has a `cause`, a `hint` or a `retry_after` without an `error`"));
    }
    Ok(Found { value, version: checked_version(version)? })
}

fn decoded(encoded: &SecretValue) -> Result<SecretValue, Problem> {
    // Opened to be decoded. The base64 program wraps its lines, and a line break there means nothing.
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(encoded.expose().iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect());
    STANDARD.decode(&*text).map(SecretValue::new).map_err(|_| Problem::malformed("its `base64` is no base64"))
}

/// Reads the frame of an answer. A failure of the whole is an error.
fn read(answer: &[u8]) -> Result<Answer<'_>, Problem> {
    let read: Answer<'_> = match serde_json::from_slice(answer) {
        Ok(read) => read,
        Err(_) if answer.iter().all(u8::is_ascii_whitespace) => {
            return Err(Problem::malformed("the program ended well and answered nothing"));
        }
        Err(error) => return Err(unreadable("its answer", &error)),
    };
    if read.broker != VERSION {
        return Err(Problem::new(
            ErrorKind::Unsupported,
            format!("the program speaks version {} of the exchange, this is version {VERSION}", read.broker),
        ));
    }
    match read.error {
        Some(named) => Err(said(named, read.cause, read.hint, read.retry_after)),
        None => Ok(read),
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(text).map_err(|error| unreadable("its result", &error))
}

/// Says where a text makes no sense. The parser's own words are not used: they quote the text.
fn unreadable(what: &str, error: &serde_json::Error) -> Problem {
    let why = match error.classify() {
        serde_json::error::Category::Eof => "ends too early",
        serde_json::error::Category::Data => "is not as documented",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is no JSON",
    };
    Problem::malformed(format!("{what} {why}, at line {}, column {}", error.line(), error.column()))
}

/// Returns what the program says went wrong.
fn said(named: Named, cause: Option<String>, hint: Option<String>, retry_after: Option<f64>) -> Problem {
    let kind = match named {
        Named::NotFound => ErrorKind::NotFound,
        Named::Denied => ErrorKind::Denied,
        Named::Unauthenticated => ErrorKind::Unauthenticated,
        Named::Throttled => ErrorKind::Throttled,
        Named::Unavailable => ErrorKind::Unavailable,
        Named::Malformed => ErrorKind::Malformed,
        Named::Unsupported => ErrorKind::Unsupported,
    };
    let problem = Problem::new(kind, safe(&cause.unwrap_or_default()));
    let pause = retry_after.filter(|seconds| (0.0..=MAX_PAUSE).contains(seconds)).map(Duration::from_secs_f64);
    let retry = match (problem.retry, pause) {
        (Retry::After(_), Some(pause)) => Retry::After(pause),
        (retry, _) => retry,
    };
    Problem { hint: hint.map(|hint| safe(&hint)), retry, ..problem }
}

/// Returns how a value would look in a program's words.
fn as_shown(value: &SecretValue) -> Zeroizing<String> {
    // Opened to be looked for where it must not stand. Words are cut, so its beginning is enough.
    let bytes = value.expose();
    let start = bytes.get(..MAX_CHARS * 4).unwrap_or(bytes);
    let mut shown = safe(&String::from_utf8_lossy(start));
    shown.truncate(shown.trim_end_matches('…').len());
    Zeroizing::new(shown)
}

/// Returns `problem` without its words, if one of the values, as they are shown, stands in them.
fn without(problem: &Problem, values: &[Zeroizing<String>]) -> Problem {
    let holds = |words: &str| values.iter().any(|value| value.len() >= SHORTEST && words.contains(value.as_str()));
    if holds(&problem.cause) || problem.hint.as_deref().is_some_and(holds) {
        let cause = "the program's words hold a value and are not shown".to_owned();
        return Problem { cause, hint: None, ..problem.clone() };
    }
    problem.clone()
}

fn checked_version(version: Option<String>) -> Result<Option<String>, Problem> {
    match version {
        Some(id) if id.is_empty() || id.len() > MAX_VERSION || id.chars().any(char::is_control) => {
            Err(Problem::malformed("the id of a version is empty, too long or has a control character"))
        }
        version => Ok(version),
    }
}
