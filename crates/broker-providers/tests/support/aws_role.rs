//! Roles at the test servers, scopes to narrow to, and an STS that remembers what it was asked for.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::principal::Tier;
use broker_core::scope::Scope;
use broker_tests::python;
use serde_json::{Value, json};

use super::fake_aws::{Call, FakeAws, Reply};
use super::{reference, unique};

/// Makes a role with one policy and prints its ARN.
const ROLE: &str = r#"
import sys, boto3
url, name, trust, policy = sys.argv[1:]
iam = boto3.client("iam", region_name="eu-west-1", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test")
role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy)
print(role["Arn"])
"#;

/// Returns the trust policy of `deploy/aws/`, for whoever is signed in at a test server.
pub fn trust() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/aws/trust.json");
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("arn:aws:iam::111122223333:role/developer"), "the example's own names");
    serde_json::from_str(&text.replace("arn:aws:iam::111122223333:role/developer", "*")).unwrap()
}

/// Makes a role in the server at `url` that may do `actions` everywhere, and returns its ARN.
pub fn role(url: &str, trust: &Value, actions: &[&str]) -> String {
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": actions, "Resource": "*" },
    ] });
    let said = python::run(ROLE, &[url, &unique("role"), &trust.to_string(), &policy.to_string()]);
    said.trim().to_owned()
}

/// Returns the scope of these references, as a person has it.
pub fn scope(references: &[&str]) -> Arc<Scope> {
    let references = references.iter().map(|text| reference(text));
    Arc::new(Scope::new(&[7; 32], "shop", "dev", "ada", Tier::Human, references))
}

/// What one `AssumeRole` said.
#[derive(Clone, Debug)]
pub struct Assumed {
    /// The parameters by name, those of lists as they are sent.
    pub form: Vec<(String, String)>,
}

impl Assumed {
    /// Returns a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the tags, `key=value`, in their order.
    pub fn tags(&self) -> Vec<String> {
        let of = |at: usize, part: &str| self.get(&format!("Tags.member.{at}.{part}"));
        (1..).map_while(|at| Some(format!("{}={}", of(at, "Key")?, of(at, "Value")?))).collect()
    }

    /// Returns what the session policy allows to be read.
    pub fn resources(&self) -> Vec<String> {
        let policy: Value = serde_json::from_str(self.get("Policy").expect("there is a policy")).unwrap();
        let all = policy["Statement"][0]["Resource"].as_array().unwrap().clone();
        all.iter().map(|arn| arn.as_str().unwrap().to_owned()).collect()
    }
}

/// An STS that remembers what it was asked for.
pub struct Sts {
    fake: FakeAws,
    seen: Arc<Mutex<Vec<Assumed>>>,
}

impl Sts {
    /// Starts one that answers with `answer`.
    pub fn new(answer: impl Fn(&Call, &Assumed) -> Reply + Send + Sync + 'static) -> Self {
        let seen = Arc::<Mutex<Vec<Assumed>>>::default();
        let into = Arc::clone(&seen);
        let fake = FakeAws::new(Duration::ZERO, move |call| {
            let assumed = Assumed { form: call.forms() };
            into.lock().unwrap().push(assumed.clone());
            answer(call, &assumed)
        });
        Self { fake, seen }
    }

    /// Starts one that passes everything on to the server at `url`.
    pub fn before(url: &str) -> Self {
        let url = url.to_owned();
        Self::new(move |_, _| Reply::Relay(url.clone()))
    }

    /// Returns its address.
    pub fn url(&self) -> String {
        self.fake.url()
    }

    /// Returns what it was asked for so far.
    pub fn seen(&self) -> Vec<Assumed> {
        self.seen.lock().unwrap().clone()
    }
}

/// Returns an answer of STS that issues keys, in AWS's form.
pub fn issues() -> Reply {
    let body = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
        <AccessKeyId>ASIAFAKE</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>t</SessionToken>\
        <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
    xml(200, body)
}

/// Returns an error of STS, in AWS's form.
pub fn refuses(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error></ErrorResponse>"
    );
    xml(status, &body)
}

fn xml(status: u16, body: &str) -> Reply {
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n", body.len());
    Reply::Raw(format!("{head}{body}").into_bytes())
}
