//! Azure Key Vault: names, versions, what a denial says, how bytes are kept, how many requests it takes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::contract::{Fixture, check};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, resolve};
use broker_tests::fakes::azure::{Application, Azure, Role};
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;
use support::azure::{at, azure, by_secret, name};
use support::{figure, reference, registry};
use tokio::time::Instant;

struct World {
    fake: Azure,
    application: Application,
    registry: Registry,
    instance: Instance,
    _dir: tempfile::TempDir,
}

impl World {
    /// Opens a vault for an application in `role`.
    fn new(role: Role) -> Self {
        let (fake, dir) = (Azure::start(), tempfile::tempdir().unwrap());
        let application = fake.application();
        fake.assign(&application.oid, role);
        let instance = at(&fake);
        Self { fake, application, registry: registry(dir.path()), instance, _dir: dir }
    }

    fn sign_in(&self) -> SignIn {
        by_secret(&self.application)
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.registry.open("org", &self.instance, &self.sign_in()).unwrap().provider
    }

    async fn fetch(&self, text: &str) -> Result<Vec<u8>, ProviderError> {
        let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(5)) };
        let fetched = self.provider().fetch(&[reference(text)], options).await.remove(0);
        fetched.map(|fetched| fetched.value.expose().to_vec())
    }

    async fn put(&self, text: &str, value: &[u8]) -> Result<Option<String>, ProviderError> {
        self.provider().put(&reference(text), SecretValue::new(value.to_vec()), soon()).await
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_key_vault_keeps_the_contract() {
    let world = World::new(Role::SecretsOfficer);
    // The vault's times are whole seconds, and nothing is guessed where two versions share one.
    world.fake.each_write_takes(Duration::from_secs(1));
    check(&Fixture {
        provider: world.provider(),
        instance: "org".into(),
        prefix: "c".into(),
        path: name,
        known_wrong: vec![],
    })
    .await;
}

#[tokio::test]
async fn one_secret_has_one_reference_whatever_its_case_in_the_vault() {
    let world = World::new(Role::SecretsOfficer);
    let _ = world.fake.seed("DbUrl", "postgres://db");
    assert_eq!(world.fetch("org://dburl").await.unwrap(), b"postgres://db");
    let before = world.fake.requests().len();
    for (text, hint) in [("org://DbUrl", "`dburl`"), ("org://db_url", "`db-url`"), ("org://shop/db", "`shop-db`")] {
        let error = world.fetch(text).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(error.hint.as_ref().unwrap().contains(hint), "{error:?}");
    }
    assert_eq!(world.fake.requests().len(), before, "nobody was asked");
    let all = ListOptions { prefix: "", tags: &[] };
    let listed = world.provider().list(all, soon()).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["dburl"]);
    // A write is a new version of the same secret, and not another secret.
    world.put("org://dburl", b"two").await.unwrap();
    assert_eq!(world.provider().list(all, soon()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_kept_as_az_keeps_them() {
    let world = World::new(Role::SecretsOfficer);
    world.put("org://key", b"\xff\x00").await.unwrap();
    assert_eq!(world.fetch("org://key").await.unwrap(), b"\xff\x00");
    let described = world.provider().describe(&reference("org://key"), soon()).await.unwrap();
    assert_eq!(described.tags, [("file-encoding".to_owned(), "base64".to_owned())]);
    // Text again: the mark is gone.
    world.fake.advance(Duration::from_secs(1));
    world.put("org://key", b"/wA=").await.unwrap();
    assert_eq!(world.fetch("org://key").await.unwrap(), b"/wA=");
    // 25 KiB as they are stored.
    world.put("org://long", &[b'x'; 25 * 1024]).await.unwrap();
    for too_long in [vec![b'x'; 25 * 1024 + 1], vec![0xff; 20 * 1024]] {
        let error = world.put("org://long", &too_long).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("25 KiB"), "{error}");
    }
}

#[tokio::test]
async fn a_new_version_keeps_the_tags_of_the_one_before() {
    let world = World::new(Role::SecretsOfficer);
    world.put("org://a", b"one").await.unwrap();
    world.fake.set_tags("a", &[("team", "shop")]);
    world.fake.advance(Duration::from_secs(1));
    world.put("org://a", b"two").await.unwrap();
    world.put("org://b", b"one").await.unwrap();
    let tagged = [("team".to_owned(), "shop".to_owned())];
    let listed = world.provider().list(ListOptions { prefix: "", tags: &tagged }, soon()).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn what_is_disabled_expired_or_not_yet_valid_says_so() {
    let world = World::new(Role::SecretsOfficer);
    let id = world.fake.seed("a", "value");
    let now = world.fake.now();
    for (attributes, says) in [
        (json!({ "exp": now + 60, "nbf": now + 30 }), "is not to be used before"),
        (json!({ "nbf": now - 60, "exp": now - 1 }), "expired at"),
    ] {
        world.fake.set_attributes("a", &attributes);
        let error = world.fetch("org://a").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.cause.contains(says) && error.hint.as_ref().unwrap().contains("?version="), "{error:?}");
        // Named by its id it is served, as Azure does.
        assert_eq!(world.fetch(&format!("org://a?version={id}")).await.unwrap(), b"value");
    }
    let described = world.provider().describe(&reference("org://a"), soon()).await.unwrap();
    assert!(!described.versions[0].usable);
    world.fake.set_attributes("a", &json!({ "enabled": false, "exp": now + 3600 }));
    let error = world.fetch("org://a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.cause.starts_with("SecretDisabled: "), "{error}");
    assert!(error.hint.as_ref().unwrap().contains("--enabled true"), "{error:?}");
}

/// The vault's own clock decides, not the laptop's.
#[tokio::test]
async fn an_expiry_is_judged_by_the_vaults_clock() {
    let world = World::new(Role::SecretsOfficer);
    let _ = world.fake.seed("a", "value");
    world.fake.set_attributes("a", &json!({ "exp": world.fake.now() + 300 }));
    assert_eq!(world.fetch("org://a").await.unwrap(), b"value");
    world.fake.advance(Duration::from_secs(600));
    assert_eq!(world.fetch("org://a").await.unwrap_err().kind, ErrorKind::Denied);
}

#[tokio::test]
async fn versions_of_one_second_are_not_guessed() {
    let world = World::new(Role::SecretsOfficer);
    for value in ["one", "two"] {
        let _ = world.fake.seed("a", value);
    }
    // Which one is current is known from the vault, so the other one was before it.
    assert_eq!(world.fetch("org://a?stage=previous").await.unwrap(), b"one");
    let _ = world.fake.seed("a", "three");
    let error = world.fetch("org://a?stage=previous").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.cause.contains("same second"), "{error}");
}

#[tokio::test]
async fn a_deleted_secret_says_how_it_comes_back_and_its_name_is_taken() {
    let world = World::new(Role::SecretsOfficer);
    world.put("org://a", b"one").await.unwrap();
    world.provider().delete(&reference("org://a"), soon()).await.unwrap();
    let error = world.put("org://a", b"two").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.cause.starts_with("ObjectIsDeletedButRecoverable"), "{error}");
    assert!(error.hint.as_ref().unwrap().contains("az keyvault secret recover"), "{error:?}");
}

#[tokio::test]
async fn the_least_role_reads_one_secret_and_nothing_else() {
    let world = World::new(Role::SecretsOfficer);
    for name in ["db-url", "stripe"] {
        let _ = world.fake.seed(name, "value");
    }
    let reader = world.fake.application();
    world.fake.assign_at(&reader.oid, Role::SecretsUser, "db-url");
    let provider = world.registry.open("org", &world.instance, &by_secret(&reader)).unwrap().provider;
    let asked = ["org://db-url", "org://stripe", "org://nothing"].map(reference);
    let results = provider.fetch(&asked, FetchOptions::within(Duration::from_secs(5))).await;
    assert!(results[0].is_ok());
    for error in results[1..].iter().map(|result| result.as_ref().unwrap_err()) {
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.cause.contains("ForbiddenByRbac") && error.cause.contains("getSecret/action"), "{error}");
        assert!(error.hint.as_ref().unwrap().contains("`Key Vault Secrets User`"), "{error:?}");
    }
    let error = provider.list(ListOptions::default(), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.hint.as_ref().unwrap().contains("`Key Vault Reader`"), "{error:?}");
    let error = provider.put(&asked[0], SecretValue::from("x".to_owned()), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.hint.as_ref().unwrap().contains("`Key Vault Secrets Officer`"), "{error:?}");
    assert!(error.cause.starts_with("`db-url` in `127.0.0.1"), "{error}");
    let error = provider.delete(&asked[0], soon()).await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("`Key Vault Secrets Officer`"), "{error:?}");

    world.fake.use_access_policies();
    let error = provider.fetch(&asked[1..2], FetchOptions::within(Duration::from_secs(5))).await.remove(0).unwrap_err();
    // Still held as a refusal; asked anew it is the policy that speaks.
    assert_eq!(error.kind, ErrorKind::Denied);
    let anew = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(5)) };
    let error = provider.fetch(&asked[1..2], anew).await.remove(0).unwrap_err();
    assert!(error.cause.contains("secrets get permission"), "{error}");
    let hint = error.hint.as_ref().unwrap();
    assert!(hint.contains("set-policy --name 127.0.0.1") && hint.contains("permissions get"), "{error:?}");
    let error = provider.put(&asked[0], SecretValue::from("x".to_owned()), soon()).await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().ends_with("permissions set"), "{error:?}");
    world.fake.set_firewall(true);
    let error = provider.fetch(&asked[1..2], anew).await.remove(0).unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("firewall"), "{error:?}");
}

#[tokio::test]
async fn a_write_that_broke_is_not_sent_twice() {
    let world = World::new(Role::SecretsOfficer);
    let proxy = Proxy::new(&world.fake.vault().address());
    let instance = Instance::fixed(azure(&proxy.url(), &world.fake.login().url()));
    let provider = world.registry.open("org", &instance, &world.sign_in()).unwrap().provider;
    proxy.fail_nth("PUT /secrets/a?api-version=7.4", 0, Fault::Reset);
    let error = provider.put(&reference("org://a"), SecretValue::from("one".to_owned()), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let described = world.provider().describe(&reference("org://a"), soon()).await.unwrap();
    assert_eq!(described.versions.len(), 1, "the vault carried it out once");
}

/// Fifty secrets with 50 ms more for every request: one sign-in, and four rounds of at most sixteen.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_take_four_rounds_and_a_sign_in() {
    let world = World::new(Role::SecretsUser);
    let (vault, login) = (Proxy::new(&world.fake.vault().address()), Proxy::new(&world.fake.login().address()));
    let references: Vec<_> = (0..150).map(|number| reference(&format!("org://s{number:03}"))).collect();
    for reference in &references[..149] {
        let _ = world.fake.seed(&reference.path, "value");
    }
    let instance = Instance::fixed(azure(&vault.url(), &login.url()));
    let latency = Duration::from_millis(50);
    vault.set_latency(latency);
    login.set_latency(latency);
    let sign_in = world.sign_in();
    let timed = |asked: &[broker_core::reference::SecretRef]| {
        let asked = asked.to_vec();
        world.registry.forget_all();
        let (registry, instance, sign_in) = (&world.registry, &instance, &sign_in);
        async move {
            let started = std::time::Instant::now();
            let open = |name: &str| registry.open(name, instance, sign_in);
            let results = resolve(&asked, ResolveOptions::default(), open).await;
            (results.into_iter().filter(Result::is_ok).count(), started.elapsed())
        }
    };
    let (done, took) = timed(&references[..50]).await;
    assert_eq!(done, 50);
    assert_eq!((vault.call_count(), login.call_count()), (50, 1));
    assert!(vault.max_in_flight() <= 16, "{}", vault.max_in_flight());
    let trips = took.as_secs_f64() / latency.as_secs_f64();
    figure("azure-key-vault-50", &format!("{} ms, {trips:.1} round trips", took.as_millis()));
    assert!(took < latency * 10, "{took:?}");

    let (done, whole) = timed(&references[..149]).await;
    assert_eq!(done, 149);
    vault.forget_calls();
    let (done, with_one_missing) = timed(&references).await;
    assert_eq!((done, vault.call_count()), (149, 150));
    figure("azure-key-vault-one-missing", &format!("{whole:?} without, {with_one_missing:?} with one missing"));
    assert!(with_one_missing < whole + latency * 2, "{with_one_missing:?} after {whole:?}");
}

#[tokio::test]
async fn an_instance_without_an_address_says_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let settings = InstanceSettings::of_kind("azure-key-vault");
    let error = registry(dir.path()).open("azure-kv", &Instance::fixed(settings), &SignIn::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let (_, table) = error.hint.as_ref().unwrap().split_once(":\n").unwrap();
    assert_eq!(
        table, "[providers.org]\nkind = \"azure-key-vault\"\naddress = \"https://NAME.vault.azure.net\"",
        "a manifest takes it as it is"
    );
}

#[tokio::test]
async fn a_name_in_capitals_is_refused_and_named_as_azure_knows_it() {
    let world = World::new(Role::SecretsOfficer);
    let error = world.fetch("org://DbUrl").await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("write `dburl`"), "{error:?}");
    let error = world.put("org://DbUrl", b"x").await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("write `dburl`"), "{error:?}");
}

#[tokio::test]
async fn a_login_authority_out_of_reach_is_named_and_not_the_vault() {
    let world = World::new(Role::SecretsUser);
    let settings = azure(&world.fake.vault().url(), "http://127.0.0.1:1");
    let provider = world.registry.open("org", &Instance::fixed(settings), &world.sign_in()).unwrap().provider;
    let asked = [reference("org://a")];
    let error = provider.fetch(&asked, FetchOptions::within(Duration::from_secs(2))).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.hint.as_ref().unwrap().contains("is `http://127.0.0.1:1` the login authority"), "{error:?}");
}
