//! The directories of one user, by the XDG Base Directory Specification: absolute paths only, others are ignored.
//!
//! Client and daemon compare them: a daemon that was started under another `HOME` reads another configuration, another
//! list of trusted manifests and other sign-ins (`~/.aws`, `~/.vault-token`), and writes another log. So it is not this
//! client's daemon.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where configuration, data and state of the broker lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directories {
    /// `$HOME`
    pub home: PathBuf,
    /// `$XDG_CONFIG_HOME/broker`
    pub config: PathBuf,
    /// `$XDG_DATA_HOME/broker`
    pub data: PathBuf,
    /// `$XDG_STATE_HOME/broker`
    pub state: PathBuf,
}

impl Directories {
    /// Reads the environment; `None` when not even `HOME` is an absolute path.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME")?;
        let place = |name, default| absolute(name).unwrap_or_else(|| home.join(default)).join("broker");
        Some(Self {
            config: place("XDG_CONFIG_HOME", ".config"),
            data: place("XDG_DATA_HOME", ".local/share"),
            state: place("XDG_STATE_HOME", ".local/state"),
            home: home.clone(),
        })
    }
}
