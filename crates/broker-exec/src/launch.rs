//! Becomes the child: execve(2) in place, so that pid, parent, terminal, signals and exit status are the child's own.
//!
//! Not `std`'s `CommandExt::exec`: that resets the signal mask and SIGPIPE, and a child is to have exactly what our caller
//! gave us. Every descriptor of ours is close-on-exec, every inherited one stays.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::execve;
use rustix::process::{Resource, Rlimit, chdir, getrlimit, setrlimit};

use crate::command::CommandError;
use crate::environment::{EnvironmentError, assemble};
use crate::plan::{Core, Plan};

/// Why the child was not launched. Every value of the plan is wiped by then.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The values can't be delivered.
    #[error("{}", .0.first().map_or_else(String::new, ToString::to_string))]
    Environment(Vec<EnvironmentError>),
    /// The program can't be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The child's directory can't be entered.
    #[error("cannot enter `{}`: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The core limit can't be set.
    #[error("cannot limit the child's core: {0}")]
    Limit(io::Error),
    /// An argument can't be passed on.
    #[error("an argument contains a NUL byte")]
    Argument,
    /// Arguments and environment are more than the kernel takes, against its own rules.
    #[error("the kernel refused arguments and environment as too large")]
    TooLarge,
}

/// Launches `plan` in place of this process; returns only when that failed.
///
/// # Errors
/// See [`LaunchError`].
pub fn launch(plan: Plan) -> Result<Infallible, LaunchError> {
    let environment = assemble(&plan).map_err(LaunchError::Environment)?;
    let Plan { program, argv, cwd, core, deliveries, .. } = plan;
    // The environment has its own copies.
    drop(deliveries);
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| LaunchError::Argument)?;
    let argv = argv.into_iter().map(|argument| CString::new(argument.into_vec()));
    let argv = argv.collect::<Result<Vec<_>, _>>().map_err(|_| LaunchError::Argument)?;
    if let Some(path) = cwd {
        chdir(&path).map_err(|error| LaunchError::Directory { path, source: error.into() })?;
    }
    limit_core(core).map_err(LaunchError::Limit)?;
    match execve(&path, &argv, &environment) {
        Err(error) => Err(refused(program, error)),
    }
}

/// Sets the child's core limits. See `seal` of the client on why one byte and not none.
fn limit_core(core: Core) -> io::Result<()> {
    let one_byte = Rlimit { current: Some(1), maximum: Some(1) };
    match core {
        Core::Allowed(limit) => setrlimit(Resource::Core, limit)?,
        // A hard limit of no byte can be raised to one by the privileged only: then it rules out files, if no pipes.
        Core::Forbidden if getrlimit(Resource::Core).maximum == Some(0) => {
            let _ = setrlimit(Resource::Core, one_byte);
        }
        Core::Forbidden => setrlimit(Resource::Core, one_byte)?,
    }
    Ok(())
}

fn refused(program: PathBuf, error: Errno) -> LaunchError {
    match error {
        Errno::ENOEXEC => CommandError::Format(program).into(),
        // The file itself was there a moment ago; what is missing now is most likely its interpreter.
        Errno::ENOENT if program.exists() => CommandError::Interpreter(program).into(),
        Errno::ENOENT => CommandError::NotFound(program.to_string_lossy().into_owned()).into(),
        Errno::EACCES => CommandError::NotExecutable(program).into(),
        Errno::E2BIG => LaunchError::TooLarge,
        error => CommandError::Refused { path: program, source: error.into() }.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plan::Base;

    fn plan(program: PathBuf) -> Plan {
        Plan {
            argv: vec![program.clone().into()],
            program,
            cwd: None,
            inherited: Vec::new(),
            base: Base::Everything,
            deliveries: Vec::new(),
            settings: Vec::new(),
            remove: Vec::new(),
            lease: None,
            core: Core::Allowed(getrlimit(Resource::Core)),
        }
    }

    #[test]
    fn a_script_without_a_first_line_is_never_handed_to_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let trace = dir.path().join("trace");
        fs::write(&script, format!("touch {}\n", trace.display())).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let Err(LaunchError::Command(error)) = launch(plan(script)) else { panic!() };
        assert!(matches!(error, CommandError::Format(_)));
        assert_eq!(error.exit_code(), 126);
        assert!(!trace.exists());
    }

    #[test]
    fn a_missing_interpreter_is_told_apart_from_a_missing_command() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(launch(plan(script)), Err(LaunchError::Command(CommandError::Interpreter(_)))));
        let missing = launch(plan(dir.path().join("missing")));
        assert!(matches!(missing, Err(LaunchError::Command(CommandError::NotFound(_)))));
    }
}
