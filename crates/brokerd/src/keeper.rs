//! The keeper: a small process that outlives the daemon, so that what must not be lost is not lost with it.
//!
//! It holds the ledger's memory open and starts the daemon as a copy of itself, and again when the daemon ended unasked. It
//! never looks into that memory, never listens, and has one thread. There is one per user: it holds a lock beside the
//! daemon's, and one that finds the lock taken waits until the daemon serves, or takes over. It ends with a daemon that was
//! asked to end, and passes on what asks it to. A daemon does not need its keeper in order to go on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use broker_protocol::place::{Place, PlaceError};
use broker_protocol::regular;
use broker_protocol::start::connect_existing;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use rustix::stdio::dup2_stdout;

use crate::detach;
use crate::fork::{Copied, copy};
use crate::give_back::give_back_code;
use crate::harden::harden;
use crate::ledger_memory;
use crate::run::{self, TAKEN};
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
    status: WaitStatus,
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
    lock: File,
}

/// Keeps the daemon until it was asked to end. Readiness or failure is reported as one line on standard output.
pub(crate) fn keep() -> ExitCode {
    // Whoever starts it by hand does not choose what every daemon loads and believes.
    if let Err(error) = run::begin_with_clean_environment("keep") {
        detach::report(&format!("error: {error}"));
        return ExitCode::FAILURE;
    }
    detach::begin_session();
    // Whoever starts it by hand may be anywhere.
    let _ = std::env::set_current_dir("/");
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
    Ok(Some(Keeper { place, memory, signals: Signals::take()?, awaited: true, asked: false, lock }))
}

impl Keeper {
    /// Starts the daemon, and again after every end that nobody asked for.
    fn keep(mut self) -> Result<ExitCode, KeepError> {
        let begun = Instant::now();
        let (mut pause, mut failures) = (Duration::ZERO, 0);
        loop {
            let (reader, writer) = io::pipe()?;
            let began = Instant::now();
            let ended = match copy() {
                // Too many processes or too little memory: that may pass.
                Err(error) if self.awaited || failures >= MAX_FAILURES => return Err(error.into()),
                Err(_) => {
                    failures += 1;
                    if self.pause(MAX_PAUSE)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                    continue;
                }
                Ok(Copied::Keeper(daemon)) => {
                    drop(writer);
                    self.watch(daemon, reader, began)?
                }
                Ok(Copied::Daemon) => {
                    let Self { memory, signals, lock, .. } = self;
                    dup2_stdout(&writer).map_err(io::Error::from)?;
                    // Kept open here, the lock would outlive the keeper; and the client's pipe is standard output no more.
                    drop((reader, writer, signals, lock));
                    return Ok(run::kept(memory));
                }
            };
            if self.asked || ended.status.exit_status() == Some(0) {
                return Ok(ExitCode::SUCCESS);
            }
            let taken = ended.status.exit_status() == Some(i32::from(TAKEN));
            // Once a daemon of its own was ready there may be something in the memory that is not given up to whoever
            // took the place of that daemon.
            if taken && self.awaited && is_served(&self.place) {
                self.tell("ready");
                return Ok(ExitCode::SUCCESS);
            }
            // A daemon that is ending still holds its lock for a moment.
            let patient = taken && begun.elapsed() < SERVED_WITHIN;
            failures = if ended.said == "ready" { 0 } else { failures + 1 };
            if self.awaited && (failures > MAX_FAILURES || !patient) {
                self.tell(&ended.said);
                return Ok(ExitCode::FAILURE);
            }
            // Killed by somebody, and not by a fault that would meet the next one, too.
            let is_killed = ended.status.terminating_signal() == Some(Signal::KILL.as_raw());
            if ended.said == "ready" && (ended.after >= STEADY || is_killed) {
                pause = Duration::ZERO;
            }
            if self.pause(pause)? {
                return Ok(ExitCode::SUCCESS);
            }
            pause = (pause * 2).clamp(Duration::from_millis(10), MAX_PAUSE);
        }
    }

    /// Hears whether the daemon is ready, and waits for its end.
    fn watch(&mut self, daemon: Pid, line: PipeReader, began: Instant) -> Result<Ended, KeepError> {
        let said = self.hear(daemon, line)?;
        if said == "ready" {
            self.tell("ready");
        }
        give_back_code();
        loop {
            if let Some((_, status)) = waitpid(Some(daemon), WaitOptions::NOHANG).map_err(io::Error::from)? {
                return Ok(Ended { status, said, after: began.elapsed() });
            }
            let woken = self.signals.wait(None, None)?;
            self.pass_on(woken, daemon);
        }
    }

    /// Reads the daemon's one line; nothing when it ended without.
    fn hear(&mut self, daemon: Pid, mut from: PipeReader) -> io::Result<String> {
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
    fn pass_on(&mut self, woken: Woken, daemon: Pid) {
        if woken == Woken::Asked {
            self.asked = true;
            // It is not reaped yet, so the number is still its own.
            let _ = kill_process(daemon, Signal::TERM);
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
