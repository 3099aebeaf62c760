//! What is issued for a run ends with it, however it ends, and the manager says so.

use std::fs;

use broker_tests::project::Project;
use broker_tests::run::Running;
use broker_tests::{deadline, process};
use serde_json::{Value, json};

use crate::vault_shop::{SOON, VaultShop};

/// Starts a command that waits for the end of its input, and returns it with its account.
fn started(shop: &VaultShop, project: &Project<'_>) -> (Running, String) {
    let file = project.directory().join("account");
    let _ = fs::remove_file(&file);
    let script = "echo $DB_USER >account.part; mv account.part account; exec cat";
    let running = project.shell(&[], script).stdin_open().start();
    let account = deadline::until("the command has its account", || fs::read_to_string(&file).ok());
    let account = account.trim().to_owned();
    assert!(shop.accounts().contains(&account), "the database knows it");
    (running, account)
}

/// Returns the record of the one lease that ended.
fn ended(shop: &VaultShop) -> Value {
    let mut all = deadline::until("the end is on record", || {
        Some(shop.home.audited("lease-ended")).filter(|all| !all.is_empty())
    });
    assert_eq!(all.len(), 1, "one record closes it: {all:?}");
    all.remove(0)
}

#[test]
fn an_account_is_made_for_a_run_and_gone_at_the_manager_when_it_exits() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, _) = started(&shop, &project);
    let lease = shop.home.leases().remove(0);
    assert_eq!(lease["credentials"][0]["revocable"], true);
    let token = shop.vault.alive_tokens().into_iter().find(|token| token.meta.contains_key("lease"));
    let token = token.expect("there is a token of this run");
    assert_eq!(token.meta["lease"], *lease["id"].as_str().expect("it has an id"), "the manager's log names the run");
    let listed = shop.home.broker(["lease", "list"]).succeed().out();
    assert!(listed.contains("revoked when the lease ends: org://database/creds/app"), "{listed}");
    running.finish().expect_code(0);
    let took = shop.until_nothing_is_alive();
    assert!(took < SOON, "{took:?}");
    let ended = ended(&shop);
    assert_eq!((&ended["how"], &ended["credentials"][0]["end"]), (&"exit".into(), &"revoked".into()), "{ended}");
    // On record before it was delivered.
    let events: Vec<_> = shop.home.audit().iter().map(|record| record["event"].clone()).collect();
    let place = |event: &str| events.iter().position(|other| other == event).expect("it is on record");
    assert!(place("request") < place("issued") && place("issued") < place("lease-ended"), "{events:?}");
}

#[test]
fn a_command_that_is_killed_takes_its_account_with_it() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, _) = started(&shop, &project);
    process::kill(running.pid());
    let took = shop.until_nothing_is_alive();
    assert!(took < SOON, "{took:?}");
    assert_eq!(ended(&shop)["how"], "exit");
}

#[test]
fn ending_a_lease_or_locking_revokes_at_once_while_the_command_goes_on() {
    for words in [["lease", "end", "--all"].as_slice(), &["lock"]] {
        let shop = VaultShop::new("1h", "15m");
        let project = shop.project("");
        let (mut running, _) = started(&shop, &project);
        shop.home.broker(words).succeed();
        // When it is said it is done.
        assert!(shop.accounts().is_empty() && shop.runs_alive() == 0, "{words:?}");
        assert!(running.is_running());
        running.finish().expect_code(0);
        assert_eq!(ended(&shop)["how"], "ended");
    }
}

#[test]
fn the_time_of_a_profile_is_a_ceiling_whatever_the_manager_would_allow() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("ttl = \"3s\"");
    let (mut running, _) = started(&shop, &project);
    shop.home.until_no_lease();
    shop.until_nothing_is_alive();
    assert!(running.is_running());
    running.finish().expect_code(0);
    assert_eq!(ended(&shop)["how"], "expired");
}

/// The account and its token live for four seconds each, unless they are renewed.
#[test]
fn a_credential_is_renewed_ahead_of_its_end_while_the_command_runs() {
    let shop = VaultShop::new("4s", "4s");
    let project = shop.project("");
    let (running, account) = started(&shop, &project);
    let began = std::time::Instant::now();
    deadline::until_true("three lives have passed", || {
        assert!(shop.accounts().contains(&account), "it is gone after {:?}", began.elapsed());
        began.elapsed().as_secs() >= 12
    });
    assert!(shop.home.audited("issued").len() > 2, "that is on record");
    running.finish().expect_code(0);
    let took = shop.until_nothing_is_alive();
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_daemon_that_is_killed_loses_no_account_of_a_command_that_runs() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (mut running, account) = started(&shop, &project);
    shop.home.kill_daemon();
    assert_eq!(shop.home.leases().len(), 1, "the next daemon knows it");
    assert!(running.is_running() && shop.accounts().contains(&account));
    running.finish().expect_code(0);
    let took = shop.until_nothing_is_alive();
    assert!(took < SOON, "{took:?}");
    assert_eq!(ended(&shop)["credentials"][0]["end"], "revoked");
}

#[test]
fn a_command_and_its_daemon_that_die_together_leave_nothing_behind() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, _) = started(&shop, &project);
    let daemon = shop.home.daemon().expect("a daemon runs");
    process::kill(daemon);
    process::kill(running.pid());
    // Nobody asks for anything: it is the keeper that brings the next daemon.
    let took = shop.until_nothing_is_alive();
    assert!(took < SOON, "{took:?}");
    assert_eq!(ended(&shop)["how"], "unattended");
}

#[test]
fn a_daemon_that_is_stopped_revokes_what_nobody_else_could() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, _) = started(&shop, &project);
    shop.home.broker(["daemon", "stop"]).succeed();
    shop.until_nothing_is_alive();
    assert_eq!(ended(&shop)["how"], "stopped");
    running.finish().expect_code(0);
}

#[test]
fn a_manager_that_is_away_at_the_end_is_asked_until_it_revoked() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, _) = started(&shop, &project);
    shop.vault.seal(true);
    let said = shop.home.broker(["lease", "end", "--all"]).succeed().err();
    assert!(said.contains("1 ended") && said.contains("waits for a manager"), "{said}");
    assert!(shop.home.audited("lease-ended").is_empty(), "it has not ended yet");
    // Not even now is anything lost.
    shop.home.kill_daemon();
    shop.vault.seal(false);
    shop.until_nothing_is_alive();
    assert_eq!(ended(&shop)["credentials"][0]["end"], "revoked");
    running.finish().expect_code(0);
}

#[test]
fn a_run_that_fails_gives_back_what_was_issued_for_it() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let manifest = fs::read_to_string(project.directory().join("broker.toml")).expect("it is there");
    project.rewrite(&manifest.replace("shop/api", "shop/missing"));
    project.broker(["trust", "--yes"]).succeed();
    project.broker(["exec", "-P", "all", "--", "/bin/true"]).run().expect_error(125, "not-found");
    shop.until_nothing_is_alive();
    assert_eq!(ended(&shop)["how"], "not-fetched");
}

#[test]
fn a_check_has_an_account_made_and_gives_it_back() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let said = project.broker(["check"]).succeed().out();
    assert!(said.contains("DB_USER") && said.contains("DB_PASSWORD"), "{said}");
    shop.until_nothing_is_alive();
}

/// The sign-in's policies let the token of a run do everything but end itself.
#[test]
fn a_refusal_to_revoke_is_not_taken_for_an_end() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let (running, account) = started(&shop, &project);
    let forbidden = json!({ "policy": "path \"auth/token/revoke-self\" { capabilities = [\"deny\"] }" });
    shop.set("PUT", "sys/policies/acl/accounts", &forbidden);
    let said = shop.home.broker(["lease", "end", "--all"]).succeed().err();
    assert!(said.contains("waits for a manager"), "{said}");
    assert!(shop.accounts().contains(&account) && shop.home.audited("lease-ended").is_empty());
    shop.set("PUT", "sys/policies/acl/accounts", &json!({ "policy": "" }));
    shop.until_nothing_is_alive();
    assert_eq!(ended(&shop)["credentials"][0]["end"], "revoked");
    running.finish().expect_code(0);
}

#[test]
fn what_is_issued_for_runs_is_shown_to_nobody() {
    let shop = VaultShop::new("1h", "15m");
    let refused = shop.project("").broker(["get", "--force", "org://database/creds/app"]).run();
    refused.expect_error(1, "provider").expect_words(["it is issued for one run", "broker exec"]);
    assert!(shop.accounts().is_empty());
}

#[test]
fn a_stored_value_is_fetched_with_a_token_cut_for_the_run_and_a_warm_run_needs_none() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let run = || project.broker(["exec", "-P", "stored", "--", "/usr/bin/printenv", "API_KEY"]).succeed().out();
    assert_eq!(run(), "a stored value\n");
    shop.until_nothing_is_alive();
    let reads = || shop.vault.asked().iter().filter(|asked| asked.path.contains("shop/api")).count();
    let (calls, before) = (shop.vault.asked().len(), reads());
    assert_eq!(run(), "a stored value\n");
    assert_eq!((shop.vault.asked().len(), reads()), (calls, before), "the second run asks nobody");
}

#[test]
fn a_loop_cannot_have_a_thousand_accounts_made() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let config = shop.home.config().join("broker/config.toml");
    let text = fs::read_to_string(&config).expect("it is there");
    shop.home.configure(&format!("{text}[quota]\nissued-per-minute = 3\n"));
    for _ in 0..3 {
        project.exec(["/bin/true"]).succeed();
    }
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "quota").expect_words(["3 credentials were issued", "`issued-per-minute`"]);
    let last = shop.home.audited("request").pop().expect("it is on record");
    assert_eq!((&last["decision"]["effect"], &last["decision"]["rule"]), (&"deny".into(), &"quota".into()), "{last}");
    // Nor does a check, which has one made to see whether it can be.
    project.broker(["check"]).run().expect_error(1, "quota");
    shop.until_nothing_is_alive();
}

#[test]
fn a_command_is_told_by_the_signal_it_chose_that_its_lease_has_ended() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let script = "trap 'echo told; exit 7' USR1; while :; do sleep 0.05; done";
    let args = ["exec", "--ttl", "3s", "--watch=signal:USR1", "--", "/bin/sh", "-c", script];
    project.broker(args).run().expect_code(7);
    assert_eq!(ended(&shop)["how"], "expired");
    // Who chose none is left alone.
    let (mut running, _) = started(&shop, &project);
    shop.home.broker(["lease", "end", "--all"]).succeed();
    assert!(running.is_running());
    running.finish().expect_code(0);
    project.broker(["exec", "--watch=signal:KILL", "--", "/bin/true"]).run().expect_error(125, "usage");
}

#[test]
fn a_project_has_no_more_leases_at_a_time_than_it_may() {
    let shop = VaultShop::new("1h", "15m");
    let project = shop.project("");
    let config = shop.home.config().join("broker/config.toml");
    let text = fs::read_to_string(&config).expect("it is there");
    shop.home.configure(&format!("{text}[quota]\nleases = 2\n"));
    let runs: Vec<_> = (0..2).map(|_| project.shell(&[], "exec cat").stdin_open().start()).collect();
    deadline::until_true("two leases are live", || shop.home.leases().len() == 2);
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "quota").expect_words(["2 live leases", "broker lease list"]);
    for run in runs {
        run.finish().expect_code(0);
    }
    shop.home.until_no_lease();
    project.exec(["/bin/true"]).succeed();
}
