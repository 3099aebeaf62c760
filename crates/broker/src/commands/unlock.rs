//! `broker unlock`: opens the embedded store, or makes it.

use broker_protocol::message::Needs;

use crate::call::Call;
use crate::report::Outcome;
use crate::session::Session;

/// Open the embedded store with its passphrase, or make it with a first one
///
/// Without a keyring of the operating system the embedded store has a passphrase, which only the daemon's memory keeps.
/// Other commands ask for it when they need it; this one asks beforehand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(Args {}: Args, call: &Call) -> Outcome {
    let mut session = Session::open(call)?;
    let status = session.ask(|connection| connection.status())?;
    let needs = match status.local_store.as_str() {
        "unlocked" => {
            call.report.note("the embedded store is open already");
            return Ok(0);
        }
        "absent" => Needs::NewPassphrase,
        _ => Needs::Passphrase,
    };
    let message = session.unlock(needs)?;
    call.report.note(&message);
    Ok(0)
}
