//! `#field`: one field of a value that is a JSON object.
//!
//! A string field is its decoded text. A number, `true` and `false` are their exact source text, so `1.10` stays `1.10`
//! and a number of forty digits keeps them all; a nested object or array is its exact source text too. `null` is an
//! error and never the text `null`. A name that stands twice in one object is an error: parsers disagree about which one
//! counts, and a secret is the wrong place for a coin toss. No error quotes the document.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use broker_core::secret::SecretValue;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a field cannot be had. The path is the field as far as the trouble, `a.b`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    /// The value is no JSON object at all.
    #[error("the value is no JSON object, so it has no field `{path}`")]
    NotJson {
        /// The wanted field.
        path: String,
    },
    /// An object lacks the name.
    #[error("its value has no field `{path}`")]
    Missing {
        /// The walk up to the missing name.
        path: String,
    },
    /// The walk goes on, the document does not.
    #[error("field `{path}` of its value is no JSON object")]
    NotAnObject {
        /// The walk up to the end.
        path: String,
    },
    /// The field is `null`.
    #[error("field `{path}` of its value is `null`")]
    Null {
        /// The wanted field.
        path: String,
    },
    /// The name stands twice.
    #[error("its value has two fields `{path}`")]
    Twice {
        /// The walk up to the ambiguous name.
        path: String,
    },
    /// A string with an escape that is no character.
    #[error("field `{path}` of its value is no valid text")]
    NotText {
        /// The wanted field.
        path: String,
    },
}

impl FieldError {
    /// Tells whether the document makes sense and merely lacks the field.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NotAnObject { .. } | Self::Null { .. })
    }
}

/// One value, its top level read once, however many fields are picked.
pub(crate) struct Document<'a>(Option<Object<'a>>);

impl<'a> Document<'a> {
    /// Reads the top level of `bytes`. What is no JSON object has no fields, which [`Document::pick`] says.
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        Self(serde_json::from_slice(bytes).ok())
    }

    /// Returns the field at the end of the walk `field`.
    ///
    /// # Errors
    /// See [`FieldError`].
    pub(crate) fn pick(&self, field: &[String]) -> Result<SecretValue, FieldError> {
        let path = |steps: usize| field.get(..steps).unwrap_or(field).join(".");
        let top = self.0.as_ref().ok_or_else(|| FieldError::NotJson { path: path(field.len()) })?;
        let (first, rest) = field.split_first().ok_or_else(|| FieldError::Missing { path: String::new() })?;
        let mut found = top.named(first, || path(1))?;
        for (at, name) in rest.iter().enumerate() {
            let inner: Object<'_> =
                serde_json::from_str(found.get()).map_err(|_| FieldError::NotAnObject { path: path(at + 1) })?;
            found = inner.named(name, || path(at + 2))?;
        }
        text_of(found).ok_or_else(|| match found.get() {
            "null" => FieldError::Null { path: path(field.len()) },
            _ => FieldError::NotText { path: path(field.len()) },
        })
    }
}

/// Returns what a field means as bytes; nothing for `null` and for a string that does not decode.
fn text_of(raw: &RawValue) -> Option<SecretValue> {
    let source = raw.get();
    match source.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(source).ok().map(SecretValue::from),
        b'n' => None,
        _ => Some(SecretValue::from(source.to_owned())),
    }
}

/// One JSON object: each name with its source, or nothing where it stands twice.
struct Object<'a>(HashMap<Cow<'a, str>, Option<&'a RawValue>>);

impl<'a> Object<'a> {
    fn named(&self, name: &str, path: impl Fn() -> String) -> Result<&'a RawValue, FieldError> {
        match self.0.get(name) {
            Some(Some(raw)) => Ok(raw),
            Some(None) => Err(FieldError::Twice { path: path() }),
            None => Err(FieldError::Missing { path: path() }),
        }
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = HashMap::new();
                while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    match names.entry(name) {
                        Entry::Vacant(free) => {
                            free.insert(Some(raw));
                        }
                        Entry::Occupied(mut twice) => {
                            twice.insert(None);
                        }
                    }
                }
                Ok(Object(names))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// A name of an object, borrowed where it holds no escape. (`Cow` alone would always copy.)
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(document: &str, field: &str) -> Result<String, FieldError> {
        let steps: Vec<_> = field.split('.').map(|step| step.replace("%2E", ".")).collect();
        let value = Document::read(document.as_bytes()).pick(&steps)?;
        Ok(String::from_utf8(value.expose().to_vec()).unwrap())
    }

    #[test]
    fn a_string_is_its_text_and_everything_else_its_exact_source() {
        let document = r#" {"s":"a\n\"\u00e4$", "n": 1.10, "big":123456789012345678901234567890, "e":1E5, "t":true,
            "o": {"x" : [1, 2.50] }, "empty":"", "a.b":"dot", "\u0061c": "escaped name"} "#;
        for (field, text) in [
            ("s", "a\n\"ä$"),
            ("n", "1.10"),
            ("big", "123456789012345678901234567890"),
            ("e", "1E5"),
            ("t", "true"),
            ("o", r#"{"x" : [1, 2.50] }"#),
            ("o.x", "[1, 2.50]"),
            ("empty", ""),
            ("a%2Eb", "dot"),
            ("ac", "escaped name"),
        ] {
            assert_eq!(pick(document, field).as_deref(), Ok(text), "{field}");
        }
    }

    #[test]
    fn null_is_an_error_and_never_the_text_null() {
        assert_eq!(pick(r#"{"a":{"b":null}}"#, "a.b"), Err(FieldError::Null { path: "a.b".into() }));
        assert_eq!(pick(r#"{"a":"null"}"#, "a").as_deref(), Ok("null"));
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_where_it_is_walked() {
        let document = r#"{"a":"1","a":"2","b":{"c":1,"c":1},"d":"fine"}"#;
        assert_eq!(pick(document, "a"), Err(FieldError::Twice { path: "a".into() }));
        assert_eq!(pick(document, "b.c"), Err(FieldError::Twice { path: "b.c".into() }));
        assert_eq!(pick(document, "d").as_deref(), Ok("fine"));
    }

    #[test]
    fn errors_name_the_field_and_never_quote_the_document() {
        let canary = "canary-4711";
        for document in [
            format!(r#"{{"a":"{canary}","{canary}":1}}"#),
            canary.to_owned(),
            format!("\"{canary}\""),
            format!("[\"{canary}\"]"),
            format!(r#"{{"a":"{canary}""#),
            format!(r#"{{"x":"\ud800{canary}"}}"#),
            "\u{feff}{}".to_owned(),
            String::new(),
        ] {
            for field in ["b", "a.b", "x"] {
                let error = pick(&document, field).unwrap_err().to_string();
                assert!(
                    error.contains(&format!("`{}`", field.split('.').next().unwrap())) || error.contains(field),
                    "{error}"
                );
                assert!(!error.contains(canary), "{error}");
            }
        }
    }

    #[test]
    fn a_document_that_is_no_utf8_is_no_json() {
        let error = Document::read(b"{\"a\":\"\xff\"}").pick(&["a".into()]).err();
        assert_eq!(error, Some(FieldError::NotJson { path: "a".into() }));
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_hangs() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = pick(&deep, "a");
        let objects = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
        assert!(pick(&objects, "a.a.a").is_ok());
    }
}
