//! Gives memory back to the system that is of no use any more.
//!
//! A fetch of many secrets allocates and frees some megabytes for HTTP, TLS and JSON. The C library keeps freed pages for
//! the next burst; a daemon that then idles for hours should not hold them, and wiped pages are best not held at all. And
//! the keeper is a large program of which it needs a little: the rest was read once, by the dynamic linker.
#![allow(unsafe_code)]

/// Returns every free page of the heap to the system, where the C library has a call for it (malloc_trim(3)).
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) takes a plain number, touches free memory only, and is safe to call from any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of this program and its libraries that are as the files have them. What is needed comes back.
pub(crate) fn give_back_code() {
    // SAFETY: `forget_unwritten` does what dl_iterate_phdr(3) asks of its callback and keeps no pointer.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::dl_iterate_phdr(Some(forget_unwritten), std::ptr::null_mut());
    }
}

/// Forgets the segments of one loaded object that cannot be written: code, constants, the linker's tables.
#[cfg(target_os = "linux")]
unsafe extern "C" fn forget_unwritten(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: usize = 4096;
    // SAFETY: the linker passes an object that is loaded, with `dlpi_phnum` headers, for as long as this call takes.
    let (base, headers) = unsafe {
        let object = &*object;
        if object.dlpi_phdr.is_null() {
            return 0;
        }
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // A program that has its own code relocated has one segment for all, which can be written.
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let start = (base + header.p_vaddr as usize) & !(PAGE - 1);
        let length = base + header.p_vaddr as usize + header.p_filesz as usize - start;
        // SAFETY: the segment is a private mapping of a file that nothing of this process has written to, so that its
        // pages are read from the file again when they are touched (madvise(2), MADV_DONTNEED). A failure changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    0
}
