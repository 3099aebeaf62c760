//! Every way to sign in to Azure, and where what proves who we are goes: to the login authority, once, and nowhere else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, FetchOptions, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_providers::sign_ins::{Prompt, SignInWay};
use broker_tests::fakes::azure::{Application, Azure, DeviceAnswer, Person, Role, TENANT};
use support::azure::{at, azure, by_secret};
use support::{reference, registry, signed_in};
use tokio::time::Instant;

const ISSUER: &str = "https://oidc.shop.example";
const SUBJECT: &str = "system:serviceaccount:shop:web";

struct World {
    fake: Azure,
    registry: Registry,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (fake, dir) = (Azure::start(), tempfile::tempdir().unwrap());
        let _ = fake.seed("db-url", "postgres://db");
        Self { fake, registry: registry(dir.path()), dir }
    }

    /// Registers an application that may read.
    fn application(&self) -> Application {
        let application = self.fake.application();
        self.fake.assign(&application.oid, Role::SecretsUser);
        application
    }

    fn settings(&self) -> InstanceSettings {
        azure(&self.fake.vault().url(), &self.fake.login().url())
    }

    async fn fetch(&self, instance: &Instance, sign_in: &SignIn) -> Result<Vec<u8>, ProviderError> {
        let provider = self.registry.open("org", instance, sign_in)?.provider;
        let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(5)) };
        let fetched = provider.fetch(&[reference("org://db-url")], options).await.remove(0);
        fetched.map(|fetched| fetched.value.expose().to_vec())
    }

    async fn refusal(&self, instance: &Instance, sign_in: &SignIn) -> ProviderError {
        self.fetch(instance, sign_in).await.expect_err("there is no way in")
    }

    /// Counts the requests of this path.
    fn count(&self, path: &str) -> usize {
        self.fake.requests().iter().filter(|request| request.contains(path)).count()
    }
}

#[tokio::test]
async fn a_client_secret_that_does_not_count_is_tried_once_and_says_why() {
    let world = World::new();
    let (application, ended) = (world.application(), world.application());
    world.fake.expire_secret(&ended);
    let stranger = Application { client_id: "00000000-0000-4000-8000-000000000000".to_owned(), ..application.clone() };
    let wrong = Application { secret: "canary-of-a-secret".to_owned(), ..application.clone() };
    for (who, code, hint) in [
        (&wrong, "AADSTS7000215", "the secret's value"),
        (&ended, "AADSTS7000222", "az ad app credential reset"),
        (&stranger, "AADSTS700016", "`client-id`"),
    ] {
        let before = world.count("/token");
        let error = world.refusal(&at(&world.fake), &by_secret(who)).await;
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains(code) && !error.cause.contains("Trace ID"), "{error}");
        assert!(error.cause.starts_with("AZURE_CLIENT_SECRET was refused: "), "{error}");
        assert!(error.hint.as_ref().unwrap().contains(hint), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        assert_eq!(world.count("/token") - before, 1);
    }
    let elsewhere = InstanceSettings { tenant: Some("other.example".to_owned()), ..world.settings() };
    let error = world.refusal(&Instance::fixed(elsewhere), &by_secret(&application)).await;
    assert!(error.cause.contains("AADSTS90002"), "{error}");
    // And the right one counts.
    assert_eq!(world.fetch(&at(&world.fake), &by_secret(&application)).await.unwrap(), b"postgres://db");
}

#[tokio::test]
async fn words_that_would_become_part_of_an_address_are_refused() {
    let world = World::new();
    for tenant in ["a/b", "../x", "-x", "a?b", "a b"] {
        let settings = InstanceSettings { tenant: Some(tenant.to_owned()), ..world.settings() };
        let error = world.refusal(&Instance::fixed(settings), &SignIn::default()).await;
        assert_eq!(error.kind, ErrorKind::Unsupported, "{tenant}: {error}");
    }
    assert_eq!(world.fake.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_wait_sign_in_once() {
    let world = World::new();
    let (instance, sign_in) = (at(&world.fake), by_secret(&world.application()));
    let all = (0..40).map(|_| world.fetch(&instance, &sign_in));
    for result in futures_util::future::join_all(all).await {
        assert_eq!(result.unwrap(), b"postgres://db");
    }
    assert_eq!(world.count("/token"), 1);
}

#[tokio::test]
async fn a_token_that_the_vault_no_longer_takes_is_replaced_once() {
    let world = World::new();
    let (instance, sign_in) = (at(&world.fake), by_secret(&world.application()));
    assert!(world.fetch(&instance, &sign_in).await.is_ok());
    world.fake.revoke_tokens();
    assert!(world.fetch(&instance, &sign_in).await.is_ok());
    assert_eq!((world.count("/token"), world.count("/secrets/")), (2, 3));
    // The next refusal so soon after is no accident.
    world.fake.revoke_tokens();
    let error = world.refusal(&instance, &sign_in).await;
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert_eq!((world.count("/token"), world.count("/secrets/")), (2, 4));
}

#[tokio::test]
async fn a_federated_assertion_is_read_from_its_file_each_time() {
    let world = World::new();
    let application = world.application();
    world.fake.federate(&application, ISSUER, SUBJECT);
    let file = world.dir.path().join("assertion");
    let write = |assertion: &str| fs::write(&file, format!("{assertion}\n")).unwrap();
    let sign_in = signed_in(&[
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", &application.client_id),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
    ]);
    let instance = at(&world.fake);
    let error = world.refusal(&instance, &sign_in).await;
    assert!(error.cause.starts_with("AZURE_FEDERATED_TOKEN_FILE: "), "{error}");
    write(&world.fake.assertion(ISSUER, SUBJECT, Duration::ZERO));
    let error = world.refusal(&instance, &sign_in).await;
    assert!(error.cause.contains("AADSTS700024") && error.hint.as_ref().unwrap().contains("federated"), "{error:?}");
    write(&world.fake.assertion(ISSUER, "system:serviceaccount:other:web", Duration::from_secs(600)));
    assert!(world.refusal(&instance, &sign_in).await.cause.contains("AADSTS700213"));
    write(&world.fake.assertion(ISSUER, SUBJECT, Duration::from_secs(600)));
    assert_eq!(world.fetch(&instance, &sign_in).await.unwrap(), b"postgres://db");
}

#[tokio::test]
async fn a_machines_identity_is_used_where_it_is_asked_for_and_only_there() {
    let world = World::new();
    let application = world.application();
    world.fake.give_identity(&application);
    let settings = InstanceSettings {
        auth: Some("managed-identity".to_owned()),
        authority: Some(world.fake.metadata().url()),
        ..world.settings()
    };
    assert!(world.fetch(&Instance::fixed(settings.clone()), &SignIn::default()).await.is_ok());
    let chosen = InstanceSettings { client_id: Some(application.client_id.clone()), ..settings.clone() };
    assert!(world.fetch(&Instance::fixed(chosen), &SignIn::default()).await.is_ok());
    let other = InstanceSettings { client_id: Some("another".to_owned()), ..settings.clone() };
    let error = world.refusal(&Instance::fixed(other), &SignIn::default()).await;
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.contains("Identity not found"), "{error}");
    let before = world.count("/metadata/");
    let unsaid = InstanceSettings { auth: None, ..settings };
    assert_eq!(world.refusal(&Instance::fixed(unsaid), &SignIn::default()).await.kind, ErrorKind::Unauthenticated);
    assert_eq!(world.count("/metadata/"), before, "nobody asked for it");
}

/// A manifest's own address gets nothing: neither the secret nor a token that was had with it.
#[tokio::test]
async fn a_manifest_leads_no_credential_elsewhere() {
    let world = World::new();
    let sign_in = by_secret(&world.application());
    let vault = || Some("https://shop.vault.azure.net".to_owned());
    for settings in [
        world.settings(),
        InstanceSettings { authority: None, ..world.settings() },
        InstanceSettings { address: vault(), ..world.settings() },
        InstanceSettings { address: vault(), auth: Some("managed-identity".to_owned()), ..world.settings() },
    ] {
        let instance = Instance::of_manifest(settings);
        let error = world.refusal(&instance, &sign_in).await;
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("`config.toml`"), "{error}");
        assert!(
            world.registry.login("org", &instance, &sign_in).err().is_none_or(|e| e.kind == ErrorKind::Unsupported)
        );
    }
    assert_eq!(world.fake.requests(), [""; 0]);
    assert_eq!(world.fake.credentials_seen(), [""; 0]);
}

#[tokio::test]
async fn what_an_unknown_auth_and_a_missing_variable_are_is_said() {
    let world = World::new();
    let with = |auth: &str| Instance::fixed(InstanceSettings { auth: Some(auth.to_owned()), ..world.settings() });
    let error = world.refusal(&with("password"), &SignIn::default()).await;
    assert!(error.cause.contains("`workload-identity`"), "{error}");
    for (auth, variable) in [("client-secret", "AZURE_TENANT_ID"), ("workload-identity", "AZURE_TENANT_ID")] {
        let error = world.refusal(&with(auth), &SignIn::default()).await;
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains(variable), "{error}");
    }
    let error = world.refusal(&at(&world.fake), &SignIn::default()).await;
    assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::Unauthenticated, Some("sign in: broker login org")));
}

/// A person at a world where a code is answered at once, and asked after without pause.
struct AtBrowser {
    world: World,
    person: Person,
    instance: Instance,
    way: SignInWay,
}

impl AtBrowser {
    fn new() -> Self {
        let world = World::new();
        let person = world.fake.person();
        world.fake.assign(&person.oid, Role::SecretsUser);
        world.fake.set_device_interval(Duration::ZERO);
        let settings = InstanceSettings { tenant: Some(TENANT.to_owned()), ..world.settings() };
        let instance = Instance::fixed(settings);
        let way = world.registry.login("org", &instance, &SignIn::default()).unwrap().unwrap();
        Self { world, person, instance, way }
    }

    async fn begin(&self) -> Prompt {
        self.world.registry.sign_ins().begin(&self.way, false, soon()).await.unwrap()
    }

    async fn sign_in(&self) {
        let Prompt::Visit { user_code, address, .. } = self.begin().await else { panic!("a code is shown") };
        assert!(user_code.is_some_and(|code| !code.is_empty()));
        assert_eq!(address, "https://microsoft.com/devicelogin");
        self.world.fake.answer_device(&DeviceAnswer::Consent(self.person.clone()));
        let (session, _) = self.world.registry.sign_ins().wait(&self.way, soon()).await.unwrap().unwrap();
        assert_eq!(session.who, "dev@shop.example");
    }

    async fn fetch(&self) -> Result<Vec<u8>, ProviderError> {
        self.world.fetch(&self.instance, &SignIn::default()).await
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test]
async fn a_person_signs_in_once_and_an_expired_token_renews_itself() {
    let at = AtBrowser::new();
    assert_eq!(at.fetch().await.unwrap_err().kind, ErrorKind::Unauthenticated);
    at.world.fake.set_token_life(Duration::from_secs(600));
    at.sign_in().await;
    assert_eq!(at.fetch().await.unwrap(), b"postgres://db");
    // Over for the vault, whatever our own clock says.
    at.world.fake.advance(Duration::from_secs(601));
    assert_eq!(at.fetch().await.unwrap(), b"postgres://db");
    assert_eq!(at.world.count("/devicecode"), 1);
}

#[tokio::test]
async fn a_token_of_a_person_that_was_revoked_renews_itself() {
    let at = AtBrowser::new();
    at.sign_in().await;
    at.world.fake.revoke_tokens();
    assert_eq!(at.fetch().await.unwrap(), b"postgres://db");
    assert_eq!(at.world.count("/devicecode"), 1);
}

#[tokio::test]
async fn a_session_that_is_over_says_how_to_sign_in_again() {
    let at = AtBrowser::new();
    at.sign_in().await;
    assert!(at.fetch().await.is_ok());
    at.world.fake.revoke_sessions();
    at.world.fake.revoke_tokens();
    let error = at.fetch().await.unwrap_err();
    assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::Unauthenticated, Some("sign in: broker login org")));
    at.world.registry.forget_values();
    at.sign_in().await;
    assert!(at.fetch().await.is_ok());
}

#[tokio::test]
async fn a_declined_and_an_expired_code_are_told_apart() {
    let at = AtBrowser::new();
    let Prompt::Visit { .. } = at.begin().await else { panic!("a code is shown") };
    at.world.fake.answer_device(&DeviceAnswer::Decline);
    let error = at.world.registry.sign_ins().wait(&at.way, soon()).await.unwrap_err();
    assert!(error.cause.contains("declined"), "{error}");
    let Prompt::Visit { .. } = at.begin().await else { panic!("a new code is shown") };
    at.world.fake.advance(Duration::from_secs(901));
    let error = at.world.registry.sign_ins().wait(&at.way, soon()).await.unwrap_err();
    assert!(error.cause.contains("expired before it was confirmed"), "{error}");
}

#[tokio::test]
async fn a_code_that_is_asked_after_too_often_is_asked_after_less() {
    let at = AtBrowser::new();
    // The manager wants a second between two questions and says nothing of it.
    let Prompt::Visit { .. } = at.begin().await else { panic!("a code is shown") };
    at.world.fake.set_device_interval(Duration::from_secs(1));
    at.world.fake.consent_after(1, &at.person);
    let session = at.world.registry.sign_ins().wait(&at.way, Instant::now() + Duration::from_secs(20)).await.unwrap();
    assert!(session.is_some());
    assert!(at.world.count("/token") <= 4, "{:?}", at.world.fake.requests());
}
