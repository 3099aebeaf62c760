//! Sessions of AWS that are cut for what one run lists: what the run gets by them, what the manager is told, and that what a
//! person reviews beforehand is what is sent.
//!
//! On ministack, which keeps to session policies and trust policies and forgets what expired; a recording proxy stands before
//! its STS.

use broker_tests::home::Home;
use broker_tests::http::Message;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use broker_tests::servers::{Aws, REGION, unique};
use broker_tests::{iam, python, user};
use serde_json::Value;

/// What the role may do: everything with every secret.
const READ: &[&str] = &["secretsmanager:*", "kms:Decrypt"];

/// A role that may read all, three secrets, and a project whose profiles list some of them.
struct Org {
    home: Home,
    role: String,
    /// The names of the secrets; each holds its own name.
    names: [String; 3],
    sts: Proxy,
    secrets: Proxy,
}

/// What one `AssumeRole` said.
struct Assumed(Message);

impl Assumed {
    fn get(&self, name: &str) -> String {
        self.0.form(name).unwrap_or_else(|| panic!("no {name} in the request"))
    }

    fn tags(&self) -> Vec<(String, String)> {
        let of = |at: usize, part: &str| self.0.form(&format!("Tags.member.{at}.{part}"));
        (1..).map_while(|at| Some((of(at, "Key")?, of(at, "Value")?))).collect()
    }

    fn tag(&self, name: &str) -> Option<String> {
        self.tags().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

impl Org {
    fn new() -> Self {
        Self::with_role(iam::role(Aws::Ministack, READ))
    }

    fn with_role(role: String) -> Self {
        let names = ["one", "two", "three"].map(unique);
        names.iter().for_each(|name| Aws::Ministack.create(name, name));
        let before = || Proxy::new(&Aws::Ministack.address());
        let org = Self { home: Home::new(), role, names, sts: before(), secrets: before() };
        org.sts.keep_requests();
        org
    }

    /// The project, with more lines of its instance.
    fn project(&self, more: &str) -> Project<'_> {
        let [one, two, three] = &self.names;
        let manifest = format!(
            "[project]\nname = \"narrow\"\ndefault-profile = \"both\"\n[providers.org]\nkind = \"aws-secrets-manager\"\n\
             region = \"{REGION}\"\nendpoint = \"{}\"\nendpoint-sts = \"{}\"\nassume-role = \"{}\"\n{more}\n\
             [secrets]\nONE = \"org://{one}\"\nTWO = \"org://{two}\"\nTHREE = \"org://{three}\"\n\
             [profiles.both]\nsecrets = [\"ONE\", \"TWO\"]\n[profiles.third]\nsecrets = [\"THREE\"]\n",
            self.secrets.url(),
            self.sts.url(),
            self.role
        );
        self.home.project("narrow", &manifest).signed_in(&Aws::Ministack.sign_in()).trusted()
    }

    fn assumed(&self) -> Vec<Assumed> {
        self.sts.requests().into_iter().map(Assumed).collect()
    }

    /// Returns the only session that was asked for, and forgets it.
    fn one_assumed(&self) -> Assumed {
        let mut all = self.assumed();
        assert_eq!(all.len(), 1, "one session");
        self.sts.forget_calls();
        all.remove(0)
    }

    /// Returns the lease of each run on record, oldest first.
    fn leases(&self) -> Vec<Value> {
        self.home.audited("request").into_iter().map(|record| record["lease"].clone()).collect()
    }

    /// Asks the manager for each secret with a session of the role that has this policy, or none, and returns its words.
    fn readable(&self, policy: &str) -> Vec<String> {
        let url = format!("http://{}", Aws::Ministack.address());
        let mut arguments = vec![url.as_str(), &self.role, policy];
        arguments.extend(self.names.iter().map(String::as_str));
        python::run(READS, &arguments).lines().map(str::to_owned).collect()
    }
}

/// Reads secrets in a session of a role and prints what comes of each.
const READS: &str = r#"
import sys, boto3
from botocore.exceptions import ClientError
url, role, policy, *names = sys.argv[1:]
at = {"region_name": "eu-west-1", "endpoint_url": url}
sts = boto3.client("sts", aws_access_key_id="test", aws_secret_access_key="test", **at)
cut = {"Policy": policy} if policy else {}
keys = sts.assume_role(RoleArn=role, RoleSessionName="test", **cut)["Credentials"]
secrets = boto3.client("secretsmanager", aws_access_key_id=keys["AccessKeyId"],
                       aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"], **at)
for name in names:
    try: print(secrets.get_secret_value(SecretId=name)["SecretString"])
    except ClientError as error: print(error.response["Error"]["Code"])
"#;

/// Prints every secret of the project that a command has.
const PRINT: &str = "echo ${ONE-none} ${TWO-none} ${THREE-none}";

#[test]
fn a_run_reads_what_its_profile_lists_in_a_session_that_could_read_nothing_else() {
    let org = Org::new();
    let [one, two, three] = &org.names;
    assert_eq!(org.readable(""), [one.as_str(), two, three], "the role alone reads all");
    let project = org.project("");
    assert_eq!(project.shell(&[], PRINT).succeed().out(), format!("{one} {two} none\n"));
    let policy = org.one_assumed().get("Policy");
    assert_eq!(org.readable(&policy), [one.as_str(), two, "AccessDeniedException"]);
    assert_eq!(project.shell(&["-P", "third"], PRINT).succeed().out(), format!("none none {three}\n"));
    let policy = org.one_assumed().get("Policy");
    assert_eq!(org.readable(&policy), ["AccessDeniedException", "AccessDeniedException", three]);
}

/// `broker explain`: where sessions at a manager are cut for a run, their policies are shown exactly as the manager gets them.
#[test]
fn what_is_explained_beforehand_is_to_the_letter_what_the_manager_gets() {
    let org = Org::new();
    let project = org.project("");
    let mut sent = Vec::new();
    for flags in [&[][..], &["--only", "ONE"], &["-P", "third"]] {
        let explain = |more: &[&str]| project.broker([&["explain"], flags, more].concat()).succeed();
        let explained = explain(&["--json"]).json();
        let text = explain(&[]).out();
        assert_eq!(org.sts.call_count() + org.secrets.call_count(), 0, "explaining asks nobody");
        project.shell(flags, PRINT).succeed();
        let policy = org.one_assumed().get("Policy");
        org.secrets.forget_calls();
        let sessions = explained["sessions"].as_array().expect("there are sessions");
        assert_eq!(sessions.len(), 1, "{explained}");
        assert_eq!((&sessions[0]["instance"], &sessions[0]["text"]), (&"org".into(), &policy.as_str().into()));
        assert!(text.contains(&format!("\norg: session policy 1 of 1\n  {policy}\n")), "{text}");
        sent.push(policy);
    }
    let [both, only, third] = sent.try_into().expect("there are three");
    let [one, two, three] = &org.names;
    let lists = |policy: &str| [one, two, three].map(|name| policy.contains(&format!(":secret:{name}-??????\"")));
    assert_eq!(lists(&both), [true, true, false], "{both}");
    assert_eq!(lists(&only), [true, false, false], "{only}");
    assert_eq!(lists(&third), [false, false, true], "{third}");
}

#[test]
fn the_managers_log_and_the_brokers_join_on_the_session() {
    let org = Org::new();
    let project = org.project("");
    project.exec(["/bin/true"]).succeed();
    let assumed = org.one_assumed();
    let leases = org.leases();
    let session = leases[0]["session"].as_str().expect("it is on record");
    assert!(session.starts_with("s-"), "{session}");
    let person = user::name();
    assert_eq!(assumed.get("RoleSessionName"), format!("{person}@{session}"));
    assert_eq!(assumed.get("SourceIdentity"), person);
    let tags = [("broker:project", "narrow"), ("broker:profile", "both"), ("broker:session", session)];
    let tags: Vec<_> = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(assumed.tags()[..3], tags);
    assert_eq!(assumed.tag("broker:tier").as_deref(), Some("unattended"));
    // Another profile is another session in both.
    project.broker(["exec", "-P", "third", "--", "/bin/true"]).succeed();
    let other = org.one_assumed().tag("broker:session");
    assert_eq!(other.as_deref(), org.leases()[1]["session"].as_str());
    assert_ne!(other.as_deref(), Some(session));
}

#[test]
fn runs_of_one_profile_share_a_session_and_the_second_asks_nobody() {
    let org = Org::new();
    let project = org.project("");
    project.exec(["/bin/true"]).succeed();
    assert_eq!((org.sts.call_count(), org.secrets.call_count()), (1, 1), "a session, and a batch of two");
    let out = project.shell(&[], PRINT).succeed().out();
    assert_eq!(out, format!("{} {} none\n", org.names[0], org.names[1]));
    assert_eq!((org.sts.call_count(), org.secrets.call_count()), (1, 1));
    let leases = org.leases();
    assert!(leases[0]["id"] != leases[1]["id"] && leases[0]["session"] == leases[1]["session"], "{leases:?}");
}

/// With `session = "per-run"` every run has one of its own, in the name of which stands the id of the run.
#[test]
fn each_run_can_have_a_session_of_its_own_and_then_reads_at_the_manager() {
    let org = Org::new();
    let project = org.project("session = \"per-run\"");
    for _ in 0..2 {
        let out = project.shell(&[], PRINT).succeed().out();
        assert_eq!(out, format!("{} {} none\n", org.names[0], org.names[1]));
    }
    assert_eq!(org.secrets.call_count(), 2, "each run reads for itself: {:?}", org.secrets.calls());
    let (assumed, leases) = (org.assumed(), org.leases());
    assert_eq!((assumed.len(), leases.len()), (2, 2));
    for (assumed, lease) in assumed.iter().zip(&leases) {
        let id = lease["id"].as_str().expect("it has an id");
        assert_eq!(assumed.get("RoleSessionName"), format!("{}@{id}", user::name()));
        assert_eq!(assumed.tag("broker:lease").as_deref(), Some(id));
        assert_eq!(assumed.tag("broker:session").as_deref(), lease["session"].as_str(), "the logs join on this, too");
    }
    assert_eq!(assumed[0].get("Policy"), assumed[1].get("Policy"));
    assert_eq!(org.home.status()["cached_values"], 0, "nothing is held for another run");
}

#[test]
fn where_a_role_may_not_be_tagged_nothing_runs_and_the_missing_action_is_named() {
    let org = Org::with_role(iam::role_trusting(Aws::Ministack, &["sts:AssumeRole", "sts:SetSourceIdentity"], READ));
    assert_eq!(org.readable("").len(), 3, "it can be assumed without tags");
    let project = org.project("");
    let refused = project.exec(["/usr/bin/touch", "ran"]).run();
    refused.expect_error(125, "denied").expect_words(["`ONE`", "`TWO`", "add `sts:TagSession`", "trust policy"]);
    assert!(!project.directory().join("ran").exists());
    assert_eq!((org.sts.call_count(), org.secrets.call_count()), (1, 0), "nothing else is tried");
    let ended = org.home.audited("lease-ended");
    assert_eq!((ended.len(), &ended[0]["how"], &ended[0]["error"]), (1, &"not-fetched".into(), &"denied".into()));
}

#[test]
fn a_run_never_gets_more_than_its_profile_lists() {
    let org = Org::new();
    let project = org.project("");
    project.broker(["exec", "--only", "THREE", "--", "/bin/true"]).run().expect_words(["`THREE`"]).expect_code(125);
    assert_eq!(org.sts.call_count() + org.secrets.call_count(), 0, "nobody is asked");
    // What another run read before is in no other run's reach.
    project.broker(["exec", "-P", "third", "--", "/bin/true"]).succeed();
    assert_eq!(project.shell(&[], PRINT).succeed().out(), format!("{} {} none\n", org.names[0], org.names[1]));
    assert_eq!(project.shell(&["--only", "TWO"], PRINT).succeed().out(), format!("none {} none\n", org.names[1]));
}
