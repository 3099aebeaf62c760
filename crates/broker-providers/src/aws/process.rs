//! Keys that a command of the user prints (`credential_process`).
//!
//! The SDK would quote what the command writes to standard error, keep whatever it prints and leave it running when
//! nobody waits any more. Here standard error goes nowhere, what is printed is bounded and wiped, and the command ends
//! with all that it started when the time is over. It runs in `/`, with no input and a clean environment: what finds the
//! user's files and keyring, and nothing of AWS. Format: "Process credential provider", AWS SDKs and Tools Reference
//! Guide.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::aws::login::PortalFault;
use crate::azure::az::Group;
use crate::fault::Fault;
use crate::provider::ErrorKind;
use crate::rest::SecretText;

/// What the faults of a command begin with.
pub(crate) const CAUSE: &str = "`credential_process`";
/// Most that it may print, in bytes; the documented answer is some hundred.
const MAX_OUTPUT: usize = 64 * 1024;
/// How long it may take when nobody gives up before: it may ask for a second factor.
const BUDGET: Duration = Duration::from_secs(60);
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What it is given of our own environment: where the user's files and keyring are.
const GIVEN: &[&str] = &["DBUS_SESSION_BUS_ADDRESS", "HOME", "LANG", "LOGNAME", "USER", "XDG_RUNTIME_DIR"];

/// The command of one profile, which may hold a secret in its words.
pub(crate) struct Process(pub(crate) String);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u64,
    access_key_id: String,
    secret_access_key: SecretText,
    session_token: Option<SecretText>,
    expiration: Option<String>,
}

impl Process {
    async fn keys(&self) -> Result<Credentials, Fault> {
        let late = |_| broken(ErrorKind::Unavailable, "it was not done in time");
        let printed = tokio::time::timeout(BUDGET, self.printed()).await.map_err(late)??;
        let other = || broken(ErrorKind::Unauthenticated, "it printed something else than the documented JSON");
        let printed: Printed = serde_json::from_slice(&printed).map_err(|_| other())?;
        if printed.version != 1 {
            return Err(broken(ErrorKind::Unauthenticated, "it printed another `Version` than 1"));
        }
        let expires: Option<jiff::Timestamp> =
            printed.expiration.map(|time| time.parse()).transpose().map_err(|_| other())?;
        let expires = expires.map(SystemTime::from);
        if expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(broken(ErrorKind::Unauthenticated, "the keys that it printed are over"));
        }
        // Opened for the SDK, which signs with its own copies.
        let text = |secret: &SecretText| String::from_utf8_lossy(secret.0.expose()).into_owned();
        let (secret, token) = (text(&printed.secret_access_key), printed.session_token.as_ref().map(text));
        Ok(Credentials::new(printed.access_key_id, secret, token, expires, "credential_process"))
    }

    /// Runs it to its end and returns what it printed.
    async fn printed(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.0).env_clear().env("PATH", PATH);
        for name in GIVEN {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.process_group(0).kill_on_drop(true);
        let failed = |_| broken(ErrorKind::Unavailable, "it cannot be started");
        let mut child = command.spawn().map_err(failed)?;
        let _group = Group::of(&child);
        // All at once, so that nothing of it stays behind in a smaller buffer.
        let mut printed = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
        if let Some(stream) = child.stdout.take() {
            stream.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut printed).await.map_err(failed)?;
        }
        if printed.len() > MAX_OUTPUT {
            return Err(broken(ErrorKind::Unauthenticated, "it printed more than 64 KiB"));
        }
        let status = child.wait().await.map_err(failed)?;
        if status.success() { Ok(printed) } else { Err(broken(ErrorKind::Unauthenticated, &format!("{status}"))) }
    }
}

fn broken(kind: ErrorKind, why: &str) -> Fault {
    Fault::new(kind, format!("{CAUSE}: {why}"))
}

impl ProvideCredentials for Process {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let keys = async { self.keys().await.map_err(|fault| CredentialsError::provider_error(PortalFault(fault))) };
        let keys: futures_util::future::BoxFuture<'a, provider::Result> = Box::pin(keys);
        future::ProvideCredentials::new(keys)
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    async fn refused(command: &str) -> Fault {
        Process(command.to_owned()).keys().await.expect_err(command)
    }

    #[tokio::test]
    async fn the_documented_json_of_a_command_becomes_keys() {
        let json = r#"{"Version":1,"AccessKeyId":"AKIA","SecretAccessKey":"s","SessionToken":"t","Expiration":"2099-05-02T18:36:00+00:00","AccountId":"1"}"#;
        let keys = Process(format!("/bin/echo '{json}'")).keys().await.unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key(), keys.session_token()), ("AKIA", "s", Some("t")));
        assert!(keys.expiry().is_some());
        let short = r#"{"Version":1,"AccessKeyId":"AKIA","SecretAccessKey":"s"}"#;
        assert!(Process(format!("/bin/echo '{short}'")).keys().await.unwrap().expiry().is_none());
        for json in [
            r#"{"AccessKeyId":"canary","SecretAccessKey":"canary"}"#,
            r#"{"Version":2,"AccessKeyId":"canary","SecretAccessKey":"canary"}"#,
            r#"{"Version":1,"AccessKeyId":"canary"}"#,
            r#"{"Version":1,"AccessKeyId":"canary","SecretAccessKey":"canary","Expiration":"canary"}"#,
            r#"{"Version":1,"AccessKeyId":"canary","SecretAccessKey":"canary","Expiration":"2001-01-01T00:00:00Z"}"#,
            r#"{"Version":"canary","AccessKeyId":"canary"}"#,
            "canary",
            "",
        ] {
            let fault = refused(&format!("/bin/echo '{json}'")).await;
            assert_eq!(fault.kind, ErrorKind::Unauthenticated, "{fault:?}");
            assert!(fault.cause.starts_with(CAUSE) && !format!("{fault:?}").contains("canary"), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn what_a_command_says_when_it_fails_is_not_shown() {
        for command in ["/bin/echo canary >&2; exit 3", "/bin/echo canary; exit 3", "/nonexistent/canary"] {
            let fault = refused(command).await;
            assert_eq!(fault.kind, ErrorKind::Unauthenticated, "{fault:?}");
            assert!(fault.cause.contains("exit status") && !format!("{fault:?}").contains("canary"), "{fault:?}");
        }
        assert!(!format!("{:?}", Process("/bin/x --token canary".to_owned())).contains("canary"));
    }

    #[tokio::test]
    async fn a_command_that_prints_100_mb_is_refused_and_ended_at_64_kib() {
        let dir = tempfile::tempdir().unwrap();
        let end = dir.path().join("end");
        let fault = refused(&format!("/usr/bin/head -c 100000000 /dev/zero; touch {}", end.display())).await;
        assert!(fault.cause.contains("more than 64 KiB"), "{fault:?}");
        assert!(!end.exists(), "it was left to print on");
    }

    #[tokio::test]
    async fn a_command_sees_none_of_our_variables_but_where_the_user_is() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        let _ = refused(&format!("/usr/bin/env > {}; pwd >> {}", seen.display(), seen.display())).await;
        let text = fs::read_to_string(&seen).unwrap();
        let names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        // The shell itself adds the last three.
        let known = |name: &str| GIVEN.contains(&name) || ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(&name);
        assert!(names.contains(&"HOME") && names.iter().all(|name| known(name)), "{names:?}");
        assert!(text.ends_with("\n/\n"), "{text}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_gone_after_the_deadline_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        let process = Process(format!("/bin/sleep 600 & echo $! > {}; wait", mark.display()));
        let started = Instant::now();
        // As a session waits for it: the answer is given up, not asked for its end.
        assert!(tokio::time::timeout(Duration::from_secs(1), process.provide_credentials()).await.is_err());
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
    }
}
