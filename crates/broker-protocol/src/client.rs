//! One connection to the daemon, blocking: opened and attested, then sealed, then asked.
//!
//! The order is the contract of attestation: the daemon looks at the peer as it is (its executable is readable) and
//! answers [`Attested`]; only then does this process make itself non-dumpable, and only then is a request sent. So a
//! process has one connection for its whole life: once sealed it could not be attested again.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use broker_core::code::ErrorCode;
use broker_core::lease::LeaseId;
use broker_core::secret::SecretValue;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::directories::Directories;
pub use crate::http::Waiting;
use crate::http::{Answer, HttpError, exchange};
use crate::message::{
    Ask, Attested, Checked, Done, Explained, Failure, GrantHead, LeaseEndAsk, Leases, Locked, PROTOCOL, Providers,
    SecretDone, SecretHistory, SecretList, SecretNamed, SecretRow, SecretSet, Status, TrustAsk, TrustShown, WhoAmI,
};
use crate::place::{Place, PlaceError};
use crate::seal::seal;
use crate::start::{StartError, connect_existing, connect_or_start};

/// How long the daemon may take to look at us.
const ATTEST_WITHIN: Duration = Duration::from_secs(10);

/// How long daemons may end, one after the other, before they looked at us.
const ENDING_FOR: Duration = Duration::from_secs(3);

/// Between two tries to be looked at.
const TRY_EVERY: Duration = Duration::from_millis(4);

/// How long any other answer may take: the daemon bounds its own work well below.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// An attested connection of a sealed process.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    daemon: Attested,
    pid: u32,
    waiting: Option<Waiting>,
    spent: bool,
}

/// What a grant delivers.
#[derive(Debug)]
pub struct Granted {
    /// Everything but the values.
    pub head: GrantHead,
    /// The variables to set, in the order of the head.
    pub values: Vec<(String, SecretValue)>,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The meeting place is not to be believed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is no daemon to talk to.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Somebody else's process serves our socket.
    #[error("the daemon runs as uid {theirs}, not as uid {own}")]
    ForeignDaemon {
        /// Whose daemon it is.
        theirs: u32,
        /// Who we are.
        own: u32,
    },
    /// The daemon is of another version.
    #[error("the daemon (version {version}) speaks protocol {theirs}, this `broker` speaks protocol {PROTOCOL}")]
    OtherProtocol {
        /// The daemon's protocol.
        theirs: u32,
        /// The daemon's program version.
        version: String,
    },
    /// The daemon was started under another home and reads other files than ours.
    #[error("the daemon was started with other directories than this command has (`{}`, here `{}`)", theirs.display(), ours.display())]
    OtherDirectories {
        /// Its directory of configuration.
        theirs: PathBuf,
        /// Ours.
        ours: PathBuf,
    },
    /// This process can't be closed to others.
    #[error("cannot make this process non-dumpable: {0}")]
    Seal(io::Error),
    /// The daemon died or hung up.
    #[error("the daemon ended before it answered")]
    Died,
    /// The daemon is silent.
    #[error("the daemon did not answer within {0:?}")]
    Silent(Duration),
    /// The daemon answered something else.
    #[error("the daemon's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// The request or its answer is larger than a message may be.
    #[error("the request, or the values it asks for, are too large for one message")]
    TooLarge,
    /// A path of the request is no UTF-8.
    #[error("the path of this directory or of its manifest is not UTF-8")]
    NotText,
    /// The kernel refused.
    #[error("cannot talk to the daemon: {0}")]
    Io(io::Error),
    /// The daemon answered with problems.
    #[error("{}", first_message(.0))]
    Refused(Failure),
}

fn first_message(failure: &Failure) -> &str {
    failure.problems.first().map_or("the daemon refused and gave no reason", |problem| &problem.message)
}

impl ClientError {
    /// Returns the code under which it is shown.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(failure) => failure.problems.first().map_or(ErrorCode::Internal, |problem| problem.code),
            Self::Seal(_) => ErrorCode::Internal,
            Self::TooLarge => ErrorCode::Value,
            Self::NotText => ErrorCode::Usage,
            _ => ErrorCode::Daemon,
        }
    }

    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Place(error) => Some(error.hint()),
            Self::Start(error) => error.hint(),
            Self::ForeignDaemon { .. } => {
                Some("set XDG_RUNTIME_DIR to a directory of yours, or run as that user".to_owned())
            }
            Self::OtherProtocol { .. } | Self::OtherDirectories { .. } => Some(
                "stop the daemon, the next command starts the one that belongs here: broker daemon stop".to_owned(),
            ),
            Self::TooLarge => Some("ask for fewer at once: --only NAME,NAME".to_owned()),
            Self::NotText => Some("run it in a directory whose path is UTF-8".to_owned()),
            Self::Died => Some("run the command again: it starts a new daemon".to_owned()),
            Self::Silent(_) => Some("end it: `broker daemon stop` says how".to_owned()),
            _ => None,
        }
    }
}

impl From<HttpError> for ClientError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Closed => Self::Died,
            HttpError::Silent(budget) => Self::Silent(budget),
            HttpError::Malformed(what) => Self::Nonsense(what),
            HttpError::TooLarge => Self::TooLarge,
            HttpError::Io(error) => Self::Io(error),
        }
    }
}

impl Connection {
    /// Connects to the daemon, starting it where needed, is attested, and seals this process.
    ///
    /// # Errors
    /// No believable place, no daemon, somebody else's or another version's, or one that goes away before the look.
    pub fn open(place: &Place) -> Result<Self, ClientError> {
        // A daemon that ends at the very moment we connect hangs up, and nothing was asked of it yet: once more, then.
        let end = Instant::now() + ENDING_FOR;
        let mut connection = loop {
            match Self::attested(connect_or_start(place)?) {
                Err(ClientError::Died) if Instant::now() < end => std::thread::sleep(TRY_EVERY),
                other => break other?,
            }
        };
        connection.belongs_here()?;
        connection.sealed()
    }

    /// Connects to a daemon that runs already; `None` when there is none. Sealed like [`Connection::open`].
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn existing(place: &Place) -> Result<Option<Self>, ClientError> {
        let Some(mut connection) = Self::existing_of_any_version(place)? else { return Ok(None) };
        connection.belongs_here()?;
        connection.sealed().map(Some)
    }

    /// Connects to a daemon that runs already, whatever protocol it speaks: only [`Connection::stop`] may follow. Does
    /// not seal, since no value is on its way.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn existing_of_any_version(place: &Place) -> Result<Option<Self>, ClientError> {
        match connect_existing(place)? {
            None => Ok(None),
            Some(stream) => match Self::attested(stream) {
                Err(ClientError::Died) => Ok(None),
                other => other.map(Some),
            },
        }
    }

    fn attested(mut stream: UnixStream) -> Result<Self, ClientError> {
        let peer = socket_peercred(&stream).map_err(|error| ClientError::Io(error.into()))?;
        let (theirs, own) = (peer.uid.as_raw(), rustix::process::getuid().as_raw());
        if theirs != own {
            return Err(ClientError::ForeignDaemon { theirs, own });
        }
        set_socket_timeout(&stream, Timeout::Recv, Some(ATTEST_WITHIN))
            .map_err(|error| ClientError::Io(error.into()))?;
        let answer = exchange(&mut stream, "GET", "/v1/attest", None, ATTEST_WITHIN, None)?;
        let daemon = understood(&answer)?;
        Ok(Self { stream, daemon, pid: peer.pid.as_raw_nonzero().get().cast_unsigned(), waiting: None, spent: false })
    }

    /// Makes sure that this is the daemon that belongs here: same protocol, same directories.
    fn belongs_here(&mut self) -> Result<(), ClientError> {
        let Attested { protocol: theirs, version, directories } = &self.daemon;
        if *theirs != PROTOCOL {
            return Err(ClientError::OtherProtocol { theirs: *theirs, version: version.clone() });
        }
        match (directories, Directories::from_environment()) {
            (Some(theirs), Some(ours)) if *theirs != ours => {
                let (theirs, ours) = if theirs.home == ours.home {
                    (theirs.config.clone(), ours.config)
                } else {
                    (theirs.home.clone(), ours.home)
                };
                Err(ClientError::OtherDirectories { theirs, ours })
            }
            _ => Ok(()),
        }
    }

    fn sealed(self) -> Result<Self, ClientError> {
        seal().map_err(ClientError::Seal)?;
        set_socket_timeout(&self.stream, Timeout::Recv, Some(ANSWER_WITHIN))
            .map_err(|error| ClientError::Io(error.into()))?;
        Ok(self)
    }

    /// Lets a person know when an answer takes its time.
    pub fn tell_when_waiting(&mut self, waiting: Waiting) {
        self.waiting = Some(waiting);
    }

    /// Makes a request during which nobody is told that it takes long.
    ///
    /// # Errors
    /// What `request` says.
    pub fn in_silence<T>(
        &mut self,
        request: impl FnOnce(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let waiting = self.waiting.take();
        let answer = request(self);
        self.waiting = waiting;
        answer
    }

    /// Keeps the connection while a person is thinking: the daemon closes one that is silent for long, and a sealed
    /// process can't have another. A failure shows in the request that follows.
    pub fn keep(&mut self) {
        let _ = self.whoami();
    }

    /// Returns what the daemon said of itself.
    #[must_use]
    pub fn daemon(&self) -> &Attested {
        &self.daemon
    }

    /// Returns the daemon's process id, as the kernel noted it when the socket was bound.
    #[must_use]
    pub fn daemon_pid(&self) -> u32 {
        self.pid
    }

    /// Asks for what one run may have.
    ///
    /// # Errors
    /// See [`ClientError`], as for every request below.
    pub fn grant(&mut self, ask: &Ask) -> Result<Granted, ClientError> {
        granted(self.post("/v1/grant", &encoded(ask)?)?)
    }

    /// Asks what a run would get.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn explain(&mut self, ask: &Ask) -> Result<Explained, ClientError> {
        self.ask("/v1/explain", ask)
    }

    /// Asks whether every reference resolves.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn check(&mut self, ask: &Ask) -> Result<Checked, ClientError> {
        self.ask("/v1/check", ask)
    }

    /// Shows what a manifest asks for or, with `agreed`, trusts it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trust(&mut self, ask: &TrustAsk) -> Result<TrustShown, ClientError> {
        self.ask("/v1/trust", ask)
    }

    /// Stores a value.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn secret_set(&mut self, ask: &SecretSet, value: &SecretValue) -> Result<SecretDone, ClientError> {
        let head = encoded(ask)?;
        let mut body = Zeroizing::new(Vec::with_capacity(head.len() + 1 + value.len()));
        body.extend_from_slice(&head);
        body.push(b'\n');
        // Opened to be sent to the daemon that stores it.
        body.extend_from_slice(value.expose());
        understood(&self.post("/v1/secret/set", &body)?)
    }

    /// Asks for one value, to be shown.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn secret_get(&mut self, ask: &SecretNamed) -> Result<Granted, ClientError> {
        granted(self.post("/v1/secret/get", &encoded(ask)?)?)
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn secret_rm(&mut self, ask: &SecretNamed) -> Result<SecretDone, ClientError> {
        self.ask("/v1/secret/rm", ask)
    }

    /// Asks what is known of a secret besides its value.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn secret_history(&mut self, ask: &SecretNamed) -> Result<SecretHistory, ClientError> {
        self.ask("/v1/secret/history", ask)
    }

    /// Lists secrets, never values.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn secret_list(&mut self, ask: &SecretList) -> Result<Vec<SecretRow>, ClientError> {
        self.ask("/v1/secret/list", ask)
    }

    /// Opens the embedded store, or makes it with its first passphrase.
    ///
    /// # Errors
    /// See [`ClientError`]; a wrong passphrase is [`ClientError::Refused`].
    pub fn unlock(&mut self, passphrase: &SecretValue, create: bool) -> Result<Done, ClientError> {
        let target = if create { "/v1/unlock?create=1" } else { "/v1/unlock" };
        // Opened to be sent to the daemon that derives the store's key from it.
        understood(&self.post(target, passphrase.expose())?)
    }

    /// Ends all leases and forgets everything held.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn lock(&mut self) -> Result<Locked, ClientError> {
        understood(&self.post("/v1/lock", b"")?)
    }

    /// Lists live leases.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn leases(&mut self) -> Result<Leases, ClientError> {
        self.fetch("/v1/leases")
    }

    /// Ends one lease, or all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn end_lease(&mut self, lease: Option<LeaseId>) -> Result<Locked, ClientError> {
        self.ask("/v1/leases/end", &LeaseEndAsk { lease })
    }

    /// Asks the daemon how it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.fetch("/v1/status")
    }

    /// Asks the daemon to stop. This request is the same in every protocol version.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stop(&mut self) -> Result<(), ClientError> {
        match self.post("/v1/stop", b"") {
            // Stopping may close the connection before the answer has left: that is an answer, too.
            Ok(_) | Err(ClientError::Died) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lists what secrets can be read from.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn providers(&mut self) -> Result<Providers, ClientError> {
        self.fetch("/v1/providers")
    }

    /// Asks who we are in the daemon's eyes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn whoami(&mut self) -> Result<WhoAmI, ClientError> {
        self.fetch("/v1/whoami")
    }

    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, target: &str, ask: &Q) -> Result<A, ClientError> {
        understood(&self.post(target, &encoded(ask)?)?)
    }

    fn fetch<A: DeserializeOwned>(&mut self, target: &str) -> Result<A, ClientError> {
        understood(&self.send("GET", target, None)?)
    }

    pub(crate) fn post(&mut self, target: &str, body: &[u8]) -> Result<Answer, ClientError> {
        self.send("POST", target, Some(body))
    }

    fn send(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Answer, ClientError> {
        if self.spent {
            return Err(ClientError::Died);
        }
        let answer = exchange(&mut self.stream, method, target, body, ANSWER_WITHIN, self.waiting);
        self.spent = answer.as_ref().map_or(true, |answer| answer.closing);
        let answer = answer?;
        if answer.status == 200 {
            return Ok(answer);
        }
        match serde_json::from_slice(&answer.body) {
            Ok(failure) => Err(ClientError::Refused(failure)),
            Err(_) => Err(ClientError::Nonsense("a failure without reasons")),
        }
    }
}

/// Encodes a request. Its sign-in variables are values, so it is measured first: a buffer that grows would leave
/// unwiped copies behind.
pub(crate) fn encoded<Q: Serialize>(ask: &Q) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    // All that has no JSON form in a request is a path that is no UTF-8.
    let unwritable = |_| ClientError::NotText;
    let mut length = Length(0);
    serde_json::to_writer(&mut length, ask).map_err(unwritable)?;
    let mut body = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *body, ask).map_err(unwritable)?;
    Ok(body)
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn understood<A: DeserializeOwned>(answer: &Answer) -> Result<A, ClientError> {
    serde_json::from_slice(&answer.body).map_err(|_| ClientError::Nonsense("not the JSON that this request has"))
}

/// Takes the line of JSON and the raw values behind it apart.
fn granted(answer: Answer) -> Result<Granted, ClientError> {
    let cut = answer.body.iter().position(|b| *b == b'\n').ok_or(ClientError::Nonsense("a grant without its line"))?;
    let head: GrantHead =
        serde_json::from_slice(&answer.body[..cut]).map_err(|_| ClientError::Nonsense("a grant's line is no JSON"))?;
    let mut rest = &answer.body[cut + 1..];
    let mut values = Vec::with_capacity(head.values.len());
    for (name, len) in &head.values {
        let (value, after) = rest.split_at_checked(*len).ok_or(ClientError::Nonsense("a grant is cut off"))?;
        values.push((name.clone(), SecretValue::new(value.to_vec())));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(ClientError::Nonsense("a grant has more bytes than values"));
    }
    Ok(Granted { head, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: &str, values: &[u8]) -> Answer {
        let body = Zeroizing::new([line.as_bytes(), b"\n", values].concat());
        Answer { status: 200, body, closing: false }
    }

    const HEAD: &str = r#"{"lease":null,"values":[["A",3],["B",0],["C",4]],"settings":[],"remove":[],"notes":[]}"#;

    #[test]
    fn values_are_cut_by_their_lengths_whatever_their_bytes() {
        let granted = granted(answer(HEAD, b"\n\0a\xff\n\nz")).unwrap();
        let values: Vec<_> = granted.values.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(values, [("A", &b"\n\0a"[..]), ("B", b""), ("C", b"\xff\n\nz")]);
    }

    #[test]
    fn a_grant_of_any_other_length_is_refused_whole() {
        for values in [&b""[..], b"123456", b"12345678"] {
            assert!(matches!(granted(answer(HEAD, values)), Err(ClientError::Nonsense(_))));
        }
        let absurd = HEAD.replace("3]", "18446744073709551615]");
        assert!(matches!(granted(answer(&absurd, b"1234567")), Err(ClientError::Nonsense(_))));
    }
}
