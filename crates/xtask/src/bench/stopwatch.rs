//! Whole processes, timed by a stopwatch in C (`tests/floor.c`) that starts them and reads what the kernel counted.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use broker_tests::deadline;
use broker_tests::run::Run;

use crate::cargo::{root, succeed, target};
use crate::failure::Failure;

/// One timed process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    /// From its start to its end, in milliseconds.
    pub(crate) ms: f64,
    /// Its peak resident set, in KiB.
    pub(crate) peak_kib: u64,
}

/// Compiles the floor and returns where it is.
pub(crate) fn floor() -> Result<PathBuf, Failure> {
    let to = target().join("floor");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-o"]).arg(&to).arg(root().join("tests/floor.c"));
    succeed(cc)?;
    Ok(to)
}

/// Times one run, started through the stopwatch.
pub(crate) fn lap(floor: &std::path::Path, run: Run) -> Result<Lap, Failure> {
    let outcome = run.through([floor.as_os_str(), "measure".as_ref()]).run();
    let said = outcome.out();
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short process")]
        [nanoseconds, peak_kib, 0] => Ok(Lap { ms: nanoseconds as f64 / 1e6, peak_kib }),
        _ => Err(Failure::Answer { what: "a timed run".into(), said: format!("{said}{}", outcome.err()) }),
    }
}

/// Returns the middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The floor's server, killed when dropped.
pub(crate) struct FloorServer(Child);

impl FloorServer {
    /// Starts it on a socket and waits until it listens.
    pub(crate) fn start(floor: &std::path::Path, socket: &std::path::Path, count: usize) -> Result<Self, Failure> {
        let mut command = Command::new(floor);
        command.arg("serve").arg(socket).arg(count.to_string()).stdin(Stdio::null());
        let child = command.spawn().map_err(|source| Failure::Start { program: "floor".into(), source })?;
        let server = Self(child);
        deadline::until_true("the floor listens", || std::os::unix::net::UnixStream::connect(socket).is_ok());
        Ok(server)
    }
}

impl Drop for FloorServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
