//! The embedded store with its key in a real keyring of the system (Secret Service).
//!
//! Needs a session bus with an unlocked keyring, so it is built only with the feature `system-keyring`: `cargo xtask test`
//! starts both where they can be had, and says so where they can't.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::path::Path;
use std::time::Duration;

use broker_core::generate::Generate;
use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::local::{KeySource, StoreState};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider as _};
use broker_providers::registry::{Context, Instance, Registry};
use broker_providers::sign_ins::KeptIn;
use support::reference;

fn with_keyring(dir: &Path) -> Registry {
    Registry::new(Context {
        data_dir: dir.join("data"),
        keyring: true,
        ledger: std::sync::Arc::new(broker_providers::issue::Unkept),
    })
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_the_keyring_is_made_by_its_first_write_and_unlocks_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let first = with_keyring(dir.path());
    first.local().probe_keyring().await.unwrap();
    let made = first.local().generate(&reference("local://key"), Generate::Hex(16)).await.unwrap();
    assert_eq!((first.local().state(), first.local().key_source()), (StoreState::Unlocked, Some(KeySource::Keyring)));
    first.local().put(&reference("local://a"), SecretValue::from("1".to_owned()), soon()).await.unwrap();
    first.forget_all();
    assert_eq!(first.local().state(), StoreState::Locked);
    let again = first.local().fetch(&[reference("local://key")], FetchOptions::within(Duration::from_secs(20))).await;
    assert_eq!(again[0].as_ref().unwrap().value.expose(), made.value.expose());
    drop(first);

    let second = with_keyring(dir.path());
    let results = second.local().fetch(&[reference("local://a")], FetchOptions::within(Duration::from_secs(20))).await;
    assert_eq!(results[0].as_ref().unwrap().value.expose(), b"1");
    let error = second.local().unlock(SecretValue::from("x".to_owned())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    drop(second);

    // Without its keyring it stays locked, and says why.
    let third = support::registry(dir.path());
    let results = third.local().fetch(&[reference("local://a")], FetchOptions::within(Duration::from_secs(20))).await;
    let error = results[0].as_ref().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Locked, "{error}");
    assert!(error.cause.contains("keyring"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_first_writes_make_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let registry = std::sync::Arc::new(with_keyring(dir.path()));
    let racing: Vec<_> = (0..20)
        .map(|number| {
            let registry = std::sync::Arc::clone(&registry);
            tokio::spawn(async move {
                let secret = reference(&format!("local://{number}"));
                registry.local().put(&secret, SecretValue::from(number.to_string()), soon()).await.unwrap();
            })
        })
        .collect();
    for task in racing {
        task.await.unwrap();
    }
    assert_eq!(registry.local().list(ListOptions { prefix: "", tags: &[] }, soon()).await.unwrap().len(), 20);
}

/// Counts the items of the keyring that the broker keeps for sign-ins, and returns all that a dump of it shows.
fn dump() -> (usize, String) {
    let output =
        std::process::Command::new("secret-tool").args(["search", "--all", "service", "broker"]).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (text.matches("sign-in-").count(), text)
}

/// A sign-in outlives the daemon in the keyring, where it is of no use without the key that lies elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_outlives_the_daemon_and_what_the_keyring_holds_is_of_no_use_alone() {
    let server = support::vault::ours();
    server.set("POST", "secret/data/db", &serde_json::json!({"data": {"value": "a value"}}));
    let policy = serde_json::json!({"policy": "path \"secret/data/*\" { capabilities = [\"read\"] }"});
    server.set("POST", "sys/policies/acl/reader", &policy);
    server.set("POST", "sys/auth/userpass", &serde_json::json!({"type": "userpass"}));
    let alice = serde_json::json!({"password": "pw", "token_policies": ["reader"], "token_ttl": "1h"});
    server.set("POST", "auth/userpass/users/alice", &alice);
    let settings =
        InstanceSettings { auth: Some("userpass".to_owned()), role: Some("alice".to_owned()), ..server.settings() };
    let instance = Instance::of_manifest(settings);
    let way = |registry: &Registry| registry.login("org", &instance, &SignIn::default()).unwrap().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let first = with_keyring(dir.path());
    first.sign_ins().answer(&way(&first), vec![SecretValue::from("pw".to_owned())], soon()).await.unwrap();
    let (_, kept_in) = first.sign_ins().status(&way(&first)).await.unwrap();
    assert_eq!(kept_in, KeptIn::Keyring);
    let (items, shown) = dump();
    assert!(items >= 1 && !shown.contains("hvs.") && !shown.contains("alice"), "{shown}");
    drop(first);

    let second = with_keyring(dir.path());
    let opened = second.open("org", &instance, &SignIn::default()).unwrap();
    let got =
        opened.provider.fetch(&[reference("org://secret/db")], FetchOptions::within(Duration::from_secs(20))).await;
    assert_eq!(got[0].as_ref().unwrap().value.expose(), b"a value");

    // The same keyring without the key file of that data directory.
    let other = tempfile::tempdir().unwrap();
    let stranger = with_keyring(other.path());
    assert!(stranger.sign_ins().status(&way(&stranger)).await.is_none());

    assert!(second.sign_ins().end(&way(&second), soon()).await.unwrap());
    assert_eq!(dump().0, items - 1);
    let third = with_keyring(dir.path());
    assert!(third.sign_ins().status(&way(&third)).await.is_none());
}
