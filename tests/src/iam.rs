//! Roles at the test servers, made with AWS's own client.

use serde_json::json;

use crate::python;
use crate::servers::{Aws, unique};

/// Makes a role with one policy and prints its ARN.
const ROLE: &str = r#"
import sys, boto3
url, name, trust, policy = sys.argv[1:]
iam = boto3.client("iam", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test")
role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy)
print(role["Arn"])
"#;

/// Makes a role that everybody may assume, tags and source identity included, and that may do `actions` everywhere.
/// Returns its ARN.
#[must_use]
pub fn role(server: Aws, actions: &[&str]) -> String {
    role_trusting(server, &["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"], actions)
}

/// Makes a role whose trust policy allows everybody `assume`, and that may do `actions` everywhere. Returns its ARN.
#[must_use]
pub fn role_trusting(server: Aws, assume: &[&str], actions: &[&str]) -> String {
    let trust = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": "*" }, "Action": assume },
    ] });
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": actions, "Resource": "*" },
    ] });
    let url = format!("http://{}", server.address());
    python::run(ROLE, &[&url, &unique("role").replace('/', "-"), &trust.to_string(), &policy.to_string()])
        .trim()
        .to_owned()
}
