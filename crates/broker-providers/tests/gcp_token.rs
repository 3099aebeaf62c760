//! Access tokens of Google Cloud for one run, on a server that issues and refuses them as Google does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_core::principal::Tier;
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::issue::{Issued, Order};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_tests::fakes::gcp::{FakeGcp, GcpToken};
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;
use support::{gcp_user_file, reference, registry, signed_in};

/// How much longer than its deadline something may seem to take on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const DEPLOY: &str = "deploy@shop-dev.iam.gserviceaccount.com";
const MIDDLE: &str = "middle@shop-dev.iam.gserviceaccount.com";
const ADA: &str = "user:ada@example.com";
const CREATOR: &str = "roles/iam.serviceAccountTokenCreator";
const SOON: Duration = Duration::from_secs(5);

/// A Google at which ada may act as `deploy`, and an instance that is fixed to it.
struct World {
    fake: FakeGcp,
    dir: tempfile::TempDir,
    registry: Registry,
    settings: InstanceSettings,
}

impl World {
    fn new() -> Self {
        let fake = FakeGcp::start();
        fake.add_service_account(DEPLOY, None);
        fake.add_service_account(MIDDLE, None);
        fake.add_refresh_token("1//ada", ADA, "client", "client-secret");
        fake.bind(&format!("serviceAccounts/{DEPLOY}"), CREATOR, ADA, None);
        let dir = tempfile::tempdir().unwrap();
        let settings = InstanceSettings { endpoint: Some(fake.url()), ..InstanceSettings::of_kind("gcp-token") };
        let registry = registry(dir.path());
        Self { fake, dir, registry, settings }
    }

    fn ada(&self) -> SignIn {
        let path = self.dir.path().join("adc.json");
        std::fs::write(&path, gcp_user_file("1//ada")).unwrap();
        signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())])
    }

    fn open(&self) -> Arc<dyn Provider> {
        self.registry.open("g", &Instance::fixed(self.settings.clone()), &self.ada()).unwrap().provider
    }

    /// Orders one token for a run of `ttl`.
    async fn issue(&self, of: &str, ttl: Duration) -> Result<Issued, ProviderError> {
        issue(&self.open(), of, ttl, SOON).await
    }

    fn good_for(&self, issued: &Issued) -> GcpToken {
        self.fake.token(&text(issued)).expect("it counts")
    }
}

fn order(ttl: Duration) -> Order {
    let scope = Scope::new(&[7; 32], "shop", "dev", "ada", Tier::Unattended, []);
    Order { lease: LeaseId::from_random([1; 24]), scope: Arc::new(scope), ttl, key: None }
}

async fn issue(
    provider: &Arc<dyn Provider>,
    of: &str,
    ttl: Duration,
    budget: Duration,
) -> Result<Issued, ProviderError> {
    provider.issue(&[reference(of)], &order(ttl), tokio::time::Instant::now() + budget).await.remove(0)
}

fn text(issued: &Issued) -> String {
    String::from_utf8(issued.value.expose().to_vec()).unwrap()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

#[tokio::test]
async fn a_run_gets_a_token_of_the_account_and_googles_log_names_the_run() {
    let world = World::new();
    let issued = world.issue(&format!("g://{DEPLOY}?scopes=devstorage.read_only"), minutes(10)).await.unwrap();
    let good = world.good_for(&issued);
    assert_eq!(good.member, format!("serviceAccount:{DEPLOY}"));
    assert_eq!(good.scopes, ["https://www.googleapis.com/auth/devstorage.read_only"]);
    assert_eq!(issued.lone_field, Some("access_token"));
    let call = format!("POST /v1/projects/-/serviceAccounts/{DEPLOY}:generateAccessToken");
    let lease = order(minutes(10)).lease;
    assert_eq!(world.fake.take_reasons(), [format!("{call}: broker lease {lease}, shop/dev")]);
    let credential = &issued.credential;
    assert!(credential.revocation.is_none(), "Google revokes no token");
    let left = credential.expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((590..=600).contains(&left), "{left}");
    assert!(!format!("{issued:?}").contains(&text(&issued)));
}

#[tokio::test]
async fn a_token_lives_no_longer_than_the_run_may_and_at_least_five_minutes() {
    for (session_ttl, option, ttl, lives) in [
        (None, "", minutes(10), minutes(10)),
        (None, "", Duration::from_secs(30), minutes(5)),
        (None, "", minutes(600), minutes(60)),
        (Some("15m"), "", minutes(10), minutes(15)),
        (Some("15m"), "?lifetime=2m", minutes(10), minutes(2)),
    ] {
        let mut world = World::new();
        world.settings.session_ttl = session_ttl.map(str::to_owned);
        let issued = world.issue(&format!("g://{DEPLOY}{option}"), ttl).await.unwrap();
        let left = world.good_for(&issued).left;
        assert!(left <= lives && left + Duration::from_secs(5) > lives, "{session_ttl:?} {option} {ttl:?}: {left:?}");
    }
}

#[tokio::test]
async fn each_run_and_each_reference_has_a_token_of_its_own() {
    let world = World::new();
    let provider = world.open();
    let references = [reference(&format!("g://{DEPLOY}")), reference(&format!("g://{DEPLOY}?scopes=bigquery"))];
    let deadline = tokio::time::Instant::now() + SOON;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let issued = provider.issue(&references, &order(minutes(5)), deadline).await;
        tokens.extend(issued.into_iter().map(|issued| text(&issued.unwrap())));
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 4);
}

#[tokio::test]
async fn the_way_to_an_account_leads_through_those_that_may_act_as_the_next() {
    let mut world = World::new();
    let far = "far@shop-dev.iam.gserviceaccount.com";
    world.fake.add_service_account(far, None);
    world.fake.bind(&format!("serviceAccounts/{MIDDLE}"), CREATOR, ADA, None);
    world.fake.bind(&format!("serviceAccounts/{far}"), CREATOR, &format!("serviceAccount:{MIDDLE}"), None);
    let error = world.issue(&format!("g://{far}"), minutes(5)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.unwrap().contains("`roles/iam.serviceAccountTokenCreator`"));
    world.settings.impersonate = Some(Words::from(MIDDLE));
    let issued = world.issue(&format!("g://{far}"), minutes(5)).await.unwrap();
    assert_eq!(world.good_for(&issued).member, format!("serviceAccount:{far}"));
    assert!(world.fake.tokens_of(&format!("serviceAccount:{MIDDLE}")).is_empty(), "one request leads all the way");
}

#[tokio::test]
async fn a_token_for_a_bucket_is_cut_down_to_it_and_to_one_role() {
    let world = World::new();
    let issued = world.issue(&format!("g://{DEPLOY}?bucket=shop-assets"), minutes(5)).await.unwrap();
    let rule = json!({
        "availableResource": "//storage.googleapis.com/projects/_/buckets/shop-assets",
        "availablePermissions": ["inRole:roles/storage.objectViewer"],
    });
    let good = world.good_for(&issued);
    assert_eq!(good.boundary, Some(json!({ "accessBoundaryRules": [rule] })));
    assert!(good.left <= minutes(5), "{good:?}");
    let left = issued.credential.expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((290..=300).contains(&left), "{left}");
}

#[tokio::test]
async fn what_google_refuses_is_said_with_a_way_out() {
    let world = World::new();
    for (of, kind, words, hint) in [
        (format!("g://{MIDDLE}"), ErrorKind::Denied, "IAM_PERMISSION_DENIED", "serviceAccountTokenCreator"),
        (
            format!("g://{DEPLOY}?lifetime=2h"),
            ErrorKind::Unsupported,
            "lifetime cannot exceed 3600",
            "LifetimeExtension",
        ),
        (format!("g://{DEPLOY}?version=1"), ErrorKind::Unsupported, "a token has no versions", ""),
        ("g://deploy".to_owned(), ErrorKind::Unsupported, "no service account's address", "gcp-token://"),
    ] {
        let error = world.issue(&of, minutes(5)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{of}: {error}");
        assert!(error.cause.contains(words), "{of}: {error}");
        assert!(error.hint.unwrap_or_default().contains(hint), "{of}");
    }
    world.fake.revoke_refresh_token("1//ada");
    let error = world.issue(&format!("g://{DEPLOY}"), minutes(5)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unauthenticated && error.hint.unwrap().contains("gcloud auth"), "{}", error.cause);
}

#[tokio::test]
async fn nobody_waits_beyond_the_deadline_and_a_passing_failure_is_outlived() {
    let world = World::new();
    let mut proxy = Proxy::new(&world.fake.address());
    let settings = InstanceSettings { endpoint: Some(proxy.url()), ..world.settings.clone() };
    let provider = world.registry.open("g", &Instance::fixed(settings), &world.ada()).unwrap().provider;
    let of = format!("g://{DEPLOY}");
    let budget = Duration::from_secs(1);
    for (fault, kind) in [
        (Fault::BlackHole, ErrorKind::Unavailable),
        (Fault::Answer(503, "busy".to_owned()), ErrorKind::Unavailable),
        (Fault::Answer(429, "{}".to_owned()), ErrorKind::Throttled),
        (Fault::Answer(200, r#"{"accessToken":"ya29.canary"}"#.to_owned()), ErrorKind::Malformed),
        (Fault::CutAfter(40), ErrorKind::Unavailable),
    ] {
        proxy.heal();
        proxy.fail_holding("generateAccessToken", fault.clone());
        let started = Instant::now();
        let error = issue(&provider, &of, minutes(5), budget).await.unwrap_err();
        assert_eq!(error.kind, kind, "{fault:?}: {error}");
        assert!(started.elapsed() < budget + SLACK, "{fault:?}: {:?}", started.elapsed());
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    proxy.heal();
    proxy.forget_calls();
    let action = format!("POST /v1/projects/-/serviceAccounts/{DEPLOY}:generateAccessToken");
    proxy.fail_nth(&action, 0, Fault::Reset);
    assert!(issue(&provider, &of, minutes(5), SOON).await.is_ok());
    assert_eq!(proxy.calls()[&action], 2);
}

#[tokio::test]
async fn nothing_is_stored_here() {
    let world = World::new();
    let (provider, one) = (world.open(), reference(&format!("g://{DEPLOY}")));
    let deadline = tokio::time::Instant::now() + SOON;
    let fetched = provider.fetch(std::slice::from_ref(&one), FetchOptions::within(SOON)).await.remove(0);
    assert_eq!(fetched.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.list(ListOptions::default(), deadline).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.describe(&one, deadline).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.delete(&one, deadline).await.unwrap_err().kind, ErrorKind::Unsupported);
    let put = provider.put(&one, SecretValue::from("x".to_owned()), deadline).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::Unsupported);
    assert!(world.fake.take_calls().is_empty());
}

#[tokio::test]
async fn a_manifest_sends_the_sign_in_to_google_only() {
    let world = World::new();
    for endpoint in [world.fake.url(), "https://secretmanager.googleapis.com".to_owned()] {
        let settings = InstanceSettings { endpoint: Some(endpoint), ..world.settings.clone() };
        let error = world.registry.open("g", &Instance::of_manifest(settings), &world.ada()).unwrap_err();
        assert!(
            error.cause.contains("to another `endpoint`") && error.hint.unwrap().contains("your own configuration")
        );
    }
    let own = InstanceSettings { endpoint: None, ..world.settings.clone() };
    assert!(world.registry.open("g", &Instance::of_manifest(own), &world.ada()).is_ok());
}
