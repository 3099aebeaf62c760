//! The directories of one user, by the XDG Base Directory Specification: absolute paths only, others are ignored.

use std::path::PathBuf;

/// Where configuration, data and state of the broker lie.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// `$XDG_CONFIG_HOME/broker`
    pub(crate) config: PathBuf,
    /// `$XDG_DATA_HOME/broker`
    pub(crate) data: PathBuf,
    /// `$XDG_STATE_HOME/broker`
    pub(crate) state: PathBuf,
}

impl Directories {
    /// Reads the environment; `None` when not even `HOME` is an absolute path.
    pub(crate) fn from_environment() -> Option<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME")?;
        let place = |name, default| absolute(name).unwrap_or_else(|| home.join(default)).join("broker");
        Some(Self {
            config: place("XDG_CONFIG_HOME", ".config"),
            data: place("XDG_DATA_HOME", ".local/share"),
            state: place("XDG_STATE_HOME", ".local/state"),
        })
    }
}
