//! The metadata service of a virtual machine, as far as it gives tokens to the machine's identity.

use serde_json::json;

use super::world::{TENANT, World};
use crate::http::Message;

/// Answers one request.
pub(super) fn answer(world: &World, request: &Message) -> Message {
    if request.path() != "/metadata/identity/oauth2/token" || request.method() != "GET" {
        return refuse(404, "not_found", "Not found");
    }
    // The two checks that keep a browser and a proxy away from it.
    if request.header("metadata").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
        return refuse(400, "invalid_request", "Required metadata header not specified");
    }
    if request.header("x-forwarded-for").is_some() {
        return refuse(400, "invalid_request", "A forwarded request is not allowed");
    }
    if request.query("api-version").is_none_or(|version| version.as_str() < "2018-02-01") {
        return refuse(400, "bad_request_102", "Required parameter 'api-version' not specified or not supported");
    }
    let Some(resource) = request.query("resource") else {
        return refuse(400, "invalid_request", "Required query variable 'resource' is missing");
    };
    let mut state = world.state();
    let asked = request.query("client_id");
    let identity = state.machine_identity.clone().filter(|known| asked.as_ref().is_none_or(|asked| asked == known));
    let Some(client_id) = identity else { return refuse(400, "invalid_request", "Identity not found") };
    let Some(oid) = state.applications.get(&client_id).map(|known| known.oid.clone()) else {
        return refuse(400, "invalid_request", "Identity not found");
    };
    let audience = resource.trim_end_matches('/').to_owned();
    let token = state.issue(TENANT, &client_id, &oid, &audience);
    let (now, life) = (state.now(), state.token_life.as_secs());
    // Numbers come as strings here, unlike everywhere else.
    Message::json(
        200,
        &json!({
            "access_token": token, "client_id": client_id, "resource": resource, "token_type": "Bearer",
            "expires_in": life.to_string(), "ext_expires_in": life.to_string(),
            "expires_on": (now + life).to_string(), "not_before": now.to_string(),
        }),
    )
}

fn refuse(status: u16, error: &str, description: &str) -> Message {
    Message::json(status, &json!({ "error": error, "error_description": description }))
}
