//! From the text of a manifest to a [`Manifest`] whose every reference, name and duration is known to be good.
//!
//! All problems of a file are reported together, each with its place. A string where a reference belongs that is none
//! is taken for a literal secret: it is refused and not printed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use super::file::Deliver;
use super::file::{ProfileTable, ProjectTable, SECTIONS, SecretTable};
use super::literal::looks_secret;
use super::read::{Reader, printable, read_table, section};
use crate::diagnostic::Diagnostic;
use crate::duration;
use crate::generate::Generate;
use crate::instance::InstanceSettings;
use crate::reference::{ReferenceError, SecretRef, is_instance_name};
use crate::reserved::{is_reserved, is_variable_name};
use crate::suggest::nearest;

/// Largest accepted manifest.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// A manifest without problems.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The project.
    pub project: Project,
    /// Its own provider instances, by name.
    pub providers: BTreeMap<String, InstanceSettings>,
    /// Its secrets, by the name of the variable.
    pub secrets: BTreeMap<String, Secret>,
    /// Its plain settings, by the name of the variable.
    pub settings: BTreeMap<String, String>,
    /// Its profiles, by name.
    pub profiles: BTreeMap<String, Profile>,
}

/// What a project is called.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// The profile used when none is named.
    pub default_profile: Option<String>,
}

/// One secret of a manifest.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Where its value is.
    pub reference: SecretRef,
    /// The variables that it fills, ordered, each with the field that it gets. Mostly one: its own name.
    pub variables: Vec<(String, Vec<String>)>,
    /// How it reaches the child.
    pub deliver: Deliver,
    /// Whether nothing runs without it.
    pub required: bool,
    /// What it is for.
    pub description: Option<String>,
    /// How the embedded store makes it on first use.
    pub generate: Option<Generate>,
}

/// One profile of a manifest.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The profile it builds on.
    pub extends: Option<String>,
    /// The names it selects itself.
    pub secrets: Vec<String>,
    /// How long a grant lasts at most.
    pub ttl: Option<Duration>,
    /// What it is for.
    pub description: Option<String>,
}

/// One kind of provider, as far as a manifest is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownKind<'a> {
    /// Its name.
    pub name: &'a str,
    /// The keys of an instance that it understands, besides `kind`.
    pub keys: &'a [&'a str],
    /// Keys without which an instance serves nobody.
    pub needs: &'a [&'a str],
    /// Keys whose value is one of a few words, and these words.
    pub words: &'a [(&'a str, &'a [&'a str])],
    /// Whether a manifest may configure an instance of it.
    pub in_manifest: bool,
    /// What its references may say behind `?`, besides a version.
    pub options: &'a [&'a str],
    /// The variables that a whole reference of it fills, each with the field that it gets; empty for the one of its name.
    pub variables: &'a [(&'a str, &'a str)],
    /// Whether the daemon can serve it as an endpoint.
    pub endpoint: bool,
}

impl KnownKind<'_> {
    /// Returns what is wrong with the settings of an instance of this kind: the key, what is wrong, and a way out.
    #[must_use]
    pub fn problems(&self, settings: &InstanceSettings) -> Vec<(&'static str, String, Option<String>)> {
        let mut problems = Vec::new();
        let said = settings.keys();
        for key in said.iter().filter(|key| !self.keys.contains(key)) {
            let hint = format!("keys of this kind are {}", self.keys.join(", "));
            problems.push((*key, format!("kind `{}` has no key `{key}`", self.name), Some(hint)));
        }
        for key in self.needs.iter().filter(|key| !said.contains(key)) {
            problems.push(("kind", format!("an instance of kind `{}` needs `{key}`", self.name), None));
        }
        for (key, words) in self.words {
            let said = settings.said().into_iter().find(|(name, _)| name == key);
            if let Some((_, word)) = said.filter(|(_, word)| !words.contains(&word.as_str())) {
                let known = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
                let hint = match nearest(&word, words.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it is one of {known}"),
                };
                let place = settings.keys().into_iter().find(|name| name == key).unwrap_or("kind");
                problems.push((place, format!("`{key}` of kind `{}` is one of {known}", self.name), Some(hint)));
            }
        }
        problems
    }
}

/// Reads a manifest. `file` is its name in diagnostics; `known` are the instances that exist without it (the default
/// ones and those of the user's and the machine's configuration) with their kinds, `kinds` the kinds of provider.
///
/// # Errors
/// Every problem of the text, in its order.
pub fn parse(
    file: &str,
    text: &str,
    known: &[(&str, &str)],
    kinds: &[KnownKind<'_>],
) -> Result<Manifest, Vec<Diagnostic>> {
    let mut reader = Reader::new(file, text);
    if text.len() > MAX_MANIFEST_BYTES {
        reader.report(0..0, format!("the manifest is larger than {MAX_MANIFEST_BYTES} bytes"), None);
        return Err(reader.finish().err().unwrap_or_default());
    }
    let mut document = reader.document();
    if reader.has_problems() {
        // What a broken document seems to say is guesswork; its other problems are told once it parses.
        return Err(reader.finish().err().unwrap_or_default());
    }
    let (project, default_span) = project(&mut reader, &mut document);
    let manifest = Manifest {
        project,
        providers: providers(&mut reader, &mut document, known, kinds),
        secrets: BTreeMap::new(),
        settings: settings(&mut reader, &mut document),
        profiles: BTreeMap::new(),
    };
    let kind = |name: &str| kinds.iter().find(|kind| kind.name == name).copied().unwrap_or_default();
    let own = manifest.providers.iter().map(|(name, settings)| (name.as_str(), kind(&settings.kind)));
    let instances: Vec<_> = known.iter().map(|(name, of)| (*name, kind(of))).chain(own).collect();
    let (secrets, names) = secrets(&mut reader, &mut document, &instances);
    check_variables(&mut reader, &secrets, &manifest.settings, &names);
    for name in manifest.settings.keys().filter(|name| names.contains_key(*name)) {
        reader.report(
            names[name].clone(),
            format!("`{name}` is both a secret and a setting"),
            Some("keep one of the two".into()),
        );
    }
    let profiles = profiles(
        &mut reader,
        &mut document,
        &names,
        manifest.project.default_profile.as_deref().map(|name| (name, default_span)),
    );
    for key in document.keys() {
        reader.unknown(key.span(), "section", key.get_ref(), SECTIONS);
    }
    reader.finish()?;
    Ok(Manifest { secrets, profiles, ..manifest })
}

fn project(reader: &mut Reader<'_>, document: &mut DeTable<'_>) -> (Project, Range<usize>) {
    let span = document.get("project").map_or(0..0, Spanned::span);
    let Some(table) = section(reader, document, "project") else {
        reader.report(
            span.clone(),
            "the manifest has no `[project]`".into(),
            Some("begin it with `[project]` and `name = \"...\"`".into()),
        );
        return (Project::default(), span);
    };
    let default_span = table.get("default-profile").map_or(span.clone(), Spanned::span);
    let name_span = table.get("name").map_or(span.clone(), Spanned::span);
    let Some(read) = read_table::<ProjectTable>(reader, "`[project]`", span.clone(), table) else {
        return (Project::default(), span);
    };
    if read.name.is_empty()
        || read.name.len() > 64
        || !read.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        reader.report(name_span, "`name` must be 1 to 64 letters, digits, `-`, `_` or `.`".into(), None);
    }
    (Project { name: read.name, default_profile: read.default_profile }, default_span)
}

fn providers(
    reader: &mut Reader<'_>,
    document: &mut DeTable<'_>,
    known: &[(&str, &str)],
    kinds: &[KnownKind<'_>],
) -> BTreeMap<String, InstanceSettings> {
    let mut all = BTreeMap::new();
    for (key, value) in section(reader, document, "providers").unwrap_or_default() {
        let name = key.get_ref().to_string();
        let span = value.span();
        if !is_instance_name(&name) {
            let hint = "use lower-case letters, digits and `-`: it is the scheme of references".to_owned();
            reader.report(key.span(), format!("{} cannot name a provider instance", printable(&name)), Some(hint));
            continue;
        }
        let what = format!("`[providers.{name}]`");
        let DeValue::Table(table) = value.into_inner() else {
            reader.report(span, format!("{what} must be a table"), None);
            continue;
        };
        if known.iter().any(|(known, _)| *known == name) && table.contains_key("kind") {
            let hint = "give the instance another name, or leave the table out to use the one that exists".to_owned();
            reader.report(key.span(), format!("`{name}` is a reserved or already configured instance"), Some(hint));
        }
        let spans: BTreeMap<_, _> = table.iter().map(|(k, v)| (k.get_ref().to_string(), v.span())).collect();
        let place = |key: &str| spans.get(key).cloned().unwrap_or(span.clone());
        let Some(instance) = read_table::<InstanceSettings>(reader, &what, key.span(), table) else {
            all.insert(name, InstanceSettings::default());
            continue;
        };
        match kinds.iter().find(|kind| kind.name == instance.kind) {
            None => {
                let names = kinds.iter().filter(|kind| kind.in_manifest).map(|kind| kind.name);
                reader.unknown(place("kind"), "kind of provider", &instance.kind, names);
            }
            Some(kind) if !kind.in_manifest => {
                let hint = "put the instance into `config.toml`, and use it here by its name".to_owned();
                let what = format!("an instance of kind `{}` cannot stand in a manifest", kind.name);
                reader.report(place("kind"), what, Some(hint));
            }
            Some(kind) => {
                for (key, problem, hint) in kind.problems(&instance) {
                    reader.report(place(key), problem, hint);
                }
            }
        }
        for error in [instance.timing().err(), instance.check_addresses().err()].into_iter().flatten() {
            reader.report(place(error.key()), error.to_string(), None);
        }
        all.insert(name, instance);
    }
    all
}

fn settings(reader: &mut Reader<'_>, document: &mut DeTable<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (key, value) in section(reader, document, "settings").unwrap_or_default() {
        let name = key.get_ref().to_string();
        check_variable(reader, &key);
        let span = value.span();
        match value.into_inner() {
            DeValue::String(text) if looks_secret(&name, &text) => {
                let hint = format!(
                    "store it with `broker secret set`, and list it under `[secrets]` as `{name} = \"SCHEME://PATH\"`"
                );
                reader.report(span, format!("the setting {} looks like a secret", printable(&name)), Some(hint));
            }
            DeValue::String(text) if text.contains('\0') => {
                reader.report(span, format!("the setting {} contains a NUL", printable(&name)), None);
            }
            DeValue::String(text) => {
                all.insert(name, text.into_owned());
            }
            _ => reader.report(span, format!("the setting {} must be a string in quotes", printable(&name)), None),
        }
    }
    all
}

fn check_variable(reader: &mut Reader<'_>, key: &Spanned<toml::de::DeString<'_>>) {
    let name = key.get_ref();
    if !is_variable_name(name) {
        reader.report(key.span(), format!("{} cannot name an environment variable", printable(name)), None);
    } else if is_reserved(name) {
        let hint = "a manifest never sets variables that change what a program loads or runs; set it in the command"
            .to_owned();
        reader.report(key.span(), format!("{} is reserved", printable(name)), Some(hint));
    }
}

type Names = BTreeMap<String, Range<usize>>;

/// An instance that references can name, and its kind.
type Known<'k> = (&'k str, KnownKind<'k>);

fn secrets(
    reader: &mut Reader<'_>,
    document: &mut DeTable<'_>,
    instances: &[Known<'_>],
) -> (BTreeMap<String, Secret>, Names) {
    let mut all = BTreeMap::new();
    let mut names = Names::new();
    for (key, value) in section(reader, document, "secrets").unwrap_or_default() {
        let name = key.get_ref().to_string();
        check_variable(reader, &key);
        names.insert(name.clone(), key.span());
        let span = value.span();
        let secret = match value.into_inner() {
            DeValue::String(text) => reference(reader, &name, &text, span, instances).map(|(reference, kind)| Secret {
                variables: filled(&name, &reference, &kind),
                reference,
                deliver: Deliver::Env,
                required: true,
                description: None,
                generate: None,
            }),
            DeValue::Table(table) => detailed(reader, &name, table, key.span(), instances),
            _ => {
                reader.report(
                    span,
                    format!("{} must be a reference in quotes, or a table with `ref`", printable(&name)),
                    None,
                );
                None
            }
        };
        if let Some(secret) = secret {
            all.insert(name, secret);
        }
    }
    (all, names)
}

fn detailed(
    reader: &mut Reader<'_>,
    name: &str,
    table: DeTable<'_>,
    span: Range<usize>,
    instances: &[Known<'_>],
) -> Option<Secret> {
    let spans: BTreeMap<_, _> = table.iter().map(|(k, v)| (k.get_ref().to_string(), v.span())).collect();
    let read = read_table::<SecretTable>(reader, &printable(name), span.clone(), table)?;
    let place = |key: &str| spans.get(key).cloned().unwrap_or(span.clone());
    let generate = read.generate.and_then(|text| match text.parse::<Generate>() {
        Ok(generate) => Some(generate),
        Err(error) => {
            reader.report(place("generate"), error.to_string(), None);
            None
        }
    });
    let (reference, kind) = reference(reader, name, &read.reference, place("ref"), instances)?;
    let deliver = read.deliver.unwrap_or_default();
    if deliver == Deliver::Endpoint && (!kind.endpoint || !reference.field.is_empty() || read.variables.is_some()) {
        let hint = "leave `deliver` out, or refer to a whole credential of a cloud such as `aws-sts://ROLE`".to_owned();
        reader.report(place("deliver"), "nothing can be served as an endpoint here".into(), Some(hint));
    }
    let variables = match &read.variables {
        None => filled(name, &reference, &kind),
        Some(variables) => fields(reader, variables, &reference, place("variables"))?,
    };
    if generate.is_some() && (reference.instance != "local" || !reference.field.is_empty()) {
        let hint = "write `ref = \"local://...\"` without a `#field`, or store a value yourself".to_owned();
        reader.report(place("generate"), "only the embedded store `local` generates values".into(), Some(hint));
    }
    let (required, description) = (read.required.unwrap_or(true), read.description);
    Some(Secret { reference, variables, deliver, required, description, generate })
}

/// Returns the variables that a reference fills when nothing is said: those of its kind, or the one of its name.
fn filled(name: &str, reference: &SecretRef, kind: &KnownKind<'_>) -> Vec<(String, Vec<String>)> {
    if kind.variables.is_empty() || !reference.field.is_empty() {
        return vec![(name.to_owned(), reference.field.clone())];
    }
    kind.variables.iter().map(|(variable, field)| ((*variable).to_owned(), vec![(*field).to_owned()])).collect()
}

/// Reads `variables = { NAME = "field" }`.
fn fields(
    reader: &mut Reader<'_>,
    variables: &BTreeMap<String, String>,
    reference: &SecretRef,
    span: Range<usize>,
) -> Option<Vec<(String, Vec<String>)>> {
    if !reference.field.is_empty() || variables.is_empty() {
        let hint = "write `ref` without a `#field`, and `variables = { NAME = \"field\" }`".to_owned();
        reader.report(span, "`variables` names a field for each variable".into(), Some(hint));
        return None;
    }
    let field = |(name, field): (&String, &String)| match crate::reference::parse_field(field) {
        Ok(field) if is_variable_name(name) && !is_reserved(name) => Some((name.clone(), field)),
        Ok(_) => {
            let problem = format!("{} cannot be filled: it is reserved, or names no variable", printable(name));
            reader.report(span.clone(), problem, None);
            None
        }
        Err(error) => {
            reader.report(span.clone(), format!("{}: {error}", printable(name)), None);
            None
        }
    };
    variables.iter().map(field).collect::<Vec<_>>().into_iter().collect()
}

/// Reports variables that two entries would fill.
fn check_variables(
    reader: &mut Reader<'_>,
    secrets: &BTreeMap<String, Secret>,
    settings: &BTreeMap<String, String>,
    names: &Names,
) {
    let mut filled: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, secret) in secrets {
        for (variable, _) in secret.variables.iter().filter(|_| secret.deliver == Deliver::Env) {
            let other = filled.insert(variable, name);
            // What is named like it itself is told elsewhere.
            let is_setting = variable != name && settings.contains_key(variable);
            if other.is_some() || is_setting {
                let problem = format!("{} fills {}, which is filled already", printable(name), printable(variable));
                let hint = "name the variables of one of them with `variables = { NAME = \"field\" }`".to_owned();
                reader.report(names.get(name).cloned().unwrap_or_default(), problem, Some(hint));
            }
        }
    }
}

fn reference<'k>(
    reader: &mut Reader<'_>,
    name: &str,
    text: &str,
    span: Range<usize>,
    instances: &[Known<'k>],
) -> Option<(SecretRef, KnownKind<'k>)> {
    let shown = printable(name);
    match text.parse::<SecretRef>() {
        Ok(reference) => {
            if let Some((_, kind)) = instances.iter().find(|(instance, _)| *instance == reference.instance) {
                let foreign = reference.options.keys().find(|option| !kind.options.contains(&option.as_str()));
                if let Some(option) = foreign {
                    reader.unknown(span, &format!("option of {shown}"), option, kind.options.iter().copied());
                    return None;
                }
                return Some((reference, *kind));
            }
            // A connection string is a literal too, whatever its scheme: name the scheme, never the rest.
            if reader.is_full() {
                reader.report(span, String::new(), None);
                return None;
            }
            let hint = match nearest(&reference.instance, instances.iter().map(|(name, _)| *name).take(100)) {
                Some(near) => format!("did you mean `{near}://`?"),
                None => format!(
                    "add `[providers.{}]`, or, if this is the value itself, store it and write its reference",
                    reference.instance
                ),
            };
            reader.report(
                span,
                format!("{shown} names the provider `{}`, which does not exist", reference.instance),
                Some(hint),
            );
            None
        }
        Err(ReferenceError::NoScheme | ReferenceError::BadScheme) => {
            let hint = "store the value with `broker secret set SCHEME://PATH`, write that reference here, and rotate it if this file was shared".to_owned();
            reader.report(span, format!("{shown} holds a literal value where a reference belongs"), Some(hint));
            None
        }
        Err(error) => {
            reader.report(
                span,
                format!("{shown}: {error}"),
                Some("a reference is `scheme://path[#field][?version=ID]`".into()),
            );
            None
        }
    }
}

fn profiles(
    reader: &mut Reader<'_>,
    document: &mut DeTable<'_>,
    names: &Names,
    default: Option<(&str, Range<usize>)>,
) -> BTreeMap<String, Profile> {
    let mut all: BTreeMap<String, Profile> = BTreeMap::new();
    let mut extends: Vec<(String, String, Range<usize>)> = Vec::new();
    for (key, value) in section(reader, document, "profiles").unwrap_or_default() {
        let name = key.get_ref().to_string();
        let span = value.span();
        let what = format!("profile {}", printable(&name));
        let DeValue::Table(table) = value.into_inner() else {
            reader.report(span, format!("{what} must be a table"), None);
            continue;
        };
        let place = |field: &str| table.get(field).map_or(key.span(), Spanned::span);
        let (ttl_span, extends_span) = (place("ttl"), place("extends"));
        let items: Vec<_> = match table.get("secrets").map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.iter().map(Spanned::span).collect(),
            _ => Vec::new(),
        };
        let Some(read) = read_table::<ProfileTable>(reader, &what, key.span(), table) else {
            all.insert(name, Profile::default());
            continue;
        };
        for (secret, at) in read.secrets.iter().zip(items) {
            if !names.contains_key(secret) {
                reader.unknown(at, "secret", secret, names.keys().map(String::as_str));
            }
        }
        let ttl = read.ttl.as_deref().and_then(|text| {
            let ttl = duration::parse(text);
            if ttl.is_none() {
                reader.report(ttl_span, "`ttl` must be a duration such as `15m` or `1h`".into(), None);
            }
            ttl
        });
        if let Some(parent) = &read.extends {
            extends.push((name.clone(), parent.clone(), extends_span));
        }
        all.insert(name, Profile { extends: read.extends, secrets: read.secrets, ttl, description: read.description });
    }
    let circular = circular(&all);
    for (name, parent, at) in extends {
        if !all.contains_key(&parent) {
            reader.unknown(at, "profile", &parent, all.keys().map(String::as_str));
        } else if circular.contains(&name) {
            reader.report(
                at,
                format!("profile {} extends itself", printable(&name)),
                Some("remove one `extends` of the circle".into()),
            );
        }
    }
    if let Some((default, at)) = default.filter(|(name, _)| !all.contains_key(*name))
        && !(all.is_empty() && default == "default")
    {
        reader.unknown(at, "profile", default, all.keys().map(String::as_str));
    }
    all
}

/// Returns the profiles from which `extends` leads in a circle. Visits each profile once.
fn circular(all: &BTreeMap<String, Profile>) -> BTreeSet<String> {
    let mut settled: BTreeMap<&str, bool> = BTreeMap::new();
    for name in all.keys() {
        let mut path: Vec<&str> = Vec::new();
        let mut on_path: BTreeSet<&str> = BTreeSet::new();
        let mut at = Some(name.as_str());
        let circle = loop {
            match at {
                None => break false,
                Some(name) if settled.contains_key(name) => break settled[name],
                Some(name) if !on_path.insert(name) => break true,
                Some(name) => {
                    path.push(name);
                    at = all.get(name).and_then(|p| p.extends.as_deref());
                }
            }
        };
        settled.extend(path.into_iter().map(|name| (name, circle)));
    }
    settled.into_iter().filter(|(_, circle)| *circle).map(|(name, _)| name.to_owned()).collect()
}
