//! A program as a provider, end to end: named by the user's configuration, never by a repository.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use broker_tests::home::Home;
use sha2::{Digest as _, Sha256};

/// A program that answers every reference with its own path, and leaves a trace of each start.
fn program(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("provider");
    let text = format!(
        "#!/usr/bin/python3 -I\nimport json, os, sys\nrequest = json.load(sys.stdin)\n\
         open({:?}, 'a').write(json.dumps(dict(os.environ)) + '\\n')\n\
         results = [{{'id': r['id'], 'text': 'value of ' + r['path'] {more}}} for r in request.get('references', [])]\n\
         print(json.dumps({{'broker': 1, 'results': results}}))\n",
        trace(dir).display()
    );
    fs::write(&path, text).expect("the program can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    path
}

fn trace(dir: &Path) -> PathBuf {
    dir.join("trace")
}

/// Returns the lines of an instance, pinned as the program is now.
fn instance(program: &Path) -> String {
    let digest: String =
        Sha256::digest(fs::read(program).expect("it is there")).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("kind = \"exec\"\ncommand = [\"{}\"]\nsha256 = \"{digest}\"\n", program.display())
}

const MANIFEST: &str = "[project]\nname = \"x\"\n[secrets]\nTOKEN = \"op://team/token\"\nOTHER = \"op://team/other\"\n";

#[test]
fn a_program_of_the_users_configuration_serves_a_project_and_is_started_once() {
    let home = Home::new();
    let path = program(home.root(), "");
    home.configure(&format!("[providers.op]\n{}environment = [\"OP_SERVICE_ACCOUNT_TOKEN\"]\n", instance(&path)));
    let project = home.project("x", MANIFEST).trusted();
    let run = project.exec(["/usr/bin/env"]).env("OP_SERVICE_ACCOUNT_TOKEN", "ops_canary").env("OP_OTHER", "kept");
    let out = run.succeed().out();
    assert!(out.contains("TOKEN=value of team/token\n") && out.contains("OTHER=value of team/other\n"), "{out}");
    // What the program signs in with is the broker's business from here on, and no child's.
    assert!(!out.contains("ops_canary") && out.contains("OP_OTHER=kept"), "{out}");
    let starts = fs::read_to_string(trace(home.root())).expect("it has run");
    assert_eq!(starts.lines().count(), 1, "{starts}");
    assert!(starts.contains("ops_canary") && !starts.contains("OP_OTHER"), "{starts}");
}

#[test]
fn a_manifest_that_names_a_program_is_refused_with_its_place_and_nothing_runs() {
    let home = Home::new();
    let path = program(home.root(), "");
    let manifest = format!("{MANIFEST}[providers.op]\n{}", instance(&path));
    let project = home.project("x", &manifest);
    for command in [&["exec", "--", "/bin/true"][..], &["trust", "--yes"], &["check"]] {
        project.broker(command).run().expect_words(["broker.toml:7:", "`exec`", "config.toml"]);
    }
    assert!(!trace(home.root()).exists());
    // Nor can it change one that the configuration names.
    home.configure(&format!("[providers.op]\n{}", instance(&path)));
    for lines in ["command = \"/bin/true\"\n", "environment = \"OP_X\"\n", "sha256 = \"00\"\n"] {
        let project = home.project("y", &format!("{MANIFEST}[providers.op]\nkind = \"exec\"\n{lines}"));
        project.exec(["/bin/true"]).run().expect_code(125);
    }
    assert!(!trace(home.root()).exists());
}

#[test]
fn a_program_that_was_changed_is_not_started_and_the_error_says_what_to_do() {
    let home = Home::new();
    let path = program(home.root(), "");
    home.configure(&format!("[providers.op]\n{}", instance(&path)));
    program(home.root(), ", 'version': 'another'");
    let project = home.project("x", MANIFEST).trusted();
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "denied").expect_words(["is not the pinned one", "hint: "]);
    assert!(!trace(home.root()).exists());
}
