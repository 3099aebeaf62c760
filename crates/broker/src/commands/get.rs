//! `broker get`: shows one value to a person.

use std::io::IsTerminal as _;

use broker_core::code::ErrorCode;
use broker_protocol::message::{Ask, SecretNamed};

use crate::ask::outside;
use crate::call::Call;
use crate::manifest_file::{find, working_directory};
use crate::report::{Fault, Outcome, print_bytes};
use crate::session::Session;

/// Show one value, for a person
///
/// Programs have no business here: `broker exec` hands a value to the one process that needs it. So a pipe or a file is
/// refused unless --force says that it is meant; it then gets the very bytes, and a terminal gets them with control
/// characters escaped.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name of the manifest, or a reference such as `local://shop/session-key`
    #[arg(value_name = "NAME", add = crate::complete::secrets())]
    target: String,
    /// Write to a pipe or a file, too
    #[arg(short, long)]
    force: bool,
    /// Why, in your words: it is kept in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Fetch anew even what the daemon holds
    #[arg(long)]
    refresh: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let person = std::io::stdout().is_terminal();
    if !person && !args.force {
        return Err(Fault::new(
            ErrorCode::Denied,
            "standard output is no terminal, and a value is shown to a person only",
        )
        .hint("run the program that needs it: broker exec -- CMD; or, if this is meant, add --force".to_owned()));
    }
    let cwd = working_directory()?;
    let manifest = find(&cwd, call.manifest.as_deref())?;
    let outside = outside(manifest, cwd);
    let ask = SecretNamed { ask: Ask { reason: args.reason, refresh: args.refresh, ..outside }, target: args.target };
    let granted = Session::open(call)?.ask_signed_in(&ask.ask, |connection| connection.secret_get(&ask))?;
    for note in &granted.head.notes {
        call.report.note(note);
    }
    for (_, value) in &granted.values {
        // Opened to be shown, which is what was asked for.
        if person { show(value.expose())? } else { print_bytes(value.expose())? }
    }
    Ok(0)
}

/// Shows a value on a terminal: what would act on the terminal is escaped, lines stay lines.
fn show(value: &[u8]) -> Result<(), Fault> {
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(value.len() * 4 + 1));
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = matches!(c, '\n' | '\t') || !c.is_control();
            let mut buffer = [0; 4];
            if plain {
                line.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes())
            } else {
                line.extend(c.escape_default().map(|c| c as u8))
            }
        }
        line.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()));
    }
    if line.last() != Some(&b'\n') {
        line.push(b'\n');
    }
    print_bytes(&line)
}
