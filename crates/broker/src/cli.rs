//! The command line as a whole: its tree, and the way from arguments to one command's outcome.
//!
//! `exec` has a way of its own that builds the parser of that one command instead of the whole tree, since it is the
//! command that people wait for. Both ways read the same [`exec::Args`].

use std::ffi::{OsStr, OsString};

use broker_core::code::ErrorCode;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::call::{Call, Global};
use crate::commands::{
    audit, check, completions, daemon, doctor, exec, explain, get, lease, lock, login, logout, man, provider, schema,
    secret, trust, unlock, whoami,
};
use crate::complete;
use crate::report::{BROKER_FAILED, Fault, Outcome, Report, USAGE, print};

const EXAMPLES: &str = "\
Examples:
  broker exec -- npm start              run a command with its secrets
  broker exec -P migrate -- ./migrate   with those of another profile
  broker secret set SESSION_KEY         store a value, typed without echo or piped in
  broker trust                          look at what a new manifest asks for, and agree to it
  broker login                          sign in to the secret managers of this project
  broker doctor                         see what is set up and what is not

Exit codes: 0, 1 failure, 2 usage. Of `exec`: the command's own, 125 broker failed or refused,
126 the command cannot be run, 127 it was not found.";

/// Runs a command with exactly its secrets, and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "broker", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// `exec` alone.
#[derive(Debug, Parser)]
#[command(name = "broker exec", bin_name = "broker exec", about = exec::ABOUT, after_help = exec::EXAMPLES, max_term_width = 110)]
struct ExecOnly {
    #[command(flatten)]
    args: exec::Args,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_aliases = exec::ALIASES, about = exec::ABOUT, after_help = exec::EXAMPLES)]
    Exec(exec::Args),
    Check(check::Args),
    Explain(explain::Args),
    Secret(secret::Args),
    Get(get::Args),
    Trust(trust::Args),
    Login(login::Args),
    Logout(logout::Args),
    Lease(lease::Args),
    Audit(audit::Args),
    Whoami(whoami::Args),
    Doctor(doctor::Args),
    Provider(provider::Args),
    Unlock(unlock::Args),
    Lock(lock::Args),
    Daemon(daemon::Args),
    Completions(completions::Args),
    Man(man::Args),
    Schema(schema::Args),
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Exec(_) | Self::Secret(_) | Self::Get(_) | Self::Trust(_) | Self::Unlock(_) | Self::Lock(_) => false,
            Self::Completions(_) | Self::Man(_) | Self::Schema(_) => false,
            Self::Check(args) => args.json,
            Self::Login(args) => args.json,
            Self::Logout(_) => false,
            Self::Explain(args) => args.json,
            Self::Lease(args) => args.json(),
            Self::Audit(args) => args.json,
            Self::Whoami(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Provider(args) => args.json(),
            Self::Daemon(args) => args.json(),
        }
    }

    fn run(self, call: &Call) -> Outcome {
        match self {
            Self::Exec(args) => exec::run(args, call),
            Self::Check(args) => check::run(args, call),
            Self::Explain(args) => explain::run(args, call),
            Self::Secret(args) => secret::run(args, call),
            Self::Get(args) => get::run(args, call),
            Self::Trust(args) => trust::run(args, call),
            Self::Login(args) => login::run(args, call),
            Self::Logout(args) => logout::run(args, call),
            Self::Lease(args) => lease::run(args, call),
            Self::Audit(args) => audit::run(args, call),
            Self::Whoami(args) => whoami::run(args, call),
            Self::Doctor(args) => doctor::run(args, call),
            Self::Provider(args) => provider::run(args, call),
            Self::Unlock(args) => unlock::run(args, call),
            Self::Lock(args) => lock::run(args, call),
            Self::Daemon(args) => daemon::run(args, call),
            Self::Completions(args) => completions::run(args),
            Self::Man(args) => man::run(args),
            Self::Schema(args) => schema::run(args),
        }
    }
}

/// Returns the whole tree, for completions and manual pages.
pub(crate) fn tree() -> clap::Command {
    Cli::command()
}

/// Runs the command that `argv` names and returns the exit code.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn run(argv: Vec<OsString>) -> u8 {
    if argv.get(1).is_some_and(|word| exec::is_name(word)) {
        return run_exec(argv);
    }
    if complete::was_asked() {
        return complete::answer(argv);
    }
    let cli = match Cli::try_parse_from(&argv) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &argv, if names_exec(&argv) { BROKER_FAILED } else { USAGE }),
    };
    let failed_as_exec = matches!(cli.command, Command::Exec(_));
    let report = Report::new(cli.global.quiet, cli.command.json());
    let outcome = Call::new(cli.global, report).and_then(|call| cli.command.run(&call));
    finish(outcome, report, failed_as_exec)
}

fn run_exec(argv: Vec<OsString>) -> u8 {
    let parsed = match ExecOnly::try_parse_from(argv.iter().skip(1)) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error, &argv, BROKER_FAILED),
    };
    drop(argv);
    let report = Report::new(parsed.global.quiet, false);
    let outcome = Call::new(parsed.global, report).and_then(|call| exec::run(parsed.args, &call));
    finish(outcome, report, true)
}

fn finish(outcome: Outcome, report: Report, is_exec: bool) -> u8 {
    match outcome {
        Ok(code) => code,
        Err(fault) => {
            report.fault(&fault);
            if is_exec { fault.exit.unwrap_or(BROKER_FAILED) } else { fault.exit_code() }
        }
    }
}

/// Tells whether the first word that is no flag names `exec`, as far as that can be told of a line that does not parse.
fn names_exec(argv: &[OsString]) -> bool {
    argv.iter().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-")).is_some_and(|word| exec::is_name(word))
}

/// Shows help where it was asked for, or where nothing else was said; else says what was wrong with the arguments.
fn usage(error: &clap::Error, argv: &[OsString], code: u8) -> u8 {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return print(&text).map_or_else(|fault| fault.exit_code(), |()| 0);
    }
    let ours: Vec<_> = argv.iter().take_while(|word| *word != "--").collect();
    let report = Report::new(false, ours.iter().any(|word| *word == OsStr::new("--json")));
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        report.tell(text.trim_end());
        return code;
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    // A word that nothing expected is most likely a value that somebody gave where none belongs.
    let stray = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument && !word.starts_with('-') => {
            word
        }
        _ => "",
    };
    if !stray.is_empty() && code != BROKER_FAILED {
        let fault = Fault::new(ErrorCode::Usage, "there is one argument too many (not shown, it may be a value)");
        report.fault(
            &fault.hint("values are read from standard input or typed at a prompt, never from arguments".to_owned()),
        );
        return code;
    }
    let fault = Fault::new(ErrorCode::Usage, message.trim_end().replace("\n  ", " "));
    let forgotten = code == BROKER_FAILED && error.kind() == ErrorKind::UnknownArgument && ours.len() == argv.len();
    report.fault(&fault.hint(forgotten.then(|| "put `--` in front of the command: broker exec -- CMD".to_owned())));
    if !report.json && !rest.is_empty() {
        report.tell(&format!("\n{}", rest.trim_end()));
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        tree().debug_assert();
        ExecOnly::command().debug_assert();
    }

    #[test]
    fn both_ways_to_exec_read_the_same() {
        let line = ["exec", "-P", "p", "--only", "A,B", "--ttl", "5m", "--", "cmd", "--", "-x"];
        let alone = ExecOnly::try_parse_from(line).unwrap().args;
        let Command::Exec(whole) = Cli::try_parse_from(["broker"].iter().chain(&line)).unwrap().command else {
            panic!()
        };
        assert_eq!(format!("{alone:?}"), format!("{whole:?}"));
        assert_eq!(alone.argv, ["cmd", "--", "-x"]);
    }

    #[test]
    fn global_flags_may_stand_before_and_behind_the_command() {
        for line in [["broker", "-q", "lock"], ["broker", "lock", "-q"]] {
            assert!(Cli::try_parse_from(line).unwrap().global.quiet);
        }
    }
}
