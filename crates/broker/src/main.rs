//! The command line of the broker: words in, one request to the daemon, words out, or a child in our place.
#![cfg_attr(not(test), no_main)]
#![deny(unsafe_code)]

mod around;
mod ask;
mod call;
mod cli;
mod commands;
mod complete;
mod entry;
mod manifest_file;
mod prompt;
mod report;
mod session;
mod table;

#[global_allocator]
static WIPING: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);
