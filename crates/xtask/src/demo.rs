//! `cargo xtask demo`: the main job for real, on the embedded store, in a home that is thrown away.
//!
//! Nothing is asked and no account is needed. Every line with a tick is a claim that was checked; one that does not hold
//! ends the demo with a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use broker_tests::canary::{self, Canary};
use broker_tests::home::Home;
use broker_tests::process;
use broker_tests::run::{Outcome, Run};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cargo::{cargo, output, programs, root, succeed};
use crate::failure::Failure;
use crate::report;

/// The variables of the quickstart's manifest and where it says their values are.
const SECRETS: [(&str, &str); 2] =
    [("DATABASE_URL", "local://quickstart/database-url"), ("STRIPE_KEY", "local://quickstart/stripe-key")];

/// Builds the programs and runs the demo.
pub(crate) fn run() -> Result<(), Failure> {
    report::line("building both programs (unoptimised, which is quick)");
    succeed(cargo(["build", "--quiet", "--package", "broker", "--package", "brokerd"]))?;
    let demo = Demo::new()?;
    let daemon = demo.tell()?;
    let place = demo.home.path();
    drop(demo);
    claim("the daemon has stopped", !process::is_alive(daemon), || format!("pid {daemon} lives"))?;
    claim("the throwaway home is gone", !place.exists(), || place.display().to_string())?;
    report::holds("the daemon has stopped and the throwaway home is gone");
    Ok(())
}

struct Demo {
    home: Home,
    directory: PathBuf,
    path: String,
    values: [String; 2],
}

impl Demo {
    fn new() -> Result<Self, Failure> {
        // The name may be a launcher that looks into the caller's home; the demo has another one.
        let mut python = Command::new("python3");
        python.args(["-c", "import os, sys; print(os.path.dirname(sys.executable))"]);
        let python = output(python)?;
        let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", programs("debug").display(), python.trim());
        let values = [format!("postgres://app:{}@db/shop", canary::word("pg")), canary::word("sk_demo")];
        Ok(Self {
            home: Home::with_programs(&programs("debug")),
            directory: root().join("docs/quickstart"),
            path,
            values,
        })
    }

    /// Runs the story and returns the daemon's pid.
    fn tell(&self) -> Result<i32, Failure> {
        for ((_, reference), value) in SECRETS.iter().zip(&self.values) {
            report::typed(format!("broker secret set {reference} < value"));
            show(&done(self.broker_with_passphrase(&["secret", "set", reference]).stdin(value).run())?);
        }
        report::typed("broker trust --yes");
        show(&done(self.broker(&["trust", "--yes"]).run())?);
        report::typed("broker exec -- python3 app.py");
        let ran = done(self.broker(&["exec", "--", "python3", "app.py"]).run())?;
        show(&ran);
        self.had_its_secrets(&ran.out())?;
        self.nothing_is_on_disk()?;
        let daemon = self.lease_is_over()?;
        report::typed("broker daemon stop");
        show(&done(self.broker(&["daemon", "stop"]).run())?);
        let _ = process::wait_end(daemon, std::time::Duration::from_secs(10));
        Ok(daemon)
    }

    fn broker(&self, args: &[&str]) -> Run {
        self.home.broker(args).cwd(&self.directory).env("PATH", &self.path)
    }

    fn broker_with_passphrase(&self, args: &[&str]) -> Run {
        self.home.broker_with_passphrase(args).cwd(&self.directory).env("PATH", &self.path)
    }

    fn had_its_secrets(&self, said: &str) -> Result<(), Failure> {
        for ((name, _), value) in SECRETS.iter().zip(&self.values) {
            let digest: String = Sha256::digest(value).iter().take(6).map(|b| format!("{b:02x}")).collect();
            let had = said.lines().any(|l| l.starts_with(name) && l.contains(&digest));
            claim("the program had its secrets", had, || format!("{name} should have digest {digest}:\n{said}"))?;
        }
        report::holds("the program had both secrets: the digests it printed are those of the stored values");
        Ok(())
    }

    fn nothing_is_on_disk(&self) -> Result<(), Failure> {
        let root = self.home.root();
        for value in self.values.iter().map(String::as_str).chain([self.home.passphrase()]) {
            let canary = Canary::new(value.as_bytes());
            for place in [root, self.directory.as_path()] {
                let seen = canary.search_files(place);
                claim("no value is on disk", seen.is_empty(), || format!("{seen:?}"))?;
            }
        }
        let files = count(root);
        claim("there are files to search", files > 2, || root.display().to_string())?;
        report::holds(format!(
            "neither value nor the passphrase is in any of the {files} files of the home or in docs/quickstart,"
        ));
        report::line("  be it plain, base64, hex, percent-encoded, reversed or UTF-16");
        Ok(())
    }

    fn lease_is_over(&self) -> Result<i32, Failure> {
        self.home.until_no_lease();
        report::typed("broker lease list --json");
        let leases = done(self.broker(&["lease", "list", "--json"]).run())?;
        show(&leases);
        let none = leases.json().as_array().is_some_and(Vec::is_empty);
        claim("no lease is live", none, || leases.out())?;
        let audit = self.home.audit();
        let lease = audit.iter().find_map(|r| r["lease"]["id"].as_str());
        let end = audit.iter().find(|r| r["event"] == "lease-ended" && r["lease"].as_str() == lease && lease.is_some());
        claim("the audit has the lease's end", end.is_some(), || format!("{audit:#?}"))?;
        let how = end.and_then(|r| r["how"].as_str()).unwrap_or_default();
        report::holds(format!("the lease is over: the audit says `lease-ended`, how `{how}`"));
        let pid = self.home.status().get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| Failure::Answer { what: "broker daemon status".into(), said: "no pid".into() })
    }
}

fn done(outcome: Outcome) -> Result<Outcome, Failure> {
    if outcome.code() == 0 {
        return Ok(outcome);
    }
    let found = format!("status {}\n{}{}", outcome.code(), outcome.out(), outcome.err());
    Err(Failure::Claim { claim: "the command succeeds".into(), found })
}

fn show(outcome: &Outcome) {
    let (out, err) = (outcome.out(), outcome.err());
    for line in out.lines().chain(err.lines()).filter(|line| !line.trim().is_empty()) {
        report::line(format!("  {line}"));
    }
}

fn claim(claim: &str, holds: bool, found: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Claim { claim: claim.to_owned(), found: found() }) }
}

fn count(place: &Path) -> usize {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}
