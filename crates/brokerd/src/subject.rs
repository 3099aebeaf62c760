//! What a request is about, once its words are resolved: which secrets, in which project, for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use broker_core::generate::Generate;
use broker_core::manifest::{Deliver, Secret, Wish};
use broker_core::reference::{SecretRef, Version};
use broker_core::reserved::is_variable_name;
use broker_core::suggest::nearest;
use broker_protocol::message::Ask;
use broker_providers::registry::{Instance, Kind};

use crate::broker::Broker;
use crate::config::Config;
use crate::project::Project;
use crate::quota::Issues;
use crate::refusal::Refusal;

/// One secret that a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The variable, for secrets of a manifest.
    pub(crate) name: Option<String>,
    /// Where its value is.
    pub(crate) reference: SecretRef,
    /// How it reaches the child.
    pub(crate) deliver: Deliver,
    /// Whether nothing runs without it.
    pub(crate) required: bool,
    /// How the embedded store makes it on first use.
    pub(crate) generate: Option<Generate>,
    /// What it is for.
    pub(crate) description: Option<String>,
}

impl Wanted {
    /// Returns one for each variable that an entry of a manifest fills, or the one that is served as an endpoint.
    fn of(name: &str, secret: &Secret) -> Vec<Self> {
        let whole = Self {
            name: Some(name.to_owned()),
            reference: secret.reference.clone(),
            deliver: secret.deliver,
            required: secret.required,
            generate: secret.generate,
            description: secret.description.clone(),
        };
        match secret.deliver {
            Deliver::Endpoint => vec![whole],
            Deliver::Env => {
                let variable = |(variable, field): &(String, Vec<String>)| Self {
                    name: Some(variable.clone()),
                    reference: SecretRef { field: field.clone(), ..secret.reference.clone() },
                    ..whole.clone()
                };
                secret.variables.iter().map(variable).collect()
            }
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The project; none for requests outside any.
    pub(crate) project: Option<Arc<Project>>,
    /// The configuration in force.
    pub(crate) config: Arc<Config>,
    /// The profile that applies; empty where none was selected.
    pub(crate) profile: String,
    /// The secrets, ordered by name.
    pub(crate) wanted: Vec<Wanted>,
    /// Names of the manifest that a child must not have.
    pub(crate) withheld: Vec<String>,
    /// How long a grant may last at most.
    pub(crate) ttl: Duration,
    /// Looked up once: settings are large, and asked for many times in one request.
    sources: OnceLock<Sources>,
}

/// Where a request reads.
#[derive(Clone, Debug, Default)]
struct Sources {
    /// The instances that are wanted of, and those that keep their keys, by name.
    instances: BTreeMap<String, Arc<Instance>>,
    /// The references of the keys that the former sign with, by instance.
    keys: Vec<(String, SecretRef)>,
    /// An instance whose `key` is no reference.
    without_key: Option<String>,
}

impl Subject {
    /// Resolves a request about a profile of the manifest.
    pub(crate) fn of_profile(broker: &Broker, ask: &Ask) -> Result<Self, Refusal> {
        let (project, config) = context(broker, ask)?;
        let project = project.ok_or(Refusal::NoManifest)?;
        let wish = Wish {
            profile: ask.profile.clone(),
            only: ask.only.clone(),
            except: ask.except.clone(),
            ttl: ask.ttl_ms.map(Duration::from_millis),
            narrowing: project.narrowing.clone(),
        };
        let selection = project.manifest.select(&wish)?;
        let wanted = selection.secrets.iter().flat_map(|(name, secret)| Wanted::of(name, secret));
        Ok(Self {
            wanted: wanted.collect(),
            withheld: selection.withheld.iter().map(|name| (*name).to_owned()).collect(),
            profile: selection.profile,
            ttl: selection.ttl,
            project: Some(project.clone()),
            config,
            sources: OnceLock::new(),
        })
    }

    /// Resolves a request about one secret: a name of the manifest, or a reference.
    pub(crate) fn of_target(broker: &Broker, ask: &Ask, target: &str) -> Result<Self, Refusal> {
        let (project, config) = context(broker, ask)?;
        let listed = project.as_ref().and_then(|p| p.manifest.secrets.get_key_value(target));
        let wanted = match (listed, target.parse::<SecretRef>()) {
            (Some((name, secret)), _) => Wanted {
                name: Some(name.clone()),
                reference: secret.reference.clone(),
                deliver: secret.deliver,
                required: true,
                generate: secret.generate,
                description: secret.description.clone(),
            },
            (None, Ok(reference)) => Wanted {
                name: None,
                reference,
                deliver: Deliver::Env,
                required: true,
                generate: None,
                description: None,
            },
            (None, Err(_)) => return Err(unknown(project.as_deref(), target)),
        };
        let subject = Self {
            project,
            config,
            profile: String::new(),
            wanted: vec![wanted],
            withheld: Vec::new(),
            ttl: Duration::ZERO,
            sources: OnceLock::new(),
        };
        let instance = &subject.wanted[0].reference.instance;
        match subject.instance(instance) {
            Some(_) => subject.without_idle_project().known_options(),
            None => Err(Refusal::UnknownInstance(instance.clone())),
        }
    }

    /// Resolves a request about an instance as such.
    pub(crate) fn of_instance(broker: &Broker, ask: &Ask, instance: &str) -> Result<Self, Refusal> {
        let (project, config) = context(broker, ask)?;
        let subject = Self {
            project,
            config,
            profile: String::new(),
            wanted: Vec::new(),
            withheld: Vec::new(),
            ttl: Duration::ZERO,
            sources: OnceLock::new(),
        };
        match subject.instance(instance) {
            Some(_) if subject.config.instance(instance).is_some() => Ok(Self { project: None, ..subject }),
            Some(_) => Ok(subject),
            None => Err(Refusal::UnknownInstance(instance.to_owned())),
        }
    }

    /// Names the instances that are configured, or that the manifest configures or uses, ordered.
    pub(crate) fn instances_in_sight(broker: &Broker, ask: &Ask) -> Result<Vec<String>, Refusal> {
        let (project, config) = context(broker, ask)?;
        let mut names: Vec<String> = config.instances.keys().cloned().collect();
        if let Some(project) = project {
            names.extend(project.manifest.providers.keys().cloned());
            names.extend(project.manifest.secrets.values().map(|secret| secret.reference.instance.clone()));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Returns an instance, of the configuration first, then of the manifest.
    pub(crate) fn instance(&self, name: &str) -> Option<Arc<Instance>> {
        self.sources().instances.get(name).cloned().or_else(|| self.look_up(name))
    }

    fn look_up(&self, name: &str) -> Option<Arc<Instance>> {
        let found = match &self.project {
            Some(project) => project.instance(name, &self.config),
            None => self.config.instance(name),
        };
        found.map(Arc::new)
    }

    fn sources(&self) -> &Sources {
        self.sources.get_or_init(|| {
            let mut sources = Sources::default();
            for Wanted { reference, .. } in &self.wanted {
                if sources.instances.contains_key(&reference.instance) {
                    continue;
                }
                let Some(instance) = self.look_up(&reference.instance) else { continue };
                match instance.settings.key.as_deref().map(str::parse) {
                    Some(Ok(key)) => sources.keys.push((reference.instance.clone(), key)),
                    Some(Err(_)) => sources.without_key = Some(reference.instance.clone()),
                    None => {}
                }
                sources.instances.insert(reference.instance.clone(), instance);
            }
            let keeper = |(_, key): &(String, SecretRef)| Some((key.instance.clone(), self.look_up(&key.instance)?));
            let keepers: Vec<_> = sources.keys.iter().filter_map(keeper).collect();
            sources.instances.extend(keepers);
            sources
        })
    }

    /// Returns every reference that this request reads: those that are wanted, and the keys that instances sign with.
    pub(crate) fn references(&self) -> Vec<SecretRef> {
        let wanted = self.wanted.iter().map(|wanted| wanted.reference.clone());
        wanted.chain(self.sources().keys.iter().map(|(_, reference)| reference.clone())).collect()
    }

    /// Returns every instance that this request reads of, by name: those that are wanted of, and those that keep their keys.
    pub(crate) fn instances(&self) -> &BTreeMap<String, Arc<Instance>> {
        &self.sources().instances
    }

    /// Returns the references of the keys that the instances of this request sign with, by instance.
    ///
    /// # Errors
    /// A `key` that is no reference.
    pub(crate) fn keys(&self) -> Result<&[(String, SecretRef)], Refusal> {
        match &self.sources().without_key {
            // The key itself may stand where its reference belongs.
            Some(instance) => Err(Refusal::KeyIsNoReference(instance.clone())),
            None => Ok(&self.sources().keys),
        }
    }

    /// Returns how much of what this request wants is issued, as far as that is known before asking.
    pub(crate) fn issues(&self) -> Issues {
        let mut issues = Issues::default();
        for (name, instance) in self.instances() {
            let Some(kind) = Kind::named(&instance.settings.kind) else { continue };
            issues.perhaps |= kind.issues_too;
            if kind.capabilities.issues {
                let of = self.wanted.iter().filter(|wanted| wanted.reference.instance == *name);
                let wholes: BTreeSet<SecretRef> = of.map(|wanted| wanted.reference.whole()).collect();
                issues.sure += wholes.len();
            }
        }
        issues
    }

    /// Fails for an option that the kind of its instance does not know: it would name what another reference names.
    fn known_options(self) -> Result<Self, Refusal> {
        for Wanted { reference, .. } in &self.wanted {
            let kind = self.instance(&reference.instance).and_then(|instance| Kind::named(&instance.settings.kind));
            let known = kind.map_or(&[][..], |kind| kind.options);
            if let Some(option) = reference.options.keys().find(|option| !known.contains(&option.as_str())) {
                return Err(Refusal::UnknownOption(reference.to_string(), option.clone()));
            }
        }
        Ok(self)
    }

    /// Fails for a reference that names a part or an old version of a secret, which cannot be written.
    pub(crate) fn whole(&self) -> Result<&SecretRef, Refusal> {
        match self.wanted.as_slice() {
            [Wanted { reference, .. }] if reference.field.is_empty() && reference.version == Version::Current => {
                Ok(reference)
            }
            [Wanted { reference, .. }, ..] => Err(Refusal::NotWhole(reference.to_string())),
            [] => Err(Refusal::Malformed("nothing is named".into())),
        }
    }

    /// Drops a project that plays no part: a reference of a configured instance needs no manifest and no trust in one.
    fn without_idle_project(self) -> Self {
        let Wanted { name, reference, .. } = &self.wanted[0];
        let needed = name.is_some() || self.config.instance(&reference.instance).is_none();
        Self { project: self.project.clone().filter(|_| needed), ..self }
    }
}

fn context(broker: &Broker, ask: &Ask) -> Result<(Option<Arc<Project>>, Arc<Config>), Refusal> {
    let config = broker.config.current().map_err(Refusal::Text)?;
    let project = ask.manifest.clone().map(|bytes| broker.projects.parse(bytes, &config)).transpose()?;
    Ok((project, config))
}

fn unknown(project: Option<&Project>, target: &str) -> Refusal {
    let names = project.into_iter().flat_map(|p| p.manifest.secrets.keys().map(String::as_str));
    // A target that has not the shape of a name may be a value in the wrong place.
    let name = if is_variable_name(target) { target } else { "(not a name)" };
    Refusal::UnknownTarget { name: name.to_owned(), nearest: nearest(name, names).map(str::to_owned) }
}
