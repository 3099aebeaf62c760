//! Names of environment variables: which are well formed, and which no manifest may set.
//!
//! A variable that changes what a program loads or runs is not a place for a secret: whoever may edit a manifest
//! would otherwise choose code for every command that runs under it.

/// Exact names that are refused, in upper case: what programs load, run, believe and send through.
const NAMES: &[&str] = &[
    "ALL_PROXY",
    "ANSIBLE_CONFIG",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "BASHOPTS",
    "BASH_ENV",
    "BROWSER",
    "CC",
    "CDPATH",
    "CFLAGS",
    "CLASSPATH",
    "CLOUDSDK_PYTHON",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "CXX",
    "DENO_CERT",
    "EDITOR",
    "ENV",
    "ERL_FLAGS",
    "FPATH",
    "FTP_PROXY",
    "GCONV_PATH",
    "GEM_HOME",
    "GEM_PATH",
    "GLOBIGNORE",
    "GOENV",
    "GOFLAGS",
    "GOPROXY",
    "GOROOT",
    "GOTOOLCHAIN",
    "GRADLE_OPTS",
    "GTK_MODULES",
    "HELM_PLUGINS",
    "HISTFILE",
    "HOME",
    "HOSTALIASES",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "IFS",
    "INPUTRC",
    "JAVA_HOME",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "KUBECONFIG",
    "LESSCLOSE",
    "LESSKEY",
    "LESSOPEN",
    "LOCALDOMAIN",
    "LOGNAME",
    "MAKEFILES",
    "MAKEFLAGS",
    "MANPAGER",
    "MAVEN_OPTS",
    "MFLAGS",
    "NLSPATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "NO_PROXY",
    "PAGER",
    "PATH",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS1",
    "PS2",
    "PS4",
    "PSQLRC",
    "PWD",
    "REQUESTS_CA_BUNDLE",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "RUSTFLAGS",
    "SBT_OPTS",
    "SHELL",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SUDO_ASKPASS",
    "TERMCAP",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TF_CLI_CONFIG_FILE",
    "TMPDIR",
    "TZDIR",
    "USER",
    "VIMINIT",
    "VISUAL",
    "WGETRC",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// Beginnings that are refused, whatever follows.
const PREFIXES: &[&str] = &[
    "AWS_CONTAINER_",
    "AWS_EC2_METADATA_",
    "AWS_ENDPOINT_URL",
    "BASH_FUNC_",
    "BROKER_",
    "BUNDLE_",
    "CARGO_",
    "COMPLUS_",
    "CORECLR_",
    "DOTNET_",
    "DYLD_",
    "GCE_METADATA_",
    "GIT_",
    "GLIBC_",
    "LD_",
    "LUA_",
    "MALLOC_",
    "NPM_CONFIG_",
    "OPENSSL_",
    "PERL5",
    "PIP_",
    "PYTHON",
    "RUSTC",
    "UV_",
    "XDG_",
    "YARN_",
];

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
        for name in [
            "PATH",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "BASH_ENV",
            "PYTHONSTARTUP",
            "BROKER_LEASE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "GCE_METADATA_HOST",
            "VIMINIT",
            "GIT_SSH_COMMAND",
            "LESSOPEN",
            "npm_config_script_shell",
            "https_proxy",
            "RUSTC_WRAPPER",
            "AWS_ENDPOINT_URL_STS",
        ] {
            assert!(is_reserved(name), "{name}");
        }
    }

    #[test]
    fn ordinary_names_are_not() {
        for name in [
            "DATABASE_URL",
            "STRIPE_KEY",
            "PORT",
            "AWS_SECRET_ACCESS_KEY",
            "LDAP_PASSWORD",
            "GITHUB_TOKEN",
            "NPM_TOKEN",
            "CARGOTOKEN",
        ] {
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
