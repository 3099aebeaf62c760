//! The sign-in of the AWS CLI to IAM Identity Center, where the person has one: a file below `~/.aws/sso/cache`.
//!
//! It is read, and when it ended refreshed and written back in the CLI's own form, since a refresh token that was used may
//! be good no longer and the person would have to sign in again. No file is made that was not there. Source: the AWS CLI
//! and its `SSOTokenProvider`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker_core::secret::SecretValue;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sha1::{Digest as _, Sha1};
use zeroize::{Zeroize as _, Zeroizing};

use crate::aws::profile::read_text;
use crate::aws::profile_walk::Portal;
use crate::aws::sso::{AwsSso, Grant};
use crate::fault::Fault;
use crate::provider::ErrorKind;

/// How long before its end a token is refreshed.
const MARGIN: Duration = Duration::from_secs(60);

/// The file's content. Wiped when dropped.
struct Cached(Map<String, Value>);

impl Cached {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    fn is_past(&self, key: &str, margin: Duration) -> bool {
        // Older versions of the CLI wrote `UTC` for `Z`.
        let time = self.text(key).and_then(|text| text.replace("UTC", "Z").parse::<Timestamp>().ok());
        time.is_none_or(|time| time.duration_since(Timestamp::now()) <= margin.try_into().unwrap_or_default())
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        for (_, value) in &mut self.0 {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

/// Returns the CLI's token for a portal, refreshed where it has to be; nothing where there is none that can be used.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when it ended and the portal cannot be asked.
pub(crate) async fn token(sso: &AwsSso) -> Result<Option<SecretValue>, Fault> {
    let Some(path) = path(&sso.portal) else { return Ok(None) };
    let from = path.clone();
    let read = tokio::task::spawn_blocking(move || read(&from)).await;
    let Some(cached) = read.ok().flatten() else { return Ok(None) };
    let access = |cached: &Cached| cached.text("accessToken").map(|text| SecretValue::new(text.as_bytes().to_vec()));
    if !cached.is_past("expiresAt", MARGIN) {
        return Ok(access(&cached));
    }
    let (Some(id), Some(secret), Some(refresh)) =
        (cached.text("clientId"), cached.text("clientSecret"), cached.text("refreshToken"))
    else {
        return Ok(None);
    };
    if cached.is_past("registrationExpiresAt", Duration::ZERO) {
        return Ok(None);
    }
    let tokens = match sso.token(id, secret, Grant::Refresh(refresh)).await {
        Ok(tokens) => tokens,
        Err(fault) if matches!(fault.kind, ErrorKind::Unavailable | ErrorKind::Throttled) => return Err(fault),
        Err(_) => return Ok(None),
    };
    // Opened to be written into the file that the person's own CLI keeps it in.
    let text = |secret: &SecretValue| Value::String(String::from_utf8_lossy(secret.expose()).into_owned());
    let mut cached = cached;
    let life = Duration::from_secs(tokens.expires_in).try_into().unwrap_or_default();
    let ends = Timestamp::now().checked_add::<jiff::SignedDuration>(life).unwrap_or(Timestamp::MAX);
    cached.0.insert("accessToken".to_owned(), text(&tokens.access_token.0));
    cached.0.insert("expiresAt".to_owned(), Value::String(ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    if let Some(refresh) = &tokens.refresh_token {
        cached.0.insert("refreshToken".to_owned(), text(&refresh.0));
    }
    let token = access(&cached);
    // What cannot be written is used all the same; the CLI asks for a new sign-in then.
    let _ = tokio::task::spawn_blocking(move || write(&path, &cached)).await;
    Ok(token)
}

/// Returns where the CLI keeps the sign-in to a portal.
fn path(portal: &Portal) -> Option<PathBuf> {
    let name = portal.session.as_deref().unwrap_or(&portal.start_url);
    let digest: String = Sha1::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(std::env::home_dir()?.join(".aws/sso/cache").join(format!("{digest}.json")))
}

fn read(path: &Path) -> Option<Cached> {
    let text = Zeroizing::new(read_text(path).ok()?);
    serde_json::from_str(&text).ok().map(Cached)
}

/// Replaces the file at once, readable by its owner alone.
fn write(path: &Path, cached: &Cached) -> std::io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec(&cached.0)?);
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let done = file.write_all(&text).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}
