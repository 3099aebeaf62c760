//! Which secrets one run gets: a profile with what it extends, narrowed by `--only` and `--except`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{Manifest, Secret};
use super::local::Narrowing;
use crate::suggest::nearest;

/// Longest life of a grant whose profile names none.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// What the caller asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The profile, or the default one.
    pub profile: Option<String>,
    /// If not empty: these names and no others.
    pub only: Vec<String>,
    /// Not these names.
    pub except: Vec<String>,
    /// Not longer than this.
    pub ttl: Option<Duration>,
    /// What `broker.local.toml` takes away.
    pub narrowing: Narrowing,
}

/// What a run gets.
#[derive(Debug)]
pub struct Selection<'m> {
    /// The profile's name.
    pub profile: String,
    /// The selected secrets, by variable name, ordered.
    pub secrets: Vec<(&'m str, &'m Secret)>,
    /// Names of the manifest that this run must not have, even from its parent.
    pub withheld: BTreeSet<&'m str>,
    /// How long the grant lasts at most.
    pub ttl: Duration,
}

/// Why nothing can be selected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The profile does not exist.
    #[error("unknown profile `{name}`")]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// The nearest that exists.
        nearest: Option<String>,
        /// All that exist.
        known: Vec<String>,
    },
    /// Several profiles and no default.
    #[error("the manifest has several profiles and no `default-profile`")]
    NoDefault {
        /// All that exist.
        known: Vec<String>,
    },
    /// A name in `--only` or `--except` that the profile does not have.
    #[error("profile `{profile}` has no secret `{name}`")]
    UnknownSecret {
        /// The profile.
        profile: String,
        /// What was asked for.
        name: String,
        /// The nearest that it has.
        nearest: Option<String>,
    },
}

impl SelectError {
    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> String {
        let list = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self::UnknownProfile { nearest: Some(near), .. } | Self::UnknownSecret { nearest: Some(near), .. } => {
                format!("did you mean `{near}`?")
            }
            Self::UnknownProfile { known, .. } => format!("known are {}", list(known)),
            Self::NoDefault { known } => format!("choose one with `-P`: {}", list(known)),
            Self::UnknownSecret { profile, .. } => format!("see what it has: broker explain -P {profile}"),
        }
    }
}

/// Returns the name of an entry and of every variable that it fills.
fn names_of<'m>(name: &'m str, secret: &'m Secret) -> impl Iterator<Item = &'m str> {
    std::iter::once(name).chain(secret.variables.iter().map(|(variable, _)| variable.as_str()))
}

impl Manifest {
    /// Returns the name of the profile that is used when none is named.
    ///
    /// # Errors
    /// [`SelectError::NoDefault`] when the manifest does not decide it.
    pub fn default_profile(&self) -> Result<&str, SelectError> {
        match (&self.project.default_profile, self.profiles.len()) {
            (Some(name), _) => Ok(name),
            (None, 0) => Ok("default"),
            (None, 1) => Ok(self.profiles.keys().next().map_or("default", String::as_str)),
            (None, _) => Err(SelectError::NoDefault { known: self.profiles.keys().cloned().collect() }),
        }
    }

    /// Selects what a run gets. A manifest without profiles has one, `default`, with every secret.
    ///
    /// # Errors
    /// A profile or a secret that does not exist, or no profile where one has to be chosen.
    pub fn select(&self, wish: &Wish) -> Result<Selection<'_>, SelectError> {
        let profile = match &wish.profile {
            Some(name) => name.as_str(),
            None => self.default_profile()?,
        };
        let (mut names, ttl) = self.profile_names(profile)?;
        for name in wish.only.iter().chain(&wish.except) {
            if !names.contains(name.as_str()) {
                return Err(SelectError::UnknownSecret {
                    profile: profile.to_owned(),
                    name: name.clone(),
                    nearest: nearest(name, names.iter().copied()).map(str::to_owned),
                });
            }
        }
        names.retain(|n| {
            (wish.only.is_empty() || wish.only.iter().any(|o| o == n)) && !wish.except.iter().any(|e| e == n)
        });
        names.retain(|n| !wish.narrowing.except.iter().any(|e| e == n));
        let ttl = [wish.ttl, wish.narrowing.ttl].into_iter().flatten().fold(ttl, Duration::min);
        let (selected, withheld): (Vec<_>, Vec<_>) =
            self.secrets.iter().map(|(n, s)| (n.as_str(), s)).partition(|(n, _)| names.contains(n));
        Ok(Selection {
            profile: profile.to_owned(),
            secrets: selected,
            withheld: withheld.into_iter().flat_map(|(name, secret)| names_of(name, secret)).collect(),
            ttl,
        })
    }

    fn unknown_profile(&self, name: &str) -> SelectError {
        let known: Vec<&str> = match self.profiles.len() {
            0 => vec!["default"],
            _ => self.profiles.keys().map(String::as_str).collect(),
        };
        SelectError::UnknownProfile {
            name: name.to_owned(),
            nearest: nearest(name, known.iter().copied()).map(str::to_owned),
            known: known.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Returns the names that a profile selects, its ancestors' too, and its time to live.
    fn profile_names(&self, name: &str) -> Result<(BTreeSet<&str>, Duration), SelectError> {
        if self.profiles.is_empty() && name == "default" {
            return Ok((self.secrets.keys().map(String::as_str).collect(), DEFAULT_TTL));
        }
        let mut names = BTreeSet::new();
        let mut ttl = None;
        let mut next = Some(name);
        while let Some(name) = next {
            let profile = self.profiles.get(name).ok_or_else(|| self.unknown_profile(name))?;
            names.extend(profile.secrets.iter().map(String::as_str));
            ttl = ttl.or(profile.ttl);
            next = profile.extends.as_deref();
        }
        Ok((names, ttl.unwrap_or(DEFAULT_TTL)))
    }
}
