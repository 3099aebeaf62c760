//! `broker logout`: ends sign-ins, here and at the managers.

use broker_protocol::sign_in::LoginAsk;

use crate::ask::outside;
use crate::call::Call;
use crate::manifest_file::{find, working_directory};
use crate::report::{Outcome, printable};
use crate::session::Session;

/// Sign out of a secret manager
///
/// Without INSTANCE: of every instance in sight that somebody is signed in to. What was fetched is forgotten, the session
/// is removed from the keyring and ended at the manager where that can be done. Commands that run keep what they have.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A provider instance of the manifest or of your configuration
    #[arg(value_name = "INSTANCE", add = crate::complete::instances())]
    instance: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let ask = outside(find(&cwd, call.manifest.as_deref())?, cwd);
    let mut session = Session::open(call)?;
    let instances = match args.instance {
        Some(instance) => vec![instance],
        None => {
            let logins = session.ask(|connection| connection.logins(&ask))?.logins;
            logins.into_iter().filter(|row| row.state == "signed-in").map(|row| row.instance).collect()
        }
    };
    if instances.is_empty() {
        call.report.note("nobody is signed in");
    }
    for instance in instances {
        let asked = LoginAsk { ask: ask.clone(), instance: instance.clone(), anew: false };
        let done = session.ask(|connection| connection.logout(&asked))?;
        let instance = printable(&instance);
        if !done.was_signed_in {
            call.report.note(&format!("nobody was signed in to `{instance}`"));
        } else if let Some(note) = done.note {
            call.report.note(&format!("signed out of `{instance}` here; the manager could not be told: {note}"));
        } else {
            call.report.note(&format!("signed out of `{instance}`"));
        }
    }
    Ok(0)
}
