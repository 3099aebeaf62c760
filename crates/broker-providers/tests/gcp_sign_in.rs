//! Every way to sign in to Google Cloud, on a server that issues and refuses tokens as Google does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, FetchOptions, Provider, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::python;
use serde_json::{Value, json};
use support::{gcp_signed_in, gcp_user_file, reference, registry, signed_in};

const READER: &str = "reader@shop-dev.iam.gserviceaccount.com";
const FAR: &str = "far@shop-dev.iam.gserviceaccount.com";
const AUDIENCE: &str =
    "//iam.googleapis.com/projects/111122223333/locations/global/workloadIdentityPools/ci/providers/ci";
const ADA: &str = "user:ada@example.com";
const CREATOR: &str = "roles/iam.serviceAccountTokenCreator";

/// A fake with one secret, a directory for files, and instances that are fixed to the fake.
struct World {
    fake: FakeGcp,
    dir: tempfile::TempDir,
    registry: Registry,
    settings: InstanceSettings,
}

impl World {
    fn new() -> Self {
        let fake = FakeGcp::start();
        fake.put("key", b"of key");
        let dir = tempfile::tempdir().unwrap();
        let (registry, settings) = (registry(dir.path()), gcp_signed_in(&fake.url()));
        Self { fake, dir, registry, settings }
    }

    /// Lets `member` read the secret.
    fn reads(self, member: &str) -> Self {
        self.fake.bind("projects/shop-dev/secrets/key", "roles/secretmanager.secretAccessor", member, None);
        self
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn with_file(&self, text: &str) -> SignIn {
        signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", self.write("adc.json", text).to_str().unwrap())])
    }

    fn open(&self, sign_in: &SignIn) -> Arc<dyn Provider> {
        self.registry.open("g", &Instance::fixed(self.settings.clone()), sign_in).unwrap().provider
    }

    async fn fetch(&self, sign_in: &SignIn) -> Result<String, ProviderError> {
        fetch(&self.open(sign_in)).await
    }
}

async fn fetch(provider: &Arc<dyn Provider>) -> Result<String, ProviderError> {
    let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(5)) };
    let result = provider.fetch(&[reference("g://key")], options).await.remove(0);
    result.map(|fetched| String::from_utf8_lossy(fetched.value.expose()).into_owned())
}

fn token_calls(calls: &[String]) -> usize {
    calls.iter().filter(|call| call.contains("/token") || call.contains(":generateAccessToken")).count()
}

/// Makes an RSA key: the private half as PEM, the public one in DER.
fn rsa_key() -> (String, Vec<u8>) {
    const PROGRAM: &str = r#"
import base64, json
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = key.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.PKCS1)
private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
print(json.dumps({"private": private.decode(), "public": base64.b64encode(public).decode()}))
"#;
    let key: Value = serde_json::from_str(&python::run(PROGRAM, &[])).unwrap();
    (key["private"].as_str().unwrap().to_owned(), BASE64_STANDARD.decode(key["public"].as_str().unwrap()).unwrap())
}

fn external(source: &Value) -> Value {
    json!({
        "type": "external_account", "audience": AUDIENCE, "credential_source": source,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
    })
}

#[tokio::test]
async fn a_person_signs_in_with_the_file_that_gcloud_wrote() {
    let world = World::new().reads(ADA);
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    let named = world.with_file(&gcp_user_file("1//ada"));
    assert_eq!(world.fetch(&named).await.unwrap(), "of key");
    // In gcloud's own directory, too.
    let folder = world.dir.path().join("gcloud");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("application_default_credentials.json"), gcp_user_file("1//ada")).unwrap();
    let in_folder = signed_in(&[("CLOUDSDK_CONFIG", folder.to_str().unwrap())]);
    assert_eq!(world.fetch(&in_folder).await.unwrap(), "of key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_hundred_fetches_at_once_ask_for_one_token() {
    let world = World::new();
    world.fake.bind("projects/shop-dev", "roles/secretmanager.secretAccessor", ADA, None);
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    let provider = world.open(&world.with_file(&gcp_user_file("1//ada")));
    let each = (0..100).map(|number| {
        let (provider, name) = (Arc::clone(&provider), format!("key{number}"));
        world.fake.put(&name, b"x");
        // Different secrets, so that nobody waits for another's fetch.
        tokio::spawn(async move {
            provider.fetch(&[reference(&format!("g://{name}"))], FetchOptions::within(Duration::from_secs(5))).await
        })
    });
    let each: Vec<_> = each.collect();
    for fetched in futures_util::future::join_all(each).await {
        assert!(fetched.unwrap().remove(0).is_ok());
    }
    let calls = world.fake.take_calls();
    assert_eq!((token_calls(&calls), calls.len()), (1, 101));
}

#[tokio::test]
async fn a_revoked_sign_in_is_said_with_the_command_that_renews_it_and_not_tried_for_each_secret() {
    let world = World::new();
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    world.fake.revoke_refresh_token("1//ada");
    let provider = world.open(&world.with_file(&gcp_user_file("1//ada")));
    let many: Vec<_> = (0..40).map(|n| reference(&format!("g://key{n}"))).collect();
    let results = provider.fetch(&many, FetchOptions::within(Duration::from_secs(5))).await;
    for result in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert_eq!(error.cause, "invalid_grant: Token has been expired or revoked.");
        assert!(error.hint.unwrap().contains("`gcloud auth application-default login`"));
    }
    assert_eq!(world.fake.take_calls(), ["POST /token"]);
}

#[tokio::test]
async fn a_token_that_ended_early_is_replaced_silently_and_once() {
    let world = World::new().reads(ADA);
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    let provider = world.open(&world.with_file(&gcp_user_file("1//ada")));
    assert!(fetch(&provider).await.is_ok());
    let _ = world.fake.take_calls();
    // The service's clock goes on while ours stands still: the token we hold is over.
    world.fake.advance(3601);
    assert_eq!(fetch(&provider).await.unwrap(), "of key");
    let calls = world.fake.take_calls();
    assert_eq!((calls.len(), token_calls(&calls)), (3, 1), "{calls:?}");
    // When the sign-in is over, too, it is said after one try.
    world.fake.advance(3601);
    world.fake.revoke_refresh_token("1//ada");
    assert_eq!(fetch(&provider).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    assert_eq!(world.fake.take_calls().len(), 2);
}

#[tokio::test]
async fn an_edited_file_is_another_sign_in() {
    let world = World::new().reads(ADA);
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    world.fake.add_refresh_token("1//eve", "user:eve@example.com", "client", "client-secret");
    let sign_in = world.with_file(&gcp_user_file("1//ada"));
    assert!(world.fetch(&sign_in).await.is_ok());
    let sign_in = world.with_file(&gcp_user_file("1//eve"));
    assert_eq!(world.fetch(&sign_in).await.unwrap_err().kind, ErrorKind::Denied);
}

#[tokio::test]
async fn a_service_account_signs_its_own_token_and_asks_nobody() {
    let (private, public) = rsa_key();
    let world = World::new().reads(&format!("serviceAccount:{READER}"));
    world.fake.add_service_account(READER, Some(("k1", public)));
    let file = |id: &str| {
        json!({ "type": "service_account", "client_email": READER, "private_key_id": id, "private_key": private,
            "token_uri": "https://oauth2.googleapis.com/token" })
        .to_string()
    };
    let sign_in = world.with_file(&file("k1"));
    assert_eq!(world.fetch(&sign_in).await.unwrap(), "of key");
    assert_eq!(token_calls(&world.fake.take_calls()), 0);
    // Ten minutes off is more than Google takes: said as what it is, after one try.
    for off in [600 + 3600, -600] {
        world.fake.advance(off);
        world.registry.forget_all();
        let error = world.fetch(&sign_in).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.hint.unwrap().contains("clock"), "the clock is named");
        assert_eq!(world.fake.take_calls().len(), 1);
        world.fake.advance(-off);
    }
    let sign_in = world.with_file(&file("gone"));
    assert_eq!(world.fetch(&sign_in).await.unwrap_err().kind, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_clock_ten_minutes_off_does_not_matter_to_a_person() {
    for off in [600, -600] {
        let world = World::new().reads(ADA);
        world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
        world.fake.advance(off);
        assert!(world.fetch(&world.with_file(&gcp_user_file("1//ada"))).await.is_ok());
    }
}

#[tokio::test]
async fn a_chain_of_service_accounts_is_acted_through_in_order() {
    let mut world = World::new().reads(&format!("serviceAccount:{FAR}"));
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    world.fake.add_service_account(READER, None);
    world.fake.add_service_account(FAR, None);
    world.fake.bind(&format!("serviceAccounts/{READER}"), CREATOR, ADA, None);
    world.fake.bind(&format!("serviceAccounts/{FAR}"), CREATOR, &format!("serviceAccount:{READER}"), None);
    let sign_in = world.with_file(&gcp_user_file("1//ada"));
    assert_eq!(world.fetch(&sign_in).await.unwrap_err().kind, ErrorKind::Denied, "as herself");
    world.settings.impersonate = Some(Words::Many(vec![READER.to_owned(), FAR.to_owned()]));
    assert_eq!(world.fetch(&sign_in).await.unwrap(), "of key");
    world.settings.impersonate = Some(Words::from(FAR));
    let error = world.fetch(&sign_in).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.cause.starts_with(&format!("to act as `{FAR}`: IAM_PERMISSION_DENIED")), "{error}");
    assert!(error.hint.unwrap().contains("`roles/iam.serviceAccountTokenCreator`"));
    // The same, as gcloud writes it with `--impersonate-service-account`.
    world.settings.impersonate = None;
    let file = json!({
        "type": "impersonated_service_account", "delegates": [format!("projects/-/serviceAccounts/{READER}")],
        "service_account_impersonation_url":
            format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{FAR}:generateAccessToken"),
        "source_credentials": serde_json::from_str::<Value>(&gcp_user_file("1//ada")).unwrap(),
    });
    assert_eq!(world.fetch(&world.with_file(&file.to_string())).await.unwrap(), "of key");
}

#[tokio::test]
async fn an_identity_of_another_house_is_exchanged() {
    let principal = "principal://iam.googleapis.com/projects/111122223333/subject/ci";
    let world = World::new().reads(principal);
    world.fake.add_subject_token(AUDIENCE, "subject-token", principal);
    let text = world.write("token", "subject-token\n");
    let json_file = world.write("token.json", r#"{"id_token": "subject-token", "n": 1}"#);
    let as_json = json!({ "type": "json", "subject_token_field_name": "id_token" });
    for source in [json!({ "file": text }), json!({ "file": json_file, "format": as_json })] {
        let sign_in = world.with_file(&external(&source).to_string());
        assert_eq!(world.fetch(&sign_in).await.unwrap(), "of key", "{source}");
    }
    // From an address, with headers, as a CI service hands it out.
    let issuer = broker_tests::serve::Serve::start(|request| {
        let known = request.header("authorization") == Some("Bearer of-the-job");
        let body = json!({ "value": "subject-token" });
        broker_tests::http::Message::json(if known { 200 } else { 401 }, &body)
    });
    let format = json!({ "type": "json", "subject_token_field_name": "value" });
    let headers = json!({ "Authorization": "Bearer of-the-job" });
    let source = json!({ "url": issuer.url(), "headers": headers, "format": format });
    assert_eq!(world.fetch(&world.with_file(&external(&source).to_string())).await.unwrap(), "of key");
    // A token that is rotated in place is read anew.
    world.write("token", "another-token");
    let sign_in = world.with_file(&external(&json!({ "file": text })).to_string());
    let error = world.fetch(&sign_in).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.starts_with("invalid_grant"), "{error}");
    assert!(!format!("{error:?}").contains("another-token"));
}

#[tokio::test]
async fn an_identity_of_another_house_may_act_as_a_service_account() {
    let principal = "principal://iam.googleapis.com/projects/111122223333/subject/ci";
    let world = World::new().reads(&format!("serviceAccount:{READER}"));
    world.fake.add_service_account(READER, None);
    world.fake.add_subject_token(AUDIENCE, "subject-token", principal);
    world.fake.bind(&format!("serviceAccounts/{READER}"), CREATOR, principal, None);
    let mut file = external(&json!({ "file": world.write("token", "subject-token") }));
    let hop =
        format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{READER}:generateAccessToken");
    file["service_account_impersonation_url"] = json!(hop);
    assert_eq!(world.fetch(&world.with_file(&file.to_string())).await.unwrap(), "of key");
    file["service_account_impersonation_url"] = json!(hop.replace("googleapis.com", "evil.example"));
    let error = world.fetch(&world.with_file(&file.to_string())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn a_machine_of_googles_signs_in_without_a_file() {
    let world = World::new().reads(&format!("serviceAccount:{READER}"));
    let empty = world.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let nothing = signed_in(&[("CLOUDSDK_CONFIG", empty.to_str().unwrap())]);
    let error = world.fetch(&nothing).await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unauthenticated, "no credentials were found"));
    assert!(error.hint.unwrap().contains("`gcloud auth application-default login`"));
    world.fake.set_metadata(READER);
    assert_eq!(world.fetch(&nothing).await.unwrap(), "of key");
}

#[tokio::test]
async fn a_file_that_does_not_count_is_named_and_nobody_is_asked() {
    let world = World::new();
    let user: Value = serde_json::from_str(&gcp_user_file("canary-token")).unwrap();
    let mut elsewhere = user.clone();
    elsewhere["token_uri"] = json!("https://evil.example/token");
    let command = external(&json!({ "executable": { "command": "/bin/sh -c 'touch /tmp/run'" } }));
    for text in [elsewhere.to_string(), command.to_string(), "{\"type\": \"canary-token".to_owned(), "[]".to_owned()] {
        let error = world.fetch(&world.with_file(&text)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains("adc.json"), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error}");
    }
    for path in ["relative.json", "/nonexistent/adc.json", "/dev/zero"] {
        let error = world.fetch(&signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", path)])).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    }
    assert_eq!(world.fake.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn acting_as_a_reader_lasts_five_minutes_or_as_long_as_is_said() {
    for (said, lasts) in [(None, 300), (Some("20m"), 1200)] {
        let mut world = World::new().reads(&format!("serviceAccount:{READER}"));
        world.fake.add_service_account(READER, None);
        world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
        world.fake.bind(&format!("serviceAccounts/{READER}"), CREATOR, ADA, None);
        world.settings.impersonate = Some(Words::from(READER));
        world.settings.session_ttl = said.map(str::to_owned);
        let sign_in = world.with_file(&gcp_user_file("1//ada"));
        assert_eq!(world.fetch(&sign_in).await.unwrap(), "of key");
        let tokens = world.fake.tokens_of(&format!("serviceAccount:{READER}"));
        assert_eq!(tokens.len(), 1);
        assert!((lasts - 5..=lasts).contains(&tokens[0].left.as_secs()), "{tokens:?}");
    }
    let mut world = World::new();
    for none in ["1m", "13h"] {
        world.settings.session_ttl = Some(none.to_owned());
        let error = world.registry.open("g", &Instance::fixed(world.settings.clone()), &SignIn::default()).unwrap_err();
        assert!(error.cause.contains("from `2m` to `12h`"), "{error}");
    }
}

#[tokio::test]
async fn googles_log_is_told_for_which_run_a_secret_is_read() {
    let world = World::new().reads(ADA);
    world.fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
    let provider = world.open(&world.with_file(&gcp_user_file("1//ada")));
    let lease = LeaseId::from_random([3; 24]);
    let options = FetchOptions { lease: Some(lease), ..FetchOptions::within(Duration::from_secs(5)) };
    assert!(provider.fetch(&[reference("g://key")], options).await[0].is_ok());
    let call = "GET /v1/projects/shop-dev/secrets/key/versions/latest:access";
    assert_eq!(world.fake.take_reasons(), [format!("{call}: broker lease {lease}")]);
    // Of nobody's run nothing is said.
    assert!(fetch(&provider).await.is_ok());
    assert!(world.fake.take_reasons().is_empty());
}
