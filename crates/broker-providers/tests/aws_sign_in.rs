//! Whom a request is signed as: the caller's variables, the instance's settings, the user's files; never the daemon's
//! own environment.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, resolve};
use support::fake_aws::{FakeAws, Reply, kind};
use support::{aws, of_manifest, reference, registry, root, server, signed_in};

/// Access key and region of each request.
type Signers = Arc<Mutex<Vec<(String, String)>>>;

/// A fake that remembers who signed.
fn signers() -> (FakeAws, Signers) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let into = Arc::clone(&seen);
    let fake = FakeAws::new(Duration::ZERO, move |call| {
        into.lock().unwrap().push(call.signed_with());
        kind(call)
    });
    (fake, seen)
}

async fn ask(registry: &Registry, settings: &InstanceSettings, sign_in: &SignIn) -> Result<(), ProviderError> {
    let open = |name: &str| registry.open(name, &Instance::fixed(settings.clone()), sign_in);
    let options = ResolveOptions { refresh: true, ..ResolveOptions::default() };
    resolve(&[reference("org://a")], options, open).await.remove(0).map(|_| ())
}

fn files(dir: &Path, config: &str, credentials: &str) -> Vec<(&'static str, String)> {
    fs::write(dir.join("config"), config).unwrap();
    fs::write(dir.join("credentials"), credentials).unwrap();
    let path = |name| dir.join(name).to_str().unwrap().to_owned();
    vec![("AWS_CONFIG_FILE", path("config")), ("AWS_SHARED_CREDENTIALS_FILE", path("credentials"))]
}

fn with(variables: &[(&'static str, String)], more: &[(&str, &str)]) -> SignIn {
    let all: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).chain(more.iter().copied()).collect();
    signed_in(&all)
}

#[tokio::test]
async fn keys_in_variables_sign_and_their_profile_gives_the_region() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let files = files(dir.path(), "[profile shop]\nregion = eu-north-1\n", "");
    let settings = InstanceSettings { region: None, ..aws(&fake.url()) };
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAVAR"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_PROFILE", "shop")];
    ask(&registry, &settings, &with(&files, &keys)).await.unwrap();
    ask(&registry, &settings, &with(&files, &[keys[0], keys[1], keys[2], ("AWS_REGION", "us-west-2")])).await.unwrap();
    ask(&registry, &aws(&fake.url()), &with(&files, &keys)).await.unwrap();
    let regions: Vec<_> = seen.lock().unwrap().iter().map(|(key, region)| format!("{key} {region}")).collect();
    assert_eq!(regions, ["AKIAVAR eu-north-1", "AKIAVAR us-west-2", "AKIAVAR eu-west-1"]);

    let none = InstanceSettings { region: None, ..aws(&fake.url()) };
    let error = ask(&registry, &none, &with(&files, &keys[..2])).await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unauthenticated, "no region is configured"));
    assert!(error.hint.unwrap().contains("AWS_REGION"));
}

#[tokio::test]
async fn the_profile_of_the_instance_wins_over_keys_in_variables() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let credentials = "[default]\naws_access_key_id=AKIADEFAULT\naws_secret_access_key=x\n\
        [shop]\naws_access_key_id=AKIASHOP\naws_secret_access_key=x\n";
    let files = files(dir.path(), "", credentials);
    let of_shop = InstanceSettings { profile: Some("shop".into()), ..aws(&fake.url()) };
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAVAR"), ("AWS_SECRET_ACCESS_KEY", "x")];
    ask(&registry, &of_shop, &with(&files, &keys)).await.unwrap();
    ask(&registry, &aws(&fake.url()), &with(&files, &keys)).await.unwrap();
    ask(&registry, &aws(&fake.url()), &with(&files, &[])).await.unwrap();
    ask(&registry, &aws(&fake.url()), &with(&files, &[("AWS_PROFILE", "shop")])).await.unwrap();
    let keys: Vec<_> = seen.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, ["AKIASHOP", "AKIAVAR", "AKIADEFAULT", "AKIASHOP"]);

    let missing = InstanceSettings { profile: Some("no-such".into()), ..aws(&fake.url()) };
    let error = ask(&registry, &missing, &with(&files, &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.contains("no-such"), "{error}");
}

#[tokio::test]
async fn an_edited_profile_file_counts_at_once() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let variables = files(dir.path(), "", "[default]\naws_access_key_id=AKIAONE\naws_secret_access_key=x\n");
    ask(&registry, &aws(&fake.url()), &with(&variables, &[])).await.unwrap();
    files(dir.path(), "", "[default]\naws_access_key_id=AKIASECOND\naws_secret_access_key=x\n");
    ask(&registry, &aws(&fake.url()), &with(&variables, &[])).await.unwrap();
    let keys: Vec<_> = seen.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, ["AKIAONE", "AKIASECOND"]);
}

/// Asks without `refresh`: what is held is served.
async fn ask_again(registry: &Registry, settings: &InstanceSettings, sign_in: &SignIn) {
    let open = |name: &str| registry.open(name, &Instance::fixed(settings.clone()), sign_in);
    resolve(&[reference("org://a")], ResolveOptions::default(), open).await.remove(0).unwrap();
}

#[tokio::test]
async fn a_value_held_for_one_sign_in_file_is_not_served_to_its_successor() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let keys = |id: &str| format!("[default]\naws_access_key_id={id}\naws_secret_access_key=x\n");
    let variables = files(dir.path(), "", &keys("AKIAONE"));
    let (settings, sign_in) = (aws(&fake.url()), with(&variables, &[]));
    ask_again(&registry, &settings, &sign_in).await;
    ask_again(&registry, &settings, &sign_in).await;
    assert_eq!(seen.lock().unwrap().len(), 1, "it is held");

    // As inconspicuous as can be: the same length, the same time, in place.
    let credentials = dir.path().join("credentials");
    let modified = fs::metadata(&credentials).unwrap().modified().unwrap();
    fs::write(&credentials, keys("AKIATWO")).unwrap();
    fs::File::options().write(true).open(&credentials).unwrap().set_modified(modified).unwrap();
    ask_again(&registry, &settings, &sign_in).await;
    assert_eq!(registry.held_values(), 1, "what the former key fetched is forgotten");

    // Replaced by a file that was there before.
    fs::write(dir.path().join("other"), keys("AKIATRI")).unwrap();
    fs::rename(dir.path().join("other"), &credentials).unwrap();
    ask_again(&registry, &settings, &sign_in).await;
    let signers: Vec<_> = seen.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(signers, ["AKIAONE", "AKIATWO", "AKIATRI"]);
}

#[tokio::test]
async fn another_web_identity_token_is_another_identity() {
    let (fake, seen) = signers();
    let sts = FakeAws::new(Duration::ZERO, |call| {
        let body = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
            <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA{}</AccessKeyId><SecretAccessKey>x\
            </SecretAccessKey><SessionToken>x</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
            </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            call.nth
        );
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n", body.len());
        Reply::Raw(format!("{head}{body}").into_bytes())
    });
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let token = dir.path().join("token");
    let settings = InstanceSettings { endpoint_sts: Some(sts.url()), ..aws(&fake.url()) };
    let identity = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let sign_in = with(&files(dir.path(), "", ""), &identity);
    for text in ["a.b.c", "a.b.c", "d.e.f"] {
        if fs::read_to_string(&token).ok().as_deref() != Some(text) {
            fs::write(&token, text).unwrap();
        }
        ask_again(&registry, &settings, &sign_in).await;
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 2 && seen[0].0 != seen[1].0, "{seen:?}");
}

#[tokio::test]
async fn a_command_in_a_file_that_a_variable_names_is_never_run() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let ran = dir.path().join("ran");
    for line in ["credential_process", "Credential_Process "] {
        let config = format!("[default]\n{line}= touch {}\n", ran.display());
        for variables in [files(dir.path(), &config, ""), files(dir.path(), "", &config)] {
            let error = ask(&registry, &aws(&fake.url()), &with(&variables, &[])).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
            assert!(error.cause.contains("credential_process"), "{error}");
        }
    }
    let error = ask(&registry, &aws(&fake.url()), &signed_in(&[("AWS_CONFIG_FILE", "config")])).await.unwrap_err();
    assert!(error.cause.contains("absolute"), "{error}");
    assert!(!ran.exists() && seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_credentials_the_error_is_quick_and_names_the_ways_to_sign_in() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let files = files(dir.path(), "", "");
    for (more, limit) in [(&[][..], 2500), (&[("AWS_EC2_METADATA_DISABLED", "true")][..], 500)] {
        let started = Instant::now();
        let error = ask(&registry, &aws(&fake.url()), &with(&files, more)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains("no credentials were found"), "{error}");
        let hint = error.hint.unwrap();
        assert!(
            ["aws sso login", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "profile"].iter().all(|way| hint.contains(way)),
            "{hint}"
        );
        assert!(started.elapsed() < Duration::from_millis(limit), "{:?}", started.elapsed());
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_role_is_assumed_through_the_sts_of_the_instance() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = InstanceSettings {
        assume_role: Some("arn:aws:iam::123456789012:role/shop-dev".into()),
        endpoint_sts: Some(server("BROKER_TEST_MOTO")),
        ..aws(&fake.url())
    };
    ask(&registry, &settings, &root()).await.unwrap();
    ask(&registry, &settings, &root()).await.unwrap();
    let keys: Vec<_> = seen.lock().unwrap().iter().map(|(key, _)| key.clone()).collect();
    assert!(keys[0].starts_with("ASIA"), "{keys:?}");
    assert_eq!(keys[0], keys[1], "it is held until it expires");
    registry.forget_all();
    ask(&registry, &settings, &root()).await.unwrap();
    assert_ne!(seen.lock().unwrap()[2].0, keys[0], "forgetting forgets the sign-in");
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed_is_denied_in_the_words_of_sts() {
    let sts = FakeAws::new(Duration::ZERO, |_| {
        let body = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>AccessDenied</Code>\
            <Message>User: arn:aws:iam::1:user/dev is not authorized to perform: sts:AssumeRole on resource: shop-dev</Message></Error></ErrorResponse>";
        Reply::Raw(
            format!("HTTP/1.1 403 x\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                .into_bytes(),
        )
    });
    let dir = tempfile::tempdir().unwrap();
    let settings =
        InstanceSettings { assume_role: Some("arn:aws:iam::123456789012:role/shop-dev".into()), ..aws(&sts.url()) };
    let error = ask(&registry(dir.path()), &settings, &root()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.cause.contains("sts:AssumeRole on resource: shop-dev"), "{error}");
    assert!(error.hint.unwrap().contains("`sts:AssumeRole`"));
}

#[tokio::test]
async fn a_role_without_anybody_who_asks_for_it_is_unauthenticated_and_no_matter_of_the_network() {
    let (fake, _) = signers();
    let sts = FakeAws::new(Duration::ZERO, kind);
    let dir = tempfile::tempdir().unwrap();
    let role = |arn: &str| InstanceSettings {
        assume_role: Some(arn.into()),
        endpoint_sts: Some(sts.url()),
        ..aws(&fake.url())
    };
    let nobody = with(&files(dir.path(), "", ""), &[("AWS_EC2_METADATA_DISABLED", "true")]);
    let settings = role("arn:aws:iam::123456789012:role/shop-dev");
    let error = ask(&registry(dir.path()), &settings, &nobody).await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unauthenticated, "no credentials were found"));
    assert!(error.hint.unwrap().contains("aws sso login"));
    for arn in ["foo", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::123456789012:role/"] {
        let error = ask(&registry(dir.path()), &role(arn), &root()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.cause.contains("`assume-role` is the ARN of a role"), "{error}");
    }
    assert_eq!((sts.connections(), fake.connections()), (0, 0));
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_a_role() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "a.b.c\n").unwrap();
    let files = files(dir.path(), "", "");
    let settings = InstanceSettings { endpoint_sts: Some(server("BROKER_TEST_MOTO")), ..aws(&fake.url()) };
    let identity = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
    ];
    ask(&registry(dir.path()), &settings, &with(&files, &identity)).await.unwrap();
    assert!(seen.lock().unwrap()[0].0.starts_with("ASIA"));
}

#[tokio::test]
async fn a_web_identity_is_not_shown_to_an_address_that_a_manifest_names() {
    let (fake, _) = signers();
    let sts = FakeAws::new(Duration::ZERO, kind);
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "a.b.c").unwrap();
    let files = files(dir.path(), "", "");
    let settings = InstanceSettings { endpoint_sts: Some(sts.url()), ..aws(&fake.url()) };
    let identity = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let (registry, sign_in) = (registry(dir.path()), with(&files, &identity));
    let open = |name: &str| registry.open(name, &of_manifest(&settings), &sign_in);
    let asked = resolve(&[reference("org://a")], ResolveOptions::default(), open).await.remove(0);
    let error = asked.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.contains("an address that a manifest names"), "{error}");
    assert_eq!((sts.connections(), fake.connections()), (0, 0));
}

#[tokio::test]
async fn a_web_identity_token_that_is_no_small_regular_file_is_refused_at_once() {
    let (fake, seen) = signers();
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), "", "");
    let (fifo, large) = (dir.path().join("fifo"), dir.path().join("large"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::write(&large, "x".repeat((1 << 20) + 1)).unwrap();
    for token in [Path::new("/dev/zero"), &fifo, &large] {
        let identity = [
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ];
        let started = Instant::now();
        let error = ask(&registry(dir.path()), &aws(&fake.url()), &with(&files, &identity)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains("no regular file of at most 1 MiB"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1), "{token:?}: {:?}", started.elapsed());
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_session_that_expired_is_unauthenticated() {
    let ministack = server("BROKER_TEST_MINISTACK");
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
        .region(aws_sdk_sts::config::Region::new("eu-west-1"))
        .endpoint_url(&ministack)
        .credentials_provider(aws_credential_types::Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let issued = aws_sdk_sts::Client::from_conf(config).get_session_token().duration_seconds(1).send().await.unwrap();
    let issued = issued.credentials.unwrap();
    let sign_in = signed_in(&[
        ("AWS_ACCESS_KEY_ID", &issued.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &issued.secret_access_key),
        ("AWS_SESSION_TOKEN", &issued.session_token),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let give_up = Instant::now() + Duration::from_secs(15);
    loop {
        let error = ask(&registry, &aws(&ministack), &sign_in).await.unwrap_err();
        if error.kind == ErrorKind::Unauthenticated {
            assert!(error.cause.contains("Expired"), "{error}");
            break;
        }
        // Until then it is a valid sign-in that finds no secret `a`.
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(Instant::now() < give_up, "it does not expire");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Runs in a process of its own, whose environment is full of traps.
async fn among_traps(endpoint: OsString) {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let settings = InstanceSettings { region: None, ..aws(endpoint.to_str().unwrap()) };
    let error = ask(&registry, &settings, &signed_in(&[])).await.unwrap_err();
    assert_eq!(error.cause, "no region is configured");
    let settings = aws(endpoint.to_str().unwrap());
    let none = signed_in(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let error = ask(&registry, &settings, &none).await.unwrap_err();
    assert!(error.cause.contains("no credentials were found"), "{error}");
    // And a sign-in of the request reaches the instance's endpoint directly.
    ask(&registry, &settings, &root()).await.unwrap();
}

#[tokio::test]
async fn the_environment_of_the_daemon_never_counts() {
    if let Some(endpoint) = std::env::var_os("BROKER_TEST_ENDPOINT") {
        return among_traps(endpoint).await;
    }
    let (fake, seen) = signers();
    let trap = FakeAws::new(Duration::ZERO, kind);
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("trap-config");
    fs::write(&config, "[default]\nregion=trap-1\naws_access_key_id=AKIATRAP\naws_secret_access_key=x\n").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_environment_of_the_daemon_never_counts", "--test-threads=1"]).env_clear();
    child.env("HOME", home.path()).env("BROKER_TEST_ENDPOINT", fake.url());
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        child.env(name, "AKIATRAP");
    }
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
        child.env(name, &config);
    }
    for name in [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        "AWS_ENDPOINT_URL_STS",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    ] {
        child.env(name, trap.url());
    }
    child.env("AWS_REGION", "trap-1").env("AWS_PROFILE", "trap").env("AWS_ROLE_ARN", "arn:aws:iam::1:role/trap");
    let output = child.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(*seen.lock().unwrap(), [("test".to_owned(), "eu-west-1".to_owned())]);
    assert_eq!(trap.connections(), 0);
}
