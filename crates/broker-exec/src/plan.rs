//! What is to be launched, as a plain value.
//!
//! A plan holds everything that a launch needs and does nothing by itself, so that either side, the client in place or
//! later the daemon, can carry it out.

use std::ffi::OsString;
use std::path::PathBuf;

use broker_core::lease::LeaseId;
use broker_core::secret::SecretValue;
use rustix::process::Rlimit;

/// One launch.
#[derive(Debug)]
pub struct Plan {
    /// The program's file, as [`crate::command::find`] found it.
    pub program: PathBuf,
    /// The arguments, the first of which is the name as it was given.
    pub argv: Vec<OsString>,
    /// Where the child starts; none for where the launcher stands.
    pub cwd: Option<PathBuf>,
    /// The environment it builds on, in its order.
    pub inherited: Vec<(OsString, OsString)>,
    /// How much of `inherited` the child has.
    pub base: Base,
    /// The values, each with its way to the child.
    pub deliveries: Vec<Delivery>,
    /// Plain settings to set.
    pub settings: Vec<(String, String)>,
    /// Names that the child must not have, even from `inherited`.
    pub remove: Vec<String>,
    /// The lease that it runs under.
    pub lease: Option<LeaseId>,
    /// Whether a crash of the child may leave a core.
    pub core: Core,
}

/// How much of the caller's environment a child has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// All of it, but for what is removed.
    Everything,
    /// The short list of [`crate::environment::PRISTINE`].
    Pristine,
}

/// One value and its way to the child.
#[derive(Debug)]
pub enum Delivery {
    /// As an environment variable.
    Env {
        /// The variable.
        name: String,
        /// Its value.
        value: SecretValue,
    },
}

/// Whether a crash may leave a core, which would hold every value of the child.
#[derive(Clone, Debug)]
pub enum Core {
    /// It may not: soft and hard limit are one byte, and the child can't raise them.
    Forbidden,
    /// It may, within the limits that the caller had.
    Allowed(Rlimit),
}
