//! The keyrings of the operating system as a provider: a headless GNOME Keyring and the kernel's keyring, both real.
//!
//! Each test runs itself once more inside a session bus, or a session keyring, of its own. It needs `dbus-run-session`,
//! `gnome-keyring-daemon`, `secret-tool` and `keyctl`, so it is built only with the feature `system-keyring`. What it
//! can't show: KWallet and KeePassXC behind the same bus, and a person who answers a prompt.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::contract::{CLAIMS, Fixture, check};
use broker_providers::provider::{ErrorKind, FetchOptions, Fetched, ListOptions, Provider, ProviderError};
use broker_providers::registry::Registry;
use rustix::process::{Pid, Signal, kill_process};
use support::{of_manifest, reference, registry, unique};

const INSIDE: &str = "BROKER_TEST_INSIDE";
const SOON: Duration = Duration::from_secs(20);

/// What a test runs inside of.
const BUS: &[&str] = &["dbus-run-session", "--"];
const KERNEL: &[&str] = &["keyctl", "session", "-"];
/// No bus and no keyring of a session: `keyctl` itself would give one.
const NOTHING: &[&str] = &["env"];

/// Returns true inside of `around`. Outside, runs the test `name` there and returns false when it passed.
fn is_inside(name: &str, around: &[&str]) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(around[0]);
    command.args(&around[1..]).arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    command.env(INSIDE, name).env_remove("DBUS_SESSION_BUS_ADDRESS");
    for name in ["XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env(name, dir.path());
    }
    let output = command.stdin(Stdio::null()).output().expect("the programs of the header are installed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{name}: {said}");
    false
}

/// An unlocked GNOME Keyring, ended with the test.
struct Daemon(Child);

impl Daemon {
    fn start() -> Self {
        let mut command = Command::new("gnome-keyring-daemon");
        command.args(["--foreground", "--unlock", "--components=secrets"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"a password").unwrap();
        let daemon = Self(child);
        // It answers once it has its name on the bus: without one, the search would start another.
        let until = Instant::now() + SOON;
        let has_owner = || {
            let ask =
                ["--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner"];
            let reply = Command::new("dbus-send").args(ask).arg("string:org.freedesktop.secrets").output().unwrap();
            String::from_utf8_lossy(&reply.stdout).contains("boolean true")
        };
        while !has_owner() {
            assert!(Instant::now() < until, "the keyring does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn opened(registry: &Registry, store: Option<&str>) -> Arc<dyn Provider> {
    let settings = InstanceSettings { store: store.map(str::to_owned), ..InstanceSettings::of_kind("keyring") };
    registry.open("keyring", &of_manifest(&settings), &SignIn::default()).unwrap().provider
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + SOON
}

fn text(value: &str) -> SecretValue {
    SecretValue::from(value.to_owned())
}

async fn fetch(provider: &dyn Provider, name: &str, budget: Duration) -> Result<Fetched, ProviderError> {
    let started = Instant::now();
    let result = provider.fetch(&[reference(name)], FetchOptions::within(budget)).await.pop().unwrap();
    assert!(started.elapsed() < budget + Duration::from_millis(500), "{:?}", started.elapsed());
    result
}

async fn failure(provider: &dyn Provider, name: &str, budget: Duration) -> ProviderError {
    fetch(provider, name, budget).await.map(|_| ()).expect_err("it cannot be had")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_service_keeps_the_contract() {
    if !is_inside("the_secret_service_keeps_the_contract", BUS) {
        return;
    }
    let _daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), None);
    check(&Fixture {
        provider,
        instance: "keyring".into(),
        prefix: unique("contract"),
        path: str::to_owned,
        known_wrong: vec![],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyring_of_the_kernel_keeps_the_contract() {
    if !is_inside("the_keyring_of_the_kernel_keeps_the_contract", KERNEL) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Found by itself, since there is no bus.
    let provider = opened(&registry(dir.path()), None);
    check(&Fixture {
        provider,
        instance: "keyring".into(),
        prefix: unique("contract"),
        path: str::to_owned,
        known_wrong: vec![],
    })
    .await;
    // They would stay in the persistent keyring of this user.
    for (claim, _) in CLAIMS {
        Command::new("keyctl").args(["purge", "-p", "user", &format!("keyring:{claim}/")]).output().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyring_of_the_kernel_keeps_bytes_as_they_are_up_to_its_limit() {
    if !is_inside("the_keyring_of_the_kernel_keeps_bytes_as_they_are_up_to_its_limit", KERNEL) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), Some("keyutils"));
    let longest = vec![b'\n'; 32_767];
    for value in [b"value\n".as_slice(), b"\xff\xfe\x00\x80", b"$HOME `id` %s", b"null", &longest] {
        provider.put(&reference("keyring://shop/a"), SecretValue::new(value.to_vec()), soon()).await.unwrap();
        let fetched = fetch(&*provider, "keyring://shop/a", SOON).await.unwrap();
        assert!(fetched.value.expose() == value);
    }
    let error =
        provider.put(&reference("keyring://shop/a"), SecretValue::new(vec![0; 32_768]), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.cause.contains("32767"), "{error}");
    let error = provider.list(ListOptions::default(), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    // The two parts of a name are not mixed up where the kernel joins them.
    provider.put(&reference("keyring://c/a@b"), text("one"), soon()).await.unwrap();
    assert_eq!(failure(&*provider, "keyring://b@c/a", SOON).await.kind, ErrorKind::Unsupported);
    // It is the kernel's, under the name that other programs give it.
    let shown = Command::new("keyctl").args(["search", "@s", "user", "keyring:a@b@c"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    for name in ["keyring://c/a@b", "keyring://shop/a"] {
        provider.delete(&reference(name), soon()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_other_programs_are_read_and_ours_by_them() {
    if !is_inside("items_of_other_programs_are_read_and_ours_by_them", BUS) {
        return;
    }
    let _daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), Some("secret-service"));
    let mut store = Command::new("secret-tool");
    store.args(["store", "--label=theirs", "service", "shop", "username", "theirs"]).stdin(Stdio::piped());
    let mut store = store.spawn().unwrap();
    store.stdin.take().unwrap().write_all(b"from secret-tool\n").unwrap();
    assert!(store.wait().unwrap().success());
    let fetched = fetch(&*provider, "keyring://shop/theirs", SOON).await.unwrap();
    assert_eq!(fetched.value.expose(), b"from secret-tool\n");
    provider.put(&reference("keyring://shop/ours"), text("from broker\n"), soon()).await.unwrap();
    let looked = Command::new("secret-tool").args(["lookup", "service", "shop", "username", "ours"]).output().unwrap();
    assert_eq!(looked.stdout, b"from broker\n");
    let listed = provider.list(ListOptions { prefix: "shop/", tags: &[] }, soon()).await.unwrap();
    let paths: Vec<_> = listed.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["shop/ours", "shop/theirs"]);
    // The same service and account, once more with another attribute: which one is meant nobody knows.
    let mut store = Command::new("secret-tool");
    store.args(["store", "--label=x", "service", "shop", "username", "ours", "application", "x"]).stdin(Stdio::piped());
    let mut store = store.spawn().unwrap();
    store.stdin.take().unwrap().write_all(b"another").unwrap();
    assert!(store.wait().unwrap().success());
    let error = failure(&*provider, "keyring://shop/ours", SOON).await;
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(error.cause.contains("2 items"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_keeps_in_the_keyring_is_neither_read_nor_written_nor_listed() {
    if !is_inside("what_the_broker_keeps_in_the_keyring_is_neither_read_nor_written_nor_listed", BUS) {
        return;
    }
    let _daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let with_keyring = broker_providers::registry::Context {
        data_dir: dir.path().join("data"),
        keyring: true,
        ledger: std::sync::Arc::new(broker_providers::issue::Unkept),
    };
    let registry = Registry::new(with_keyring);
    registry.local().put(&reference("local://a"), text("1"), soon()).await.unwrap();
    let search = || {
        let found = Command::new("secret-tool").args(["search", "--all", "service", "broker"]).output().unwrap();
        let said = [found.stdout, found.stderr].concat();
        String::from_utf8_lossy(&said)
            .lines()
            .find_map(|line| line.strip_prefix("attribute.username = "))
            .map(str::to_owned)
    };
    let account = search().expect("the key of the embedded store is there");
    let provider = opened(&registry, None);
    let key = reference(&format!("keyring://broker/{account}"));
    let denied = [
        provider.fetch(std::slice::from_ref(&key), FetchOptions::within(SOON)).await.pop().unwrap().map(|_| ()),
        provider.put(&key, text("x"), soon()).await.map(|_| ()),
        provider.delete(&key, soon()).await,
    ];
    for result in denied {
        assert_eq!(result.unwrap_err().kind, ErrorKind::Denied);
    }
    for prefix in ["", "broker/", "b"] {
        let listed = provider.list(ListOptions { prefix, tags: &[] }, soon()).await.unwrap();
        assert!(listed.is_empty(), "{listed:?}");
    }
    assert_eq!(search(), Some(account), "it is as it was, and no probe was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_keyring_says_so_and_nothing_goes_elsewhere() {
    if !is_inside("a_locked_keyring_says_so_and_nothing_goes_elsewhere", BUS) {
        return;
    }
    let _daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    opened(&registry, Some("secret-service")).put(&reference("keyring://shop/a"), text("1"), soon()).await.unwrap();
    let lock = ["--session", "--print-reply", "--dest=org.freedesktop.secrets", "/org/freedesktop/secrets"];
    let what = ["org.freedesktop.Secret.Service.Lock", "array:objpath:/org/freedesktop/secrets/collection/login"];
    let locked = Command::new("dbus-send").args(lock).args(what).output().unwrap();
    assert!(locked.status.success(), "{locked:?}");
    for store in [None, Some("secret-service")] {
        let provider = opened(&registry, store);
        let error = failure(&*provider, "keyring://shop/a", Duration::from_secs(5)).await;
        assert!(matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::Unavailable), "{error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains("unlock"), "{error:?}");
        let error = provider.put(&reference("keyring://shop/b"), text("2"), soon()).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unauthenticated | ErrorKind::Unavailable), "{error}");
    }
    let kernel = Command::new("keyctl").args(["search", "@s", "user", "keyring:b@shop"]).output().unwrap();
    assert!(!kernel.status.success(), "it went to the kernel's keyring instead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_hangs_costs_the_deadline_and_few_threads() {
    if !is_inside("a_keyring_that_hangs_costs_the_deadline_and_few_threads", BUS) {
        return;
    }
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), None);
    provider.put(&reference("keyring://shop/a"), text("1"), soon()).await.unwrap();
    daemon.send(Signal::STOP);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { failure(&*provider, "keyring://shop/a", Duration::from_secs(1)).await })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert!(error.cause.contains("did not answer") || error.cause.contains("not answered"), "{error}");
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|thread| {
        let comm = thread.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "keyring")
    });
    let threads = threads.count();
    assert!((1..=4).contains(&threads), "{threads} threads wait");
    // They end with the hanging, and the next request is answered.
    daemon.send(Signal::CONT);
    assert_eq!(fetch(&*provider, "keyring://shop/a", SOON).await.unwrap().value.expose(), b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_was_killed_is_told_within_the_deadline() {
    if !is_inside("a_keyring_that_was_killed_is_told_within_the_deadline", BUS) {
        return;
    }
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), None);
    provider.put(&reference("keyring://shop/a"), text("1"), soon()).await.unwrap();
    // In the middle of a request: it reads nothing any more, and then it is gone.
    daemon.send(Signal::STOP);
    let waiting = {
        let provider = Arc::clone(&provider);
        tokio::spawn(async move { failure(&*provider, "keyring://shop/a", Duration::from_secs(8)).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(daemon);
    // The bus may start another one, which is locked then.
    for error in [waiting.await.unwrap(), failure(&*provider, "keyring://shop/a", Duration::from_secs(8)).await] {
        assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unauthenticated), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_keyring_the_error_says_what_is_missing() {
    if !is_inside("without_any_keyring_the_error_says_what_is_missing", NOTHING) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = failure(&*opened(&registry(dir.path()), Some("secret-service")), "keyring://shop/a", SOON).await;
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("no session bus") && error.hint.is_some(), "{error}");
}

/// Returns the names of all keys that this user can see and that hold `part`.
fn keys_with(part: &str) -> Vec<String> {
    let keys = std::fs::read_to_string("/proc/keys").unwrap();
    keys.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_of_its_own_the_kernel_is_given_nothing_and_the_error_says_why() {
    // What a plain shell and a container have.
    let stand_in = format!("_uid_ses.{}", rustix::process::getuid().as_raw());
    let around = ["keyctl", "session", &stand_in];
    if !is_inside("without_a_session_of_its_own_the_kernel_is_given_nothing_and_the_error_says_why", &around) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let service = unique("nosession");
    let name = format!("keyring://{service}/me");
    let probes = keys_with("keyring:probe-");
    for store in [None, Some("keyutils")] {
        let provider = opened(&registry(dir.path()), store);
        let failed = [
            fetch(&*provider, &name, SOON).await.map(|_| ()),
            provider.put(&reference(&name), text("a value"), soon()).await.map(|_| ()),
            provider.delete(&reference(&name), soon()).await,
        ];
        for result in failed {
            let error = result.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.cause.contains("has no keyring of its own"), "{error}");
            assert!(error.hint.unwrap().contains("keyctl session - "));
        }
    }
    assert_eq!(keys_with(&service), Vec::<String>::new());
    let left: Vec<_> = keys_with("keyring:probe-").into_iter().filter(|key| !probes.contains(key)).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_kernel_that_was_revoked_is_told() {
    let ended: &[&str] = &["keyctl", "session", "-", "sh", "-c", "keyctl revoke @s && exec \"$@\"", "sh"];
    if !is_inside("a_session_of_the_kernel_that_was_revoked_is_told", ended) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let provider = opened(&registry(dir.path()), Some("keyutils"));
    let error = provider.put(&reference("keyring://shop/a"), text("a value"), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.cause.contains("is gone"), "{error}");
}

#[test]
fn an_unknown_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = InstanceSettings { store: Some("wallet".to_owned()), ..InstanceSettings::of_kind("keyring") };
    let error = registry(dir.path()).open("keyring", &of_manifest(&settings), &SignIn::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.hint.unwrap().contains("keyutils"));
}
