//! Manifests: every problem at once, at its place, and never a value.

use broker_tests::home::Home;

#[test]
fn without_a_manifest_exec_says_so_and_what_to_do() {
    let home = Home::new();
    home.broker(["exec", "--", "/bin/true"])
        .run()
        .expect_error(125, "manifest")
        .expect_words(["broker.toml", "hint: "]);
}

#[test]
fn every_problem_of_a_manifest_is_told_at_once_with_its_place() {
    let home = Home::new();
    let manifest = "[project]\nname = \"x\"\nnmae = \"y\"\n\n[secrets]\nA = \"lcoal://a\"\nB = \"local://b#\"\n1C = \"local://c\"\n\n[profiles.p]\nsecrets = [\"AA\"]\n";
    let refused = home.project("bad", manifest).exec(["/bin/true"]).run();
    refused.expect_error(125, "manifest").expect_words([
        "broker.toml:3:1",
        "broker.toml:6:5",
        "did you mean `local://`",
        "broker.toml:7:5",
        "broker.toml:8:1",
        "broker.toml:11:12",
        "^",
    ]);
}

#[test]
fn a_manifest_that_does_not_parse_is_told_with_its_place() {
    let home = Home::new();
    let project = home.project("bad", "[project\nname = 3");
    project.exec(["/bin/true"]).run().expect_error(125, "manifest").expect_words(["broker.toml:1:"]);
}

#[test]
fn a_literal_value_is_refused_and_not_printed() {
    let home = Home::new();
    let value = "hunter2-sk_live_51Habc";
    let forms = [
        format!("KEY = \"{value}\""),
        format!("KEY = {{ ref = \"{value}\" }}"),
        format!("KEY = \"postgres://u:{value}@db/x\""),
        format!("KEY={value}"),
        format!("KEY = \"local://a\" # {value}"),
    ];
    for (n, form) in forms.iter().enumerate() {
        let project = home.project(&format!("p{n}"), &format!("[project]\nname = \"x\"\n[secrets]\n{form}\nX = 3\n"));
        for command in [&["exec", "--", "/bin/true"][..], &["check"], &["explain"], &["trust", "--yes"]] {
            let refused = project.broker(command).run();
            assert_ne!(refused.code(), 0, "{form}");
            assert!(!(refused.err() + &refused.out()).contains("hunter2"), "{form}: {}", refused.err());
        }
    }
}

#[test]
fn a_setting_that_looks_like_a_secret_is_refused_and_not_printed() {
    let home = Home::new();
    let project =
        home.project("s", "[project]\nname = \"x\"\n[settings]\nSTRIPE_KEY = \"sk_live_4eC39HqLyjWDarjtT1zdp7dc\"\n");
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "manifest").expect_words(["`STRIPE_KEY` looks like a secret"]);
    assert!(!refused.err().contains("4eC39Hq"));
}

#[test]
fn an_unknown_profile_names_the_nearest() {
    let home = Home::new();
    let manifest = "[project]\nname = \"x\"\n[secrets]\nA = \"local://a\"\n[profiles.dev]\nsecrets = [\"A\"]\n";
    let project = home.project("x", manifest).trusted();
    project
        .broker(["exec", "-P", "dve", "--", "/bin/true"])
        .run()
        .expect_error(125, "not-found")
        .expect_words(["did you mean `dev`?"]);
}

#[test]
fn an_enormous_manifest_is_refused_and_not_read() {
    let home = Home::new();
    let project = home.project("huge", &"#\n".repeat(2 << 20));
    project.exec(["/bin/true"]).run().expect_error(125, "manifest");
}

#[test]
fn a_fifo_or_a_device_in_the_manifests_place_is_refused_at_once() {
    let home = Home::new();
    let project = home.project("odd", "");
    let manifest = project.directory().join("broker.toml");
    for target in ["/dev/zero", "/dev/tty", "/proc/kmsg"] {
        std::fs::remove_file(&manifest).expect("the file is there");
        std::os::unix::fs::symlink(target, &manifest).expect("a link can be made");
        assert_eq!(project.exec(["/bin/true"]).run().code(), 125, "{target}");
    }
    std::fs::remove_file(&manifest).expect("the link is there");
    home.run("mkfifo").args([&manifest]).succeed();
    assert_eq!(project.exec(["/bin/true"]).run().code(), 125);
}

#[test]
fn the_schema_is_json_and_knows_the_sections() {
    let home = Home::new();
    let schema = home.broker(["schema"]).succeed().json();
    for section in ["project", "providers", "secrets", "settings", "profiles"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}
