//! The age of things, told by a clock that a suspended machine cannot stop.
//!
//! Tokio's clock is the monotonic one, which stands still while a machine sleeps: a value fetched before the lid was
//! closed would be fresh the next morning. `CLOCK_BOOTTIME` goes on (`clock_gettime(2)`), so an age is the larger of
//! what both clocks say. Neither follows a wall clock that is set back.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    monotonic: Instant,
    boot: Duration,
}

impl Stamp {
    /// Returns now.
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), boot: boot_time() }
    }

    /// Returns how long ago, seen from `now`, this was.
    pub(crate) fn age(self, now: Self) -> Duration {
        now.monotonic.saturating_duration_since(self.monotonic).max(now.boot.saturating_sub(self.boot))
    }
}

fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}
