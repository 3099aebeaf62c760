//! Vault and OpenBao: what a path, a field and a version mean there, what a refusal says, and what it costs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_providers::provider::{ErrorKind, ListOptions, Provider, ProviderError, Stage};
use broker_providers::registry::{Instance, Registry};
use broker_providers::resolve::{ResolveOptions, Resolved, resolve};
use broker_tests::proxy::{Fault, Proxy};
use serde_json::{Value, json};
use support::vault::{Server, at, opened, ours, servers, with_token};
use support::{figure, reference, registry, unique};

/// An instance, opened with a token.
struct World {
    registry: Registry,
    instance: Instance,
    token: String,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(settings: InstanceSettings, token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path());
        Self { registry, instance: Instance::fixed(settings), token: token.to_owned(), _dir: dir }
    }

    fn of(server: &Server) -> Self {
        Self::new(server.settings(), server.root())
    }

    fn provider(&self) -> std::sync::Arc<dyn Provider> {
        opened(&self.registry, &self.instance.settings, &self.token).provider
    }

    async fn resolve(&self, references: &[&str]) -> Vec<Result<Resolved, ProviderError>> {
        let references: Vec<_> = references.iter().map(|text| reference(text)).collect();
        let open = |name: &str| self.registry.open(name, &self.instance, &with_token(&self.token));
        resolve(&references, ResolveOptions { refresh: true, ..ResolveOptions::default() }, open).await
    }

    async fn text(&self, reference: &str) -> Result<String, ProviderError> {
        let resolved = self.resolve(&[reference]).await.remove(0)?;
        Ok(String::from_utf8(resolved.value.expose().to_vec()).unwrap())
    }

    async fn failure(&self, reference: &str) -> ProviderError {
        self.text(reference).await.expect_err("it must fail")
    }

    async fn put(&self, text: &str, value: &str) -> Result<Option<String>, ProviderError> {
        self.provider().put(&reference(text), SecretValue::from(value.to_owned()), soon()).await
    }
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mount_is_asked_for_and_not_guessed() {
    for server in servers() {
        let (deep, plain) = (unique("team/kv"), unique("old"));
        server.enable_kv(&deep, "2");
        server.enable_kv(&plain, "1");
        server.store(&deep, "data/x", &json!({ "value": "deep" }));
        server.set("POST", &format!("{plain}/data/x"), &json!({ "value": "plain" }));
        let world = World::of(&server);
        // A name that looks like part of the API is a name.
        assert_eq!(world.text(&format!("org://{deep}/data/x")).await.unwrap(), "deep");
        assert_eq!(world.text(&format!("org://{plain}/data/x")).await.unwrap(), "plain");
        let error = world.failure("org://no-such-mount/x").await;
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.hint.unwrap().contains("no such mount"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_asked_for_once_and_each_secret_once() {
    let server = ours();
    let proxy = Proxy::new(&server.ours().address());
    for name in 0..10 {
        server.store("secret", &format!("n/{name}"), &json!({ "a": name }));
    }
    let world = World::new(at(&proxy.url()), server.root());
    let names: Vec<_> = (0..10).map(|name| format!("org://secret/n/{name}#a")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for round in 0..2 {
        proxy.forget_calls();
        assert!(world.resolve(&names).await.iter().all(Result::is_ok));
        let mounts = proxy.calls().keys().filter(|call| call.contains("ui/mounts")).count();
        assert_eq!((mounts, proxy.call_count()), if round == 0 { (1, 11) } else { (0, 10) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_value_can_be_named_with_its_field_and_without() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        server.store(&mount, "lone", &json!({ "value": "one\n<&>" }));
        server.store(&mount, "nested", &json!({ "value": "{\"type\":\"service_account\",\"value\":\"inner\"}" }));
        server.store(&mount, "object", &json!({ "user": "me", "password": "p", "port": 5432, "tls": { "on": true } }));
        let world = World::of(&server);
        for (path, text) in [
            ("lone", "one\n<&>"),
            ("lone#value", "one\n<&>"),
            ("nested", "{\"type\":\"service_account\",\"value\":\"inner\"}"),
            ("nested#type", "service_account"),
            // The name at the server comes first.
            ("nested#value", "{\"type\":\"service_account\",\"value\":\"inner\"}"),
            ("object#password", "p"),
            ("object#port", "5432"),
            ("object#tls.on", "true"),
            ("object", "{\"password\":\"p\",\"port\":5432,\"tls\":{\"on\":true},\"user\":\"me\"}"),
        ] {
            assert_eq!(world.text(&format!("org://{mount}/{path}")).await.unwrap(), text, "{path}");
        }
        // An object without that field has no such value.
        let error = world.failure(&format!("org://{mount}/object#value")).await;
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(!error.to_string().contains("5432"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_destroyed_versions_are_told_apart_and_the_way_back_is_named() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        for number in 1..=4 {
            server.store(&mount, "db", &json!({ "value": format!("v{number}") }));
        }
        server.set("POST", &format!("{mount}/destroy/db"), &json!({ "versions": [2] }));
        server.set("POST", &format!("{mount}/delete/db"), &json!({ "versions": [3] }));
        let world = World::of(&server);
        let of = |rest: &str| format!("org://{mount}/db{rest}");
        assert_eq!(world.text(&of("?version=4")).await.unwrap(), "v4");
        // Neither a destroyed nor a deleted version stands in.
        assert_eq!(world.text(&of("?stage=previous")).await.unwrap(), "v1");
        let destroyed = world.failure(&of("?version=2")).await;
        assert_eq!((destroyed.kind, destroyed.cause.as_str()), (ErrorKind::NotFound, "version 2 was destroyed"));
        let deleted = world.failure(&of("?version=3")).await;
        assert_eq!(deleted.kind, ErrorKind::NotFound);
        assert!(deleted.cause.starts_with("version 3 was deleted at 2"), "{deleted}");
        assert_eq!(deleted.hint.unwrap(), format!("`vault kv undelete -mount={mount} -versions=3 db` brings it back"));
        for version in ["99", "03", "0", "x", "-1"] {
            assert_eq!(world.failure(&of(&format!("?version={version}"))).await.kind, ErrorKind::NotFound, "{version}");
        }
        server.set("DELETE", &format!("{mount}/data/db"), &Value::Null);
        assert!(world.failure(&of("")).await.cause.starts_with("version 4 was deleted at"));
        assert_eq!(world.text(&of("?stage=previous")).await.unwrap(), "v1");
        let described = world.provider().describe(&reference(&of("")), soon()).await.unwrap();
        let versions: Vec<_> =
            described.versions.iter().map(|v| (v.id.as_str(), v.usable, v.stages.as_slice())).collect();
        let expected = [
            ("4", false, [Stage::Current].as_slice()),
            ("3", false, &[]),
            ("2", false, &[]),
            ("1", true, &[Stage::Previous]),
        ];
        assert_eq!(versions, expected);
        assert!(described.created.is_some() && described.changed.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_version_keeps_every_field_and_comes_after_nobody_elses() {
    let server = ours();
    server.store("secret", "db", &json!({ "user": "a", "password": "one" }));
    server.store("secret", "db", &json!({ "value": "two" }));
    let proxy = Proxy::new(&server.ours().address());
    let world = World::new(at(&proxy.url()), server.root());
    let first = reference("org://secret/db?version=1");
    world.provider().promote(&first, soon()).await.unwrap();
    assert_eq!(world.text("org://secret/db").await.unwrap(), r#"{"password":"one","user":"a"}"#);
    // Somebody writes between our look and our write.
    let stale = json!({ "errors": ["check-and-set parameter did not match the current version"] }).to_string();
    let posts = proxy.calls().get("POST /v1/secret/data/db").copied().unwrap_or_default();
    proxy.fail_nth("POST /v1/secret/data/db", posts, Fault::Answer(400, stale));
    let error = world.provider().promote(&first, soon()).await.expect_err("it was changed meanwhile");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_not_done_twice() {
    let server = ours();
    let proxy = Proxy::new(&server.ours().address());
    let world = World::new(at(&proxy.url()), server.root());
    world.put("org://secret/db", "one").await.unwrap();
    let posts = proxy.calls()["POST /v1/secret/data/db"];
    proxy.fail_nth("POST /v1/secret/data/db", posts, Fault::CutAfter(0));
    assert_eq!(world.put("org://secret/db", "two").await.unwrap().as_deref(), Some("2"));
    let metadata = server.set("GET", "secret/metadata/db", &Value::Null);
    assert_eq!(metadata["data"]["current_version"], 2, "the previous version is still the one before");
    assert_eq!(world.text("org://secret/db?stage=previous").await.unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_demands_check_and_set_is_written_to() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        server.set("POST", &format!("{mount}/config"), &json!({ "cas_required": true }));
        let world = World::of(&server);
        let path = format!("org://{mount}/db");
        assert_eq!(world.put(&path, "one").await.unwrap().as_deref(), Some("1"));
        assert_eq!(world.put(&path, "two").await.unwrap().as_deref(), Some("2"));
        // Who may write and not look is told what is missing.
        let blind = server.token_for(
            &unique("blind"),
            &format!("path \"{mount}/data/*\" {{ capabilities = [\"create\", \"update\"] }}"),
        );
        let error = World::new(server.settings(), &blind).put(&path, "three").await.expect_err("no version is named");
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.hint.unwrap().contains("metadata"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_through_folders_and_mounts_and_is_whole_or_none() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        for name in ["a", "a/b", "a/b/c/d", "shop/db", "shop-x/y", "z"] {
            server.store(&mount, name, &json!({ "value": "x" }));
        }
        let world = World::of(&server);
        let provider = world.provider();
        for (prefix, expected) in [
            ("", vec!["a", "a/b", "a/b/c/d", "shop-x/y", "shop/db", "z"]),
            ("a/", vec!["a/b", "a/b/c/d"]),
            ("shop", vec!["shop-x/y", "shop/db"]),
            ("shop/db", vec!["shop/db"]),
            ("nothing/", vec![]),
        ] {
            let prefix = format!("{mount}/{prefix}");
            let listed = provider.list(ListOptions { prefix: &prefix, tags: &[] }, soon()).await.unwrap();
            let paths: Vec<_> = listed.iter().map(|entry| entry.path.as_str()).collect();
            let expected: Vec<_> = expected.into_iter().map(|name| format!("{mount}/{name}")).collect();
            assert_eq!(paths, expected, "{prefix}");
        }
        let half = provider.list(ListOptions { prefix: &mount[..mount.len() - 2], tags: &[] }, soon()).await.unwrap();
        assert!(half.iter().filter(|entry| entry.path.starts_with(&mount)).count() == 6, "{half:?}");
        let policy = format!(
            "path \"{mount}/metadata/*\" {{ capabilities = [\"list\"] }}\n\
             path \"{mount}/metadata/a/b/*\" {{ capabilities = [\"deny\"] }}"
        );
        let partial = server.token_for(&unique("partial"), &policy);
        let listed = World::new(server.settings(), &partial).provider();
        let listed = listed.list(ListOptions { prefix: &format!("{mount}/"), tags: &[] }, soon()).await;
        let error = listed.expect_err("a part that cannot be seen is not left out in silence");
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.cause.contains("metadata/a/b"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_another_world() {
    let server = ours();
    let root = server.root().to_owned();
    let ask = |namespace: &str, path: &str, body: Value| {
        let (status, answer) = server.ask(&root, namespace, "POST", path, &body);
        assert!(status < 300, "{path}: {answer}");
    };
    ask("", "sys/namespaces/team", json!({}));
    ask("team", "sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } }));
    ask("team", "secret/data/db", json!({ "data": { "value": "of the team" } }));
    server.store("secret", "db", &json!({ "value": "of the root" }));
    let team = InstanceSettings { namespace: Some("team/".into()), ..server.settings() };
    assert_eq!(World::new(team, server.root()).text("org://secret/db").await.unwrap(), "of the team");
    assert_eq!(World::of(&server).text("org://secret/db").await.unwrap(), "of the root");
    let nowhere = InstanceSettings { namespace: Some("nowhere".into()), ..server.settings() };
    let error = World::new(nowhere, server.root()).failure("org://secret/db").await;
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_would_become_another_one_is_not_sent() {
    let server = ours();
    server.store("secret", "db", &json!({ "value": "x" }));
    let proxy = Proxy::new(&server.ours().address());
    let world = World::new(at(&proxy.url()), server.root());
    for path in ["secret/x/../db", "secret/./db", "secret//db", "/secret/db", "secret/db/", "secret/%2e%2e/secret/db"] {
        assert_eq!(world.failure(&format!("org://{path}")).await.kind, ErrorKind::NotFound, "{path}");
    }
    assert_eq!(proxy.call_count(), 0);
    for name in ["a b?c#d%", "ä€/x", "+*", "..."] {
        let text = broker_core::reference::SecretRef { path: format!("secret/{name}"), ..reference("org://x") };
        world.put(&text.to_string(), name).await.unwrap();
        assert_eq!(world.text(&text.to_string()).await.unwrap(), name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_sealed_or_behind_or_busy_says_so() {
    let server = ours();
    server.store("secret", "db", &json!({ "value": "x" }));
    let world = World::new(InstanceSettings { timeout: Some("2s".into()), ..server.settings() }, server.root());
    assert_eq!(world.text("org://secret/db").await.unwrap(), "x");
    server.ours().lag(1);
    assert_eq!(world.text("org://secret/db").await.unwrap(), "x", "a node that lags is asked again");
    server.ours().seal(true);
    let error = world.failure("org://secret/db").await;
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unavailable, "HTTP 503: Vault is sealed"));
    assert!(error.hint.unwrap().contains("vault operator unseal"));
    server.ours().seal(false);
    // The server says `Retry-After: 1`.
    server.ours().quota(Some(0));
    assert_eq!(world.failure("org://secret/db").await.kind, ErrorKind::Throttled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_names_the_rule_that_is_missing() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        server.store(&mount, "shop/db", &json!({ "value": "x" }));
        server.store(&mount, "shop/ok", &json!({ "value": "y" }));
        let policy = format!("path \"{mount}/data/shop/ok\" {{ capabilities = [\"read\"] }}");
        let world = World::new(server.settings(), &server.token_for(&unique("ok"), &policy));
        let (bad, good) = (format!("org://{mount}/shop/db"), format!("org://{mount}/shop/ok"));
        let mut results = world.resolve(&[&bad, &good]).await;
        assert_eq!(results.pop().unwrap().unwrap().value.expose(), b"y");
        let error = results.pop().unwrap().expect_err("no rule grants it");
        assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Denied, "HTTP 403: permission denied"));
        let rule = format!("path \"{mount}/data/shop/db\" {{ capabilities = [\"read\"] }}");
        assert!(error.hint.unwrap().contains(&rule));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_change_listing_or_look_names_its_own_rule() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        server.store(&mount, "shop/db", &json!({ "value": "x" }));
        let policy = format!("path \"{mount}/data/shop/ok\" {{ capabilities = [\"read\"] }}");
        let world = World::new(server.settings(), &server.token_for(&unique("ok"), &policy));
        let (provider, path) = (world.provider(), format!("org://{mount}/shop/db"));
        let db = reference(&path);
        let prefix = format!("{mount}/shop/");
        let put = world.put(&path, "new").await.map(|_| ());
        let delete = provider.delete(&db, soon()).await;
        let describe = provider.describe(&db, soon()).await.map(|_| ());
        let list = provider.list(ListOptions { prefix: &prefix, tags: &[] }, soon()).await.map(|_| ());
        for (result, at, capabilities) in [
            (put, "data/shop/db", "\"create\", \"update\""),
            (delete, "metadata/shop/db", "\"delete\""),
            (describe, "metadata/shop/db", "\"read\""),
            (list, "metadata/shop/", "\"list\""),
        ] {
            let error = result.expect_err("no rule grants it");
            let rule = format!("`path \"{mount}/{at}\" {{ capabilities = [{capabilities}] }}`");
            assert_eq!(error.kind, ErrorKind::Denied, "{error}");
            assert!(error.hint.as_ref().is_some_and(|hint| hint.contains(&rule)), "{error:?}: {rule}");
        }
    }
}

/// The texts under `deploy/vault/` are what the documentation tells people to paste.
#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_policies_suffice_and_grant_nothing_more() {
    for server in servers() {
        let mount = unique("kv");
        server.enable_kv(&mount, "2");
        let path = |name: &str| format!("org://{mount}/shop/dev/{name}");
        for value in ["one", "two"] {
            server.store(&mount, "shop/dev/db", &json!({ "value": value }));
            server.store(&mount, "shop/prod/db", &json!({ "value": value }));
        }
        let reader = server.token_for(&unique("reader"), &shipped("reader.hcl", &mount));
        let reader = World::new(server.settings(), &reader);
        assert_eq!(reader.text(&path("db")).await.unwrap(), "two");
        assert_eq!(reader.text(&path("db?stage=previous")).await.unwrap(), "one");
        assert_eq!(reader.failure(&path("missing")).await.kind, ErrorKind::NotFound);
        assert_eq!(reader.failure(&format!("org://{mount}/shop/prod/db")).await.kind, ErrorKind::Denied);
        assert_eq!(reader.put(&path("db"), "x").await.expect_err("it reads").kind, ErrorKind::Denied);
        let gone = reader.provider().delete(&reference(&path("db")), soon()).await;
        assert_eq!(gone.expect_err("it reads").kind, ErrorKind::Denied);

        let writer = server.token_for(&unique("writer"), &shipped("writer.hcl", &mount));
        let writer = World::new(server.settings(), &writer);
        let provider = writer.provider();
        assert_eq!(writer.put(&path("db"), "three").await.unwrap().as_deref(), Some("3"));
        assert_eq!(writer.text(&path("db")).await.unwrap(), "three");
        assert_eq!(provider.describe(&reference(&path("db")), soon()).await.unwrap().versions.len(), 3);
        provider.promote(&reference(&path("db?stage=previous")), soon()).await.unwrap();
        let listed = provider.list(ListOptions { prefix: &format!("{mount}/shop/dev/"), tags: &[] }, soon()).await;
        assert_eq!(listed.unwrap().len(), 1);
        writer.put(&path("new"), "x").await.unwrap();
        provider.delete(&reference(&path("new")), soon()).await.unwrap();
        let other = format!("org://{mount}/shop/prod/db");
        assert_eq!(writer.put(&other, "x").await.expect_err("not there").kind, ErrorKind::Denied);
        assert_eq!(writer.failure(&other).await.kind, ErrorKind::Denied);

        let plain = unique("plain");
        server.enable_kv(&plain, "1");
        server.set("POST", &format!("{plain}/shop/dev/db"), &json!({ "value": "one" }));
        server.set("POST", &format!("{plain}/shop/prod/db"), &json!({ "value": "one" }));
        let reader = server.token_for(&unique("plain"), &shipped("reader-kv1.hcl", &plain));
        let reader = World::new(server.settings(), &reader);
        assert_eq!(reader.text(&format!("org://{plain}/shop/dev/db")).await.unwrap(), "one");
        assert_eq!(reader.failure(&format!("org://{plain}/shop/prod/db")).await.kind, ErrorKind::Denied);
        let refused = reader.put(&format!("org://{plain}/shop/dev/db"), "x").await;
        assert_eq!(refused.expect_err("it reads").kind, ErrorKind::Denied);
    }
}

/// Returns a file of `deploy/vault/`, for a mount of another name.
fn shipped(name: &str, mount: &str) -> String {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/vault");
    std::fs::read_to_string(deploy.join(name)).unwrap().replace("secret/", &format!("{mount}/"))
}

#[test]
fn the_page_shows_the_shipped_policies_as_they_are() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers/vault.md");
    let page = std::fs::read_to_string(page).unwrap();
    for name in ["reader.hcl", "reader-kv1.hcl", "writer.hcl", "run.hcl", "database.hcl"] {
        assert!(page.contains(&format!("```hcl\n{}```", shipped(name, "secret"))), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_among_150_costs_nothing_extra_and_no_more_than_sixteen_are_under_way() {
    let server = ours();
    for number in 0..149 {
        server.store("secret", &format!("n/{number}"), &json!({ "value": "x" }));
    }
    let proxy = Proxy::new(&server.ours().address());
    proxy.set_latency(Duration::from_millis(5));
    let world = World::new(at(&proxy.url()), server.root());
    let names: Vec<_> = (0..150).map(|number| format!("org://secret/n/{number}")).collect();
    let results = world.resolve(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 149);
    assert_eq!(results[149].as_ref().expect_err("nobody stored it").kind, ErrorKind::NotFound);
    assert_eq!(proxy.call_count(), 151, "one for the mount, one for each");
    assert!((8..=16).contains(&proxy.max_in_flight()), "{}", proxy.max_in_flight());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_secrets_take_no_more_round_trips_than_sixteen_at_a_time_need() {
    let server = ours();
    for number in 0..50 {
        server.store("secret", &format!("n/{number}"), &json!({ "value": "x" }));
    }
    let proxy = Proxy::new(&server.ours().address());
    let latency = Duration::from_millis(50);
    proxy.set_latency(latency);
    let names: Vec<_> = (0..50).map(|number| format!("org://secret/n/{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let world = World::new(at(&proxy.url()), server.root());
    let mut took = Vec::new();
    for _ in 0..2 {
        let started = Instant::now();
        assert!(world.resolve(&names).await.iter().all(Result::is_ok));
        took.push(started.elapsed().as_secs_f64() / latency.as_secs_f64());
    }
    figure("vault-50-secrets", &format!("{:.2} round trips, {:.2} where the mount is known", took[0], took[1]));
    // The mount, then four rounds of at most sixteen: five, and some more on a busy machine. One by one it were fifty.
    assert!(took[0] < 10.0 && took[1] < 9.0, "{took:?}");
}
