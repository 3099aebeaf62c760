//! The specifications as an ordinary user: root bypasses half of the kernel's checks, so half of the negative tests
//! can't fail correctly as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::cargo::{cargo, output, programs, succeed};
use crate::failure::{Failure, at};
use crate::report;

/// The user's name.
pub(crate) const NAME: &str = "broker-test";

/// A place that every user can reach, with the programs and the tests in it; the target directory may lie below one
/// that others can't enter.
pub(crate) struct Elsewhere {
    place: TempDir,
    tests: PathBuf,
    variables: Vec<(String, String)>,
    filter: Option<String>,
    /// What is not repeated: modules of the specifications.
    left_out: Vec<&'static str>,
}

/// The modules that speak to the official clients of clouds.
const WITH_CLIENTS: [&str; 3] = ["endpoint::", "issued::", "narrow::"];

/// Copies what the specifications need to where the ordinary user can reach it.
pub(crate) fn specifications(filter: Option<&str>, variables: &[(&str, String)]) -> Result<Elsewhere, Failure> {
    let (uid, gid) = user()?;
    let place = tempfile::Builder::new().prefix("broker-specs-").tempdir().map_err(at(std::env::temp_dir()))?;
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(at(path));
    open(place.path())?;
    let tests = place.path().join("specs");
    let sources = [programs("debug").join("broker"), programs("debug").join("brokerd"), built()?];
    for (from, name) in sources.iter().zip(["broker", "brokerd", "specs"]) {
        let to = place.path().join(name);
        fs::copy(from, &to).map_err(at(from))?;
        open(&to)?;
    }
    for name in ["home", "tmp", "foreign"] {
        let dir = place.path().join(name);
        fs::create_dir(&dir).map_err(at(&dir))?;
        if name == "foreign" {
            open(&dir)?;
        } else {
            chown(&dir, Some(uid), Some(gid)).map_err(at(&dir))?;
        }
    }
    let mut variables: Vec<(String, String)> = variables.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    let path = |name: &str| place.path().join(name).display().to_string();
    variables.extend([
        ("BROKER_BIN_DIR".into(), place.path().display().to_string()),
        ("BROKER_TEST_FOREIGN".into(), path("foreign")),
        ("HOME".into(), path("home")),
        ("TMPDIR".into(), path("tmp")),
        ("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()),
        ("LANG".into(), "C.UTF-8".into()),
        ("RUST_BACKTRACE".into(), "0".into()),
    ]);
    let mut left_out = vec!["source::"];
    match clients(&variables) {
        Some(reachable) => variables.extend(reachable),
        None => {
            report::warn(format!(
                "`{NAME}` can reach no Python with the official clients: root alone ran {WITH_CLIENTS:?}"
            ));
            left_out.extend(WITH_CLIENTS);
        }
    }
    Ok(Elsewhere { place, tests, variables, filter: filter.map(str::to_owned), left_out })
}

/// Returns the variables by which the ordinary user finds a Python with the official clients: the one that root has, or
/// the system's with the packages of that one. Nothing where it can reach neither.
fn clients(variables: &[(String, String)]) -> Option<Vec<(String, String)>> {
    let of = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| PathBuf::from(value));
    let own = of("BROKER_TEST_PYTHON")?;
    let lib = own.parent()?.parent()?.join("lib");
    let packages = of("BROKER_TEST_PYTHONPATH").or_else(|| {
        let versions = fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path().join("site-packages"));
        versions.into_iter().find(|path| path.is_dir())
    });
    [own, PathBuf::from("/usr/bin/python3")].into_iter().find_map(|python| {
        let mut variables = vec![("BROKER_TEST_PYTHON".to_owned(), python.display().to_string())];
        variables.extend(packages.iter().map(|path| ("BROKER_TEST_PYTHONPATH".to_owned(), path.display().to_string())));
        let mut tried = Command::new("setpriv");
        // Through a shell: the program that `setpriv` itself starts is still found with root's rights.
        let asked = "\"$0\" -c 'import boto3, google.auth.compute_engine'";
        tried.args(["--reuid", NAME, "--regid", NAME, "--init-groups", "--", "/bin/sh", "-c", asked]).arg(&python);
        tried.env_clear();
        tried.envs(packages.iter().map(|path| ("PYTHONPATH", path))).current_dir("/");
        tried.output().is_ok_and(|said| said.status.success()).then_some(variables)
    })
}

impl Elsewhere {
    /// Prepares the run. What looks at the sources of this repository is not repeated.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NAME, "--regid", NAME, "--init-groups", "--pdeathsig", "KILL", "--"]);
        command.arg(&self.tests).args(&self.filter);
        command.args(self.left_out.iter().flat_map(|name| ["--skip", name]));
        command.env_clear().envs(self.variables.iter().map(|(n, v)| (n, v))).current_dir(self.place.path());
        command
    }
}

/// Returns uid and gid of the user, who is made where missing.
fn user() -> Result<(u32, u32), Failure> {
    if ids().is_none() {
        let mut useradd = Command::new("useradd");
        useradd.args(["--create-home", "--user-group", "--shell", "/bin/sh", NAME]);
        succeed(useradd)?;
    }
    ids().ok_or_else(|| Failure::Answer { what: "/etc/passwd".into(), said: format!("no user `{NAME}`") })
}

fn ids() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|l| l.split(':').next() == Some(NAME))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// Returns the executable of the specifications.
fn built() -> Result<PathBuf, Failure> {
    let args =
        ["test", "--quiet", "--package", "broker-tests", "--test", "specs", "--no-run", "--message-format", "json"];
    let messages = output(cargo(args))?;
    let parsed = messages.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let found =
        parsed.filter(|m| m["target"]["name"] == "specs").find_map(|m| Some(PathBuf::from(m["executable"].as_str()?)));
    found.ok_or_else(|| Failure::Answer { what: "cargo".into(), said: "no executable of the specifications".into() })
}
