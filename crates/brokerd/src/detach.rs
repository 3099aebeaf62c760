//! How a daemon that a client starts becomes nobody's child.
//!
//! `brokerd start` is a short first stage: it starts the keeper (`brokerd keep`), of which the daemon is a copy, with the
//! root as working directory, an allow-listed environment, no inherited descriptor but the one that reports readiness, and
//! ends. Keeper and daemon begin a session each. So the command that the client becomes has no child it does not know, no
//! pipe is kept open behind its back, and nothing in the caller's environment reaches the daemon.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use broker_protocol::start::daemon_environment;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Starts the keeper, detached, and returns.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn start() -> io::Result<()> {
    // Whatever the caller left open would stay open for as long as the daemon lives: locks, pipes, terminals.
    close_fds::set_fds_cloexec(3, &[]);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["keep"]).env_clear().envs(daemon_environment(std::env::vars_os())).current_dir("/");
    // Standard output is the pipe on which the client waits for a line.
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// Begins a session of its own, without a controlling terminal.
pub(crate) fn begin_session() {
    // Fails only for a process group leader, and then the session is its own already.
    let _ = rustix::process::setsid();
}

/// Sets the name that `ps` and `top` show: keeper and daemon are one program with the same arguments.
pub(crate) fn name_process(name: &CStr) {
    // A process without its name is as good as one with it.
    let _ = nix::sys::prctl::set_name(name);
}

/// Tells the waiting client `line` and lets go of its pipe: the standard streams are `/dev/null` from here on.
pub(crate) fn report(line: &str) {
    let mut out = io::stdout().lock();
    // A client that is gone has nobody else waiting: the daemon serves the next one.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    drop(out);
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null));
    }
}
