//! The little of HTTP/1.1 that the client speaks (RFC 9112): one request, one answer, one connection kept.
//!
//! A request has a `Content-Length` or no body; an answer must have one, so its buffer is allocated once, at its final
//! size, and never leaves a half-grown copy behind. Head and body are bounded, every wait has an end, and each buffer
//! that may hold a value is wiped when it is dropped. No chunked bodies, no redirects, no header of the answer but
//! `Content-Length` and `Connection` counts.

use std::io::{self, IoSlice, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use zeroize::Zeroizing;

use crate::message::MAX_MESSAGE_BYTES;

/// Largest head of an answer. The daemon's is about 120 bytes.
const MAX_HEAD_BYTES: usize = 4096;

/// How an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The peer went away before it answered in full.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The answer is no HTTP that we read.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// Head or body are larger than allowed.
    #[error("the message is larger than {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// The kernel refused to send or receive.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// What was answered.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, whole.
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// The daemon closes the connection after this answer.
    pub(crate) closing: bool,
}

/// What to tell a person who waits for longer than a moment.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// How long a moment is.
    pub moment: Duration,
    /// Called once when an answer takes longer than `moment`.
    pub began: fn(),
    /// Called when the wait that began is over.
    pub ended: fn(),
}

/// Makes one exchange.
///
/// # Errors
/// See [`HttpError`]; the connection is of no use afterwards.
pub(crate) fn exchange(
    stream: &mut UnixStream,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
    budget: Duration,
    waiting: Option<Waiting>,
) -> Result<Answer, HttpError> {
    send(stream, method, target, body, budget)?;
    let clock = Clock { end: Instant::now() + budget, budget };
    if let Some(waiting) = waiting
        && !readable_within(stream, waiting.moment)?
    {
        (waiting.began)();
        let answer = receive(stream, &clock);
        (waiting.ended)();
        return answer;
    }
    receive(stream, &clock)
}

/// Sends with `MSG_NOSIGNAL`: a daemon that has just died is an error to report and no SIGPIPE to die of.
fn send(
    stream: &UnixStream,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
    budget: Duration,
) -> Result<(), HttpError> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: broker\r\n");
    if let Some(body) = body {
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(HttpError::TooLarge);
        }
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut slices = [IoSlice::new(head.as_bytes()), IoSlice::new(body.unwrap_or_default())];
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match sendmsg(stream, rest, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
            Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(HttpError::Silent(budget)),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

/// The end of one wait, checked after every read: an answer that drips can't keep us for longer than silence can.
struct Clock {
    end: Instant,
    budget: Duration,
}

impl Clock {
    fn read(&self, stream: &mut UnixStream, into: &mut [u8]) -> Result<usize, HttpError> {
        loop {
            if Instant::now() >= self.end {
                return Err(HttpError::Silent(self.budget));
            }
            match stream.read(into) {
                Ok(0) => return Err(HttpError::Closed),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The socket's own timeout.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(HttpError::Silent(self.budget)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn readable_within(stream: &UnixStream, moment: Duration) -> Result<bool, HttpError> {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    let timeout = Timespec { tv_sec: moment.as_secs().cast_signed(), tv_nsec: moment.subsec_nanos().into() };
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn receive(stream: &mut UnixStream, clock: &Clock) -> Result<Answer, HttpError> {
    // On the stack: with the head come the first values, and a small grant whole.
    let mut first = Zeroizing::new([0_u8; MAX_HEAD_BYTES]);
    let mut filled = 0;
    let head = loop {
        filled += clock.read(stream, &mut first[filled..])?;
        match head(&first[..filled])? {
            Some(head) => break head,
            None if filled >= MAX_HEAD_BYTES => return Err(HttpError::TooLarge),
            None => {}
        }
    };
    let surplus = &first[head.len..filled];
    if surplus.len() > head.body {
        return Err(HttpError::Malformed("more bytes than announced"));
    }
    let mut body = Zeroizing::new(vec![0_u8; head.body]);
    body[..surplus.len()].copy_from_slice(surplus);
    let mut filled = surplus.len();
    while filled < body.len() {
        filled += clock.read(stream, &mut body[filled..])?;
    }
    Ok(Answer { status: head.status, body, closing: head.closing })
}

struct Head {
    status: u16,
    len: usize,
    body: usize,
    closing: bool,
}

/// Reads the head of an answer, or `None` while it is incomplete.
fn head(bytes: &[u8]) -> Result<Option<Head>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|_| HttpError::Malformed("no HTTP"))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let mut body = None;
    let mut closing = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok().and_then(|text| text.parse::<usize>().ok());
            // Two lengths are one too many, even if they agree (RFC 9112 section 6.3).
            if body.is_some() || length.is_none() {
                return Err(HttpError::Malformed("bad Content-Length"));
            }
            body = length;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(HttpError::Malformed("a transfer coding"));
        } else if header.name.eq_ignore_ascii_case("connection") {
            closing = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let body = body.ok_or(HttpError::Malformed("no Content-Length"))?;
    if body > MAX_MESSAGE_BYTES {
        return Err(HttpError::TooLarge);
    }
    Ok(Some(Head { status: response.code.unwrap_or(0), len, body, closing }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::thread;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(200);

    /// Lets a peer answer `bytes` to whatever it is asked, then hang up.
    fn answered(bytes: &'static [u8]) -> Result<(u16, Vec<u8>), HttpError> {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(MOMENT)).unwrap();
        let peer = thread::spawn(move || {
            let mut request = [0; 1024];
            let count = server.read(&mut request).unwrap();
            server.write_all(bytes).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let answer = exchange(&mut client, "POST", "/x", Some(b"hello"), MOMENT, None);
        let request = peer.join().unwrap();
        assert!(request.starts_with("POST /x HTTP/1.1\r\n") && request.ends_with("Content-Length: 5\r\n\r\nhello"));
        answer.map(|answer| (answer.status, answer.body.to_vec()))
    }

    #[test]
    fn an_answer_is_its_status_and_exactly_its_announced_bytes() {
        let (status, body) = answered(b"HTTP/1.1 403 No\r\ncontent-length: 4\r\n\r\n\0\r\nx").unwrap();
        assert_eq!((status, body.as_slice()), (403, &b"\0\r\nx"[..]));
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap().1, b"");
    }

    #[test]
    fn a_malformed_answer_is_refused() {
        for bytes in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        ] {
            let error = answered(bytes).unwrap_err();
            assert!(matches!(error, HttpError::Malformed(_)), "{error:?} for {:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_truncated_answer_is_a_closed_connection() {
        for bytes in [&b""[..], b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
            assert!(matches!(answered(bytes), Err(HttpError::Closed)));
        }
    }

    #[test]
    fn a_body_past_the_bound_is_refused_before_it_is_allocated() {
        let error = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").unwrap_err();
        assert!(matches!(error, HttpError::TooLarge));
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || {
            let _ = server.write_all(b"HTTP/1.1 200 OK\r\nx: ");
            let _ = server.write_all(&[b'a'; 64 << 10]);
            // Open until the request was sent, which it would find closed else.
            server
        });
        let error = exchange(&mut client, "GET", "/", None, MOMENT, None).err().unwrap();
        assert!(matches!(error, HttpError::TooLarge), "{error:?}");
        drop(client);
        drop(peer.join().unwrap());
    }

    #[test]
    fn silence_and_dripping_both_end() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(MOMENT)).unwrap();
        let error = exchange(&mut client, "GET", "/", None, MOMENT, None).err().unwrap();
        assert!(matches!(error, HttpError::Silent(_)), "{error:?}");
        drop(server);

        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(MOMENT)).unwrap();
        let peer = thread::spawn(move || {
            let _ = server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while server.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let error = exchange(&mut client, "GET", "/", None, MOMENT, None).err().unwrap();
        assert!(matches!(error, HttpError::Silent(_)), "{error:?}");
        drop(client);
        peer.join().unwrap();
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (mut client, server) = UnixStream::pair().unwrap();
        drop(server);
        let error = exchange(&mut client, "GET", "/", None, MOMENT, None).err().unwrap();
        assert!(matches!(error, HttpError::Closed), "{error:?}");
    }
}
