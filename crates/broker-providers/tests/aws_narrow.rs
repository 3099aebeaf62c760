//! Sessions that are cut for what one run lists: what they read, what they are refused, what AWS is told of them.
//!
//! On ministack, which decides by action and resource and keeps to session policies; moto ignores them and shows that these
//! tests can fail. Neither asks KMS, packs policies, or checks `sts:SetSourceIdentity`: what AWS says then is played by a
//! server of our own. ministack takes a `GetParameters` for one of everything, so the policies of Parameter Store are
//! tried with `GetParameter`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker_core::instance::{InstanceSettings, Words};
use broker_core::lease::LeaseId;
use broker_core::scope::Scope;
use broker_providers::provider::{ErrorKind, FetchOptions, Provider, ProviderError};
use broker_providers::registry::Registry;
use broker_tests::python;
use broker_tests::servers::Aws;
use serde_json::json;
use support::aws_role::{Sts, issues, refuses, role, scope, trust};
use support::fake_aws::{FakeAws, Reply, kind};
use support::{aws, aws_ssm, of_manifest, reference, registry, root, server, unique};

const READ: &[&str] = &["secretsmanager:*", "ssm:*", "kms:Decrypt"];
/// A role that only a server of our own knows.
const SOME_ROLE: &str = "arn:aws:iam::111122223333:role/shop";

/// An instance that assumes a role, and the registry that it is open in.
struct World {
    registry: Registry,
    settings: InstanceSettings,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(settings: InstanceSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { registry: registry(dir.path()), settings, _dir: dir }
    }

    /// Secrets Manager at `url` with a role of that server, asked for through `sts`.
    fn with_role(url: &str, sts: Option<&Sts>) -> Self {
        let assume_role = Some(Words::from(role(url, &trust(), READ).as_str()));
        Self::new(InstanceSettings { assume_role, endpoint_sts: sts.map(Sts::url), ..aws(url) })
    }

    /// Secrets Manager that answers for every name, with an STS of our own.
    fn with_fakes(fake: &FakeAws, sts: &Sts) -> Self {
        let assume_role = Some(Words::from(SOME_ROLE));
        Self::new(InstanceSettings { assume_role, endpoint_sts: Some(sts.url()), ..aws(&fake.url()) })
    }

    /// The whole instance.
    fn whole(&self) -> Arc<dyn Provider> {
        self.registry.open("org", &of_manifest(&self.settings), &root()).unwrap().provider
    }

    fn narrowed(&self, scope: &Arc<Scope>) -> Arc<dyn Provider> {
        self.of_run(scope, None)
    }

    fn of_run(&self, scope: &Arc<Scope>, lease: Option<LeaseId>) -> Arc<dyn Provider> {
        self.registry.open_for("org", &of_manifest(&self.settings), &root(), scope, lease).unwrap().provider
    }

    fn calls(&self) -> u64 {
        self.registry.calls().iter().map(|(_, count)| count).sum()
    }
}

/// Fetches past what is held.
async fn fetch(provider: &Arc<dyn Provider>, names: &[&str]) -> Vec<Result<String, ProviderError>> {
    let references: Vec<_> = names.iter().map(|name| reference(name)).collect();
    let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_secs(20)) };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let fetched = provider.fetch(&references, options).await;
    fetched.into_iter().map(|one| one.map(|fetched| text(fetched.value.expose()))).collect()
}

async fn fetch_one(provider: &Arc<dyn Provider>, name: &str) -> Result<String, ProviderError> {
    fetch(provider, &[name]).await.remove(0)
}

/// Tells how the claim fails that a session cut for one secret reads this one and no other.
async fn reads_what_it_lists_and_nothing_else(server: Aws) -> Result<(), String> {
    let url = format!("http://{}", server.address());
    let (one, other) = (unique("one"), unique("other"));
    server.create(&one, "value of one");
    server.create(&other, "value of other");
    let world = World::with_role(&url, None);
    let [one, other] = [one, other].map(|name| format!("org://{name}"));
    assert_eq!(fetch_one(&world.whole(), &other).await.unwrap(), "value of other", "the role alone reads both");
    let narrowed = world.narrowed(&scope(&[&one]));
    assert_eq!(fetch_one(&narrowed, &one).await.unwrap(), "value of one");
    for asked in [&[other.as_str()][..], &[&one, &other]] {
        let answers = fetch(&narrowed, asked).await;
        match answers.last().unwrap() {
            Ok(_) => return Err(format!("it reads `{other}`, too")),
            Err(error) if error.kind != ErrorKind::Denied || !error.cause.contains("secretsmanager:GetSecretValue") => {
                return Err(format!("it fails otherwise: {error}"));
            }
            Err(_) => {}
        }
        assert!(answers.len() == 1 || answers[0].is_ok(), "{:?}", answers[0]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runs_session_reads_what_the_run_lists_and_is_refused_everything_else() {
    assert_eq!(reads_what_it_lists_and_nothing_else(Aws::Ministack).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_fails_on_a_server_that_ignores_session_policies() {
    let failed = reads_what_it_lists_and_nothing_else(Aws::Moto).await;
    assert!(failed.as_ref().is_err_and(|why| why.contains("it reads")), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_need_several_sessions_and_none_is_wider() {
    let url = server("BROKER_TEST_MINISTACK");
    let (folder, sts) = (unique("fifty"), Sts::before(&url));
    let names: Vec<_> = (0..50).map(|n| format!("{folder}/{n:02}")).collect();
    names.iter().for_each(|name| Aws::Ministack.create(name, name));
    Aws::Ministack.create(&format!("{folder}/unlisted"), "x");
    let references: Vec<_> = names.iter().map(|name| format!("org://{name}")).collect();
    let references: Vec<_> = references.iter().map(String::as_str).collect();
    let world = World::with_role(&url, Some(&sts));
    let narrowed = world.narrowed(&scope(&references));
    let fetched: Vec<_> = fetch(&narrowed, &references).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(fetched, names);
    let seen = sts.seen();
    assert!((3..=8).contains(&seen.len()), "{} sessions", seen.len());
    let sent: Vec<_> = seen.iter().map(|assumed| assumed.get("Policy").unwrap().to_owned()).collect();
    assert!(sent.iter().all(|policy| policy.len() <= 2048 && !policy.contains("-*")));
    let mut allowed: Vec<_> = seen.iter().flat_map(|assumed| assumed.resources()).collect();
    allowed.sort();
    let arn = |name: &String| format!("arn:aws:secretsmanager:eu-west-1:000000000000:secret:{name}-??????");
    assert_eq!(allowed, names.iter().map(arn).collect::<Vec<_>>(), "each of them stands in one policy");
    // What is shown for review is what was sent.
    let (mut shown, mut sent) = (narrowed.session_policies(), sent);
    assert_eq!(shown[0].title, format!("session policy 1 of {}", seen.len()));
    shown.sort_by(|a, b| a.text.cmp(&b.text));
    sent.sort();
    assert_eq!(shown.into_iter().map(|policy| policy.text).collect::<Vec<_>>(), sent);
    let error = fetch_one(&narrowed, &format!("org://{folder}/unlisted")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_is_told_for_whom_a_session_is() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = Sts::new(|_, _| issues());
    let mut world = World::with_fakes(&fake, &sts);
    world.settings.external_id = Some("ext-1".to_owned());
    let scope = scope(&["org://a"]);
    fetch_one(&world.narrowed(&scope), "org://a").await.unwrap();
    let lease = LeaseId::from_random([5; 24]);
    world.settings.session = Some("per-run".to_owned());
    world.settings.session_ttl = Some("30m".to_owned());
    fetch_one(&world.of_run(&scope, Some(lease)), "org://a").await.unwrap();
    let [shared, own] = sts.seen().try_into().unwrap();
    assert_eq!(shared.get("RoleArn"), Some(SOME_ROLE));
    assert_eq!(shared.get("RoleSessionName"), Some(format!("ada@{}", scope.session).as_str()));
    assert_eq!((shared.get("SourceIdentity"), shared.get("ExternalId")), (Some("ada"), Some("ext-1")));
    assert_eq!(shared.get("DurationSeconds"), Some("900"), "the shortest that AWS issues");
    let session = format!("broker:session={}", scope.session);
    assert_eq!(shared.tags(), ["broker:project=shop", "broker:profile=dev", &session, "broker:tier=human"]);
    assert_eq!(own.get("RoleSessionName"), Some(format!("ada@{lease}").as_str()));
    assert_eq!(own.get("DurationSeconds"), Some("1800"));
    assert!(own.tags().contains(&format!("broker:lease={lease}")), "{:?}", own.tags());
    assert_eq!(own.get("Policy"), shared.get("Policy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_and_is_made_anew_when_it_ends() {
    let url = server("BROKER_TEST_MINISTACK");
    let (name, sts) = (unique("ends"), Sts::before(&url));
    Aws::Ministack.create(&name, "x");
    let name = format!("org://{name}");
    let mut world = World::with_role(&url, Some(&sts));
    world.settings.session_ttl = Some("3s".to_owned());
    let narrowed = world.narrowed(&scope(&[&name]));
    let began = Instant::now();
    while sts.seen().len() < 3 {
        fetch_one(&narrowed, &name).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "it never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(2), "it is made anew all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_fetch_makes_one_call_and_a_held_value_none() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = Sts::new(|_, _| issues());
    let world = World::with_fakes(&fake, &sts);
    let narrowed = world.narrowed(&scope(&["org://a", "org://b"]));
    let both = ["org://a", "org://b"];
    fetch(&narrowed, &both).await;
    assert_eq!(world.calls(), 2, "a session and a batch are calls of the instance");
    fetch(&narrowed, &both).await;
    assert_eq!((world.calls(), sts.seen().len()), (3, 1));
    let held = FetchOptions::within(Duration::from_secs(5));
    assert!(narrowed.fetch(&[reference("org://a")], held).await.remove(0).is_ok());
    assert_eq!(world.calls(), 3);
    world.registry.forget_all();
    fetch(&world.narrowed(&scope(&both)), &both).await;
    assert_eq!(sts.seen().len(), 2, "what is forgotten is made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_has_a_session_of_its_own_and_all_share_the_way_to_the_role() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = Sts::new(|_, _| issues());
    let mut world = World::with_fakes(&fake, &sts);
    let first = "arn:aws:iam::111122223333:role/first";
    world.settings.assume_role = Some(Words::Many(vec![first.to_owned(), SOME_ROLE.to_owned()]));
    for names in [&["org://a", "org://b"][..], &["org://a"]] {
        fetch(&world.narrowed(&scope(names)), names).await.into_iter().for_each(|one| drop(one.unwrap()));
    }
    world.settings.session = Some("per-run".to_owned());
    let world = World { settings: world.settings.clone(), ..world };
    for run in [1, 2] {
        let provider = world.of_run(&scope(&["org://a"]), Some(LeaseId::from_random([run; 24])));
        fetch_one(&provider, "org://a").await.unwrap();
    }
    let seen = sts.seen();
    let of = |role: &str| seen.iter().filter(|assumed| assumed.get("RoleArn") == Some(role)).collect::<Vec<_>>();
    // Once for each of the two ways in which the settings stand.
    assert_eq!(of(first).len(), 2, "{seen:?}");
    assert!(of(first).iter().all(|assumed| assumed.get("Policy").is_none()));
    let mut names: Vec<_> = of(SOME_ROLE).iter().map(|assumed| assumed.get("RoleSessionName").unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), of(SOME_ROLE).len()), (4, 4), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_policy_without_tags_is_an_error_that_says_what_to_add() {
    let url = server("BROKER_TEST_MINISTACK");
    let (name, sts) = (unique("trust"), Sts::before(&url));
    Aws::Ministack.create(&name, "x");
    let name = format!("org://{name}");
    let mut without = trust();
    without["Statement"][0]["Action"] = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    let assume_role = Some(Words::from(role(&url, &without, READ).as_str()));
    let world = World::new(InstanceSettings { assume_role, endpoint_sts: Some(sts.url()), ..aws(&url) });
    assert!(fetch_one(&world.whole(), &name).await.is_ok(), "the role alone can be assumed");
    let before = sts.seen().len();
    let error = fetch_one(&world.narrowed(&scope(&[&name])), &name).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.cause.contains("sts:TagSession"), "{error}");
    let hint = error.hint.unwrap();
    assert!(hint.contains("add `sts:TagSession`") && hint.contains("trust policy"), "{hint}");
    assert_eq!(sts.seen().len(), before + 1, "nothing else is tried");
}

#[test]
fn the_trust_policy_that_is_tested_stands_on_the_pages() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(repository.join("deploy/aws/trust.json")).unwrap();
    for kind in ["aws-secrets-manager", "aws-parameter-store", "aws-sts"] {
        let page = fs::read_to_string(repository.join(format!("docs/providers/{kind}.md"))).unwrap();
        assert!(page.contains(text.trim()), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_policy_without_source_identity_is_an_error_that_says_what_to_add() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = Sts::new(|_, _| {
        let message = format!(
            "User: arn:aws:iam::111122223333:user/dev is not authorized to perform: sts:SetSourceIdentity on resource: {SOME_ROLE}"
        );
        refuses(403, "AccessDenied", &message)
    });
    let world = World::with_fakes(&fake, &sts);
    let error = fetch_one(&world.narrowed(&scope(&["org://a"])), "org://a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.hint.unwrap().contains("add `sts:SetSourceIdentity`"));
    assert_eq!((sts.seen().len(), fake.all_calls()), (1, 0), "nothing else is tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_aws_does_not_issue_is_no_matter_of_the_sign_in() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let words = "1 validation error detected: Value '60' at 'durationSeconds' failed to satisfy constraint: \
        Member must have value greater than or equal to 900";
    let sts = Sts::new(move |_, _| refuses(400, "ValidationError", words));
    let mut world = World::with_fakes(&fake, &sts);
    world.settings.session_ttl = Some("1m".to_owned());
    let error = fetch_one(&world.narrowed(&scope(&["org://a"])), "org://a").await.unwrap_err();
    assert!(error.cause.contains(words) && error.hint.as_ref().unwrap().contains("`session-ttl`"), "{error:?}");
    assert_eq!(sts.seen()[0].get("DurationSeconds"), Some("60"));
}

/// An STS whose packed policies have room for so many secrets.
fn sts_with_room(room: usize) -> Sts {
    Sts::new(move |_, assumed| {
        if assumed.resources().len() <= room {
            return issues();
        }
        let message = "Packed policy consumes 128% of allotted space, please use smaller policy.";
        refuses(400, "PackedPolicyTooLarge", message)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_aws_cannot_pack_is_halved() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = sts_with_room(3);
    let world = World::with_fakes(&fake, &sts);
    let names: Vec<_> = (0..10).map(|n| format!("org://s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let narrowed = world.narrowed(&scope(&names));
    let fetched: Vec<_> = fetch(&narrowed, &names).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(fetched[9], "value of s9");
    let mut all: Vec<_> =
        sts.seen().iter().filter(|one| one.resources().len() <= 3).flat_map(|one| one.resources()).collect();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), narrowed.session_policies().len()), (10, 4));
    let before = sts.seen().len();
    fetch(&narrowed, &names).await;
    assert_eq!(sts.seen().len(), before, "it is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_secret_that_aws_cannot_pack_is_an_error_of_its_own() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    // An ARN that may or may not be whole is two resources.
    let sts = sts_with_room(1);
    let world = World::with_fakes(&fake, &sts);
    let big = "org://arn:aws:secretsmanager:eu-west-1:111122223333:secret:x-AbCdEf";
    let names = ["org://a", big];
    let answers = fetch(&world.narrowed(&scope(&names)), &names).await;
    assert!(answers[0].is_ok(), "{:?}", answers[0]);
    let error = answers[1].as_ref().unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.cause.contains("session policy"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_in_a_name_widens_nothing_and_harms_no_other() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    let sts = Sts::new(|_, _| issues());
    let world = World::with_fakes(&fake, &sts);
    let names = ["org://*", "org://a", "org://shop/$%7Baws:username%7D"];
    let answers = fetch(&world.narrowed(&scope(&names)), &names).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [Some(ErrorKind::NotFound), None, Some(ErrorKind::NotFound)]);
    let all: Vec<_> = sts.seen().iter().flat_map(|assumed| assumed.resources()).collect();
    assert_eq!(all, ["arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-??????"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_role_there_is_no_narrower_session() {
    let fake = FakeAws::new(Duration::ZERO, kind);
    for settings in [aws(&fake.url()), aws_ssm(&fake.url())] {
        let world = World::new(settings);
        let narrowed = world.narrowed(&scope(&["org://a"]));
        assert!(Arc::ptr_eq(&narrowed, &world.whole()) && narrowed.session_policies().is_empty());
    }
}

/// Assumes a role with a session policy and tries to read parameters with it.
const PARAMETERS: &str = r#"
import sys, boto3
url, role, policy, *names = sys.argv[1:]
at = dict(region_name="eu-west-1", endpoint_url=url)
sts = boto3.client("sts", aws_access_key_id="test", aws_secret_access_key="test", **at)
keys = sts.assume_role(RoleArn=role, RoleSessionName="check", Policy=policy)["Credentials"]
ssm = boto3.client("ssm", aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
                   aws_session_token=keys["SessionToken"], **at)
for name in names:
    try:
        print(ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
    except Exception as e:
        print(e.response["Error"]["Code"])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_policy_of_parameters_opens_these_and_no_other() {
    let url = server("BROKER_TEST_MINISTACK");
    let [one, other] = [unique("one"), unique("other")].map(|name| format!("/shop/{name}"));
    for name in [&one, &other, &format!("{one}/below")] {
        Aws::put_parameter_at(url.trim_start_matches("http://"), name, "x");
    }
    let arn = role(&url, &trust(), READ);
    let settings = InstanceSettings { assume_role: Some(Words::from(arn.as_str())), ..aws_ssm(&url) };
    let narrowed = World::new(settings).narrowed(&scope(&[&format!("org://{one}")]));
    let policy = narrowed.session_policies().remove(0).text.replace("ssm:GetParameters", "ssm:GetParameter");
    let said = python::run(PARAMETERS, &[&url, &arn, &policy, &one, &other, &format!("{one}/below")]);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["x", "AccessDeniedException", "AccessDeniedException"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_fetched_with_the_session_of_their_part() {
    let ssm = FakeAws::new(Duration::ZERO, |call| {
        let names = call.body["Names"].as_array().unwrap().clone();
        let (key, _) = call.signed_with();
        let value = |name: &serde_json::Value| json!({ "Name": name, "Value": key, "Version": 1 });
        Reply::Json(200, json!({ "Parameters": names.iter().map(value).collect::<Vec<_>>() }))
    });
    let sts = Sts::new(|_, _| issues());
    let mut world = World::with_fakes(&ssm, &sts);
    world.settings.kind = "aws-parameter-store".to_owned();
    let names: Vec<_> = (0..25).map(|n| format!("org:///shop/{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let narrowed = world.narrowed(&scope(&names));
    let fetched = fetch(&narrowed, &names).await;
    assert!(fetched.iter().all(|value| value.as_deref().is_ok_and(|key| key == "ASIAFAKE")), "{fetched:?}");
    assert_eq!(sts.seen().len(), narrowed.session_policies().len());
    assert_eq!(ssm.calls("GetParameters"), 3, "parts line up with batches of ten");
}
