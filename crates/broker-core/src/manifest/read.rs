//! Reads tables of a TOML document and collects every problem instead of stopping at the first.
//!
//! Serde stops at the first fault of a table and quotes values in its messages. So a table is read field by field: an
//! unknown key is reported with its nearest neighbour, a value of the wrong type in words taken from the JSON Schema of
//! the same shape, and both are taken out before serde sees the rest. No message holds a value.

use std::any::TypeId;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::diagnostic::Diagnostic;
use crate::suggest::nearest;

/// The text being read and the problems found so far.
pub struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    problems: Vec<(usize, Diagnostic)>,
    left_out: usize,
    schemas: HashMap<TypeId, Rc<serde_json::Value>>,
}

/// Longest accepted line, in bytes.
const MAX_LINE: usize = 16 << 10;

/// Deepest accepted nesting of `[` and `{`.
const MAX_DEPTH: usize = 32;

/// Most names among which the nearest to an unknown one is looked for.
const MAX_CANDIDATES: usize = 500;

/// More problems than a person would read; the rest is counted, so that a hostile text costs no more than a bad one.
const MAX_PROBLEMS: usize = 100;

impl<'t> Reader<'t> {
    /// Starts on `text`, which is called `file` in diagnostics.
    #[must_use]
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, problems: Vec::new(), left_out: 0, schemas: HashMap::new() }
    }

    /// Parses the document, reporting every syntax error, and returns what could be read.
    ///
    /// A text that nobody wrote by hand is refused before it is parsed: the parser's time grows faster than deep nesting
    /// and long lines do.
    pub fn document(&mut self) -> DeTable<'t> {
        if let Some((at, what)) = unreasonable(self.text) {
            self.report(at..at, what.to_owned(), None);
            return DeTable::new();
        }
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.report(
                error.span().unwrap_or_default(),
                format!("malformed TOML: {}", syntax_words(error.message())),
                None,
            );
        }
        table.into_inner()
    }

    /// Reports a problem at `span`.
    pub fn report(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        let at = span.start;
        self.problems.push((at, Diagnostic::at(self.file, self.text, span, message, hint)));
    }

    /// Reports a name that is not among `known`, with the nearest of them.
    pub fn unknown<'k>(
        &mut self,
        span: Range<usize>,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        let known: Vec<_> = known.into_iter().take(MAX_CANDIDATES).collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if known.is_empty() => None,
            None if known.len() <= 12 => Some(format!("known are {}", quoted(&known))),
            None => None,
        };
        self.report(span, format!("unknown {what} {}", printable(name)), hint);
    }

    /// Returns the problems in the order of the text.
    ///
    /// # Errors
    /// All of them, if there are any.
    pub fn finish(mut self) -> Result<(), Vec<Diagnostic>> {
        self.problems.sort_by_key(|(at, _)| *at);
        let mut problems: Vec<_> = self.problems.into_iter().map(|(_, d)| d).collect();
        if let Some(last) = problems.last_mut().filter(|_| self.left_out > 0) {
            last.hint = Some(format!("and {} more problems like these", self.left_out));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Tells whether further problems are only counted: no work is worth doing for them.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    fn schema_of<T: JsonSchema + 'static>(&mut self) -> Rc<serde_json::Value> {
        let schema = self.schemas.entry(TypeId::of::<T>());
        schema.or_insert_with(|| Rc::new(schemars::schema_for!(T).to_value())).clone()
    }

    /// Tells whether a problem was found.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }
}

/// Returns where and why a text is not worth parsing.
fn unreasonable(text: &str) -> Option<(usize, &'static str)> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if line.len() > MAX_LINE {
            return Some((start, "the line is longer than 16 KiB"));
        }
        start += line.len();
    }
    // Brackets are counted wherever they stand, in strings too: no sound file has so many open at once.
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some((at, "brackets are nested too deep"));
        }
    }
    None
}

/// Lists names in backticks, separated by commas.
fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the name in backticks when it has the shape of a name, else a stand-in: it may be a pasted secret.
pub(super) fn printable(name: &str) -> String {
    let shape = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if shape { format!("`{name}`") } else { "(a quoted name)".to_owned() }
}

/// Keeps the parser's words up to what could be a quotation of the text.
fn syntax_words(message: &str) -> &str {
    let words = message.split(['`', '"', '\'', '\n']).next().unwrap_or_default();
    words.trim_end().trim_end_matches("expected").trim_end_matches([' ', ',', ':'])
}

/// Takes the sub-table `name` out of `table`; reports it when it is no table.
pub(super) fn section<'t>(reader: &mut Reader<'_>, table: &mut DeTable<'t>, name: &str) -> Option<DeTable<'t>> {
    let value = table.remove(name)?;
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Some(table),
        _ => {
            reader.report(span, format!("`{name}` must be a table: write `[{name}]` above its entries"), None);
            None
        }
    }
}

/// Reads one table as `T`, reporting every unknown key and every value of the wrong type.
///
/// `what` names the table in messages, `span` is where it stands. Returns `None` when anything was wrong.
pub fn read_table<T>(reader: &mut Reader<'_>, what: &str, span: Range<usize>, mut table: DeTable<'_>) -> Option<T>
where
    T: DeserializeOwned + JsonSchema + 'static,
{
    let schema = reader.schema_of::<T>();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let mut sound = true;

    let unknown: Vec<_> = table.keys().filter(|k| !properties.contains_key(k.get_ref().as_ref())).cloned().collect();
    for key in unknown {
        reader.unknown(key.span(), "key", key.get_ref(), properties.keys().map(String::as_str));
        table.remove(&key);
        sound = false;
    }
    loop {
        let whole = Spanned::new(span.clone(), DeValue::Table(table.clone()));
        let error = match T::deserialize(ValueDeserializer::from(whole)) {
            Ok(read) => return sound.then_some(read),
            Err(error) => error,
        };
        let missing = schema["required"].as_array().into_iter().flatten().filter_map(|k| k.as_str());
        let missing: Vec<_> = missing.filter(|k| !table.contains_key(*k)).collect();
        let at = error.span().unwrap_or(span.clone());
        let culprit = table.iter().find(|(_, v)| v.span().start <= at.start && at.end <= v.span().end);
        match culprit.map(|(key, value)| (key.clone(), value.span())) {
            Some((key, value)) => {
                let name = key.get_ref().as_ref();
                let expected = expected(&properties[name], &schema);
                reader.report(value, format!("`{name}` of {what} must be {expected}"), None);
                table.remove(&key);
                sound = false;
                if schema["required"].as_array().is_some_and(|r| r.iter().any(|k| k == name)) {
                    return None;
                }
            }
            None if missing.is_empty() => {
                reader.report(span, format!("{what} cannot be read"), None);
                return None;
            }
            None => {
                let names: Vec<_> = missing;
                reader.report(span, format!("{what} lacks {}", quoted(&names)), None);
                return None;
            }
        }
    }
}

/// Says in words what the schema of a property wants.
fn expected(property: &serde_json::Value, root: &serde_json::Value) -> String {
    let kind = match &property["type"] {
        serde_json::Value::String(kind) => kind.as_str(),
        serde_json::Value::Array(kinds) => kinds.iter().filter_map(|k| k.as_str()).find(|k| *k != "null").unwrap_or(""),
        _ => "",
    };
    match kind {
        "string" => "a string".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "integer" => "a whole number".to_owned(),
        "array" => "a list of strings".to_owned(),
        _ if property.to_string().contains("Words") => "a string or a list of strings".to_owned(),
        _ => {
            // An enumeration behind `$ref`: name its words.
            let definitions = &root["$defs"];
            let target =
                property["$ref"].as_str().or_else(|| property["anyOf"][0]["$ref"].as_str()).unwrap_or_default();
            let definition = &definitions[target.rsplit('/').next().unwrap_or_default()];
            let words = definition["oneOf"].as_array().into_iter().flatten().filter_map(|v| v["const"].as_str());
            let words: Vec<_> =
                words.chain(definition["enum"].as_array().into_iter().flatten().filter_map(|v| v.as_str())).collect();
            if words.is_empty() { "of another type".to_owned() } else { format!("one of {}", quoted(&words)) }
        }
    }
}
