//! A provider in front of a provider: holds what was fetched, and asks once however many want it.
//!
//! One cache belongs to one opened provider, so to one identity: what it holds was fetched with exactly that sign-in.
//! Three durations rule it. A value is served for `ttl`; "not found" and "denied" for `negative-ttl`; past `ttl` and
//! within `max-stale` a value stands in, marked stale, while the manager is away (throttled, unavailable, nonsense), and
//! never for a refusal. What is past both is wiped by a sweep and does not wait to be asked for. `forget`, `put` and
//! `delete` also cut running flights off: they answer those who wait and leave nothing behind.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::instance::Timing;
use broker_core::reference::SecretRef;
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::Stamp;
use crate::flight::{Brought, Flight, Landing, Pilot};
use crate::issue::{Ending, Issued, Order, SessionPolicy};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};

/// Most secrets that one cache holds; the longest held goes first.
const MAX_ENTRIES: usize = 4096;

/// Most bytes of values that one cache holds; the longest held goes first.
const MAX_BYTES: usize = 32 << 20;

/// After a failure, how long a stale value is served without asking again. Keeps a dead manager from costing every
/// command a full timeout.
const HOLD_OFF: Duration = Duration::from_secs(5);

/// Caches the provider below.
pub struct Cached {
    cache: Arc<Cache>,
}

struct Cache {
    instance: String,
    below: Arc<dyn Provider>,
    timing: Timing,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    entries: HashMap<SecretRef, Entry>,
    sweeping: bool,
}

#[derive(Default)]
struct Entry {
    answer: Option<Answer>,
    flight: Option<Arc<Flight>>,
    /// After a failure that a stale value stands in for: until when nobody asks again.
    rests_until: Option<Instant>,
}

enum Answer {
    Value(Fetched, Stamp),
    /// Boxed: refusals are few and would make every entry three times as large.
    Refusal(Box<ProviderError>, Stamp),
}

/// What one reference of a fetch waits for.
#[expect(clippy::large_enum_variant, reason = "on a warm run all are done: a box would cost each an allocation")]
enum Wait {
    Done(Result<Fetched, ProviderError>),
    For(Arc<Flight>),
}

impl Cached {
    /// Returns an empty cache in front of `below`.
    #[must_use]
    pub fn new(instance: &str, below: Arc<dyn Provider>, timing: Timing) -> Self {
        let cache = Cache { instance: instance.to_owned(), below, timing, held: Mutex::default() };
        Self { cache: Arc::new(cache) }
    }

    /// Returns the number of values held.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = self.cache.lock();
        held.entries.values().filter(|entry| matches!(entry.answer, Some(Answer::Value(..)))).count()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Provider for Cached {
    fn capabilities(&self) -> Capabilities {
        self.cache.below.capabilities()
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let (waits, pilot) = self.cache.board(references, options);
        if let Some((pilot, wanted)) = pilot {
            self.cache.start(pilot, wanted, options);
        }
        let mut results = Vec::with_capacity(references.len());
        for (reference, wait) in references.iter().zip(waits) {
            results.push(match wait {
                Wait::Done(result) => result,
                Wait::For(flight) => match flight.landed(options.deadline).await {
                    Landing::Brought(brought) => match brought.get(reference) {
                        Some(result) => self.cache.or_stale(reference, result.clone()),
                        None => {
                            Err(self.cache.error(reference, ErrorKind::Malformed, "the provider gave no answer for it"))
                        }
                    },
                    Landing::Lost => {
                        Err(self.cache.error(reference, ErrorKind::Unavailable, "the fetch was broken off"))
                    }
                    Landing::Late => {
                        let late = self.cache.error(reference, ErrorKind::Unavailable, "no answer before the deadline");
                        self.cache.or_stale(reference, Err(late))
                    }
                },
            });
        }
        results
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let done = self.cache.below.put(reference, value, deadline).await;
        // Whether or not it succeeded: a write that failed late may still have happened. All entries, since a secret has
        // several names (ARN, stages).
        self.cache.empty();
        done
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = self.cache.below.delete(reference, deadline).await;
        self.cache.empty();
        done
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        self.cache.below.list(options, deadline).await
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        self.cache.below.describe(reference, deadline).await
    }

    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = self.cache.below.promote(reference, deadline).await;
        self.cache.empty();
        done
    }

    async fn demote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = self.cache.below.demote(reference, deadline).await;
        self.cache.empty();
        done
    }

    fn can_narrow(&self) -> bool {
        self.cache.below.can_narrow()
    }

    fn narrowed(&self, scope: &Arc<Scope>) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
        self.cache.below.narrowed(scope)
    }

    fn session_policies(&self) -> Vec<SessionPolicy> {
        self.cache.below.session_policies()
    }

    async fn issues(&self, references: &[SecretRef], deadline: Instant) -> Vec<bool> {
        self.cache.below.issues(references, deadline).await
    }

    async fn issue(
        &self,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Vec<Result<Issued, ProviderError>> {
        // Of one run alone: neither held nor shared.
        self.cache.below.issue(references, order, deadline).await
    }

    async fn renew(&self, ending: &Ending, left: Duration, deadline: Instant) -> Result<Timestamp, ProviderError> {
        self.cache.below.renew(ending, left, deadline).await
    }

    async fn revoke(&self, ending: &Ending, deadline: Instant) -> Result<(), ProviderError> {
        self.cache.below.revoke(ending, deadline).await
    }

    fn forget(&self) {
        self.cache.empty();
        self.cache.below.forget();
    }
}

impl Cache {
    /// Decides for each reference, under one lock, what is served as it is, which flight is joined and which must start.
    fn board(&self, references: &[SecretRef], options: FetchOptions) -> (Vec<Wait>, Option<(Pilot, Vec<SecretRef>)>) {
        let now = Stamp::now();
        let mut started: Option<(Pilot, Vec<SecretRef>)> = None;
        let mut held = self.lock();
        let waits = references
            .iter()
            .map(|reference| {
                if let Some(result) = self.at_hand(held.entries.get(reference), reference, options, now) {
                    return Wait::Done(result);
                }
                let entry = held.entries.entry(reference.clone()).or_default();
                // A refresh wants to see what was written before it began, so it joins no older ordinary flight.
                if let Some(flight) = entry.flight.as_ref().filter(|f| !f.is_over() && (f.refresh || !options.refresh))
                {
                    return Wait::For(Arc::clone(flight));
                }
                let (pilot, wanted) = started.get_or_insert_with(|| {
                    // At least the instance's timeout, even if this caller has less.
                    let until = options.deadline.max(Instant::now() + self.timing.timeout);
                    (Flight::new(options.refresh, until).1, Vec::new())
                });
                wanted.push(reference.clone());
                entry.flight = Some(Arc::clone(pilot.flight()));
                Wait::For(Arc::clone(pilot.flight()))
            })
            .collect();
        (waits, started)
    }

    /// Returns what can be answered without the manager, if anything.
    fn at_hand(
        &self,
        entry: Option<&Entry>,
        reference: &SecretRef,
        options: FetchOptions,
        now: Stamp,
    ) -> Option<Result<Fetched, ProviderError>> {
        match entry.and_then(|entry| entry.answer.as_ref()) {
            Some(Answer::Value(fetched, since)) => {
                let age = since.age(now);
                if age < self.timing.ttl && !options.refresh {
                    return Some(Ok(fetched.clone()));
                }
                let rests = entry.and_then(|entry| entry.rests_until).is_some_and(|until| Instant::now() < until);
                if self.may_stand_in(age) && (options.offline || (rests && !options.refresh)) {
                    return Some(Ok(Fetched { stale: age >= self.timing.ttl, ..fetched.clone() }));
                }
                options.offline.then(|| {
                    let cause = "what is held is older than `ttl` and `max-stale` allow, and `--offline` asks nobody";
                    Err(self.error(reference, ErrorKind::Stale, cause))
                })
            }
            Some(Answer::Refusal(error, since)) if since.age(now) < self.timing.negative_ttl && !options.refresh => {
                Some(Err((**error).clone()))
            }
            _ => options.offline.then(|| {
                let error = self.error(reference, ErrorKind::Stale, "nothing is held and `--offline` asks nobody");
                Err(ProviderError { hint: Some("run once without `--offline`".to_owned()), ..error })
            }),
        }
    }

    /// Fetches `wanted` in a task of its own.
    fn start(self: &Arc<Self>, pilot: Pilot, wanted: Vec<SecretRef>, options: FetchOptions) {
        let cache = Arc::clone(self);
        let deadline = pilot.flight().until;
        tokio::spawn(async move {
            let results = cache.below.fetch(&wanted, FetchOptions { deadline, ..options }).await;
            let brought: Brought = wanted.into_iter().zip(results).collect();
            cache.keep(pilot.flight(), &brought);
            pilot.land(brought);
        });
    }

    /// Keeps what `flight` brought, for entries that still wait for it.
    fn keep(self: &Arc<Self>, flight: &Arc<Flight>, brought: &Brought) {
        let now = Stamp::now();
        let mut held = self.lock();
        for (reference, result) in brought {
            // Forgotten, written or refreshed meanwhile: this result is from before.
            let Some(entry) =
                held.entries.get_mut(reference).filter(|e| e.flight.as_ref().is_some_and(|f| Arc::ptr_eq(f, flight)))
            else {
                continue;
            };
            entry.flight = None;
            match result {
                Ok(fetched) => {
                    entry.rests_until = None;
                    let keeps = self.timing.ttl > Duration::ZERO || self.timing.max_stale > Duration::ZERO;
                    entry.answer = keeps.then(|| Answer::Value(fetched.clone(), now));
                }
                Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Denied) => {
                    entry.rests_until = None;
                    entry.answer = (self.timing.negative_ttl > Duration::ZERO)
                        .then(|| Answer::Refusal(Box::new(error.clone()), now));
                }
                Err(error) => {
                    let wait = if let Retry::After(wait) = error.retry {
                        wait.clamp(HOLD_OFF, 6 * HOLD_OFF)
                    } else {
                        HOLD_OFF
                    };
                    if error.kind.allows_stale() {
                        entry.rests_until = Some(Instant::now() + wait);
                    }
                }
            }
        }
        held.entries.retain(|_, entry| entry.answer.is_some() || entry.flight.is_some());
        held.drop_longest_held(now);
        if !held.sweeping && held.entries.values().any(|entry| entry.answer.is_some()) {
            held.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Returns `result`, or, where it failed in a way that allows it, the stale value that is held.
    fn or_stale(
        &self,
        reference: &SecretRef,
        result: Result<Fetched, ProviderError>,
    ) -> Result<Fetched, ProviderError> {
        let Err(error) = result else { return result };
        if !error.kind.allows_stale() {
            return Err(error);
        }
        let now = Stamp::now();
        match self.lock().entries.get(reference).and_then(|entry| entry.answer.as_ref()) {
            Some(Answer::Value(fetched, since))
                if !self.timing.max_stale.is_zero() && self.may_stand_in(since.age(now)) =>
            {
                Ok(Fetched { stale: true, ..fetched.clone() })
            }
            _ => Err(error),
        }
    }

    /// Tells whether a value of this age may be served while the manager is not asked or away.
    fn may_stand_in(&self, age: Duration) -> bool {
        age < self.timing.ttl.saturating_add(self.timing.max_stale)
    }

    /// Returns how much longer `answer` may be held, or nothing when its time is over.
    fn left(&self, answer: &Answer, now: Stamp) -> Option<Duration> {
        let left = match answer {
            Answer::Value(_, since) => {
                self.timing.ttl.saturating_add(self.timing.max_stale).saturating_sub(since.age(now))
            }
            Answer::Refusal(_, since) => self.timing.negative_ttl.saturating_sub(since.age(now)),
        };
        (!left.is_zero()).then_some(left)
    }

    /// Drops what is past its time. Returns how long until the next entry is, or nothing when none is left.
    fn wipe_outdated(&self) -> Option<Duration> {
        let now = Stamp::now();
        let mut held = self.lock();
        let mut next: Option<Duration> = None;
        held.entries.retain(|_, entry| {
            let left = entry.answer.as_ref().and_then(|answer| self.left(answer, now));
            match left {
                Some(left) => next = Some(next.map_or(left, |next| next.min(left))),
                None => entry.answer = None,
            }
            left.is_some() || entry.flight.as_ref().is_some_and(|flight| !flight.is_over())
        });
        if next.is_none() {
            held.sweeping = false;
            held.entries.shrink_to_fit();
        }
        next
    }

    /// Drops everything held. Flights go on for those who wait and are no longer any entry's.
    fn empty(&self) {
        self.lock().entries.clear();
    }

    fn error(&self, reference: &SecretRef, kind: ErrorKind, cause: &str) -> ProviderError {
        ProviderError {
            kind,
            instance: self.instance.clone(),
            reference: Some(reference.clone()),
            cause: cause.to_owned(),
            hint: None,
            retry: match kind {
                ErrorKind::Unavailable => Retry::After(HOLD_OFF),
                _ => Retry::Never,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // A panic under the lock can at worst lose an entry, never mix two up.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Drops what was held longest until the rest is within [`MAX_ENTRIES`] and [`MAX_BYTES`].
    fn drop_longest_held(&mut self, now: Stamp) {
        let mut entries = self.entries.len();
        let mut bytes: usize = self.entries.values().map(Entry::bytes).sum();
        if entries <= MAX_ENTRIES && bytes <= MAX_BYTES {
            return;
        }
        // Entries without an answer wait for a flight and hold nothing yet.
        let mut by_age: Vec<_> = self.entries.iter().filter_map(|(r, e)| Some((e.age(now)?, r, e.bytes()))).collect();
        by_age.sort_unstable_by_key(|(age, ..)| std::cmp::Reverse(*age));
        let mut oldest = Vec::new();
        for (_, reference, size) in by_age {
            if entries <= MAX_ENTRIES && bytes <= MAX_BYTES {
                break;
            }
            oldest.push(reference.clone());
            (entries, bytes) = (entries - 1, bytes - size);
        }
        for reference in oldest {
            self.entries.remove(&reference);
        }
    }
}

impl Entry {
    fn age(&self, now: Stamp) -> Option<Duration> {
        match &self.answer {
            Some(Answer::Value(_, since) | Answer::Refusal(_, since)) => Some(since.age(now)),
            None => None,
        }
    }

    /// Returns the length of the value held, in bytes.
    fn bytes(&self) -> usize {
        match &self.answer {
            Some(Answer::Value(fetched, _)) => fetched.value.len(),
            _ => 0,
        }
    }
}

/// Longest pause of the sweep. Its timer stands still while the machine sleeps, so it looks again soon after waking.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Wipes what is past its time, and ends when nothing is left to wait for.
async fn sweep(cache: Weak<Cache>) {
    loop {
        let Some(pause) = cache.upgrade().and_then(|cache| cache.wipe_outdated()) else {
            return;
        };
        tokio::time::sleep(pause.clamp(Duration::from_millis(1), MAX_PAUSE)).await;
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("below", &self.cache.below).field("held", &self.held()).finish_non_exhaustive()
    }
}
