//! Signing in to Vault or OpenBao with a browser.
//!
//! OpenBao can hand out a code for another device (`callback_mode=device`), which is polled. Otherwise the browser comes back
//! to us, at `http://localhost:8250/oidc/callback`, which is the address that `vault login` uses and that roles allow. Only the
//! state that this sign-in was given is listened to, once. What the browser brings goes to the server that began: one that
//! passes on the address of somebody else's sign-in would collect that. So it is done only where user or machine
//! configuration fixes the address.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_core::secret::{SecretValue, SharedValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::fault::Fault;
use crate::login::DeviceCode;
use crate::provider::ErrorKind;
use crate::vault::wire::{Call, Wire};
use crate::words::safe;

const PORT: u16 = 8250;
const REDIRECT: &str = "http://localhost:8250/oidc/callback";
/// How long the server remembers that somebody signs in.
const PATIENCE: Duration = Duration::from_secs(600);
/// Largest request that a browser may send us, in bytes.
const MAX_REQUEST: usize = 16 << 10;

/// Why the browser may not come back to us.
pub(crate) const NOT_FIXED: &str =
    "its address is a manifest's, and a browser that comes back here would sign in whoever that is";

/// A sign-in under way.
pub(crate) struct Waiting {
    state: String,
    nonce: SecretValue,
    /// Set where the browser comes back to us.
    callback: Option<Callback>,
}

/// What is to be asked: a path, a query, a body.
pub(crate) struct Question {
    method: Method,
    path: String,
    query: String,
    body: serde_json::Value,
}

/// What the browser brought: a code, or why there is none.
type Brought = Arc<Mutex<Option<Result<SharedValue, String>>>>;

struct Callback {
    brought: Brought,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Begins, and says where the person has to go.
pub(crate) async fn begin(
    wire: &Wire,
    mount: &str,
    role: Option<&str>,
    fixed: bool,
    deadline: Instant,
) -> Result<(DeviceCode, Waiting), Fault> {
    #[derive(Deserialize)]
    struct Answered {
        data: Begun,
    }
    #[derive(Deserialize)]
    struct Begun {
        auth_url: String,
        #[serde(default)]
        state: String,
        #[serde(default)]
        user_code: Option<String>,
        #[serde(default)]
        poll_interval: Option<String>,
    }
    let nonce = random()?;
    let body = json!({ "role": role.unwrap_or_default(), "redirect_uri": REDIRECT, "client_nonce": nonce });
    let path = format!("auth/{mount}/oidc/auth_url");
    let answer = wire.ask(None, &Call::write(&path, &body), deadline).await?;
    let begun = answer.json::<Answered>()?.data;
    if begun.auth_url.is_empty() {
        // The server is deliberately silent about why.
        let cause = format!("the server gives no address to sign in at; does the role allow `{REDIRECT}`?");
        return Err(Fault::new(ErrorKind::Unauthenticated, cause));
    }
    if !is_web_address(&begun.auth_url) {
        return Err(Fault::new(ErrorKind::Malformed, "the server gives an address that is no `https://`"));
    }
    let interval = begun.poll_interval.and_then(|seconds| seconds.parse().ok());
    let (state, callback) = match (interval, begun.state.is_empty()) {
        (Some(_), false) => (begun.state, None),
        _ if !fixed => return Err(Fault::new(ErrorKind::Unsupported, NOT_FIXED)),
        _ => {
            let state = parameter(&begun.auth_url, "state");
            let state =
                state.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the server gives an address without a state"))?;
            (state.clone(), Some(Callback::listen(state).await?))
        }
    };
    let code = DeviceCode {
        user_code: begun.user_code.map(|code| safe(&code)),
        address: begun.auth_url,
        address_complete: None,
        interval: Duration::from_secs(if callback.is_some() { 1 } else { interval.unwrap_or(5) }),
        expires_in: PATIENCE,
        secret: SecretValue::from(nonce.clone()),
    };
    Ok((code, Waiting { state, nonce: SecretValue::from(nonce), callback }))
}

impl Waiting {
    /// Returns what to ask the server now; nothing while the browser has not come back.
    pub(crate) fn question(&self, mount: &str) -> Result<Option<Question>, Fault> {
        // Opened to be sent to the server that was told it before.
        let nonce = String::from_utf8_lossy(self.nonce.expose()).into_owned();
        let Some(callback) = &self.callback else {
            let body = json!({ "state": self.state, "client_nonce": nonce });
            let path = format!("auth/{mount}/oidc/poll");
            return Ok(Some(Question { method: Method::POST, path, query: String::new(), body }));
        };
        let brought = callback.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let code = match &*brought {
            None => return Ok(None),
            Some(Ok(code)) => code,
            Some(Err(words)) => return Err(Fault::new(ErrorKind::Unauthenticated, words.clone())),
        };
        // Opened to be sent to the server, which alone can exchange it.
        let code = String::from_utf8_lossy(code.expose()).into_owned();
        let pairs = [("state", &self.state), ("code", &code), ("client_nonce", &nonce)];
        let query: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let path = format!("auth/{mount}/oidc/callback");
        Ok(Some(Question { method: Method::GET, path, query: query.join("&"), body: serde_json::Value::Null }))
    }
}

impl Wire {
    /// Asks once, and waits no longer than until `deadline`.
    pub(crate) async fn once_within(
        &self,
        question: &Question,
        deadline: Instant,
    ) -> Result<crate::rest::Answer, Fault> {
        let mut call = Call::write(&question.path, &question.body);
        if question.method == Method::GET {
            call = Call { query: &question.query, ..Call::read(&question.path) };
        }
        tokio::time::timeout_at(deadline, self.once(None, &call)).await.unwrap_or_else(|_| Err(Fault::late()))
    }
}

impl Callback {
    async fn listen(state: String) -> Result<Self, Fault> {
        let taken = |_| {
            Fault::new(ErrorKind::Unavailable, format!("port {PORT} is taken, and the browser has to come back there"))
        };
        let listener = TcpListener::bind(("127.0.0.1", PORT)).await.map_err(taken)?;
        // Browsers may take `localhost` for this one; where there is no IPv6 they don't.
        let second = TcpListener::bind(("::1", PORT)).await.ok();
        let brought = Brought::default();
        let own = Arc::clone(&brought);
        let task = tokio::spawn(async move {
            loop {
                let client = match &second {
                    Some(second) => {
                        tokio::select! { client = listener.accept() => client, client = second.accept() => client }
                    }
                    None => listener.accept().await,
                };
                let Ok((client, _)) = client else { continue };
                let _ = timeout(Duration::from_secs(5), receive(client, &state, &own)).await;
                if own.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                    return;
                }
            }
        });
        Ok(Self { brought, task })
    }
}

/// Reads one request of the browser and answers it.
async fn receive(mut client: TcpStream, state: &str, brought: &Brought) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(2048);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if client.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&request);
    let target = head.split(' ').nth(1).filter(|_| head.starts_with("GET ")).unwrap_or_default();
    let is_ours = target.starts_with("/oidc/callback?") && parameter(target, "state").as_deref() == Some(state);
    let found = is_ours.then(|| match (parameter(target, "code"), parameter(target, "error")) {
        (Some(code), None) => Ok(Arc::new(SecretValue::from(code))),
        (_, error) => Err(format!("the identity provider refused: {}", safe(&error.unwrap_or_default()))),
    });
    let (status, words) = match &found {
        Some(Ok(_)) => ("200 OK", "You are signed in. Go back to the terminal; this page can be closed."),
        Some(Err(_)) => ("200 OK", "You were not signed in. Go back to the terminal; this page can be closed."),
        None => ("404 Not Found", "There is nothing here."),
    };
    if let Some(found) = found {
        *brought.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         referrer-policy: no-referrer\r\nconnection: close\r\n\r\n{words}",
        words.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Returns a parameter of an address, decoded.
fn parameter(address: &str, name: &str) -> Option<String> {
    let (_, query) = address.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8().ok()?.into_owned())
}

fn is_web_address(address: &str) -> bool {
    let is_local = ["http://localhost", "http://127.0.0.1", "http://[::1]"]
        .iter()
        .any(|start| address.strip_prefix(start).is_some_and(|rest| rest.starts_with([':', '/'])));
    (address.starts_with("https://") || is_local) && address.bytes().all(|b| b.is_ascii_graphic())
}

fn random() -> Result<String, Fault> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|_| Fault::new(ErrorKind::Unavailable, "the system gives no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
