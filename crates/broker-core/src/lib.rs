//! The words of the broker and its pure rules.
//!
//! Every other crate speaks in these types. Nothing here reads a file, opens a socket, looks at a clock (time is an
//! argument) or waits: what a rule needs is handed to it.
#![forbid(unsafe_code)]

pub mod code;
pub mod decision;
pub mod diagnostic;
pub mod duration;
pub mod event;
pub mod generate;
pub mod instance;
pub mod lease;
pub mod manifest;
pub mod principal;
pub mod reference;
pub mod request;
pub mod reserved;
pub mod scope;
pub mod secret;
pub mod sign_in;
pub mod suggest;
