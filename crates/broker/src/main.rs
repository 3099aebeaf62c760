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
mod sign_in;
mod table;

use dlmalloc::GlobalDlmalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what it frees. Not musl's own: that one maps and unmaps pages for every few allocations, which is a fifth of a
/// millisecond of a short life.
#[global_allocator]
static WIPING: ZeroAlloc<GlobalDlmalloc> = ZeroAlloc(GlobalDlmalloc);
