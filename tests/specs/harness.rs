//! The harness itself: that it would notice.

use broker_tests::run::Run;
use std::time::Duration;

#[test]
fn a_run_shows_both_streams_and_its_status() {
    let outcome = Run::new("/bin/sh").args(["-c", "echo out; echo err >&2; exit 7"]).run();
    assert_eq!((outcome.out().as_str(), outcome.err().as_str(), outcome.code()), ("out\n", "err\n", 7));
}

#[test]
fn a_run_sees_nothing_of_the_callers_environment() {
    assert_eq!(Run::new("/usr/bin/env").env("A", "b").run().out(), "A=b\n");
}

#[test]
#[should_panic(expected = "still running at its deadline")]
fn a_run_that_hangs_fails() {
    let _ = Run::new("/bin/sleep").args(["60"]).deadline(Duration::from_millis(50)).run();
}

#[test]
#[should_panic(expected = "still holds its output open")]
fn a_run_that_leaves_its_output_open_fails() {
    let _ = Run::new("/bin/sh").args(["-c", "sleep 8 & exit 0"]).deadline(Duration::from_millis(500)).run();
}
