//! `broker.local.toml`, a developer's own file beside the manifest: it may only take away.
//!
//! It can leave secrets out and shorten grants. There is no key that could add anything (choosing another profile could),
//! so it needs no trust of its own.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::read::{Reader, read_table};
use crate::diagnostic::Diagnostic;
use crate::duration;

/// What is taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// Names that no run here gets.
    pub except: Vec<String>,
    /// The longest life of a grant.
    pub ttl: Option<Duration>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LocalFile {
    /// Names that no run here gets.
    #[serde(default)]
    except: Vec<String>,
    /// The longest life of a grant.
    ttl: Option<String>,
}

/// Reads `broker.local.toml`.
///
/// # Errors
/// Every problem of the text, in its order.
pub fn parse_local(file: &str, text: &str) -> Result<Narrowing, Vec<Diagnostic>> {
    let mut reader = Reader::new(file, text);
    let document = reader.document();
    let read = read_table::<LocalFile>(&mut reader, "`broker.local.toml`", 0..0, document);
    let ttl = read.as_ref().and_then(|local| local.ttl.as_deref()).and_then(|text| {
        let ttl = duration::parse(text);
        if ttl.is_none() {
            reader.report(0..0, "`ttl` must be a duration such as `15m` or `1h`".into(), None);
        }
        ttl
    });
    reader.finish()?;
    let read = read.map(|local| Narrowing { except: local.except, ttl });
    Ok(read.unwrap_or_default())
}
