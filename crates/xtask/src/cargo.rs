//! Cargo, the workspace and its target directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::Failure;

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// Returns the target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Returns the directory of the programs of a profile.
pub(crate) fn programs(profile: &str) -> PathBuf {
    target().join(profile)
}

/// Prepares `cargo ARG...` in the root of the workspace.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs a command to its end and demands success.
pub(crate) fn succeed(mut command: Command) -> Result<(), Failure> {
    let what = words(&command);
    let status = command.status().map_err(|source| Failure::Start { program: what.clone(), source })?;
    if status.success() { Ok(()) } else { Err(Failure::Ended { what, status }) }
}

/// Runs a command to its end, demands success and returns its standard output.
pub(crate) fn output(mut command: Command) -> Result<String, Failure> {
    let what = words(&command);
    let run = command.stderr(Stdio::inherit()).output();
    let output = run.map_err(|source| Failure::Start { program: what.clone(), source })?;
    if !output.status.success() {
        return Err(Failure::Ended { what, status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns a command as it would be typed.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Tells whether a program is on `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file())
}
