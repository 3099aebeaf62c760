//! Who the app is: its id, and a JWT that its private key signs.
//!
//! GitHub hands the key out as PEM in PKCS #1 (`RSA PRIVATE KEY`); PKCS #8 is taken, too. A JWT is made for one request and
//! counts for five minutes, from a minute ago on: clocks differ. Source: "Generating a JSON Web Token (JWT) for a GitHub App".

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use broker_core::secret::SecretValue;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::provider::ErrorKind;

/// How far back a JWT begins, in seconds: GitHub takes none from the future.
const BACK: i64 = 60;
/// How long it counts from now on, in seconds. GitHub takes no more than ten minutes.
const AHEAD: i64 = 300;

/// An app that can sign.
pub(super) struct App {
    issuer: Value,
    key: KeyPair,
}

impl App {
    /// Reads the key of an app.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] for bytes that are no RSA key.
    pub(super) fn of(id: &str, pem: &SecretValue) -> Result<Self, Fault> {
        // A number as a number: a quoted one is not always taken.
        let issuer = id.parse::<u64>().map_or_else(|_| json!(id), |number| json!(number));
        Ok(Self { issuer, key: read_key(pem).ok_or_else(no_key)? })
    }

    /// Returns a JWT for one request.
    pub(super) fn jwt(&self) -> Result<SecretValue, Fault> {
        let now = Timestamp::now().as_second();
        let claims = json!({ "iss": self.issuer, "iat": now - BACK, "exp": now + AHEAD });
        let part = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
        let mut jwt = format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), jwt.as_bytes(), &mut signature)
            .map_err(|_| Fault::new(ErrorKind::Unauthenticated, "the private key of the app cannot sign"))?;
        jwt.push('.');
        jwt.push_str(&BASE64_URL_SAFE_NO_PAD.encode(signature));
        Ok(SecretValue::from(jwt))
    }
}

/// Tells whether a text can be an app's id: a number, or a client id such as `Iv23liABCDEFGHIJKLMN`.
pub(super) fn is_id(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

fn read_key(pem: &SecretValue) -> Option<KeyPair> {
    // Opened to be read into the key that signs; the copies are wiped.
    let text = std::str::from_utf8(pem.expose()).ok()?;
    let der = |label: &str| {
        let body = text.split(&format!("-----BEGIN {label}-----")).nth(1)?.split("-----END").next()?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
        BASE64_STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
    };
    match der("RSA PRIVATE KEY") {
        Some(der) => KeyPair::from_der(&der).ok(),
        None => KeyPair::from_pkcs8(&der("PRIVATE KEY")?).ok(),
    }
}

fn no_key() -> Fault {
    let cause = "the secret behind `key` is no RSA key as GitHub hands it out (PEM, `RSA PRIVATE KEY`)";
    Fault::new(ErrorKind::Unauthenticated, cause)
}
