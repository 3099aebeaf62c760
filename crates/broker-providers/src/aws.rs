//! Amazon Web Services: Secrets Manager, Parameter Store, and the ways to sign in that both share.

pub(crate) mod answer;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod narrow;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod profile_walk;
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
