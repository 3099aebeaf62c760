//! One exchange with the program of an `exec` instance: started, told its task on standard input, heard on standard
//! output, gone.
//!
//! The program gets a clean environment, `/` as its directory, a process group of its own and no descriptor but 0, 1 and 2
//! (a script also 3: itself, read-only, since its interpreter has to open it by a name). What it writes to standard error
//! is counted and thrown away: nobody knows what a program prints there, and it may be a value. When it has ended, at the
//! deadline, or when nobody waits any more, its whole group is killed. Children that left the group are out of reach.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::exec::program::{Pin, Program, ProgramError};

/// Longest answer that is taken, in bytes.
pub(crate) const MAX_ANSWER: usize = 16 << 20;
/// How much a program may write to standard error.
const MAX_STDERR: usize = 1 << 20;
/// Most processes of one instance at the same time.
const MAX_PROCESSES: usize = 4;
/// How much of the time is kept for ending a program and saying so, at most.
const CLOSING: Duration = Duration::from_millis(100);
/// The descriptor under which a script's interpreter finds it.
const SCRIPT: i32 = 3;

/// Where a program of the system is looked for. Nothing that a project or an ordinary user fills.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The program is not there, or not the one that was pinned.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel did not start it.
    #[error("the program cannot be started: {0}")]
    Start(io::Error),
    /// Its streams failed.
    #[error("talking to the program failed: {0}")]
    Stream(io::Error),
    /// It was not done in time.
    #[error("the program was not done before the deadline")]
    Silent,
    /// It wrote without end.
    #[error("the program wrote more than {} MiB to its standard {}", .limit >> 20, .stream)]
    Flood {
        /// `output` or `error`.
        stream: &'static str,
        /// What would have been taken, in bytes.
        limit: usize,
    },
    /// It failed without a word that counts.
    #[error("the program {ended}{}", Unshown(*.stderr))]
    Ended {
        /// How.
        ended: String,
        /// How many bytes it wrote to standard error.
        stderr: usize,
    },
}

/// Tells that there was something on standard error, and not what.
struct Unshown(usize);

impl fmt::Display for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str(" and wrote nothing to standard error"),
            count => write!(f, "; the {count} bytes on its standard error are not shown, for they may hold a value"),
        }
    }
}

/// How exchanges with one program are made.
#[derive(Debug)]
pub(crate) struct Exchange {
    pin: Pin,
    arguments: Vec<String>,
    environment: Vec<(String, OsString)>,
    program: Mutex<Option<Arc<Program>>>,
    turns: Arc<Semaphore>,
}

impl Exchange {
    /// Returns the exchange with the program of `pin`; `environment` stands beside `PATH`, `HOME` and `LANG`.
    pub(crate) fn new(pin: Pin, arguments: Vec<String>, environment: Vec<(String, OsString)>) -> Self {
        let turns = Arc::new(Semaphore::new(MAX_PROCESSES));
        Self { pin, arguments, environment, program: Mutex::default(), turns }
    }

    /// Returns the command as a person would type it.
    pub(crate) fn shown(&self) -> String {
        let words = std::iter::once(self.pin.path().to_string_lossy()).chain(self.arguments.iter().map(Into::into));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Starts the program, gives it `request` and returns what it answered, when it ended well.
    ///
    /// # Errors
    /// See [`ExchangeError`]. The program is gone by then.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        request: Zeroizing<Vec<u8>>,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ExchangeError> {
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
        // The semaphore is never closed.
        let turn = turn.map_err(|_| ExchangeError::Silent)?.map_err(|_| ExchangeError::Silent)?;
        let (gone, waiting) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| ExchangeError::Start(error.into()))?;
        let (sender, receiver) = oneshot::channel();
        let exchange = Arc::clone(self);
        let left = deadline.saturating_duration_since(Instant::now());
        let until = (deadline - (left / 20).min(CLOSING)).into_std();
        // A thread of its own, for a start, a disk and a kill can each block.
        let thread = std::thread::Builder::new().name("exec".to_owned()).spawn(move || {
            let result = exchange.run(&request, until, &gone);
            drop(turn);
            // A receiver that gave up drops the result, wiped.
            drop(sender.send(result));
        });
        thread.map_err(ExchangeError::Start)?;
        let answer = timeout_at(deadline, receiver).await;
        // From here on the thread knows that nobody waits.
        drop(waiting);
        answer.map_err(|_| ExchangeError::Silent)?.unwrap_or(Err(ExchangeError::Silent))
    }

    /// Forgets the copy of the program; the next exchange reads and checks it anew.
    pub(crate) fn forget(&self) {
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn run(
        &self,
        request: &[u8],
        deadline: std::time::Instant,
        gone: &OwnedFd,
    ) -> Result<Zeroizing<Vec<u8>>, ExchangeError> {
        let program = self.loaded()?;
        if std::time::Instant::now() >= deadline {
            return Err(ExchangeError::Silent);
        }
        let mut child = self.start(&program)?;
        let group = Pid::from_child(&child);
        let said = talk(&mut child, request, deadline, gone);
        // Before it is reaped: until then its number means this group and no other.
        let _ = kill_process_group(group, Signal::KILL);
        let status = child.wait().map_err(ExchangeError::Stream)?;
        let said = said?;
        if status.success() {
            return Ok(said.answer);
        }
        Err(ExchangeError::Ended { ended: in_words(status), stderr: said.stderr })
    }

    fn loaded(&self) -> Result<Arc<Program>, ProgramError> {
        let held = self.program.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(program) = held.filter(|program| self.pin.is_still(program)) {
            return Ok(program);
        }
        self.forget();
        let program = Arc::new(self.pin.load()?);
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&program));
        Ok(program)
    }

    fn start(&self, program: &Program) -> Result<Child, ExchangeError> {
        let image = program.image.as_raw_fd();
        let name = if program.is_script { SCRIPT } else { image };
        // Resolved in the child, at its execve, while what is close-on-exec is still open.
        let mut command = Command::new(format!("/proc/self/fd/{name}"));
        command.arg0(&program.path).args(&self.arguments).env_clear().env("PATH", PATH);
        for name in ["HOME", "LANG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if program.is_script {
            let parent_fd = OwnedFd::from(program.image.try_clone().map_err(ExchangeError::Start)?);
            let mapped = command.fd_mappings(vec![FdMapping { parent_fd, child_fd: SCRIPT }]);
            mapped.map_err(|_| ExchangeError::Start(io::ErrorKind::InvalidInput.into()))?;
        }
        // Ours all are already. Whatever a library left open without a thought ends here.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        command.spawn().map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            // The program itself is in our hands.
            Some(Errno::NOENT) => ExchangeError::Start(io::Error::other("its interpreter does not exist")),
            Some(Errno::NOEXEC) => {
                ExchangeError::Start(io::Error::other("it is neither a binary of this machine nor a script with `#!`"))
            }
            _ => ExchangeError::Start(error),
        })
    }
}

/// What a program wrote.
struct Said {
    answer: Zeroizing<Vec<u8>>,
    stderr: usize,
}

/// Feeds and hears `child` until it has ended.
fn talk(
    child: &mut Child,
    mut request: &[u8],
    deadline: std::time::Instant,
    gone: &OwnedFd,
) -> Result<Said, ExchangeError> {
    let stream = |error: Errno| ExchangeError::Stream(error.into());
    let exit = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(stream)?;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ends = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    for end in ends.into_iter().flatten() {
        rustix::io::ioctl_fionbio(end, true).map_err(stream)?;
    }
    let mut said = Said { answer: Zeroizing::default(), stderr: 0 };
    let mut has_ended = false;
    loop {
        while let Some(end) = stdin.as_mut() {
            match end.write(request) {
                Ok(0) => stdin = None,
                Ok(written) => request = request.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It needs no more of it. Whether that was wise shows in its answer.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => stdin = None,
                Err(error) => return Err(ExchangeError::Stream(error)),
            }
        }
        drain(&mut stdout, |bytes| {
            said.answer.extend_from_slice(bytes);
            if said.answer.len() > MAX_ANSWER { Err(("output", MAX_ANSWER)) } else { Ok(()) }
        })?;
        drain(&mut stderr, |bytes| {
            said.stderr += bytes.len();
            if said.stderr > MAX_STDERR { Err(("error", MAX_STDERR)) } else { Ok(()) }
        })?;
        if has_ended {
            // What it wrote before it ended has been read. A child of it that keeps a pipe open is not waited for.
            return Ok(said);
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(ExchangeError::Silent);
        }
        let mut watched = vec![PollFd::new(&exit, PollFlags::IN), PollFd::new(gone, PollFlags::IN)];
        watched.extend(stdin.as_ref().map(|end| PollFd::new(end, PollFlags::OUT)));
        watched.extend(stdout.as_ref().map(|end| PollFd::new(end, PollFlags::IN)));
        watched.extend(stderr.as_ref().map(|end| PollFd::new(end, PollFlags::IN)));
        match poll(&mut watched, Some(&timespec(left))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(stream(error)),
        }
        has_ended = watched.first().is_some_and(|exit| !exit.revents().is_empty());
        if watched.get(1).is_some_and(|gone| !gone.revents().is_empty()) {
            return Err(ExchangeError::Silent);
        }
    }
}

/// Reads what is there. A stream that ended becomes `None`.
fn drain<S: Read>(
    stream: &mut Option<S>,
    mut take: impl FnMut(&[u8]) -> Result<(), (&'static str, usize)>,
) -> Result<(), ExchangeError> {
    let mut chunk = Zeroizing::new([0; 64 * 1024]);
    while let Some(end) = stream {
        match end.read(chunk.as_mut_slice()) {
            Ok(0) => *stream = None,
            Ok(read) => take(chunk.get(..read).unwrap_or_default())
                .map_err(|(stream, limit)| ExchangeError::Flood { stream, limit })?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ExchangeError::Stream(error)),
        }
    }
    Ok(())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
