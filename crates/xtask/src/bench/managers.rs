//! Every kind of manager with 50 ms added to each request: how many round trips fifty secrets take, what two managers
//! cost together, and what one missing secret among many costs.

use std::path::Path;
use std::time::Duration;

use broker_tests::canary;
use broker_tests::fakes::azure::{Azure, Role, TENANT};
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::fakes::vault::Vault;
use broker_tests::home::Home;
use broker_tests::http;
use broker_tests::proxy::Proxy;
use broker_tests::servers::{Aws, REGION};
use serde_json::{Map, Value, json};

use super::stopwatch::{floor, lap, median};
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// What the proxy adds to each request.
const LATENCY: Duration = Duration::from_millis(50);
const SECRETS: usize = 50;
const MANY: usize = 150;
const RUNS: usize = 9;

/// One manager behind its proxy, with secrets in it.
struct Manager {
    kind: &'static str,
    proxy: Proxy,
    /// Keys of the instance besides `kind`.
    keys: String,
    /// The path of secret `n`.
    path: Box<dyn Fn(usize) -> String>,
    /// Sign-in variables.
    variables: Vec<(&'static str, String)>,
    /// Whatever must live as long.
    _server: Box<dyn std::any::Any>,
}

/// Measures all of them.
pub(crate) fn measure(bin: &Path) -> Result<Value, Failure> {
    let servers = TestServers::start()?;
    let floor = floor()?;
    let moto = servers.moto();
    let managers = [secrets_manager(&moto), parameter_store(&moto), gcp(), vault(), azure()];
    let mut all = Map::new();
    report::line(format!("{SECRETS} secrets fetched anew, {LATENCY:?} added to each request, a connection stands"));
    for manager in &managers {
        all.insert(manager.kind.into(), one(bin, &floor, manager)?);
    }
    let [_, store, _, vault, _] = &managers;
    all.insert("two managers".into(), two(bin, &floor, store, vault)?);
    Ok(Value::Object(all))
}

fn one(bin: &Path, floor: &Path, manager: &Manager) -> Result<Value, Failure> {
    let home = home(bin, &[manager]);
    let names: Vec<_> = (0..SECRETS).map(|n| ("org", (manager.path)(n))).collect();
    let project = project(&home, &[manager], &names, true);
    manager.proxy.set_latency(LATENCY);
    project.exec(["/bin/true"]).succeed();
    let (mut walls, mut calls, mut at_once) = (Vec::new(), 0, 0);
    for _ in 0..RUNS {
        manager.proxy.forget_calls();
        walls.push(lap(floor, project.broker(["exec", "--refresh", "--", "/bin/true"]))?.ms);
        (calls, at_once) = (manager.proxy.call_count(), manager.proxy.max_in_flight());
    }
    let wall = median(walls);
    let trips = wall / (LATENCY.as_secs_f64() * 1e3);
    // The same, larger, and one of them is missing.
    let mut missing = Vec::new();
    for absent in [false, true] {
        let names: Vec<_> =
            (0..MANY).map(|n| ("org", (manager.path)(if absent && n == 77 { MANY } else { n }))).collect();
        let project = self::project(&home, &[manager], &names, false);
        project.exec(["/bin/true"]).succeed();
        let mut walls = Vec::new();
        for _ in 0..RUNS {
            manager.proxy.forget_calls();
            walls.push(lap(floor, project.broker(["exec", "--refresh", "--", "/bin/true"]))?.ms);
        }
        missing.push((median(walls), manager.proxy.call_count()));
    }
    manager.proxy.set_latency(Duration::ZERO);
    let [whole, lacking] = missing[..] else { return Ok(Value::Null) };
    report::line(format!(
        "{:<22} {wall:>6.1} ms  {trips:>4.2} round trips  {calls:>2} calls, {at_once:>2} at once   {MANY}: {:.0} ms, \
         {} calls; one missing: {:.0} ms, {} calls",
        manager.kind, whole.0, whole.1, lacking.0, lacking.1
    ));
    Ok(json!({
        "ms": wall, "round_trips": trips, "calls": calls, "at_once": at_once,
        "many": {"secrets": MANY, "ms": whole.0, "calls": whole.1},
        "one_missing": {"ms": lacking.0, "calls": lacking.1},
    }))
}

/// Measures a manifest with two managers, one of them three times as slow, beside the slower one alone.
fn two(bin: &Path, floor: &Path, quick: &Manager, slow: &Manager) -> Result<Value, Failure> {
    quick.proxy.set_latency(LATENCY);
    slow.proxy.set_latency(LATENCY * 3);
    let mut figures = Vec::new();
    for managers in [vec![slow], vec![slow, quick]] {
        let home = home(bin, &managers);
        let names: Vec<_> = managers
            .iter()
            .zip(["org", "other"])
            .flat_map(|(manager, instance)| (0..8).map(move |n| (instance, (manager.path)(n))))
            .collect();
        let project = project(&home, &managers, &names, true);
        project.exec(["/bin/true"]).succeed();
        let mut walls = Vec::new();
        for _ in 0..RUNS {
            walls.push(lap(floor, project.broker(["exec", "--refresh", "--", "/bin/true"]))?.ms);
        }
        figures.push(median(walls));
    }
    let [alone, both] = figures[..] else { return Ok(Value::Null) };
    report::line(format!(
        "8 secrets of {} (150 ms): {alone:.1} ms; with 8 of {} (50 ms): {both:.1} ms",
        slow.kind, quick.kind
    ));
    Ok(json!({"slower_alone_ms": alone, "both_ms": both}))
}

fn home(bin: &Path, managers: &[&Manager]) -> Home {
    let home = Home::with_programs(bin);
    let mut config = String::new();
    for (manager, instance) in managers.iter().zip(["org", "other"]) {
        config += &format!("[providers.{instance}]\nkind = \"{}\"\nttl = \"1h\"\n{}\n", manager.kind, manager.keys);
    }
    home.configure(&config);
    home
}

fn project<'h>(
    home: &'h Home,
    managers: &[&Manager],
    names: &[(&str, String)],
    required: bool,
) -> broker_tests::project::Project<'h> {
    let mut manifest = "[project]\nname = \"bench\"\n[secrets]\n".to_owned();
    for (n, (instance, path)) in names.iter().enumerate() {
        manifest += &format!("S{n} = {{ ref = \"{instance}://{path}\", required = {required} }}\n");
    }
    let variables: Vec<_> = managers.iter().flat_map(|m| &m.variables).map(|(n, v)| (*n, v.as_str())).collect();
    home.project(&canary::word("bench"), &manifest).signed_in(&variables).trusted()
}

fn value(n: usize) -> String {
    format!("a value of some forty characters {n:06}")
}

fn aws_variables() -> Vec<(&'static str, String)> {
    Aws::Moto.sign_in().into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

fn secrets_manager(moto: &str) -> Manager {
    let base = canary::word("bench");
    (0..MANY).for_each(|n| Aws::create_at(moto, &format!("{base}/{n}"), &value(n)));
    let proxy = Proxy::new(moto);
    Manager {
        kind: "aws-secrets-manager",
        keys: format!("region = \"{REGION}\"\nendpoint = \"{}\"", proxy.url()),
        path: Box::new(move |n| format!("{base}/{n}")),
        variables: aws_variables(),
        proxy,
        _server: Box::new(()),
    }
}

fn parameter_store(moto: &str) -> Manager {
    let base = canary::word("bench");
    (0..MANY).for_each(|n| Aws::put_parameter_at(moto, &format!("/{base}/{n}"), &value(n)));
    let proxy = Proxy::new(moto);
    Manager {
        kind: "aws-parameter-store",
        keys: format!("region = \"{REGION}\"\nendpoint = \"{}\"", proxy.url()),
        path: Box::new(move |n| format!("/{base}/{n}")),
        variables: aws_variables(),
        proxy,
        _server: Box::new(()),
    }
}

fn gcp() -> Manager {
    let server = FakeGcp::start();
    server.allow_anonymous();
    for n in 0..MANY {
        server.put(&format!("S{n}"), value(n).as_bytes());
    }
    let proxy = Proxy::new(&server.address());
    Manager {
        kind: "gcp-secret-manager",
        keys: format!("project = \"shop-dev\"\nauth = \"anonymous\"\nendpoint = \"{}\"", proxy.url()),
        path: Box::new(|n| format!("S{n}")),
        variables: Vec::new(),
        proxy,
        _server: Box::new(server),
    }
}

fn vault() -> Manager {
    let server = Vault::start();
    for n in 0..MANY {
        let (token, body) = ([("x-vault-token", server.root())], json!({"data": {"value": value(n)}}));
        let answer = http::call(&server.address(), &format!("POST /v1/secret/data/bench/{n}"), &token, &body);
        assert_eq!(answer.status(), 200, "the server takes a secret");
    }
    let proxy = Proxy::new(&server.address());
    Manager {
        kind: "vault",
        keys: format!("address = \"{}\"\nauth = \"token\"", proxy.url()),
        path: Box::new(|n| format!("secret/bench/{n}#value")),
        variables: vec![("VAULT_TOKEN", server.root().to_owned())],
        proxy,
        _server: Box::new(server),
    }
}

fn azure() -> Manager {
    let server = Azure::start();
    let application = server.application();
    server.assign(&application.oid, Role::SecretsUser);
    (0..MANY).for_each(|n| drop(server.seed(&format!("s{n}"), &value(n))));
    let proxy = Proxy::new(&server.vault().address());
    Manager {
        kind: "azure-key-vault",
        keys: format!("address = \"{}\"\nauthority = \"{}\"", proxy.url(), server.login().url()),
        path: Box::new(|n| format!("s{n}")),
        variables: vec![
            ("AZURE_TENANT_ID", TENANT.to_owned()),
            ("AZURE_CLIENT_ID", application.client_id),
            ("AZURE_CLIENT_SECRET", application.secret),
        ],
        proxy,
        _server: Box::new(server),
    }
}
