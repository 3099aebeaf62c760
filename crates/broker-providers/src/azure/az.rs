//! The session of the Azure CLI, had from `az` itself.
//!
//! `az` renews its session, locks its cache and may keep it sealed; none of this could be had by reading its files. It is
//! taken from where a system's installation puts it and never from `PATH`, only where nobody but root and the user can
//! change it, and is started without a shell, in `/`, with a clean environment. What it prints to standard error is not
//! passed on, but for whether it asks to sign in.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::azure::token::Token;
use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::SecretText;

/// Where a system's installation puts it.
const PLACES: &[&str] =
    &["/usr/bin/az", "/usr/local/bin/az", "/opt/homebrew/bin/az", "/home/linuxbrew/.linuxbrew/bin/az"];
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Most that is read of what it prints, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// The program, and the directory of its session where that is not `~/.azure`.
#[derive(Clone, Debug)]
pub(crate) struct Az {
    program: PathBuf,
    config: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    access_token: SecretText,
    // Seconds since 1970, since version 2.54; `expiresOn` before it is local time and is not read.
    #[serde(default, rename = "expires_on")]
    expires_on: Option<u64>,
}

impl Az {
    /// Finds the program where it may be started from.
    pub(crate) fn find(config: Option<&str>) -> Option<Self> {
        Self::among(PLACES.iter().map(Path::new), config)
    }

    fn among<'a>(mut places: impl Iterator<Item = &'a Path>, config: Option<&str>) -> Option<Self> {
        let program = places.find(|place| is_safe(place))?.to_owned();
        let config = config.filter(|dir| Path::new(dir).is_absolute()).map(str::to_owned);
        Some(Self { program, config })
    }

    /// Asks it for a token.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when nobody is signed in, [`ErrorKind::Unavailable`] when it does not work.
    pub(crate) async fn token(&self, resource: &str, tenant: Option<&str>, deadline: Instant) -> Result<Token, Fault> {
        let mut command = Command::new(&self.program);
        command.args(["account", "get-access-token", "--output", "json", "--resource", resource]);
        if let Some(tenant) = tenant {
            command.args(["--tenant", tenant]);
        }
        command
            .env_clear()
            .env("PATH", PATH)
            .env("AZURE_CORE_NO_COLOR", "true")
            .env("AZURE_CORE_COLLECT_TELEMETRY", "false");
        for name in ["HOME", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(config) = &self.config {
            command.env("AZURE_CONFIG_DIR", config);
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: `az` is a script, and what it starts is to end with it.
        command.process_group(0).kill_on_drop(true);
        let done = timeout_at(deadline, run(command)).await;
        let (success, printed, said) =
            done.map_err(|_| broken("it was not done in time"))?.map_err(|_| broken("it cannot be started"))?;
        if !success {
            let words = String::from_utf8_lossy(&said);
            let asks = words.contains("az login") || words.contains("AADSTS") || words.contains("az account set");
            return Err(if asks {
                Fault::new(ErrorKind::Unauthenticated, "`az` has no session that is good for it")
            } else {
                broken("it failed")
            });
        }
        let printed: Printed = serde_json::from_slice(&printed).map_err(|_| broken("it printed something else"))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        // An old `az` says the end in local time only; its tokens live for five minutes at least.
        let life = printed.expires_on.map_or(300, |end| end.saturating_sub(now));
        Ok(Token::new(printed.access_token.0, life))
    }
}

fn broken(why: &str) -> Fault {
    Fault::new(ErrorKind::Unavailable, format!("`az account get-access-token`: {why}"))
}

/// Kills a group of processes when it is dropped.
pub(crate) struct Group(Option<rustix::process::Pid>);

impl Group {
    /// Takes charge of the group that `child` was started at the head of.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

type Done = (bool, Zeroizing<Vec<u8>>, Vec<u8>);

/// Runs `command` to its end; tells whether it succeeded, and what it wrote.
async fn run(mut command: Command) -> std::io::Result<Done> {
    let mut child = command.spawn()?;
    let _group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // All at once, so that nothing of it stays behind in a smaller buffer.
    let mut printed = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT as usize));
    let mut said = Vec::new();
    let read_printed = async {
        match stdout {
            Some(stream) => stream.take(MAX_OUTPUT).read_to_end(&mut printed).await.map(|_| ()),
            None => Ok(()),
        }
    };
    let read_said = async {
        match stderr {
            Some(stream) => stream.take(MAX_OUTPUT).read_to_end(&mut said).await.map(|_| ()),
            None => Ok(()),
        }
    };
    let (first, second) = futures_util::future::join(read_printed, read_said).await;
    first.and(second)?;
    let status = child.wait().await?;
    Ok((status.success(), printed, said))
}

/// Tells whether only root and this user can change the program or put another one in its place.
fn is_safe(program: &Path) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let Ok(real) = std::fs::canonicalize(program) else { return false };
    let is_ours = |path: &Path, is_program: bool| {
        std::fs::metadata(path).is_ok_and(|about| {
            let others = about.mode() & 0o022 != 0 && (is_program || about.mode() & 0o1000 == 0);
            (about.uid() == 0 || about.uid() == us) && !others && (!is_program || about.is_file())
        })
    };
    is_ours(&real, true)
        && real.ancestors().skip(1).all(|dir| is_ours(dir, false))
        && program.ancestors().skip(1).all(|dir| is_ours(dir, false))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("az");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn asked(text: &str, budget: u64) -> Result<Token, Fault> {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), text);
        let az = Az::among(std::iter::once(path.as_path()), Some("/config")).expect("it is safe");
        az.token("https://vault.azure.net", Some("the-tenant"), Instant::now() + Duration::from_secs(budget)).await
    }

    #[tokio::test]
    async fn a_token_and_its_end_are_what_az_prints() {
        let token = asked(r#"[ "$*" = "account get-access-token --output json --resource https://vault.azure.net --tenant the-tenant" ] || exit 9
            [ "$AZURE_CONFIG_DIR" = /config ] && [ "$PWD" = / ] && [ -z "$CARGO" ] || exit 8
            printf '{"accessToken":"the-token","expiresOn":"2026-01-01 00:00:00.000000","expires_on":%s,"tokenType":"Bearer"}' $(($(date +%s) + 3600))"#, 10).await.unwrap();
        assert_eq!(token.value.expose(), b"the-token");
        assert!((3590..=3600).contains(&token.life.as_secs()), "{:?}", token.life);
    }

    #[tokio::test]
    async fn what_it_says_when_it_fails_is_not_passed_on() {
        for (text, kind) in [
            ("echo \"ERROR: canary Please run 'az login' to setup account.\" >&2; exit 1", ErrorKind::Unauthenticated),
            (
                "echo 'ERROR: canary AADSTS700082: The refresh token has expired' >&2; exit 1",
                ErrorKind::Unauthenticated,
            ),
            ("echo canary >&2; exit 2", ErrorKind::Unavailable),
            ("echo canary", ErrorKind::Unavailable),
            ("echo '{\"accessToken\":7}'", ErrorKind::Unavailable),
        ] {
            let fault = asked(text, 10).await.unwrap_err();
            assert_eq!(fault.kind, kind, "{fault:?}");
            assert!(!format!("{fault:?}").contains("canary"), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_or_talks_for_ever_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let started = std::time::Instant::now();
        let fault = asked(&format!("sleep 600 & echo $! > {}; wait", mark.display()), 1).await.unwrap_err();
        assert_eq!(fault.kind, ErrorKind::Unavailable);
        assert!(started.elapsed() < Duration::from_secs(3));
        let pid = fs::read_to_string(&mark).unwrap().trim().to_owned();
        let gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..100 {
            if gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(gone(), "the sleeper lives on");
        assert_eq!(asked("yes", 5).await.unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn a_program_that_others_can_change_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "exit 0");
        let found = || Az::among(std::iter::once(path.as_path()), None).is_some();
        assert!(found());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!found(), "the program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!found(), "its directory");
        assert!(Az::among(std::iter::once(Path::new("/nonexistent/az")), None).is_none());
    }
}
