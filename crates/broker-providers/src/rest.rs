//! Requests to managers whose API is plain HTTP and JSON: one pool, answers of bounded size, no proxy and no redirect.
//!
//! A credential reaches the addressed origin and nobody else: no proxy is taken from the environment, redirects are never
//! followed, and the certificate must be of an authority that the machine, or the instance's `ca`, knows. Bodies are
//! wiped when they are dropped.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use broker_core::secret::SecretValue;
use reqwest::header::HeaderMap;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::fault::{Fault, retry_after};
use crate::provider::ErrorKind;
use crate::words::{chain, safe};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// How many connections to one host are kept when they have nothing to do.
const MAX_IDLE: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The shared pool, made on first use: it reads the machine's certificates, which takes some milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Pool(OnceLock<reqwest::Client>);

impl Pool {
    /// Returns the shared connections, counting every request into `calls`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the machine's certificates cannot be read.
    pub(crate) fn counting(&self, calls: Arc<AtomicU64>) -> Result<Rest, Fault> {
        if let Some(client) = self.0.get() {
            return Ok(Rest { client: client.clone(), calls, trust: None });
        }
        let client = build(builder())?;
        Ok(Rest { client: self.0.get_or_init(|| client).clone(), calls, trust: None })
    }

    /// Returns connections of their own to a server whose certificate is of one of the authorities in `pem`, and of no
    /// other.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a text without a certificate.
    pub(crate) fn trusting(pem: &[u8], calls: Arc<AtomicU64>) -> Result<Rest, Fault> {
        let unusable = |why: String| Fault::new(ErrorKind::Unsupported, format!("`ca` cannot be used: {why}"));
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| unusable(chain(&error)))?;
        if authorities.is_empty() {
            return Err(unusable("there is no certificate in it".to_owned()));
        }
        let digest: String = Sha256::digest(pem).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Rest { client: build(builder().tls_certs_only(authorities))?, calls, trust: Some(digest.into()) })
    }
}

fn builder() -> reqwest::ClientBuilder {
    // The first provider stays; it is always this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Fault> {
    builder.build().map_err(|error| Fault::new(ErrorKind::Unavailable, format!("no TLS: {}", chain(&error))))
}

/// The connections of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    client: reqwest::Client,
    calls: Arc<AtomicU64>,
    /// The SHA-256 of the authorities that alone are believed; none where it is the machine's.
    trust: Option<Arc<str>>,
}

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Rest {
    /// Names the authorities that alone are believed; nothing where it is the machine's.
    pub(crate) fn trust(&self) -> Option<&str> {
        self.trust.as_deref()
    }

    /// Begins a request. Credentials belong into headers marked sensitive (`bearer_auth` does so) or into the body.
    pub(crate) fn request(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends one request and reads its whole answer. Does not repeat it, and is not bounded in time.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when there is no answer, [`ErrorKind::Malformed`] for one that is cut off or too large.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Fault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut response = request.send().await.map_err(|error| unreachable_fault(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let mut body = Zeroizing::new(Vec::with_capacity(announced.min(MAX_ANSWER)));
        loop {
            let chunk = response.chunk().await.map_err(|_| {
                Fault::new(
                    ErrorKind::Unavailable,
                    format!("HTTP {status}, the connection broke in the middle of the answer"),
                )
            })?;
            let Some(chunk) = chunk else { break };
            if body.len() + chunk.len() > MAX_ANSWER {
                let cause = format!("HTTP {status}, an answer of more than {} MiB", MAX_ANSWER >> 20);
                return Err(Fault::new(ErrorKind::Malformed, cause));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body })
    }
}

impl Answer {
    /// Tells whether the request was done.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] with the place of the problem, never with the text.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        self.json_within()
    }

    /// Reads the body into something that points into it, which copies no value.
    ///
    /// # Errors
    /// Like [`Answer::json`].
    pub(crate) fn json_within<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let cause = format!("HTTP {}, an answer that makes no sense at line {line}, column {column}", self.status);
            Fault::new(ErrorKind::Malformed, cause)
        })
    }

    /// Returns when the manager wants to be asked again (`Retry-After`).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?)
    }

    /// Speaks of an answer without a reason of the manager's own, by its status alone. Its text is never quoted: it may
    /// be part of a value.
    pub(crate) fn fault(&self) -> Fault {
        let words = |text: &str| format!("HTTP {}, {text}", self.status);
        let (kind, cause) = match self.status {
            429 => (ErrorKind::Throttled, words("asked to slow down")),
            401 => (ErrorKind::Unauthenticated, words("without a reason")),
            403 => (ErrorKind::Denied, words("without a reason")),
            404 => (ErrorKind::NotFound, words("without a reason")),
            500.. => (ErrorKind::Unavailable, words("the service failed")),
            300..=399 => (ErrorKind::Malformed, words("a redirect, which is never followed")),
            _ => (ErrorKind::Malformed, words("an answer that makes no sense")),
        };
        Fault { retry_after: self.retry_after(), ..Fault::new(kind, cause) }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Says why there was no answer, and whose. Of the address only the host and the port are told: a query can hold a token.
fn unreachable_fault(error: &reqwest::Error) -> Fault {
    let unavailable = |cause: String| Fault::new(ErrorKind::Unavailable, cause);
    let url = error.url();
    let place = url.and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    let place = safe(&place.unwrap_or_else(|| "the address".to_owned()));
    if error.is_connect() && error.is_timeout() {
        let tls =
            if url.is_some_and(|url| url.scheme() == "https") { ": is it there, and does it speak TLS?" } else { "" };
        let cause = format!("no connection to `{place}` within {} seconds{tls}", CONNECT_TIMEOUT.as_secs());
        return unavailable(cause).not_sent();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.source().is_none() {
        return unavailable(format!("the request to `{place}` could not be sent"));
    }
    let words = if error.is_connect() { "no connection to" } else { "no answer from" };
    let fault = unavailable(format!("{words} `{place}`: {}", chain(innermost)));
    if error.is_connect() { fault.not_sent() } else { fault }
}

/// A JSON string that is a secret: it goes from the parser into a [`SecretValue`]. `null` is none.
pub(crate) struct SecretText(pub(crate) SecretValue);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = SecretText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretText, E> {
                Ok(SecretText(SecretValue::new(text.as_bytes().to_vec())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_cannot_be_reached_is_named_by_host_and_port_and_soon() {
        let rest = Pool::default().counting(Arc::new(AtomicU64::new(0))).unwrap();
        // It takes connections, and never says a word of TLS.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for (address, scheme, words) in [
            (mute.local_addr().unwrap(), "https", "does it speak TLS?"),
            (gone, "https", "refused"),
            (gone, "http", "refused"),
        ] {
            let started = Instant::now();
            let request = rest.request(reqwest::Method::GET, &format!("{scheme}://{address}/canary?token=canary"));
            let fault = rest.send(request).await.expect_err("nobody answers");
            assert!(fault.cause.starts_with(&format!("no connection to `{address}`")), "{}", fault.cause);
            assert!(fault.cause.contains(words) && !fault.cause.contains("canary"), "{}", fault.cause);
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }
}
