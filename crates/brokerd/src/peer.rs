//! Attestation: who is at the other end of a connection, as the kernel tells it.
//!
//! The pidfd of the connection's peer pins the process, so that a pid that is used again is never mistaken for it. A
//! process that made itself non-dumpable hides its executable from a daemon of the same user, so there are two looks.
//! The first ([`Peer::attest`]) happens before the client is told `attested` and sees everything. The second
//! ([`Peer::look_again`]) happens before values leave, and sees what stays readable: still alive, same start time, same
//! uid, nobody tracing it. See proc(5), unix(7) for `SO_PEERCRED`, `SO_PEERPIDFD` (Linux 6.5), pidfd_open(2).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use broker_core::principal::{Principal, ProcessId};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sha2::{Digest as _, Sha256};

/// The attested process at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What the first look saw.
    pub(crate) principal: Principal,
    pidfd: Arc<OwnedFd>,
}

/// Why a peer is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The kernel did not say who it is.
    #[error("the peer cannot be attested: {0}")]
    Unreadable(#[from] io::Error),
    /// It ended meanwhile.
    #[error("the process that asked is gone")]
    Gone,
    /// It is not what it was at the first look.
    #[error("the process that asked has changed since it was attested ({0})")]
    Changed(&'static str),
    /// Somebody traces it and would read the values.
    #[error("the process that asked is traced by process {0}")]
    Traced(i32),
}

impl Peer {
    /// Takes the first look at the peer of `socket`.
    ///
    /// # Errors
    /// The peer is gone, or the kernel shows too little of it.
    pub(crate) fn attest(socket: &impl AsFd, owner: u32) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).map_err(io::Error::from)?;
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Before Linux 6.5 the pid of the connection is all there is; the start time below is checked again later.
            Err(nix::errno::Errno::ENOPROTOOPT) => open_pidfd(credentials.pid())?,
            Err(nix::errno::Errno::ENODATA | nix::errno::Errno::ESRCH) => return Err(PeerError::Gone),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let pid = credentials.pid();
        let stat = Stat::read(pid)?;
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let exe_sha256 = File::open(format!("/proc/{pid}/exe")).ok();
        let exe_sha256 = exe_sha256.and_then(|file| tokio::task::block_in_place(|| digest(file)).ok());
        let peer = Self {
            principal: Principal {
                uid: credentials.uid(),
                owner,
                process: ProcessId { pid, start_time: stat.start_time, boot_id: boot_id().to_owned() },
                exe,
                exe_sha256,
                terminal: stat.terminal,
                session: stat.session,
            },
            pidfd: Arc::new(pidfd),
        };
        // Whatever was read by pid belongs to the pinned process if that one is still there now.
        if has_ended(peer.pidfd.as_fd()) { Err(PeerError::Gone) } else { Ok(peer) }
    }

    /// Takes the second look, right before values leave.
    ///
    /// # Errors
    /// The process ended, is another one, or is traced.
    pub(crate) fn look_again(&self) -> Result<(), PeerError> {
        let process = &self.principal.process;
        let stat = Stat::read(process.pid)?;
        let status = Status::read(process.pid)?;
        if has_ended(self.pidfd.as_fd()) {
            return Err(PeerError::Gone);
        }
        if stat.start_time != process.start_time {
            return Err(PeerError::Changed("start time"));
        }
        if status.uid != self.principal.uid {
            return Err(PeerError::Changed("uid"));
        }
        match status.tracer {
            0 => Ok(()),
            tracer => Err(PeerError::Traced(tracer)),
        }
    }

    /// Returns the descriptor that pins the process.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }
}

/// Opens the process again that a lease was given to, if it still is that process.
pub(crate) fn reopen(process: &ProcessId) -> Option<OwnedFd> {
    if process.boot_id != boot_id() {
        return None;
    }
    let pidfd = open_pidfd(process.pid).ok()?;
    let same = Stat::read(process.pid).is_ok_and(|stat| stat.start_time == process.start_time);
    (same && !has_ended(pidfd.as_fd())).then_some(pidfd)
}

fn open_pidfd(pid: i32) -> Result<OwnedFd, PeerError> {
    let pid = Pid::from_raw(pid).ok_or(PeerError::Gone)?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|_| PeerError::Gone)
}

/// A pidfd is readable from the moment its process is no more than a zombie.
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Returns the id of this boot of the machine.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// The fields of `/proc/PID/stat` that are used.
struct Stat {
    session: i32,
    terminal: Option<u64>,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Result<Self, PeerError> {
        let text = read_proc(pid, "stat")?;
        // The name in parentheses may itself hold spaces and parentheses: count fields behind the last one.
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<i64>().ok());
        match (field(6), field(7), field(22)) {
            (Some(session), Some(terminal), Some(start)) => Ok(Self {
                session: session as i32,
                terminal: (terminal != 0).then_some(terminal.cast_unsigned()),
                start_time: start.cast_unsigned(),
            }),
            _ => Err(PeerError::Unreadable(io::ErrorKind::InvalidData.into())),
        }
    }
}

/// The lines of `/proc/PID/status` that are used.
struct Status {
    uid: u32,
    tracer: i32,
}

impl Status {
    fn read(pid: i32) -> Result<Self, PeerError> {
        let text = read_proc(pid, "status")?;
        let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next());
        match (line("Uid:").and_then(|v| v.parse().ok()), line("TracerPid:").and_then(|v| v.parse().ok())) {
            (Some(uid), Some(tracer)) => Ok(Self { uid, tracer }),
            _ => Err(PeerError::Unreadable(io::ErrorKind::InvalidData.into())),
        }
    }
}

fn read_proc(pid: i32, file: &str) -> Result<String, PeerError> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PeerError::Gone,
        _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => PeerError::Gone,
        _ => PeerError::Unreadable(error),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Largest executable whose digest is taken: a larger one is none of ours, and would keep others waiting.
const MAX_EXECUTABLE: u64 = 128 << 20;

type FileIdentity = (u64, u64, u64, i64, i64, i64, i64);

/// Returns the SHA-256 of an executable in hex, remembered by device, inode, size and times.
fn digest(mut file: File) -> io::Result<String> {
    static KNOWN: OnceLock<Mutex<HashMap<FileIdentity, String>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let m = file.metadata()?;
    if m.len() > MAX_EXECUTABLE {
        return Err(io::Error::other("the executable is larger than any of ours"));
    }
    let identity = (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    if let Some(digest) = known.lock().unwrap_or_else(PoisonError::into_inner).get(&identity) {
        return Ok(digest.clone());
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let digest = hex(&hash.finalize());
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= 256 {
        known.clear();
    }
    known.insert(identity, digest.clone());
    Ok(digest)
}

/// Writes bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_very_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::attest(&ours, 0).unwrap();
        assert_eq!(peer.principal.process.pid, std::process::id().cast_signed());
        assert_eq!(peer.principal.exe, std::env::current_exe().ok());
        assert_eq!(peer.principal.exe_sha256.as_deref().map(str::len), Some(64));
        peer.look_again().unwrap();
    }

    #[test]
    fn a_process_that_ended_is_gone_at_the_second_look() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::attest(&ours, 0).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        peer.pidfd = Arc::new(open_pidfd(pid).unwrap());
        peer.principal.process.pid = pid;
        child.wait().unwrap();
        assert!(matches!(peer.look_again(), Err(PeerError::Gone)));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::attest(&ours, 0).unwrap();
        peer.principal.process.start_time += 1;
        assert!(matches!(peer.look_again(), Err(PeerError::Changed("start time"))));
        assert!(reopen(&peer.principal.process).is_none());
    }

    #[test]
    fn a_lease_of_another_boot_is_never_found_again() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut process = Peer::attest(&ours, 0).unwrap().principal.process;
        assert!(reopen(&process).is_some());
        process.boot_id.push('x');
        assert!(reopen(&process).is_none());
    }
}
