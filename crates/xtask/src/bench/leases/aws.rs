//! Sessions of roles: narrow ones that secrets are fetched with, and those that a run is given.

use std::fs;
use std::path::Path;

use broker_tests::canary;
use broker_tests::proxy::Proxy;
use broker_tests::servers::{Aws, REGION};
use serde_json::{Value, json};

use super::{Case, Found, LATENCY};
use crate::failure::Failure;
use crate::report;
use crate::test_servers::TestServers;

/// The mock lets everybody assume it, and does not ask whether it exists.
const ROLE: &str = "arn:aws:iam::123456789012:role/bench";

/// How often the endpoint is asked in each way.
const REQUESTS: usize = 1000;

/// Asks the endpoint on one connection, then on a new one each time, and prints both medians in microseconds.
const ASK: &str = r#"
import os, socket, statistics, sys, time
host = os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"].split("/")[2]
name, port = host.split(":")
token = os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
request = f"GET /credentials HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\n\r\n".encode()
def connect():
    stream = socket.create_connection((name, int(port)))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
def ask(stream):
    stream.sendall(request)
    answer = b""
    while not answer.endswith(b"}"):
        part = stream.recv(65536)
        if not part:
            break
        answer += part
    assert answer.startswith(b"HTTP/1.1 200 ") and b"SecretAccessKey" in answer
def timed(step):
    laps = []
    for _ in range(int(sys.argv[1])):
        began = time.perf_counter_ns()
        step()
        laps.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(laps)
kept = connect()
def anew():
    with connect() as stream:
        ask(stream)
print(timed(lambda: ask(kept)), timed(anew))
"#;

/// Measures Secrets Manager without a role, with one and with one for each run; then keys by value and by endpoint.
pub(super) fn measure(bin: &Path, floor: &Path, servers: &TestServers, rows: &mut Vec<Value>) -> Result<(), Failure> {
    let proxy = Proxy::new(&servers.moto());
    let base = canary::word("bench");
    for n in 0..50 {
        Aws::create_at(proxy.upstream(), &format!("{base}/{n}"), &format!("a value of some forty characters {n:06}"));
    }
    proxy.set_latency(LATENCY);
    let case = |what, instance, secrets| Case {
        what,
        proxy: &proxy,
        instance,
        secrets,
        variables: &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")],
        settle: &|| (),
    };
    let keys = |kind: &str| format!("kind = \"{kind}\"\nregion = \"{REGION}\"\nendpoint = \"{}\"\n", proxy.url());
    let role = format!("assume-role = \"{ROLE}\"\n");
    let stored = [
        ("Secrets Manager", String::new(), [Found::Nothing, Found::Sessions, Found::Values].as_slice()),
        ("Secrets Manager, a role (narrow)", role.clone(), &[Found::Nothing, Found::Sessions, Found::Values]),
        ("Secrets Manager, a role, per run", role + "session = \"per-run\"\n", &[Found::Nothing, Found::Values]),
    ];
    for (what, more, founds) in stored {
        for count in [10, 50] {
            let secrets = (0..count).map(|n| format!("S{n} = \"org://{base}/{n}\"\n")).collect();
            let case = case(what, keys("aws-secrets-manager") + "ttl = \"1h\"\n" + &more, secrets);
            for found in founds {
                rows.push(case.row(bin, floor, *found)?);
            }
        }
    }
    for (what, secret) in [("aws-sts, by value", by_value()), ("aws-sts, by endpoint", by_endpoint())] {
        let case = case(what, keys("aws-sts"), vec![secret]);
        for found in [Found::Nothing, Found::Values] {
            rows.push(case.row(bin, floor, found)?);
        }
    }
    Ok(())
}

fn by_value() -> String {
    format!("KEYS = \"org://{ROLE}\"\n")
}

fn by_endpoint() -> String {
    format!("KEYS = {{ ref = \"org://{ROLE}\", deliver = \"endpoint\" }}\n")
}

/// Measures one request to an endpoint that holds what it serves, as a Python program of the run makes it.
///
/// Who asks is looked up in the kernel's table of connections, so the figure comes with the length of that: those that were
/// closed a minute ago still stand there.
pub(super) fn measure_endpoint(bin: &Path, servers: &TestServers) -> Result<Value, Failure> {
    let proxy = Proxy::new(&servers.moto());
    proxy.set_latency(LATENCY);
    let case = Case {
        what: "aws-sts, by endpoint",
        proxy: &proxy,
        instance: format!("kind = \"aws-sts\"\nregion = \"{REGION}\"\nendpoint = \"{}\"\n", proxy.url()),
        secrets: vec![by_endpoint()],
        variables: &Aws::Moto.sign_in(),
        settle: &|| (),
    };
    let home = case.home(bin);
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default().lines().skip(1).count();
    let run = case.project(&home).exec(["python3", "-I", "-c", ASK, &REQUESTS.to_string()]);
    let said = run.env("PATH", std::env::var("PATH").unwrap_or_default()).run();
    let answered = || Failure::Answer { what: "the endpoint".into(), said: format!("{}{}", said.out(), said.err()) };
    let figures: Vec<f64> = said.out().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [kept, anew] = figures[..] else { return Err(answered()) };
    let calls = proxy.call_count();
    report::line(format!(
        "a request to the endpoint, median of {REQUESTS}: {kept:.0} us on a kept connection, {anew:.0} us on a new one; \
         {calls} calls in all, {table} connections in the kernel's table"
    ));
    Ok(json!({"requests": REQUESTS, "kept_us": kept, "new_us": anew, "calls": calls, "connections": table}))
}
