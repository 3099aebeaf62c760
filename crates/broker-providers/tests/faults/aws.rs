//! AWS Secrets Manager, for the table of faults.

use broker_core::instance::InstanceSettings;
use broker_providers::provider::ErrorKind;
use broker_providers::registry::Instance;
use broker_tests::proxy::{Fault, Proxy};
use serde_json::json;

use crate::matrix::{Clock, World};
use crate::support::{aws, root, server};

/// Opens an instance on moto.
pub fn on_moto(timeout: &str) -> World {
    let proxy = Proxy::new(server("BROKER_TEST_MOTO").trim_start_matches("http://").trim_end_matches('/'));
    let settings = InstanceSettings { timeout: Some(timeout.to_owned()), ..aws(&proxy.url()) };
    let error = |status: u16, code: &str, message: &str| {
        Fault::Answer(status, json!({ "__type": code, "message": message }).to_string())
    };
    World {
        instance: Instance::of_manifest(settings),
        sign_in: root(),
        throttled: (429, json!({ "__type": "ThrottlingException", "message": "Rate exceeded" }).to_string()),
        failed: json!({ "__type": "InternalServiceError", "message": "An error occurred on the server side." })
            .to_string(),
        expired: error(400, "ExpiredTokenException", "The security token included in the request is expired"),
        clock: Clock::Says(error(
            400,
            "InvalidSignatureException",
            "Signature expired: 20261122T120000Z is now earlier than 20261122T120500Z (20261122T121000Z - 5 min.)",
        )),
        wrong_types: vec![
            json!({ "SecretValues": 7 }).to_string(),
            json!({ "SecretValues": [{ "Name": 1 }] }).to_string(),
        ],
        differs: vec![(
            "reset in the middle",
            ErrorKind::Malformed,
            "the SDK does not tell a broken body from a wrong one",
        )],
        ..World::new(proxy)
    }
}

/// Opens an instance of Parameter Store on moto.
pub fn parameter_store_on_moto(timeout: &str) -> World {
    let world = on_moto(timeout);
    let kind = "aws-parameter-store".to_owned();
    World {
        instance: Instance::of_manifest(InstanceSettings { kind, ..world.instance.settings.clone() }),
        reference: |name| format!("org:///{name}"),
        failed: json!({ "__type": "InternalServerError", "message": "An error occurred on the server side." })
            .to_string(),
        wrong_types: vec![json!({ "Parameters": 7 }).to_string(), json!({ "Parameters": [{ "Name": 1 }] }).to_string()],
        differs: Vec::new(),
        ..world
    }
}
