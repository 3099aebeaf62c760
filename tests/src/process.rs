//! Looking at processes through `/proc`, and ending those that a test started.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid as KernelPid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// A process id, as `/proc` names it.
pub type Pid = i32;

/// Waits until `pid` has ended (a zombie has), through its pidfd, for at most `limit`.
#[must_use]
pub fn wait_end(pid: Pid, limit: Duration) -> bool {
    let Some(Ok(fd)) = KernelPid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Sends signal number `signal` to `pid`, or to the process group `-pid` when it is negative.
pub fn signal(pid: Pid, signal: i32) {
    let Some(signal) = Signal::from_named_raw(signal) else { return };
    // Gone already is what the caller wanted.
    let _ = match KernelPid::from_raw(pid.abs()) {
        Some(target) if pid < 0 => kill_process_group(target, signal),
        Some(target) => kill_process(target, signal),
        None => return,
    };
}

/// Kills `pid` and waits until it is gone.
pub fn kill(pid: Pid) {
    signal(pid, 9);
    let _ = wait_end(pid, Duration::from_secs(10));
}

/// Tells whether `pid` exists and is no zombie.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    state(pid).is_some_and(|s| s != 'Z' && s != 'X')
}

/// Tells whether `pid` was stopped by a signal.
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    state(pid) == Some('T')
}

fn state(pid: Pid) -> Option<char> {
    stat(pid, 0)?.chars().next()
}

/// Returns field `n` after the name in `/proc/PID/stat`, counted from 0 (proc_pid_stat(5): 0 is the state, 1 the parent,
/// 3 the session).
#[must_use]
pub fn stat(pid: Pid, n: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(n).map(str::to_owned)
}

/// Returns the name of the program that `pid` runs, cut to 15 bytes by the kernel.
#[must_use]
pub fn name(pid: Pid) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Returns the line `key:` of `/proc/PID/status`, without the key.
#[must_use]
pub fn status(pid: Pid, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(|v| v.trim().to_owned())
}

/// Returns the resident set of `pid` in KiB.
#[must_use]
pub fn resident_kib(pid: Pid) -> Option<u64> {
    status(pid, "VmRSS")?.trim_end_matches(" kB").parse().ok()
}

/// Returns what each open descriptor of `pid` leads to.
///
/// # Errors
/// When the kernel does not show them, as for a process of another user or one that is not dumpable.
pub fn descriptors(pid: Pid) -> std::io::Result<Vec<(i32, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            all.push((number, fs::read_link(entry.path())?));
        }
    }
    all.sort();
    Ok(all)
}

/// Returns the environment that `pid` was started with, one `NAME=value` each.
///
/// # Errors
/// When the kernel does not show it.
pub fn environment(pid: Pid) -> std::io::Result<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    Ok(bytes.split(|b| *b == 0).filter(|v| !v.is_empty()).map(|v| String::from_utf8_lossy(v).into_owned()).collect())
}

/// Returns every process whose program is called `name`.
#[must_use]
pub fn all_named(wanted: &str) -> Vec<Pid> {
    all().filter(|pid| is_alive(*pid) && name(*pid).as_deref() == Some(wanted)).collect()
}

/// Returns the living children of `pid`.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let parent = Some(pid.to_string());
    all().filter(|child| is_alive(*child) && stat(*child, 1) == parent).collect()
}

/// Returns the children of `pid` as the kernel lists them in one file: quicker than [`children`], and zombies among them.
#[must_use]
pub fn children_as_told(pid: Pid) -> Vec<Pid> {
    let told = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    told.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// Returns who holds the lock of the file at `path` (flock(2)), as `/proc/locks` tells it by inode.
#[must_use]
pub fn lock_holder(path: &Path) -> Option<Pid> {
    let inode = format!(":{}", fs::metadata(path).ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // One that waits for a lock has an arrow before its kind (proc_locks(5)).
    let held = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let held = held.filter(|line| line.len() > 5 && line[1] == "FLOCK" && line[5].ends_with(&inode));
    held.filter_map(|line| line[4].parse().ok()).find(|pid| is_alive(*pid))
}
