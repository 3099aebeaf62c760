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

/// How much the kernel showed of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// A person at a terminal, by positive evidence.
    Human,
    /// A coding agent, or what one started.
    Agent,
    /// Everything else: no positive evidence of a human means not human.
    Unattended,
}

impl Tier {
    /// Returns the word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Agent => "agent",
            Self::Unattended => "unattended",
        }
    }
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

impl Principal {
    /// Returns its tier. Nothing that is attested so far is positive evidence of a human.
    #[must_use]
    pub fn tier(&self) -> Tier {
        Tier::Unattended
    }
}
