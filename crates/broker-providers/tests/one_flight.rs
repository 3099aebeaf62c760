//! One flight per secret, however many ask: shown on a real server behind a layer that counts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_providers::provider::FetchOptions;
use broker_providers::resolve::{ResolveOptions, resolve};
use support::fake_aws::{FakeAws, Reply, kind};
use support::{aws, of_manifest, reference, registry, root, server, unique};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_fetches_of_the_same_fifty_secrets_are_three_calls() {
    let moto = server("BROKER_TEST_MOTO");
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(registry(dir.path()));
    let prefix = unique("flight");
    let direct = registry.open("direct", &of_manifest(&aws(&moto)), &root()).unwrap().provider;
    let references: Vec<_> = (0..50).map(|number| reference(&format!("org://{prefix}/{number}"))).collect();
    for (number, reference) in references.iter().enumerate() {
        let value = broker_core::secret::SecretValue::from(format!("value {number}"));
        direct.put(reference, value, FetchOptions::within(Duration::from_secs(20)).deadline).await.unwrap();
    }

    let relay = moto.clone();
    let counting = FakeAws::new(Duration::from_millis(50), move |_| Reply::Relay(relay.clone()));
    let settings = aws(&counting.url());
    let asking: Vec<_> = (0..200)
        .map(|_| {
            let (registry, settings, references) = (Arc::clone(&registry), settings.clone(), references.clone());
            tokio::spawn(async move {
                let open = |name: &str| registry.open(name, &of_manifest(&settings), &root());
                resolve(&references, ResolveOptions::default(), open).await
            })
        })
        .collect();
    for results in asking {
        for (number, result) in results.await.unwrap().into_iter().enumerate() {
            assert_eq!(result.unwrap().value.expose(), format!("value {number}").as_bytes());
        }
    }
    assert_eq!((counting.calls("BatchGetSecretValue"), counting.all_calls()), (3, 3));
    assert_eq!(registry.calls().iter().find(|(name, _)| name == "org"), Some(&("org".to_owned(), 3)));
    assert_eq!(registry.held_values(), 50);

    // Within the ttl nobody is asked.
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &root());
    assert!(resolve(&references, ResolveOptions::default(), open).await.iter().all(Result::is_ok));
    assert_eq!(counting.all_calls(), 3);

    // Another identity gets nothing of it: it asks for itself.
    let other = support::signed_in(&[("AWS_ACCESS_KEY_ID", "other"), ("AWS_SECRET_ACCESS_KEY", "other")]);
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &other);
    assert!(resolve(&references, ResolveOptions::default(), open).await.iter().all(Result::is_ok));
    assert_eq!(counting.all_calls(), 6);

    registry.forget_all();
    assert_eq!(registry.held_values(), 0);
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &root());
    assert!(resolve(&references, ResolveOptions::default(), open).await.iter().all(Result::is_ok));
    assert_eq!(counting.all_calls(), 9);
}

/// How long it takes is a figure and not asserted: see `support::figure`.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_are_three_calls_side_by_side() {
    let fake = FakeAws::new(Duration::from_millis(50), kind);
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = aws(&fake.url());
    let references: Vec<_> = (0..50).map(|number| reference(&format!("org://s{number}"))).collect();
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &root());
    let mut took = Vec::new();
    for _ in 0..7 {
        let started = Instant::now();
        let options = ResolveOptions { refresh: true, ..ResolveOptions::default() };
        assert!(resolve(&references, options, open).await.iter().all(Result::is_ok));
        took.push(started.elapsed());
    }
    assert_eq!(fake.calls("BatchGetSecretValue"), 21);
    assert_eq!(fake.connections(), 3, "connections are kept");
    support::figure("cold-50-secrets-behind-50-ms", &format!("{took:?}"));
}

#[tokio::test]
async fn the_count_of_requests_forgets_names_and_no_request() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let dir = tempfile::tempdir().unwrap();
    let registry = support::registry(dir.path());
    let settings = support::aws(&fake.url());
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &support::root());
    for number in 0..3000 {
        open(&format!("early-{number}")).unwrap();
        if number % 1000 == 0 {
            let asked = [support::reference(&format!("early-{number}://a"))];
            resolve(&asked, ResolveOptions::default(), open).await.remove(0).unwrap();
        }
    }
    let calls = registry.calls();
    assert!(calls.len() <= 513, "{}", calls.len());
    assert_eq!(calls.iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert_eq!(calls.iter().find(|(name, _)| name == "early-2999"), Some(&("early-2999".to_owned(), 0)));
}
