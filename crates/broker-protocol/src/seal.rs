//! Closes this process to others before a value enters it.
//!
//! A process that is not dumpable can't be traced, its `/proc/PID/{mem,environ,fd}` belong to root, and it leaves no core
//! (prctl(2), PR_SET_DUMPABLE). The daemon must have looked at it before: its executable is unreadable afterwards.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Makes this process non-dumpable and lowers its soft core limit to 1 byte.
///
/// Why 1 and not 0: a `core_pattern` that names a program is run whatever the limit, with this one exception (core(5) is
/// silent; `do_coredump` in the kernel's fs/coredump.c aborts a piped dump when the limit is 1).
///
/// # Errors
/// The kernel's, which would mean that values are not safe here: stop then.
pub fn seal() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let limit = getrlimit(Resource::Core);
    let current = limit.maximum.map_or(1, |maximum| maximum.min(1));
    setrlimit(Resource::Core, Rlimit { current: Some(current), maximum: limit.maximum })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_process_is_not_dumpable_and_its_core_limit_is_one_byte() {
        // The proof stands in its own process: other tests of this binary may need to stay dumpable.
        let Some(_) = std::env::var_os("SEAL_TEST_CHILD") else {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "seal::tests::a_sealed_process_is_not_dumpable_and_its_core_limit_is_one_byte"])
                .env("SEAL_TEST_CHILD", "1")
                .stdout(std::process::Stdio::null())
                .status();
            assert!(status.unwrap().success());
            return;
        };
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        seal().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert!(getrlimit(Resource::Core).current.is_some_and(|limit| limit <= 1));
    }
}
