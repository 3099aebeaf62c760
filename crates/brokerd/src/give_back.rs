//! Gives freed memory back to the system once a burst is over.
//!
//! A fetch of many secrets allocates and frees some megabytes for HTTP, TLS and JSON. The C library keeps freed pages for
//! the next burst; a daemon that then idles for hours should not hold them, and wiped pages are best not held at all.
#![allow(unsafe_code)]

/// Returns every free page of the heap to the system, where the C library has a call for it (malloc_trim(3)).
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) takes a plain number, touches free memory only, and is safe to call from any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
