//! Who an app is: the claims of a JWT that its key signed.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;

use super::problem::{Problem, REST};
use super::world::{Registered, World};

/// The furthest that `exp` may be ahead, in seconds.
const LONGEST: i64 = 600;

impl World {
    /// Returns the app that signed a JWT.
    pub(super) fn signer(&self, jwt: &str) -> Result<u64, Problem> {
        let (signed, signature) = jwt.rsplit_once('.').ok_or_else(Problem::no_jwt)?;
        let (head, body) = signed.split_once('.').ok_or_else(Problem::no_jwt)?;
        let decoded = |part: &str| BASE64URL.decode(part).map_err(|_| Problem::no_jwt());
        let read = |part: &str| -> Result<Value, Problem> {
            serde_json::from_slice(&decoded(part)?).map_err(|_| Problem::no_jwt())
        };
        let (head, claims) = (read(head)?, read(body)?);
        let app = self.issuer(&claims["iss"])?;
        let is_good = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &app.public_key)
            .verify(signed.as_bytes(), &decoded(signature)?)
            .is_ok();
        if head["alg"] != "RS256" || !is_good {
            return Err(Problem::no_jwt());
        }
        check_times(&claims, self.now())?;
        Ok(app.id)
    }

    fn issuer(&self, claim: &Value) -> Result<&Registered, Problem> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let name = match claim {
            Value::Number(id) => id.to_string(),
            Value::String(name) => name.clone(),
            Value::Null => return Err(Problem::jwt("Missing 'issuer' claim ('iss') in assertion")),
            _ => String::new(),
        };
        if let Some(app) = self.apps.values().find(|app| app.client_id == name || app.id.to_string() == name) {
            return Ok(app);
        }
        // A client id that is not known is no number, and that is all that the real one says.
        Err(match is_number(&name) {
            true => Problem::new(404, "Integration not found", REST),
            false => Problem::jwt("'Issuer' claim ('iss') must be an Integer"),
        })
    }
}

fn check_times(claims: &Value, now: i64) -> Result<(), Problem> {
    if claims["iat"].as_i64().is_none_or(|issued| issued > now) {
        return Err(Problem::jwt(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        ));
    }
    match claims["exp"].as_i64() {
        Some(end) if end > now + LONGEST => {
            Err(Problem::jwt("'Expiration time' claim ('exp') is too far in the future"))
        }
        Some(end) if end > now => Ok(()),
        _ => Err(Problem::jwt(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion \
             expires",
        )),
    }
}
