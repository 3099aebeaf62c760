//! The two AWS test servers, which `cargo xtask test` installs and starts: moto and ministack.
//!
//! They are never reset: every test uses names of its own, so that tests can run side by side. moto enforces no policy
//! by resource and accepts any credentials; ministack checks signatures, policies and expiry. Neither speaks TLS.

use std::env;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::canary;
use crate::http::{self, Message};
use crate::sigv4::{self, Identity};

/// The region of everything.
pub const REGION: &str = "eu-west-1";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aws {
    /// moto.
    Moto,
    /// ministack, with its checks on.
    Ministack,
}

impl Aws {
    /// Returns `127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When the server does not run: a suite without it must not read as passed.
    #[must_use]
    pub fn address(self) -> String {
        let name = match self {
            Self::Moto => "BROKER_TEST_MOTO",
            Self::Ministack => "BROKER_TEST_MINISTACK",
        };
        let url = env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `cargo xtask test`"));
        url.trim_start_matches("http://").trim_end_matches('/').to_owned()
    }

    /// Returns the root identity of the server.
    #[must_use]
    pub fn root(self) -> Identity {
        Identity { key_id: "test".into(), key: "test".into(), token: None }
    }

    /// Returns the sign-in variables of the root identity.
    #[must_use]
    pub fn sign_in(self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]
    }

    /// Makes a call of a JSON service and returns its status and answer.
    ///
    /// # Panics
    /// When the server can't be reached.
    #[must_use]
    pub fn call(self, identity: &Identity, service: &str, target: &str, body: &Value) -> (u16, Value) {
        Self::call_at(&self.address(), identity, service, target, body)
    }

    fn call_at(address: &str, identity: &Identity, service: &str, target: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string().into_bytes();
        let headers = sigv4::headers(identity, address, REGION, service, target, &body);
        let answer = post(address, headers, body).unwrap_or_else(|e| panic!("no answer from {address}: {e}"));
        (answer.status(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Stores a text under a new name in the server at an address.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_at(address: &str, name: &str, value: &str) {
        let body = json!({"Name": name, "SecretString": value, "ClientRequestToken": token()});
        let root = Self::Moto.root();
        let (status, answer) = Self::call_at(address, &root, "secretsmanager", "secretsmanager.CreateSecret", &body);
        assert_eq!(status, 200, "{address} refused {name}: {answer}");
    }

    /// Stores a text as a new secure parameter in the server at an address.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn put_parameter_at(address: &str, name: &str, value: &str) {
        let body = json!({"Name": name, "Value": value, "Type": "SecureString"});
        let (status, answer) = Self::call_at(address, &Self::Moto.root(), "ssm", "AmazonSSM.PutParameter", &body);
        assert_eq!(status, 200, "{address} refused {name}: {answer}");
    }

    /// Makes a call of Secrets Manager as root and returns the answer.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn secrets_manager(self, action: &str, body: &Value) -> Value {
        let (status, answer) = self.call(&self.root(), "secretsmanager", &format!("secretsmanager.{action}"), body);
        assert_eq!(status, 200, "{self:?} refused {action}: {answer}");
        answer
    }

    /// Stores a text under a new name.
    pub fn create(self, name: &str, value: &str) {
        self.secrets_manager(
            "CreateSecret",
            &json!({"Name": name, "SecretString": value, "ClientRequestToken": token()}),
        );
    }

    /// Stores bytes under a new name.
    pub fn create_binary(self, name: &str, value: &[u8]) {
        use base64::Engine as _;
        let value = base64::engine::general_purpose::STANDARD.encode(value);
        self.secrets_manager(
            "CreateSecret",
            &json!({"Name": name, "SecretBinary": value, "ClientRequestToken": token()}),
        );
    }

    /// Stores a text as the new current version and returns the version's id.
    #[must_use]
    pub fn put(self, name: &str, value: &str) -> String {
        let id = token();
        let body = json!({"SecretId": name, "SecretString": value, "ClientRequestToken": id});
        self.secrets_manager("PutSecretValue", &body);
        id
    }
}

/// Returns an idempotency token, which is also the new version's id.
fn token() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim().to_owned()
}

/// Returns a name that no other test uses.
#[must_use]
pub fn unique(label: &str) -> String {
    canary::word(&format!("test/{label}"))
}

fn post(address: &str, headers: Vec<(String, String)>, body: Vec<u8>) -> io::Result<Message> {
    let mut stream = TcpStream::connect(address)?;
    let mut bytes = Message { first: "POST / HTTP/1.1".into(), headers, body }.to_bytes();
    // One request to a connection: the servers close it after the answer, which ends it whatever its framing.
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_default();
    bytes.splice(head..head, b"\r\nconnection: close".iter().copied());
    stream.write_all(&bytes)?;
    http::read_response(&mut BufReader::new(stream))
}
