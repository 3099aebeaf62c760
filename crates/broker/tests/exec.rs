//! `broker exec` as its caller and its child see it, in front of a daemon that says what the test wants.
#![allow(clippy::unwrap_used)]

mod fake;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use fake::{ATTESTED, World, grant, refusal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ends(output: &Output, code: i32, stderr: &str) {
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), stderr));
}

/// A world whose daemon grants `KEY=hunter2`.
fn granting() -> World {
    let world = World::new();
    world.serve(|asked| if asked.target == "/v1/grant" { grant(&[("KEY", b"hunter2")]) } else { None });
    world
}

#[test]
fn the_child_has_its_secrets_and_settings_and_not_what_is_withheld() {
    let world = granting();
    let output = world
        .broker(&["exec", "--", "env"])
        .env("WITHHELD", "from the parent")
        .env("KEY", "from the parent")
        .env("BROKER_NON_INTERACTIVE", "1")
        .env("OTHER", "kept")
        .output()
        .unwrap();
    let mut lines: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.retain(|line| !["HOME=", "PATH=", "XDG_RUNTIME_DIR="].iter().any(|name| line.starts_with(name)));
    lines.sort();
    assert_eq!(lines, ["BROKER_LEASE=l-aaaaaaaaaaaaaaaaaaaaaaaa", "KEY=hunter2", "OTHER=kept", "PORT=3000"]);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_client_seals_itself_after_it_was_attested_and_before_it_asks() {
    let world = granting();
    // The client's core limit as the daemon sees it at each request tells whether it was sealed by then.
    let output = shell(&world, "ulimit -c unlimited; exec BROKER exec -- true");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let seen: Vec<_> = world.asked().iter().map(|asked| (asked.target.clone(), asked.core_limit.clone())).collect();
    let attest = ("/v1/attest".to_owned(), "unlimited".to_owned());
    assert_eq!(seen, [attest, ("/v1/grant".to_owned(), "1".to_owned())]);
}

#[test]
fn the_exit_code_and_the_signal_of_the_child_are_our_own() {
    let world = granting();
    assert_eq!(world.broker(&["exec", "--", "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    assert_eq!(world.broker(&["run", "--", "sh", "-c", "kill -9 $$"]).status().unwrap().signal(), Some(9));
}

#[test]
fn the_child_is_this_very_process() {
    let world = granting();
    let child = world.broker(&["x", "--", "sh", "-c", "echo $$"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout).trim(), pid);
}

#[test]
fn the_child_has_the_signal_dispositions_and_mask_that_our_caller_gave_us() {
    let world = granting();
    let own = |ignored: &str| {
        // `SigIgn` and `SigBlk` of the child itself; python sets dispositions and mask as no shell can.
        let program = format!(
            "import os, signal as s\n\
             s.signal(s.SIGPIPE, s.{ignored}); s.signal(s.SIGXFSZ, s.SIG_DFL); s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR2])\n\
             b = {:?}\n\
             os.execv(b, [b, 'exec', '--', 'grep', '-E', 'Sig(Ign|Blk)', '/proc/self/status'])",
            env!("CARGO_BIN_EXE_broker")
        );
        let mut python = Command::new("python3");
        python.args(["-c", &program]).env_clear().current_dir(world.at("project"));
        python.env("HOME", world.at("home")).env("XDG_RUNTIME_DIR", world.at("run")).env("PATH", "/usr/bin:/bin");
        let output = python.output().unwrap();
        let mask = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        let shown = text(&output.stdout);
        let [blocked, ignored]: [u64; 2] = shown.lines().map(mask).collect::<Vec<_>>().try_into().unwrap();
        let bit = |signal: u32| 1_u64 << (signal - 1);
        (blocked == bit(12), ignored & bit(13) != 0)
    };
    assert_eq!(own("SIG_DFL"), (true, false), "SIGPIPE must kill a child whose caller let it");
    assert_eq!(own("SIG_IGN"), (true, true), "SIGPIPE must stay ignored where the caller ignored it");
}

/// Runs a line of shell in the project; `BROKER` in it stands for the program.
fn shell(world: &World, line: &str) -> Output {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &line.replace("BROKER", env!("CARGO_BIN_EXE_broker"))])
        .env_clear()
        .current_dir(world.at("project"));
    shell.env("HOME", world.at("home")).env("XDG_RUNTIME_DIR", world.at("run")).env("PATH", "/usr/bin:/bin");
    shell.output().unwrap()
}

#[test]
fn the_child_has_the_descriptors_of_our_caller_and_none_of_ours() {
    let world = granting();
    for redirected in ["", "7</dev/null", "<&-", "<&- >&-"] {
        let show = format!("sh -c 'ls -l /proc/self/fd | tr -s \" \" | cut -d\" \" -f9 >&2' {redirected}");
        let without_us = shell(&world, &format!("exec {show}"));
        let with_us = shell(&world, &format!("exec BROKER exec -- {show}"));
        assert!(!without_us.stderr.is_empty());
        assert_eq!(text(&with_us.stderr), text(&without_us.stderr), "{redirected}");
    }
}

#[test]
fn our_words_never_land_in_the_socket() {
    let world = World::new();
    world.serve(|asked| {
        let head = br#"{"lease":null,"values":[],"settings":[],"remove":[],"notes":["`org` is away"]}"#;
        (asked.target == "/v1/grant").then(|| (200, [&head[..], b"\n"].concat()))
    });
    // Standard error is closed: the socket would get its number, and the note would be written to it.
    assert!(shell(&world, "exec BROKER exec -- true 2>&-").status.success());
    // The daemon serves one connection after the other: when the second is served, the first was read to its end.
    assert!(!world.broker(&["lock"]).stderr(Stdio::null()).status().unwrap().success());
    let targets: Vec<_> = world.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/v1/attest", "/v1/grant", "/v1/attest", "/v1/lock"]);
}

#[test]
fn a_crash_of_the_child_leaves_no_core_unless_that_is_allowed() {
    let world = granting();
    let limits = |args: &[&str]| text(&world.broker(args).output().unwrap().stdout).trim().to_owned();
    // bash tells the limit in KiB: one byte is 0 of them; the kernel tells the bytes.
    let show = ["sh", "-c", "grep 'Max core' /proc/self/limits | tr -s ' ' | cut -d' ' -f5,6"];
    let (soft, hard) = {
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        let line: Vec<_> =
            own.lines().find(|l| l.starts_with("Max core")).unwrap().split_whitespace().map(str::to_owned).collect();
        (line[4].clone(), line[5].clone())
    };
    assert_eq!(limits(&[&["exec", "--"][..], &show].concat()), "1 1");
    assert_eq!(limits(&[&["exec", "--allow-core", "--"][..], &show].concat()), format!("{soft} {hard}"));
}

#[test]
fn nothing_is_asked_of_the_daemon_for_a_command_that_cannot_run() {
    let world = granting();
    let plain = world.at("project/plain");
    fs::write(&plain, "").unwrap();
    ends(
        &world.broker(&["exec", "--", "nonesuch"]).output().unwrap(),
        127,
        "error[not-found]: command `nonesuch` was not found\n",
    );
    ends(
        &world.broker(&["exec", "--", "./plain"]).output().unwrap(),
        126,
        "error[not-found]: `./plain` is not executable\n  hint: chmod +x ./plain\n",
    );
    assert_eq!(world.broker(&["exec", "--", "/tmp"]).status().unwrap().code(), Some(126));
    assert!(world.asked().is_empty());
}

#[test]
fn a_script_without_an_interpreter_line_is_126_and_no_shell_runs_it() {
    let world = granting();
    let script = world.at("project/script");
    fs::write(&script, "touch ran\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let output = world.broker(&["exec", "--", "./script"]).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("#!/bin/sh"), "{}", text(&output.stderr));
    assert!(!world.at("project/ran").exists());
}

#[test]
fn every_refusal_of_ours_exits_125_with_its_code() {
    let world = World::new();
    world.serve(|asked| match asked.target.as_str() {
        "/v1/grant" => refusal("denied", "`org` refused\u{1b}[2J", None),
        _ => None,
    });
    ends(
        &world.broker(&["exec", "--", "true"]).output().unwrap(),
        125,
        "error[denied]: `org` refused\\u{1b}[2J\n  hint: the way out\n",
    );
    let usage = world.broker(&["exec", "--no-such-flag", "--", "true"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(125));
    assert!(text(&usage.stderr).starts_with("error[usage]: unexpected argument '--no-such-flag' found"));
    fs::remove_file(world.at("project/broker.toml")).unwrap();
    let without = world.broker(&["exec", "--", "true"]).output().unwrap();
    assert_eq!(without.status.code(), Some(125));
    assert!(text(&without.stderr).starts_with("error[manifest]: no `broker.toml` in "));
}

#[test]
fn a_daemon_that_dies_while_we_wait_is_told_and_not_waited_for() {
    let world = World::new();
    world.serve(|_| None);
    ends(
        &world.broker(&["exec", "--", "true"]).output().unwrap(),
        125,
        "error[daemon]: the daemon ended before it answered\n  hint: run the command again: it starts a new daemon\n",
    );
}

#[test]
fn a_daemon_of_another_protocol_is_refused_before_anything_is_asked() {
    let world = World::new();
    world.serve(|_| Some((200, ATTESTED.replace(":3,", ":99,").into_bytes())));
    let output = world.broker(&["exec", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("speaks protocol 99") && stderr.contains("broker daemon stop"), "{stderr}");
    assert_eq!(world.asked().len(), 1);
}

#[test]
fn a_value_that_cannot_be_delivered_is_named_and_never_shown() {
    let world = World::new();
    world.serve(|asked| (asked.target == "/v1/grant").then(|| grant(&[("KEY", b"hunter\x002")]).unwrap()));
    let output = world.broker(&["exec", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error[value]: the value of `KEY` contains a NUL byte"), "{stderr}");
    assert!(!stderr.contains("hunter"));
}

#[test]
fn two_mebibytes_of_environment_are_refused_with_the_largest_named() {
    let world = World::new();
    let large = vec![b'x'; 120_000];
    let names: Vec<_> = (0..20).map(|n| format!("KEY_{n}")).collect();
    let last = vec![b'x'; 120_001];
    world.serve(move |asked| {
        let mut values: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), large.as_slice())).collect();
        values.push(("THE_LARGEST", &last));
        (asked.target == "/v1/grant").then(|| grant(&values).unwrap())
    });
    let output = world.broker(&["exec", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("the largest variable is `THE_LARGEST`"), "{}", text(&output.stderr));
}

#[test]
fn the_passphrase_is_handed_over_when_it_is_needed_and_the_request_made_once_more() {
    let world = World::new();
    let mut unlocked = false;
    world.serve(move |asked| match asked.target.as_str() {
        "/v1/grant" if unlocked => grant(&[("KEY", b"hunter2")]),
        "/v1/grant" => refusal("unauthenticated", "locked", Some("new-passphrase")),
        "/v1/unlock?create=1" => {
            unlocked = asked.body == b"correct horse";
            Some((200, br#"{"message":"created"}"#.to_vec()))
        }
        _ => None,
    });
    fs::write(world.at("pass"), "correct horse\n").unwrap();
    let without_us = shell(&world, "exec sh -c 'ls /proc/self/fd'");
    let output = shell(&world, "exec BROKER exec --passphrase-fd 9 -- sh -c 'echo $KEY; ls /proc/self/fd' 9<../pass");
    assert_eq!(text(&output.stdout), format!("hunter2\n{}", text(&without_us.stdout)), "{}", text(&output.stderr));
    let targets: Vec<_> = world.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/v1/attest", "/v1/grant", "/v1/unlock?create=1", "/v1/grant"]);
}

#[test]
fn without_anybody_to_ask_a_locked_store_is_an_error_with_a_way_out() {
    let world = World::new();
    world.serve(|asked| match asked.target.as_str() {
        "/v1/grant" => refusal("unauthenticated", "locked", Some("passphrase")),
        _ => None,
    });
    ends(
        &world.broker(&["exec", "--non-interactive", "--", "true"]).output().unwrap(),
        125,
        "error[unauthenticated]: the embedded store is locked: nobody may be asked\n  \
         hint: run `broker unlock` in a terminal, or hand it over: --passphrase-fd N\n",
    );
}

#[test]
fn only_sign_in_variables_leave_the_environment() {
    let world = granting();
    let mut broker = world.broker(&["exec", "--reason", "why", "--only", "KEY", "--", "true", "a b", "--", "-x"]);
    broker.env("AWS_PROFILE", "dev").env("AWS_ENDPOINT_URL", "http://evil").env("CANARY", "3f9a-canary");
    assert!(broker.status().unwrap().success());
    let asked = world.asked().pop().unwrap();
    let ask: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(ask["sign_in"], serde_json::json!([["AWS_PROFILE", "dev"]]));
    assert_eq!(ask["argv"], serde_json::json!(["true", "a b", "--", "-x"]));
    assert_eq!((ask["only"][0].as_str(), ask["reason"].as_str()), (Some("KEY"), Some("why")));
    assert!(!text(&asked.body).contains("canary") && !text(&asked.body).contains("evil"));
}

#[test]
fn a_reader_that_is_gone_ends_us_quietly() {
    let world = World::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // SIGPIPE ignored, as under many supervisors: the write fails instead of killing us.
    let program = format!(
        "import os, signal as s\ns.signal(s.SIGPIPE, s.SIG_IGN)\nb = {:?}\nos.execv(b, [b, 'schema'])",
        env!("CARGO_BIN_EXE_broker")
    );
    let output = Command::new("python3").args(["-c", &program]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    ends(&output, 1, "");
    let mut broken = world.broker(&["exec", "--", "nonesuch"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = broken.stderr(writer).status().unwrap();
    assert!(status.code() == Some(127) || status.signal() == Some(13), "{status:?}");
}

#[test]
fn a_value_is_stored_as_its_bytes() {
    let world = World::new();
    world.serve(|asked| match asked.target.as_str() {
        "/v1/secret/set" => Some((200, br#"{"reference":"local://p/key"}"#.to_vec())),
        _ => None,
    });
    for (args, stored, note) in [
        (&["secret", "set", "KEY"][..], &b"a\0b\xff\n"[..], true),
        (&["secret", "set", "KEY", "--trim-newline"], b"a\0b\xff", false),
    ] {
        let mut child = world.broker(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"a\0b\xff\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).contains("--trim-newline"), note);
        let body = world.asked().pop().unwrap().body;
        let cut = body.iter().position(|byte| *byte == b'\n').unwrap();
        assert_eq!(&body[cut + 1..], stored);
    }
}

#[test]
fn a_value_is_shown_to_no_pipe_unless_that_is_meant() {
    let world = World::new();
    world.serve(|asked| (asked.target == "/v1/secret/get").then(|| grant(&[("KEY", b"hun\0ter2\n")]).unwrap()));
    let refused = world.broker(&["get", "KEY"]).output().unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(text(&refused.stderr).contains("--force") && world.asked().is_empty());
    assert_eq!(world.broker(&["get", "--force", "KEY"]).output().unwrap().stdout, b"hun\0ter2\n");
}

#[test]
fn failures_are_one_line_of_json_where_that_is_asked_for() {
    let world = World::new();
    world.serve(|asked| (asked.target == "/v1/check").then(|| refusal("untrusted", "not trusted", None).unwrap()));
    let output = world.broker(&["check", "--json"]).output().unwrap();
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["code"], "untrusted");
    assert_eq!(error["problems"][0]["hint"], "the way out");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[test]
fn trust_agrees_to_what_was_shown_and_to_nothing_without_a_person() {
    let world = World::new();
    world.serve(|asked| {
        let agreed = serde_json::from_slice::<serde_json::Value>(&asked.body).ok().map(|ask| ask["agreed"] == "abc");
        (asked.target == "/v1/trust").then(|| {
            let shown = serde_json::json!({
                "sha256": "abc", "trusted": agreed, "project": "p", "destinations": [["org", "endpoint", "https://x"]],
                "secrets": [["KEY", "org://k"]], "settings": [],
            });
            (200, shown.to_string().into_bytes())
        })
    });
    let alone = world.broker(&["trust", "--non-interactive"]).output().unwrap();
    assert_eq!(alone.status.code(), Some(1));
    let stderr = text(&alone.stderr);
    assert!(stderr.find("endpoint = https://x").unwrap() < stderr.find("KEY = org://k").unwrap(), "{stderr}");
    assert!(stderr.contains("error[approval-needed]") && stderr.contains("broker trust --yes"), "{stderr}");
    assert!(world.broker(&["trust", "--yes"]).status().unwrap().success());
}

#[test]
fn leases_that_a_killed_daemon_left_are_looked_for_by_starting_the_next() {
    for line in [&["lease", "list"][..], &["lease", "end", "--all"], &["lock"]] {
        let world = World::new();
        // The daemon that belongs to this copy tells that it was started, and serves nothing. Another process writes both:
        // a descriptor of ours that a child of another test inherits would make them busy (execve(2), ETXTBSY).
        let made = shell(
            &world,
            r#"cp BROKER ../broker; printf '#!/bin/sh\n: > "$HOME/started"\nexit 1\n' > ../brokerd; chmod +x ../brokerd"#,
        );
        assert!(made.status.success());
        let output = world.broker_at("broker", line).output().unwrap();
        assert!(world.at("home/started").exists(), "{line:?}");
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{line:?}");
    }
}

#[test]
fn a_daemon_that_never_answers_is_named_with_a_way_to_end_it() {
    let world = World::new();
    // Listens and accepts nothing: the process is this one.
    let _listener = std::os::unix::net::UnixListener::bind(world.at("run/broker/broker.sock")).unwrap();
    let pid = std::process::id();
    ends(
        &world.broker(&["daemon", "stop"]).output().unwrap(),
        1,
        &format!("error[daemon]: the daemon (process {pid}) does not answer\n  hint: end it: kill {pid}\n"),
    );
}
