//! The specifications: what the two programs do, seen from outside.
//!
//! One binary, one module per subject. `cargo xtask test` runs them against both test servers, as root and as an
//! ordinary user.

mod audit;
mod aws;
mod concurrency;
mod daemon;
mod daemon_faults;
mod endpoint;
mod environment;
mod exec;
mod faults;
mod gcp;
mod harness;
mod issued;
mod keeper;
mod leak;
mod lease_life;
mod manifest;
mod meeting_place;
mod narrow;
mod program;
mod secrets;
mod servers;
mod shop;
mod sign_in;
mod source;
mod sudden_death;
mod terminal;
mod trust;
mod vault_shop;
