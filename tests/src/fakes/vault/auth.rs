//! The sign-in methods and how they are set up: AppRole, userpass, JWT and OIDC, Kubernetes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::duration::{seconds, time};
use super::jwt;
use super::message::{Operation, Outcome, Refusal, Reply, Request};
use super::token::TokenSettings;
use super::world::{Engine, World};

pub(super) enum Method {
    AppRole(BTreeMap<String, AppRole>),
    Userpass(BTreeMap<String, User>),
    Jwt(Box<Jwt>),
    Kubernetes(BTreeMap<String, ServiceRole>),
}

#[derive(Clone)]
pub(super) struct AppRole {
    pub(super) role_id: String,
    pub(super) bind_secret_id: bool,
    secret_id_uses: u64,
    secret_id_ttl: u64,
    pub(super) secret_ids: BTreeMap<String, SecretId>,
    pub(super) settings: TokenSettings,
}

#[derive(Clone)]
pub(super) struct SecretId {
    accessor: String,
    /// 0 is no limit.
    pub(super) uses: u64,
    /// 0 is never.
    pub(super) expires: u64,
}

#[derive(Clone)]
pub(super) struct User {
    pub(super) password: String,
    pub(super) settings: TokenSettings,
}

#[derive(Clone, Default)]
pub(super) struct Jwt {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) issuer: String,
    /// The address of the identity provider: set where people sign in with a browser.
    pub(super) discovery: String,
    pub(super) client: String,
    pub(super) default_role: String,
    pub(super) roles: BTreeMap<String, JwtRole>,
}

#[derive(Clone, Default)]
pub(super) struct JwtRole {
    pub(super) is_oidc: bool,
    pub(super) audiences: Vec<String>,
    pub(super) subject: String,
    pub(super) claims: Map<String, Value>,
    pub(super) claims_are_globs: bool,
    pub(super) user_claim: String,
    pub(super) redirects: Vec<String>,
    pub(super) callback_mode: String,
    pub(super) poll_interval: u64,
    pub(super) settings: TokenSettings,
}

#[derive(Clone)]
pub(super) struct ServiceRole {
    pub(super) names: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) audience: String,
    pub(super) settings: TokenSettings,
}

impl World {
    /// Serves a sign-in method; `path` is what follows its mount.
    pub(super) fn method_request(&mut self, request: &Request, mount: &str, path: &str) -> Outcome {
        let now = self.now();
        let Some(Engine::Method(method)) = self.space(&request.namespace).mounts.get_mut(mount).map(|m| &mut m.engine)
        else {
            return Err(Refusal::nothing());
        };
        let steps: Vec<&str> = path.split('/').collect();
        match (method, steps.as_slice(), request.operation) {
            (Method::AppRole(_), ["login"], Operation::Write) => self.approle_login(request, mount),
            (Method::Userpass(_), ["login", user], Operation::Write) => self.userpass_login(request, mount, user),
            (Method::Jwt(_), ["login"], Operation::Write) => self.jwt_login(request, mount),
            (Method::Kubernetes(_), ["login"], Operation::Write) => self.kubernetes_login(request, mount),
            (Method::Jwt(_), ["oidc", step], _) => self.oidc_request(request, mount, step),
            (Method::AppRole(roles), ["role", rest @ ..], _) => approle(roles, request, rest, now),
            (Method::Userpass(users), ["users", rest @ ..], _) => userpass(users, request, rest),
            (Method::Jwt(config), steps, _) => config.set_up(request, steps),
            (Method::Kubernetes(_), ["config"], Operation::Write) => Ok(Reply::empty()),
            (Method::Kubernetes(roles), ["role", name], Operation::Write) => {
                let role = ServiceRole {
                    names: request.words("bound_service_account_names"),
                    namespaces: request.words("bound_service_account_namespaces"),
                    audience: request.text("audience").unwrap_or_default(),
                    settings: TokenSettings::read(request),
                };
                if role.names.is_empty() || role.namespaces.is_empty() {
                    return Err(Refusal::new(400, "\"bound_service_account_names\" can not be empty"));
                }
                roles.insert((*name).to_owned(), role);
                Ok(Reply::empty())
            }
            _ => Err(Refusal::unsupported()),
        }
    }
}

fn approle(roles: &mut BTreeMap<String, AppRole>, request: &Request, steps: &[&str], now: u64) -> Outcome {
    let Some((name, steps)) = steps.split_first().filter(|(name, _)| !name.is_empty()) else {
        return Reply::keys(roles.keys().cloned());
    };
    if steps.is_empty() && request.operation == Operation::Write {
        let role_id = roles.get(*name).map_or_else(World::uuid, |role| role.role_id.clone());
        let role = AppRole {
            role_id,
            bind_secret_id: request.truth("bind_secret_id").unwrap_or(true),
            secret_id_uses: seconds(request.body.get("secret_id_num_uses")).unwrap_or(0),
            secret_id_ttl: seconds(request.body.get("secret_id_ttl")).unwrap_or(0),
            secret_ids: BTreeMap::new(),
            settings: TokenSettings::read(request),
        };
        roles.insert((*name).to_owned(), role);
        return Ok(Reply::empty());
    }
    let role = roles.get_mut(*name).ok_or_else(Refusal::nothing)?;
    let given = request.text("secret_id").unwrap_or_default();
    match (steps, request.operation) {
        ([], Operation::Read) => {
            let mut described = role.settings.described();
            described["bind_secret_id"] = json!(role.bind_secret_id);
            described["secret_id_num_uses"] = json!(role.secret_id_uses);
            described["secret_id_ttl"] = json!(role.secret_id_ttl);
            Ok(Reply::data(described))
        }
        ([], Operation::Delete) => {
            roles.remove(*name);
            Ok(Reply::empty())
        }
        (["role-id"], Operation::Read) => Ok(Reply::data(json!({ "role_id": role.role_id }))),
        (["role-id"], Operation::Write) => {
            role.role_id = request.text("role_id").unwrap_or_default();
            Ok(Reply::empty())
        }
        (["secret-id" | "custom-secret-id"], Operation::Write) => {
            let id = if steps == ["custom-secret-id"] { given } else { World::uuid() };
            let expires = if role.secret_id_ttl > 0 { now + role.secret_id_ttl } else { 0 };
            let accessor = World::uuid();
            let data = json!({
                "secret_id": id, "secret_id_accessor": accessor, "secret_id_ttl": role.secret_id_ttl,
                "secret_id_num_uses": role.secret_id_uses,
            });
            role.secret_ids.insert(id, SecretId { accessor, uses: role.secret_id_uses, expires });
            Ok(Reply::data(data))
        }
        (["secret-id", "lookup"], Operation::Write) => match role.secret_ids.get(&given) {
            Some(known) => Ok(Reply::data(json!({
                "secret_id_accessor": known.accessor, "secret_id_num_uses": known.uses,
                "expiration_time": time(known.expires),
            }))),
            None => Ok(Reply::empty()),
        },
        (["secret-id", "destroy"], Operation::Write) => {
            role.secret_ids.remove(&given);
            Ok(Reply::empty())
        }
        _ => Err(Refusal::unsupported()),
    }
}

fn userpass(users: &mut BTreeMap<String, User>, request: &Request, steps: &[&str]) -> Outcome {
    match (steps, request.operation) {
        ([] | [""], Operation::List) => Reply::keys(users.keys().cloned()),
        ([name], Operation::Write) => {
            let password = request.text("password").or_else(|| users.get(*name).map(|user| user.password.clone()));
            let password = password.ok_or_else(|| Refusal::new(400, "missing password"))?;
            users.insert(name.to_lowercase(), User { password, settings: TokenSettings::read(request) });
            Ok(Reply::empty())
        }
        ([name], Operation::Read) => {
            users.get(*name).map(|user| Reply::data(user.settings.described())).ok_or_else(Refusal::nothing)
        }
        ([name], Operation::Delete) => {
            users.remove(*name);
            Ok(Reply::empty())
        }
        _ => Err(Refusal::unsupported()),
    }
}

impl Jwt {
    fn set_up(&mut self, request: &Request, steps: &[&str]) -> Outcome {
        match (steps, request.operation) {
            (["config"], Operation::Write) => {
                let keys: Option<Vec<_>> =
                    request.words("jwt_validation_pubkeys").iter().map(|pem| jwt::key(pem)).collect();
                self.keys = keys.ok_or_else(|| Refusal::new(400, "error parsing public key"))?;
                self.discovery = request.text("oidc_discovery_url").unwrap_or_default();
                self.client = request.text("oidc_client_id").unwrap_or_default();
                self.issuer = request.text("bound_issuer").unwrap_or_default();
                self.default_role = request.text("default_role").unwrap_or_default();
                if self.keys.is_empty() == self.discovery.is_empty() {
                    let words =
                        "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set";
                    return Err(Refusal::new(400, words));
                }
                Ok(Reply::empty())
            }
            (["role", name], Operation::Write) => {
                let role = JwtRole {
                    is_oidc: request.text("role_type").as_deref() != Some("jwt"),
                    audiences: request.words("bound_audiences"),
                    subject: request.text("bound_subject").unwrap_or_default(),
                    claims: request.body.get("bound_claims").and_then(Value::as_object).cloned().unwrap_or_default(),
                    claims_are_globs: request.text("bound_claims_type").as_deref() == Some("glob"),
                    user_claim: request
                        .text("user_claim")
                        .ok_or_else(|| Refusal::new(400, "a user claim must be defined on the role"))?,
                    redirects: request.words("allowed_redirect_uris"),
                    callback_mode: request.text("callback_mode").unwrap_or_else(|| "client".to_owned()),
                    poll_interval: seconds(request.body.get("poll_interval")).unwrap_or(0),
                    settings: TokenSettings::read(request),
                };
                let is_bound = !role.audiences.is_empty() || !role.subject.is_empty() || !role.claims.is_empty();
                if !role.is_oidc && !is_bound {
                    return Err(Refusal::new(
                        400,
                        "must have at least one bound constraint when creating/updating a role",
                    ));
                }
                if role.is_oidc && role.redirects.is_empty() && role.callback_mode != "device" {
                    return Err(Refusal::new(
                        400,
                        "'allowed_redirect_uris' must be set if 'role_type' is 'oidc' or unspecified.",
                    ));
                }
                self.roles.insert(name.to_lowercase(), role);
                Ok(Reply::empty())
            }
            (["role", name], Operation::Read) => {
                self.roles.get(*name).map(|role| Reply::data(role.settings.described())).ok_or_else(Refusal::nothing)
            }
            _ => Err(Refusal::unsupported()),
        }
    }
}
