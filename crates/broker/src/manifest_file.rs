//! Finds the nearest `broker.toml` and reads its bytes once.
//!
//! The search goes upward from the working directory and ends at the repository's root (where `.git` lies), at the home
//! directory or where another file system begins. What stands there must be a regular file of modest size: a repository
//! is not trusted to hold no FIFO, no device and no link out of it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use broker_core::code::ErrorCode;
use broker_core::manifest::MAX_MANIFEST_BYTES;
use broker_protocol::message::ManifestBytes;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};
use rustix::io::Errno;

use crate::report::Fault;

/// The file that is looked for.
pub(crate) const NAME: &str = "broker.toml";

/// The file beside it that may only narrow it.
pub(crate) const LOCAL_NAME: &str = "broker.local.toml";

/// Returns the working directory.
///
/// # Errors
/// It was removed or can't be read.
pub(crate) fn working_directory() -> Result<PathBuf, Fault> {
    std::env::current_dir()
        .map_err(|error| Fault::new(ErrorCode::Manifest, format!("the working directory cannot be told: {error}")))
}

/// Finds and reads the manifest that applies in `cwd`: the one that was `named`, else the nearest; `None` without one.
///
/// # Errors
/// A file that is there and can't be taken: no regular file, too large, no UTF-8, not readable.
pub(crate) fn find(cwd: &Path, named: Option<&Path>) -> Result<Option<ManifestBytes>, Fault> {
    if let Some(named) = named {
        let path = cwd.join(named);
        let text = read(&path)?
            .ok_or_else(|| Fault::new(ErrorCode::Manifest, format!("`{}` does not exist", path.display())))?;
        return with_local(path, text).map(Some);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let device = stat(cwd).map(|stat| stat.st_dev).ok();
    for dir in cwd.ancestors() {
        if dir != cwd && stat(dir).map(|stat| stat.st_dev).ok() != device {
            break;
        }
        let path = dir.join(NAME);
        if let Some(text) = read(&path)? {
            return with_local(path, text).map(Some);
        }
        if home.as_deref() == Some(dir) || stat(dir.join(".git")).is_ok() {
            break;
        }
    }
    Ok(None)
}

/// As [`find`], where nothing can be done without one.
///
/// # Errors
/// As for [`find`], and that there is none.
pub(crate) fn require(cwd: &Path, named: Option<&Path>) -> Result<ManifestBytes, Fault> {
    find(cwd, named)?.ok_or_else(|| {
        Fault::new(ErrorCode::Manifest, format!("no `{NAME}` in `{}` or above it", cwd.display())).hint(
            "create one at the repository's root, or name one: --manifest FILE; its keys: broker schema".to_owned(),
        )
    })
}

fn with_local(path: PathBuf, text: String) -> Result<ManifestBytes, Fault> {
    let local = read(&path.with_file_name(LOCAL_NAME))?;
    Ok(ManifestBytes { path, text, local })
}

/// Reads one file; `None` when nothing is there.
fn read(path: &Path) -> Result<Option<String>, Fault> {
    let fault = |words: &str| Fault::new(ErrorCode::Manifest, format!("`{}` {words}", path.display()));
    // O_NONBLOCK: opening a FIFO would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file: OwnedFd = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(fault("is a symbolic link")
                .hint("put the file itself there, or name the link's target: --manifest FILE".to_owned()));
        }
        Err(Errno::NXIO) => return Err(fault("is no regular file")),
        Err(error) => return Err(fault(&format!("cannot be read: {error}"))),
    };
    let stat = fstat(&file).map_err(|error| fault(&format!("cannot be read: {error}")))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fault("is no regular file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(MAX_MANIFEST_BYTES) + 1);
    let limit = MAX_MANIFEST_BYTES as u64 + 1;
    File::from(file).take(limit).read_to_end(&mut bytes).map_err(|error| fault(&format!("cannot be read: {error}")))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(fault(&format!("is larger than {MAX_MANIFEST_BYTES} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| fault("is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for file in files {
                let path = dir.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, *file).unwrap();
            }
            Self(dir)
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn found_from(&self, dir: &str) -> Option<String> {
            fs::create_dir_all(self.at(dir)).unwrap();
            find(&self.at(dir), None).unwrap().map(|manifest| manifest.text)
        }
    }

    #[test]
    fn the_nearest_one_wins_and_the_search_ends_at_the_repository() {
        let tree = Tree::new(&["broker.toml", "repo/.git/HEAD", "repo/a/broker.toml", "other/.git/HEAD"]);
        assert_eq!(tree.found_from("repo/a/b/c").as_deref(), Some("repo/a/broker.toml"));
        assert_eq!(tree.found_from("repo/z"), None, "a manifest above the repository is not its own");
        assert_eq!(tree.found_from("loose/x").as_deref(), Some("broker.toml"));
    }

    #[test]
    fn the_local_file_beside_it_comes_along() {
        let tree = Tree::new(&["repo/.git/HEAD", "repo/broker.toml", "repo/broker.local.toml"]);
        let found = find(&tree.at("repo"), None).unwrap().unwrap();
        assert_eq!(found.local.as_deref(), Some("repo/broker.local.toml"));
    }

    #[test]
    fn what_is_no_plain_text_file_is_refused_with_words() {
        let tree = Tree::new(&["real.toml"]);
        let refused = |name: &str| find(&tree.at(""), Some(Path::new(name))).unwrap_err().problems[0].message.clone();
        symlink("real.toml", tree.at("link")).unwrap();
        assert!(refused("link").ends_with("is a symbolic link"));
        symlink("/dev/zero", tree.at("broker.toml")).unwrap();
        assert!(find(&tree.at(""), None).is_err());
        fs::remove_file(tree.at("broker.toml")).unwrap();
        rustix::fs::mknodat(CWD, tree.at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refused("fifo").ends_with("is no regular file"));
        assert!(refused("/dev/null").ends_with("is no regular file"));
        fs::write(tree.at("large"), vec![b'#'; MAX_MANIFEST_BYTES + 1]).unwrap();
        assert!(refused("large").contains("is larger than"));
        fs::write(tree.at("latin"), b"# \xff").unwrap();
        assert!(refused("latin").ends_with("is no UTF-8 text"));
        assert!(refused("missing").ends_with("does not exist"));
    }
}
