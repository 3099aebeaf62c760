//! What Microsoft's own Python clients think of the fake.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Application, Azure, Role, TENANT};
use crate::python;

struct World {
    azure: Azure,
    officer: Application,
    one: Application,
}

impl World {
    fn new() -> Self {
        let azure = Azure::start();
        let (officer, one) = (azure.application(), azure.application());
        azure.assign(&officer.oid, Role::SecretsOfficer);
        azure.assign_at(&one.oid, Role::SecretsUser, "db-url");
        let _ = azure.seed("db-url", "postgres://db");
        Self { azure, officer, one }
    }

    fn run(&self, name: &str, more: Value) {
        let application =
            |known: &Application| json!({ "client_id": known.client_id, "oid": known.oid, "secret": known.secret });
        let mut setup = json!({
            "run": name, "tenant": TENANT, "vault": self.azure.vault().address(), "login": self.azure.login().address(),
            "metadata": self.azure.metadata().address(), "officer": application(&self.officer), "one": application(&self.one),
        });
        setup.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        assert_eq!(python::run(include_str!("official_clients.py"), &[&setup.to_string()]), "held\n");
    }
}

#[test]
fn secrets_are_written_read_listed_deleted_and_recovered() {
    World::new().run("secrets", json!({}));
}

#[test]
fn a_role_at_one_secret_opens_that_one_and_no_list() {
    World::new().run("denials", json!({ "denial": "ForbiddenByRbac" }));
}

#[test]
fn an_access_policy_knows_no_single_secret() {
    let world = World::new();
    world.azure.use_access_policies();
    world.run("denials_by_policy", json!({}));
}

#[test]
fn a_closed_firewall_refuses_everybody() {
    let world = World::new();
    world.azure.set_firewall(true);
    world.run("firewall", json!({}));
}

#[test]
fn a_vault_without_time_says_when_to_come_back() {
    let world = World::new();
    // One for the challenge.
    world.azure.set_quota(1, Some(7));
    world.run("throttled", json!({}));
}

#[test]
fn a_sign_in_that_fails_says_why_in_entras_codes() {
    let world = World::new();
    let ended = world.azure.application();
    world.azure.expire_secret(&ended);
    world.run("sign_ins_that_fail", json!({ "ended": { "client_id": ended.client_id, "secret": ended.secret } }));
}

#[test]
fn a_token_for_something_else_or_of_somebody_else_does_not_count() {
    World::new().run("tokens_that_do_not_count", json!({}));
}

#[test]
fn a_federated_assertion_signs_in_while_it_is_valid() {
    let world = World::new();
    let (issuer, subject) = ("https://oidc.shop.example", "system:serviceaccount:shop:web");
    world.azure.federate(&world.one, issuer, subject);
    let old = world.azure.assertion(issuer, subject, Duration::ZERO);
    world.run(
        "workload",
        json!({
            "assertion": world.azure.assertion(issuer, subject, Duration::from_secs(3600)), "old_assertion": old,
            "foreign_assertion": world.azure.assertion(issuer, "system:serviceaccount:other:web", Duration::from_secs(3600)),
        }),
    );
}

#[test]
fn the_identity_of_a_machine_is_had_from_its_metadata_service() {
    let world = World::new();
    world.azure.give_identity(&world.one);
    world.run("machine", json!({}));
}

#[test]
fn a_device_code_signs_a_person_in_and_is_asked_for_once() {
    let world = World::new();
    let person = world.azure.person();
    world.azure.assign(&person.oid, Role::SecretsUser);
    world.azure.set_device_interval(Duration::from_secs(1));
    world.azure.consent_after(1, &person);
    world.azure.set_token_life(Duration::from_secs(60));
    world.run("device", json!({}));
}
