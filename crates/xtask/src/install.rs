//! Installs the Python packages of the test servers, and the clients that check our own ones, by name and version, into
//! the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::target;
use crate::failure::{Failure, at};
use crate::report;

/// What is installed. Other versions may behave differently, and the tests say what they rely on.
const PACKAGES: [&str; 11] = [
    "moto[server]==5.2.5",
    "ministack==1.5.33",
    "hvac==2.4.0",
    "google-cloud-secret-manager==2.32.0",
    "google-api-python-client==2.202.0",
    "azure-identity==1.27.0",
    "azure-keyvault-secrets==4.12.0",
    "PyGithub==2.10.0",
    // Before the next one, which also takes a version that it can't work with.
    "hishel==1.4.0",
    "githubkit==0.16.1",
    "githubkit-schemas-2022-11-28==26.10.21",
];

/// The installed servers.
pub(crate) struct Installed {
    python: PathBuf,
    /// Where the packages are, when they are in no environment of their own.
    packages: Option<PathBuf>,
}

impl Installed {
    /// Returns the variables by which tests find the packages: the interpreter, and where it looks for them.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("BROKER_TEST_PYTHON", self.python.display().to_string())];
        variables.extend(self.packages.as_ref().map(|dir| ("BROKER_TEST_PYTHONPATH", dir.display().to_string())));
        variables
    }

    /// Prepares `python3 -m MODULE` with the packages in sight.
    pub(crate) fn module(&self, through: &[&str], module: &str) -> Command {
        let mut words = through.iter().map(|w| PathBuf::from(*w)).chain([self.python.clone()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["-m", module]);
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        command
    }
}

/// Installs what is not installed yet.
pub(crate) fn servers() -> Result<Installed, Failure> {
    let dir = target().join("test-servers");
    let stamp = dir.join("installed");
    let wanted = PACKAGES.join("\n");
    if let Some(found) = fs::read_to_string(&stamp).ok().filter(|s| *s == wanted).and_then(|_| find(&dir)) {
        return Ok(found);
    }
    report::line(format!("installing {} into {}", PACKAGES.join(", "), dir.display()));
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(at(&dir))?;
    }
    fs::create_dir_all(&dir).map_err(at(&dir))?;
    // Without the package that brings `ensurepip` no environment can be made; `pip` alone may still be there.
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(dir.join("venv"));
    let in_venv = quiet(&mut venv).is_ok();
    for package in PACKAGES {
        let mut pip = Command::new(if in_venv { dir.join("venv/bin/python3") } else { "python3".into() });
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        if !in_venv {
            pip.arg("--target").arg(dir.join("packages"));
        }
        quiet(pip.arg(package)).map_err(|said| Failure::Install { package: package.to_owned(), said })?;
    }
    fs::write(&stamp, wanted).map_err(at(&stamp))?;
    find(&dir).ok_or_else(|| Failure::Install { package: PACKAGES.join(" "), said: "nothing was installed".into() })
}

fn find(dir: &Path) -> Option<Installed> {
    let venv = dir.join("venv/bin/python3");
    let packages = dir.join("packages");
    if packages.is_dir() {
        return Some(Installed { python: "python3".into(), packages: Some(packages) });
    }
    venv.exists().then_some(Installed { python: venv, packages: None })
}

/// Runs a command; what it said is the error.
fn quiet(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("`python3` cannot be started: {error}")),
    }
}
