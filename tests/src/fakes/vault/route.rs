//! The order in which a request is served: quota, seal, namespace, token, policy, then its path, then wrapping.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Asked;
use super::duration;
use super::message::{Operation, Outcome, Refusal, Request, written};
use super::policy::{self, Rules};
use super::token::Token;
use super::world::{Engine, World};
use crate::http::Message;

/// Paths that need the capability `sudo` besides their own.
const PROTECTED: [&str; 5] =
    ["auth/token/accessors", "auth/token/create-orphan", "sys/seal", "sys/auth/", "sys/leases/revoke-prefix/"];

/// Answers one request.
pub(super) fn answer(world: &mut World, message: &Message) -> Message {
    if let Some(left) = &mut world.quota {
        if *left == 0 {
            return written(Err(Refusal::new(
                429,
                format!("request path \"{}\": rate limit quota exceeded", message.path()),
            )));
        }
        *left -= 1;
    }
    let outcome = request(message).and_then(|request| {
        let token = request.token.as_ref().and_then(|id| world.tokens.get(id));
        let (operation, path) = (format!("{:?}", request.operation).to_lowercase(), request.path.clone());
        world.log.push(Asked { operation, path, accessor: token.map(|token| token.accessor.clone()) });
        serve(world, request)
    });
    written(outcome)
}

fn request(message: &Message) -> Result<Request, Refusal> {
    let not_found = || Refusal::nothing();
    let path = message.path().strip_prefix("/v1/").ok_or_else(not_found)?;
    let path =
        percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| Refusal::new(400, "invalid path"))?;
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(not_found());
    }
    let query = message.target().split_once('?').map(|(_, query)| Message::pairs(query)).unwrap_or_default();
    let mut body: Map<String, Value> = query.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let is_list = query.iter().any(|(name, value)| name == "list" && value == "true");
    let operation = match message.method() {
        "GET" if is_list => Operation::List,
        "LIST" => Operation::List,
        "GET" => Operation::Read,
        "POST" | "PUT" => Operation::Write,
        "PATCH" => Operation::Patch,
        "DELETE" => Operation::Delete,
        _ => return Err(Refusal::unsupported()),
    };
    if !message.body.is_empty() {
        match serde_json::from_slice(&message.body) {
            Ok(Value::Object(given)) => body.extend(given),
            Ok(Value::Null) => {}
            _ => return Err(Refusal::new(400, "failed to parse JSON input: invalid body")),
        }
    }
    let bearer = || message.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let namespace = message.header("x-vault-namespace").unwrap_or_default().trim_matches('/').to_owned();
    Ok(Request {
        operation,
        namespace,
        path: path.trim_end_matches('/').to_owned(),
        body,
        token: message.header("x-vault-token").or_else(bearer).filter(|token| !token.is_empty()).map(str::to_owned),
        wrap_ttl: message.header("x-vault-wrap-ttl").and_then(duration::of_text).filter(|ttl| *ttl > 0),
    })
}

fn serve(world: &mut World, mut request: Request) -> Outcome {
    if let Some(reply) = world.status(&request) {
        return Ok(reply);
    }
    if world.sealed {
        return Err(Refusal::new(503, "Vault is sealed"));
    }
    world.tidy();
    into_namespace(world, &mut request)?;
    if is_open(&request) {
        return finish(world, &request);
    }
    let id = request.token.clone().ok_or_else(|| Refusal::new(403, "permission denied"))?;
    if request.path == "sys/wrapping/unwrap" && world.wrapped.contains_key(&id) {
        // A wrapping token is itself good for exactly this.
        return finish(world, &request);
    }
    let token = world.tokens.get_mut(&id).ok_or_else(Refusal::invalid_token)?;
    // A use is a use, whatever comes of it.
    let is_last = token.uses == 1;
    token.uses = if is_last { 1 } else { token.uses.saturating_sub(1) };
    let token = token.clone();
    let outcome = if is_allowed(world, &token, &request) { finish(world, &request) } else { Err(Refusal::denied()) };
    if is_last {
        world.revoke(&id);
        // What hung on it went with it.
        if outcome.as_ref().is_ok_and(|reply| reply.lease.is_some()) {
            let words =
                "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.";
            return Err(Refusal::new(400, words));
        }
    }
    outcome
}

/// Finds the namespace in the header and at the beginning of the path.
fn into_namespace(world: &World, request: &mut Request) -> Result<(), Refusal> {
    if !world.spaces.contains_key(&request.namespace) {
        return Err(unrouted(&request.path));
    }
    loop {
        let prefix = if request.namespace.is_empty() { String::new() } else { format!("{}/", request.namespace) };
        let deeper = world.spaces.keys().find_map(|space| {
            let own = space.strip_prefix(&prefix)?;
            let rest = request.path.strip_prefix(own)?.strip_prefix('/')?;
            (!own.is_empty() && !own.contains('/')).then(|| (space.clone(), rest.to_owned()))
        });
        let Some((space, rest)) = deeper else { return Ok(()) };
        (request.namespace, request.path) = (space, rest);
    }
}

/// Tells whether a path is served without a token.
fn is_open(request: &Request) -> bool {
    let path = request.path.as_str();
    let is_sign_in = path.strip_prefix("auth/").and_then(|rest| rest.split_once('/')).is_some_and(|(mount, rest)| {
        mount != "token" && (rest == "login" || rest.starts_with("login/"))
            || ["oidc/auth_url", "oidc/callback", "oidc/poll"].contains(&rest)
    });
    // Which mounts there are is answered by what the token may do in them.
    is_sign_in || path == "sys/wrapping/lookup" || path.starts_with("sys/internal/ui/mounts")
}

fn finish(world: &mut World, request: &Request) -> Outcome {
    let reply = dispatch(world, request)?;
    match request.wrap_ttl {
        Some(ttl) if reply.data.is_some() || reply.auth.is_some() => Ok(world.wrap(reply, &request.path, ttl)),
        _ => Ok(reply),
    }
}

fn dispatch(world: &mut World, request: &Request) -> Outcome {
    if let Some(path) = request.path.strip_prefix("sys/") {
        return world.system(request, path);
    }
    let is_behind = world.lag > 0 && request.operation == Operation::Read;
    let Some((mount, found)) = world.mount(&request.namespace, &request.path) else {
        return Err(unrouted(&request.path));
    };
    let path = request.path.get(mount.len()..).unwrap_or_default().to_owned();
    match &mut found.engine {
        Engine::Token => world.token_request(request, &path),
        Engine::Method(_) => world.method_request(request, &mount, &path),
        Engine::Database(_) => world.database_request(request, &mount, &path),
        Engine::Plain(_) | Engine::Versioned(_) if is_behind => {
            world.lag -= 1;
            Err(Refusal::new(412, "required index state not present"))
        }
        Engine::Plain(secrets) => super::kv::plain(secrets, request, &path),
        Engine::Versioned(_) => world.versioned_request(request, &mount, &path),
    }
}

fn unrouted(path: &str) -> Refusal {
    Refusal::new(404, format!("no handler for route \"{path}\". route entry not found."))
}

fn is_allowed(world: &mut World, token: &Token, request: &Request) -> bool {
    let protected = |path: &str| request.path == path || path.ends_with('/') && request.path.starts_with(path);
    if PROTECTED.into_iter().any(protected)
        && request.operation != Operation::Read
        && !world.may(token, request, "sudo")
    {
        return false;
    }
    let capability = match request.operation {
        Operation::Read => "read",
        Operation::List => "list",
        Operation::Delete => "delete",
        Operation::Patch => "patch",
        Operation::Write if world.exists(request) => "update",
        Operation::Write => "create",
    };
    world.may(token, request, capability)
}

impl World {
    /// Tells whether a token may do something with the path of a request.
    pub(super) fn may(&self, token: &Token, request: &Request, capability: &str) -> bool {
        let is_list = request.operation == Operation::List;
        let path = if is_list { format!("{}/", request.path) } else { request.path.clone() };
        self.granted(token, &request.namespace, &path, is_list).contains(capability)
    }

    /// Returns the capabilities of a token on a path of a namespace.
    pub(super) fn granted(&self, token: &Token, namespace: &str, path: &str, is_list: bool) -> BTreeSet<String> {
        let Some(path) = seen_from(&token.namespace, namespace, path) else { return BTreeSet::new() };
        if token.is_root() {
            return BTreeSet::from(
                ["create", "read", "update", "delete", "list", "sudo", "patch", "root"].map(str::to_owned),
            );
        }
        policy::granted(&self.rules(token), &path, is_list)
    }

    /// Returns the rules of all policies of a token.
    pub(super) fn rules(&self, token: &Token) -> Rules {
        let mut rules = Rules::new();
        let Some(space) = self.spaces.get(&token.namespace) else { return rules };
        for text in token.policies.iter().chain(&token.identity_policies).filter_map(|name| space.policies.get(name)) {
            // Read before it was stored.
            policy::join(&mut rules, &policy::parse(text).unwrap_or_default());
        }
        rules
    }

    /// Tells whether a write meets something that is there already.
    fn exists(&mut self, request: &Request) -> bool {
        let Some((mount, found)) = self.mount(&request.namespace, &request.path) else { return true };
        let path = request.path.get(mount.len()..).unwrap_or_default();
        match &found.engine {
            Engine::Plain(secrets) => secrets.contains_key(path),
            Engine::Versioned(versioned) => versioned.exists(path),
            _ => true,
        }
    }
}

/// Returns how a path of `namespace` reads from a token's own namespace; nothing where it lies outside.
fn seen_from(own: &str, namespace: &str, path: &str) -> Option<String> {
    if own == namespace {
        return Some(path.to_owned());
    }
    let below = if own.is_empty() { namespace } else { namespace.strip_prefix(own)?.strip_prefix('/')? };
    Some(format!("{below}/{path}"))
}
