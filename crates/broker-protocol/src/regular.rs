//! Opens files of our own directories as what they have to be: regular files.
//!
//! Another program of the user can put a link, a FIFO or a device where a file of ours belongs. Opened naively, a FIFO
//! blocks for ever and a link leads elsewhere; here both are errors.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens `path` with `options`, following no link, waiting for nobody.
///
/// # Errors
/// Those of open(2); `ELOOP` for a link; [`io::ErrorKind::InvalidInput`] for anything but a regular file.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        // A FIFO that is opened for writing and that nobody reads.
        let fifo = error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error());
        if fifo { not_regular() } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_fifo_a_link_and_a_directory_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [&fifo, &link, &dir.path().to_owned()] {
            assert!(open(path, OpenOptions::new().read(true)).is_err(), "{}", path.display());
            assert!(open(path, OpenOptions::new().append(true)).is_err(), "{}", path.display());
        }
        let file = dir.path().join("file");
        open(&file, OpenOptions::new().append(true).create(true)).unwrap();
    }
}
