//! One project of a home: a directory with a manifest.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::Home;
use crate::run::Run;

/// A directory with a `broker.toml`.
pub struct Project<'h> {
    home: &'h Home,
    directory: PathBuf,
    sign_in: Vec<(String, String)>,
}

impl<'h> Project<'h> {
    pub(crate) fn new(home: &'h Home, directory: &Path, manifest: &str) -> Self {
        fs::create_dir_all(directory).expect("a directory can be made");
        let project = Self { home, directory: directory.to_owned(), sign_in: Vec::new() };
        project.rewrite(manifest);
        project
    }

    /// Returns its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Replaces the manifest.
    pub fn rewrite(&self, manifest: &str) {
        fs::write(self.directory.join("broker.toml"), manifest).expect("a manifest can be written");
    }

    /// Adds a sign-in variable to every later run.
    #[must_use]
    pub fn signed_in(mut self, variables: &[(&str, &str)]) -> Self {
        self.sign_in.extend(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        self
    }

    /// Trusts the manifest as it is.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn trusted(self) -> Self {
        self.broker(["trust", "--yes"]).succeed();
        self
    }

    /// Prepares `broker ARG...` in the project's directory.
    #[must_use]
    pub fn broker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.here(self.home.broker(args))
    }

    /// Prepares `broker ARG...` with the passphrase of the embedded store on a descriptor.
    #[must_use]
    pub fn broker_with_passphrase<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.here(self.home.broker_with_passphrase(args))
    }

    /// Prepares `broker exec -- CMD ARG...`.
    #[must_use]
    pub fn exec<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Run {
        self.broker(["exec", "--"]).args(command)
    }

    /// Prepares `broker exec FLAG... -- sh -c SCRIPT`.
    #[must_use]
    pub fn shell(&self, flags: &[&str], script: &str) -> Run {
        self.broker(["exec"]).args(flags).args(["--", "/bin/sh", "-c", script])
    }

    fn here(&self, run: Run) -> Run {
        self.sign_in.iter().fold(run.cwd(&self.directory), |run, (name, value)| run.env(name, value))
    }
}
