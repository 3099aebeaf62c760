//! The embedded store at rest: sealed, private, and whole after whatever happened to its writer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use broker_core::generate::Generate;
use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_providers::local::{KeySource, StoreState};
use broker_providers::provider::{ErrorKind, FetchOptions, Provider as _};
use broker_providers::registry::{Context, Registry};
use support::{of_manifest, reference, registry};
use tokio::time::Instant;

const CANARY: &str = "canary-9f31c7";

fn text(words: &str) -> SecretValue {
    SecretValue::from(words.to_owned())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn store(dir: &Path) -> Registry {
    let registry = registry(dir);
    registry.local().create(Some(text("passphrase"))).await.unwrap();
    registry
}

async fn read(registry: &Registry, name: &str) -> Result<String, ErrorKind> {
    let results = registry.local().fetch(&[reference(name)], FetchOptions::within(Duration::from_secs(20))).await;
    let fetched = results.into_iter().next().unwrap().map_err(|error| error.kind)?;
    Ok(String::from_utf8(fetched.value.expose().to_vec()).unwrap())
}

#[tokio::test]
async fn a_store_is_absent_then_locked_then_unlocked_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let first = registry(dir.path());
    let local = first.local();
    assert_eq!((local.state(), local.key_source()), (StoreState::Absent, None));
    assert_eq!(read(&first, "local://a").await, Err(ErrorKind::NotCreated));
    assert_eq!(local.unlock(text("x")).await.unwrap_err().kind, ErrorKind::NotCreated);
    let put = local.put(&reference("local://a"), text("1"), soon()).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::NotCreated, "no keyring may be used here");
    assert!(!dir.path().join("data").exists(), "asking leaves nothing behind");

    local.create(Some(text("passphrase"))).await.unwrap();
    assert_eq!((local.state(), local.key_source()), (StoreState::Unlocked, Some(KeySource::Passphrase)));
    local.put(&reference("local://a"), text("1"), soon()).await.unwrap();
    assert_eq!(local.create(Some(text("other"))).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(read(&first, "local://a").await.as_deref(), Ok("1"));

    first.forget_all();
    assert_eq!(local.state(), StoreState::Locked);
    assert_eq!(read(&first, "local://a").await, Err(ErrorKind::Locked));
    assert_eq!(local.delete(&reference("local://a"), soon()).await.unwrap_err().kind, ErrorKind::Locked);
    local.unlock(text("passphrase")).await.unwrap();
    assert_eq!(read(&first, "local://a").await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn a_wrong_passphrase_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path()).await;
    first.local().put(&reference("local://a"), text("1"), soon()).await.unwrap();
    drop(first);
    let files = || ["store.key", "store.redb"].map(|name| fs::read(dir.path().join("data").join(name)).unwrap());
    let before = files();
    let second = registry(dir.path());
    for wrong in ["", "Passphrase", "passphrase ", "passphrase\n"] {
        let error = second.local().unlock(text(wrong)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unauthenticated, "{error}");
        assert!(error.cause.contains("passphrase is wrong"), "{error}");
    }
    assert!(before == files(), "not a byte changed");
    assert_eq!(second.local().state(), StoreState::Locked);
    second.local().unlock(text("passphrase")).await.unwrap();
    assert_eq!(read(&second, "local://a").await.as_deref(), Ok("1"));
}

#[tokio::test]
async fn an_empty_passphrase_makes_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    assert_eq!(registry.local().create(Some(text(""))).await.unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(registry.local().state(), StoreState::Absent);
}

#[tokio::test]
async fn neither_values_nor_names_nor_the_passphrase_can_be_read_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    registry.local().create(Some(text(&format!("{CANARY}-passphrase")))).await.unwrap();
    let name = format!("local://{CANARY}-name/deep");
    for round in 0..20 {
        registry.local().put(&reference(&name), text(&format!("{CANARY}-value-{round}")), soon()).await.unwrap();
    }
    registry.local().delete(&reference(&name), soon()).await.unwrap();
    registry.local().put(&reference(&name), text(&format!("{CANARY}-again")), soon()).await.unwrap();
    drop(registry);
    let data = dir.path().join("data");
    let mut seen = 0;
    for file in fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        let bytes = fs::read(file.path()).unwrap();
        seen += bytes.len();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{:?}", file.path());
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    assert!(seen > 1000, "there was something to look at");
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn loose_modes_are_tightened_and_links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(store(dir.path()).await);
    fs::set_permissions(data.join("store.key"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(data.join("store.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    let second = registry(dir.path());
    second.local().unlock(text("passphrase")).await.unwrap();
    for name in ["store.key", "store.redb"] {
        assert_eq!(fs::metadata(data.join(name)).unwrap().mode() & 0o777, 0o600);
    }
    drop(second);
    fs::rename(data.join("store.redb"), data.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(data.join("elsewhere"), data.join("store.redb")).unwrap();
    let error = registry(dir.path()).local().unlock(text("passphrase")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_changed_byte_of_the_key_file_is_noticed_and_says_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path()).await);
    let file = dir.path().join("data/store.key");
    let whole = fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("\"memory-kib\": 65536", "\"memory-kib\": 4294967295"),
        ("\"memory-kib\": 65536", "\"memory-kib\": 1024"),
        ("\"passes\": 3", "\"passes\": 4000000000"),
        ("\"format\": 1", "\"format\": 2"),
        ("\"id\": \"", "\"id\": \"0"),
        ("{", ""),
    ] {
        let changed = whole.replacen(from, to, 1);
        assert_ne!(changed, whole, "{from}");
        fs::write(&file, changed).unwrap();
        let error = registry(dir.path()).local().unlock(text("passphrase")).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Malformed | ErrorKind::Unauthenticated), "{from}: {error}");
    }
    fs::write(&file, whole).unwrap();
    registry(dir.path()).local().unlock(text("passphrase")).await.unwrap();
}

#[tokio::test]
async fn a_database_without_its_key_is_not_hidden_by_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path()).await);
    fs::remove_file(dir.path().join("data/store.key")).unwrap();
    let second = registry(dir.path());
    assert_eq!(second.local().state(), StoreState::Absent);
    let error = second.local().create(Some(text("new"))).await.unwrap_err();
    assert!(error.cause.contains("`store.redb` without its `store.key`"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_taken_away_under_us_is_absent_and_no_write_is_lost_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = store(dir.path()).await;
    registry.local().put(&reference("local://a"), text("1"), soon()).await.unwrap();
    fs::remove_dir_all(dir.path().join("data")).unwrap();
    assert_eq!(registry.local().state(), StoreState::Absent);
    let put = registry.local().put(&reference("local://a"), text("2"), soon()).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::NotCreated);
    registry.local().create(Some(text("another"))).await.unwrap();
    assert_eq!(read(&registry, "local://a").await, Err(ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_race_to_generate_get_the_same_value() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(store(dir.path()).await);
    let secret = reference("local://shop/session-key");
    let racing: Vec<_> = (0..50)
        .map(|_| {
            let (registry, secret) = (Arc::clone(&registry), secret.clone());
            tokio::spawn(async move {
                let made = registry.local().generate(&secret, Generate::Hex(32)).await.unwrap();
                (made.value.expose().to_vec(), made.version)
            })
        })
        .collect();
    let mut values = Vec::new();
    for task in racing {
        values.push(task.await.unwrap());
    }
    assert_eq!(values[0].0.len(), 64);
    assert!(values.iter().all(|value| *value == values[0]));
    assert_eq!(values[0].1.as_deref(), Some("1"), "it was written once");
    let other = registry.local().generate(&reference("local://other"), Generate::Hex(32)).await.unwrap();
    assert_ne!(other.value.expose(), values[0].0);
}

#[tokio::test]
async fn what_is_written_is_read_at_once_through_every_instance() {
    let dir = tempfile::tempdir().unwrap();
    let registry = store(dir.path()).await;
    let settings = InstanceSettings::of_kind("local");
    let open = |name| registry.open(name, &of_manifest(&settings), &support::root()).unwrap().provider;
    let (local, mine) = (open("local"), open("mine"));
    for round in 0..3 {
        mine.put(&reference("mine://a"), text(&round.to_string()), soon()).await.unwrap();
        let fetched = local.fetch(&[reference("local://a")], FetchOptions::within(Duration::from_secs(5))).await;
        assert_eq!(fetched[0].as_ref().unwrap().value.expose(), round.to_string().as_bytes());
    }
    let gone = mine.fetch(&[reference("mine://gone")], FetchOptions::within(Duration::from_secs(5))).await;
    assert_eq!(gone[0].as_ref().unwrap_err().instance, "mine");
}

#[tokio::test]
async fn old_versions_go_and_numbers_only_rise() {
    let dir = tempfile::tempdir().unwrap();
    let registry = store(dir.path()).await;
    for version in 1..=8 {
        let put = registry.local().put(&reference("local://a"), text(&format!("v{version}")), soon()).await;
        assert_eq!(put.unwrap(), Some(version.to_string()));
    }
    assert_eq!(read(&registry, "local://a?stage=previous").await.as_deref(), Ok("v7"));
    assert_eq!(read(&registry, "local://a?version=4").await.as_deref(), Ok("v4"));
    for gone in ["3", "9", "0", "x", "-1"] {
        assert_eq!(read(&registry, &format!("local://a?version={gone}")).await, Err(ErrorKind::NotFound), "{gone}");
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let registry = store(dir.path()).await;
    let large = SecretValue::new(vec![b'x'; (1 << 20) + 1]);
    let error = registry.local().put(&reference("local://a"), large, soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.cause.contains("1048577 bytes"), "{error}");
}

#[tokio::test]
async fn a_second_process_on_the_same_store_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _first = store(dir.path()).await;
    let error = registry(dir.path()).local().unlock(text("passphrase")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.cause.contains("open") || error.cause.contains("lock"), "{error}");
}

/// The writer that the next test kills: writes rising numbers and says each one that was acknowledged.
async fn write_until_killed(dir: &Path) {
    use std::io::Write as _;
    let registry = registry(dir);
    registry.local().unlock(text("passphrase")).await.unwrap();
    let start: u64 = std::env::var("BROKER_TEST_START").unwrap().parse().unwrap();
    for number in start.. {
        for name in ["a", "b"] {
            let value = text(&format!("{number} {}", "x".repeat((number as usize * 37) % 9000)));
            registry.local().put(&reference(&format!("local://{name}")), value, soon()).await.unwrap();
        }
        let mut out = std::io::stderr().lock();
        writeln!(out, "ack {number}").unwrap();
    }
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_that_was_acknowledged() {
    if let Some(dir) = std::env::var_os("BROKER_TEST_WRITER") {
        return write_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path()).await);
    let mut acknowledged = 0_u64;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_writer_loses_nothing_that_was_acknowledged", "--nocapture", "--test-threads=1"])
            .env("BROKER_TEST_WRITER", dir.path())
            .env("BROKER_TEST_START", (acknowledged + 1).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut acks = 0;
        for line in said.lines() {
            let line = line.unwrap();
            let Some(number) = line.strip_prefix("ack ") else { continue };
            acknowledged = number.parse().unwrap();
            acks += 1;
            // After a different number of writes each time, and without a pause: in the middle of one.
            if acks == 3 + round * 2 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acks > 0, "the writer wrote");
        let registry = registry(dir.path());
        registry.local().unlock(text("passphrase")).await.unwrap();
        let number = |value: String| value.split(' ').next().unwrap().parse::<u64>().unwrap();
        let (a, b) = (read(&registry, "local://a").await.unwrap(), read(&registry, "local://b").await.unwrap());
        let (a, b) = (number(a), number(b));
        assert!(b >= acknowledged && a >= b && a <= acknowledged + 1, "a={a} b={b} acknowledged={acknowledged}");
        acknowledged = b.max(acknowledged);
    }
}

#[tokio::test]
async fn a_torn_write_leaves_the_state_before_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = store(dir.path()).await;
    let put = async |value: &str| {
        registry.local().put(&reference("local://a"), text(value), soon()).await.unwrap();
        registry.local().put(&reference("local://kept"), text("kept"), soon()).await.unwrap();
    };
    for round in 0..30 {
        put(&format!("warm {round}")).await;
    }
    registry.local().put(&reference("local://a"), text("before"), soon()).await.unwrap();
    let database = dir.path().join("data/store.redb");
    // Copies of the open file: what a machine that loses its power would find, had everything been written.
    let before = fs::read(&database).unwrap();
    registry.local().put(&reference("local://a"), text("after"), soon()).await.unwrap();
    let after = fs::read(&database).unwrap();
    assert_eq!(before.len(), after.len(), "the write fits into the file as it is");
    let pages: Vec<_> =
        (0..after.len() / 512).filter(|page| before[page * 512..][..512] != after[page * 512..][..512]).collect();
    assert!(pages.len() > 2, "the write touches several sectors");

    // Every prefix of the changed sectors, every suffix, and every single one missing.
    let mut subsets: Vec<Vec<usize>> = (0..=pages.len()).map(|cut| pages[..cut].to_vec()).collect();
    subsets.extend((0..pages.len()).map(|cut| pages[cut..].to_vec()));
    subsets.extend(pages.iter().map(|gone| pages.iter().copied().filter(|page| page != gone).collect()));
    let mut seen = std::collections::BTreeSet::new();
    for subset in subsets {
        let torn = tempfile::tempdir().unwrap();
        let data = torn.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::copy(dir.path().join("data/store.key"), data.join("store.key")).unwrap();
        let mut bytes = before.clone();
        for page in &subset {
            bytes[page * 512..][..512].copy_from_slice(&after[page * 512..][..512]);
        }
        fs::write(data.join("store.redb"), bytes).unwrap();
        let again = support::registry(torn.path());
        again.local().unlock(text("passphrase")).await.unwrap_or_else(|error| panic!("{error} with {subset:?}"));
        let value = read(&again, "local://a").await.unwrap_or_else(|kind| panic!("{kind:?} with {subset:?}"));
        assert!(value == "before" || value == "after", "{value}");
        assert_eq!(read(&again, "local://kept").await.as_deref(), Ok("kept"));
        again.local().put(&reference("local://a"), text("next"), soon()).await.unwrap();
        assert_eq!(read(&again, "local://a").await.as_deref(), Ok("next"));
        seen.insert(value);
    }
    assert_eq!(seen.len(), 2, "both states were met: {seen:?}");
}

#[tokio::test]
async fn without_a_bus_the_keyring_says_so_at_once() {
    if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some() {
        // With a bus the outcome is the bus's; `xtask` runs the tests without one.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(Context {
        data_dir: dir.path().join("data"),
        keyring: true,
        ledger: std::sync::Arc::new(broker_providers::issue::Unkept),
    });
    let started = std::time::Instant::now();
    let error = registry.local().probe_keyring().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.cause.contains("no session bus"), "{error}");
    let error = registry.local().put(&reference("local://a"), text("1"), soon()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotCreated, "a passphrase is the way out: {error}");
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_database_that_was_cut_off_to_nothing_is_refused_and_taken_for_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path()).await;
    first.local().put(&reference("local://a"), text("1"), soon()).await.unwrap();
    drop(first);
    let database = dir.path().join("data/store.redb");
    let copy = fs::read(&database).unwrap();
    fs::write(&database, "").unwrap();

    let second = registry(dir.path());
    let error = second.local().unlock(text("passphrase")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Malformed, "{error}");
    assert!(error.cause.contains("`store.redb` was cut off"), "{error}");
    assert!(error.hint.unwrap().contains("put a copy back, or remove it and `store.key`"));
    assert_eq!(fs::metadata(&database).unwrap().len(), 0, "it is left as it is");

    fs::write(&database, copy).unwrap();
    second.local().unlock(text("passphrase")).await.unwrap();
    assert_eq!(read(&second, "local://a").await.as_deref(), Ok("1"));
    let names: Vec<_> =
        fs::read_dir(dir.path().join("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside them: {names:?}");
}
