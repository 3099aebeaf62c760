//! The KV engine, versions 1 and 2.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::duration::{seconds, time};
use super::message::{Operation, Outcome, Refusal, Reply, Request};
use super::world::{Engine, World};

/// How many versions are kept unless somebody says otherwise.
const DEFAULT_VERSIONS: u64 = 10;

#[derive(Default)]
pub(super) struct Versioned {
    secrets: BTreeMap<String, Secret>,
    max_versions: u64,
    cas_required: bool,
}

#[derive(Default)]
struct Secret {
    versions: BTreeMap<u64, Version>,
    current: u64,
    created: u64,
    updated: u64,
    custom: Option<Map<String, Value>>,
    max_versions: u64,
    cas_required: bool,
    /// How long after its creation a version is deleted; 0 is never.
    delete_after: u64,
}

struct Version {
    data: Option<Map<String, Value>>,
    created: u64,
    /// When it is, or was, deleted.
    deleted: Option<u64>,
    is_destroyed: bool,
}

impl Versioned {
    /// Tells whether a write of `path` is an update.
    pub(super) fn exists(&self, path: &str) -> bool {
        match path.split_once('/') {
            Some(("data", name)) => self.secrets.get(name).is_some_and(|secret| {
                secret.versions.get(&secret.current).is_some_and(|v| v.deleted.is_none() && !v.is_destroyed)
            }),
            Some(("metadata", name)) => self.secrets.contains_key(name),
            _ => true,
        }
    }
}

impl Version {
    fn is_gone(&self, now: u64) -> bool {
        self.is_destroyed || self.deleted.is_some_and(|deleted| deleted <= now)
    }

    fn described(&self, number: u64, custom: Option<&Map<String, Value>>) -> Value {
        json!({
            "version": number, "created_time": time(self.created), "destroyed": self.is_destroyed,
            "deletion_time": self.deleted.map(time).unwrap_or_default(), "custom_metadata": custom,
        })
    }
}

/// Serves an engine of version 1.
pub(super) fn plain(secrets: &mut BTreeMap<String, Map<String, Value>>, request: &Request, path: &str) -> Outcome {
    match request.operation {
        Operation::Read => {
            let data = secrets.get(path).ok_or_else(Refusal::nothing)?;
            let lease = super::message::Leased { id: String::new(), duration: 2_764_800, renewable: false };
            Ok(Reply { lease: Some(lease), ..Reply::data(json!(data)) })
        }
        Operation::List => Reply::keys(children(secrets.keys(), path)),
        Operation::Write if path.is_empty() => Err(Refusal::unsupported()),
        Operation::Write if request.body.is_empty() => Err(Refusal::new(400, "missing data fields")),
        Operation::Write => {
            secrets.insert(path.to_owned(), request.body.clone());
            Ok(Reply::empty())
        }
        Operation::Delete => {
            secrets.remove(path);
            Ok(Reply::empty())
        }
        Operation::Patch => Err(Refusal::unsupported()),
    }
}

/// Returns the names directly below a folder, folders with a slash at their end.
fn children<'a>(names: impl Iterator<Item = &'a String>, folder: &str) -> BTreeSet<String> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let below = names.filter_map(|name| name.strip_prefix(&prefix));
    below.map(|rest| rest.split_inclusive('/').next().unwrap_or(rest).to_owned()).collect()
}

impl World {
    /// Serves an engine of version 2.
    pub(super) fn versioned_request(&mut self, request: &Request, mount: &str, path: &str) -> Outcome {
        let now = self.now();
        let Some(Engine::Versioned(engine)) =
            self.space(&request.namespace).mounts.get_mut(mount).map(|m| &mut m.engine)
        else {
            return Err(Refusal::nothing());
        };
        let (section, name) = path.split_once('/').unwrap_or((path, ""));
        match (section, request.operation) {
            ("config", Operation::Read) => {
                Ok(Reply::data(json!({ "cas_required": engine.cas_required, "max_versions": engine.max_versions,
                    "delete_version_after": "0s" })))
            }
            ("config", Operation::Write) => {
                engine.cas_required = request.truth("cas_required").unwrap_or(engine.cas_required);
                engine.max_versions = seconds(request.body.get("max_versions")).unwrap_or(engine.max_versions);
                Ok(Reply::empty())
            }
            ("metadata", Operation::List) => Reply::keys(children(engine.secrets.keys(), name)),
            ("data" | "metadata" | "delete" | "undelete" | "destroy", _) if name.is_empty() => {
                Err(Refusal::unsupported())
            }
            ("data", Operation::Read) => engine.read(name, request, now),
            ("data", Operation::Write) => engine.write(name, request, now),
            ("data", Operation::Patch) => engine.patch(name, request, now),
            ("data", Operation::Delete) => {
                let current = engine.secrets.get(name).map_or(0, |secret| secret.current);
                engine.each(name, &[current], |version| {
                    version.deleted.get_or_insert(now);
                })
            }
            ("delete", Operation::Write) => engine.each(name, &versions(request)?, |version| {
                version.deleted.get_or_insert(now);
            }),
            ("undelete", Operation::Write) => engine.each(name, &versions(request)?, |version| {
                if !version.is_destroyed {
                    version.deleted = None;
                }
            }),
            ("destroy", Operation::Write) => engine.each(name, &versions(request)?, |version| {
                (version.data, version.is_destroyed) = (None, true);
            }),
            ("metadata", Operation::Read) => engine.describe(name),
            ("metadata", Operation::Write) => engine.configure(name, request, now),
            ("metadata", Operation::Delete) => {
                engine.secrets.remove(name);
                Ok(Reply::empty())
            }
            ("data" | "metadata" | "delete" | "undelete" | "destroy", _) => Err(Refusal::unsupported()),
            _ => Err(Refusal::new(
                404,
                "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use.",
            )),
        }
    }
}

fn versions(request: &Request) -> Result<Vec<u64>, Refusal> {
    let given = request.body.get("versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let given: Vec<u64> =
        given.iter().filter_map(|v| v.as_u64().or_else(|| v.as_str().and_then(|v| v.parse().ok()))).collect();
    if given.is_empty() { Err(Refusal::new(400, "No version number provided")) } else { Ok(given) }
}

impl Versioned {
    fn each(&mut self, name: &str, numbers: &[u64], change: impl Fn(&mut Version)) -> Outcome {
        if let Some(secret) = self.secrets.get_mut(name) {
            secret.versions.iter_mut().filter(|(number, _)| numbers.contains(number)).for_each(|(_, v)| change(v));
        }
        Ok(Reply::empty())
    }

    fn read(&self, name: &str, request: &Request, now: u64) -> Outcome {
        let secret = self.secrets.get(name).ok_or_else(Refusal::nothing)?;
        let wanted = request.text("version").unwrap_or_else(|| "0".to_owned());
        let wanted: u64 = wanted
            .parse()
            .map_err(|_| Refusal::new(400, "Field validation failed: error converting input for field \"version\""))?;
        let number = if wanted == 0 { secret.current } else { wanted };
        let version = secret.versions.get(&number).ok_or_else(Refusal::nothing)?;
        let metadata = version.described(number, secret.custom.as_ref());
        if version.is_gone(now) {
            return Ok(Reply { status: 404, ..Reply::data(json!({ "data": null, "metadata": metadata })) });
        }
        Ok(Reply::data(json!({ "data": version.data, "metadata": metadata })))
    }

    fn write(&mut self, name: &str, request: &Request, now: u64) -> Outcome {
        let Some(data) = request.body.get("data").and_then(Value::as_object).cloned() else {
            return Err(Refusal::new(400, "no data provided"));
        };
        let (max, required) = (self.max_versions, self.cas_required);
        let known = self.secrets.get(name);
        let cas = request.body.get("options").and_then(|options| options.get("cas"));
        match cas.map(|cas| cas.as_u64().or_else(|| cas.as_str().and_then(|cas| cas.parse().ok()))) {
            None if required || known.is_some_and(|secret| secret.cas_required) => {
                return Err(Refusal::new(400, "check-and-set parameter required for this call"));
            }
            Some(cas) if cas != Some(known.map_or(0, |secret| secret.current)) => {
                return Err(Refusal::new(400, "check-and-set parameter did not match the current version"));
            }
            _ => {}
        }
        let secret =
            self.secrets.entry(name.to_owned()).or_insert_with(|| Secret { created: now, ..Secret::default() });
        secret.add(data, now, max)
    }

    fn patch(&mut self, name: &str, request: &Request, now: u64) -> Outcome {
        let max = self.max_versions;
        let secret = self.secrets.get_mut(name).ok_or_else(Refusal::nothing)?;
        let current = secret.versions.get(&secret.current).filter(|version| !version.is_gone(now));
        let mut data = current.and_then(|version| version.data.clone()).ok_or_else(Refusal::nothing)?;
        let cas = request.body.get("options").and_then(|options| options.get("cas")).and_then(Value::as_u64);
        if cas.is_some_and(|cas| cas != secret.current) {
            return Err(Refusal::new(400, "check-and-set parameter did not match the current version"));
        }
        for (field, value) in request.body.get("data").and_then(Value::as_object).into_iter().flatten() {
            if value.is_null() {
                data.remove(field)
            } else {
                data.insert(field.clone(), value.clone())
            };
        }
        secret.add(data, now, max)
    }

    fn describe(&self, name: &str) -> Outcome {
        let secret = self.secrets.get(name).ok_or_else(Refusal::nothing)?;
        let versions: Map<String, Value> = secret
            .versions
            .iter()
            .map(|(number, version)| {
                let mut described = version.described(*number, None);
                if let Some(fields) = described.as_object_mut() {
                    fields.remove("version");
                    fields.remove("custom_metadata");
                }
                (number.to_string(), described)
            })
            .collect();
        Ok(Reply::data(json!({
            "cas_required": secret.cas_required, "created_time": time(secret.created),
            "current_version": secret.current, "custom_metadata": secret.custom,
            "delete_version_after": format!("{}s", secret.delete_after), "max_versions": secret.max_versions,
            "oldest_version": secret.versions.keys().next().filter(|_| secret.versions.len() < secret.current as usize)
                .copied().unwrap_or(0),
            "updated_time": time(secret.updated), "versions": versions,
        })))
    }

    fn configure(&mut self, name: &str, request: &Request, now: u64) -> Outcome {
        let fresh = || Secret { created: now, updated: now, ..Secret::default() };
        let secret = self.secrets.entry(name.to_owned()).or_insert_with(fresh);
        secret.cas_required = request.truth("cas_required").unwrap_or(secret.cas_required);
        secret.max_versions = seconds(request.body.get("max_versions")).unwrap_or(secret.max_versions);
        secret.delete_after = seconds(request.body.get("delete_version_after")).unwrap_or(secret.delete_after);
        if let Some(custom) = request.body.get("custom_metadata") {
            secret.custom = custom.as_object().cloned();
        }
        Ok(Reply::empty())
    }
}

impl Secret {
    fn add(&mut self, data: Map<String, Value>, now: u64, engine_max: u64) -> Outcome {
        self.current += 1;
        self.updated = now;
        let deleted = (self.delete_after > 0).then(|| now + self.delete_after);
        let version = Version { data: Some(data), created: now, deleted, is_destroyed: false };
        let described = version.described(self.current, self.custom.as_ref());
        self.versions.insert(self.current, version);
        let max = [self.max_versions, engine_max].into_iter().find(|max| *max > 0).unwrap_or(DEFAULT_VERSIONS);
        let oldest = (self.current + 1).saturating_sub(max);
        self.versions.retain(|number, _| *number >= oldest);
        Ok(Reply::data(described))
    }
}
