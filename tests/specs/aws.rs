//! Secrets in AWS Secrets Manager: the same suite against two servers that were written by different people.

use broker_tests::canary;
use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use broker_tests::servers::{Aws, REGION, unique};
use serde_json::json;

/// Writes a project whose instance `org` is at `endpoint`, with secrets `NAME = "org://..."`, and trusts it.
pub(crate) fn project<'h>(
    home: &'h Home,
    aws: Aws,
    endpoint: &str,
    more: &str,
    secrets: &[(String, String)],
) -> Project<'h> {
    let lines: String = secrets.iter().map(|(name, path)| format!("{name} = \"org://{path}\"\n")).collect();
    let manifest = format!(
        "[project]\nname = \"aws\"\n[providers.org]\nkind = \"aws-secrets-manager\"\nregion = \"{REGION}\"\n\
         endpoint = \"{endpoint}\"\n{more}\n[secrets]\n{lines}"
    );
    home.project("aws", &manifest).signed_in(&aws.sign_in()).trusted()
}

fn direct(aws: Aws) -> String {
    format!("http://{}", aws.address())
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.into_iter().map(|(n, p)| (n.to_owned(), p.to_owned())).collect()
}

fn a_secret_is_delivered_whole_and_by_field(aws: Aws) {
    let home = Home::new();
    let (text, json) = (unique("text"), unique("json"));
    aws.create(&text, "plain\ntext ");
    aws.create(&json, r#"{"url":"postgres://x","nested":{"a.b":"dotted","n":7,"t":true},"nothing":null}"#);
    let fields = [
        ("TEXT", text.clone()),
        ("URL", format!("{json}#url")),
        ("DOTTED", format!("{json}#nested.a%2Eb")),
        ("NUMBER", format!("{json}#nested.n")),
    ];
    let secrets: Vec<_> = fields.map(|(n, p)| (n.to_owned(), p)).into();
    let project = project(&home, aws, &direct(aws), "", &secrets);
    let out = project.shell(&[], "printf '%s|' \"$TEXT\" \"$URL\" \"$DOTTED\" \"$NUMBER\"").succeed().out();
    assert_eq!(out, "plain\ntext |postgres://x|dotted|7|");
}

fn a_binary_secret_is_delivered_as_its_bytes(aws: Aws) {
    let home = Home::new();
    let name = unique("binary");
    let bytes: Vec<u8> = (1..=255).collect();
    aws.create_binary(&name, &bytes);
    let project = project(&home, aws, &direct(aws), "", &pairs([("VALUE", &name)]));
    let mut out = project.exec(["/usr/bin/printenv", "-0", "VALUE"]).succeed().stdout;
    assert_eq!((out.pop(), out == bytes), (Some(0), true));
}

fn versions_and_stages_are_told_apart(aws: Aws) {
    let home = Home::new();
    let name = unique("versions");
    aws.create(&name, "first");
    let second = aws.put(&name, "second");
    let _ = aws.put(&name, "third");
    let (by_id, previous) = (format!("{name}?version={second}"), format!("{name}?stage=previous"));
    let project =
        project(&home, aws, &direct(aws), "", &pairs([("NOW", &name), ("ID", &by_id), ("BEFORE", &previous)]));
    assert_eq!(project.shell(&[], "echo $NOW $ID $BEFORE").succeed().out(), "third second second\n");
}

fn all_problems_are_told_together_and_none_hides_another(aws: Aws) {
    let home = Home::new();
    let good = unique("good");
    let value = canary::word("good");
    aws.create(&good, &value);
    let (missing, other) = (unique("missing"), unique("other"));
    let field = format!("{good}#field");
    let project = project(
        &home,
        aws,
        &direct(aws),
        "",
        &pairs([("GOOD", &good), ("GONE", &missing), ("ALSO_GONE", &other), ("NO_JSON", &field)]),
    );
    let refused = project.exec(["/usr/bin/touch", "ran"]).run();
    refused.expect_error(125, "not-found").expect_words([
        "`GONE`",
        missing.as_str(),
        "`ALSO_GONE`",
        other.as_str(),
        "`NO_JSON`",
    ]);
    assert!(!refused.err().contains("`GOOD`") && !refused.err().contains(&value), "{}", refused.err());
    let only = project.broker(["exec", "--only", "GOOD", "--", "/bin/sh", "-c", "echo $GOOD"]).succeed();
    assert_eq!(only.out().trim(), value);
}

fn fifty_secrets_are_three_calls_and_a_second_run_is_none(aws: Aws) {
    let home = Home::new();
    let base = unique("fifty");
    let secrets: Vec<_> = (0..50).map(|n| (format!("S{n}"), format!("{base}/{n}"))).collect();
    for (name, path) in &secrets {
        aws.create(path, &format!("value of {name}"));
    }
    let proxy = Proxy::new(&aws.address());
    let project = project(&home, aws, &proxy.url(), "", &secrets);
    let script = "echo $S0 $S49; env | grep -c '^S[0-9]*=value of S'";
    assert_eq!(project.shell(&[], script).succeed().out(), "value of S0 value of S49\n50\n");
    assert_eq!(proxy.calls(), [("BatchGetSecretValue".to_owned(), 3)].into());
    proxy.forget_calls();
    project.shell(&[], script).succeed();
    assert_eq!(proxy.call_count(), 0, "{:?}", proxy.calls());
}

fn a_value_older_than_its_time_to_live_is_fetched_again(aws: Aws) {
    let home = Home::new();
    let name = unique("ttl");
    aws.create(&name, "old");
    let project = project(&home, aws, &direct(aws), "ttl = \"1ms\"", &pairs([("VALUE", &name)]));
    assert_eq!(project.shell(&[], "echo $VALUE").succeed().out(), "old\n");
    let _ = aws.put(&name, "new");
    assert_eq!(project.shell(&[], "echo $VALUE").succeed().out(), "new\n");
}

fn the_sign_in_does_not_reach_the_command(aws: Aws) {
    let home = Home::new();
    let name = unique("bootstrap");
    aws.create(&name, "value");
    let project = project(&home, aws, &direct(aws), "", &pairs([("VALUE", &name)]));
    let out = project.shell(&[], "echo ${AWS_ACCESS_KEY_ID-none} ${AWS_SECRET_ACCESS_KEY-none} $VALUE").succeed().out();
    assert_eq!(out, "none none value\n");
}

fn a_secret_is_set_listed_and_removed(aws: Aws) {
    let home = Home::new();
    let name = unique("written");
    let project = project(&home, aws, &direct(aws), "ttl = \"1ms\"", &pairs([("VALUE", &name)]));
    for value in ["one", "two"] {
        project.broker(["secret", "set", "VALUE"]).stdin(value).succeed();
        assert_eq!(project.shell(&[], "echo $VALUE").succeed().out().trim(), value);
    }
    let listed = project.broker(["secret", "list", &format!("org://{name}")]).succeed().out();
    assert!(listed.contains(&name), "{listed}");
    project.broker(["secret", "rm", "--yes", &format!("org://{name}")]).succeed();
    project.exec(["/bin/true"]).run().expect_code(125);
}

fn another_identity_is_not_answered_from_the_first_ones_cache(aws: Aws) {
    let home = Home::new();
    let name = unique("identity");
    aws.create(&name, "value");
    let proxy = Proxy::new(&aws.address());
    let project = project(&home, aws, &proxy.url(), "", &pairs([("VALUE", &name)]));
    project.exec(["/bin/true"]).succeed();
    proxy.forget_calls();
    let _ = project.exec(["/bin/true"]).env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").run();
    assert!(proxy.call_count() > 0, "served from the cache of another identity");
}

fn a_callers_endpoint_and_proxy_variables_do_not_count(aws: Aws) {
    let home = Home::new();
    let name = unique("endpoint");
    aws.create(&name, "value");
    let attacker = Proxy::new(&aws.address());
    let project = project(&home, aws, &direct(aws), "", &pairs([("VALUE", &name)]));
    let names = [
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        "AWS_ENDPOINT_URL_STS",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "ALL_PROXY",
    ];
    home.broker(["daemon", "stop"]).succeed();
    let run = names.iter().fold(project.exec(["/bin/true"]), |run, name| run.env(name, attacker.url()));
    run.succeed();
    assert_eq!(attacker.connections(), 0);
}

/// Makes one test of each claim for a server.
macro_rules! suite {
    ($module:ident, $aws:expr, $($claim:ident)*) => {
        mod $module {
            $(#[test]
            fn $claim() {
                super::$claim($aws);
            })*
        }
    };
    ($($claim:ident)*) => {
        suite!(moto, broker_tests::servers::Aws::Moto, $($claim)*);
        suite!(ministack, broker_tests::servers::Aws::Ministack, $($claim)*);
    };
}

suite! {
    a_secret_is_delivered_whole_and_by_field
    a_binary_secret_is_delivered_as_its_bytes
    versions_and_stages_are_told_apart
    all_problems_are_told_together_and_none_hides_another
    fifty_secrets_are_three_calls_and_a_second_run_is_none
    a_value_older_than_its_time_to_live_is_fetched_again
    the_sign_in_does_not_reach_the_command
    a_secret_is_set_listed_and_removed
    another_identity_is_not_answered_from_the_first_ones_cache
    a_callers_endpoint_and_proxy_variables_do_not_count
}

#[test]
fn a_listing_can_be_narrowed_to_a_tag() {
    let aws = Aws::Moto;
    let home = Home::new();
    let base = unique("tags");
    for (name, team) in [("one", "shop"), ("two", "shop"), ("three", "bank")] {
        let body =
            json!({"Name": format!("{base}/{name}"), "SecretString": "x", "Tags": [{"Key": "team", "Value": team}]});
        aws.secrets_manager("CreateSecret", &body);
    }
    let secrets = [("ONE".to_owned(), format!("{base}/one"))];
    let project = project(&home, aws, &format!("http://{}", aws.address()), "", &secrets);
    let list = |tags: &[&str]| {
        let prefix = format!("org://{base}/");
        let mut args = vec!["secret", "list", &prefix, "--json"];
        tags.iter().for_each(|tag| args.extend(["--tag", tag]));
        project.broker(args).succeed().json().as_array().map_or(0, Vec::len)
    };
    assert_eq!((list(&[]), list(&["team=shop"]), list(&["team=bank"]), list(&["team=none"])), (3, 2, 1, 0));
    project.broker(["secret", "list", "local://", "--tag", "a=b"]).run().expect_words(["has no tags"]);
}
