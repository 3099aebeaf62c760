//! Azure Key Vault, and the ways to sign in to it.

pub(crate) mod answer;
pub(crate) mod az;
pub(crate) mod kv;
pub(crate) mod login;
pub(crate) mod place;
pub(crate) mod sign_in;
pub(crate) mod text;
pub(crate) mod token;
pub(crate) mod versions;
