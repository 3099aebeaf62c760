//! The cache: what it serves, for how long, and that it asks once. On a paused clock, so nothing here waits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::instance::Timing;
use broker_core::reference::SecretRef;
use broker_core::secret::{SecretValue, SharedValue};
use broker_providers::cached::Cached;
use broker_providers::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep};

/// A manager in memory whose answers a test sets. It cannot show what a network does.
#[derive(Debug, Default)]
struct Manager {
    asked: AtomicUsize,
    fetched: AtomicUsize,
    answers: Mutex<HashMap<String, Result<Vec<u8>, ErrorKind>>>,
    /// Every value ever handed out, to see when it is gone.
    handed_out: Mutex<Vec<std::sync::Weak<SecretValue>>>,
    slow: Mutex<Duration>,
    panics: Mutex<bool>,
    gate: Mutex<Option<Arc<Notify>>>,
}

impl Manager {
    fn says(&self, name: &str, answer: Result<&str, ErrorKind>) {
        self.answers.lock().unwrap().insert(name.to_owned(), answer.map(|text| text.as_bytes().to_vec()));
    }

    fn calls(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn alive(&self) -> usize {
        self.handed_out.lock().unwrap().iter().filter(|value| value.strong_count() > 0).count()
    }
}

fn failure(kind: ErrorKind, reference: &SecretRef) -> ProviderError {
    let (instance, cause, hint) = ("org".to_owned(), String::new(), None);
    ProviderError { kind, instance, reference: Some(reference.clone()), cause, hint, retry: Retry::Never }
}

#[async_trait]
impl Provider for Manager {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.fetched.fetch_add(references.len(), Ordering::SeqCst);
        let answers = self.answers.lock().unwrap().clone();
        let (slow, panics, gate) =
            (*self.slow.lock().unwrap(), *self.panics.lock().unwrap(), self.gate.lock().unwrap().clone());
        assert!(!panics, "the manager's client breaks down");
        if Instant::now() + slow > options.deadline {
            tokio::time::sleep_until(options.deadline).await;
            return references.iter().map(|r| Err(failure(ErrorKind::Unavailable, r))).collect();
        }
        sleep(slow).await;
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let each = references.iter().map(|reference| match answers.get(&reference.path) {
            Some(Ok(bytes)) => {
                let value: SharedValue = Arc::new(SecretValue::new(bytes.clone()));
                self.handed_out.lock().unwrap().push(Arc::downgrade(&value));
                Ok(Fetched { value, version: None, fetched_at: Instant::now(), stale: false, lone_field: None })
            }
            Some(Err(kind)) => Err(failure(*kind, reference)),
            None => Err(failure(ErrorKind::NotFound, reference)),
        });
        each.collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        _: Instant,
    ) -> Result<Option<String>, ProviderError> {
        self.answers.lock().unwrap().insert(reference.path.clone(), Ok(value.expose().to_vec()));
        Ok(None)
    }

    async fn delete(&self, reference: &SecretRef, _: Instant) -> Result<(), ProviderError> {
        self.answers.lock().unwrap().remove(&reference.path);
        Ok(())
    }

    async fn describe(&self, _: &SecretRef, _: Instant) -> Result<Described, ProviderError> {
        Ok(Described::default())
    }

    async fn list(&self, _: ListOptions<'_>, _: Instant) -> Result<Vec<Listed>, ProviderError> {
        Ok(Vec::new())
    }

    fn forget(&self) {}
}

const TTL: Duration = Duration::from_secs(60);
const NEGATIVE: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(600);

fn cached(max_stale: Duration) -> (Arc<Manager>, Arc<Cached>) {
    let manager = Arc::new(Manager::default());
    let timing = Timing { ttl: TTL, negative_ttl: NEGATIVE, max_stale, timeout: Duration::from_secs(10) };
    let cache = Cached::new("org", Arc::clone(&manager) as _, timing);
    (manager, Arc::new(cache))
}

fn reference(name: &str) -> SecretRef {
    format!("org://{name}").parse().unwrap()
}

fn ordinary() -> FetchOptions {
    FetchOptions::within(Duration::from_secs(10))
}

fn refresh() -> FetchOptions {
    FetchOptions { refresh: true, ..ordinary() }
}

fn offline() -> FetchOptions {
    FetchOptions { offline: true, ..ordinary() }
}

/// Fetches one secret and returns its text and whether it is stale.
async fn one(cache: &Cached, name: &str, options: FetchOptions) -> Result<(String, bool), ErrorKind> {
    let result = cache.fetch(&[reference(name)], options).await.remove(0);
    let text = |f: &Fetched| String::from_utf8(f.value.expose().to_vec()).unwrap();
    result.map(|fetched| (text(&fetched), fetched.stale)).map_err(|error| error.kind)
}

fn fresh(text: &str) -> Result<(String, bool), ErrorKind> {
    Ok((text.to_owned(), false))
}

fn stale(text: &str) -> Result<(String, bool), ErrorKind> {
    Ok((text.to_owned(), true))
}

#[tokio::test(start_paused = true)]
async fn a_value_is_served_for_its_ttl_and_asked_for_after() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("one"));
    manager.says("a", Ok("two"));
    advance(TTL - Duration::from_millis(1)).await;
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("one"));
    advance(Duration::from_millis(1)).await;
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("two"));
    assert_eq!(manager.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_remembered_for_the_negative_ttl_and_other_failures_are_not() {
    let (manager, cache) = cached(Duration::ZERO);
    for (kind, calls) in [
        (ErrorKind::NotFound, 1),
        (ErrorKind::Denied, 1),
        (ErrorKind::Unavailable, 3),
        (ErrorKind::Unauthenticated, 3),
        (ErrorKind::Throttled, 3),
        (ErrorKind::Malformed, 3),
    ] {
        manager.says("a", Err(kind));
        let before = manager.calls();
        for _ in 0..3 {
            assert_eq!(one(&cache, "a", ordinary()).await, Err(kind));
        }
        assert_eq!(manager.calls() - before, calls, "{kind:?}");
        advance(NEGATIVE).await;
    }
    manager.says("a", Ok("there"));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("there"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_stands_in_for_a_manager_that_is_away_and_never_for_a_refusal() {
    for (kind, allowed) in [
        (ErrorKind::Unavailable, true),
        (ErrorKind::Throttled, true),
        (ErrorKind::Malformed, true),
        (ErrorKind::Denied, false),
        (ErrorKind::NotFound, false),
        (ErrorKind::Unauthenticated, false),
    ] {
        let (manager, cache) = cached(STALE);
        manager.says("a", Ok("one"));
        one(&cache, "a", ordinary()).await.unwrap();
        manager.says("a", Err(kind));
        advance(TTL).await;
        let expected = if allowed { stale("one") } else { Err(kind) };
        assert_eq!(one(&cache, "a", ordinary()).await, expected, "{kind:?}");
        if matches!(kind, ErrorKind::Denied | ErrorKind::NotFound) {
            // What was withdrawn is gone at once, for `--offline` too.
            assert_eq!((cache.held(), manager.alive()), (0, 0), "{kind:?}");
            assert!(one(&cache, "a", offline()).await.is_err());
        }
        advance(STALE).await;
        assert_eq!(one(&cache, "a", ordinary()).await, Err(kind), "past max-stale");
    }
}

#[tokio::test(start_paused = true)]
async fn without_max_stale_nothing_stale_is_served_not_even_to_a_refresh() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    one(&cache, "a", ordinary()).await.unwrap();
    manager.says("a", Err(ErrorKind::Unavailable));
    assert_eq!(one(&cache, "a", refresh()).await, Err(ErrorKind::Unavailable));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("one"), "it is still within its ttl");
    advance(TTL).await;
    assert_eq!(one(&cache, "a", ordinary()).await, Err(ErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_dead_manager_costs_one_timeout_and_not_one_per_command() {
    let (manager, cache) = cached(STALE);
    manager.says("a", Ok("one"));
    one(&cache, "a", ordinary()).await.unwrap();
    advance(TTL).await;
    manager.says("a", Err(ErrorKind::Unavailable));
    *manager.slow.lock().unwrap() = Duration::from_secs(10);
    let short = FetchOptions::within(Duration::from_secs(2));
    let started = Instant::now();
    assert_eq!(one(&cache, "a", short).await, stale("one"), "the waiter's own deadline");
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    sleep(Duration::from_secs(9)).await;
    let before = manager.calls();
    assert_eq!(one(&cache, "a", ordinary()).await, stale("one"));
    assert_eq!(manager.calls(), before, "it is left alone for a while");
    advance(Duration::from_secs(6)).await;
    *manager.slow.lock().unwrap() = Duration::ZERO;
    manager.says("a", Ok("back"));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("back"));
}

#[tokio::test(start_paused = true)]
async fn refresh_asks_and_offline_never_does() {
    let (manager, cache) = cached(STALE);
    assert_eq!(one(&cache, "a", offline()).await, Err(ErrorKind::Stale));
    assert_eq!(manager.calls(), 0);
    manager.says("a", Ok("one"));
    one(&cache, "a", ordinary()).await.unwrap();
    manager.says("a", Ok("two"));
    assert_eq!(one(&cache, "a", offline()).await, fresh("one"));
    assert_eq!(one(&cache, "a", refresh()).await, fresh("two"));
    manager.says("a", Ok("three"));
    advance(TTL).await;
    assert_eq!(one(&cache, "a", offline()).await, stale("two"));
    assert_eq!(manager.calls(), 2);
    advance(STALE).await;
    assert!(one(&cache, "a", offline()).await.is_err());
    assert_eq!(manager.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_there_is_one_flight_per_secret() {
    let (manager, cache) = cached(Duration::ZERO);
    *manager.slow.lock().unwrap() = Duration::from_millis(50);
    for name in ["a", "b", "c"] {
        manager.says(name, Ok(name));
    }
    let asking: Vec<_> = (0..200)
        .map(|n| {
            let cache = Arc::clone(&cache);
            // Different mixes: the second flight fetches only what the first does not.
            let names = if n % 2 == 0 { vec!["a", "b"] } else { vec!["b", "c"] };
            tokio::spawn(async move {
                let references: Vec<_> = names.iter().map(|name| reference(name)).collect();
                let results = cache.fetch(&references, ordinary()).await;
                for (name, result) in names.iter().zip(results) {
                    assert_eq!(result.unwrap().value.expose(), name.as_bytes());
                }
            })
        })
        .collect();
    for task in asking {
        task.await.unwrap();
    }
    assert_eq!((manager.calls(), manager.fetched.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_the_flight_from_nobody() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    *manager.slow.lock().unwrap() = Duration::from_secs(1);
    let first = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", ordinary()).await }
    });
    sleep(Duration::from_millis(100)).await;
    let second = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", ordinary()).await }
    });
    sleep(Duration::from_millis(100)).await;
    first.abort();
    assert_eq!(second.await.unwrap(), fresh("one"));
    assert_eq!(manager.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hurried_caller_does_not_cut_the_flight_short_for_the_others() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    *manager.slow.lock().unwrap() = Duration::from_secs(3);
    let hurried = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", FetchOptions::within(Duration::from_secs(1))).await }
    });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("one"));
    assert_eq!(hurried.await.unwrap(), Err(ErrorKind::Unavailable));
    assert_eq!(manager.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_panics_fails_its_waiters_and_blocks_nobody_after() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    *manager.panics.lock().unwrap() = true;
    assert_eq!(one(&cache, "a", ordinary()).await, Err(ErrorKind::Unavailable));
    *manager.panics.lock().unwrap() = false;
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("one"));
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_gone_and_a_running_flight_does_not_bring_it_back() {
    let (manager, cache) = cached(STALE);
    manager.says("a", Ok("one"));
    let gate = Arc::new(Notify::new());
    *manager.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let waiting = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", ordinary()).await }
    });
    sleep(Duration::from_millis(1)).await;
    cache.forget();
    gate.notify_one();
    assert_eq!(waiting.await.unwrap(), fresh("one"), "who waits is served");
    assert_eq!((cache.held(), manager.alive()), (0, 0), "and nothing is kept");
}

#[tokio::test(start_paused = true)]
async fn a_write_is_seen_at_once_even_past_a_running_flight() {
    let (manager, cache) = cached(STALE);
    manager.says("a", Ok("old"));
    let gate = Arc::new(Notify::new());
    *manager.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let waiting = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", ordinary()).await }
    });
    sleep(Duration::from_millis(1)).await;
    cache.put(&reference("a"), SecretValue::from("new".to_owned()), ordinary().deadline).await.unwrap();
    *manager.gate.lock().unwrap() = None;
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("new"), "the flight from before is not joined");
    gate.notify_one();
    assert_eq!(waiting.await.unwrap(), fresh("old"));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("new"), "and does not overwrite");
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_time_is_wiped_without_being_asked_for() {
    let (manager, cache) = cached(STALE);
    for name in ["a", "b"] {
        manager.says(name, Ok(name));
        one(&cache, name, ordinary()).await.unwrap();
    }
    assert_eq!((cache.held(), manager.alive()), (2, 2));
    sleep(TTL + STALE - Duration::from_secs(1)).await;
    assert_eq!(manager.alive(), 2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((cache.held(), manager.alive()), (0, 0));
    // And again after a sweep has ended.
    one(&cache, "a", ordinary()).await.unwrap();
    sleep(TTL + STALE + Duration::from_secs(1)).await;
    assert_eq!(manager.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_entries_is_bounded_and_the_oldest_go_first() {
    let (manager, cache) = cached(Duration::ZERO);
    for batch in 0..6 {
        let references: Vec<_> = (0..1000).map(|n| reference(&format!("{batch}-{n}"))).collect();
        references.iter().for_each(|r| manager.says(&r.path, Ok("x")));
        cache.fetch(&references, ordinary()).await;
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!((cache.held(), manager.alive()), (4096, 4096));
    let before = manager.calls();
    one(&cache, "5-0", ordinary()).await.unwrap();
    assert_eq!(manager.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_does_not_join_a_flight_that_is_older_than_it() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("old"));
    *manager.slow.lock().unwrap() = Duration::from_secs(1);
    let waiting = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { one(&cache, "a", ordinary()).await }
    });
    sleep(Duration::from_millis(500)).await;
    manager.says("a", Ok("new"));
    assert_eq!(one(&cache, "a", refresh()).await, fresh("new"));
    assert_eq!(waiting.await.unwrap(), fresh("old"));
    assert_eq!(one(&cache, "a", ordinary()).await, fresh("new"));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_32_mib_of_values_are_held_and_the_oldest_go_first() {
    let (manager, cache) = cached(Duration::ZERO);
    let mebibyte = "v".repeat(1 << 20);
    for number in 0..40 {
        manager.says(&number.to_string(), Ok(&mebibyte));
        one(&cache, &number.to_string(), ordinary()).await.unwrap();
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!((cache.held(), manager.alive()), (32, 32));
    for (number, calls) in [(39, 40), (8, 40), (7, 41)] {
        one(&cache, &number.to_string(), ordinary()).await.unwrap();
        assert_eq!(manager.calls(), calls, "{number}");
    }

    // One that is too large by itself is served and not held, and costs the others their place once.
    manager.says("huge", Ok(&"v".repeat(33 << 20)));
    one(&cache, "huge", ordinary()).await.unwrap();
    assert_eq!(manager.alive(), cache.held());
    manager.says("small", Ok("v"));
    assert_eq!(one(&cache, "small", ordinary()).await, fresh("v"));
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_fetch_whose_time_is_over() {
    let (manager, cache) = cached(Duration::ZERO);
    manager.says("a", Ok("one"));
    // It never answers, and has not noticed yet that its time is over.
    *manager.gate.lock().unwrap() = Some(Arc::new(Notify::new()));
    assert_eq!(one(&cache, "a", refresh()).await, Err(ErrorKind::Unavailable));
    *manager.gate.lock().unwrap() = None;
    assert_eq!(one(&cache, "a", refresh()).await, fresh("one"));
    assert_eq!(manager.calls(), 2);
}
