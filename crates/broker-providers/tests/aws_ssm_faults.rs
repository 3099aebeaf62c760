//! What becomes of Parameter Store behind a network and a service that fail in every way: a clear kind, in bounded time,
//! with few requests, nothing of the others lost and no value in any message.
//!
//! Half of a batch that is denied stands in `aws_ssm.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_providers::provider::{ErrorKind, FetchOptions, Fetched, ProviderError, Retry};
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;
use support::fake_aws::{Call, FakeAws, Reply};
use support::{aws_ssm, of_manifest, reference, registry, root, server, signed_in};
use tokio::time::Instant;

const CANARY: &str = "canary-9e1b55";

/// Parameter Store where every value holds the canary.
fn kind(call: &Call) -> Reply {
    let names = call.body["Names"].as_array().unwrap();
    let parameter = |name: &serde_json::Value| json!({ "Name": name, "ARN": "arn:x", "Type": "SecureString", "Value": format!("{CANARY} of {name}"), "Version": 1 });
    Reply::Json(200, json!({ "Parameters": names.iter().map(parameter).collect::<Vec<_>>(), "InvalidParameters": [] }))
}

/// A healthy service behind a proxy that is not.
struct World {
    fake: FakeAws,
    proxy: Proxy,
}

impl World {
    fn new() -> Self {
        let fake = FakeAws::new(Duration::ZERO, kind);
        let proxy = Proxy::new(fake.url().trim_start_matches("http://"));
        Self { fake, proxy }
    }
}

type Results = Vec<Result<Fetched, ProviderError>>;

/// Fetches so many parameters within so many milliseconds; returns the results and how long it took.
async fn fetch(endpoint: &str, count: usize, budget: u64) -> (Results, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let settings = InstanceSettings { timeout: Some(format!("{budget}ms")), ..aws_ssm(endpoint) };
    let provider = registry(dir.path()).open("org", &of_manifest(&settings), &root()).unwrap().provider;
    let references: Vec<_> = (0..count).map(|number| reference(&format!("org:///p{number:02}"))).collect();
    let started = Instant::now();
    let results = provider.fetch(&references, FetchOptions::within(Duration::from_millis(budget))).await;
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    (results, started.elapsed())
}

/// Fetches one parameter, which must fail in time.
async fn failure(endpoint: &str, budget: u64) -> ProviderError {
    let (mut results, took) = fetch(endpoint, 1, budget).await;
    assert!(took <= Duration::from_millis(budget + 300), "{took:?}");
    results.remove(0).expect_err("it fails")
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_at_once() {
    let mut world = World::new();
    world.proxy.refuse();
    let started = Instant::now();
    let error = failure(&world.proxy.url(), 10_000).await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("refused"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_connection_reset_in_the_middle_of_the_answer_is_asked_again_and_then_unavailable() {
    let world = World::new();
    world.proxy.fail_nth("GetParameters", 0, Fault::Reset);
    let (results, _) = fetch(&world.proxy.url(), 1, 5000).await;
    assert!(results[0].is_ok());
    assert_eq!(world.proxy.call_count(), 2);
    for fault in [Fault::Reset, Fault::CutAfter(200)] {
        world.proxy.forget_calls();
        world.proxy.fail_all(fault);
        let error = failure(&world.proxy.url(), 5000).await;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!((2..=4).contains(&world.proxy.call_count()), "{}", world.proxy.call_count());
    }
}

#[tokio::test]
async fn a_slow_first_byte_and_a_slow_drip_are_waited_for_within_the_deadline() {
    let world = World::new();
    for slow in [Fault::FirstByteAfter(Duration::from_millis(300)), Fault::Drip(40, Duration::from_millis(20))] {
        world.proxy.fail_all(slow);
        let (results, _) = fetch(&world.proxy.url(), 1, 5000).await;
        assert!(results[0].is_ok());
    }
    for endless in
        [Fault::BlackHole, Fault::FirstByteAfter(Duration::from_secs(30)), Fault::Drip(1, Duration::from_millis(100))]
    {
        world.proxy.forget_calls();
        world.proxy.fail_all(endless);
        let error = failure(&world.proxy.url(), 1000).await;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!((1..=2).contains(&world.proxy.call_count()), "{}", world.proxy.call_count());
    }
}

#[tokio::test]
async fn throttling_is_waited_out_as_long_as_the_service_says() {
    let world = World::new();
    let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#.to_owned();
    let header = |seconds: &str| vec![("retry-after".to_owned(), seconds.to_owned())];

    world.proxy.fail_nth("GetParameters", 0, Fault::AnswerWith(429, header("1"), body.clone()));
    let (results, took) = fetch(&world.proxy.url(), 1, 5000).await;
    assert!(results[0].is_ok() && took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(world.proxy.call_count(), 2);

    // Longer than there is time: it is not asked again in vain.
    world.proxy.forget_calls();
    world.proxy.fail_all(Fault::AnswerWith(429, header("60"), body.clone()));
    let error = failure(&world.proxy.url(), 2000).await;
    assert_eq!((error.kind, error.retry), (ErrorKind::Throttled, Retry::After(Duration::from_secs(60))), "{error}");
    assert_eq!(world.proxy.call_count(), 1);

    for (status, body) in [(400, body), (429, "<html>".to_owned())] {
        world.proxy.forget_calls();
        world.proxy.fail_all(Fault::Answer(status, body));
        let error = failure(&world.proxy.url(), 1500).await;
        assert_eq!(error.kind, ErrorKind::Throttled, "{error}");
        assert!((2..=8).contains(&world.proxy.call_count()), "{}", world.proxy.call_count());
    }
}

#[tokio::test]
async fn a_service_that_fails_is_unavailable_after_a_few_tries() {
    let world = World::new();
    for (status, body) in [
        (500, format!(r#"{{"__type":"InternalServerError","message":"oops"}}{CANARY}"#)),
        (503, "<html>busy</html>".to_owned()),
        (500, r#"{"__type":"com.amazonaws.ssm#InternalServerError","Message":"oops"}"#.to_owned()),
    ] {
        world.proxy.forget_calls();
        world.proxy.fail_all(Fault::Answer(status, body));
        let error = failure(&world.proxy.url(), 5000).await;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!((2..=4).contains(&world.proxy.call_count()), "{}", world.proxy.call_count());
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_malformed_and_never_quoted() {
    let world = World::new();
    for body in [
        format!(r#"{{"Parameters":[{{"Name":"/p00","Value":"{CANARY}"#),
        format!("<html>{CANARY}</html>"),
        format!(r#"{{"Parameters":[{{"Name":"/p00","Version":1,"Value":["{CANARY}"]}}]}}"#),
        format!(r#"{{"Parameters":[{{"Name":"/p00","Version":"{CANARY}","Value":"x"}}]}}"#),
        format!(r#"{{"Parameters":[{{"Name":"/p00","Version":1,"Value":"\uD8{CANARY}"}}]}}"#),
        format!(r#"{{"Parameters":[{{"Name":"/other","Version":1,"Value":"{CANARY}"}}],"InvalidParameters":[]}}"#),
        "{}".to_owned(),
        "null".to_owned(),
    ] {
        world.proxy.forget_calls();
        world.proxy.fail_all(Fault::Answer(200, body.clone()));
        let error = failure(&world.proxy.url(), 5000).await;
        assert_eq!(error.kind, ErrorKind::Malformed, "{error} for {body}");
        assert!(world.proxy.call_count() <= 2);
    }
    world.proxy.fail_all(Fault::Answer(400, CANARY.to_owned()));
    assert_eq!(failure(&world.proxy.url(), 5000).await.kind, ErrorKind::Malformed);
    let flood = FakeAws::new(Duration::ZERO, |_| Reply::Flood(1 << 30));
    let error = failure(&flood.url(), 20_000).await;
    assert!(error.kind == ErrorKind::Malformed && error.cause.contains("16 MiB"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (world, elsewhere) = (World::new(), FakeAws::new(Duration::ZERO, kind));
    let to = vec![("location".to_owned(), elsewhere.url())];
    world.proxy.fail_all(Fault::AnswerWith(307, to, String::new()));
    let error = failure(&world.proxy.url(), 3000).await;
    assert_eq!((error.kind, elsewhere.connections()), (ErrorKind::Malformed, 0), "{error}");
}

#[tokio::test]
async fn an_expired_token_and_a_wrong_clock_are_unauthenticated_and_say_what_to_do() {
    let world = World::new();
    let skew = "Signature expired: 20261122T195900Z is now earlier than 20261122T200400Z (20261122T200900Z - 5 min.)";
    for (code, message, hint) in [
        ("ExpiredTokenException", "The security token included in the request is expired", "aws sso login"),
        ("UnrecognizedClientException", "The security token included in the request is invalid.", "aws sso login"),
        ("InvalidSignatureException", skew, "set the clock"),
        ("RequestTimeTooSkewed", "The difference is too large", "set the clock"),
    ] {
        world.proxy.forget_calls();
        world.proxy.fail_all(Fault::Answer(400, json!({ "__type": code, "message": message }).to_string()));
        let error = failure(&world.proxy.url(), 5000).await;
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.hint.as_ref().is_some_and(|known| known.contains(hint)), "{code}: {:?}", error.hint);
        assert_eq!(world.proxy.call_count(), 1, "the answer would be the same");
    }
}

#[tokio::test]
async fn keys_that_the_service_does_not_know_are_unauthenticated() {
    let dir = tempfile::tempdir().unwrap();
    let settings = aws_ssm(&server("BROKER_TEST_MINISTACK"));
    let unknown = signed_in(&[("AWS_ACCESS_KEY_ID", "AKIANOBODY0000000000"), ("AWS_SECRET_ACCESS_KEY", "x")]);
    let provider = registry(dir.path()).open("org", &of_manifest(&settings), &unknown).unwrap().provider;
    let options = FetchOptions::within(Duration::from_secs(5));
    let error = provider.fetch(&[reference("org:///a")], options).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn one_failing_call_leaves_the_parameters_of_the_others_unharmed() {
    let fake = FakeAws::new(Duration::ZERO, |call| {
        let is_first = call.body["Names"].as_array().unwrap().iter().any(|name| name == "/p00");
        if is_first { Reply::error(500, "InternalServerError", "half of it") } else { kind(call) }
    });
    let (results, _) = fetch(&fake.url(), 50, 5000).await;
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(fetched) => assert!(number >= 10 && fetched.value.expose().starts_with(CANARY.as_bytes())),
            Err(error) => assert!(number < 10 && error.kind == ErrorKind::Unavailable, "{number}: {error}"),
        }
    }
    assert!(fake.calls("GetParameters") <= 4 + 4, "{}", fake.calls("GetParameters"));
}

#[tokio::test]
async fn at_most_sixteen_calls_are_under_way() {
    let world = World::new();
    world.proxy.set_latency(Duration::from_millis(30));
    let (results, _) = fetch(&world.proxy.url(), 400, 10_000).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!((world.fake.calls("GetParameters"), world.proxy.max_in_flight()), (40, 16));
}
