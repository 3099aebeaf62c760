//! Homes with secrets in them, for measuring.

use std::path::Path;

use broker_tests::canary;
use broker_tests::home::Home;
use broker_tests::project::Project;
use broker_tests::proxy::Proxy;
use broker_tests::servers::{Aws, REGION};

/// What a bench's own configuration begins with: more leases than the default limits give a project.
pub(crate) const QUOTA: &str =
    "[quota]\nleases = 1_000_000\nleases-per-minute = 10_000_000\nissued-per-minute = 1_000_000\n";

/// Makes a home whose embedded store has `count` values, and the manifest that selects them.
pub(crate) fn local(bin: &Path, count: usize) -> (Home, String) {
    let home = Home::with_programs(bin);
    home.configure(QUOTA);
    let mut manifest = "[project]\nname = \"bench\"\n[secrets]\n".to_owned();
    for n in 0..count {
        home.store(&format!("local://bench/{n}"), format!("a value of some forty characters {n:06}"));
        manifest += &format!("S{n} = \"local://bench/{n}\"\n");
    }
    (home, manifest)
}

/// Puts `count` secrets into moto and returns the manifest that reads them through `proxy`.
pub(crate) fn remote(proxy: &Proxy, count: usize) -> String {
    let base = canary::word("bench");
    let mut manifest = format!(
        "[project]\nname = \"bench\"\n[providers.org]\nkind = \"aws-secrets-manager\"\nregion = \"{REGION}\"\n\
         endpoint = \"{}\"\nttl = \"1h\"\n[secrets]\n",
        proxy.url()
    );
    for n in 0..count {
        Aws::create_at(proxy.upstream(), &format!("{base}/{n}"), &format!("a value of some forty characters {n:06}"));
        manifest += &format!("S{n} = \"org://{base}/{n}\"\n");
    }
    manifest
}

/// Writes the manifest into the home, trusts it, and signs its runs in.
pub(crate) fn project<'h>(home: &'h Home, manifest: &str) -> Project<'h> {
    home.project("bench", manifest).signed_in(&Aws::Moto.sign_in()).trusted()
}
