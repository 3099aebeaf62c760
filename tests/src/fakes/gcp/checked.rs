//! The server against clients that Google wrote: the discovery documents method by method, the client library of Secret
//! Manager, and the sign-in library.

use std::time::Duration;

use super::{FakeGcp, NOT_SPOKEN};
use crate::python;

/// Checks an answer against its schema and calls every method that the documents have.
const DISCOVERY: &str = r#"
import json, os, sys
import googleapiclient, httplib2
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

glob, regional, not_spoken = sys.argv[1], sys.argv[2], set(sys.argv[3].split(","))
folder = os.path.join(os.path.dirname(googleapiclient.__file__), "discovery_cache", "documents")
load = lambda name: json.load(open(os.path.join(folder, name + ".json")))

def fits(doc, schema, value, where):
    if "$ref" in schema:
        schema = doc["schemas"][schema["$ref"]]
    kind = schema.get("type")
    if kind == "object":
        assert isinstance(value, dict), (where, value)
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            assert known, f"{where}: no field {key} in the document"
            fits(doc, known, inner, where + "." + key)
    elif kind == "array":
        assert isinstance(value, list), (where, value)
        for inner in value:
            fits(doc, schema["items"], inner, where + "[]")
    else:
        python = {"string": str, "boolean": bool, "integer": int, "number": float}[kind]
        assert isinstance(value, python), (where, kind, value)
        if "enum" in schema:
            assert value in schema["enum"], (where, value)

class Api:
    def __init__(self, doc, at):
        self.doc, self.used = doc, set()
        self.client = build_from_document(doc, http=httplib2.Http(), client_options={"api_endpoint": at})
    def call(self, id, expect=200, **arguments):
        node, methods = self.client, self.doc
        *path, method = id.split(".")[1:]
        for word in path:
            node, methods = getattr(node, word)(), methods["resources"][word]
        self.used.add(id)
        try:
            answer = getattr(node, method)(**arguments).execute(num_retries=0)
        except HttpError as error:
            assert error.resp.status == expect, (id, error.resp.status, error.content)
            body = json.loads(error.content)["error"]
            assert body["code"] == expect and body["message"] and body["status"], body
            return body
        assert expect == 200, (id, "was answered", answer)
        fits(self.doc, methods["methods"][method].get("response", {"type": "object"}), answer, id)
        return answer

def all_methods(node):
    found = {m["id"] for m in node.get("methods", {}).values()}
    for inner in node.get("resources", {}).values():
        found |= all_methods(inner)
    return found

def secrets(api, kind, parent, secret):
    s, v = kind, kind + ".versions"
    made = api.call(s + ".create", parent=parent, secretId="one", body=dict(secret, labels={"team": "shop"}))
    name = made["name"]
    assert name.endswith("/secrets/one") and "/111122223333/" in name, made
    assert api.call(s + ".create", 409, parent=parent, secretId="one", body=secret)["status"] == "ALREADY_EXISTS"
    assert api.call(s + ".create", 400, parent=parent, secretId="a/b", body=secret)["status"] == "INVALID_ARGUMENT"
    assert api.call(s + ".get", name=parent + "/secrets/one") == made
    assert api.call(s + ".get", 404, name=parent + "/secrets/none")["status"] == "NOT_FOUND"
    api.call(v + ".access", 404, name=name + "/versions/latest")
    for data in ("b25l", "dHdv"):
        added = api.call(s + ".addVersion", parent=name, body={"payload": {"data": data}})
    assert added["name"].endswith("/versions/2") and added["state"] == "ENABLED", added
    crc = {"payload": {"data": "MTIzNDU2Nzg5", "dataCrc32c": "3808858755"}}
    assert api.call(s + ".addVersion", parent=name, body=crc)["clientSpecifiedPayloadChecksum"] is True
    crc["payload"]["dataCrc32c"] = "3808858756"
    api.call(s + ".addVersion", 400, parent=name, body=crc)
    import base64
    exact, more = (base64.b64encode(b"x" * n).decode() for n in (65536, 65537))
    api.call(s + ".addVersion", parent=name, body={"payload": {"data": exact}})
    api.call(s + ".addVersion", 400, parent=name, body={"payload": {"data": more}})
    api.call(s + ".addVersion", 400, parent=name, body={"payload": {"data": ""}})
    api.call(v + ".destroy", name=name + "/versions/4", body={})
    assert api.call(v + ".access", name=name + "/versions/3")["payload"] == {"data": "MTIzNDU2Nzg5", "dataCrc32c": "3808858755"}
    gone = api.call(v + ".access", 400, name=name + "/versions/latest")
    assert gone["status"] == "FAILED_PRECONDITION" and gone["message"].endswith("/versions/4] is in DESTROYED state."), gone
    api.call(v + ".enable", 400, name=name + "/versions/4", body={})
    off = api.call(v + ".disable", name=name + "/versions/2", body={})
    assert off["state"] == "DISABLED" and api.call(v + ".get", name=name + "/versions/2") == off
    assert api.call(v + ".access", 400, name=name + "/versions/2")["status"] == "FAILED_PRECONDITION"
    api.call(v + ".enable", 400, name=name + "/versions/2", body={"etag": '"0"'})
    api.call(v + ".enable", name=name + "/versions/2", body={"etag": off["etag"]})
    first = api.call(v + ".list", parent=name, pageSize=3)
    rest = api.call(v + ".list", parent=name, pageSize=3, pageToken=first["nextPageToken"])
    numbers = [one["name"].split("/")[-1] for one in first["versions"] + rest["versions"]]
    assert numbers == ["4", "3", "2", "1"] and first["totalSize"] == 4 and "nextPageToken" not in rest, numbers
    assert len(api.call(v + ".list", parent=name, filter="state:ENABLED", pageSize=0)["versions"]) == 3
    changed = api.call(s + ".patch", name=name, updateMask="labels,versionAliases",
        body={"labels": {"team": "web"}, "versionAliases": {"good": "2"}, "etag": made["etag"]})
    assert changed["versionAliases"] == {"good": "2"} and changed["etag"] != made["etag"]
    stale = api.call(s + ".patch", 400, name=name, updateMask="labels", body={"etag": made["etag"]})
    assert stale["status"] == "FAILED_PRECONDITION", stale
    api.call(s + ".patch", 400, name=name, body={})
    assert api.call(v + ".access", name=name + "/versions/good")["name"].endswith("/versions/2")
    api.call(s + ".create", parent=parent, secretId="two", body=secret)
    listed = lambda **a: [one["name"].split("/")[-1] for one in api.call(s + ".list", parent=parent, **a).get("secrets", [])]
    assert listed() == ["two", "one"], listed()
    assert listed(filter="labels.team=web") == ["one"] == listed(filter="name:ONE")
    assert listed(pageSize=1) == ["two"] and listed(filter="labels.team=shop") == []
    api.call(s + ".list", 400, parent=parent, filter="whatever")
    policy = {"version": 3, "bindings": [{"role": "roles/secretmanager.secretAccessor", "members": ["user:a@example.com"],
        "condition": {"title": "t", "expression": 'resource.name.startsWith("' + name + '/versions/")'}}]}
    api.call(s + ".setIamPolicy", resource=name, body={"policy": policy})
    assert api.call(s + ".getIamPolicy", resource=name)["bindings"] == policy["bindings"]
    api.call(s + ".setIamPolicy", 400, resource=name, body={"policy": dict(policy, version=1)})
    asked = ["secretmanager.versions.access", "secretmanager.secrets.delete"]
    assert api.call(s + ".testIamPermissions", resource=name, body={"permissions": asked})["permissions"] == asked
    for verb in ("rotateSecret", "enableManagedRotation"):
        api.call(f"{s}.{verb}", 501, parent=name, body={})
    api.call(s + ".delete", 400, name=name, etag='"0"')
    api.call(s + ".delete", name=name, etag=changed["etag"])
    api.call(s + ".delete", 404, name=name)

doc = load("secretmanager.v1")
api, region = Api(doc, glob), Api(doc, regional)
secrets(api, "secretmanager.projects.secrets", "projects/shop-dev", {"replication": {"automatic": {}}})
where = "projects/shop-dev/locations/europe-west3"
secrets(region, "secretmanager.projects.locations.secrets", where, {})
api.call("secretmanager.projects.secrets.create", 400, parent="projects/shop-dev", secretId="bare", body={})
api.call("secretmanager.projects.locations.secrets.list", 400, parent=where)
region.call("secretmanager.projects.secrets.list", 400, parent="projects/shop-dev")
assert api.call("secretmanager.projects.locations.list", name="projects/shop-dev")["locations"]
api.call("secretmanager.projects.locations.get", name=where)
used = api.used | region.used

iam_doc = load("iamcredentials.v1")
iam = Api(iam_doc, glob)
account = "projects/-/serviceAccounts/reader@shop-dev.iam.gserviceaccount.com"
method = "iamcredentials.projects.serviceAccounts.generateAccessToken"
scope = ["https://www.googleapis.com/auth/cloud-platform"]
assert iam.call(method, name=account, body={"scope": scope, "lifetime": "300s"})["accessToken"]
iam.call(method, 400, name=account, body={"scope": scope, "lifetime": "3601s"})
iam.call(method, 400, name=account, body={})
iam.call(method, 403, name=account.replace("reader", "nobody"), body={"scope": scope})
for verb in ("generateIdToken", "signBlob", "signJwt"):
    iam.call("iamcredentials.projects.serviceAccounts." + verb, 501, name=account, body={})
used |= iam.used

every = all_methods(doc) | all_methods(iam_doc)
assert used <= every and every - used <= not_spoken, sorted(every - used - not_spoken)
assert not_spoken <= every, sorted(not_spoken - every)
print(len(used))
"#;

/// The client library, by REST, with everything that it makes of answers and errors.
const LIBRARY: &str = r#"
import sys
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import secretmanager_v1 as sm
from google.cloud.secretmanager_v1.services.secret_manager_service.transports.rest import SecretManagerServiceRestTransport

class Quiet(AnonymousCredentials):
    def refresh(self, request):
        """After a 401 the transport asks for it, and there is nothing to refresh."""

def client(address):
    transport = SecretManagerServiceRestTransport(host=address, url_scheme="http", credentials=Quiet())
    return sm.SecretManagerServiceClient(transport=transport)

def fails(kind, status, reason, call, **named):
    try:
        call(retry=None, **named)
    except kind as error:
        # The library goes by the code of HTTP; the status stands in the body that it kept.
        assert error.response.json()["error"]["status"] == status, error
        assert error.reason == reason, (error.reason, error)
        return error
    raise AssertionError(f"{call} did not fail")

one = client(sys.argv[1])
parent = "projects/shop-dev"
secret = one.create_secret(parent=parent, secret_id="key", secret={"replication": {"automatic": {}}, "labels": {"a": "b"}})
assert secret.name == "projects/111122223333/secrets/key" and secret.create_time.year >= 2024 and secret.replication.automatic is not None
data = bytes(range(256))
version = one.add_secret_version(parent=secret.name, payload={"data": data})
assert version.state == sm.SecretVersion.State.ENABLED, version
answer = one.access_secret_version(name=secret.name + "/versions/latest")
assert answer.payload.data == data and answer.name.endswith("/versions/1") and answer.payload.data_crc32c > 0
again = {"data": data, "data_crc32c": answer.payload.data_crc32c}
assert one.add_secret_version(parent=secret.name, payload=again).client_specified_payload_checksum
again["data_crc32c"] += 1
fails(exceptions.BadRequest, "INVALID_ARGUMENT", None, one.add_secret_version, parent=secret.name, payload=again)
one.disable_secret_version(name=secret.name + "/versions/2")
error = fails(exceptions.BadRequest, "FAILED_PRECONDITION", None, one.access_secret_version, name=secret.name + "/versions/latest")
assert error.message.endswith("is in DISABLED state."), error
assert one.access_secret_version(name=secret.name + "/versions/1").payload.data == data
changed = one.update_secret(secret={"name": secret.name, "version_aliases": {"good": 1}, "etag": secret.etag}, update_mask={"paths": ["version_aliases"]})
assert dict(changed.version_aliases) == {"good": 1}
assert one.get_secret_version(name=secret.name + "/versions/good").name.endswith("/1")
fails(exceptions.BadRequest, "FAILED_PRECONDITION", None, one.delete_secret, request={"name": secret.name, "etag": secret.etag})
for number in range(5):
    one.create_secret(parent=parent, secret_id=f"s{number}", secret={"replication": {"automatic": {}}})
pages = [[s.name.split("/")[-1] for s in page.secrets] for page in one.list_secrets(request={"parent": parent, "page_size": 4}).pages]
assert pages == [["s4", "s3", "s2", "s1"], ["s0", "key"]], pages
assert [v.state.name for v in one.list_secret_versions(parent=secret.name)] == ["DISABLED", "ENABLED"]
assert one.destroy_secret_version(name=secret.name + "/versions/1").destroy_time.year >= 2024
fails(exceptions.NotFound, "NOT_FOUND", None, one.get_secret, name=parent + "/secrets/none")
fails(exceptions.Conflict, "ALREADY_EXISTS", None, one.create_secret, parent=parent, secret_id="key", secret={"replication": {"automatic": {}}})
one.delete_secret(name=secret.name)

strict = client(sys.argv[2])
fails(exceptions.Unauthorized, "UNAUTHENTICATED", "CREDENTIALS_MISSING", strict.access_secret_version, name=parent + "/secrets/a/versions/1")
bearer = lambda token: [("authorization", "Bearer " + token)]
error = fails(exceptions.Forbidden, "PERMISSION_DENIED", "IAM_PERMISSION_DENIED", strict.access_secret_version,
    name=parent + "/secrets/a/versions/1", metadata=bearer("good"))
assert error.metadata["permission"] == "secretmanager.versions.access", error
fails(exceptions.Unauthorized, "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED", strict.access_secret_version,
    name=parent + "/secrets/a/versions/1", metadata=bearer("old"))
print("driven")
"#;

/// The sign-in library: every way to get a token that the server knows, and what a refusal becomes.
const SIGN_IN: &str = r#"
import base64, json, os, sys, tempfile
at, email = sys.argv[1], "reader@shop-dev.iam.gserviceaccount.com"
os.environ["GCE_METADATA_HOST"] = at.removeprefix("http://")
os.environ["GCE_METADATA_IP"] = at.removeprefix("http://")
import requests
from google.auth import compute_engine, exceptions, identity_pool, impersonated_credentials
from google.auth.transport.requests import Request
from google.oauth2 import credentials as user, service_account

scopes = ["https://www.googleapis.com/auth/cloud-platform"]
def may(credentials, secret="a", expect=200):
    credentials.refresh(Request())
    return asks(credentials.token, secret, expect)
def asks(token, secret, expect):
    url = f"{at}/v1/projects/shop-dev/secrets/{secret}/versions/latest:access"
    answer = requests.get(url, headers={"authorization": "Bearer " + token})
    assert answer.status_code == expect, (answer.status_code, answer.text)
def refused(credentials, word):
    try:
        credentials.refresh(Request())
    except exceptions.GoogleAuthError as error:
        assert word in str(error), error
    else:
        raise AssertionError("it was let in")

ada = lambda secret: user.Credentials(None, refresh_token="1//ada", client_id="id", client_secret=secret, token_uri=at + "/token")
may(ada("shh"), expect=403)
refused(ada("wrong"), "invalid_client")
refused(user.Credentials(None, refresh_token="1//gone", client_id="id", client_secret="shh", token_uri=at + "/token"), "invalid_grant")

key = json.loads(sys.argv[2])
info = {"type": "service_account", "client_email": email, "private_key": key["private"], "private_key_id": "k1", "token_uri": at + "/token"}
may(service_account.Credentials.from_service_account_info(info, scopes=scopes))
own = service_account.Credentials.from_service_account_info(info, scopes=scopes, always_use_jwt_access=True)
own._create_self_signed_jwt("https://secretmanager.googleapis.com/")
may(own)
may(own, "b", 403)
refused(service_account.Credentials.from_service_account_info(dict(info, private_key_id="k2"), scopes=scopes), "invalid_grant")
refused(service_account.Credentials.from_service_account_info(dict(info, client_email="no@x"), scopes=scopes), "invalid_grant")

def acting(source, target, delegates=()):
    made = impersonated_credentials.Credentials(source, target, scopes, delegates=list(delegates),
        iam_endpoint_override=f"{at}/v1/projects/-/serviceAccounts/{target}:generateAccessToken")
    return made
may(acting(ada("shh"), email))
refused(acting(ada("shh"), "far@shop-dev.iam.gserviceaccount.com"), "denied")
may(acting(ada("shh"), "far@shop-dev.iam.gserviceaccount.com", ["projects/-/serviceAccounts/" + email]), expect=403)

from google.auth import downscoped
from google.oauth2 import sts
def cut(*roles):
    rule = downscoped.AccessBoundaryRule("//storage.googleapis.com/projects/_/buckets/shop-assets", list(roles))
    made = downscoped.Credentials(acting(ada("shh"), email), downscoped.CredentialAccessBoundary([rule]))
    made._sts_client = sts.Client(at + "/v1/token")
    return made
may(cut("inRole:roles/storage.objectViewer"), expect=403)
refused(cut("inRole:roles/viewer"), "invalid_request")

audience = "//iam.googleapis.com/projects/111122223333/locations/global/workloadIdentityPools/ci/providers/ci"
def federated(token):
    file = tempfile.NamedTemporaryFile("w", delete=False)
    file.write(token); file.close()
    return identity_pool.Credentials(audience=audience, subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        token_url=at + "/v1/token", credential_source={"file": file.name}, scopes=scopes)
may(federated("subject"), expect=403)
refused(federated("other"), "invalid_grant")

may(compute_engine.Credentials())
assert requests.get(at + "/computeMetadata/v1/instance/service-accounts/default/email").status_code == 403
answer = requests.get(at + "/computeMetadata/v1/instance/service-accounts/default/email", headers={"metadata-flavor": "Google"})
assert answer.text == email and answer.headers["metadata-flavor"] == "Google"
print("signed in")
"#;

/// Makes an RSA key: the private half as PEM, the public one as PKCS #1 in base64.
const KEY: &str = r#"
import base64, json
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = key.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.PKCS1)
private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
print(json.dumps({"private": private.decode(), "public": base64.b64encode(public).decode()}))
"#;

#[test]
fn every_method_of_the_discovery_documents_is_answered_as_they_say() {
    let fake = FakeGcp::start();
    fake.allow_anonymous();
    fake.add_service_account("reader@shop-dev.iam.gserviceaccount.com", None);
    let said = python::run(DISCOVERY, &[&fake.url(), &fake.regional_url(), &NOT_SPOKEN.join(",")]);
    assert!(said.trim().parse::<usize>().is_ok_and(|methods| methods >= 38), "{said}");
}

#[test]
fn googles_own_client_library_works_with_it_and_reads_its_errors() {
    let (open, strict) = (FakeGcp::start(), FakeGcp::start());
    open.allow_anonymous();
    strict.add_token("good", "user:ada@example.com", Duration::from_secs(60));
    strict.add_token("old", "user:ada@example.com", Duration::from_secs(60));
    strict.advance(61);
    strict.add_token("good", "user:ada@example.com", Duration::from_secs(60));
    assert_eq!(python::run(LIBRARY, &[&open.address(), &strict.address()]), "driven\n");
}

#[test]
fn googles_own_sign_in_library_gets_its_tokens_and_its_refusals() {
    use base64::Engine as _;
    let (reader, far) = ("reader@shop-dev.iam.gserviceaccount.com", "far@shop-dev.iam.gserviceaccount.com");
    let key = python::run(KEY, &[]);
    let public = serde_json::from_str::<serde_json::Value>(&key).expect("JSON")["public"].clone();
    let public = base64::prelude::BASE64_STANDARD.decode(public.as_str().expect("text")).expect("base64");
    let fake = FakeGcp::start();
    fake.add_service_account(reader, Some(("k1", public)));
    fake.add_service_account(far, None);
    fake.add_refresh_token("1//ada", "user:ada@example.com", "id", "shh");
    let audience = "//iam.googleapis.com/projects/111122223333/locations/global/workloadIdentityPools/ci/providers/ci";
    fake.add_subject_token(audience, "subject", "principal://iam.googleapis.com/projects/111122223333/subject/ci");
    fake.set_metadata(reader);
    let creator = "roles/iam.serviceAccountTokenCreator";
    fake.bind(&format!("serviceAccounts/{reader}"), creator, "user:ada@example.com", None);
    fake.bind(&format!("serviceAccounts/{far}"), creator, &format!("serviceAccount:{reader}"), None);
    let admin = "user:root@example.com";
    fake.bind("projects/shop-dev", "roles/secretmanager.admin", admin, None);
    fake.add_token("root", admin, Duration::from_secs(600));
    let name = "projects/111122223333/secrets/a";
    let reads = Some(format!("resource.name.startsWith(\"{name}/versions/\")"));
    let accessor = "roles/secretmanager.secretAccessor";
    fake.bind("projects/shop-dev", accessor, &format!("serviceAccount:{reader}"), reads.as_deref());
    fake.put("a", b"of a");
    fake.put("b", b"of b");
    assert_eq!(python::run(SIGN_IN, &[&fake.url(), &key]), "signed in\n");
}
