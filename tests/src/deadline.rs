//! Waiting for a condition, never for a time: every wait has a deadline and says what it waited for.

use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition that nothing can announce.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until `condition` gives something, and returns it.
///
/// # Panics
/// When [`PATIENCE`] runs out, naming `what`.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain until {what}"))
}

/// Looks until `condition` gives something or `limit` has passed.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `condition` holds.
///
/// # Panics
/// When [`PATIENCE`] runs out, naming `what`.
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}
