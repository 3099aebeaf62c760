//! What crosses the socket, and the two ends' meeting place.
#![forbid(unsafe_code)]

pub mod message;
pub mod place;
