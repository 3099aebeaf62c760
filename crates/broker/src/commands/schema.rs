//! `broker schema`: the JSON Schema of `broker.toml`, made from the types that read it.

use crate::report::{Outcome, print_json};

/// Print the JSON Schema of `broker.toml`, for editors
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  broker schema > broker.schema.json   and, as the first line of broker.toml:\n  #:schema ./broker.schema.json"
)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(Args {}: Args) -> Outcome {
    print_json(&broker_core::manifest::schema())?;
    Ok(0)
}
