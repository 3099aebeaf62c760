//! The resident set of an idle daemon: with the AWS provider in use, and with a thousand values held; and its keeper's.

use std::path::Path;
use std::time::Duration;

use broker_tests::deadline;
use broker_tests::home::Home;
use broker_tests::process;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::world;
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// How long the resident set stays the same before it counts as resting.
const REST: Duration = Duration::from_millis(500);

/// Measures both.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let servers = TestServers::start()?;
    let proxy = Proxy::new(&servers.moto());
    let home = Home::with_programs(bin);
    let fresh = resident(&home)?;
    let keeper = home.keeper().and_then(process::resident_kib);
    let few = world::remote(&proxy, 10);
    world::project(&home, &few).exec(["/bin/true"]).succeed();
    let in_use = resident(&home)?;
    let many = world::remote(&proxy, 1000);
    world::project(&home, &many).exec(["/bin/true"]).succeed();
    let held = home.status()["cached_values"].clone();
    let full = resident(&home)?;
    let added = full.saturating_sub(in_use);
    report::line(format!("the keeper                         {:>7} KiB", keeper.unwrap_or_default()));
    report::line(format!("just started                       {fresh:>7} KiB"));
    report::line(format!("idle, AWS in use, 10 values held   {in_use:>7} KiB"));
    report::line(format!("idle, {held} values held           {full:>7} KiB   ({added} KiB more)"));
    Ok(
        json!({"keeper_kib": keeper, "fresh_kib": fresh, "aws_in_use_kib": in_use, "values": held, "full_kib": full, "added_kib": added}),
    )
}

/// Returns the resident set once it no longer changes: an idle daemon is asked about.
fn resident(home: &Home) -> Result<u64, Failure> {
    let pid = home.daemon().unwrap_or_else(|| home.start_daemon());
    let unknown = || Failure::Answer { what: format!("/proc/{pid}/status"), said: "no VmRSS".into() };
    let mut before = None;
    deadline::until("the resident set rests", || {
        std::thread::sleep(REST);
        let now = process::resident_kib(pid);
        let rests = now == before;
        before = now;
        rests.then_some(now)
    })
    .ok_or_else(unknown)
}
