//! What the daemon does to itself before it holds anything.

use std::{fs, panic};

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// Closes the ways in which a process of the same user could look inside, and those in which memory reaches a disk.
///
/// # Errors
/// The kernel refused to make the process non-dumpable (prctl(2), `PR_SET_DUMPABLE`).
pub(crate) fn harden() -> std::io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // From here on nobody can begin to trace this process; whoever did before sees everything.
    if let Some(tracer) = tracer() {
        return Err(std::io::Error::other(format!("process {tracer} traces it")));
    }
    // A limit of 1 byte, not 0: a core that is piped to a program ignores 0, see core(5).
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) });
    // The first client's soft limits are not everybody's. Of descriptors, one is needed per live process and connection.
    for resource in [Resource::Nofile, Resource::As, Resource::Cpu, Resource::Data, Resource::Fsize] {
        let limit = getrlimit(resource);
        let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    // A panic's payload can be made of anything: say where it happened and nothing else.
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        tracing::error!(version = env!("CARGO_PKG_VERSION"), place, "panic");
    }));
    Ok(())
}

/// Returns who traces this process, if anybody does (proc_pid_status(5), `TracerPid`). Root is no surprise: it sees everything
/// anyway.
fn tracer() -> Option<u32> {
    let number = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    let tracer = number(&fs::read_to_string("/proc/self/status").ok()?, "TracerPid:").filter(|tracer| *tracer != 0)?;
    let of_tracer = fs::read_to_string(format!("/proc/{tracer}/status")).ok();
    let is_root = of_tracer.and_then(|status| number(&status, "Uid:")) == Some(0);
    (!is_root).then_some(tracer)
}
