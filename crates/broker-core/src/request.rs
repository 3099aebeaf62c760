//! What is asked for, in the words that policy and audit share.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::principal::Principal;
use crate::reference::SecretRef;

/// What somebody wants to do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Hand it to a child process.
    Use,
    /// See the value.
    Read,
    /// Set, rotate or remove it.
    Write,
    /// Change policy, trust or approvers.
    Admin,
}

/// One request, complete before any decision is made.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// What they want to do.
    pub right: Right,
    /// The project's name in its manifest; empty for a request outside any project.
    pub project: String,
    /// The profile that was chosen; empty outside any project.
    pub profile: String,
    /// The references concerned.
    pub references: Vec<SecretRef>,
    /// The command to run, as given; empty when nothing is run.
    pub argv: Vec<String>,
    /// Where the client stands.
    pub cwd: PathBuf,
    /// The reason that was given.
    pub reason: Option<String>,
    /// How long the grant shall last at most.
    pub ttl: Duration,
}
