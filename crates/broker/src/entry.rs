//! Where the C library enters, in place of `std`'s own start.
//!
//! `std` sets SIGPIPE to be ignored before `main`, and an ignored signal stays ignored through execve(2): every child
//! would then differ from what its caller started (`yes | head` would complain instead of ending). There is no stable
//! way to ask `std` not to, so the program begins here. What `std`'s start does beyond that and we need is done below:
//! arguments, closed standard descriptors, a panic that does not cross into C.
//!
//! The only unsafe code of this program, and its argument: the C library passes `argc` valid, NUL-terminated strings
//! that nobody changes (C23 5.1.2.3.2); a descriptor that a flag names is taken over once, before anything else of ours
//! has been opened, and after fcntl(2) said that it is open.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::fd::{BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The C library's entry.
#[cfg(not(test))]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let code = std::panic::catch_unwind(|| {
        occupy_standard_descriptors();
        crate::report::hide_panic_payloads();
        // SAFETY: see the header.
        crate::cli::run(unsafe { arguments(argc, argv) })
    });
    std::process::exit(code.unwrap_or(crate::report::BROKER_FAILED).into())
}

#[cfg_attr(test, allow(dead_code))]
unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: `argv` has `argc` entries, each a C string that lives as long as the process.
    let argument = |at: usize| unsafe { CStr::from_ptr(*argv.add(at)) };
    (0..count).map(|at| OsStr::from_bytes(argument(at).to_bytes()).to_owned()).collect()
}

/// Puts `/dev/null` where a standard descriptor is closed, so that no file of ours gets its number and our words don't
/// land in a socket. Close-on-exec: the child finds it closed, as our caller left it.
#[cfg_attr(test, allow(dead_code))]
fn occupy_standard_descriptors() {
    let (stdin, stdout, stderr) = (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    let none = PollFlags::empty();
    let mut fds = [
        PollFd::from_borrowed_fd(stdin, none),
        PollFd::from_borrowed_fd(stdout, none),
        PollFd::from_borrowed_fd(stderr, none),
    ];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)).is_err() {
        return;
    }
    for _ in fds.iter().filter(|fd| fd.revents().contains(PollFlags::NVAL)) {
        // The lowest free number is taken (open(2)), which is the closed one, in order.
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            let _ = null.into_raw_fd();
        }
    }
}

/// Takes over the descriptor that a flag names, closed to the child from now on; `None` when it is not open.
pub(crate) fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: borrowed for the two calls only; a number that is not open makes the first of them fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: see the header; `call.rs` calls this once, first of all.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
