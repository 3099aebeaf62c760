//! `broker exec`: the command runs as if nobody had stood in between.

use broker_tests::{deadline, process};

use crate::shop::Shop;

#[test]
fn the_command_has_the_secrets_of_its_profile_and_the_settings() {
    let shop = Shop::new();
    let out = shop.project().shell(&[], "echo $DATABASE_URL $STRIPE_KEY $PORT").succeed().out();
    assert_eq!(out, format!("{} {} 3000\n", shop.database, shop.stripe));
}

#[test]
fn another_profile_has_what_it_extends_too() {
    let shop = Shop::new();
    let out = shop.project().shell(&["-P", "migrate"], "echo $DATABASE_URL $ADMIN_URL").succeed().out();
    assert_eq!(out, format!("{} {}\n", shop.database, shop.admin));
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let shop = Shop::new();
    let project = shop.project();
    for code in [0, 1, 7, 125, 126, 127, 255] {
        project.shell(&[], &format!("exit {code}")).run().expect_code(code);
    }
}

#[test]
fn a_command_killed_by_a_signal_is_seen_as_killed_by_it() {
    let shop = Shop::new();
    let killed = shop.project().shell(&[], "kill -KILL $$").run();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed.status), Some(9));
    killed.expect_code(137);
}

#[test]
fn a_missing_command_is_127_and_one_that_is_not_executable_126() {
    let shop = Shop::new();
    let project = shop.project();
    project.exec(["no-such-command-here"]).run().expect_error(127, "not-found").expect_words(["no-such-command-here"]);
    project.exec(["./broker.toml"]).run().expect_code(126).expect_words(["broker.toml"]);
    project.exec(["/"]).run().expect_code(126);
}

#[test]
fn the_client_becomes_the_command_under_its_own_pid() {
    let shop = Shop::new();
    let running = shop.project().shell(&[], "echo $$").start();
    let pid = running.pid();
    assert_eq!(running.finish().out(), format!("{pid}\n"));
}

#[test]
fn the_arguments_reach_the_command_as_they_were_given() {
    let shop = Shop::new();
    let given = ["-x", "--", "--json", "a b", "", "$HOME", "'\"", "\n", "ä", "-P", "dev"];
    let out = shop.project().exec(["/usr/bin/printf", "[%s]"]).args(given).succeed().out();
    assert_eq!(out, given.map(|a| format!("[{a}]")).concat());
}

#[test]
fn standard_input_and_output_pass_through_byte_for_byte() {
    let shop = Shop::new();
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    let outcome = shop.project().exec(["/bin/cat"]).stdin(&bytes).succeed();
    assert!(outcome.stdout == bytes, "{} of {} bytes", outcome.stdout.len(), bytes.len());
    assert_eq!(outcome.err(), "");
}

#[test]
fn the_aliases_run_and_x_do_the_same() {
    let shop = Shop::new();
    let project = shop.project();
    for alias in ["exec", "run", "x"] {
        let out = project.broker([alias, "--", "/bin/sh", "-c", "echo $STRIPE_KEY"]).succeed().out();
        assert_eq!(out.trim(), shop.stripe, "{alias}");
    }
}

#[test]
fn only_and_except_narrow_the_profile() {
    let shop = Shop::new();
    let project = shop.project();
    let script = "echo ${DATABASE_URL-none} ${STRIPE_KEY-none}";
    assert_eq!(project.shell(&["--only", "STRIPE_KEY"], script).succeed().out(), format!("none {}\n", shop.stripe));
    assert_eq!(project.shell(&["--except", "STRIPE_KEY"], script).succeed().out(), format!("{} none\n", shop.database));
    project.shell(&["--only", "ADMIN_URL"], script).run().expect_error(125, "not-found");
    project
        .shell(&["--only", "STRIPE_KYE"], script)
        .run()
        .expect_error(125, "not-found")
        .expect_words(["did you mean `STRIPE_KEY`"]);
}

#[test]
fn names_that_the_profile_does_not_select_are_not_inherited_either() {
    let shop = Shop::new();
    let run = shop.project().shell(&[], "echo ${ADMIN_URL-none}").env("ADMIN_URL", "from the parent");
    assert_eq!(run.succeed().out(), "none\n");
}

#[test]
fn the_lease_is_marked_in_the_environment_and_nothing_else_of_ours_is_inherited() {
    let shop = Shop::new();
    let out = shop
        .project()
        .shell(&[], "env | grep ^BROKER_")
        .env("BROKER_LEASE", "l-forged")
        .env("BROKER_X", "1")
        .succeed()
        .out();
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with("BROKER_LEASE=l-") && line != "BROKER_LEASE=l-forged"),
        "{out}"
    );
}

#[test]
fn a_pristine_command_inherits_a_short_list() {
    let shop = Shop::new();
    let project = shop.project();
    let script = "echo ${SURPRISE-none} ${STRIPE_KEY:+set} ${HOME:+set} ${PATH:+set}";
    assert_eq!(project.shell(&[], script).env("SURPRISE", "x").succeed().out(), "x set set set\n");
    assert_eq!(project.shell(&["--pristine"], script).env("SURPRISE", "x").succeed().out(), "none set set set\n");
}

#[test]
fn a_shorter_time_to_live_is_obeyed_and_a_longer_one_is_cut_to_the_profiles() {
    let shop = Shop::new();
    let project = shop.project();
    for (asked, seconds) in [("90s", 90), ("24h", 1800)] {
        project.shell(&["--ttl", asked], ":").succeed();
        let lease = shop.home.audited("request").last().cloned().unwrap_or_default()["lease"].clone();
        let time = |key: &str| lease[key].as_str().and_then(seconds_of_day).unwrap_or_else(|| panic!("{lease}"));
        assert_eq!((time("expires") - time("started")).rem_euclid(86_400), seconds, "{lease}");
    }
    project.shell(&["--ttl", "soon"], ":").run().expect_error(125, "usage");
}

/// Reads `...T17:19:00.5Z` as seconds since midnight.
fn seconds_of_day(time: &str) -> Option<i64> {
    let (_, clock) = time.split_once('T')?;
    let mut parts = clock.trim_end_matches('Z').split(':').map(|p| p.split('.').next().unwrap_or(p).parse::<i64>());
    Some(parts.next()?.ok()? * 3600 + parts.next()?.ok()? * 60 + parts.next()?.ok()?)
}

#[test]
fn explain_says_what_a_run_would_get_and_runs_nothing() {
    let shop = Shop::new();
    let project = shop.project();
    let marker = project.directory().join("ran");
    let explained = project.broker(["exec", "--explain", "--", "/usr/bin/touch", "ran"]).succeed();
    let text = explained.out() + &explained.err();
    for word in ["DATABASE_URL", "local://shop/db", "STRIPE_KEY", "dev"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains(&shop.database) && !marker.exists());
}

#[test]
fn redaction_can_be_declined_and_not_yet_asked_for() {
    let shop = Shop::new();
    let project = shop.project();
    project.shell(&["--redact", "never"], ":").succeed();
    project.shell(&["--redact", "always"], ":").run().expect_error(125, "usage");
}

#[test]
fn a_usage_error_of_exec_is_125_and_runs_nothing() {
    let shop = Shop::new();
    let project = shop.project();
    project.broker(["exec", "--no-such-flag", "--", "/usr/bin/touch", "ran"]).run().expect_error(125, "usage");
    project.broker(["exec"]).run().expect_error(125, "usage");
    assert!(!project.directory().join("ran").exists());
}

#[test]
fn signal_dispositions_and_the_signal_mask_are_inherited_unchanged() {
    let shop = Shop::new();
    let project = shop.project();
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    for set in [
        ["--ignore-signal=INT", "--block-signal=USR1"],
        ["--ignore-signal=PIPE", "--default-signal=INT"],
        ["--default-signal=PIPE", "--block-signal=TERM"],
    ] {
        let through = |run: broker_tests::run::Run| run.through(["env"].iter().chain(&set)).succeed().out();
        let with = through(project.shell(&[], script));
        let without = through(shop.home.run("/bin/sh").args(["-c", script]));
        assert_eq!(with, without, "{set:?}");
    }
}

#[test]
fn the_command_has_no_descriptor_of_ours() {
    let shop = Shop::new();
    // Other tests of this binary may leave descriptors to what they start, so all but three are closed first.
    let close = "for fd in /proc/$$/fd/*; do n=${fd##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done; exec \"$@\"";
    let run = shop.project().exec(["/bin/cat"]).through(["/bin/bash", "-c", close, "bash"]);
    let mut running = run.stdin_open().start();
    deadline::until_true("the client became the command", || process::name(running.pid()).as_deref() == Some("cat"));
    let open: Vec<i32> =
        process::descriptors(running.pid()).unwrap_or_default().into_iter().map(|(fd, _)| fd).collect();
    assert_eq!(open, [0, 1, 2]);
    assert!(running.is_running());
    running.finish().expect_code(0);
}

#[test]
fn the_lease_lives_as_long_as_the_command_and_no_longer() {
    let shop = Shop::new();
    let running = shop.project().exec(["/bin/cat"]).stdin_open().start();
    let lease = deadline::until("the lease is live", || shop.home.leases().into_iter().next());
    assert_eq!(lease["process"]["pid"], running.pid());
    assert_eq!(lease["names"], serde_json::json!(["DATABASE_URL", "STRIPE_KEY"]));
    running.finish().expect_code(0);
    shop.home.until_no_lease();
    let ended = shop.home.audited("lease-ended");
    assert!(ended.iter().any(|r| r["lease"] == lease["id"] && r["how"] == "exit"), "{ended:?}");
}

#[test]
fn offline_serves_what_is_held_and_refuses_what_is_not() {
    let shop = Shop::new();
    let project = shop.project();
    project.shell(&[], ":").succeed();
    project.shell(&["--offline"], "test -n \"$STRIPE_KEY\"").succeed();
}

#[test]
fn refresh_sees_a_new_value_at_once() {
    let shop = Shop::new();
    let project = shop.project();
    project.shell(&[], ":").succeed();
    shop.home.store("local://shop/db", "a new value");
    assert_eq!(project.shell(&["--refresh"], "echo $DATABASE_URL").succeed().out(), "a new value\n");
}

#[test]
fn the_manifest_is_found_from_a_directory_below() {
    let shop = Shop::new();
    let project = shop.project();
    let below = project.directory().join("a/b");
    std::fs::create_dir_all(&below).expect("a directory can be made");
    let run = project.shell(&[], "echo $STRIPE_KEY; pwd").cwd(&below);
    assert_eq!(run.succeed().out(), format!("{}\n{}\n", shop.stripe, below.display()));
}

#[test]
fn no_core_is_left_by_the_command_unless_it_is_asked_for() {
    let shop = Shop::new();
    // 0 is ignored by a piped core pattern, so the limit is 1 (core(5)).
    let out = shop.project().shell(&[], "grep 'Max core' /proc/self/limits").succeed().out();
    let limits: Vec<&str> = out.split_whitespace().collect();
    assert!(matches!(limits[..], ["Max", "core", "file", "size", "0" | "1", "1", ..]), "{out}");
}
