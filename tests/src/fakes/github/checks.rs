//! What no client of others does: JWTs that don't count, time that passes, limits, and what an organisation takes away.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64URL};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use serde_json::{Value, json};

use super::{App, Github, Limit};
use crate::http::{self, Message};

const AGENT: (&str, &str) = ("user-agent", "check");
const MAY_READ: &[(&str, &str)] = &[("contents", "read")];

fn now(ahead: i64) -> i64 {
    jiff::Timestamp::now().as_second() + ahead
}

fn signed(app: &App, head: &Value, claims: &Value) -> String {
    let body: String = app.private_key.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = KeyPair::from_der(&BASE64_STANDARD.decode(body).expect("base64")).expect("a key");
    let part = |json: &Value| BASE64URL.encode(json.to_string());
    let text = format!("{}.{}", part(head), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).expect("it signs");
    format!("{text}.{}", BASE64URL.encode(signature))
}

fn jwt(app: &App, claims: &Value) -> String {
    signed(app, &json!({ "alg": "RS256", "typ": "JWT" }), claims)
}

/// A JWT of an app that counts.
fn good(app: &App) -> String {
    jwt(app, &json!({ "iss": app.id, "iat": now(-60), "exp": now(300) }))
}

fn ask(github: &Github, call: &str, bearer: &str, body: &Value) -> Message {
    let authorization = format!("Bearer {bearer}");
    let headers = [("host", &*github.address()), AGENT, ("authorization", &authorization)];
    http::call(&github.address(), call, &headers, body)
}

fn message(answer: &Message) -> (u16, String) {
    (answer.status(), answer.body_json()["message"].as_str().unwrap_or_default().to_owned())
}

fn token(github: &Github, app: &App, installation: u64) -> String {
    let call = format!("POST /app/installations/{installation}/access_tokens");
    let made = ask(github, &call, &good(app), &json!({ "repositories": ["web"] }));
    assert_eq!(made.status(), 201, "{made:?}");
    made.body_json()["token"].as_str().expect("a token").to_owned()
}

fn set_up() -> (Github, App, u64) {
    let github = Github::start();
    let app = github.register("broker-dev", MAY_READ);
    let installation = github.install(&app, "shop", &["web", "api"]);
    github.put("shop", "web", "README.md", b"# web\n");
    (github, app, installation)
}

#[test]
fn a_jwt_counts_only_signed_by_the_apps_key_and_within_ten_minutes() {
    let (github, app, _) = set_up();
    let asked = |jwt: &str| message(&ask(&github, "GET /app", jwt, &Value::Null));
    let claims = |iss: Value, iat: i64, exp: i64| json!({ "iss": iss, "iat": now(iat), "exp": now(exp) });
    let undecodable = (401, "A JSON web token could not be decoded".to_owned());
    for iss in [json!(app.id), json!(app.id.to_string()), json!(app.client_id)] {
        assert_eq!(asked(&jwt(&app, &claims(iss.clone(), -60, 590))).0, 200, "{iss}");
    }
    for (iss, iat, exp, status, word) in [
        (json!(app.id), -60, 630, 401, "too far in the future"),
        (json!(app.id), -90, -30, 401, "must be a numeric value"),
        (json!(app.id), 30, 300, 401, "'Issued at' claim ('iat') must be an Integer"),
        (json!(app.id + 1), -60, 300, 404, "Integration not found"),
        (json!("Iv23liNOBODY"), -60, 300, 401, "'Issuer' claim ('iss') must be an Integer"),
        (Value::Null, -60, 300, 401, "Missing 'issuer' claim ('iss') in assertion"),
    ] {
        let (got, words) = asked(&jwt(&app, &claims(iss, iat, exp)));
        assert!(got == status && words.contains(word), "{got} {words}, not {status} {word}");
    }
    let plain = json!({ "alg": "none" });
    let good_claims = claims(json!(app.id), -60, 300);
    assert_eq!(asked(&signed(&app, &plain, &good_claims)), undecodable);
    let other = github.register("other", &[]);
    assert_eq!(asked(&jwt(&other, &good_claims)), undecodable, "signed by another app's key");
    assert_eq!(asked("nonsense"), undecodable);
    let as_token = [AGENT, ("authorization", &*format!("token {}", good(&app)))];
    assert_eq!(message(&http::call(&github.address(), "GET /app", &as_token, &Value::Null)), undecodable);
    let fresh = github.rotate_key(&app);
    assert_eq!(asked(&good(&app)), undecodable, "signed by the former key");
    assert_eq!(asked(&good(&fresh)).0, 200);
}

#[test]
fn a_token_ends_after_an_hour_or_with_its_installation() {
    let (github, app, installation) = set_up();
    let read = |token: &str| message(&ask(&github, "GET /repos/shop/web/contents/README.md", token, &Value::Null));
    let (revoked, kept) = (token(&github, &app, installation), token(&github, &app, installation));
    assert_eq!(github.alive_tokens(), [revoked.clone(), kept.clone()]);
    assert_eq!(ask(&github, "DELETE /installation/token", &revoked, &Value::Null).status(), 204);
    assert!(!github.is_alive(&revoked) && github.is_alive(&kept));
    assert_eq!(read(&revoked), (401, "Bad credentials".to_owned()));
    let again = ask(&github, "DELETE /installation/token", &revoked, &Value::Null);
    assert_eq!(message(&again), (401, "Bad credentials".to_owned()));

    github.suspend(installation, true);
    assert_eq!(read(&kept), (403, "This installation has been suspended".to_owned()));
    github.suspend(installation, false);
    assert_eq!(read(&kept).0, 200);
    github.deselect(installation, "shop", "web");
    assert_eq!(read(&kept), (404, "Not Found".to_owned()));
    github.advance(Duration::from_secs(3601));
    assert_eq!(read(&kept), (401, "Bad credentials".to_owned()));
    assert_eq!((github.alive_tokens(), github.issued_tokens()), (Vec::new(), vec![revoked, kept]));

    let (github, app, installation) = set_up();
    let token = token(&github, &app, installation);
    github.uninstall(installation);
    assert!(!github.is_alive(&token));
    let call = format!("POST /app/installations/{installation}/access_tokens");
    assert_eq!(message(&ask(&github, &call, &good(&app), &Value::Null)), (404, "Not Found".to_owned()));
    assert_eq!(github.count(&call), 2);
}

#[test]
fn an_installation_has_what_was_granted_and_belongs_to_one_app() {
    let (github, app, installation) = set_up();
    github.grant(installation, &[("issues", "read")]);
    let call = format!("POST /app/installations/{installation}/access_tokens");
    let body = json!({ "permissions": { "contents": "read" } });
    assert_eq!(ask(&github, &call, &good(&app), &body).status(), 422, "asked for by the app and not granted");
    let all = ask(&github, &call, &good(&app), &Value::Null).body_json();
    assert_eq!(all["permissions"], json!({ "issues": "read", "metadata": "read" }));
    assert!(all["repositories"].is_null(), "named only where they were asked for");
    let other = github.register("other", MAY_READ);
    assert_eq!(ask(&github, &call, &good(&other), &Value::Null).status(), 404);
    let with_jwt = ask(&github, "GET /installation/repositories", &good(&app), &Value::Null);
    assert_eq!(with_jwt.status(), 403, "{with_jwt:?}");
    github.use_long_tokens(true);
    assert!(token(&github, &app, installation).len() > 400);
}

#[test]
fn a_limit_says_when_to_come_back() {
    let (github, app, installation) = set_up();
    github.set_limit(Some(Limit::Primary(2)));
    let token = token(&github, &app, installation);
    let read = || ask(&github, "GET /repos/shop/web", &token, &Value::Null);
    assert_eq!(read().header("x-ratelimit-remaining"), Some("1"));
    assert_eq!(read().status(), 200);
    let refused = read();
    assert_eq!(message(&refused), (403, format!("API rate limit exceeded for installation ID {installation}.")));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    let reset: i64 = refused.header("x-ratelimit-reset").and_then(|text| text.parse().ok()).expect("a time");
    assert!((3500..=3600).contains(&(reset - now(0))), "{reset}");
    github.set_limit(Some(Limit::Secondary(Duration::from_secs(7))));
    assert_eq!((read().status(), read().header("retry-after")), (403, Some("7")));
    github.set_limit(None);
    assert_eq!(read().status(), 200);
}

#[test]
fn a_request_needs_an_agent_and_a_version_that_is_spoken() {
    let (github, app, _) = set_up();
    let authorization = format!("Bearer {}", good(&app));
    let call = |headers: &[(&str, &str)]| {
        let headers = [headers, &[("authorization", &*authorization)]].concat();
        http::call(&github.address(), "GET /app", &headers, &Value::Null)
    };
    let refused = call(&[]);
    assert_eq!((refused.status(), refused.header("content-type")), (403, Some("text/html")));
    let (status, words) = message(&call(&[AGENT, ("x-github-api-version", "v3")]));
    assert!(status == 400 && words.contains("\"v3\", is not a supported version"), "{status} {words}");
    assert_eq!(call(&[AGENT, ("x-github-api-version", "2022-11-28")]).status(), 200);
    assert_eq!(github.user_agents(), ["check"]);
}
