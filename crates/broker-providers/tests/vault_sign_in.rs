//! Signing in to Vault and OpenBao: every method, what a manifest's address does not get, and how a session lives and ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::login::Session;
use broker_providers::provider::{ErrorKind, ProviderError};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, resolve};
use broker_providers::sign_ins::{Prompt, SignInWay};
use broker_tests::http::Message;
use broker_tests::proxy::Proxy;
use broker_tests::serve::Serve;
use serde_json::{Value, json};
use support::vault::{Server, ours};
use support::{reference, registry, signed_in};

/// A server with one secret that the policy `dev` may read, and an instance at it.
struct World {
    server: Server,
    proxy: Proxy,
    registry: Registry,
    instance: Instance,
    sign_in: SignIn,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(auth: &str, role: Option<&str>) -> Self {
        let server = ours();
        server.store("secret", "db", &json!({ "value": "the value" }));
        let policy = "path \"secret/data/*\" { capabilities = [\"read\"] }";
        server.set("PUT", "sys/policies/acl/dev", &json!({ "policy": policy }));
        if auth != "token" {
            server.set("POST", &format!("sys/auth/{auth}"), &json!({ "type": auth }));
        }
        let proxy = Proxy::new(&server.ours().address());
        let settings = InstanceSettings {
            address: Some(proxy.url()),
            auth: Some(auth.to_owned()),
            role: role.map(str::to_owned),
            timeout: Some("5s".to_owned()),
            ..InstanceSettings::of_kind("vault")
        };
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        Self { server, proxy, registry, instance: Instance::fixed(settings), sign_in: signed_in(&[]), _dir: dir }
    }

    /// An instance as a manifest configures it.
    fn of_manifest(mut self) -> Self {
        self.instance.fixed = false;
        self
    }

    fn with(mut self, variables: &[(&str, &str)]) -> Self {
        self.sign_in = signed_in(variables);
        self
    }

    async fn fetch(&self) -> Result<String, ProviderError> {
        let open = |name: &str| self.registry.open(name, &self.instance, &self.sign_in);
        let options = ResolveOptions { refresh: true, ..ResolveOptions::default() };
        let resolved = resolve(&[reference("org://secret/db")], options, open).await.remove(0)?;
        Ok(String::from_utf8(resolved.value.expose().to_vec()).unwrap())
    }

    fn way(&self) -> SignInWay {
        self.registry.login("org", &self.instance, &self.sign_in).unwrap().unwrap()
    }

    async fn begin(&self) -> Result<Prompt, ProviderError> {
        self.registry.sign_ins().begin(&self.way(), false, soon()).await
    }

    async fn labels(&self) -> Vec<(String, bool)> {
        match self.begin().await.unwrap() {
            Prompt::Ask(questions) => questions.into_iter().map(|q| (q.label, q.hidden)).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, answers: &[&str]) -> Result<Arc<Session>, ProviderError> {
        let answers = answers.iter().map(|text| SecretValue::from((*text).to_owned())).collect();
        self.registry.sign_ins().answer(&self.way(), answers, soon()).await
    }

    /// Names somebody together with the server, as a person sees it.
    fn who(&self, name: &str) -> String {
        format!("{name} at {}", self.proxy.url())
    }

    fn calls(&self, of: &str) -> usize {
        self.proxy.calls().iter().filter(|(call, _)| call.contains(of)).map(|(_, count)| count).sum()
    }
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(10)
}

/// A world with an AppRole, and a fresh secret id for it.
fn approle(settings: Value) -> (World, String) {
    let mut world = World::new("approle", None);
    world.server.set("POST", "auth/approle/role/dev", &settings);
    let role = world.server.set("GET", "auth/approle/role/dev/role-id", &Value::Null);
    let role = role["data"]["role_id"].as_str().unwrap().to_owned();
    world.instance.settings.role = Some(role);
    let made = world.server.set("POST", "auth/approle/role/dev/secret-id", &json!({}));
    (world, made["data"]["secret_id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lies_around_is_never_sent_to_a_manifests_own_address() {
    for (auth, variable) in
        [("token", "VAULT_TOKEN"), ("token", "BAO_TOKEN"), ("approle", "VAULT_SECRET_ID"), ("jwt", "VAULT_JWT")]
    {
        let world = World::new(auth, Some("dev")).of_manifest().with(&[(variable, "hvs.precious")]);
        let error = world.fetch().await.expect_err("nobody signed in there");
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.hint.unwrap().contains("broker login org"));
        assert!(matches!(world.begin().await.unwrap(), Prompt::Ask(_)), "a person is asked, who sees where it goes");
        assert_eq!(world.proxy.call_count(), 0, "{variable}: {:?}", world.proxy.calls());
    }
    // The same variable does its work where the user fixed the address.
    let world = World::new("token", None);
    let root = world.server.root().to_owned();
    let world = world.with(&[("VAULT_TOKEN", &root)]);
    assert_eq!(world.fetch().await.unwrap(), "the value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_token_is_bound_to_its_address_renewed_and_revoked_at_logout() {
    let world = World::new("token", None).of_manifest();
    let made = world.server.set(
        "POST",
        "auth/token/create",
        &json!({ "policies": ["dev"], "ttl": "1h", "display_name": "ada" }),
    );
    let token = made["auth"]["client_token"].as_str().unwrap();
    let labels = world.labels().await;
    assert_eq!(labels, [(format!("token for {}", world.proxy.url()), true)]);
    let refused = world.answer(&["hvs.nonsense"]).await.expect_err("nobody knows it");
    assert_eq!(refused.kind, ErrorKind::Unauthenticated, "{refused}");
    assert!(!format!("{refused:?}").contains("nonsense"));
    let session = world.answer(&[token]).await.unwrap();
    assert_eq!((session.who.clone(), session.renewable), (world.who("token-ada"), true));
    assert_eq!(world.fetch().await.unwrap(), "the value");
    // Another address is another origin: the session is not shown to it.
    let other = Proxy::new(&world.server.ours().address());
    let elsewhere = InstanceSettings { address: Some(other.url()), ..world.instance.settings.clone() };
    let open = |name: &str| world.registry.open(name, &Instance::of_manifest(elsewhere.clone()), &world.sign_in);
    let error = resolve(&[reference("org://secret/db")], ResolveOptions::default(), open).await.remove(0);
    assert_eq!(error.expect_err("nobody signed in there").kind, ErrorKind::Unauthenticated);
    assert_eq!(other.call_count(), 0);

    let before = world.server.ours().live_tokens();
    assert!(world.registry.sign_ins().end(&world.way(), soon()).await.unwrap());
    assert_eq!(world.server.ours().live_tokens(), before - 1, "it is revoked");
    assert_eq!(world.fetch().await.expect_err("signed out").kind, ErrorKind::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_in_silence_and_its_end_names_the_way_back() {
    let world = World::new("userpass", Some("ada"));
    world.server.set(
        "POST",
        "auth/userpass/users/ada",
        &json!({ "password": "pass word", "token_policies": "dev", "token_ttl": 4, "token_max_ttl": 3600 }),
    );
    assert_eq!(world.labels().await, [(format!("password of `ada` for {}", world.proxy.url()), true)]);
    let wrong = world.answer(&["wrong"]).await.expect_err("that is not it");
    assert_eq!(wrong.kind, ErrorKind::Unauthenticated);
    assert!(wrong.cause.contains("invalid username or password"), "{wrong}");
    let session = world.answer(&["pass word"]).await.unwrap();
    assert_eq!(session.who, world.who("userpass ada"));
    // It lives for four seconds, and is in use for longer.
    let started = Instant::now();
    while world.calls("renew-self") < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "nobody renews it");
        assert_eq!(world.fetch().await.unwrap(), "the value");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(4), "it is renewed when most of its life is over");
    assert_eq!(world.calls("userpass/login"), 2, "nobody was asked again");
    // Over at the server: whatever our clock says.
    world.server.ours().advance(Duration::from_secs(10));
    let error = world.fetch().await.expect_err("it is over");
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert_eq!(error.hint.unwrap(), "sign in with `broker login org`");
    world.answer(&["pass word"]).await.unwrap();
    assert_eq!(world.fetch().await.unwrap(), "the value");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approle_signs_in_alone_once_for_all_and_again_when_its_token_ends() {
    let (world, id) = approle(json!({ "token_policies": "dev", "token_ttl": "10m" }));
    let world = Arc::new(world.with(&[("VAULT_SECRET_ID", &id)]));
    let many = (0..20).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.fetch().await.unwrap() })
    });
    for value in futures_util::future::join_all(many).await {
        assert_eq!(value.unwrap(), "the value");
    }
    assert_eq!(world.calls("approle/login"), 1);
    world.server.ours().advance(Duration::from_secs(601));
    assert_eq!(world.fetch().await.unwrap(), "the value", "a new sign-in replaces it in silence");
    assert_eq!(world.calls("approle/login"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_id_is_said_once_and_never_shown() {
    let (world, _) = approle(json!({ "token_policies": "dev" }));
    let world = world.with(&[("VAULT_SECRET_ID", "canary-secret-id")]);
    let error = world.fetch().await.expect_err("no such secret id");
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert_eq!(error.cause, "HTTP 400: invalid role or secret ID");
    assert!(error.hint.as_ref().unwrap().contains("VAULT_SECRET_ID"));
    assert!(!format!("{error:?}").contains("canary"));
    assert_eq!(world.calls("approle/login"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_secret_id_is_opened_once_and_only_if_it_was_wrapped_where_it_should_be() {
    let (world, _) = approle(json!({ "token_policies": "dev", "secret_id_num_uses": 1 }));
    let good = wrapped(&world.server, "auth/approle/role/dev/secret-id", &json!({}));
    let session = world.answer(&[&good]).await.unwrap();
    assert_eq!(session.who, world.who("approle dev"));
    assert_eq!(world.fetch().await.unwrap(), "the value");
    // It was opened: a second use is refused, which is how an interception shows.
    assert_eq!(world.answer(&[&good]).await.expect_err("used").kind, ErrorKind::Unauthenticated);
    // What somebody wrapped anew elsewhere is not opened.
    let forged = wrapped(&world.server, "sys/wrapping/wrap", &json!({ "secret_id": "x" }));
    let error = world.answer(&[&forged]).await.expect_err("wrapped elsewhere");
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert!(error.cause.contains("`sys/wrapping/wrap`"), "{error}");
    let lookup = json!({ "token": forged });
    assert_eq!(world.server.ask("", "", "POST", "sys/wrapping/lookup", &lookup).0, 200, "it is still closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_token_is_opened_at_login() {
    let world = World::new("token", None);
    let token = wrapped(&world.server, "auth/token/create", &json!({ "policies": ["dev"] }));
    world.answer(&[&token]).await.unwrap();
    assert_eq!(world.fetch().await.unwrap(), "the value");
    assert_eq!(world.answer(&[&token]).await.expect_err("opened before").kind, ErrorKind::Unauthenticated);
}

/// Asks as root for an answer that is wrapped, and returns the token that opens it.
fn wrapped(server: &Server, path: &str, body: &Value) -> String {
    let mut stream = TcpStream::connect(server.ours().address()).unwrap();
    let (root, body) = (server.root(), body.to_string());
    let length = body.len();
    write!(
        stream,
        "POST /v1/{path} HTTP/1.1\r\nx-vault-token: {root}\r\nx-vault-wrap-ttl: 60s\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let answer = broker_tests::http::read_response(&mut std::io::BufReader::new(stream)).unwrap().body_json();
    answer["wrap_info"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_signs_in_and_a_foreign_one_does_not() {
    let world = World::new("jwt", Some("ci"));
    let key = world.server.ours().jwt_key();
    world.server.set("POST", "auth/jwt/config", &json!({ "jwt_validation_pubkeys": [key] }));
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_claims": { "repo": "shop" },
        "token_policies": ["dev"],
    });
    world.server.set("POST", "auth/jwt/role/ci", &role);
    let token = |repo: &str| world.server.ours().jwt(&json!({ "sub": "x", "aud": "vault", "repo": repo }));
    let (good, foreign) = (token("shop"), token("other"));
    let world = world.with(&[("VAULT_JWT", &good)]);
    assert_eq!(world.fetch().await.unwrap(), "the value");
    assert!(matches!(world.begin().await.unwrap(), Prompt::Done { .. }), "it needs nobody");
    let world = world.with(&[("VAULT_JWT", &foreign)]);
    world.registry.forget_all();
    let error = world.fetch().await.expect_err("another repository");
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.cause.contains("does not match any associated bound claim"), "{error}");
}

fn oidc(callback_mode: &str) -> World {
    let world = World::new("oidc", Some("dev"));
    let config = json!({ "oidc_discovery_url": "https://login.example.com", "oidc_client_id": "vault" });
    world.server.set("POST", "auth/oidc/config", &config);
    let role = json!({
        "user_claim": "email", "callback_mode": callback_mode, "poll_interval": 1, "token_policies": ["dev"],
        "allowed_redirect_uris": ["http://localhost:8250/oidc/callback"],
    });
    world.server.set("POST", "auth/oidc/role/dev", &role);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_shown_and_waited_for() {
    // A code needs nothing that lies around, and comes back to nobody: a manifest's address may do it.
    let world = oidc("device").of_manifest();
    let Prompt::Visit { user_code: Some(code), address, first: true, .. } = world.begin().await.unwrap() else {
        panic!("a code is shown");
    };
    assert_eq!(address, "https://login.example.com/device");
    let deadline = tokio::time::Instant::now() + Duration::from_millis(1500);
    assert!(world.registry.sign_ins().wait(&world.way(), deadline).await.unwrap().is_none(), "nobody confirmed it yet");
    world.server.ours().confirm_code(&code, &json!({ "email": "ada@example.com" })).unwrap();
    let (session, new) = world.registry.sign_ins().wait(&world.way(), soon()).await.unwrap().unwrap();
    assert_eq!((session.who.clone(), new), (world.who("oidc dev"), true));
    assert_eq!(world.fetch().await.unwrap(), "the value");
}

fn visit(address: &str) -> String {
    let (authority, path) = address.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = TcpStream::connect(authority.replace("localhost", "127.0.0.1")).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {authority}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_comes_back_to_us_and_nobody_elses_state_counts() {
    let world = oidc("client");
    let Prompt::Visit { user_code: None, address, .. } = world.begin().await.unwrap() else {
        panic!("an address is shown")
    };
    assert!(address.starts_with("https://login.example.com/authorize?"), "{address}");
    let back = world.server.ours().sign_in_at(&address, &json!({ "email": "ada@example.com" })).unwrap().unwrap();
    assert!(back.starts_with("http://localhost:8250/oidc/callback?"), "{back}");
    let foreign = "http://localhost:8250/oidc/callback?code=x&state=st_of_somebody_else";
    for address in [foreign, "http://localhost:8250/", "http://localhost:8250/oidc/callback"] {
        assert!(visit(address).starts_with("HTTP/1.1 404"), "{address}");
    }
    let answer = visit(&back);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("You are signed in"), "{answer}");
    let (session, _) = world.registry.sign_ins().wait(&world.way(), soon()).await.unwrap().unwrap();
    assert_eq!(session.who, world.who("oidc dev"));
    assert_eq!(world.fetch().await.unwrap(), "the value");
    // The port is free again.
    let gone = || TcpStream::connect("127.0.0.1:8250").is_err().then_some(());
    assert!(broker_tests::deadline::within(Duration::from_secs(5), gone).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifests_server_gets_nothing_that_a_browser_brings_back() {
    let world = oidc("client").of_manifest();
    let error = world.begin().await.expect_err("whose sign-in would that be?");
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.hint.is_some_and(|hint| hint.contains("`[providers.org]`") && hint.contains("`config.toml`")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_does_not_allow_our_address_is_told_so() {
    let world = oidc("client");
    let role = json!({ "user_claim": "email", "allowed_redirect_uris": ["https://vault.example.com/ui"] });
    world.server.set("POST", "auth/oidc/role/dev", &role);
    let error = world.begin().await.expect_err("no address is given");
    assert!(error.cause.contains("http://localhost:8250/oidc/callback"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_is_named_by_its_place_and_a_sign_in_goes_before_it() {
    for variable in ["VAULT_TOKEN", "BAO_TOKEN"] {
        let world = World::new("token", None).with(&[(variable, "hvs.stale")]);
        let error = world.fetch().await.expect_err("nobody knows it");
        assert_eq!(error.kind, ErrorKind::Unauthenticated);
        assert_eq!(error.cause, format!("the token in `{variable}` was refused"));
        assert!(error.hint.unwrap().contains("`broker login org`, which goes before it"));
        let root = world.server.root().to_owned();
        world.answer(&[&root]).await.unwrap();
        assert_eq!(world.fetch().await.unwrap(), "the value", "{variable}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_at_a_wrong_place_names_the_address_and_what_to_check() {
    // A Vault without the method, and a server that is none.
    let mut world = World::new("userpass", Some("ada"));
    world.instance.settings.auth_mount = Some("elsewhere".to_owned());
    let none = Serve::start(|_| Message { body: b"<html>nothing here</html>".to_vec(), ..Message::empty(404) });
    let mut stranger = World::new("userpass", Some("ada"));
    stranger.instance.settings.address = Some(none.url());
    for (world, address) in [(&world, world.proxy.url()), (&stranger, none.url())] {
        let error = world.answer(&["pass word"]).await.expect_err("there is nobody");
        assert!(error.cause.contains(&format!("`{address}`")), "{error}");
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("`address`")), "{error:?}");
        assert!(!error.cause.contains("html"), "{error}");
    }
}
