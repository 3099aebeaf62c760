//! Secrets in Google Cloud Secret Manager, as commands see them.

use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::home::Home;

/// Returns a manifest whose instance `gcp` is at `endpoint`.
fn manifest(endpoint: &str, more: &str, secrets: &str) -> String {
    format!(
        "[project]\nname = \"gcp\"\n[providers.gcp]\nkind = \"gcp-secret-manager\"\nproject = \"shop-dev\"\n\
         endpoint = \"{endpoint}\"\n{more}\n[secrets]\n{secrets}"
    )
}

const NOBODY: &str = "auth = \"anonymous\"";

#[test]
fn a_secret_of_google_is_delivered_whole_by_field_and_by_version() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    fake.allow_anonymous();
    fake.put("text", b"old");
    fake.put("text", b"plain\ntext ");
    fake.put("json", br#"{"url":"postgres://x"}"#);
    let secrets = "TEXT = \"gcp://text\"\nURL = \"gcp://json#url\"\nOLD = \"gcp://text?version=1\"\n\
                   BEFORE = \"gcp://projects/shop-dev/secrets/text?stage=previous\"\n";
    let project = home.project("gcp", &manifest(&fake.url(), NOBODY, secrets)).trusted();
    let out = project.shell(&[], "printf '%s|' \"$TEXT\" \"$URL\" \"$OLD\" \"$BEFORE\"").succeed().out();
    assert_eq!(out, "plain\ntext |postgres://x|old|old|");
}

#[test]
fn a_sign_in_of_google_reaches_neither_a_manifests_address_nor_the_command() {
    let (fake, home) = (FakeGcp::start(), Home::new());
    fake.allow_anonymous();
    fake.put("text", b"plain");
    let file = ("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/adc.json");
    let secrets = "TEXT = \"gcp://text\"\n";
    let project = home.project("gcp", &manifest(&fake.url(), "", secrets)).signed_in(&[file]).trusted();
    project.shell(&[], "true").run().expect_error(125, "provider").expect_words(["endpoint", "your own configuration"]);
    assert_eq!(fake.take_calls(), Vec::<String>::new());
    let project = home.project("nobody", &manifest(&fake.url(), NOBODY, secrets)).signed_in(&[file]).trusted();
    let out = project.shell(&[], "printf '%s|%s' \"$TEXT\" \"$GOOGLE_APPLICATION_CREDENTIALS\"").succeed().out();
    assert_eq!(out, "plain|");
}
