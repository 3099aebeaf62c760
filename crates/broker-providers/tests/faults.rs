//! What goes wrong between us and every manager, one table for all of them: each kind at each fault.
//!
//! A kind is a row: a function that opens a [`World`](matrix::World), its manager behind a proxy. For each fault the
//! table says which kind of failure it is, in how much time and after how many requests at most, that nothing else
//! suffers, that no value is in any message, and that all is well again afterwards.
#![allow(dead_code, unreachable_pub, reason = "each row uses its part of the table")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "faults/aws.rs"]
mod aws;
#[path = "faults/azure.rs"]
mod azure;
#[path = "faults/gcp.rs"]
mod gcp;
#[path = "faults/matrix.rs"]
mod matrix;
mod support;
#[path = "faults/vault.rs"]
mod vault;

#[tokio::test(flavor = "multi_thread")]
async fn aws_secrets_manager_on_moto() {
    matrix::check(aws::on_moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_secret_manager_on_a_fake() {
    matrix::check(gcp::on_a_fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_on_a_server_of_our_own() {
    matrix::check(vault::on_ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_key_vault() {
    matrix::check(azure::at_the_vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_authority_of_azure() {
    matrix::check(azure::at_the_login).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_parameter_store_on_moto() {
    matrix::check(aws::parameter_store_on_moto).await;
}
