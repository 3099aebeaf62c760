//! The socket's directory: whatever somebody else could have prepared is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use broker_tests::home::Home;
use broker_tests::run::Run;

fn exec(home: &Home) -> Run {
    home.project("x", crate::shop::MANIFEST).exec(["/bin/true"])
}

fn place(home: &Home) -> PathBuf {
    home.runtime().join("broker")
}

#[test]
fn a_link_in_the_directorys_place_is_refused() {
    let home = Home::new();
    symlink(home.path(), place(&home)).expect("a link can be made");
    exec(&home).run().expect_error(125, "daemon").expect_words(["run/broker`", "hint: "]);
}

#[test]
fn a_file_in_the_directorys_place_is_refused() {
    let home = Home::new();
    fs::write(place(&home), "").expect("a file can be written");
    exec(&home).run().expect_error(125, "daemon").expect_words(["run/broker`"]);
}

#[test]
fn a_loose_mode_is_refused_and_named() {
    let home = Home::new();
    for mode in [0o755, 0o770, 0o701] {
        fs::create_dir_all(place(&home)).expect("a directory can be made");
        fs::set_permissions(place(&home), fs::Permissions::from_mode(mode)).expect("a mode can be set");
        exec(&home).run().expect_error(125, "daemon").expect_words([&*format!("{mode:04o}"), "chmod 0700"]);
    }
}

#[test]
fn a_runtime_directory_that_others_may_rearrange_is_refused() {
    let home = Home::new();
    fs::set_permissions(home.runtime(), fs::Permissions::from_mode(0o777)).expect("a mode can be set");
    exec(&home).run().expect_error(125, "daemon").expect_words(["0777"]);
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_the_owner_named() {
    let home = Home::new();
    let runtime = if broker_tests::user::is_root() {
        fs::create_dir(place(&home)).expect("a directory can be made");
        fs::set_permissions(place(&home), fs::Permissions::from_mode(0o700)).expect("a mode can be set");
        chown(place(&home), Some(12_345), Some(12_345)).expect("root may give it away");
        home.runtime()
    } else {
        // Where root prepared nothing, `/usr` is a directory of somebody else too.
        std::env::var_os("BROKER_TEST_FOREIGN").map_or_else(|| PathBuf::from("/usr"), PathBuf::from)
    };
    exec(&home).env("XDG_RUNTIME_DIR", runtime).run().expect_error(125, "daemon").expect_words(["belongs to uid"]);
}

#[test]
fn a_relative_runtime_directory_is_refused() {
    let home = Home::new();
    exec(&home).env("XDG_RUNTIME_DIR", "run").run().expect_error(125, "daemon").expect_words(["XDG_RUNTIME_DIR"]);
}

#[test]
fn nothing_in_a_repository_or_in_our_own_variables_redirects_the_socket() {
    let home = Home::new();
    let _ = home.start_daemon();
    let elsewhere = home.path().join("elsewhere.sock");
    home.broker(["lease", "list"]).env("BROKER_SOCKET", &elsewhere).env("BROKER_DAEMON", "/bin/false").succeed();
    assert_eq!(home.audited("daemon-started").len(), 1);
}

#[test]
fn without_a_runtime_directory_a_private_one_is_made() {
    let home = Home::new();
    // `/run/user/UID` may be there for a person who is signed in; what is used is told by the daemon's socket.
    let uid = broker_tests::user::uid();
    let own = [PathBuf::from(format!("/run/user/{uid}/broker")), PathBuf::from(format!("/tmp/broker-{uid}"))];
    if own.iter().any(|dir| dir.join("broker.sock").exists()) {
        // The person's own daemon runs there, and no test may talk to it: only that the place is private is looked at.
        let dirs = own.iter().filter(|dir| dir.exists());
        return dirs
            .for_each(|dir| assert_eq!(fs::metadata(dir).map(|m| m.permissions().mode() & 0o077).ok(), Some(0)));
    }
    home.broker(["daemon", "start"]).env_remove("XDG_RUNTIME_DIR").succeed();
    let used = own.iter().find(|dir| dir.join("broker.sock").exists());
    let mode = used.and_then(|dir| fs::metadata(dir).ok()).map(|m| m.permissions().mode() & 0o7777);
    home.broker(["daemon", "stop"]).env_remove("XDG_RUNTIME_DIR").succeed();
    assert_eq!(mode, Some(0o700));
}
