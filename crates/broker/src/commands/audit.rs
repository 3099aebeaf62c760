//! `broker audit`: the log of what was asked, decided, given and ended, read from its file: no daemon is needed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use broker_core::code::ErrorCode;
use broker_core::event::{Event, Record};
use broker_core::lease::{Credential, EndedCredential};
use broker_core::reference::SecretRef;
use serde_json::Value;

use crate::call::Call;
use crate::report::{Fault, Outcome, print, print_json};
use crate::table::columns;

/// Show the audit log, oldest first
///
/// With --json: an array of the log's own records, {"time", "event", ...}, one for each line of it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this many, the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
    /// Only records that speak of this lease, secret, profile or command
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Returns the state directory of this user (XDG Base Directory Specification), or `None` without a home.
pub(crate) fn state_directory() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let named = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).and_then(absolute);
    let state = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("broker"))
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let dir = state_directory().ok_or_else(|| {
        Fault::new(ErrorCode::Audit, "there is neither `XDG_STATE_HOME` nor `HOME` to find the audit log by")
    })?;
    let (lines, unreadable) = newest(&dir, args.lines, args.grep.as_deref())?;
    if unreadable > 0 {
        call.report.note(&format!("{unreadable} lines of the audit log are no JSON"));
    }
    if args.json {
        print_json(&lines)?;
    } else if lines.is_empty() {
        call.report.note(&format!("nothing is recorded in `{}`", dir.display()));
    } else {
        let rows: Vec<_> = lines.into_iter().map(row).collect();
        print(&columns(["TIME", "EVENT", "WHAT"], &rows))?;
    }
    Ok(0)
}

/// Reads the newest `count` records that hold `text`, and counts lines that are no record.
fn newest(dir: &Path, count: usize, text: Option<&str>) -> Result<(Vec<Value>, usize), Fault> {
    let mut found: Vec<Value> = Vec::new();
    let mut unreadable = 0;
    for path in files(dir)? {
        let file = File::open(&path)
            .map_err(|error| Fault::new(ErrorCode::Audit, format!("cannot read `{}`: {error}", path.display())))?;
        let mut records = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line
                .map_err(|error| Fault::new(ErrorCode::Audit, format!("cannot read `{}`: {error}", path.display())))?;
            if line.is_empty() || text.is_some_and(|text| !String::from_utf8_lossy(&line).contains(text)) {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(record) => records.push(record),
                Err(_) => unreadable += 1,
            }
        }
        records.append(&mut found);
        found = records;
        if found.len() >= count {
            break;
        }
    }
    Ok((found.split_off(found.len().saturating_sub(count)), unreadable))
}

/// Returns the log's files, the one being written first, then the rotated ones from the newest.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::new(ErrorCode::Audit, format!("cannot read `{}`: {error}", dir.display()))),
    };
    let mut rotated = Vec::new();
    let mut current = None;
    for entry in entries.flatten() {
        let name = entry.file_name();
        match name.to_str().and_then(|name| name.strip_prefix("audit.")?.strip_suffix("jsonl")) {
            Some("") => current = Some(entry.path()),
            Some(number) if number.trim_end_matches('.').bytes().all(|b| b.is_ascii_digit()) => {
                rotated.push((entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()));
            }
            _ => {}
        }
    }
    rotated.sort_by(|a, b| b.cmp(a));
    Ok(current.into_iter().chain(rotated.into_iter().map(|(_, path)| path)).collect())
}

fn row(value: Value) -> [String; 3] {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let (time, event) = (text("time"), text("event"));
    match serde_json::from_value::<Record>(value) {
        Ok(record) => [time, event, words(record.event)],
        // Written by a newer version: shown as far as it is understood.
        Err(_) => [time, event, "(this version cannot read the rest; see --json)".to_owned()],
    }
}

/// Returns the word that an enumeration has in JSON.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}

fn listed(references: &[SecretRef]) -> String {
    references.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn words(event: Event) -> String {
    match event {
        Event::DaemonStarted { version, pid } => format!("version {version}, process {pid}"),
        Event::DaemonStopped { reason } => reason,
        Event::Request { principal, right, decision, project, profile, references, argv, lease, .. } => {
            let effect = serde_json::to_value(&decision).ok().and_then(|v| Some(v.get("effect")?.as_str()?.to_owned()));
            let lease = lease.map(|lease| format!(" {}", lease.id)).unwrap_or_default();
            let command = if argv.is_empty() { String::new() } else { format!(" for `{}`", argv.join(" ")) };
            format!(
                "{} {} by {}{lease}: {project}/{profile} [{}]{command}, process {}",
                effect.unwrap_or_default(),
                word(right),
                decision.rule(),
                listed(&references),
                principal.process.pid
            )
        }
        Event::LeaseEnded { lease, how, error, credentials } => {
            let error = error.map(|code| format!(", {code}")).unwrap_or_default();
            let credential = |c: &EndedCredential| format!("; {} {}", listed(&c.references), word(c.end));
            let credentials: String = credentials.iter().map(credential).collect();
            format!("{lease} {}{error}{credentials}", word(how))
        }
        Event::LeaseEnding { lease, how } => format!("{lease} {}", word(how)),
        Event::Issued { lease, credentials } => {
            let credential = |c: &Credential| format!("; {} until {}", listed(&c.references), c.expires);
            format!("{lease}{}", credentials.iter().map(credential).collect::<String>())
        }
        Event::SecretChanged { reference, change, outcome } => format!("{reference} {change}: {outcome}"),
        Event::SignedIn { instance, who } => format!("{instance} as {who}"),
        Event::SignedOut { instance } => instance,
        Event::Trusted { manifest, sha256 } => format!("{} sha256 {sha256}", manifest.display()),
        Event::Locked { leases } => format!("{leases} leases ended"),
        Event::Carried { leases } => format!("{} leases are live", leases.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_are_found_across_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let line = |n: u32| format!("{{\"time\":\"2026-01-01T00:00:0{n}Z\",\"event\":\"locked\",\"leases\":{n}}}\n");
        let write = |name: &str, text: String, age: u64| {
            std::fs::write(dir.path().join(name), text).unwrap();
            let file = File::options().write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age)).unwrap();
        };
        write("audit.1.jsonl", line(1) + &line(2), 20);
        write("audit.2.jsonl", line(3) + "torn {", 10);
        write("audit.jsonl", line(4) + &line(5), 0);
        write("auditor.jsonl", line(9), 0);
        let leases = |count, text| -> Vec<u64> {
            let (found, _) = newest(dir.path(), count, text).unwrap();
            found.iter().map(|value| value["leases"].as_u64().unwrap()).collect()
        };
        assert_eq!(leases(20, None), [1, 2, 3, 4, 5]);
        assert_eq!(leases(3, None), [3, 4, 5]);
        assert_eq!(leases(20, Some("00:00:02Z")), [2]);
        assert_eq!(newest(dir.path(), 20, None).unwrap().1, 1);
        assert!(newest(&dir.path().join("none"), 20, None).unwrap().0.is_empty());
    }
}
