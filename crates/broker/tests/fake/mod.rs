//! A daemon that says what a test wants it to say, over the real wire format.
//!
//! What it cannot show: attestation, policy, and that the real daemon answers so. That is for the tests of both programs
//! together.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub target: String,
    pub body: Vec<u8>,
    /// The peer's soft core limit at that moment, which a client lowers when it seals itself.
    pub core_limit: String,
}

/// A world with a home, a project and, once it listens, a daemon.
pub(crate) struct World {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What the daemon answers: status and body, or nothing at all (it hangs up).
pub(crate) type Answer = Option<(u16, Vec<u8>)>;

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "run", "run/broker", "project", "project/.git"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o700)).unwrap();
        }
        let world = Self { dir, asked: Arc::default() };
        fs::write(world.at("project/broker.toml"), "[project]\nname = \"p\"\n[secrets]\nKEY = \"local://p/key\"\n")
            .unwrap();
        world
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A `broker` in the project, with nothing in its environment but what is named here.
    pub(crate) fn broker(&self, args: &[&str]) -> Command {
        self.run(env!("CARGO_BIN_EXE_broker").into(), args)
    }

    /// The same of the program at `path` of this world.
    pub(crate) fn broker_at(&self, path: &str, args: &[&str]) -> Command {
        self.run(self.at(path), args)
    }

    fn run(&self, program: PathBuf, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().current_dir(self.at("project"));
        command.env("HOME", self.at("home")).env("XDG_RUNTIME_DIR", self.at("run")).env("PATH", "/usr/bin:/bin");
        command
    }

    /// Lets a daemon listen that answers by `answer`, and `attest` by itself unless `answer` does.
    pub(crate) fn serve(&self, mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) {
        let listener = UnixListener::bind(self.at("run/broker/broker.sock")).unwrap();
        let asked = self.asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while let Some(request) = read(&mut stream) {
                    asked.lock().unwrap().push(request.clone());
                    match answer(&request) {
                        Some((status, body)) => respond(&mut stream, status, &body),
                        None if request.target == "/v1/attest" => respond(&mut stream, 200, ATTESTED.as_bytes()),
                        None => break,
                    }
                }
            }
        });
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

pub(crate) const ATTESTED: &str = r#"{"protocol":3,"version":"0.1.0"}"#;

/// A grant of these variables.
pub(crate) fn grant(values: &[(&str, &[u8])]) -> Answer {
    let lengths: Vec<_> = values.iter().map(|(name, value)| (name, value.len())).collect();
    let head = serde_json::json!({
        "lease": "l-aaaaaaaaaaaaaaaaaaaaaaaa", "values": lengths,
        "settings": [["PORT", "3000"]], "remove": ["WITHHELD"], "notes": [],
    });
    let mut body = format!("{head}\n").into_bytes();
    values.iter().for_each(|(_, value)| body.extend_from_slice(value));
    Some((200, body))
}

/// A refusal of one problem.
pub(crate) fn refusal(code: &str, message: &str, needs: Option<&str>) -> Answer {
    let mut body = serde_json::json!({ "problems": [{ "code": code, "message": message, "hint": "the way out" }] });
    if let Some(needs) = needs {
        body["needs"] = needs.into();
    }
    Some((403, body.to_string().into_bytes()))
}

fn respond(stream: &mut UnixStream, status: u16, body: &[u8]) {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

fn read(stream: &mut UnixStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) if bytes.is_empty() => return None,
            // What is no request is kept, too: nothing else of a client may land here.
            Ok(0) | Err(_) => {
                return Some(Asked { target: "no request".into(), body: bytes, core_limit: String::new() });
            }
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < head + length {
        let count = stream.read(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..count]);
    }
    let target = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let pid = rustix::net::sockopt::socket_peercred(&*stream).unwrap().pid.as_raw_nonzero().get();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let core_limit = limits.lines().find(|line| line.starts_with("Max core")).unwrap_or_default();
    let core_limit = core_limit.split_whitespace().nth(4).unwrap_or_default().to_owned();
    Some(Asked { target, body: bytes[head..].to_vec(), core_limit })
}
