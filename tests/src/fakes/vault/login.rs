//! Signing in with something that is at hand: AppRole, a password, a signed token, a service account.

use serde_json::{Map, Value, json};

use super::auth::{AppRole, Jwt, JwtRole, Method, ServiceRole};
use super::jwt;
use super::message::{Outcome, Refusal, Request};
use super::world::{Engine, World};

fn refuse(words: impl Into<String>) -> Refusal {
    Refusal::new(400, words)
}

fn named(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

impl World {
    fn method(&mut self, request: &Request, mount: &str) -> Option<&mut Method> {
        match &mut self.space(&request.namespace).mounts.get_mut(mount)?.engine {
            Engine::Method(method) => Some(method),
            _ => None,
        }
    }

    pub(super) fn approle_login(&mut self, request: &Request, mount: &str) -> Outcome {
        let now = self.now();
        let role_id = request.text("role_id").ok_or_else(|| refuse("missing role_id"))?;
        let Some(Method::AppRole(roles)) = self.method(request, mount) else { return Err(Refusal::nothing()) };
        let invalid = || refuse("invalid role or secret ID");
        let (name, role) = roles.iter_mut().find(|(_, role)| role.role_id == role_id).ok_or_else(invalid)?;
        if role.bind_secret_id {
            use_secret_id(role, &request.text("secret_id").ok_or_else(|| refuse("missing secret_id"))?, now)?;
        }
        let (settings, meta) = (role.settings.clone(), named(&[("role_name", name)]));
        Ok(self.signed_in(request, &settings, "approle", meta))
    }

    pub(super) fn userpass_login(&mut self, request: &Request, mount: &str, user: &str) -> Outcome {
        let Some(Method::Userpass(users)) = self.method(request, mount) else { return Err(Refusal::nothing()) };
        let password = request.text("password").unwrap_or_default();
        let user = user.to_lowercase();
        let known = users.get(&user).filter(|known| known.password == password);
        let settings =
            known.map(|known| known.settings.clone()).ok_or_else(|| refuse("invalid username or password"))?;
        Ok(self.signed_in(request, &settings, &format!("userpass-{user}"), named(&[("username", &user)])))
    }

    pub(super) fn jwt_config(&mut self, request: &Request, mount: &str) -> Result<Jwt, Refusal> {
        match self.method(request, mount) {
            Some(Method::Jwt(config)) => Ok((**config).clone()),
            _ => Err(Refusal::nothing()),
        }
    }

    pub(super) fn jwt_login(&mut self, request: &Request, mount: &str) -> Outcome {
        let now = self.now();
        let config = self.jwt_config(request, mount)?;
        let name = request.text("role").unwrap_or_else(|| config.default_role.clone()).to_lowercase();
        if name.is_empty() {
            return Err(refuse("missing role"));
        }
        let role = config.roles.get(&name).ok_or_else(|| refuse(format!("role {name:?} could not be found")))?;
        if role.is_oidc {
            return Err(refuse("role with oidc role_type is not allowed"));
        }
        let token = request.text("jwt").ok_or_else(|| refuse("missing token"))?;
        let claims = jwt::verified(&token, &config.keys, now)
            .map_err(|words| refuse(format!("error validating token: {words}")))?;
        if !config.issuer.is_empty() && claims["iss"] != config.issuer.as_str() {
            return Err(refuse("error validating token: invalid issuer (iss) claim"));
        }
        self.jwt_signed_in(request, &name, role, &claims)
    }

    /// Signs in whoever these verified claims name.
    pub(super) fn jwt_signed_in(&mut self, request: &Request, name: &str, role: &JwtRole, claims: &Value) -> Outcome {
        role.check(claims).map_err(refuse)?;
        let who = claims[&role.user_claim].as_str();
        let who = who.ok_or_else(|| refuse(format!("claim {:?} not found in token", role.user_claim)))?.to_owned();
        Ok(self.signed_in(request, &role.settings, &who, named(&[("role", name)])))
    }

    /// Signs a service account in. A real server asks Kubernetes whether the token is good; here its signature says so.
    pub(super) fn kubernetes_login(&mut self, request: &Request, mount: &str) -> Outcome {
        let (now, key) = (self.now(), self.signer.key());
        let Some(Method::Kubernetes(roles)) = self.method(request, mount) else { return Err(Refusal::nothing()) };
        let name = request.text("role").ok_or_else(|| refuse("missing role"))?;
        let role: ServiceRole =
            roles.get(&name).cloned().ok_or_else(|| refuse(format!("invalid role name {name:?}")))?;
        let token = request.text("jwt").ok_or_else(|| refuse("missing jwt"))?;
        let claims = jwt::verified(&token, &[key], now).map_err(|_| Refusal::new(403, "permission denied"))?;
        let account = &claims["kubernetes.io"];
        let (namespace, service) = (&account["namespace"], &account["serviceaccount"]["name"]);
        let is_in = |bound: &[String], value: &Value| {
            bound.iter().any(|bound| bound == "*" || value.as_str() == Some(bound.as_str()))
        };
        if !is_in(&role.namespaces, namespace) {
            return Err(Refusal::new(403, "namespace not authorized"));
        }
        if !is_in(&role.names, service) {
            return Err(Refusal::new(403, "service account name not authorized"));
        }
        if !role.audience.is_empty() && !jwt::audiences(&claims).contains(&role.audience) {
            return Err(Refusal::new(403, "invalid audience (aud) claim"));
        }
        let words = [namespace, service].map(|value| value.as_str().unwrap_or_default().to_owned());
        let meta =
            named(&[("role", &name), ("service_account_namespace", &words[0]), ("service_account_name", &words[1])]);
        Ok(self.signed_in(request, &role.settings, &format!("kubernetes-{}-{}", words[0], words[1]), meta))
    }
}

/// Takes one use of a secret id; the last one ends it.
fn use_secret_id(role: &mut AppRole, id: &str, now: u64) -> Result<(), Refusal> {
    let invalid = || refuse("invalid role or secret ID");
    let known = role.secret_ids.get_mut(id).ok_or_else(invalid)?;
    let has_ended = known.expires > 0 && known.expires <= now;
    if has_ended || known.uses == 1 {
        role.secret_ids.remove(id);
    } else {
        known.uses = known.uses.saturating_sub(1);
    }
    if has_ended { Err(invalid()) } else { Ok(()) }
}

impl JwtRole {
    fn check(&self, claims: &Value) -> Result<(), String> {
        if !self.subject.is_empty() && claims["sub"] != self.subject.as_str() {
            return Err("error validating token: invalid subject (sub) claim".to_owned());
        }
        let audiences = jwt::audiences(claims);
        if !audiences.is_empty() && !self.is_oidc && !self.audiences.iter().any(|bound| audiences.contains(bound)) {
            return Err("error validating token: invalid audience (aud) claim: audience claim does not match any bound audience".to_owned());
        }
        for (claim, bound) in &self.claims {
            let value = &claims[claim];
            if value.is_null() {
                return Err(format!("error validating claims: claim {claim:?} is missing"));
            }
            let bound = bound.as_array().cloned().unwrap_or_else(|| vec![bound.clone()]);
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            let is_match = |bound: &Value, value: &Value| match (bound.as_str(), value.as_str()) {
                (Some(bound), Some(value)) if self.claims_are_globs => glob(bound, value),
                _ => bound == value,
            };
            if !bound.iter().any(|bound| values.iter().any(|value| is_match(bound, value))) {
                return Err(format!(
                    "error validating claims: claim {claim:?} does not match any associated bound claim values"
                ));
            }
        }
        Ok(())
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| glob(rest, &text[at..]))
        }),
    }
}
