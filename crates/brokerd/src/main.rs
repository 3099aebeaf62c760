//! The broker of one user: a daemon that decides, fetches and keeps watch, and never shows a value to anyone but the
//! process it was granted to.
#![deny(unsafe_code)]

mod audit;
mod broker;
mod config;
mod detach;
mod endpoint;
mod explain;
mod fetch;
mod fork;
mod give_back;
mod harden;
mod keeper;
mod leases;
mod ledger;
mod ledger_memory;
mod listen;
mod operations;
mod peer;
mod pipeline;
mod project;
mod quota;
mod refusal;
mod revocation;
mod routes;
mod run;
mod scopes;
mod server;
mod sign_in;
mod signals;
mod subject;
mod trust;

use std::alloc::System;
use std::process::ExitCode;

/// Wipes every allocation when it is freed: buffers of HTTP, TLS, JSON and the SDKs hold values that no type of ours sees.
#[global_allocator]
static WIPED: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["start"] => run::start(),
        ["keep"] => keeper::keep(),
        ["run"] => run::run(),
        ["--version"] => run::say(concat!("brokerd ", env!("CARGO_PKG_VERSION"))),
        _ => run::usage(),
    }
}
