//! Every provider against the contract: the embedded store, AWS Secrets Manager on two servers that others wrote, and
//! Google Cloud Secret Manager on one that Google's own clients check.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_providers::contract::{Fixture, check};
use broker_tests::fakes::gcp::FakeGcp;
use support::{aws, aws_ssm, gcp, of_manifest, registry, root, secret_id, server, signed_in, unique};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    registry.local().create(Some(SecretValue::from("a passphrase".to_owned()))).await.unwrap();
    let settings = InstanceSettings::of_kind("local");
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
    let reason = "serves a moved `AWSCURRENT` only to those who name the stage";
    let known_wrong = [
        "a_promoted_version_is_current_and_the_former_one_previous",
        "a_demoted_version_gives_way_to_the_one_before",
        "a_pending_version_waits_until_it_is_promoted",
    ];
    secrets_manager("BROKER_TEST_MOTO", known_wrong.map(|claim| (claim, reason)).to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_secrets_manager_keeps_the_contract_on_ministack() {
    let reason = "keeps no version that stands in no stage";
    let known_wrong = vec![("a_promoted_version_is_current_and_the_former_one_previous", reason)];
    secrets_manager("BROKER_TEST_MINISTACK", known_wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_parameter_store_keeps_the_contract_on_moto() {
    parameter_store("BROKER_TEST_MOTO", vec![]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_parameter_store_keeps_the_contract_on_ministack() {
    parameter_store("BROKER_TEST_MINISTACK", vec![]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn vault_keeps_the_contract_with_versions() {
    for server in support::vault::servers() {
        on_vault(&server, "2", vec![]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_keeps_the_contract_without_versions() {
    let reason = "a KV engine of version 1 keeps no versions";
    let claims = [
        "the_version_before_the_last_write_is_the_previous_stage",
        "a_description_says_what_there_is_and_no_value",
        "a_promoted_version_is_current_and_the_former_one_previous",
        "a_demoted_version_gives_way_to_the_one_before",
    ];
    for server in support::vault::servers() {
        on_vault(&server, "1", claims.map(|claim| (claim, reason)).to_vec()).await;
    }
}

async fn on_vault(server: &support::vault::Server, version: &str, known_wrong: Vec<(&'static str, &'static str)>) {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let mount = unique("kv");
    server.enable_kv(&mount, version);
    let provider = support::vault::opened(&registry, &server.settings(), server.root()).provider;
    let (instance, prefix) = ("org".into(), format!("{mount}/contract"));
    check(&Fixture { provider, instance, prefix, path: str::to_owned, known_wrong }).await;
}

async fn secrets_manager(variable: &str, known_wrong: Vec<(&'static str, &'static str)>) {
    on_server(&aws(&server(variable)), str::to_owned, known_wrong).await;
}

async fn parameter_store(variable: &str, known_wrong: Vec<(&'static str, &'static str)>) {
    // In a hierarchy a name begins with a slash.
    on_server(&aws_ssm(&server(variable)), |name| format!("/{name}"), known_wrong).await;
}

async fn on_server(
    settings: &InstanceSettings,
    path: fn(&str) -> String,
    known_wrong: Vec<(&'static str, &'static str)>,
) {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let provider = registry.open("org", &of_manifest(settings), &root()).unwrap().provider;
    check(&Fixture { provider, instance: "org".into(), prefix: unique("contract"), path, known_wrong }).await;
}
