//! What `deploy/azure` holds does what its page says, and the page shows it as it is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions};
use broker_tests::fakes::azure::{Application, Azure, Role, TENANT};
use serde_json::Value;
use support::azure::{at, by_secret};
use support::{reference, registry, signed_in};
use tokio::time::Instant;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shipped(name: &str) -> String {
    fs::read_to_string(repository().join("deploy/azure").join(name)).unwrap()
}

#[test]
fn the_page_shows_what_is_shipped() {
    let page = fs::read_to_string(repository().join("docs/providers/azure-key-vault.md")).unwrap();
    for name in ["secret-reader.json", "federated-credential.json"] {
        assert!(page.contains(shipped(name).trim()), "the page shows another {name}");
    }
}

struct World {
    fake: Azure,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { fake: Azure::start(), dir: tempfile::tempdir().unwrap() };
        for name in ["db-url", "stripe"] {
            let _ = world.fake.seed(name, "one");
            world.fake.advance(Duration::from_secs(1));
            let _ = world.fake.seed(name, "two");
        }
        world
    }

    /// Fetches each reference; returns values and kinds of failure.
    async fn fetch(&self, sign_in: &SignIn, texts: &[&str]) -> Vec<Result<Vec<u8>, ErrorKind>> {
        let provider = registry(self.dir.path()).open("vault", &at(&self.fake), sign_in).unwrap().provider;
        let references: Vec<_> = texts.iter().map(|text| reference(text)).collect();
        let results = provider.fetch(&references, FetchOptions::within(Duration::from_secs(5))).await;
        results.into_iter().map(|r| r.map(|f| f.value.expose().to_vec()).map_err(|e| e.kind)).collect()
    }

    async fn may_list(&self, application: &Application) -> bool {
        let provider =
            registry(self.dir.path()).open("vault", &at(&self.fake), &by_secret(application)).unwrap().provider;
        provider.list(ListOptions::default(), Instant::now() + Duration::from_secs(5)).await.is_ok()
    }
}

#[tokio::test]
async fn the_role_of_ones_own_reads_one_secret_and_lists_nothing() {
    let world = World::new();
    let role: Value = serde_json::from_str(&shipped("secret-reader.json")).unwrap();
    let actions: Vec<_> =
        role["DataActions"].as_array().unwrap().iter().map(|action| action.as_str().unwrap()).collect();
    let reader = world.fake.application();
    world.fake.assign_actions_at(&reader.oid, &actions, "db-url");
    let asked = ["vault://db-url", "vault://db-url?stage=previous", "vault://stripe"];
    let results = world.fetch(&by_secret(&reader), &asked).await;
    assert_eq!(results, [Ok(b"two".to_vec()), Err(ErrorKind::Denied), Err(ErrorKind::Denied)]);
    assert!(!world.may_list(&reader).await);
}

#[tokio::test]
async fn the_built_in_role_reads_the_version_before_too() {
    let world = World::new();
    let reader = world.fake.application();
    world.fake.assign_at(&reader.oid, Role::SecretsUser, "db-url");
    let asked = ["vault://db-url", "vault://db-url?stage=previous", "vault://stripe"];
    let results = world.fetch(&by_secret(&reader), &asked).await;
    assert_eq!(results, [Ok(b"two".to_vec()), Ok(b"one".to_vec()), Err(ErrorKind::Denied)]);
    // And the reader of the vault lists, and opens nothing.
    let auditor = world.fake.application();
    world.fake.assign(&auditor.oid, Role::Reader);
    assert!(world.may_list(&auditor).await);
    assert_eq!(world.fetch(&by_secret(&auditor), &["vault://db-url"]).await, [Err(ErrorKind::Denied)]);
}

#[tokio::test]
async fn the_federated_credential_lets_its_subject_in_and_nobody_else() {
    let world = World::new();
    let credential: Value = serde_json::from_str(&shipped("federated-credential.json")).unwrap();
    let (issuer, subject) = (credential["issuer"].as_str().unwrap(), credential["subject"].as_str().unwrap());
    assert_eq!(credential["audiences"][0], "api://AzureADTokenExchange");
    let application = world.fake.application();
    world.fake.assign(&application.oid, Role::SecretsUser);
    world.fake.federate(&application, issuer, subject);
    let file = world.dir.path().join("assertion");
    let sign_in = signed_in(&[
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", &application.client_id),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
    ]);
    for (subject, expected) in
        [(subject, Ok(b"two".to_vec())), ("system:serviceaccount:shop:other", Err(ErrorKind::Unauthenticated))]
    {
        fs::write(&file, world.fake.assertion(issuer, subject, Duration::from_secs(600))).unwrap();
        assert_eq!(world.fetch(&sign_in, &["vault://db-url"]).await, [expected]);
    }
}

/// `az` itself is not here: a stand-in writes down what it is asked.
#[test]
fn the_grant_is_for_the_named_secrets_only() {
    let dir = tempfile::tempdir().unwrap();
    let (az, log) = (dir.path().join("az"), dir.path().join("log"));
    let text = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$*\" >> {}\n[ \"$1\" = keyvault ] && echo /the/vault || true\n",
        log.display()
    );
    fs::write(&az, text).unwrap();
    fs::set_permissions(&az, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(repository().join("deploy/azure/grant.sh"));
    command.args(["shop-dev", "the-object", "db-url", "payment"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()));
    assert!(command.status().unwrap().success());
    let asked = fs::read_to_string(&log).unwrap();
    let grant = |secret| {
        format!(
            "role assignment create --role Key Vault Secrets User --assignee the-object --scope /the/vault/secrets/{secret}"
        )
    };
    let lines: Vec<_> = asked.lines().collect();
    assert_eq!(lines[1..], [grant("db-url"), grant("payment")]);
}
