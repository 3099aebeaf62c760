//! Completion of words in the shell: commands and flags from the parser, profiles and secrets from the nearest manifest.
//!
//! Only names are ever completed, read from the file itself: the daemon is not asked, so a press of the tab key is no
//! request for a secret. A manifest with problems still completes what can be read of it.

use std::ffi::OsString;
use std::path::PathBuf;

use broker_core::reserved::is_variable_name;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::manifest_file::find;
use crate::report::{FAILED, USAGE};

/// The variable by which the shell's script asks for completions.
pub(crate) const VARIABLE: &str = "BROKER_COMPLETE";

/// Tells whether this call asks for completions.
pub(crate) fn was_asked() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|shell| !shell.is_empty())
}

/// Answers the shell.
pub(crate) fn answer(argv: Vec<OsString>) -> u8 {
    let cwd = std::env::current_dir().ok();
    let environment = CompleteEnv::with_factory(crate::cli::tree).var(VARIABLE).completer("broker").bin("broker");
    match environment.try_complete(argv, cwd.as_deref()) {
        Ok(true) => 0,
        Ok(false) => USAGE,
        Err(_) => FAILED,
    }
}

/// Completes the names of profiles.
pub(crate) fn profiles() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("profiles"))
}

/// Completes the names of the provider instances that the manifest configures.
pub(crate) fn instances() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("providers"))
}

/// Completes the names of secrets.
pub(crate) fn secrets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("secrets"))
}

fn names(section: &str) -> Vec<CompletionCandidate> {
    let manifest = std::env::current_dir().ok().and_then(|cwd: PathBuf| find(&cwd, None).ok().flatten());
    manifest.map(|manifest| keys(&manifest.text, section)).unwrap_or_default().into_iter().map(Into::into).collect()
}

fn keys(text: &str, section: &str) -> Vec<String> {
    let Ok(document) = text.parse::<toml::Table>() else { return Vec::new() };
    let table = document.get(section).and_then(toml::Value::as_table);
    let named = |name: &&String| is_variable_name(&name.replace(['-', '.'], "_"));
    table.map(|table| table.keys().filter(named).cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_nothing_else_of_the_manifest() {
        let text = "[secrets]\nA = \"hunter2\"\n\"pasted value\" = 1\n[profiles.dev-eu]\nsecrets = [\"A\"]\n";
        assert_eq!(keys(text, "secrets"), ["A"]);
        assert_eq!(keys(text, "profiles"), ["dev-eu"]);
        assert!(keys("[secrets", "secrets").is_empty());
    }
}
