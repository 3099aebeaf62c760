//! `cargo xtask check`: what must hold before anything is merged.

use crate::cargo::{cargo, on_path, succeed};
use crate::failure::Failure;
use crate::{report, repository};

/// Checks the formatting, the lints, the licences and the rules of this repository.
pub(crate) fn run() -> Result<(), Failure> {
    report::heading("formatting");
    succeed(cargo(["fmt", "--all", "--check"]))?;
    report::heading("lints");
    succeed(cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    report::heading("licences, bans, sources");
    if on_path("cargo-deny") {
        // These three need nothing but the lock file and the packages that were fetched for the build.
        succeed(cargo(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    } else {
        report::line("NOT RUN: `cargo-deny` is not installed here (cargo install cargo-deny)");
    }
    report::heading("rules of this repository");
    repository::check()?;
    report::line("all checks that ran have passed");
    Ok(())
}
