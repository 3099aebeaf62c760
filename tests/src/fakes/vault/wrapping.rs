//! Response wrapping: an answer laid aside under a token that opens it once.

use serde_json::{Value, json};

use super::duration::time;
use super::message::{Outcome, Refusal, Reply, Request};
use super::world::World;

pub(super) struct Wrapped {
    reply: Reply,
    path: String,
    created: u64,
    ttl: u64,
    pub(super) expires: u64,
}

impl World {
    /// Lays a reply aside and answers with the token that opens it.
    pub(super) fn wrap(&mut self, reply: Reply, path: &str, ttl: u64) -> Reply {
        let now = self.now();
        let token = World::random("hvs.");
        let inner = reply.auth.as_ref().and_then(|auth| auth["accessor"].as_str()).unwrap_or_default().to_owned();
        let info = json!({
            "token": token, "accessor": World::random(""), "ttl": ttl, "creation_time": time(now),
            "creation_path": path, "wrapped_accessor": inner,
        });
        self.wrapped.insert(token, Wrapped { reply, path: path.to_owned(), created: now, ttl, expires: now + ttl });
        Reply { status: 200, wrap_info: Some(info), ..Reply::default() }
    }

    /// Serves `sys/wrapping/`.
    pub(super) fn wrapping_request(&mut self, request: &Request, path: &str) -> Outcome {
        let token = request.text("token").or_else(|| request.token.clone()).unwrap_or_default();
        let invalid = || Refusal::new(400, "wrapping token is not valid or does not exist");
        match path {
            "wrap" if request.wrap_ttl.is_some() => {
                let mut body = request.body.clone();
                body.remove("list");
                Ok(Reply::data(Value::Object(body)))
            }
            "wrap" => Err(Refusal::new(400, "endpoint requires response wrapping to be used")),
            "lookup" => {
                let wrapped = self.wrapped.get(&token).ok_or_else(invalid)?;
                Ok(Reply::data(json!({
                    "creation_path": wrapped.path, "creation_time": time(wrapped.created), "creation_ttl": wrapped.ttl,
                })))
            }
            "unwrap" => Ok(self.wrapped.remove(&token).ok_or_else(invalid)?.reply),
            "rewrap" => {
                let Wrapped { reply, path, ttl, .. } = self.wrapped.remove(&token).ok_or_else(invalid)?;
                Ok(self.wrap(reply, &path, ttl))
            }
            _ => Err(Refusal::unsupported()),
        }
    }
}
