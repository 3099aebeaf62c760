//! Who asks, as attested from the kernel and never as claimed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One process at one moment: a pid alone can be reused, pid and start time within one boot can't.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// Clock ticks between boot and the start of the process (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` at that time.
    pub boot_id: String,
}

/// The attested peer of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The peer's user id.
    pub uid: u32,
    /// The user that the broker serves.
    pub owner: u32,
    /// The very process.
    pub process: ProcessId,
    /// Its executable, where the kernel shows it.
    pub exe: Option<PathBuf>,
    /// SHA-256 of the executable's bytes in hex, where it could be read.
    pub exe_sha256: Option<String>,
    /// Its controlling terminal's device number; none for a process without one.
    pub terminal: Option<u64>,
    /// Its session id.
    pub session: i32,
}
