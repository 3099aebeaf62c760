//! How much one project may have: leases at a time, leases and issued credentials in a minute.
//!
//! A loop that went wrong, or an agent that collects, meets a clear refusal long before the manager does. Nothing here is
//! a decision about who may have what: that is policy's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The limits of every project, as configured in `[quota]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Live leases at a time.
    pub(crate) leases: u32,
    /// Leases that begin within a minute.
    pub(crate) leases_per_minute: u32,
    /// Credentials that are issued within a minute.
    pub(crate) issued_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { leases: 256, leases_per_minute: 600, issued_per_minute: 60 }
    }
}

/// Which limit is reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    /// Too many at a time.
    #[error("the project `{project}` has {limit} live leases, which is all it may have at a time")]
    Live {
        /// The project.
        project: String,
        /// How many it may have.
        limit: u32,
    },
    /// Too many begun.
    #[error("the project `{project}` began {limit} leases within a minute, which is all it may")]
    Begun {
        /// The project.
        project: String,
        /// How many it may begin.
        limit: u32,
    },
    /// Too many of all projects together.
    #[error("all projects together began or were issued {limit} within a minute, which is all they may")]
    Together {
        /// How many they may.
        limit: u32,
    },
    /// Too many issued.
    #[error("{limit} credentials were issued for the project `{project}` within a minute, which is all it may have")]
    Issued {
        /// The project.
        project: String,
        /// How many it may have.
        limit: u32,
    },
}

impl Exceeded {
    /// Returns one way out.
    pub(crate) fn hint(&self) -> String {
        let (key, first) = match self {
            Self::Live { .. } => ("leases", "end what is not needed: broker lease list"),
            Self::Begun { .. } | Self::Together { .. } => ("leases-per-minute", "wait a minute"),
            Self::Issued { .. } => ("issued-per-minute", "wait a minute"),
        };
        format!("{first}; or raise `{key}` under `[quota]` in `config.toml`")
    }
}

/// How many times the limit of one project all of them together may have within a minute.
const TOGETHER: u32 = 4;

const MINUTE: Duration = Duration::from_secs(60);

/// How many projects are remembered before those are forgotten that had nothing lately.
const MANY: usize = 256;

/// What every project had within the last minute.
#[derive(Default)]
pub(crate) struct Quota {
    projects: Mutex<HashMap<String, Recent>>,
}

/// The moments of one project, on the clock that no one sets.
#[derive(Default)]
struct Recent {
    /// Leases that were counted and are not live yet.
    pending: usize,
    begun: VecDeque<Duration>,
    issued: VecDeque<Duration>,
}

impl Quota {
    /// Counts a lease that is to begin, until it is [settled](Self::settled). `live` is how many the project has, `issues`
    /// what will be issued for it.
    ///
    /// # Errors
    /// The limit that is reached; nothing is counted then.
    pub(crate) fn begin(
        &self,
        project: &str,
        limits: Limits,
        now: Duration,
        live: usize,
        issues: Issues,
    ) -> Result<(), Exceeded> {
        let of = |limit: u32| (project.to_owned(), limit);
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if projects.len() >= MANY && !projects.contains_key(project) {
            // Names of projects are free: those that had nothing lately are forgotten.
            projects.retain(|_, recent| recent.is_any_after(now));
        }
        if let Some(limit) = exceeded_together(&mut projects, limits, now) {
            return Err(Exceeded::Together { limit });
        }
        let recent = projects.entry(project.to_owned()).or_default();
        recent.forget_before(now);
        if live + recent.pending >= limits.leases as usize {
            let (project, limit) = of(limits.leases);
            return Err(Exceeded::Live { project, limit });
        }
        if recent.begun.len() >= limits.leases_per_minute as usize {
            let (project, limit) = of(limits.leases_per_minute);
            return Err(Exceeded::Begun { project, limit });
        }
        let needed = issues.sure + usize::from(issues.sure == 0 && issues.perhaps);
        if needed > 0 && recent.issued.len() + needed > limits.issued_per_minute as usize {
            let (project, limit) = of(limits.issued_per_minute);
            return Err(Exceeded::Issued { project, limit });
        }
        recent.begun.push_back(now);
        recent.pending += 1;
        Ok(())
    }

    /// Takes note that a lease which was counted is live now, or never will be.
    pub(crate) fn settled(&self, project: &str) {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = projects.get_mut(project) {
            recent.pending = recent.pending.saturating_sub(1);
        }
    }

    /// Counts credentials that were issued.
    pub(crate) fn issued(&self, project: &str, now: Duration, count: usize) {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = projects.entry(project.to_owned()).or_default();
        recent.issued.extend(std::iter::repeat_n(now, count));
    }
}

/// Returns the limit that all projects together have reached, if they have: a name of a project costs nothing.
fn exceeded_together(projects: &mut HashMap<String, Recent>, limits: Limits, now: Duration) -> Option<u32> {
    let begun = limits.leases_per_minute.saturating_mul(TOGETHER);
    let issued = limits.issued_per_minute.saturating_mul(TOGETHER);
    let reached = |projects: &HashMap<String, Recent>| {
        let sum = |of: fn(&Recent) -> usize| projects.values().map(of).sum::<usize>();
        let is_over = |sum: usize, limit: u32| (sum >= limit as usize).then_some(limit);
        is_over(sum(|recent| recent.begun.len()), begun).or(is_over(sum(|recent| recent.issued.len()), issued))
    };
    reached(projects)?;
    // Not before it matters: those that were not asked about for a while still count what is over.
    projects.retain(|_, recent| recent.is_any_after(now));
    reached(projects)
}

/// What is known of a run before anything is issued for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Issues {
    /// How many credentials are sure to be issued.
    pub(crate) sure: usize,
    /// Whether there may be some: of a manager that has both, stored secrets and issued ones.
    pub(crate) perhaps: bool,
}

impl Recent {
    fn is_any_after(&mut self, now: Duration) -> bool {
        self.forget_before(now);
        self.pending > 0 || !self.begun.is_empty() || !self.issued.is_empty()
    }

    fn forget_before(&mut self, now: Duration) {
        for moments in [&mut self.begun, &mut self.issued] {
            while moments.front().is_some_and(|moment| now.saturating_sub(*moment) >= MINUTE) {
                moments.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { leases: 3, leases_per_minute: 5, issued_per_minute: 4 };
    const NONE: Issues = Issues { sure: 0, perhaps: false };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn each_limit_is_of_one_project_and_of_one_minute() {
        let quota = Quota::default();
        assert!(matches!(quota.begin("shop", LIMITS, at(0), 3, NONE), Err(Exceeded::Live { limit: 3, .. })));
        for second in 0..5 {
            quota.begin("shop", LIMITS, at(second), 0, NONE).unwrap();
            quota.settled("shop");
        }
        assert!(matches!(quota.begin("shop", LIMITS, at(5), 0, NONE), Err(Exceeded::Begun { limit: 5, .. })));
        quota.begin("other", LIMITS, at(5), 0, NONE).unwrap();
        quota.begin("shop", LIMITS, at(60), 0, NONE).unwrap();
    }

    #[test]
    fn another_name_of_the_project_is_no_way_round() {
        let quota = Quota::default();
        let begin = |n: u32, second| quota.begin(&format!("shop-{n}"), LIMITS, at(second), 0, NONE);
        (0..20).for_each(|n| begin(n, 0).unwrap());
        assert!(matches!(begin(20, 1), Err(Exceeded::Together { limit: 20 })));
        (0..20).for_each(|n| quota.settled(&format!("shop-{n}")));
        begin(20, 60).unwrap();
    }

    #[test]
    fn a_lease_that_is_about_to_begin_counts_as_one() {
        let quota = Quota::default();
        quota.begin("shop", LIMITS, at(0), 2, NONE).unwrap();
        assert!(matches!(quota.begin("shop", LIMITS, at(0), 2, NONE), Err(Exceeded::Live { .. })));
        quota.settled("shop");
        quota.begin("shop", LIMITS, at(0), 2, NONE).unwrap();
    }

    #[test]
    fn what_is_issued_counts_when_it_was_and_is_refused_before_it_is() {
        let quota = Quota::default();
        quota.issued("shop", at(0), 3);
        let sure = |sure| Issues { sure, perhaps: false };
        assert!(matches!(quota.begin("shop", LIMITS, at(1), 0, sure(2)), Err(Exceeded::Issued { limit: 4, .. })));
        quota.begin("shop", LIMITS, at(1), 0, sure(1)).unwrap();
        quota.issued("shop", at(1), 1);
        let perhaps = Issues { sure: 0, perhaps: true };
        assert!(matches!(quota.begin("shop", LIMITS, at(2), 0, perhaps), Err(Exceeded::Issued { .. })));
        // Whoever is issued nothing is not concerned.
        quota.begin("shop", LIMITS, at(2), 0, NONE).unwrap();
        quota.begin("shop", LIMITS, at(61), 0, sure(4)).unwrap();
    }
}
