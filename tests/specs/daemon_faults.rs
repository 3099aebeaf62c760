//! A daemon that dies, hangs, or is none; and clients that misbehave.

use std::time::{Duration, Instant};

use broker_tests::fake_daemon::{FakeDaemon, Habit};
use broker_tests::home::Home;
use broker_tests::wire::Wire;
use broker_tests::{deadline, process, programs, user};
use serde_json::json;

use crate::shop::{Shop, one};

#[test]
fn a_command_survives_its_daemon_and_the_next_command_is_served_by_another() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let mut running = project.exec(["/bin/cat"]).stdin_open().start();
    deadline::until_true("the client became the command", || process::name(running.pid()).as_deref() == Some("cat"));
    let killed = home.daemon().expect("a daemon runs");
    home.kill_daemon();
    assert!(running.is_running());
    let next = project.broker_with_passphrase(["exec", "--", "/bin/echo", "again"]).succeed();
    assert_eq!(next.out(), "again\n");
    let second = home.daemon().expect("a daemon runs");
    assert_ne!(second, killed);
    // The live run is found again by pid, start time and boot id.
    assert!(home.leases().iter().any(|l| l["process"]["pid"] == running.pid()), "{:?}", home.leases());
    running.finish().expect_code(0);
    home.until_no_lease();
}

#[test]
fn a_lease_whose_command_ended_while_no_daemon_lived_is_ended_by_the_next() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let running = project.exec(["/bin/cat"]).stdin_open().start();
    let lease = deadline::until("the lease is live", || home.leases().into_iter().next());
    home.kill_both();
    running.finish().expect_code(0);
    let _ = home.start_daemon();
    assert!(home.leases().is_empty());
    let ended = home.audited("lease-ended");
    assert!(ended.iter().any(|r| r["lease"] == lease["id"] && r["how"] == "unattended"), "{ended:?}");
}

#[test]
fn a_daemon_killed_between_grant_and_exec_does_not_stop_the_command() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    // The command kills the daemon first thing; whatever the client still wanted of it, the command runs.
    let daemon = home.daemon().expect("a daemon runs");
    let run = project.shell(&[], &format!("kill -KILL {daemon}; echo $VALUE"));
    assert_eq!(run.succeed().out(), "value\n");
}

#[test]
fn a_daemon_that_dies_while_a_hundred_clients_wait_fails_or_serves_each_of_them() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let daemon = home.daemon().expect("a daemon runs");
    // Stopped, it accepts nobody, so that all hundred wait when it dies.
    process::signal(daemon, 19);
    let clients: Vec<_> = (0..100).map(|_| project.exec(["/bin/echo", "ran"]).start()).collect();
    deadline::until_true("all clients wait at the socket", || waiting(&home) >= 100);
    process::kill(daemon);
    for client in clients {
        let outcome = client.finish();
        match outcome.code() {
            0 => assert_eq!(outcome.out(), "ran\n"),
            // A new daemon has no passphrase, or the connection broke after the request was sent.
            125 => assert!(
                outcome.err().contains("error[unauthenticated]") || outcome.err().contains("error[daemon]"),
                "{}",
                outcome.err()
            ),
            code => panic!("{code}: {}", outcome.err()),
        }
    }
    assert_eq!(home.audited("daemon-started").len(), 2, "one that died and one more");
}

/// Counts the connections to the home's socket that the kernel knows (`/proc/net/unix`), the listener left out.
fn waiting(home: &Home) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let socket = home.socket().display().to_string();
    table.lines().filter(|l| l.ends_with(&socket)).count().saturating_sub(1)
}

#[test]
fn clients_that_connect_and_say_nothing_hurt_nobody() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let silent: Vec<Wire> = (0..300).map(|_| Wire::connect(&home.socket()).expect("it accepts")).collect();
    let began = Instant::now();
    project.exec(["/bin/true"]).succeed();
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(silent);
}

#[test]
fn bodies_that_never_end_hurt_nobody() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let half = b"POST /v1/grant HTTP/1.1\r\nHost: b\r\nContent-Length: 1000\r\n\r\nx";
    let mut hanging = Vec::new();
    for attested in [false, true] {
        for _ in 0..300 {
            let mut wire = Wire::connect(&home.socket()).expect("it accepts");
            if attested {
                assert_eq!(wire.exchange("GET", "/v1/attest", b"").expect("an answer").status(), 200);
            }
            wire.send(half).expect("it reads");
            hanging.push(wire);
        }
    }
    let began = Instant::now();
    project.exec(["/bin/true"]).succeed();
    assert!(began.elapsed() < Duration::from_secs(10));
    let mut attested = hanging.pop().expect("the last one");
    let told = attested.read_to_end().expect("it is answered and closed in time");
    assert!(told.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&told));
}

#[test]
fn a_daemon_of_another_home_is_refused_with_words() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    project.exec(["/bin/true"]).succeed();
    // Sign-ins lie below `HOME`, whatever the other directories are.
    for variable in ["XDG_CONFIG_HOME", "HOME"] {
        let refused = project.exec(["/bin/true"]).env(variable, home.root().join("elsewhere")).run();
        refused.expect_error(125, "daemon").expect_words(["other directories", "broker daemon stop"]);
    }
}

/// It begins once more with the environment that every daemon has, so this looks at what the kernel says of the process. A
/// keeper does the same. Neither goes on while somebody traces it, as here, and could see everything that it will hold.
#[test]
fn a_daemon_or_keeper_run_by_hand_keeps_no_variable_of_its_shell_and_no_tracer() {
    for word in ["run", "keep"] {
        let home = Home::new();
        let program = programs::directory().join("brokerd");
        let running = home
            .run(program)
            .args([word])
            .env("SSL_CERT_FILE", "/nonexistent/evil.pem")
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("BROKER_LOG", "debug")
            .through(["strace", "-f", "-e", "trace=execve", "-v", "-s", "4096"])
            .start();
        if user::is_root() {
            // Who sees everything anyway may look.
            deadline::until_true("the daemon listens", || home.socket().exists());
            home.broker(["daemon", "stop"]).succeed();
        }
        let outcome = running.finish();
        let said = outcome.err();
        let begun: Vec<_> = said.lines().filter(|line| line.contains("execve(")).collect();
        let last = begun.last().expect("it began");
        assert!(begun.len() == 2 && begun[0].contains("SSL_CERT_FILE"), "{said}");
        assert!(last.contains("BROKER_LOG=debug") && last.contains("HOME="), "{last}");
        assert!(!last.contains("SSL_CERT_FILE") && !last.contains("HTTPS_PROXY"), "{last}");
        if !user::is_root() {
            assert_eq!(outcome.code(), 1, "{word}");
            let told = outcome.out() + &said;
            assert!(told.contains("cannot be protected: process") && told.contains("traces it"), "{told}");
        }
        assert!(!home.socket().exists());
    }
}

#[test]
fn a_request_without_attestation_or_without_sense_is_refused_with_words() {
    let home = Home::new();
    let _ = home.start_daemon();
    for (path, body) in [("/v1/grant", "{}"), ("/v1/grant", "no JSON"), ("/v1/no-such-thing", "{}")] {
        let answer = Wire::connect(&home.socket())
            .and_then(|mut w| w.exchange("POST", path, body.as_bytes()))
            .expect("an answer");
        assert!(answer.status() >= 400, "{path} {body}: {}", answer.first);
    }
    let mut wire = Wire::connect(&home.socket()).expect("it accepts");
    wire.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n").expect("it reads");
    let said = wire.read_to_end().expect("it closes");
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&said));
    home.broker(["lease", "list"]).succeed();
}

#[test]
fn another_protocol_version_is_refused_with_words() {
    let home = Home::new();
    let fake = FakeDaemon::on(&home, Habit::Answer(json!({"protocol": 9999, "version": "99.0.0"}).to_string()));
    let refused = home.project("x", crate::shop::MANIFEST).exec(["/bin/true"]).run();
    refused.expect_error(125, "daemon").expect_words(["99.0.0", "hint: "]);
    assert!(fake.requests() > 0);
}

#[test]
fn a_daemon_that_answers_nonsense_or_hangs_up_is_an_error_and_no_hang() {
    let habits = [
        Habit::Close,
        Habit::Raw(b"\0\0\0".to_vec()),
        Habit::Answer("{}".into()),
        Habit::Raw(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ];
    for habit in habits {
        let home = Home::new();
        let _fake = FakeDaemon::on(&home, habit.clone());
        let project = home.project("x", crate::shop::MANIFEST);
        let refused = project.exec(["/usr/bin/touch", "ran"]).deadline(Duration::from_secs(45)).run();
        assert_eq!(refused.code(), 125, "{habit:?}: {}", refused.err());
        assert!(!project.directory().join("ran").exists());
    }
}

#[test]
fn a_traced_client_is_given_nothing() {
    let shop = Shop::new();
    let project = shop.project();
    let trace = shop.home.root().join("strace.out");
    let run = project
        .shell(&[], "echo $STRIPE_KEY")
        .through(["strace", "-f", "-o"].iter().map(std::ffi::OsStr::new).chain([trace.as_os_str()]));
    let outcome = run.run();
    outcome.expect_code(125);
    assert!(!outcome.out().contains(&shop.stripe));
}

#[test]
fn a_killed_writer_loses_nothing_of_the_embedded_store() {
    let home = Home::new();
    home.store("local://kept", "kept");
    for round in 0..5 {
        let writes: Vec<_> = (0..4)
            .map(|n| {
                home.broker_with_passphrase(["secret", "set", &format!("local://w{round}-{n}")])
                    .stdin("written")
                    .start()
            })
            .collect();
        home.kill_daemon();
        let codes: Vec<i32> = writes.into_iter().map(|w| w.finish().code()).collect();
        let get = |reference: &str| home.broker_with_passphrase(["get", reference, "--force"]).run();
        assert_eq!(get("local://kept").expect_code(0).out().trim_end(), "kept");
        for (n, code) in codes.iter().enumerate() {
            // What was answered as stored is stored.
            if *code == 0 {
                assert_eq!(get(&format!("local://w{round}-{n}")).expect_code(0).out().trim_end(), "written");
            }
        }
    }
}
