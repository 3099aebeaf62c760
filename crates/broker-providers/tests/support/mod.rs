//! What the tests of the providers share: test servers by their addresses, instances on them, and a server that misbehaves.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part of this module")]

pub mod aws_role;
pub mod azure;
pub mod fake_aws;
pub mod program;
pub mod vault;

use std::path::Path;
use std::sync::Arc;

use broker_core::instance::InstanceSettings;
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use broker_providers::issue::Unkept;
use broker_providers::registry::{Context, Instance, Registry};

/// Returns the address of the test server that the variable `name` gives.
pub fn server(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these through: cargo xtask test"))
}

/// Returns a registry with its store in `dir` and no keyring.
pub fn registry(dir: &Path) -> Registry {
    Registry::new(Context { data_dir: dir.join("data"), keyring: false, ledger: Arc::new(Unkept) })
}

/// Returns an instance as a manifest would configure it.
pub fn of_manifest(settings: &InstanceSettings) -> Instance {
    Instance::of_manifest(settings.clone())
}

/// Returns an AWS instance at `endpoint`.
pub fn aws(endpoint: &str) -> InstanceSettings {
    InstanceSettings {
        region: Some("eu-west-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        ..InstanceSettings::of_kind("aws-secrets-manager")
    }
}

/// Returns an instance of Google Cloud's Secret Manager at `endpoint`, for a server that asks for no sign-in.
pub fn gcp(endpoint: &str) -> InstanceSettings {
    InstanceSettings { auth: Some("anonymous".to_owned()), ..gcp_signed_in(endpoint) }
}

/// Returns an instance of Google Cloud's Secret Manager at `endpoint`, for a server that asks for a sign-in.
pub fn gcp_signed_in(endpoint: &str) -> InstanceSettings {
    InstanceSettings {
        project: Some("shop-dev".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        ..InstanceSettings::of_kind("gcp-secret-manager")
    }
}

/// Returns the text of a file of credentials as `gcloud auth application-default login` writes it.
pub fn gcp_user_file(refresh_token: &str) -> String {
    serde_json::json!({
        "type": "authorized_user", "client_id": "client", "client_secret": "client-secret",
        "refresh_token": refresh_token, "universe_domain": "googleapis.com",
    })
    .to_string()
}

/// Turns a name into a secret's id of Google Cloud: what is neither letter, digit nor `-` becomes `_` and its number.
pub fn secret_id(name: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    name.bytes().map(|b| if fits(b) { char::from(b).to_string() } else { format!("_{b:02x}") }).collect()
}

/// Returns an instance of Parameter Store at `endpoint`.
pub fn aws_ssm(endpoint: &str) -> InstanceSettings {
    InstanceSettings { kind: "aws-parameter-store".to_owned(), ..aws(endpoint) }
}

/// Returns the sign-in of these variables.
pub fn signed_in(variables: &[(&str, &str)]) -> SignIn {
    SignIn::new(variables.iter().map(|(name, value)| ((*name).to_owned(), SecretValue::from((*value).to_owned()))))
}

/// Returns the root sign-in of the test servers.
pub fn root() -> SignIn {
    signed_in(&[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
}

/// Reads a reference.
pub fn reference(text: &str) -> SecretRef {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns a name that no other run used.
pub fn unique(word: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("{word}-{}-{}", std::process::id(), since.as_nanos())
}

/// Writes a measured figure into the directory that `BROKER_TEST_FIGURES` names, if it names one.
pub fn figure(name: &str, text: &str) {
    if let Some(dir) = std::env::var_os("BROKER_TEST_FIGURES") {
        std::fs::write(Path::new(&dir).join(name), format!("{text}\n")).expect("the figure can be written");
    }
}
