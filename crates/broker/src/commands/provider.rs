//! `broker provider`: what secrets can be read from.

use crate::call::Call;
use crate::report::{Outcome, print, print_json};
use crate::session::Session;
use crate::table::columns;

/// See which secret managers there are
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every kind and configured instance
    ///
    /// With --json: an array of {"instance", "kind", "from", "can": [WORD]}.
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Tells whether failures are shown as JSON.
    pub(crate) fn json(&self) -> bool {
        let Command::List { json } = self.command;
        json
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let Command::List { json } = args.command;
    let providers = Session::open(call)?.ask(|connection| connection.providers())?.providers;
    if json {
        print_json(&providers)?;
        return Ok(0);
    }
    let rows: Vec<_> =
        providers.into_iter().map(|row| [row.instance, row.kind, row.from, row.can.join(", ")]).collect();
    print(&columns(["INSTANCE", "KIND", "FROM", "CAN"], &rows))?;
    Ok(0)
}
