//! Warm `broker exec -- true`, everything cached, as a whole process beside bare `true`, the floor and fnox.

use std::path::Path;

use broker_tests::home::Home;
use serde_json::{Value, json};

use super::stopwatch::{FloorServer, Lap, floor, lap, median};
use super::world;
use crate::cargo::on_path;
use crate::failure::{Failure, at};
use crate::report;

/// Rounds of each size; in each, everything is run once, one after another.
const ROUNDS: usize = 101;

const TRUE: &str = "/bin/true";

/// Measures 1, 10 and 50 secrets.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let floor = floor()?;
    let with_fnox = on_path("fnox");
    if !with_fnox {
        report::line("fnox is not on PATH and is left out");
    }
    report::line(format!("median of {ROUNDS} rounds, ms over bare `true`, and the peak of the process in KiB"));
    report::line("secrets   true    floor over true (peak)   broker over true (peak)   fnox over true (peak)");
    let mut all = Vec::new();
    for count in [1, 10, 50] {
        let (home, manifest) = world::local(bin, count);
        let project = world::project(&home, &manifest);
        let socket = home.root().join("floor.sock");
        let _server = FloorServer::start(&floor, &socket, count)?;
        if with_fnox {
            fnox_config(&home, project.directory(), count)?;
        }
        project.exec([TRUE]).succeed();
        let mut laps: [Vec<Lap>; 4] = Default::default();
        for _ in 0..ROUNDS {
            laps[0].push(lap(&floor, home.run(TRUE))?);
            laps[1].push(lap(&floor, home.run(&floor).args(["exec".as_ref(), socket.as_os_str(), TRUE.as_ref()]))?);
            laps[2].push(lap(&floor, project.exec([TRUE]))?);
            if with_fnox {
                let path = std::env::var("PATH").unwrap_or_default();
                let run = home.run("fnox").args(["exec", "--", TRUE]).cwd(project.directory()).env("PATH", path);
                laps[3].push(lap(&floor, run)?);
            }
        }
        let bare = median(laps[0].iter().map(|l| l.ms).collect());
        // Pairs of one round share the machine's mood.
        let over =
            |which: usize| median(laps[which].iter().zip(&laps[0]).map(|(lap, bare)| lap.ms - bare.ms).collect());
        let peak = |which: usize| laps[which].iter().map(|l| l.peak_kib).max().unwrap_or_default();
        let row = |which: usize| {
            if laps[which].is_empty() { "-".into() } else { format!("{:.2} ({})", over(which), peak(which)) }
        };
        report::line(format!("{count:>7}   {bare:.2}    {:<22}   {:<23}   {}", row(1), row(2), row(3)));
        let figure = |which: usize| match laps[which].is_empty() {
            true => Value::Null,
            false => json!({"over_true_ms": over(which), "peak_kib": peak(which)}),
        };
        all.push(
            json!({"secrets": count, "true_ms": bare, "floor": figure(1), "broker": figure(2), "fnox": figure(3)}),
        );
    }
    Ok(Value::Array(all))
}

/// Gives fnox the same variables as plain defaults: no provider to ask, which is the least it can be made to do.
fn fnox_config(home: &Home, directory: &Path, count: usize) -> Result<(), Failure> {
    let lines: String =
        (0..count).map(|n| format!("S{n} = {{ default = \"a value of some forty characters {n:06}\" }}\n")).collect();
    let path = directory.join("fnox.toml");
    std::fs::write(&path, format!("[secrets]\n{lines}")).map_err(at(&path))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let outcome = home.run("fnox").args(["exec", "--", TRUE]).cwd(directory).env("PATH", path).run();
    match outcome.code() {
        0 => Ok(()),
        code => Err(Failure::Answer { what: "fnox".into(), said: format!("status {code}: {}", outcome.err()) }),
    }
}
