//! Things on disk that go round the broker: whoever can read the files of this user has them without asking.
//!
//! Only looked for by name, or by a word that marks a file as holding a credential; nothing of them is kept or shown.

use std::path::{Path, PathBuf};

/// One finding: the file and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Around {
    /// The file.
    pub(crate) path: PathBuf,
    /// One way out.
    pub(crate) way_out: &'static str,
}

/// Files below the home directory, the word that makes them a credential (none: any content does), and the way out.
const IN_HOME: &[(&str, Option<&str>, &str)] = &[
    (".aws/credentials", Some("aws_secret_access_key"), "sign in with `aws sso login` and remove the long-lived keys"),
    (
        ".config/gcloud/application_default_credentials.json",
        None,
        "sign in for a session: gcloud auth application-default revoke",
    ),
    (".config/gcloud/legacy_credentials", None, "revoke what is not needed: gcloud auth list"),
    (".config/gcloud/credentials.db", None, "revoke what is not needed: gcloud auth list"),
    (".aws/sso/cache", None, "end the session: aws sso logout; `broker login` leaves nothing on disk"),
    (".aws/cli/cache", None, "remove it: these are credentials of roles"),
    (".vault-token", None, "let it end: vault token revoke -self; `broker login` leaves nothing on disk"),
    (".azure/msal_token_cache.json", None, "end the session: az logout; `broker login` leaves nothing on disk"),
    (".azure/msal_token_cache.bin", None, "end the session: az logout; `broker login` leaves nothing on disk"),
    (".azure/accessTokens.json", None, "end the session: az logout; `broker login` leaves nothing on disk"),
    (".netrc", Some("password"), "keep the password in a secret manager"),
    (".npmrc", Some("_authToken"), "write `${NPM_TOKEN}` there and list NPM_TOKEN as a secret"),
    (".pypirc", Some("password"), "list the token as a secret: TWINE_PASSWORD"),
    (".docker/config.json", Some("\"auth\""), "set a credential helper: `credsStore`"),
    (".git-credentials", None, "use a credential helper that encrypts"),
    (".pgpass", None, "list the password as a secret: PGPASSWORD"),
    (".config/gh/hosts.yml", Some("oauth_token"), "sign in again with a keyring: gh auth login"),
];

/// Ends of names of `.env` files that hold no values by custom.
const TEMPLATES: &[&str] = &[".example", ".sample", ".template", ".dist", ".defaults"];

/// No more of a file is looked at than this.
const MAX_LOOK_BYTES: u64 = 64 << 10;

/// Looks below `home` and, for `.env` files, in `project`.
pub(crate) fn look(home: Option<&Path>, project: Option<&Path>) -> Vec<Around> {
    let mut found = Vec::new();
    for (name, word, way_out) in IN_HOME {
        let Some(path) = home.map(|home| home.join(name)) else { continue };
        if path.exists() && word.is_none_or(|word| holds(&path, word)) {
            found.push(Around { path, way_out });
        }
    }
    let entries = project.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut dotenv: Vec<_> =
        entries.filter(|entry| is_dotenv(&entry.file_name().to_string_lossy())).map(|e| e.path()).collect();
    dotenv.sort();
    let way_out = "store its values with `broker secret set`, list them in `broker.toml`, and remove the file";
    found.extend(dotenv.into_iter().map(|path| Around { path, way_out }));
    found
}

fn is_dotenv(name: &str) -> bool {
    (name == ".env" || name.starts_with(".env.") || name == ".envrc")
        && !TEMPLATES.iter().any(|end| name.ends_with(end))
}

fn holds(path: &Path, word: &str) -> bool {
    use std::io::Read as _;
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_LOOK_BYTES as usize));
    let regular = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    regular
        && std::fs::File::open(path).and_then(|file| file.take(MAX_LOOK_BYTES).read_to_end(&mut bytes)).is_ok()
        && bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_credentials_are_found_and_templates_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("home/.aws/credentials", "[default]\naws_secret_access_key = x\n");
        write("home/.npmrc", "registry=https://example.org\n");
        write("home/.aws/sso/cache/0123.json", "{}");
        write("home/.azure/msal_token_cache.json", "{}");
        write("project/.env", "A=b");
        write("project/.env.production", "A=b");
        write("project/.env.example", "A=");
        write("project/environment.ts", "");
        let found = look(Some(&dir.path().join("home")), Some(&dir.path().join("project")));
        let names: Vec<_> =
            found.iter().map(|around| around.path.strip_prefix(dir.path()).unwrap().display().to_string()).collect();
        assert_eq!(
            names,
            [
                "home/.aws/credentials",
                "home/.aws/sso/cache",
                "home/.azure/msal_token_cache.json",
                "project/.env",
                "project/.env.production",
            ]
        );
    }
}
