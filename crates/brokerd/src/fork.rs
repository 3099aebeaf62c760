//! The daemon as a copy of its keeper.
//!
//! What execve(2) starts can be looked into by every process of the user until it has closed itself (prctl(2)), and whoever
//! kills daemons can wait for that moment. A copy is closed from its first instruction: what the keeper holds is passed on
//! to nobody else.
#![allow(unsafe_code)]

use std::io;

use nix::unistd::{ForkResult, fork};
use rustix::process::Pid;

/// The two that there are after a copy was made.
pub(crate) enum Copied {
    /// This is the keeper still, and that is its child.
    Keeper(Pid),
    /// This is the copy.
    Daemon,
}

/// Makes a copy of this process, which must have one thread.
///
/// # Errors
/// The kernel has no room for another process.
pub(crate) fn copy() -> io::Result<Copied> {
    // SAFETY: with one thread there is no lock and no state that another one could have left half changed (fork(2)).
    Ok(match unsafe { fork() }? {
        ForkResult::Parent { child } => Copied::Keeper(Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?),
        ForkResult::Child => Copied::Daemon,
    })
}
