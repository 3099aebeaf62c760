//! Parameter Store on the servers that others wrote, and where these cannot tell, on one that does what the test says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::secret::SecretValue;
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider, ProviderError};
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};
use support::fake_aws::{Call, FakeAws, Reply};
use support::{aws_ssm, figure, of_manifest, reference, registry, root, server, unique};
use tokio::time::Instant;

/// An instance at an endpoint.
struct World {
    provider: Arc<dyn Provider>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opened = registry(dir.path()).open("org", &of_manifest(&aws_ssm(endpoint)), &root()).unwrap();
        Self { provider: opened.provider, _dir: dir }
    }

    async fn put(&self, name: &str, value: &[u8]) -> Result<Option<String>, ProviderError> {
        self.provider.put(&reference(name), SecretValue::new(value.to_vec()), soon()).await
    }

    async fn fetch(&self, names: &[&str]) -> Vec<Result<String, ErrorKind>> {
        let references: Vec<_> = names.iter().map(|name| reference(name)).collect();
        let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(10)) };
        let fetched = self.provider.fetch(&references, options).await.into_iter();
        let text = |value: &SecretValue| String::from_utf8_lossy(value.expose()).into_owned();
        fetched.map(|result| result.map(|fetched| text(&fetched.value)).map_err(|error| error.kind)).collect()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn ok(text: &str) -> Result<String, ErrorKind> {
    Ok(text.to_owned())
}

/// Parameter Store where every parameter's value is `value of NAME`, except those whose name holds `missing`.
fn kind(call: &Call) -> Reply {
    let names: Vec<String> =
        call.body["Names"].as_array().into_iter().flatten().map(|n| n.as_str().unwrap().to_owned()).collect();
    assert!(names.len() <= 10, "AWS takes ten names");
    let (missing, there): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.contains("missing"));
    let parameter = |name: &String| {
        json!({ "Name": name, "ARN": format!("arn:aws:ssm:eu-west-1:1:parameter{name}"), "Type": "SecureString",
            "Value": format!("value of {name}"), "Version": 1 })
    };
    Reply::Json(
        200,
        json!({ "Parameters": there.iter().map(parameter).collect::<Vec<_>>(), "InvalidParameters": missing }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_labels_are_asked_for_and_never_mixed_up() {
    for variable in ["BROKER_TEST_MOTO", "BROKER_TEST_MINISTACK"] {
        let (url, name) = (server(variable), format!("/{}/key", unique("broker")));
        let world = World::new(&url);
        for value in ["one", "two", "three"] {
            world.put(&format!("org://{name}"), value.as_bytes()).await.unwrap();
        }
        let label = json!({ "Name": name, "ParameterVersion": 2, "Labels": ["prod"] });
        ssm(&url, "LabelParameterVersion", &label);
        let references =
            ["", "?version=1", "?version=2", "?version=prod", "?stage=previous", "?version=9", "?version=test"];
        let references: Vec<_> = references.iter().map(|query| format!("org://{name}{query}")).collect();
        let results = world.fetch(&references.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let missing = || Err(ErrorKind::NotFound);
        assert_eq!(
            results,
            [ok("three"), ok("one"), ok("two"), ok("two"), ok("two"), missing(), missing()],
            "{variable}"
        );
        assert_eq!(world.fetch(&[&format!("org://{name}?stage=pending")]).await, [Err(ErrorKind::Unsupported)]);
    }
}

/// Makes a call as root.
fn ssm(url: &str, action: &str, body: &Value) -> Value {
    use broker_tests::servers::Aws;
    let aws = if url == server("BROKER_TEST_MOTO") { Aws::Moto } else { Aws::Ministack };
    let (status, answer) = aws.call(&aws.root(), "ssm", &format!("AmazonSSM.{action}"), body);
    assert_eq!(status, 200, "{action}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_lists_and_encrypted_parameters_are_their_text() {
    for variable in ["BROKER_TEST_MOTO", "BROKER_TEST_MINISTACK"] {
        let (url, name) = (server(variable), format!("/{}", unique("broker")));
        for (kind, value) in [("String", "plain\n"), ("StringList", "a,b,c"), ("SecureString", " secret ")] {
            ssm(&url, "PutParameter", &json!({ "Name": format!("{name}/{kind}"), "Value": value, "Type": kind }));
        }
        let world = World::new(&url);
        let names = ["String", "StringList", "SecureString"].map(|kind| format!("org://{name}/{kind}"));
        let results = world.fetch(&names.each_ref().map(String::as_str)).await;
        assert_eq!(results, [ok("plain\n"), ok("a,b,c"), ok(" secret ")], "{variable}");

        let error = world.put(&names[0], b"x").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("plain text") && error.hint.unwrap().contains("delete it"));
        assert_eq!(world.fetch(&[&names[0]]).await, [ok("plain\n")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_parameter_cannot_hold_is_refused_in_words_and_nothing_is_sent() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let world = World::new(&fake.url());
    let large = vec![b'x'; 8193];
    for (value, words) in
        [(&b"\xff\xfe"[..], "no UTF-8"), (b"a\0b", "NUL byte"), (b"", "empty value"), (&large, "at most 8 KiB")]
    {
        let error = world.put("org:///a", value).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains(words), "{error}");
    }
    for name in
        ["org:///a?version=1", "org:///a?stage=previous", "org:///a%20b", "org://arn:aws:ssm:eu-west-1:1:parameter/a"]
    {
        assert_eq!(world.put(name, b"x").await.unwrap_err().kind, ErrorKind::Unsupported, "{name}");
    }
    assert_eq!(fake.all_calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_past_4_kib_goes_into_an_advanced_parameter_only() {
    for variable in ["BROKER_TEST_MOTO", "BROKER_TEST_MINISTACK"] {
        let (url, name) = (server(variable), format!("/{}", unique("broker")));
        let world = World::new(&url);
        let (most, more) = (vec![b'x'; 4096], vec![b'y'; 4097]);
        world.put(&format!("org://{name}/standard"), &most).await.unwrap();
        let error = world.put(&format!("org://{name}/standard"), &more).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("4 KiB") && error.hint.unwrap().contains("--tier Advanced"));
        let advanced = format!("{name}/advanced");
        let input = json!({ "Name": advanced, "Value": "x", "Type": "SecureString", "Tier": "Advanced" });
        ssm(&url, "PutParameter", &input);
        world.put(&format!("org://{advanced}"), &more).await.unwrap();
        assert_eq!(world.fetch(&[&format!("org://{advanced}")]).await, [ok(&"y".repeat(4097))], "{variable}");
    }
}

#[tokio::test]
async fn writing_keeps_the_key_that_encrypts_a_parameter() {
    let sent = Arc::<Mutex<Vec<Value>>>::default();
    let into = Arc::clone(&sent);
    let fake = FakeAws::new(Duration::ZERO, move |call| match call.action.as_str() {
        "DescribeParameters" => {
            let known = json!({ "Name": "/a", "Type": "SecureString", "KeyId": "alias/shop", "Tier": "Standard", "Version": 4 });
            Reply::Json(200, json!({ "Parameters": [known] }))
        }
        _ => {
            into.lock().unwrap().push(call.body.clone());
            Reply::Json(200, json!({ "Version": 5, "Tier": "Standard" }))
        }
    });
    let world = World::new(&fake.url());
    assert_eq!(world.put("org:///a", b"new").await.unwrap().as_deref(), Some("5"));
    world.put("org:///b", b"new").await.unwrap();
    let expected =
        json!({ "Name": "/a", "Value": "new", "Type": "SecureString", "Overwrite": true, "KeyId": "alias/shop" });
    let sent = sent.lock().unwrap();
    assert_eq!(sent[0], expected);
    assert_eq!(sent[1]["KeyId"], Value::Null);
}

#[tokio::test]
async fn a_write_without_an_answer_is_not_repeated() {
    let fake = FakeAws::new(Duration::ZERO, |call| match call.action.as_str() {
        "PutParameter" => Reply::error(500, "InternalServerError", "perhaps it was written"),
        _ => Reply::Json(200, json!({ "Parameters": [] })),
    });
    let error = World::new(&fake.url()).put("org:///a", b"x").await.unwrap_err();
    assert_eq!((error.kind, fake.calls("PutParameter")), (ErrorKind::Unavailable, 1));
}

#[tokio::test]
async fn an_arn_is_asked_for_in_its_region_and_another_account_answers_under_it() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let into = Arc::clone(&seen);
    let fake = FakeAws::new(Duration::ZERO, move |call| {
        into.lock().unwrap().push(call.signed_with().1);
        let names = call.body["Names"].as_array().unwrap();
        let parameter = |name: &Value| {
            let name = name.as_str().unwrap();
            json!({ "Name": name, "ARN": name, "Value": format!("of {name}"), "Version": 3, "Type": "String" })
        };
        Reply::Json(
            200,
            json!({ "Parameters": names.iter().map(parameter).collect::<Vec<_>>(), "InvalidParameters": [] }),
        )
    });
    let arn = "arn:aws:ssm:us-east-2:444455556666:parameter/shared/key";
    let results = World::new(&fake.url()).fetch(&["org:///own", &format!("org://{arn}")]).await;
    assert_eq!(results, [ok("of /own"), ok(&format!("of {arn}"))]);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["eu-west-1", "us-east-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_arn_and_its_name_are_the_same_parameter() {
    for (variable, account) in [("BROKER_TEST_MOTO", "123456789012"), ("BROKER_TEST_MINISTACK", "000000000000")] {
        let (url, name) = (server(variable), format!("/{}/key", unique("broker")));
        let world = World::new(&url);
        world.put(&format!("org://{name}"), b"one").await.unwrap();
        let arn = format!("org://arn:aws:ssm:eu-west-1:{account}:parameter{name}");
        let results = world.fetch(&[&arn, &format!("org://{name}"), &format!("{arn}?version=1")]).await;
        assert_eq!(results, [ok("one"), ok("one"), ok("one")], "{variable}");
        // Its slash is part of the name.
        let without = format!("org://{}", name.trim_start_matches('/'));
        assert_eq!(world.fetch(&[&without]).await, [Err(ErrorKind::NotFound)], "{variable}");
    }
}

#[tokio::test]
async fn a_hundred_and_fifty_references_with_one_missing_are_fifteen_calls() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let names: Vec<_> =
        (0..150).map(|n| if n == 77 { "org:///missing".to_owned() } else { format!("org:///p{n}") }).collect();
    let results = World::new(&fake.url()).fetch(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(results[77], Err(ErrorKind::NotFound));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 149);
    assert_eq!((fake.all_calls(), fake.calls("GetParameters")), (15, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parameters_cost_one_and_a_half_round_trips_when_cold() {
    let latency = Duration::from_millis(50);
    let fake = FakeAws::new(Duration::ZERO, kind);
    let proxy = Proxy::new(fake.url().trim_start_matches("http://"));
    proxy.set_latency(latency);
    let names: Vec<_> = (0..50).map(|n| format!("org:///p{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // The first client of a process reads the machine's certificates; that is no round trip.
    World::new(&fake.url()).fetch(&["org:///warm-up"]).await;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let world = World::new(&proxy.url());
        let started = Instant::now();
        assert!(world.fetch(&names).await.iter().all(Result::is_ok));
        best = best.min(started.elapsed());
    }
    figure("aws-ssm-cold-50", &format!("{best:?} for 50 parameters with {latency:?} of latency"));
    assert!(best <= latency * 3 / 2, "{best:?}");
    assert!(proxy.max_in_flight() <= 16);
}

#[tokio::test]
async fn a_parameter_that_may_not_be_read_leaves_the_others_of_its_call_unharmed() {
    // As AWS does: one that is denied spoils the whole call.
    let denied = "User: arn:aws:sts::1:assumed-role/shop/x is not authorized to perform: ssm:GetParameters on resource: \
                  arn:aws:ssm:eu-west-1:1:parameter/p3 because no identity-based policy allows the ssm:GetParameters action";
    let fake = FakeAws::new(Duration::ZERO, move |call| {
        let is_denied = call.body["Names"].as_array().unwrap().iter().any(|name| name == "/p3");
        if is_denied { Reply::error(400, "AccessDeniedException", denied) } else { kind(call) }
    });
    let world = World::new(&fake.url());
    let names: Vec<_> = (0..20).map(|n| format!("org:///p{n}")).collect();
    let results = world.fetch(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (number, result) in results.into_iter().enumerate() {
        let expected = if number == 3 { Err(ErrorKind::Denied) } else { Ok(format!("value of /p{number}")) };
        assert_eq!(result, expected);
    }
    assert_eq!(fake.calls("GetParameters"), 2 + 10, "two calls, and one for each name of the spoilt one");
    let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(5)) };
    let error = world.provider.fetch(&[reference("org:///p3")], options).await.remove(0).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("the signed-in identity lacks `ssm:GetParameters` on it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_selects_by_tag_and_a_description_tells_the_versions() {
    let (url, name) = (server("BROKER_TEST_MOTO"), format!("/{}", unique("broker")));
    let world = World::new(&url);
    for part in ["a", "b"] {
        world.put(&format!("org://{name}/{part}"), b"canary-4711").await.unwrap();
        let tags = json!([{ "Key": "team", "Value": if part == "a" { "shop" } else { "ops" } }]);
        ssm(
            &url,
            "AddTagsToResource",
            &json!({ "ResourceType": "Parameter", "ResourceId": format!("{name}/{part}"), "Tags": tags }),
        );
    }
    let tags = [("team".to_owned(), "shop".to_owned())];
    let listed = world.provider.list(ListOptions { prefix: &name, tags: &tags }, soon()).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|entry| entry.path).collect();
    assert_eq!(listed, [format!("{name}/a")]);
    let described = world.provider.describe(&reference(&format!("org://{name}/a")), soon()).await.unwrap();
    assert_eq!(described.tags, tags);
    assert!(described.created.is_some() && described.changed.is_some());
    assert!(!format!("{described:?}").contains("canary"));
}

#[tokio::test]
async fn where_describing_is_denied_a_path_is_listed_by_itself() {
    let fake = FakeAws::new(Duration::ZERO, |call| match call.action.as_str() {
        "GetParametersByPath" => {
            assert_eq!(
                (call.body["Path"].as_str(), call.body["WithDecryption"].as_bool()),
                (Some("/shop"), Some(false))
            );
            let known = |name: &str| json!({ "Name": name, "Value": "AQICAH", "Version": 1, "Type": "SecureString" });
            match call.body["NextToken"].as_str() {
                None => Reply::Json(
                    200,
                    json!({ "Parameters": [known("/shop/dev"), known("/shop/prod")], "NextToken": "2" }),
                ),
                Some(_) => Reply::Json(200, json!({ "Parameters": [known("/shop/dev2")] })),
            }
        }
        _ => Reply::error(400, "AccessDeniedException", "not authorized to perform: ssm:DescribeParameters"),
    });
    let world = World::new(&fake.url());
    let listed = world.provider.list(ListOptions { prefix: "/shop/dev", tags: &[] }, soon()).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|entry| entry.path).collect();
    assert_eq!(listed, ["/shop/dev", "/shop/dev2"]);
    let error = world.provider.list(ListOptions::default(), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
}
