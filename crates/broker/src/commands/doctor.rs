//! `broker doctor`: what is set up and what is not.

use crate::call::Call;
use crate::report::Outcome;

/// See what is set up and what is not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(crate) fn run(_args: Args, _call: &Call) -> Outcome {
    Ok(0)
}
