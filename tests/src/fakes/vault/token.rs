//! Tokens: how they are made, how long they live, and `auth/token/`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::duration::{seconds, text, time};
use super::message::{Operation, Outcome, Refusal, Reply, Request};
use super::world::{MAX_TTL, World};

#[derive(Clone)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) accessor: String,
    pub(super) namespace: String,
    pub(super) policies: Vec<String>,
    /// Those of its entity and groups: children inherit the entity, and with it these.
    pub(super) identity_policies: Vec<String>,
    /// Where it was made, such as `auth/approle/login`.
    pub(super) path: String,
    pub(super) display_name: String,
    pub(super) meta: Map<String, Value>,
    /// How many requests are left; 0 is no limit.
    pub(super) uses: u64,
    pub(super) is_spent: bool,
    pub(super) parent: Option<String>,
    pub(super) created: u64,
    pub(super) ttl: u64,
    /// 0 is never.
    pub(super) expires: u64,
    pub(super) max_ttl: u64,
    pub(super) explicit_max: u64,
    pub(super) period: u64,
    pub(super) renewable: bool,
    pub(super) is_batch: bool,
}

/// What a role says of the tokens that it makes.
#[derive(Clone, Default)]
pub(super) struct TokenSettings {
    policies: Vec<String>,
    ttl: u64,
    max_ttl: u64,
    explicit_max: u64,
    uses: u64,
    period: u64,
    is_batch: bool,
    no_default: bool,
}

impl TokenSettings {
    /// Reads `token_*`, or the older names without it.
    pub(super) fn read(request: &Request) -> Self {
        let number = |name: &str| seconds(request.body.get(&format!("token_{name}"))).unwrap_or(0);
        let policies = request.words("token_policies");
        Self {
            policies: if policies.is_empty() { request.words("policies") } else { policies },
            ttl: number("ttl"),
            max_ttl: number("max_ttl"),
            explicit_max: number("explicit_max_ttl"),
            uses: number("num_uses"),
            period: number("period"),
            is_batch: request.text("token_type").as_deref() == Some("batch"),
            no_default: request.truth("token_no_default_policy").unwrap_or(false),
        }
    }

    pub(super) fn described(&self) -> Value {
        json!({
            "token_policies": self.policies, "token_ttl": self.ttl, "token_max_ttl": self.max_ttl,
            "token_explicit_max_ttl": self.explicit_max, "token_num_uses": self.uses, "token_period": self.period,
            "token_type": if self.is_batch { "batch" } else { "default" },
            "token_no_default_policy": self.no_default,
        })
    }
}

impl Token {
    pub(super) fn root(now: u64) -> Self {
        Self {
            id: World::random("hvs."),
            accessor: World::random(""),
            namespace: String::new(),
            policies: vec!["root".to_owned()],
            identity_policies: Vec::new(),
            path: "auth/token/root".to_owned(),
            display_name: "root".to_owned(),
            meta: Map::new(),
            uses: 0,
            is_spent: false,
            parent: None,
            created: now,
            ttl: 0,
            expires: 0,
            max_ttl: 0,
            explicit_max: 0,
            period: 0,
            renewable: false,
            is_batch: false,
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.policies.iter().any(|policy| policy == "root")
    }

    pub(super) fn has_ended(&self, now: u64) -> bool {
        self.is_spent || (self.expires > 0 && self.expires <= now)
    }

    fn left(&self, now: u64) -> u64 {
        if self.expires == 0 { 0 } else { self.expires.saturating_sub(now) }
    }

    fn kind(&self) -> &'static str {
        if self.is_batch { "batch" } else { "service" }
    }

    /// Extends the life of the token as far as it may, and returns a warning where that is less than was wanted.
    fn renew(&mut self, wanted: Option<u64>, now: u64) -> Option<String> {
        let step = if self.period > 0 { self.period } else { wanted.unwrap_or(self.ttl) };
        let mut end = now + step;
        if self.period == 0 {
            end = end.min(self.created + if self.max_ttl > 0 { self.max_ttl } else { MAX_TTL });
        }
        if self.explicit_max > 0 {
            end = end.min(self.created + self.explicit_max);
        }
        self.expires = end;
        let (asked, given) = (text(step), text(end.saturating_sub(now)));
        let words = "TTL value is capped accordingly";
        (end < now + step).then(|| format!("TTL of \"{asked}\" exceeded the effective max_ttl of \"{given}\"; {words}"))
    }

    fn auth(&self, now: u64) -> Value {
        let all: BTreeSet<&String> = self.policies.iter().chain(&self.identity_policies).collect();
        let mut auth = json!({
            "client_token": self.id, "accessor": self.accessor, "policies": all,
            "token_policies": self.policies, "metadata": self.meta, "lease_duration": self.left(now),
            "renewable": self.renewable, "entity_id": "", "token_type": self.kind(), "orphan": self.parent.is_none(),
            "mfa_requirement": null, "num_uses": self.uses,
        });
        if !self.identity_policies.is_empty() {
            auth["identity_policies"] = json!(self.identity_policies);
        }
        auth
    }

    fn described(&self, now: u64) -> Value {
        let expire = if self.expires == 0 { Value::Null } else { json!(time(self.expires)) };
        let mut described = json!({
            "id": self.id, "accessor": self.accessor, "policies": self.policies, "path": self.path,
            "display_name": self.display_name, "meta": self.meta, "num_uses": self.uses,
            "orphan": self.parent.is_none(), "creation_time": self.created, "creation_ttl": self.ttl,
            "issue_time": time(self.created), "expire_time": expire, "ttl": self.left(now),
            "explicit_max_ttl": self.explicit_max, "renewable": self.renewable, "type": self.kind(), "entity_id": "",
        });
        if !self.identity_policies.is_empty() {
            described["identity_policies"] = json!(self.identity_policies);
        }
        if self.period > 0 {
            described["period"] = json!(self.period);
        }
        if !self.namespace.is_empty() {
            described["namespace_path"] = json!(format!("{}/", self.namespace));
        }
        described
    }
}

impl World {
    /// Makes the token that a sign-in yields.
    pub(super) fn signed_in(
        &mut self,
        request: &Request,
        settings: &TokenSettings,
        who: &str,
        meta: Map<String, Value>,
    ) -> Reply {
        let now = self.now();
        let mut policies: BTreeSet<String> = settings.policies.iter().cloned().collect();
        if !settings.no_default {
            policies.insert("default".to_owned());
        }
        let max_ttl = if settings.max_ttl > 0 { settings.max_ttl } else { MAX_TTL };
        let ttl = if settings.period > 0 { settings.period } else { settings.ttl };
        let ttl = if ttl > 0 { ttl } else { MAX_TTL }.min(if settings.period > 0 { u64::MAX } else { max_ttl });
        let mut token = Token {
            id: World::random(if settings.is_batch { "hvb." } else { "hvs." }),
            accessor: if settings.is_batch { String::new() } else { World::random("") },
            namespace: request.namespace.clone(),
            policies: policies.into_iter().collect(),
            identity_policies: Vec::new(),
            path: request.path.clone(),
            display_name: who.to_owned(),
            meta,
            uses: settings.uses,
            is_spent: false,
            parent: None,
            created: now,
            ttl,
            expires: 0,
            max_ttl,
            explicit_max: settings.explicit_max,
            period: settings.period,
            renewable: !settings.is_batch,
            is_batch: settings.is_batch,
        };
        token.renew(None, now);
        let auth = token.auth(now);
        self.tokens.insert(token.id.clone(), token);
        Reply { status: 200, auth: Some(auth), ..Reply::default() }
    }

    /// Serves `auth/token/`; `path` is what follows.
    pub(super) fn token_request(&mut self, request: &Request, path: &str) -> Outcome {
        let own = request.token.clone().unwrap_or_default();
        let named = request.text("token");
        match (path, request.operation) {
            ("create" | "create-orphan", Operation::Write) => self.create_token(request, &own, path),
            ("lookup-self", Operation::Read) => self.look_up(&own),
            ("lookup", Operation::Write) => self.look_up(&named.unwrap_or(own)),
            ("lookup-accessor", Operation::Write) => self.look_up(&self.by_accessor(request)?),
            ("renew-self", Operation::Write) => self.renew_token(request, &own),
            ("renew", Operation::Write) => self.renew_token(request, &named.unwrap_or(own)),
            ("renew-accessor", Operation::Write) => self.renew_token(request, &self.by_accessor(request)?),
            ("revoke-self", Operation::Write) => {
                self.revoke(&own);
                Ok(Reply::empty())
            }
            ("revoke", Operation::Write) => {
                let named = named.ok_or_else(|| Refusal::new(400, "missing token ID"))?;
                self.revoke(&named);
                Ok(Reply::empty())
            }
            ("revoke-accessor", Operation::Write) => {
                let id = self.by_accessor(request)?;
                self.revoke(&id);
                Ok(Reply::empty())
            }
            ("accessors", Operation::List) => {
                Reply::keys(self.tokens.values().filter(|token| !token.is_batch).map(|token| token.accessor.clone()))
            }
            _ => Err(Refusal::unsupported()),
        }
    }

    fn by_accessor(&self, request: &Request) -> Result<String, Refusal> {
        let accessor = request.text("accessor").unwrap_or_default();
        let found = self.tokens.values().find(|token| !accessor.is_empty() && token.accessor == accessor);
        found.map(|token| token.id.clone()).ok_or_else(|| Refusal::new(403, "invalid accessor"))
    }

    fn look_up(&self, id: &str) -> Outcome {
        let token = self.tokens.get(id).ok_or_else(|| Refusal::new(403, "bad token"))?;
        Ok(Reply::data(token.described(self.now())))
    }

    fn renew_token(&mut self, request: &Request, id: &str) -> Outcome {
        let now = self.now();
        let token = self.tokens.get_mut(id).ok_or_else(|| Refusal::new(403, "token not found"))?;
        if token.is_batch {
            return Err(Refusal::new(400, "batch tokens cannot be renewed"));
        }
        if !token.renewable {
            return Err(Refusal::new(400, "lease is not renewable"));
        }
        let warnings = token.renew(seconds(request.body.get("increment")).filter(|wanted| *wanted > 0), now);
        let warnings = warnings.into_iter().collect();
        Ok(Reply { status: 200, auth: Some(token.auth(now)), warnings, ..Reply::default() })
    }

    fn create_token(&mut self, request: &Request, own: &str, path: &str) -> Outcome {
        let now = self.now();
        let refuse = |words: &str| Err(Refusal::new(400, words));
        let parent = self.tokens.get(own).cloned().ok_or_else(Refusal::invalid_token)?;
        if parent.is_batch {
            return refuse("batch tokens cannot create more tokens");
        }
        if parent.uses > 0 {
            return refuse("restricted use token cannot generate child tokens");
        }
        let is_sudo = self.may(&parent, request, "sudo");
        let is_orphan = path == "create-orphan" || request.truth("no_parent").unwrap_or(false);
        let period = seconds(request.body.get("period")).unwrap_or(0);
        let custom = request.text("id");
        if !is_sudo && (is_orphan && path == "create" || period > 0 || custom.is_some()) {
            return refuse("root or sudo privileges required for that");
        }
        let is_batch = request.text("type").as_deref() == Some("batch");
        let uses = seconds(request.body.get("num_uses")).unwrap_or(0);
        if is_batch && (uses > 0 || period > 0 || custom.is_some()) {
            return refuse("batch tokens cannot have a use count, a period or an id of their own");
        }
        let wanted = request.words("policies");
        let has_default = parent.policies.iter().any(|policy| policy == "default");
        // Of a parent without `default` only those have it who may do everything here, and nobody who inherits.
        let adds_default =
            !wanted.is_empty() && (is_sudo || has_default) && !request.truth("no_default_policy").unwrap_or(false);
        let inherited = if wanted.is_empty() { parent.policies.clone() } else { wanted };
        let mut policies: BTreeSet<String> = inherited.into_iter().map(|policy| policy.to_lowercase()).collect();
        if !parent.is_root() && policies.iter().any(|p| p == "root") {
            return refuse("root tokens may not be created without parent token being root");
        }
        // Those of the parent's identity don't count here.
        if !is_sudo && !policies.iter().all(|policy| parent.policies.contains(policy)) {
            return refuse("child policies must be subset of parent");
        }
        if adds_default && !policies.contains("root") {
            policies.insert("default".to_owned());
        }
        let explicit_max = seconds(request.body.get("explicit_max_ttl")).unwrap_or(0);
        let asked = seconds(request.body.get("ttl")).unwrap_or(0);
        let is_root = policies.contains("root");
        let ttl = match (period, asked) {
            (0, 0) if is_root => 0,
            (0, 0) => MAX_TTL,
            (0, asked) => asked.min(MAX_TTL),
            (period, _) => period,
        };
        let meta = request.body.get("meta").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut token = Token {
            id: custom.unwrap_or_else(|| World::random(if is_batch { "hvb." } else { "hvs." })),
            accessor: if is_batch { String::new() } else { World::random("") },
            namespace: request.namespace.clone(),
            policies: policies.into_iter().collect(),
            identity_policies: if is_orphan { Vec::new() } else { parent.identity_policies.clone() },
            path: request.path.clone(),
            display_name: format!("token{}", request.text("display_name").map(|n| named(&n)).unwrap_or_default()),
            meta,
            uses,
            is_spent: false,
            parent: (!is_orphan).then(|| own.to_owned()),
            created: now,
            ttl,
            expires: 0,
            max_ttl: MAX_TTL,
            explicit_max,
            period,
            renewable: !is_batch && request.truth("renewable").unwrap_or(true) && ttl > 0,
            is_batch,
        };
        let warnings = if ttl > 0 { token.renew(None, now) } else { None };
        // A limit of its own ends a token that has no other end, too.
        if ttl == 0 && explicit_max > 0 {
            token.expires = now + explicit_max;
        }
        token.ttl = token.left(now);
        let auth = token.auth(now);
        self.tokens.insert(token.id.clone(), token);
        Ok(Reply { status: 200, auth: Some(auth), warnings: warnings.into_iter().collect(), ..Reply::default() })
    }
}

/// Writes a name as it is kept: letters, digits and `-`.
fn named(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("-{plain}").trim_end_matches('-').to_owned()
}
