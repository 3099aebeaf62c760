//! Secrets of other regions and accounts, and replicas that stand in for a region that is away.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::instance::{InstanceSettings, Words};
use broker_providers::provider::{ErrorKind, FetchOptions, ListOptions, Provider};
use broker_tests::proxy::Proxy;
use serde_json::json;
use support::fake_aws::{Call, FakeAws, Reply, ids, kind};
use support::{aws, figure, of_manifest, reference, registry, root, server, unique};
use tokio::time::Instant;

/// An instance with replicas at a service that answers for all regions.
struct World {
    provider: Arc<dyn Provider>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(endpoint: &str, replicas: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let replicas: Vec<_> = replicas.iter().map(|region| (*region).to_owned()).collect();
        let replicas = (!replicas.is_empty()).then_some(Words::Many(replicas));
        let settings = InstanceSettings { replicas, timeout: Some("2s".to_owned()), ..aws(endpoint) };
        let provider = registry(dir.path()).open("org", &of_manifest(&settings), &root()).unwrap().provider;
        Self { provider, _dir: dir }
    }

    async fn fetch(&self, names: &[&str], budget: u64) -> Vec<Result<String, ErrorKind>> {
        let references: Vec<_> = names.iter().map(|name| reference(name)).collect();
        let options = FetchOptions { refresh: true, ..FetchOptions::within(Duration::from_millis(budget)) };
        let fetched = self.provider.fetch(&references, options).await.into_iter();
        fetched
            .map(|result| {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                result.map(|fetched| text(fetched.value.expose())).map_err(|error| error.kind)
            })
            .collect()
    }
}

/// A service whose answers name the region that they are of; the region in `away` is broken while it is set.
fn of_regions(
    away: Arc<AtomicBool>,
    broken: impl Fn() -> Reply + Send + Sync + 'static,
) -> (FakeAws, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let into = Arc::clone(&seen);
    let fake = FakeAws::new(Duration::ZERO, move |call| {
        let region = call.signed_with().1;
        into.lock().unwrap().push(region.clone());
        if region == "eu-west-1" && away.load(Ordering::SeqCst) { broken() } else { of_region(call, &region) }
    });
    (fake, seen)
}

fn of_region(call: &Call, region: &str) -> Reply {
    let entry = |id: &String| {
        let name = id.rsplit(':').next().unwrap();
        json!({ "Name": name, "ARN": format!("arn:aws:secretsmanager:{region}:1:secret:{name}"), "VersionId": "v",
            "SecretString": format!("{name} of {region}") })
    };
    match call.action.as_str() {
        "BatchGetSecretValue" => {
            let (gone, there): (Vec<_>, Vec<_>) = ids(call).into_iter().partition(|id| id.contains("gone"));
            let error =
                |id: &String| json!({ "SecretId": id, "ErrorCode": "ResourceNotFoundException", "Message": "gone" });
            let (there, gone): (Vec<_>, Vec<_>) = (there.iter().map(entry).collect(), gone.iter().map(error).collect());
            Reply::Json(200, json!({ "SecretValues": there, "Errors": gone }))
        }
        _ => Reply::Json(200, entry(&call.body["SecretId"].as_str().unwrap().to_owned())),
    }
}

fn ok(text: &str) -> Result<String, ErrorKind> {
    Ok(text.to_owned())
}

fn oops() -> Reply {
    Reply::error(500, "InternalServiceError", "the region is away")
}

#[tokio::test]
async fn an_arn_is_asked_for_in_its_own_region() {
    let (fake, seen) = of_regions(Arc::default(), oops);
    let arn = |region: &str| format!("org://arn:aws:secretsmanager:{region}:444455556666:secret:far-AbCdEf");
    let world = World::new(&fake.url(), &[]);
    let names = ["org://near", &arn("us-east-2"), &arn("ap-south-1"), &arn("evil.example/")];
    let results = world.fetch(&names, 2000).await;
    let expected = [
        ok("near of eu-west-1"),
        ok("far-AbCdEf of us-east-2"),
        ok("far-AbCdEf of ap-south-1"),
        Err(ErrorKind::NotFound),
    ];
    assert_eq!(results, expected);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["ap-south-1", "eu-west-1", "us-east-2"]);
}

#[tokio::test]
async fn a_region_that_is_away_is_replaced_by_its_replicas_and_asked_last_for_a_while() {
    let away = Arc::new(AtomicBool::new(true));
    let (fake, seen) = of_regions(Arc::clone(&away), oops);
    let world = World::new(&fake.url(), &["eu-central-1", "eu-north-1"]);
    let arn = "org://arn:aws:secretsmanager:eu-west-1:1:secret:x";
    let results = world.fetch(&["org://a", "org://b", arn, "org://a?stage=previous"], 2000).await;
    let of = |name: &str| ok(&format!("{name} of eu-central-1"));
    assert_eq!(results, [of("a"), of("b"), of("x"), of("a")]);
    seen.lock().unwrap().clear();
    assert_eq!(world.fetch(&["org://a"], 2000).await, [of("a")]);
    assert_eq!(*seen.lock().unwrap(), ["eu-central-1"]);
}

#[tokio::test]
async fn a_silent_region_leaves_time_for_its_replica() {
    let (fake, _) = of_regions(Arc::new(AtomicBool::new(true)), || Reply::Silence);
    let world = World::new(&fake.url(), &["eu-central-1"]);
    let started = Instant::now();
    assert_eq!(world.fetch(&["org://a"], 2000).await, [ok("a of eu-central-1")]);
    assert!(started.elapsed() < Duration::from_millis(2000), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_is_missing_or_denied_is_not_looked_for_elsewhere() {
    let (fake, seen) = of_regions(Arc::default(), oops);
    let world = World::new(&fake.url(), &["eu-central-1"]);
    assert_eq!(world.fetch(&["org://a", "org://gone"], 2000).await, [ok("a of eu-west-1"), Err(ErrorKind::NotFound)]);
    assert!(seen.lock().unwrap().iter().all(|region| region == "eu-west-1"));
    let denied =
        || Reply::error(400, "AccessDeniedException", "not authorized to perform: secretsmanager:GetSecretValue");
    let (fake, seen) = of_regions(Arc::new(AtomicBool::new(true)), denied);
    let world = World::new(&fake.url(), &["eu-central-1"]);
    assert_eq!(world.fetch(&["org://a"], 2000).await, [Err(ErrorKind::Denied)]);
    assert!(seen.lock().unwrap().iter().all(|region| region == "eu-west-1"));
}

#[tokio::test]
async fn a_replica_without_the_secret_does_not_say_that_there_is_none() {
    let (fake, _) = of_regions(Arc::new(AtomicBool::new(true)), oops);
    let world = World::new(&fake.url(), &["eu-central-1"]);
    assert_eq!(
        world.fetch(&["org://a", "org://gone"], 2000).await,
        [ok("a of eu-central-1"), Err(ErrorKind::Unavailable)]
    );
}

#[tokio::test]
async fn a_hundred_and_fifty_references_with_one_missing_are_eight_calls() {
    let (fake, _) = of_regions(Arc::default(), oops);
    let names: Vec<_> =
        (0..150).map(|n| if n == 77 { "org://gone".to_owned() } else { format!("org://s{n}") }).collect();
    let results = World::new(&fake.url(), &[]).fetch(&names.iter().map(String::as_str).collect::<Vec<_>>(), 2000).await;
    assert_eq!(results[77], Err(ErrorKind::NotFound));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 149);
    assert_eq!((fake.all_calls(), fake.calls("BatchGetSecretValue")), (8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_cost_one_and_a_half_round_trips_when_cold() {
    let latency = Duration::from_millis(50);
    let fake = FakeAws::new(Duration::ZERO, kind);
    let proxy = Proxy::new(fake.url().trim_start_matches("http://"));
    proxy.set_latency(latency);
    let names: Vec<_> = (0..50).map(|n| format!("org://s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // The first client of a process reads the machine's certificates; that is no round trip.
    World::new(&fake.url(), &[]).fetch(&["org://warm-up"], 2000).await;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let world = World::new(&proxy.url(), &[]);
        let started = Instant::now();
        assert!(world.fetch(&names, 2000).await.iter().all(Result::is_ok));
        best = best.min(started.elapsed());
    }
    figure("aws-sm-cold-50", &format!("{best:?} for 50 secrets with {latency:?} of latency"));
    assert!(best <= latency * 3 / 2, "{best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_selects_by_tags_and_a_description_tells_them() {
    use broker_tests::servers::Aws;
    for (variable, aws) in [("BROKER_TEST_MOTO", Aws::Moto), ("BROKER_TEST_MINISTACK", Aws::Ministack)] {
        let name = unique("tags");
        for (part, team) in [("a", "shop"), ("b", "shopping"), ("c", "ops")] {
            let tags = json!([{ "Key": "team", "Value": team }, { "Key": "stage", "Value": "dev" }]);
            let token = format!("00000000-0000-4000-8000-{:0>12}", part.as_bytes()[0]);
            let body = json!({ "Name": format!("{name}/{part}"), "SecretString": "canary-81", "Tags": tags, "ClientRequestToken": token });
            aws.secrets_manager("CreateSecret", &body);
        }
        let world = World::new(&server(variable), &[]);
        let soon = Instant::now() + Duration::from_secs(10);
        let tags = [("team".to_owned(), "shop".to_owned()), ("stage".to_owned(), "dev".to_owned())];
        let listed = world.provider.list(ListOptions { prefix: &name, tags: &tags }, soon).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|entry| entry.path).collect();
        assert_eq!(listed, [format!("{name}/a")], "{variable}");
        let described = world.provider.describe(&reference(&format!("org://{name}/a")), soon).await.unwrap();
        assert_eq!(described.tags, [("stage".to_owned(), "dev".to_owned()), ("team".to_owned(), "shop".to_owned())]);
        assert!(described.created.is_some() && !format!("{described:?}").contains("canary"), "{described:?}");
    }
}
