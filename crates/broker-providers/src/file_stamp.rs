//! The state of files that were not read: enough to notice that one was edited, replaced or removed.
//!
//! The time of the last change of the inode (`ctime`) is part of it, which no program can set back (`inode(7)`).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Device, inode, length in bytes, and the last changes of content and inode in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp(u64, u64, u64, (i64, i64), (i64, i64));

impl FileStamp {
    /// Looks at `path`, following links; returns nothing where there is no file to be seen. One call of `stat`.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        let (modified, changed) = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        Some(Self(about.dev(), about.ino(), about.size(), modified, changed))
    }
}

/// The states of several files, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilesStamp(pub(crate) Vec<Option<FileStamp>>);
