//! The user's and the machine's configuration: `config.toml` in `$XDG_CONFIG_HOME/broker` and in `/etc/broker`.
//!
//! Read again when a file changes. What the machine says wins over the user; what either says about an instance is
//! fixed, and a manifest can only name it. A broken file refuses every request that depends on it and says where it is
//! broken: going on with defaults could weaken what somebody meant to tighten.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use broker_core::diagnostic::Diagnostic;
use broker_core::instance::InstanceSettings;
use broker_core::manifest::{Reader, read_table};
use broker_core::reference::is_instance_name;
use broker_providers::registry::{Instance, KINDS, Kind};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::de::DeValue;

use crate::quota::Limits;

/// Largest accepted configuration file.
const MAX_BYTES: u64 = 1 << 20;

/// How long a daemon without work and without leases waits before it stops.
const DEFAULT_IDLE: Duration = Duration::from_secs(8 * 3600);

/// What is configured outside every project.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    /// Provider instances by name, and whether `user` or `machine` configured them.
    pub(crate) instances: BTreeMap<String, (InstanceSettings, &'static str)>,
    /// `daemon.idle`
    idle: Option<Duration>,
    /// `audit.sync = "always"`
    sync_always: bool,
    /// `[quota]`
    quota: QuotaTable,
    /// The files that exist.
    pub(crate) files: Vec<PathBuf>,
}

/// `[daemon]`
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DaemonTable {
    /// How long a daemon without work and without leases waits before it stops (default `8h`).
    idle: Option<String>,
}

/// `[audit]`
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct AuditTable {
    /// When a record reaches the disk: within 100 ms (`grouped`, the default) or before anything is delivered (`always`).
    sync: Option<Sync>,
}

/// `[quota]`
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct QuotaTable {
    /// How many leases a project may have at a time (default 256).
    leases: Option<u32>,
    /// How many leases a project may begin within a minute (default 600).
    leases_per_minute: Option<u32>,
    /// How many credentials may be issued for a project within a minute (default 60).
    issued_per_minute: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Sync {
    Grouped,
    Always,
}

impl Config {
    /// Returns the settings of an instance: configured, or the default one of a kind.
    pub(crate) fn instance(&self, name: &str) -> Option<Instance> {
        let default = || Kind::of_scheme(name).map(|kind| InstanceSettings::of_kind(kind.kind));
        self.instances.get(name).map(|(settings, _)| settings.clone()).or_else(default).map(Instance::fixed)
    }

    /// Returns the names of all instances that exist without a manifest, each with its kind.
    pub(crate) fn instance_kinds(&self) -> Vec<(&str, &str)> {
        let configured = self.instances.iter().map(|(name, (settings, _))| (name.as_str(), settings.kind.as_str()));
        // The first one of a name counts, and what is configured goes before a default.
        configured.chain(KINDS.iter().filter_map(|kind| Some((kind.scheme?, kind.kind)))).collect()
    }

    /// Returns how long to stay without work.
    pub(crate) fn idle(&self) -> Duration {
        self.idle.unwrap_or(DEFAULT_IDLE)
    }

    /// Returns how much each project may have.
    pub(crate) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            leases: self.quota.leases.unwrap_or(default.leases),
            leases_per_minute: self.quota.leases_per_minute.unwrap_or(default.leases_per_minute),
            issued_per_minute: self.quota.issued_per_minute.unwrap_or(default.issued_per_minute),
        }
    }

    /// Tells whether each audit record is synced before delivery.
    pub(crate) fn sync_always(&self) -> bool {
        self.sync_always
    }

    fn read(&mut self, path: &Path, from: &'static str) -> Result<(), Vec<Diagnostic>> {
        let file = path.display().to_string();
        let text = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => {
                Err("is no regular file of at most 1 MiB".to_owned())
            }
            Ok(_) => std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}")),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let text = text.map_err(|why| vec![Diagnostic::at(&file, "", 0..0, format!("`{file}` {why}"), None)])?;
        self.files.push(path.to_owned());
        let mut reader = Reader::new(&file, &text);
        let mut document = reader.document();
        for (section, value) in std::mem::take(&mut document) {
            let span = section.span();
            let DeValue::Table(table) = value.into_inner() else {
                reader.report(span, "a table is expected here".into(), None);
                continue;
            };
            match section.get_ref().as_ref() {
                "daemon" => {
                    let read = read_table::<DaemonTable>(&mut reader, "`[daemon]`", span.clone(), table);
                    if let Some(text) = read.and_then(|daemon| daemon.idle) {
                        match broker_core::duration::parse(&text) {
                            Some(idle) => self.idle = self.idle.or(Some(idle)),
                            None => reader.report(span, "`idle` must be a duration such as `30m` or `8h`".into(), None),
                        }
                    }
                }
                "audit" => {
                    let read = read_table::<AuditTable>(&mut reader, "`[audit]`", span, table);
                    self.sync_always |= matches!(read.and_then(|audit| audit.sync), Some(Sync::Always));
                }
                "quota" => {
                    let read = read_table::<QuotaTable>(&mut reader, "`[quota]`", span, table).unwrap_or_default();
                    // The machine's file is read first, and what it says stands.
                    let said = &mut self.quota;
                    said.leases = said.leases.or(read.leases);
                    said.leases_per_minute = said.leases_per_minute.or(read.leases_per_minute);
                    said.issued_per_minute = said.issued_per_minute.or(read.issued_per_minute);
                }
                "providers" => self.read_instances(&mut reader, table, from, is_ours_alone(path)),
                name => reader.unknown(span, "section", name, ["daemon", "audit", "quota", "providers"]),
            }
        }
        reader.finish()
    }

    fn read_instances(
        &mut self,
        reader: &mut Reader<'_>,
        table: toml::de::DeTable<'_>,
        from: &'static str,
        ours_alone: bool,
    ) {
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let DeValue::Table(table) = value.into_inner() else {
                reader.report(key.span(), "a table is expected here".into(), None);
                continue;
            };
            if !is_instance_name(&name) {
                reader.report(key.span(), "an instance's name has lower-case letters, digits and `-`".into(), None);
                continue;
            }
            let what = format!("`[providers.{name}]`");
            let Some(settings) = read_table::<InstanceSettings>(reader, &what, key.span(), table) else { continue };
            match Kind::named(&settings.kind) {
                None => {
                    reader.unknown(key.span(), "kind of provider", &settings.kind, KINDS.iter().map(|kind| kind.kind));
                }
                Some(kind) => {
                    if !kind.in_manifest && !ours_alone {
                        let problem = format!("{what}: an instance of kind `{}` stands in a file of others", kind.kind);
                        let hint = "only you and root may own and write the file: it names programs".to_owned();
                        reader.report(key.span(), problem, Some(hint));
                    }
                    for (_, problem, hint) in kind.known().problems(&settings) {
                        reader.report(key.span(), format!("{what}: {problem}"), hint);
                    }
                }
            }
            for error in [settings.timing().err(), settings.check_addresses().err()].into_iter().flatten() {
                reader.report(key.span(), format!("{what}: {error}"), None);
            }
            // The machine's file is read first, and what it says of an instance stands.
            self.instances.entry(name).or_insert((settings, from));
        }
    }
}

/// Tells whether only this user and root can write the file.
fn is_ours_alone(path: &Path) -> bool {
    let us = rustix::process::geteuid().as_raw();
    std::fs::metadata(path).is_ok_and(|meta| [0, us].contains(&meta.uid()) && meta.mode() & 0o022 == 0)
}

/// When a file last changed, and how large it was: enough to see that it must be read again.
type Seen = Vec<Option<(SystemTime, u64)>>;

/// What the files said when they were last read.
type Read = Result<Arc<Config>, Vec<Diagnostic>>;

/// The configuration as it is now.
pub(crate) struct ConfigFiles {
    paths: [(PathBuf, &'static str); 2],
    current: Mutex<Option<(Seen, Read)>>,
}

impl ConfigFiles {
    /// Looks for the machine's file in `/etc/broker` and for the user's in `user`.
    pub(crate) fn new(user: &Path) -> Self {
        let machine = PathBuf::from("/etc/broker/config.toml");
        Self { paths: [(machine, "machine"), (user.join("config.toml"), "user")], current: Mutex::new(None) }
    }

    /// Returns the configuration, read again if a file changed.
    ///
    /// # Errors
    /// Every problem of the files.
    pub(crate) fn current(&self) -> Result<Arc<Config>, Vec<Diagnostic>> {
        let look = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        let seen: Seen = self.paths.iter().map(|(path, _)| look(path)).collect();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, read)) = current.as_ref().filter(|(before, _)| *before == seen) {
            return read.clone();
        }
        let mut config = Config::default();
        let mut problems = Vec::new();
        for (path, from) in &self.paths {
            problems.extend(config.read(path, from).err().unwrap_or_default());
        }
        let read = if problems.is_empty() { Ok(Arc::new(config)) } else { Err(problems) };
        *current = Some((seen, read.clone()));
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Arc<Config>, Vec<Diagnostic>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        ConfigFiles {
            paths: [("/nonexistent/x".into(), "machine"), (dir.path().join("config.toml"), "user")],
            current: Mutex::new(None),
        }
        .current()
    }

    #[test]
    fn instances_and_durations_are_read() {
        let text =
            "[daemon]\nidle = \"30m\"\n[audit]\nsync = \"always\"\n[providers.org]\nkind = \"aws-secrets-manager\"\n";
        let config = read(text).unwrap();
        assert_eq!(config.idle(), Duration::from_secs(1800));
        assert!(config.sync_always());
        assert_eq!(config.instance("org").unwrap().settings.kind, "aws-secrets-manager");
        assert_eq!(config.instance("local").unwrap().settings.kind, "local");
        assert!(config.instance("other").is_none());
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_the_default() {
        for text in [
            "[daemon]\nidle = \"soon\"\n",
            "[audit]\nsync = \"never\"\n",
            "[deamon]\n",
            "[providers.x]\nkind = \"y\"\n",
        ] {
            assert_eq!(read(text).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_names_no_program() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let text =
            format!("[providers.op]\nkind = \"exec\"\ncommand = [\"/bin/true\"]\nsha256 = \"{}\"\n", "0".repeat(64));
        std::fs::write(&path, text).unwrap();
        for (mode, problems) in [(0o600, 0), (0o644, 0), (0o664, 1), (0o606, 1)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let paths = [("/nonexistent/x".into(), "machine"), (path.clone(), "user")];
            let read = ConfigFiles { paths, current: Mutex::new(None) }.current();
            assert_eq!(read.err().unwrap_or_default().len(), problems, "{mode:o}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let files = ConfigFiles {
            paths: [("/nonexistent/x".into(), "machine"), (path.clone(), "user")],
            current: Mutex::new(None),
        };
        assert_eq!(files.current().unwrap().idle(), DEFAULT_IDLE);
        std::fs::write(&path, "[daemon]\nidle = \"5m\"\n").unwrap();
        assert_eq!(files.current().unwrap().idle(), Duration::from_secs(300));
    }
}
