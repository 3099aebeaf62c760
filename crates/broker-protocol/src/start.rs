//! Reaches the daemon, starting it when there is none: exactly one, however many clients race.
//!
//! Whoever finds nobody listening takes the start lock, looks again and, if still alone, runs `brokerd start` from the
//! directory of its own executable: never from `PATH`, never from a variable. `brokerd` leaves this process's session and
//! writes one line to its standard output once it serves. Its environment is an allow-list, so that the first client's
//! variables don't become everybody's.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, PipeReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::place::Place;
use crate::regular;

/// How long a daemon may take from its start until it serves.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long a client waits for another client that is starting the daemon.
const TURN_WITHIN: Duration = Duration::from_secs(20);

/// How long a listening daemon may take to accept.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks while another client starts the daemon.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// How often a daemon that was ready may be gone before it was reached.
const MAX_STARTS: usize = 3;

/// Longest line that a starting daemon may say.
const MAX_LINE_BYTES: usize = 4096;

/// Variables of the first client that the daemon may have (beside `LC_*` and `XDG_*`).
const KEPT: &[&str] = &["HOME", "LANG", "DBUS_SESSION_BUS_ADDRESS"];

/// What the daemon's `PATH` is, whatever the client's.
const DAEMON_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why there is no daemon to talk to.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket exists and the kernel refused.
    #[error("cannot connect to `{path}`: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon listens and does not accept.
    #[error("the daemon behind `{0}` accepts no connection")]
    Stuck(PathBuf),
    /// The lock file can't be used.
    #[error("cannot lock `{path}`: {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another client holds the start lock for too long.
    #[error("another client has been starting the daemon for {TURN_WITHIN:?} (lock `{0}`)")]
    LockHeld(PathBuf),
    /// Our own place is unknown.
    #[error("cannot tell where this program lies: {0}")]
    OwnPlace(io::Error),
    /// There is no daemon beside us, or it does not run.
    #[error("cannot run `{path}`: {source}")]
    Run {
        /// The daemon's program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon said why it does not serve.
    #[error("the daemon did not start: {0}")]
    Refused(String),
    /// The daemon ended without a word.
    #[error("the daemon ended before it was ready")]
    Ended,
    /// The daemon is neither ready nor gone.
    #[error("the daemon was not ready within {READY_WITHIN:?}")]
    NotReady,
}

impl StartError {
    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Run { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("install `brokerd` beside `broker`, in `{}`", path.parent().unwrap_or(path).display())
            }
            Self::Stuck(_) => "end it: `broker daemon stop` says how".to_owned(),
            Self::LockHeld(path) => format!("see who holds it: fuser {}", path.display()),
            Self::Ended | Self::NotReady => "run `broker daemon run` to see what it says".to_owned(),
            _ => return None,
        })
    }
}

/// Connects to a daemon that runs already, or returns `None` when there is none.
///
/// # Errors
/// [`StartError::Connect`] and [`StartError::Stuck`].
pub fn connect_existing(place: &Place) -> Result<Option<UnixStream>, StartError> {
    let path = place.socket();
    let refused = |error: Errno| StartError::Connect { path: path.clone(), source: error.into() };
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(refused)?;
    // Bounds connect(2) too, which otherwise waits for ever while the backlog of a stopped daemon is full (unix(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(ACCEPT_WITHIN)).map_err(refused)?;
    let address = SocketAddrUnix::new(&path).map_err(refused)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(Some(socket.into())),
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(StartError::Stuck(path)),
            Err(error) => return Err(refused(error)),
        }
    }
}

/// Connects to the daemon and starts it first where needed.
///
/// # Errors
/// See [`StartError`], in the order in which a caller meets them.
pub fn connect_or_start(place: &Place) -> Result<UnixStream, StartError> {
    if let Some(stream) = connect_existing(place)? {
        return Ok(stream);
    }
    let path = place.start_lock();
    let refused = |source: io::Error| StartError::Lock { path: path.clone(), source };
    let options = &mut OpenOptions::new();
    let lock = regular::open(&path, options.create(true).write(true).truncate(false).mode(0o600)).map_err(refused)?;
    let end = Instant::now() + TURN_WITHIN;
    loop {
        match lock.try_lock() {
            Ok(()) => return start_locked(place, lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        // Whoever holds the lock may have brought the daemon up by now: no need to wait for the lock itself.
        std::thread::sleep(LOOK_EVERY);
        if let Some(stream) = connect_existing(place)? {
            return Ok(stream);
        }
        if Instant::now() >= end {
            return Err(StartError::LockHeld(path));
        }
    }
}

/// Starts the daemon while the lock is held. The lock ends with `lock`, after the daemon is ready.
fn start_locked(place: &Place, lock: File) -> Result<UnixStream, StartError> {
    let program = beside_us()?;
    for _ in 0..MAX_STARTS {
        if let Some(stream) = connect_existing(place)? {
            return Ok(stream);
        }
        // When its keeper is bringing one up, this waits for that one. It may be killed again before we connect.
        run_daemon(&program)?;
    }
    let stream = connect_existing(place)?;
    drop(lock);
    stream.ok_or(StartError::Ended)
}

/// Returns the path of the `brokerd` that belongs to this very executable.
///
/// # Errors
/// [`StartError::OwnPlace`]
pub fn beside_us() -> Result<PathBuf, StartError> {
    // The link and not `argv[0]`: whoever starts us chooses `argv[0]`.
    let own = std::fs::read_link("/proc/self/exe").map_err(StartError::OwnPlace)?;
    Ok(own.with_file_name("brokerd"))
}

/// Returns the environment that the daemon gets: the allowed ones of `ours` and a fixed `PATH`.
pub fn daemon_environment(ours: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let kept = |name: &OsString| {
        name.to_str().is_some_and(|name| KEPT.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_"))
    };
    let mut environment: Vec<_> = ours.into_iter().filter(|(name, _)| kept(name)).collect();
    environment.push(("PATH".into(), DAEMON_PATH.into()));
    environment
}

fn run_daemon(program: &Path) -> Result<(), StartError> {
    let refused = |source: io::Error| StartError::Run { path: program.to_owned(), source };
    let (reader, writer) = io::pipe().map_err(refused)?;
    // A statement of its own: the command holds our copy of the writing end until it is dropped.
    let spawned = Command::new(program)
        .arg("start")
        .env_clear()
        .envs(daemon_environment(std::env::vars_os()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn();
    let mut child = spawned.map_err(refused)?;
    let line = first_line(reader, READY_WITHIN);
    reap(&mut child, line.is_none());
    match line.as_deref().map(str::trim_end) {
        Some("ready") => Ok(()),
        Some("") => Err(StartError::Ended),
        Some(words) => Err(StartError::Refused(words.strip_prefix("error: ").unwrap_or(words).to_owned())),
        None => Err(StartError::NotReady),
    }
}

/// Reaps the daemon's first stage, which would otherwise be left to the command that this process becomes.
fn reap(child: &mut Child, stuck: bool) {
    if stuck {
        let _ = child.kill();
    }
    // Nothing to be done when it fails: whoever started us ignores SIGCHLD, and then there is nothing to reap.
    let _ = child.wait();
}

/// Reads up to the first line feed or the end, or returns `None` when neither came in time.
fn first_line(mut from: PipeReader, within: Duration) -> Option<String> {
    let end = Instant::now() + within;
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let left = end.checked_duration_since(Instant::now())?;
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
        let count = from.read(&mut buffer).unwrap_or(0);
        line.extend_from_slice(&buffer[..count]);
        let ended = count == 0 || line.len() > MAX_LINE_BYTES;
        if let Some(at) = line.iter().position(|b| *b == b'\n').or(ended.then_some(line.len())) {
            return Some(String::from_utf8_lossy(&line[..at]).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_daemon_gets_no_variable_that_could_steer_it() {
        let ours = [
            ("HOME", "/home/u"),
            ("PATH", "/evil"),
            ("LD_PRELOAD", "/evil.so"),
            ("AWS_ENDPOINT_URL", "http://evil"),
            ("HTTPS_PROXY", "http://evil"),
            ("SSL_CERT_FILE", "/evil.pem"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("LC_ALL", "C"),
        ];
        let got = daemon_environment(ours.map(|(n, v)| (n.into(), v.into())));
        let got: Vec<_> = got.iter().map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(
            got,
            [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1"), ("LC_ALL", "C"), ("PATH", DAEMON_PATH)]
        );
    }

    #[test]
    fn the_daemon_is_sought_beside_this_very_executable() {
        let expected = std::env::current_exe().unwrap().with_file_name("brokerd");
        assert_eq!(beside_us().unwrap(), expected);
    }

    fn script(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join("brokerd");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_words_of_a_daemon_that_does_not_start_are_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let error = run_daemon(&script(dir.path(), "echo 'error: state directory is read-only'")).unwrap_err();
        assert_eq!(error.to_string(), "the daemon did not start: state directory is read-only");
        assert!(matches!(run_daemon(&script(dir.path(), "exit 3")), Err(StartError::Ended)));
        run_daemon(&script(dir.path(), "[ \"$1\" = start ] && echo ready")).unwrap();
    }

    #[test]
    fn a_missing_daemon_names_the_place_where_it_belongs() {
        let error = run_daemon(Path::new("/nonexistent/brokerd")).unwrap_err();
        assert_eq!(error.hint().unwrap(), "install `brokerd` beside `broker`, in `/nonexistent`");
    }

    #[test]
    fn a_daemon_that_says_nothing_is_given_up_on() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"rea").unwrap();
        assert_eq!(first_line(reader, Duration::from_millis(50)), None);
    }
}
