//! The manifest as it is written: the shapes that serde reads and that the JSON Schema is made from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::instance::InstanceSettings;

/// `broker.toml`
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "the sections are read one entry at a time; this is their schema")]
pub(super) struct ManifestFile {
    /// What this project is called and which profile it uses by default.
    project: ProjectTable,
    /// Provider instances; the name of each is the scheme of its references.
    providers: Option<BTreeMap<String, InstanceSettings>>,
    /// Environment variables that hold secrets: a reference, or a table with one.
    secrets: Option<BTreeMap<String, SecretShape>>,
    /// Environment variables that are no secret.
    settings: Option<BTreeMap<String, String>>,
    /// Named selections of the secrets.
    profiles: Option<BTreeMap<String, ProfileTable>>,
}

/// The sections of a manifest.
pub(super) const SECTIONS: [&str; 5] = ["project", "providers", "secrets", "settings", "profiles"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ProjectTable {
    /// The project's name, as policy, leases and the audit show it.
    pub(super) name: String,
    /// The profile that is used when none is named.
    pub(super) default_profile: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "which of the two it is, is seen from the document; this is their schema")]
pub(super) enum SecretShape {
    /// A reference: `scheme://path[#field][?version=ID]`.
    Reference(String),
    /// A reference with more to say about it.
    Table(SecretTable),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SecretTable {
    /// The reference: `scheme://path[#field][?version=ID]`.
    #[serde(rename = "ref")]
    pub(super) reference: String,
    /// Whether the command may not run without it (default `true`).
    pub(super) required: Option<bool>,
    /// What it is for, for people.
    pub(super) description: Option<String>,
    /// How it reaches the child (default `env`).
    pub(super) deliver: Option<Deliver>,
    /// The variables to fill, where it is several: each with the field that it gets, `name` or `a.b`.
    pub(super) variables: Option<BTreeMap<String, String>>,
    /// How the embedded store makes the value on first use: `hex:N`, `base64:N`, `alnum:N` or `uuid`.
    pub(super) generate: Option<String>,
}

/// How a value reaches the child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Deliver {
    /// As environment variables.
    #[default]
    Env,
    /// Served by the daemon to this command alone, fresh for as long as it runs: for credentials of a cloud that end before
    /// the command does.
    Endpoint,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ProfileTable {
    /// The profile whose secrets this one has too.
    pub(super) extends: Option<String>,
    /// The names of the secrets that it selects.
    #[serde(default)]
    pub(super) secrets: Vec<String>,
    /// How long a grant lasts at most: `15m`, `1h`.
    pub(super) ttl: Option<String>,
    /// What it is for, for people.
    pub(super) description: Option<String>,
}

/// Returns the JSON Schema of `broker.toml` (draft 2020-12).
#[must_use]
pub fn schema() -> serde_json::Value {
    titled(schemars::schema_for!(ManifestFile), "broker.toml")
}

/// Returns the JSON Schema of the shape `T` under `title`.
#[must_use]
pub fn user_config_schema<T: JsonSchema>(title: &str) -> serde_json::Value {
    titled(schemars::schema_for!(T), title)
}

fn titled(mut schema: schemars::Schema, title: &str) -> serde_json::Value {
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}
