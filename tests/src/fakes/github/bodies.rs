//! What answers look like: apps, installations, repositories and their contents.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Map, Value, json};

use super::world::{Installation, Registered, Repository};

/// What stands after a repository's own address in the addresses of what belongs to it.
const LINKS: [(&str, &str); 37] = [
    ("archive_url", "/{archive_format}{/ref}"),
    ("assignees_url", "/assignees{/user}"),
    ("blobs_url", "/git/blobs{/sha}"),
    ("branches_url", "/branches{/branch}"),
    ("collaborators_url", "/collaborators{/collaborator}"),
    ("comments_url", "/comments{/number}"),
    ("commits_url", "/commits{/sha}"),
    ("compare_url", "/compare/{base}...{head}"),
    ("contents_url", "/contents/{+path}"),
    ("contributors_url", "/contributors"),
    ("deployments_url", "/deployments"),
    ("downloads_url", "/downloads"),
    ("events_url", "/events"),
    ("forks_url", "/forks"),
    ("git_commits_url", "/git/commits{/sha}"),
    ("git_refs_url", "/git/refs{/sha}"),
    ("git_tags_url", "/git/tags{/sha}"),
    ("hooks_url", "/hooks"),
    ("issue_comment_url", "/issues/comments{/number}"),
    ("issue_events_url", "/issues/events{/number}"),
    ("issues_url", "/issues{/number}"),
    ("keys_url", "/keys{/key_id}"),
    ("labels_url", "/labels{/name}"),
    ("languages_url", "/languages"),
    ("merges_url", "/merges"),
    ("milestones_url", "/milestones{/number}"),
    ("notifications_url", "/notifications{?since,all,participating}"),
    ("pulls_url", "/pulls{/number}"),
    ("releases_url", "/releases{/id}"),
    ("stargazers_url", "/stargazers"),
    ("statuses_url", "/statuses/{sha}"),
    ("subscribers_url", "/subscribers"),
    ("subscription_url", "/subscription"),
    ("tags_url", "/tags"),
    ("teams_url", "/teams"),
    ("trees_url", "/git/trees{/sha}"),
    ("url", ""),
];

/// What no repository here is or has.
const NOT: [&str; 9] = [
    "fork",
    "is_template",
    "web_commit_signoff_required",
    "allow_forking",
    "has_wiki",
    "has_pages",
    "has_discussions",
    "archived",
    "disabled",
];

/// What is counted of a repository, and never there.
const NONE_OF: [&str; 7] =
    ["forks", "forks_count", "open_issues", "open_issues_count", "stargazers_count", "watchers", "watchers_count"];

/// Returns a time as JSON has it: RFC 3339 in UTC, to the second.
pub(super) fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).expect("not that late").to_string()
}

fn node_id(kind: &str, id: u64) -> String {
    format!("{kind}_{}", BASE64_STANDARD.encode(id.to_be_bytes()).trim_end_matches('='))
}

fn organisation(base: &str, login: &str) -> Value {
    // An organisation is no more than a name here; the same name has the same id.
    let id = login.bytes().fold(7_000_000_u64, |id, byte| id.wrapping_mul(31).wrapping_add(byte.into()) % 100_000_000);
    let url = format!("{base}/users/{login}");
    let mut account = json!({
        "login": login, "id": id, "node_id": node_id("O", id), "gravatar_id": "", "type": "Organization", "site_admin": false,
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"), "html_url": format!("https://github.com/{login}"),
        "user_view_type": "public", "gists_url": format!("{url}/gists{{/gist_id}}"),
        "starred_url": format!("{url}/starred{{/owner}}{{/repo}}"), "following_url": format!("{url}/following{{/other_user}}"),
        "organizations_url": format!("{url}/orgs"), "events_url": format!("{url}/events{{/privacy}}"), "url": url,
    });
    for name in ["followers", "subscriptions", "repos", "received_events"] {
        account[format!("{name}_url")] = json!(format!("{url}/{name}"));
    }
    account
}

pub(super) fn app(base: &str, app: &Registered, installations: usize) -> Value {
    let made = timestamp(app.created);
    json!({
        "id": app.id, "client_id": app.client_id, "slug": app.slug, "name": app.slug, "node_id": node_id("A", app.id),
        "owner": organisation(base, "maker"), "description": "", "external_url": "https://app.example",
        "html_url": format!("https://github.com/apps/{}", app.slug), "created_at": made, "updated_at": made,
        "permissions": app.permissions, "events": [], "installations_count": installations,
    })
}

pub(super) fn installation(base: &str, known: &Installation, app: &Registered) -> Value {
    let (id, made) = (known.id, timestamp(known.created));
    let account = organisation(base, &known.organisation);
    json!({
        "id": id, "client_id": app.client_id, "app_id": app.id, "app_slug": app.slug, "target_id": account["id"],
        "target_type": "Organization", "repository_selection": if known.selected.is_some() { "selected" } else { "all" },
        "access_tokens_url": format!("{base}/app/installations/{id}/access_tokens"),
        "repositories_url": format!("{base}/installation/repositories"),
        "html_url": format!("https://github.com/organizations/{}/settings/installations/{id}", known.organisation),
        "permissions": known.permissions, "events": [], "created_at": made, "updated_at": made, "single_file_name": null,
        "has_multiple_single_files": false, "single_file_paths": [], "account": account,
        "suspended_at": known.suspended.map(timestamp),
        "suspended_by": known.suspended.map(|_| organisation(base, &known.organisation)),
    })
}

/// Returns a repository as lists and tokens hold it.
pub(super) fn repository(base: &str, known: &Repository) -> Value {
    let (id, made) = (known.id, timestamp(known.created));
    let full_name = format!("{}/{}", known.organisation, known.name);
    let url = format!("{base}/repos/{full_name}");
    let size: usize = known.files.values().map(|content| content.len() / 1024).sum();
    let mut body: Map<String, Value> =
        LINKS.iter().map(|(name, rest)| ((*name).to_owned(), json!(format!("{url}{rest}")))).collect();
    let more = json!({
        "id": id, "node_id": node_id("R", id), "name": known.name, "full_name": full_name, "private": true,
        "visibility": "private", "owner": organisation(base, &known.organisation), "description": null,
        "html_url": format!("https://github.com/{full_name}"), "clone_url": format!("https://github.com/{full_name}.git"),
        "git_url": format!("git://github.com/{full_name}.git"), "ssh_url": format!("git@github.com:{full_name}.git"),
        "svn_url": format!("https://github.com/{full_name}"), "mirror_url": null, "homepage": null, "language": null,
        "license": null, "default_branch": "main", "size": size, "created_at": made, "updated_at": made, "pushed_at": made,
        "topics": [], "has_issues": true, "has_projects": true, "has_downloads": true,
    });
    body.extend(NOT.iter().map(|name| ((*name).to_owned(), json!(false))));
    body.extend(NONE_OF.iter().map(|name| ((*name).to_owned(), json!(0))));
    body.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(body)
}

/// Returns a repository as it is shown by itself.
pub(super) fn full_repository(base: &str, known: &Repository) -> Value {
    let mut body = repository(base, known);
    body["network_count"] = json!(0);
    body["subscribers_count"] = json!(0);
    body["organization"] = organisation(base, &known.organisation);
    body
}

/// Returns a file, with what is in it.
pub(super) fn file(base: &str, of: &Repository, path: &str, content: &[u8]) -> Value {
    let mut body = entry(base, of, path, "file", Some(content));
    // As MIME has it (RFC 2045), with lines of 60 characters.
    let text = BASE64_STANDARD.encode(content);
    let lines = text.as_bytes().chunks(60).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    body["content"] = json!(lines.collect::<String>());
    body["encoding"] = json!("base64");
    body
}

/// Returns one entry of a directory: a `file` with its content, or a `dir`.
pub(super) fn entry(base: &str, of: &Repository, path: &str, kind: &str, content: Option<&[u8]>) -> Value {
    let full_name = format!("{}/{}", of.organisation, of.name);
    let (sha, (git, html)) = match content {
        Some(content) => (object_id("blob", content), ("blobs", "blob")),
        None => (object_id("tree", path.as_bytes()), ("trees", "tree")),
    };
    let url = format!("{base}/repos/{full_name}/contents/{path}?ref=main");
    let git = format!("{base}/repos/{full_name}/git/{git}/{sha}");
    let html = format!("https://github.com/{full_name}/{html}/main/{path}");
    let download = content.map(|_| format!("https://raw.githubusercontent.com/{full_name}/main/{path}"));
    json!({
        "type": kind, "name": path.rsplit('/').next(), "path": path, "sha": sha, "size": content.map_or(0, <[u8]>::len),
        "url": url, "git_url": git, "html_url": html, "download_url": download,
        "_links": { "self": url, "git": git, "html": html },
    })
}

/// Returns the id under which git stores an object.
fn object_id(kind: &str, content: &[u8]) -> String {
    let object = [format!("{kind} {}\0", content.len()).as_bytes(), content].concat();
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &object).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
