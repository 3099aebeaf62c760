//! Trust: a manifest counts only as the bytes that were agreed to, in the directory where they were.

use std::fs;

use crate::shop::{MANIFEST, Shop};

#[test]
fn an_untrusted_manifest_gets_nothing() {
    let shop = Shop::new();
    let project = shop.home.project("shop", MANIFEST);
    project.exec(["/bin/true"]).run().expect_error(125, "untrusted").expect_words(["broker trust"]);
    assert!(shop.home.audited("request").iter().all(|r| r["lease"].is_null()));
}

#[test]
fn a_changed_manifest_is_untrusted_until_it_is_agreed_to_again() {
    let shop = Shop::new();
    let project = shop.project();
    project.exec(["/bin/true"]).succeed();
    project.rewrite(&format!("{MANIFEST}\n# a comment more\n"));
    project.exec(["/bin/true"]).run().expect_error(125, "untrusted");
    project.broker(["trust", "--yes"]).succeed();
    project.exec(["/bin/true"]).succeed();
    assert_eq!(shop.home.audited("trusted").len(), 2);
}

#[test]
fn a_copy_of_a_trusted_manifest_is_untrusted() {
    let shop = Shop::new();
    let project = shop.project();
    project.exec(["/bin/true"]).succeed();
    shop.home.project("copy", MANIFEST).exec(["/bin/true"]).run().expect_error(125, "untrusted");
}

#[test]
fn trust_shows_first_where_credentials_are_sent() {
    let shop = Shop::new();
    let manifest = "[project]\nname = \"x\"\n[providers.org]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\n\
        endpoint = \"https://collector.example\"\n[secrets]\nA = \"org://a\"\n";
    let project = shop.home.project("x", manifest);
    let shown = project.broker(["trust", "--yes"]).succeed();
    let text = shown.out() + &shown.err();
    let (destination, secret) = (text.find("https://collector.example"), text.find("org://a"));
    assert!(matches!((destination, secret), (Some(d), Some(s)) if d < s), "{text}");
}

#[test]
fn without_a_terminal_trust_needs_yes() {
    let shop = Shop::new();
    let project = shop.home.project("shop", MANIFEST);
    assert_ne!(project.broker(["trust"]).run().code(), 0);
    project.exec(["/bin/true"]).run().expect_error(125, "untrusted");
}

#[test]
fn a_lost_record_of_trust_means_untrusted() {
    let shop = Shop::new();
    let project = shop.project();
    shop.home.kill_both();
    let mut lost = 0;
    for entry in fs::read_dir(shop.home.state().join("broker")).expect("a state directory").flatten() {
        if entry.file_name().to_string_lossy().contains("trust") {
            fs::write(entry.path(), "{ no JSON").expect("a file can be written");
            lost += 1;
        }
    }
    assert!(lost > 0, "no file of trust was found");
    project.exec(["/bin/true"]).run().expect_error(125, "untrusted");
}
