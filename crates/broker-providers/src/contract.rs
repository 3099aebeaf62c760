//! The suite that every provider passes: small claims about any store, checked through the trait alone.
//!
//! A new provider runs it against a real server or a faithful one. Where a server is known to be wrong, its fixture names
//! the claim and the reason; such a claim must then fail, so that no excuse outlives its cause. Claims use names of their
//! own below the fixture's prefix and can run on a server that others use.

use std::sync::Arc;
use std::time::Duration;

use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::provider::{
    Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Stage,
};

/// How long one operation of a working store may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store to be checked.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The provider itself.
    pub provider: Arc<dyn Provider>,
    /// The instance that its references name.
    pub instance: String,
    /// The beginning of every name that is used, unlike that of any other run.
    pub prefix: String,
    /// Turns such a name into one that the manager takes: different names stay different, and prefixes prefixes.
    pub path: fn(&str) -> String,
    /// Claims that this server is known to break, each with the reason.
    pub known_wrong: Vec<(&'static str, &'static str)>,
}

/// One claim.
pub type Claim = for<'a> fn(&'a Fixture) -> BoxFuture<'a, ()>;

macro_rules! claims {
    ($($name:ident),* $(,)?) => {
        /// Every claim by its name.
        pub const CLAIMS: &[(&str, Claim)] = &[$((stringify!($name), |fixture| $name(fixture).boxed())),*];
    };
}

claims![
    values_are_the_stored_bytes,
    an_empty_value_is_kept_or_refused_in_words,
    each_result_stands_in_the_place_of_its_reference,
    more_than_two_batches_come_back_whole,
    a_missing_secret_is_not_found,
    a_write_makes_a_new_current_version,
    the_version_before_the_last_write_is_the_previous_stage,
    an_unknown_version_is_not_found,
    a_listing_is_exact_and_ordered,
    a_deleted_secret_is_not_found,
    a_version_cannot_be_written,
    a_description_says_what_there_is_and_no_value,
    a_promoted_version_is_current_and_the_former_one_previous,
    a_demoted_version_gives_way_to_the_one_before,
    a_pending_version_waits_until_it_is_promoted,
    a_deadline_in_the_past_ends_at_once,
    no_error_holds_a_value,
];

/// Checks every claim.
///
/// # Panics
/// When a claim does not hold, and when one that is known to be broken does.
pub async fn check(fixture: &Fixture) {
    let mut problems = Vec::new();
    for (name, claim) in CLAIMS {
        let own = Fixture { prefix: format!("{}/{name}", fixture.prefix), ..fixture.clone() };
        // A task of its own catches the panic, whose words are already on standard error.
        let held = tokio::spawn(async move { claim(&own).await }).await.is_ok();
        let excuse = fixture.known_wrong.iter().find(|(known, _)| known == name);
        match (held, excuse) {
            (true, None) | (false, Some(_)) => {}
            (false, None) => problems.push(format!("`{name}` does not hold")),
            (true, Some((_, reason))) => problems.push(format!("`{name}` holds, although: {reason}")),
        }
    }
    assert!(problems.is_empty(), "{}: {}", fixture.instance, problems.join("; "));
}

impl Fixture {
    fn reference(&self, name: &str) -> SecretRef {
        let path = (self.path)(&format!("{}/{name}", self.prefix));
        SecretRef {
            instance: self.instance.clone(),
            path,
            field: Vec::new(),
            version: Version::Current,
            options: Default::default(),
        }
    }

    async fn put(&self, reference: &SecretRef, value: &[u8]) -> Option<String> {
        let value = SecretValue::new(value.to_vec());
        let done = self.provider.put(reference, value, Instant::now() + PATIENCE).await;
        done.unwrap_or_else(|error| panic!("put: {error}"))
    }

    async fn fetch(&self, references: &[SecretRef]) -> Vec<Result<Fetched, ProviderError>> {
        let results = self.provider.fetch(references, FetchOptions::within(PATIENCE)).await;
        assert_eq!(results.len(), references.len(), "one result per reference");
        results
    }

    async fn one(&self, reference: &SecretRef) -> Result<Fetched, ProviderError> {
        let mut results = self.fetch(std::slice::from_ref(reference)).await;
        results.pop().unwrap_or_else(|| panic!("no result for `{reference}`"))
    }

    async fn list(&self, prefix: &str) -> Vec<Listed> {
        let options = ListOptions { prefix, tags: &[] };
        let listed = self.provider.list(options, Instant::now() + PATIENCE).await;
        listed.unwrap_or_else(|error| panic!("list: {error}"))
    }

    async fn describe(&self, reference: &SecretRef) -> Described {
        let described = self.provider.describe(reference, Instant::now() + PATIENCE).await;
        described.unwrap_or_else(|error| panic!("describe: {error}"))
    }

    async fn bytes(&self, reference: &SecretRef) -> Vec<u8> {
        let fetched = self.one(reference).await.unwrap_or_else(|error| panic!("fetch: {error}"));
        fetched.value.expose().to_vec()
    }
}

async fn values_are_the_stored_bytes(fixture: &Fixture) {
    let long = vec![b'x'; 64 * 1024];
    let samples: &[(&str, &[u8])] = &[
        ("trailing-newline", b"value\n"),
        ("only-newline", b"\n"),
        ("carriage-return", b"a\r\nb\r"),
        ("dollar", b"$HOME ${PATH} $(id) `id` %s \\n"),
        ("null", b"null"),
        ("quotes", br#"'"\"#),
        ("json", br#"{"a": 1.10, "b": "\u00e4"}"#),
        ("number", b"007"),
        ("spaces", b"  padded  "),
        ("nul", b"a\0b"),
        ("controls", b"\x01\x1b[31m\x7f"),
        ("unicode", "ä€😀\u{feff}\u{202e}".as_bytes()),
        ("invalid-utf8", b"\xff\xfe\x00\x80"),
        ("every-byte", &std::array::from_fn::<u8, 256, _>(|byte| byte as u8)),
        ("64-kib", &long),
    ];
    // What some managers cannot hold, because they hold text or short values; they refuse it and never change it.
    let may_refuse = ["nul", "controls", "invalid-utf8", "every-byte", "64-kib"];
    let mut kept = Vec::new();
    for (name, bytes) in samples {
        let reference = fixture.reference(name);
        let value = SecretValue::new(bytes.to_vec());
        match fixture.provider.put(&reference, value, Instant::now() + PATIENCE).await {
            Ok(_) => kept.push((reference, (name, bytes))),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Unsupported, "{name}: {error}");
                assert!(may_refuse.contains(name) && !error.cause.is_empty(), "{name}: {error}");
            }
        }
    }
    let (references, kept): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    for (result, (name, value)) in fixture.fetch(&references).await.into_iter().zip(kept) {
        let fetched = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(fetched.value.expose() == *value, "`{name}` changed");
        assert!(!fetched.stale, "`{name}` was just fetched");
    }
}

async fn an_empty_value_is_kept_or_refused_in_words(fixture: &Fixture) {
    let reference = fixture.reference("empty");
    match fixture.provider.put(&reference, SecretValue::new(Vec::new()), Instant::now() + PATIENCE).await {
        Ok(_) => assert_eq!(fixture.bytes(&reference).await, b""),
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
            assert!(!error.cause.is_empty());
        }
    }
}

async fn each_result_stands_in_the_place_of_its_reference(fixture: &Fixture) {
    let (a, b, gone) = (fixture.reference("a"), fixture.reference("b"), fixture.reference("gone"));
    fixture.put(&a, b"of a").await;
    fixture.put(&b, b"of b").await;
    let asked = [b.clone(), gone.clone(), a.clone(), b.clone(), gone];
    let results = fixture.fetch(&asked).await.into_iter();
    let values: Vec<_> = results
        .map(|result| match result {
            Ok(fetched) => Ok(fetched.value.expose().to_vec()),
            Err(error) => Err((error.kind, error.reference)),
        })
        .collect();
    let missing = || Err((ErrorKind::NotFound, Some(fixture.reference("gone"))));
    assert_eq!(values, [Ok(b"of b".to_vec()), missing(), Ok(b"of a".to_vec()), Ok(b"of b".to_vec()), missing()]);
    assert!(fixture.fetch(&[]).await.is_empty());
}

async fn more_than_two_batches_come_back_whole(fixture: &Fixture) {
    let references: Vec<_> = (0..45).map(|number| fixture.reference(&format!("{number:02}"))).collect();
    for (number, reference) in references.iter().enumerate() {
        fixture.put(reference, format!("value {number}").as_bytes()).await;
    }
    for (number, result) in fixture.fetch(&references).await.into_iter().enumerate() {
        let fetched = result.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fetched.value.expose(), format!("value {number}").as_bytes());
    }
}

async fn a_missing_secret_is_not_found(fixture: &Fixture) {
    let reference = fixture.reference("never-written");
    let error = fixture.one(&reference).await.expect_err("it was never written");
    assert_eq!((error.kind, error.reference.as_ref()), (ErrorKind::NotFound, Some(&reference)), "{error}");
    assert!(error.hint.is_some(), "a way out is named");
    // The beginning of a name is another name.
    fixture.put(&fixture.reference("longer-name"), b"x").await;
    let error = fixture.one(&fixture.reference("longer")).await.expect_err("a prefix is no name");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

async fn a_write_makes_a_new_current_version(fixture: &Fixture) {
    let reference = fixture.reference("secret");
    let first = fixture.put(&reference, b"one").await;
    let second = fixture.put(&reference, b"two").await;
    assert!(first.is_none() || first != second, "a manager without versions has no ids");
    let current = fixture.one(&reference).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((current.value.expose(), current.version), (b"two".as_slice(), second));
    if let Some(first) = first.filter(|_| fixture.provider.capabilities().versions) {
        let old = SecretRef { version: Version::Id(first), ..reference };
        assert_eq!(fixture.bytes(&old).await, b"one");
    }
}

async fn the_version_before_the_last_write_is_the_previous_stage(fixture: &Fixture) {
    if !fixture.provider.capabilities().previous {
        return;
    }
    let reference = fixture.reference("secret");
    let previous = SecretRef { version: Version::Previous, ..reference.clone() };
    let pending = SecretRef { version: Version::Pending, ..reference.clone() };
    fixture.put(&reference, b"one").await;
    let error = fixture.one(&previous).await.expect_err("there is one version only");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let error = fixture.one(&pending).await.expect_err("nothing is pending");
    // A manager that has no such stage may say so.
    assert!(matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported), "{error}");
    fixture.put(&reference, b"two").await;
    fixture.put(&reference, b"three").await;
    assert_eq!(fixture.bytes(&previous).await, b"two");
    // Current and previous of the same secret, asked for at once, are not mixed up.
    let both = fixture.fetch(&[previous, reference]).await;
    let both: Vec<_> = both.into_iter().map(|result| result.map(|f| f.value.expose().to_vec()).ok()).collect();
    assert_eq!(both, [Some(b"two".to_vec()), Some(b"three".to_vec())]);
}

async fn an_unknown_version_is_not_found(fixture: &Fixture) {
    if !fixture.provider.capabilities().versions {
        return;
    }
    let reference = fixture.reference("secret");
    fixture.put(&reference, b"one").await;
    // Long enough to be an id of AWS.
    let version = Version::Id("00000000-0000-4000-8000-000000000000".to_owned());
    let error = fixture.one(&SecretRef { version, ..reference }).await.expect_err("nobody wrote that version");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

async fn a_listing_is_exact_and_ordered(fixture: &Fixture) {
    if !fixture.provider.capabilities().list {
        return;
    }
    for name in ["list/b", "list/a", "list/a/deep", "list-other", "List/c"] {
        fixture.put(&fixture.reference(name), b"x").await;
    }
    let prefix = fixture.reference("list/").path;
    let listed = fixture.list(&prefix).await;
    let names: Vec<_> = listed.iter().filter_map(|entry| entry.path.strip_prefix(&prefix)).collect();
    let rest = |name: &str| fixture.reference(&format!("list/{name}")).path[prefix.len()..].to_owned();
    let mut expected = ["a", "a/deep", "b"].map(rest);
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(listed.len(), 3);
    assert_eq!(fixture.list(&format!("{prefix}nothing")).await, []);
}

async fn a_deleted_secret_is_not_found(fixture: &Fixture) {
    let reference = fixture.reference("secret");
    let deadline = || Instant::now() + PATIENCE;
    let error = fixture.provider.delete(&reference, deadline()).await.expect_err("there is nothing to delete");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    fixture.put(&reference, b"one").await;
    fixture.put(&reference, b"two").await;
    fixture.provider.delete(&reference, deadline()).await.unwrap_or_else(|error| panic!("{error}"));
    let previous = fixture.provider.capabilities().previous.then_some(Version::Previous);
    for version in std::iter::once(Version::Current).chain(previous) {
        let gone = SecretRef { version, ..reference.clone() };
        assert_eq!(fixture.one(&gone).await.expect_err("it was deleted").kind, ErrorKind::NotFound);
    }
}

async fn a_version_cannot_be_written(fixture: &Fixture) {
    let reference = SecretRef { version: Version::Previous, ..fixture.reference("secret") };
    let done = fixture.provider.put(&reference, SecretValue::new(b"x".to_vec()), Instant::now() + PATIENCE).await;
    assert_eq!(done.expect_err("history is not written").kind, ErrorKind::Unsupported);
}

async fn a_description_says_what_there_is_and_no_value(fixture: &Fixture) {
    let can = fixture.provider.capabilities();
    if !can.describe {
        return;
    }
    let canary = "canary-77e0c2b1";
    let reference = fixture.reference("secret");
    let error = fixture.provider.describe(&reference, Instant::now() + PATIENCE).await.expect_err("nobody wrote it");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let first = fixture.put(&reference, canary.as_bytes()).await;
    let second = fixture.put(&reference, b"two").await;
    let described = fixture.describe(&reference).await;
    assert!(!format!("{described:?}").contains(canary), "a description holds the value");
    let standing = |id: &Option<String>| {
        let version = described.versions.iter().find(|version| Some(&version.id) == id.as_ref());
        version.map(|version| (version.stages.clone(), version.usable))
    };
    if can.versions {
        assert_eq!(standing(&second), Some((vec![Stage::Current], true)), "{described:?}");
        let before = if can.previous { vec![Stage::Previous] } else { vec![] };
        assert_eq!(standing(&first), Some((before, true)), "{described:?}");
        assert_eq!(described.versions.first().map(|version| &version.id), second.as_ref(), "newest first");
    }
}

async fn a_promoted_version_is_current_and_the_former_one_previous(fixture: &Fixture) {
    let can = fixture.provider.capabilities();
    if !can.promote {
        return;
    }
    let reference = fixture.reference("secret");
    let previous = SecretRef { version: Version::Previous, ..reference.clone() };
    let Some(first) = fixture.put(&reference, b"one").await else { panic!("a version has an id") };
    fixture.put(&reference, b"two").await;
    fixture.put(&reference, b"three").await;
    let first = SecretRef { version: Version::Id(first), ..reference.clone() };
    fixture.provider.promote(&first, Instant::now() + PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.bytes(&reference).await, b"one");
    assert_eq!(fixture.bytes(&previous).await, b"three");
    let unknown = Version::Id("00000000-0000-4000-8000-000000000000".to_owned());
    for (version, kind) in [(unknown, ErrorKind::NotFound), (Version::Current, ErrorKind::Unsupported)] {
        let wrong = SecretRef { version, ..reference.clone() };
        let error = fixture.provider.promote(&wrong, Instant::now() + PATIENCE).await.expect_err("no such version");
        assert_eq!(error.kind, kind, "{error}");
    }
    assert_eq!(fixture.bytes(&reference).await, b"one", "a failed promotion changes nothing");
}

async fn a_demoted_version_gives_way_to_the_one_before(fixture: &Fixture) {
    if !fixture.provider.capabilities().promote {
        return;
    }
    let reference = fixture.reference("secret");
    fixture.put(&reference, b"one").await;
    let error = fixture.provider.demote(&reference, Instant::now() + PATIENCE).await.expect_err("there is none before");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    fixture.put(&reference, b"two").await;
    fixture.provider.demote(&reference, Instant::now() + PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.bytes(&reference).await, b"one");
}

async fn a_pending_version_waits_until_it_is_promoted(fixture: &Fixture) {
    if !fixture.provider.capabilities().pending {
        return;
    }
    let deadline = || Instant::now() + PATIENCE;
    let reference = fixture.reference("secret");
    let pending = SecretRef { version: Version::Pending, ..reference.clone() };
    fixture.put(&reference, b"one").await;
    fixture.put(&pending, b"two").await;
    assert_eq!((fixture.bytes(&reference).await, fixture.bytes(&pending).await), (b"one".to_vec(), b"two".to_vec()));
    fixture.provider.promote(&pending, deadline()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.bytes(&reference).await, b"two");
    assert_eq!(fixture.one(&pending).await.expect_err("nothing waits any more").kind, ErrorKind::NotFound);
    fixture.put(&pending, b"three").await;
    fixture.provider.demote(&pending, deadline()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.one(&pending).await.expect_err("it was given up").kind, ErrorKind::NotFound);
    assert_eq!(fixture.bytes(&reference).await, b"two");
}

async fn a_deadline_in_the_past_ends_at_once(fixture: &Fixture) {
    let reference = fixture.reference("secret");
    fixture.put(&reference, b"one").await;
    let started = Instant::now();
    let options = FetchOptions { deadline: started, ..FetchOptions::within(PATIENCE) };
    let results = fixture.provider.fetch(&[reference], options).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // A store that is at hand may answer all the same.
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    }
}

async fn no_error_holds_a_value(fixture: &Fixture) {
    let canary = "canary-5d1f0a9e";
    let reference = fixture.reference("secret");
    fixture.put(&reference, canary.as_bytes()).await;
    let mut errors = Vec::new();
    for version in [Version::Id("00000000-0000-4000-8000-000000000001".to_owned()), Version::Previous] {
        let reference = SecretRef { version, ..reference.clone() };
        errors.extend(fixture.one(&reference).await.err());
        let value = SecretValue::new(canary.as_bytes().to_vec());
        errors.extend(fixture.provider.put(&reference, value, Instant::now() + PATIENCE).await.err());
    }
    assert!(!errors.is_empty(), "the fixture provokes errors");
    for error in errors {
        assert!(!format!("{error} {error:?}").contains(canary), "an error holds the value");
    }
    assert!(!format!("{:?} {:?}", fixture.one(&reference).await, fixture.provider).contains(canary));
}
