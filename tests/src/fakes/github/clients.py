"""Two clients that others wrote against the fake: PyGithub as it is used, and githubkit, which reads every answer into
models made from GitHub's own description of the API and takes nothing that doesn't fit."""

import base64
import datetime
import json
import sys

import github
from github import Auth, GithubIntegration
from githubkit import AppAuthStrategy, AppInstallationAuthStrategy, GitHub, TokenAuthStrategy
from githubkit.exception import RequestFailed

SETUP = json.loads(sys.argv[1])
URL, KEY, ID, CLIENT_ID = SETUP["url"], SETUP["key"], SETUP["id"], SETUP["client_id"]
INSTALLATION, OTHER = SETUP["installation"], SETUP["other"]
# Nothing is repeated and nothing waits: a refusal is what is asked for.
CALM = {"base_url": URL, "retry": None, "seconds_between_requests": None, "seconds_between_writes": None}


def refused(status, words, call):
    try:
        call()
    except github.GithubException as error:
        assert (error.status, error.data["message"]) == (status, words), error
        assert error.data["status"] == str(status), error
        assert error.data["documentation_url"].startswith("https://docs.github.com/rest"), error
    else:
        raise AssertionError(f"no refusal: {words}")


def narrowed_and_revoked():
    app = Auth.AppAuth(ID, KEY)
    integration = GithubIntegration(auth=app, **CALM)
    assert integration.get_app().slug == "broker-dev"
    assert [known.id for known in integration.get_installations()] == [INSTALLATION, OTHER]
    known = integration.get_app_installation(INSTALLATION)
    assert known.app_id == ID and known.target_type == "Organization", known.raw_data
    assert integration.get_org_installation("shop").id == INSTALLATION
    assert integration.get_repo_installation("shop", "web").id == INSTALLATION
    refused(404, "Not Found", lambda: integration.get_repo_installation("shop", "secret"))

    auth = app.get_installation_auth(INSTALLATION, {"contents": "read"}, integration.requester)
    as_installation = github.Github(auth=auth, **CALM)
    token = auth.token
    assert token.startswith("ghs_") and len(token) == 40, len(token)
    issued = integration.get_access_token(INSTALLATION, {"contents": "read"})
    assert issued.permissions == {"contents": "read", "metadata": "read"}, issued.permissions
    assert issued.repository_selection == "selected"
    left = issued.expires_at - datetime.datetime.now(datetime.timezone.utc)
    assert 3500 < left.total_seconds() <= 3600, left

    names = sorted(known.full_name for known in known_repositories(token))
    assert names == ["shop/api", "shop/web"], names
    web = as_installation.get_repo("shop/web")
    assert web.private and web.owner.login == "shop" and web.default_branch == "main"
    assert web.get_contents("conf/app.toml").decoded_content == b"port = 80\n" * 20
    assert [(entry.type, entry.path) for entry in web.get_contents("")] == [("file", "README.md"), ("dir", "conf")]
    refused(404, "Not Found", lambda: web.get_contents("none"))
    refused(404, "Not Found", lambda: as_installation.get_repo("shop/secret"))
    refused(422, "The permissions requested are not granted to this installation.",
        lambda: integration.get_access_token(INSTALLATION, {"administration": "write"}))
    refused(422, "The level of access for permissions requested are not granted to this installation.",
        lambda: integration.get_access_token(INSTALLATION, {"contents": "admin"}))
    refused(404, "Not Found", lambda: integration.get_access_token(1, {}))

    # A permission that the token leaves out is not there, though the installation has it.
    issues = github.Github(auth=Auth.Token(integration.get_access_token(INSTALLATION, {"issues": "read"}).token), **CALM)
    refused(403, "Resource not accessible by integration", lambda: issues.get_repo("shop/web").get_contents("README.md"))

    plain = github.Github(auth=Auth.Token(token), **CALM)
    status, _, _ = plain.requester.requestJson("DELETE", "/installation/token")
    assert status == 204, status
    refused(401, "Bad credentials", lambda: plain.get_repo("shop/web"))
    refused(401, "Bad credentials", lambda: known_repositories(token))

    other_key = Auth.AppAuth(ID, SETUP["other_key"])
    refused(401, "A JSON web token could not be decoded", lambda: GithubIntegration(auth=other_key, **CALM).get_app())
    refused(404, "Integration not found", lambda: GithubIntegration(auth=Auth.AppAuth(7, KEY), **CALM).get_app())


def known_repositories(token):
    client = github.Github(auth=Auth.Token(token), **CALM)
    headers, body = client.requester.requestJsonAndCheck("GET", "/installation/repositories")
    assert body["total_count"] == len(body["repositories"]), body
    return [github.Repository.Repository(client.requester, headers, entry) for entry in body["repositories"]]


def described():
    # Kept: a client that nobody holds is gone, and what was made of it with it.
    clients = []

    def client(auth):
        clients.append(GitHub(auth, base_url=URL + "/", auto_retry=False, http_cache=False))
        return clients[-1].rest("2022-11-28")

    app = client(AppAuthStrategy(CLIENT_ID, KEY)).apps
    assert app.get_authenticated().parsed_data.installations_count == 2
    listed = app.list_installations(per_page=1)
    assert len(listed.parsed_data) == 1 and 'rel="next"' in listed.headers["link"], listed.headers
    assert app.list_installations(per_page=1, page=2).parsed_data[0].id == OTHER
    assert app.get_installation(INSTALLATION).parsed_data.repository_selection == "selected"
    assert app.get_installation(OTHER).parsed_data.repository_selection == "all"
    made = app.create_installation_access_token(INSTALLATION, repositories=["web"], permissions={"contents": "read"})
    assert made.status_code == 201 and made.headers["x-github-api-version-selected"] == "2022-11-28"
    assert int(made.headers["x-ratelimit-limit"]) == 5000 and made.headers["x-github-request-id"]
    token = made.parsed_data
    assert [known.name for known in token.repositories] == ["web"], token
    by_id = app.create_installation_access_token(INSTALLATION, repository_ids=[token.repositories[0].id]).parsed_data
    assert by_id.permissions.issues == "write" and len(by_id.repositories) == 1, by_id
    for named in ({"repositories": ["web", "secret"]}, {"repository_ids": [1]}):
        try:
            app.create_installation_access_token(INSTALLATION, **named)
        except RequestFailed as error:
            assert error.response.status_code == 422, error
            assert "not accessible to the parent installation" in error.response.json()["message"], error
        else:
            raise AssertionError("it took a repository that the installation lacks")

    rest = client(TokenAuthStrategy(token.token))
    reached = rest.apps.list_repos_accessible_to_installation().parsed_data
    assert (reached.total_count, reached.repositories[0].full_name) == (1, "shop/web"), reached
    assert rest.repos.get("shop", "web").parsed_data.full_name == "shop/web"
    file = rest.repos.get_content("shop", "web", "README.md").parsed_data
    assert base64.b64decode(file.content) == b"# web\n" and file.size == 6, file
    # What `git hash-object` says of it.
    assert file.sha == "6bf181f7ce49264d2508f4ef853fd8126e2351e2", file.sha
    assert [entry.name for entry in rest.repos.get_content("shop", "web", "conf").parsed_data] == ["app.toml"]
    try:
        rest.repos.get("shop", "api")
    except RequestFailed as error:
        assert error.response.status_code == 404, error
    else:
        raise AssertionError("a token for one repository reached another one")
    assert rest.apps.revoke_installation_access_token().status_code == 204

    # As it signs in by itself, and as tokens look from 2026 on.
    itself = client(AppInstallationAuthStrategy(ID, KEY, INSTALLATION))
    assert itself.apps.list_repos_accessible_to_installation().parsed_data.total_count == 2
    long = app.create_installation_access_token(INSTALLATION, headers={"X-GitHub-Stateless-S2S-Token": "enabled"})
    token = long.parsed_data.token
    assert token.startswith(f"ghs_{ID}_") and token.count(".") == 2 and len(token) > 400, token
    itself = client(TokenAuthStrategy(token))
    assert itself.apps.list_repos_accessible_to_installation().parsed_data.total_count == 2


globals()[SETUP["run"]]()
print("held")
