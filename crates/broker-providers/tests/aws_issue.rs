//! What AWS issues for one run: sessions of roles, and tokens to sign in to databases.
//!
//! Sessions are issued by ministack and tried with the official client; tokens are compared with those that it signs. What
//! cannot be shown here is a database that takes one: none that can be installed asks AWS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::Duration;

use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_core::reference::SecretRef;
use broker_core::sign_in::SignIn;
use broker_providers::issue::{Issued, Order};
use broker_providers::provider::{ErrorKind, FetchOptions, ProviderError};
use broker_tests::python;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::aws_role::{Sts, issues, refuses, role, scope, trust};
use support::{aws, of_manifest, reference, registry, root, server, signed_in};
use tokio::time::Instant;

const DATABASE: &str = "shop.abc123.eu-central-1.rds.amazonaws.com:5432/app.user@corp";

fn settings(kind: &str, url: &str) -> InstanceSettings {
    InstanceSettings { kind: kind.to_owned(), ..aws(url) }
}

fn order(ttl: Duration) -> Order {
    Order { lease: LeaseId::from_random([5; 24]), scope: scope(&[]), ttl, key: None }
}

async fn issue(
    settings: &InstanceSettings,
    sign_in: &SignIn,
    text: &str,
    ttl: Duration,
) -> Result<Issued, ProviderError> {
    let dir = tempfile::tempdir().unwrap();
    let provider = registry(dir.path()).open("org", &of_manifest(settings), sign_in).unwrap().provider;
    let soon = Instant::now() + Duration::from_secs(20);
    provider.issue(&[reference(text)], &order(ttl), soon).await.remove(0)
}

async fn issue_role(settings: &InstanceSettings, text: &str) -> Result<Issued, ProviderError> {
    issue(settings, &root(), text, Duration::from_secs(1800)).await
}

fn text(issued: &Issued) -> String {
    String::from_utf8(issued.value.expose().to_vec()).unwrap()
}

/// Prints as whom one is signed in.
const WHO: &str = r#"
import sys, json, boto3
url, keys = sys.argv[1], json.loads(sys.argv[2])
assert set(keys) == {"Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"} and keys["Version"] == 1
sts = boto3.client("sts", region_name="eu-west-1", endpoint_url=url, aws_access_key_id=keys["AccessKeyId"],
                   aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"])
print(sts.get_caller_identity()["Arn"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_for_the_run_and_the_run_stands_in_its_name() {
    let url = server("BROKER_TEST_MINISTACK");
    let (arn, sts) = (role(&url, &trust(), &["s3:*"]), Sts::before(&url));
    let settings = InstanceSettings { endpoint_sts: Some(sts.url()), ..settings("aws-sts", &url) };
    let issued = issue_role(&settings, &format!("org://{arn}")).await.unwrap();
    let lease = order(Duration::ZERO).lease;
    let who = python::run(WHO, &[&url, &text(&issued)]);
    assert!(who.trim().ends_with(&format!("/ada@{lease}")) && who.contains(":assumed-role/"), "{who}");
    let value: Value = serde_json::from_str(&text(&issued)).unwrap();
    let expires: Timestamp = value["Expiration"].as_str().unwrap().parse().unwrap();
    assert_eq!(issued.credential.expires, expires);
    assert!(issued.credential.revocation.is_none());
    let left = expires.duration_since(Timestamp::now());
    assert!(
        left > SignedDuration::from_mins(29) && left <= SignedDuration::from_mins(30),
        "as long as the run: {left}"
    );
    let [assumed] = sts.seen().try_into().unwrap();
    assert_eq!(assumed.get("SourceIdentity"), Some("ada"));
    assert!(assumed.tags().contains(&format!("broker:lease={lease}")), "{:?}", assumed.tags());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_says_how_long_and_with_which_policies() {
    let sts = Sts::new(|_, _| issues());
    let mut settings = InstanceSettings { external_id: Some("own".to_owned()), ..settings("aws-sts", &sts.url()) };
    let arn = "org://arn:aws:iam::111122223333:role/deploy";
    let policies = "policy-arns=arn:aws:iam::aws:policy/ReadOnlyAccess,arn:aws:iam::111122223333:policy/p";
    issue_role(&settings, arn).await.unwrap();
    issue_role(&settings, &format!("{arn}?duration=1h&external-id=ext&{policies}")).await.unwrap();
    settings.session_ttl = Some("20m".to_owned());
    issue_role(&settings, arn).await.unwrap();
    settings.assume_role = Some(Words::from("arn:aws:iam::111122223333:role/hop"));
    issue_role(&settings, arn).await.unwrap();
    let seen = sts.seen();
    let of = |name: &str| seen.iter().map(|assumed| assumed.get(name)).collect::<Vec<_>>();
    // Not beyond the run. The role on the way is assumed as every request of the instance assumes it.
    assert_eq!(of("DurationSeconds"), [Some("1800"), Some("1800"), Some("1200"), None, Some("1200")]);
    assert_eq!(of("ExternalId"), [Some("own"), Some("ext"), Some("own"), Some("own"), None]);
    assert_eq!(seen[1].get("PolicyArns.member.2.arn"), Some("arn:aws:iam::111122223333:policy/p"));
    let error = issue_role(&settings, &format!("{arn}?duration=soon")).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.cause.contains("`duration`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_role_or_asked_for_outside_a_run_reaches_nobody() {
    let sts = Sts::new(|_, _| issues());
    let settings = settings("aws-sts", &sts.url());
    for text in ["org://deploy", "org://arn:aws:iam::111122223333:user/x", "org://arn:aws:iam::1:role/x"] {
        let error = issue_role(&settings, text).await.unwrap_err();
        assert!(error.kind == ErrorKind::NotFound && error.cause.contains("the ARN of no role"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let provider = registry(dir.path()).open("org", &of_manifest(&settings), &root()).unwrap().provider;
    let role: SecretRef = reference("org://arn:aws:iam::111122223333:role/deploy");
    let options = FetchOptions::within(Duration::from_secs(5));
    let error = provider.fetch(&[role], options).await.remove(0).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.cause.contains("for one run"), "{error}");
    assert!(sts.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_policy_that_refuses_tags_is_an_error_that_says_what_to_add() {
    let url = server("BROKER_TEST_MINISTACK");
    let mut without = trust();
    without["Statement"][0]["Action"] = json!(["sts:AssumeRole"]);
    let (arn, sts) = (role(&url, &without, &["s3:*"]), Sts::before(&url));
    let settings = InstanceSettings { endpoint_sts: Some(sts.url()), ..settings("aws-sts", &url) };
    let error = issue_role(&settings, &format!("org://{arn}")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("add `sts:TagSession`")), "{:?}", error.hint);
    assert_eq!(sts.seen().len(), 1, "nothing else is tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_the_role_does_not_allow_is_said_in_the_words_of_sts() {
    let words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
    let sts = Sts::new(move |_, _| refuses(400, "ValidationError", words));
    let arn = "org://arn:aws:iam::111122223333:role/deploy?duration=12h";
    let error = issue_role(&settings("aws-sts", &sts.url()), arn).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.cause.contains(words), "{error}");
    assert!(error.hint.unwrap().contains("`session-ttl`"));
    assert_eq!(sts.seen().len(), 1);
}

/// Signs a token at the time of another one and prints it.
const TOKEN: &str = r#"
import sys, datetime, boto3, botocore.auth
key, secret, session, time, host, port, user, region = sys.argv[1:]
now = datetime.datetime.strptime(time, "%Y%m%dT%H%M%SZ")
class Then(datetime.datetime):
    @classmethod
    def utcnow(cls): return now
    @classmethod
    def now(cls, tz=None): return now.replace(tzinfo=tz)
botocore.auth.datetime = type("clock", (), {"datetime": Then, "timezone": datetime.timezone})
if hasattr(botocore.auth, "get_current_datetime"):
    botocore.auth.get_current_datetime = lambda *a, **k: now
rds = boto3.client("rds", region_name=region, aws_access_key_id=key, aws_secret_access_key=secret,
                   aws_session_token=session or None)
print(rds.generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername=user, Region=region))
"#;

/// Returns the address of a token and its parameters, ordered by name.
fn parts(token: &str) -> (String, Vec<(String, String)>) {
    let (address, query) = token.trim().split_once('?').unwrap();
    let mut pairs = broker_tests::http::Message::pairs(query);
    pairs.sort();
    (address.to_owned(), pairs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_the_one_that_the_official_client_signs() {
    for session in [None, Some("se/ss+ion==")] {
        let mut variables =
            vec![("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")];
        variables.extend(session.map(|token| ("AWS_SESSION_TOKEN", token)));
        let settings = settings("aws-rds-iam", "http://127.0.0.1:9");
        let text_of = format!("org://{DATABASE}");
        let issued = issue(&settings, &signed_in(&variables), &text_of, Duration::from_secs(60)).await.unwrap();
        let token = text(&issued);
        assert!(
            token.starts_with("shop.abc123.eu-central-1.rds.amazonaws.com:5432/?Action=connect&DBUser="),
            "{token}"
        );
        let (address, pairs) = parts(&token);
        let time = pairs.iter().find(|(name, _)| name == "X-Amz-Date").unwrap().1.clone();
        let (host, user) = ("shop.abc123.eu-central-1.rds.amazonaws.com", "app.user@corp");
        let arguments = [variables[0].1, variables[1].1, session.unwrap_or_default(), &time, host, "5432", user];
        let theirs = python::run(TOKEN, &[&arguments[..], &["eu-central-1"]].concat());
        assert_eq!((address, pairs), parts(&theirs), "signature included");
        let left = issued.credential.expires.duration_since(Timestamp::now());
        assert!(left > SignedDuration::from_mins(14) && left <= SignedDuration::from_mins(15), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_region_of_a_token_is_said_or_in_the_name_or_that_of_the_instance() {
    let settings = settings("aws-rds-iam", "http://127.0.0.1:9");
    for (path, region) in [
        (DATABASE, "eu-central-1"),
        ("db.corp.example:3306/app", "eu-west-1"),
        ("db.corp.example:3306/app?region=us-east-1", "us-east-1"),
    ] {
        let issued = issue_role(&settings, &format!("org://{path}")).await.unwrap();
        let scope = format!("%2F{region}%2Frds-db%2Faws4_request");
        assert!(text(&issued).contains(&scope), "{path}: {}", text(&issued));
    }
    for path in ["db", "db:3306/a*", "db:3306/a?region=a.b"] {
        let error = issue_role(&settings, &format!("org://{path}")).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unsupported), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_role_a_session_of_the_run_signs_that_may_only_connect_as_this_user() {
    let sts = Sts::new(|_, _| issues());
    let assume_role = Some(Words::from("arn:aws:iam::111122223333:role/shop"));
    let settings = InstanceSettings { assume_role, ..settings("aws-rds-iam", &sts.url()) };
    let issued = issue_role(&settings, &format!("org://{DATABASE}")).await.unwrap();
    assert!(text(&issued).contains("Credential=ASIAFAKE%2F"), "{}", text(&issued));
    let [assumed] = sts.seen().try_into().unwrap();
    assert_eq!(assumed.get("RoleSessionName"), Some(format!("ada@{}", order(Duration::ZERO).lease).as_str()));
    let policy: Value = serde_json::from_str(assumed.get("Policy").unwrap()).unwrap();
    let resource = "arn:aws:rds-db:eu-central-1:111122223333:dbuser:*/app.user@corp";
    let statement = json!([{ "Effect": "Allow", "Action": "rds-db:connect", "Resource": resource }]);
    assert_eq!(policy["Statement"], statement);
}
