//! `broker doctor`: what is set up, what is not, and what this machine does not protect against.
//!
//! It starts the daemon if none runs (that it can be started is the first thing to know), fetches nothing and changes
//! nothing.

use std::path::{Path, PathBuf};

use broker_core::code::ErrorCode;
use broker_protocol::message::{Explained, ManifestBytes, PROTOCOL, Status};
use broker_protocol::place::Place;
use serde::Serialize;

use crate::around;
use crate::ask::{Selected, sign_in_names};
use crate::call::Call;
use crate::manifest_file::{NAME, find, working_directory};
use crate::report::{FAILED, Fault, Outcome, print, print_json, printable};
use crate::session::Session;

/// What tier 0 leaves open, said plainly.
const OPEN_IN_TIER_0: [&str; 3] = [
    "a process of your user that is not sandboxed can read the environment and the memory of a command that runs",
    "a process of your user can ask the broker as you can, and drive your terminals",
    "a command that was given a secret can print it, write it or send it away",
];

/// See what is set up, what is not, and what stays open on this machine
///
/// Exits with 1 when something is broken. With --json: {"version", "protocol", "tier", "open": [TEXT], "findings":
/// [{"area", "state": "ok"|"note"|"broken", "message", "hint"?}]}.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    version: &'static str,
    protocol: u32,
    tier: u8,
    open: [&'static str; 3],
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    state: State,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Note,
    Broken,
}

impl Finding {
    fn new(area: &'static str, state: State, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self { area, state, message: message.into(), hint: hint.map(str::to_owned) }
    }

    fn broken(area: &'static str, fault: &Fault) -> Vec<Self> {
        let finding = |problem: &broker_protocol::message::Problem| {
            let place = problem
                .diagnostic
                .as_ref()
                .map(|d| format!("{}:{}:{}: ", d.file, d.line, d.column))
                .unwrap_or_default();
            let hint = problem.hint.clone().or_else(|| problem.diagnostic.as_ref()?.hint.clone());
            // What is asked about the manifest can fail for the configuration it is read under.
            let configured = problem.diagnostic.as_ref().is_some_and(|d| d.file.ends_with("config.toml"));
            let area = if configured { CONFIGURATION } else { area };
            Self { area, state: State::Broken, message: format!("{place}{}", problem.message), hint }
        };
        fault.problems.iter().map(finding).collect()
    }
}

/// The area of what `config.toml` says.
const CONFIGURATION: &str = "configuration";

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let mut findings = vec![Finding::new(
        "program",
        State::Ok,
        format!("broker {} (protocol {PROTOCOL})", env!("CARGO_PKG_VERSION")),
        None,
    )];
    match Place::find() {
        Ok(place) => findings.push(Finding::new(
            "place",
            State::Ok,
            format!("`{}` is in a directory that is yours alone", place.socket().display()),
            None,
        )),
        Err(error) => findings.extend(Finding::broken("place", &error.into())),
    }
    let manifest = find(&cwd, call.manifest.as_deref());
    let session = Session::open(call);
    match session {
        Ok(mut session) => {
            match session.ask(|connection| connection.status()) {
                Ok(status) => findings.extend(of_daemon(&status)),
                Err(fault) => findings.extend(Finding::broken("daemon", &fault)),
            }
            findings.extend(of_manifest(&manifest, cwd, &mut session));
            if findings.iter().any(|finding| finding.area == CONFIGURATION && finding.state == State::Broken) {
                findings.retain(|finding| finding.area != CONFIGURATION || finding.state == State::Broken);
            }
        }
        Err(fault) => findings.extend(Finding::broken("daemon", &fault)),
    }
    findings.push(of_sign_in());
    let beside = manifest.ok().flatten().and_then(|manifest| manifest.path.parent().map(Path::to_owned));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    findings.extend(around::look(home.as_deref(), beside.as_deref()).into_iter().map(|around| {
        Finding::new(
            "around",
            State::Note,
            format!("`{}` goes round the broker", around.path.display()),
            Some(around.way_out),
        )
    }));
    let diagnosis =
        Diagnosis { version: env!("CARGO_PKG_VERSION"), protocol: PROTOCOL, tier: 0, open: OPEN_IN_TIER_0, findings };
    if args.json {
        print_json(&diagnosis)?
    } else {
        print(&words(&diagnosis))?
    }
    let broken = diagnosis.findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if broken { FAILED } else { 0 })
}

fn of_daemon(status: &Status) -> Vec<Finding> {
    let mut findings = vec![Finding::new(
        "daemon",
        State::Ok,
        format!(
            "brokerd {} runs as process {}, {} live leases, {} values held",
            status.version, status.pid, status.leases, status.cached_values
        ),
        None,
    )];
    if status.version != env!("CARGO_PKG_VERSION") {
        let hint = Some("broker daemon stop: the next command starts the one beside this program");
        findings.push(Finding::new(
            "daemon",
            State::Note,
            format!("it is version {}, this is {}", status.version, env!("CARGO_PKG_VERSION")),
            hint,
        ));
    }
    let key = match status.local_store_key.as_str() {
        "" => String::new(),
        "keyring" => ", its key is in the keyring of the operating system".to_owned(),
        "passphrase" => ", its key comes from a passphrase that only the daemon's memory keeps".to_owned(),
        other => format!(", its key: {other}"),
    };
    let (state, hint) = match status.local_store.as_str() {
        "unlocked" => (State::Ok, None),
        "absent" => (State::Note, Some("it is made on first use, or now: broker unlock")),
        _ => (State::Note, Some("it is opened when it is needed, or now: broker unlock")),
    };
    findings.push(Finding::new("embedded store", state, format!("{}{key}", status.local_store), hint));
    findings.push(match &status.audit_problem {
        None => Finding::new("audit", State::Ok, format!("recorded in `{}`", status.audit.display()), None),
        Some(problem) => {
            let hint = "nothing is delivered until it can be: make room, or make the directory writable";
            Finding::new("audit", State::Broken, problem.clone(), Some(hint))
        }
    });
    let files: Vec<_> = status.config.iter().map(|path| format!("`{}`", path.display())).collect();
    let files = if files.is_empty() { "none, so everything is as it comes".to_owned() } else { files.join(", ") };
    findings.push(Finding::new(CONFIGURATION, State::Ok, files, None));
    findings
}

fn of_manifest(
    manifest: &Result<Option<ManifestBytes>, Fault>,
    cwd: PathBuf,
    session: &mut Session<'_>,
) -> Vec<Finding> {
    let manifest = match manifest {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            return vec![Finding::new(
                "manifest",
                State::Note,
                format!("no `{NAME}` here or above"),
                Some("commands of a project need one; its keys: broker schema"),
            )];
        }
        Err(fault) => return Finding::broken("manifest", fault),
    };
    let path = manifest.path.display().to_string();
    let ask = Selected::default().ask(Some(manifest.clone()), cwd);
    match session.ask(|connection| connection.explain(&ask)) {
        Ok(explained) => of_explained(&path, &explained),
        Err(fault) if fault.problems.first().is_some_and(|problem| problem.code == ErrorCode::Untrusted) => {
            vec![Finding::new(
                "manifest",
                State::Note,
                format!("`{path}` is not trusted as it is"),
                Some("look at what it asks for: broker trust"),
            )]
        }
        Err(fault) => Finding::broken("manifest", &fault),
    }
}

fn of_explained(path: &str, explained: &Explained) -> Vec<Finding> {
    let trust = if explained.trusted {
        (State::Ok, "trusted as it is", None)
    } else {
        (State::Note, "not trusted as it is", Some("look at what it asks for: broker trust"))
    };
    let message = format!("`{path}` (project `{}`, profile `{}`) is {}", explained.project, explained.profile, trust.1);
    let mut findings = vec![Finding::new("manifest", trust.0, message, trust.2)];
    let mut instances: Vec<(&str, &str, usize)> = Vec::new();
    for secret in &explained.secrets {
        let instance = secret.reference.split_once("://").map_or(secret.reference.as_str(), |(instance, _)| instance);
        match instances.iter_mut().find(|(name, _, _)| *name == instance) {
            Some((_, _, count)) => *count += 1,
            None => instances.push((instance, &secret.kind, 1)),
        }
    }
    findings.extend(instances.into_iter().map(|(instance, kind, count)| {
        Finding::new(
            "provider",
            State::Ok,
            format!("`{instance}` ({kind}) has {count} of this profile's secrets"),
            Some("see whether they resolve: broker check"),
        )
    }));
    let state = if explained.decision == "deny" { State::Broken } else { State::Ok };
    findings.push(Finding::new("policy", state, format!("{} by rule `{}`", explained.decision, explained.rule), None));
    findings
}

fn of_sign_in() -> Finding {
    let names = sign_in_names();
    if names.is_empty() {
        return Finding::new(
            "sign-in",
            State::Ok,
            "no sign-in variables here: managers' own files and services are used",
            None,
        );
    }
    Finding::new("sign-in", State::Ok, format!("these variables travel with your requests: {}", names.join(", ")), None)
}

fn words(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    for Finding { area, state, message, hint } in &diagnosis.findings {
        let mark = match state {
            State::Ok => "ok    ",
            State::Note => "note  ",
            State::Broken => "BROKEN",
        };
        text.push_str(&format!("{mark}  {area:<14}  {}\n", printable(message)));
        if let Some(hint) = hint {
            text.push_str(&format!("{:24}  hint: {}\n", "", printable(hint)));
        }
    }
    text.push_str(&format!(
        "\nIsolation is tier {}: one daemon for your user. What stays open in it:\n",
        diagnosis.tier
    ));
    for open in diagnosis.open {
        text.push_str(&format!("  - {open}\n"));
    }
    text
}
