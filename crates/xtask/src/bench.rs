//! `cargo xtask bench`: what it costs, side by side with the floor, in one table and in `target/bench.json`.
//!
//! Never a test: figures of a shared machine say nothing by themselves, so everything is measured in pairs within one
//! run, and what one compares are ratios and differences.

mod cold;
mod grants;
mod leases;
mod managers;
mod memory;
mod stopwatch;
mod warm;
mod world;

use std::fs;

use serde_json::{Map, Value, json};

use crate::cargo::{programs, target};
use crate::failure::{Failure, at};
use crate::{build, report};

/// What can be measured, in the order of the table.
const PARTS: [&str; 7] = ["warm", "cold", "managers", "leases", "parallel", "memory", "grants"];

/// Measures the named parts, or all.
pub(crate) fn run(parts: &[&str]) -> Result<(), Failure> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        return Err(Failure::Answer {
            what: format!("`bench {unknown}`"),
            said: format!("the parts are {}", PARTS.join(", ")),
        });
    }
    build::run()?;
    let bin = programs("release");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut all = Map::new();
    all.insert("machine".into(), json!({"cores": cores, "load_before": load.trim()}));
    report::line(format!("{cores} cores, load before {}", load.trim()));
    for part in PARTS.iter().filter(|part| parts.is_empty() || parts.contains(part)) {
        report::heading(part);
        let figures: Value = match *part {
            "warm" => warm::measure(&bin)?,
            "cold" => cold::measure(&bin)?,
            "managers" => managers::measure(&bin)?,
            "leases" => leases::measure(&bin)?,
            "parallel" => cold::measure_parallel(&bin)?,
            "memory" => memory::measure(&bin)?,
            _ => grants::measure(&bin)?,
        };
        all.insert((*part).to_owned(), figures);
    }
    let path = target().join("bench.json");
    let text = serde_json::to_string_pretty(&Value::Object(all)).unwrap_or_default();
    fs::write(&path, text).map_err(at(&path))?;
    report::line(format!("written to {}", path.display()));
    Ok(())
}
