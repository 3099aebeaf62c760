//! The audit log: no record, no secret; and never a value in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use broker_tests::canary::Canary;
use broker_tests::run::Run;

use crate::shop::Shop;

#[test]
fn a_run_is_on_record_with_who_what_and_which_lease() {
    let shop = Shop::new();
    let project = shop.project();
    let running = project.broker(["exec", "--reason", "because", "--", "/bin/echo", "one two"]).start();
    let pid = running.pid();
    running.finish().expect_code(0);
    shop.home.until_no_lease();
    let requests = shop.home.audited("request");
    let record = requests.iter().find(|r| !r["lease"].is_null()).unwrap_or_else(|| panic!("{requests:?}"));
    assert_eq!(record["right"], "use");
    assert_eq!(record["decision"]["effect"], "allow");
    assert!(record["decision"]["rule"].as_str().is_some_and(|rule| !rule.is_empty()));
    assert_eq!(record["argv"], serde_json::json!(["/bin/echo", "one two"]));
    assert_eq!(
        (&record["project"], &record["profile"], &record["reason"]),
        (&"shop".into(), &"dev".into(), &"because".into())
    );
    assert_eq!(record["cwd"].as_str(), project.directory().to_str());
    assert_eq!(record["principal"]["process"]["pid"], pid);
    assert_eq!(record["principal"]["uid"], broker_tests::user::uid());
    assert_eq!(record["references"], serde_json::json!(["local://shop/db", "local://shop/stripe"]));
    assert!(shop.home.audited("lease-ended").iter().any(|r| r["lease"] == record["lease"]["id"]));
}

#[test]
fn a_refused_fetch_ends_its_lease_in_the_log() {
    let shop = Shop::new();
    let project = shop.home.project("x", "[project]\nname = \"x\"\n[secrets]\nA = \"local://nowhere\"\n").trusted();
    project.exec(["/bin/true"]).run().expect_error(125, "not-found").expect_words(["`local://nowhere`"]);
    let ended = shop.home.audited("lease-ended");
    assert!(ended.iter().any(|r| r["how"] == "not-fetched" && r["error"] == "not-found"), "{ended:?}");
    assert!(shop.home.leases().is_empty());
}

#[test]
fn the_log_is_private_and_holds_no_value() {
    let shop = Shop::new();
    shop.project().shell(&[], "echo $STRIPE_KEY").succeed();
    let mode = fs::metadata(shop.home.audit_log()).expect("there is a log").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    for value in [&shop.database, &shop.stripe, &shop.admin] {
        assert_eq!(Canary::new(value.as_bytes()).search_files(&shop.home.state()), []);
    }
}

/// Runs `broker exec -- touch ran` in a mount namespace of its own, after `script` has changed the state directory `$1`.
/// The daemon that it starts sees the same mounts.
fn with_state(shop: &Shop, script: &str) -> (Run, std::path::PathBuf) {
    let project = shop.project();
    shop.home.broker(["daemon", "stop"]).succeed();
    let state = shop.home.state().join("broker");
    let script = format!("set -e; {script}; shift; exec \"$@\"");
    let through = ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", &script, "sh"];
    let run = project.broker_with_passphrase(["exec", "--", "/usr/bin/touch", "ran"]);
    let run = run.through(through.iter().map(std::ffi::OsStr::new).chain([state.as_os_str()]));
    (run, project.directory().join("ran"))
}

#[test]
fn with_a_read_only_state_directory_nothing_is_delivered() {
    let shop = Shop::new();
    let (run, marker) = with_state(&shop, "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"");
    run.run().expect_error(125, "audit").expect_words(["hint: nothing was delivered"]);
    assert!(!marker.exists());
}

#[test]
fn with_a_full_state_directory_nothing_is_delivered() {
    let shop = Shop::new();
    // What is there already moves along, so that only the room is missing.
    let fill = "cp -a \"$1\" \"$1.kept\"; mount -t tmpfs -o size=256k tmpfs \"$1\"; cp -a \"$1.kept/.\" \"$1\"; \
        head -c 1M /dev/zero >\"$1/filler\" 2>/dev/null || true";
    let (run, marker) = with_state(&shop, fill);
    run.run().expect_error(125, "audit").expect_words(["hint: nothing was delivered"]);
    assert!(!marker.exists());
}

#[test]
fn the_two_tests_above_can_succeed_when_the_directory_is_sound() {
    let shop = Shop::new();
    let (run, marker) = with_state(&shop, "true");
    run.succeed();
    assert!(marker.exists());
}

#[test]
fn a_log_that_is_a_link_or_a_directory_is_not_written_to() {
    let shop = Shop::new();
    let project = shop.project();
    shop.home.broker(["daemon", "stop"]).succeed();
    let log = shop.home.audit_log();
    fs::remove_file(&log).expect("there is a log");
    fs::create_dir(&log).expect("a directory can be made");
    project.broker_with_passphrase(["exec", "--", "/usr/bin/touch", "ran"]).run().expect_error(125, "audit");
    assert!(!project.directory().join("ran").exists());
    let told = project.broker(["doctor"]).run();
    assert!(told.out().contains("the audit record cannot be written"), "{}", told.out());
}

#[test]
fn a_line_that_a_crash_tore_is_closed_and_the_next_record_is_whole() {
    let shop = Shop::new();
    let project = shop.project();
    shop.home.kill_both();
    let log = shop.home.audit_log();
    let mut text = fs::read_to_string(&log).expect("there is a log");
    text.push_str("{\"time\":\"2026-");
    fs::write(&log, text).expect("the log can be written");
    project.broker_with_passphrase(["exec", "--", "/bin/true"]).succeed();
    let text = fs::read_to_string(&log).expect("there is a log");
    let broken = text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_err()).count();
    assert_eq!(broken, 1, "{text}");
}

#[test]
fn broker_audit_shows_the_records() {
    let shop = Shop::new();
    shop.project().exec(["/bin/true"]).succeed();
    let shown = shop.home.broker(["audit"]).succeed().out();
    assert!(shown.contains("/bin/true") && shown.contains("local://shop/db"), "{shown}");
}
