//! Which call a request is, who may make it, and what stands around the answer.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::bodies;
use super::problem::{Problem, RATE_LIMITS, REST};
use super::world::{Installation, Limit, Repository, Token, World, holds, random};
use crate::http::Message;

/// The version of the API that is spoken.
const VERSION: &str = "2022-11-28";
/// How many calls an app or an installation has in an hour.
const USUAL: u64 = 5000;
const HOUR: i64 = 3600;

const APP: &str = "https://docs.github.com/rest/apps/apps#get-the-authenticated-app";
const INSTALLATION: &str = "https://docs.github.com/rest/apps/apps#get-an-installation-for-the-authenticated-app";
const REPOSITORIES: &str =
    "https://docs.github.com/rest/apps/installations#list-repositories-accessible-to-the-app-installation";
const REVOKE: &str = "https://docs.github.com/rest/apps/installations#revoke-an-installation-access-token";
const REPOSITORY: &str = "https://docs.github.com/rest/repos/repos#get-a-repository";
const CONTENTS: &str = "https://docs.github.com/rest/repos/contents#get-repository-content";

impl World {
    /// Answers one request.
    pub(super) fn answer(&mut self, request: &Message) -> Message {
        self.requests.push(format!("{} {}", request.method(), request.path()));
        let agent = request.header("user-agent").unwrap_or_default();
        if agent.is_empty() {
            return no_agent();
        }
        self.user_agents.insert(agent.to_owned());
        let mut who = String::new();
        let answered = self.call(request, &mut who).unwrap_or_else(Problem::into_message);
        self.around(answered, &who)
    }

    /// Makes the call of a request; `who` becomes whoever makes it.
    fn call(&mut self, request: &Message, who: &mut String) -> Result<Message, Problem> {
        if let Some(version) = request.header("x-github-api-version").filter(|version| *version != VERSION) {
            let words = format!(
                "The version you specified in the \"X-GitHub-API-Version\" request header, \"{version}\", is not a \
                 supported version. The following versions are currently supported: \"{VERSION}\" (most recent)."
            );
            return Err(Problem::new(400, words, REST));
        }
        let base = format!("http://{}", request.header("host").unwrap_or_default());
        let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        let parts: Vec<String> = request.path().trim_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match (request.method(), parts.as_slice()) {
            (_, ["app", ..] | [_, _, "installation"] | ["repos", _, _, "installation"]) => {
                let app = self.app(request)?;
                self.charge(who, format!("app {app}"))?;
                self.call_of_app(request, app, &base, &parts)
            }
            (_, ["installation", ..]) => {
                let id = self.bearer(request).map_err(|problem| self.or_forbidden(request, problem))?.1.id;
                self.charge(who, format!("installation ID {id}"))?;
                self.call_of_installation(request, &base, &parts)
            }
            ("GET", ["repos", organisation, name, rest @ ..]) => {
                let id = self.bearer(request)?.1.id;
                self.charge(who, format!("installation ID {id}"))?;
                self.call_of_repository(request, &base, (organisation, name), rest)
            }
            _ => Err(Problem::not_found(REST)),
        }
    }

    /// Returns the app that a request comes from. A JWT counts as `Bearer` only.
    fn app(&self, request: &Message) -> Result<u64, Problem> {
        let given = request.header("authorization").and_then(|given| given.split_once(' '));
        let jwt = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        self.signer(jwt.ok_or_else(Problem::no_jwt)?.1)
    }

    /// Says that an app is no installation, where a request comes from one.
    fn or_forbidden(&self, request: &Message, problem: Problem) -> Problem {
        let words = "You must authenticate with an installation access token in order to list repositories for an \
                     installation.";
        if self.app(request).is_ok() { Problem::new(403, words, REPOSITORIES) } else { problem }
    }

    fn call_of_app(&mut self, request: &Message, app: u64, base: &str, parts: &[&str]) -> Result<Message, Problem> {
        let registered = &self.apps[&app];
        let own: Vec<&Installation> = self.installations.values().filter(|known| known.app == app).collect();
        let shown = |known: &Installation| bodies::installation(base, known, registered);
        let one = |found: Option<&Installation>| {
            found.map(|known| Message::json(200, &shown(known))).ok_or_else(|| Problem::not_found(INSTALLATION))
        };
        let at = |organisation: &str| own.iter().find(|known| known.organisation.eq_ignore_ascii_case(organisation));
        match (request.method(), parts) {
            ("GET", ["app"]) => Ok(Message::json(200, &bodies::app(base, registered, own.len()))),
            ("GET", ["app", "installations"]) => {
                let (page, link) = paged(request, base, own.into_iter().map(shown).collect());
                Ok(with_link(Message::json(200, &Value::Array(page)), link))
            }
            ("GET", ["app", "installations", id]) => one(self.installation_of(app, id)),
            ("GET", ["orgs" | "users", organisation, "installation"]) => one(at(organisation).copied()),
            ("GET", ["repos", organisation, name, "installation"]) => {
                let has = |known: &&&Installation| {
                    self.repositories_of(known).iter().any(|known| known.name.eq_ignore_ascii_case(name))
                };
                one(at(organisation).filter(has).copied())
            }
            ("POST", ["app", "installations", id, "access_tokens"]) => self.make_token(request, app, base, id),
            _ => Err(Problem::not_found(APP)),
        }
    }

    /// Finds an installation of an app; those of others do not exist for it.
    pub(super) fn installation_of(&self, app: u64, id: &str) -> Option<&Installation> {
        self.installations.get(&id.parse().ok()?).filter(|known| known.app == app)
    }

    fn call_of_installation(&mut self, request: &Message, base: &str, parts: &[&str]) -> Result<Message, Problem> {
        match (request.method(), parts) {
            ("DELETE", ["installation", "token"]) => Ok(self.revoke(request)),
            ("GET", ["installation", "repositories"]) => {
                let (token, installation) = self.bearer(request)?;
                let all = self.reached(token, installation);
                let selection =
                    if token.repositories.is_some() || installation.selected.is_some() { "selected" } else { "all" };
                let total = all.len();
                let shown = all.into_iter().map(|known| bodies::repository(base, known)).collect();
                let (page, link) = paged(request, base, shown);
                let body = json!({ "total_count": total, "repository_selection": selection, "repositories": page });
                Ok(with_link(Message::json(200, &body), link))
            }
            _ => Err(Problem::not_found(REVOKE)),
        }
    }

    fn call_of_repository(
        &self,
        request: &Message,
        base: &str,
        (organisation, name): (&str, &str),
        rest: &[&str],
    ) -> Result<Message, Problem> {
        let (token, installation) = self.bearer(request)?;
        let page = if rest.is_empty() { REPOSITORY } else { CONTENTS };
        // A repository that a token does not reach is none at all, whatever its permissions.
        let found = self.find(organisation, name).ok_or_else(|| Problem::not_found(page))?;
        if !self.reached(token, installation).iter().any(|known| known.id == found.id) {
            return Err(Problem::not_found(page));
        }
        match rest {
            [] => Ok(Message::json(200, &bodies::full_repository(base, found))),
            ["contents", path @ ..] => {
                if !holds(&token.permissions, "contents", "read") {
                    return Err(Problem::not_accessible("contents=read", page));
                }
                contents(request, base, found, &path.join("/"))
            }
            _ => Err(Problem::not_found(REST)),
        }
    }

    /// Returns the repositories that a token reaches: those it was made for, as far as the installation still has them.
    fn reached(&self, token: &Token, installation: &Installation) -> Vec<&Repository> {
        let is_meant = |known: &&Repository| token.repositories.as_ref().is_none_or(|named| named.contains(&known.id));
        self.repositories_of(installation).into_iter().filter(is_meant).collect()
    }

    /// Counts a call of `name`, and refuses it where there were too many.
    fn charge(&mut self, who: &mut String, name: String) -> Result<(), Problem> {
        let now = self.now();
        who.clone_from(&name);
        let (used, reset) = self.calls.entry(name.clone()).or_insert((0, now + HOUR));
        if *reset <= now {
            (*used, *reset) = (0, now + HOUR);
        }
        match self.limit {
            Some(Limit::Secondary(wait)) => {
                let words = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
                Err(Problem::new(403, words, RATE_LIMITS).with("Retry-After", wait.as_secs()))
            }
            Some(Limit::Primary(most)) if *used >= most => {
                Err(Problem::new(403, format!("API rate limit exceeded for {name}."), RATE_LIMITS))
            }
            _ => {
                *used += 1;
                Ok(())
            }
        }
    }

    /// Puts the headers around an answer that every answer has.
    fn around(&self, mut answered: Message, who: &str) -> Message {
        let now = self.now();
        let limit = if let Some(Limit::Primary(most)) = self.limit { most } else { USUAL };
        let (used, reset) = self.calls.get(who).copied().unwrap_or((0, now + HOUR));
        let id = random(1).to_ascii_uppercase();
        let date = jiff::Timestamp::from_second(now).expect("not that late");
        let mut headers = vec![
            ("Date", date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            ("X-GitHub-Media-Type", "github.v3; format=json".to_owned()),
            ("X-GitHub-Api-Version-Selected", VERSION.to_owned()),
            ("X-GitHub-Request-Id", format!("{}:{}:{}", &id[..4], &id[4..10], &id[10..16])),
            ("X-RateLimit-Limit", limit.to_string()),
            ("X-RateLimit-Remaining", limit.saturating_sub(used).to_string()),
            ("X-RateLimit-Used", used.to_string()),
            ("X-RateLimit-Reset", reset.to_string()),
            ("X-RateLimit-Resource", "core".to_owned()),
        ];
        let is_json =
            answered.headers.iter().any(|(name, value)| name == "content-type" && value == "application/json");
        if is_json {
            answered.headers.retain(|(name, _)| name != "content-type");
            headers.push(("Content-Type", "application/json; charset=utf-8".to_owned()));
        }
        answered.headers.extend(headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
        answered
    }
}

/// Shows a file or a directory.
fn contents(request: &Message, base: &str, of: &Repository, path: &str) -> Result<Message, Problem> {
    if let Some(content) = of.files.get(path) {
        let wants_raw = request.header("accept").is_some_and(|accept| accept.contains("raw"));
        if wants_raw {
            let headers =
                vec![("content-type".to_owned(), "application/vnd.github.raw+json; charset=utf-8".to_owned())];
            return Ok(Message { headers, body: content.clone(), ..Message::empty(200) });
        }
        return Ok(Message::json(200, &bodies::file(base, of, path, content)));
    }
    let beginning = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = of.files.iter().filter_map(|(known, content)| Some((known.strip_prefix(&beginning)?, content)));
    let mut entries = Vec::new();
    let mut directories = BTreeSet::new();
    for (rest, content) in below {
        match rest.split_once('/') {
            None => entries.push(bodies::entry(base, of, &format!("{beginning}{rest}"), "file", Some(content))),
            Some((directory, _)) if directories.insert(directory) => {
                entries.push(bodies::entry(base, of, &format!("{beginning}{directory}"), "dir", None));
            }
            Some(_) => {}
        }
    }
    if entries.is_empty() { Err(Problem::not_found(CONTENTS)) } else { Ok(Message::json(200, &Value::Array(entries))) }
}

/// Returns the page that was asked for, and the header that leads to the others.
fn paged(request: &Message, base: &str, all: Vec<Value>) -> (Vec<Value>, Option<String>) {
    let number = |name: &str| request.query(name).and_then(|text| text.parse::<usize>().ok()).filter(|n| *n > 0);
    let (size, page) = (number("per_page").unwrap_or(30).min(100), number("page").unwrap_or(1));
    let last = all.len().div_ceil(size).max(1);
    let to = |page: usize, rel: &str| format!("<{base}{}?per_page={size}&page={page}>; rel=\"{rel}\"", request.path());
    let mut links = Vec::new();
    if page > 1 {
        links.extend([to(page - 1, "prev"), to(1, "first")]);
    }
    if page < last {
        links.extend([to(page + 1, "next"), to(last, "last")]);
    }
    let shown = all.into_iter().skip((page - 1) * size).take(size).collect();
    (shown, Some(links.join(", ")).filter(|links| !links.is_empty()))
}

fn with_link(mut message: Message, link: Option<String>) -> Message {
    message.headers.extend(link.map(|link| ("Link".to_owned(), link)));
    message
}

/// The answer to a request without a `User-Agent`, which comes from in front of the API.
fn no_agent() -> Message {
    let words = "Request forbidden by administrative rules. Please make sure your request has a User-Agent header \
                 (https://docs.github.com/en/rest/overview/resources-in-the-rest-api#user-agent-required). Check \
                 https://developer.github.com for other possible causes.\n";
    let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
    Message { headers, body: words.as_bytes().to_vec(), ..Message::empty(403) }
}
