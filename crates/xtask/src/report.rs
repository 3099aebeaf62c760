//! The one place that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command line program")]

use std::fmt::Display;
use std::io::IsTerminal as _;

use crate::failure::Failure;

fn paint(code: &str, text: impl Display) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stdout().is_terminal();
    if plain { text.to_string() } else { format!("\x1b[{code}m{text}\x1b[0m") }
}

/// Prints a line.
pub(crate) fn line(text: impl Display) {
    println!("{text}");
}

/// Prints a line that was typed, or could have been.
pub(crate) fn typed(text: impl Display) {
    println!("{}", paint("1", format!("$ {text}")));
}

/// Prints a claim that was checked and holds.
pub(crate) fn holds(text: impl Display) {
    println!("{} {text}", paint("32", "✓"));
}

/// Prints what begins now.
pub(crate) fn heading(text: impl Display) {
    println!("{}", paint("1;36", format!("== {text}")));
}

/// Prints a word of warning to standard error.
pub(crate) fn warn(text: impl Display) {
    eprintln!("{text}");
}

/// Prints why the command failed to standard error.
pub(crate) fn failed(failure: &Failure) {
    eprintln!("error: {failure}");
}
