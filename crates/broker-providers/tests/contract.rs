//! Every provider against the contract: the embedded store, AWS Secrets Manager on two servers that others wrote, and
//! Google Cloud Secret Manager on one that Google's own clients check.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use broker_core::secret::SecretValue;
use broker_providers::contract::{Fixture, check};
use broker_tests::fakes::gcp::FakeGcp;
use support::{aws, gcp, of_manifest, registry, root, secret_id, server, signed_in, unique};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    registry.local().create(Some(SecretValue::from("a passphrase".to_owned()))).await.unwrap();
    let settings = broker_core::instance::InstanceSettings::of_kind("local");
    let provider = registry.open("local", &of_manifest(&settings), &root()).unwrap().provider;
    check(&Fixture {
        provider,
        instance: "local".into(),
        prefix: unique("contract"),
        path: str::to_owned,
        known_wrong: vec![],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let program = support::program::written(dir.path(), "store.py", include_str!("programs/store.py"));
    let store = dir.path().join("store");
    let settings = support::program::pinned(&program, &[store.to_str().unwrap()]);
    let provider = support::program::opened(&registry(dir.path()), "files", &settings);
    check(&Fixture {
        provider,
        instance: "files".into(),
        prefix: unique("contract"),
        path: str::to_owned,
        known_wrong: vec![],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_secrets_manager_keeps_the_contract_on_moto() {
    on_server("BROKER_TEST_MOTO", vec![]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_secrets_manager_keeps_the_contract_on_ministack() {
    on_server("BROKER_TEST_MINISTACK", vec![]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_secret_manager_keeps_the_contract() {
    let fake = FakeGcp::start();
    fake.allow_anonymous();
    // Pages of few entries, so that listings have several.
    fake.set_page(2);
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let provider = registry.open("g", &of_manifest(&gcp(&fake.url())), &signed_in(&[])).unwrap().provider;
    let (instance, prefix) = ("g".into(), unique("contract"));
    check(&Fixture { provider, instance, prefix, path: secret_id, known_wrong: vec![] }).await;
}

async fn on_server(variable: &str, known_wrong: Vec<(&'static str, &'static str)>) {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let provider = registry.open("org", &of_manifest(&aws(&server(variable))), &root()).unwrap().provider;
    check(&Fixture { provider, instance: "org".into(), prefix: unique("contract"), path: str::to_owned, known_wrong })
        .await;
}
