//! The rules of this repository that no other tool knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{output, root};
use crate::failure::{Failure, at};
use crate::report;

/// Text that has no place here: paths of one machine, words that were left for later. Each is written in two pieces,
/// so that this file does not contain it.
const FORBIDDEN: [(&str, &str); 8] = [
    ("/work", "/"),
    ("/root", "/."),
    ("arti", "factory"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("dbg", "!("),
    ("#[ig", "nore"),
];

/// Longest source file, in lines. Longer ones hold more than one idea.
const MAX_LINES: usize = 600;

/// Checks every rule and lists every problem.
pub(crate) fn check() -> Result<(), Failure> {
    let root = root();
    let files = tracked(&root)?;
    let mut problems = Vec::new();
    let mut tests = BTreeSet::new();
    for file in &files {
        // A file that was removed but not yet committed is no problem of its own.
        let Ok(bytes) = fs::read(root.join(file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if file.extension().is_some_and(|e| e == "rs") {
            tests.extend(functions(&text));
            problems.extend(of_source(file, &text));
        }
        if file.file_name().is_none_or(|name| name != "Cargo.lock") {
            problems.extend(forbidden(file, &text));
        }
    }
    let threats = Path::new("docs/threats.md");
    let text = fs::read_to_string(root.join(threats)).map_err(at(threats))?;
    problems.extend(untested(threats, &text, &tests));
    for problem in &problems {
        report::warn(problem);
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Problems(problems.len())) }
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    Ok(output(git)?.lines().map(PathBuf::from).collect())
}

fn forbidden(file: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (a, b) in FORBIDDEN {
            if line.contains(&format!("{a}{b}")) {
                found.push(format!("{}:{}: `{a}{b}` has no place here", file.display(), number + 1));
            }
        }
    }
    found
}

fn of_source(file: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{}: {lines} lines, more than {MAX_LINES}", file.display()));
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        found.push(format!("{}:1: no header that says what this file is for", file.display()));
    }
    found
}

/// Returns the names of all functions of a source file.
fn functions(text: &str) -> impl Iterator<Item = String> + '_ {
    let rest = text.split("fn ").skip(1);
    rest.map(|r| r.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// Demands of every row of the threats' tables that it names a test that exists, or says `open`.
fn untested(file: &Path, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut rows = 0;
    let mut previous_is_row = false;
    for (number, line) in text.lines().enumerate() {
        let is_row = line.starts_with('|');
        // The first line of a table is its head, the second a rule.
        let is_body = is_row && previous_is_row && !line.starts_with("|-") && !line.starts_with("| -");
        previous_is_row = is_row;
        if !is_body {
            continue;
        }
        rows += 1;
        let names = line.split('`').skip(1).step_by(2).map(|n| n.rsplit("::").next().unwrap_or(n));
        let tested = names.clone().any(|name| tests.contains(name));
        for name in names.filter(|n| n.matches('_').count() >= 3 && n.chars().all(|c| c.is_alphanumeric() || c == '_'))
        {
            if !tests.contains(name) {
                found.push(format!("{}:{}: there is no test `{name}`", file.display(), number + 1));
            }
        }
        if !tested && !line.to_lowercase().contains("open") {
            found.push(format!("{}:{}: the row names no test and does not say `open`", file.display(), number + 1));
        }
    }
    if rows == 0 {
        found.push(format!("{}: no table of threats", file.display()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| threat | answer |\n|---|---|\n";

    fn problems(row: &str) -> usize {
        let tests = BTreeSet::from(["a_value_is_never_there".to_owned()]);
        untested(Path::new("t"), &format!("{TABLE}{row}\n"), &tests).len()
    }

    #[test]
    fn a_row_names_a_test_that_exists_or_says_open() {
        assert_eq!(problems("| x | `specs::leak::a_value_is_never_there` |"), 0);
        assert_eq!(problems("| x | open: nothing stops it |"), 0);
        assert_eq!(problems("| x | nothing |"), 1);
        assert_eq!(problems("| x | open, `a_test_that_is_not_there` |"), 1);
    }

    #[test]
    fn a_document_without_a_table_is_a_problem() {
        assert_eq!(untested(Path::new("t"), "nothing", &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn forbidden_text_is_found_with_its_line() {
        let (a, b) = FORBIDDEN[0];
        assert_eq!(forbidden(Path::new("f"), &format!("fine\nsee {a}{b}x\n")).len(), 1);
    }
}
