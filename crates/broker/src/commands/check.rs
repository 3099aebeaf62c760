//! `broker check`: every reference resolves, and no value is shown.

use broker_protocol::message::CheckedSecret;

use crate::ask::Selected;
use crate::call::Call;
use crate::manifest_file::{require, working_directory};
use crate::report::{FAILED, Fault, Outcome, print, print_json};
use crate::session::Session;
use crate::table::columns;

/// Fetch every secret of a profile and show whether it resolves, never its value
///
/// Exits with 1 when a required secret does not resolve. With --json: {"profile", "secrets": [{"name", "reference",
/// "required", "bytes"?, "problem"?: {"code", "message", "hint"?}}]}.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selected: Selected,
    /// Fetch anew even what the daemon holds
    #[arg(long)]
    refresh: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let manifest = require(&cwd, call.manifest.as_deref())?;
    let mut ask = args.selected.ask(Some(manifest), cwd);
    ask.refresh = args.refresh;
    let checked = Session::open(call)?.ask(|connection| connection.check(&ask))?;
    let broken = |secret: &&CheckedSecret| secret.required && secret.problem.is_some();
    let code = if checked.secrets.iter().any(|secret| broken(&secret)) { FAILED } else { 0 };
    if args.json {
        print_json(&checked)?;
        return Ok(code);
    }
    let rows: Vec<_> = checked
        .secrets
        .iter()
        .map(|secret| {
            let state = match (&secret.problem, secret.bytes, secret.required) {
                (Some(problem), _, true) => format!("error[{}]", problem.code),
                (Some(problem), _, false) => format!("optional, {}", problem.code),
                (None, Some(bytes), _) => format!("ok, {bytes} bytes"),
                (None, None, _) => "ok".to_owned(),
            };
            [secret.name.clone(), secret.reference.clone(), state]
        })
        .collect();
    print(&columns(["SECRET", "REFERENCE", "STATE"], &rows))?;
    let problems: Vec<_> = checked.secrets.into_iter().filter(|s| broken(&s)).filter_map(|s| s.problem).collect();
    if problems.is_empty() { Ok(0) } else { Err(Fault { problems, exit: Some(FAILED) }) }
}
