//! Tokens of a GitHub App, on a GitHub of our own: narrow, written down before they are used, ended in every case.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::lease::LeaseId;
use broker_core::principal::Tier;
use broker_core::scope::Scope;
use broker_core::secret::{SecretValue, SharedValue};
use broker_core::sign_in::SignIn;
use broker_providers::issue::{Ending, EntryId, Issued, Ledger, LedgerError, Order};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider, ProviderError};
use broker_providers::registry::{Context, Instance, Registry};
use broker_providers::resolve::{ResolveOptions, Run, resolve};
use broker_tests::deadline;
use broker_tests::fakes::github::{App, Github, Limit};
use broker_tests::http::{self, Message};
use broker_tests::proxy::{Fault, Proxy};
use broker_tests::serve::Serve;
use serde_json::{Value, json};
use support::reference;

/// How much longer than its deadline something may seem to take on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
const PERMISSIONS: &[(&str, &str)] = &[("contents", "write"), ("issues", "write")];

/// A ledger that shows what stands in it.
#[derive(Debug, Default)]
struct Book {
    entries: Mutex<HashMap<EntryId, Ending>>,
    /// How many were ever written down.
    written: Mutex<u64>,
    full: bool,
}

impl Ledger for Book {
    fn hold(&self, ending: &Ending) -> Result<EntryId, LedgerError> {
        if self.full {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        let mut written = self.written.lock().unwrap();
        *written += 1;
        self.entries.lock().unwrap().insert(EntryId(*written), ending.clone());
        Ok(EntryId(*written))
    }

    fn strike(&self, entry: EntryId) {
        self.entries.lock().unwrap().remove(&entry);
    }
}

impl Book {
    fn tokens(&self) -> Vec<String> {
        self.entries.lock().unwrap().values().map(|ending| text(&ending.credential)).collect()
    }

    fn written(&self) -> u64 {
        *self.written.lock().unwrap()
    }
}

/// A GitHub with one app at `shop`, and an instance that is fixed to it.
struct World {
    github: Github,
    app: App,
    installation: u64,
    book: Arc<Book>,
    dir: tempfile::TempDir,
    settings: InstanceSettings,
}

impl World {
    fn new() -> Self {
        let github = Github::start();
        let app = github.register("broker-dev", PERMISSIONS);
        let installation = github.install(&app, "shop", &["web", "api"]);
        github.put("shop", "web", "README.md", b"# web\n");
        let settings = InstanceSettings {
            app_id: Some(app.id.to_string()),
            key: Some("local://github-app-key".to_owned()),
            endpoint: Some(github.url()),
            ..InstanceSettings::of_kind("github-app")
        };
        let (book, dir) = (Arc::new(Book::default()), tempfile::tempdir().unwrap());
        Self { github, app, installation, book, dir, settings }
    }

    fn registry(&self) -> Registry {
        let ledger = Arc::clone(&self.book) as Arc<dyn Ledger>;
        Registry::new(Context { data_dir: self.dir.path().join("data"), keyring: false, ledger })
    }

    fn open(&self) -> Arc<dyn Provider> {
        self.registry().open("gh", &Instance::fixed(self.settings.clone()), &SignIn::default()).unwrap().provider
    }

    /// Opens an instance that reaches GitHub through `endpoint`.
    fn open_at(&self, endpoint: &str) -> Arc<dyn Provider> {
        let settings = InstanceSettings { endpoint: Some(endpoint.to_owned()), ..self.settings.clone() };
        self.registry().open("gh", &Instance::fixed(settings), &SignIn::default()).unwrap().provider
    }

    fn order(&self) -> Order {
        order(Some(&self.app.private_key))
    }

    /// Orders one token, within `budget`.
    async fn issue(&self, provider: &Arc<dyn Provider>, of: &str, budget: Duration) -> Result<Issued, ProviderError> {
        provider.issue(&[reference(of)], &self.order(), within(budget)).await.remove(0)
    }

    fn narrow(&self) -> String {
        format!("gh://{}?repositories=web&permissions=contents:read", self.installation)
    }
}

fn order(key: Option<&str>) -> Order {
    let scope = Scope::new(&[7; 32], "shop", "dev", "ada", Tier::Unattended, []);
    let key = key.map(|key| SharedValue::new(SecretValue::from(key.to_owned())));
    Order { lease: LeaseId::from_random([1; 24]), scope: Arc::new(scope), ttl: Duration::from_secs(600), key }
}

fn within(budget: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + budget
}

fn text(value: &SharedValue) -> String {
    String::from_utf8(value.expose().to_vec()).unwrap()
}

const SOON: Duration = Duration::from_secs(5);

/// What a command can do with a token.
fn reads(github: &Github, token: &str, path: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    let headers = [("host", "api.github.com"), ("user-agent", "command"), ("authorization", &authorization)];
    http::call(&github.address(), &format!("GET {path}"), &headers, &Value::Null).status()
}

#[tokio::test]
async fn a_run_gets_a_token_for_what_its_reference_names_and_revoking_ends_it() {
    let world = World::new();
    let provider = world.open();
    let issued = world.issue(&provider, &world.narrow(), SOON).await.unwrap();
    let token = text(&issued.value);
    assert_eq!(reads(&world.github, &token, "/repos/shop/web/contents/README.md"), 200);
    assert_eq!(reads(&world.github, &token, "/repos/shop/api"), 404);

    let credential = &issued.credential;
    let left = credential.expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3500..=3600).contains(&left), "{left}");
    let ending = &credential.revocation.as_ref().unwrap().ending;
    assert_eq!(ending.about.lease, Some(world.order().lease));
    assert!(!ending.about.renewable && ending.about.expires == credential.expires);
    assert_eq!(world.book.tokens(), std::slice::from_ref(&token));
    assert_eq!(world.github.user_agents(), ["broker", "command"]);

    // What the daemon of tomorrow knows is enough: neither the key nor this provider.
    let again = world.registry().open("gh", &ending.about.instance, &SignIn::default()).unwrap().provider;
    again.revoke(ending, within(SOON)).await.unwrap();
    assert!(!world.github.is_alive(&token));
    assert_eq!(reads(&world.github, &token, "/repos/shop/web"), 401);
    again.revoke(ending, within(SOON)).await.expect("it has ended already");
}

#[tokio::test]
async fn an_account_stands_for_the_installation_that_it_has() {
    let world = World::new();
    let provider = world.open();
    let issued = world.issue(&provider, "gh://Shop?permissions=issues:write", SOON).await.unwrap();
    assert!(world.github.is_alive(&text(&issued.value)));
    assert_eq!(world.github.count("GET /users/Shop/installation"), 1);
    let error = world.issue(&provider, "gh://bakery", SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.hint.unwrap().contains("installed there"));
}

#[tokio::test]
async fn an_apps_client_id_and_a_key_in_pkcs_8_do_as_well() {
    let mut world = World::new();
    world.settings.app_id = Some(world.app.client_id.clone());
    let to_pkcs8 = "
import sys
from cryptography.hazmat.primitives import serialization as s
key = s.load_pem_private_key(sys.argv[1].encode(), None)
print(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode())";
    world.app.private_key = broker_tests::python::run(to_pkcs8, &[&world.app.private_key]);
    assert!(world.app.private_key.starts_with("-----BEGIN PRIVATE KEY-----"));
    world.issue(&world.open(), &world.narrow(), SOON).await.unwrap();
}

#[tokio::test]
async fn the_token_is_a_whole_value_and_its_lone_field_and_one_request() {
    let world = World::new();
    world.github.use_long_tokens(true);
    let registry = world.registry();
    let instance = Instance::fixed(world.settings.clone());
    let references = [world.narrow(), world.narrow().replace('?', "#token?")].map(|text| reference(&text));
    let open = |name: &str| registry.open(name, &instance, &SignIn::default());
    let key = world.order().key.unwrap();
    let run = Run { order: order(None), keys: HashMap::from([("gh".to_owned(), key)]) };
    let options = ResolveOptions { run: Some(&run), ..ResolveOptions::default() };
    let resolved = resolve(&references, options, open).await;
    let tokens: Vec<_> = resolved.iter().map(|resolved| text(&resolved.as_ref().unwrap().value)).collect();
    assert_eq!(tokens[0], tokens[1]);
    assert!(tokens[0].len() > 400 && world.github.alive_tokens() == tokens[..1]);
    assert!(resolved[0].as_ref().unwrap().credential.is_some());

    let without = resolve(&references[..1], ResolveOptions::default(), open).await.remove(0).unwrap_err();
    assert_eq!(without.kind, ErrorKind::Unsupported, "{without}");
    assert_eq!(world.github.issued_tokens().len(), 1);
}

#[tokio::test]
async fn what_github_refuses_is_said_in_its_words_and_with_a_way_out() {
    let mut world = World::new();
    let stranger = world.github.register("stranger", PERMISSIONS);
    let suspended = world.github.install(&world.app, "bakery", &["oven"]);
    world.github.suspend(suspended, true);
    let at = world.installation;
    for (of, kind, words, hint) in [
        (
            format!("gh://{at}?permissions=administration:write"),
            ErrorKind::Denied,
            "HTTP 422, The permissions requested are not granted to this installation.",
            "grant them in the app's settings",
        ),
        (
            format!("gh://{at}?repositories=web,secret"),
            ErrorKind::Denied,
            "HTTP 422, There is at least one repository that does not exist",
            "select them in the installation's settings",
        ),
        ("gh://7".to_owned(), ErrorKind::NotFound, "HTTP 404, Not Found", "the account's name instead"),
        (format!("gh://{suspended}"), ErrorKind::Denied, "HTTP 403, This installation has been suspended", "an owner"),
        (format!("gh://{at}?version=1"), ErrorKind::Unsupported, "a token has no versions", ""),
    ] {
        let error = world.issue(&world.open(), &of, SOON).await.unwrap_err();
        assert_eq!(error.kind, kind, "{of}: {error}");
        assert!(error.cause.contains(words), "{of}: {error}");
        assert!(error.hint.unwrap_or_default().contains(hint), "{of}");
    }
    for (key, words, hint) in [
        (
            Some(stranger.private_key.as_str()),
            "HTTP 401, A JSON web token could not be decoded",
            "`key` is a private key of",
        ),
        (Some("no key at all"), "is no RSA key as GitHub hands it out", "`key` is the reference"),
        (None, "the private key of the app is not there", "`key` is the reference"),
    ] {
        let orders = order(key);
        let error =
            world.open().issue(&[reference(&world.narrow())], &orders, within(SOON)).await.remove(0).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains(words) && error.hint.as_ref().unwrap().contains(hint), "{error} {:?}", error.hint);
        assert!(key.is_none_or(|key| !format!("{error:?}").contains(&key[..12])), "{error:?}");
    }
    world.settings.app_id = Some("1".to_owned());
    let error = world.issue(&world.open(), &world.narrow(), SOON).await.unwrap_err();
    assert!(
        error.cause.contains("Integration not found") && error.hint.unwrap().contains("`app-id`"),
        "{}",
        error.cause
    );
    assert!(world.github.issued_tokens().is_empty());
}

#[tokio::test]
async fn a_clock_that_is_off_is_spoken_of() {
    let world = World::new();
    world.github.advance(Duration::from_secs(650));
    let error = world.issue(&world.open(), &world.narrow(), SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(
        error.cause.contains("the clock of this machine is 6") && error.cause.contains("s behind GitHub's"),
        "{error}"
    );
    assert_eq!(error.hint.as_deref(), Some("set the clock of this machine"));
}

#[tokio::test]
async fn a_token_that_cannot_be_written_down_is_revoked_and_handed_to_nobody() {
    let mut world = World::new();
    world.book = Arc::new(Book { full: true, ..Book::default() });
    let error = world.issue(&world.open(), &world.narrow(), SOON).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.cause.contains("cannot be kept"), "{error}");
    assert_eq!((world.github.issued_tokens().len(), world.github.alive_tokens().len()), (1, 0));
}

/// A GitHub that answers every order with this, and the tokens that it was asked to revoke.
fn answering(body: Value) -> (Serve, Arc<Mutex<Vec<String>>>) {
    let revoked = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&revoked);
    let serve = Serve::start(move |request| match request.method() {
        "POST" => Message::json(201, &body),
        _ => {
            let shown = request.header("authorization").unwrap_or_default();
            own.lock().unwrap().push(shown.to_owned());
            Message::empty(204)
        }
    });
    (serve, revoked)
}

#[tokio::test]
async fn a_token_that_is_more_than_was_asked_for_is_revoked_and_handed_to_nobody() {
    let world = World::new();
    let end = "2099-01-01T00:00:00Z";
    let web = json!([{ "name": "web" }]);
    for (what, body) in [
        ("a permission more", json!({ "permissions": { "contents": "read", "issues": "read" }, "repositories": web })),
        ("a higher level", json!({ "permissions": { "contents": "write" }, "repositories": web })),
        (
            "a repository more",
            json!({ "permissions": { "contents": "read" }, "repositories": [{ "name": "web" }, { "name": "api" }] }),
        ),
        ("all repositories", json!({ "permissions": { "contents": "read" }, "repository_selection": "all" })),
        ("nothing said", json!({})),
        ("nothing readable", json!({ "permissions": 7, "repositories": web })),
    ] {
        let mut body = body;
        body["token"] = json!("ghs_canary");
        body["expires_at"] = json!(end);
        let (serve, revoked) = answering(body);
        let error = world.issue(&world.open_at(&serve.url()), &world.narrow(), SOON).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Malformed, "{what}: {error}");
        assert!(!format!("{error:?}").contains("canary"), "{what}: {error:?}");
        assert_eq!(*revoked.lock().unwrap(), ["Bearer ghs_canary"], "{what}");
        assert!(world.book.tokens().is_empty(), "{what}");
    }
    assert_eq!(world.book.written(), 6, "each was written down before anything else");
    let (serve, _) = answering(json!({ "token": "ghs_canary", "expires_at": end, "repositories": web,
        "permissions": { "contents": "read", "metadata": "read" } }));
    world.issue(&world.open_at(&serve.url()), &world.narrow(), SOON).await.expect("it is what was asked for");
}

#[tokio::test]
async fn what_surely_made_no_token_is_sent_again_and_nothing_else() {
    let world = World::new();
    for (fault, kind, sent) in [
        (Fault::Answer(500, "{}".to_owned()), ErrorKind::Unavailable, 4),
        (Fault::Answer(503, "busy".to_owned()), ErrorKind::Unavailable, 4),
        (
            Fault::AnswerWith(429, vec![("retry-after".to_owned(), "0".to_owned())], "{}".to_owned()),
            ErrorKind::Throttled,
            4,
        ),
        (Fault::Answer(502, "bad gateway".to_owned()), ErrorKind::Unavailable, 1),
        (Fault::Answer(504, "no answer".to_owned()), ErrorKind::Unavailable, 1),
        (Fault::Reset, ErrorKind::Unavailable, 1),
        (Fault::CutAfter(40), ErrorKind::Unavailable, 1),
        (Fault::Answer(201, "{".to_owned()), ErrorKind::Malformed, 1),
        (Fault::Answer(201, r#"{"token":""}"#.to_owned()), ErrorKind::Malformed, 1),
        (Fault::Answer(307, String::new()), ErrorKind::Malformed, 1),
    ] {
        let proxy = Proxy::new(&world.github.address());
        proxy.fail_all(fault.clone());
        let error = world.issue(&world.open_at(&proxy.url()), &world.narrow(), SOON).await.unwrap_err();
        assert_eq!((error.kind, proxy.call_count()), (kind, sent), "{fault:?}: {error}");
    }
    let mut proxy = Proxy::new(&world.github.address());
    let provider = world.open_at(&proxy.url());
    proxy.refuse();
    let error = world.issue(&provider, &world.narrow(), SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.starts_with("no connection to"), "{error}");
    proxy.heal();
    assert!(world.issue(&provider, &world.narrow(), SOON).await.is_ok());
}

#[tokio::test]
async fn a_limit_is_patience_for_as_long_as_github_says() {
    let world = World::new();
    let provider = world.open();
    world.github.set_limit(Some(Limit::Secondary(Duration::from_secs(60))));
    let started = Instant::now();
    let error = world.issue(&provider, &world.narrow(), SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Throttled, "{error}");
    assert_eq!(error.retry, broker_providers::provider::Retry::After(Duration::from_secs(60)));
    world.github.set_limit(Some(Limit::Primary(0)));
    let error = world.issue(&provider, &world.narrow(), SOON).await.unwrap_err();
    let broker_providers::provider::Retry::After(wait) = error.retry else { panic!("{error:?}") };
    assert!((3500..=3600).contains(&wait.as_secs()), "{wait:?}");
    assert!(started.elapsed() < SOON, "nobody waits for it");
}

#[tokio::test]
async fn nobody_waits_beyond_the_deadline_and_a_token_that_comes_later_is_revoked() {
    let world = World::new();
    let proxy = Proxy::new(&world.github.address());
    proxy.fail_holding("POST", Fault::FirstByteAfter(Duration::from_secs(2)));
    let budget = Duration::from_secs(1);
    let started = Instant::now();
    let error = world.issue(&world.open_at(&proxy.url()), &world.narrow(), budget).await.unwrap_err();
    assert!(
        error.kind == ErrorKind::Unavailable && started.elapsed() < budget + SLACK,
        "{error} {:?}",
        started.elapsed()
    );
    let (github, book) = (world.github, world.book);
    let look = move || {
        deadline::until_true("the late token is revoked", || {
            github.issued_tokens().len() == 1 && github.alive_tokens().is_empty() && book.tokens().is_empty()
        });
        book.written()
    };
    assert_eq!(tokio::task::spawn_blocking(look).await.unwrap(), 1);
}

#[tokio::test]
async fn an_order_that_nobody_waits_for_any_more_leaves_no_token() {
    let world = World::new();
    let proxy = Proxy::new(&world.github.address());
    proxy.set_latency(Duration::from_millis(300));
    let provider = world.open_at(&proxy.url());
    let left = tokio::time::timeout(Duration::from_millis(100), world.issue(&provider, &world.narrow(), SOON)).await;
    assert!(left.is_err());
    let (github, book) = (world.github, world.book);
    let look = move || {
        deadline::until_true("the token of nobody is revoked", || {
            github.issued_tokens().len() == 1 && github.alive_tokens().is_empty() && book.tokens().is_empty()
        });
    };
    tokio::task::spawn_blocking(look).await.unwrap();
}

#[tokio::test]
async fn a_token_that_cannot_be_revoked_now_is_said_to_be_alive() {
    let world = World::new();
    let proxy = Proxy::new(&world.github.address());
    let provider = world.open_at(&proxy.url());
    let issued = world.issue(&provider, &world.narrow(), SOON).await.unwrap();
    let ending = &issued.credential.revocation.as_ref().unwrap().ending;
    proxy.fail_all(Fault::Answer(503, "busy".to_owned()));
    let error = provider.revoke(ending, within(Duration::from_secs(2))).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.reference.is_some(), "{error}");
    assert!(!format!("{error:?} {ending:?} {provider:?}").contains(&text(&issued.value)));
    assert!(world.github.is_alive(&text(&issued.value)));
    let renewed = provider.renew(ending, SOON, within(SOON)).await;
    assert_eq!(renewed.unwrap_err().kind, ErrorKind::Unsupported, "GitHub prolongs nothing");
}

#[tokio::test]
async fn nothing_is_stored_here() {
    let world = World::new();
    let (provider, one) = (world.open(), reference("gh://shop"));
    let fetched = provider.fetch(std::slice::from_ref(&one), FetchOptions::within(SOON)).await.remove(0);
    assert_eq!(fetched.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.list(ListOptions::default(), within(SOON)).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.describe(&one, within(SOON)).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(provider.delete(&one, within(SOON)).await.unwrap_err().kind, ErrorKind::Unsupported);
    let put = provider.put(&one, SecretValue::from("x".to_owned()), within(SOON)).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::Unsupported);
    assert!(world.github.requests().is_empty());
}

#[tokio::test]
async fn a_manifest_sends_what_the_app_signs_to_github_only() {
    let world = World::new();
    let foreign = Instance::of_manifest(world.settings.clone());
    let error = world.registry().open("gh", &foreign, &SignIn::default()).unwrap_err();
    assert!(error.cause.contains("to another `endpoint`") && error.hint.unwrap().contains("your own configuration"));
    let own = InstanceSettings { endpoint: None, ..world.settings.clone() };
    assert!(world.registry().open("gh", &Instance::of_manifest(own), &SignIn::default()).is_ok());
}
