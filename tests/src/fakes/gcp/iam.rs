//! Who may do what: roles, bindings with conditions, and the tokens by which a caller is known.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::World;
use super::answer::Problem;
use super::names::Place;
use super::sign_in::check_jwt;
use crate::http::Message;

/// The predefined roles that matter here, with their permissions in Secret Manager and IAM.
const ROLES: &[(&str, &[&str])] = &[
    ("roles/secretmanager.secretAccessor", &["secretmanager.versions.access"]),
    (
        "roles/secretmanager.viewer",
        &[
            "secretmanager.secrets.get",
            "secretmanager.secrets.getIamPolicy",
            "secretmanager.secrets.list",
            "secretmanager.versions.get",
            "secretmanager.versions.list",
        ],
    ),
    ("roles/secretmanager.secretVersionAdder", &["secretmanager.versions.add"]),
    (
        "roles/secretmanager.secretVersionManager",
        &[
            "secretmanager.versions.add",
            "secretmanager.versions.destroy",
            "secretmanager.versions.disable",
            "secretmanager.versions.enable",
            "secretmanager.versions.get",
            "secretmanager.versions.list",
        ],
    ),
    (
        "roles/secretmanager.admin",
        &[
            "secretmanager.secrets.create",
            "secretmanager.secrets.delete",
            "secretmanager.secrets.get",
            "secretmanager.secrets.getIamPolicy",
            "secretmanager.secrets.list",
            "secretmanager.secrets.setIamPolicy",
            "secretmanager.secrets.update",
            "secretmanager.versions.access",
            "secretmanager.versions.add",
            "secretmanager.versions.destroy",
            "secretmanager.versions.disable",
            "secretmanager.versions.enable",
            "secretmanager.versions.get",
            "secretmanager.versions.list",
            "secretmanager.locations.get",
            "secretmanager.locations.list",
        ],
    ),
    ("roles/iam.serviceAccountTokenCreator", &["iam.serviceAccounts.getAccessToken"]),
];

/// A role bound to members, perhaps under a condition.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    role: String,
    members: Vec<String>,
    condition: Option<Condition>,
}

/// An expression as a disjunction of conjunctions, with its own text and title.
#[derive(Clone, Debug)]
struct Condition {
    whole: Value,
    any: Vec<Vec<Term>>,
}

#[derive(Clone, Debug)]
struct Term {
    is_type: bool,
    test: Test,
    text: String,
}

#[derive(Clone, Copy, Debug)]
enum Test {
    Equals,
    StartsWith,
    EndsWith,
}

impl Binding {
    pub(super) fn new(role: &str, members: &[&str], expression: Option<&str>) -> Result<Self, String> {
        let condition = expression.map(|text| json!({ "title": "a condition", "expression": text }));
        Self::read(&json!({ "role": role, "members": members, "condition": condition }))
    }

    /// Reads one binding of a policy.
    fn read(binding: &Value) -> Result<Self, String> {
        let role = binding["role"].as_str().unwrap_or_default().to_owned();
        if !ROLES.iter().any(|(known, _)| *known == role) {
            return Err(format!("Role {role} is not supported for this resource."));
        }
        let members = binding["members"].as_array().into_iter().flatten();
        let members: Vec<_> = members.filter_map(Value::as_str).map(str::to_owned).collect();
        if let Some(bad) = members.iter().find(|member| !member.contains(':') && !member.starts_with("all")) {
            return Err(format!("Invalid member {bad}: it must be of the form `type:identifier`."));
        }
        let condition = match &binding["condition"] {
            Value::Null => None,
            whole => Some(Condition::read(whole)?),
        };
        Ok(Self { role, members, condition })
    }

    fn to_json(&self) -> Value {
        let mut json = json!({ "role": self.role, "members": self.members });
        if let Some(condition) = &self.condition {
            json["condition"] = condition.whole.clone();
        }
        json
    }

    fn gives(&self, member: &str, permission: &str, resource: (&str, &str)) -> bool {
        let permits = ROLES.iter().any(|(role, all)| *role == self.role && all.contains(&permission));
        let includes = self.members.iter().any(|known| known == member || known == "allAuthenticatedUsers");
        permits && includes && self.condition.as_ref().is_none_or(|condition| condition.holds(resource))
    }
}

impl Condition {
    fn read(whole: &Value) -> Result<Self, String> {
        let text = whole["expression"].as_str().ok_or("A condition has an expression.")?;
        if whole["title"].as_str().is_none_or(str::is_empty) {
            return Err("A condition has a title.".to_owned());
        }
        let any = text.split("||").map(|all| all.split("&&").map(Term::read).collect()).collect::<Result<_, _>>()?;
        Ok(Self { whole: whole.clone(), any })
    }

    fn holds(&self, resource: (&str, &str)) -> bool {
        self.any.iter().any(|all| all.iter().all(|term| term.holds(resource)))
    }
}

impl Term {
    /// Reads `resource.name.startsWith("...")`, `resource.name.endsWith("...")` or `resource.name == "..."`.
    fn read(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_start_matches('(').trim_end_matches(')').trim();
        let bad = || format!("The expression `{text}` is not understood.");
        let quoted = |rest: &str| {
            let inner = rest.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let inner = inner.or_else(|| rest.trim().strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')));
            inner.map(str::to_owned).ok_or_else(bad)
        };
        let (is_type, rest) = match (text.strip_prefix("resource.name"), text.strip_prefix("resource.type")) {
            (Some(rest), _) => (false, rest.trim_start()),
            (_, Some(rest)) => (true, rest.trim_start()),
            _ => return Err(bad()),
        };
        let calls = [(".startsWith(", Test::StartsWith), (".endsWith(", Test::EndsWith), ("==", Test::Equals)];
        let (rest, test) =
            calls.into_iter().find_map(|(word, test)| Some((rest.strip_prefix(word)?, test))).ok_or_else(bad)?;
        Ok(Self { is_type, test, text: quoted(rest)? })
    }

    fn holds(&self, (kind, name): (&str, &str)) -> bool {
        let of = if self.is_type { kind } else { name };
        match self.test {
            Test::Equals => of == self.text,
            Test::StartsWith => of.starts_with(&self.text),
            Test::EndsWith => of.ends_with(&self.text),
        }
    }
}

/// The identities that there are, and what they sign in with.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) tokens: HashMap<String, Held>,
    pub(super) service_accounts: HashMap<String, HashMap<String, Vec<u8>>>,
    pub(super) refresh_tokens: HashMap<String, RefreshToken>,
    pub(super) subject_tokens: HashMap<(String, String), String>,
    pub(super) metadata: Option<String>,
    issued: u64,
}

/// What a bearer token stands for.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) member: String,
    pub(super) expires: i64,
    /// None is every one.
    pub(super) scopes: Option<Vec<String>>,
    /// What it was cut down to, as the exchange was told.
    pub(super) boundary: Option<Value>,
}

/// What a refresh token stands for.
pub(super) struct RefreshToken {
    pub(super) member: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
}

impl Accounts {
    pub(super) fn add_token(&mut self, token: &str, member: &str, expires: i64) {
        let held = Held { member: member.to_owned(), expires, scopes: None, boundary: None };
        self.tokens.insert(token.to_owned(), held);
    }

    /// Makes a fresh token for `member`, good for everything.
    pub(super) fn issue(&mut self, member: &str, expires: i64) -> String {
        self.issue_held(Held { member: member.to_owned(), expires, scopes: None, boundary: None })
    }

    /// Makes a fresh token.
    pub(super) fn issue_held(&mut self, held: Held) -> String {
        self.issued += 1;
        let token = format!("ya29.issued-{}", self.issued);
        self.tokens.insert(token.clone(), held);
        token
    }

    pub(super) fn add_service_account(&mut self, email: &str, key: Option<(String, Vec<u8>)>) {
        self.service_accounts.entry(email.to_owned()).or_default().extend(key);
    }

    pub(super) fn add_refresh_token(&mut self, token: &str, member: &str, client_id: &str, client_secret: &str) {
        let (client_id, client_secret) = (client_id.to_owned(), client_secret.to_owned());
        let known = RefreshToken { member: member.to_owned(), client_id, client_secret };
        self.refresh_tokens.insert(token.to_owned(), known);
    }

    pub(super) fn revoke_refresh_token(&mut self, token: &str) {
        self.refresh_tokens.remove(token);
    }

    pub(super) fn add_subject_token(&mut self, audience: &str, subject_token: &str, member: &str) {
        self.subject_tokens.insert((audience.to_owned(), subject_token.to_owned()), member.to_owned());
    }

    pub(super) fn set_metadata(&mut self, email: &str) {
        self.metadata = Some(email.to_owned());
    }
}

impl World {
    /// Returns who calls: the member of the bearer token, or the service account whose key signed it.
    pub(super) fn caller(&self, request: &Message) -> Result<String, Problem> {
        let Some(authorization) = request.header("authorization") else {
            let known = self.anonymous.then(|| "anonymous".to_owned());
            return known.ok_or_else(|| Problem::unauthenticated("CREDENTIALS_MISSING"));
        };
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        match self.accounts.tokens.get(token) {
            Some(held) if self.now() < held.expires => {
                let is_for_all = |scope: &String| scope.ends_with("/auth/cloud-platform");
                let is_enough = held.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(is_for_all));
                // Other services than Cloud Storage honour no boundary; what they say to one is not known.
                let is_free = held.boundary.is_none();
                if is_enough && is_free { Ok(held.member.clone()) } else { Err(Problem::insufficient_scopes()) }
            }
            Some(_) => Err(Problem::unauthenticated("ACCESS_TOKEN_EXPIRED")),
            // A service account's own JWT is as good as a token when it is meant for this service.
            None if token.split('.').count() == 3 => {
                let claims = check_jwt(self, token).map_err(|_| Problem::unauthenticated("ACCESS_TOKEN_EXPIRED"))?;
                let meant = ["https://secretmanager.googleapis.com/", "https://iamcredentials.googleapis.com/"];
                let is_meant = claims["aud"].as_str().is_some_and(|aud| meant.contains(&aud))
                    || claims["scope"].as_str().is_some_and(|all| all.contains("/auth/cloud-platform"));
                match claims["iss"].as_str().filter(|_| is_meant) {
                    Some(email) => Ok(format!("serviceAccount:{email}")),
                    None => Err(Problem::unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED")),
                }
            }
            None => Err(Problem::unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED")),
        }
    }

    /// Checks that the caller may; `resource` is the name that conditions see, `place` where bindings stand.
    pub(super) fn authorize(
        &self,
        request: &Message,
        permission: &str,
        resource: &str,
        place: Option<&Place>,
    ) -> Result<(), Problem> {
        let caller = self.caller(request)?;
        if caller == "anonymous" {
            return Ok(());
        }
        let project = resource.split('/').take(2).collect::<Vec<_>>().join("/");
        let kind = match (resource.contains("/versions/"), resource.contains("/secrets/")) {
            (true, _) => "secretmanager.googleapis.com/SecretVersion",
            (_, true) => "secretmanager.googleapis.com/Secret",
            _ => "cloudresourcemanager.googleapis.com/Project",
        };
        let own = place.map(Place::name);
        let bound = [Some(project), own].into_iter().flatten().filter_map(|name| self.bindings.get(&name)).flatten();
        let allowed = bound.into_iter().any(|binding| binding.gives(&caller, permission, (kind, resource)));
        if allowed { Ok(()) } else { Err(Problem::denied(permission, resource)) }
    }

    /// Tells whether `member` may act as the service account `email`.
    pub(super) fn may_impersonate(&self, member: &str, email: &str) -> bool {
        let name = format!("projects/-/serviceAccounts/{email}");
        let bound = self.bindings.get(&format!("serviceAccounts/{email}")).into_iter().flatten();
        let kind = "iam.googleapis.com/ServiceAccount";
        member == "anonymous"
            || bound
                .into_iter()
                .any(|binding| binding.gives(member, "iam.serviceAccounts.getAccessToken", (kind, &name)))
    }

    pub(super) fn policy(&self, place: &Place) -> Value {
        let bindings: Vec<_> = self.bindings.get(&place.name()).into_iter().flatten().map(Binding::to_json).collect();
        let version = if bindings.iter().any(|binding| !binding["condition"].is_null()) { 3 } else { 1 };
        let mut policy = json!({ "version": version, "etag": "BwYAAAAAAAE=" });
        if !bindings.is_empty() {
            policy["bindings"] = json!(bindings);
        }
        policy
    }

    pub(super) fn set_policy(&mut self, place: &Place, policy: &Value) -> Result<Value, Problem> {
        let bindings = policy["bindings"].as_array().into_iter().flatten().map(Binding::read);
        let bindings = bindings.collect::<Result<Vec<_>, _>>().map_err(Problem::invalid)?;
        if bindings.iter().any(|binding| binding.condition.is_some()) && policy["version"] != json!(3) {
            return Err(Problem::invalid("Conditions can only be set on a policy of version 3."));
        }
        self.bindings.insert(place.name(), bindings);
        Ok(self.policy(place))
    }

    /// Returns those of `permissions` that the caller has on a secret.
    pub(super) fn tested(&self, request: &Message, place: &Place, permissions: &Value) -> Result<Value, Problem> {
        self.caller(request)?;
        let asked = permissions.as_array().into_iter().flatten().filter_map(Value::as_str);
        let held: Vec<_> =
            asked.filter(|one| self.authorize(request, one, &place.name(), Some(place)).is_ok()).collect();
        Ok(if held.is_empty() { json!({}) } else { json!({ "permissions": held }) })
    }
}
