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

/// Reads `broker.local.toml` beside a manifest whose secrets are `known`: a name that is not among them would leave in
/// what somebody meant to leave out.
///
/// # Errors
/// Every problem of the text, in its order.
pub fn parse_local<'k>(
    file: &str,
    text: &str,
    known: impl Iterator<Item = &'k str>,
) -> Result<Narrowing, Vec<Diagnostic>> {
    let mut reader = Reader::new(file, text);
    let document = reader.document();
    let place = |key: &str| document.get(key).map_or(0..0, toml::Spanned::span);
    let (ttl_at, except_at) = (place("ttl"), place("except"));
    let read = read_table::<LocalFile>(&mut reader, "`broker.local.toml`", 0..0, document);
    let ttl = read.as_ref().and_then(|local| local.ttl.as_deref()).and_then(|text| {
        let ttl = duration::parse(text);
        if ttl.is_none() {
            reader.report(ttl_at, "`ttl` must be a duration such as `15m` or `1h`".into(), None);
        }
        ttl
    });
    let known: Vec<&str> = known.collect();
    for name in read.iter().flat_map(|local| &local.except).filter(|name| !known.contains(&name.as_str())) {
        reader.unknown(except_at.clone(), "secret", name, known.iter().copied());
    }
    reader.finish()?;
    let read = read.map(|local| Narrowing { except: local.except, ttl });
    Ok(read.unwrap_or_default())
}
