//! The faults, and what is promised for each.
//!
//! Each fault meets a world of its own, all of them at the same time; the slow ones decide how long it takes.

use std::any::Any;
use std::time::{Duration, Instant};

use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::provider::{ErrorKind, ProviderError, Retry};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, Resolved, resolve};
use broker_tests::proxy::{Fault, Proxy};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tempfile::TempDir;

use crate::support::{reference, registry, unique};

/// How much longer than its deadline a request may seem to take on a busy machine.
const SLACK: Duration = Duration::from_millis(700);
/// The value of every secret begins so.
const CANARY: &str = "canary-3f9c1d";
/// How many references are asked for at once.
const ASKED: usize = 3;

/// One kind of manager, behind a proxy: a row of the table.
pub struct World {
    /// What stands between us and the manager, or between us and its sign-in.
    pub proxy: Proxy,
    /// The instance; its `timeout` is the one that the row was given.
    pub instance: Instance,
    /// Who asks.
    pub sign_in: SignIn,
    /// Turns a name of lower-case letters, digits and `-` into a reference of the instance `org`.
    pub reference: fn(&str) -> String,
    /// How many requests through the proxy fetching all of [`ASKED`] references takes.
    pub requests: usize,
    /// The manager's way to ask for patience: status and body.
    pub throttled: (u16, String),
    /// The body of its answers 500 and 503.
    pub failed: String,
    /// Its answer to a token that is over.
    pub expired: Fault,
    /// What kind of failure that is, or nothing where the next sign-in replaces it in silence.
    pub expired_is: Option<ErrorKind>,
    /// What it makes of a clock that is ten minutes off.
    pub clock: Clock,
    /// Answers that are JSON and nothing that it would say.
    pub wrong_types: Vec<String>,
    /// Faults that are of another kind here, each with the reason.
    pub differs: Vec<(&'static str, ErrorKind, &'static str)>,
    /// Faults that cannot meet this world, each with the reason.
    pub spared: Vec<(&'static str, &'static str)>,
    /// What is done just before each fetch under a fault: to sign in anew, where the fault is at the sign-in.
    pub before: fn(&Registry),
    /// What must live as long: servers, directories.
    pub alive: Vec<Box<dyn Any + Send + Sync>>,
}

/// What a manager makes of a clock that is ten minutes off.
pub enum Clock {
    /// It says so, and that is the caller's to mend.
    Says(Fault),
    /// It does not matter: this moves the manager's clock by so many seconds, and all goes on.
    Moves(Box<dyn Fn(i64) + Send + Sync>),
}

impl World {
    /// Returns a world with nothing said but its proxy: references are `org://NAME`, one request fetches them all.
    pub fn new(proxy: Proxy) -> Self {
        Self {
            proxy,
            instance: Instance::of_manifest(broker_core::instance::InstanceSettings::of_kind("none")),
            sign_in: SignIn::default(),
            reference: |name| format!("org://{name}"),
            requests: 1,
            throttled: (429, String::new()),
            failed: String::new(),
            expired: Fault::Answer(401, String::new()),
            expired_is: Some(ErrorKind::Unauthenticated),
            clock: Clock::Says(Fault::Answer(401, String::new())),
            wrong_types: Vec::new(),
            differs: Vec::new(),
            spared: Vec::new(),
            before: |_| {},
            alive: Vec::new(),
        }
    }
}

/// A fault of the table: its name, how it is brought about, and what is promised.
struct Row {
    name: &'static str,
    strike: fn(&mut World),
    kind: ErrorKind,
    /// How often one request is sent at most.
    attempts: usize,
    /// Whether the failure comes before the deadline.
    quick: bool,
}

const fn row(name: &'static str, kind: ErrorKind, attempts: usize, quick: bool, strike: fn(&mut World)) -> Row {
    Row { name, strike, kind, attempts, quick }
}

use ErrorKind::{Malformed, Throttled, Unavailable};

/// Every fault at which every reference fails.
const ROWS: &[Row] = &[
    row("refused", Unavailable, 0, true, |world| world.proxy.refuse()),
    row("reset in the middle", Unavailable, 4, true, |world| world.proxy.fail_all(Fault::Reset)),
    row("cut off", Unavailable, 4, true, |world| world.proxy.fail_all(Fault::CutAfter(40))),
    row("never answered", Unavailable, 4, false, |world| world.proxy.fail_all(Fault::BlackHole)),
    row("slow first byte", Unavailable, 4, false, |world| {
        world.proxy.fail_all(Fault::FirstByteAfter(Duration::from_secs(6)));
    }),
    row("slow drip", Unavailable, 4, false, |world| {
        world.proxy.fail_all(Fault::Drip(1, Duration::from_millis(100)));
    }),
    row("429 without a time", Throttled, 8, false, |world| {
        let (status, body) = world.throttled.clone();
        world.proxy.fail_all(json_answer(status, &[], body));
    }),
    row("429 with a time past the deadline", Throttled, 1, true, |world| {
        let (status, body) = world.throttled.clone();
        world.proxy.fail_all(json_answer(status, &[("retry-after", "60")], body));
    }),
    row("500", Unavailable, 4, true, |world| world.proxy.fail_all(json_answer(500, &[], world.failed.clone()))),
    row("503 of a gateway", Unavailable, 4, true, |world| {
        world.proxy.fail_all(json_answer(503, &[], "<html>upstream is away</html>".to_owned()));
    }),
    row("no JSON", Malformed, 2, true, |world| {
        world.proxy.fail_all(json_answer(200, &[], format!("<html>{CANARY}</html>")));
    }),
    row("half a JSON", Malformed, 2, true, |world| {
        world.proxy.fail_all(json_answer(200, &[], format!("{{\"value\":\"{CANARY}")));
    }),
];

fn json_answer(status: u16, headers: &[(&str, &str)], body: String) -> Fault {
    let all = [&[("content-type", "application/json")], headers].concat();
    Fault::AnswerWith(status, all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(), body)
}

/// Checks every fault at one kind, and says of all that do not hold.
pub async fn check(open: fn(&str) -> World) {
    let mut checks: Vec<(&'static str, BoxFuture<'static, ()>)> = Vec::new();
    for row in ROWS {
        checks.push((row.name, fails(open, row).boxed()));
    }
    checks.push(("wrong types", wrong_types(open).boxed()));
    checks.push(("expired token", expired_token(open).boxed()));
    checks.push(("clock ten minutes off", clock_off(open).boxed()));
    checks.push(("429 with a time", throttled_for_a_second(open).boxed()));
    checks.push(("half of it fails", half_fails(open).boxed()));
    checks.push(("one bad answer", one_bad_answer(open).boxed()));
    let known: Vec<_> = checks.iter().map(|(name, _)| *name).collect();
    let spared = open("2s").spared;
    for (name, _) in &spared {
        assert!(known.contains(name), "there is no fault `{name}`");
    }
    let asked = checks.into_iter().filter(|(name, _)| !spared.iter().any(|(known, _)| known == name));
    // A task of its own catches the panic, whose words are already on standard error.
    let asked = asked.map(|(name, check)| async move { (name, tokio::spawn(check).await.is_ok()) });
    let broken: Vec<_> = join_all(asked).await.into_iter().filter(|(_, held)| !held).map(|(name, _)| name).collect();
    assert!(broken.is_empty(), "these do not hold: {}", broken.join(", "));
}

type Results = Vec<Result<Resolved, ProviderError>>;

/// A world with its secrets.
struct Opened {
    world: World,
    registry: Registry,
    references: Vec<String>,
    timeout: Duration,
    _dir: TempDir,
}

impl Opened {
    /// Opens a world and stores one secret for each of `names` in it.
    async fn new(open: fn(&str) -> World, timeout: u64, names: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = tokio::task::block_in_place(|| open(&format!("{timeout}s")));
        let registry = registry(dir.path());
        let references: Vec<_> = names.iter().map(|name| (world.reference)(name)).collect();
        let provider = registry.open("org", &world.instance, &world.sign_in).unwrap().provider;
        for text in &references {
            let value = SecretValue::from(format!("{CANARY} of {text}"));
            provider.put(&reference(text), value, tokio::time::Instant::now() + Duration::from_secs(20)).await.unwrap();
        }
        world.proxy.forget_calls();
        Self { world, registry, references, timeout: Duration::from_secs(timeout), _dir: dir }
    }

    async fn few(open: fn(&str) -> World) -> Self {
        let base = unique("fault");
        Self::new(open, 2, &(0..ASKED).map(|number| format!("{base}-{number}")).collect::<Vec<_>>()).await
    }

    /// Fetches everything anew, with connections as they are.
    async fn fetch(&self) -> (Results, Duration) {
        let references: Vec<_> = self.references.iter().map(|text| reference(text)).collect();
        let options = ResolveOptions { refresh: true, ..ResolveOptions::default() };
        (self.world.before)(&self.registry);
        let started = Instant::now();
        let open = |name: &str| self.registry.open(name, &self.world.instance, &self.world.sign_in);
        let results = resolve(&references, options, open).await;
        let took = started.elapsed();
        assert!(took <= self.timeout + SLACK, "it took {took:?}");
        for result in &results {
            assert!(!format!("{result:?}").contains(CANARY), "a value is in {result:?}");
            if let Err(error) = result {
                assert!(!error.to_string().contains(CANARY), "a value is in {error}");
                assert!(!error.cause.is_empty(), "no reason is given");
            }
        }
        (results, took)
    }

    fn is_whole(&self, results: &Results) {
        for (result, text) in results.iter().zip(&self.references) {
            let resolved = result.as_ref().unwrap_or_else(|error| panic!("{error}"));
            assert!(resolved.value.expose() == format!("{CANARY} of {text}").as_bytes(), "`{text}` changed");
        }
    }

    /// All is as before, once the fault is over.
    async fn is_well_again(&mut self) {
        self.world.proxy.heal();
        let (mut results, _) = self.fetch().await;
        if results.iter().any(Result::is_err) {
            // Whoever asks in the moment in which a fetch fails late may get its failure; the next one does not.
            results = self.fetch().await.0;
        }
        self.is_whole(&results);
    }

    /// All of `results` are failures of this kind.
    fn all_are(&self, results: &Results, kind: ErrorKind) {
        assert_eq!(results.len(), self.references.len());
        for (result, text) in results.iter().zip(&self.references) {
            let error = result.as_ref().expect_err("the fault is there");
            assert_eq!(error.kind, kind, "{error}");
            assert_eq!(error.reference.as_ref(), Some(&reference(text)), "{error}");
            let waits = matches!(kind, ErrorKind::Throttled | ErrorKind::Unavailable);
            assert_eq!(matches!(error.retry, Retry::After(_)), waits, "{:?} for {kind:?}", error.retry);
        }
    }
}

async fn fails(open: fn(&str) -> World, row: &Row) {
    let mut opened = Opened::few(open).await;
    (row.strike)(&mut opened.world);
    let (results, took) = opened.fetch().await;
    let differs = opened.world.differs.iter().find(|(name, ..)| *name == row.name).map(|(_, kind, _)| *kind);
    assert_ne!(differs, Some(row.kind), "`{}` does not differ", row.name);
    opened.all_are(&results, differs.unwrap_or(row.kind));
    if row.quick {
        assert!(took < opened.timeout, "`{}` took {took:?}", row.name);
    }
    let (calls, most) = (opened.world.proxy.call_count(), opened.world.requests * row.attempts);
    assert!(calls <= most, "`{}`: {calls} requests, {most} are enough: {:?}", row.name, opened.world.proxy.calls());
    opened.is_well_again().await;
}

async fn wrong_types(open: fn(&str) -> World) {
    let mut opened = Opened::few(open).await;
    let generic = ["[]", "7", "\"text\"", "null", "{}"].map(str::to_owned);
    let bodies: Vec<_> = generic.into_iter().chain(opened.world.wrong_types.clone()).collect();
    for body in bodies {
        opened.world.proxy.heal();
        opened.world.proxy.forget_calls();
        opened.world.proxy.fail_all(json_answer(200, &[], body.clone()));
        let (results, _) = opened.fetch().await;
        assert!(results.iter().all(Result::is_err), "{body} was taken for an answer: {results:?}");
        opened.all_are(&results, ErrorKind::Malformed);
        // What a batch left open is asked for singly.
        let (calls, most) = (opened.world.proxy.call_count(), opened.world.requests.max(1 + ASKED) * 2);
        assert!(calls <= most, "{body}: {calls} requests, {most} are enough");
    }
    opened.is_well_again().await;
}

async fn expired_token(open: fn(&str) -> World) {
    let mut opened = Opened::few(open).await;
    opened.world.proxy.fail_all(opened.world.expired.clone());
    let (results, took) = opened.fetch().await;
    match opened.world.expired_is {
        Some(kind) => {
            opened.all_are(&results, kind);
            let hint = results[0].as_ref().unwrap_err().hint.clone();
            assert!(hint.is_some(), "no way out is named");
        }
        None => opened.is_whole(&results),
    }
    assert!(took < opened.timeout, "{took:?}");
    // One new sign-in is worth trying.
    let (calls, most) = (opened.world.proxy.call_count(), opened.world.requests * 2);
    assert!(calls <= most, "{calls} requests, {most} are enough: {:?}", opened.world.proxy.calls());
    opened.is_well_again().await;
}

async fn clock_off(open: fn(&str) -> World) {
    let mut opened = Opened::few(open).await;
    match &opened.world.clock {
        Clock::Says(answer) => {
            opened.world.proxy.fail_all(answer.clone());
            let (results, took) = opened.fetch().await;
            opened.all_are(&results, ErrorKind::Unauthenticated);
            assert!(took < opened.timeout, "{took:?}");
            let (calls, most) = (opened.world.proxy.call_count(), opened.world.requests * 2);
            assert!(calls <= most, "{calls} requests, {most} are enough");
        }
        Clock::Moves(by) => {
            for seconds in [600, -1200] {
                by(seconds);
                let (results, _) = opened.fetch().await;
                opened.is_whole(&results);
            }
        }
    }
    opened.is_well_again().await;
}

/// A manager that names a short time is asked again after it, and not before.
async fn throttled_for_a_second(open: fn(&str) -> World) {
    let opened = Opened::new(open, 6, &[unique("fault")]).await;
    let (status, body) = opened.world.throttled.clone();
    let (results, _) = opened.fetch().await;
    opened.is_whole(&results);
    let before = opened.world.proxy.calls();
    let nth = |action: &String| before.get(action).copied().unwrap_or(0);
    for action in before.keys() {
        let fault = json_answer(status, &[("retry-after", "1")], body.clone());
        opened.world.proxy.fail_nth(action, nth(action), fault);
    }
    let (results, took) = opened.fetch().await;
    opened.is_whole(&results);
    assert!(took >= Duration::from_secs(1), "the time was not waited for: {took:?}");
}

/// One request of many fails for ever: what it would have brought fails, and nothing else does.
async fn half_fails(open: fn(&str) -> World) {
    let base = unique("fault");
    // Two batches of twenty, one of them bad, or forty single requests.
    let half = |word: &str| (0..20).map(|number| format!("{base}-{word}-{number:02}")).collect::<Vec<_>>();
    let mut opened = Opened::new(open, 5, &[half("bad"), half("good")].concat()).await;
    opened.world.proxy.fail_holding(&format!("{base}-bad"), json_answer(500, &[], opened.world.failed.clone()));
    let (results, _) = opened.fetch().await;
    let (bad, good) = results.split_at(20);
    for result in bad {
        assert_eq!(result.as_ref().expect_err("its request fails").kind, ErrorKind::Unavailable);
    }
    for (result, text) in good.iter().zip(&opened.references[20..]) {
        let resolved = result.as_ref().unwrap_or_else(|error| panic!("{text} suffers: {error}"));
        assert!(resolved.value.expose() == format!("{CANARY} of {text}").as_bytes(), "`{text}` changed");
    }
    opened.is_well_again().await;
}

/// A fault that is over at the second try is not seen at all.
async fn one_bad_answer(open: fn(&str) -> World) {
    let opened = Opened::new(open, 4, &[unique("fault")]).await;
    let (results, _) = opened.fetch().await;
    opened.is_whole(&results);
    for fault in [json_answer(503, &[], opened.world.failed.clone()), Fault::Reset, Fault::CutAfter(0)] {
        let before = opened.world.proxy.calls();
        for (action, count) in &before {
            opened.world.proxy.fail_nth(action, *count, fault.clone());
        }
        let (results, _) = opened.fetch().await;
        opened.is_whole(&results);
        assert!(opened.world.proxy.calls() > before, "{fault:?} met nobody");
    }
}
