//! The test servers: that they are there, and that a value put by hand comes back.

use broker_tests::servers::{Aws, unique};
use serde_json::json;

fn a_value_comes_back(aws: Aws) {
    let name = unique("echo");
    aws.create(&name, "first");
    let id = aws.put(&name, "second");
    let answer = aws.secrets_manager("GetSecretValue", &json!({"SecretId": name}));
    assert_eq!((answer["SecretString"].as_str(), answer["VersionId"].as_str()), (Some("second"), Some(id.as_str())));
}

#[test]
fn moto_gives_back_what_was_put() {
    a_value_comes_back(Aws::Moto);
}

#[test]
fn ministack_gives_back_what_was_put() {
    a_value_comes_back(Aws::Ministack);
}

#[test]
fn ministack_refuses_a_key_that_it_does_not_know() {
    let mut identity = Aws::Ministack.root();
    identity.key_id = "AKIAIOSFODNN7EXAMPLE".into();
    let (status, _) = Aws::Ministack.call(&identity, "secretsmanager", "secretsmanager.ListSecrets", &json!({}));
    assert!(status >= 400, "{status}: the server checks nothing, so its suite would prove nothing");
}
