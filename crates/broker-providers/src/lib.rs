//! The stores that secrets are read from and written to.
//!
//! A provider is one file and one row in [`registry`]. Wrappers such as [`cached`] are providers themselves.
#![forbid(unsafe_code)]

mod aws;
mod azure;
pub mod cached;
mod clock;
#[cfg(feature = "contract")]
pub mod contract;
mod exec;
mod fault;
mod field;
mod file_stamp;
mod flight;
mod gcp;
mod github;
pub mod issue;
mod keyring;
mod kinds;
pub mod local;
pub mod login;
pub mod provider;
pub mod registry;
pub mod resolve;
mod rest;
pub mod sign_ins;
mod vault;
mod words;
