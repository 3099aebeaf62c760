//! `broker secret`: lists, stores and removes secrets. Values come from standard input or a prompt, never from argv.

use std::io::{IsTerminal as _, Read as _};

use broker_core::code::ErrorCode;
use broker_core::secret::SecretValue;
use broker_protocol::message::{Ask, SecretHistory, SecretList, SecretNamed, SecretRow, SecretSet, SecretVersion};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::ask::outside;
use crate::call::Call;
use crate::manifest_file::{find, working_directory};
use crate::prompt::Terminal;
use crate::report::{FAILED, Fault, Outcome, print, print_json, printable};
use crate::session::Session;
use crate::table::columns;

/// Largest value that is taken, in bytes.
const MAX_VALUE_BYTES: usize = 8 << 20;

const SET_EXAMPLES: &str = "\
Examples:
  broker secret set SESSION_KEY                        typed twice without echo
  broker secret set local://shop/key < key.pem         the file's bytes as they are
  ./make-key | broker secret set KEY --trim-newline    without the line feed at its end";

/// List, store and remove secrets
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List secrets of the manifest, or those of a provider below a prefix; never a value
    ///
    /// With --json: an array of {"name"?, "reference", "version"?, "description"?}.
    List {
        /// Where to look, such as `local://shop/`; without it, the manifest's secrets
        #[arg(value_name = "PREFIX")]
        prefix: Option<String>,
        /// Profile whose secrets are listed, when there is no PREFIX
        #[arg(short = 'P', long, value_name = "NAME", conflicts_with = "prefix", add = crate::complete::profiles())]
        profile: Option<String>,
        /// Only those with this tag (or label) at the manager; may be given several times
        #[arg(long, value_name = "NAME=VALUE", requires = "prefix", value_parser = tag)]
        tag: Vec<(String, String)>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Store a value, typed without echo or read from standard input
    ///
    /// Bytes are stored as they are read, a line feed at their end included.
    #[command(after_help = SET_EXAMPLES)]
    Set {
        /// A name of the manifest, or a reference such as `local://shop/session-key`
        #[arg(value_name = "NAME", add = crate::complete::secrets())]
        target: String,
        /// Leave out one line feed at the end of standard input
        #[arg(long)]
        trim_newline: bool,
        /// Store nothing at all as the value, too
        #[arg(long)]
        allow_empty: bool,
    },
    /// Show the versions of a secret: when they were written and which is current; never a value
    ///
    /// With --json: {"reference", "created"?, "changed"?, "tags": [[NAME, VALUE]], "versions": [{"id", "stages":
    /// ["current"|"previous"|"pending"], "created"?, "usable"}]}, newest first.
    History {
        /// A name of the manifest, or a reference
        #[arg(value_name = "NAME", add = crate::complete::secrets())]
        target: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a secret with all its versions
    Rm {
        /// A name of the manifest, or a reference
        #[arg(value_name = "NAME", add = crate::complete::secrets())]
        target: String,
        /// Remove it without a question
        #[arg(short, long)]
        yes: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let cwd = working_directory()?;
    let ask = outside(find(&cwd, call.manifest.as_deref())?, cwd);
    match args.command {
        Command::List { prefix, profile, tag, json } => {
            let ask = SecretList { ask: Ask { profile, ..ask }, prefix, tags: tag };
            let rows = Session::open(call)?.ask_signed_in(&ask.ask, |connection| connection.secret_list(&ask))?;
            if json { print_json(&rows)? } else { print(&words(rows))? }
        }
        Command::Set { target, trim_newline, allow_empty } => {
            let value = value(&target, trim_newline, call)?;
            if value.is_empty() && !allow_empty {
                return Err(Fault::new(ErrorCode::Usage, "the value is empty, and nothing was stored")
                    .hint("did the command before the pipe fail? to store an empty value: --allow-empty".to_owned()));
            }
            let ask = SecretSet { ask, target };
            let done =
                Session::open(call)?.ask_signed_in(&ask.ask, |connection| connection.secret_set(&ask, &value))?;
            let version = done.version.map(|version| format!(" (version {version})")).unwrap_or_default();
            call.report.note(&format!("stored `{}`{version}", done.reference));
        }
        Command::History { target, json } => {
            let ask = SecretNamed { ask, target };
            let history = Session::open(call)?.ask_signed_in(&ask.ask, |connection| connection.secret_history(&ask))?;
            if json { print_json(&history)? } else { print(&versions(history))? }
        }
        Command::Rm { target, yes } => {
            if !yes && !agreed(&target, call)? {
                call.report.note("nothing was removed");
                return Ok(FAILED);
            }
            let ask = SecretNamed { ask, target };
            let done = Session::open(call)?.ask_signed_in(&ask.ask, |connection| connection.secret_rm(&ask))?;
            call.report.note(&format!("removed `{}`", done.reference));
        }
    }
    Ok(0)
}

fn value(target: &str, trim_newline: bool, call: &Call) -> Result<SecretValue, Fault> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        if call.non_interactive {
            return Err(Fault::new(ErrorCode::Usage, "standard input is a terminal, and nobody may be asked")
                .hint("hand the value over: broker secret set NAME < FILE".to_owned()));
        }
        let question = format!("value of {target}");
        let typed = Terminal::open().and_then(|mut terminal| terminal.hidden_twice(&question, &mut || ()));
        return typed.map_err(|error| Fault::new(ErrorCode::Usage, error.to_string()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    let read = stdin.lock().take(MAX_VALUE_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Fault::new(ErrorCode::Usage, format!("cannot read standard input: {error}")))?;
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(Fault::new(ErrorCode::Value, format!("the value is larger than {MAX_VALUE_BYTES} bytes")));
    }
    if bytes.last() == Some(&b'\n') {
        if trim_newline {
            bytes.pop();
        } else if bytes.iter().filter(|byte| **byte == b'\n').count() == 1 {
            // One line with its end: most likely of `echo`, and then not meant.
            call.report.note("the value ends with a line feed, which is stored too; `--trim-newline` leaves it out");
        }
    }
    Ok(SecretValue::new(std::mem::take(&mut bytes)))
}

fn agreed(target: &str, call: &Call) -> Result<bool, Fault> {
    let nobody = |why: &str| {
        Fault::new(ErrorCode::Usage, format!("removing a secret wants to be confirmed, and {why}"))
            .hint("add --yes".to_owned())
    };
    if call.non_interactive {
        return Err(nobody("nobody may be asked"));
    }
    let mut terminal = Terminal::open().map_err(|error| nobody(&error.to_string()))?;
    let question = format!("Remove `{target}` with all its versions?");
    terminal.agrees(&question, &mut || ()).map_err(|error| nobody(&error.to_string()))
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a tag is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn versions(history: SecretHistory) -> String {
    let time = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| time.strftime("%F %H:%M UTC").to_string());
    if history.versions.is_empty() {
        return format!(
            "`{}` has no versions; it last changed: {}\n",
            printable(&history.reference),
            time(history.changed)
        );
    }
    let row = |version: SecretVersion| {
        let state = if version.usable { version.stages.join(", ") } else { "not usable".to_owned() };
        [version.id, state, time(version.created)]
    };
    columns(["VERSION", "STAGE", "WRITTEN"], &history.versions.into_iter().map(row).collect::<Vec<_>>())
}

fn words(rows: Vec<SecretRow>) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row =
        |row: SecretRow| [or_dash(row.name), row.reference, or_dash(row.version), row.description.unwrap_or_default()];
    let rows: Vec<_> = rows.into_iter().map(row).collect();
    columns(["NAME", "REFERENCE", "VERSION", "WHAT FOR"], &rows)
}
