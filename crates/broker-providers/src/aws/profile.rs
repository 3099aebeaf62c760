//! The profile files of AWS, read by us: the user's own, or those that the caller's variables name.
//!
//! The SDK would look for them in the environment of its process, which is the daemon's. There is a second reason: a
//! profile may name a command (`credential_process`) that is run to sign in. In `~/.aws` the user put it there. In a file
//! that a variable names it could be put by whatever the caller runs under, such as a repository or an agent in a
//! sandbox, and the daemon would run it outside. So there it does not count. The text that was checked is the text that
//! is parsed.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_runtime::env_config::section::EnvConfigSections;
use aws_types::os_shim_internal::{Env, Fs};
use broker_core::sign_in::SignIn;
use futures_util::FutureExt as _;
use rustix::fs::OFlags;

use crate::file_stamp::{FileStamp, FilesStamp};
use crate::words::chain;

/// Largest profile or token file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The setting that names a command.
const COMMAND: &str = "credential_process";

const FILES: [(EnvConfigFileKind, &str, &str); 2] = [
    (EnvConfigFileKind::Config, "AWS_CONFIG_FILE", "config"),
    (EnvConfigFileKind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", "credentials"),
];

/// Why a profile file does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// It cannot be read.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("the AWS configuration cannot be read: {0}")]
    Parse(String),
    /// A variable that is relative to a directory that is not ours.
    #[error("`{0}` must be an absolute path")]
    Relative(&'static str),
    /// A command in a file that a variable names.
    #[error("`{}` names a command (`{COMMAND}`), which counts in `~/.aws` only", path.display())]
    Command {
        /// Which file.
        path: PathBuf,
    },
}

/// Looks at the files that a sign-in reads, without reading them: whoever edits one means it at once. At most three calls
/// of `stat`.
pub(crate) fn stamp(sign_in: &SignIn) -> FilesStamp {
    let profiles = FILES.map(|(_, variable, name)| place(sign_in, variable, name).ok().flatten());
    let token = sign_in.text("AWS_WEB_IDENTITY_TOKEN_FILE").map(PathBuf::from);
    let paths = profiles.into_iter().map(|place| place.map(|(path, _)| path)).chain([token]);
    FilesStamp(paths.map(|path| FileStamp::of(&path?)).collect())
}

/// Reads the files that apply. A missing one is empty, as for the AWS CLI. Blocks.
fn read(sign_in: &SignIn) -> Result<EnvConfigFiles, ProfileError> {
    let mut files = EnvConfigFiles::builder();
    for (kind, variable, name) in FILES {
        let Some((path, is_named)) = place(sign_in, variable, name)? else { continue };
        let text = match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|source| ProfileError::Io { path: path.clone(), source })?,
        };
        // Anywhere in the text, a comment included: a stricter reading than the parser's cannot be fooled by it.
        if is_named && text.to_ascii_lowercase().contains(COMMAND) {
            return Err(ProfileError::Command { path });
        }
        files = files.with_contents(kind, text);
    }
    Ok(files.build())
}

/// Reads and parses the files that apply. What the environment of the process says does not count. Blocks.
pub(crate) fn profiles(sign_in: &SignIn) -> Result<EnvConfigSections, ProfileError> {
    parse(&read(sign_in)?)
}

pub(crate) fn parse(files: &EnvConfigFiles) -> Result<EnvConfigSections, ProfileError> {
    let (fs, env) = (Fs::from_slice(&[]), Env::from_slice(&[]));
    // The texts are at hand, so there is nothing to wait for.
    let parsed = aws_config::profile::load(&fs, &env, files, None).now_or_never();
    let parsed = parsed.ok_or_else(|| ProfileError::Parse("it was not parsed at once".to_owned()))?;
    parsed.map_err(|error| ProfileError::Parse(chain(&error)))
}

/// Returns where a file is, and whether a variable says so.
fn place(sign_in: &SignIn, variable: &'static str, name: &str) -> Result<Option<(PathBuf, bool)>, ProfileError> {
    let home = std::env::home_dir();
    let Some(named) = sign_in.text(variable) else {
        return Ok(home.map(|home| (home.join(".aws").join(name), false)));
    };
    let path = match (named.strip_prefix("~/"), &home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(named),
    };
    // The very file that counts anyway is no news.
    let is_own = home.is_some_and(|home| path == home.join(".aws").join(name));
    if path.is_absolute() { Ok(Some((path, !is_own))) } else { Err(ProfileError::Relative(variable)) }
}

/// Reads a file that a variable may name. Blocks, but for no device or FIFO.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for what is no regular file or larger than [`MAX_FILE`].
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    // Opening a FIFO would otherwise wait for a writer that never comes.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut text = String::new();
    // The length is checked by reading: a file of /proc has none and one that grows has another.
    if !file.metadata()?.is_file() || file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file of at most 1 MiB"));
    }
    Ok(text)
}
