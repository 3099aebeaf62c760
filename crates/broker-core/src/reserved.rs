//! Names of environment variables: which are well formed, and which no manifest may set.
//!
//! A variable that changes what a program loads or runs is not a place for a secret: whoever may edit a manifest
//! would otherwise choose code for every command that runs under it.

/// Exact names that are refused.
const NAMES: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "BASH_FUNC_",
    "CDPATH",
    "CLASSPATH",
    "DENO_CERT",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "GLOBIGNORE",
    "HOME",
    "IFS",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCALDOMAIN",
    "LOGNAME",
    "MANPAGER",
    "NLSPATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "PAGER",
    "PATH",
    "PROMPT_COMMAND",
    "PS4",
    "PWD",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELL",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERMINFO",
    "TMPDIR",
    "TZDIR",
    "USER",
    "VISUAL",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Beginnings that are refused, whatever follows.
const PREFIXES: &[&str] =
    &["BASH_FUNC_", "BROKER_", "DYLD_", "GIT_", "LD_", "MALLOC_", "GLIBC_", "PERL5", "PYTHON", "XDG_"];

/// Longest accepted name.
const MAX_NAME_LEN: usize = 256;

/// Tells whether `name` can be the name of an environment variable (POSIX: letters, digits and `_`, no leading digit).
#[must_use]
pub fn is_variable_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Tells whether no manifest may set `name`.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    NAMES.contains(&upper.as_str()) || PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_choose_code_are_reserved() {
        for name in
            ["PATH", "LD_PRELOAD", "NODE_OPTIONS", "BASH_ENV", "PYTHONSTARTUP", "BROKER_LEASE", "GIT_SSH_COMMAND"]
        {
            assert!(is_reserved(name), "{name}");
        }
    }

    #[test]
    fn ordinary_names_are_not() {
        for name in ["DATABASE_URL", "STRIPE_KEY", "PORT", "AWS_SECRET_ACCESS_KEY", "LDAP_PASSWORD", "GITHUB_TOKEN"] {
            assert!(!is_reserved(name) && is_variable_name(name), "{name}");
        }
    }

    #[test]
    fn malformed_names_are_told_apart() {
        for name in ["", "1A", "A-B", "A=B", "A B", "Ä"] {
            assert!(!is_variable_name(name), "{name:?}");
        }
    }
}
