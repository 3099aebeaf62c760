//! The child: which program, in which environment, and how it is launched.
#![forbid(unsafe_code)]

pub mod command;
pub mod environment;
pub mod launch;
pub mod plan;
