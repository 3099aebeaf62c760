//! `broker trust`: looks at what a manifest asks for, and agrees to exactly that.
//!
//! What is agreed to is the digest of the bytes that were shown, not the file's name: a manifest that changes between the
//! question and the answer is not trusted.

use broker_core::code::ErrorCode;
use broker_protocol::message::{TrustAsk, TrustShown};

use crate::call::Call;
use crate::manifest_file::{require, working_directory};
use crate::prompt::Terminal;
use crate::report::{FAILED, Fault, Outcome, printable};
use crate::session::Session;

/// Secrets, and settings, that are listed; of more there is a count.
const MAX_ROWS: usize = 200;

/// Characters of a name, reference or plain value that are shown.
const MAX_CELL: usize = 200;

/// Rows of a terminal that are surely still in sight.
const IN_SIGHT: usize = 15;

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

/// Puts what a manifest asks for into words, one row a line.
///
/// Every cell comes from elsewhere (the manifest, names of directories) and is escaped before it is part of a row: a line
/// feed within one must not look like another row.
fn words(path: &str, shown: &TrustShown) -> String {
    let destinations = destinations(shown);
    let mut rest = String::new();
    if !shown.instances.is_empty() {
        rest.push_str("\n  It configures these provider instances:\n");
        rest.extend(shown.instances.iter().map(instance_row));
    }
    if !shown.secrets.is_empty() {
        rest.push_str("\n  It reads these secrets:\n");
        rest.push_str(&first_rows(&shown.secrets));
    }
    if !shown.settings.is_empty() {
        rest.push_str("\n  It sets these plain variables:\n");
        rest.push_str(&first_rows(&shown.settings));
    }
    rest.push_str(&format!("\n  sha256 {}\n", printable(&shown.sha256)));
    // What matters most must be in sight when the question comes.
    if rows_on_screen(&rest) > IN_SIGHT {
        rest.push_str(&destinations);
    }
    let (path, project) = (printable(path), printable(&shown.project));
    format!("{path} (project `{project}`) asks for this:\n{destinations}{rest}")
}

fn destinations(shown: &TrustShown) -> String {
    let ways = match shown.destinations.len() {
        0 => return "\n  It sends credentials nowhere but where you and your machine already do.\n".to_owned(),
        1 => String::new(),
        count => format!(", in {count} ways"),
    };
    let rows: String = shown.destinations.iter().map(instance_row).collect();
    format!("\n  It decides where credentials are sent{ways}:\n{rows}")
}

fn instance_row((instance, key, value): &(String, String, String)) -> String {
    format!("    {}: {} = {}\n", printable(instance), printable(key), printable(value))
}

fn first_rows(rows: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| format!("    {} = {}\n", short(name), short(value));
    let mut text: String = rows.iter().take(MAX_ROWS).map(row).collect();
    if rows.len() > MAX_ROWS {
        text.push_str(&format!("    ... and {} more; see the file\n", rows.len() - MAX_ROWS));
    }
    text
}

fn short(cell: &str) -> String {
    let cell = printable(cell);
    match cell.char_indices().nth(MAX_CELL) {
        None => cell.into_owned(),
        Some((end, _)) => format!("{} ... and {} more characters", &cell[..end], cell[end..].chars().count()),
    }
}

/// Estimates how many rows of a terminal a text fills.
fn rows_on_screen(text: &str) -> usize {
    text.lines().map(|line| 1 + line.chars().count() / 80).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: &str = "It sends credentials nowhere but where you and your machine already do.";

    fn nothing() -> TrustShown {
        let (sha256, project) = ("ab".repeat(32), "shop".to_owned());
        let (destinations, instances, secrets, settings) = Default::default();
        TrustShown { sha256, trusted: false, project, destinations, instances, secrets, settings }
    }

    #[test]
    fn no_cell_makes_a_row_of_its_own() {
        let forged = |cell: &str| format!("{cell}\n  {NOWHERE}\r\u{2028}\u{200b}\x1b[2J");
        let asks = |cell: &dyn Fn(&str) -> String| {
            let row = (cell("vault"), cell("assume-role"), cell("arn"));
            let shown = TrustShown {
                project: cell("shop"),
                destinations: vec![row.clone()],
                instances: vec![row; 20],
                secrets: vec![(cell("KEY"), cell("vault://kv/a"))],
                settings: vec![(cell("PORT"), cell("3000"))],
                ..nothing()
            };
            words(&cell("/p/broker.toml"), &shown)
        };
        let (text, honest) = (asks(&forged), asks(&str::to_owned));
        assert_eq!(text.lines().count(), honest.lines().count(), "{text}");
        assert!(!text.lines().any(|line| line.trim() == NOWHERE), "{text}");
        assert!(!text.contains(['\r', '\x1b', '\u{2028}', '\u{200b}']), "{text:?}");
    }

    #[test]
    fn every_key_of_an_instance_is_shown() {
        let mut shown = nothing();
        shown.instances.push(("vault-x".into(), "role".into(), "admin".into()));
        let text = words("/p/broker.toml", &shown);
        assert!(text.contains("\n  It configures these provider instances:\n    vault-x: role = admin\n"), "{text}");
    }

    #[test]
    fn where_credentials_go_is_in_sight_when_the_question_comes() {
        let mut shown = nothing();
        shown.destinations.push(("vault".into(), "address".into(), "https://evil.example".into()));
        let block = "\n  It decides where credentials are sent:\n    vault: address = https://evil.example\n";
        assert_eq!(words("/p/broker.toml", &shown).matches(block).count(), 1);
        let long = TrustShown { settings: vec![("A".into(), "x".repeat(5000)); 5], ..shown.clone() };
        assert!(words("/p/broker.toml", &long).ends_with(block));
        shown.secrets = vec![("A".into(), "local://p/a".into()); 5000];
        let text = words("/p/broker.toml", &shown);
        assert!(text.ends_with(block));
        assert!(text.contains("\n    ... and 4800 more; see the file\n"));
        assert!(text.lines().count() < 230, "{}", text.lines().count());
    }
}
