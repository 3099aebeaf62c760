//! The endpoints that hand out tokens: `/token` (refresh tokens and signed assertions), `/v1/token` (token exchange),
//! `:generateAccessToken` and the metadata server.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

use super::answer::{Answered, Problem};
use super::iam::Held;
use super::{World, timestamp};
use crate::http::Message;

/// How long issued tokens live, in seconds.
const LIFETIME: i64 = 3600;
/// How far a signed time may be off, in seconds.
const SKEW: i64 = 300;

const METADATA: &str = "/computeMetadata/v1/";

impl World {
    /// Answers a path that is no API of names.
    pub(super) fn sign_in_endpoint(&mut self, request: &Message, path: &str) -> Option<Message> {
        match path {
            "/token" => Some(oauth_answer(self.oauth_token(request))),
            "/v1/token" => Some(oauth_answer(self.exchange(request))),
            _ => path.strip_prefix(METADATA).map(|rest| self.metadata(request, rest)),
        }
    }

    fn oauth_token(&mut self, request: &Message) -> Result<Value, OauthError> {
        let field = |name: &str| body_field(request, name);
        match field("grant_type").as_str() {
            "refresh_token" => {
                let known = self.accounts.refresh_tokens.get(&field("refresh_token"));
                let known = known.ok_or(("invalid_grant", "Token has been expired or revoked."))?;
                if known.client_id != field("client_id") || known.client_secret != field("client_secret") {
                    return Err(("invalid_client", "The provided client secret is invalid."));
                }
                let member = known.member.clone();
                Ok(self.issued(&member))
            }
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
                let claims = check_jwt(self, &field("assertion"))?;
                let meant = claims["aud"].as_str().unwrap_or_default();
                if !meant.ends_with("/token") {
                    return Err(("invalid_grant", "Invalid JWT: Failed audience check."));
                }
                let member = format!("serviceAccount:{}", claims["iss"].as_str().unwrap_or_default());
                Ok(self.issued(&member))
            }
            _ => Err(("unsupported_grant_type", "Invalid grant_type.")),
        }
    }

    fn exchange(&mut self, request: &Message) -> Result<Value, OauthError> {
        let field = |name: &str| body_field(request, name);
        if field("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" {
            return Err(("unsupported_grant_type", "Invalid grant_type."));
        }
        if field("requested_token_type") != "urn:ietf:params:oauth:token-type:access_token" {
            return Err(("invalid_request", "Invalid value for \"requestedTokenType\"."));
        }
        if field("subject_token_type") == "urn:ietf:params:oauth:token-type:access_token" {
            return self.cut_down(&field("subject_token"), &field("options"));
        }
        if field("scope").is_empty() {
            return Err(("invalid_scope", "The request needs a scope."));
        }
        let member = self.accounts.subject_tokens.get(&(field("audience"), field("subject_token"))).cloned();
        let member =
            member.ok_or(("invalid_grant", "The audience in ID Token does not match, or the token is not valid."))?;
        let mut issued = self.issued(&member);
        issued["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
        Ok(issued)
    }

    /// Cuts a token of Google's own down to an access boundary. It lives as long as the one that it was cut from.
    fn cut_down(&mut self, subject: &str, options: &str) -> Result<Value, OauthError> {
        let now = self.now();
        let held =
            self.accounts.tokens.get(subject).filter(|held| now < held.expires && held.boundary.is_none()).cloned();
        let held = held.ok_or(("invalid_grant", "The subject token is not a valid access token."))?;
        let boundary = boundary(options).ok_or(("invalid_request", "Invalid value for \"options\"."))?;
        let token = self.accounts.issue_held(Held { boundary: Some(boundary), ..held });
        Ok(json!({
            "access_token": token, "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }))
    }

    fn issued(&mut self, member: &str) -> Value {
        let expires = self.now() + LIFETIME;
        let token = self.accounts.issue(member, expires);
        let scope = "https://www.googleapis.com/auth/cloud-platform";
        json!({ "access_token": token, "expires_in": LIFETIME - 1, "scope": scope, "token_type": "Bearer" })
    }

    /// `projects/-/serviceAccounts/EMAIL:generateAccessToken`.
    pub(super) fn generate_access_token(&mut self, request: &Message, name: &str) -> Answered {
        let Some((name, verb)) = name.rsplit_once(':') else { return Err(Problem::unimplemented()) };
        if (request.method(), verb) != ("POST", "generateAccessToken") {
            return Err(Problem::unimplemented());
        }
        let caller = self.caller(request)?;
        let email = |name: &str| name.strip_prefix("projects/-/serviceAccounts/").map(str::to_owned);
        let target = email(name).ok_or_else(|| Problem::invalid("Invalid resource name."))?;
        let body = request.body_json();
        let scopes: Vec<String> = body["scope"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|scope| scope.as_str().map(str::to_owned))
            .collect();
        if scopes.is_empty() {
            return Err(Problem::invalid("Scope required."));
        }
        let lifetime = match &body["lifetime"] {
            Value::Null => LIFETIME,
            text => {
                let seconds = text.as_str().and_then(|text| text.strip_suffix('s')?.parse::<i64>().ok());
                seconds.ok_or_else(|| Problem::invalid("Invalid value at 'lifetime'."))?
            }
        };
        if !(1..=LIFETIME).contains(&lifetime) {
            return Err(Problem::invalid("The access token lifetime cannot exceed 3600 seconds."));
        }
        let mut chain = Vec::new();
        for delegate in body["delegates"].as_array().into_iter().flatten() {
            chain.push(delegate.as_str().and_then(email).ok_or_else(|| Problem::invalid("Invalid delegate."))?);
        }
        chain.push(target.clone());
        let mut acting = caller;
        for next in chain {
            let known = self.accounts.service_accounts.contains_key(&next);
            if !known || !self.may_impersonate(&acting, &next) {
                let resource = format!("projects/-/serviceAccounts/{next}");
                return Err(Problem::denied("iam.serviceAccounts.getAccessToken", &resource));
            }
            acting = format!("serviceAccount:{next}");
        }
        let expires = self.now() + lifetime;
        let held = Held { member: acting, expires, scopes: Some(scopes), boundary: None };
        let token = self.accounts.issue_held(held);
        Ok(json!({ "accessToken": token, "expireTime": timestamp(expires) }))
    }

    fn metadata(&mut self, request: &Message, rest: &str) -> Message {
        let flavor = ("metadata-flavor".to_owned(), "Google".to_owned());
        let refuse = |status: u16, words: &str| Message {
            headers: vec![("content-type".to_owned(), "text/html".to_owned())],
            body: words.as_bytes().to_vec(),
            ..Message::empty(status)
        };
        let Some(email) = self.accounts.metadata.clone() else { return refuse(404, "Not Found") };
        if request.header("metadata-flavor") != Some("Google") || request.header("x-forwarded-for").is_some() {
            return refuse(403, "Missing Metadata-Flavor:Google header.");
        }
        let text = |text: &str| Message { body: text.as_bytes().to_vec(), ..Message::empty(200) };
        let account = rest.strip_prefix("instance/service-accounts/").and_then(|rest| rest.split_once('/'));
        let mut answer = match (rest, account) {
            ("universe/universe-domain" | "universe/universe_domain", _) => text("googleapis.com"),
            ("project/project-id", _) => text("shop-dev"),
            (_, Some((who, ""))) if (who == "default" || who == email) && request.query("recursive").is_some() => {
                let scopes = ["https://www.googleapis.com/auth/cloud-platform"];
                Message::json(200, &json!({ "aliases": ["default"], "email": email, "scopes": scopes }))
            }
            (_, Some((who, "email"))) if who == "default" || who == email => text(&email),
            (_, Some((who, "token"))) if who == "default" || who == email => {
                let mut issued = self.issued(&format!("serviceAccount:{email}"));
                issued.as_object_mut().expect("an object").remove("scope");
                Message::json(200, &issued)
            }
            _ => refuse(404, "Not Found"),
        };
        answer.headers.push(flavor);
        answer
    }
}

/// Reads a Credential Access Boundary: one to ten rules, each of a bucket and of roles of Cloud Storage.
fn boundary(options: &str) -> Option<Value> {
    // A serialized object, which some clients escape once more.
    let plain = || percent_encoding::percent_decode_str(options).decode_utf8().ok()?.parse::<Value>().ok();
    let whole = options.parse::<Value>().ok().or_else(plain)?;
    let rules = whole["accessBoundary"]["accessBoundaryRules"].as_array()?;
    let is_role = |role: &Value| role.as_str().is_some_and(|role| role.starts_with("inRole:roles/storage."));
    let is_rule = |rule: &Value| {
        let bucket =
            rule["availableResource"].as_str()?.strip_prefix("//storage.googleapis.com/projects/_/buckets/")?;
        let roles = rule["availablePermissions"].as_array()?;
        let known = ["availableResource", "availablePermissions", "availabilityCondition"];
        let is_known = rule.as_object()?.keys().all(|key| known.contains(&key.as_str()));
        (!bucket.is_empty() && !bucket.contains('/') && !roles.is_empty() && roles.iter().all(is_role) && is_known)
            .then_some(())
    };
    let is_good = (1..=10).contains(&rules.len()) && rules.iter().all(|rule| is_rule(rule).is_some());
    is_good.then(|| whole["accessBoundary"].clone())
}

/// OAuth's own errors: a code and its sentence (RFC 6749 section 5.2).
type OauthError = (&'static str, &'static str);

fn oauth_answer(answered: Result<Value, OauthError>) -> Message {
    match answered {
        Ok(body) => Message::json(200, &body),
        Err((code, words)) => {
            let status = if code == "invalid_client" { 401 } else { 400 };
            Message::json(status, &json!({ "error": code, "error_description": words }))
        }
    }
}

/// Returns a field of a body that is a form or JSON; Google takes both.
fn body_field(request: &Message, name: &str) -> String {
    match request.body_json() {
        Value::Object(fields) => fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => request.form(name).unwrap_or_default(),
    }
}

/// Returns the claims of a JWT that a known key of its issuer signed and whose times fit.
pub(super) fn check_jwt(world: &World, token: &str) -> Result<Value, OauthError> {
    let bad = ("invalid_grant", "Invalid JWT Signature.");
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(("invalid_grant", "Bad Request"));
    };
    let read = |part: &str| -> Option<Value> { serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok() };
    let (header, claims) = (read(head).ok_or(bad)?, read(body).ok_or(bad)?);
    let email = claims["iss"].as_str().unwrap_or_default();
    let Some(keys) = world.accounts.service_accounts.get(email) else {
        return Err(("invalid_grant", "Invalid grant: account not found"));
    };
    let key = header["kid"].as_str().and_then(|id| keys.get(id)).ok_or(bad)?;
    let signature = BASE64URL.decode(signature).map_err(|_| bad)?;
    let signed = &token.as_bytes()[..head.len() + 1 + body.len()];
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(signed, &signature).map_err(|_| bad)?;
    let (issued, expires) = (claims["iat"].as_i64().unwrap_or(0), claims["exp"].as_i64().unwrap_or(0));
    let now = world.now();
    if header["alg"] != json!("RS256") {
        return Err(bad);
    }
    if issued > now + SKEW || expires < now - SKEW || expires - issued > LIFETIME + SKEW || expires <= issued {
        return Err((
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat \
             and exp values in the JWT claim.",
        ));
    }
    Ok(claims)
}
