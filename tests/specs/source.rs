//! Promises about the sources, checked with the tools that know: not repeated as another user.

use std::path::Path;
use std::process::Command;

fn tree(package: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["tree", "--offline", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let run = Command::new(cargo).args(args).current_dir(root).output().expect("cargo runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout);
    text.lines().filter_map(|l| l.split(' ').next().map(str::to_owned)).collect()
}

const HEAVY: [&str; 16] = [
    "aws-",
    "google-cloud",
    "hyper",
    "axum",
    "cedar",
    "tokio",
    "async-std",
    "smol",
    "reqwest",
    "tonic",
    "redb",
    "rustls",
    "openssl",
    "zbus",
    "broker-policy",
    "broker-providers",
];

#[test]
fn the_client_links_no_cloud_sdk_no_server_no_policy_engine_and_no_runtime() {
    let names = tree("broker");
    assert!(names.contains(&"broker-core".to_owned()), "{names:?}");
    let heavy: Vec<_> = names.iter().filter(|n| HEAVY.iter().any(|h| n.starts_with(h))).collect();
    assert!(heavy.is_empty(), "{heavy:?}");
}

#[test]
fn the_daemon_links_what_the_client_may_not_so_the_check_can_fail() {
    let names = tree("brokerd");
    for heavy in ["aws-sdk-secretsmanager", "axum", "tokio", "broker-policy"] {
        assert!(names.iter().any(|n| n == heavy), "{heavy}");
    }
}

#[test]
fn the_words_know_nobody() {
    let ours: Vec<_> = tree("broker-core").into_iter().filter(|n| n.starts_with("broker")).collect();
    assert_eq!(ours, ["broker-core"]);
}
