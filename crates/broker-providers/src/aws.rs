//! Amazon Web Services: Secrets Manager, Parameter Store, what STS and RDS take in place of passwords, and the ways to sign
//! in that all of them share.

pub(crate) mod answer;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod narrow;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod profile_walk;
pub(crate) mod rds;
pub(crate) mod role_session;
pub(crate) mod scoped;
pub(crate) mod session;
pub(crate) mod sign_in;
pub(crate) mod sm;
pub(crate) mod sm_fetch;
pub(crate) mod sm_manage;
pub(crate) mod source;
pub(crate) mod ssm;
pub(crate) mod ssm_list;
pub(crate) mod ssm_name;
pub(crate) mod ssm_value;
pub(crate) mod sso;
pub(crate) mod sso_cache;
pub(crate) mod sts;
