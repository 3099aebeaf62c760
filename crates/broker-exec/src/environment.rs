//! The environment of the child: what it inherits, what it is given, what it must not have, and whether the kernel
//! will take it.
//!
//! Inherited variables keep their order and their bytes, valid UTF-8 or not. A value replaces an inherited variable of
//! the same name and never joins it, since programs disagree on which of two counts. Nothing is launched with a part of
//! an environment: every problem of it is found here, before execve(2) would only say `E2BIG`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;

use rustix::process::{Resource, getrlimit};
use zeroize::Zeroizing;

use crate::plan::{Base, Delivery, Plan};

/// What a `--pristine` child inherits: who and where it is, its terminal and its language. `LC_*` too.
pub const PRISTINE: &[&str] = &[
    "COLORTERM",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "PWD",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
];

/// The variable that tells the child, and a broker inside it, which lease it runs under.
pub const LEASE_VARIABLE: &str = "BROKER_LEASE";

/// Ours alone: nothing of it is inherited.
const OWN_PREFIX: &[u8] = b"BROKER_";

/// Longest string that execve(2) takes, its terminating NUL included: 32 pages (`MAX_ARG_STRLEN`).
const MAX_STRING_BYTES: usize = 32 * 4096;

/// Most that execve(2) takes in all, whatever the stack limit: three quarters of 8 MiB.
const MAX_TOTAL_BYTES: u64 = 6 << 20;

/// Least that execve(2) takes in all, whatever the stack limit (`ARG_MAX` of Linux 2.6.22).
const MIN_TOTAL_BYTES: u64 = 128 << 10;

/// One `NAME=VALUE`, wiped when it is dropped.
#[derive(Debug)]
pub struct Variable(Zeroizing<CString>);

impl AsRef<CStr> for Variable {
    fn as_ref(&self) -> &CStr {
        &self.0
    }
}

/// Why the environment can't be delivered. Names variables, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A C string can't hold it.
    #[error("the value of `{0}` contains a NUL byte, which no environment variable can hold")]
    Nul(String),
    /// The kernel takes no string of that size.
    #[error("`{name}` is {bytes} bytes long and the kernel takes at most {MAX_STRING_BYTES} in one variable")]
    TooLong {
        /// The variable.
        name: String,
        /// Its size: name, `=`, value and NUL.
        bytes: usize,
    },
    /// The kernel takes no environment of that size.
    #[error(
        "arguments and environment take {bytes} bytes and the kernel takes {limit}; the largest variable is `{largest}` with {largest_bytes}"
    )]
    TooMuch {
        /// What is needed.
        bytes: u64,
        /// What there is.
        limit: u64,
        /// The variable that takes the most.
        largest: String,
        /// How much it takes.
        largest_bytes: usize,
    },
}

impl EnvironmentError {
    /// Returns one way out.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Nul(_) => "store it encoded, for example as base64, and let the command decode it".to_owned(),
            Self::TooLong { name, .. } => {
                format!("leave it out with `--except {name}`, or store it in smaller parts")
            }
            Self::TooMuch { .. } => {
                "narrow the run with `--only` or `--pristine`, or raise the stack limit: ulimit -s unlimited".to_owned()
            }
        }
    }
}

/// Builds the environment of `plan`.
///
/// # Errors
/// Every variable that can't be delivered; when each could be, that all of them together can't.
pub fn assemble(plan: &Plan) -> Result<Vec<Variable>, Vec<EnvironmentError>> {
    assemble_within(plan, total_limit())
}

fn assemble_within(plan: &Plan, limit: u64) -> Result<Vec<Variable>, Vec<EnvironmentError>> {
    let mut given: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for (name, value) in &plan.settings {
        given.insert(name.as_bytes(), value.as_bytes());
    }
    for Delivery::Env { name, value } in &plan.deliveries {
        // Opened to become the child's environment.
        given.insert(name.as_bytes(), value.expose());
    }
    if let Some(lease) = &plan.lease {
        given.insert(LEASE_VARIABLE.as_bytes(), lease.as_str().as_bytes());
    }
    let removed: BTreeSet<&[u8]> = plan.remove.iter().map(|name| name.as_bytes()).collect();
    let inherited = plan
        .inherited
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .filter(|(name, _)| inherits(plan.base, name) && !removed.contains(name) && !given.contains_key(name));

    let mut problems = Vec::new();
    let mut variables = Vec::with_capacity(plan.inherited.len() + given.len());
    for (name, value) in inherited.chain(given.iter().map(|(name, value)| (*name, *value))) {
        match variable(name, value) {
            Ok(variable) => variables.push(variable),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        problems.extend(too_much(plan, &variables, limit));
    }
    if problems.is_empty() { Ok(variables) } else { Err(problems) }
}

fn inherits(base: Base, name: &[u8]) -> bool {
    let listed = || PRISTINE.iter().any(|kept| kept.as_bytes() == name) || name.starts_with(b"LC_");
    !name.starts_with(OWN_PREFIX) && (base == Base::Everything || listed())
}

fn variable(name: &[u8], value: &[u8]) -> Result<Variable, EnvironmentError> {
    let bytes = name.len() + 1 + value.len() + 1;
    if value.contains(&0) {
        return Err(EnvironmentError::Nul(printed(name)));
    }
    if bytes > MAX_STRING_BYTES {
        return Err(EnvironmentError::TooLong { name: printed(name), bytes });
    }
    // Room for the NUL from the start: growing would leave an unwiped copy behind.
    let mut text = Vec::with_capacity(bytes);
    text.extend_from_slice(name);
    text.push(b'=');
    text.extend_from_slice(value);
    match CString::new(text) {
        Ok(text) => Ok(Variable(Zeroizing::new(text))),
        Err(error) => {
            drop(Zeroizing::new(error.into_vec()));
            Err(EnvironmentError::Nul(printed(name)))
        }
    }
}

/// Counts as the kernel does (fs/exec.c, `bprm_stack_limits`): strings with their NUL, the program's path, one pointer
/// for each argument and variable.
fn too_much(plan: &Plan, variables: &[Variable], limit: u64) -> Option<EnvironmentError> {
    let sizes = || variables.iter().map(|variable| variable.0.as_bytes_with_nul().len());
    let argv = plan.argv.iter().map(|argument| argument.len() + 1).sum::<usize>();
    let pointers = (plan.argv.len().max(1) + variables.len()) * size_of::<usize>();
    let bytes = (sizes().sum::<usize>() + argv + plan.program.as_os_str().len() + 1 + pointers) as u64;
    if bytes <= limit {
        return None;
    }
    let largest = variables.iter().max_by_key(|variable| variable.0.as_bytes().len())?.0.as_bytes();
    let name = largest.split(|b| *b == b'=').next().unwrap_or_default();
    Some(EnvironmentError::TooMuch { bytes, limit, largest: printed(name), largest_bytes: largest.len() + 1 })
}

/// Returns how much execve(2) takes: a quarter of the stack limit, within its bounds.
fn total_limit() -> u64 {
    let stack = getrlimit(Resource::Stack).current.unwrap_or(u64::MAX);
    (stack / 4).clamp(MIN_TOTAL_BYTES, MAX_TOTAL_BYTES)
}

fn printed(name: &[u8]) -> String {
    OsStr::from_bytes(name).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;

    use broker_core::lease::LeaseId;
    use broker_core::secret::SecretValue;

    use super::*;
    use crate::plan::Core;

    fn plan(inherited: &[(&str, &str)], secrets: &[(&str, &[u8])]) -> Plan {
        Plan {
            program: PathBuf::from("/bin/true"),
            argv: vec!["true".into()],
            cwd: None,
            inherited: inherited.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect(),
            base: Base::Everything,
            deliveries: secrets
                .iter()
                .map(|(name, value)| Delivery::Env { name: (*name).into(), value: SecretValue::new(value.to_vec()) })
                .collect(),
            settings: Vec::new(),
            remove: Vec::new(),
            lease: None,
            core: Core::Forbidden,
        }
    }

    fn lines(plan: &Plan) -> Vec<Vec<u8>> {
        assemble(plan).unwrap().iter().map(|variable| variable.as_ref().to_bytes().to_vec()).collect()
    }

    #[test]
    fn a_value_replaces_what_was_inherited_under_its_name() {
        let plan = plan(&[("A", "parent"), ("B", "kept"), ("A", "twice")], &[("A", b"secret")]);
        assert_eq!(lines(&plan), [b"B=kept".to_vec(), b"A=secret".to_vec()]);
    }

    #[test]
    fn nothing_of_ours_is_inherited_but_the_lease_is_marked() {
        let mut plan = plan(&[("BROKER_NON_INTERACTIVE", "1"), ("BROKER_LEASE", "l-old"), ("X", "1")], &[]);
        plan.lease = Some(LeaseId::from_random([0; 24]));
        assert_eq!(lines(&plan), [b"X=1".to_vec(), b"BROKER_LEASE=l-aaaaaaaaaaaaaaaaaaaaaaaa".to_vec()]);
    }

    #[test]
    fn a_name_that_is_withheld_is_not_inherited_either() {
        let mut plan = plan(&[("DATABASE_ADMIN_URL", "from the parent"), ("X", "1")], &[]);
        plan.remove.push("DATABASE_ADMIN_URL".into());
        assert_eq!(lines(&plan), [b"X=1".to_vec()]);
    }

    #[test]
    fn a_pristine_child_inherits_the_short_list() {
        let mut plan = plan(&[("HOME", "/h"), ("LC_TIME", "C"), ("SSH_AUTH_SOCK", "/s"), ("AWS_PROFILE", "p")], &[]);
        plan.base = Base::Pristine;
        plan.settings.push(("PORT".into(), "1".into()));
        assert_eq!(lines(&plan), [b"HOME=/h".to_vec(), b"LC_TIME=C".to_vec(), b"PORT=1".to_vec()]);
    }

    #[test]
    fn bytes_stay_as_they_are() {
        let mut plan = plan(&[], &[("KEY", b"a\n$b \xff\xfe")]);
        plan.inherited.push(("N\u{e4}me".into(), OsString::from_vec(b"\xc3\x28".to_vec())));
        assert_eq!(lines(&plan), [b"N\xc3\xa4me=\xc3\x28".to_vec(), b"KEY=a\n$b \xff\xfe".to_vec()]);
    }

    #[test]
    fn every_undeliverable_variable_is_named_and_none_is_shown() {
        let long = vec![b'x'; MAX_STRING_BYTES - "LONG=".len()];
        let problems = assemble(&plan(&[], &[("NUL", b"hunter\x002"), ("LONG", &long)])).unwrap_err();
        let text: Vec<_> = problems.iter().map(|p| format!("{p} {}", p.hint())).collect();
        assert!(text[0].contains("`LONG` is 131073 bytes"), "{text:?}");
        assert!(text[1].contains("`NUL` contains a NUL") && !text[1].contains("hunter"), "{text:?}");
    }

    #[test]
    fn the_longest_variable_that_the_kernel_takes_is_delivered() {
        let longest = vec![b'x'; MAX_STRING_BYTES - "LONG=".len() - 1];
        let plan = plan(&[], &[("LONG", &longest)]);
        let variables = assemble(&plan).unwrap();
        let run = |variable: &Variable| {
            let text = OsStr::from_bytes(variable.as_ref().to_bytes()).to_owned();
            std::process::Command::new("/usr/bin/env").env_clear().arg("-i").arg(text).arg("/bin/true").status()
        };
        assert!(run(&variables[0]).unwrap().success());
    }

    #[test]
    fn too_much_in_all_names_the_largest() {
        let value = vec![b'x'; 1000];
        let plan = plan(&[("SMALL", "1")], &[("BIG", &value)]);
        let problems = assemble_within(&plan, 900).unwrap_err();
        let [EnvironmentError::TooMuch { largest, largest_bytes: 1005, .. }] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert_eq!(largest, "BIG");
    }
}
