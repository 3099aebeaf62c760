//! Vault and OpenBao, for the table of faults.

use broker_core::instance::InstanceSettings;
use broker_providers::registry::Instance;
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;

use crate::matrix::{Clock, World};
use crate::support::vault::{at, ours, with_token};

/// Opens an instance on our own server, with a KV engine of version 2.
pub fn on_ours(timeout: &str) -> World {
    let server = ours();
    let proxy = Proxy::new(&server.ours().address());
    let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..at(&proxy.url()) };
    let sign_in = with_token(server.root());
    let server = std::sync::Arc::new(server);
    let clock = std::sync::Arc::clone(&server);
    World {
        instance: Instance::fixed(settings),
        sign_in,
        reference: |name| format!("org://secret/{name}"),
        // The mount is known since the secrets were put.
        requests: 3,
        throttled: (
            429,
            json!({ "errors": ["request path \"secret/data/x\": rate limit quota exceeded"] }).to_string(),
        ),
        failed: json!({ "errors": ["1 error occurred:\n\t* internal error\n\n"] }).to_string(),
        expired: Fault::Answer(
            403,
            json!({ "errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"] }).to_string(),
        ),
        // A token ends by the server's clock, and ours does not matter.
        clock: Clock::Moves(Box::new(move |seconds| clock.ours().turn_clock(seconds))),
        wrong_types: vec![
            json!({ "data": 7 }).to_string(),
            json!({ "data": { "data": "text", "metadata": { "version": 1 } } }).to_string(),
            json!({ "data": { "data": { "value": "canary-3f9c1d" }, "metadata": { "version": "one" } } }).to_string(),
        ],
        alive: vec![Box::new(server)],
        ..World::new(proxy)
    }
}
