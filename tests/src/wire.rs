//! The socket's wire format, spoken by hand: HTTP/1.1 and JSON over the Unix socket.
//!
//! For tests of what a client may not do, and for the load generator. It links nothing of the programs' own protocol,
//! so it also notices when that changes without its version.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::http::{self, Message};

/// One connection to a daemon.
pub struct Wire {
    stream: BufReader<UnixStream>,
}

/// The answer to a grant.
#[derive(Debug)]
pub struct Grant {
    /// The line of JSON in front.
    pub head: Value,
    /// The bytes of the values, one after another.
    pub values: Vec<u8>,
}

impl Wire {
    /// Connects and says nothing yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads what comes until the daemon closes the connection.
    ///
    /// # Errors
    /// What the kernel says, or that it does not close within a minute.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Makes one exchange.
    ///
    /// # Errors
    /// What the kernel says, or an answer that is no HTTP.
    pub fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Message> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: broker\r\ncontent-length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())?;
        http::read_response(&mut self.stream)
    }

    /// Lets the daemon look at this process, as every connection begins.
    ///
    /// # Errors
    /// As [`Wire::exchange`].
    pub fn attest(&mut self) -> io::Result<Message> {
        self.exchange("GET", "/v1/attest", b"")
    }

    /// Asks for a grant.
    ///
    /// # Errors
    /// As [`Wire::exchange`]; a refusal is an error that holds the daemon's words.
    pub fn grant(&mut self, ask: &[u8]) -> io::Result<Grant> {
        let answer = self.exchange("POST", "/v1/grant", ask)?;
        let mut body = answer.body.as_slice();
        let mut line = Vec::new();
        body.read_until(b'\n', &mut line)?;
        if answer.status() != 200 {
            return Err(io::Error::other(String::from_utf8_lossy(&answer.body).into_owned()));
        }
        Ok(Grant { head: serde_json::from_slice(&line)?, values: body.to_vec() })
    }
}
