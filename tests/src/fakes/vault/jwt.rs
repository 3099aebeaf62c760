//! Signed tokens (RFC 7519), signed with Ed25519 (RFC 8037) by a key of the server's own.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::{Value, json};

/// What stands before the 32 bytes of a public Ed25519 key in DER (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// How long a token lives that does not say it, in seconds.
const LIFE: u64 = 600;

pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    pub(super) fn new() -> Self {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).expect("the system gives random bytes");
        Self(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("what was just made is a key"))
    }

    pub(super) fn key(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    pub(super) fn pem(&self) -> String {
        let der = [SPKI.as_slice(), self.0.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    pub(super) fn token(&self, claims: &Value, now: u64) -> String {
        let mut claims = claims.as_object().cloned().unwrap_or_default();
        claims.entry("iat").or_insert(json!(now));
        claims.entry("exp").or_insert(json!(now + LIFE));
        let encoded = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encoded(json!({ "alg": "EdDSA", "typ": "JWT" })), encoded(Value::Object(claims)));
        let signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// Reads a public key.
pub(super) fn key(pem: &str) -> Option<Vec<u8>> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(body).ok()?;
    der.strip_prefix(&SPKI).filter(|key| key.len() == 32).map(<[u8]>::to_vec)
}

/// Returns the claims of a token that one of the keys signed and whose time has come and not passed.
pub(super) fn verified(token: &str, keys: &[Vec<u8>], now: u64) -> Result<Value, &'static str> {
    let (signed, signature) = token.rsplit_once('.').ok_or("malformed token")?;
    let (head, claims) = signed.split_once('.').ok_or("malformed token")?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "malformed token");
    let head: Value = serde_json::from_slice(&decoded(head)?).map_err(|_| "malformed token")?;
    if head["alg"] != "EdDSA" {
        return Err("unsupported signing algorithm");
    }
    let signature = decoded(signature)?;
    let is_good = |key: &Vec<u8>| UnparsedPublicKey::new(&ED25519, key).verify(signed.as_bytes(), &signature).is_ok();
    if !keys.iter().any(is_good) {
        return Err("no known key successfully validated the token signature");
    }
    let claims: Value = serde_json::from_slice(&decoded(claims)?).map_err(|_| "malformed token")?;
    // The leeway that the real server gives, too.
    const LEEWAY: u64 = 150;
    if claims["exp"].as_u64().is_none_or(|end| end + LEEWAY <= now) {
        return Err("token is expired");
    }
    if claims["nbf"].as_u64().is_some_and(|begin| begin > now + LEEWAY) {
        return Err("token is not valid yet");
    }
    Ok(claims)
}

pub(super) fn audiences(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        many => super::message::words(Some(many)),
    }
}
