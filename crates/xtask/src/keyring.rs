//! A session bus with an unlocked keyring, for the tests of the embedded store's key in the keyring of the system, and the
//! programs that the tests of the keyring as a provider start for themselves.
//!
//! Both are of this run alone: their data lies in a directory that goes away, and they end with it.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::debian::{Needed, provide};
use crate::failure::{Failure, at};
use crate::report;

/// The programs that are needed and the Debian packages that bring them.
const NEEDED: [Needed; 5] = [
    ("dbus-run-session", "dbus"),
    ("dbus-send", "dbus-bin"),
    ("gnome-keyring-daemon", "gnome-keyring"),
    ("secret-tool", "libsecret-tools"),
    ("keyctl", "keyutils"),
];

/// Unlocks the keyring and becomes what follows. The keyring ends with its bus, and the bus with what it was started for.
const SCRIPT: &str = "printf test | gnome-keyring-daemon --unlock --components=secrets >/dev/null && exec \"$@\"";

/// A place for a bus and a keyring.
pub(crate) struct Keyring {
    home: TempDir,
}

impl Keyring {
    /// Makes sure of the programs, installing them where that can be done without asking; `None` where it can't, and
    /// then says so.
    pub(crate) fn find() -> Result<Option<Self>, Failure> {
        if let Some((program, package)) = provide(&NEEDED).first() {
            report::line(format!("NOT RUN: the tests of the keyring need `{program}` (apt-get install {package})"));
            return Ok(None);
        }
        let home = tempfile::tempdir().map_err(at(&PathBuf::from("the temporary directory")))?;
        Ok(Some(Self { home }))
    }

    /// Returns `command` as it runs with a bus and a keyring around it.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut whole = Command::new("dbus-run-session");
        whole.args(["--", "sh", "-c", SCRIPT, "sh"]).arg(command.get_program()).args(command.get_args());
        for name in ["XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            whole.env(name, self.home.path());
        }
        whole
    }
}
