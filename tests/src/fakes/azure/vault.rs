//! The secrets of one Key Vault: the data plane.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::{Secret, State, TENANT, Token, VAULT_AUDIENCE, Version, World};
use crate::http::Message;

/// What versions of the interface are known.
const VERSIONS: [&str; 9] = ["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"];
/// Longest value, in bytes.
const MAX_VALUE: usize = 25 * 1024;
/// Most entries of a page.
const PAGE: usize = 25;
/// How long a deleted secret can be recovered, in seconds.
const RECOVERABLE: u64 = 90 * 86_400;

/// A refusal: the status, the code, the text and the inner code.
struct Refusal(u16, &'static str, String, Option<&'static str>);

/// Answers one request.
pub(super) fn answer(world: &World, request: &Message) -> Message {
    let mut answer = decide(world, request);
    answer.headers.push(("Date".to_owned(), date(world.now())));
    answer
}

/// Writes a time as HTTP does (RFC 9110 section 5.6.7).
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {:02} {name} {year} {hour:02}:{minute:02}:{second:02} GMT", left + 1)
}

fn decide(world: &World, request: &Message) -> Message {
    match admit(world, request) {
        Err(refusal) => refusal,
        Ok(token) => match serve(world, request, &token) {
            Ok(answer) => answer,
            Err(Refusal(status, code, text, inner)) => {
                let mut error = json!({ "code": code, "message": text });
                if let Some(inner) = inner {
                    error["innererror"] = json!({ "code": inner });
                }
                Message::json(status, &json!({ "error": error }))
            }
        },
    }
}

/// Lets in who has a token that counts here, as long as the vault has time for it.
fn admit(world: &World, request: &Message) -> Result<Token, Message> {
    let mut state = world.state();
    if let Some((left, retry_after)) = &mut state.quota {
        if *left == 0 {
            let text = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached";
            let mut answer = Message::json(429, &json!({ "error": { "code": "Throttled", "message": text } }));
            answer.headers.extend(retry_after.map(|seconds| ("Retry-After".to_owned(), seconds.to_string())));
            return Err(answer);
        }
        *left -= 1;
    }
    let Some(sent) = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) else {
        return Err(challenge("AKV10000: Request is missing a Bearer or PoP token.", false));
    };
    let Some(token) = state.tokens.get(sent).cloned() else {
        return Err(challenge("[BearerReadAccessTokenFailed] Error validating token: 'S2S12005'.", true));
    };
    if state.now() >= token.expires {
        return Err(challenge("[TokenExpired] Error validating token: 'S2S12086'.", true));
    }
    if token.audience != VAULT_AUDIENCE {
        let found = &token.audience;
        return Err(challenge(
            &format!("AKV10022: Invalid audience. Expected {VAULT_AUDIENCE}, found: {found}."),
            true,
        ));
    }
    if token.tenant != TENANT {
        let found = &token.tenant;
        return Err(challenge(
            &format!(
                "AKV10032: Invalid issuer. Expected https://sts.windows.net/{TENANT}/, found https://sts.windows.net/{found}/."
            ),
            true,
        ));
    }
    Ok(token)
}

fn challenge(text: &str, had_token: bool) -> Message {
    let mut answer = Message::json(401, &json!({ "error": { "code": "Unauthorized", "message": text } }));
    let mut says =
        format!("Bearer authorization=\"https://login.microsoftonline.com/{TENANT}\", resource=\"{VAULT_AUDIENCE}\"");
    if had_token {
        says.push_str(", error=\"invalid_token\"");
    }
    answer.headers.push(("WWW-Authenticate".to_owned(), says));
    answer
}

fn serve(world: &World, request: &Message, token: &Token) -> Result<Message, Refusal> {
    let version = request.query("api-version").unwrap_or_default();
    if !VERSIONS.contains(&version.as_str()) {
        return Err(bad(format!(
            "The specified version ({version}) is not recognized. Consider using the latest supported version (7.6)."
        )));
    }
    if world.state().firewall {
        return Err(Refusal(
            403,
            "Forbidden",
            "Client address is not authorized and caller is not a trusted service.\r\nClient address: 203.0.113.7\r\nVault: shop;location=westeurope".to_owned(),
            Some("ForbiddenByFirewall"),
        ));
    }
    let path = percent_encoding::percent_decode_str(request.path()).decode_utf8_lossy().into_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let base = base(request);
    let mut state = world.state();
    let may = |state: &State, action: &str, secret: Option<&str>| permitted(state, token, action, secret);
    match (request.method(), parts.as_slice()) {
        ("GET", ["secrets"]) => {
            may(&state, "readMetadata/action", None)?;
            let live = state.secrets.values().filter(|secret| secret.deleted.is_none());
            let all = live
                .filter_map(|secret| Some(item(&format!("{base}/secrets/{}", secret.name), secret.versions.last()?)));
            page(request, &base, "/secrets", all.collect())
        }
        ("GET", ["secrets", name, "versions"]) => {
            may(&state, "readMetadata/action", Some(checked(name)?))?;
            let Some(secret) = live(&state, name) else { return page(request, &base, "", Vec::new()) };
            let mut all: Vec<_> = secret.versions.iter().collect();
            all.sort_by(|a, b| a.id.cmp(&b.id));
            let all =
                all.iter().map(|version| item(&format!("{base}/secrets/{}/{}", secret.name, version.id), version));
            page(request, &base, &format!("/secrets/{}/versions", secret.name), all.collect())
        }
        ("GET", ["secrets", name, rest @ ..]) if rest.len() < 2 => {
            may(&state, "getSecret/action", Some(checked(name)?))?;
            let (secret, version) = found(&state, name, rest.first().copied())?;
            if !version.enabled {
                let text = "Operation get is not allowed on a disabled secret.".to_owned();
                return Err(Refusal(403, "Forbidden", text, Some("SecretDisabled")));
            }
            Ok(Message::json(200, &bundle(&base, secret, version)))
        }
        ("PUT", ["secrets", name]) => {
            may(&state, "setSecret/action", Some(checked(name)?))?;
            if state.secrets.get(&name.to_ascii_lowercase()).is_some_and(|secret| secret.deleted.is_some()) {
                return Err(Refusal(
                    409,
                    "Conflict",
                    format!(
                        "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the secret can only be recovered or purged."
                    ),
                    Some("ObjectIsDeletedButRecoverable"),
                ));
            }
            let body = request.body_json();
            let Some(value) = body["value"].as_str() else {
                return Err(bad("Property value is missing or no text.".to_owned()));
            };
            if value.len() > MAX_VALUE {
                return Err(bad(format!("The value is longer than {MAX_VALUE} bytes.")));
            }
            drop(state);
            world.store(name, value, body["contentType"].as_str().map(str::to_owned), tags(&body["tags"]));
            let mut state = world.state();
            let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("it was just stored");
            secret.versions.last_mut().expect("with a version").change(&body["attributes"]);
            let secret = &*secret;
            Ok(Message::json(200, &bundle(&base, secret, secret.versions.last().expect("with a version"))))
        }
        ("PATCH", ["secrets", name, rest @ ..]) if rest.len() < 2 => {
            may(&state, "update/action", Some(checked(name)?))?;
            let id = found(&state, name, rest.first().copied())?.1.id.clone();
            let (body, now) = (request.body_json(), state.now());
            let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("it was just found");
            let version = secret.versions.iter_mut().find(|version| version.id == id).expect("it was just found");
            version.change(&body["attributes"]);
            version.updated = now;
            if body["tags"].is_object() {
                version.tags = tags(&body["tags"]);
            }
            if let Some(kind) = body["contentType"].as_str() {
                version.content_type = Some(kind.to_owned());
            }
            let mut answer = bundle(&base, &secret.clone(), &version_of(secret, &id));
            answer.as_object_mut().expect("a bundle is an object").remove("value");
            Ok(Message::json(200, &answer))
        }
        ("DELETE", ["secrets", name]) => {
            may(&state, "delete", Some(checked(name)?))?;
            found(&state, name, None)?;
            let now = state.now();
            let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("it was just found");
            secret.deleted = Some(now);
            Ok(Message::json(200, &deleted(&base, &secret.clone())))
        }
        ("GET", ["deletedsecrets"]) => {
            may(&state, "readMetadata/action", None)?;
            let all =
                state.secrets.values().filter(|secret| secret.deleted.is_some()).map(|secret| deleted(&base, secret));
            page(request, &base, "/deletedsecrets", all.collect())
        }
        ("GET", ["deletedsecrets", name]) => {
            may(&state, "readMetadata/action", Some(checked(name)?))?;
            Ok(Message::json(200, &deleted(&base, gone(&state, name)?)))
        }
        ("DELETE", ["deletedsecrets", name]) => {
            may(&state, "purge/action", Some(checked(name)?))?;
            gone(&state, name)?;
            state.secrets.remove(&name.to_ascii_lowercase());
            Ok(Message::empty(204))
        }
        ("POST", ["deletedsecrets", name, "recover"]) => {
            may(&state, "recover/action", Some(checked(name)?))?;
            gone(&state, name)?;
            let secret = state.secrets.get_mut(&name.to_ascii_lowercase()).expect("it was just found");
            secret.deleted = None;
            let mut answer = bundle(&base, secret, secret.versions.last().expect("with a version"));
            answer.as_object_mut().expect("a bundle is an object").remove("value");
            Ok(Message::json(200, &answer))
        }
        (method, _) => Err(bad(format!("Method {method} does not allow operation '{}'", parts.last().unwrap_or(&"")))),
    }
}

fn bad(text: String) -> Refusal {
    Refusal(400, "BadParameter", text, None)
}

/// Returns the address that the client knows this vault by.
fn base(request: &Message) -> String {
    let host = request.header("host").unwrap_or_default();
    let scheme = if host.starts_with("127.0.0.1") { "http" } else { "https" };
    format!("{scheme}://{host}")
}

fn checked(name: &str) -> Result<&str, Refusal> {
    let plain = (1..=127).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { Ok(name) } else { Err(bad(format!("The request URI contains an invalid name: {name}"))) }
}

fn permitted(state: &State, token: &Token, action: &str, secret: Option<&str>) -> Result<(), Refusal> {
    if state.allows(&token.oid, action, secret) {
        return Ok(());
    }
    let who = format!("appid={};oid={};iss=https://sts.windows.net/{}/", token.client_id, token.oid, token.tenant);
    if state.by_policy {
        let verb = match action {
            "getSecret/action" => "get",
            "setSecret/action" => "set",
            "readMetadata/action" => "list",
            other => other.trim_end_matches("/action"),
        };
        let text = format!(
            "The user, group or application '{who}' does not have secrets {verb} permission on key vault 'shop;location=westeurope'. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287"
        );
        return Err(Refusal(403, "Forbidden", text, Some("AccessDenied")));
    }
    let place = secret.map(|secret| format!("/secrets/{secret}")).unwrap_or_default();
    let text = format!(
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\nCaller: {who}\r\nAction: 'Microsoft.KeyVault/vaults/secrets/{action}'\r\nResource: '/subscriptions/6d9c2a4e-0000-4000-8000-1c2d3e4f5a6b/resourcegroups/shop/providers/microsoft.keyvault/vaults/shop{place}'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\nVault: shop;location=westeurope\r\n"
    );
    Err(Refusal(403, "Forbidden", text, Some("ForbiddenByRbac")))
}

fn live<'a>(state: &'a State, name: &str) -> Option<&'a Secret> {
    state.secrets.get(&name.to_ascii_lowercase()).filter(|secret| secret.deleted.is_none())
}

fn gone<'a>(state: &'a State, name: &str) -> Result<&'a Secret, Refusal> {
    let secret = state.secrets.get(&name.to_ascii_lowercase()).filter(|secret| secret.deleted.is_some());
    secret.ok_or_else(|| Refusal(404, "SecretNotFound", format!("Deleted Secret not found: {name}"), None))
}

fn found<'a>(state: &'a State, name: &str, version: Option<&str>) -> Result<(&'a Secret, &'a Version), Refusal> {
    let version = version.filter(|version| !version.is_empty());
    if version.is_some_and(|id| id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err(bad(format!("Method GET does not allow operation '{}'", version.unwrap_or_default())));
    }
    let found = live(state, name).and_then(|secret| {
        let version = match version {
            None => secret.versions.last(),
            Some(id) => secret.versions.iter().find(|known| known.id.eq_ignore_ascii_case(id)),
        };
        Some((secret, version?))
    });
    found.ok_or_else(|| {
        let id = version.map(|version| format!("{name}/{version}")).unwrap_or_else(|| name.to_owned());
        let text = format!("A secret with (name/id) {id} was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182");
        Refusal(404, "SecretNotFound", text, None)
    })
}

fn version_of(secret: &Secret, id: &str) -> Version {
    secret.versions.iter().find(|version| version.id == id).cloned().expect("it was just found")
}

fn tags(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Describes a version without its value.
fn item(id: &str, version: &Version) -> Value {
    let mut attributes = json!({
        "enabled": version.enabled, "created": version.created, "updated": version.updated,
        "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
    });
    if let Some(time) = version.not_before {
        attributes["nbf"] = json!(time);
    }
    if let Some(time) = version.expires {
        attributes["exp"] = json!(time);
    }
    let mut item = json!({ "id": id, "attributes": attributes });
    if !version.tags.is_empty() {
        item["tags"] = json!(version.tags);
    }
    if let Some(kind) = &version.content_type {
        item["contentType"] = json!(kind);
    }
    item
}

fn bundle(base: &str, secret: &Secret, version: &Version) -> Value {
    let mut bundle = item(&format!("{base}/secrets/{}/{}", secret.name, version.id), version);
    bundle["value"] = json!(version.value);
    bundle
}

fn deleted(base: &str, secret: &Secret) -> Value {
    let version = secret.versions.last().expect("a secret has a version");
    let at = secret.deleted.unwrap_or_default();
    let mut answer = item(&format!("{base}/secrets/{}/{}", secret.name, version.id), version);
    answer["recoveryId"] = json!(format!("{base}/deletedsecrets/{}", secret.name));
    answer["deletedDate"] = json!(at);
    answer["scheduledPurgeDate"] = json!(at + RECOVERABLE);
    answer
}

fn page(request: &Message, base: &str, path: &str, all: Vec<Value>) -> Result<Message, Refusal> {
    let most = match request.query("maxresults").map(|text| text.parse::<usize>()) {
        None => PAGE,
        Some(Ok(most)) if (1..=PAGE).contains(&most) => most,
        Some(_) => return Err(bad(format!("maxresults must be between 1 and {PAGE}"))),
    };
    let from = request.query("$skiptoken").and_then(|token| token.strip_prefix("at-")?.parse().ok()).unwrap_or(0);
    let rest: Vec<_> = all.into_iter().skip(from).collect();
    // Azure names its port even where it need not.
    let port = if base.starts_with("https://") { ":443" } else { "" };
    let version = request.query("api-version").unwrap_or_default();
    let next = (rest.len() > most)
        .then(|| format!("{base}{port}{path}?api-version={version}&$skiptoken=at-{}&maxresults={most}", from + most));
    let value: Vec<_> = rest.into_iter().take(most).collect();
    Ok(Message::json(200, &json!({ "value": value, "nextLink": next })))
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn a_date_is_written_as_http_does() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
