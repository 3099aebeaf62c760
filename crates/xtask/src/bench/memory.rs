//! The resident set of an idle daemon: with the AWS provider in use, and with a thousand values held.

use std::path::Path;

use broker_tests::home::Home;
use broker_tests::process;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::world;
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// Measures both.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let servers = TestServers::start()?;
    let proxy = Proxy::new(&servers.moto());
    let home = Home::with_programs(bin);
    let fresh = resident(&home)?;
    let few = world::remote(&proxy, 10);
    world::project(&home, &few).exec(["/bin/true"]).succeed();
    let in_use = resident(&home)?;
    let many = world::remote(&proxy, 1000);
    world::project(&home, &many).exec(["/bin/true"]).succeed();
    let held = home.status()["cached_values"].clone();
    let full = resident(&home)?;
    let added = full.saturating_sub(in_use);
    report::line(format!("just started                       {fresh:>7} KiB"));
    report::line(format!("idle, AWS in use, 10 values held   {in_use:>7} KiB"));
    report::line(format!("idle, {held} values held           {full:>7} KiB   ({added} KiB more)"));
    Ok(json!({"fresh_kib": fresh, "aws_in_use_kib": in_use, "values": held, "full_kib": full, "added_kib": added}))
}

fn resident(home: &Home) -> Result<u64, Failure> {
    let pid = home.daemon().unwrap_or_else(|| home.start_daemon());
    process::resident_kib(pid)
        .ok_or_else(|| Failure::Answer { what: format!("/proc/{pid}/status"), said: "no VmRSS".into() })
}
