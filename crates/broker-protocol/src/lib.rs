//! What crosses the socket, the two ends' meeting place, and the blocking client.
#![forbid(unsafe_code)]

pub mod client;
pub mod directories;
mod http;
pub mod message;
pub mod place;
pub mod regular;
pub mod seal;
pub mod sign_in;
pub mod start;
