//! Many at once: one flight per secret, however many ask.

use std::time::Duration;

use broker_tests::home::Home;
use broker_tests::proxy::{Fault, Proxy};
use broker_tests::servers::{Aws, unique};

use crate::aws::project;

#[test]
fn two_hundred_parallel_cold_runs_make_the_same_three_calls() {
    let aws = Aws::Moto;
    let home = Home::new();
    let base = unique("parallel");
    let secrets: Vec<_> = (0..50).map(|n| (format!("S{n}"), format!("{base}/{n}"))).collect();
    for (name, path) in &secrets {
        aws.create(path, &format!("value of {name}"));
    }
    let proxy = Proxy::new(&aws.address());
    proxy.set_latency(Duration::from_millis(50));
    let project = project(&home, aws, &proxy.url(), "", &secrets);
    home.broker(["daemon", "stop"]).succeed();
    let runs: Vec<_> = (0..200).map(|_| project.shell(&[], "echo $S0 $S49").start()).collect();
    for run in runs {
        assert_eq!(run.finish().expect_code(0).out(), "value of S0 value of S49\n");
    }
    assert_eq!(proxy.calls(), [("BatchGetSecretValue".to_owned(), 3)].into());
    home.until_no_lease();
    let granted = home.audited("request").iter().filter(|r| !r["lease"].is_null()).count();
    assert_eq!((granted, home.audited("lease-ended").len()), (200, 200));
}

#[test]
fn overlapping_runs_ask_for_what_they_share_once() {
    let aws = Aws::Moto;
    let home = Home::new();
    let base = unique("overlap");
    let secrets: Vec<_> = (0..6).map(|n| (format!("S{n}"), format!("{base}/{n}"))).collect();
    secrets.iter().for_each(|(_, path)| aws.create(path, "value"));
    let proxy = Proxy::new(&aws.address());
    let project = project(&home, aws, &proxy.url(), "", &secrets);
    proxy.fail_all(Fault::FirstByteAfter(Duration::from_millis(300)));
    let sets = ["S0,S1,S2,S3", "S2,S3,S4,S5", "S0,S5", "S1,S2,S3,S4"];
    let runs: Vec<_> = sets
        .iter()
        .cycle()
        .take(32)
        .map(|only| project.broker(["exec", "--only", only, "--", "/bin/true"]).start())
        .collect();
    for run in runs {
        run.finish().expect_code(0);
    }
    assert!(proxy.call_count() <= 6, "{:?}", proxy.calls());
}

#[test]
fn parallel_writers_of_the_embedded_store_lose_nothing() {
    let home = Home::new();
    home.store("local://first", "x");
    let writes: Vec<_> = (0..24)
        .map(|n| home.broker(["secret", "set", &format!("local://w/{n}")]).stdin(format!("value {n}")).start())
        .collect();
    for write in writes {
        write.finish().expect_code(0);
    }
    for n in 0..24 {
        let got = home.broker(["get", &format!("local://w/{n}"), "--force"]).succeed().out();
        assert_eq!(got.trim_end(), format!("value {n}"));
    }
}
