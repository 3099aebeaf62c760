//! Servers that speak Vault's API, set up over the wire: our own, and a real one where `BROKER_TEST_VAULT` (or
//! `VAULT_ADDR`) and `VAULT_TOKEN` name it.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;

use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::Opened;
use broker_tests::fakes::vault::Vault;
use broker_tests::http::{self, Message};
use serde_json::{Value, json};

use super::signed_in;

/// A server and its root token.
pub struct Server {
    /// Ours, if it is.
    pub fake: Option<Vault>,
    url: String,
    root: String,
}

/// Returns every server there is to test on.
pub fn servers() -> Vec<Server> {
    let real = std::env::var("BROKER_TEST_VAULT").or_else(|_| std::env::var("VAULT_ADDR")).ok();
    let real = real.zip(std::env::var("VAULT_TOKEN").ok()).map(|(url, root)| Server { fake: None, url, root });
    [ours()].into_iter().chain(real).collect()
}

/// Returns a server of our own.
pub fn ours() -> Server {
    let fake = Vault::start();
    let (url, root) = (fake.url(), fake.root().to_owned());
    Server { fake: Some(fake), url, root }
}

/// Opens an instance that the user's configuration fixes, for whoever has this token.
pub fn opened(registry: &Registry, settings: &InstanceSettings, token: &str) -> Opened {
    registry.open("org", &Instance::fixed(settings.clone()), &with_token(token)).unwrap()
}

/// Returns the sign-in of a token.
pub fn with_token(token: &str) -> SignIn {
    signed_in(&[("VAULT_TOKEN", token)])
}

impl Server {
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn ours(&self) -> &Vault {
        self.fake.as_ref().unwrap()
    }

    /// Returns an instance at this server.
    pub fn settings(&self) -> InstanceSettings {
        at(&self.url)
    }

    /// Asks as root, and returns the answer's body.
    pub fn set(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, body) = self.ask(&self.root, "", method, path, body);
        assert!(status < 300, "{method} {path}: {status} {body}");
        body
    }

    pub fn ask(&self, token: &str, namespace: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let address = self.url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).unwrap();
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers = [
            ("host", address),
            ("x-vault-token", token),
            ("x-vault-request", "true"),
            ("x-vault-namespace", namespace),
            ("content-type", "application/json"),
        ];
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Message { first: format!("{method} /v1/{path} HTTP/1.1"), headers, body };
        stream.write_all(&request.to_bytes()).unwrap();
        let answer = http::read_response(&mut BufReader::new(stream)).unwrap();
        (answer.status(), answer.body_json())
    }

    pub fn enable_kv(&self, mount: &str, version: &str) {
        let body = json!({ "type": "kv", "options": { "version": version } });
        self.set("POST", &format!("sys/mounts/{mount}"), &body);
        // A real server answers 400 for a moment, while it sets a new mount up.
        let ready = |()| self.ask(&self.root, "", "LIST", &format!("{mount}/metadata"), &Value::Null).0 != 400;
        assert!(
            broker_tests::deadline::within(std::time::Duration::from_secs(10), || ready(()).then_some(())).is_some()
        );
    }

    /// Stores an object as a new version.
    pub fn store(&self, mount: &str, name: &str, data: &Value) {
        self.set("POST", &format!("{mount}/data/{name}"), &json!({ "data": data }));
    }

    /// Makes a policy and a token that it holds for.
    pub fn token_for(&self, policy: &str, text: &str) -> String {
        self.set("PUT", &format!("sys/policies/acl/{policy}"), &json!({ "policy": text }));
        let made = self.set("POST", "auth/token/create", &json!({ "policies": [policy], "ttl": "1h" }));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

/// Returns an instance at an address.
pub fn at(url: &str) -> InstanceSettings {
    InstanceSettings { address: Some(url.to_owned()), ..InstanceSettings::of_kind("vault") }
}
