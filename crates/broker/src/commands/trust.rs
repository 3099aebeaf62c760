//! `broker trust`: looks at what a manifest asks for, and agrees to exactly that.
//!
//! What is agreed to is the digest of the bytes that were shown, not the file's name: a manifest that changes between the
//! question and the answer is not trusted.

use broker_core::code::ErrorCode;
use broker_protocol::message::{TrustAsk, TrustShown};

use crate::call::Call;
use crate::manifest_file::{require, working_directory};
use crate::prompt::Terminal;
use crate::report::{FAILED, Fault, Outcome};
use crate::session::Session;

/// Look at what the manifest asks for, and agree to it
///
/// Nothing of a manifest runs before it was agreed to, and any change of it asks again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Agree without a question
    #[arg(short, long)]
    yes: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let manifest = require(&cwd, call.manifest.as_deref())?;
    let path = manifest.path.display().to_string();
    let mut ask = TrustAsk { manifest, cwd, agreed: None };
    let mut session = Session::open(call)?;
    let shown = session.ask(|connection| connection.trust(&ask))?;
    if shown.trusted {
        call.report.note(&format!("`{path}` is trusted already"));
        return Ok(0);
    }
    if !(args.yes && call.report.quiet) {
        call.report.tell(&words(&path, &shown));
    }
    if !args.yes && !agreed(&mut session, call)? {
        call.report.note("not trusted");
        return Ok(FAILED);
    }
    ask.agreed = Some(shown.sha256);
    let shown = session.ask(|connection| connection.trust(&ask))?;
    if !shown.trusted {
        return Err(Fault::new(ErrorCode::Untrusted, format!("`{path}` is still not trusted")));
    }
    call.report.note(&format!("`{path}` is trusted as it is now"));
    Ok(0)
}

fn agreed(session: &mut Session<'_>, call: &Call) -> Result<bool, Fault> {
    let nobody = |why: &str| {
        Fault::new(ErrorCode::ApprovalNeeded, format!("a person has to agree, and {why}"))
            .hint("run it in a terminal, or agree beforehand: broker trust --yes".to_owned())
    };
    if call.non_interactive {
        return Err(nobody("nobody may be asked"));
    }
    let mut terminal = Terminal::open().map_err(|error| nobody(&error.to_string()))?;
    session.agrees(&mut terminal, "Trust it as it is?").map_err(|error| nobody(&error.to_string()))
}

fn words(path: &str, shown: &TrustShown) -> String {
    let mut text = format!("{path} (project `{}`) asks for this:\n", shown.project);
    if shown.destinations.is_empty() {
        text.push_str("\n  It sends credentials nowhere but where you and your machine already do.\n");
    } else {
        text.push_str("\n  It decides where credentials are sent:\n");
        for (instance, key, value) in &shown.destinations {
            text.push_str(&format!("    {instance}: {key} = {value}\n"));
        }
    }
    if !shown.secrets.is_empty() {
        text.push_str("\n  It reads these secrets:\n");
        for (name, reference) in &shown.secrets {
            text.push_str(&format!("    {name} = {reference}\n"));
        }
    }
    if !shown.settings.is_empty() {
        text.push_str("\n  It sets these plain variables:\n");
        for (name, value) in &shown.settings {
            // One line each: a value with a line feed must not look like another row.
            text.push_str(&format!("    {name} = {}\n", crate::report::printable(value)));
        }
    }
    text + &format!("\n  sha256 {}\n", shown.sha256)
}
