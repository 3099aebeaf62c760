//! A person who signs in to IAM Identity Center, here or with the AWS CLI, and the roles that a profile or an instance
//! assumes from there.
//!
//! Each test runs in a process of its own, whose home directory it fills.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::instance::{InstanceSettings, Words};
use broker_providers::provider::{ErrorKind, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, resolve};
use broker_providers::sign_ins::Prompt;
use broker_tests::fakes::aws_sso::{AwsSso, RoleKeys};
use serde_json::{Value, json};
use support::fake_aws::{FakeAws, Reply, kind};
use support::{aws, reference, registry, signed_in};
use tokio::time::Instant;

const START: &str = "https://corp.awsapps.com/start";

/// Tells whether this is the process with a home of its own; makes it and waits for it else.
fn is_at_home(test: &str) -> bool {
    if std::env::var_os("BROKER_TEST_HOME").is_some() {
        return true;
    }
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--test-threads=1"]).env("HOME", home.path()).env("BROKER_TEST_HOME", "1");
    let output = child.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A portal, Secrets Manager that remembers who signed, STS that remembers who assumed what, and a registry.
struct World {
    sso: AwsSso,
    manager: FakeAws,
    signers: Arc<Mutex<Vec<String>>>,
    sts: FakeAws,
    assumed: Arc<Mutex<Vec<String>>>,
    registry: Registry,
    home: PathBuf,
}

impl World {
    fn new(config: &str) -> Self {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        fs::create_dir_all(home.join(".aws/sso/cache")).unwrap();
        fs::write(home.join(".aws/config"), config).unwrap();
        let sso = AwsSso::start(START);
        let keys = |id: &str| RoleKeys { key_id: id.into(), key: "k".into(), token: "t".into() };
        sso.assign("111122223333", "Reader", keys("ASIAPORTAL"));
        let signers = Arc::<Mutex<Vec<String>>>::default();
        let into = Arc::clone(&signers);
        let manager = FakeAws::new(Duration::ZERO, move |call| {
            into.lock().unwrap().push(call.signed_with().0);
            kind(call)
        });
        let assumed = Arc::<Mutex<Vec<String>>>::default();
        let into = Arc::clone(&assumed);
        let sts = FakeAws::new(Duration::ZERO, move |call| {
            let role = call.form("RoleArn").unwrap_or_default();
            let external = call.form("ExternalId").map(|id| format!(" with {id}")).unwrap_or_default();
            into.lock().unwrap().push(format!("{} assumes {role}{external}", call.signed_with().0));
            let body = format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                 <AccessKeyId>KEYOF{}</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>x</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
                role.rsplit('/').next().unwrap_or_default()
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n", body.len());
            Reply::Raw(format!("{head}{body}").into_bytes())
        });
        let registry = registry(&home);
        Self { sso, manager, signers, sts, assumed, registry, home }
    }

    fn instance(&self, settings: InstanceSettings) -> Instance {
        Instance::fixed(InstanceSettings {
            endpoint_sts: Some(self.sts.url()),
            endpoint_sso: Some(self.sso.url()),
            endpoint: Some(self.manager.url()),
            ..settings
        })
    }

    fn of_profile(&self, profile: &str) -> Instance {
        self.instance(InstanceSettings { profile: Some(profile.to_owned()), ..aws("") })
    }

    async fn ask(&self, instance: &Instance) -> Result<(), ProviderError> {
        let sign_in = signed_in(&[("AWS_EC2_METADATA_DISABLED", "true")]);
        let open = |name: &str| self.registry.open(name, instance, &sign_in);
        let options = ResolveOptions { refresh: true, ..ResolveOptions::default() };
        resolve(&[reference("org://a")], options, open).await.remove(0).map(|_| ())
    }

    fn last_signer(&self) -> String {
        self.signers.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Signs in as a person would.
    async fn log_in(&self, instance: &Instance) {
        let way = self.registry.login("org", instance, &signed_in(&[])).unwrap().expect("there is a way to sign in");
        let sign_ins = self.registry.sign_ins();
        match sign_ins.begin(&way, false, soon()).await.unwrap() {
            Prompt::Visit { user_code, .. } => assert!(self.sso.approve(&user_code.unwrap())),
            other => panic!("{other:?}"),
        }
        let (session, _) = sign_ins.wait(&way, soon()).await.unwrap().expect("it was approved");
        assert!(session.renewable && session.who.contains(START), "{}", session.who);
    }

    fn cli_session(&self, session: &Value) -> PathBuf {
        let path = self.home.join(".aws/sso/cache").join(format!("{}.json", sha1("corp")));
        fs::write(&path, session.to_string()).unwrap();
        path
    }
}

fn sha1(text: &str) -> String {
    let output = Command::new("sh").args(["-c", "printf %s \"$0\" | sha1sum", text]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

const CONFIG: &str = "[profile shop]\nsso_session=corp\nsso_account_id=111122223333\nsso_role_name=Reader\n\
    [profile far]\nrole_arn=arn:aws:iam::444455556666:role/far\nsource_profile=near\nexternal_id=xyz\n\
    [profile near]\nrole_arn=arn:aws:iam::111122223333:role/near\nsource_profile=shop\n\
    [sso-session corp]\nsso_start_url=https://corp.awsapps.com/start\nsso_region=eu-north-1\n";

#[tokio::test]
async fn a_person_signs_in_with_a_code_and_signs_with_the_keys_of_the_portal() {
    if !is_at_home("a_person_signs_in_with_a_code_and_signs_with_the_keys_of_the_portal") {
        return;
    }
    let world = World::new(CONFIG);
    let instance = world.of_profile("shop");
    let error = world.ask(&instance).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.contains(START), "{error}");
    assert_eq!(error.hint.as_deref(), Some("sign in: `broker login org`"));

    world.log_in(&instance).await;
    world.ask(&instance).await.unwrap();
    world.ask(&instance).await.unwrap();
    assert_eq!(world.last_signer(), "ASIAPORTAL");
    assert_eq!(world.sso.calls("/federation/credentials"), 1, "keys are held until they expire");
    // Whoever names the session itself shares the sign-in, and the only role is taken.
    world.registry.forget_values();
    let by_session = world.instance(InstanceSettings { sso_session: Some("corp".into()), ..aws("") });
    world.ask(&by_session).await.unwrap();
    assert_eq!((world.last_signer().as_str(), world.sso.calls("/client/register")), ("ASIAPORTAL", 1));

    let way = world.registry.login("org", &instance, &signed_in(&[])).unwrap().unwrap();
    assert!(world.registry.sign_ins().end(&way, soon()).await.unwrap());
    world.registry.forget_values();
    assert_eq!(world.ask(&instance).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    assert_eq!(world.sso.calls("/logout"), 1);
}

#[tokio::test]
async fn a_session_that_ended_is_refreshed_in_silence_and_one_that_cannot_be_says_how_to_sign_in() {
    if !is_at_home("a_session_that_ended_is_refreshed_in_silence_and_one_that_cannot_be_says_how_to_sign_in") {
        return;
    }
    let world = World::new(CONFIG);
    let instance = world.of_profile("shop");
    world.log_in(&instance).await;
    // By the portal's clock the token is over; by ours it is not.
    world.sso.advance(Duration::from_secs(3601));
    world.ask(&instance).await.unwrap();
    assert_eq!(world.sso.calls("/token"), 2, "one for the code, one to refresh");

    world.sso.end_sessions();
    world.registry.forget_values();
    let error = world.ask(&instance).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.hint.unwrap().contains("broker login org"));
    let calls = world.sso.calls("/token");
    assert_eq!(world.ask(&instance).await.unwrap_err().kind, ErrorKind::Unauthenticated);
    assert_eq!(world.sso.calls("/token"), calls, "a session that is over is not refreshed again and again");
}

#[tokio::test]
async fn a_role_that_the_portal_does_not_give_is_denied() {
    if !is_at_home("a_role_that_the_portal_does_not_give_is_denied") {
        return;
    }
    let world = World::new(&CONFIG.replace("sso_role_name=Reader", "sso_role_name=Admin"));
    let instance = world.of_profile("shop");
    world.log_in(&instance).await;
    let error = world.ask(&instance).await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Denied, "ForbiddenException: No access"));
}

#[tokio::test]
async fn a_code_that_is_refused_or_expires_ends_the_sign_in() {
    if !is_at_home("a_code_that_is_refused_or_expires_ends_the_sign_in") {
        return;
    }
    let world = World::new(CONFIG);
    let instance = world.of_profile("shop");
    let way = world.registry.login("org", &instance, &signed_in(&[])).unwrap().unwrap();
    let sign_ins = world.registry.sign_ins();
    for (refuse, kind) in [(true, ErrorKind::Denied), (false, ErrorKind::Unauthenticated)] {
        let Prompt::Visit { user_code, .. } = sign_ins.begin(&way, false, soon()).await.unwrap() else { panic!() };
        if refuse {
            assert!(world.sso.reject(&user_code.unwrap()));
        } else {
            world.sso.advance(Duration::from_secs(601));
        }
        let error = sign_ins.wait(&way, soon()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[tokio::test]
async fn a_page_to_sign_in_at_that_is_no_web_page_is_never_shown() {
    if !is_at_home("a_page_to_sign_in_at_that_is_no_web_page_is_never_shown") {
        return;
    }
    let world = World::new(CONFIG);
    for (page, complete) in
        [("file:///etc/passwd", None), ("http://corp.awsapps.com/start", None), (START, Some("file:///etc/passwd"))]
    {
        let portal = broker_tests::serve::Serve::start(move |request| {
            let body = match request.path() {
                "/client/register" => {
                    json!({ "clientId": "c", "clientSecret": "s", "clientSecretExpiresAt": 4_000_000_000_u64 })
                }
                _ => json!({
                    "deviceCode": "d", "userCode": "A-B", "verificationUri": page, "verificationUriComplete": complete,
                    "expiresIn": 600, "interval": 1,
                }),
            };
            broker_tests::http::Message::json(200, &body)
        });
        let settings = InstanceSettings { endpoint_sso: Some(portal.url()), ..world.of_profile("shop").settings };
        let way = world.registry.login("org", &Instance::fixed(settings), &signed_in(&[])).unwrap().unwrap();
        let error = world.registry.sign_ins().begin(&way, false, soon()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
        assert!(!error.to_string().contains("passwd"), "{error}");
    }
}

#[tokio::test]
async fn the_session_of_the_aws_cli_is_used_and_ours_goes_first() {
    if !is_at_home("the_session_of_the_aws_cli_is_used_and_ours_goes_first") {
        return;
    }
    let world = World::new(CONFIG);
    let instance = world.of_profile("shop");
    let (id, secret, access, refresh) = cli_login(&world).await;
    let session = |expires: &str| {
        json!({
            "startUrl": START, "region": "eu-north-1", "accessToken": access, "expiresAt": expires, "clientId": id,
            "clientSecret": secret, "registrationExpiresAt": "2099-01-01T00:00:00Z", "refreshToken": refresh,
        })
    };
    world.cli_session(&session("2099-01-01T00:00:00Z"));
    world.ask(&instance).await.unwrap();
    assert_eq!((world.last_signer().as_str(), world.sso.calls("/token")), ("ASIAPORTAL", 1));

    // The same as a manifest would have it: the token of the CLI is not shown to its address.
    let of_manifest = Instance::of_manifest(instance.settings.clone());
    let error = world.ask(&of_manifest).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");

    let path = world.cli_session(&session("2020-01-01T00:00:00Z"));
    world.registry.forget_values();
    world.ask(&instance).await.unwrap();
    assert_eq!(world.sso.calls("/token"), 2, "it was refreshed");
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(kept["accessToken"] != access.as_str() && kept["refreshToken"] != refresh.as_str(), "and written back");
    assert_eq!((kept["clientId"].as_str(), kept["startUrl"].as_str()), (Some(id.as_str()), Some(START)));
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap()) & 0o777, 0o600);

    world.log_in(&instance).await;
    fs::write(&path, "{}").unwrap();
    world.registry.forget_values();
    world.ask(&instance).await.unwrap();
}

/// Signs in as the AWS CLI does; returns client id and secret, access and refresh token.
async fn cli_login(world: &World) -> (String, String, String, String) {
    let call = |path: &str, body: Value| {
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.to_string().len()
        );
        let mut stream = std::net::TcpStream::connect(world.sso.address()).unwrap();
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        broker_tests::http::read_response(&mut std::io::BufReader::new(stream)).unwrap().body_json()
    };
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let made = call(
        "/client/register",
        json!({ "clientName": "cli", "clientType": "public", "scopes": ["sso:account:access"] }),
    );
    let (id, secret) = (text(&made, "clientId"), text(&made, "clientSecret"));
    let code = call("/device_authorization", json!({ "clientId": id, "clientSecret": secret, "startUrl": START }));
    assert!(world.sso.approve(&text(&code, "userCode")));
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let tokens = call(
        "/token",
        json!({ "clientId": id, "clientSecret": secret, "grantType": grant, "deviceCode": code["deviceCode"] }),
    );
    (id, secret, text(&tokens, "accessToken"), text(&tokens, "refreshToken"))
}

#[tokio::test]
async fn roles_are_assumed_one_from_the_other_by_the_profile_and_then_by_the_instance() {
    if !is_at_home("roles_are_assumed_one_from_the_other_by_the_profile_and_then_by_the_instance") {
        return;
    }
    let world = World::new(CONFIG);
    let own = ["arn:aws:iam::777788889999:role/first", "arn:aws:iam::777788889999:role/last"];
    let instance = world.instance(InstanceSettings {
        profile: Some("far".into()),
        assume_role: Some(Words::Many(own.map(str::to_owned).to_vec())),
        external_id: Some("abc".into()),
        ..aws("")
    });
    world.log_in(&instance).await;
    world.ask(&instance).await.unwrap();
    assert_eq!(
        *world.assumed.lock().unwrap(),
        [
            "ASIAPORTAL assumes arn:aws:iam::111122223333:role/near",
            "KEYOFnear assumes arn:aws:iam::444455556666:role/far with xyz",
            "KEYOFfar assumes arn:aws:iam::777788889999:role/first",
            "KEYOFfirst assumes arn:aws:iam::777788889999:role/last with abc",
        ]
    );
    assert_eq!(world.last_signer(), "KEYOFlast");
}

#[tokio::test]
async fn a_command_of_the_users_own_configuration_gives_keys() {
    if !is_at_home("a_command_of_the_users_own_configuration_gives_keys") {
        return;
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let command = home.join("keys");
    let keys = r#"{"Version":1,"AccessKeyId":"AKIAPROCESS","SecretAccessKey":"x","Expiration":"2099-01-01T00:00:00Z"}"#;
    fs::write(&command, format!("#!/bin/sh\necho '{keys}'\n")).unwrap();
    assert!(Command::new("chmod").arg("700").arg(&command).status().unwrap().success());
    let config = |command: &str| {
        format!(
            "[profile tool]\ncredential_process = {command}\n[profile role]\nrole_arn=arn:aws:iam::1:role/r\nsource_profile=tool\n"
        )
    };
    let world = World::new(&config(command.to_str().unwrap()));
    world.ask(&world.of_profile("tool")).await.unwrap();
    assert_eq!(world.last_signer(), "AKIAPROCESS");
    world.ask(&world.of_profile("role")).await.unwrap();
    assert_eq!(world.last_signer(), "KEYOFr");

    fs::write(home.join(".aws/config"), config("keys --now")).unwrap();
    let error = world.ask(&world.of_profile("tool")).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unauthenticated && error.cause.contains("absolute path"), "{error}");
}
