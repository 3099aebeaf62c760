//! Credentials that are served to a command for as long as it runs: to its own processes, fresh, and to nobody else.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::run::Run;
use broker_tests::servers::{Aws, REGION};
use broker_tests::{deadline, http, iam, python};
use serde_json::Value;

use crate::issued::google;

/// A project whose commands are served sessions of a role that may read its own name.
fn project<'h>(home: &'h Home, role: &str, lives: &str, more: &str) -> Project<'h> {
    let manifest = format!(
        "[project]\nname = \"served\"\n[providers.cloud]\nkind = \"aws-sts\"\nregion = \"{REGION}\"\n\
         endpoint = \"http://{}\"\nsession-ttl = \"{lives}\"\n[secrets]\n\
         AWS = {{ ref = \"cloud://{role}\", deliver = \"endpoint\" }}\n{more}\n[settings]\nAWS_REGION = \"{REGION}\"\n",
        Aws::Ministack.address()
    );
    home.project("served", &manifest).signed_in(&Aws::Ministack.sign_in()).trusted()
}

/// Runs a Python program with AWS's own client in sight.
fn python(project: &Project<'_>, program: &str, arguments: &[&str]) -> Run {
    python::variables()
        .into_iter()
        .fold(project.exec([python::interpreter().as_str(), "-c", program]).args(arguments), |run, (name, value)| {
            run.env(name, value)
        })
}

/// `broker exec` gives a child that boto3 needs nothing else for.
#[test]
fn the_official_client_signs_in_at_the_endpoint_by_itself() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let project = project(&home, &role, "15m", "");
    let program = "import sys, boto3\n\
                   sts = boto3.client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1])\n\
                   print(sts.get_caller_identity()['Arn'])\n\
                   print(boto3.Session().get_credentials().method)\n";
    let said = python(&project, program, &[&format!("http://{}", Aws::Ministack.address())]).succeed().out();
    let role_name = role.rsplit('/').next().expect("an ARN has a name");
    let lease = &home.audited("issued")[0]["lease"];
    let session = format!("@{}", lease.as_str().expect("a lease has an id"));
    assert!(said.contains(&format!("assumed-role/{role_name}/")) && said.contains(&session), "{said}: {session}");
    assert!(said.ends_with("container-role\n"), "{said}");
}

/// Eight hours of fifteen-minute credentials are thirty-two lives of them; here a life is a second.
#[test]
fn a_command_that_outlives_its_credentials_thirty_two_times_sees_none_expire() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let project = project(&home, &role, "1s", "");
    let program = "import sys, os, json, time, urllib.request, botocore.session\n\
        from botocore.exceptions import ClientError\n\
        url, token = os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'], os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN']\n\
        def held():\n    \
            ask = urllib.request.Request(url, headers={'Authorization': token})\n    \
            return json.load(urllib.request.urlopen(ask))\n\
        def who(keys):\n    \
            client = botocore.session.Session().create_client('sts', region_name='eu-west-1', endpoint_url=sys.argv[1],\n        \
                aws_access_key_id=keys['AccessKeyId'], aws_secret_access_key=keys['SecretAccessKey'], aws_session_token=keys['Token'])\n    \
            return client.get_caller_identity()['Arn']\n\
        first, seen, calls, began = held(), set(), 0, time.monotonic()\n\
        while time.monotonic() - began < 32:\n    \
            keys = held(); who(keys); seen.add(keys['AccessKeyId']); calls += 1; time.sleep(0.1)\n\
        try:\n    who(first); print('the first ones are still good')\n\
        except ClientError as error: print(error.response['Error']['Code'])\n\
        print(len(seen) >= 32, calls >= 64)\n";
    let run = python(&project, program, &[&format!("http://{}", Aws::Ministack.address())]);
    let said = run.deadline(Duration::from_secs(120)).succeed().out();
    // This server forgets what has expired; another one says `ExpiredToken`.
    assert_eq!(said, "InvalidClientTokenId\nTrue True\n", "they do expire, and the command saw none of it");
    let issued = home.audited("issued");
    assert!(issued.len() >= 32, "each of them is on record: {}", issued.len());
}

/// What a command was told of its endpoint.
struct Told {
    address: String,
    token: String,
}

impl Told {
    fn by(project: &Project<'_>) -> (broker_tests::run::Running, Self) {
        let file = project.directory().join("told");
        let script = "echo $AWS_CONTAINER_CREDENTIALS_FULL_URI $AWS_CONTAINER_AUTHORIZATION_TOKEN >told.part; \
                      mv told.part told; cat";
        let running = project.shell(&[], script).stdin_open().start();
        let told = deadline::until("the command says where its endpoint is", || fs::read_to_string(&file).ok());
        let (url, token) = told.trim().split_once(' ').expect("there are two words");
        let address = url.trim_start_matches("http://").trim_end_matches("/credentials").to_owned();
        (running, Self { address, token: token.to_owned() })
    }

    /// Asks from here, which is no process of the run.
    fn ask(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        let (host, token) = (&self.address, &self.token);
        write!(
            stream,
            "GET /credentials HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

#[test]
fn a_process_outside_the_run_is_refused_even_with_the_token() {
    let home = Home::new();
    let project = project(&home, &iam::role(Aws::Ministack, &["sts:*"]), "15m", "");
    let (running, told) = Told::by(&project);
    let answer = told.ask().expect("it listens");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("the processes of one run"), "{answer}");
    assert!(!answer.contains("SecretAccessKey"), "{answer}");
    // Nor another command of the same project, which has an endpoint and a token of its own.
    let program = "import sys, urllib.request, urllib.error\n\
        ask = urllib.request.Request(f'http://{sys.argv[1]}/credentials', headers={'Authorization': sys.argv[2]})\n\
        try: print(urllib.request.urlopen(ask).status)\n\
        except urllib.error.HTTPError as error: print(error.code)\n";
    assert_eq!(python(&project, program, &[&told.address, &told.token]).succeed().out(), "403\n");
    running.finish().expect_code(0);
}

#[test]
fn a_grandchild_is_served_and_a_wrong_token_is_not() {
    let home = Home::new();
    let project = project(&home, &iam::role(Aws::Ministack, &["sts:*"]), "15m", "");
    let program = "import os, sys, subprocess, urllib.request, urllib.error\n\
        url, token = os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'], os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN']\n\
        def ask(url, **headers):\n    \
            try: return urllib.request.urlopen(urllib.request.Request(url, headers=headers)).status\n    \
            except urllib.error.HTTPError as error: return error.code\n\
        if len(sys.argv) == 1:\n    \
            print(ask(url, Authorization=token), ask(url, Authorization='x'), ask(url), ask(url + '/x', Authorization=token), ask(url, Authorization=token, Host='evil.example'), flush=True)\n    \
            subprocess.run([sys.executable, '-c', open('/proc/self/cmdline').read().split(chr(0))[2], 'again'])\n\
        else:\n    print(ask(url, Authorization=token))\n";
    assert_eq!(python(&project, program, &[]).succeed().out(), "200 401 401 404 403\n200\n");
}

#[test]
fn the_endpoint_is_closed_when_the_lease_ends_and_the_command_goes_on() {
    let home = Home::new();
    let project = project(&home, &iam::role(Aws::Ministack, &["sts:*"]), "15m", "");
    let (mut running, told) = Told::by(&project);
    let listed = home.broker(["lease", "list"]).succeed().out();
    assert!(listed.contains("served until the lease ends, cannot be revoked: cloud://"), "{listed}");
    home.broker(["lease", "end", "--all"]).succeed();
    deadline::until_true("the port is closed", || told.ask().is_err());
    assert!(running.is_running());
    running.finish().expect_code(0);
    let ended: Value = home.audited("lease-ended").pop().expect("it ended");
    assert_eq!((&ended["how"], &ended["credentials"][0]["end"]), (&"ended".into(), &"dropped".into()), "{ended}");
}

/// Two of one protocol would need the same variables.
#[test]
fn two_endpoints_of_one_protocol_are_refused_by_name() {
    let home = Home::new();
    let role = iam::role(Aws::Ministack, &["sts:*"]);
    let second = format!("OTHER = {{ ref = \"cloud://{role}?duration=1h\", deliver = \"endpoint\" }}");
    let project = project(&home, &role, "15m", &second);
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "manifest").expect_words(["`AWS`", "`OTHER`", "--except"]);
    project.broker(["exec", "--except", "OTHER", "--", "/bin/true"]).succeed();
}

const DEPLOY: &str = "deploy@shop-dev.iam.gserviceaccount.com";

/// A project whose commands are served tokens of a service account of Google.
fn of_google<'h>(home: &'h Home, fake: &FakeGcp, more: &str) -> Project<'h> {
    let file = google(fake, home, DEPLOY, more);
    let manifest = format!(
        "[project]\nname = \"served\"\n[secrets]\n\
         GOOGLE = {{ ref = \"gcp://{DEPLOY}?scopes=devstorage.read_only\", deliver = \"endpoint\" }}\n"
    );
    let variable = ("GOOGLE_APPLICATION_CREDENTIALS", file.as_str());
    home.project("served", &manifest).signed_in(&[variable]).trusted()
}

#[test]
fn googles_own_client_finds_the_metadata_server_by_itself() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    let project = of_google(&home, &fake, "");
    let program = "import google.auth, google.auth.transport.requests\n\
                   keys, project = google.auth.default()\n\
                   keys.refresh(google.auth.transport.requests.Request())\n\
                   print(type(keys).__module__, project, keys.service_account_email, keys.token)\n";
    let said = python(&project, program, &[]).succeed().out();
    let (who, token) = said.trim_end().rsplit_once(' ').expect("it says several words");
    assert_eq!(who, format!("google.auth.compute_engine.credentials shop-dev {DEPLOY}"));
    let good = fake.token(token).expect("it counts at Google");
    assert_eq!(good.member, format!("serviceAccount:{DEPLOY}"));
    assert_eq!(good.scopes, ["https://www.googleapis.com/auth/devstorage.read_only"]);
    let lease = &home.audited("issued")[0]["lease"];
    let reason = format!(": broker lease {}, served/default", lease.as_str().expect("a lease has an id"));
    assert!(fake.take_reasons().iter().any(|said| said.ends_with(&reason)), "Google's log names the run");
}

/// The path of the token that is served.
const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

#[test]
fn a_process_outside_the_run_gets_no_token_of_google() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    let project = of_google(&home, &fake, "");
    let file = project.directory().join("told");
    let script = "echo $GCE_METADATA_HOST >told.part; mv told.part told; cat";
    let running = project.shell(&[], script).stdin_open().start();
    let address = deadline::until("the command says where its endpoint is", || fs::read_to_string(&file).ok());
    let headers = [("host", address.trim()), ("metadata-flavor", "Google")];
    let answer = http::call(address.trim(), &format!("GET {TOKEN}"), &headers, &Value::Null);
    let said = String::from_utf8_lossy(&answer.body);
    assert!(answer.status() == 403 && said.contains("the processes of one run"), "{said}");
    assert!(!said.contains("access_token"), "{said}");
    running.finish().expect_code(0);
}

#[test]
fn a_request_without_googles_header_or_of_a_proxy_gets_no_token() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    let project = of_google(&home, &fake, "");
    let program = "import os, sys, json, urllib.request, urllib.error\n\
        def ask(**headers):\n    \
            url = 'http://' + os.environ['GCE_METADATA_HOST'] + sys.argv[1]\n    \
            named = {name.replace('_', '-'): value for name, value in headers.items()}\n    \
            try: return 'access_token' in json.load(urllib.request.urlopen(urllib.request.Request(url, headers=named)))\n    \
            except urllib.error.HTTPError as error: return error.code, 'access_token' in error.read().decode()\n\
        print(ask(Metadata_Flavor='Google'), ask(), ask(Metadata_Flavor='Other'),\n    \
              ask(Metadata_Flavor='Google', X_Forwarded_For='10.0.0.1'))\n";
    let said = python(&project, program, &[TOKEN]).succeed().out();
    assert_eq!(said, "True (403, False) (403, False) (403, False)\n");
}

/// Google issues them for two minutes at the least, and says that eight seconds are left: its clock is behind.
#[test]
fn a_token_of_google_is_replaced_before_it_expires() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    fake.advance(8 - 120);
    let project = of_google(&home, &fake, "session-ttl = \"2m\"");
    let program = "import os, sys, json, time, urllib.request\n\
        url = 'http://' + os.environ['GCE_METADATA_HOST'] + sys.argv[1]\n\
        def held(): return json.load(urllib.request.urlopen(urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})))\n\
        first, began, left = held(), time.monotonic(), []\n\
        while time.monotonic() - began < 9:\n    \
            last = held(); left.append(last['expires_in']); time.sleep(0.05)\n\
        print(first['access_token'], last['access_token'], min(left) > 0)\n";
    let said = python(&project, program, &[TOKEN]).succeed().out();
    fake.advance(120 - 8);
    let [first, last, never_over] = said.split_whitespace().collect::<Vec<_>>().try_into().expect("three words");
    assert!(fake.token(first).is_none(), "the first one has expired at Google");
    let good = fake.token(last).expect("the last one counts");
    assert_eq!(good.member, format!("serviceAccount:{DEPLOY}"));
    assert_eq!(never_over, "True");
    assert!(home.audited("issued").len() >= 3, "each is on record");
}
