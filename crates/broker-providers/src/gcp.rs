//! Google Cloud Secret Manager, and the ways to sign in to it.

pub(crate) mod answer;
pub(crate) mod endpoint;
pub(crate) mod hint;
pub(crate) mod name;
pub(crate) mod session;
pub(crate) mod sign_in;
pub(crate) mod sm;
pub(crate) mod token;
pub(crate) mod wire;
