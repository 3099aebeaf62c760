//! What becomes of a program that is not there, not the pinned one, slow, loud, wrong or curious: a clear kind, within the
//! deadline, nothing of the others lost, and nothing told that it has no business with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use broker_core::instance::{InstanceSettings, Words};
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, FetchOptions, Fetched, ListOptions, Provider, ProviderError, Retry};
use broker_providers::registry::Instance;
use support::program::{digest, opened, pinned, written};
use support::{reference, registry, signed_in};

type Results = Vec<Result<Fetched, ProviderError>>;

/// A program that answers every reference with the text that `BODY` prints, having read its request into `$request`.
const ANSWERS: &str = "#!/bin/sh\nrequest=$(cat)\n";

async fn fetch(provider: &dyn Provider, references: &[SecretRef], budget: Duration) -> Results {
    provider.fetch(references, FetchOptions::within(budget)).await
}

/// Asks the program `script` for these paths.
async fn asked(script: &str, paths: &[&str], budget: Duration) -> Results {
    let dir = tempfile::tempdir().unwrap();
    let program = written(dir.path(), "program", script);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[dir.path().to_str().unwrap()]));
    let references: Vec<_> = paths.iter().map(|path| reference(&format!("op://{path}"))).collect();
    let results = fetch(&*provider, &references, budget).await;
    assert_eq!(results.len(), paths.len());
    for (result, reference) in results.iter().zip(&references) {
        if let Err(error) = result {
            assert_eq!(error.reference.as_ref(), Some(reference));
        }
    }
    results
}

const SOON: Duration = Duration::from_secs(10);

fn one(mut results: Results) -> ProviderError {
    results.pop().unwrap().unwrap_err()
}

fn bytes(result: &Result<Fetched, ProviderError>) -> &[u8] {
    result.as_ref().unwrap_or_else(|error| panic!("{error}")).value.expose()
}

/// Waits until `file` has a whole line and returns it.
fn line_of(file: &Path) -> String {
    let until = Instant::now() + SOON;
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(Instant::now() < until, "nothing wrote `{}`", file.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells whether a process lives (and is no zombie).
fn lives(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

fn is_gone_soon(pid: &str) -> bool {
    let until = Instant::now() + SOON;
    while lives(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    !lives(pid)
}

// --- Which program.

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_cannot_name_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let program = written(dir.path(), "program", &format!("#!/bin/sh\ntouch {}\n", trace.display()));
    let error =
        registry(dir.path()).open("op", &Instance::of_manifest(pinned(&program, &[])), &SignIn::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.cause.contains("configuration only"), "{error}");
    assert!(!trace.exists());
    // The same instance in the configuration runs.
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    fetch(&*provider, &[reference("op://a")], SOON).await;
    assert!(trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_whole_pin_is_refused_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let program = written(dir.path(), "program", ANSWERS);
    let good = pinned(&program, &[]);
    let with = |command: Option<&str>, sha256: Option<&str>| InstanceSettings {
        command: command.map(Words::from),
        sha256: sha256.map(str::to_owned),
        ..good.clone()
    };
    let (path, digest) = (program.to_str(), good.sha256.as_deref());
    for settings in [
        with(None, digest),
        with(path, None),
        with(Some("program"), digest),
        with(Some("./program"), digest),
        with(Some("/usr/bin/../bin/true"), digest),
        with(path, Some("abc")),
        InstanceSettings { environment: Some("A B".into()), ..good.clone() },
        InstanceSettings { environment: Some("=x".into()), ..good.clone() },
        InstanceSettings { environment: Some("LD_PRELOAD".into()), ..good.clone() },
        InstanceSettings { region: Some("eu-west-1".into()), ..good.clone() },
    ] {
        let opened = registry(dir.path()).open("op", &Instance::fixed(settings.clone()), &SignIn::default());
        let error = opened.map(|_| ()).expect_err(&format!("{settings:?}"));
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.hint.is_some(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_the_pinned_one_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let program = written(dir.path(), "program", ANSWERS);
    let settings = pinned(&program, &[]);
    written(dir.path(), "program", &format!("#!/bin/sh\ntouch {}\n", trace.display()));
    let provider = opened(&registry(dir.path()), "op", &settings);
    let error = one(fetch(&*provider, &[reference("op://a")], SOON).await);
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.cause.contains(&digest(&program)) && error.hint.is_some(), "{error}");
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_edited_replaced_or_opened_to_others_is_refused_at_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let good = format!("{ANSWERS}printf '{{\"broker\":1,\"results\":[{{\"id\":\"0\",\"text\":\"good\"}}]}}'\n");
    let program = written(dir.path(), "program", &good);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let evil = format!("#!/bin/sh\ntouch {}\n", trace.display());
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // Over the same inode, by another one in its place, and by who may write it or stand in for it.
    let edit =
        || fs::File::options().write(true).truncate(true).open(&program).unwrap().write_all(evil.as_bytes()).unwrap();
    let replace = || {
        fs::remove_file(&program).unwrap();
        written(dir.path(), "program", &evil);
    };
    let touched: [(&str, &dyn Fn()); 4] = [
        ("edited", &edit),
        ("replaced", &replace),
        ("writable", &|| mode(&program, 0o777)),
        ("in a writable place", &|| mode(dir.path(), 0o777)),
    ];
    for (how, touch) in touched {
        assert_eq!(bytes(&fetch(&*provider, &[reference("op://a")], SOON).await[0]), b"good", "before it is {how}");
        touch();
        for options in [FetchOptions::within(SOON), FetchOptions { refresh: true, ..FetchOptions::within(SOON) }] {
            // Another name each time, for a refusal is remembered for a while.
            let name = reference(&format!("op://{}/{}", how.replace(' ', "-"), options.refresh));
            let error = one(provider.fetch(&[name], options).await);
            assert_eq!(error.kind, ErrorKind::Denied, "{how}: {error}");
        }
        mode(dir.path(), 0o700);
        fs::remove_file(&program).unwrap();
        written(dir.path(), "program", &good);
        provider.forget();
    }
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_and_a_missing_interpreter_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let program = written(dir.path(), "program", "#!/nonexistent/interpreter\n");
    let settings = pinned(&program, &[]);
    let provider = opened(&registry(dir.path()), "op", &settings);
    let error = one(fetch(&*provider, &[reference("op://a")], SOON).await);
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("interpreter"), "{error}");
    fs::remove_file(&program).unwrap();
    let provider = opened(&registry(dir.path()), "op", &settings);
    let error = one(fetch(&*provider, &[reference("op://a")], SOON).await);
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("cannot be read"), "{error}");
    let nothing = written(dir.path(), "nothing", "echo no first line\n");
    let provider = opened(&registry(dir.path()), "op", &pinned(&nothing, &[]));
    let error = one(fetch(&*provider, &[reference("op://a")], SOON).await);
    assert!(error.cause.contains("`#!`"), "never handed to a shell: {error}");
}

// --- What it gets.

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_a_clean_environment_and_no_descriptor_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let script = format!(
        r#"#!/usr/bin/python3 -I
import fcntl, json, os, sys
request = json.load(sys.stdin)
seen = {{
    "environment": dict(os.environ),
    "descriptors": {{fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists("/proc/self/fd/" + fd)}},
    "cwd": os.getcwd(), "group": os.getpgrp() == os.getpid(), "argv": open("/proc/self/cmdline").read().split("\0"),
    "signals": open("/proc/self/status").read(), "mode": fcntl.fcntl(3, fcntl.F_GETFL) & os.O_ACCMODE,
}}
open("{}", "w").write(json.dumps(seen) + "\n")
print(json.dumps({{"broker": 1, "results": [{{"id": "0", "text": "x"}}]}}))
"#,
        seen.display()
    );
    let program = written(dir.path(), "program", &script);
    let settings = InstanceSettings {
        environment: Some(Words::Many(
            ["AWS_PROFILE", "AWS_NOT_SET", "PATH=/usr/bin", "TEAM=a=b"].map(str::to_owned).into(),
        )),
        ..pinned(&program, &["one", "two words"])
    };
    // A descriptor that somebody forgot, and that every child would inherit.
    let forgotten = fs::File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&forgotten, rustix::io::FdFlags::empty()).unwrap();
    let control = std::process::Command::new("/bin/ls").arg("/proc/self/fd").output().unwrap();
    let number = forgotten.as_raw_fd().to_string();
    assert!(String::from_utf8_lossy(&control.stdout).lines().any(|fd| fd == number), "the fixture leaks");

    let sign_in = signed_in(&[("AWS_PROFILE", "shop"), ("AWS_SECRET_ACCESS_KEY", "canary")]);
    let opened = registry(dir.path()).open("op", &Instance::fixed(settings), &sign_in).unwrap();
    assert_eq!(bytes(&fetch(&*opened.provider, &[reference("op://a")], SOON).await[0]), b"x");

    let seen: serde_json::Value = serde_json::from_str(&line_of(&seen)).unwrap();
    let mut environment = seen["environment"].as_object().unwrap().clone();
    // Python sets it for itself where no locale is given (PEP 538).
    environment.remove("LC_CTYPE");
    for name in ["HOME", "LANG"] {
        assert_eq!(environment.remove(name).map(|v| v.as_str().unwrap().to_owned()), std::env::var(name).ok());
    }
    let expected = serde_json::json!({"PATH": "/usr/bin", "AWS_PROFILE": "shop", "TEAM": "a=b"});
    assert_eq!(serde_json::Value::from(environment), expected);
    let descriptors = seen["descriptors"].as_object().unwrap();
    let numbers: Vec<_> = descriptors.keys().map(String::as_str).collect();
    assert_eq!(numbers, ["0", "1", "2", "3"], "{descriptors:?}");
    assert!(["0", "1", "2"].iter().all(|fd| descriptors[*fd].as_str().unwrap().starts_with("pipe:")));
    assert!(descriptors["3"].as_str().unwrap().starts_with("/memfd:program"), "only itself: {descriptors:?}");
    assert_eq!(seen["mode"].as_i64(), Some(0), "it is open for more than reading");
    assert_eq!((seen["cwd"].as_str(), seen["group"].as_bool()), (Some("/"), Some(true)));
    let argv: Vec<_> = seen["argv"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    assert_eq!(argv, ["/usr/bin/python3", "-I", "/proc/self/fd/3", "one", "two words", ""]);
    let blocked = seen["signals"].as_str().unwrap().lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned();
    assert!(blocked.ends_with("\t0000000000000000"), "{blocked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_runs_from_its_checked_copy_with_three_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    // Its output is no answer. That it ran, and how, shows in the kind.
    let binary = dir.path().join("ls");
    fs::copy("/bin/ls", &binary).unwrap();
    let out = dir.path().join("out");
    let shell = fs::read_link("/bin/sh").map_or("/bin/sh".into(), |target| Path::new("/bin").join(target));
    let copy = dir.path().join("sh");
    fs::copy(fs::canonicalize(shell).unwrap(), &copy).unwrap();
    let script = format!(
        "ls -l /proc/self/fd >{}; printf '{{\"broker\":1,\"results\":[{{\"id\":\"0\",\"text\":\"%s\"}}]}}' \"$0\"",
        out.display()
    );
    let provider = opened(&registry(dir.path()), "op", &pinned(&copy, &["-c", &script]));
    let results = fetch(&*provider, &[reference("op://a")], SOON).await;
    assert_eq!(bytes(&results[0]), copy.to_str().unwrap().as_bytes(), "its name is its path");
    let listing = fs::read_to_string(&out).unwrap();
    // The directory that `ls` reads is its own fourth; the shell's own output file is 1.
    assert_eq!(listing.lines().filter(|line| line.contains(" -> ")).count(), 4, "{listing}");
    assert!(!listing.contains("memfd"), "{listing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_stored_stands_in_no_argument_and_no_variable() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let script = format!(
        "#!/bin/sh\nrequest=$(cat)\ntr '\\0' '\\n' </proc/$$/cmdline >>{0}\ntr '\\0' '\\n' </proc/$$/environ >>{0}\n\
         case $request in *capabilities*) printf '{{\"broker\":1,\"operations\":[\"put\"]}}';; *Y2FuYXJ5LTE=*) printf '{{\"broker\":1}}';; esac\n",
        seen.display()
    );
    let program = written(dir.path(), "program", &script);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let deadline = tokio::time::Instant::now() + SOON;
    provider.put(&reference("op://a"), SecretValue::from("canary-1".to_owned()), deadline).await.unwrap();
    let seen = fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("PATH=") && seen.contains("/proc/self/fd/3"), "{seen}");
    assert!(!seen.contains("canary") && !seen.contains("Y2FuYXJ5"), "{seen}");
}

// --- What it does.

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_hangs_ends_at_the_deadline_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (own, child) = (dir.path().join("own"), dir.path().join("child"));
    let script = format!(
        "#!/bin/sh\necho $$ >{}\n(trap '' TERM HUP INT; echo $(exec sh -c 'echo $PPID') >{}; while :; do sleep 1000; done) &\nwait\n",
        own.display(),
        child.display()
    );
    let program = written(dir.path(), "program", &script);
    let settings = InstanceSettings { timeout: Some("1s".to_owned()), ..pinned(&program, &[]) };
    let provider = opened(&registry(dir.path()), "op", &settings);
    let started = Instant::now();
    let error = one(fetch(&*provider, &[reference("op://a")], Duration::from_secs(1)).await);
    assert!((900..2500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("program was not done") && matches!(error.retry, Retry::After(_)), "{error}");
    for file in [own, child] {
        let pid = line_of(&file);
        assert!(is_gone_soon(&pid), "{} still runs", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_nobody_waits_for_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let program = written(dir.path(), "program", &format!("#!/bin/sh\necho $$ >{}\nsleep 1000\n", own.display()));
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let task = tokio::spawn(async move {
        // A fetch has a flight of its own, which others may have boarded.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
        let _ = provider.list(ListOptions::default(), deadline).await;
    });
    let pid = line_of(&own);
    assert!(lives(&pid), "the fixture runs");
    task.abort();
    assert!(is_gone_soon(&pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_keeps_the_output_open_is_not_waited_for_and_does_not_survive() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let script = format!(
        "{ANSWERS}sleep 1000 &\necho $! >{}\nprintf '{{\"broker\":1,\"results\":[{{\"id\":\"0\",\"text\":\"x\"}}]}}'\n",
        child.display()
    );
    let program = written(dir.path(), "program", &script);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let started = Instant::now();
    assert_eq!(bytes(&fetch(&*provider, &[reference("op://a")], SOON).await[0]), b"x");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(is_gone_soon(&line_of(&child)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_writes_without_end_is_ended_long_before_the_deadline() {
    for (stream, script) in [("output", "#!/bin/sh\nexec yes\n"), ("error", "#!/bin/sh\nexec yes >&2\n")] {
        let started = Instant::now();
        let error = one(asked(script, &["a"], Duration::from_secs(60)).await);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
        assert!(error.cause.contains(stream), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_program_is_not_believed_and_its_standard_error_not_shown() {
    let answer = r#"printf '{"broker":1,"results":[{"id":"0","text":"x"}]}'"#;
    for (script, words) in [
        (format!("{ANSWERS}exit 3\n"), "ended with status 3 and wrote nothing to standard error"),
        (format!("{ANSWERS}{answer}\nexit 3\n"), "ended with status 3"),
        (format!("{ANSWERS}echo canary-1 >&2\nexit 1\n"), "the 9 bytes on its standard error are not shown"),
        (format!("{ANSWERS}{answer}\nkill -SEGV $$\n"), "was killed by signal 11"),
    ] {
        let error = one(asked(&script, &["a"], SOON).await);
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.cause.contains(words), "{error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains("echo '{"), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
    // Noise there does not harm.
    let results = asked(&format!("{ANSWERS}echo canary-1 >&2\n{answer}\n"), &["a"], SOON).await;
    assert_eq!(bytes(&results[0]), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hint_names_the_operation_that_failed_and_its_request_is_one_that_the_program_can_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let all = r#"printf '{"broker":1,"operations":["fetch","put","delete","list","describe"]}'"#;
    for (wrong, kind) in [("exit 1", ErrorKind::Unavailable), ("echo nonsense", ErrorKind::Malformed)] {
        let script = format!("{ANSWERS}case $request in *capabilities*) {all};; *) {wrong};; esac\n");
        let program = written(dir.path(), "program", &script);
        let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
        let secret = reference("op://it's");
        let deadline = tokio::time::Instant::now() + SOON;
        let failed = [
            ("fetch", one(fetch(&*provider, std::slice::from_ref(&secret), SOON).await)),
            ("put", provider.put(&secret, SecretValue::from("x".to_owned()), deadline).await.unwrap_err()),
            ("delete", provider.delete(&secret, deadline).await.unwrap_err()),
            ("list", provider.list(ListOptions::default(), deadline).await.unwrap_err()),
            ("describe", provider.describe(&secret, deadline).await.map(|_| ()).unwrap_err()),
        ];
        for (operation, error) in failed {
            assert_eq!(error.kind, kind, "{operation}: {error}");
            let hint = error.hint.unwrap();
            assert!(hint.starts_with(&format!("`{operation}` failed; ")), "{hint}");
            let request = hint.split_once("echo '").unwrap().1.split_once("' | ").unwrap().0;
            let request: serde_json::Value = serde_json::from_str(request).unwrap();
            assert_eq!(request["operation"], operation);
        }
    }
    // What failed is the question before it.
    let program = written(dir.path(), "program", &format!("{ANSWERS}echo nonsense\n"));
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let error = provider.list(ListOptions::default(), tokio::time::Instant::now() + SOON).await.unwrap_err();
    assert!(error.hint.as_deref().unwrap_or_default().starts_with("`capabilities` failed; "), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_prints_nonsense_answers_nothing() {
    for (body, words) in [
        ("echo canary-1", "no JSON"),
        (":", "answered nothing"),
        ("printf '{\"broker\":1,\"results\":[{\"id\":\"7\",\"text\":\"canary-1\"}]}'", "not asked"),
        ("printf '{\"broker\":9,\"results\":[]}'", "version 9"),
    ] {
        for error in asked(&format!("{ANSWERS}{body}\n"), &["a", "b"], SOON).await {
            let error = error.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Malformed | ErrorKind::Unsupported), "{error}");
            assert!(error.cause.contains(words) && !format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_results_failing_leaves_the_others_unharmed() {
    let body = r#"printf '{"broker":1,"results":[{"id":"2","text":"of c"},{"id":"0","error":"throttled","retry_after":7},
        {"id":"1","text":null},{"id":"4","error":"denied","cause":"not yours"}]}'"#;
    let results = asked(&format!("{ANSWERS}{body}\n"), &["a", "b", "c", "d", "e"], SOON).await;
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect();
    let malformed = Some(ErrorKind::Malformed);
    assert_eq!(kinds, [Some(ErrorKind::Throttled), malformed, None, malformed, Some(ErrorKind::Denied)]);
    assert_eq!(bytes(&results[2]), b"of c");
    assert_eq!(results[0].as_ref().unwrap_err().retry, Retry::After(Duration::from_secs(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_read_its_request_is_still_heard() {
    // More than a pipe holds, so that the writing meets the closed end.
    let paths: Vec<_> = (0..500).map(|number| format!("{number}-{}", "x".repeat(1000))).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let script = "#!/bin/sh\nexec <&-\nprintf '{\"broker\":1,\"error\":\"unavailable\",\"cause\":\"closed\"}'\n";
    for result in asked(script, &paths, SOON).await {
        let error = result.unwrap_err();
        assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unavailable, "closed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_answers_for_many_and_a_large_value_goes_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let program = written(dir.path(), "store.py", include_str!("programs/store.py"));
    let registry = registry(dir.path());
    let store = dir.path().join("store");
    let provider = opened(&registry, "files", &pinned(&program, &[store.to_str().unwrap()]));
    let calls = || registry.calls().into_iter().find(|(name, _)| name == "files").unwrap().1;
    let deadline = || tokio::time::Instant::now() + SOON;
    let large = vec![b'\n'; 8 << 20];
    provider.put(&reference("files://large"), SecretValue::new(large.clone()), deadline()).await.unwrap();
    assert_eq!(calls(), 2, "what it can, and the writing");
    let references: Vec<_> = (0..300).map(|number| reference(&format!("files://{number}"))).collect();
    let mut references = references;
    references.push(reference("files://large"));
    let results = fetch(&*provider, &references, SOON).await;
    assert_eq!(calls(), 3);
    assert!(bytes(&results[300]) == large);
    assert!(results[..300].iter().all(|result| result.as_ref().unwrap_err().kind == ErrorKind::NotFound));
    // What it can is known by now.
    provider.list(ListOptions::default(), deadline()).await.unwrap();
    assert_eq!(calls(), 4);
    fetch(&*provider, &[reference("files://large?stage=previous")], SOON).await;
    assert_eq!(calls(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_does_not_know_is_unsupported_and_not_tried() {
    let script = format!(
        "{ANSWERS}case $request in *capabilities*) printf '{{\"broker\":1,\"operations\":[\"fetch\"]}}';; *) touch \"$1/tried\";; esac\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let program = written(dir.path(), "program", &script);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[dir.path().to_str().unwrap()]));
    let deadline = || tokio::time::Instant::now() + SOON;
    let secret = reference("op://a");
    let put = provider.put(&secret, SecretValue::from("x".to_owned()), deadline()).await.map(|_| ());
    let listed = provider.list(ListOptions::default(), deadline()).await.map(|_| ());
    let described = provider.describe(&secret, deadline()).await.map(|_| ());
    let old = one(fetch(&*provider, &[reference("op://a?version=1")], SOON).await);
    for result in [put, listed, described, provider.delete(&secret, deadline()).await, Err(old)] {
        assert_eq!(result.unwrap_err().kind, ErrorKind::Unsupported);
    }
    let can = provider.capabilities();
    assert!(!can.write && !can.list && !can.describe && !can.versions && !can.promote);
    assert!(!dir.path().join("tried").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_start_few_processes_and_all_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let running = dir.path().join("running");
    fs::create_dir(&running).unwrap();
    let script = format!(
        "{ANSWERS}: >\"{0}/$$\"\nset -- \"{0}\"/*\nif [ $# -gt 4 ]; then touch \"{0}-too-many\"; fi\nsleep 0.05\nrm \"{0}/$$\"\n\
         printf '{{\"broker\":1,\"results\":[{{\"id\":\"0\",\"text\":\"x\"}}]}}'\n",
        running.display()
    );
    let program = written(dir.path(), "program", &script);
    let provider = opened(&registry(dir.path()), "op", &pinned(&program, &[]));
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let provider = std::sync::Arc::clone(&provider);
            tokio::spawn(async move { fetch(&*provider, &[reference(&format!("op://{number}"))], SOON).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(bytes(&task.await.unwrap()[0]), b"x");
    }
    assert!(!dir.path().join("running-too-many").exists());
}
