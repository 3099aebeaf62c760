//! A throwaway home: its own directories, its own daemon, nothing of the caller's.
//!
//! No bus address is ever set, so no keyring of the desktop is touched and the embedded store works by passphrase. When
//! a home is dropped its keeper and its daemon are stopped by pid and waited for, then its directories are removed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::canary;
use crate::deadline;
use crate::process::{self, Pid};
use crate::programs;
use crate::project::Project;
use crate::run::{Run, write_private};

/// A home with nothing in it.
pub struct Home {
    root: TempDir,
    programs: PathBuf,
    passphrase: String,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// Makes the directories, each private, for the programs under test.
    ///
    /// # Panics
    /// When the file system refuses or the programs are not built.
    #[must_use]
    pub fn new() -> Self {
        Self::with_programs(&programs::directory())
    }

    /// Makes the directories for the programs in a certain place.
    ///
    /// # Panics
    /// When the file system refuses.
    #[must_use]
    pub fn with_programs(programs: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("bt-").tempdir().expect("a temporary directory can be made");
        let home = Self { passphrase: canary::word("passphrase"), root, programs: programs.to_owned() };
        for dir in [home.path(), home.config(), home.data(), home.state(), home.runtime(), home.projects()] {
            fs::create_dir_all(&dir).expect("a directory can be made");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a mode can be set");
        }
        home
    }

    /// Returns the directory that everything of this home lies in.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns `$HOME`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// Returns `$XDG_CONFIG_HOME`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path().join(".config")
    }

    /// Returns `$XDG_DATA_HOME`.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join(".local/share")
    }

    /// Returns `$XDG_STATE_HOME`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join(".local/state")
    }

    /// Returns `$XDG_RUNTIME_DIR`.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.root.path().join("run")
    }

    /// Returns the directory that projects lie in.
    #[must_use]
    pub fn projects(&self) -> PathBuf {
        self.path().join("src")
    }

    /// Returns where the socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("broker/broker.sock")
    }

    /// Returns where the audit log is.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.state().join("broker/audit.jsonl")
    }

    /// Returns the passphrase of the embedded store, which is nowhere on the disk.
    #[must_use]
    pub fn passphrase(&self) -> &str {
        &self.passphrase
    }

    /// Writes the user's configuration.
    pub fn configure(&self, text: &str) -> &Self {
        let dir = self.config().join("broker");
        fs::create_dir_all(&dir).expect("a directory can be made");
        write_private(&dir.join("config.toml"), text.as_bytes());
        self
    }

    /// Writes a manifest into a new directory called `name`. It is not trusted yet.
    pub fn project(&self, name: &str, manifest: &str) -> Project<'_> {
        Project::new(self, &self.projects().join(name), manifest)
    }

    /// Prepares a program in this home's environment, with `$HOME` as its working directory.
    #[must_use]
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        Run::new(program)
            .cwd(&self.path())
            .env("HOME", self.path())
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", self.programs.display()))
            .env("LANG", "C.UTF-8")
            .env("XDG_CONFIG_HOME", self.config())
            .env("XDG_DATA_HOME", self.data())
            .env("XDG_STATE_HOME", self.state())
            .env("XDG_RUNTIME_DIR", self.runtime())
    }

    /// Prepares `broker ARG...`.
    #[must_use]
    pub fn broker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.run(self.programs.join("broker")).args(args)
    }

    /// Prepares `broker ARG...` with the passphrase of the embedded store on a descriptor.
    #[must_use]
    pub fn broker_with_passphrase<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.broker(["--passphrase-fd", "3"]).args(args).descriptor_3(&self.passphrase)
    }

    /// Stores a value in the embedded store, making or unlocking the store where needed.
    ///
    /// # Panics
    /// When that fails.
    pub fn store(&self, reference: &str, value: impl AsRef<[u8]>) -> &Self {
        self.broker_with_passphrase(["secret", "set", reference, "--allow-empty"]).stdin(value).succeed();
        self
    }

    /// Starts the daemon and returns its pid.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start_daemon(&self) -> Pid {
        self.broker(["daemon", "start"]).succeed();
        self.daemon().expect("a started daemon has a pid")
    }

    /// Returns the daemon's pid as `broker daemon status` tells it; none when none runs.
    #[must_use]
    pub fn daemon(&self) -> Option<Pid> {
        let status = self.broker(["daemon", "status", "--json"]).run();
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        i32::try_from(status.get("pid")?.as_i64()?).ok()
    }

    /// Returns the status of the running daemon.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn status(&self) -> Value {
        self.broker(["daemon", "status", "--json"]).succeed().json()
    }

    /// Returns the live leases.
    ///
    /// # Panics
    /// When the list is none.
    #[must_use]
    pub fn leases(&self) -> Vec<Value> {
        let list = self.broker(["lease", "list", "--json"]).succeed().json();
        list.as_array().cloned().unwrap_or_else(|| panic!("no array: {list}"))
    }

    /// Waits until no lease is live.
    pub fn until_no_lease(&self) {
        deadline::until_true("no lease is live", || self.leases().is_empty());
    }

    /// Returns every complete record of the audit log, oldest first.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_log()).unwrap_or_default();
        let lines = text.lines().filter(|l| !l.is_empty());
        lines.map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("no JSON ({e}): {l}"))).collect()
    }

    /// Returns the audit records of one event.
    #[must_use]
    pub fn audited(&self, event: &str) -> Vec<Value> {
        self.audit().into_iter().filter(|r| r["event"] == event).collect()
    }

    /// Returns the pids of all daemons that ever served this home, from its audit log.
    #[must_use]
    pub fn daemons_ever(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.audit_log()).unwrap_or_default();
        let records = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let started = records.filter(|r| r["event"] == "daemon-started");
        started.filter_map(|r| i32::try_from(r["pid"].as_i64()?).ok()).collect()
    }

    /// Returns the pid of the daemon's keeper, as the kernel tells who holds its lock; none when none lives.
    #[must_use]
    pub fn keeper(&self) -> Option<Pid> {
        process::lock_holder(&self.runtime().join("broker/keeper.lock"))
    }

    /// Ends every daemon of this home, as a crash would. Its keeper starts another one at once.
    pub fn kill_daemon(&self) {
        for pid in self.living_daemons() {
            process::kill(pid);
        }
    }

    /// Ends the keeper and every daemon of this home, as a crash of both would. Nothing runs until the next command.
    pub fn kill_both(&self) {
        let mut daemons = Vec::new();
        while let Some(keeper) = self.keeper() {
            // Stopped, it starts no other daemon while its children are looked for.
            process::signal(keeper, 19);
            let _ = deadline::within(Duration::from_secs(5), || process::is_stopped(keeper).then_some(()));
            daemons.extend(process::children(keeper));
            process::kill(keeper);
        }
        daemons.extend(self.living_daemons());
        for pid in daemons {
            process::kill(pid);
        }
    }

    fn living_daemons(&self) -> Vec<Pid> {
        let mut pids = self.daemons_ever();
        if let Ok(text) = fs::read_to_string(self.runtime().join("broker/brokerd.pid")) {
            pids.extend(text.trim().parse::<Pid>());
        }
        pids.extend(self.listener());
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| process::name(*pid).as_deref() == Some("brokerd"));
        pids
    }

    /// Returns who listens on the socket, as the kernel says it (`SO_PEERCRED` of a connection).
    #[must_use]
    pub fn listener(&self) -> Option<Pid> {
        let stream = std::os::unix::net::UnixStream::connect(self.socket()).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        Some(peer.pid.as_raw_nonzero().get())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Asked to end, the keeper ends with its daemon. A daemon without one, or one that was stopped, is asked itself.
        let pids: Vec<_> = self.keeper().into_iter().chain(self.living_daemons()).collect();
        for pid in &pids {
            process::signal(*pid, 15);
        }
        let ended = pids.iter().all(|pid| process::wait_end(*pid, Duration::from_secs(5)));
        if !ended || self.keeper().is_some() {
            self.kill_both();
        }
    }
}
