//! What can be delivered in an environment, and what is refused by name.

use broker_tests::home::Home;

use crate::shop::one;

/// Stores `value`, runs a command that writes the variable to its output as it is, and returns that.
fn delivered(value: &[u8]) -> Vec<u8> {
    let (home, manifest) = one(value);
    let project = home.project("one", manifest).trusted();
    // `printenv -0` ends with a NUL and changes nothing else.
    let mut out = project.exec(["/usr/bin/printenv", "-0", "VALUE"]).succeed().stdout;
    assert_eq!(out.pop(), Some(0));
    out
}

#[test]
fn a_value_is_delivered_byte_for_byte() {
    let kib64: Vec<u8> = (1..=255_u8).cycle().take(64 << 10).collect();
    let values: [&[u8]; 7] =
        [b"two\nlines\n", b"\n", b"", b"\xff\xfe\x80 no UTF-8", b"$HOME `id` \"'\\", "ä ö 日本".as_bytes(), &kib64];
    for value in values {
        assert!(delivered(value) == value, "{:?}", String::from_utf8_lossy(&value[..value.len().min(40)]));
    }
}

#[test]
fn a_value_with_a_nul_is_refused_by_name_and_not_shown() {
    let (home, manifest) = one(b"before-the-nul\0after");
    let project = home.project("one", manifest).trusted();
    let refused = project.exec(["/bin/true"]).run();
    refused.expect_error(125, "value").expect_words(["`VALUE`", "NUL", "hint: "]);
    assert!(!refused.err().contains("before-the-nul"));
}

#[test]
fn a_value_larger_than_the_kernel_takes_is_refused_by_name() {
    let (home, manifest) = one(&vec![b'x'; 200 << 10]);
    let project = home.project("one", manifest).trusted();
    project.exec(["/bin/true"]).run().expect_error(125, "value").expect_words(["`VALUE`", "131072", "hint: "]);
}

#[test]
fn more_than_the_kernel_takes_in_all_is_refused_and_the_largest_is_named() {
    let home = Home::new();
    let mut manifest = "[project]\nname = \"big\"\n[secrets]\n".to_owned();
    for n in 0..22 {
        let bytes = if n == 13 { 120 << 10 } else { 100 << 10 };
        home.store(&format!("local://big/{n}"), vec![b'x'; bytes]);
        manifest += &format!("BIG_{n} = \"local://big/{n}\"\n");
    }
    let project = home.project("big", &manifest).trusted();
    project.exec(["/bin/true"]).run().expect_error(125, "value").expect_words(["`BIG_13`", "hint: "]);
    project.broker(["exec", "--only", "BIG_1,BIG_2", "--", "/bin/true"]).succeed();
}

#[test]
fn a_manifest_cannot_set_variables_that_choose_code() {
    let home = Home::new();
    for name in ["LD_PRELOAD", "PATH", "NODE_OPTIONS", "BASH_ENV", "PYTHONPATH", "BROKER_LEASE", "GIT_SSH_COMMAND"] {
        let manifest = format!("[project]\nname = \"x\"\n[secrets]\n{name} = \"local://x\"\n");
        let project = home.project(&format!("p-{name}"), &manifest);
        project
            .exec(["/bin/true"])
            .run()
            .expect_error(125, "manifest")
            .expect_words([&*format!("`{name}` is reserved"), "broker.toml:4:1"]);
    }
}

#[test]
fn a_variable_of_the_caller_that_is_no_utf8_is_left_alone() {
    use std::os::unix::ffi::OsStringExt as _;
    let (home, manifest) = one(b"value");
    let project = home.project("one", manifest).trusted();
    let strange = std::ffi::OsString::from_vec(b"\xc3\x28".to_vec());
    let out = project.exec(["/usr/bin/printenv", "STRANGE"]).env("STRANGE", strange).succeed();
    assert_eq!(out.stdout, b"\xc3\x28\n");
}

#[test]
fn a_secret_replaces_what_was_inherited_under_its_name() {
    let (home, manifest) = one(b"from the store");
    let project = home.project("one", manifest).trusted();
    assert_eq!(project.shell(&[], "echo $VALUE").env("VALUE", "inherited").succeed().out(), "from the store\n");
}

#[test]
fn a_generated_value_is_made_once_and_has_its_shape() {
    let home = Home::new();
    let manifest = "[project]\nname = \"g\"\n[secrets]\n\
        HEX = { ref = \"local://g/hex\", generate = \"hex:16\" }\n\
        UUID = { ref = \"local://g/uuid\", generate = \"uuid\" }\n\
        ALNUM = { ref = \"local://g/alnum\", generate = \"alnum:20\" }\n\
        BASE64 = { ref = \"local://g/base64\", generate = \"base64:12\" }\n";
    let project = home.project("g", manifest).trusted();
    let script = ["exec", "--", "/bin/sh", "-c", "echo $HEX; echo $UUID; echo $ALNUM; echo $BASE64"];
    let first = project.broker_with_passphrase(script).succeed().out();
    let lengths: Vec<usize> = first.lines().map(str::len).collect();
    assert_eq!(lengths, [32, 36, 20, 16], "{first}");
    assert_eq!(project.broker(script).succeed().out(), first);
}

#[test]
fn a_secret_that_is_not_required_stays_unset_and_is_told() {
    let (home, _) = one(b"value");
    let manifest = "[project]\nname = \"o\"\n[secrets]\nVALUE = \"local://one\"\n\
        MAYBE = { ref = \"local://not-there\", required = false }\n";
    let project = home.project("o", manifest).trusted();
    let run = project.shell(&[], "echo $VALUE ${MAYBE-unset}").env("MAYBE", "inherited").succeed();
    assert_eq!(run.out(), "value unset\n");
    run.expect_words(["MAYBE"]);
}
