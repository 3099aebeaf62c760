//! The server against boto3, a client that others wrote: that it understands every answer, refusals included.

use super::*;
use crate::python;

/// Every operation and every refusal, as botocore reads them.
const PROGRAM: &str = r#"
import sys, urllib.request, boto3
from botocore import UNSIGNED
from botocore.config import Config
url, start = sys.argv[1], "https://example.awsapps.com/start"
config = Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1})
oidc = boto3.client("sso-oidc", region_name="eu-west-1", endpoint_url=url, config=config)
portal = boto3.client("sso", region_name="eu-west-1", endpoint_url=url, config=config)
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

def act(path):
    return urllib.request.urlopen(urllib.request.Request(url + path, method="POST")).status == 204

def refused(name, status, call, **args):
    try:
        call(**args)
    except Exception as error:
        assert type(error).__name__ == name or name == "ForbiddenException", (type(error), error)
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error.response
        assert error.response["Error"]["Code"] == name, error.response
        return error.response
    raise AssertionError(f"{name} did not come")

refused("InvalidClientMetadataException", 400, oidc.register_client, clientName="x", clientType="confidential")
refused("InvalidScopeException", 400, oidc.register_client, clientName="x", clientType="public", scopes=["all"])
refused("UnsupportedGrantTypeException", 400, oidc.register_client, clientName="x", clientType="public", grantTypes=["implicit"])
made = oidc.register_client(clientName="x", clientType="public", scopes=["sso:account:access"], grantTypes=[DEVICE, "refresh_token"])
assert made["clientSecretExpiresAt"] - made["clientIdIssuedAt"] == 90 * 86400
me = dict(clientId=made["clientId"], clientSecret=made["clientSecret"])
made = oidc.register_client(clientName="y", clientType="public")
other = dict(clientId=made["clientId"], clientSecret=made["clientSecret"])

refused("InvalidClientException", 401, oidc.start_device_authorization, clientId=me["clientId"], clientSecret="wrong", startUrl=start)
refused("InvalidClientException", 401, oidc.start_device_authorization, clientId=me["clientId"], clientSecret=other["clientSecret"], startUrl=start)
refused("InvalidRequestException", 400, oidc.start_device_authorization, startUrl="https://other.awsapps.com/start", **me)
asked = oidc.start_device_authorization(startUrl=start, **me)
assert asked["interval"] == 1 and asked["expiresIn"] == 600 and asked["userCode"] in asked["verificationUriComplete"], asked
code = dict(grantType=DEVICE, deviceCode=asked["deviceCode"])
refused("InvalidGrantException", 400, oidc.create_token, **code, **other)
refused("UnsupportedGrantTypeException", 400, oidc.create_token, grantType="password", **me)
refused("InvalidRequestException", 400, oidc.create_token, grantType=DEVICE, **me)
pending = refused("AuthorizationPendingException", 400, oidc.create_token, **code, **me)
assert pending["error"] == "authorization_pending", pending
slow = refused("SlowDownException", 400, oidc.create_token, **code, **me)
assert slow["error"] == "slow_down" and slow["error_description"], slow
assert act("/_clock/advance?seconds=2")
refused("SlowDownException", 400, oidc.create_token, **code, **me)
assert act("/_person/approve?user_code=" + asked["userCode"])
assert act("/_clock/advance?seconds=20")
token = oidc.create_token(**code, **me)
assert token["tokenType"] == "Bearer" and 0 < token["expiresIn"] <= 3600 and token["refreshToken"]
refused("InvalidGrantException", 400, oidc.create_token, **code, **me)

bearer = token["accessToken"]
role = dict(accountId="111122223333", roleName="Reader")
keys = portal.get_role_credentials(accessToken=bearer, **role)["roleCredentials"]
assert keys["accessKeyId"] == "ASIAREADER" and keys["secretAccessKey"] == "k" and keys["sessionToken"] == "t"
assert keys["expiration"] > 1_700_000_000_000
refused("UnauthorizedException", 401, portal.get_role_credentials, accessToken="wrong", **role)
refused("UnauthorizedException", 401, portal.get_role_credentials, accessToken=token["refreshToken"], **role)
refused("ForbiddenException", 403, portal.get_role_credentials, accessToken=bearer, accountId="111122223333", roleName="Admin")
refused("ResourceNotFoundException", 404, portal.list_account_roles, accessToken=bearer, accountId="999999999999")
pages = list(portal.get_paginator("list_accounts").paginate(accessToken=bearer, PaginationConfig={"PageSize": 1}))
assert [a["accountId"] for page in pages for a in page["accountList"]] == ["111122223333", "444455556666"] and len(pages) == 2
roles = portal.list_account_roles(accessToken=bearer, accountId="111122223333")["roleList"]
assert [r["roleName"] for r in roles] == ["Reader", "Writer"], roles

assert act("/_clock/advance?seconds=3600")
refused("UnauthorizedException", 401, portal.get_role_credentials, accessToken=bearer, **role)
refresh = dict(grantType="refresh_token", refreshToken=token["refreshToken"])
refused("InvalidGrantException", 400, oidc.create_token, **refresh, **other)
renewed = oidc.create_token(**refresh, **me)
refused("InvalidGrantException", 400, oidc.create_token, **refresh, **me)
portal.get_role_credentials(accessToken=renewed["accessToken"], **role)
portal.logout(accessToken=renewed["accessToken"])
refused("UnauthorizedException", 401, portal.logout, accessToken=renewed["accessToken"])
refused("InvalidGrantException", 400, oidc.create_token, grantType="refresh_token", refreshToken=renewed["refreshToken"], **me)

asked = oidc.start_device_authorization(startUrl=start, **me)
assert act("/_person/reject?user_code=" + asked["userCode"])
refused("AccessDeniedException", 400, oidc.create_token, grantType=DEVICE, deviceCode=asked["deviceCode"], **me)
asked = oidc.start_device_authorization(startUrl=start, **me)
assert act("/_clock/advance?seconds=600")
refused("ExpiredTokenException", 400, oidc.create_token, grantType=DEVICE, deviceCode=asked["deviceCode"], **me)

asked = oidc.start_device_authorization(startUrl=start, **other)
assert act("/_person/approve?user_code=" + asked["userCode"])
short = oidc.create_token(grantType=DEVICE, deviceCode=asked["deviceCode"], **other)
assert "refreshToken" not in short, "without the scope there is no refresh token"
asked = oidc.start_device_authorization(startUrl=start, **me)
assert act("/_person/approve?user_code=" + asked["userCode"])
token = oidc.create_token(grantType=DEVICE, deviceCode=asked["deviceCode"], **me)
assert act("/_clock/advance?seconds=28800")
refused("ExpiredTokenException", 400, oidc.create_token, grantType="refresh_token", refreshToken=token["refreshToken"], **me)
assert act("/_clock/advance?seconds=7776000")
refused("InvalidClientException", 401, oidc.start_device_authorization, startUrl=start, **me)
print("all of it")
"#;

#[test]
fn the_official_client_understands_every_answer_and_every_refusal() {
    let sso = AwsSso::start("https://example.awsapps.com/start");
    let keys = |id: &str| RoleKeys { key_id: id.into(), key: "k".into(), token: "t".into() };
    sso.assign("111122223333", "Reader", keys("ASIAREADER"));
    sso.assign("111122223333", "Writer", keys("ASIAWRITER"));
    sso.assign("444455556666", "Reader", keys("ASIAOTHER"));
    assert_eq!(python::run(PROGRAM, &[&sso.url()]).trim(), "all of it");
    assert!(sso.calls("/token") > 10);
}
