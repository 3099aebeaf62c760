//! Secret references: `scheme://path[#field][?version=..|stage=..|OPTION=..]`.
//!
//! A reference names a secret and never holds one, so it prints freely. Parsing decodes percent escapes exactly once
//! and is injective: two references that differ after parsing never name the same stored secret because of an
//! encoding. `Display` writes the canonical form, which parses back to the same reference.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Longest accepted reference, in bytes.
pub const MAX_REFERENCE_LEN: usize = 4096;

const PATH_ESCAPES: &AsciiSet = &CONTROLS.add(b'%').add(b'#').add(b'?').add(b' ');
const FIELD_ESCAPES: &AsciiSet = &PATH_ESCAPES.add(b'.');
const QUERY_ESCAPES: &AsciiSet = &PATH_ESCAPES.add(b'&').add(b'=').add(b'+');

/// Names one secret, or one field of it, at one provider instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef {
    /// The provider instance, which is the scheme: `org`, `aws-sm`, `local`.
    pub instance: String,
    /// The name at the provider, decoded, never empty. A leading slash is part of it.
    pub path: String,
    /// The walk through JSON objects to the wanted field; empty for the whole value.
    pub field: Vec<String>,
    /// Which version of the secret.
    pub version: Version,
    /// What an issued credential shall be like, in the words of its kind: `permissions`, `duration`. Empty for what is stored.
    pub options: BTreeMap<String, String>,
}

/// Says which version of a secret is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The one the provider serves by default.
    #[default]
    Current,
    /// The one before the last rotation.
    Previous,
    /// The one that a rotation is preparing.
    Pending,
    /// The one with this id, in the provider's own words.
    Id(String),
}

/// Why a text is no reference. Never quotes the text, which may be a secret in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is no `scheme://` at all: most likely a literal value.
    #[error("a reference starts with `scheme://`")]
    NoScheme,
    /// The part before `://` is not a lower-case name.
    #[error("the scheme of a reference is a lower-case name of letters, digits and `-`")]
    BadScheme,
    /// Nothing between `://` and the end, `#` or `?`.
    #[error("the reference has no path")]
    EmptyPath,
    /// `#` with nothing behind it, or two dots in a row.
    #[error("the reference has an empty `#field`")]
    EmptyField,
    /// Something other than `version`, `stage` or options of a name and a value, or one of them twice.
    #[error(
        "after `?` stand `version=ID` or `stage=current|previous|pending`, or options `name=value` with `&` between them"
    )]
    BadQuery,
    /// `?` before `#`.
    #[error("`#field` stands before `?`")]
    QueryBeforeField,
    /// A percent escape that is cut off, no UTF-8, or a control character.
    #[error("the reference has a broken percent escape or a control character")]
    BadEncoding,
    /// Longer than [`MAX_REFERENCE_LEN`].
    #[error("the reference is longer than {MAX_REFERENCE_LEN} bytes")]
    TooLong,
}

impl SecretRef {
    /// Returns the same reference without its field: what a provider is asked for.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self { field: Vec::new(), ..self.clone() }
    }

    /// Returns the field as it is written, `a.b`, or `None` for the whole value.
    #[must_use]
    pub fn field_text(&self) -> Option<String> {
        (!self.field.is_empty()).then(|| {
            let parts: Vec<_> = self.field.iter().map(|p| utf8_percent_encode(p, FIELD_ESCAPES).to_string()).collect();
            parts.join(".")
        })
    }
}

/// Tells whether `name` can be the name of a provider instance.
#[must_use]
pub fn is_instance_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl FromStr for SecretRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_REFERENCE_LEN {
            return Err(ReferenceError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(ReferenceError::NoScheme)?;
        if !is_instance_name(scheme) {
            return Err(ReferenceError::BadScheme);
        }
        let (rest, query) = match rest.split_once('?') {
            Some((_, query)) if query.contains('#') => return Err(ReferenceError::QueryBeforeField),
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (path, field) = match rest.split_once('#') {
            Some((path, field)) => (path, Some(field)),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(ReferenceError::EmptyPath);
        }
        let field = match field {
            None => Vec::new(),
            Some(field) => parse_field(field)?,
        };
        let (version, options) = query.map(parse_query).transpose()?.unwrap_or_default();
        Ok(Self { instance: scheme.to_owned(), path: decode(path)?, field, version, options })
    }
}

/// Reads the walk to a field, as it stands behind `#`: `a.b`.
///
/// # Errors
/// [`ReferenceError::EmptyField`] and [`ReferenceError::BadEncoding`].
pub fn parse_field(text: &str) -> Result<Vec<String>, ReferenceError> {
    text.split('.').map(decode_field).collect()
}

fn decode_field(part: &str) -> Result<String, ReferenceError> {
    if part.is_empty() {
        return Err(ReferenceError::EmptyField);
    }
    decode(part)
}

/// Reads what stands behind `?`: at most one version, and each option once.
fn parse_query(query: &str) -> Result<(Version, BTreeMap<String, String>), ReferenceError> {
    let (mut version, mut options) = (None, BTreeMap::new());
    for part in query.split('&') {
        let (name, value) = part
            .split_once('=')
            .filter(|(_, value)| !value.is_empty() && !value.contains('='))
            .ok_or(ReferenceError::BadQuery)?;
        let said = match (name, value) {
            ("stage", "current") => Some(Version::Current),
            ("stage", "previous") => Some(Version::Previous),
            ("stage", "pending") => Some(Version::Pending),
            ("stage", _) => return Err(ReferenceError::BadQuery),
            ("version", id) => Some(Version::Id(decode(id)?)),
            _ => None,
        };
        let is_new = match said {
            Some(said) => version.replace(said).is_none(),
            None if is_option_name(name) => options.insert(name.to_owned(), decode(value)?).is_none(),
            None => false,
        };
        if !is_new {
            return Err(ReferenceError::BadQuery);
        }
    }
    Ok((version.unwrap_or_default(), options))
}

fn is_option_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

/// Decodes once and strictly: `%` must be followed by two hex digits, the result must be UTF-8 without controls.
fn decode(text: &str) -> Result<String, ReferenceError> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        if !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
            return Err(ReferenceError::BadEncoding);
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| ReferenceError::BadEncoding)?;
    if decoded.chars().any(char::is_control) {
        return Err(ReferenceError::BadEncoding);
    }
    Ok(decoded.into_owned())
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.instance, utf8_percent_encode(&self.path, PATH_ESCAPES))?;
        if let Some(field) = self.field_text() {
            write!(f, "#{field}")?;
        }
        let mut mark = '?';
        let mut say = |name: &str, value: &str| {
            let before = std::mem::replace(&mut mark, '&');
            write!(f, "{before}{name}={}", utf8_percent_encode(value, QUERY_ESCAPES))
        };
        match &self.version {
            Version::Current => {}
            Version::Previous => say("stage", "previous")?,
            Version::Pending => say("stage", "pending")?,
            Version::Id(id) => say("version", id)?,
        }
        self.options.iter().try_for_each(|(name, value)| say(name, value))
    }
}

impl TryFrom<String> for SecretRef {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> SecretRef {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_part_is_read() {
        let r = parsed("org://shop/dev/db#url.primary?version=ab-1");
        assert_eq!((r.instance.as_str(), r.path.as_str()), ("org", "shop/dev/db"));
        assert_eq!(r.field, ["url", "primary"]);
        assert_eq!(r.version, Version::Id("ab-1".into()));
    }

    #[test]
    fn a_leading_slash_belongs_to_the_path() {
        assert_ne!(parsed("aws-ssm:///a"), parsed("aws-ssm://a"));
        assert_eq!(parsed("aws-ssm:///a").path, "/a");
    }

    #[test]
    fn an_escaped_dot_is_part_of_a_field_name() {
        assert_eq!(parsed("org://s#a%2Eb.c").field, ["a.b", "c"]);
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(parsed("org://a%2523").path, "a%23");
        assert_eq!(parsed("org://a%23b").path, "a#b");
    }

    #[test]
    fn the_canonical_form_parses_back_to_the_same_reference() {
        for text in [
            "org://a%25b",
            "org://a%23b#c%2Ed.e?stage=previous",
            "x://ä ö?version=1%262",
            "aws-ssm:///a//b/",
            "gh://1?permissions=contents:read,issues:write&repositories=a%26b",
        ] {
            let r = parsed(text);
            assert_eq!(parsed(&r.to_string()), r, "{text} -> {r}");
        }
    }

    #[test]
    fn options_are_read_in_any_order_and_decoded() {
        let one = parsed("gh://42?repositories=shop,api&permissions=contents:read");
        assert_eq!(one, parsed("gh://42?permissions=contents%3Aread&repositories=shop,api"));
        assert_eq!(one.options["repositories"], "shop,api");
        assert_eq!(one.version, Version::Current);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_its_reason() {
        for (text, error) in [
            ("hunter2", ReferenceError::NoScheme),
            ("Org://a", ReferenceError::BadScheme),
            ("://a", ReferenceError::BadScheme),
            ("org://", ReferenceError::EmptyPath),
            ("org://#f", ReferenceError::EmptyPath),
            ("org://a#", ReferenceError::EmptyField),
            ("org://a#b..c", ReferenceError::EmptyField),
            ("org://a?x", ReferenceError::BadQuery),
            ("org://a?x=", ReferenceError::BadQuery),
            ("org://a?X=1", ReferenceError::BadQuery),
            ("org://a?x=1&x=2", ReferenceError::BadQuery),
            ("org://a?x=1=2", ReferenceError::BadQuery),
            ("org://a?version=1&stage=current", ReferenceError::BadQuery),
            ("org://a?stage=old", ReferenceError::BadQuery),
            ("org://a?stage=previous#f", ReferenceError::QueryBeforeField),
            ("org://a%2", ReferenceError::BadEncoding),
            ("org://a%zz", ReferenceError::BadEncoding),
            ("org://a%00", ReferenceError::BadEncoding),
            ("org://a%ff", ReferenceError::BadEncoding),
        ] {
            assert_eq!(text.parse::<SecretRef>(), Err(error), "{text}");
        }
    }
}
