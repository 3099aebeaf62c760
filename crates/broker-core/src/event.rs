//! Audit records: one JSON object a line, complete in itself, never a value.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::code::ErrorCode;
use crate::decision::Decision;
use crate::lease::{Credential, EndedCredential, Lease, LeaseEnd, LeaseId};
use crate::principal::Principal;
use crate::reference::SecretRef;
use crate::request::Right;

/// One line of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// When, in UTC.
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The daemon began to serve.
    DaemonStarted {
        /// Its version.
        version: String,
        /// Its process id.
        pid: u32,
    },
    /// The daemon stopped on purpose.
    DaemonStopped {
        /// Why.
        reason: String,
    },
    /// A request was decided on. With `lease` the decision was to deliver and the lease starts here.
    Request {
        /// Who asked.
        principal: Box<Principal>,
        /// What for.
        right: Right,
        /// What was decided and by which rule.
        decision: Decision,
        /// The project, empty outside one.
        project: String,
        /// The profile, empty outside a project.
        profile: String,
        /// The references concerned.
        references: Vec<SecretRef>,
        /// The command.
        argv: Vec<String>,
        /// Where it was asked.
        cwd: PathBuf,
        /// The reason given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The lease that starts with this record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<Box<Lease>>,
    },
    /// A lease ended.
    LeaseEnded {
        /// Which one.
        lease: LeaseId,
        /// How.
        how: LeaseEnd,
        /// The code of the failure, where one ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorCode>,
        /// What became of the credentials that were issued for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        credentials: Vec<EndedCredential>,
    },
    /// A lease ends, and managers are asked to revoke what was issued for it. Its end is on record when they have.
    LeaseEnding {
        /// Which one.
        lease: LeaseId,
        /// How.
        how: LeaseEnd,
    },
    /// Credentials were issued for a lease. Written before they are delivered, and again when one was renewed beyond what
    /// the record before says.
    Issued {
        /// For which one.
        lease: LeaseId,
        /// All of them as they are now.
        credentials: Vec<Credential>,
    },
    /// A secret was set, generated or removed.
    SecretChanged {
        /// Which one.
        reference: SecretRef,
        /// `set`, `generated` or `removed`.
        change: String,
        /// `done`, or the code of the failure.
        outcome: String,
    },
    /// Somebody signed in to a provider instance.
    SignedIn {
        /// Which one.
        instance: String,
        /// As whom, in the manager's words.
        who: String,
    },
    /// Somebody signed out of a provider instance.
    SignedOut {
        /// Which one.
        instance: String,
    },
    /// A manifest was trusted.
    Trusted {
        /// Where it lies.
        manifest: PathBuf,
        /// SHA-256 of its bytes, in hex.
        sha256: String,
    },
    /// Everything held was forgotten.
    Locked {
        /// How many leases that ended.
        leases: usize,
    },
    /// The log was rotated; these leases are still live.
    Carried {
        /// The live leases.
        leases: Vec<Lease>,
    },
}
