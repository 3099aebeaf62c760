//! The keeper: a small process that outlives the daemon, so that what must not be lost is not lost with it.
//!
//! It holds the ledger's memory open, passes it to the daemon that it starts, and starts the daemon again when it ended
//! unasked. It never looks into that memory and never listens. There is one per user: it holds a lock beside the daemon's,
//! and one that finds the lock taken waits until the daemon serves, or takes over. It ends with a daemon that was asked
//! to end, and passes on what asks it to. A daemon does not need its keeper in order to go on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use broker_protocol::place::{Place, PlaceError};
use broker_protocol::regular;
use broker_protocol::start::{connect_existing, daemon_environment};
use rustix::process::{Pid, Signal, kill_process};

use crate::detach;
use crate::give_back::give_back_code;
use crate::harden::harden;
use crate::ledger_memory;
use crate::run::TAKEN;
use crate::signals::{Signals, Woken};

/// How long a keeper waits for what another one keeps to be served; a client waits a little longer.
const SERVED_WITHIN: Duration = Duration::from_secs(8);

/// Between two looks at what another process does.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// How long is waited at most before the daemon is started again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long a daemon served before its end counts as the first of its kind.
const STEADY: Duration = Duration::from_secs(10);

/// How often in a row a daemon may end before it is ready, once one was.
const MAX_FAILURES: u32 = 60;

/// Longest line that a starting daemon may say.
const MAX_LINE_BYTES: usize = 4096;

/// Why there is nothing to keep.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0} ({hint})", hint = .0.hint())]
    Place(#[from] PlaceError),
    #[error("the process cannot be protected: {0}")]
    Harden(io::Error),
    #[error("there is no memory for what outlives the daemon: {0}")]
    Memory(io::Error),
    #[error("the keeper's lock cannot be used: {0}")]
    Lock(io::Error),
    #[error("the daemon cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("a daemon is kept already, and was not ready within {SERVED_WITHIN:?}")]
    NotServed,
}

/// How the daemon ended.
struct Ended {
    status: ExitStatus,
    /// Its one line: `ready`, or why it is not.
    said: String,
    /// How long it lived.
    after: Duration,
}

/// The one keeper of a user.
struct Keeper {
    place: Place,
    memory: OwnedFd,
    signals: Signals,
    /// Whether a client still waits for its line.
    awaited: bool,
    /// Whether this process was asked to end.
    asked: bool,
    /// Held for as long as the keeper lives.
    _lock: File,
}

/// Keeps the daemon until it was asked to end. Readiness or failure is reported as one line on standard output.
pub(crate) fn keep() -> ExitCode {
    detach::begin_session();
    let kept = match begin() {
        Ok(Some(keeper)) => keeper.keep(),
        Ok(None) => {
            detach::report("ready");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    };
    kept.unwrap_or_else(|error| {
        detach::report(&format!("error: {error}"));
        ExitCode::FAILURE
    })
}

/// Becomes the keeper, or returns `None` when the daemon of another one serves.
fn begin() -> Result<Option<Keeper>, KeepError> {
    harden().map_err(KeepError::Harden)?;
    detach::name_process(c"brokerd-keeper");
    let place = Place::find()?;
    let options = &mut OpenOptions::new();
    let lock = regular::open(&place.keeper_lock(), options.write(true).create(true).truncate(false).mode(0o600))
        .map_err(KeepError::Lock)?;
    let end = Instant::now() + SERVED_WITHIN;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(KeepError::Lock(error)),
        }
        if is_served(&place) {
            return Ok(None);
        }
        if Instant::now() >= end {
            return Err(KeepError::NotServed);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let memory = ledger_memory::create().map_err(KeepError::Memory)?;
    Ok(Some(Keeper { place, memory, signals: Signals::take()?, awaited: true, asked: false, _lock: lock }))
}

impl Keeper {
    /// Starts the daemon, and again after every end that nobody asked for.
    fn keep(mut self) -> Result<ExitCode, KeepError> {
        let begun = Instant::now();
        let (mut pause, mut failures) = (Duration::ZERO, 0);
        loop {
            let ended = self.live_once()?;
            if self.asked || ended.status.success() {
                return Ok(ExitCode::SUCCESS);
            }
            let taken = ended.status.code() == Some(i32::from(TAKEN));
            if taken && is_served(&self.place) {
                self.tell("ready");
                return Ok(ExitCode::SUCCESS);
            }
            // A daemon that is ending still holds its lock for a moment.
            let patient = taken && begun.elapsed() < SERVED_WITHIN;
            failures = if ended.said == "ready" { 0 } else { failures + 1 };
            if failures > MAX_FAILURES || self.awaited && !patient {
                self.tell(&ended.said);
                return Ok(ExitCode::FAILURE);
            }
            // Killed by somebody, and not by a fault that would meet the next one, too.
            let is_killed = ended.status.signal() == Some(Signal::KILL.as_raw());
            if ended.said == "ready" && (ended.after >= STEADY || is_killed) {
                pause = Duration::ZERO;
            }
            if self.pause(pause)? {
                return Ok(ExitCode::SUCCESS);
            }
            pause = (pause * 2).clamp(Duration::from_millis(10), MAX_PAUSE);
        }
    }

    /// Starts the daemon and waits for its end.
    fn live_once(&mut self) -> Result<Ended, KeepError> {
        let began = Instant::now();
        let (mut daemon, line) = self.start()?;
        let said = self.hear(&daemon, line)?;
        if said == "ready" {
            self.tell("ready");
        }
        give_back_code();
        loop {
            if let Some(status) = daemon.try_wait()? {
                return Ok(Ended { status, said, after: began.elapsed() });
            }
            let woken = self.signals.wait(None, None)?;
            self.pass_on(woken, &daemon);
        }
    }

    /// Starts this very program once more, as the daemon: a file that was put in its place would be given the memory.
    fn start(&self) -> io::Result<(Child, PipeReader)> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("brokerd").args(["run", "--detached"]).current_dir("/");
        command.env_clear().envs(daemon_environment(std::env::vars_os()));
        command.stdin(self.memory.try_clone()?).stdout(writer).stderr(Stdio::null());
        Ok((command.spawn()?, reader))
    }

    /// Reads the daemon's one line; nothing when it ended without.
    fn hear(&mut self, daemon: &Child, mut from: PipeReader) -> io::Result<String> {
        let mut said = Vec::new();
        let mut chunk = [0; 512];
        while !said.contains(&b'\n') && said.len() < MAX_LINE_BYTES {
            match self.signals.wait(Some(from.as_fd()), None)? {
                Woken::Readable => match from.read(&mut chunk)? {
                    0 => break,
                    count => said.extend_from_slice(&chunk[..count]),
                },
                woken => self.pass_on(woken, daemon),
            }
        }
        Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
    }

    /// Lets the daemon end that this process was asked to end with.
    fn pass_on(&mut self, woken: Woken, daemon: &Child) {
        if woken == Woken::Asked {
            self.asked = true;
            // It is not reaped yet, so the number is still its own.
            let _ = kill_process(Pid::from_child(daemon), Signal::TERM);
        }
    }

    /// Waits for `pause` and tells whether this process was asked to end meanwhile.
    fn pause(&mut self, pause: Duration) -> io::Result<bool> {
        let end = Instant::now() + pause;
        loop {
            match self.signals.wait(None, Some(end.saturating_duration_since(Instant::now())))? {
                Woken::Asked => return Ok(true),
                Woken::Late => return Ok(false),
                _ => {}
            }
        }
    }

    /// Tells the client that waits, once, and lets go of its pipe. An empty line would be no word.
    fn tell(&mut self, line: &str) {
        if self.awaited {
            self.awaited = false;
            detach::report(line);
        }
    }
}

/// Tells whether somebody accepts connections.
fn is_served(place: &Place) -> bool {
    matches!(connect_existing(place), Ok(Some(_)))
}
