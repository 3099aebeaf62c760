//! Where the programs under test are.

use std::env;
use std::path::{Path, PathBuf};

/// Returns the directory that holds `broker` and `brokerd`: `BROKER_BIN_DIR`, else the target directory that this very
/// executable was built into.
///
/// # Panics
/// When the programs are not there: nothing could be tested then, and that must not read as passed.
#[must_use]
pub fn directory() -> PathBuf {
    let found = env::var_os("BROKER_BIN_DIR").map(PathBuf::from).or_else(|| {
        let exe = env::current_exe().ok()?;
        exe.ancestors().skip(1).take(2).find(|dir| has_both(dir)).map(Path::to_path_buf)
    });
    match found {
        Some(dir) if has_both(&dir) => dir,
        _ => panic!("`broker` and `brokerd` are not built: run the tests with `cargo xtask test`"),
    }
}

fn has_both(dir: &Path) -> bool {
    ["broker", "brokerd"].iter().all(|name| dir.join(name).is_file())
}
