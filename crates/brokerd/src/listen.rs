//! The daemon's own socket: at most one daemon per user holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;

use broker_protocol::place::Place;
use broker_protocol::regular;
use rustix::fs::{FlockOperation, flock};

/// The socket and the lock that makes it this daemon's.
pub(crate) struct Listening {
    /// The socket.
    pub(crate) listener: UnixListener,
    /// Held for as long as the daemon lives; the kernel drops it however the daemon ends.
    pub(crate) lock: File,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Another daemon of this user serves already.
    #[error("another brokerd serves this user already")]
    Taken,
    /// The kernel refused.
    #[error("the socket cannot be made: {0}")]
    Io(#[from] io::Error),
}

/// Takes the lock and binds the socket, instead of one that a dead daemon left.
///
/// # Errors
/// Another daemon holds the lock, or the socket cannot be made.
pub(crate) fn listen(place: &Place) -> Result<Listening, ListenError> {
    let options = &mut OpenOptions::new();
    let lock = regular::open(&place.daemon_lock(), options.write(true).create(true).truncate(false).mode(0o600))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => ListenError::Taken,
        error => ListenError::Io(error.into()),
    })?;
    match std::fs::remove_file(place.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(place.socket())?;
    // The default queue of 128 is shorter than a burst of 200 clients.
    rustix::net::listen(&listener, 1024).map_err(io::Error::from)?;
    listener.set_nonblocking(true)?;
    Ok(Listening { listener, lock })
}
