//! `broker lease`: what runs now with secrets, and how to end it.

use broker_core::lease::{Lease, LeaseId};

use crate::call::Call;
use crate::report::{Outcome, print, print_json};
use crate::session::Session;
use crate::table::columns;

/// See and end what commands were given
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List live leases, oldest first
    ///
    /// With --json: an array of {"id", "project", "profile", "names": [NAME], "argv", "process": {"pid", "start_time",
    /// "boot_id"}, "started", "expires"}.
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// End leases before their time
    ///
    /// Credentials that were issued for a lease alone are revoked. The command itself goes on.
    End {
        /// The lease, as `broker lease list` shows it
        #[arg(required_unless_present = "all")]
        id: Option<LeaseId>,
        /// All of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

impl Args {
    /// Tells whether failures are shown as JSON.
    pub(crate) fn json(&self) -> bool {
        matches!(self.command, Command::List { json: true })
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    match args.command {
        Command::List { json } => {
            // Started where none runs: one that was killed ended nothing, and the next takes up what it left.
            let leases = Session::open(call)?.ask(|connection| connection.leases())?.leases;
            if json { print_json(&leases)? } else { print(&words(&leases))? }
        }
        Command::End { id, .. } => {
            let mut session = Session::open(call)?;
            let ended = session.ask(|connection| connection.end_lease(id))?.leases;
            call.report.note(&format!("{ended} ended"));
        }
    }
    Ok(0)
}

fn words(leases: &[Lease]) -> String {
    let row = |lease: &Lease| {
        [
            lease.id.to_string(),
            lease.project.clone(),
            lease.profile.clone(),
            lease.process.pid.to_string(),
            lease.expires.to_string(),
            lease.argv.join(" "),
        ]
    };
    let rows: Vec<_> = leases.iter().map(row).collect();
    columns(["LEASE", "PROJECT", "PROFILE", "PID", "EXPIRES", "COMMAND"], &rows)
}
