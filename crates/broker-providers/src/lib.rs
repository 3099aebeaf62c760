//! The stores that secrets are read from and written to.
//!
//! A provider is one file and one row in [`registry`]. Wrappers such as [`cached`] are providers themselves.
#![forbid(unsafe_code)]

mod aws_answer;
mod aws_http;
mod aws_json;
mod aws_keys;
mod aws_login;
mod aws_profile;
mod aws_profile_walk;
mod aws_session;
mod aws_sign_in;
mod aws_sm;
mod aws_sm_fetch;
mod aws_sm_manage;
mod aws_source;
mod aws_ssm;
mod aws_ssm_list;
mod aws_ssm_name;
mod aws_ssm_value;
mod aws_sso;
mod aws_sso_cache;
mod azure_answer;
mod azure_az;
pub mod azure_kv;
mod azure_login;
mod azure_place;
mod azure_sign_in;
mod azure_text;
mod azure_token;
mod azure_versions;
pub mod cached;
mod clock;
#[cfg(feature = "contract")]
pub mod contract;
mod exec;
mod exec_exchange;
mod exec_program;
mod exec_protocol;
mod fault;
mod field;
mod file_stamp;
mod flight;
mod gcp_answer;
mod gcp_hint;
mod gcp_name;
mod gcp_session;
mod gcp_sign_in;
mod gcp_sm;
mod gcp_token;
mod gcp_wire;
mod keyring;
mod keyring_store;
pub mod local;
mod local_crypto;
mod local_db;
mod local_files;
mod local_key;
mod local_keyring;
pub mod login;
pub mod provider;
pub mod registry;
pub mod resolve;
mod rest;
mod sign_in_flow;
mod sign_in_keep;
pub mod sign_ins;
#[cfg(test)]
mod sign_ins_tests;
mod vault;
mod vault_kv;
mod vault_list;
mod vault_mounts;
mod vault_oidc;
mod vault_sign_in;
mod vault_wire;
mod words;
