//! Installation access tokens: made for an app, narrowed, spent and revoked.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::bodies::{self, timestamp};
use super::problem::{Problem, REST};
use super::world::{Installation, LEVELS, Permissions, Token, World, holds, random};
use crate::http::Message;

/// How long a token counts, in seconds.
const LIFE: i64 = 3600;
const PAGE: &str = "https://docs.github.com/rest/reference/apps#create-an-installation-access-token-for-an-app";

impl World {
    /// `POST /app/installations/{id}/access_tokens`.
    pub(super) fn make_token(&mut self, request: &Message, app: u64, base: &str, id: &str) -> Result<Message, Problem> {
        let installation = self.installation_of(app, id).ok_or_else(|| Problem::not_found(PAGE))?;
        if installation.suspended.is_some() {
            return Err(Problem::suspended(PAGE));
        }
        let asked = match request.body.as_slice() {
            [] => json!({}),
            body => serde_json::from_slice(body).map_err(|_| Problem::new(400, "Problems parsing JSON", PAGE))?,
        };
        if !asked.is_object() {
            return Err(Problem::new(400, "Body should be a JSON object", PAGE));
        }
        let repositories = self.narrowed(installation, &asked)?;
        let permissions = permitted(installation, &asked["permissions"])?;
        let selection = if repositories.is_some() || installation.selected.is_some() { "selected" } else { "all" };
        let expires = self.now() + LIFE;
        let mut answer = json!({
            "expires_at": timestamp(expires), "permissions": permissions, "repository_selection": selection,
        });
        if let Some(named) = &repositories {
            let named = named.iter().filter_map(|id| self.repositories.get(id));
            answer["repositories"] = named.map(|repository| bodies::repository(base, repository)).collect();
        }
        let is_long = match request.header("x-github-stateless-s2s-token") {
            Some("enabled") => true,
            Some("disabled") => false,
            _ => self.long_tokens,
        };
        let token = token(app, is_long);
        answer["token"] = json!(token);
        let known = Token { installation: installation.id, permissions, repositories, expires };
        self.tokens.insert(token.clone(), known);
        self.issued.push(token);
        Ok(Message::json(201, &answer))
    }

    /// Returns the repositories that were asked for, by name or id; none is all that the installation has.
    fn narrowed(&self, installation: &Installation, asked: &Value) -> Result<Option<BTreeSet<u64>>, Problem> {
        let all = self.repositories_of(installation);
        let listed = |name: &str| asked[name].as_array().cloned().unwrap_or_default();
        let by_name = listed("repositories").into_iter().map(|name| {
            let is = |name: &str| all.iter().find(|known| known.name.eq_ignore_ascii_case(name));
            name.as_str().and_then(is)
        });
        let by_id = listed("repository_ids").into_iter().map(|id| all.iter().find(|known| json!(known.id) == id));
        let found: Option<BTreeSet<u64>> = by_name.chain(by_id).map(|found| found.map(|known| known.id)).collect();
        let found = found.ok_or_else(|| {
            Problem::new(
                422,
                "There is at least one repository that does not exist or is not accessible to the parent installation.",
                PAGE,
            )
        })?;
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    /// Returns the token of a request and the installation that it is of.
    pub(super) fn bearer(&self, request: &Message) -> Result<(&Token, &Installation), Problem> {
        let Some(given) = request.header("authorization") else {
            return Err(Problem::new(401, "Requires authentication", REST));
        };
        let value = given
            .split_once(' ')
            .filter(|(scheme, _)| ["bearer", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known)));
        let (_, value) = value.ok_or_else(Problem::bad_credentials)?;
        let token = self.tokens.get(value).filter(|token| self.now() < token.expires);
        let token = token.ok_or_else(Problem::bad_credentials)?;
        let installation = self.installations.get(&token.installation).ok_or_else(Problem::bad_credentials)?;
        if installation.suspended.is_some() {
            return Err(Problem::suspended(REST));
        }
        Ok((token, installation))
    }

    /// `DELETE /installation/token`: the one that the request came with.
    pub(super) fn revoke(&mut self, request: &Message) -> Message {
        let value = request.header("authorization").and_then(|given| given.split_once(' '));
        if let Some((_, value)) = value {
            self.tokens.remove(value);
        }
        Message::empty(204)
    }
}

fn permitted(installation: &Installation, asked: &Value) -> Result<Permissions, Problem> {
    let has = &installation.permissions;
    let asked = asked.as_object().filter(|asked| !asked.is_empty());
    let Some(asked) = asked else { return Ok(has.clone()) };
    let refuse = |words: &str| Err(Problem::new(422, words, PAGE));
    let mut permitted = Permissions::new();
    for (name, level) in asked {
        let level = level.as_str().unwrap_or_default();
        if !has.contains_key(name) || !LEVELS.contains(&level) {
            return refuse("The permissions requested are not granted to this installation.");
        }
        if !holds(has, name, level) {
            return refuse("The level of access for permissions requested are not granted to this installation.");
        }
        permitted.insert(name.clone(), level.to_owned());
    }
    // Nobody asks for it and every token has it.
    permitted.entry("metadata".to_owned()).or_insert_with(|| "read".to_owned());
    Ok(permitted)
}

/// Makes a token that looks like one of GitHub's, whose contents nobody may rely on.
fn token(app: u64, is_long: bool) -> String {
    if !is_long {
        return format!("ghs_{}", &random(2)[..36]);
    }
    let part = |text: &str| BASE64URL.encode(text);
    let body = json!({ "jti": random(1), "app": app, "kind": "installation" }).to_string();
    format!("ghs_{app}_{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(&body), part(&random(8)))
}
