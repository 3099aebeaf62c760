//! `cargo xtask test`: every test, against real servers, and as root a second time as an ordinary user.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use broker_tests::user;

use crate::cargo::{cargo, programs, succeed, words};
use crate::debian::provide;
use crate::failure::Failure;
use crate::fakes::Fakes;
use crate::keyring::Keyring;
use crate::test_servers::TestServers;
use crate::{other_user, report};

/// How many specifications run at once unless `RUST_TEST_THREADS` says otherwise: most of them wait most of the time.
const THREADS: &str = "4";

/// Runs the tests whose name contains `filter`, or all.
pub(crate) fn run(filter: Option<&str>) -> Result<(), Failure> {
    report::heading("build");
    succeed(cargo(["build", "--quiet", "--package", "broker", "--package", "brokerd"]))?;
    succeed(cargo(["test", "--quiet", "--workspace", "--no-run"]))?;
    report::heading("test servers");
    let servers = TestServers::start()?;
    for (name, url) in servers.variables() {
        report::line(format!("{name}={url}"));
    }
    // Without them the tests of the shipped `pass` fail, and say so.
    provide(&[("pass", "pass"), ("gpg", "gnupg")]);
    report::heading("tests");
    let mut tests = cargo(["test", "--workspace", "--no-fail-fast"]);
    tests.args(filter).envs(servers.variables()).env("BROKER_BIN_DIR", programs("debug"));
    let mut runs = vec![watched(tests)?];
    if user::is_root() {
        report::heading(format!("specifications as the ordinary user `{}`", other_user::NAME));
        runs.push(watched(other_user::specifications(filter, &servers.variables())?.command())?);
    } else {
        report::line("this is no root, so the tests have run as an ordinary user once");
    }
    drop(servers);
    report::heading("the keyring of the system");
    let keyring = Keyring::find()?;
    if let Some(keyring) = &keyring {
        let mut tests =
            // As a workspace: one package alone would build its dependencies anew, with fewer features.
            cargo(["test", "--workspace", "--features", "broker-providers/system-keyring", "--no-fail-fast"]);
        tests.args(["--test", "keyring", "--test", "os_keyring"]).args(filter);
        runs.push(watched(keyring.around(&tests))?);
    }
    report::heading("closing lines");
    for run in &runs {
        run.closing.iter().for_each(report::line);
    }
    runs.into_iter().find_map(|run| run.failure).map_or(Ok(()), Err)
}

/// Runs a command while the test servers are up and the variables say where.
pub(crate) fn with_servers(program: &str, args: &[&str]) -> Result<(), Failure> {
    let servers = TestServers::start()?;
    let fakes = Fakes::start();
    let mut command = Command::new(program);
    command.args(args).envs(servers.variables()).envs(fakes.variables());
    succeed(command)
}

/// How a test runner ended.
struct Watched {
    closing: Vec<String>,
    failure: Option<Failure>,
}

/// Runs a test runner, shows what it says and keeps its closing lines.
fn watched(mut command: Command) -> Result<Watched, Failure> {
    let what = words(&command);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", THREADS);
    }
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(|source| Failure::Start { program: what.clone(), source })?;
    let mut closing = Vec::new();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines).map_while(Result::ok) {
        report::line(&line);
        if line.starts_with("test result: ") || line.ends_with(" ... FAILED") {
            closing.push(line);
        }
    }
    let status = child.wait().map_err(|source| Failure::Start { program: what.clone(), source })?;
    let failure = (!status.success()).then_some(Failure::Ended { what, status });
    Ok(Watched { closing, failure })
}
