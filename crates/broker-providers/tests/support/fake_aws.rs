//! A server that speaks the wire format of Secrets Manager (AWS JSON 1.1 over HTTP/1.1) and does what a test says.
//!
//! It counts calls per action, or relays to a real test server. What it cannot show: signatures (never checked), TLS,
//! HTTP/2, chunked requests, and whether AWS would answer so; the contract suite runs on servers that others wrote.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// One request.
pub struct Call {
    /// The part of `X-Amz-Target` after the dot.
    pub action: String,
    /// How many calls of this action came before.
    pub nth: usize,
    /// The body.
    pub body: Value,
    raw: Vec<u8>,
}

impl Call {
    /// Returns the access key and the region that the request was signed with, `KEY/DATE/REGION/...`.
    pub fn signed_with(&self) -> (String, String) {
        let text = String::from_utf8_lossy(&self.raw);
        let scope = text.split("Credential=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let part = |at| scope.split('/').nth(at).unwrap_or_default().to_owned();
        (part(0), part(2))
    }
}

impl Call {
    /// Returns a parameter of a body that is a form, as STS takes it.
    pub fn form(&self, name: &str) -> Option<String> {
        self.forms().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns all parameters of such a body.
    pub fn forms(&self) -> Vec<(String, String)> {
        let body = String::from_utf8_lossy(&self.raw);
        broker_tests::http::Message::pairs(body.rsplit("\r\n\r\n").next().unwrap_or_default()).into_iter().collect()
    }
}

/// What happens to a request.
pub enum Reply {
    /// This status and JSON.
    Json(u16, Value),
    /// These bytes, as they are; then the connection closes.
    Raw(Vec<u8>),
    /// A head that announces this many bytes, and zeros without end.
    Flood(u64),
    /// No answer; the connection stays open until the client leaves.
    Silence,
    /// What the server at this address (`http://127.0.0.1:PORT`) answers.
    Relay(String),
}

impl Reply {
    /// Returns AWS's form of an error.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Json(status, json!({ "__type": code, "message": message }))
    }
}

type Answer = dyn Fn(&Call) -> Reply + Send + Sync;

/// The running server. Its threads end with the test's process.
pub struct FakeAws {
    address: SocketAddr,
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
    connections: Arc<AtomicUsize>,
}

impl FakeAws {
    /// Starts a server that answers with `answer` after `latency`.
    pub fn new(latency: Duration, answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
        let address = listener.local_addr().expect("a listener has an address");
        let (calls, connections) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Arc::<AtomicUsize>::default());
        let answer: Arc<Answer> = Arc::new(answer);
        let (counted, accepted) = (Arc::clone(&calls), Arc::clone(&connections));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (answer, calls) = (Arc::clone(&answer), Arc::clone(&counted));
                // A client that leaves is part of the tests.
                std::thread::spawn(move || drop(serve(client, latency, &*answer, &calls)));
            }
        });
        Self { address, calls, connections }
    }

    /// Returns `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many calls of `action` came.
    pub fn calls(&self, action: &str) -> usize {
        self.calls.lock().expect("no thread of ours panics with it").get(action).copied().unwrap_or(0)
    }

    /// Returns how many calls came in all.
    pub fn all_calls(&self) -> usize {
        self.calls.lock().expect("no thread of ours panics with it").values().sum()
    }

    /// Returns how many connections were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Answers `BatchGetSecretValue` and `GetSecretValue`: every secret's value is `value of NAME`.
pub fn kind(call: &Call) -> Reply {
    let entry = |name: &str| {
        json!({
        "ARN": format!("arn:aws:secretsmanager:eu-west-1:1:secret:{name}-AbCdEf"), "Name": name,
        "VersionId": "v1", "SecretString": format!("value of {name}"), "VersionStages": ["AWSCURRENT"], "CreatedDate": 1.0 })
    };
    match call.action.as_str() {
        "BatchGetSecretValue" => {
            let values: Vec<_> = ids(call).iter().map(|id| entry(id)).collect();
            Reply::Json(200, json!({ "SecretValues": values, "Errors": [] }))
        }
        "GetSecretValue" => Reply::Json(200, entry(call.body["SecretId"].as_str().unwrap_or_default())),
        other => Reply::error(400, "UnknownOperationException", other),
    }
}

/// Returns the ids that a batch asks for.
pub fn ids(call: &Call) -> Vec<String> {
    let ids = call.body["SecretIdList"].as_array().cloned().unwrap_or_default();
    ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

fn serve(
    client: TcpStream,
    latency: Duration,
    answer: &Answer,
    calls: &Mutex<BTreeMap<String, usize>>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some(call) = read_call(&mut reader, calls)? {
        std::thread::sleep(latency);
        match answer(&call) {
            Reply::Json(status, body) => {
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                client.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
            }
            Reply::Raw(bytes) => return client.write_all(&bytes),
            Reply::Flood(length) => {
                write!(client, "HTTP/1.1 200 x\r\ncontent-length: {length}\r\n\r\n{{\"x\":\"")?;
                loop {
                    client.write_all(&[b'0'; 65536])?;
                }
            }
            Reply::Silence => {
                std::io::copy(&mut reader, &mut std::io::sink())?;
                return Ok(());
            }
            Reply::Relay(server) => {
                let mut upstream = TcpStream::connect(server.trim_start_matches("http://"))?;
                upstream.write_all(&call.raw)?;
                let mut back = Vec::new();
                upstream.read_to_end(&mut back)?;
                return client.write_all(&back);
            }
        }
    }
    Ok(())
}

fn read_call(
    reader: &mut BufReader<TcpStream>,
    calls: &Mutex<BTreeMap<String, usize>>,
) -> std::io::Result<Option<Call>> {
    let (mut raw, mut action, mut length) = (Vec::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let lower = line.to_ascii_lowercase();
        if line == "\r\n" {
            // So that a relayed answer ends with its connection.
            raw.extend_from_slice(b"connection: close\r\n\r\n");
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if lower.starts_with("x-amz-target:") {
            action = line.trim().rsplit('.').next().unwrap_or_default().to_owned();
        }
        if !lower.starts_with("connection:") {
            raw.extend_from_slice(line.as_bytes());
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    raw.extend_from_slice(&body);
    let nth = {
        let mut calls = calls.lock().expect("no thread of ours panics with it");
        let count = calls.entry(action.clone()).or_default();
        *count += 1;
        *count - 1
    };
    Ok(Some(Call { action, nth, body: serde_json::from_slice(&body).unwrap_or(Value::Null), raw }))
}
