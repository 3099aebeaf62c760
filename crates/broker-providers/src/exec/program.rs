//! The pinned program of an `exec` instance: read once, checked, and from then on unchangeable.
//!
//! Its bytes are copied into memory that is sealed against every change (memfd_create(2), fcntl(2) on `F_ADD_SEALS`), and
//! what is hashed and what is started is that copy. So nothing that happens to the file afterwards runs, not even a write
//! into it between the check and the start. The file is looked at again for every start: once it was touched, or others
//! can change it, it is read and checked anew. The pin covers these bytes alone: not the interpreter that a script names,
//! nor what the program loads or starts itself.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::file_stamp::FileStamp;

/// Largest program that is taken, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// How much is copied at a time.
const CHUNK: usize = 64 * 1024;

/// Which program, and which bytes it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    path: PathBuf,
    sha256: [u8; 32],
}

/// A program as it was checked.
#[derive(Debug)]
pub(crate) struct Program {
    /// Where it was read, for messages and as its own name for itself.
    pub(crate) path: PathBuf,
    /// The sealed copy, open for reading alone.
    pub(crate) image: File,
    /// Whether it is a script, which its interpreter opens once more by a name.
    pub(crate) is_script: bool,
    /// The state of the file before it was read.
    stamp: Option<FileStamp>,
}

/// Why a program is not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// `command` does not begin with a plain absolute path.
    #[error("`command` begins with the absolute path of a program, without `.` and `..`")]
    NotAbsolute,
    /// `sha256` is no digest.
    #[error("`sha256` is the digest of the program: 64 hex digits, as sha256sum prints them")]
    NotADigest,
    /// It cannot be opened or read.
    #[error("program `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("`{}` is no regular file", .0.display())]
    NotRegular(PathBuf),
    /// No execute permission at all.
    #[error("program `{}` is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// Longer than any program that makes sense here.
    #[error("program `{}` is larger than {} MiB", .0.display(), MAX_BYTES >> 20)]
    TooLarge(PathBuf),
    /// Somebody other than this user and root could put another file in its place.
    #[error("program `{}` stands where others can change it: `{}` {why}", path.display(), at.display())]
    Exposed {
        /// The program.
        path: PathBuf,
        /// The file or directory at fault.
        at: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not the program that was pinned.
    #[error("program `{}` is not the pinned one: its sha256 is {found}, the configuration says {pinned}", path.display())]
    Changed {
        /// The program.
        path: PathBuf,
        /// The digest of what stands there.
        found: String,
        /// The digest that was configured.
        pinned: String,
    },
    /// The kernel gives no sealed, executable memory.
    #[error("this system lets no checked copy of a program be started (memfd_create: {0})")]
    NoSeal(io::Error),
}

impl Pin {
    /// Reads the two settings. Touches no file.
    ///
    /// # Errors
    /// [`ProgramError::NotAbsolute`], [`ProgramError::NotADigest`].
    pub(crate) fn new(path: &str, sha256: &str) -> Result<Self, ProgramError> {
        let path = PathBuf::from(path);
        let is_plain = path.is_absolute()
            // `components` swallows `.` and `//`: what is written is to be what is meant.
            && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
            && path.file_name().is_some();
        if !is_plain {
            return Err(ProgramError::NotAbsolute);
        }
        let mut digest = [0; 32];
        if sha256.len() != 64 || !sha256.is_ascii() {
            return Err(ProgramError::NotADigest);
        }
        for (at, byte) in digest.iter_mut().enumerate() {
            let digits = sha256.get(at * 2..at * 2 + 2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let parsed = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            *byte = parsed.ok_or(ProgramError::NotADigest)?;
        }
        Ok(Self { path, sha256: digest })
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the program, checks it and keeps the copy that was checked. Blocks on the disk.
    ///
    /// # Errors
    /// See [`ProgramError`], in its order.
    pub(crate) fn load(&self) -> Result<Program, ProgramError> {
        let path = &self.path;
        let unreadable = |source: io::Error| ProgramError::Unreadable { path: path.clone(), source };
        let stamp = FileStamp::of(path);
        let mut file = opened(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(ProgramError::NotRegular(path.clone()));
        }
        if meta.mode() & 0o111 == 0 {
            return Err(ProgramError::NotExecutable(path.clone()));
        }
        self.check_place(&file)?;
        let mut image = File::from(executable_memory().map_err(|error| ProgramError::NoSeal(error.into()))?);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut head: Vec<u8> = Vec::new();
        let mut total = 0;
        loop {
            let read = file.read(&mut chunk).map_err(unreadable)?;
            let bytes = chunk.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            total += read as u64;
            if total > MAX_BYTES {
                return Err(ProgramError::TooLarge(path.clone()));
            }
            if head.len() < 2 {
                head.extend(bytes.iter().take(2 - head.len()));
            }
            hash.update(bytes);
            image.write_all(bytes).map_err(ProgramError::NoSeal)?;
        }
        let found: [u8; 32] = hash.finalize().into();
        if found != self.sha256 {
            return Err(ProgramError::Changed { path: path.clone(), found: hex(&found), pinned: hex(&self.sha256) });
        }
        fcntl_add_seals(&image, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)
            .map_err(|error| ProgramError::NoSeal(error.into()))?;
        // A script keeps a descriptor of it, which is to be good for reading and nothing else.
        let image = File::open(format!("/proc/self/fd/{}", image.as_raw_fd())).map_err(ProgramError::NoSeal)?;
        Ok(Program { path: path.clone(), image, is_script: head == b"#!", stamp })
    }

    /// Tells whether the file is still as it was when `program` was read, in a place that nobody else can change.
    pub(crate) fn is_still(&self, program: &Program) -> bool {
        let stamp = FileStamp::of(&self.path);
        stamp.is_some()
            && stamp == program.stamp
            && opened(&self.path).is_ok_and(|file| self.check_place(&file).is_ok())
    }

    /// Checks that only this user and root can change the open file or put another one in its place. The place is where
    /// it really is: links were followed when it was opened.
    fn check_place(&self, file: &File) -> Result<(), ProgramError> {
        let unreadable = |source: io::Error| ProgramError::Unreadable { path: self.path.clone(), source };
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(unreadable)?;
        let us = rustix::process::geteuid().as_raw();
        let exposed = |at: &Path, why| Err(ProgramError::Exposed { path: self.path.clone(), at: at.to_owned(), why });
        let own = file.metadata().map_err(unreadable)?;
        if own.uid() != 0 && own.uid() != us {
            return exposed(&real, "belongs to somebody else");
        }
        if own.mode() & 0o002 != 0 {
            return exposed(&real, "can be written by everybody");
        }
        for dir in real.ancestors().skip(1) {
            let meta = std::fs::metadata(dir).map_err(unreadable)?;
            if meta.uid() != 0 && meta.uid() != us {
                return exposed(dir, "belongs to somebody else");
            }
            // In a sticky directory nobody renames what is not theirs.
            if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
                return exposed(dir, "can be written by everybody");
            }
        }
        Ok(())
    }
}

fn opened(path: &Path) -> io::Result<File> {
    // Not to wait for the writer of a pipe, and not to make a terminal ours.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(open(path, flags, Mode::empty())?))
}

fn executable_memory() -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("program", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there was no such flag, and every one was executable.
        Err(Errno::INVAL) => memfd_create("program", flags),
        made => made,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SCRIPT: &[u8] = b"#!/bin/sh\nexit 0\n";

    fn pinned(path: &Path, bytes: &[u8]) -> Pin {
        Pin::new(path.to_str().unwrap(), &hex(&Sha256::digest(bytes))).unwrap()
    }

    fn written(dir: &Path, mode: u32) -> PathBuf {
        let path = dir.join("program");
        fs::write(&path, SCRIPT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_a_plain_absolute_path_and_a_whole_digest_are_a_pin() {
        let digest = "ab".repeat(32);
        assert!(Pin::new("/usr/bin/op", &digest).is_ok());
        for path in ["op", "./op", "", "/", "/usr/../tmp/op", "/usr/./op", "/usr//op", "/usr/op/", "~/op", "$HOME/op"] {
            assert!(matches!(Pin::new(path, &digest), Err(ProgramError::NotAbsolute)), "{path}");
        }
        for digest in ["", "ab", &"xy".repeat(32), &"+1".repeat(32), &"ä".repeat(32), &"ab".repeat(33)] {
            assert!(matches!(Pin::new("/usr/bin/op", digest), Err(ProgramError::NotADigest)), "{digest}");
        }
    }

    #[test]
    fn what_is_loaded_stays_as_it_was_hashed_whatever_happens_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 0o755);
        let program = pinned(&path, SCRIPT).load().unwrap();
        assert!(program.is_script);
        fs::write(&path, b"#!/bin/sh\nexit 1\n").unwrap();
        let copy = fs::read(format!("/proc/self/fd/{}", program.image.as_raw_fd())).unwrap();
        assert_eq!(copy, SCRIPT);
        let written = (&program.image).write_all(b"x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(Errno::BADF.raw_os_error()), "{written}");
        // Opened anew for writing, as a script can open its own descriptor, it takes nothing either.
        let name = format!("/proc/self/fd/{}", program.image.as_raw_fd());
        let written = File::options().write(true).open(name).and_then(|mut file| file.write_all(b"x")).unwrap_err();
        assert_eq!(written.raw_os_error(), Some(Errno::PERM.raw_os_error()), "{written}");
        assert!(program.image.set_len(0).is_err());
        assert!(matches!(pinned(&path, SCRIPT).load(), Err(ProgramError::Changed { .. })));
    }

    #[test]
    fn what_is_no_program_is_refused_and_nothing_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = pinned(&dir.path().join("missing"), SCRIPT).load().unwrap_err();
        assert!(matches!(missing, ProgramError::Unreadable { .. }), "{missing}");
        assert!(matches!(pinned(dir.path(), SCRIPT).load(), Err(ProgramError::NotRegular(_))));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(matches!(pinned(&pipe, SCRIPT).load(), Err(ProgramError::NotRegular(_))));
        let plain = written(dir.path(), 0o644);
        assert!(matches!(pinned(&plain, SCRIPT).load(), Err(ProgramError::NotExecutable(_))));
    }

    #[test]
    fn a_program_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 0o757);
        assert!(matches!(pinned(&path, SCRIPT).load(), Err(ProgramError::Exposed { .. })));
        let path = written(dir.path(), 0o755);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        // Through a link from a good place, too: it counts where the file is.
        let good = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&path, good.path().join("link")).unwrap();
        for path in [path.clone(), good.path().join("link")] {
            let refused = pinned(&path, SCRIPT).load().unwrap_err();
            assert!(matches!(&refused, ProgramError::Exposed { at, .. } if at == dir.path()), "{refused}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(pinned(&path, SCRIPT).load().is_ok());
    }

    #[test]
    fn a_program_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give a file away.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 0o755);
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let refused = pinned(&path, SCRIPT).load().unwrap_err();
        assert!(matches!(refused, ProgramError::Exposed { why: "belongs to somebody else", .. }), "{refused}");
    }
}
