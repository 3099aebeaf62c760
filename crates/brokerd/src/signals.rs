//! The signals of the keeper, read from a descriptor beside whatever else it waits for (signalfd(2)).
//!
//! Blocked signals and ignored ones are inherited through execve(2), so both programs begin by saying which they have:
//! whoever started the first client may have had others.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What the keeper woke up for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    /// It was asked to end.
    Asked,
    /// Its child ended.
    ChildEnded,
    /// There is something to read.
    Readable,
    /// The time is up.
    Late,
}

/// The signals that ask for an end, and the one that tells of a child's.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Takes them from now on. None of them ends this process any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn take() -> io::Result<Self> {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: no function is installed, so none can run at a moment that it is not made for (signal-safety(7)).
        // An ignored SIGCHLD would have the kernel throw away how the child ended (wait(2)).
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let taken = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
        taken.thread_set_mask()?;
        Ok(Self(SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for a signal, for `source` to have something to read, or until `within` has passed.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(crate) fn wait(&self, source: Option<BorrowedFd<'_>>, within: Option<Duration>) -> io::Result<Woken> {
        let end = within.map(|within| Instant::now() + within);
        loop {
            if let Some(signal) = self.0.read_signal()? {
                let child = signal.ssi_signo == Signal::SIGCHLD as u32;
                return Ok(if child { Woken::ChildEnded } else { Woken::Asked });
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left =
                left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            let mut waited = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            waited.extend(source.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)));
            match poll(&mut waited, left.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) if waited[0].revents().is_empty() => return Ok(Woken::Readable),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Blocks no signal, whatever was blocked where this process comes from.
pub(crate) fn block_none() {
    // Fails for no argument that there could be (pthread_sigmask(3)).
    let _ = SigSet::empty().thread_set_mask();
}
