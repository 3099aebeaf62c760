//! `broker explain`: what a run would get, without fetching anything.

use broker_protocol::message::Explained;

use crate::ask::Selected;
use crate::call::Call;
use crate::manifest_file::{require, working_directory};
use crate::report::{Outcome, print, print_json, printable};
use crate::session::Session;
use crate::table::columns;

/// Show what a run would get and why, without fetching anything
///
/// Where sessions at a manager are cut for a run, their policies are shown exactly as the manager gets them.
///
/// With --json: {"project", "profile", "trusted", "decision", "rule", "ttl_seconds", "secrets": [{"name", "reference",
/// "kind", "required", "description"?}], "settings": [NAME], "removed": [NAME], "sessions": [{"instance", "title",
/// "text"}], "hidden"}. Who lacks the right to read them gets codes in place of references and policies, and "hidden" is true.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selected: Selected,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let manifest = require(&cwd, call.manifest.as_deref())?;
    let ask = args.selected.ask(Some(manifest), cwd);
    let explained = Session::open(call)?.ask(|connection| connection.explain(&ask))?;
    if args.json {
        print_json(&explained)?
    } else {
        print(&words(&explained))?
    }
    Ok(0)
}

/// Puts an explanation into words.
pub(crate) fn words(explained: &Explained) -> String {
    let listed = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let ttl = broker_core::duration::format(std::time::Duration::from_secs(explained.ttl_seconds));
    let trusted = if explained.trusted { "yes" } else { "no: broker trust" };
    let rows: Vec<_> = explained
        .secrets
        .iter()
        .map(|secret| {
            let needed = if secret.required { "required" } else { "optional" };
            let description = secret.description.clone().unwrap_or_default();
            [secret.name.clone(), secret.reference.clone(), secret.kind.clone(), needed.to_owned(), description]
        })
        .collect();
    let sessions: String = explained
        .sessions
        .iter()
        .map(|session| {
            let title = format!("{}: {}", session.instance, session.title);
            let text: String = session.text.lines().map(|line| format!("  {}\n", printable(line))).collect();
            format!("\n{}\n{text}", printable(&title))
        })
        .collect();
    format!(
        "project   {}\nprofile   {}\ntrusted   {trusted}\ndecision  {} ({})\nttl       {ttl}\nsettings  {}\nwithheld  {}\n\n{}{sessions}",
        printable(&explained.project),
        printable(&explained.profile),
        printable(&explained.decision),
        printable(&explained.rule),
        printable(&listed(&explained.settings)),
        printable(&listed(&explained.removed)),
        columns(["SECRET", "REFERENCE", "KIND", "NEEDED", "WHAT FOR"], &rows)
    )
}
