//! The messages of the socket, version [`PROTOCOL`].
//!
//! HTTP/1.1 over the Unix socket, JSON bodies, one exception: the answer to a grant (and to `get`) is one line of JSON,
//! [`GrantHead`], followed by the raw bytes of the values in the order and with the lengths that the line names. So no
//! value passes through a JSON encoder on either side.

use std::path::PathBuf;

use broker_core::code::ErrorCode;
use broker_core::diagnostic::Diagnostic;
use broker_core::lease::{Lease, LeaseId, WatchSignal};
use broker_core::principal::Principal;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::directories::Directories;

/// Version of this protocol. Client and daemon must have the same.
pub const PROTOCOL: u32 = 3;

/// Largest request and largest answer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// `GET /v1/attest`: the first exchange of a connection. The daemon has looked at the peer once when it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attested {
    /// The daemon's protocol version.
    pub protocol: u32,
    /// The daemon's program version.
    pub version: String,
    /// Where the daemon's configuration, data and state lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directories: Option<Directories>,
}

/// Where a manifest was found and what it says. The client read its bytes once; the daemon parses these bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestBytes {
    /// The absolute path of the file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The text of `broker.local.toml` beside it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
}

/// A sign-in variable of the caller: name and value. The value is wiped with the message buffer.
#[derive(Clone, Serialize, Deserialize)]
pub struct SignInVariable(pub String, pub String);

impl std::fmt::Debug for SignInVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every request about a project says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The manifest, or none for requests outside any project.
    pub manifest: Option<ManifestBytes>,
    /// `-P`
    #[serde(default)]
    pub profile: Option<String>,
    /// `--only`
    #[serde(default)]
    pub only: Vec<String>,
    /// `--except`
    #[serde(default)]
    pub except: Vec<String>,
    /// `--ttl`, in milliseconds.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// `--reason`
    #[serde(default)]
    pub reason: Option<String>,
    /// `--offline`
    #[serde(default)]
    pub offline: bool,
    /// `--refresh`
    #[serde(default)]
    pub refresh: bool,
    /// `--watch=signal:NAME`: the signal by which the command is told that its lease has ended.
    #[serde(default)]
    pub watch: Option<WatchSignal>,
    /// The command, as given (invalid UTF-8 replaced).
    #[serde(default)]
    pub argv: Vec<String>,
    /// Where the client stands.
    pub cwd: PathBuf,
    /// The caller's sign-in variables.
    #[serde(default)]
    pub sign_in: Vec<SignInVariable>,
}

/// `POST /v1/grant` ([`Ask`] in, this line and the values out).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantHead {
    /// The lease, none when nothing was selected to lease.
    pub lease: Option<LeaseId>,
    /// Variables to set, with the length of each value in the bytes that follow.
    pub values: Vec<(String, usize)>,
    /// Plain settings to set.
    pub settings: Vec<(String, String)>,
    /// Names the child must not have, even from its parent.
    pub remove: Vec<String>,
    /// What the person should know: `org is away, DATABASE_URL is 4m old`.
    pub notes: Vec<String>,
}

/// `POST /v1/explain` ([`Ask`] in): what a run would get, without fetching and without a decision of a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The project.
    pub project: String,
    /// The profile that applies.
    pub profile: String,
    /// Whether the manifest is trusted as it is.
    pub trusted: bool,
    /// `allow`, `ask` or `deny`.
    pub decision: String,
    /// The rule that decided.
    pub rule: String,
    /// How long the grant would last at most, in seconds.
    pub ttl_seconds: u64,
    /// The secrets, ordered by name.
    pub secrets: Vec<ExplainedSecret>,
    /// The plain settings, by name.
    pub settings: Vec<String>,
    /// Names the child would not have.
    pub removed: Vec<String>,
    /// What the sessions at the managers would be cut by.
    #[serde(default)]
    pub sessions: Vec<ExplainedSession>,
    /// Whether references and policies are replaced by codes, for somebody who lacks the right `read` on them.
    #[serde(default)]
    pub hidden: bool,
}

/// What one session at a manager would be cut by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedSession {
    /// The instance.
    pub instance: String,
    /// What it is: `session policy 1 of 2 of arn:...`.
    pub title: String,
    /// Its exact text as the manager gets it, or a code.
    pub text: String,
}

/// One secret of [`Explained`] or [`Checked`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedSecret {
    /// The variable.
    pub name: String,
    /// Its reference, or a code.
    pub reference: String,
    /// The kind of provider.
    pub kind: String,
    /// Whether nothing runs without it.
    pub required: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `POST /v1/check` ([`Ask`] in): every reference was fetched and none is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// The profile that applies.
    pub profile: String,
    /// One row per secret, ordered by name.
    pub secrets: Vec<CheckedSecret>,
}

/// One row of [`Checked`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckedSecret {
    /// The variable.
    pub name: String,
    /// Its reference.
    pub reference: String,
    /// Whether nothing runs without it.
    pub required: bool,
    /// The length of the value in bytes, when it resolves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// What is wrong, when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// `POST /v1/trust` ([`TrustAsk`] in).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustAsk {
    /// The manifest.
    pub manifest: ManifestBytes,
    /// The client's working directory.
    pub cwd: PathBuf,
    /// The digest that the person agreed to; none to be shown first.
    #[serde(default)]
    pub agreed: Option<String>,
}

/// What a manifest asks for, in plain words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustShown {
    /// SHA-256 of the manifest's bytes, in hex.
    pub sha256: String,
    /// Whether it was trusted before this request, or is now.
    pub trusted: bool,
    /// The project.
    pub project: String,
    /// Where the manifest itself says credentials are sent: instance, key, value.
    pub destinations: Vec<(String, String, String)>,
    /// Every key of every instance that the manifest itself configures: instance, key, value.
    #[serde(default)]
    pub instances: Vec<(String, String, String)>,
    /// Variable and reference of every secret.
    pub secrets: Vec<(String, String)>,
    /// Variable and value of every plain setting.
    pub settings: Vec<(String, String)>,
}

/// `POST /v1/secret/set`, followed by a line feed and the raw bytes of the value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretSet {
    /// The context: manifest, sign-in.
    pub ask: Ask,
    /// A name of the manifest or a reference.
    pub target: String,
}

/// `POST /v1/secret/{get,rm}`. `get` answers like a grant with one value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretNamed {
    /// The context: manifest, sign-in.
    pub ask: Ask,
    /// A name of the manifest or a reference.
    pub target: String,
}

/// What `set` and `rm` answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretDone {
    /// The reference that was meant.
    pub reference: String,
    /// The new version's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// `POST /v1/secret/list`: secrets of an instance below a prefix, or, without one, of the manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretList {
    /// The context: manifest, sign-in.
    pub ask: Ask,
    /// `scheme://prefix`, or none.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Tags (or labels) that an entry must have, name and value.
    #[serde(default)]
    pub tags: Vec<(String, String)>,
}

/// One row of a listing. Never a value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretRow {
    /// The variable, for secrets of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The reference.
    pub reference: String,
    /// The current version's id, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it is for, for secrets of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `POST /v1/secret/history` ([`SecretNamed`] in): what is known of a secret besides its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretHistory {
    /// The reference that was meant.
    pub reference: String,
    /// When it was made, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When it last changed, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Timestamp>,
    /// Its tags (or labels), ordered by name.
    pub tags: Vec<(String, String)>,
    /// Its versions, newest first.
    pub versions: Vec<SecretVersion>,
}

/// One version of a [`SecretHistory`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretVersion {
    /// The manager's id of it, as `?version=` takes it.
    pub id: String,
    /// `current`, `previous`, `pending`.
    pub stages: Vec<String>,
    /// When it was written, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Whether its value can be had.
    pub usable: bool,
}

/// What the raw body of `POST /v1/unlock` is for (query `?create=1` to make the store). Answers [`Done`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// What was done, in words.
    pub message: String,
}

/// `POST /v1/lock`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Locked {
    /// How many leases ended.
    pub leases: usize,
    /// How many still wait for their managers to revoke what was issued for them.
    #[serde(default)]
    pub ending: usize,
}

/// `GET /v1/leases`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leases {
    /// The live ones, oldest first.
    pub leases: Vec<Lease>,
}

/// `POST /v1/leases/end`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseEndAsk {
    /// Which one; none for all.
    pub lease: Option<LeaseId>,
}

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's program version.
    pub version: String,
    /// Its protocol version.
    pub protocol: u32,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it began to serve.
    pub uptime_seconds: u64,
    /// Live leases.
    pub leases: usize,
    /// Credentials that are held in order to be renewed and revoked.
    #[serde(default)]
    pub credentials: usize,
    /// Values held.
    pub cached_values: usize,
    /// Calls made to managers, by instance.
    pub calls: Vec<(String, u64)>,
    /// Grants given since it began to serve.
    pub grants: u64,
    /// `unlocked`, `locked` or `absent`.
    pub local_store: String,
    /// `keyring`, `passphrase` or empty while there is no store.
    pub local_store_key: String,
    /// The audit log's path.
    pub audit: PathBuf,
    /// Why the audit log cannot be written, and so nothing be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_problem: Option<String>,
    /// Where the daemon's configuration came from: files that exist.
    pub config: Vec<PathBuf>,
}

/// `GET /v1/providers`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Providers {
    /// One row per kind and configured instance.
    pub providers: Vec<ProviderRow>,
}

/// One row of [`Providers`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderRow {
    /// The instance, which is the scheme of its references.
    pub instance: String,
    /// Its kind.
    pub kind: String,
    /// `default`, `user` or `machine`.
    pub from: String,
    /// What it can do, in words.
    pub can: Vec<String>,
}

/// `GET /v1/whoami`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The attested peer.
    pub principal: Principal,
}

/// A failed request: HTTP status 4xx or 5xx and this body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Every problem, the first one decides the exit.
    pub problems: Vec<Problem>,
    /// Set when the embedded store waits for a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    /// The instances that a person could sign in to, so that the same request would succeed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sign_in: Vec<String>,
}

/// What would let the same request succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// The passphrase of the embedded store.
    Passphrase,
    /// A first passphrase: the embedded store does not exist yet.
    NewPassphrase,
}

/// One problem, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its stable code.
    pub code: ErrorCode,
    /// What happened, without a trailing period.
    pub message: String,
    /// One way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where, for problems of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<Diagnostic>,
}
