//! `broker completions`: the script that teaches a shell to complete our words.

use broker_core::code::ErrorCode;
use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::report::{Fault, Outcome, print_bytes};

const EXAMPLES: &str = "\
Examples:
  source <(broker completions bash)              in ~/.bashrc
  source <(broker completions zsh)               in ~/.zshrc, behind compinit
  broker completions fish > ~/.config/fish/completions/broker.fish
  eval (broker completions elvish | slurp)       in ~/.config/elvish/rc.elv";

/// Print the completion script of a shell
///
/// Profiles and secrets are completed by the names in the nearest manifest; no value is ever asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
            Self::Elvish => "elvish",
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let failed = |words: String| Fault::new(ErrorCode::Internal, words);
    let shells = Shells::builtins();
    let shell = shells.completer(args.shell.name()).ok_or_else(|| failed("this shell is not known".into()))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "broker", "broker", "broker", &mut script)
        .map_err(|error| failed(error.to_string()))?;
    // Where we have nothing to offer, as behind `--`, bash goes on with the files it would have offered without us.
    let script = String::from_utf8_lossy(&script).replace("-o bashdefault", "-o bashdefault -o default");
    print_bytes(script.as_bytes())?;
    Ok(0)
}
