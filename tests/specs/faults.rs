//! A secret manager that refuses, fails, hangs or talks nonsense: a clear error in bounded time, and never a hang.

use std::time::{Duration, Instant};

use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::proxy::{Fault, Proxy};
use broker_tests::run::Outcome;
use broker_tests::servers::{Aws, unique};

use crate::aws::project;

/// The instance's deadline in these tests, and what a run may take beyond it on a busy machine.
const TIMEOUT: &str = "timeout = \"2s\"";
const BOUND: Duration = Duration::from_secs(8);

struct World {
    home: Home,
    proxy: Proxy,
    secrets: Vec<(String, String)>,
}

impl World {
    /// One secret in the server, a proxy before it.
    fn new(aws: Aws) -> Self {
        let name = unique("fault");
        aws.create(&name, "the value");
        Self { home: Home::new(), proxy: Proxy::new(&aws.address()), secrets: vec![("VALUE".into(), name)] }
    }

    fn project(&self, aws: Aws, more: &str) -> Project<'_> {
        project(&self.home, aws, &self.proxy.url(), &format!("{TIMEOUT}\nnegative-ttl = \"0\"\n{more}"), &self.secrets)
    }
}

/// Runs a command that must not run, under a fault, in bounded time.
fn refused(project: &Project<'_>) -> Outcome {
    let began = Instant::now();
    let outcome = project.exec(["/usr/bin/touch", "ran"]).run();
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    assert_eq!(outcome.code(), 125, "{}", outcome.err());
    assert!(!project.directory().join("ran").exists());
    outcome
}

fn fault(fault: Fault, code: &str) -> Outcome {
    let aws = Aws::Moto;
    let world = World::new(aws);
    world.proxy.fail_all(fault);
    let project = world.project(aws, "");
    let outcome = refused(&project);
    outcome.expect_error(125, code).expect_words(["`org`", "VALUE"]);
    // The fault was the proxy's: without it the same run succeeds.
    world.proxy.fail_all(Fault::FirstByteAfter(Duration::ZERO));
    project.broker(["exec", "--refresh", "--", "/bin/true"]).succeed();
    outcome
}

/// An error as JSON services answer it.
fn error(status: u16, kind: &str) -> Fault {
    Fault::Answer(status, format!("{{\"__type\":\"{kind}\",\"message\":\"no, said the server\"}}"))
}

#[test]
fn access_denied_shows_the_managers_own_words() {
    fault(error(400, "AccessDeniedException"), "denied").expect_words([
        "AccessDeniedException",
        "no, said the server",
        "hint: ",
    ]);
}

#[test]
fn expired_credentials_are_told_as_such() {
    fault(error(400, "ExpiredTokenException"), "unauthenticated").expect_words(["ExpiredToken"]);
    fault(error(403, "UnrecognizedClientException"), "unauthenticated");
}

#[test]
fn throttled_for_ever_ends_at_the_deadline() {
    fault(error(400, "ThrottlingException"), "throttled");
    fault(Fault::Answer(429, "{}".into()), "throttled");
}

#[test]
fn failing_for_ever_ends_at_the_deadline() {
    fault(Fault::Answer(500, "{}".into()), "unavailable");
    fault(Fault::Answer(503, "<html>busy</html>".into()), "unavailable");
}

#[test]
fn silent_for_ever_ends_at_the_deadline() {
    fault(Fault::BlackHole, "unavailable");
    fault(Fault::Drip(1, Duration::from_millis(300)), "unavailable");
}

#[test]
fn a_truncated_answer_is_unavailable_or_nonsense_and_never_a_value() {
    for n in [0, 10, 60, 200] {
        let world = World::new(Aws::Moto);
        world.proxy.fail_all(Fault::CutAfter(n));
        let outcome = refused(&world.project(Aws::Moto, ""));
        assert!(
            outcome.err().contains("error[unavailable]") || outcome.err().contains("error[provider]"),
            "{n}: {}",
            outcome.err()
        );
        assert!(!outcome.err().contains("the value"));
    }
}

#[test]
fn a_reset_in_the_middle_is_unavailable_or_nonsense_and_never_a_value() {
    let world = World::new(Aws::Moto);
    world.proxy.fail_all(Fault::Reset);
    let outcome = refused(&world.project(Aws::Moto, ""));
    let words = ["error[unavailable]", "error[provider]"];
    assert!(words.iter().any(|w| outcome.err().contains(w)), "{}", outcome.err());
}

#[test]
fn one_reset_or_one_failure_is_tried_again_within_the_deadline() {
    for once in [Fault::Reset, error(400, "ThrottlingException"), Fault::Answer(500, "{}".into())] {
        let world = World::new(Aws::Moto);
        world.proxy.fail_nth("BatchGetSecretValue", 0, once.clone());
        world.proxy.fail_nth("GetSecretValue", 0, once);
        assert_eq!(world.project(Aws::Moto, "").shell(&[], "echo $VALUE").succeed().out(), "the value\n");
    }
}

#[test]
fn a_malformed_answer_is_told_and_not_shown() {
    for body in [
        "no JSON: canary-body",
        "[]",
        "{\"SecretValues\":7}",
        "{\"SecretValues\":[{\"Name\":\"x\",\"SecretString\":\"canary-body\"}]}",
    ] {
        let world = World::new(Aws::Moto);
        world.proxy.fail_all(Fault::Answer(200, body.into()));
        let outcome = refused(&world.project(Aws::Moto, ""));
        outcome.expect_error(125, if outcome.err().contains("error[not-found]") { "not-found" } else { "provider" });
        assert!(!outcome.err().contains("canary-body"), "{}", outcome.err());
    }
}

#[test]
fn a_refused_connection_is_told_at_once() {
    let mut world = World::new(Aws::Moto);
    let before = world.home.project("warm", "[project]\nname = \"w\"\n").trusted().exec(["/bin/true"]).succeed();
    drop(before);
    world.proxy.refuse();
    refused(&world.project(Aws::Moto, "")).expect_error(125, "unavailable").expect_words(["hint: "]);
}

#[test]
fn no_credentials_are_told_with_a_way_to_sign_in() {
    let world = World::new(Aws::Moto);
    let project = world.project(Aws::Moto, "");
    let run =
        project.exec(["/usr/bin/touch", "ran"]).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let began = Instant::now();
    run.run().expect_error(125, "unauthenticated").expect_words(["hint: "]);
    assert!(began.elapsed() < BOUND);
    assert_eq!(world.proxy.call_count(), 0, "nothing is sent unsigned");
}

#[test]
fn the_default_deadline_is_ten_seconds_in_all() {
    let aws = Aws::Moto;
    let world = World::new(aws);
    world.proxy.fail_all(Fault::BlackHole);
    let project = project(&world.home, aws, &world.proxy.url(), "", &world.secrets);
    let began = Instant::now();
    project.exec(["/bin/true"]).run().expect_error(125, "unavailable");
    let took = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&took), "{took:?}");
}

#[test]
fn a_missing_secret_slows_none_of_the_others() {
    let aws = Aws::Moto;
    let mut world = World::new(aws);
    for n in 0..10 {
        world.secrets.push((format!("GONE_{n}"), unique("gone")));
    }
    world.proxy.set_latency(Duration::from_millis(50));
    let began = Instant::now();
    let outcome = refused(&world.project(aws, ""));
    outcome.expect_error(125, "not-found");
    for n in 0..10 {
        assert!(outcome.err().contains(&format!("`GONE_{n}`")), "{}", outcome.err());
    }
    assert!(world.proxy.call_count() <= 12, "{:?}", world.proxy.calls());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_dead_manager_is_stood_in_for_within_max_stale_and_the_age_is_told() {
    let aws = Aws::Moto;
    let mut world = World::new(aws);
    let more = "ttl = \"1ms\"\nmax-stale = \"1h\"";
    world.project(aws, more).exec(["/bin/true"]).succeed();
    world.proxy.refuse();
    let project = world.project(aws, more);
    let stale = project.shell(&[], "echo $VALUE").succeed();
    assert_eq!(stale.out(), "the value\n");
    stale.expect_words(["`org`", "VALUE", "old"]);
}

#[test]
fn a_denial_is_never_answered_with_a_stale_value() {
    let aws = Aws::Moto;
    let world = World::new(aws);
    let more = "ttl = \"1ms\"\nmax-stale = \"1h\"";
    world.project(aws, more).exec(["/bin/true"]).succeed();
    for (kind, code) in [("AccessDeniedException", "denied"), ("ResourceNotFoundException", "not-found")] {
        world.proxy.fail_all(error(400, kind));
        refused(&world.project(aws, more)).expect_error(125, code);
    }
}

#[test]
fn offline_asks_nobody_and_refuses_what_is_not_held() {
    let aws = Aws::Moto;
    let world = World::new(aws);
    let project = world.project(aws, "");
    project.broker(["exec", "--offline", "--", "/bin/true"]).run().expect_error(125, "stale");
    assert_eq!(world.proxy.connections(), 0);
    project.exec(["/bin/true"]).succeed();
    world.proxy.forget_calls();
    project.broker(["exec", "--offline", "--", "/bin/true"]).succeed();
    assert_eq!(world.proxy.call_count(), 0);
}

#[test]
fn a_wrong_key_is_refused_by_a_server_that_checks() {
    let aws = Aws::Ministack;
    let world = World::new(aws);
    let project = world.project(aws, "").signed_in(&[("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")]);
    let outcome = refused(&project);
    assert!(["error[denied]", "error[unauthenticated]"].iter().any(|e| outcome.err().contains(e)), "{}", outcome.err());
}
