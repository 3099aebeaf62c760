//! The token endpoint of Microsoft Entra ID, version 2.0: client credentials, device code, refresh.

use serde_json::{Value, json};

use super::world::{Device, Refresh, State, TENANT, World, claims, is_for_exchange, jwt, uuid};
use crate::http::Message;

/// How long a device code may be answered, in seconds.
const DEVICE_LIFE: u64 = 900;
/// How long a refresh token lives that nobody uses, in seconds.
const REFRESH_LIFE: u64 = 90 * 86_400;
/// The resources of this tenant: a vault, and another one whose tokens are no good at a vault.
const RESOURCES: [&str; 2] = ["https://vault.azure.net", "https://management.azure.com"];

/// A refusal: the status, OAuth's word, the code `AADSTS...` and the text.
struct Refusal(u16, &'static str, u32, String);

/// Answers one request.
pub(super) fn answer(world: &World, request: &Message) -> Message {
    let path = request.path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let done = match (request.method(), parts.as_slice()) {
        ("GET", ["common", "discovery", "instance"]) => return discovery(),
        ("GET", [tenant, "v2.0", ".well-known", "openid-configuration"]) => return configuration(tenant),
        ("POST", [tenant, "oauth2", "v2.0", "token"]) => {
            own_tenant(tenant).and_then(|tenant| token(&mut world.state(), tenant, request))
        }
        ("POST", [tenant, "oauth2", "v2.0", "devicecode"]) => {
            own_tenant(tenant).and_then(|_| device_code(&mut world.state(), request))
        }
        _ => return Message::empty(404),
    };
    match done {
        Ok(body) => Message::json(200, &body),
        Err(Refusal(status, error, code, text)) => Message::json(
            status,
            &json!({
                "error": error, "error_description": format!("AADSTS{code}: {text} Trace ID: {} Correlation ID: {} Timestamp: 2026-01-01 00:00:00Z", uuid(), uuid()),
                "error_codes": [code], "timestamp": "2026-01-01 00:00:00Z", "trace_id": uuid(), "correlation_id": uuid(),
                "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
            }),
        ),
    }
}

/// What a client asks before it trusts a login authority.
fn discovery() -> Message {
    let host = "login.microsoftonline.com";
    let endpoint = format!("https://{host}/{TENANT}/v2.0/.well-known/openid-configuration");
    let hosts = json!([{ "preferred_network": host, "preferred_cache": "login.windows.net",
        "aliases": [host, "login.windows.net", "login.microsoft.com", "sts.windows.net"] }]);
    Message::json(200, &json!({ "tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": hosts }))
}

fn configuration(tenant: &str) -> Message {
    let base = format!("https://login.microsoftonline.com/{tenant}");
    Message::json(
        200,
        &json!({
            "issuer": format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        }),
    )
}

/// Returns the tenant that a request is for. `organizations` is whichever the person belongs to.
fn own_tenant(tenant: &str) -> Result<&'static str, Refusal> {
    if tenant == TENANT || tenant == "organizations" {
        return Ok(TENANT);
    }
    Err(Refusal(
        400,
        "invalid_request",
        90002,
        format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."),
    ))
}

fn needed(request: &Message, name: &str) -> Result<String, Refusal> {
    request.form(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        Refusal(
            400,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{name}'."),
        )
    })
}

fn token(state: &mut State, tenant: &str, request: &Message) -> Result<Value, Refusal> {
    let client_id = needed(request, "client_id")?;
    match needed(request, "grant_type")?.as_str() {
        "client_credentials" => client_credentials(state, tenant, &client_id, request),
        "urn:ietf:params:oauth:grant-type:device_code" => redeem(state, tenant, &client_id, request),
        "refresh_token" => refresh(state, tenant, &client_id, request),
        other => {
            Err(Refusal(400, "unsupported_grant_type", 70003, format!("The grant type '{other}' is not supported.")))
        }
    }
}

fn client_credentials(state: &mut State, tenant: &str, client_id: &str, request: &Message) -> Result<Value, Refusal> {
    let scope = needed(request, "scope")?;
    let now = state.now();
    let Some(known) = state.applications.get(client_id).cloned() else {
        return Err(Refusal(
            400,
            "unauthorized_client",
            700_016,
            format!("Application with identifier '{client_id}' was not found in the directory '{tenant}'."),
        ));
    };
    let refuse = |code, text: &str| Err(Refusal(401, "invalid_client", code, text.to_owned()));
    match (request.form("client_secret"), request.form("client_assertion")) {
        (Some(secret), _) if known.secret != secret => {
            return refuse(
                7_000_215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.",
            );
        }
        (Some(_), _) if known.secret_ends.is_some_and(|end| now >= end) => {
            return refuse(7_000_222, "The provided client secret keys are expired.");
        }
        (Some(_), _) => {}
        (None, Some(assertion)) => {
            let kind = needed(request, "client_assertion_type")?;
            let read = claims(&assertion).filter(|_| kind == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            let Some(read) = read else { return refuse(50027, "JWT token is invalid or malformed.") };
            let is = |name: &str, value: &str| read[name] == value;
            if !known.federated.iter().any(|(issuer, subject)| is("iss", issuer) && is("sub", subject)) {
                return refuse(700_213, "No matching federated identity record found for presented assertion subject.");
            }
            if !is_for_exchange(&read) {
                return refuse(
                    700_212,
                    "No matching federated identity record found for presented assertion audience.",
                );
            }
            if read["exp"].as_u64().is_none_or(|end| now >= end) {
                return refuse(700_024, "Client assertion is not within its valid time range.");
            }
        }
        (None, None) => {
            return refuse(
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            );
        }
    }
    let Some(resource) = scope.strip_suffix("/.default") else {
        return Err(Refusal(
            400,
            "invalid_scope",
            1_002_012,
            format!("The provided value for scope {scope} is not valid."),
        ));
    };
    let audience = own_resource(resource)?;
    let access = state.issue(tenant, client_id, &known.oid, audience);
    let life = state.token_life.as_secs();
    Ok(json!({ "token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": access }))
}

fn own_resource(resource: &str) -> Result<&'static str, Refusal> {
    RESOURCES.into_iter().find(|known| *known == resource.trim_end_matches('/')).ok_or_else(|| {
        Refusal(
            400,
            "invalid_resource",
            500_011,
            format!("The resource principal named {resource} was not found in the tenant."),
        )
    })
}

/// Returns the resource of a person's scopes, which come with OpenID's own.
fn delegated(scope: &str) -> Result<&'static str, Refusal> {
    let own = ["openid", "profile", "offline_access", "email"];
    let named = scope.split(' ').find(|word| !word.is_empty() && !own.contains(word));
    let resource = named.and_then(|word| word.rsplit_once('/')).map(|(resource, _)| resource);
    resource
        .ok_or_else(|| Refusal(400, "invalid_scope", 70011, "The provided value for scope is not valid.".to_owned()))
        .and_then(own_resource)
}

fn device_code(state: &mut State, request: &Message) -> Result<Value, Refusal> {
    let (client_id, scope) = (needed(request, "client_id")?, needed(request, "scope")?);
    delegated(&scope)?;
    let (code, user_code) = (uuid(), uuid()[..9].replace('-', "").to_uppercase());
    let expires = state.now() + DEVICE_LIFE;
    let device = Device { client_id, scope, expires, last_poll: None, polls: 0, answer: None };
    state.devices.push((code.clone(), device));
    let address = "https://microsoft.com/devicelogin";
    Ok(json!({
        "user_code": user_code, "device_code": code, "verification_uri": address, "expires_in": DEVICE_LIFE,
        "interval": state.device_interval.as_secs(),
        "message": format!("To sign in, use a web browser to open the page {address} and enter the code {user_code} to authenticate."),
    }))
}

fn redeem(state: &mut State, tenant: &str, client_id: &str, request: &Message) -> Result<Value, Refusal> {
    let code = needed(request, "device_code")?;
    let (now, interval, consent) = (state.now(), state.device_interval.as_secs(), state.consent.clone());
    let Some(at) = state.devices.iter().position(|(known, _)| *known == code) else {
        return Err(Refusal(400, "bad_verification_code", 70019, "Verification code expired or unknown.".to_owned()));
    };
    let device = &mut state.devices[at].1;
    if device.client_id != client_id {
        return Err(Refusal(400, "invalid_grant", 700_005, "The code was issued to another application.".to_owned()));
    }
    if now >= device.expires {
        return Err(Refusal(
            400,
            "expired_token",
            70020,
            "The provided value for the input parameter 'device_code' is not valid. This device code has expired."
                .to_owned(),
        ));
    }
    let is_early = device.last_poll.is_some_and(|last| now < last + interval);
    device.last_poll = Some(now);
    device.polls += 1;
    if is_early {
        return Err(Refusal(400, "slow_down", 70016, "The client polls too fast.".to_owned()));
    }
    if let Some((polls, oid)) = consent.filter(|(polls, _)| device.polls > *polls) {
        let _ = polls;
        device.answer = Some(Some(oid));
    }
    match device.answer.clone() {
        None => Err(Refusal(
            400,
            "authorization_pending",
            70016,
            "OAuth 2.0 device flow error. Authorization is pending. Continue polling.".to_owned(),
        )),
        Some(None) => Err(Refusal(
            400,
            "authorization_declined",
            70018,
            "The end user denied the authorization request.".to_owned(),
        )),
        Some(Some(oid)) => {
            let scope = device.scope.clone();
            state.devices.remove(at);
            signed_in(state, tenant, client_id, &oid, &scope)
        }
    }
}

fn refresh(state: &mut State, tenant: &str, client_id: &str, request: &Message) -> Result<Value, Refusal> {
    let token = needed(request, "refresh_token")?;
    let scope = request.form("scope").unwrap_or_else(|| "https://vault.azure.net/.default offline_access".to_owned());
    let gone = |code, text: &str| Err(Refusal(400, "invalid_grant", code, text.to_owned()));
    match state.refresh_tokens.get(&token) {
        None => gone(50173, "The provided grant has expired due to it being revoked, a fresh auth token is needed."),
        Some(known) if known.client_id != client_id => {
            gone(700_005, "The refresh token was issued to another application.")
        }
        Some(known) if state.now() >= known.expires => {
            gone(700_082, "The refresh token has expired due to inactivity.")
        }
        Some(known) => {
            let oid = known.oid.clone();
            signed_in(state, tenant, client_id, &oid, &scope)
        }
    }
}

/// What a person's sign-in yields: tokens for the resource, and what OpenID says of the person.
fn signed_in(state: &mut State, tenant: &str, client_id: &str, oid: &str, scope: &str) -> Result<Value, Refusal> {
    let audience = delegated(scope)?;
    let access = state.issue(tenant, client_id, oid, audience);
    let (now, life) = (state.now(), state.token_life.as_secs());
    let mut answer = json!({
        "token_type": "Bearer", "scope": format!("{audience}/user_impersonation {audience}/.default"),
        "expires_in": life, "ext_expires_in": life, "access_token": access,
    });
    if scope.split(' ').any(|word| word == "offline_access") {
        let token = format!("0.AX{}", uuid().replace('-', ""));
        let known = Refresh { client_id: client_id.to_owned(), oid: oid.to_owned(), expires: now + REFRESH_LIFE };
        state.refresh_tokens.insert(token.clone(), known);
        answer["refresh_token"] = json!(token);
    }
    if scope.split(' ').any(|word| word == "openid") {
        let name = state.people.get(oid).cloned().unwrap_or_default();
        answer["id_token"] = json!(jwt(&json!({
            "aud": client_id, "iss": format!("https://login.microsoftonline.com/{tenant}/v2.0"), "tid": tenant, "oid": oid,
            "sub": oid, "preferred_username": name, "ver": "2.0", "iat": now, "nbf": now, "exp": now + life,
        })));
        let info = json!({ "uid": oid, "utid": tenant }).to_string();
        answer["client_info"] = json!(base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, info));
    }
    Ok(answer)
}
