//! Servers of our own that speak the wire format of managers of which no server can be installed.
//!
//! Each is checked by a client that others wrote, and its header lists what it can't show. All state is in memory and
//! ends with the server.

pub mod aws_sso;
pub mod azure;
pub mod gcp;
pub mod github;
pub mod vault;
