//! What leases cost, with 50 ms added to each request: calls and time of a run whose manager makes something for it, beside
//! a run that it makes nothing for.
//!
//! Every case is a project of its own; how often each action was called is of the round that called most. What AWS refuses
//! is not shown: this mock answers whoever asks.

mod aws;
mod vault;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::stopwatch::{floor, lap, median};
use super::world::QUOTA;
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// What the proxy adds to each request.
const LATENCY: Duration = Duration::from_millis(50);

/// Rounds of each row.
const ROUNDS: usize = 9;

/// Measures what AWS makes for a run, then what Vault does.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let servers = TestServers::start()?;
    let floor = floor()?;
    // Before there are thousands of closed connections, and behind them.
    let mut endpoint = vec![aws::measure_endpoint(bin, &servers)?];
    report::line(format!("`broker exec -- true`, {LATENCY:?} added to each request, median of {ROUNDS}"));
    report::line(format!("{:<36}  secrets  run     {:>8}   calls", "", "wall"));
    let mut rows = Vec::new();
    aws::measure(bin, &floor, &servers, &mut rows)?;
    vault::measure(bin, &floor, &mut rows)?;
    let account = vault::measure_account(bin)?;
    endpoint.push(aws::measure_endpoint(bin, &servers)?);
    Ok(json!({"latency_ms": 50, "rows": rows, "endpoint": endpoint, "account": account}))
}

/// One way to set up an instance, and what is read through it.
struct Case<'a> {
    what: &'a str,
    proxy: &'a Proxy,
    /// The lines of the instance `org`, which stands in the user's own configuration.
    instance: String,
    /// The lines below `[secrets]`, one for each secret.
    secrets: Vec<String>,
    /// The sign-in variables.
    variables: &'a [(&'a str, &'a str)],
    /// Waits until what was made for a run is gone at the manager, so that the calls that end it are counted.
    settle: &'a dyn Fn(),
}

/// What a run finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// A daemon that has asked for nothing yet.
    Nothing,
    /// Everything, and it is told to fetch anew.
    Sessions,
    /// Everything.
    Values,
}

impl Found {
    fn word(self) -> &'static str {
        match self {
            Self::Nothing => "first",
            Self::Sessions => "anew",
            Self::Values => "again",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        if self == Self::Sessions { &["--refresh"] } else { &[] }
    }
}

impl Case<'_> {
    fn home(&self, bin: &Path) -> Home {
        let home = Home::with_programs(bin);
        home.configure(&format!("{QUOTA}[providers.org]\n{}", self.instance));
        home
    }

    fn project<'h>(&self, home: &'h Home) -> Project<'h> {
        let manifest = format!("[project]\nname = \"bench\"\n[secrets]\n{}", self.secrets.concat());
        home.project("bench", &manifest).signed_in(self.variables).trusted()
    }

    /// Measures one row: the whole process, and the calls until everything has settled.
    fn row(&self, bin: &Path, floor: &Path, found: Found) -> Result<Value, Failure> {
        let mut walls = Vec::new();
        let mut most = BTreeMap::new();
        let mut round = |project: &Project<'_>| {
            self.proxy.forget_calls();
            let run = project.broker(["exec"]).args(found.flags()).args(["--", "/bin/true"]);
            walls.push(lap(floor, run)?.ms);
            (self.settle)();
            let calls = by_action(self.proxy);
            if count(&calls) > count(&most) {
                most = calls;
            }
            Ok::<_, Failure>(())
        };
        if found == Found::Nothing {
            for _ in 0..ROUNDS {
                let home = self.home(bin);
                round(&self.project(&home))?;
            }
        } else {
            let home = self.home(bin);
            let project = self.project(&home);
            project.exec(["/bin/true"]).succeed();
            (self.settle)();
            (0..ROUNDS).try_for_each(|_| round(&project))?;
        }
        let wall = median(walls);
        let (what, secrets, word) = (self.what, self.secrets.len(), found.word());
        report::line(format!("{what:<36}  {secrets:>7}  {word:<5}  {wall:>7.1} ms   {}", told(&most)));
        Ok(json!({"what": what, "secrets": secrets, "run": word, "ms": wall, "calls": most}))
    }
}

/// Returns how often each action was called; a path is told up to the name of the secret.
fn by_action(proxy: &Proxy) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for (action, count) in proxy.calls() {
        let action = action.replacen("/v1/", "", 1);
        let named = action.split("/bench/").next().unwrap_or_default().split('?').next().unwrap_or_default();
        *calls.entry(named.to_owned()).or_default() += count;
    }
    calls
}

fn count(calls: &BTreeMap<String, usize>) -> usize {
    calls.values().sum()
}

fn told(calls: &BTreeMap<String, usize>) -> String {
    if calls.is_empty() {
        return "none".to_owned();
    }
    let each: Vec<_> = calls.iter().map(|(action, count)| format!("{action} {count}")).collect();
    format!("{:>2}: {}", count(calls), each.join(", "))
}
