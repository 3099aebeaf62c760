//! Who runs the tests. Half of the negative tests can't fail correctly as root, so `cargo xtask test` runs the
//! specifications twice on a machine where it is root.

/// Tells whether this is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the effective user id.
#[must_use]
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns the name of the account, as the system tells it.
///
/// # Panics
/// When it tells none.
#[must_use]
pub fn name() -> String {
    let said = std::process::Command::new("/usr/bin/id").arg("-un").output().expect("`id` starts");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}
