//! Google Cloud Secret Manager, for the table of faults: the service and the token endpoint, both behind the proxy.

use std::sync::Arc;

use broker_core::instance::InstanceSettings;
use broker_providers::registry::Instance;
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;

use crate::matrix::{Clock, World};
use crate::support::{gcp_signed_in, gcp_user_file, signed_in};

/// Opens an instance on a fake, signed in as a person.
pub(crate) fn on_a_fake(timeout: &str) -> World {
    let fake = Arc::new(FakeGcp::start());
    let ada = "user:ada@example.com";
    fake.add_refresh_token("1//ada", ada, "client", "client-secret");
    fake.bind("projects/shop-dev", "roles/secretmanager.admin", ada, None);
    let dir = tempfile::tempdir().unwrap();
    let adc = dir.path().join("adc.json");
    std::fs::write(&adc, gcp_user_file("1//ada")).unwrap();
    let proxy = Proxy::new(&fake.address());
    let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..gcp_signed_in(&proxy.url()) };
    let error = |code: u16, status: &str, message: &str| {
        json!({ "error": { "code": code, "message": message, "status": status } }).to_string()
    };
    let named = |rest: &str| format!(r#"{{"name":"projects/1/secrets/x/versions/1"{rest}}}"#);
    World {
        // Not a manifest's, which could not send this sign-in to an address of its own.
        instance: Instance::fixed(settings),
        sign_in: signed_in(&[("GOOGLE_APPLICATION_CREDENTIALS", adc.to_str().unwrap())]),
        requests: 3,
        throttled: (429, error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Access requests'.")),
        failed: error(500, "INTERNAL", "Internal error encountered."),
        expired: Fault::Answer(401, error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")),
        clock: Clock::Moves(Box::new({
            let fake = Arc::clone(&fake);
            move |seconds| fake.advance(seconds)
        })),
        wrong_types: vec![
            named(r#","payload":7"#),
            named(r#","payload":{"data":7,"dataCrc32c":"0"}"#),
            named(r#","payload":{"data":"%%","dataCrc32c":"0"}"#),
        ],
        alive: vec![Box::new((fake, dir))],
        ..World::new(proxy)
    }
}
