//! `broker lock`: ends every lease and forgets everything held.

use super::lease;
use crate::call::Call;
use crate::report::Outcome;
use crate::session::Session;

/// End all leases and forget every value, sign-in and passphrase held
///
/// The next command fetches anew. Commands that run already keep what they were given, but for what their managers can
/// revoke: that is revoked now. A sign-in that the keyring of the
/// operating system keeps is read again when it is needed: `broker logout` ends it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(Args {}: Args, call: &Call) -> Outcome {
    // Started where none runs: one that was killed ended nothing, and the next takes up what it left.
    let locked = Session::open(call)?.ask(|connection| connection.lock())?;
    let leases = if locked.leases == 1 { "1 lease".to_owned() } else { format!("{} leases", locked.leases) };
    call.report.note(&format!("locked: {leases} ended, nothing is held in memory"));
    lease::still_ending(&locked, call);
    Ok(0)
}
