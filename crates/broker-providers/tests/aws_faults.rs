//! What becomes of a manager that is slow, half broken, hostile or gone: a clear kind, within the deadline, and nothing
//! of the others lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, ProviderError, Retry};
use broker_providers::registry::Registry;
use broker_providers::resolve::{ResolveOptions, Resolved, resolve};
use serde_json::json;
use support::fake_aws::{Call, FakeAws, Reply, ids, kind};
use support::{aws, of_manifest, reference, registry, root, signed_in};

type Results = Vec<Result<Resolved, ProviderError>>;

/// An instance at a fake, with a deadline of its own.
struct World {
    registry: Registry,
    settings: InstanceSettings,
    sign_in: SignIn,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(endpoint: &str, timeout: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..aws(endpoint) };
        Self { registry: registry(dir.path()), settings, sign_in: root(), _dir: dir }
    }

    async fn resolve(&self, references: &[&str]) -> Results {
        let references: Vec<_> = references.iter().map(|text| reference(text)).collect();
        let open = |name: &str| self.registry.open(name, &of_manifest(&self.settings), &self.sign_in);
        resolve(&references, ResolveOptions::default(), open).await
    }

    /// Resolves one reference that must fail, and returns the failure and how long it took.
    async fn failure(&self, reference: &str) -> (ProviderError, Duration) {
        let started = Instant::now();
        let mut results = self.resolve(&[reference]).await;
        (results.remove(0).expect_err("the fake fails"), started.elapsed())
    }
}

fn always(reply: impl Fn() -> Reply + Send + Sync + 'static) -> FakeAws {
    FakeAws::new(Duration::ZERO, move |_| reply())
}

fn values(results: &Results) -> Vec<Result<String, ErrorKind>> {
    let text = |resolved: &Resolved| String::from_utf8_lossy(resolved.value.expose()).into_owned();
    results.iter().map(|result| result.as_ref().map(text).map_err(|error| error.kind)).collect()
}

#[tokio::test]
async fn throttled_for_ever_is_throttled_within_the_deadline() {
    let fake = always(|| Reply::error(400, "ThrottlingException", "Rate exceeded"));
    let (error, took) = World::new(&fake.url(), "2s").failure("org://a").await;
    assert_eq!(error.kind, ErrorKind::Throttled, "{error}");
    assert!(took <= Duration::from_millis(2200), "{took:?}");
    assert!(fake.all_calls() > 1, "it was worth another try");
    assert!(matches!(error.retry, Retry::After(_)));
    assert_eq!(error.to_string(), "`org` throttled `org://a`: ThrottlingException: Rate exceeded");
}

#[tokio::test]
async fn failing_for_ever_is_unavailable_after_a_few_tries() {
    for reply in [
        || Reply::error(500, "InternalServiceError", "oops"),
        || Reply::Raw(b"HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\n<ht>".to_vec()),
    ] {
        let fake = always(reply);
        let (error, took) = World::new(&fake.url(), "5s").failure("org://a").await;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!((2..=5).contains(&fake.all_calls()), "{}", fake.all_calls());
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_quickly() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (error, took) = World::new(&format!("http://127.0.0.1:{port}"), "10s").failure("org://a").await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.starts_with("tcp connect error: Connection refused"), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn accepting_and_never_answering_ends_at_the_deadline() {
    let fake = always(|| Reply::Silence);
    let (error, took) = World::new(&fake.url(), "1s").failure("org://a").await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!((Duration::from_millis(900)..Duration::from_millis(1500)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_connection_that_died_silently_leaves_time_for_another() {
    // What a kept connection is after the network changed: the request goes nowhere.
    let fake = FakeAws::new(Duration::ZERO, |call| if call.nth == 0 { Reply::Silence } else { kind(call) });
    let world = World::new(&fake.url(), "2s");
    assert_eq!(values(&world.resolve(&["org://a"]).await), [Ok("value of a".to_owned())]);
}

#[tokio::test]
async fn truncated_and_malformed_answers_are_malformed_and_never_quoted() {
    let canary = "canary-77c1";
    let whole = format!(r#"{{"Name":"a","SecretString":"{canary}"}}"#);
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\n\r\n")
    };
    for bytes in [
        format!("{}{}", head(whole.len() + 100), whole),
        format!("{}{}", head(whole.len() - 1), &whole[..whole.len() - 1]),
        format!("{}<html>{canary}</html>", head(13 + canary.len())),
        format!("{}{}", head(whole.len() + 6), whole.replace(canary, &format!("\\uD8{canary}\\q"))),
        format!("{}{{\"SecretString\":[\"{canary}\"]}}", head(21 + canary.len())),
        format!("{}{{}}", head(2)),
    ] {
        let sent = bytes.clone().into_bytes();
        let fake = always(move || Reply::Raw(sent.clone()));
        let (error, _) = World::new(&fake.url(), "3s").failure("org://a").await;
        assert_eq!(error.kind, ErrorKind::Malformed, "{error} for {bytes}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_of_a_gibibyte_is_not_read_to_its_end() {
    let fake = always(|| Reply::Flood(1 << 30));
    let started = Instant::now();
    let (error, _) = World::new(&fake.url(), "20s").failure("org://a").await;
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(error.cause.contains("more than 16 MiB"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = FakeAws::new(Duration::ZERO, kind);
    let target = elsewhere.url();
    let fake = always(move || {
        Reply::Raw(format!("HTTP/1.1 307 x\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n").into_bytes())
    });
    let (error, _) = World::new(&fake.url(), "3s").failure("org://a").await;
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn one_failing_batch_leaves_the_others_unharmed() {
    let fake = FakeAws::new(Duration::ZERO, |call| match ids(call).iter().any(|id| id == "s00") {
        true => Reply::error(500, "InternalServiceError", "half of it"),
        false => kind(call),
    });
    let names: Vec<_> = (0..50).map(|number| format!("org://s{number:02}")).collect();
    let results = World::new(&fake.url(), "5s").resolve(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let values = values(&results);
    assert!(values[..20].iter().all(|value| *value == Err(ErrorKind::Unavailable)), "{values:?}");
    for (number, value) in values.iter().enumerate().skip(20) {
        assert_eq!(*value, Ok(format!("value of s{number:02}")));
    }
}

#[tokio::test]
async fn entries_of_a_batch_fail_one_by_one_and_by_their_codes() {
    let fake = FakeAws::new(Duration::ZERO, |call| {
        let error =
            |id: &str, code: &str, message: &str| json!({ "SecretId": id, "ErrorCode": code, "Message": message });
        Reply::Json(
            200,
            json!({
            "SecretValues": [{ "Name": "good", "ARN": "arn:aws:secretsmanager:x:1:secret:good-AbCdEf", "SecretBinary": "AP8=" }],
            "Errors": [
                error("gone", "ResourceNotFoundException", "Secrets Manager can't find the specified secret."),
                error("denied", "AccessDeniedException", "User: arn:aws:sts::1:assumed-role/shop-dev/x is not authorized to perform: secretsmanager:GetSecretValue on resource: denied because no identity-based policy allows it"),
                error("kms", "DecryptionFailure", "Secrets Manager can't decrypt the protected secret text using the provided KMS key."),
                error("deleted", "InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion."),
            ], "asked": ids(call) }),
        )
    });
    let world = World::new(&fake.url(), "5s");
    let results = world.resolve(&["org://good", "org://gone", "org://denied", "org://kms", "org://deleted"]).await;
    let kinds: Vec<_> =
        results.iter().map(|result| result.as_ref().map(|r| r.value.expose().to_vec()).map_err(|e| e.kind)).collect();
    assert_eq!(
        kinds,
        [
            Ok(vec![0, 255]),
            Err(ErrorKind::NotFound),
            Err(ErrorKind::Denied),
            Err(ErrorKind::Denied),
            Err(ErrorKind::NotFound),
        ]
    );
    let hint = |at: usize| results[at].as_ref().unwrap_err().hint.clone().unwrap();
    assert!(hint(1).contains("`eu-west-1`"), "{}", hint(1));
    assert!(hint(2).contains("`secretsmanager:GetSecretValue`"), "{}", hint(2));
    assert!(hint(3).contains("kms:Decrypt"), "{}", hint(3));
    assert!(hint(4).contains("restore-secret"), "{}", hint(4));
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.calls("GetSecretValue")), (1, 0));
}

#[tokio::test]
async fn where_batching_is_denied_secrets_are_fetched_one_by_one_and_it_is_remembered() {
    let fake = FakeAws::new(Duration::ZERO, |call| match call.action.as_str() {
        "BatchGetSecretValue" => {
            Reply::error(400, "AccessDeniedException", "not authorized to perform: secretsmanager:BatchGetSecretValue")
        }
        _ => kind(call),
    });
    let world = World::new(&fake.url(), "5s");
    assert_eq!(
        values(&world.resolve(&["org://a", "org://b"]).await),
        [Ok("value of a".to_owned()), Ok("value of b".to_owned())]
    );
    assert_eq!(
        values(&world.resolve(&["org://c", "org://d"]).await),
        [Ok("value of c".to_owned()), Ok("value of d".to_owned())]
    );
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.calls("GetSecretValue")), (1, 4));
}

#[tokio::test]
async fn a_malformed_name_does_not_spoil_its_batch() {
    let fake = FakeAws::new(Duration::ZERO, |call| {
        let bad = "InvalidParameterException";
        match call.action.as_str() {
            "BatchGetSecretValue" => Reply::error(400, bad, "Invalid name. Must be a valid name."),
            _ if call.body["SecretId"] == "bad name" => Reply::error(400, bad, "Invalid name. Must be a valid name."),
            _ => kind(call),
        }
    });
    let results = World::new(&fake.url(), "5s").resolve(&["org://a", "org://bad%20name", "org://b"]).await;
    assert_eq!(values(&results), [Ok("value of a".to_owned()), Err(ErrorKind::NotFound), Ok("value of b".to_owned())]);
}

#[tokio::test]
async fn pages_of_a_batch_are_followed_and_what_stays_unanswered_is_asked_for_singly() {
    let fake = FakeAws::new(Duration::ZERO, |call| {
        let entry = |name: &str| json!({ "Name": name, "ARN": format!("arn:aws:x:{name}-AbCdEf"), "SecretString": format!("value of {name}") });
        match (call.action.as_str(), call.body["NextToken"].as_str()) {
            ("BatchGetSecretValue", None) => {
                Reply::Json(200, json!({ "SecretValues": [entry("a")], "NextToken": "2" }))
            }
            ("BatchGetSecretValue", Some(_)) => Reply::Json(200, json!({ "SecretValues": [entry("b")] })),
            _ => kind(call),
        }
    });
    let results = World::new(&fake.url(), "5s").resolve(&["org://a", "org://b", "org://c"]).await;
    assert_eq!(values(&results), ["a", "b", "c"].map(|name| Ok(format!("value of {name}"))));
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.calls("GetSecretValue")), (2, 1));
}

#[tokio::test]
async fn a_secret_is_found_by_name_by_arn_and_by_arn_without_its_suffix() {
    let arn = "arn:aws:secretsmanager:eu-west-1:1:secret:x-AbCdEf";
    let fake = FakeAws::new(Duration::ZERO, move |call| match call.action.as_str() {
        "BatchGetSecretValue" => Reply::Json(
            200,
            json!({ "SecretValues": [{ "Name": "x", "ARN": arn, "SecretString": "of x" },
            { "Name": "x-AbCdEf", "ARN": format!("{arn}-GhIjKl"), "SecretString": "of the other" }] }),
        ),
        _ => Reply::error(400, "ResourceNotFoundException", "single"),
    });
    let world = World::new(&fake.url(), "5s");
    let full = format!("org://{arn}");
    let results = world
        .resolve(&[
            "org://x",
            &full,
            "org://arn:aws:secretsmanager:eu-west-1:1:secret:x",
            "org://x-AbCdEf",
            "org://x-Ab",
        ])
        .await;
    let of = |text: &str| Ok(text.to_owned());
    assert_eq!(values(&results), [of("of x"), of("of x"), of("of x"), of("of the other"), Err(ErrorKind::NotFound)]);
}

#[tokio::test]
async fn versions_and_stages_are_asked_for_singly_in_aws_words() {
    let fake = FakeAws::new(Duration::ZERO, |call| {
        let text = format!(
            "{}{}",
            call.body["VersionId"].as_str().unwrap_or(""),
            call.body["VersionStage"].as_str().unwrap_or("")
        );
        Reply::Json(200, json!({ "Name": "a", "SecretString": text }))
    });
    let world = World::new(&fake.url(), "5s");
    let results = world.resolve(&["org://a?version=some-id", "org://a?stage=previous", "org://a?stage=pending"]).await;
    assert_eq!(values(&results), ["some-id", "AWSPREVIOUS", "AWSPENDING"].map(|text| Ok(text.to_owned())));
}

#[tokio::test]
async fn a_sign_in_that_no_longer_counts_is_unauthenticated_and_the_next_one_is_used() {
    for code in
        ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId"]
    {
        let fake = FakeAws::new(
            Duration::ZERO,
            move |call: &Call| if call.nth == 0 { Reply::error(400, code, "no") } else { kind(call) },
        );
        let mut world = World::new(&fake.url(), "5s");
        world.sign_in =
            signed_in(&[("AWS_ACCESS_KEY_ID", "AKIAOLD"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_PROFILE", "shop")]);
        let (error, _) = world.failure("org://a").await;
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.hint.as_ref().unwrap().contains("aws sso login --profile shop"), "{error:?}");
        // Neither held as a negative nor waited for.
        assert_eq!(values(&world.resolve(&["org://a"]).await), [Ok("value of a".to_owned())]);
    }
}

#[tokio::test]
async fn words_of_the_manager_are_bounded_and_cannot_drive_a_terminal() {
    let fake = always(|| {
        Reply::error(400, "AccessDenied\u{1b}Exception", &format!("\u{1b}[2J\r\n\u{202e}{}", "x".repeat(100_000)))
    });
    let (error, _) = World::new(&fake.url(), "5s").failure("org://a").await;
    let shown = format!("{error} {:?}", error.hint);
    assert!(shown.len() < 2_000, "{}", shown.len());
    assert!(!shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown}");
}

#[tokio::test]
async fn many_single_fetches_are_at_most_sixteen_at_a_time() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let fake = FakeAws::new(Duration::ZERO, |call| {
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        NOW.fetch_sub(1, Ordering::SeqCst);
        kind(call)
    });
    let names: Vec<_> = (0..60).map(|number| format!("org://s{number}?stage=previous")).collect();
    let results = World::new(&fake.url(), "10s").resolve(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(results.iter().all(Result::is_ok));
    assert!((8..=16).contains(&MOST.load(Ordering::SeqCst)), "{}", MOST.load(Ordering::SeqCst));
}
