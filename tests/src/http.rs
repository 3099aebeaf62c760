//! HTTP/1.1 messages, as far as the harness needs them: read one whole from a stream, find a header, write one.

use std::io::{self, BufRead, ErrorKind, Read};

/// Longest head that is read.
const MAX_HEAD: usize = 256 << 10;

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The first line, without its end.
    pub first: String,
    /// The headers, as written.
    pub headers: Vec<(String, String)>,
    /// The body, whatever framing it came in.
    pub body: Vec<u8>,
}

impl Message {
    /// Returns a header's value by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Returns the status of an answer, 0 for a request.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.first.strip_prefix("HTTP/1.").and_then(|r| r.get(2..5)?.parse().ok()).unwrap_or(0)
    }

    /// Returns an answer with a JSON body.
    #[must_use]
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { first: format!("HTTP/1.1 {status} X"), headers, body: body.to_string().into_bytes() }
    }

    /// Returns an answer without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { first: format!("HTTP/1.1 {status} X"), ..Self::default() }
    }

    /// Returns the method of a request, empty for an answer.
    #[must_use]
    pub fn method(&self) -> &str {
        if self.status() > 0 { "" } else { self.first.split(' ').next().unwrap_or_default() }
    }

    /// Returns the target of a request as sent: the path and, after `?`, the query, percent escapes as they came.
    #[must_use]
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// Returns the path of a request, percent escapes as they came.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// Returns the pairs of the query, or of a body that is a form, decoded.
    #[must_use]
    pub fn pairs(text: &str) -> Vec<(String, String)> {
        let decoded = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
    }

    /// Returns a parameter of the query, decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target().split_once('?')?;
        Self::pairs(query).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns a parameter of a body that is a form, decoded.
    #[must_use]
    pub fn form(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        Self::pairs(&body).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Reads the body as JSON; `Null` when it is none.
    #[must_use]
    pub fn body_json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Writes it with `content-length` framing.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        let framing = ["content-length", "transfer-encoding", "connection", "keep-alive"];
        for (name, value) in self.headers.iter().filter(|(n, _)| !framing.contains(&n.to_ascii_lowercase().as_str())) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        [text.as_bytes(), &self.body].concat()
    }
}

/// Sends one JSON request to `127.0.0.1:PORT` on a connection of its own and returns the answer.
///
/// # Panics
/// When there is no answer.
#[must_use]
pub fn call(address: &str, first: &str, headers: &[(&str, &str)], body: &serde_json::Value) -> Message {
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.push(("content-type".to_owned(), "application/json".to_owned()));
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Message { first: format!("{first} HTTP/1.1"), headers, body };
    let answered = std::net::TcpStream::connect(address).and_then(|mut stream| {
        io::Write::write_all(&mut stream, &request.to_bytes())?;
        read_response(&mut io::BufReader::new(stream))
    });
    answered.unwrap_or_else(|error| panic!("no answer from {address}: {error}"))
}

/// Reads one request; none at the end of the stream.
///
/// # Errors
/// What the stream says, or a message that is no HTTP.
pub fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(mut message) = read_head(stream)? else { return Ok(None) };
    message.body = match framing(&message)? {
        Framing::Length(n) => exactly(stream, n)?,
        Framing::Chunked => chunks(stream)?,
        Framing::UntilEnd => Vec::new(),
    };
    Ok(Some(message))
}

/// Reads one answer.
///
/// # Errors
/// What the stream says, or a message that is no HTTP.
pub fn read_response(stream: &mut impl BufRead) -> io::Result<Message> {
    let mut message = read_head(stream)?.ok_or(ErrorKind::UnexpectedEof)?;
    message.body = match framing(&message)? {
        Framing::Length(n) => exactly(stream, n)?,
        Framing::Chunked => chunks(stream)?,
        Framing::UntilEnd => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest)?;
            rest
        }
    };
    Ok(message)
}

enum Framing {
    Length(usize),
    Chunked,
    UntilEnd,
}

fn framing(message: &Message) -> io::Result<Framing> {
    if message.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
        return Ok(Framing::Chunked);
    }
    match message.header("content-length") {
        Some(n) => n.trim().parse().map(Framing::Length).map_err(|_| malformed("content-length")),
        None => Ok(Framing::UntilEnd),
    }
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    let mut read = 0;
    loop {
        let mut line = Vec::new();
        let n = stream.by_ref().take(MAX_HEAD as u64).read_until(b'\n', &mut line)?;
        read += n;
        if n == 0 {
            return if read == 0 { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        if read > MAX_HEAD {
            return Err(malformed("head too long"));
        }
        let line = String::from_utf8(line).map_err(|_| malformed("head is no text"))?;
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return if message.first.is_empty() { Err(malformed("no first line")) } else { Ok(Some(message)) };
        }
        if message.first.is_empty() {
            line.clone_into(&mut message.first);
        } else {
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header without a colon"))?;
            message.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

fn exactly(stream: &mut impl Read, n: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; n];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
        let chunk = exactly(stream, size)?;
        let mut end = String::new();
        stream.read_line(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend(chunk);
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}
