//! A proxy that stands between a client and a test server: it counts calls, adds latency, and misbehaves on demand.
//!
//! Latency is added once per request, before the request goes on; requests on different connections are delayed side
//! by side, and connections to the client are kept. What it can't show: TLS, HTTP/2, a slow handshake, packet loss, and
//! a client that sends a second request before the first was answered.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

use crate::http::{self, Message};

/// What happens to a request instead of being answered.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered with this status and body, without asking the server.
    Answer(u16, String),
    /// It is answered with this status, these headers and this body, without asking the server.
    AnswerWith(u16, Vec<(String, String)>, String),
    /// It is read and never answered; the connection stays open until the client closes it.
    BlackHole,
    /// The connection ends after so many bytes of the real answer.
    CutAfter(usize),
    /// The connection is reset after half of the real answer.
    Reset,
    /// The real answer comes this many bytes at a time, with this pause in between.
    Drip(usize, Duration),
    /// The real answer begins only after this time.
    FirstByteAfter(Duration),
}

/// Which requests a fault meets.
#[derive(Clone, Debug)]
struct Rule {
    action: Option<String>,
    nth: Option<usize>,
    /// What the request's first line or body must hold.
    holding: Option<String>,
    fault: Fault,
}

#[derive(Default)]
struct State {
    latency: Duration,
    rules: Vec<Rule>,
    calls: BTreeMap<String, usize>,
    connections: Vec<TcpStream>,
    in_flight: usize,
    max_in_flight: usize,
    /// The requests as they came, for whoever wants them.
    kept: Option<Vec<Message>>,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
    closed: AtomicBool,
    accepted: AtomicUsize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
    /// While connections are refused: a socket that has the port and does not listen, so that nobody else gets it.
    reserved: Option<OwnedFd>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream` (`127.0.0.1:PORT`).
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn new(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        });
        let accepting = Some(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting, reserved: None }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns `127.0.0.1:PORT` of the server behind it.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.shared.upstream
    }

    /// Sets what is added to each request from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.state().latency = latency;
    }

    /// Lets every request from now on meet `fault`.
    pub fn fail_all(&self, fault: Fault) {
        self.shared.state().rules = vec![Rule { action: None, nth: None, holding: None, fault }];
    }

    /// Lets the `nth` request (from 0) of an action meet `fault`.
    pub fn fail_nth(&self, action: &str, nth: usize, fault: Fault) {
        let rule = Rule { action: Some(action.to_owned()), nth: Some(nth), holding: None, fault };
        self.shared.state().rules.push(rule);
    }

    /// Lets every request meet `fault` whose first line or body holds `text`.
    pub fn fail_holding(&self, text: &str, fault: Fault) {
        let rule = Rule { action: None, nth: None, holding: Some(text.to_owned()), fault };
        self.shared.state().rules.push(rule);
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.shared.state().rules.clear();
        if self.accepting.is_none() {
            self.reserved = None;
            let listener = TcpListener::bind(self.address).expect("the port is still free");
            self.shared.closed.store(false, Ordering::SeqCst);
            self.accepting = Some(accept(listener, Arc::clone(&self.shared)));
        }
    }

    /// Closes the listener and every connection: from now on connections are refused.
    ///
    /// # Panics
    /// When the system gives no socket.
    pub fn refuse(&mut self) {
        self.close();
        if self.reserved.is_none() {
            let socket =
                rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be had");
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("it is a socket");
            // A connection that is still on its way out can hold the port; then it is nobody else's either.
            self.reserved = rustix::net::bind(&socket, &self.address).is_ok().then_some(socket);
        }
    }

    fn close(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        for connection in self.shared.state().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Returns how many calls each action had since the last [`Proxy::forget_calls`].
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.shared.state().calls.clone()
    }

    /// Returns how many calls there were in all.
    #[must_use]
    pub fn call_count(&self) -> usize {
        self.shared.state().calls.values().sum()
    }

    /// Returns the most requests that were under way at once.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.shared.state().max_in_flight
    }

    /// Keeps every request from now on, as it came.
    pub fn keep_requests(&self) {
        self.shared.state().kept.get_or_insert_default();
    }

    /// Returns the requests that were kept, in their order.
    #[must_use]
    pub fn requests(&self) -> Vec<Message> {
        self.shared.state().kept.clone().unwrap_or_default()
    }

    /// Returns how many connections were ever accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Starts counting anew.
    pub fn forget_calls(&self) {
        let mut state = self.shared.state();
        state.calls.clear();
        state.kept.iter_mut().for_each(Vec::clear);
        state.max_in_flight = state.in_flight;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if shared.closed.load(Ordering::SeqCst) {
                return;
            }
            shared.accepted.fetch_add(1, Ordering::SeqCst);
            shared.state().connections.extend(client.try_clone());
            let shared = Arc::clone(&shared);
            // A connection that breaks is what the faults are for.
            thread::spawn(move || serve(&client, &shared));
        }
    })
}

/// Returns the action of a request: what `x-amz-target` names after the dot, or a form as `Action`, else method and path.
fn action(request: &Message) -> String {
    let named = request.header("x-amz-target").and_then(|t| t.rsplit_once('.')).map(|(_, action)| action.to_owned());
    let method_and_path = || request.first.split(' ').take(2).collect::<Vec<_>>().join(" ");
    named.or_else(|| request.form("Action")).unwrap_or_else(method_and_path)
}

fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    while let Some(request) = http::read_request(&mut reader)? {
        let (fault, latency) = begin(shared, &request);
        thread::sleep(latency);
        let outcome = answer(client, shared, &request, fault.as_ref());
        shared.state().in_flight -= 1;
        if !outcome? {
            break;
        }
    }
    client.shutdown(Shutdown::Both)
}

fn begin(shared: &Shared, request: &Message) -> (Option<Fault>, Duration) {
    let action = &action(request);
    let body = String::from_utf8_lossy(&request.body);
    let mut state = shared.state();
    state.kept.iter_mut().for_each(|kept| kept.push(request.clone()));
    let count = state.calls.entry(action.to_owned()).or_default();
    let nth = *count;
    *count += 1;
    state.in_flight += 1;
    state.max_in_flight = state.max_in_flight.max(state.in_flight);
    let meets = |rule: &&Rule| {
        rule.action.as_ref().is_none_or(|known| known == action)
            && rule.nth.is_none_or(|known| known == nth)
            && rule.holding.as_ref().is_none_or(|text| request.first.contains(text) || body.contains(text))
    };
    (state.rules.iter().find(meets).map(|rule| rule.fault.clone()), state.latency)
}

/// Answers one request; tells whether the connection goes on.
fn answer(client: &TcpStream, shared: &Shared, request: &Message, fault: Option<&Fault>) -> io::Result<bool> {
    let mut out = client;
    match fault {
        None => {
            out.write_all(&ask(&shared.upstream, request)?)?;
            return Ok(true);
        }
        Some(Fault::Answer(status, body)) => {
            let headers = vec![("content-type".into(), "application/x-amz-json-1.1".into())];
            let first = format!("HTTP/1.1 {status} X");
            out.write_all(&Message { first, headers, body: body.clone().into_bytes() }.to_bytes())?;
            return Ok(true);
        }
        Some(Fault::AnswerWith(status, headers, body)) => {
            let first = format!("HTTP/1.1 {status} X");
            out.write_all(&Message { first, headers: headers.clone(), body: body.clone().into_bytes() }.to_bytes())?;
            return Ok(true);
        }
        Some(Fault::BlackHole) => {
            // Ends when the client gives up, or when the proxy closes the connection under it.
            let mut byte = [0];
            while io::Read::read(&mut out, &mut byte)? > 0 {}
        }
        Some(Fault::CutAfter(n)) => {
            let bytes = ask(&shared.upstream, request)?;
            out.write_all(&bytes[..bytes.len().min(*n)])?;
        }
        Some(Fault::Reset) => {
            let bytes = ask(&shared.upstream, request)?;
            out.write_all(&bytes[..bytes.len() / 2])?;
            // A linger time of zero makes the close a reset.
            rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
        }
        Some(Fault::Drip(n, pause)) => {
            for piece in ask(&shared.upstream, request)?.chunks(*n) {
                out.write_all(piece)?;
                thread::sleep(*pause);
            }
            return Ok(true);
        }
        Some(Fault::FirstByteAfter(pause)) => {
            let bytes = ask(&shared.upstream, request)?;
            thread::sleep(*pause);
            out.write_all(&bytes)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks the server on a connection of its own and returns the answer with plain framing. The test servers close a
/// connection after each answer, and the client must not see that.
fn ask(upstream: &str, request: &Message) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream)?;
    stream.set_nodelay(true)?;
    stream.write_all(&request.to_bytes())?;
    let mut answer = http::read_response(&mut BufReader::new(stream))?;
    if let Some(rest) = answer.first.strip_prefix("HTTP/1.0") {
        answer.first = format!("HTTP/1.1{rest}");
    }
    Ok(answer.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::Instant;

    /// A server that answers every request with `hello`, one to a connection.
    fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = http::read_request(&mut BufReader::new(stream.try_clone().unwrap()));
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello");
            }
        });
        address
    }

    fn request(stream: &mut TcpStream) -> io::Result<Message> {
        stream.write_all(b"POST / HTTP/1.1\r\nx-amz-target: service.Act\r\ncontent-length: 2\r\n\r\n{}")?;
        http::read_response(&mut BufReader::new(stream))
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address).unwrap()
    }

    #[test]
    fn calls_are_counted_by_action_on_one_kept_connection() {
        let proxy = Proxy::new(&server());
        let mut stream = connect(&proxy);
        for _ in 0..3 {
            assert_eq!(request(&mut stream).unwrap().body, b"hello");
        }
        assert_eq!(proxy.calls(), BTreeMap::from([("Act".to_owned(), 3)]));
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn the_action_of_a_form_is_the_one_that_its_body_names() {
        let proxy = Proxy::new(&server());
        let mut stream = connect(&proxy);
        let body = "Action=AssumeRole&Version=2011-06-15";
        write!(stream, "POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        assert_eq!(http::read_response(&mut BufReader::new(&stream)).unwrap().status(), 200);
        assert_eq!(proxy.calls(), BTreeMap::from([("AssumeRole".to_owned(), 1)]));
    }

    #[test]
    fn requests_on_different_connections_are_delayed_side_by_side() {
        let proxy = Proxy::new(&server());
        let delay = Duration::from_millis(200);
        proxy.set_latency(delay);
        let began = Instant::now();
        thread::scope(|s| (0..8).for_each(|_| drop(s.spawn(|| request(&mut connect(&proxy)).unwrap()))));
        assert!(began.elapsed() >= delay);
        assert!(proxy.max_in_flight() > 1, "one after another");
    }

    #[test]
    fn each_fault_is_seen_by_the_client() {
        let mut proxy = Proxy::new(&server());
        proxy.fail_nth("Act", 1, Fault::Answer(500, "no".into()));
        let mut stream = connect(&proxy);
        assert_eq!(request(&mut stream).unwrap().status(), 200);
        assert_eq!(request(&mut stream).unwrap().status(), 500);
        assert_eq!(request(&mut stream).unwrap().status(), 200);
        proxy.fail_all(Fault::CutAfter(20));
        let mut stream = connect(&proxy);
        stream.write_all(b"GET /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 20);
        proxy.fail_all(Fault::Reset);
        assert!(request(&mut connect(&proxy)).is_err());
        proxy.fail_all(Fault::BlackHole);
        let mut stream = connect(&proxy);
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(request(&mut stream).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        proxy.refuse();
        assert_eq!(TcpStream::connect(proxy.address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        proxy.heal();
        assert_eq!(request(&mut connect(&proxy)).unwrap().status(), 200);
    }
}
