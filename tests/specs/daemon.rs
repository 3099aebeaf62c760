//! The daemon: one per user, nobody's child, and gone when it is not needed.

use std::time::{Duration, Instant};

use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::{deadline, process};

use crate::shop::{Shop, one};

/// A trusted project that needs no store.
fn plain(home: &Home) -> Project<'_> {
    home.project("plain", "[project]\nname = \"plain\"\n[settings]\nPORT = \"3000\"\n").trusted()
}

#[test]
fn two_hundred_racing_clients_start_exactly_one() {
    let home = Home::new();
    let project = plain(&home);
    home.broker(["daemon", "stop"]).succeed();
    let before = home.audited("daemon-started").len();
    let clients: Vec<_> = (0..200).map(|_| project.shell(&[], "echo $PORT").start()).collect();
    for client in clients {
        assert_eq!(client.finish().expect_code(0).out(), "3000\n");
    }
    assert_eq!(home.audited("daemon-started").len(), before + 1);
}

#[test]
fn a_command_substitution_on_a_cold_start_returns() {
    let home = Home::new();
    let project = plain(&home);
    home.broker(["daemon", "stop"]).succeed();
    // The daemon is started inside `$(...)`: if it kept the pipe, the shell would wait for the daemon's end.
    let shell = home.run("/bin/sh").cwd(project.directory());
    let run = shell.args(["-c", "echo got $(broker exec -- /bin/echo it)"]).deadline(Duration::from_secs(20));
    assert_eq!(run.succeed().out(), "got it\n");
    home.daemon().expect("the daemon lives on");
}

#[test]
fn a_daemon_that_a_client_starts_is_detached_from_it() {
    let home = Home::new();
    let started =
        home.broker(["daemon", "start"]).env("AWS_SECRET_ACCESS_KEY", "canary").env("LD_LIBRARY_PATH", "/nowhere");
    started.env("HTTPS_PROXY", "http://attacker.example").env("SSL_CERT_FILE", "/nowhere").succeed();
    let pid = home.daemon().expect("a daemon runs");
    assert_eq!(process::stat(pid, 3), Some(pid.to_string()), "a session of its own");
    assert_eq!(process::stat(pid, 4), Some("0".into()), "no controlling terminal");
    assert_eq!(process::status(pid, "TracerPid"), Some("0".into()));
    if !broker_tests::user::is_root() {
        // The kernel shows neither to a process of the same user, which is the point of not being dumpable.
        assert!(process::descriptors(pid).is_err() && process::environment(pid).is_err());
        return;
    }
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).ok(), Some("/".into()));
    let open = process::descriptors(pid).expect("root sees them");
    for number in 0..3 {
        assert!(open.iter().any(|(fd, to)| *fd == number && to.as_os_str() == "/dev/null"), "{open:?}");
    }
    assert!(open.iter().all(|(_, to)| !to.to_string_lossy().starts_with("pipe:")), "{open:?}");
    let environment = process::environment(pid).expect("root sees it");
    let allowed =
        |line: &String| ["HOME=", "LANG=", "LC_", "PATH=", "XDG_", "DBUS_"].iter().any(|a| line.starts_with(a));
    assert!(environment.iter().all(allowed), "{environment:?}");
}

#[test]
fn a_descriptor_that_the_caller_left_open_is_not_inherited_by_the_daemon() {
    let home = Home::new();
    let held = home.path().join("held");
    let script = "exec 7>\"$1\"; flock -n 7 && broker daemon start";
    home.run("/bin/sh").args(["-c", script, "sh"]).args([&held]).succeed();
    home.daemon().expect("a daemon runs");
    home.run("flock").args(["-n"]).args([&held]).args(["true"]).succeed();
}

#[test]
fn the_daemon_and_its_memory_are_closed_to_other_processes() {
    let home = Home::new();
    let pid = home.start_daemon();
    // Files of a process that is not dumpable belong to root (proc_pid(5)).
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/environ")).expect("it lives"));
    assert_eq!(owner, 0);
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    if let Some(core) = limits.lines().find(|l| l.starts_with("Max core")) {
        assert!(core.split_whitespace().nth(5).is_some_and(|hard| hard == "0" || hard == "1"), "{core}");
    } else {
        assert!(!broker_tests::user::is_root(), "root sees the limits");
    }
}

#[test]
fn status_tells_whether_one_runs_and_stop_ends_it() {
    let home = Home::new();
    let none = home.broker(["daemon", "status"]).run();
    assert_eq!(home.daemon(), None, "asking for the status starts none: {}", none.err());
    let pid = home.start_daemon();
    assert_eq!(home.status()["pid"], pid);
    home.broker(["daemon", "stop"]).succeed();
    assert!(process::wait_end(pid, deadline::PATIENCE));
    assert_eq!(home.daemon(), None);
    assert_eq!(home.audited("daemon-stopped").len(), 1);
    assert!(!home.socket().exists());
}

#[test]
fn an_idle_daemon_stops_by_itself() {
    let home = Home::new();
    home.configure("[daemon]\nidle = \"300ms\"\n");
    let before = Instant::now();
    home.broker(["daemon", "start"]).succeed();
    deadline::until_true("the idle daemon stopped", || home.audited("daemon-stopped").len() == 1);
    assert!(before.elapsed() >= Duration::from_millis(300));
    for pid in home.daemons_ever() {
        assert!(process::wait_end(pid, deadline::PATIENCE));
    }
}

#[test]
fn a_live_lease_keeps_an_idle_daemon() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let running = project.exec(["/bin/cat"]).stdin_open().start();
    deadline::until_true("the client became the command", || process::name(running.pid()).as_deref() == Some("cat"));
    home.configure("[daemon]\nidle = \"200ms\"\n");
    let pid = home.daemon().expect("a daemon runs");
    assert!(!process::wait_end(pid, Duration::from_secs(2)), "it stopped under a live lease");
    running.finish().expect_code(0);
}

#[test]
fn the_foreground_daemon_logs_to_standard_error_and_stops_at_a_signal() {
    let home = Home::new();
    let daemon = home.broker(["daemon", "run"]).env("BROKER_LOG", "trace").start();
    deadline::until_true("the socket is there", || home.socket().exists());
    home.broker(["lease", "list"]).succeed();
    daemon.signal(15);
    let ended = daemon.finish();
    ended.expect_code(0);
    assert!(!ended.err().is_empty());
    assert_eq!(ended.out(), "");
}

#[test]
fn lock_ends_leases_and_forgets_values() {
    let shop = Shop::new();
    let project = shop.project();
    let running = project.exec(["/bin/cat"]).stdin_open().start();
    deadline::until_true("the lease is live", || shop.home.leases().len() == 1);
    shop.home.broker(["lock"]).succeed();
    assert!(shop.home.leases().is_empty());
    assert_eq!(shop.home.audited("locked").len(), 1);
    assert_eq!(shop.home.status()["cached_values"], 0);
    project.broker(["exec", "--", "/bin/true"]).run().expect_error(125, "unauthenticated");
    project.broker_with_passphrase(["exec", "--", "/bin/true"]).succeed();
    running.finish().expect_code(0);
}
