//! The server against `hvac`, a client that others wrote: that it understands every answer, errors included.
//!
//! The same program runs against a real server in development mode where `BROKER_TEST_VAULT` (or `VAULT_ADDR`) and
//! `VAULT_TOKEN` name one. What needs a clock to be moved or a person in a browser runs on ours alone.

use std::env;
use std::time::Duration;

use serde_json::json;

use super::Vault;
use crate::python;

/// Runs `program` with the address, the root token and these arguments, on our server and on a real one.
fn on_every_server(program: &str, arguments: impl Fn(&Vault) -> Vec<String>) {
    let vault = Vault::start();
    let mut servers = vec![(vault.url(), vault.root().to_owned())];
    let real = env::var("BROKER_TEST_VAULT").or_else(|_| env::var("VAULT_ADDR"));
    servers.extend(real.ok().zip(env::var("VAULT_TOKEN").ok()));
    for (url, root) in servers {
        let mut all = vec![url, root];
        all.extend(arguments(&vault));
        let said = run(program, &all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(said.trim(), "done", "{said}");
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    python::run(&format!("{PRELUDE}\n{program}\nprint('done')"), arguments)
}

/// What every program begins with.
const PRELUDE: &str = r#"
import sys, uuid, warnings
import hvac
from hvac import exceptions as e
warnings.simplefilter("ignore")
url, root = sys.argv[1:3]
vault = hvac.Client(url=url, token=root)
own = "t" + uuid.uuid4().hex[:8]

def raises(kind, call, words=""):
    try:
        call()
    except kind as error:
        assert type(error) is kind, (type(error), kind)
        assert words in str(error), (str(error), words)
        return error
    raise AssertionError(f"no {kind.__name__}")
"#;

#[test]
fn hvac_reads_and_writes_both_versions_of_kv_and_understands_its_refusals() {
    on_every_server(
        r#"
vault.sys.enable_secrets_engine("kv", path=own + "-two", options={"version": "2"})
vault.sys.enable_secrets_engine("kv", path=own + "-one", options={"version": "1"})
raises(e.InvalidRequest, lambda: vault.sys.enable_secrets_engine("kv", path=own + "-two"), "path is already in use")
mounts = vault.sys.list_mounted_secrets_engines()["data"]
assert mounts[own + "-two/"]["options"]["version"] == "2", mounts
shown = vault.adapter.get(f"/v1/sys/internal/ui/mounts/{own}-two/a/b")["data"]
assert (shown["path"], shown["type"], shown["options"]["version"]) == (own + "-two/", "kv", "2"), shown
raises(e.Forbidden, lambda: vault.adapter.get(f"/v1/sys/internal/ui/mounts/{own}-three/a"), "preflight capability check")

two = vault.secrets.kv.v2
two.configure(mount_point=own + "-two")
put = lambda **data: two.create_or_update_secret("shop/db", data, mount_point=own + "-two")
raises(e.InvalidPath, lambda: two.read_secret_version("shop/db", mount_point=own + "-two"))
assert put(password="one <&>")["data"]["version"] == 1
read = lambda **more: two.read_secret_version("shop/db", mount_point=own + "-two", raise_on_deleted_version=True, **more)
assert read()["data"]["data"] == {"password": "one <&>"}
assert put(password="two")["data"]["version"] == 2
assert read(version=1)["data"]["data"]["password"] == "one <&>"
assert read()["data"]["metadata"]["version"] == 2
raises(e.InvalidRequest, lambda: two.create_or_update_secret("shop/db", {"a": "b"}, cas=1, mount_point=own + "-two"),
       "check-and-set parameter did not match the current version")
two.create_or_update_secret("shop/db", {"a": "b"}, cas=2, mount_point=own + "-two")
two.patch("shop/db", {"c": "d"}, mount_point=own + "-two")
assert read()["data"]["data"] == {"a": "b", "c": "d"}

two.delete_latest_version_of_secret("shop/db", mount_point=own + "-two")
raises(e.InvalidPath, read)
gone = two.read_secret_version("shop/db", mount_point=own + "-two", raise_on_deleted_version=False)["data"]
assert gone["data"] is None and gone["metadata"]["deletion_time"] and not gone["metadata"]["destroyed"], gone
two.undelete_secret_versions("shop/db", [4], mount_point=own + "-two")
assert read()["data"]["data"] == {"a": "b", "c": "d"}
two.destroy_secret_versions("shop/db", [1], mount_point=own + "-two")
raises(e.InvalidPath, lambda: read(version=1))
raises(e.InvalidPath, lambda: read(version=99))
two.update_metadata("shop/db", mount_point=own + "-two", max_versions=4, custom_metadata={"owner": "shop"})
about = two.read_secret_metadata("shop/db", mount_point=own + "-two")["data"]
assert about["current_version"] == 4 and about["custom_metadata"] == {"owner": "shop"}, about
assert about["versions"]["1"]["destroyed"] and not about["versions"]["2"]["destroyed"], about
put(password="five")
assert "1" not in two.read_secret_metadata("shop/db", mount_point=own + "-two")["data"]["versions"]
two.create_or_update_secret("shop/db/deep", {"a": "b"}, mount_point=own + "-two")
two.create_or_update_secret("other", {"a": "b"}, mount_point=own + "-two")
keys = lambda path: two.list_secrets(path, mount_point=own + "-two")["data"]["keys"]
assert keys("") == ["other", "shop/"] and keys("shop") == ["db", "db/"], keys("shop")
raises(e.InvalidPath, lambda: keys("nothing"))
two.delete_metadata_and_all_versions("other", mount_point=own + "-two")
raises(e.InvalidPath, lambda: two.read_secret_version("other", mount_point=own + "-two"))
two.configure(mount_point=own + "-two", cas_required=True)
raises(e.InvalidRequest, lambda: put(a="b"), "check-and-set parameter required for this call")

one = vault.secrets.kv.v1
raises(e.InvalidPath, lambda: one.read_secret("x/y", mount_point=own + "-one"))
one.create_or_update_secret("x/y", {"a": "b"}, mount_point=own + "-one")
assert one.read_secret("x/y", mount_point=own + "-one")["data"] == {"a": "b"}
assert one.list_secrets("x", mount_point=own + "-one")["data"]["keys"] == ["y"]
one.delete_secret("x/y", mount_point=own + "-one")
raises(e.InvalidPath, lambda: one.read_secret("x/y", mount_point=own + "-one"))
"#,
        |_| vec![],
    );
}

#[test]
fn hvac_is_held_to_policies_and_tokens_live_and_die_with_their_parents() {
    on_every_server(
        r#"
two = vault.secrets.kv.v2
vault.sys.enable_secrets_engine("kv", path=own, options={"version": "2"})
raises(e.InvalidRequest, lambda: vault.sys.create_or_update_policy(own + "bad", 'path "x" { capabilities = ["fly"] }'))
vault.sys.create_or_update_policy(own, f'''
path "{own}/data/shop/*"     {{ capabilities = ["read", "create"] }}
path "{own}/data/shop/admin" {{ capabilities = ["deny"] }}
path "{own}/metadata/+/list" {{ capabilities = ["list"] }}
path "auth/token/create"     {{ capabilities = ["update"] }}
''')
assert "shop/admin" in vault.sys.read_policy(own)["data"]["rules"]
for name in ["shop/db", "shop/admin", "shop/list/x", "other"]:
    two.create_or_update_secret(name, {"a": "b"}, mount_point=own)
made = vault.auth.token.create(policies=[own], ttl="1h", explicit_max_ttl="2h", display_name="me")["auth"]
assert sorted(made["policies"]) == sorted([own, "default"]) and made["lease_duration"] == 3600, made
dev = hvac.Client(url=url, token=made["client_token"])
read = lambda client, name: two.__class__(client.adapter).read_secret_version(name, mount_point=own)
assert read(dev, "shop/db")["data"]["data"] == {"a": "b"}
for name in ["shop/admin", "other", "shopping"]:
    raises(e.Forbidden, lambda: read(dev, name), "permission denied")
dev2 = two.__class__(dev.adapter)
raises(e.Forbidden, lambda: dev2.create_or_update_secret("shop/db", {"a": "c"}, mount_point=own), "permission denied")
dev2.create_or_update_secret("shop/new", {"a": "c"}, mount_point=own)
assert dev2.list_secrets("shop/list", mount_point=own)["data"]["keys"] == ["x"]
raises(e.Forbidden, lambda: dev2.list_secrets("shop", mount_point=own))
raises(e.Forbidden, lambda: dev.sys.seal())
shown = dev.adapter.get(f"/v1/sys/internal/ui/mounts/{own}/shop/db")["data"]
assert shown["path"] == own + "/", shown
granted = dev.get_capabilities([f"{own}/data/shop/db", f"{own}/data/other"]) if hasattr(dev, "get_capabilities") else \
    dev.sys.get_capabilities([f"{own}/data/shop/db", f"{own}/data/other"])
granted = granted["data"]
assert granted[f"{own}/data/shop/db"] == ["create", "read"] and granted[f"{own}/data/other"] == ["deny"], granted

own_self = dev.auth.token.lookup_self()["data"]
assert own_self["display_name"] == "token-me" and own_self["explicit_max_ttl"] == 7200 and own_self["ttl"] <= 3600, own_self
assert not own_self["orphan"] and own_self["renewable"] and own_self["type"] == "service", own_self
assert dev.auth.token.renew_self(increment="9h")["auth"]["lease_duration"] <= 7200
raises(e.InvalidRequest, lambda: dev.auth.token.create(policies=["root"]))
raises(e.InvalidRequest, lambda: dev.auth.token.create(policies=["another"]), "child policies must be subset of parent")
child = hvac.Client(url=url, token=dev.auth.token.create(policies=[own])["auth"]["client_token"])
batch = hvac.Client(url=url, token=dev.auth.token.create(policies=[own], type="batch")["auth"]["client_token"])
raises(e.InvalidRequest, lambda: batch.auth.token.renew_self(), "batch tokens cannot be renewed")
assert read(child, "shop/db") and read(batch, "shop/db")
few = hvac.Client(url=url, token=vault.auth.token.create(policies=[own], num_uses=2)["auth"]["client_token"])
assert read(few, "shop/db") and read(few, "shop/db")
raises(e.Forbidden, lambda: read(few, "shop/db"))
steady = hvac.Client(url=url, token=vault.auth.token.create(policies=[own], period="30m")["auth"]["client_token"])
assert steady.auth.token.lookup_self()["data"]["period"] == 1800
assert steady.auth.token.renew_self()["auth"]["lease_duration"] == 1800
dev.auth.token.revoke_self()
for client in [dev, child, batch]:
    raises(e.Forbidden, lambda: read(client, "shop/db"), "permission denied")
assert not dev.is_authenticated() and vault.is_authenticated()
raises(e.Forbidden, lambda: hvac.Client(url=url, token="hvs.nonsense").auth.token.lookup_self())
raises(e.Forbidden, lambda: read(hvac.Client(url=url), "shop/db"))
"#,
        |_| vec![],
    );
}

#[test]
fn hvac_signs_in_by_every_method_and_is_refused_with_the_wrong_thing() {
    on_every_server(
        r#"
key, good, foreign, other, service, stranger, expired = sys.argv[3:10]
def enable(kind):
    vault.sys.enable_auth_method(kind, path=own + kind)
    return own + kind
fresh = lambda: hvac.Client(url=url)

at = enable("approle")
vault.auth.approle.create_or_update_approle("dev", token_policies=["default"], token_ttl="20m", secret_id_num_uses=1, mount_point=at)
role = vault.auth.approle.read_role_id("dev", mount_point=at)["data"]["role_id"]
secret = vault.auth.approle.generate_secret_id("dev", mount_point=at)["data"]["secret_id"]
app = fresh()
made = app.auth.approle.login(role, secret, mount_point=at)["auth"]
assert made["lease_duration"] == 1200 and made["metadata"]["role_name"] == "dev", made
assert app.is_authenticated() and app.auth.token.lookup_self()["data"]["path"] == f"auth/{at}/login"
raises(e.InvalidRequest, lambda: fresh().auth.approle.login(role, secret, mount_point=at), "invalid role or secret ID")
raises(e.InvalidRequest, lambda: fresh().auth.approle.login("nobody", secret, mount_point=at), "invalid role or secret ID")
wrapped = vault.auth.approle.generate_secret_id("dev", mount_point=at, wrap_ttl="60s")["wrap_info"]
assert wrapped["creation_path"] == f"auth/{at}/role/dev/secret-id", wrapped
looked = vault.adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapped["token"]})["data"]
assert looked["creation_path"] == wrapped["creation_path"] and looked["creation_ttl"] == 60, looked
raises(e.Forbidden, lambda: fresh().sys.unwrap("hvs.nonsense"))
inside = vault.sys.unwrap(wrapped["token"])["data"]["secret_id"]
raises(e.InvalidRequest, lambda: vault.sys.unwrap(wrapped["token"]), "wrapping token is not valid or does not exist")
assert fresh().auth.approle.login(role, inside, mount_point=at)["auth"]["client_token"]

at = enable("userpass")
vault.auth.userpass.create_or_update_user("alice", password="pass word", policies="default", mount_point=at)
assert fresh().auth.userpass.login("alice", "pass word", mount_point=at)["auth"]["metadata"] == {"username": "alice"}
raises(e.InvalidRequest, lambda: fresh().auth.userpass.login("alice", "wrong", mount_point=at), "invalid username or password")

at = enable("jwt")
raises(e.InvalidRequest, lambda: vault.auth.jwt.configure(jwt_validation_pubkeys=["nonsense"], path=at))
vault.auth.jwt.configure(jwt_validation_pubkeys=[key], jwt_supported_algs=["EdDSA"], bound_issuer="https://ci", path=at)
vault.auth.jwt.create_role("ci", user_claim="sub", allowed_redirect_uris=[], role_type="jwt", bound_audiences=["vault"],
                           bound_claims={"repo": ["shop"]}, token_policies=["default"], path=at)
login = lambda token, role="ci": fresh().auth.jwt.jwt_login(role, token, path=at)
assert login(good)["auth"]["metadata"]["role"] == "ci"
raises(e.InvalidRequest, lambda: login(good, "nobody"), "could not be found")
raises(e.InvalidRequest, lambda: login(good[:-8] + "AAAAAAAA"), "error validating token")
raises(e.InvalidRequest, lambda: login(foreign), "error validating token")
raises(e.InvalidRequest, lambda: login(other), "error validating claims")
raises(e.InvalidRequest, lambda: login(expired), "error validating token")

if "127.0.0.1" in url and len(sys.argv) > 10 and url == sys.argv[10]:
    at = enable("kubernetes")
    vault.auth.kubernetes.create_role("app", bound_service_account_names="shop", bound_service_account_namespaces="dev", policies=["default"], mount_point=at)
    assert fresh().auth.kubernetes.login("app", service, mount_point=at)["auth"]["metadata"]["service_account_name"] == "shop"
    raises(e.Forbidden, lambda: fresh().auth.kubernetes.login("app", stranger, mount_point=at), "service account name not authorized")
    raises(e.Forbidden, lambda: fresh().auth.kubernetes.login("app", "no.such.token", mount_point=at))
    raises(e.InvalidRequest, lambda: fresh().auth.kubernetes.login("nobody", service, mount_point=at), "invalid role name")
"#,
        |vault| {
            let claims = |issuer: &str, repo: &str| json!({"iss": issuer, "sub": "x", "aud": "vault", "repo": repo});
            let service = |name: &str| {
                vault.jwt(&json!({ "kubernetes.io": { "namespace": "dev", "serviceaccount": { "name": name } } }))
            };
            let mut expired = claims("https://ci", "shop");
            expired["exp"] = json!(1_000_000);
            vec![
                vault.jwt_key(),
                vault.jwt(&claims("https://ci", "shop")),
                vault.jwt(&claims("https://elsewhere", "shop")),
                vault.jwt(&claims("https://ci", "other")),
                service("shop"),
                service("stranger"),
                vault.jwt(&expired),
                vault.url(),
            ]
        },
    );
}

#[test]
fn hvac_signs_in_with_a_browser() {
    let vault = Vault::start();
    let begin = r#"
vault.sys.enable_auth_method("oidc")
vault.auth.oidc.configure(oidc_discovery_url="https://login.example.com", oidc_client_id="vault", oidc_client_secret="x", default_role="dev", path="oidc")
vault.auth.oidc.create_role("dev", user_claim="email", allowed_redirect_uris=["http://localhost:8250/oidc/callback"], token_policies=["default"])
ask = lambda uri: hvac.Client(url=url).auth.oidc.oidc_authorization_url_request("dev", uri, path="oidc")["data"]["auth_url"]
assert ask("http://localhost/other") == "" and ask("https://evil.example/oidc/callback") == ""
print(ask("http://localhost:9999/oidc/callback"))
"#;
    let said = run(begin, &[&vault.url(), vault.root()]);
    let address = said.lines().next().unwrap();
    let back = vault.sign_in_at(address, &json!({ "email": "alice@example.com" })).unwrap().unwrap();
    let pairs = crate::http::Message::pairs(back.split_once('?').unwrap().1);
    let end = r#"
code, state = sys.argv[3:5]
client = hvac.Client(url=url)
made = client.auth.oidc.oidc_callback(state, "", code, path="oidc")["auth"]
assert made["metadata"]["role"] == "dev", made
raises(e.InvalidRequest, lambda: hvac.Client(url=url).auth.oidc.oidc_callback(state, "", code, path="oidc"), "Expired or missing OAuth state")
"#;
    let pair = |name: &str| pairs.iter().find(|(known, _)| known == name).unwrap().1.clone();
    assert_eq!(run(end, &[&vault.url(), vault.root(), &pair("code"), &pair("state")]).trim(), "done");
}

#[test]
fn hvac_leases_an_account_and_its_end_is_the_end_of_the_account() {
    let vault = Vault::start();
    let program = r#"
vault.sys.enable_secrets_engine("database")
db = vault.secrets.database
db.configure("shop", "postgresql-database-plugin", allowed_roles="*")
db.create_role("dev", "shop", ["CREATE ROLE"], default_ttl="10m", max_ttl="15m")
raises(e.InvalidRequest, lambda: db.generate_credentials("nobody"), "unknown role")
first, second, third = [db.generate_credentials("dev") for _ in range(3)]
assert first["lease_duration"] == 600 and first["renewable"] and first["data"]["username"] != second["data"]["username"]
assert vault.sys.renew_lease(first["lease_id"], increment=9999)["lease_duration"] == 900
assert vault.sys.read_lease(first["lease_id"])["data"]["renewable"]
vault.sys.revoke_lease(second["lease_id"])
raises(e.InvalidRequest, lambda: vault.sys.renew_lease(second["lease_id"]), "lease not found")
child = hvac.Client(url=url, token=vault.auth.token.create(policies=["root"])["auth"]["client_token"])
child.secrets.database.generate_credentials("dev")
child.auth.token.revoke_self()
"#;
    assert_eq!(run(program, &[&vault.url(), vault.root()]).trim(), "done");
    assert_eq!(vault.accounts("shop").len(), 2);
    vault.advance(Duration::from_secs(601));
    assert_eq!(vault.accounts("shop").len(), 1, "the renewed one");
    vault.advance(Duration::from_secs(300));
    assert!(vault.accounts("shop").is_empty());
}

#[test]
fn hvac_makes_children_that_are_narrower_than_their_parent_and_never_wider() {
    on_every_server(
        r#"
two = vault.secrets.kv.v2
vault.sys.enable_secrets_engine("kv", path=own, options={"version": "2"})
for name in ["a", "b"]:
    two.create_or_update_secret(name, {"x": name}, mount_point=own)
    vault.sys.create_or_update_policy(f"{own}-{name}", f'path "{own}/data/{name}" {{ capabilities = ["read"] }}')
vault.sys.create_or_update_policy(own + "-make", 'path "auth/token/create" { capabilities = ["update"] }')
client = lambda made: hvac.Client(url=url, token=made["auth"]["client_token"])
parent = client(vault.auth.token.create(policies=[own + "-a", own + "-b", own + "-make"], ttl="1h"))
make = lambda **more: parent.auth.token.create(**{"policies": [own + "-a"], **more})
made = make(ttl="2h", explicit_max_ttl="30m", num_uses=3, display_name="shop & dev!", renewable=False,
            meta={"project": "shop"}, type="service")
auth = made["auth"]
assert sorted(auth["policies"]) == ["default", own + "-a"] and auth["num_uses"] == 3, auth
assert auth["lease_duration"] == 1800 and not auth["renewable"] and auth["metadata"] == {"project": "shop"}, auth
known = vault.auth.token.lookup_accessor(auth["accessor"])["data"]
assert known["display_name"] == "token-shop---dev" and known["meta"] == {"project": "shop"}, known
assert known["explicit_max_ttl"] == 1800 and known["num_uses"] == 3 and not known["orphan"], known
child = client(made)
granted = child.adapter.post("/v1/sys/capabilities-self", json={"paths": [f"{own}/data/a", f"{own}/data/b"]})["data"]
assert granted[f"{own}/data/a"] == ["read"] and granted[f"{own}/data/b"] == ["deny"], granted
read = lambda client, name: two.__class__(client.adapter).read_secret_version(name, mount_point=own)
assert read(child, "a") and read(parent, "b")
raises(e.Forbidden, lambda: read(child, "b"), "permission denied")
# That was its last use.
raises(e.Forbidden, lambda: vault.auth.token.lookup_accessor(auth["accessor"]))
raises(e.InvalidRequest, lambda: make(policies=["root"]))
renewed = client(make(ttl="20s", explicit_max_ttl="40s")).auth.token.renew_self(increment="5m")
assert renewed["auth"]["lease_duration"] <= 40 and "capped accordingly" in str(renewed["warnings"]), renewed
bare = client(vault.auth.token.create(policies=[own + "-a", own + "-make"], no_default_policy=True, ttl="1h"))
inner = bare.auth.token.create(policies=[own + "-a"])
assert inner["auth"]["policies"] == [own + "-a"], inner
raises(e.InvalidRequest, lambda: bare.auth.token.create(policies=[own + "-a", "default"]), "must be subset of parent")
raises(e.Forbidden, lambda: client(inner).auth.token.revoke_self(), "permission denied")
for restless, words in [(dict(type="batch"), "batch tokens cannot"), (dict(num_uses=9), "restricted use token")]:
    single = client(vault.auth.token.create(policies=[own + "-a", own + "-make"], ttl="1h", **restless))
    raises(e.InvalidRequest, lambda: single.auth.token.create(policies=[own + "-a"]), words)
raises(e.Forbidden, lambda: client(inner).auth.token.create(policies=[own + "-a"]), "permission denied")
"#,
        |_| vec![],
    );
}

#[test]
fn hvac_sees_leases_go_with_their_token_and_none_on_a_last_use() {
    let vault = Vault::start();
    let program = r#"
vault.sys.enable_secrets_engine("database")
db = vault.secrets.database
db.configure("shop", "postgresql-database-plugin", allowed_roles="*")
db.create_role("dev", "shop", ["CREATE ROLE"], default_ttl="10m", max_ttl="15m")
vault.sys.create_or_update_policy("db", 'path "database/creds/dev" { capabilities = ["read"] }')
child = lambda **more: hvac.Client(url=url, token=vault.auth.token.create(policies=["db"], **more)["auth"]["client_token"])
lease = lambda id: vault.sys.read_lease(id)["data"]
one = child(ttl="1h")
ids = [one.secrets.database.generate_credentials("dev")["lease_id"] for _ in range(2)]
assert all(lease(id)["ttl"] <= 600 for id in ids)
assert one.sys.renew_lease(ids[0], increment=60)["lease_duration"] == 60
one.auth.token.revoke_self()
for id in ids:
    raises(e.InvalidRequest, lambda: lease(id), "invalid lease")
last = child(num_uses=1)
raises(e.InvalidRequest, lambda: last.secrets.database.generate_credentials("dev"), "token had one use left")
child(ttl="30s").secrets.database.generate_credentials("dev")
"#;
    assert_eq!(run(program, &[&vault.url(), vault.root()]).trim(), "done");
    assert_eq!((vault.accounts("shop").len(), vault.alive_leases().len()), (1, 1));
    vault.advance(Duration::from_secs(31));
    assert!(
        vault.accounts("shop").is_empty() && vault.alive_leases().is_empty(),
        "the lease of ten minutes is over, too"
    );
}

#[test]
fn a_child_inherits_the_policies_of_its_parents_identity() {
    let vault = Vault::start();
    let begin = r#"
vault.sys.create_or_update_policy("make", 'path "auth/token/create" { capabilities = ["update"] }')
vault.sys.create_or_update_policy("team", 'path "secret/data/team" { capabilities = ["read"] }')
print(vault.auth.token.create(policies=["make"])["auth"]["client_token"])
"#;
    let said = run(begin, &[&vault.url(), vault.root()]);
    let token = said.lines().next().unwrap();
    vault.identify(token, &["team"]);
    let program = r#"
own = vault.auth.token.lookup_self()["data"]
assert sorted(own["policies"]) == ["default", "make"] and own["identity_policies"] == ["team"], own
raises(e.InvalidRequest, lambda: vault.auth.token.create(policies=["team"]), "must be subset of parent")
made = vault.auth.token.create(policies=["default"])["auth"]
assert made["token_policies"] == ["default"] and made["identity_policies"] == ["team"], made
assert made["policies"] == ["default", "team"], made
raises(e.InvalidPath, lambda: hvac.Client(url=url, token=made["client_token"]).secrets.kv.v2.read_secret_version("team"))
"#;
    assert_eq!(run(program, &[&vault.url(), token]).trim(), "done");
    let by: Vec<_> = vault.asked().into_iter().filter(|asked| asked.path == "secret/data/team").collect();
    assert!(by.len() == 1 && by[0].accessor.as_ref().is_some_and(|accessor| vault.is_alive(accessor)), "{by:?}");
    assert_eq!(vault.alive_tokens().len(), 2, "the parent and the child, which this client names `token`");
}

#[test]
fn hvac_is_confined_to_its_namespace() {
    let vault = Vault::start();
    let program = r#"
vault.sys.create_namespace("team")
team = hvac.Client(url=url, token=root, namespace="team")
team.sys.create_namespace("inner")
team.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
team.secrets.kv.v2.create_or_update_secret("x", {"where": "team"})
vault.secrets.kv.v2.create_or_update_secret("x", {"where": "root"})
where = lambda client: client.secrets.kv.v2.read_secret_version("x")["data"]["data"]["where"]
assert (where(vault), where(team)) == ("root", "team")
assert vault.adapter.get("/v1/team/secret/data/x")["data"]["data"]["where"] == "team"
team.sys.create_or_update_policy("dev", 'path "secret/*" { capabilities = ["read"] }')
token = team.auth.token.create(policies=["dev"])["auth"]["client_token"]
assert where(hvac.Client(url=url, token=token, namespace="team")) == "team"
raises(e.Forbidden, lambda: where(hvac.Client(url=url, token=token)))
raises(e.InvalidPath, lambda: where(hvac.Client(url=url, token=root, namespace="nowhere")), "no handler for route")
"#;
    assert_eq!(run(program, &[&vault.url(), vault.root()]).trim(), "done");
}

#[test]
fn hvac_sees_that_it_is_sealed_busy_or_behind() {
    let vault = Vault::start();
    let read = "read = lambda: vault.secrets.kv.v2.read_secret_version('x')\n";
    let said = |program: &str| run(&format!("{read}{program}"), &[&vault.url(), vault.root()]);
    let _ = said(
        "vault.secrets.kv.v2.create_or_update_secret('x', {'a': 'b'})\nassert vault.sys.read_health_status(method='GET')['sealed'] is False",
    );
    vault.seal(true);
    let _ = said(
        "raises(e.VaultDown, read, 'Vault is sealed')\nassert vault.sys.is_sealed()\nassert vault.sys.read_health_status(method='GET').status_code == 503",
    );
    vault.seal(false);
    vault.standby(Some(473));
    let _ = said("assert vault.sys.read_health_status(method='GET').status_code == 473");
    vault.standby(Some(429));
    let _ = said(
        "assert vault.sys.read_health_status(method='GET').status_code == 429\nassert vault.sys.read_health_status(method='GET', standby_ok=True)['standby']",
    );
    vault.lag(1);
    let _ = said("raises(e.UnexpectedError, read, 'required index state not present')\nassert read()");
    vault.quota(Some(1));
    let _ = said("read()\nraises(e.RateLimitExceeded, read, 'rate limit quota exceeded')");
}

#[test]
fn a_token_ends_when_its_time_has_come() {
    let vault = Vault::start();
    let program = "print(vault.auth.token.create(policies=['default'], ttl='1h')['auth']['client_token'])";
    let said = run(program, &[&vault.url(), vault.root()]);
    let token = said.lines().next().unwrap();
    let alive = "assert vault.is_authenticated()";
    let _ = run(alive, &[&vault.url(), token]);
    vault.advance(Duration::from_secs(3_601));
    assert_eq!(vault.live_tokens(), 1);
    let _ = run("assert not vault.is_authenticated()", &[&vault.url(), token]);
}

/// The device mode is OpenBao's, and `hvac` does not know it: it is read off OpenBao's own sources.
#[test]
fn a_code_is_polled_until_it_is_confirmed() {
    let vault = Vault::start();
    let begin = r#"
vault.sys.enable_auth_method("oidc")
vault.auth.oidc.configure(oidc_discovery_url="https://login.example.com", oidc_client_id="vault", oidc_client_secret="x", path="oidc")
vault.adapter.post("/v1/auth/oidc/role/dev", json={"user_claim": "email", "callback_mode": "device", "token_policies": ["default"]})
client = hvac.Client(url=url)
raises(e.InvalidRequest, lambda: client.adapter.post("/v1/auth/oidc/oidc/auth_url", json={"role": "dev"}), "missing client_nonce")
made = client.adapter.post("/v1/auth/oidc/oidc/auth_url", json={"role": "dev", "client_nonce": "n"})["data"]
assert made["poll_interval"] == "5" and made["auth_url"] == "https://login.example.com/device", made
poll = lambda nonce="n": client.adapter.post("/v1/auth/oidc/oidc/poll", json={"state": made["state"], "client_nonce": nonce})
raises(e.InvalidRequest, poll, "authorization_pending")
raises(e.InvalidRequest, poll, "slow_down")
print(made["user_code"], made["state"])
"#;
    let said = run(begin, &[&vault.url(), vault.root()]);
    let (code, state) = said.lines().next().unwrap().split_once(' ').unwrap();
    assert!(vault.confirm_code("WRONG", &json!({})).is_err());
    vault.confirm_code(code, &json!({ "email": "alice@example.com" })).unwrap();
    let end = r#"
poll = lambda: vault.adapter.post("/v1/auth/oidc/oidc/poll", json={"state": sys.argv[3], "client_nonce": "n"})
assert poll()["auth"]["client_token"]
raises(e.InvalidRequest, poll, "Expired or missing OAuth state")
"#;
    assert_eq!(run(end, &[&vault.url(), vault.root(), state]).trim(), "done");
}
