//! Azure Key Vault, for the table of faults: the vault itself, and the login authority before it.

use broker_core::instance::InstanceSettings;
use broker_providers::provider::ErrorKind;
use broker_providers::registry::Instance;
use broker_tests::fakes::azure::{Azure, Role};
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;

use crate::matrix::{Clock, World};
use crate::support::azure::{azure, by_secret};

/// Opens an instance whose way to the vault is disturbed.
pub fn at_the_vault(timeout: &str) -> World {
    let fake = Azure::start();
    let proxy = Proxy::new(&fake.vault().address());
    let (vault, authority) = (proxy.url(), fake.login().url());
    let unauthorized =
        json!({ "error": { "code": "Unauthorized", "message": "[TokenExpired] Error validating token: 'S2S12086'." } });
    World {
        requests: 3,
        throttled: (
            429,
            json!({ "error": { "code": "Throttled", "message": "too many requests were received" } }).to_string(),
        ),
        failed: json!({ "error": { "code": "InternalServerError", "message": "Internal server error" } }).to_string(),
        expired: Fault::AnswerWith(
            401,
            vec![(
                "www-authenticate".to_owned(),
                "Bearer authorization=\"https://login.microsoftonline.com/x\", resource=\"https://vault.azure.net\""
                    .to_owned(),
            )],
            unauthorized.to_string(),
        ),
        wrong_types: vec![
            json!({ "id": "https://v/secrets/a/0123456789abcdef0123456789abcdef", "value": 7 }).to_string(),
            json!({ "id": "https://v/secrets/a/0123456789abcdef0123456789abcdef", "value": null }).to_string(),
            json!({ "id": 7, "value": "canary-3f9c1d" }).to_string(),
            json!({ "id": "https://v/secrets/other/0123456789abcdef0123456789abcdef", "value": "canary-3f9c1d" })
                .to_string(),
        ],
        ..world(fake, proxy, &vault, &authority, timeout)
    }
}

/// Opens an instance whose way to the login authority is disturbed. Nobody is signed in yet when the fault comes.
pub fn at_the_login(timeout: &str) -> World {
    let fake = Azure::start();
    let proxy = Proxy::new(&fake.login().address());
    let (vault, authority) = (fake.vault().url(), proxy.url());
    World {
        requests: 1,
        throttled: (429, json!({ "error": "temporarily_unavailable", "error_description": "AADSTS90033: A transient error has occurred." }).to_string()),
        failed: json!({ "error": "server_error", "error_description": "AADSTS90006: The service is temporarily unavailable." }).to_string(),
        expired: Fault::Answer(401, json!({ "error": "invalid_client", "error_description": "AADSTS7000222: The provided client secret keys are expired. Trace ID: x" }).to_string()),
        wrong_types: vec![json!({ "access_token": 7, "expires_in": 3599 }).to_string(), json!({ "expires_in": 3599 }).to_string()],
        before: |registry| registry.forget_all(),
        spared: vec![("half of it fails", "one sign-in is for all of them")],
        ..world(fake, proxy, &vault, &authority, timeout)
    }
}

fn world(fake: Azure, proxy: Proxy, vault: &str, authority: &str, timeout: &str) -> World {
    let application = fake.application();
    fake.assign(&application.oid, Role::SecretsOfficer);
    let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..azure(vault, authority) };
    let fake = std::sync::Arc::new(fake);
    let clock = std::sync::Arc::clone(&fake);
    World {
        instance: Instance::fixed(settings),
        sign_in: by_secret(&application),
        expired_is: Some(ErrorKind::Unauthenticated),
        // Tokens are for an hour, counted by the clock that nobody sets.
        clock: Clock::Moves(Box::new(move |seconds| clock.move_clock(seconds))),
        alive: vec![Box::new(fake)],
        ..World::new(proxy)
    }
}
