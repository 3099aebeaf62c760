//! The leak test: unique values go through everything, under a write trace, at the most verbose level, through forced
//! crashes; then every file that was written is searched for them, plain and encoded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_tests::canary::{self, Canary, Sighting};
use broker_tests::home::Home;
use broker_tests::proxy::{Fault, Proxy};
use broker_tests::run::{Outcome, Run, Running};
use broker_tests::servers::{Aws, REGION, unique};
use broker_tests::trace::Trace;
use broker_tests::{deadline, process, user};

/// A daemon in the foreground at its most verbose, under a write trace. One whose tracer is its own user refuses to serve, as
/// it should: then it runs without, and what is left to search is every file of the home.
fn traced_daemon(home: &Home, traces: &Path) -> (Trace, Running) {
    let trace = Trace::into(traces);
    let run = home.broker(["daemon", "run"]).env("BROKER_LOG", "trace").env("RUST_BACKTRACE", "full");
    let run = run.env("RUST_LOG", "trace").env("AWS_LOG", "trace").deadline(Duration::from_secs(120));
    let traced = run.clone().through(trace.words());
    let running = if user::is_root() {
        traced.start()
    } else {
        let refused = traced.run();
        assert!(refused.code() == 1 && refused.err().contains("traces it"), "{}", refused.err());
        run.start()
    };
    deadline::until_true("the daemon answers", || home.daemon().is_some());
    (trace, running)
}

fn sightings(canaries: &[Canary], place: &Path, bytes: &[u8]) -> Vec<Sighting> {
    canaries.iter().flat_map(|c| c.search(place, bytes)).collect()
}

fn spoken(canaries: &[Canary], what: &str, outcome: &Outcome) -> Vec<Sighting> {
    [&outcome.stdout, &outcome.stderr]
        .into_iter()
        .flat_map(|stream| sightings(canaries, Path::new(what), stream))
        .collect()
}

#[test]
fn no_value_is_found_in_any_file_written_in_any_log_or_in_any_answer_of_ours() {
    let aws = Aws::Moto;
    let home = Home::new();
    let traces = tempfile::tempdir().expect("a temporary directory can be made");
    let name = unique("leak");
    let [remote, local, set, sign_in] = ["remote", "local", "set", "signin"].map(canary::word);
    aws.create(&name, &format!("{{\"url\":\"{remote}\",\"n\":1}}"));
    let proxy = Proxy::new(&aws.address());
    let (trace, daemon) = traced_daemon(&home, traces.path());
    let values = [remote.as_str(), &local, &set, &sign_in, home.passphrase()];
    let canaries: Vec<Canary> = values.iter().map(|v| Canary::new(v.as_bytes())).collect();

    let manifest = format!(
        "[project]\nname = \"leak\"\n[providers.org]\nkind = \"aws-secrets-manager\"\nregion = \"{REGION}\"\nendpoint = \"{}\"\n\
         timeout = \"1s\"\nnegative-ttl = \"0\"\n[secrets]\nREMOTE = \"org://{name}#url\"\nLOCAL = \"local://leak\"\nSET = \"org://{name}-set\"\n\
         NO_FIELD = {{ ref = \"org://{name}#none\", required = false }}\nNO_JSON = {{ ref = \"local://leak#x\", required = false }}\n",
        proxy.url()
    );
    let project = home
        .project("leak", &manifest)
        .signed_in(&[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", &sign_in)]);
    let verbose = |run: Run| run.env("BROKER_LOG", "trace").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let mut said = Vec::new();
    let mut go = |what: &str, run: Run, code: Option<i32>| {
        let outcome = verbose(run).run();
        if let Some(code) = code {
            outcome.expect_code(code);
        }
        said.extend(spoken(&canaries, what, &outcome));
    };
    go("set local", project.broker_with_passphrase(["secret", "set", "local://leak"]).stdin(&local), Some(0));
    go("trust", project.broker(["trust", "--yes"]), Some(0));
    go("set remote", project.broker(["secret", "set", "SET"]).stdin(&set), Some(0));
    go("exec", project.shell(&[], "test -n \"$REMOTE$LOCAL$SET\""), Some(0));
    go("exec again", project.shell(&["--refresh"], "exit 7"), Some(7));
    for command in [
        &["check"][..],
        &["check", "--json"],
        &["explain"],
        &["secret", "list"],
        &["lease", "list", "--json"],
        &["audit"],
        &["doctor"],
        &["whoami"],
    ] {
        go(command[0], project.broker(command), None);
    }
    go("get a pipe", project.broker(["get", "LOCAL"]), Some(1));
    go("missing command", project.exec(["no-such-command"]), Some(127));
    for fault in [
        Fault::Reset,
        Fault::CutAfter(150),
        Fault::Answer(200, format!("{{\"SecretString\":\"{remote}")),
        Fault::Answer(500, remote.clone()),
    ] {
        proxy.fail_all(fault.clone());
        go(
            &format!("{fault:?}").chars().take(9).collect::<String>(),
            project.broker(["exec", "--refresh", "--", "/bin/true"]),
            None,
        );
    }
    let pid = home.daemon().expect("it runs");
    process::signal(pid, 15);
    let ended = daemon.finish();
    said.extend(spoken(&canaries, "the daemon's log", &ended));
    assert!(ended.err().contains("ready"), "there is no log to search: {:?}", ended.err());
    assert_eq!(said, []);

    let written = trace.written();
    if user::is_root() {
        assert!(written.iter().any(|p| p.ends_with("audit.jsonl")), "the trace saw no audit log: {written:?}");
        assert!(written.iter().any(|p| p.starts_with(home.data())), "the trace saw no store: {written:?}");
    } else {
        // The one that was traced wrote nothing: it ended.
        assert!(!written.iter().any(|p| p.starts_with(home.data())), "the daemon can be read: {written:?}");
    }
    assert!(home.audit_log().exists() && home.data().join("broker").exists());
    let lines = trace.writes_to_files().join("\n");
    assert_eq!(sightings(&canaries, Path::new("bytes written to files"), lines.as_bytes()), []);
    let places: BTreeSet<PathBuf> = written.into_iter().chain([home.root().to_owned()]).collect();
    for canary in &canaries {
        let seen: Vec<_> = places.iter().flat_map(|p| canary.search_files(p)).collect();
        assert_eq!(seen, []);
    }
}

#[test]
fn a_forced_crash_of_the_daemon_leaves_no_core_and_no_value() {
    for signal in [6, 11] {
        let (home, _) = crate::shop::one(b"");
        let value = canary::word("crash");
        home.store("local://crash", &value);
        let cores = cores();
        let pid = home.daemon().expect("it runs");
        // The runtime's handler swallows the first SIGSEGV that no fault caused, and lets the second one through.
        deadline::until_true("the daemon crashed", || {
            process::signal(pid, signal);
            process::wait_end(pid, Duration::from_millis(50))
        });
        let canary = Canary::new(value.as_bytes());
        let new: Vec<_> = self::cores().difference(&cores).cloned().collect();
        assert_eq!(new, Vec::<PathBuf>::new(), "signal {signal} left a core");
        assert_eq!(canary.search_files(home.root()), []);
    }
}

#[test]
fn a_forced_crash_of_the_command_leaves_no_core() {
    let value = canary::word("crash");
    let (home, manifest) = crate::shop::one(value.as_bytes());
    let project = home.project("one", manifest).trusted();
    let before = cores();
    let crashed = project.shell(&[], "ulimit -c; kill -SEGV $$").run();
    crashed.expect_code(139);
    assert_eq!(cores().difference(&before).count(), 0);
    assert_eq!(Canary::new(value.as_bytes()).search_files(home.root()), []);
}

#[test]
fn a_client_that_crashes_while_it_waits_for_values_leaves_no_core() {
    let aws = Aws::Moto;
    let home = Home::new();
    let name = unique("crash");
    let value = canary::word("crash");
    aws.create(&name, &value);
    let proxy = Proxy::new(&aws.address());
    let project = crate::aws::project(&home, aws, &proxy.url(), "", &[("VALUE".into(), name)]);
    proxy.fail_all(Fault::FirstByteAfter(Duration::from_secs(2)));
    let before = cores();
    let client = project.exec(["/bin/true"]).start();
    deadline::until_true("the fetch is under way", || proxy.call_count() > 0);
    assert_eq!(process::name(client.pid()).as_deref(), Some("broker"));
    client.signal(11);
    client.finish().expect_code(139);
    assert_eq!(cores().difference(&before).count(), 0);
    deadline::until_true("the lease of the crashed client has ended", || {
        let ended = home.audited("lease-ended");
        home.leases().is_empty() && !ended.is_empty()
    });
    assert_eq!(Canary::new(value.as_bytes()).search_files(home.root()), []);
}

/// Returns the cores that lie where the kernel would put one of a process that stood in `/`, in a home or in a project.
fn cores() -> BTreeSet<PathBuf> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let directory = Path::new(pattern.trim())
        .parent()
        .filter(|d| d.is_absolute())
        .map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let mut found = BTreeSet::new();
    for place in [directory, PathBuf::from("/"), std::env::temp_dir()] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        found.extend(
            entries
                .map(|e| e.path())
                .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("core"))),
        );
    }
    found
}
