//! Where client and daemon meet: one private directory per user.
//!
//! `$XDG_RUNTIME_DIR/broker`, else `/run/user/UID/broker`, else `/tmp/broker-UID`. The directory is created with mode
//! 0700 and believed only if it is a real directory of this user that nobody else may enter; every directory above it
//! must be one that no other user can rearrange. A squatted path, a symlink, a foreign owner and a loose mode are
//! refused, so that nobody is made to talk to somebody else's daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The meeting place of one user's clients and daemon.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

/// Why the meeting place is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// `XDG_RUNTIME_DIR` is set to something that is no absolute path.
    #[error("`XDG_RUNTIME_DIR` is not an absolute path")]
    Relative,
    /// The path, or a part of it, is a symbolic link or no directory.
    #[error("`{0}` is not a directory (a symbolic link or a file stands there)")]
    NotADirectory(PathBuf),
    /// Somebody else owns it.
    #[error("`{path}` belongs to uid {owner}, not to uid {own}")]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others may enter or write.
    #[error("`{path}` has mode {mode:04o} and is open to others")]
    LooseMode {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The kernel refused.
    #[error("`{path}` cannot be used: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PlaceError {
    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Relative => "unset it, or set it to a directory of yours such as /run/user/UID".to_owned(),
            Self::NotADirectory(path) | Self::ForeignOwner { path, .. } => {
                format!(
                    "find out who put it there, remove `{}`, or set XDG_RUNTIME_DIR to a directory of yours",
                    path.display()
                )
            }
            Self::LooseMode { path, .. } => format!("look what is in it, then: chmod 0700 {}", path.display()),
            Self::Io { .. } => "set XDG_RUNTIME_DIR to a directory of yours with mode 0700".to_owned(),
        }
    }
}

impl Place {
    /// Finds the meeting place and makes sure of it, creating the last directory where needed.
    ///
    /// # Errors
    /// See [`PlaceError`]; nothing is changed then.
    pub fn find() -> Result<Self, PlaceError> {
        let uid = rustix::process::getuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        match runtime {
            Some(dir) if !dir.is_absolute() => Err(PlaceError::Relative),
            Some(dir) => Self::in_runtime_dir(&dir, uid),
            None => {
                let run = PathBuf::from(format!("/run/user/{uid}"));
                if fs::lstat(&run).is_ok_and(|stat| stat.st_uid == uid) {
                    Self::in_runtime_dir(&run, uid)
                } else {
                    Self::at(PathBuf::from(format!("/tmp/broker-{uid}")), uid)
                }
            }
        }
    }

    fn in_runtime_dir(runtime: &Path, uid: u32) -> Result<Self, PlaceError> {
        let open = open_directory(runtime)?;
        check(runtime, &open, uid, 0o022)?;
        Self::at(runtime.join("broker"), uid)
    }

    fn at(dir: PathBuf, uid: u32) -> Result<Self, PlaceError> {
        match fs::mkdir(&dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(PlaceError::Io { path: dir, source: error.into() }),
        }
        let open = open_directory(&dir)?;
        check(&dir, &open, uid, 0o077)?;
        Ok(Self { dir })
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("broker.sock")
    }

    /// Returns the file that a client locks while it starts the daemon.
    #[must_use]
    pub fn start_lock(&self) -> PathBuf {
        self.dir.join("start.lock")
    }

    /// Returns the file that the daemon's keeper keeps locked while it lives.
    #[must_use]
    pub fn keeper_lock(&self) -> PathBuf {
        self.dir.join("keeper.lock")
    }

    /// Returns the file that the daemon keeps locked while it serves.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.dir.join("daemon.lock")
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, PlaceError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
    fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => PlaceError::NotADirectory(path.to_owned()),
        error => PlaceError::Io { path: path.to_owned(), source: error.into() },
    })
}

/// Checks owner and mode through the open descriptor, so that what was checked is what was opened.
fn check(path: &Path, dir: &OwnedFd, uid: u32, forbidden: u32) -> Result<(), PlaceError> {
    let stat = fs::statat(dir, "", AtFlags::EMPTY_PATH)
        .map_err(|error| PlaceError::Io { path: path.to_owned(), source: error.into() })?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(PlaceError::NotADirectory(path.to_owned()));
    }
    if stat.st_uid != uid {
        return Err(PlaceError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid, own: uid });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & forbidden != 0 {
        return Err(PlaceError::LooseMode { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn own() -> u32 {
        rustix::process::getuid().as_raw()
    }

    #[test]
    fn a_private_directory_is_made_and_believed() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::in_runtime_dir(runtime.path(), own()).unwrap();
        assert_eq!(std::fs::metadata(place.dir()).unwrap().permissions().mode() & 0o7777, 0o700);
        Place::in_runtime_dir(runtime.path(), own()).unwrap();
    }

    #[test]
    fn a_symbolic_link_in_its_place_is_refused() {
        let runtime = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), runtime.path().join("broker")).unwrap();
        assert!(matches!(Place::in_runtime_dir(runtime.path(), own()), Err(PlaceError::NotADirectory(_))));
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let runtime = tempfile::tempdir().unwrap();
        std::fs::write(runtime.path().join("broker"), "").unwrap();
        assert!(matches!(Place::in_runtime_dir(runtime.path(), own()), Err(PlaceError::NotADirectory(_))));
    }

    #[test]
    fn a_loose_mode_is_refused_and_named() {
        let runtime = tempfile::tempdir().unwrap();
        let dir = runtime.path().join("broker");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750)).unwrap();
        let error = Place::in_runtime_dir(runtime.path(), own()).unwrap_err();
        assert!(error.to_string().contains("mode 0750"), "{error}");
    }

    #[test]
    fn a_foreign_owner_is_refused() {
        let runtime = tempfile::tempdir().unwrap();
        let error = Place::at(runtime.path().join("broker"), own() + 1).unwrap_err();
        assert!(matches!(error, PlaceError::ForeignOwner { .. }), "{error}");
    }

    #[test]
    fn a_runtime_directory_that_others_may_write_is_refused() {
        let runtime = tempfile::tempdir().unwrap();
        std::fs::set_permissions(runtime.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Place::in_runtime_dir(runtime.path(), own()), Err(PlaceError::LooseMode { .. })));
    }
}
