//! Finds the program of a command, as execvp(3) would, but without ever handing a file to a shell.
//!
//! The search comes before anything is asked of the daemon: for a typo nothing is fetched and nobody is asked.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

/// Where is searched when there is no `PATH` (confstr(3), `_CS_PATH`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a command can't run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such program.
    #[error("command `{0}` was not found")]
    NotFound(String),
    /// There is a file of that name and we may not run it.
    #[error("`{}` is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// There is a directory of that name.
    #[error("`{}` is a directory", .0.display())]
    Directory(PathBuf),
    /// The kernel knows no such format.
    #[error("`{}` is neither a program nor a script with a `#!` line", .0.display())]
    Format(PathBuf),
    /// The interpreter of a script is missing.
    #[error("the interpreter of `{}` was not found", .0.display())]
    Interpreter(PathBuf),
    /// The kernel refused for another reason.
    #[error("`{}` cannot be run: {source}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CommandError {
    /// Returns the exit code that shells use: 127 when there is nothing to run, 126 when it can't be run.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::NotFound(_)) { 127 } else { 126 }
    }

    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound(name) if name.contains(char::is_whitespace) => {
                Some("give command and arguments as separate words, or run a shell: -- sh -c '...'".to_owned())
            }
            Self::NotFound(_) => None,
            Self::NotExecutable(path) => Some(format!("chmod +x {}", path.display())),
            Self::Directory(_) => None,
            Self::Format(_) => Some("add a first line such as `#!/bin/sh`; no shell is put in between".to_owned()),
            Self::Interpreter(_) => Some(
                "look at its first line, `#!...`: is it installed, does the line end in a carriage return?".to_owned(),
            ),
            Self::Refused { .. } => None,
        }
    }
}

/// Finds the file that `name` means. A name with a slash is a path; any other is sought in `search` (`PATH`).
///
/// # Errors
/// [`CommandError::NotFound`]; [`CommandError::NotExecutable`] or [`CommandError::Directory`] when something of that
/// name is there and nothing better behind it.
pub fn find(name: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, CommandError> {
    let not_found = || CommandError::NotFound(name.to_string_lossy().into_owned());
    if name.is_empty() {
        return Err(not_found());
    }
    if name.as_bytes().contains(&b'/') {
        return runnable(PathBuf::from(name))?.ok_or_else(not_found);
    }
    let mut first_problem = None;
    for dir in search.unwrap_or(DEFAULT_PATH.as_ref()).as_bytes().split(|b| *b == b':') {
        // An empty entry is the working directory (POSIX, "Environment Variables", PATH).
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        match runnable(dir.join(name)) {
            Ok(Some(path)) => return Ok(path),
            Ok(None) => {}
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    Err(first_problem.unwrap_or_else(not_found))
}

/// Returns the path when it can be run, `None` when nothing is there.
fn runnable(path: PathBuf) -> Result<Option<PathBuf>, CommandError> {
    match stat(&path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Err(CommandError::Directory(path)),
        Ok(_) => match accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(Some(path)),
            Err(_) => Err(CommandError::NotExecutable(path)),
        },
        Err(Errno::ACCESS) => Err(CommandError::NotExecutable(path)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        }

        fn search(&self, dirs: &[&str]) -> String {
            dirs.iter().map(|dir| self.0.path().join(dir).display().to_string()).collect::<Vec<_>>().join(":")
        }
    }

    #[test]
    fn the_first_file_in_the_path_that_can_run_is_meant() {
        let dir = Dir::new();
        dir.file("a/tool", 0o644);
        fs::create_dir_all(dir.0.path().join("b/tool")).unwrap();
        let good = dir.file("c/tool", 0o755);
        dir.file("d/tool", 0o755);
        assert_eq!(find("tool".as_ref(), Some(dir.search(&["none", "a", "b", "c", "d"]).as_ref())).unwrap(), good);
    }

    #[test]
    fn a_missing_command_is_127_and_one_that_cannot_run_is_126() {
        let dir = Dir::new();
        let plain = dir.file("a/tool", 0o644);
        let missing = find("tool".as_ref(), Some(dir.search(&["none"]).as_ref())).unwrap_err();
        assert_eq!(missing.exit_code(), 127);
        let not_executable = find("tool".as_ref(), Some(dir.search(&["a"]).as_ref())).unwrap_err();
        assert_eq!(not_executable.exit_code(), 126);
        assert_eq!(not_executable.hint().unwrap(), format!("chmod +x {}", plain.display()));
        assert!(matches!(find(dir.0.path().as_os_str(), None), Err(CommandError::Directory(_))));
        assert_eq!(find("/nonexistent/x".as_ref(), None).unwrap_err().exit_code(), 127);
        assert_eq!(find("".as_ref(), None).unwrap_err().exit_code(), 127);
    }

    #[test]
    fn a_whole_command_line_as_one_word_is_explained() {
        let error = find("npm start".as_ref(), Some("/nonexistent".as_ref())).unwrap_err();
        assert!(error.hint().unwrap().contains("separate words"));
    }
}
