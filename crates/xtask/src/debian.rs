//! Programs of the system that tests start, and the Debian packages that bring them.

use std::process::{Command, Stdio};

use broker_tests::user;

use crate::cargo::on_path;
use crate::report;

/// A program and the package that brings it.
pub(crate) type Needed = (&'static str, &'static str);

/// Makes sure of `needed`, installing where that can be done without asking. Returns what is missing all the same.
pub(crate) fn provide(needed: &[Needed]) -> Vec<Needed> {
    if !missing(needed).is_empty() && user::is_root() && on_path("apt-get") {
        let packages: Vec<_> = missing(needed).into_iter().map(|(_, package)| package).collect();
        report::line(format!("installing {}", packages.join(" and ")));
        for words in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends"]] {
            let mut apt = Command::new("apt-get");
            apt.args(words).args(if words.len() > 2 { &packages[..] } else { &[] });
            apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
            // What could not be installed is still missing below.
            let _ = apt.status();
        }
    }
    missing(needed)
}

fn missing(needed: &[Needed]) -> Vec<Needed> {
    needed.iter().copied().filter(|(program, _)| !on_path(program)).collect()
}
