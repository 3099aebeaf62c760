//! The documentation names what the registry has: nobody writes a list of providers twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use broker_core::manifest::parse;
use broker_providers::registry::{KINDS, Kind};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn row(kind: &Kind) -> String {
    let scheme = kind.scheme.map_or("the instance's name".to_owned(), |scheme| format!("`{scheme}`"));
    let can = kind.capabilities.words().join(", ");
    format!("| [`{0}`](docs/providers/{0}.md) | {scheme} | {1} | {can} |", kind.kind, kind.title)
}

#[test]
fn the_table_of_providers_in_the_readme_is_that_of_the_registry() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let section = readme.split("## Providers").nth(1).unwrap().split("\n## ").next().unwrap();
    let written: Vec<_> = section.lines().filter(|line| line.starts_with("| [`")).collect();
    let rows: Vec<_> = KINDS.iter().map(row).collect();
    assert_eq!(written, rows, "write these rows:\n{}\n", rows.join("\n"));
}

#[test]
fn every_kind_has_a_page_that_names_its_scheme_and_all_of_its_keys() {
    for kind in KINDS {
        let path = repository().join(format!("docs/providers/{}.md", kind.kind));
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let scheme = kind.scheme.map(|scheme| format!("{scheme}://"));
        // What all kinds share stands in the page of the manifest.
        let shared = ["ttl", "negative-ttl", "max-stale", "timeout"];
        let keys = kind.keys.iter().filter(|key| !shared.contains(key)).map(|key| (*key).to_owned());
        for word in keys.chain(scheme) {
            assert!(page.contains(&word), "{} does not name `{word}`", path.display());
        }
    }
}

#[test]
fn the_page_of_the_manifest_names_every_key_of_every_kind() {
    let page = fs::read_to_string(repository().join("docs/manifest.md")).unwrap();
    for key in KINDS.iter().flat_map(|kind| kind.keys) {
        assert!(page.contains(&format!("`{key}`")), "docs/manifest.md does not name `{key}`");
    }
}

/// Returns the blocks of a page that begin with this fence.
fn blocks<'p>(page: &'p str, fence: &str) -> Vec<&'p str> {
    page.split(fence).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn the_manifests_on_these_pages_are_manifests() {
    let kinds: Vec<_> = KINDS.iter().map(Kind::known).collect();
    let mut read = 0;
    let pages = KINDS.iter().map(|kind| format!("docs/providers/{}.md", kind.kind));
    for name in pages.chain(["docs/leases.md".to_owned(), "docs/manifest.md".to_owned()]) {
        let page = fs::read_to_string(repository().join(&name)).unwrap();
        let tables = blocks(&page, "```toml\n");
        // What a page puts into `config.toml` its manifests may name.
        let configured = tables
            .iter()
            .filter(|block| !block.contains("[secrets]"))
            .flat_map(|block| block.split("[providers.").skip(1))
            .filter_map(|table| Some((table.split(']').next()?, table.split("kind = \"").nth(1)?.split('"').next()?)));
        let mut instances: Vec<(&str, &str)> =
            KINDS.iter().filter_map(|kind| Some((kind.scheme?, kind.kind))).collect();
        instances.extend(configured);
        for block in tables.iter().filter(|block| block.contains("[secrets]")) {
            let text = if block.contains("[project]") {
                (*block).to_owned()
            } else {
                format!("[project]\nname = \"x\"\n{block}")
            };
            let others = instances.iter().filter(|(name, _)| !text.contains(&format!("[providers.{name}]"))).copied();
            let parsed = parse("broker.toml", &text, &others.collect::<Vec<_>>(), &kinds);
            assert!(parsed.is_ok(), "{name}: {:#?}\n{text}", parsed.err());
            read += 1;
        }
    }
    assert!(read > KINDS.len() + 1, "{read} manifests were found");
}
