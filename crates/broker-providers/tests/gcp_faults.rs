//! What is peculiar to Google Cloud Secret Manager when things go wrong, besides the table of `faults.rs`: its answers,
//! writes that must not be done twice, many single requests, and signing in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, ProviderError, Retry};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, resolve};
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::proxy::{Fault, Proxy};
use support::{gcp, gcp_signed_in, gcp_user_file, reference, registry, signed_in};

const CANARY: &str = "canary-9b1c";

/// A fake behind a proxy, and an instance with a deadline at it.
struct World {
    fake: FakeGcp,
    proxy: Proxy,
    registry: Registry,
    instance: Instance,
    sign_in: SignIn,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(timeout: &str) -> Self {
        let (fake, dir) = (FakeGcp::start(), tempfile::tempdir().unwrap());
        fake.allow_anonymous();
        let proxy = Proxy::new(&fake.address());
        for number in 0..40 {
            fake.put(&format!("s{number:02}"), format!("{CANARY} {number:02}").as_bytes());
        }
        let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..gcp(&proxy.url()) };
        let (registry, instance) = (registry(dir.path()), Instance::of_manifest(settings));
        Self { fake, proxy, registry, instance, sign_in: signed_in(&[]), _dir: dir }
    }

    async fn resolve(&self, names: &[String]) -> Vec<Result<String, ProviderError>> {
        let references: Vec<_> = names.iter().map(|name| reference(&format!("g://{name}"))).collect();
        let open = |name: &str| self.registry.open(name, &self.instance, &self.sign_in);
        let results = resolve(&references, ResolveOptions::default(), open).await.into_iter();
        results.map(|result| result.map(|r| String::from_utf8_lossy(r.value.expose()).into_owned())).collect()
    }

    /// Resolves one reference that must fail; returns the failure and how long it took.
    async fn failure(&self) -> (ProviderError, Duration) {
        let began = Instant::now();
        let error = self.resolve(&names(0..1)).await.remove(0).expect_err("the proxy misbehaves");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
        (error, began.elapsed())
    }
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("s{number:02}")).collect()
}

fn action(name: &str) -> String {
    format!("GET /v1/projects/shop-dev/secrets/{name}/versions/latest:access?%24alt=json%3Benum-encoding%3Dint")
}

fn google(code: u16, status: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "status": status, "message": message } }).to_string()
}

fn answer(code: u16, status: &str) -> Fault {
    Fault::Answer(code, google(code, status, "Not today."))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_of_this_secret_or_not_whole_is_malformed() {
    let named = r#"{"name":"projects/1/secrets/s00/versions/1""#;
    for body in [
        format!("{named}}}"),
        format!(r#"{named},"payload":null}}"#),
        format!(r#"{named},"payload":{{"data":"eA=="}}}}"#),
        format!(r#"{named},"payload":{{"data":"eA==","dataCrc32c":"7"}}}}"#),
        format!(r#"{named},"payload":{{"data":"{CANARY}%","dataCrc32c":"0"}}}}"#),
        format!(r#"{{"name":["{CANARY}"],"payload":7}}"#),
        r#"{"name":"projects/1/secrets/s01/versions/1","payload":{"data":"","dataCrc32c":"0"}}"#.to_owned(),
        r#"{"name":"projects/1/secrets/s00/versions/x","payload":{"data":"","dataCrc32c":"0"}}"#.to_owned(),
    ] {
        let world = World::new("2s");
        world.proxy.fail_all(Fault::Answer(200, body.clone()));
        let (error, took) = world.failure().await;
        assert_eq!(error.kind, ErrorKind::Malformed, "{body}: {error}");
        assert_eq!(world.proxy.call_count(), 2, "{body}");
        assert!(took <= Duration::from_millis(700), "{body}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_asked_for_once() {
    for (fault, kind) in [
        (Fault::Answer(404, format!("<html>{CANARY}</html>")), ErrorKind::NotFound),
        (answer(401, "UNAUTHENTICATED"), ErrorKind::Unauthenticated),
        (answer(403, "PERMISSION_DENIED"), ErrorKind::Denied),
        (answer(400, "FAILED_PRECONDITION"), ErrorKind::NotFound),
    ] {
        let world = World::new("2s");
        world.proxy.fail_all(fault);
        let (error, _) = world.failure().await;
        assert_eq!((error.kind, error.retry), (kind, Retry::Never), "{error}");
        assert_eq!(world.proxy.call_count(), 1, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_google_names_is_passed_on() {
    let world = World::new("2s");
    let body = google(429, "RESOURCE_EXHAUSTED", "Quota exceeded.");
    world.proxy.fail_all(Fault::AnswerWith(429, vec![("retry-after".into(), "7".into())], body));
    let (error, _) = world.failure().await;
    assert_eq!(error.retry, Retry::After(Duration::from_secs(7)));
    assert_eq!(error.to_string(), "`g` throttled `g://s00`: RESOURCE_EXHAUSTED: Quota exceeded.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_unavailable_quickly() {
    let mut world = World::new("10s");
    world.proxy.refuse();
    let (error, took) = world.failure().await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("refused"), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_silently_leaves_time_for_another() {
    let world = World::new("2s");
    world.proxy.fail_nth(&action("s00"), 0, Fault::BlackHole);
    assert!(world.resolve(&names(0..1)).await.remove(0).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_many_failing_leaves_the_other_half_unharmed_and_makes_no_storm() {
    let world = World::new("5s");
    for name in names(0..20) {
        for nth in 0..10 {
            world.proxy.fail_nth(&action(&name), nth, answer(503, "UNAVAILABLE"));
        }
    }
    let began = Instant::now();
    let results = world.resolve(&names(0..40)).await;
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(value) => assert!(number >= 20 && *value == format!("{CANARY} {number:02}"), "{number}"),
            Err(error) => assert!(number < 20 && error.kind == ErrorKind::Unavailable, "{number}: {error}"),
        }
    }
    assert!(world.proxy.call_count() <= 40 + 32, "{} calls", world.proxy.call_count());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_not_done_twice() {
    for fault in [Fault::Reset, Fault::CutAfter(30), Fault::FirstByteAfter(Duration::from_secs(3))] {
        let world = World::new("10s");
        let provider = world.registry.open("g", &world.instance, &world.sign_in).unwrap().provider;
        world.proxy.fail_all(fault);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let value = SecretValue::from("new".to_owned());
        let error = provider.put(&reference("g://s00"), value, deadline).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert_eq!(world.fake.take_calls().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_surely_not_done_is_tried_again() {
    let world = World::new("10s");
    let provider = world.registry.open("g", &world.instance, &world.sign_in).unwrap().provider;
    let add = "POST /v1/projects/shop-dev/secrets/s00:addVersion?%24alt=json%3Benum-encoding%3Dint";
    world.proxy.fail_nth(add, 0, answer(429, "RESOURCE_EXHAUSTED"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let added = provider.put(&reference("g://s00"), SecretValue::from("new".to_owned()), deadline).await;
    assert_eq!(added.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let elsewhere = broker_tests::serve::Serve::start(|_| panic!("nobody goes there"));
    let world = World::new("2s");
    let location = vec![("location".to_owned(), format!("{}/v1/x", elsewhere.url()))];
    world.proxy.fail_all(Fault::AnswerWith(307, location, String::new()));
    let (error, _) = world.failure().await;
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(error.cause.contains("redirect"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_google_are_bounded_and_cannot_drive_a_terminal() {
    let world = World::new("2s");
    let message = format!("\u{1b}[2J\r\n\u{202e}{}", "x".repeat(100_000));
    world.proxy.fail_all(Fault::Answer(403, google(403, "PERMISSION_DENIED", &message)));
    let (error, _) = world.failure().await;
    let shown = format!("{error} {:?}", error.hint);
    assert!(shown.len() < 2_000 && !shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown}");
}

/// The faults of signing in, for twenty secrets at once: one kind for all, and the token endpoint asked a few times.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_misbehaves_is_asked_a_few_times_and_not_for_each_secret() {
    for (what, fault, kind, calls) in [
        ("503", Fault::Answer(503, "<html>".into()), ErrorKind::Unavailable, 2..=4),
        ("429", Fault::Answer(429, "{}".into()), ErrorKind::Throttled, 2..=8),
        ("no JSON", Fault::Answer(200, format!("<html>{CANARY}")), ErrorKind::Malformed, 2..=2),
        (
            "a wrong type",
            Fault::Answer(200, r#"{"access_token":7,"expires_in":1}"#.into()),
            ErrorKind::Malformed,
            2..=2,
        ),
        ("no token", Fault::Answer(200, "{}".into()), ErrorKind::Malformed, 2..=2),
        ("silence", Fault::BlackHole, ErrorKind::Unavailable, 2..=2),
        ("a refusal", Fault::Answer(400, r#"{"error":"invalid_grant"}"#.into()), ErrorKind::Unauthenticated, 1..=1),
    ] {
        let mut world = World::new("2s");
        let dir = tempfile::tempdir().unwrap();
        let adc = dir.path().join("adc.json");
        std::fs::write(&adc, gcp_user_file("1//canary-refresh")).unwrap();
        world.sign_in = signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", adc.to_str().unwrap())]);
        let settings = InstanceSettings { timeout: Some("2s".into()), ..gcp_signed_in(&world.proxy.url()) };
        world.instance = Instance::fixed(settings);
        world.proxy.fail_all(fault);
        let began = Instant::now();
        for result in world.resolve(&names(0..20)).await {
            let error = result.expect_err("nobody signs in");
            assert_eq!(error.kind, kind, "{what}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        assert!(began.elapsed() < Duration::from_millis(2300), "{what}: {:?}", began.elapsed());
        let sent = world.proxy.call_count();
        assert!(calls.contains(&sent), "{what}: {sent} calls");
        assert_eq!(world.proxy.calls().len(), 1, "{what}: the service was never asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_is_not_read_to_its_end() {
    use support::fake_aws::{FakeAws, Reply};
    let fake = FakeAws::new(Duration::ZERO, |_| Reply::Flood(1 << 30));
    let world = World::new("20s");
    let instance = Instance::of_manifest(InstanceSettings { timeout: Some("20s".into()), ..gcp(&fake.url()) });
    let open = |name: &str| world.registry.open(name, &instance, &world.sign_in);
    let began = Instant::now();
    let error = resolve(&[reference("g://a")], ResolveOptions::default(), open).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(error.cause.contains("more than 16 MiB"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15));
}
