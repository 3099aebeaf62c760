//! Turning references into values: fields, one fetch per secret, instances side by side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_providers::provider::ErrorKind;
use broker_providers::registry::{KINDS, Kind};
use broker_providers::resolve::{ResolveOptions, resolve};
use serde_json::json;
use support::fake_aws::{FakeAws, Reply, kind};
use support::{aws, of_manifest, reference, registry, root, signed_in};

#[tokio::test]
async fn fields_of_one_secret_are_one_fetch_and_each_has_its_own_result() {
    let fake = FakeAws::new(Duration::ZERO, |_| {
        let document = r#"{"url":"postgres://x","port":5432,"rate":1.10,"deep":{"a.b":"dot"},"gone":null}"#;
        Reply::Json(200, json!({ "Name": "db", "ARN": "arn:aws:x", "VersionId": "v7", "SecretString": document }))
    });
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = aws(&fake.url());
    let wanted = [
        "org://db#url",
        "org://db#port",
        "org://db#rate",
        "org://db#deep.a%2Eb",
        "org://db#gone",
        "org://db#none",
        "org://db#url.x",
    ];
    let references: Vec<_> = wanted.iter().map(|text| reference(text)).collect();
    let results =
        resolve(&references, ResolveOptions::default(), |name| registry.open(name, &of_manifest(&settings), &root()))
            .await;
    let texts: Vec<_> =
        results.iter().map(|r| r.as_ref().map(|r| r.value.expose().to_vec()).map_err(|e| e.kind)).collect();
    let text = |text: &str| Ok(text.as_bytes().to_vec());
    let missing = || Err(ErrorKind::NotFound);
    assert_eq!(texts, [text("postgres://x"), text("5432"), text("1.10"), text("dot"), missing(), missing(), missing()]);
    assert_eq!(results[0].as_ref().unwrap().version.as_deref(), Some("v7"));
    for (at, words) in [
        (4, "field `gone` of its value is `null`"),
        (5, "no field `none`"),
        (6, "field `url` of its value is no JSON object"),
    ] {
        let error = results[at].as_ref().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.reference.as_ref(), Some(&references[at]));
        assert!(!format!("{error:?}").contains("postgres"));
    }
    assert_eq!(fake.all_calls(), 1);
}

#[tokio::test]
async fn instances_are_asked_side_by_side_and_a_dead_one_delays_only_its_own() {
    let slow = FakeAws::new(Duration::from_millis(300), kind);
    let dead = FakeAws::new(Duration::ZERO, |_| Reply::Silence);
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = |name: &str| match name {
        "dead" => InstanceSettings { timeout: Some("400ms".into()), ..aws(&dead.url()) },
        _ => aws(&slow.url()),
    };
    let references: Vec<_> = ["one://a", "dead://a", "two://b", "nowhere://c", "three://d"].map(reference).into();
    let open = |name: &str| match name {
        "nowhere" => registry.open(name, &of_manifest(&InstanceSettings::of_kind("no-such-kind")), &root()),
        _ => registry.open(name, &of_manifest(&settings(name)), &root()),
    };
    let started = Instant::now();
    let results = resolve(&references, ResolveOptions::default(), open).await;
    assert!(started.elapsed() < Duration::from_millis(850), "three of 300 ms and one of 400: {:?}", started.elapsed());
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Unavailable), None, Some(ErrorKind::Unsupported), None]);
    let error = results[3].as_ref().unwrap_err();
    assert_eq!(error.reference.as_ref(), Some(&references[3]));
    assert!(error.hint.as_ref().unwrap().contains("`local`"), "{error:?}");
}

#[tokio::test]
async fn a_grant_of_fifty_fields_that_are_held_is_quick() {
    let fake = FakeAws::new(Duration::ZERO, |_| {
        let fields: serde_json::Map<_, _> = (0..50).map(|n| (format!("field-{n}"), json!("v".repeat(200)))).collect();
        let document = serde_json::Value::Object(fields).to_string();
        Reply::Json(200, json!({ "Name": "all", "ARN": "arn:aws:x", "SecretString": document }))
    });
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = aws(&fake.url());
    let references: Vec<_> = (0..50).map(|n| reference(&format!("org://all#field-{n}"))).collect();
    let sign_in = root();
    let mut took = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        let open = |name: &str| registry.open(name, &of_manifest(&settings), &sign_in);
        assert!(resolve(&references, ResolveOptions::default(), open).await.iter().all(Result::is_ok));
        took.push(started.elapsed());
    }
    took.sort();
    assert_eq!(fake.all_calls(), 1);
    support::figure("warm-50-fields-of-one-secret", &format!("median {:?}, most {:?}", took[100], took[199]));
}

#[test]
fn an_instance_with_keys_of_another_kind_or_an_address_in_the_clear_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let refused =
        |settings: &InstanceSettings| registry.open("org", &of_manifest(settings), &root()).unwrap_err().cause;
    let local = InstanceSettings { region: Some("x".into()), ..InstanceSettings::of_kind("local") };
    assert_eq!(refused(&local), "kind `local` has no key `region`");
    let clear = InstanceSettings {
        endpoint: Some("http://example.com".into()),
        ..InstanceSettings::of_kind("aws-secrets-manager")
    };
    assert!(refused(&clear).contains("https://"), "{}", refused(&clear));
    let never = InstanceSettings { ttl: Some("never".into()), ..InstanceSettings::of_kind("aws-secrets-manager") };
    assert!(refused(&never).contains("`ttl`"), "{}", refused(&never));
}

#[test]
fn the_same_instance_and_identity_is_opened_once_and_the_set_of_open_ones_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings =
        InstanceSettings { region: Some("eu-west-1".into()), ..InstanceSettings::of_kind("aws-secrets-manager") };
    let open = |key: &str, more: &str| {
        let sign_in = signed_in(&[("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", "x"), ("VAULT_TOKEN", more)]);
        registry.open("org", &of_manifest(&settings), &sign_in).unwrap().provider
    };
    let first = open("a", "1");
    // A variable that the kind does not read is no part of the identity.
    assert!(std::sync::Arc::ptr_eq(&first, &open("a", "2")));
    assert!(!std::sync::Arc::ptr_eq(&first, &open("b", "1")));
    for number in 0..300 {
        open(&format!("key-{number}"), "");
        open("a", "1");
    }
    assert!(std::sync::Arc::ptr_eq(&first, &open("a", "1")), "what is used stays");
    assert!(format!("{registry:?}").contains("open: 256"), "{registry:?}");
}

#[test]
fn every_kind_has_a_name_a_scheme_and_reads_only_variables_that_travel() {
    for row in KINDS {
        assert_eq!(Kind::named(row.kind).map(|k| k.scheme), Some(row.scheme));
        if let Some(scheme) = row.scheme {
            assert_eq!(Kind::of_scheme(scheme).map(|k| k.kind), Some(row.kind));
            assert!(broker_core::reference::is_instance_name(scheme));
        }
        assert!(row.sign_in_env.iter().all(|name| broker_core::sign_in::travels(name)), "{}", row.kind);
        assert!(row.bootstrap_env.is_sorted());
    }
}

#[test]
fn no_variable_that_leads_to_a_credential_of_aws_is_left_to_the_child() {
    let aws = Kind::named("aws-secrets-manager").unwrap();
    // What is read and is no credential.
    let harmless = ["AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED", "AWS_REGION"];
    for name in aws.sign_in_env {
        assert_ne!(harmless.contains(name), aws.bootstrap_env.contains(name), "{name}");
    }
    // What only the child's SDK would read.
    for name in [
        "AWS_ACCESS_KEY",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_DEFAULT_PROFILE",
        "AWS_SECRET_KEY",
        "AWS_SECURITY_TOKEN",
    ] {
        assert!(aws.bootstrap_env.contains(&name), "{name}");
    }
}
