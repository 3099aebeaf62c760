//! What is issued for a run and handed over by value: sessions of AWS roles, tokens of a GitHub App, tokens of Google.
//!
//! Whether it counts and whose it is say the managers. GitHub and Google are servers of our own; AWS is ministack, and moto
//! for what keeps the app's key.

use std::fs;

use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::fakes::github::{App, Github};
use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use broker_tests::run::{Run, Running, write_private};
use broker_tests::servers::{Aws, REGION, unique};
use broker_tests::{deadline, iam, process, python, user};

use crate::vault_shop::SOON;

/// A project with sessions of a role, as `entry` of its manifest has them.
fn of_role<'h>(home: &'h Home, entry: &str) -> Project<'h> {
    let manifest = format!(
        "[project]\nname = \"issued\"\n[providers.cloud]\nkind = \"aws-sts\"\nregion = \"{REGION}\"\n\
         endpoint = \"http://{}\"\n[secrets]\n{entry}\n[settings]\nAWS_REGION = \"{REGION}\"\n",
        Aws::Ministack.address()
    );
    home.project("issued", &manifest).signed_in(&Aws::Ministack.sign_in()).trusted()
}

/// Runs a Python program with AWS's own client in sight and the server's address as its argument.
fn python(project: &Project<'_>, program: &str) -> Run {
    let run =
        project.exec([python::interpreter().as_str(), "-c", program, &format!("http://{}", Aws::Ministack.address())]);
    python::variables().into_iter().fold(run, |run, (name, value)| run.env(name, value))
}

#[test]
fn a_role_by_value_is_the_three_variables_that_every_sdk_reads() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let project = of_role(&home, &format!("AWS = \"cloud://{role}\""));
    let program = "import sys, boto3\n\
                   print(boto3.client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1]).get_caller_identity()['Arn'])\n\
                   print(boto3.Session().get_credentials().method)\n";
    let said = python(&project, program).succeed().out();
    let role_name = role.rsplit('/').next().expect("an ARN has a name");
    let issued = home.audited("issued").remove(0);
    let lease = issued["lease"].as_str().expect("a lease has an id");
    let session = format!(":assumed-role/{role_name}/{}@{lease}\nenv\n", user::name());
    assert!(said.ends_with(&session), "{said}: {session}");
    assert_eq!(issued["credentials"][0]["revocable"], false);
}

/// `variables`: a field each.
#[test]
fn a_role_fills_the_variables_that_an_entry_names_and_nothing_of_the_callers_stays() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let variables = "DEPLOY_ID = \"AccessKeyId\", DEPLOY_KEY = \"SecretAccessKey\", DEPLOY_TOKEN = \"SessionToken\", \
                     DEPLOY_END = \"Expiration\"";
    let project = of_role(&home, &format!("AWS = {{ ref = \"cloud://{role}\", variables = {{ {variables} }} }}"));
    let program = "import sys, os, boto3\n\
                   keys = [os.environ['DEPLOY_' + name] for name in ('ID', 'KEY', 'TOKEN')]\n\
                   sts = boto3.client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id=keys[0],\n                   \
                   aws_secret_access_key=keys[1], aws_session_token=keys[2])\n\
                   print(sts.get_caller_identity()['Arn'], len(os.environ['DEPLOY_END']) > 0)\n\
                   print(sorted(name for name in os.environ if name.startswith('AWS')))\n";
    let callers =
        ["AWS_SESSION_TOKEN_EXPIRATION_OF_MINE", "AWS_DEFAULT_PROFILE", "AWS_SECURITY_TOKEN", "AWS_SECRET_KEY"];
    let run = callers.iter().fold(python(&project, program), |run, name| run.env(name, "the caller's"));
    let said = run.succeed().out();
    assert!(said.contains(":assumed-role/") && said.contains(" True\n"), "{said}");
    // What is no credential passes: that it does shows that the others would be seen.
    assert!(said.ends_with("['AWS_REGION', 'AWS_SESSION_TOKEN_EXPIRATION_OF_MINE']\n"), "{said}");
}

#[test]
fn a_session_that_cannot_be_revoked_is_listed_as_such_and_dropped_at_the_end() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let project = of_role(&home, &format!("AWS = \"cloud://{role}\""));
    let running = project.exec(["/bin/cat"]).stdin_open().start();
    deadline::until_true("the lease is live", || !home.leases().is_empty());
    let listed = home.broker(["lease", "list"]).succeed().out();
    let line = listed.lines().find(|line| line.contains(&role)).expect("what was issued has a line");
    assert!(line.contains(&format!("cannot be revoked: cloud://{role}")) && !line.contains("served"), "{listed}");
    running.finish().expect_code(0);
    home.until_no_lease();
    let ended = deadline::until("the end is on record", || home.audited("lease-ended").pop());
    let end = &ended["credentials"][0];
    assert_eq!((&end["end"], end["expires"].is_string()), (&"dropped".into(), true), "{ended}");
}

/// A GitHub with one app, whose key is in AWS Secrets Manager, and a project whose commands get a token of it.
struct AppShop {
    home: Home,
    github: Github,
    app: App,
    key: String,
    installation: u64,
}

impl AppShop {
    fn new() -> Self {
        let github = Github::start();
        let app = github.register("broker-dev", &[("contents", "write"), ("issues", "write")]);
        let installation = github.install(&app, "shop", &["web", "api"]);
        Self { home: Home::new(), github, app, key: unique("app-key"), installation }
    }

    /// The project, with the app's key at `server` and more lines of the instance that keeps it.
    fn project(&self, server: Aws, more: &str) -> Project<'_> {
        server.create(&self.key, &self.app.private_key);
        self.home.configure(&format!(
            "[providers.keys]\nkind = \"aws-secrets-manager\"\nregion = \"{REGION}\"\nendpoint = \"http://{}\"\n{more}\n\
             [providers.gh]\nkind = \"github-app\"\napp-id = \"{}\"\nkey = \"keys://{}\"\nendpoint = \"{}\"\n",
            server.address(),
            self.app.id,
            self.key,
            self.github.url()
        ));
        let manifest = format!(
            "[project]\nname = \"app\"\n[secrets]\n\
             GITHUB_TOKEN = \"gh://{}?repositories=web&permissions=contents:read\"\n",
            self.installation
        );
        self.home.project("app", &manifest).signed_in(&server.sign_in()).trusted()
    }

    /// Starts a command that waits for the end of its input, and returns it with its token.
    fn started(&self, project: &Project<'_>) -> (Running, String) {
        let file = project.directory().join("token");
        let script = "echo $GITHUB_TOKEN >token.part; mv token.part token; exec cat";
        let running = project.shell(&[], script).stdin_open().start();
        let token = deadline::until("the command has its token", || fs::read_to_string(&file).ok());
        let token = token.trim().to_owned();
        assert!(self.github.is_alive(&token), "GitHub knows it");
        (running, token)
    }
}

/// How a run comes to its end.
#[derive(Clone, Copy, Debug)]
enum End {
    Exit,
    Killed,
    Lease,
    Daemon,
    Both,
}

fn a_token_is_revoked_within_two_seconds(end: End) {
    let shop = AppShop::new();
    let project = shop.project(Aws::Moto, "");
    let (mut running, token) = shop.started(&project);
    match end {
        End::Exit => {}
        End::Killed => process::kill(running.pid()),
        End::Lease => {
            shop.home.broker(["lease", "end", "--all"]).succeed();
            assert!(!shop.github.is_alive(&token), "when it is said it is done");
            assert!(running.is_running());
        }
        End::Daemon => {
            shop.home.kill_daemon();
            assert_eq!(shop.home.leases().len(), 1, "the next daemon knows it");
            assert!(running.is_running() && shop.github.is_alive(&token), "the command goes on with its token");
        }
        End::Both => {
            let daemon = shop.home.daemon().expect("a daemon runs");
            process::kill(daemon);
            process::kill(running.pid());
        }
    }
    running.finish().expect_code(if matches!(end, End::Killed | End::Both) { 137 } else { 0 });
    let began = std::time::Instant::now();
    deadline::until_true("no token is alive at GitHub", || shop.github.alive_tokens().is_empty());
    assert!(began.elapsed() < SOON, "{end:?}: {:?}", began.elapsed());
    assert_eq!(shop.github.issued_tokens(), [token]);
    let ended = deadline::until("the end is on record", || shop.home.audited("lease-ended").pop());
    assert_eq!(ended["credentials"][0]["end"], "revoked", "{end:?}: {ended}");
}

/// Makes one test of each way to end.
macro_rules! ends {
    ($($claim:ident: $end:ident)*) => {
        $(#[test]
        fn $claim() {
            a_token_is_revoked_within_two_seconds(End::$end);
        })*
    };
}

ends! {
    a_token_of_an_app_is_revoked_when_its_command_exits: Exit
    a_token_of_an_app_is_revoked_when_its_command_is_killed: Killed
    a_token_of_an_app_is_revoked_when_its_lease_is_ended: Lease
    a_token_of_an_app_is_revoked_at_the_end_of_its_command_by_the_daemon_after_the_one_that_was_killed: Daemon
    a_token_of_an_app_is_revoked_when_its_command_and_its_daemon_die_together: Both
}

#[test]
fn an_apps_key_is_on_record_by_name_and_reaches_no_command() {
    let shop = AppShop::new();
    let project = shop.project(Aws::Moto, "");
    let run = project.exec(["/usr/bin/env"]).env("GH_TOKEN", "the caller's own").succeed();
    let token = shop.github.issued_tokens().remove(0);
    assert!(run.out().contains(&format!("GITHUB_TOKEN={token}\n")), "{}", run.out());
    let key = &shop.app.private_key;
    let line = key.lines().nth(3).expect("a key has many lines");
    for (place, text) in [
        ("the environment", run.out()),
        ("the messages", run.err()),
        ("the log", fs::read_to_string(shop.home.audit_log()).expect("there is one")),
    ] {
        assert!(!text.contains("PRIVATE KEY") && !text.contains(line), "{place}: {text}");
    }
    // Neither does what leads to it: the sign-in to the manager that keeps it, nor a token of the caller's own.
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GH_TOKEN"] {
        assert!(!run.out().contains(&format!("{name}=")), "{}", run.out());
    }
    let references = shop.home.audited("request")[0]["references"].clone();
    let references = references.as_array().expect("it lists what is read");
    assert!(references.contains(&format!("keys://{}", shop.key).into()), "{references:?}");
    let removed = project.broker(["explain", "--json"]).succeed().json()["removed"].clone();
    assert!(removed.as_array().is_some_and(|names| names.contains(&"AWS_ACCESS_KEY_ID".into())), "{removed}");
}

#[test]
fn the_session_by_which_an_apps_key_is_read_is_cut_for_the_run_and_explained_beforehand() {
    let shop = AppShop::new();
    let (role, sts) = (iam::role(Aws::Ministack, &["secretsmanager:*"]), Proxy::new(&Aws::Ministack.address()));
    sts.keep_requests();
    let more = format!("assume-role = \"{role}\"\nendpoint-sts = \"{}\"", sts.url());
    let project = shop.project(Aws::Ministack, &more);
    let explained = project.broker(["explain", "--json"]).succeed().json();
    project.exec(["/bin/true"]).succeed();
    let requests = sts.requests();
    assert_eq!(requests.len(), 1);
    let policy = requests[0].form("Policy").expect("it is narrow");
    assert!(policy.contains(&format!(":secret:{}-??????\"", shop.key)), "{policy}");
    let sessions = explained["sessions"].as_array().expect("there is a list");
    assert!(sessions.iter().any(|session| session["text"] == policy.as_str()), "{explained}");
}

#[test]
fn a_token_of_google_is_the_accounts_for_the_run_and_named_so_in_googles_log() {
    const DEPLOY: &str = "deploy@shop-dev.iam.gserviceaccount.com";
    let (fake, home) = (FakeGcp::start(), Home::new());
    let file = google(&fake, &home, DEPLOY, "");
    let manifest = format!(
        "[project]\nname = \"shop\"\n[secrets]\n\
         CLOUDSDK_AUTH_ACCESS_TOKEN = \"gcp://{DEPLOY}?scopes=devstorage.read_only\"\n"
    );
    let variable = ("GOOGLE_APPLICATION_CREDENTIALS", file.as_str());
    let project = home.project("shop", &manifest).signed_in(&[variable]).trusted();
    let script = "echo $CLOUDSDK_AUTH_ACCESS_TOKEN; echo ${GOOGLE_APPLICATION_CREDENTIALS-none}";
    let said = project.shell(&[], script).succeed().out();
    let token = said.strip_suffix("\nnone\n").expect("the sign-in stays away");
    let good = fake.token(token).expect("it counts");
    assert_eq!(good.member, format!("serviceAccount:{DEPLOY}"));
    assert_eq!(good.scopes, ["https://www.googleapis.com/auth/devstorage.read_only"]);
    let issued = home.audited("issued").remove(0);
    let (lease, credential) = (issued["lease"].as_str().expect("it has an id"), &issued["credentials"][0]);
    assert_eq!(credential["revocable"], false);
    let reasons = fake.take_reasons();
    assert!(
        reasons.iter().any(|reason| reason.ends_with(&format!(": broker lease {lease}, shop/default"))),
        "{reasons:?}"
    );
}

/// Lets ada act as a service account of Google, in an instance `gcp` of the configuration with more lines. Returns where her
/// sign-in is.
pub(crate) fn google(fake: &FakeGcp, home: &Home, account: &str, more: &str) -> String {
    fake.add_service_account(account, None);
    fake.add_refresh_token("1//ada", "user:ada@example.com", "client", "client-secret");
    let creator = "roles/iam.serviceAccountTokenCreator";
    fake.bind(&format!("serviceAccounts/{account}"), creator, "user:ada@example.com", None);
    home.configure(&format!("[providers.gcp]\nkind = \"gcp-token\"\nendpoint = \"{}\"\n{more}\n", fake.url()));
    let file = home.config().join("adc.json");
    let sign_in = serde_json::json!({
        "type": "authorized_user", "client_id": "client", "client_secret": "client-secret", "refresh_token": "1//ada",
        "universe_domain": "googleapis.com",
    });
    write_private(&file, sign_in.to_string().as_bytes());
    file.display().to_string()
}
