//! What `deploy/gcp` and its page say, word for word, on a server that decides by it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::lease::LeaseId;
use broker_core::principal::Tier;
use broker_core::scope::Scope;
use broker_core::sign_in::SignIn;
use broker_providers::issue::Order;
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, ProviderError};
use broker_providers::registry::Instance;
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::http::{Message, read_response};
use serde_json::Value;
use support::{gcp_signed_in, gcp_user_file, reference, registry, signed_in};

const READER: &str = "reader@shop-dev.iam.gserviceaccount.com";

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// A fake with the shop's secrets, on which ada may act as the reader.
fn shop() -> FakeGcp {
    let fake = FakeGcp::start();
    for name in ["shop-dev-db", "shop-dev-mail", "shop-live-db"] {
        fake.put(name, format!("of {name}").as_bytes());
    }
    fake.add_service_account(READER, None);
    fake.add_refresh_token("1//ada", "user:ada@example.com", "client", "client-secret");
    let creator = "roles/iam.serviceAccountTokenCreator";
    fake.bind(&format!("serviceAccounts/{READER}"), creator, "user:ada@example.com", None);
    fake
}

/// Sets the policy of a secret over the wire, as its owner.
fn set_policy(fake: &FakeGcp, secret: &str, policy: &str) {
    fake.add_token("owner", "user:owner@example.com", Duration::from_secs(60));
    fake.bind("projects/shop-dev", "roles/secretmanager.admin", "user:owner@example.com", None);
    let request = Message {
        first: format!("POST /v1/projects/shop-dev/secrets/{secret}:setIamPolicy HTTP/1.1"),
        headers: vec![("authorization".to_owned(), "Bearer owner".to_owned())],
        body: format!("{{\"policy\": {policy}}}").into_bytes(),
    };
    let mut stream = TcpStream::connect(fake.address()).unwrap();
    stream.write_all(&request.to_bytes()).unwrap();
    assert_eq!(read_response(&mut BufReader::new(stream)).unwrap().status(), 200);
}

struct Person {
    settings: InstanceSettings,
    sign_in: SignIn,
    dir: tempfile::TempDir,
}

impl Person {
    /// Ada, acting as the reader as the manifest of `deploy/gcp` says.
    fn ada(fake: &FakeGcp) -> Self {
        let impersonate = Some(broker_core::instance::Words::from(READER));
        let settings = InstanceSettings { impersonate, ..gcp_signed_in(&fake.url()) };
        let manifest: String = text("deploy/gcp/broker.toml");
        assert!(
            manifest.contains(&format!("impersonate = \"{READER}\"")) && manifest.contains("project = \"shop-dev\"")
        );
        Self::with(settings, &gcp_user_file("1//ada"))
    }

    fn with(settings: InstanceSettings, file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let adc = dir.path().join("adc.json");
        std::fs::write(&adc, file).unwrap();
        let sign_in = signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", adc.to_str().unwrap())]);
        Self { settings, sign_in, dir }
    }

    async fn fetch(&self, references: &[&str]) -> Vec<Result<String, ProviderError>> {
        let registry = registry(self.dir.path());
        let provider = registry.open("gcp", &Instance::fixed(self.settings.clone()), &self.sign_in).unwrap().provider;
        let references: Vec<_> = references.iter().map(|text| reference(text)).collect();
        let results = provider.fetch(&references, FetchOptions::within(Duration::from_secs(5))).await.into_iter();
        results.map(|result| result.map(|f| String::from_utf8_lossy(f.value.expose()).into_owned())).collect()
    }

    async fn may_list(&self) -> bool {
        let registry = registry(self.dir.path());
        let provider = registry.open("gcp", &Instance::fixed(self.settings.clone()), &self.sign_in).unwrap().provider;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        provider.list(ListOptions::default(), deadline).await.is_ok()
    }
}

fn kinds(results: &[Result<String, ProviderError>]) -> Vec<Result<&str, ErrorKind>> {
    results.iter().map(|result| result.as_deref().map_err(|error| error.kind)).collect()
}

#[tokio::test]
async fn the_policy_of_one_secret_opens_that_secret_and_nothing_else() {
    let fake = shop();
    let ada = Person::ada(&fake);
    let asked = ["gcp://shop-dev-db", "gcp://shop-dev-mail?version=1", "gcp://shop-dev-db?stage=previous"];
    let denied = Err(ErrorKind::Denied);
    assert_eq!(kinds(&ada.fetch(&asked).await), [denied, denied, denied], "nothing is bound yet");
    set_policy(&fake, "shop-dev-db", &text("deploy/gcp/reader-policy.json"));
    let results = ada.fetch(&asked).await;
    assert_eq!(kinds(&results), [Ok("of shop-dev-db"), denied, denied]);
    assert!(!ada.may_list().await);
    // What the page says of a denial.
    let error = results[1].as_ref().unwrap_err();
    let shown = format!("{error}\n  hint: {}", error.hint.as_ref().unwrap());
    let page = text("docs/providers/gcp-secret-manager.md");
    assert!(
        page.contains(
            &shown
                .replace("shop-dev-mail?version=1", "shop-dev-db")
                .replace("shop-dev-mail/versions/1", "shop-dev-db/versions/latest")
        ),
        "{shown}"
    );
}

#[tokio::test]
async fn the_condition_opens_the_secrets_whose_name_begins_so() {
    let fake = shop();
    let condition: Value = serde_json::from_str(&text("deploy/gcp/prefix-condition.json")).unwrap();
    let member = format!("serviceAccount:{READER}");
    let role = "roles/secretmanager.secretAccessor";
    fake.bind("projects/shop-dev", role, &member, condition["expression"].as_str());
    let ada = Person::ada(&fake);
    let results = ada.fetch(&["gcp://shop-dev-db", "gcp://shop-dev-mail?version=1", "gcp://shop-live-db"]).await;
    assert_eq!(kinds(&results), [Ok("of shop-dev-db"), Ok("of shop-dev-mail"), Err(ErrorKind::Denied)]);
    assert!(!ada.may_list().await);
}

#[tokio::test]
async fn the_workload_identity_signs_in_and_reads() {
    let fake = shop();
    set_policy(&fake, "shop-dev-db", &text("deploy/gcp/reader-policy.json"));
    let file: Value = serde_json::from_str(&text("deploy/gcp/workload-identity.json")).unwrap();
    let principal = "principal://iam.googleapis.com/projects/111122223333/subject/ci";
    fake.add_subject_token(file["audience"].as_str().unwrap(), "subject", principal);
    fake.bind(&format!("serviceAccounts/{READER}"), "roles/iam.serviceAccountTokenCreator", principal, None);
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "subject").unwrap();
    // The one thing that is another here: where the platform lays the token down.
    let mut file = file;
    file["credential_source"]["file"] = token.to_str().unwrap().into();
    let job = Person::with(gcp_signed_in(&fake.url()), &file.to_string());
    assert_eq!(kinds(&job.fetch(&["gcp://shop-dev-db"]).await), [Ok("of shop-dev-db")]);
}

#[tokio::test]
async fn the_policy_of_a_service_account_lets_its_members_make_tokens_of_it_and_nothing_else() {
    let (fake, deploy) = (shop(), "deploy@shop-dev.iam.gserviceaccount.com");
    fake.add_service_account(deploy, None);
    let endpoint = Some(fake.url());
    let settings = InstanceSettings { endpoint, ..InstanceSettings::of_kind("gcp-token") };
    let ada = Person::with(settings.clone(), &gcp_user_file("1//ada"));
    let registry = registry(ada.dir.path());
    let provider = registry.open("gcp", &Instance::fixed(settings), &ada.sign_in).unwrap().provider;
    let scope = Scope::new(&[7; 32], "shop", "dev", "ada", Tier::Unattended, []);
    let lease = LeaseId::from_random([1; 24]);
    let order = Order { lease, scope: Arc::new(scope), ttl: Duration::from_secs(300), key: None };
    let references = [reference(&format!("gcp://{deploy}"))];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let denied = provider.issue(&references, &order, deadline).await.remove(0).unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "nothing is bound yet");

    let policy = text("deploy/gcp/token-creator-policy.json");
    assert!(text("docs/providers/gcp-token.md").contains(&policy), "the page does not hold the policy");
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let [binding] = policy["bindings"].as_array().unwrap().as_slice() else { panic!("{policy}") };
    assert_eq!(binding["members"], serde_json::json!(["group:developers@example.com"]));
    // Ada stands for the group: the server knows no members of one.
    fake.bind(&format!("serviceAccounts/{deploy}"), binding["role"].as_str().unwrap(), "user:ada@example.com", None);
    let issued = provider.issue(&references, &order, deadline).await.remove(0).unwrap();
    let token = String::from_utf8(issued.value.expose().to_vec()).unwrap();
    assert_eq!(fake.token(&token).unwrap().member, format!("serviceAccount:{deploy}"));
    let read = Message {
        first: "GET /v1/projects/shop-dev/secrets/shop-dev-db/versions/latest:access HTTP/1.1".to_owned(),
        headers: vec![("authorization".to_owned(), format!("Bearer {token}"))],
        body: Vec::new(),
    };
    let mut stream = TcpStream::connect(fake.address()).unwrap();
    stream.write_all(&read.to_bytes()).unwrap();
    assert_eq!(read_response(&mut BufReader::new(stream)).unwrap().status(), 403, "the account itself may nothing");
}

#[test]
fn the_page_holds_the_files_word_for_word() {
    let page = text("docs/providers/gcp-secret-manager.md");
    for file in ["broker.toml", "reader-policy.json", "prefix-condition.json", "workload-identity.json"] {
        assert!(page.contains(&text(&format!("deploy/gcp/{file}"))), "the page does not hold `{file}`");
    }
}
