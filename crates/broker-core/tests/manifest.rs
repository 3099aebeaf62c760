//! What a manifest may say, and that each problem of one is found, placed and told without a value.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use broker_core::diagnostic::Diagnostic;
use broker_core::manifest::{KnownKind, Manifest, SelectError, Wish, parse, parse_local};

const INSTANCES: &[(&str, &str)] = &[("local", "local"), ("aws-sm", "aws-secrets-manager"), ("aws-sts", "aws-sts")];
const NONE: KnownKind<'_> = KnownKind {
    name: "",
    keys: &[],
    needs: &[],
    words: &[],
    in_manifest: true,
    options: &[],
    variables: &[],
    endpoint: false,
};
const KINDS: &[KnownKind<'_>] = &[
    KnownKind { name: "local", keys: &["timeout"], ..NONE },
    KnownKind {
        name: "aws-secrets-manager",
        keys: &["region", "assume-role", "endpoint", "ttl", "negative-ttl", "max-stale", "timeout"],
        ..NONE
    },
    KnownKind {
        name: "vault",
        keys: &["address", "auth"],
        needs: &["address"],
        words: &[("auth", &["token", "oidc"])],
        ..NONE
    },
    KnownKind {
        name: "aws-sts",
        options: &["duration"],
        variables: &[("AWS_ACCESS_KEY_ID", "AccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey")],
        endpoint: true,
        ..NONE
    },
    KnownKind { name: "exec", keys: &["command", "sha256"], in_manifest: false, ..NONE },
];

const SHOP: &str = r#"
[project]
name = "shop"
default-profile = "dev"

[providers.org]
kind = "aws-secrets-manager"
region = "eu-west-1"
ttl = "10m"

[secrets]
DATABASE_URL = "org://shop/dev/db#url"
STRIPE_KEY = { ref = "org://shop/dev/stripe", description = "test mode", required = false }
SESSION_KEY = { ref = "local://shop/session-key", generate = "hex:32" }
DATABASE_ADMIN_URL = "org://shop/dev/admin#url"

[settings]
PORT = "3000"

[profiles.dev]
secrets = ["DATABASE_URL", "SESSION_KEY", "STRIPE_KEY"]
ttl = "30m"

[profiles.migrate]
extends = "dev"
secrets = ["DATABASE_ADMIN_URL"]
"#;

const NAMES: [&str; 4] = ["DATABASE_URL", "STRIPE_KEY", "SESSION_KEY", "DATABASE_ADMIN_URL"];

fn read(text: &str) -> Result<Manifest, Vec<Diagnostic>> {
    parse("broker.toml", text, INSTANCES, KINDS)
}

fn shop() -> Manifest {
    read(SHOP).unwrap_or_else(|p| panic!("{p:?}"))
}

/// The problems as `line:column message / hint`.
fn problems(text: &str) -> Vec<String> {
    let all = read(text).expect_err("the text has problems");
    all.iter()
        .map(|d| format!("{}:{} {} / {}", d.line, d.column, d.message, d.hint.as_deref().unwrap_or("-")))
        .collect()
}

fn names(manifest: &Manifest, wish: &Wish) -> Vec<String> {
    manifest.select(wish).unwrap().secrets.iter().map(|(n, _)| (*n).to_owned()).collect()
}

#[test]
fn a_sound_manifest_is_read_whole() {
    let shop = shop();
    assert_eq!(shop.project.name, "shop");
    assert_eq!(shop.secrets["DATABASE_URL"].reference.to_string(), "org://shop/dev/db#url");
    assert!(!shop.secrets["STRIPE_KEY"].required);
    assert_eq!(shop.secrets["SESSION_KEY"].generate.unwrap().to_string(), "hex:32");
    assert_eq!(shop.settings["PORT"], "3000");
}

#[test]
fn a_profile_has_its_own_secrets_and_those_it_extends() {
    let shop = shop();
    assert_eq!(names(&shop, &Wish::default()), ["DATABASE_URL", "SESSION_KEY", "STRIPE_KEY"]);
    let migrate = Wish { profile: Some("migrate".into()), ..Wish::default() };
    assert_eq!(names(&shop, &migrate), ["DATABASE_ADMIN_URL", "DATABASE_URL", "SESSION_KEY", "STRIPE_KEY"]);
    assert_eq!(shop.select(&migrate).unwrap().ttl.as_secs(), 1800);
}

#[test]
fn a_run_is_told_which_names_it_must_not_have() {
    let only = Wish { only: vec!["STRIPE_KEY".into()], ..Wish::default() };
    assert_eq!(shop().select(&only).unwrap().withheld, ["DATABASE_ADMIN_URL", "DATABASE_URL", "SESSION_KEY"].into());
}

#[test]
fn only_and_except_narrow_and_never_widen() {
    let shop = shop();
    let except = Wish { except: vec!["STRIPE_KEY".into()], ..Wish::default() };
    assert_eq!(names(&shop, &except), ["DATABASE_URL", "SESSION_KEY"]);
    let wider = Wish { only: vec!["DATABASE_ADMIN_URL".into()], ..Wish::default() };
    assert!(matches!(shop.select(&wider), Err(SelectError::UnknownSecret { .. })));
}

#[test]
fn the_local_file_takes_away_and_has_no_key_to_add() {
    let narrowing =
        parse_local("broker.local.toml", "except = [\"STRIPE_KEY\"]\nttl = \"5m\"\n", NAMES.into_iter()).unwrap();
    let wish = Wish { narrowing, ..Wish::default() };
    assert_eq!(names(&shop(), &wish), ["DATABASE_URL", "SESSION_KEY"]);
    assert_eq!(shop().select(&wish).unwrap().ttl.as_secs(), 300);
    let longer = Wish { narrowing: parse_local("f", "ttl = \"9h\"", NAMES.into_iter()).unwrap(), ..Wish::default() };
    assert_eq!(shop().select(&longer).unwrap().ttl.as_secs(), 1800);
    for text in [
        "default-profile = \"dev\"",
        "secrets = {}",
        "[profiles.dev]",
        "[providers.org]",
        "ttl = 5",
        "except = [\"STRIP\"]",
    ] {
        assert!(parse_local("f", text, NAMES.into_iter()).is_err(), "{text}");
    }
}

#[test]
fn a_longer_ttl_than_the_profile_allows_is_cut() {
    let wish = |secs| Wish { ttl: Some(std::time::Duration::from_secs(secs)), ..Wish::default() };
    assert_eq!(shop().select(&wish(99_999)).unwrap().ttl.as_secs(), 1800);
    assert_eq!(shop().select(&wish(60)).unwrap().ttl.as_secs(), 60);
}

#[test]
fn a_manifest_without_profiles_has_one_with_everything() {
    let m = read("[project]\nname = \"a\"\n[secrets]\nA = \"local://a\"\nB = \"local://b\"\n").unwrap();
    assert_eq!(names(&m, &Wish::default()), ["A", "B"]);
    assert_eq!(m.select(&Wish::default()).unwrap().profile, "default");
}

#[test]
fn several_profiles_without_a_default_ask_for_a_choice() {
    let m = read("[project]\nname = \"a\"\n[profiles.x]\n[profiles.y]\n").unwrap();
    let error = m.select(&Wish::default()).unwrap_err();
    assert_eq!(
        (error.to_string(), error.hint()),
        (
            "the manifest has several profiles and no `default-profile`".to_owned(),
            "choose one with `-P`: `x`, `y`".to_owned(),
        )
    );
}

#[test]
fn every_problem_of_a_file_is_reported_at_once_in_its_order() {
    let text = r#"[project]
name = "shop"
defaultprofile = "dev"

[providers.org]
kind = "aws-secret-manager"
endpoint = "http://example.com"
regoin = "eu-west-1"

[secrets]
A = { ref = "org://a", requird = false, description = 5 }
B = "orgg://b"
LD_PRELOAD = "local://x"
D = 7

[settings]
PORT = 3000

[profiles.dev]
secrets = ["A", "BB"]
extends = "dev"
ttl = "soon"

[secretz]
"#;
    assert_eq!(
        problems(text),
        [
            "3:1 unknown key `defaultprofile` / did you mean `default-profile`?",
            "8:1 unknown key `regoin` / did you mean `region`?",
            "11:24 unknown key `requird` / did you mean `required`?",
            "11:55 `description` of `A` must be a string / -",
            "12:5 `B` names the provider `orgg`, which does not exist / did you mean `org://`?",
            "13:1 `LD_PRELOAD` is reserved / a manifest never sets variables that change what a program loads or runs; set it in the command",
            "14:5 `D` must be a reference in quotes, or a table with `ref` / -",
            "17:8 the setting `PORT` must be a string in quotes / -",
            "20:17 unknown secret `BB` / did you mean `B`?",
            "21:11 profile `dev` extends itself / remove one `extends` of the circle",
            "22:7 `ttl` must be a duration such as `15m` or `1h` / -",
            "24:2 unknown section `secretz` / did you mean `secrets`?",
        ]
    );
}

#[test]
fn a_bad_instance_is_told_by_its_key() {
    let text = "[project]\nname = \"a\"\n[providers.org]\nkind = \"aws-secret-manager\"\nendpoint = \"http://example.com\"\nttl = \"x\"\n[providers.local]\nkind = \"local\"\n";
    assert_eq!(
        problems(text),
        [
            "4:8 unknown kind of provider `aws-secret-manager` / did you mean `aws-secrets-manager`?",
            "5:12 `endpoint` must be an `https://` address (`http://` only to loopback) / -",
            "6:7 `ttl` must be a duration such as `30s`, `5m` or `1h` / -",
            "7:12 `local` is a reserved or already configured instance / give the instance another name, or leave the table out to use the one that exists",
        ]
    );
}

#[test]
fn a_literal_value_is_refused_and_never_printed() {
    for value in
        ["canary-hunter2", "postgres://u:canary-hunter2@h/db", "sk_live_canary-hunter2", "local://#canary-hunter2"]
    {
        for text in [
            format!("[project]\nname = \"a\"\n[secrets]\nA = \"{value}\"\n"),
            format!("[project]\nname = \"a\"\n[secrets]\nA = {{ ref = \"{value}\" }}\n"),
        ] {
            let all = read(&text).expect_err("refused");
            assert!(!format!("{all:?} {}", all[0]).contains("canary"), "{all:?}");
        }
    }
}

#[test]
fn no_type_error_prints_the_value_it_is_about() {
    for text in [
        "[project]\nname = \"a\"\n[secrets]\nA = { ref = \"local://a\", required = \"canary-hunter2\" }\n",
        "[project]\nname = \"a\"\n[secrets]\nA = { ref = \"local://a\", deliver = \"canary-hunter2\" }\n",
        "[project]\nname = \"a\"\n[profiles]\ndev = \"canary-hunter2\"\n",
        "[project]\nname = \"a\"\n[profiles.dev]\nsecrets = [\"canary hunter2\"]\n",
        "[project]\nname = \"a\"\nKEY=canary-hunter2\n",
        "[project]\nname = \"a\"\n[settings]\nAPI_TOKEN = \"canary-hunter2\"\n",
        "secrets = \"canary-hunter2\"\n",
    ] {
        let all = read(text).expect_err("refused");
        assert!(!format!("{all:?}").contains("canary"), "{all:?}");
    }
}

#[test]
fn the_words_of_an_enumeration_are_named() {
    let text = "[project]\nname = \"a\"\n[secrets]\nA = { ref = \"local://a\", deliver = \"pigeon\" }\n";
    assert_eq!(problems(text), ["4:36 `deliver` of `A` must be one of `env`, `endpoint` / -"]);
}

#[test]
fn several_syntax_errors_are_reported_together() {
    let all = problems("[project\nname = \"a\"\n[secrets]\nA = \nB = \"local://b\n");
    assert!(all.len() >= 3, "{all:?}");
    assert!(all.iter().all(|p| p.contains("malformed TOML")), "{all:?}");
}

#[test]
fn hostile_sizes_are_bounded() {
    let started = std::time::Instant::now();
    let mut text = String::from("[project]\nname = \"a\"\n");
    for n in 0..10_000 {
        text.push_str(&format!("[profiles.p{n}]\nextends = \"p{}\"\nwrong = 1\n", n + 1));
    }
    assert_eq!(read(&text).expect_err("refused").len(), 100);
    let deep = format!("[project]\nname = \"a\"\nx = {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(&deep).is_err());
    assert!(read(&"#".repeat(2 << 20)).is_err());
    let head = "[project]\nname = \"a\"\n";
    let names = |n: usize| (0..n).map(|i| format!("\"unknown{i}\",\n")).collect::<String>();
    assert!(read(&format!("{head}[profiles.p]\nsecrets = [\n{}]\n", names(40_000))).is_err());
    let providers: String = (0..5_000).map(|i| format!("[providers.p{i}]\nkind = \"local\"\n")).collect();
    let secrets: String = (0..5_000).map(|i| format!("S{i} = \"q{i}://x\"\n")).collect();
    assert!(read(&format!("{head}{providers}[secrets]\n{secrets}")).is_err());
    for text in
        ["a={b=".repeat(20_000), "[\n".repeat(100_000), format!("{}=1", "a.".repeat(100_000)), "x".repeat(1 << 20)]
    {
        assert!(read(&text).is_err());
    }
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
}

#[test]
fn the_schema_knows_every_section_and_refuses_others() {
    let schema = broker_core::manifest::schema();
    let mut sections: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    sections.sort();
    assert_eq!(sections, ["profiles", "project", "providers", "secrets", "settings"]);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_kind_that_runs_programs_cannot_stand_in_a_manifest() {
    let text = "[project]\nname = \"x\"\n[providers.tool]\nkind = \"exec\"\ncommand = [\"/bin/sh\"]\n";
    let expected = "4:8 an instance of kind `exec` cannot stand in a manifest / \
                    put the instance into `config.toml`, and use it here by its name";
    assert_eq!(problems(text), [expected]);
}

#[test]
fn a_key_of_another_kind_is_told_at_its_place() {
    let text = "[project]\nname = \"x\"\n[providers.here]\nkind = \"local\"\nregion = \"eu-west-1\"\n";
    assert_eq!(problems(text), ["5:10 kind `local` has no key `region` / keys of this kind are timeout"]);
}

#[test]
fn a_chain_of_roles_is_a_list_of_words_and_nothing_else() {
    let with = |roles: &str| {
        format!("[project]\nname = \"x\"\n[providers.org]\nkind = \"aws-secrets-manager\"\nassume-role = {roles}\n")
    };
    for roles in ["\"arn:a\"", "[\"arn:a\", \"arn:b\"]"] {
        assert!(read(&with(roles)).is_ok(), "{roles}");
    }
    for (roles, what) in [("3", "must be a string or a list of strings"), ("[]", "must be plain ASCII text")] {
        let all = problems(&with(roles));
        assert!(all.len() == 1 && all[0].contains(what), "{all:?}");
    }
}

#[test]
fn a_word_that_a_key_does_not_know_and_a_key_that_is_missing_are_told_at_their_place() {
    let text = "[project]\nname = \"x\"\n[providers.org]\nkind = \"vault\"\nauth = \"tokn\"\n";
    let expected = [
        "4:8 an instance of kind `vault` needs `address` / -",
        "5:8 `auth` of kind `vault` is one of `token`, `oidc` / did you mean `token`?",
    ];
    assert_eq!(problems(text), expected);
}

fn one(secrets: &str) -> Result<Manifest, Vec<Diagnostic>> {
    read(&format!("[project]\nname = \"shop\"\n[secrets]\n{secrets}\n"))
}

fn filled(secrets: &str) -> Vec<(String, String)> {
    let manifest = one(secrets).unwrap();
    let variables = manifest.secrets.values().flat_map(|secret| secret.variables.clone());
    variables.map(|(name, field)| (name, field.join("."))).collect()
}

#[test]
fn one_reference_fills_the_variables_that_it_names_or_those_of_its_kind() {
    let pair = |name: &str, field: &str| (name.to_owned(), field.to_owned());
    assert_eq!(filled("A = \"aws-sm://a#x.y\""), [pair("A", "x.y")]);
    let named = "DB = { ref = \"aws-sm://db\", variables = { DB_USER = \"user\", DB_PASSWORD = \"a.b\" } }";
    assert_eq!(filled(named), [pair("DB_PASSWORD", "a.b"), pair("DB_USER", "user")]);
    let natural = [pair("AWS_ACCESS_KEY_ID", "AccessKeyId"), pair("AWS_SECRET_ACCESS_KEY", "SecretAccessKey")];
    assert_eq!(filled("AWS = \"aws-sts://role?duration=15m\""), natural);
    assert_eq!(filled("KEY = \"aws-sts://role#AccessKeyId\""), [pair("KEY", "AccessKeyId")]);
}

#[test]
fn what_a_profile_does_not_select_is_withheld_with_every_variable_that_it_fills() {
    let text = "[project]\nname = \"shop\"\n[secrets]\nA = \"aws-sm://a\"\n\
                DB = { ref = \"aws-sm://db\", variables = { DB_USER = \"user\" } }\n[profiles.dev]\nsecrets = [\"A\"]\n";
    let manifest = read(text).unwrap();
    let withheld = manifest.select(&Wish::default()).unwrap().withheld;
    assert_eq!(withheld.into_iter().collect::<Vec<_>>(), ["DB", "DB_USER"]);
}

#[test]
fn variables_endpoints_and_options_that_make_no_sense_are_refused() {
    for (secrets, words) in [
        ("A = { ref = \"aws-sm://a\", deliver = \"endpoint\" }", "endpoint"),
        ("A = { ref = \"aws-sts://a#AccessKeyId\", deliver = \"endpoint\" }", "endpoint"),
        ("A = { ref = \"aws-sm://a#x\", variables = { B = \"y\" } }", "`variables`"),
        ("A = { ref = \"aws-sm://a\", variables = {} }", "`variables`"),
        ("A = { ref = \"aws-sm://a\", variables = { PATH = \"y\" } }", "`PATH` cannot be filled"),
        ("A = { ref = \"aws-sm://a\", variables = { B = \"y..z\" } }", "empty `#field`"),
        ("A = { ref = \"aws-sm://a\", variables = { B = \"y\" } }\nB = \"aws-sm://b\"", "filled already"),
        ("A = { ref = \"aws-sm://a\", variables = { S = \"y\" } }\n[settings]\nS = \"1\"", "filled already"),
        ("A = \"aws-sm://a?duration=15m\"", "unknown option of `A`"),
        ("A = \"aws-sts://a?duratoin=15m\"", "unknown option of `A`"),
    ] {
        let problems = one(secrets).unwrap_err();
        assert!(problems.iter().any(|problem| problem.message.contains(words)), "{secrets}: {problems:?}");
    }
}
