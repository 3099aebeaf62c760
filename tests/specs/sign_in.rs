//! Signing in to a manager: one prompt however many wait, a session that lies in no file, and an end to it.

use std::process::{Command, Stdio};

use broker_tests::canary;
use broker_tests::deadline;
use broker_tests::fakes::vault::Vault;
use broker_tests::home::Home;
use broker_tests::http;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use rexpect::session::{PtySession, spawn_command};
use serde_json::{Value, json};

const PATIENCE_MS: u64 = 30_000;

/// A server with one secret, people who may read it, and a proxy that counts in front of it.
struct Org {
    vault: Vault,
    proxy: Proxy,
    value: String,
}

impl Org {
    fn new() -> Self {
        let vault = Vault::start();
        let proxy = Proxy::new(&vault.address());
        let org = Self { vault, proxy, value: canary::word("vault") };
        org.set_up("POST /v1/secret/data/shop/db", &json!({"data": {"url": org.value}}));
        let policy = "path \"secret/data/shop/*\" { capabilities = [\"read\"] }";
        org.set_up("POST /v1/sys/policies/acl/shop", &json!({ "policy": policy }));
        let run = "path \"auth/token/create\" { capabilities = [\"update\"] }";
        org.set_up("POST /v1/sys/policies/acl/run", &json!({ "policy": run }));
        org.set_up("POST /v1/sys/auth/userpass", &json!({"type": "userpass"}));
        let alice = json!({"password": "correct horse", "token_policies": ["shop", "run"], "token_ttl": "1h"});
        org.set_up("POST /v1/auth/userpass/users/alice", &alice);
        org.set_up("POST /v1/sys/auth/oidc", &json!({"type": "oidc"}));
        let config = json!({"oidc_discovery_url": "https://login.example.com", "oidc_client_id": "vault",
            "oidc_client_secret": "x"});
        org.set_up("POST /v1/auth/oidc/config", &config);
        let role = json!({"user_claim": "email", "callback_mode": "device", "token_policies": ["shop", "run"], "token_ttl": "1h"});
        org.set_up("POST /v1/auth/oidc/role/dev", &role);
        org
    }

    fn set_up(&self, first: &str, body: &Value) {
        let answer = http::call(&self.vault.address(), first, &[("x-vault-token", self.vault.root())], body);
        assert!((200..300).contains(&answer.status()), "{first}: {}", String::from_utf8_lossy(&answer.body));
    }

    fn project<'h>(&self, home: &'h Home, auth: &str, role: &str) -> Project<'h> {
        let manifest = format!(
            "[project]\nname = \"shop\"\n[providers.org]\nkind = \"vault\"\naddress = \"{}\"\nauth = \"{auth}\"\n\
             role = \"{role}\"\n[secrets]\nDATABASE_URL = \"org://secret/shop/db#url\"\n",
            self.proxy.url()
        );
        home.project("shop", &manifest).trusted()
    }
}

fn on_terminal(home: &Home, project: &Project<'_>, args: &[&str]) -> PtySession {
    spawn_command(command(home, project, args), Some(PATIENCE_MS)).expect("a terminal can be had")
}

fn command(home: &Home, project: &Project<'_>, args: &[&str]) -> Command {
    let mut command = Command::new(broker_tests::programs::directory().join("broker"));
    command.args(args).env_clear().current_dir(project.directory()).env("HOME", home.path()).env("TERM", "xterm");
    command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", home.runtime()).env("XDG_STATE_HOME", home.state());
    command.env("XDG_DATA_HOME", home.data()).env("XDG_CONFIG_HOME", home.config());
    command
}

fn read_code(terminal: &mut PtySession) -> String {
    terminal.exp_string("code: ").expect("a code is shown");
    terminal.read_line().expect("the code ends its line").trim().to_owned()
}

#[test]
fn nobody_is_asked_where_nobody_may_be_and_the_error_names_the_command() {
    let (org, home) = (Org::new(), Home::new());
    let project = org.project(&home, "userpass", "alice");
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "unauthenticated").expect_words(["broker login org"]);
    // On a terminal, too, where the person said so.
    let mut terminal = on_terminal(&home, &project, &["--non-interactive", "exec", "--", "/bin/true"]);
    let said = terminal.exp_eof().expect("it ends");
    assert!(said.contains("error[unauthenticated]") && said.contains("broker login org"), "{said}");
    assert!(!said.contains("password"), "{said}");
}

#[test]
fn a_password_is_typed_once_and_every_later_run_has_its_secrets() {
    let (org, home) = (Org::new(), Home::new());
    let project = org.project(&home, "userpass", "alice");
    let mut terminal = on_terminal(&home, &project, &["login", "org"]);
    terminal.exp_string("alice").expect("it asks");
    terminal.send_line("correct horse").expect("the terminal takes input");
    let said = terminal.exp_eof().expect("it ends");
    assert!(said.contains("signed in to `org` as") && !said.contains("correct horse"), "{said}");
    for _ in 0..3 {
        let ran = project.shell(&[], "echo $DATABASE_URL").succeed();
        assert_eq!(ran.out().trim_end(), org.value);
    }
    let rows = project.broker(["login", "--status", "--json"]).succeed().json();
    assert_eq!(
        (&rows[0]["instance"], &rows[0]["state"], &rows[0]["kept"]),
        (&json!("org"), &json!("signed-in"), &json!("memory"))
    );
    assert_eq!(org.proxy.calls().iter().filter(|(call, _)| call.contains("/login/")).map(|(_, n)| n).sum::<usize>(), 1);
    let recorded = home.audited("signed-in");
    assert_eq!((recorded.len(), &recorded[0]["instance"]), (1, &json!("org")));
}

#[test]
fn a_wrong_password_is_told_and_nothing_is_signed_in() {
    let (org, home) = (Org::new(), Home::new());
    let project = org.project(&home, "userpass", "alice");
    let mut terminal = on_terminal(&home, &project, &["login", "org"]);
    terminal.exp_string("alice").expect("it asks");
    terminal.send_line("wrong horse").expect("the terminal takes input");
    let said = terminal.exp_eof().expect("it ends");
    assert!(said.contains("error[") && said.contains("broker login org") && !said.contains("wrong horse"), "{said}");
    let rows = project.broker(["login", "--status", "--json"]).succeed().json();
    assert_eq!(rows[0]["state"], "signed-out");
}

#[test]
fn two_hundred_runs_on_a_terminal_show_one_code_and_all_get_their_secrets() {
    let (org, home) = (Org::new(), Home::new());
    let project = org.project(&home, "oidc", "dev");
    // One terminal for all of them, as `make -j` has it.
    let script =
        "for i in $(seq 200); do \"$0\" exec -- /bin/sh -c 'echo got:$DATABASE_URL' & done; wait; echo all-done";
    let broker = broker_tests::programs::directory().join("broker");
    let mut shell = Command::new("/bin/sh");
    let like = command(&home, &project, &[]);
    shell.arg("-c").arg(script).arg(broker).current_dir(project.directory()).env_clear();
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    let mut terminal = spawn_command(shell, Some(PATIENCE_MS * 4)).expect("a terminal can be had");
    let code = read_code(&mut terminal);
    org.vault.confirm_code(&code, &json!({"email": "alice@example.com"})).expect("the code is known");
    let said = terminal.exp_string("all-done").expect("all end");
    assert_eq!(said.matches(&format!("got:{}", org.value)).count(), 200, "{said}");
    assert_eq!(said.matches("code: ").count(), 0, "no second prompt: {said}");
    let begun = org.proxy.calls().iter().filter(|(call, _)| call.contains("auth_url")).map(|(_, n)| n).sum::<usize>();
    assert_eq!((begun, home.audited("signed-in").len()), (1, 1));
}

#[test]
fn a_session_is_in_no_file_and_signing_out_ends_it_at_the_manager() {
    let (org, home) = (Org::new(), Home::new());
    let project = org.project(&home, "userpass", "alice");
    let mut terminal = on_terminal(&home, &project, &["login", "org"]);
    terminal.exp_string("alice").expect("it asks");
    terminal.send_line("correct horse").expect("the terminal takes input");
    terminal.exp_eof().expect("it ends");
    project.exec(["/bin/true"]).succeed();
    // That of the run ends right after its fetch.
    deadline::until_true("root's token and the session's are left", || org.vault.live_tokens() == 2);
    for needle in [b"hvs.".as_slice(), b"correct horse", org.value.as_bytes()] {
        let found = files_with(home.root(), needle);
        assert!(found.is_empty(), "{}: {found:?}", String::from_utf8_lossy(needle));
    }
    project.broker(["logout", "org"]).succeed().expect_words(["signed out of `org`"]);
    assert_eq!(org.vault.live_tokens(), 1);
    project.exec(["/bin/true"]).run().expect_error(125, "unauthenticated");
    assert_eq!(home.audited("signed-out").len(), 1);
}

#[test]
fn a_session_that_nears_its_end_is_renewed_in_silence() {
    let (org, home) = (Org::new(), Home::new());
    org.set_up(
        "POST /v1/auth/userpass/users/bob",
        &json!({"password": "pw", "token_policies": ["shop", "run"], "token_ttl": "3s"}),
    );
    let project = org.project(&home, "userpass", "bob");
    let mut terminal = on_terminal(&home, &project, &["login", "org"]);
    terminal.exp_string("bob").expect("it asks");
    terminal.send_line("pw").expect("the terminal takes input");
    terminal.exp_eof().expect("it ends");
    let began = std::time::Instant::now();
    // Twice as long as the session was given.
    while began.elapsed().as_secs() < 6 {
        project.broker(["exec", "--refresh", "--", "/bin/true"]).succeed();
    }
    let renewals =
        org.proxy.calls().iter().filter(|(call, _)| call.contains("renew-self")).map(|(_, n)| n).sum::<usize>();
    assert!(renewals >= 1, "{:?}", org.proxy.calls());
}

fn files_with(place: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut places = vec![place.to_owned()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("an entry has a type");
            if kind.is_dir() {
                places.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                found.extend(canary::contains(&bytes, needle).then(|| entry.path()));
            }
        }
    }
    found
}
