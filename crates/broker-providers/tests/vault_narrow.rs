//! Vault and OpenBao, narrowed to one scope: which token a fetch uses, what that can do, and how long it lives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;
#[path = "support/vault_run.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this module")]
mod vault_run;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_providers::provider::{ErrorKind, FetchOptions};
use broker_tests::deadline::within;
use broker_tests::fakes::vault::Alive;
use broker_tests::proxy::Fault;
use serde_json::{Value, json};
use support::reference;
use support::vault::ours;
use vault_run::{MAKE, World, ask_with, lease, options, policy, reads, scope, token};

/// A server with two secrets and a sign-in that may read both, each by a policy of its own.
fn shop() -> World {
    let world = World::new(&[
        ("db", &reads("secret/data/shop/db")),
        ("stripe", &reads("secret/data/shop/stripe")),
        ("make", MAKE),
    ]);
    world.server.store("secret", "shop/db", &json!({ "value": "of the db" }));
    world.server.store("secret", "shop/stripe", &json!({ "value": "of stripe" }));
    world
}

/// Tells whether no token that was made for a run is left.
fn is_clean_soon(world: &World) -> bool {
    within(Duration::from_secs(20), || world.server.ours().alive_tokens().is_empty().then_some(())).is_some()
}

/// Notes which named tokens are alive whenever one is written down.
fn watched(world: &World) -> Arc<Mutex<Vec<Alive>>> {
    let (seen, server) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&world.server));
    let notes = Arc::clone(&seen);
    world.ledger.then(move |ending| {
        let accessor = ask_with(&server, ending, "GET", "auth/token/lookup-self").1["data"]["accessor"].clone();
        let alive = server.ours().alive_tokens().into_iter().find(|token| accessor == token.accessor);
        notes.lock().unwrap().extend(alive);
        Ok(())
    });
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_uses_a_token_that_can_read_what_the_run_lists_and_nothing_else() {
    let world = shop();
    let said = Arc::new(Mutex::new(Vec::new()));
    let (server, notes) = (Arc::clone(&world.server), Arc::clone(&said));
    world.ledger.then(move |ending| {
        notes.lock().unwrap().push(ask_with(&server, ending, "GET", "secret/data/shop/stripe"));
        Ok(())
    });
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    let said = said.lock().unwrap().clone();
    let denied = json!({ "errors": ["1 error occurred:\n\t* permission denied\n\n"] });
    assert_eq!(said, [(403, denied)], "by the server's word");
    // The sign-in itself could.
    assert_eq!(
        world
            .whole()
            .fetch(&[reference("org://secret/shop/stripe")], options())
            .await
            .remove(0)
            .unwrap()
            .value
            .expose(),
        b"of stripe"
    );
    let asked = world.server.ours().asked();
    let by = |path: &str| {
        asked
            .iter()
            .filter(|asked| asked.operation == "read" && asked.path == path)
            .map(|asked| asked.accessor.clone())
            .collect::<Vec<_>>()
    };
    let (of_db, of_stripe) = (by("secret/data/shop/db"), by("secret/data/shop/stripe"));
    assert_eq!(of_db, of_stripe[..1], "the same token read the one and was refused the other");
    assert_ne!(of_db[0], of_stripe[1], "and it is not the sign-in's");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_fetch_is_gone_when_the_fetch_is_over() {
    let world = shop();
    let seen = watched(&world);
    let results = world.fetch(&["org://secret/shop/db", "org://secret/shop/missing"]).await;
    assert!(results[0].is_ok() && results[1].is_err());
    assert!(world.ledger.is_empty_soon(), "struck when it was revoked");
    let ending = world.ledger.all().remove(0);
    assert_eq!(world.ask_with(&ending, "GET", "auth/token/lookup-self").0, 403);
    let seen = seen.lock().unwrap().clone();
    assert!(!world.server.ours().is_alive(&seen[0].accessor));
    assert!(is_clean_soon(&world));
    assert_eq!((ending.about.lease, ending.about.renewable), (None, false), "it serves one fetch and no run");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_revocation_and_it_is_tried_until_it_is_done() {
    let mut world = shop();
    world.proxy.fail_holding("auth/token/revoke-self", Fault::BlackHole);
    let started = Instant::now();
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(world.ledger.held().len(), 1, "it stands there while it is alive");
    world.proxy.heal();
    assert!(world.ledger.is_empty_soon());
    assert!(is_clean_soon(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_token_names_the_run_in_its_metadata() {
    let mut world = shop();
    let seen = watched(&world);
    let references = ["org://secret/shop/db"];
    world.fetch(&references).await.remove(0).unwrap();
    let session = scope(&references).session.to_string();
    let meta = json!({
        "project": "shop", "profile": "dev", "person": "ada", "tier": "agent", "session": session,
        "lease": lease().to_string(),
    });
    let first = seen.lock().unwrap()[0].clone();
    assert_eq!((first.display_name.as_str(), Value::Object(first.meta)), ("token-broker-shop-dev", meta));
    assert_eq!(first.uses, 1, "one was this look, one is for the secret, one for the revocation: two were given");
    assert!((1..=60).contains(&first.ttl), "{}", first.ttl);

    // A session for each run is another one for each.
    world.settings.session = Some("per-run".to_owned());
    for byte in [1, 2] {
        let run = LeaseId::from_random([byte; 24]);
        let provider = world.narrowed(&references, Some(run));
        provider.fetch(&[reference(references[0])], options()).await.remove(0).unwrap();
        let meta = seen.lock().unwrap().last().unwrap().meta.clone();
        assert_eq!(meta["lease"], run.to_string());
        assert_eq!(meta["session"], scope(&references).of_run(run).session.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_fetch_is_good_for_its_reads_and_its_revocation() {
    let world = shop();
    let uses = Arc::new(Mutex::new(Vec::new()));
    let (server, notes) = (Arc::clone(&world.server), Arc::clone(&uses));
    world.ledger.then(move |_| {
        notes
            .lock()
            .unwrap()
            .extend(server.ours().alive_tokens().into_iter().filter(|t| t.policies.len() > 2).map(|t| t.uses));
        Ok(())
    });
    let both = ["org://secret/shop/db", "org://secret/shop/stripe"];
    assert!(world.fetch(&both).await.iter().all(Result::is_ok));
    assert_eq!(*uses.lock().unwrap(), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_requests_use_a_token_up_and_the_fetch_goes_on_with_another() {
    let world = shop();
    // The server answered, and the answer was lost, twice.
    for nth in 0..2 {
        world.proxy.fail_nth("GET /v1/secret/data/shop/db", nth, Fault::CutAfter(0));
    }
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    assert_eq!(world.ledger.all().len(), 2);
    assert!(world.ledger.is_empty_soon());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_version_is_found_however_far_back_it_is() {
    let world = shop();
    for number in 0..8 {
        world.server.store("secret", "shop/db", &json!({ "value": number.to_string() }));
    }
    let deleted = json!({ "versions": [5, 6, 7, 8] });
    world.server.set("POST", "secret/delete/shop/db", &deleted);
    assert_eq!(world.text("org://secret/shop/db?stage=previous").await.unwrap(), "2");
    assert_eq!(world.text("org://secret/shop/db?version=3").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_may_not_make_tokens_is_told_the_rule() {
    let mut world = World::new(&[("db", &reads("secret/data/shop/db"))]);
    world.server.store("secret", "shop/db", &json!({ "value": "of the db" }));
    let error = world.text("org://secret/shop/db").await.expect_err("it may make none");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    let hint = error.hint.unwrap();
    assert!(hint.contains("`path \"auth/token/create\" { capabilities = [\"update\"] }`"), "{hint}");
    assert!(hint.contains("`session = \"shared\"`"), "{hint}");
    assert_eq!(world.asked("read", "secret/data"), 0, "it is not read with another token instead");
    world.settings.session = Some("shared".to_owned());
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_of_which_no_child_can_be_had_is_told_why() {
    for (body, cause, way_out) in [
        (json!({ "type": "batch" }), "batch tokens cannot create more tokens", "token_type=service"),
        (json!({ "num_uses": 20 }), "restricted use token cannot generate child tokens", "token_num_uses=0"),
        (json!({ "policies": ["root"] }), "the sign-in is root", "policies = [\"shop-dev\"]"),
    ] {
        let server = ours();
        policy(&server, "all", &format!("{MAKE}\n{}", reads("secret/*")));
        server.store("secret", "shop/db", &json!({ "value": "of the db" }));
        let mut whole = json!({ "policies": ["all"], "ttl": "1h" });
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let made = token(&server, &whole);
        let world = World::with(server, &made);
        let error = world.text("org://secret/shop/db").await.expect_err("it has no child");
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains(cause), "{error}");
        let hint = error.hint.unwrap();
        assert!(hint.contains(way_out) && hint.contains("`session = \"shared\"`"), "{hint}");
        assert_eq!(world.asked("read", "secret/data"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_makes_tokens_of_the_policies_that_are_named_and_of_no_other() {
    let mut world = shop();
    world.sign_in = support::vault::with_token(world.server.root());
    world.settings.policies = Some(Words::Many(vec!["stripe".to_owned(), "db".to_owned()]));
    let seen = watched(&world);
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    assert_eq!(seen.lock().unwrap()[0].policies, ["db", "default"]);
    // What is named and not the sign-in's is refused by the server.
    let made = token(&world.server, &json!({ "policies": ["db", "make"], "ttl": "1h" }));
    world.sign_in = support::vault::with_token(&made);
    let error = world.text("org://secret/shop/db").await.expect_err("`stripe` is not the sign-in's");
    assert!(error.cause.contains("child policies must be subset of parent"), "{error}");
    assert!(error.hint.unwrap().contains("`policies`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_policies_only_the_needed_ones_are_given() {
    let texts: Vec<(String, String)> = (0..10)
        .map(|number| {
            (
                format!("p{number}"),
                format!(
                    "{}\n{}",
                    reads(&format!("secret/data/n/{number}")),
                    reads(&format!("secret/data/also/{number}"))
                ),
            )
        })
        .collect();
    let mut policies: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    policies.push(("make", MAKE));
    let world = World::new(&policies);
    for number in 0..10 {
        world.server.store("secret", &format!("n/{number}"), &json!({ "value": "x" }));
        world.server.store("secret", &format!("also/{number}"), &json!({ "value": "x" }));
    }
    let seen = watched(&world);
    let names = ["org://secret/n/3", "org://secret/also/3", "org://secret/n/7"];
    assert!(world.fetch(&names).await.iter().all(Result::is_ok));
    assert_eq!(seen.lock().unwrap()[0].policies, ["default", "p3", "p7"]);
    // The sign-in and each of eleven alone: all paths at once, and never again while it is believed.
    assert_eq!(world.asked("write", "sys/capabilities-self"), 12);
    assert!(world.fetch(&names).await.iter().all(Result::is_ok));
    assert_eq!(world.asked("write", "sys/capabilities-self"), 12);
    assert!(is_clean_soon(&world), "nor do those live on that asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_denies_counts_though_it_is_left_out() {
    let world = World::new(&[
        ("all", &reads("secret/data/shop/*")),
        ("not-admin", "path \"secret/data/shop/admin\" { capabilities = [\"deny\"] }"),
        ("make", MAKE),
    ]);
    for name in ["db", "admin"] {
        world.server.store("secret", &format!("shop/{name}"), &json!({ "value": name }));
    }
    let mut results = world.fetch(&["org://secret/shop/db", "org://secret/shop/admin"]).await;
    let error = results.remove(1).expect_err("the sign-in may not read it");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.unwrap().contains("path \"secret/data/shop/admin\""));
    assert_eq!(results.remove(0).unwrap().value.expose(), b"db");
    assert_eq!(world.asked("read", "secret/data/shop/admin"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_changed_counts_at_the_next_try() {
    let world =
        World::new(&[("db", &reads("secret/data/nothing")), ("other", &reads("secret/data/x")), ("make", MAKE)]);
    world.server.store("secret", "shop/db", &json!({ "value": "of the db" }));
    let error = world.text("org://secret/shop/db").await.expect_err("no policy grants it");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    policy(&world.server, "db", &reads("secret/data/shop/db"));
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    policy(&world.server, "db", &reads("secret/data/nothing"));
    policy(&world.server, "other", &reads("secret/data/shop/db"));
    assert_eq!(world.text("org://secret/shop/db").await.expect_err("it is believed").kind, ErrorKind::Denied);
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_of_an_identity_hold_for_each_child_and_are_told() {
    let world = World::new(&[("make", MAKE)]);
    policy(&world.server, "team", &reads("secret/data/shop/*"));
    world.server.store("secret", "shop/db", &json!({ "value": "of the db" }));
    world.server.ours().identify(world.sign_in.text("VAULT_TOKEN").unwrap(), &["team"]);
    assert_eq!(world.text("org://secret/shop/db").await.unwrap(), "of the db");
    let told = world.narrowed(&["org://secret/shop/db"], None).session_policies();
    let told = told.iter().find(|policy| policy.title.contains("identity")).unwrap();
    assert_eq!(told.text, "team");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_run_makes_no_call() {
    let world = shop();
    let provider = world.narrowed(&["org://secret/shop/db"], None);
    let references = [reference("org://secret/shop/db")];
    provider.fetch(&references, options()).await.remove(0).unwrap();
    assert!(world.ledger.is_empty_soon());
    world.proxy.forget_calls();
    assert_eq!(provider.issues(&references, vault_run::soon()).await, [false]);
    let again = world.narrowed(&["org://secret/shop/db"], None);
    again.fetch(&references, FetchOptions { lease: Some(lease()), ..options() }).await.remove(0).unwrap();
    assert_eq!(world.proxy.call_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cuts_a_session_is_shown_as_the_server_gets_it() {
    let mut world = shop();
    world.settings.policies = Some(Words::Many(vec!["db".to_owned(), "stripe".to_owned()]));
    world.server.enable_kv("old", "1");
    policy(&world.server, "db", &format!("{}\n{}", reads("secret/data/shop/db"), reads("old/x")));
    let references = ["org://secret/shop/db#user", "org://old/x", "org://team/kv/a\"b"];
    let provider = world.narrowed(&references, None);
    let shown = provider.session_policies();
    assert_eq!(shown.len(), 2);
    let body: Value = serde_json::from_str(&shown[0].text).unwrap();
    assert_eq!(body["policies"], json!(["db", "stripe"]));
    assert_eq!((&body["ttl"], &body["num_uses"], &body["renewable"]), (&json!("2s"), &json!(4), &json!(false)));
    assert_eq!(body["meta"]["session"], scope(&references).session.to_string());
    // Both that it may be, as long as nobody asked.
    for rule in
        ["secret/data/shop/db", "secret/shop/db", "old/data/x", "old/x", "team/data/kv/a\\\"b", "team/kv/a\\\"b"]
    {
        assert!(
            shown[1].text.contains(&format!("path \"{rule}\" {{ capabilities = [\"read\"] }}")),
            "{}",
            shown[1].text
        );
    }
    let _ = provider.fetch(&[reference("org://secret/shop/db"), reference("org://old/x")], options()).await;
    let rules = provider.session_policies().remove(1).text;
    assert!(!rules.contains("\"secret/shop/db\"") && !rules.contains("old/data/x"), "{rules}");
    assert!(world.whole().session_policies().is_empty());
    world.settings = InstanceSettings { session: Some("shared".to_owned()), ..world.settings };
    assert!(world.narrowed(&references, None).session_policies().is_empty());
}
