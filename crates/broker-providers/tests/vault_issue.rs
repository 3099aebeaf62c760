//! Dynamic secrets of Vault and OpenBao: one token for each run, what hangs on it, and that all of it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;
#[path = "support/vault_run.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this module")]
mod vault_run;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker_core::reference::SecretRef;
use broker_core::sign_in::SignIn;
use broker_providers::issue::{About, Credential, Ending, Issued};
use broker_providers::provider::{ErrorKind, ProviderError};
use broker_providers::resolve::{ResolveOptions, Run, resolve};
use broker_tests::proxy::Fault;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::vault::with_token;
use support::{reference, signed_in};
use vault_run::{MAKE, World, opened_anew, options, order, policy, reads, soon, token};

const HOUR: Duration = Duration::from_secs(3_600);
const READER: &str = "org://database/creds/reader";
const WRITER: &str = "org://database/creds/writer";
const QUEUE: &str = "org://team/queue/creds/reader";

/// A server with two engines that issue, and a sign-in that may read all of their roles.
fn shop() -> World {
    let world = World::new(&[
        ("databases", &reads("database/creds/*")),
        ("queue", &reads("team/queue/creds/*")),
        ("stored", &reads("secret/data/shop/*")),
        ("make", MAKE),
    ]);
    for mount in ["database", "team/queue"] {
        engine(&world, mount, "10m", "2h");
    }
    world
}

fn engine(world: &World, mount: &str, ttl: &str, most: &str) {
    world.server.set("POST", &format!("sys/mounts/{mount}"), &json!({ "type": "database" }));
    world.server.set("POST", &format!("{mount}/config/{}", mount.replace('/', "-")), &json!({}));
    for role in ["reader", "writer"] {
        let body = json!({ "db_name": mount.replace('/', "-"), "default_ttl": ttl, "max_ttl": most });
        world.server.set("POST", &format!("{mount}/roles/{role}"), &body);
    }
}

async fn issue(world: &World, references: &[&str], ttl: Duration) -> Vec<Result<Issued, ProviderError>> {
    let all: Vec<SecretRef> = references.iter().map(|text| reference(text)).collect();
    world.whole().issue(&all, &order(references, ttl), soon()).await
}

/// Issues what must succeed.
async fn credential(world: &World, references: &[&str], ttl: Duration) -> Arc<Credential> {
    let issued: Vec<Issued> = issue(world, references, ttl).await.into_iter().map(Result::unwrap).collect();
    assert!(issued.iter().all(|one| Arc::ptr_eq(&one.credential, &issued[0].credential)), "it is one credential");
    Arc::clone(&issued[0].credential)
}

fn ending(credential: &Credential) -> &Ending {
    &credential.revocation.as_ref().unwrap().ending
}

/// How many seconds from now.
fn in_seconds(time: Timestamp) -> i64 {
    time.duration_since(Timestamp::now()).as_secs()
}

/// Asks the server for a lease, as root.
fn lease(world: &World, id: &str) -> (u16, Value) {
    world.server.ask(world.server.root(), "", "POST", "sys/leases/lookup", &json!({ "lease_id": id }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_issued_and_what_is_stored_says_the_server_once() {
    let world = shop();
    world.server.store("secret", "shop/db", &json!({ "value": "x" }));
    let all: Vec<_> = [READER, "org://secret/shop/db", QUEUE, "org://nowhere/x"].map(reference).into();
    let provider = world.narrowed(&[READER], None);
    assert_eq!(provider.issues(&all, soon()).await, [true, false, true, false]);
    world.proxy.forget_calls();
    assert_eq!(provider.issues(&all[..3], soon()).await, [true, false, true]);
    assert_eq!(world.proxy.call_count(), 0);
    // Fetching is not issuing, and issuing not fetching.
    let error = provider.fetch(&[reference(READER)], options()).await.remove(0).expect_err("it is not stored");
    assert_eq!(error.cause, "`database/` is of type `database`, and only KV secrets are read");
    let error = issue(&world, &["org://secret/shop/db"], HOUR).await.remove(0).expect_err("it is stored");
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    let error = issue(&world, &[&format!("{READER}?version=2")], HOUR).await.remove(0).expect_err("which version?");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(world.ledger.all().is_empty() && world.server.ours().alive_leases().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_serves_all_dynamic_secrets_of_a_run_and_takes_them_along_when_it_is_revoked() {
    let world = shop();
    let credential = credential(&world, &[READER, WRITER, QUEUE], HOUR).await;
    let ending = ending(&credential).clone();
    assert_eq!(credential.references, [READER, WRITER, QUEUE].map(reference));
    let alive = world.server.ours().alive_tokens();
    let named: Vec<_> = alive.iter().filter(|token| token.uses == 0).collect();
    assert_eq!(named.len(), 1, "one for all: {alive:?}");
    assert_eq!(named[0].policies, ["databases", "default", "queue"]);
    assert_eq!(named[0].meta["lease"], vault_run::lease().to_string());
    assert_eq!(world.ledger.held().len(), 1, "the entry with the leases is in the place of the one without");
    let leases = ending.about.leases.clone();
    assert_eq!((leases.len(), world.server.ours().alive_leases().len()), (3, 3));
    assert!(leases.iter().all(|id| lease(&world, id).0 == 200), "the look-up finds what is alive");
    assert_eq!(
        (world.server.ours().accounts("database").len(), world.server.ours().accounts("team-queue").len()),
        (2, 1)
    );

    world.whole().revoke(&ending, soon()).await.unwrap();
    for id in &leases {
        assert_eq!(lease(&world, id), (400, json!({ "errors": ["invalid lease"] })), "by the server's word");
    }
    assert!(
        world.server.ours().accounts("database").is_empty() && world.server.ours().accounts("team-queue").is_empty()
    );
    assert!(!world.server.ours().is_alive(&named[0].accessor));
    world.whole().revoke(&ending, soon()).await.expect("ending what has ended is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_users_and_passwords_that_work_by_their_fields() {
    let world = shop();
    world.server.store("secret", "shop/db", &json!({ "value": "stored" }));
    let references = [format!("{READER}#username"), format!("{READER}#password"), "org://secret/shop/db".to_owned()];
    let references: Vec<SecretRef> = references.iter().map(|text| reference(text)).collect();
    let scope = Arc::new(vault_run::scope(&[READER, "org://secret/shop/db"]));
    let run = Run { order: order(&[READER], HOUR), keys: HashMap::new() };
    let open = |name: &str| world.registry.open_for(name, &world.instance(), &world.sign_in, &scope, None);
    let resolved = resolve(&references, ResolveOptions { run: Some(&run), ..ResolveOptions::default() }, open).await;
    let resolved: Vec<_> = resolved.into_iter().map(Result::unwrap).collect();
    let text = |at: usize| String::from_utf8(resolved[at].value.expose().to_vec()).unwrap();
    assert!(world.server.ours().accounts("database").contains(&text(0)));
    assert!(text(1).starts_with("pw-") && text(2) == "stored");
    assert!(resolved[0].credential.is_some() && resolved[2].credential.is_none());
    assert_eq!(world.server.ours().alive_leases().len(), 1, "two fields of one secret are one account");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_down_suffices_to_revoke_without_a_sign_in() {
    let mut world = shop();
    // The namespace is the caller's, who will be gone.
    let root = world.server.root().to_owned();
    let ask = |namespace: &str, path: &str, body: Value| {
        let (status, answer) = world.server.ask(&root, namespace, "POST", path, &body);
        assert!(status < 300, "{path}: {answer}");
        answer
    };
    ask("", "sys/namespaces/team-a", json!({}));
    ask("team-a", "sys/mounts/database", json!({ "type": "database" }));
    ask("team-a", "database/config/a", json!({}));
    ask("team-a", "database/roles/reader", json!({ "db_name": "a" }));
    ask("team-a", "sys/policies/acl/all", json!({ "policy": format!("{MAKE}\n{}", reads("database/creds/*")) }));
    let made = ask("team-a", "auth/token/create", json!({ "policies": ["all"], "ttl": "1h" }));
    let made = made["auth"]["client_token"].as_str().unwrap().to_owned();
    world.sign_in = signed_in(&[("VAULT_TOKEN", &made), ("VAULT_NAMESPACE", "team-a")]);
    drop(issue(&world, &[READER], HOUR).await.remove(0).unwrap());
    assert_eq!(world.server.ours().accounts("a").len(), 1);

    let held = world.ledger.held().remove(0);
    let written = serde_json::to_string(&held.about).unwrap();
    let about: About = serde_json::from_str(&written).unwrap();
    assert_eq!((about.lease, about.leases.len(), about.renewable), (Some(vault_run::lease()), 1, true));
    let dir = tempfile::tempdir().unwrap();
    let fresh = opened_anew(dir.path(), &world.ledger);
    let provider = fresh.open(&about.name, &about.instance, &SignIn::default()).unwrap().provider;
    let kept = Ending { about, ..held };
    assert!((800..=900).contains(&in_seconds(provider.renew(&kept, HOUR, soon()).await.unwrap())));
    provider.revoke(&kept, soon()).await.unwrap();
    assert!(world.server.ours().accounts("a").is_empty() && world.server.ours().alive_tokens().is_empty());
    assert_eq!(provider.renew(&kept, HOUR, soon()).await.expect_err("it has ended").kind, ErrorKind::NotFound);

    // It is shown to no other server than the one that it is of.
    let elsewhere = broker_providers::registry::Instance::fixed(support::vault::at("http://127.0.0.1:9"));
    let other = fresh.open("org", &elsewhere, &SignIn::default()).unwrap().provider;
    assert_eq!(other.revoke(&kept, soon()).await.expect_err("another server").kind, ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_never_written_down_is_dead_within_two_seconds() {
    for dies in [false, true] {
        let world = Arc::new(shop());
        // Whoever would clean up is gone, too.
        world.proxy.fail_holding("auth/token/revoke-self", Fault::BlackHole);
        world.ledger.then(move |_| {
            assert!(!dies, "the power fails");
            Err(io::Error::other("the disk is full"))
        });
        let own = Arc::clone(&world);
        let outcome = tokio::spawn(async move { issue(&own, &[READER], HOUR).await }).await;
        match outcome {
            Ok(mut results) => {
                let error = results.remove(0).expect_err("it cannot be written down");
                assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
                assert!(error.cause.contains("the disk is full"), "{error}");
            }
            Err(error) => assert!(dies && error.is_panic()),
        }
        let server = world.server.ours();
        assert_eq!(world.asked("read", "database/creds"), 0, "it was not used");
        let named: Vec<_> = server.alive_tokens().into_iter().filter(|token| token.uses == 0).collect();
        assert!(named.iter().all(|token| token.ttl <= 2), "{named:?}");
        server.advance(Duration::from_secs(2));
        assert!(!server.alive_tokens().iter().any(|token| token.uses == 0));
    }
    // One that was written down lives on.
    let world = shop();
    credential(&world, &[READER], HOUR).await;
    world.server.ours().advance(Duration::from_secs(2));
    assert!(world.server.ours().alive_tokens().iter().any(|token| token.uses == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_slow_once_costs_another_token_and_no_run() {
    let world = shop();
    let (server, was_slow) = (Arc::clone(&world.server), AtomicBool::new(false));
    world.ledger.then(move |_| {
        if !was_slow.swap(true, Ordering::SeqCst) {
            server.ours().advance(Duration::from_secs(3));
        }
        Ok(())
    });
    let credential = credential(&world, &[READER], HOUR).await;
    assert!(in_seconds(credential.expires) > 500);
    let entry = credential.revocation.as_ref().unwrap().entry;
    assert!(
        broker_tests::deadline::within(Duration::from_secs(20), || (world.ledger.held().len() == 1).then_some(()))
            .is_some()
    );
    assert_eq!(world.ledger.all().len(), 3, "the one that ended, the one that serves, and once more with its leases");
    assert!(entry.0 == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewing_goes_on_up_to_the_end_of_the_run_and_no_further() {
    let mut world = shop();
    world.settings.session_ttl = Some("5m".to_owned());
    let run = Duration::from_secs(20 * 60);
    let credential = credential(&world, &[READER], run).await;
    let (provider, ending) = (world.whole(), ending(&credential));
    let of =
        |server: &support::vault::Server| server.ours().alive_tokens().into_iter().find(|t| t.uses == 0).map(|t| t.ttl);
    assert!((295..=300).contains(&in_seconds(credential.expires)));
    assert!(of(&world.server).is_some_and(|ttl| ttl <= 300), "who renews nothing has it for five minutes");
    for minutes in [4, 8, 12, 16] {
        world.server.ours().advance(Duration::from_secs(240));
        let left = run - Duration::from_secs(minutes * 60);
        let until = in_seconds(provider.renew(ending, left, soon()).await.unwrap());
        let expected = left.min(Duration::from_secs(300)).as_secs();
        assert!(until <= expected as i64 && until >= expected as i64 - 10, "{minutes}: {until}");
        assert_eq!(world.server.ours().accounts("database").len(), 1, "its lease of ten minutes goes on with it");
    }
    // The end of the run, whatever is asked for.
    world.server.ours().advance(Duration::from_secs(230));
    let until = in_seconds(provider.renew(ending, HOUR, soon()).await.unwrap());
    assert!(until <= 45, "{until}");
    world.server.ours().advance(Duration::from_secs(45));
    assert!(of(&world.server).is_none() && world.server.ours().accounts("database").is_empty());
    let error = provider.renew(ending, HOUR, soon()).await.expect_err("it has ended");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    provider.revoke(ending, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_ends_with_the_first_of_its_leases_and_one_that_cannot_be_renewed_ends_when_it_ends() {
    let world = shop();
    engine(&world, "brief", "2m", "3m");
    policy(&world.server, "queue", &reads("brief/creds/*"));
    let credential = credential(&world, &[READER, "org://brief/creds/reader"], HOUR).await;
    assert!((110..=120).contains(&in_seconds(credential.expires)), "{}", credential.expires);
    world.server.ours().advance(Duration::from_secs(100));
    let until = in_seconds(world.whole().renew(ending(&credential), HOUR, soon()).await.unwrap());
    assert!((70..=80).contains(&until), "up to the most of its role: {until}");
    let refusal = json!({ "errors": ["lease is not renewable"] }).to_string();
    world.proxy.fail_holding("sys/leases/renew", Fault::Answer(400, refusal));
    world.server.ours().advance(Duration::from_secs(30));
    let until = in_seconds(world.whole().renew(ending(&credential), HOUR, soon()).await.unwrap());
    assert!((40..=50).contains(&until), "as long as it lasts: {until}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_beside_a_failure_comes_back_and_where_all_failed_nothing_is_left() {
    let world = shop();
    let mut results = issue(&world, &[READER, "org://database/creds/nobody"], HOUR).await;
    let error = results.remove(1).expect_err("there is no such role");
    assert!(error.cause.contains("unknown role: nobody"), "{error}");
    let issued = results.remove(0).unwrap();
    assert_eq!(issued.credential.references, [reference(READER)]);
    assert_eq!(world.ledger.held().len(), 1);
    world.whole().revoke(ending(&issued.credential), soon()).await.unwrap();
    let before = world.ledger.held().len();
    let results = issue(&world, &["org://database/creds/nobody", "org://team/queue/creds/nobody"], HOUR).await;
    assert!(results.iter().all(Result::is_err));
    let is_struck = || (world.ledger.held().len() == before).then_some(());
    assert!(broker_tests::deadline::within(Duration::from_secs(20), is_struck).is_some());
    let is_clean = || world.server.ours().alive_tokens().is_empty().then_some(());
    assert!(broker_tests::deadline::within(Duration::from_secs(20), is_clean).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_broken_off_leaves_nothing_behind() {
    let world = Arc::new(shop());
    world.proxy.fail_holding("GET /v1/database/creds", Fault::FirstByteAfter(HOUR));
    let own = Arc::clone(&world);
    let running = tokio::spawn(async move { issue(&own, &[READER], HOUR).await });
    let is_written =
        || (!world.ledger.held().is_empty() && !world.server.ours().alive_leases().is_empty()).then_some(());
    assert!(broker_tests::deadline::within(Duration::from_secs(20), is_written).is_some());
    running.abort();
    assert!(world.ledger.is_empty_soon());
    assert!(world.server.ours().alive_leases().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_role_and_a_sign_in_without_children_are_told_their_rules() {
    let mut world = shop();
    policy(&world.server, "databases", &reads("database/creds/writer"));
    let mut results = issue(&world, &[READER, WRITER], HOUR).await;
    let error = results.remove(0).expect_err("no policy grants it");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.unwrap().contains("path \"database/creds/reader\" { capabilities = [\"read\"] }"));
    results.remove(0).unwrap();
    // A shared session is for what is stored: this has to end with the run.
    world.settings.session = Some("shared".to_owned());
    let made = token(&world.server, &json!({ "policies": ["databases"], "ttl": "1h" }));
    world.sign_in = with_token(&made);
    let error = issue(&world, &[WRITER], HOUR).await.remove(0).expect_err("it may make none");
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.unwrap().contains("`path \"auth/token/create\" { capabilities = [\"update\"] }`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_sign_in_for_a_token_of_the_run() {
    let world = shop();
    let ended = json!({ "errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"] }).to_string();
    world.proxy.fail_holding("GET /v1/database/creds", Fault::Answer(403, ended));
    let error = issue(&world, &[READER], HOUR).await.remove(0).expect_err("it was revoked meanwhile");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(world.ledger.is_empty_soon());
}

/// The texts under `deploy/vault/` are what the documentation tells people to paste.
#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_policies_suffice_for_a_run_and_grant_nothing_more() {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/vault");
    let texts =
        ["reader.hcl", "run.hcl", "database.hcl"].map(|name| std::fs::read_to_string(deploy.join(name)).unwrap());
    let [reader, run, database] = &texts;
    let world = World::new(&[("shop-dev", reader), ("broker-run", run), ("shop-dev-db", database)]);
    engine(&world, "database", "15m", "2h");
    for role in ["shop-dev", "shop-prod"] {
        world.server.set("POST", &format!("database/roles/{role}"), &json!({ "db_name": "database" }));
    }
    for stage in ["dev", "prod"] {
        world.server.store("secret", &format!("shop/{stage}/db"), &json!({ "value": stage }));
    }
    assert_eq!(world.text("org://secret/shop/dev/db").await.unwrap(), "dev");
    assert_eq!(world.text("org://secret/shop/prod/db").await.expect_err("another stage").kind, ErrorKind::Denied);
    let mut results = issue(&world, &["org://database/creds/shop-dev", "org://database/creds/shop-prod"], HOUR).await;
    assert_eq!(results.remove(1).expect_err("another role").kind, ErrorKind::Denied);
    let issued = results.remove(0).unwrap();
    let provider = world.whole();
    provider.renew(ending(&issued.credential), HOUR, soon()).await.unwrap();
    // The token of the run has neither what is stored nor the right to make tokens.
    assert_eq!(world.ask_with(ending(&issued.credential), "GET", "secret/data/shop/dev/db").0, 403);
    assert_eq!(world.ask_with(ending(&issued.credential), "POST", "auth/token/create").0, 403);
    provider.revoke(ending(&issued.credential), soon()).await.unwrap();
    assert!(world.server.ours().accounts("database").is_empty());
}
