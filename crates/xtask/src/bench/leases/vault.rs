//! Child tokens that stored secrets are read with, and accounts that are made for a run and gone with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use broker_tests::deadline;
use broker_tests::fakes::vault::Vault;
use broker_tests::http;
use broker_tests::proxy::Proxy;
use serde_json::{Value, json};

use super::{Case, Found, LATENCY, by_action, count, told};
use crate::bench::stopwatch::median;
use crate::failure::Failure;
use crate::report;

/// How many runs end under watch.
const ENDS: usize = 50;

/// A server with secrets, a role of a database, and somebody signed in who may read both and make tokens.
struct World {
    vault: Vault,
    proxy: Proxy,
    token: String,
}

impl World {
    fn new() -> Self {
        let vault = Vault::start();
        let ask = |method: &str, path: &str, body: &Value| {
            let headers = [("x-vault-token", vault.root()), ("x-vault-request", "true")];
            let answer = http::call(&vault.address(), &format!("{method} /v1/{path}"), &headers, body);
            assert!(answer.status() < 300, "the server takes `{path}`: {}", answer.status());
            answer.body_json()
        };
        ask("POST", "sys/mounts/database", &json!({"type": "database"}));
        ask("POST", "database/config/shop", &json!({}));
        ask("POST", "database/roles/app", &json!({"db_name": "shop", "default_ttl": "1h", "max_ttl": "2h"}));
        let policies = [
            ("stored", "path \"secret/data/bench/*\" { capabilities = [\"read\"] }"),
            ("accounts", "path \"database/creds/app\" { capabilities = [\"read\"] }"),
            ("make", "path \"auth/token/create\" { capabilities = [\"update\"] }"),
        ];
        for (name, policy) in policies {
            ask("PUT", &format!("sys/policies/acl/{name}"), &json!({"policy": policy}));
        }
        for n in 0..50 {
            let value = format!("a value of some forty characters {n:06}");
            ask("POST", &format!("secret/data/bench/{n}"), &json!({"data": {"value": value}}));
        }
        let body = json!({"policies": policies.map(|(name, _)| name), "ttl": "24h"});
        let made = ask("POST", "auth/token/create", &body);
        let token = made["auth"]["client_token"].as_str().unwrap_or_default().to_owned();
        let proxy = Proxy::new(&vault.address());
        proxy.set_latency(LATENCY);
        Self { vault, proxy, token }
    }

    fn instance(&self) -> String {
        format!("kind = \"vault\"\naddress = \"{}\"\nauth = \"token\"\nttl = \"1h\"\n", self.proxy.url())
    }

    /// Waits until neither a token nor an account is alive that was made for a run.
    fn settle(&self) {
        deadline::until_true("everything that was made is gone at the manager", || {
            let of_run = |token: &broker_tests::fakes::vault::Alive| token.meta.contains_key("project");
            self.vault.accounts("shop").is_empty() && !self.vault.alive_tokens().iter().any(of_run)
        });
    }
}

/// Measures stored secrets read with the sign-in's own token and with a child for each fetch, then an account.
pub(super) fn measure(bin: &Path, floor: &Path, rows: &mut Vec<Value>) -> Result<(), Failure> {
    let world = World::new();
    let variables = [("VAULT_TOKEN", world.token.as_str())];
    let settle = || world.settle();
    let case = |what, more: &str, secrets| Case {
        what,
        proxy: &world.proxy,
        instance: world.instance() + more,
        secrets,
        variables: &variables,
        settle: &settle,
    };
    for (what, more) in [("Vault, shared", "session = \"shared\"\n"), ("Vault, a token for each fetch", "")] {
        for count in [10, 50] {
            let secrets = (0..count).map(|n| format!("S{n} = \"org://secret/bench/{n}\"\n")).collect();
            let case = case(what, more, secrets);
            for found in [Found::Nothing, Found::Sessions, Found::Values] {
                rows.push(case.row(bin, floor, found)?);
            }
        }
    }
    let case = case("Vault, an account for each run", "", vec![account()]);
    for found in [Found::Nothing, Found::Values] {
        rows.push(case.row(bin, floor, found)?);
    }
    Ok(())
}

fn account() -> String {
    "DB = { ref = \"org://database/creds/app\", variables = { DB_USER = \"username\", DB_PASSWORD = \"password\" } }\n"
        .to_owned()
}

/// Measures how long after its command an account is gone at the server, and what was asked before the command started.
pub(super) fn measure_account(bin: &Path) -> Result<Value, Failure> {
    let world = World::new();
    let case = Case {
        what: "Vault, an account for each run",
        proxy: &world.proxy,
        instance: world.instance(),
        secrets: vec![account()],
        variables: &[("VAULT_TOKEN", world.token.as_str())],
        settle: &|| world.settle(),
    };
    let home = case.home(bin);
    let project = case.project(&home);
    project.exec(["/bin/true"]).succeed();
    world.settle();
    let up = project.directory().join("up");
    let mut gone = Vec::new();
    let (mut until, mut all) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..ENDS {
        let _ = fs::remove_file(&up);
        world.proxy.forget_calls();
        let running = project.shell(&[], ": >up; exec cat").stdin_open().start();
        deadline::until_true("the command has its account", || up.exists() && !world.vault.accounts("shop").is_empty());
        until = by_action(&world.proxy);
        // The command ends after this moment, not before.
        let ending = Instant::now();
        running.finish().expect_code(0);
        deadline::until_true("the account is gone", || world.vault.accounts("shop").is_empty());
        gone.push(ending.elapsed());
        world.settle();
        all = by_action(&world.proxy);
    }
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let worst = gone.iter().max().map_or(f64::NAN, ms);
    let middle = median(gone.iter().map(ms).collect());
    report::line(format!("an account for a run, until the command starts: {}", told(&until)));
    report::line(format!("                      in all:                   {}", told(&all)));
    report::line(format!("gone after the end of its command: {middle:.1} ms, at worst {worst:.1} ms of {ENDS}"));
    Ok(json!({
        "calls_until_start": until, "calls": all, "all": count(&all),
        "ends": ENDS, "gone_ms": middle, "gone_worst_ms": worst,
    }))
}
