//! `broker login`: signs in to the managers that a project uses, once.

use broker_core::code::ErrorCode;
use broker_protocol::sign_in::{LoginRow, SignedIn};

use crate::ask::outside;
use crate::call::Call;
use crate::manifest_file::{find, working_directory};
use crate::report::{Fault, Outcome, print, print_json, printable};
use crate::session::Session;
use crate::sign_in::{Manner, sign_in};
use crate::table::columns;

/// Sign in to a secret manager, or see who is signed in
///
/// Without INSTANCE: to every instance that this project uses and nobody is signed in to. What the sign-in yields stays
/// in the daemon's memory and, sealed, in the keyring of the operating system; never in a file.
///
/// With --status --json: an array of {"instance", "kind", "state": "signed-in"|"signed-out"|"not-needed"|"broken",
/// "who"?, "expires"?, "renewable"?, "kept"?: "keyring"|"memory"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  broker login                 to all that this project uses
  broker login org             to one, even if somebody is signed in already
  broker login --status        who is signed in where, and until when
  broker login --no-browser    show the address only")]
pub(crate) struct Args {
    /// A provider instance of the manifest or of your configuration
    #[arg(value_name = "INSTANCE", add = crate::complete::instances())]
    instance: Option<String>,
    /// Show who is signed in where; asks no manager
    #[arg(long, conflicts_with = "no_browser")]
    status: bool,
    /// With --status: answer in JSON
    #[arg(long, requires = "status")]
    pub json: bool,
    /// Open no browser
    #[arg(long)]
    no_browser: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let ask = outside(find(&cwd, call.manifest.as_deref())?, cwd);
    let mut session = Session::open(call)?;
    if args.status {
        let mut logins = session.ask(|connection| connection.logins(&ask))?.logins;
        logins.retain(|row| args.instance.as_ref().is_none_or(|name| *name == row.instance));
        match &args.instance {
            Some(name) if logins.is_empty() => return Err(unknown(name)),
            _ if args.json => print_json(&logins)?,
            _ => print(&columns(
                ["INSTANCE", "KIND", "STATE", "AS", "UNTIL"],
                &logins.into_iter().map(row).collect::<Vec<_>>(),
            ))?,
        }
        return Ok(0);
    }
    let instances = match args.instance {
        Some(instance) => vec![instance],
        None => {
            let logins = session.ask(|connection| connection.logins(&ask))?.logins;
            if logins.is_empty() {
                let fault = Fault::new(
                    ErrorCode::NotFound,
                    "there is no provider to sign in to: no `broker.toml` here or above",
                );
                return Err(fault.hint(
                    "change to a directory of the project, or name an instance of your configuration".to_owned(),
                ));
            }
            if logins.iter().all(|row| row.state == "not-needed") {
                let fault = Fault::new(ErrorCode::NotFound, "no provider here has a sign-in of its own");
                return Err(fault.hint("the sessions that you have are used: see `broker doctor`".to_owned()));
            }
            let out = logins.iter().filter(|row| row.state == "signed-out").map(|row| row.instance.clone());
            let out: Vec<_> = out.collect();
            if out.is_empty() {
                call.report.note("signed in everywhere already; to do it anew: broker login INSTANCE");
            }
            out
        }
    };
    let mut failed = None;
    for instance in instances {
        let manner = Manner { anew: true, browser: !args.no_browser };
        match session.request(|connection, call| sign_in(connection, call, &ask, &instance, manner)) {
            Ok(signed_in) => call.report.note(&said(&instance, &signed_in)),
            // One that fails keeps nobody from the others.
            Err(fault) => {
                if let Some(former) = failed.replace(fault) {
                    call.report.fault(&former);
                }
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

fn said(instance: &str, signed_in: &SignedIn) -> String {
    let until = signed_in.expires.map(|time| format!(" until {}", time.strftime("%F %H:%M UTC"))).unwrap_or_default();
    let kept = match signed_in.kept.as_str() {
        "keyring" => "",
        _ => "; there is no keyring here, so it ends with the daemon",
    };
    let renewed = if signed_in.renewable { ", renewed by itself" } else { "" };
    format!("signed in to `{instance}` as {}{until}{renewed}{kept}", printable(&signed_in.who))
}

fn row(row: LoginRow) -> [String; 5] {
    let (who, until) = match row.session {
        Some(SignedIn { who, expires, renewable, .. }) => {
            let until = expires.map_or("-".to_owned(), |time| time.strftime("%F %H:%M UTC").to_string());
            (who, if renewable { format!("{until}, renewed") } else { until })
        }
        None => ("-".to_owned(), "-".to_owned()),
    };
    [row.instance, row.kind, row.state, who, until]
}

fn unknown(name: &str) -> Fault {
    Fault::new(ErrorCode::NotFound, format!("unknown provider `{}`", printable(name)))
        .hint("see which exist: broker provider list".to_owned())
}
