//! `cargo xtask bench`: what it costs, side by side with the floor.

use crate::failure::Failure;

/// Measures the named parts, or all.
pub(crate) fn run(_parts: &[&str]) -> Result<(), Failure> {
    Ok(())
}
