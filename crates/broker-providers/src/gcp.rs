//! Google Cloud: Secret Manager, tokens for one run, and the ways to sign in.

pub(crate) mod answer;
pub(crate) mod endpoint;
pub(crate) mod hint;
pub(crate) mod issued;
pub(crate) mod name;
pub(crate) mod session;
pub(crate) mod sign_in;
pub(crate) mod sm;
pub(crate) mod token;
pub(crate) mod wire;
