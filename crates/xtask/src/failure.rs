//! Why a command of this program failed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// What went wrong, with what a person can do about it where that is known.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A program could not be started.
    Start { program: String, source: io::Error },
    /// A program ended badly; it has said why itself.
    Ended { what: String, status: ExitStatus },
    /// A package could not be installed.
    Install { package: String, said: String },
    /// A server did not answer in time or ended.
    Server { name: &'static str, said: String },
    /// Something on the disk.
    Io { path: PathBuf, source: io::Error },
    /// A claim did not hold.
    Claim { claim: String, found: String },
    /// Problems of the repository, already listed.
    Problems(usize),
    /// A program answered something unexpected.
    Answer { what: String, said: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { program, source } => write!(f, "`{program}` cannot be started: {source}"),
            Self::Ended { what, status } => write!(f, "`{what}` ended with {status}"),
            Self::Install { package, said } => {
                write!(
                    f,
                    "the Python package `{package}` could not be installed\n{said}\n  hint: it needs Python 3.9 or newer with `venv` or `pip`, and a package index that has it"
                )
            }
            Self::Server { name, said } => write!(f, "the test server `{name}` does not answer\n{said}"),
            Self::Io { path, source } => write!(f, "`{}`: {source}", path.display()),
            Self::Claim { claim, found } => write!(f, "not true: {claim}\n{found}"),
            Self::Problems(count) => write!(f, "{count} problems"),
            Self::Answer { what, said } => write!(f, "{what} answered something unexpected: {said}"),
        }
    }
}

/// Names the path in an error of the file system.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Failure {
    let path = path.into();
    move |source| Failure::Io { path, source }
}
