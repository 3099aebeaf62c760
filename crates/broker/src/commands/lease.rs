//! `broker lease`: what runs now with secrets, and how to end it.

use broker_core::lease::{Credential, Lease, LeaseId};
use broker_protocol::message::Locked;

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
    /// What was issued for a lease stands below it, with its own end and whether it can be revoked.
    ///
    /// With --json: an array of {"id", "project", "profile", "names": [NAME], "argv", "process": {"pid", "start_time",
    /// "boot_id"}, "started", "expires", "expires_since_boot_ms", "session"?, "credentials"?: [{"references": [REFERENCE],
    /// "expires", "revocable", "endpoint"?}]}.
    List {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// End leases before their time
    ///
    /// What was issued for a lease is revoked where its manager can, and dropped here where it can't. The command itself
    /// goes on.
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
            let ended = session.ask(|connection| connection.end_lease(id))?;
            call.report.note(&format!("{} ended", ended.leases));
            still_ending(&ended, call);
        }
    }
    Ok(0)
}

/// Says that managers were not reached yet, where that is so.
pub(super) fn still_ending(locked: &Locked, call: &Call) {
    if locked.ending > 0 {
        let leases =
            if locked.ending == 1 { "1 lease waits".to_owned() } else { format!("{} leases wait", locked.ending) };
        call.report
            .note(&format!("{leases} for a manager that does not answer; the daemon goes on asking it to revoke"));
    }
}

fn words(leases: &[Lease]) -> String {
    let mut rows = Vec::new();
    for lease in leases {
        rows.push([
            lease.id.to_string(),
            lease.project.clone(),
            lease.profile.clone(),
            lease.process.pid.to_string(),
            lease.expires.to_string(),
            lease.argv.join(" "),
        ]);
        rows.extend(lease.credentials.iter().map(issued));
    }
    columns(["LEASE", "PROJECT", "PROFILE", "PID", "EXPIRES", "COMMAND"], &rows)
}

/// Returns the row of something that was issued, below that of its lease.
fn issued(credential: &Credential) -> [String; 6] {
    let references: Vec<_> = credential.references.iter().map(ToString::to_string).collect();
    let end = match (credential.endpoint, credential.revocable) {
        (true, _) => "served until the lease ends, cannot be revoked",
        (false, true) => "revoked when the lease ends",
        (false, false) => "cannot be revoked",
    };
    let none = String::new;
    let expires = format!("expires {}", credential.expires.strftime("%H:%MZ"));
    [none(), none(), none(), none(), expires, format!("{end}: {}", references.join(" "))]
}
