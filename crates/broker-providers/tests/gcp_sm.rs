//! Google Cloud Secret Manager beyond the contract: names, regions, versions, checksums, labels, rights, and how many
//! requests things take.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider, ProviderError, Stage};
use broker_providers::registry::{Instance, Registry};
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::proxy::Proxy;
use std::sync::Arc;
use support::{figure, gcp, gcp_signed_in, reference, registry, signed_in};

/// An open instance.
struct World {
    provider: Arc<dyn Provider>,
    _registry: Registry,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(settings: InstanceSettings) -> Self {
        Self::opened(&Instance::of_manifest(settings), &signed_in(&[])).unwrap()
    }

    fn opened(instance: &Instance, sign_in: &SignIn) -> Result<Self, ProviderError> {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        let provider = registry.open("g", instance, sign_in)?.provider;
        Ok(Self { provider, _registry: registry, _dir: dir })
    }

    async fn fetch(&self, references: &[&str]) -> Vec<Result<String, ProviderError>> {
        let references: Vec<_> = references.iter().map(|text| reference(text)).collect();
        let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(10)) };
        let results = self.provider.fetch(&references, options).await.into_iter();
        results.map(|result| result.map(|f| String::from_utf8_lossy(f.value.expose()).into_owned())).collect()
    }

    async fn one(&self, reference: &str) -> Result<String, ProviderError> {
        self.fetch(&[reference]).await.remove(0)
    }

    async fn put(&self, text: &str, value: &[u8]) -> Result<Option<String>, ProviderError> {
        self.provider.put(&reference(text), SecretValue::new(value.to_vec()), soon()).await
    }
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(10)
}

fn open_fake() -> FakeGcp {
    let fake = FakeGcp::start();
    fake.allow_anonymous();
    fake
}

#[tokio::test]
async fn every_form_of_a_path_leads_to_the_secret_that_it_names() {
    let fake = open_fake();
    fake.add_project("web", "444455556666");
    for version in ["one", "two", "three"] {
        fake.put("key", version.as_bytes());
    }
    let world = World::new(gcp(&fake.url()));
    world.put("g://web/key", b"of web").await.unwrap();
    for (text, value) in [
        ("g://key", "three"),
        ("g://shop-dev/key", "three"),
        ("g://projects/shop-dev/secrets/key", "three"),
        ("g://projects/111122223333/secrets/key/versions/latest", "three"),
        ("g://projects/shop-dev/secrets/key/versions/1", "one"),
        ("g://key?version=2", "two"),
        ("g://key?stage=previous", "two"),
        ("g://web/key", "of web"),
    ] {
        assert_eq!(world.one(text).await.unwrap(), value, "{text}");
    }
    // Asked for in two ways that are one request, it is asked for once.
    let _ = fake.take_calls();
    let _ = world.fetch(&["g://key", "g://shop-dev/key", "g://projects/shop-dev/secrets/key"]).await;
    assert_eq!(fake.take_calls().len(), 1);
}

#[tokio::test]
async fn a_path_that_can_name_nothing_is_refused_in_words_and_without_a_call() {
    let fake = open_fake();
    let world = World::new(gcp(&fake.url()));
    for text in ["g://shop/dev/db", "g://a%20b", "g://key:access", "g://..", "g://web/..", "g://key?stage=pending"] {
        let error = world.one(text).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(!error.cause.is_empty());
        assert_eq!(world.put(text, b"x").await.unwrap_err().kind, ErrorKind::Unsupported);
    }
    assert_eq!(fake.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_regional_secret_is_written_and_read_in_its_region() {
    let fake = open_fake();
    let world = World::new(InstanceSettings { location: Some("europe-west3".into()), ..gcp(&fake.regional_url()) });
    world.put("g://key", b"regional").await.unwrap();
    let calls = fake.take_calls();
    let at = "/v1/projects/shop-dev/locations/europe-west3/secrets";
    assert_eq!(calls.get(1), Some(&format!("POST {at}")), "{calls:?}");
    assert_eq!(world.one("g://key").await.unwrap(), "regional");
    assert_eq!(world.one("g://projects/shop-dev/locations/europe-west3/secrets/key").await.unwrap(), "regional");
    let error = World::new(gcp(&fake.url())).one("g://key").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "the global endpoint has another secret of that name: {error}");
    assert_eq!(
        world.provider.list(ListOptions { prefix: "k", tags: &[] }, soon()).await.unwrap().len(),
        1,
        "a short prefix lists the location"
    );
}

#[tokio::test]
async fn a_disabled_latest_version_is_said_and_never_replaced_by_an_older_one() {
    let fake = open_fake();
    fake.put("key", b"one");
    fake.put("key", b"two");
    fake.disable("key", 2);
    let world = World::new(gcp(&fake.url()));
    let error = world.one("g://key").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.cause.contains("is in DISABLED state"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("enable that version, or add a new one"));
    assert_eq!(world.one("g://key?stage=previous").await.unwrap(), "one");
    let described = world.provider.describe(&reference("g://key"), soon()).await.unwrap();
    let standing: Vec<_> = described.versions.iter().map(|v| (v.id.as_str(), v.stages.clone(), v.usable)).collect();
    assert_eq!(standing, [("2", vec![Stage::Current], false), ("1", vec![Stage::Previous], true)]);
}

#[tokio::test]
async fn the_previous_version_is_the_newest_enabled_one_before_the_latest() {
    let fake = open_fake();
    fake.set_page(2);
    for version in 1..=6 {
        fake.put("key", format!("value {version}").as_bytes());
    }
    for version in [3, 4, 5] {
        fake.disable("key", version);
    }
    let world = World::new(gcp(&fake.url()));
    let _ = fake.take_calls();
    assert_eq!(world.one("g://key?stage=previous").await.unwrap(), "value 2");
    assert_eq!(fake.take_calls().len(), 4, "three pages and one value");
}

#[tokio::test]
async fn a_value_whose_checksum_is_wrong_is_asked_for_once_more_and_then_refused() {
    let fake = open_fake();
    fake.put("key", b"canary-3c1f");
    let world = World::new(gcp(&fake.url()));
    fake.flip_crc(true);
    let _ = fake.take_calls();
    let error = world.one("g://key").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(!format!("{error:?}").contains("canary"));
    assert_eq!(fake.take_calls().len(), 2);
    fake.flip_crc(false);
    assert_eq!(world.one("g://key").await.unwrap(), "canary-3c1f");
}

#[tokio::test]
async fn a_write_carries_its_checksum_and_what_google_refuses_is_said() {
    let fake = open_fake();
    let world = World::new(gcp(&fake.url()));
    assert_eq!(world.put("g://key", b"one").await.unwrap().as_deref(), Some("1"));
    assert!(fake.was_checked("key", 1), "the checksum was sent");
    let too_long = world.put("g://key", &vec![b'x'; 65537]).await.unwrap_err();
    assert_eq!(too_long.kind, ErrorKind::Unsupported, "{too_long}");
    assert!(too_long.cause.contains("65536"), "{too_long}");
    assert_eq!(world.put("g://key", b"").await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(world.put("g://key?version=1", b"x").await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(world.one("g://key").await.unwrap(), "one");
}

#[tokio::test]
async fn labels_select_and_are_described() {
    let fake = open_fake();
    for (name, team) in [("db-url", "shop"), ("db-user", "shop"), ("db-root", "ops"), ("mail", "shop")] {
        fake.put(name, b"x");
        fake.label(name, "team", team);
    }
    let world = World::new(gcp(&fake.url()));
    let tags = [("team".to_owned(), "shop".to_owned())];
    let list = async |prefix: &'static str, tags| {
        let listed = world.provider.list(ListOptions { prefix, tags }, soon()).await.unwrap();
        listed.into_iter().map(|entry| entry.path).collect::<Vec<_>>()
    };
    assert_eq!(list("db-", &tags).await, ["db-url", "db-user"]);
    assert_eq!(list("shop-dev/db-", &tags).await, ["shop-dev/db-url", "shop-dev/db-user"]);
    assert_eq!(list("projects/shop-dev/secrets/m", &[]).await, ["projects/shop-dev/secrets/mail"]);
    let hostile = [("team".to_owned(), "shop OR name:x".to_owned())];
    assert_eq!(list("", &hostile).await, Vec::<String>::new());
    let described = world.provider.describe(&reference("g://mail"), soon()).await.unwrap();
    assert_eq!(described.tags, tags);
    assert!(described.created.is_some() && described.changed.is_some());
}

/// A fake on which `ada` may read one secret and nothing else, and an instance signed in as her.
fn as_ada(fake: &FakeGcp, dir: &tempfile::TempDir) -> World {
    let adc = dir.path().join("adc.json");
    std::fs::write(&adc, support::gcp_user_file("1//ada")).unwrap();
    fake.add_refresh_token("1//ada", "user:ada@example.com", "client", "client-secret");
    let sign_in = signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", adc.to_str().unwrap())]);
    World::opened(&Instance::fixed(gcp_signed_in(&fake.url())), &sign_in).unwrap()
}

#[tokio::test]
async fn a_denial_names_the_permission_and_the_role_that_gives_it() {
    let fake = FakeGcp::start();
    fake.put("mine", b"of mine");
    fake.put("theirs", b"of theirs");
    let dir = tempfile::tempdir().unwrap();
    let world = as_ada(&fake, &dir);
    fake.bind("projects/shop-dev/secrets/mine", "roles/secretmanager.secretAccessor", "user:ada@example.com", None);
    let results = world.fetch(&["g://mine", "g://theirs", "g://none", "g://mine?stage=previous"]).await;
    assert_eq!(results[0].as_ref().unwrap(), "of mine");
    let error = |at: usize| results[at].as_ref().unwrap_err();
    for at in [1, 2] {
        assert_eq!(error(at).kind, ErrorKind::Denied);
        assert!(error(at).cause.starts_with("IAM_PERMISSION_DENIED: Permission 'secretmanager.versions.access'"));
        assert!(error(at).hint.as_ref().unwrap().contains("`roles/secretmanager.secretAccessor`"));
    }
    assert!(error(3).hint.as_ref().unwrap().contains("`roles/secretmanager.viewer`"), "{:?}", error(3));
    let refused = world.put("g://mine", b"x").await.unwrap_err();
    assert!(refused.hint.unwrap().contains("`roles/secretmanager.secretVersionAdder`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_take_as_many_round_trips_as_sixteen_at_a_time_need() {
    let fake = open_fake();
    let names: Vec<_> = (0..50).map(|n| format!("s{n:02}")).collect();
    for name in &names {
        fake.put(name, name.as_bytes());
    }
    let proxy = Proxy::new(&fake.address());
    let latency = Duration::from_millis(50);
    let references: Vec<_> = names.iter().map(|name| format!("g://{name}")).collect();
    let references: Vec<_> = references.iter().map(String::as_str).collect();
    proxy.set_latency(latency);
    let mut cold = Vec::new();
    for _ in 0..5 {
        let world = World::new(gcp(&proxy.url()));
        proxy.forget_calls();
        let began = Instant::now();
        let results = world.fetch(&references).await;
        cold.push(began.elapsed());
        assert!(results.iter().zip(&names).all(|(result, name)| result.as_ref().unwrap() == name));
        assert_eq!((proxy.call_count(), proxy.max_in_flight()), (50, 16));
    }
    let trips = cold.iter().min().unwrap().as_secs_f64() / latency.as_secs_f64();
    figure("gcp-cold-50", &format!("{trips:.2} round trips of 50 ms"));
    // 50 requests at 16 a time are four waves.
    assert!((4.0..5.0).contains(&trips), "{trips}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_one_among_150_costs_nothing_extra() {
    let fake = open_fake();
    let names: Vec<_> = (0..150).map(|n| format!("s{n:03}")).collect();
    for name in names.iter().filter(|name| *name != "s077") {
        fake.put(name, name.as_bytes());
    }
    let world = World::new(gcp(&fake.url()));
    let references: Vec<_> = names.iter().map(|name| format!("g://{name}")).collect();
    let results = world.fetch(&references.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (result, name) in results.iter().zip(&names) {
        match name.as_str() {
            "s077" => assert_eq!(result.as_ref().unwrap_err().kind, ErrorKind::NotFound),
            _ => assert_eq!(result.as_ref().unwrap(), name),
        }
    }
    assert_eq!(fake.take_calls().len(), 150);
}

#[tokio::test]
async fn a_manifest_sends_nobodys_sign_in_to_its_own_endpoint() {
    let fake = FakeGcp::start();
    let dir = tempfile::tempdir().unwrap();
    let adc = dir.path().join("adc.json");
    std::fs::write(&adc, support::gcp_user_file("1//ada")).unwrap();
    let sign_in = signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", adc.to_str().unwrap())]);
    let error = World::opened(&Instance::of_manifest(gcp_signed_in(&fake.url())), &sign_in).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert_eq!(fake.take_calls(), Vec::<String>::new());
    let open = |settings| World::opened(&Instance::of_manifest(settings), &sign_in);
    // Google's own hosts are what the sign-in is meant for.
    assert!(open(gcp_signed_in("https://secretmanager.europe-west3.rep.googleapis.com")).is_ok());
    for other in ["https://storage.googleapis.com/upload/storage/v1/b/evil/o?name=", "https://storage.googleapis.com"] {
        assert_eq!(open(gcp_signed_in(other)).err().unwrap().kind, ErrorKind::Unsupported, "{other}");
    }
    let swallowing = Instance::fixed(gcp_signed_in(&format!("{}/?x=", fake.url())));
    assert!(World::opened(&swallowing, &sign_in).is_err(), "a query would swallow what follows");
    assert!(open(gcp("https://secretmanager.googleapis.com.evil.example")).is_err(), "nobody's sign-in, to anywhere");
    assert!(open(InstanceSettings { auth: Some("token".into()), ..gcp(&fake.url()) }).is_err());
    let impersonate = Some(broker_core::instance::Words::from("a/../b@x"));
    assert!(open(InstanceSettings { impersonate, ..gcp(&fake.url()) }).is_err());
}
