//! The keeper: the daemon comes back by itself, once, and goes for good when it is asked to.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use broker_tests::home::Home;
use broker_tests::process::Pid;
use broker_tests::run::Outcome;
use broker_tests::{deadline, process, programs, user};

use crate::shop::one;

/// Longest time without a daemon that counts as a moment, on a machine that is busy with other tests.
const MOMENT: Duration = Duration::from_secs(10);

/// Waits for a daemon other than `before`.
fn successor(home: &Home, before: Pid) -> Pid {
    deadline::until("another daemon serves", || home.daemon().filter(|pid| *pid != before))
}

/// Returns the inode of the ledger's memory that a process has open; nothing where the kernel does not show it.
fn memory(pid: Pid) -> Option<u64> {
    let open = process::descriptors(pid).ok()?;
    let (number, _) = open.iter().find(|(_, to)| to.to_string_lossy().starts_with("/memfd:brokerd-ledger"))?;
    Some(std::fs::metadata(format!("/proc/{pid}/fd/{number}")).ok()?.ino())
}

#[test]
fn a_daemon_that_is_killed_comes_back_by_itself() {
    let home = Home::new();
    let first = home.start_daemon();
    let keeper = home.keeper().expect("a keeper lives");
    assert_eq!(process::stat(first, 1), Some(keeper.to_string()), "the daemon is the keeper's child");
    let kept = memory(keeper);
    assert!(kept.is_some() || !user::is_root());
    assert_eq!(memory(first), kept);
    home.kill_daemon();
    // Asking for the status starts none.
    let second = successor(&home, first);
    assert_eq!(home.keeper(), Some(keeper));
    assert_eq!(process::name(second).as_deref(), Some("brokerd"));
    assert_eq!(memory(second), kept, "what the first one held there, the second one has");
    deadline::until_true("the second one crashed", || {
        process::signal(second, 11);
        process::wait_end(second, Duration::from_millis(50))
    });
    successor(&home, second);
    assert_eq!(home.audited("daemon-started").len(), 3);
    assert_eq!(home.audited("daemon-stopped").len(), 0);
}

/// The daemon that comes back looks at what the one before it left without being asked.
#[test]
fn a_lease_whose_command_ended_while_the_daemon_was_away_is_ended_without_another_command() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let running = project.exec(["/bin/cat"]).stdin_open().start();
    let lease = deadline::until("the lease is live", || home.leases().into_iter().next());
    home.kill_daemon();
    running.finish().expect_code(0);
    deadline::until_true("its end is on record", || {
        home.audited("lease-ended").iter().any(|r| r["lease"] == lease["id"])
    });
}

#[test]
fn there_is_one_keeper_however_many_clients_start_at_once() {
    let home = Home::new();
    let clients: Vec<_> = (0..50).map(|_| home.broker(["daemon", "start"]).start()).collect();
    // Beside the clients, who take turns, the second stage itself, which does not.
    let stages: Vec<_> =
        (0..20).map(|_| home.run(programs::directory().join("brokerd")).args(["keep"]).start()).collect();
    for client in clients {
        client.finish().expect_code(0);
    }
    let keeper = home.keeper().expect("a keeper lives");
    let ended: Vec<Outcome> =
        stages.into_iter().filter(|stage| stage.pid() != keeper).map(|stage| stage.finish()).collect();
    assert!(ended.len() >= 19);
    for outcome in ended {
        assert_eq!((outcome.out().as_str(), outcome.code()), ("ready\n", 0));
    }
    assert_eq!(process::children(keeper), [home.daemon().expect("a daemon runs")]);
    assert_eq!(home.audited("daemon-started").len(), 1);
}

#[test]
fn stopping_the_daemon_ends_the_keeper_too() {
    let home = Home::new();
    let daemon = home.start_daemon();
    let keeper = home.keeper().expect("a keeper lives");
    home.broker(["daemon", "stop"]).succeed();
    assert!(process::wait_end(keeper, deadline::PATIENCE) && !process::is_alive(daemon));
    assert_eq!((home.keeper(), home.daemon()), (None, None));
    assert_eq!(home.audited("daemon-started").len(), 1);
    // The next one has a keeper of its own, at once.
    for _ in 0..5 {
        let _ = home.start_daemon();
        home.broker(["daemon", "stop"]).succeed();
    }
    assert_eq!(home.audited("daemon-started").len(), 6);
    assert_eq!(home.audited("daemon-stopped").len(), 6);
}

#[test]
fn a_keeper_that_is_asked_to_end_ends_its_daemon() {
    for signal in [15, 2] {
        let home = Home::new();
        let daemon = home.start_daemon();
        let keeper = home.keeper().expect("a keeper lives");
        process::signal(keeper, signal);
        assert!(process::wait_end(keeper, deadline::PATIENCE) && !process::is_alive(daemon));
        assert_eq!(home.audited("daemon-stopped").len(), 1, "it was asked, and not killed");
        assert_eq!(home.daemon(), None);
    }
}

#[test]
fn the_keeper_is_closed_to_other_processes() {
    let home = Home::new();
    let daemon = home.start_daemon();
    let keeper = home.keeper().expect("a keeper lives");
    assert_eq!(process::name(keeper).as_deref(), Some("brokerd-keeper"));
    assert_eq!(process::stat(keeper, 3), Some(keeper.to_string()), "a session of its own");
    // Files of a process that is not dumpable belong to root (proc_pid(5)).
    let file = |pid: Pid, name: &str| format!("/proc/{pid}/{name}");
    let owner = std::fs::metadata(file(keeper, "environ")).map(|meta| meta.uid());
    assert_eq!(owner.ok(), Some(0));
    if !user::is_root() {
        // A process of the same user that is not closed shows all of it, so that a refusal means something.
        let open = home.run("/bin/cat").stdin_open().start();
        deadline::until_true("it became `cat`", || process::name(open.pid()).as_deref() == Some("cat"));
        assert!(process::descriptors(open.pid()).is_ok() && std::fs::File::open(file(open.pid(), "mem")).is_ok());
        for pid in [keeper, daemon] {
            assert!(process::descriptors(pid).is_err() && process::environment(pid).is_err());
            for name in ["mem", "maps", "fd/3", "fd/4", "fd/5", "map_files", "cwd/x", "stack"] {
                let refused = std::fs::File::open(file(pid, name)).err().and_then(|error| error.raw_os_error());
                assert!(matches!(refused, Some(1 | 13)), "{name}: {refused:?}");
            }
        }
        return;
    }
    let open = process::descriptors(keeper).expect("root sees them");
    let leads = |to: &str| open.iter().filter(|(_, place)| place.to_string_lossy().starts_with(to)).count();
    assert_eq!((leads("/dev/null"), leads("/memfd:brokerd-ledger"), leads("pipe:")), (3, 1, 0), "{open:?}");
    assert_eq!(open.len(), 6, "and its lock and its signals: {open:?}");
    assert_eq!(process::descriptors(daemon).map(|all| all.iter().filter(|(n, _)| *n < 3).count()).ok(), Some(3));
    let limits = std::fs::read_to_string(file(keeper, "limits")).expect("root sees the limits");
    let core = limits.lines().find(|l| l.starts_with("Max core")).expect("a limit of cores");
    assert!(core.split_whitespace().nth(5).is_some_and(|hard| hard == "1"), "{core}");
    let environment = process::environment(keeper).expect("root sees it");
    assert!(environment.iter().all(|line| ["HOME=", "LANG=", "PATH=", "XDG_"].iter().any(|a| line.starts_with(a))));
}

/// Whoever kills the daemon may wait for the next one and look at it first thing.
#[test]
fn a_daemon_that_comes_back_is_closed_from_its_first_moment() {
    if user::is_root() {
        // Nothing is closed to root; this is seen as an ordinary user.
        return;
    }
    let home = Home::new();
    let mut daemon = home.start_daemon();
    let keeper = home.keeper().expect("a keeper lives");
    for _ in 0..8 {
        process::signal(daemon, 9);
        let mut looks = 0;
        let next = deadline::within(deadline::PATIENCE, || {
            // Without a pause, so that the moment is met.
            for _ in 0..200 {
                for child in process::children_as_told(keeper).into_iter().filter(|child| *child != daemon) {
                    looks += 1;
                    assert!(process::descriptors(child).is_err(), "it can be looked into");
                }
            }
            home.listener().filter(|pid| *pid != daemon)
        });
        daemon = next.expect("another daemon serves");
        assert!(looks > 0, "it was looked at");
    }
}

#[test]
fn a_program_that_was_put_in_the_daemons_place_is_not_given_its_memory() {
    let programs = tempfile::tempdir().expect("a temporary directory can be made");
    for name in ["broker", "brokerd"] {
        std::fs::copy(programs::directory().join(name), programs.path().join(name)).expect("a program can be copied");
    }
    let home = Home::with_programs(programs.path());
    let first = home.start_daemon();
    let [beside, place] = ["other", "brokerd"].map(|name| programs.path().join(name));
    let ran = home.path().join("ran");
    std::fs::write(&beside, format!("#!/bin/sh\n/usr/bin/touch {}\n", ran.display())).expect("a file can be written");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    std::fs::rename(&beside, &place).expect("a file can be replaced");
    home.kill_daemon();
    successor(&home, first);
    assert!(!ran.exists());
    // It would have run if anybody had started it.
    assert!(home.run(&place).run().code() == 0 && ran.exists());
}

#[test]
fn a_killed_keeper_takes_nothing_from_a_running_daemon() {
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let daemon = home.daemon().expect("a daemon runs");
    process::kill(home.keeper().expect("a keeper lives"));
    // The embedded store is still unlocked: it is the same daemon.
    assert_eq!(project.exec(["/bin/echo", "served"]).succeed().out(), "served\n");
    assert_eq!(home.daemon(), Some(daemon));
    // The daemon does not hold the keeper's lock in its stead, so that there can be another one.
    let lock = home.runtime().join("broker/keeper.lock");
    home.run("flock").args(["-n".as_ref(), lock.as_os_str(), "/bin/true".as_ref()]).succeed();
    // Another keeper finds that the daemon serves and has nothing to do.
    let second = home.run(programs::directory().join("brokerd")).args(["keep"]).succeed();
    assert_eq!(second.out(), "ready\n");
    assert_eq!((home.keeper(), home.daemon()), (None, Some(daemon)));
    // When that daemon is gone, the next command brings both.
    process::kill(daemon);
    home.broker(["daemon", "start"]).succeed();
    assert!(home.keeper().is_some());
}

#[test]
fn clients_that_come_while_daemons_are_killed_wait_for_a_moment_and_meet_one_daemon_at_a_time() {
    let home = Home::new();
    let first = home.start_daemon();
    let keeper = home.keeper();
    let mut daemon = first;
    for _ in 0..6 {
        process::kill(daemon);
        let began = Instant::now();
        let clients: Vec<_> = (0..20).map(|_| home.broker(["daemon", "start"]).start()).collect();
        for client in clients {
            client.finish().expect_code(0);
        }
        assert!(began.elapsed() < MOMENT, "{:?}", began.elapsed());
        let next = home.daemon().expect("a daemon runs");
        assert_ne!(next, daemon);
        daemon = next;
    }
    assert_eq!(home.keeper(), keeper);
    assert_eq!(home.audited("daemon-started").len(), 7, "each was followed by one");
    assert_eq!(keeper.map(process::children), Some(vec![daemon]));
}

/// The kills come while clients connect, wait to be attested and ask: none of them is left without a daemon.
#[test]
fn a_client_outlasts_daemons_that_are_killed_under_it() {
    let home = Home::new();
    let mut daemon = home.start_daemon();
    let mut clients = Vec::new();
    for _ in 0..8 {
        // Stopped, it accepts nobody, so that all of them wait when it dies.
        process::signal(daemon, 19);
        clients.extend((0..10).map(|_| home.broker(["daemon", "start"]).start()));
        process::kill(daemon);
        daemon = deadline::until("another daemon listens", || home.listener().filter(|pid| *pid != daemon));
    }
    for client in clients {
        client.finish().expect_code(0);
    }
    assert_eq!(home.audited("daemon-stopped").len(), 0);
    assert_eq!(home.keeper().map(process::children), Some(vec![daemon]));
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_leaves_no_keeper() {
    let home = Home::new();
    let foreground = home.broker(["daemon", "run"]).start();
    deadline::until_true("the daemon answers", || home.daemon().is_some());
    // Another daemon serves: nothing is kept, and that is no failure.
    let stage = home.run(programs::directory().join("brokerd")).args(["keep"]).succeed();
    assert_eq!((stage.out().as_str(), home.keeper()), ("ready\n", None));
    foreground.signal(15);
    foreground.finish().expect_code(0);
    // A directory stands where the socket belongs: no daemon can ever serve.
    std::fs::create_dir(home.socket()).expect("a directory can be made");
    let refused = home.broker(["daemon", "start"]).run();
    refused.expect_error(1, "daemon").expect_words(["the socket cannot be made"]);
    deadline::until_true("no keeper is left", || home.keeper().is_none());
}
