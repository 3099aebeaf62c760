//! Runs a Python program with the official clients in sight, which `cargo xtask test` installs: the second opinion on a
//! server of our own.

use std::env;
use std::process::{Command, Stdio};

/// Runs `program` with these arguments and returns what it printed.
///
/// # Panics
/// When the clients are not installed (a suite without them must not read as passed), and when the program fails.
#[must_use]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(interpreter());
    command.args(["-I", "-c", program]).args(arguments).stdin(Stdio::null()).env_clear();
    if let Ok(packages) = env::var("BROKER_TEST_PYTHONPATH") {
        // `-I` would ignore it.
        command = Command::new(command.get_program());
        command.args(["-c", program]).args(arguments).stdin(Stdio::null()).env_clear().env("PYTHONPATH", packages);
    }
    // The libraries look for a home and a proxy; there is neither.
    command.env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin").env("NO_PROXY", "*");
    let output = command.output().expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}\n{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the interpreter that has the official clients.
///
/// # Panics
/// When they are not installed.
#[must_use]
pub fn interpreter() -> String {
    env::var("BROKER_TEST_PYTHON")
        .unwrap_or_else(|_| panic!("BROKER_TEST_PYTHON is not set: run the tests with `cargo xtask test`"))
}

/// Returns the variables by which that interpreter finds them.
#[must_use]
pub fn variables() -> Vec<(&'static str, String)> {
    env::var("BROKER_TEST_PYTHONPATH").ok().map(|packages| ("PYTHONPATH", packages)).into_iter().collect()
}
