//! The files of the embedded store, as files: private, whole, ours.
//!
//! The directory is 0700 and its files 0600. What is a symbolic link, belongs to another user or is no regular file is
//! refused, and a mode that others could use is tightened before anything is read.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Largest small file that is read, in bytes.
const MAX_SMALL: u64 = 64 * 1024;

/// A file or directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system said no.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to another user, or is a link, a directory or a device.
    #[error("`{}` is not a file of this user", path.display())]
    NotOurs {
        /// Which file.
        path: PathBuf,
    },
    /// It is there already.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    /// Tells whether the file was there already.
    pub(crate) fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }
}

/// Makes `dir` and what leads to it, private; tightens it where it stands.
pub(crate) fn private_dir(dir: &Path) -> Result<(), FileError> {
    let io = |source| FileError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let about = fs::symlink_metadata(dir).map_err(io)?;
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(FileError::NotOurs { path: dir.to_owned() });
    }
    if about.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

/// Opens `path` for reading and writing, making it private and empty where it is missing.
pub(crate) fn open_private(path: &Path) -> Result<File, FileError> {
    let file = options().read(true).write(true).create(true).truncate(false).open(path);
    let file = ours(file.map_err(|source| FileError::Io { path: path.to_owned(), source })?, path)?;
    sync_dir_of(path)?;
    Ok(file)
}

/// Reads the small file `path`, if it is there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let file = match options().read(true).open(path) {
        Ok(file) => ours(file, path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SMALL).read_to_end(&mut bytes).map_err(io)?;
    Ok(Some(bytes))
}

/// Makes the file `path` with what `write` writes: whole, durable, or not at all.
pub(crate) fn write_new(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let mut aside = path.to_owned().into_os_string();
    aside.push(format!(".new.{}", std::process::id()));
    let aside = PathBuf::from(aside);
    // A leftover of a process that died with our id.
    let _ = fs::remove_file(&aside);
    let made = options().read(true).write(true).create_new(true).open(&aside).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        // Unlike a rename, a link fails where there is a file.
        fs::hard_link(&aside, path)
    });
    let _ = fs::remove_file(&aside);
    match made {
        Ok(()) => sync_dir_of(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(FileError::Exists { path: path.to_owned() }),
        Err(error) => Err(io(error)),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Non-blocking, so that a FIFO in the place of a file does not hang us.
    options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

fn ours(file: File, path: &Path) -> Result<File, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let about = file.metadata().map_err(io)?;
    if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(FileError::NotOurs { path: path.to_owned() });
    }
    if about.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    }
    Ok(file)
}

/// Makes the appearance of `path` itself durable.
fn sync_dir_of(path: &Path) -> Result<(), FileError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| FileError::Io { path: dir.to_owned(), source })
}
