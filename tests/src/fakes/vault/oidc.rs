//! Signing in with a browser: the callback of a client, and OpenBao's codes for devices.
//!
//! The identity provider is played by the test: [`confirm`] is what its pages do when a person signs in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::message::{Operation, Outcome, Refusal, Reply, Request};
use super::world::World;
use crate::http::Message;

/// How long the server remembers a sign-in that has begun.
const PATIENCE: u64 = 600;

/// A sign-in that has begun.
pub(super) struct Waiting {
    mount: String,
    namespace: String,
    role: String,
    client_nonce: String,
    is_device: bool,
    user_code: String,
    redirect: String,
    /// What the identity provider gives for the person who signed in: a code, and whose it is.
    confirmed: Option<(String, Value)>,
    last_poll: Option<u64>,
    interval: u64,
    pub(super) expires: u64,
}

impl World {
    /// Serves `auth/MOUNT/oidc/`.
    pub(super) fn oidc_request(&mut self, request: &Request, mount: &str, step: &str) -> Outcome {
        match (step, request.operation) {
            ("auth_url", Operation::Write) => self.auth_url(request, mount),
            ("callback", Operation::Read) => self.callback(request, mount),
            ("poll", Operation::Write) => self.poll(request, mount),
            _ => Err(Refusal::unsupported()),
        }
    }

    fn auth_url(&mut self, request: &Request, mount: &str) -> Outcome {
        let refuse = |words: &str| Err(Refusal::new(400, words));
        let config = self.jwt_config(request, mount)?;
        if config.discovery.is_empty() {
            return refuse("OIDC login is not configured for this mount");
        }
        let name = request.text("role").filter(|role| !role.is_empty()).unwrap_or(config.default_role).to_lowercase();
        if name.is_empty() {
            return refuse("missing role");
        }
        let Some(role) = config.roles.get(&name) else { return refuse(&format!("role {name:?} could not be found")) };
        let is_device = role.callback_mode == "device";
        let client_nonce = request.text("client_nonce").unwrap_or_default();
        let redirect = request.text("redirect_uri").unwrap_or_default();
        if is_device && client_nonce.is_empty() {
            return refuse("missing client_nonce");
        }
        if !is_device && redirect.is_empty() {
            return refuse("missing redirect_uri");
        }
        if !is_device && !role.redirects.iter().any(|allowed| is_same_redirect(allowed, &redirect)) {
            // Deliberately without a reason.
            return Ok(Reply::data(json!({ "auth_url": "" })));
        }
        let state = World::random("st_");
        let interval = if role.poll_interval > 0 { role.poll_interval } else { 5 };
        let user_code = World::random("")[..8].to_uppercase();
        let user_code = format!("{}-{}", &user_code[..4], &user_code[4..]);
        let answer = if is_device {
            json!({
                "auth_url": format!("{}/device", config.discovery), "user_code": user_code, "state": state,
                "poll_interval": interval.to_string(),
            })
        } else {
            let encoded = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let address = format!(
                "{}/authorize?client_id={}&nonce={}&redirect_uri={}&response_type=code&scope=openid&state={state}",
                config.discovery,
                encoded(&config.client),
                World::random("n_"),
                encoded(&redirect),
            );
            json!({ "auth_url": address })
        };
        let waiting = Waiting {
            mount: mount.to_owned(),
            namespace: request.namespace.clone(),
            role: name,
            client_nonce,
            is_device,
            user_code,
            redirect,
            confirmed: None,
            last_poll: None,
            interval,
            expires: self.now() + PATIENCE,
        };
        self.waiting.insert(state, waiting);
        Ok(Reply::data(answer))
    }

    fn callback(&mut self, request: &Request, mount: &str) -> Outcome {
        // Whatever comes of it, a state is good once.
        let waiting = self.take(request, mount, false)?;
        if !waiting.client_nonce.is_empty() && request.text("client_nonce").as_ref() != Some(&waiting.client_nonce) {
            return Err(Refusal::new(400, "invalid client_nonce"));
        }
        let code = request.text("code").unwrap_or_default();
        let claims = waiting.confirmed.filter(|(known, _)| *known == code).map(|(_, claims)| claims);
        let claims = claims
            .ok_or_else(|| Refusal::new(400, "Vault login failed. Error exchanging oidc code: \"invalid_grant\"."))?;
        self.confirmed(request, mount, &waiting.role, &claims)
    }

    fn poll(&mut self, request: &Request, mount: &str) -> Outcome {
        let (now, refuse) = (self.now(), |words: &str| Err(Refusal::new(400, words)));
        let state = request.text("state").unwrap_or_default();
        let mut waiting = self.take(request, mount, true)?;
        if !waiting.client_nonce.is_empty() && request.text("client_nonce").as_ref() != Some(&waiting.client_nonce) {
            return refuse("invalid client_nonce");
        }
        if let Some((_, claims)) = waiting.confirmed {
            return self.confirmed(request, mount, &waiting.role, &claims);
        }
        let is_hasty = waiting.last_poll.is_some_and(|last| now < last + waiting.interval);
        waiting.last_poll = Some(now);
        self.waiting.insert(state, waiting);
        refuse(if is_hasty { "slow_down" } else { "authorization_pending" })
    }

    fn take(&mut self, request: &Request, mount: &str, is_device: bool) -> Result<Waiting, Refusal> {
        let lost = || Refusal::new(400, "Vault login failed. Expired or missing OAuth state.");
        let state = request.text("state").unwrap_or_default();
        let waiting = self.waiting.remove(&state).ok_or_else(lost)?;
        let fits = waiting.mount == mount && waiting.namespace == request.namespace && waiting.is_device == is_device;
        if fits { Ok(waiting) } else { Err(lost()) }
    }

    fn confirmed(&mut self, request: &Request, mount: &str, name: &str, claims: &Value) -> Outcome {
        let config = self.jwt_config(request, mount)?;
        let role =
            config.roles.get(name).ok_or_else(|| Refusal::new(400, "Vault login failed. Role could not be found"))?;
        self.jwt_signed_in(request, name, role, claims)
    }
}

/// Tells whether a redirect is allowed; on a loopback address whatever its port (RFC 8252 section 7.3).
fn is_same_redirect(allowed: &str, given: &str) -> bool {
    let portless = |address: &str| {
        let (scheme, rest) = address.split_once("://")?;
        let (authority, path) = rest.split_once('/')?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        ["localhost", "127.0.0.1", "[::1]"].contains(&host).then(|| format!("{scheme}://{host}/{path}"))
    };
    allowed == given || portless(given).is_some_and(|given| portless(allowed) == Some(given))
}

/// What happens when a person signs in at `address`.
pub(super) fn confirm(world: &mut World, address: &str, claims: &Value) -> Result<Option<String>, String> {
    let (_, query) = address.split_once('?').ok_or("the address has no query")?;
    let pairs: BTreeMap<String, String> = Message::pairs(query).into_iter().collect();
    let state = pairs.get("state").ok_or("the address names no state")?;
    let waiting = world.waiting.get_mut(state).ok_or("nobody waits for that state")?;
    if pairs.get("redirect_uri") != Some(&waiting.redirect) {
        return Err("the address was changed".to_owned());
    }
    let code = World::random("code-");
    waiting.confirmed = Some((code.clone(), claims.clone()));
    Ok(Some(format!("{}?code={code}&state={state}", waiting.redirect)))
}

/// What happens when a person types a code and signs in.
pub(super) fn confirm_code(world: &mut World, user_code: &str, claims: &Value) -> Result<(), String> {
    let found = world.waiting.values_mut().find(|waiting| waiting.is_device && waiting.user_code == user_code);
    found.ok_or("nobody waits with that code")?.confirmed = Some((World::random("code-"), claims.clone()));
    Ok(())
}
