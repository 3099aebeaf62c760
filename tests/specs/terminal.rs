//! On a terminal: the command has it, and what is typed as a secret is not shown.

use std::process::Command;

use broker_tests::home::Home;
use broker_tests::programs;
use rexpect::session::{PtySession, spawn_command};

use crate::shop::Shop;

const PATIENCE_MS: u64 = 20_000;

fn on_terminal(home: &Home, directory: &std::path::Path, args: &[&str]) -> PtySession {
    let mut command = Command::new(programs::directory().join("broker"));
    command
        .args(args)
        .env_clear()
        .current_dir(directory)
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm");
    command.env("XDG_RUNTIME_DIR", home.runtime()).env("XDG_STATE_HOME", home.state());
    command.env("XDG_DATA_HOME", home.data()).env("XDG_CONFIG_HOME", home.config());
    spawn_command(command, Some(PATIENCE_MS)).expect("a terminal can be had")
}

#[test]
fn the_command_has_the_terminal() {
    let shop = Shop::new();
    let project = shop.project();
    let mut session = on_terminal(
        &shop.home,
        project.directory(),
        &["exec", "--", "/bin/sh", "-c", "test -t 0 && test -t 1 && echo both; read a; echo got $a"],
    );
    session.exp_string("both").expect("both ends are the terminal");
    session.send_line("typed").expect("the terminal takes input");
    session.exp_string("got typed").expect("the command reads it");
    session.exp_eof().expect("the command ends");
}

#[test]
fn an_interrupt_from_the_terminal_reaches_the_command_once() {
    let shop = Shop::new();
    let project = shop.project();
    let script = "trap 'echo caught' INT; echo ready; read a; read b; echo done";
    let mut session = on_terminal(&shop.home, project.directory(), &["exec", "--", "/bin/sh", "-c", script]);
    session.exp_string("ready").expect("the command runs");
    session.send_control('c').expect("the terminal takes it");
    session.exp_string("caught").expect("the command is interrupted");
    session.send_line("").and_then(|_| session.send_line("")).expect("the terminal takes input");
    let rest = session.exp_string("done").expect("the command goes on");
    assert!(!rest.contains("caught"), "twice: {rest:?}");
}

#[test]
fn a_value_that_is_typed_is_not_echoed() {
    let home = Home::new();
    home.store("local://other", "x");
    let mut session = on_terminal(&home, &home.path(), &["secret", "set", "local://typed"]);
    let before = session.exp_char(':').expect("a prompt");
    session.send_line("hunter2-typed").expect("the terminal takes input");
    let again = session.exp_string("again").expect("a second prompt");
    session.send_line("hunter2-typed").expect("the terminal takes input");
    let rest = session.exp_eof().expect("it ends");
    assert!(!(before + &again + &rest).contains("hunter2"), "{rest:?}");
    assert_eq!(home.broker(["get", "local://typed", "--force"]).succeed().out().trim_end(), "hunter2-typed");
}
