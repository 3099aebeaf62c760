//! The programs of `deploy/exec` and of the documentation, as they are shipped: `pass` against the real one with a key of
//! its own, `op` against a stand-in that lists what it can't show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use broker_core::instance::{InstanceSettings, Words};
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::contract::{Fixture, check};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions};
use broker_providers::registry::Instance;
use support::program::{opened, pinned, written};
use support::{reference, registry, signed_in, unique};

const SOON: Duration = Duration::from_secs(30);

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + SOON
}

/// Returns the shipped program `name`, copied to where nobody else can write.
fn shipped(dir: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/exec").join(name);
    written(dir, name, &fs::read_to_string(source).unwrap())
}

fn with_environment(settings: InstanceSettings, environment: &[&str]) -> InstanceSettings {
    let words = environment.iter().map(|word| (*word).to_owned()).collect();
    InstanceSettings { environment: Some(Words::Many(words)), timeout: Some("60s".to_owned()), ..settings }
}

/// A password store with a key of its own, which no passphrase protects.
struct PasswordStore {
    dir: tempfile::TempDir,
}

impl PasswordStore {
    fn new() -> Self {
        let store = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(store.gnupg()).unwrap();
        fs::set_permissions(store.gnupg(), fs::Permissions::from_mode(0o700)).unwrap();
        let key = ["--batch", "--passphrase", "", "--quick-generate-key", "broker test", "default", "default", "never"];
        store.run("gpg", &key);
        store.run("pass", &["init", "broker test"]);
        store
    }

    fn gnupg(&self) -> PathBuf {
        self.dir.path().join("gnupg")
    }

    fn environment(&self) -> [String; 2] {
        let store = self.dir.path().join("store");
        [format!("GNUPGHOME={}", self.gnupg().display()), format!("PASSWORD_STORE_DIR={}", store.display())]
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path());
        command.envs(self.environment().iter().filter_map(|variable| variable.split_once('=')));
        let output = command.output().unwrap_or_else(|error| {
            panic!("`{program}` is needed here (apt-get install pass gnupg; `cargo xtask test` does so): {error}")
        });
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn settings(&self, arguments: &[&str]) -> InstanceSettings {
        let environment = self.environment();
        let environment: Vec<_> = environment.iter().map(String::as_str).collect();
        with_environment(pinned(&shipped(self.dir.path(), "pass"), arguments), &environment)
    }
}

impl Drop for PasswordStore {
    fn drop(&mut self) {
        // gpg has started it, and it outlives everything else.
        let home = self.gnupg();
        let mut command = Command::new("gpgconf");
        let _ = command.args(["--kill", "gpg-agent"]).env("GNUPGHOME", home).stdin(Stdio::null()).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_pass_keeps_the_contract() {
    let store = PasswordStore::new();
    let provider = opened(&registry(store.dir.path()), "pass", &store.settings(&[]));
    check(&Fixture {
        provider,
        instance: "pass".into(),
        prefix: unique("contract"),
        path: str::to_owned,
        known_wrong: vec![],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_pass_reads_what_pass_wrote_and_nothing_beside_the_store() {
    let store = PasswordStore::new();
    let provider = opened(&registry(store.dir.path()), "pass", &store.settings(&["team/"]));
    let put = |name: &str, value: &str| {
        let (secret, value) = (reference(&format!("pass://{name}")), SecretValue::from(value.to_owned()));
        let provider = &provider;
        async move { provider.put(&secret, value, soon()).await.map(|_| ()) }
    };
    put("team/db", "line one\nline two\n").await.unwrap();
    assert_eq!(store.run("pass", &["show", "team/db"]), b"line one\nline two\n");
    store.run("pass", &["generate", "team/made", "24"]);
    let made = store.run("pass", &["show", "team/made"]);
    store.run("pass", &["generate", "private/bank", "24"]);

    let asked =
        ["team/made", "team", "team/", "team/../private/bank", "private/bank", "team//db", "team/-x", "team/db.gpg"];
    let references = asked.map(|name| reference(&format!("pass://{name}")));
    let results = provider.fetch(&references, FetchOptions::within(SOON)).await;
    assert_eq!(results[0].as_ref().unwrap().value.expose(), made);
    let kinds: Vec<_> = results[1..].iter().map(|result| result.as_ref().unwrap_err().kind).collect();
    let (denied, unsupported) = (ErrorKind::Denied, ErrorKind::Unsupported);
    assert_eq!(kinds, [denied, unsupported, unsupported, denied, unsupported, unsupported, unsupported]);
    for name in ["private/new", "team/../new"] {
        put(name, "x").await.unwrap_err();
    }
    let listed = provider.list(ListOptions::default(), soon()).await.unwrap();
    assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["team/db", "team/made"]);
    // Without its key, the entry is there and cannot be had.
    fs::remove_dir_all(store.gnupg().join("private-keys-v1.d")).unwrap();
    let error =
        provider.fetch(&[reference("pass://team/db")], FetchOptions::within(SOON)).await.pop().unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
}

/// A directory with the stand-in for `op`.
fn fake_op(dir: &Path) -> String {
    written(dir, "op", include_str!("programs/fake_op.py"));
    let vaults = serde_json::json!({
        "Engineering": {"db": {"password": "p\u{e4}ss\n$HOME", "url": "postgres://x"}, "limited": {}},
        "Private": {"bank": {"pin": "1234"}},
    });
    fs::write(dir.join("op.json"), vaults.to_string()).unwrap();
    format!("PATH={}:/usr/bin:/bin", dir.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_op_reads_secret_references_and_sorts_failures() {
    let dir = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let path = fake_op(bin.path());
    let program = shipped(dir.path(), "op");
    let settings = with_environment(pinned(&program, &["Engineering"]), &[&path, "OP_SERVICE_ACCOUNT_TOKEN"]);
    let settings = InstanceSettings { ttl: Some("0".into()), negative_ttl: Some("0".into()), ..settings };
    let open = |sign_in: &SignIn| {
        registry(dir.path()).open("op", &Instance::fixed(settings.clone()), sign_in).unwrap().provider
    };
    let signed_in = open(&signed_in(&[("OP_SERVICE_ACCOUNT_TOKEN", "ops_canary")]));
    let names = [
        "Engineering/db/password",
        "Engineering/db/nothing",
        "Engineering/nothing/password",
        "Engineering/limited/x",
        "Private/bank/pin",
        "Engineering/db/url",
        "Engineering/a/b/c/d",
    ];
    let references = names.map(|name| reference(&format!("op://{name}")));
    let results = signed_in.fetch(&references, FetchOptions::within(SOON)).await;
    assert_eq!(results[0].as_ref().unwrap().value.expose(), "p\u{e4}ss\n$HOME".as_bytes());
    assert_eq!(results[5].as_ref().unwrap().value.expose(), b"postgres://x");
    let kind = |at: usize| results[at].as_ref().unwrap_err().kind;
    assert_eq!([kind(1), kind(2)], [ErrorKind::NotFound; 2]);
    assert_eq!([kind(3), kind(4), kind(6)], [ErrorKind::Throttled, ErrorKind::Denied, ErrorKind::Unsupported]);
    let calls = fs::read_to_string(bin.path().join("op-calls")).unwrap();
    assert_eq!(calls.lines().count(), 6, "a vault that is not named is not asked for");
    assert!(calls.lines().all(|call| call.starts_with("read\0--no-newline\0op://Engineering/")), "{calls}");

    // Without the caller's token nobody is signed in: nothing of the first caller is left.
    let error =
        open(&SignIn::default()).fetch(&references[..1], FetchOptions::within(SOON)).await.pop().unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
    assert!(error.hint.unwrap().contains("OP_SERVICE_ACCOUNT_TOKEN"));
    let put = signed_in.put(&references[0], SecretValue::from("x".to_owned()), soon()).await.unwrap_err();
    assert_eq!(put.kind, ErrorKind::Unsupported, "{put}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tool_is_said_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["op", "pass"] {
        let program = shipped(dir.path(), name);
        let store = dir.path().join("store");
        fs::create_dir_all(store.join("a/b")).unwrap();
        fs::write(store.join("a/b/c.gpg"), "").unwrap();
        let place = format!("PASSWORD_STORE_DIR={}", store.display());
        let settings = with_environment(pinned(&program, &[]), &["PATH=/nonexistent", &place]);
        let provider = opened(&registry(dir.path()), name, &settings);
        let asked = [reference(&format!("{name}://a/b/c"))];
        let error = provider.fetch(&asked, FetchOptions::within(SOON)).await.pop().unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.cause.contains(&format!("`{name}` is not on the PATH")), "{error}");
    }
}

/// Returns the blocks of `language` in the documentation.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers/exec.md")).unwrap();
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

// "a program of ten lines is a provider"
#[tokio::test(flavor = "multi_thread")]
async fn the_program_in_the_documentation_is_a_provider() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), "my-tool", "#!/bin/sh\n[ \"$1 $2\" = 'get db' ] && printf 'value\\n' || exit 1\n");
    let program = written(dir.path(), "program", &blocks("python")[0]);
    let path = format!("PATH={}:/usr/bin:/bin", dir.path().display());
    let provider = opened(&registry(dir.path()), "my", &with_environment(pinned(&program, &[]), &[&path]));
    let results = provider.fetch(&[reference("my://db"), reference("my://no")], FetchOptions::within(SOON)).await;
    assert_eq!(results[0].as_ref().unwrap().value.expose(), b"value\n");
    assert_eq!(results[1].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    let error = provider.list(ListOptions::default(), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}
