//! A small HTTP/1.1 server for the fakes: one thread a connection, connections kept, one function that answers.
//!
//! What it can't show: TLS, HTTP/2, pipelined requests, an answer in several pieces.

use std::io::{self, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::http::{self, Message};

/// A running server; it stops when it is dropped.
pub struct Serve {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

struct Shared {
    answer: Box<dyn Fn(&Message) -> Message + Send + Sync>,
    closed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Serve {
    /// Listens on a free port of 127.0.0.1 and lets `answer` answer every request.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn start(answer: impl Fn(&Message) -> Message + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            closed: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.closed.load(Ordering::SeqCst) {
                    return;
                }
                own.connections.lock().unwrap_or_else(PoisonError::into_inner).extend(client.try_clone());
                let own = Arc::clone(&own);
                // A client that leaves early is its own affair.
                thread::spawn(move || serve(&client, &own));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    let mut out = client;
    while let Some(request) = http::read_request(&mut reader)? {
        out.write_all(&(shared.answer)(&request).to_bytes())?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    client.shutdown(Shutdown::Both)
}
