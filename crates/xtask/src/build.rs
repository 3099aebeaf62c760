//! `cargo xtask build --release`: both programs as they ship, in `target/release`.
//!
//! The client is linked statically, because most of the start of a small program is the dynamic linker's. The daemon is
//! linked dynamically: it resolves names and users through the system's libraries.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use broker_tests::deadline;

use crate::cargo::{cargo, on_path, output, programs, succeed, target};
use crate::failure::{Failure, at};
use crate::report;

/// Longest time to fetch a compilation target that is not installed.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Builds both and says how, and how large they are.
pub(crate) fn run() -> Result<(), Failure> {
    report::heading("daemon");
    succeed(cargo(["build", "--release", "--package", "brokerd"]))?;
    report::heading("client");
    let host = host()?;
    let musl = host.replace("-gnu", "-musl");
    let (triple, how) = if musl != host && has_target(&musl)? {
        succeed(cargo(["build", "--release", "--package", "broker", "--target", &musl]))?;
        (musl, "static (musl)")
    } else {
        // Naming the target keeps the flag away from build scripts and procedural macros.
        let mut build = cargo(["build", "--release", "--package", "broker", "--target", &host]);
        build.env("RUSTFLAGS", "-C target-feature=+crt-static");
        succeed(build)?;
        (host, "static (the system's C library; the musl target is not installed)")
    };
    let from = target().join(triple).join("release/broker");
    let to = programs("release").join("broker");
    // Written beside and renamed: a client that runs right now keeps the file it has.
    let beside = programs("release").join("broker.new");
    fs::copy(&from, &beside).map_err(at(&from))?;
    fs::rename(&beside, &to).map_err(at(&to))?;
    size(&to, how)?;
    size(&programs("release").join("brokerd"), "dynamic")
}

fn size(program: &Path, how: &str) -> Result<(), Failure> {
    let bytes = fs::metadata(program).map_err(at(program))?.len();
    report::line(format!("{:>9} KiB  {}  {how}", bytes / 1024, program.display()));
    Ok(())
}

fn host() -> Result<String, Failure> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.arg("-vV");
    let said = output(rustc)?;
    let host = said.lines().find_map(|l| l.strip_prefix("host: ")).map(str::to_owned);
    host.ok_or(Failure::Answer { what: "rustc -vV".into(), said })
}

/// Tells whether a compilation target is installed, or can be within a moment.
fn has_target(triple: &str) -> Result<bool, Failure> {
    if !on_path("rustup") {
        return Ok(false);
    }
    let rustup = |args: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(args).stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    if output(rustup(&["target", "list", "--installed"]))?.lines().any(|l| l == triple) {
        return Ok(true);
    }
    let adding = rustup(&["target", "add", triple]).stdout(Stdio::null()).spawn();
    let Ok(mut adding) = adding else { return Ok(false) };
    let ended = deadline::within(FETCH_LIMIT, || adding.try_wait().ok().flatten());
    if ended.is_none() {
        let _ = adding.kill();
        let _ = adding.wait();
    }
    Ok(ended.is_some_and(|status| status.success()))
}
