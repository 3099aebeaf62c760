//! A vault of the Azure fake, and an instance that reads it.

use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;
use broker_providers::registry::Instance;
use broker_tests::fakes::azure::{Application, Azure, TENANT};

use super::signed_in;

/// Returns an instance at `vault` that signs in at `authority`, as the user's configuration fixes it.
pub fn azure(vault: &str, authority: &str) -> InstanceSettings {
    InstanceSettings {
        address: Some(vault.to_owned()),
        authority: Some(authority.to_owned()),
        ..InstanceSettings::of_kind("azure-key-vault")
    }
}

/// Returns an instance at the fake.
pub fn at(azure_fake: &Azure) -> Instance {
    Instance::fixed(azure(&azure_fake.vault().url(), &azure_fake.login().url()))
}

/// Returns the sign-in of an application, by its client secret.
pub fn by_secret(application: &Application) -> SignIn {
    signed_in(&[
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", &application.client_id),
        ("AZURE_CLIENT_SECRET", &application.secret),
    ])
}

/// Writes a name of the contract as a vault takes it: lower case, with `q` before what a vault does not know.
pub fn name(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        match c {
            'q' => name.push_str("qq"),
            '_' => name.push_str("qu"),
            '/' => name.push_str("qs"),
            'A'..='Z' => name.extend(['q', 'c', c.to_ascii_lowercase()]),
            _ => name.push(c),
        }
    }
    name
}
