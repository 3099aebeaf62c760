//! `secret`, `get`, `check`, `doctor`, and the embedded store behind them.

use std::fs;

use broker_tests::canary::{self, Canary};
use broker_tests::home::Home;

use crate::shop::Shop;

#[test]
fn a_secret_is_set_listed_read_and_removed() {
    let home = Home::new();
    home.store("local://a/one", "first").store("local://a/two", "second").store("local://b", "third");
    let list = home.broker(["secret", "list", "local://a/"]).succeed().out();
    assert!(list.contains("local://a/one") && list.contains("local://a/two") && !list.contains("local://b"), "{list}");
    assert!(!list.contains("first"));
    assert_eq!(home.broker(["get", "local://a/one", "--force"]).succeed().out().trim_end(), "first");
    home.broker(["secret", "rm", "--yes", "local://a/one"]).succeed();
    assert_ne!(home.broker(["get", "local://a/one", "--force"]).run().code(), 0);
}

#[test]
fn get_refuses_a_pipe_unless_it_is_forced() {
    let home = Home::new();
    home.store("local://a", "a value that is not shown");
    let refused = home.broker(["get", "local://a"]).run();
    refused.expect_code(1).expect_words(["--force"]);
    assert!(!(refused.out() + &refused.err()).contains("not shown"));
}

#[test]
fn an_empty_value_is_not_stored_by_accident() {
    let home = Home::new();
    home.broker_with_passphrase(["secret", "set", "local://a"]).stdin("").run().expect_error(2, "usage");
    home.broker_with_passphrase(["secret", "set", "local://a", "--allow-empty"]).stdin("").succeed();
}

#[test]
fn a_value_in_the_arguments_is_no_way_to_set_it() {
    let home = Home::new();
    let refused = home.broker(["secret", "set", "local://a", "hunter2"]).run();
    refused.expect_error(2, "usage").expect_words(["standard input"]);
    assert!(!refused.err().contains("hunter2"), "{}", refused.err());
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_loses_nothing() {
    let home = Home::new();
    home.store("local://a", "kept");
    home.broker(["lock"]).succeed();
    let wrong = home.broker(["--passphrase-fd", "3", "get", "local://a", "--force"]).descriptor_3("wrong").run();
    wrong.expect_error(1, "unauthenticated");
    assert_eq!(home.broker_with_passphrase(["get", "local://a", "--force"]).succeed().out().trim_end(), "kept");
}

#[test]
fn without_a_passphrase_and_without_a_terminal_nothing_is_asked() {
    let home = Home::new();
    let refused = home.broker(["secret", "set", "local://a"]).stdin("value").run();
    refused.expect_error(1, "unauthenticated").expect_words(["hint: "]);
    home.broker(["--non-interactive", "secret", "set", "local://a"])
        .stdin("value")
        .run()
        .expect_error(1, "unauthenticated");
}

#[test]
fn the_embedded_store_holds_neither_values_nor_the_passphrase_in_the_clear() {
    let home = Home::new();
    let value = canary::word("stored");
    home.store("local://a", &value);
    let mut bytes = 0;
    for secret in [value.as_str(), home.passphrase()] {
        assert_eq!(Canary::new(secret.as_bytes()).search_files(home.root()), []);
    }
    for entry in fs::read_dir(home.data().join("broker")).expect("there is a store").flatten() {
        bytes += entry.metadata().map_or(0, |m| m.len());
    }
    assert!(bytes > 0, "there is no store to search");
}

#[test]
fn a_torn_store_is_told_and_not_replaced() {
    let home = Home::new();
    home.store("local://a", "value");
    home.broker(["daemon", "stop"]).succeed();
    let mut torn = Vec::new();
    for entry in fs::read_dir(home.data().join("broker")).expect("there is a store").flatten() {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        if bytes.len() > 1000 {
            fs::write(entry.path(), &bytes[..300]).expect("the store can be written");
            torn.push(entry.path());
        }
    }
    assert!(!torn.is_empty(), "no file of the store is large enough to tear");
    assert_ne!(home.broker_with_passphrase(["get", "local://a", "--force"]).run().code(), 0);
    let _ = home.broker_with_passphrase(["secret", "set", "local://b"]).stdin("x").run();
    for path in torn {
        assert!(path.exists());
    }
}

#[test]
fn check_tells_every_reference_that_does_not_resolve_and_shows_no_value() {
    let shop = Shop::new();
    let manifest = "[project]\nname = \"c\"\n[secrets]\nGOOD = \"local://shop/db\"\nBAD = \"local://nowhere\"\nFIELD = \"local://shop/db#x\"\n";
    let project = shop.home.project("c", manifest).trusted();
    let checked = project.broker(["check"]).run();
    assert_eq!(checked.code(), 1);
    let text = checked.out() + &checked.err();
    for word in ["GOOD", "BAD", "local://nowhere", "FIELD"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains(&shop.database));
    shop.project().broker(["check"]).succeed();
}

#[test]
fn doctor_says_what_is_set_up_and_which_isolation_there_is() {
    let shop = Shop::new();
    let said = shop.project().broker(["doctor"]).run();
    let text = (said.out() + &said.err()).to_lowercase();
    for word in ["tier", "passphrase", "run/broker"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn completions_and_the_manual_are_printed() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.broker(["completions", shell]).succeed().out().contains("broker"), "{shell}");
    }
    assert!(home.broker(["man"]).succeed().out().contains(".TH"));
}

#[test]
fn failures_are_json_where_json_was_asked_for() {
    let shop = Shop::new();
    let failed = shop.project().broker(["check", "--json", "-P", "dve"]).run();
    failed.expect_code(1);
    let problems = [failed.out(), failed.err()].iter().find_map(|t| serde_json::from_str::<serde_json::Value>(t).ok());
    let problems = problems.unwrap_or_else(|| panic!("{}{}", failed.out(), failed.err()));
    assert_eq!(problems["problems"][0]["code"], "not-found");
}

#[test]
fn doctor_blames_a_broken_configuration_and_not_the_manifest_that_is_read_under_it() {
    let shop = Shop::new();
    let project = shop.project();
    shop.home.configure("[providers.org]\nkind = \"vault\"\nauth = \"tokn\"\n");
    let said = project.broker(["doctor", "--json"]).run();
    said.expect_code(1);
    let findings = said.json()["findings"].as_array().expect("findings").clone();
    let of = |area: &str| findings.iter().filter(|f| f["area"] == area).cloned().collect::<Vec<_>>();
    let configuration = of("configuration");
    assert!(!configuration.is_empty() && configuration.iter().all(|f| f["state"] == "broken"), "{configuration:?}");
    assert!(of("manifest").iter().all(|finding| finding["state"] != "broken"), "{:?}", of("manifest"));
}

#[test]
fn the_history_of_a_secret_names_its_versions_and_no_value() {
    let home = Home::new();
    home.store("local://a", "first value").store("local://a", "second value");
    let shown = home.broker(["secret", "history", "local://a", "--json"]).succeed();
    let history = shown.json();
    let versions: Vec<_> =
        history["versions"].as_array().expect("versions").iter().map(|v| v["stages"][0].clone()).collect();
    assert_eq!((&history["reference"], versions), (&"local://a".into(), vec!["current".into(), "previous".into()]));
    let table = home.broker(["secret", "history", "local://a"]).succeed().out();
    assert!(table.contains("current") && table.contains("previous"), "{table}");
    assert!(!(shown.out() + &table).contains("value\n") && !table.contains("first value"), "{table}");
    home.broker(["secret", "history", "local://gone"]).run().expect_error(1, "not-found");
}
