//! The harness: hermetic homes, real servers, a proxy that misbehaves on demand, and the ways to look at a process.
//!
//! Everything here speaks to the programs from the outside, over the command line, the socket's wire format and the
//! files they leave. Nothing here links a crate of theirs, so a mistake in a shared type can't hide itself.

pub mod canary;
pub mod deadline;
pub mod fake_daemon;
pub mod fakes;
pub mod home;
pub mod http;
pub mod iam;
pub mod process;
pub mod programs;
pub mod project;
pub mod proxy;
pub mod python;
pub mod run;
pub mod serve;
pub mod servers;
pub mod sigv4;
pub mod trace;
pub mod user;
pub mod wire;
