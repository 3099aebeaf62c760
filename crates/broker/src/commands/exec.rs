//! `broker exec`: becomes a command with exactly its secrets.
//!
//! The order: find the program (a typo asks nobody for anything), read the manifest, ask the daemon, become the child.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use broker_core::code::ErrorCode;
use broker_core::lease::WatchSignal;
use broker_exec::command::{CommandError, find};
use broker_exec::launch::{LaunchError, launch};
use broker_exec::plan::{Base, Core, Delivery, Plan};
use broker_protocol::client::Granted;
use broker_protocol::message::{Ask, Problem};
use rustix::process::{Resource, getrlimit};

use super::explain;
use crate::ask::{Selected, parse_duration};
use crate::call::Call;
use crate::manifest_file::{require, working_directory};
use crate::report::{BROKER_FAILED, Fault, Outcome, print, printable};
use crate::session::Session;

/// What it is, in one line.
pub(crate) const ABOUT: &str = "Run a command with its secrets in its environment";

/// Its other names.
pub(crate) const ALIASES: [&str; 2] = ["run", "x"];

/// How it is used.
pub(crate) const EXAMPLES: &str = "\
Examples:
  broker exec -- npm start
  broker exec -P migrate --ttl 10m --reason 'release 42' -- ./migrate up
  broker exec --only DATABASE_URL -- psql
  broker exec --pristine -- env          inherit nothing but PATH, HOME, TERM and the like
  broker exec --watch=signal:TERM -- ./job   ends it with its lease
  broker exec --explain -- npm start     see what it would get, run nothing

The command takes the place of `broker`: its process id, terminal, signals and exit code are its
own. No shell is put in between; everything behind `--` is passed on as it is.

Exit codes: the command's own; 125 broker failed or refused, 126 the command cannot be run,
127 it was not found.";

/// Flags of `broker exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    selected: Selected,
    /// Let the grant last no longer than this, such as `10m` (never longer than the profile's own)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Why, in your words: it is kept in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Start from a short list of variables (PATH, HOME, USER, TERM, LANG and the like) instead of the whole environment
    #[arg(long)]
    pristine: bool,
    /// Use only values that the daemon holds already
    #[arg(long, conflicts_with = "refresh")]
    offline: bool,
    /// Fetch anew even what the daemon holds
    #[arg(long)]
    refresh: bool,
    /// Show what the command would get, and run nothing
    #[arg(long)]
    explain: bool,
    /// How the command is told that its lease has ended before it has: `none`, or `signal:NAME` such as `signal:HUP`
    #[arg(long, value_name = "HOW", default_value = "none", value_parser = parse_watch)]
    watch: Watch,
    /// Hide values in what the command prints
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Redact::Never)]
    redact: Redact,
    /// Let a crash of the command leave a core, which would hold its secrets
    #[arg(long)]
    allow_core: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = clap::ValueHint::CommandWithArguments)]
    pub argv: Vec<OsString>,
}

/// When values are hidden in what a command prints.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Redact {
    /// The command has the terminal to itself
    Never,
}

/// How a command is told that its lease has ended.
#[derive(Clone, Copy, Debug)]
struct Watch(Option<WatchSignal>);

fn parse_watch(text: &str) -> Result<Watch, String> {
    if text == "none" {
        return Ok(Watch(None));
    }
    let signal = text.strip_prefix("signal:").and_then(WatchSignal::named);
    let names = WatchSignal::ALL.map(|(name, _)| name).join(", ");
    signal.map(|signal| Watch(Some(signal))).ok_or(format!("it is `none` or `signal:NAME`, with one of {names}"))
}

/// Tells whether `word` names this command.
pub(crate) fn is_name(word: &OsStr) -> bool {
    word == "exec" || ALIASES.iter().any(|alias| word == *alias)
}

/// Becomes the command; returns only when that failed, or with `--explain`.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let Redact::Never = args.redact;
    // Read now: closing this process to others lowers it.
    let core = if args.allow_core { Core::Allowed(getrlimit(Resource::Core)) } else { Core::Forbidden };
    let name = args.argv.first().ok_or_else(|| Fault::new(ErrorCode::Usage, "no command"))?;
    let program = find(name, std::env::var_os("PATH").as_deref()).map_err(unrunnable)?;
    let cwd = working_directory()?;
    let manifest = require(&cwd, call.manifest.as_deref())?;
    let ask = Ask {
        ttl_ms: args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        reason: args.reason,
        watch: args.watch.0,
        offline: args.offline,
        refresh: args.refresh,
        argv: args.argv.iter().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        ..args.selected.ask(Some(manifest), cwd)
    };
    let mut session = Session::open(call)?;
    if args.explain {
        let explained = session.ask(|connection| connection.explain(&ask))?;
        let program = program.display().to_string();
        print(&format!("command   {}\n{}", printable(&program), explain::words(&explained)))?;
        return Ok(0);
    }
    let granted = session.ask_signed_in(&ask, |connection| connection.grant(&ask))?;
    // The request holds the caller's sign-in: wiped before the child exists.
    drop(ask);
    for note in &granted.head.notes {
        call.report.note(note);
    }
    let base = if args.pristine { Base::Pristine } else { Base::Everything };
    match launch(plan(program, args.argv, base, core, granted)) {
        Err(error) => Err(not_launched(error)),
    }
}

fn plan(program: PathBuf, argv: Vec<OsString>, base: Base, core: Core, granted: Granted) -> Plan {
    let Granted { head, values } = granted;
    Plan {
        program,
        argv,
        cwd: None,
        inherited: std::env::vars_os().collect(),
        base,
        deliveries: values.into_iter().map(|(name, value)| Delivery::Env { name, value }).collect(),
        settings: head.settings,
        remove: head.remove,
        lease: head.lease,
        core,
    }
}

fn unrunnable(error: CommandError) -> Fault {
    Fault::new(ErrorCode::NotFound, error.to_string()).hint(error.hint()).exit(error.exit_code())
}

fn not_launched(error: LaunchError) -> Fault {
    match error {
        LaunchError::Command(error) => unrunnable(error),
        LaunchError::Environment(errors) => {
            let problem = |error: &broker_exec::environment::EnvironmentError| Problem {
                code: ErrorCode::Value,
                message: error.to_string(),
                hint: Some(error.hint()),
                diagnostic: None,
            };
            Fault { problems: errors.iter().map(problem).collect(), exit: Some(BROKER_FAILED) }
        }
        error @ (LaunchError::Argument | LaunchError::TooLarge) => Fault::new(ErrorCode::Value, error.to_string()),
        error => Fault::new(ErrorCode::Internal, error.to_string()),
    }
}
