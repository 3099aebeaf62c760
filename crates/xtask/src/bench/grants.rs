//! Grants per second and their latency, with the audit on: threads of this process ask the daemon over its socket.
//!
//! Client and daemon share the cores. This process holds every lease it is given until the measuring ends.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use broker_tests::wire::Wire;
use serde_json::{Value, json};

use super::world;
use crate::failure::{Failure, at};
use crate::report;

/// How long each combination is measured.
const LENGTH: Duration = Duration::from_secs(3);

/// How many values each grant has.
const SECRETS: usize = 10;

/// Measures 1, 16 and 64 clients, on kept and on new connections.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let mut all = Vec::new();
    report::line(format!("{SECRETS} values to a grant, {LENGTH:?} each, the audit on"));
    report::line("connections   clients   grants/s     p50        p99");
    for kept in [true, false] {
        for clients in [1, 16, 64] {
            // Each combination has a daemon of its own: leases of the one before would weigh on it.
            let (home, manifest) = world::local(bin, SECRETS);
            let project = world::project(&home, &manifest);
            let directory = project.directory().to_owned();
            let path = directory.join("broker.toml");
            let ask = json!({
                "manifest": {"path": path, "text": manifest}, "profile": null, "argv": ["/bin/true"], "cwd": directory,
            });
            let ask = ask.to_string().into_bytes();
            let laps = load(&home.socket(), &ask, clients, kept).map_err(at(home.socket()))?;
            let row = Row::of(laps);
            let how = if kept { "kept" } else { "new " };
            report::line(format!(
                "{how}          {clients:>7}   {:>8.0}   {:>7.3} ms {:>7.3} ms",
                row.per_second, row.p50, row.p99
            ));
            all.push(json!({
                "connections": how.trim(), "clients": clients, "per_second": row.per_second, "p50_ms": row.p50, "p99_ms": row.p99,
            }));
        }
    }
    Ok(Value::Array(all))
}

struct Row {
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "a count of grants")]
    fn of(mut laps: Vec<Duration>) -> Self {
        laps.sort_unstable();
        let at = |part: usize| laps.get((laps.len() * part / 100).min(laps.len().saturating_sub(1)));
        let ms = |lap: Option<&Duration>| lap.map_or(f64::NAN, |lap| lap.as_secs_f64() * 1e3);
        Self { per_second: laps.len() as f64 / LENGTH.as_secs_f64(), p50: ms(at(50)), p99: ms(at(99)) }
    }
}

/// Asks from `clients` threads for [`LENGTH`] and returns how long each grant took.
fn load(socket: &Path, ask: &[u8], clients: usize, kept: bool) -> io::Result<Vec<Duration>> {
    let connect = || {
        let mut wire = Wire::connect(socket)?;
        wire.attest()?;
        Ok::<_, io::Error>(wire)
    };
    connect()?.grant(ask)?;
    let end = Instant::now() + LENGTH;
    let client = || {
        let mut laps = Vec::new();
        let mut wire = connect()?;
        while Instant::now() < end {
            let began = Instant::now();
            if !kept {
                wire = connect()?;
            }
            wire.grant(ask)?;
            laps.push(began.elapsed());
        }
        Ok::<_, io::Error>(laps)
    };
    let mut all = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a client panicked"))??);
        }
        Ok(all)
    })
}
