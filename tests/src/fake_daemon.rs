//! A daemon that is none: it sits on a home's socket and answers every request with one prepared answer, or never.
//!
//! It can't show attestation: it does not look at its peers.

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::home::Home;
use crate::http;

/// What it does with every request.
#[derive(Clone, Debug)]
pub enum Habit {
    /// It answers 200 and this JSON.
    Answer(String),
    /// It answers these bytes as they are.
    Raw(Vec<u8>),
    /// It reads and closes the connection.
    Close,
}

/// A listener on a home's socket; it stops when it is dropped.
pub struct FakeDaemon {
    requests: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    socket: std::path::PathBuf,
}

impl FakeDaemon {
    /// Sits down on the socket of `home`, whose directory it makes as a daemon would.
    ///
    /// # Panics
    /// When the socket can't be had.
    #[must_use]
    pub fn on(home: &Home, habit: Habit) -> Self {
        let socket = home.socket();
        let directory = socket.parent().expect("a socket lies in a directory");
        if !directory.exists() {
            fs::DirBuilder::new().mode(0o700).create(directory).expect("a directory can be made");
        }
        let listener = UnixListener::bind(&socket).expect("the socket is free");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
        let requests = Arc::new(AtomicUsize::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (count, end) = (Arc::clone(&requests), Arc::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (count, habit) = (Arc::clone(&count), habit.clone());
                thread::spawn(move || serve(&stream, &count, &habit));
            }
        });
        Self { requests, over, socket }
    }

    /// Returns how many requests came.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
        let _ = fs::remove_file(&self.socket);
    }
}

fn serve(stream: &UnixStream, count: &AtomicUsize, habit: &Habit) {
    let mut reader = BufReader::new(stream);
    while let Ok(Some(_)) = http::read_request(&mut reader) {
        count.fetch_add(1, Ordering::SeqCst);
        let bytes = match habit {
            Habit::Close => return,
            Habit::Raw(bytes) => bytes.clone(),
            Habit::Answer(body) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
            }
        };
        let mut out = stream;
        if out.write_all(&bytes).is_err() {
            return;
        }
    }
}
