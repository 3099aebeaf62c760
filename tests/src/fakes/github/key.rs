//! The key of an app: RSA with 2048 bits, as GitHub makes it and hands it out.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::python;

/// Makes a key: the private half as PEM in PKCS #1, the public one as DER in PKCS #1, which is what `ring` reads.
const PROGRAM: &str = r#"
import base64, json
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = key.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.PKCS1)
private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption())
print(json.dumps({"private": private.decode(), "public": base64.b64encode(public).decode()}))
"#;

pub(super) struct Key {
    pub(super) private: String,
    pub(super) public: Vec<u8>,
}

impl Key {
    pub(super) fn generate() -> Self {
        let said: serde_json::Value = serde_json::from_str(&python::run(PROGRAM, &[])).expect("JSON");
        let part = |name: &str| said[name].as_str().expect("text").to_owned();
        Self { private: part("private"), public: BASE64_STANDARD.decode(part("public")).expect("base64") }
    }
}
