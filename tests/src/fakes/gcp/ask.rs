//! What requests say: filters, bodies, etags, maps of strings.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::answer::Problem;
use crate::http::Message;

/// Fields of a secret that the real service knows and this one doesn't.
const UNSPOKEN: &[&str] = &[
    "topics",
    "rotation",
    "expireTime",
    "ttl",
    "tags",
    "versionDestroyTtl",
    "customerManagedEncryption",
    "secretType",
];

/// A filter: terms that all have to hold. `name:TEXT`, `labels.KEY=VALUE`, `labels.KEY:*`, `state:WORD` or `state=WORD`.
pub(super) struct Filter(Vec<(String, String)>);

impl Filter {
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        let words = text.split_whitespace().filter(|word| *word != "AND");
        let term = |word: &str| {
            let at = word.find([':', '='])?;
            let (field, value) = (&word[..at], word[at + 1..].trim_matches('"'));
            let known = ["name", "state"].contains(&field) || field.starts_with("labels.");
            (known && !value.is_empty()).then(|| (field.to_owned(), value.to_owned()))
        };
        let terms: Option<Vec<_>> = words.map(term).collect();
        terms.map(Self).ok_or_else(|| Problem::invalid("The filter is not understood."))
    }

    pub(super) fn takes(&self, name: &str, labels: Option<&BTreeMap<String, String>>, state: Option<&str>) -> bool {
        self.0.iter().all(|(field, value)| match field.strip_prefix("labels.") {
            Some(key) => labels.and_then(|labels| labels.get(key)).is_some_and(|held| value == "*" || held == value),
            // `:` looks for the text anywhere, whatever its case.
            None if field == "name" => name.to_ascii_lowercase().contains(&value.to_ascii_lowercase()),
            None => state.is_some_and(|state| state.eq_ignore_ascii_case(value)),
        })
    }
}

/// Returns the fields of a JSON body, all of which are known.
pub(super) fn body(request: &Message, known: &[&str]) -> Result<Map<String, Value>, Problem> {
    let body = match request.body_json() {
        Value::Object(fields) => fields,
        _ if request.body.is_empty() => Map::new(),
        _ => return Err(Problem::invalid("Invalid JSON payload received. Parsing terminated before end of input.")),
    };
    match body.keys().find(|field| !known.contains(&field.as_str())) {
        None => Ok(body),
        Some(field) if UNSPOKEN.contains(&field.as_str()) => Err(Problem::unimplemented()),
        Some(field) => {
            let words = format!("Invalid JSON payload received. Unknown name \"{field}\": Cannot find field.");
            Err(Problem::invalid(words))
        }
    }
}

pub(super) fn check_etag(given: Option<&str>, held: &str) -> Result<(), Problem> {
    match given.filter(|given| !given.is_empty()) {
        Some(given) if given != held => {
            Err(Problem::precondition("The etag provided does not match the current etag."))
        }
        _ => Ok(()),
    }
}

pub(super) fn strings(map: Option<&Value>) -> Result<BTreeMap<String, String>, Problem> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let text = |value: &Value| value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|n| n.to_string()));
    let entry = |(key, value): (&String, &Value)| Some((key.clone(), text(value)?));
    entries.map(entry).collect::<Option<_>>().ok_or_else(|| Problem::invalid("Invalid value (TYPE_STRING)"))
}

pub(super) fn aliases(said: &BTreeMap<String, String>, versions: usize) -> Result<BTreeMap<String, u64>, Problem> {
    let one = |(alias, to): (&String, &String)| {
        let to: u64 = to.parse().ok().filter(|to| (1..=versions as u64).contains(to))?;
        let fits = alias.starts_with(|c: char| c.is_ascii_alphabetic())
            && alias.len() <= 63
            && alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !["latest", "NEW"].contains(&alias.as_str());
        fits.then(|| (alias.clone(), to))
    };
    said.iter().map(one).collect::<Option<_>>().ok_or_else(|| Problem::invalid("An alias is not valid."))
}
