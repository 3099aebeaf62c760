//! `broker man`: the manual pages, made from the same words as `--help`.

use std::path::{Path, PathBuf};

use broker_core::code::ErrorCode;
use clap_mangen::Man;

use crate::report::{Fault, Outcome, print_bytes};

/// Print a manual page, or write all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  broker man exec | man -l -\n  broker man --to ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// The command; without one, `broker` itself
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write every page into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command", value_hint = clap::ValueHint::DirPath)]
    to: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let mut tree = crate::cli::tree();
    tree.build();
    if let Some(dir) = args.to {
        std::fs::create_dir_all(&dir)
            .map_err(|error| Fault::new(ErrorCode::Usage, format!("cannot make `{}`: {error}", dir.display())))?;
        write_all(&tree, "broker", &dir)?;
        return Ok(0);
    }
    let mut found = &tree;
    for word in &args.command {
        found = found
            .find_subcommand(word)
            .ok_or_else(|| Fault::new(ErrorCode::Usage, format!("there is no command `{word}`")))?;
    }
    let name = std::iter::once("broker").chain(args.command.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    print_bytes(&page(found, &name)?)?;
    Ok(0)
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Fault> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .title(name.to_uppercase())
        .render(&mut page)
        .map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
    Ok(page)
}

fn write_all(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Fault> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?)
        .map_err(|error| Fault::new(ErrorCode::Usage, format!("cannot write `{}`: {error}", path.display())))?;
    for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
        write_all(child, &format!("{name}-{}", child.get_name()), dir)?;
    }
    Ok(())
}
