//! Cold runs against AWS (moto) with 50 ms added to every request: how many calls, how many at once, how long.

use std::path::Path;
use std::time::{Duration, Instant};

use broker_tests::home::Home;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::stopwatch::{floor, lap, median};
use super::world;
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// What the proxy adds to each request.
const LATENCY: Duration = Duration::from_millis(50);

const SECRETS: usize = 50;

/// Measures one run that fetches everything while a connection stands, and one within `ttl`.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let servers = TestServers::start()?;
    let floor = floor()?;
    let proxy = Proxy::new(&servers.moto());
    let home = Home::with_programs(bin);
    let manifest = world::remote(&proxy, SECRETS);
    let project = world::project(&home, &manifest);
    proxy.set_latency(LATENCY);
    let first = lap(&floor, project.exec(["/bin/true"]))?.ms;
    let first_calls = proxy.call_count();
    let mut walls = Vec::new();
    let (mut calls, mut at_once) = (0, 0);
    for _ in 0..9 {
        proxy.forget_calls();
        walls.push(lap(&floor, project.broker(["exec", "--refresh", "--", "/bin/true"]))?.ms);
        (calls, at_once) = (proxy.call_count(), proxy.max_in_flight());
    }
    let wall = median(walls);
    proxy.forget_calls();
    let again = lap(&floor, project.exec(["/bin/true"]))?.ms;
    let again_calls = proxy.call_count();
    report::line(format!("{SECRETS} secrets, {LATENCY:?} added to each request"));
    report::line(format!("very first run                    {first:>7.1} ms   {first_calls} calls"));
    report::line(format!("fetched anew, a connection stands {wall:>7.1} ms   {calls} calls, {at_once} at once"));
    report::line(format!("again, within its time to live    {again:>7.1} ms   {again_calls} calls"));
    Ok(json!({
        "secrets": SECRETS, "latency_ms": 50, "first": {"ms": first, "calls": first_calls},
        "standing": {"ms": wall, "calls": calls, "at_once": at_once}, "within_ttl": {"ms": again, "calls": again_calls},
    }))
}

/// Measures 200 runs at once that find nothing cached.
pub(crate) fn measure_parallel(bin: &Path) -> Result<Value, Failure> {
    const RUNS: usize = 200;
    let servers = TestServers::start()?;
    let proxy = Proxy::new(&servers.moto());
    let home = Home::with_programs(bin);
    let manifest = world::remote(&proxy, SECRETS);
    let project = world::project(&home, &manifest);
    proxy.set_latency(LATENCY);
    home.broker(["daemon", "stop"]).succeed();
    let began = Instant::now();
    let runs: Vec<_> = (0..RUNS).map(|_| project.exec(["/bin/true"]).start()).collect();
    let errors = runs.into_iter().map(broker_tests::run::Running::finish).filter(|o| o.code() != 0).count();
    let wall = began.elapsed().as_secs_f64() * 1e3;
    let calls = proxy.call_count();
    report::line(format!(
        "{RUNS} runs of {SECRETS} secrets at once: {calls} calls, {errors} errors, {wall:.0} ms for all"
    ));
    Ok(json!({"runs": RUNS, "secrets": SECRETS, "calls": calls, "errors": errors, "ms": wall}))
}
