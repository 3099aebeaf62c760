//! The policies under `deploy/aws/` suffice for what they are for, and lack nothing that could be left out: with any one
//! statement taken away, the operation that it is for is denied.
//!
//! On ministack, which decides by action and resource. It does not know which parameters a `GetParameters` asks for and
//! takes it for one of everything, so that statement is tried without its resource; nor does it ask KMS, so those of
//! KMS are not tried.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider};
use broker_providers::registry::Registry;
use broker_tests::python;
use serde_json::{Value, json};
use support::{aws, aws_ssm, of_manifest, reference, registry, root, server, signed_in, unique};
use tokio::time::Instant;

/// Makes a user with one policy and prints its keys.
const USER: &str = r#"
import sys, boto3
url, name, policy = sys.argv[1:]
iam = boto3.client("iam", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test")
iam.create_user(UserName=name)
iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
key = iam.create_access_key(UserName=name)["AccessKey"]
print(key["AccessKeyId"], key["SecretAccessKey"])
"#;

/// Reads the policies of a kind as one, for a folder of this test's own in the account of the server.
fn policy(kind: &str, folder: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for right in ["read", "write"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../deploy/aws/{kind}-{right}.json"));
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("111122223333") && text.contains("shop/dev"), "the example's own names");
        let text = text.replace("111122223333", "000000000000").replace("shop/dev", folder);
        let policy: Value = serde_json::from_str(&text).unwrap();
        all.extend(
            policy["Statement"].as_array().unwrap().iter().filter(|s| s["Sid"] != "OnlyForAKeyOfYourOwn").cloned(),
        );
    }
    for statement in all.iter_mut().filter(|statement| statement["Action"] == "ssm:GetParameters") {
        statement["Resource"] = json!("*");
    }
    all
}

/// Whoever has these statements and no others.
struct User {
    registry: Registry,
    provider: Arc<dyn Provider>,
    _dir: tempfile::TempDir,
}

impl User {
    fn with(statements: &[Value], settings: &InstanceSettings) -> Self {
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        let said = python::run(USER, &[&server("BROKER_TEST_MINISTACK"), &unique("user"), &policy.to_string()]);
        let (id, key) = said.trim().split_once(' ').unwrap();
        let sign_in = signed_in(&[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", key)]);
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        let provider = registry.open("org", &of_manifest(settings), &sign_in).unwrap().provider;
        Self { registry, provider, _dir: dir }
    }

    /// Does what one statement is for.
    async fn does(&self, sid: &str, folder: &str, doomed: &str) -> Result<(), ErrorKind> {
        let name = |name: &str| reference(&format!("org://{folder}/{name}"));
        let value = || SecretValue::new(b"x".to_vec());
        let done = match sid {
            "ReadTheseSecrets" | "ReadTheseParameters" | "TwentyToACall" => {
                let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(10)) };
                let fetched = self.provider.fetch(&[name("a"), name("b")], options).await;
                fetched.into_iter().try_for_each(|result| result.map(|_| ()))
            }
            "SetTheseSecrets" | "SetTheseParameters" | "ListNamesAndKeepTheirKeys" => {
                self.provider.put(&name(&unique("new")), value(), soon()).await.map(|_| ())
            }
            "TellAndMoveTheirVersions" => match self.provider.describe(&name("a"), soon()).await {
                Ok(_) => self.provider.demote(&name("moved"), soon()).await,
                Err(error) => Err(error),
            },
            "TellTheirVersions" => self.provider.describe(&name("a"), soon()).await.map(|_| ()),
            "TellTheirTags" => match self.provider.describe(&name("a"), soon()).await {
                // Where they may not be read the rest is told all the same.
                Ok(described) if described.tags.is_empty() => return Err(ErrorKind::Denied),
                other => other.map(|_| ()),
            },
            "RemoveThem" => self.provider.delete(&name(&format!("doomed/{sid}-{doomed}")), soon()).await,
            "ListNames" => self.provider.list(ListOptions { prefix: folder, tags: &[] }, soon()).await.map(|_| ()),
            other => panic!("nobody tries `{other}`"),
        };
        done.map_err(|error| error.kind)
    }

    fn calls(&self) -> u64 {
        self.registry.calls().iter().map(|(_, count)| count).sum()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Puts what the operations need in place, as root.
async fn prepare(settings: &InstanceSettings, folder: &str, sid: &str) {
    let dir = tempfile::tempdir().unwrap();
    let provider = registry(dir.path()).open("org", &of_manifest(settings), &root()).unwrap().provider;
    for name in ["a", "b", "moved", "moved", &format!("doomed/{sid}")] {
        let reference = reference(&format!("org://{folder}/{name}"));
        provider.put(&reference, SecretValue::new(b"x".to_vec()), soon()).await.unwrap();
    }
}

async fn each_statement_is_needed(kind: &str, settings: &InstanceSettings, folder: &str) {
    let all = policy(kind, folder.trim_start_matches('/'));
    for left_out in &all {
        let sid = left_out["Sid"].as_str().unwrap();
        prepare(settings, folder, &format!("{sid}-whole")).await;
        let whole = User::with(&all, settings);
        assert_eq!(whole.does(sid, folder, "whole").await, Ok(()), "with all of them, `{sid}`");
        prepare(settings, folder, &format!("{sid}-lacking")).await;
        let rest: Vec<_> = all.iter().filter(|statement| *statement != left_out).cloned().collect();
        let lacking = User::with(&rest, settings);
        let done = lacking.does(sid, folder, "lacking").await;
        if sid == "TwentyToACall" {
            // It only costs more calls.
            assert_eq!((done, whole.calls(), lacking.calls()), (Ok(()), 1, 3));
        } else {
            assert_eq!(done, Err(ErrorKind::Denied), "without `{sid}`");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_of_secrets_manager_suffice_and_every_statement_is_needed() {
    let folder = unique("policy");
    each_statement_is_needed("secrets-manager", &aws(&server("BROKER_TEST_MINISTACK")), &folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_of_parameter_store_suffice_and_every_statement_is_needed() {
    let folder = format!("/{}", unique("policy"));
    let settings = aws_ssm(&server("BROKER_TEST_MINISTACK"));
    prepare(&settings, &folder, "tagged").await;
    let tags = json!([{ "Key": "team", "Value": "shop" }]);
    let body = json!({ "ResourceType": "Parameter", "ResourceId": format!("{folder}/a"), "Tags": tags });
    let server = broker_tests::servers::Aws::Ministack;
    assert_eq!(server.call(&server.root(), "ssm", "AmazonSSM.AddTagsToResource", &body).0, 200);
    each_statement_is_needed("parameter-store", &settings, &folder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_some_secrets_does_not_open_others() {
    let (folder, other) = (unique("policy"), unique("other"));
    let settings = aws(&server("BROKER_TEST_MINISTACK"));
    prepare(&settings, &other, "RemoveThem-other").await;
    let user = User::with(&policy("secrets-manager", &folder), &settings);
    for sid in ["ReadTheseSecrets", "SetTheseSecrets", "TellAndMoveTheirVersions", "RemoveThem"] {
        assert_eq!(user.does(sid, &other, "other").await, Err(ErrorKind::Denied), "{sid}");
    }
}
