//! `sys/`: health, mounts, policies, namespaces, capabilities.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::auth::Method;
use super::database::Database;
use super::kv::Versioned;
use super::message::{Operation, Outcome, Refusal, Reply, Request};
use super::policy;
use super::world::{Engine, Mount, Space, World};

const VERSION: &str = "1.20.0";

impl World {
    /// Answers what is answered in every state, without a token.
    pub(super) fn status(&self, request: &Request) -> Option<Reply> {
        if request.operation != Operation::Read {
            return None;
        }
        let asked = |name: &str| request.text(name).and_then(|code| code.parse().ok());
        match request.path.as_str() {
            "sys/health" => {
                let usual = if self.sealed { 503 } else { self.standby.unwrap_or(200) };
                let chosen = match usual {
                    503 => asked("sealedcode"),
                    429 if request.body.contains_key("standbyok") => asked("activecode").or(Some(200)),
                    473 if request.body.contains_key("perfstandbyok") => asked("activecode").or(Some(200)),
                    429 => asked("standbycode"),
                    473 => asked("performancestandbycode"),
                    _ => asked("activecode"),
                };
                Some(Reply::bare(
                    chosen.unwrap_or(usual),
                    json!({
                        "initialized": true, "sealed": self.sealed, "standby": self.standby.is_some(),
                        "performance_standby": self.standby == Some(473), "replication_performance_mode": "disabled",
                        "replication_dr_mode": "disabled", "server_time_utc": self.now(), "version": VERSION,
                    }),
                ))
            }
            "sys/seal-status" => Some(Reply::bare(
                200,
                json!({
                    "type": "shamir", "initialized": true, "sealed": self.sealed, "t": 1, "n": 1, "progress": 0,
                    "nonce": "", "version": VERSION, "migration": false, "storage_type": "inmem",
                }),
            )),
            "sys/init" => Some(Reply::bare(200, json!({ "initialized": true }))),
            _ => None,
        }
    }

    /// Serves what lies under `sys/`.
    pub(super) fn system(&mut self, request: &Request, path: &str) -> Outcome {
        let (section, rest) = path.split_once('/').unwrap_or((path, ""));
        match (section, request.operation) {
            ("wrapping", _) => self.wrapping_request(request, rest),
            ("leases", _) => self.lease_request(request, rest),
            ("renew" | "revoke", Operation::Write) => self.lease_request(request, path),
            ("internal", Operation::Read) => self.shown_mounts(request, rest),
            ("mounts", Operation::Read) if rest.is_empty() => Ok(Reply::data(self.mounts(request, ""))),
            ("auth", Operation::Read) if rest.is_empty() => Ok(Reply::data(self.mounts(request, "auth/"))),
            ("mounts", Operation::Write) if !rest.ends_with("/tune") => self.enable(request, rest, ""),
            ("auth", Operation::Write) if !rest.ends_with("/tune") => self.enable(request, rest, "auth/"),
            ("mounts", Operation::Delete) => self.disable(request, &format!("{rest}/")),
            ("auth", Operation::Delete) => self.disable(request, &format!("auth/{rest}/")),
            ("policy" | "policies", _) => self.policy(request, rest.trim_start_matches("acl").trim_start_matches('/')),
            ("namespaces", _) => self.namespaces(request, rest),
            ("capabilities-self", Operation::Write) => {
                self.capabilities(request, &request.token.clone().unwrap_or_default())
            }
            ("capabilities", Operation::Write) => {
                self.capabilities(request, &request.text("token").unwrap_or_default())
            }
            ("seal", Operation::Write) => {
                self.sealed = true;
                Ok(Reply::empty())
            }
            _ => Err(Refusal::unsupported()),
        }
    }

    fn mounts(&self, request: &Request, under: &str) -> Value {
        let Some(space) = self.spaces.get(&request.namespace) else { return Value::Null };
        let is_auth = under == "auth/";
        let all = space.mounts.iter().filter(|(path, _)| path.starts_with("auth/") == is_auth);
        Value::Object(all.map(|(path, mount)| (path[under.len()..].to_owned(), mount.described())).collect())
    }

    /// What the web page, and every client that looks for the version of a KV mount, asks: which mounts are there, as
    /// far as the token may do anything in them. A mount that is not there is refused alike.
    fn shown_mounts(&mut self, request: &Request, path: &str) -> Outcome {
        let Some(path) = path.strip_prefix("ui/mounts") else { return Err(Refusal::unsupported()) };
        let token =
            request.token.as_ref().and_then(|id| self.tokens.get(id)).cloned().ok_or_else(Refusal::invalid_token)?;
        let rules = self.rules(&token);
        let sees = |mount: &str| {
            token.is_root()
                || rules.iter().any(|(pattern, granted)| {
                    let stem = pattern.split(['*', '+']).next().unwrap_or_default();
                    !granted.contains("deny") && (stem.starts_with(mount) || mount.starts_with(stem) && stem != pattern)
                })
        };
        let Some(wanted) = path.strip_prefix('/').filter(|wanted| !wanted.is_empty()) else {
            let (all, auth) = (self.mounts(request, ""), self.mounts(request, "auth/"));
            let visible = |all: Value, under: &str| -> Map<String, Value> {
                let all = all.as_object().cloned().unwrap_or_default();
                all.into_iter().filter(|(path, _)| sees(&format!("{under}{path}"))).collect()
            };
            return Ok(Reply::data(json!({ "secret": visible(all, ""), "auth": visible(auth, "auth/") })));
        };
        let refused = || {
            let words = "preflight capability check returned 403, please ensure client's policies grant access to path";
            Refusal::new(403, format!("{words} \"{wanted}/\""))
        };
        let (mount, found) = self.mount(&request.namespace, wanted).ok_or_else(refused)?;
        let mut described = found.described();
        if !sees(&mount) {
            return Err(refused());
        }
        described["path"] = json!(mount);
        Ok(Reply::data(described))
    }

    fn enable(&mut self, request: &Request, path: &str, under: &str) -> Outcome {
        let kind = request.text("type").unwrap_or_default();
        let option = request.body.get("options").and_then(|options| options.get("version"));
        let is_second = option.is_some_and(|version| version == "2" || version == 2) || kind == "kv-v2";
        let (kind, engine) = match (under, kind.as_str()) {
            ("", "kv" | "kv-v2") if is_second => ("kv", Engine::Versioned(Versioned::default())),
            ("", "kv" | "generic") => ("kv", Engine::Plain(BTreeMap::new())),
            ("", "database") => ("database", Engine::Database(Database::default())),
            ("auth/", "approle") => ("approle", Engine::Method(Method::AppRole(BTreeMap::new()))),
            ("auth/", "userpass") => ("userpass", Engine::Method(Method::Userpass(BTreeMap::new()))),
            ("auth/", "jwt" | "oidc") => ("jwt", Engine::Method(Method::Jwt(Box::default()))),
            ("auth/", "kubernetes") => ("kubernetes", Engine::Method(Method::Kubernetes(BTreeMap::new()))),
            _ => return Err(Refusal::new(400, format!("plugin not found in the catalog: {kind}"))),
        };
        let path = format!("{under}{}/", path.trim_matches('/'));
        let space = self.space(&request.namespace);
        if let Some(taken) = space.mounts.keys().find(|taken| path.starts_with(*taken) || taken.starts_with(&path)) {
            return Err(Refusal::new(400, format!("path is already in use at {taken}")));
        }
        let description = request.text("description").unwrap_or_default();
        space.mounts.insert(path, Mount { description, ..Mount::new(kind, engine) });
        Ok(Reply::empty())
    }

    fn disable(&mut self, request: &Request, path: &str) -> Outcome {
        self.space(&request.namespace).mounts.remove(path);
        Ok(Reply::empty())
    }

    fn policy(&mut self, request: &Request, name: &str) -> Outcome {
        let policies = &mut self.space(&request.namespace).policies;
        match request.operation {
            Operation::List | Operation::Read if name.is_empty() => {
                let names: Vec<String> = policies.keys().cloned().chain(["root".to_owned()]).collect();
                Ok(Reply::data(json!({ "keys": names, "policies": names })))
            }
            Operation::Read => {
                let text = policies.get(name).ok_or_else(Refusal::nothing)?;
                Ok(Reply::data(json!({ "name": name, "policy": text, "rules": text })))
            }
            Operation::Write if name == "root" => Err(Refusal::new(400, "cannot update \"root\" policy")),
            Operation::Write => {
                let text = request
                    .text("policy")
                    .ok_or_else(|| Refusal::new(400, "'policy' parameter not supplied or empty"))?;
                policy::parse(&text).map_err(|words| Refusal::new(400, words))?;
                policies.insert(name.to_lowercase(), text);
                Ok(Reply::empty())
            }
            Operation::Delete => {
                policies.remove(name);
                Ok(Reply::empty())
            }
            _ => Err(Refusal::unsupported()),
        }
    }

    fn namespaces(&mut self, request: &Request, path: &str) -> Outcome {
        let prefix = if request.namespace.is_empty() { String::new() } else { format!("{}/", request.namespace) };
        let name = format!("{prefix}{path}");
        match request.operation {
            Operation::List => {
                let children = self.spaces.keys().filter_map(|space| space.strip_prefix(&prefix));
                let children = children.filter(|child| !child.is_empty() && !child.contains('/'));
                Reply::keys(children.map(|child| format!("{child}/")).collect::<Vec<_>>())
            }
            Operation::Write => {
                self.spaces.entry(name.clone()).or_insert_with(Space::fresh);
                Ok(Reply::data(json!({ "id": World::random("")[..6], "path": format!("{name}/") })))
            }
            Operation::Read if self.spaces.contains_key(&name) => {
                Ok(Reply::data(json!({ "path": format!("{name}/") })))
            }
            Operation::Read => Err(Refusal::nothing()),
            Operation::Delete => {
                self.spaces.remove(&name);
                Ok(Reply::empty())
            }
            Operation::Patch => Err(Refusal::unsupported()),
        }
    }

    fn capabilities(&mut self, request: &Request, id: &str) -> Outcome {
        let token = self.tokens.get(id).cloned().ok_or_else(|| Refusal::new(403, "invalid token"))?;
        let mut answer = Map::new();
        for path in request.words("paths").into_iter().chain(request.words("path")) {
            let granted = self.granted(&token, &request.namespace, &path, path.ends_with('/'));
            let granted = if granted.contains("root") { json!(["root"]) } else { json!(granted) };
            let granted = if granted == json!([]) { json!(["deny"]) } else { granted };
            answer.insert("capabilities".to_owned(), granted.clone());
            answer.insert(path, granted);
        }
        Ok(Reply::data(Value::Object(answer)))
    }
}
