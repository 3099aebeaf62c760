//! Signing in to Vault with what stands in files whose place is given: the token of `vault login`, a service account.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use broker_core::sign_in::SignIn;
use broker_tests::fakes::vault::Vault;
use broker_tests::python;
use serde_json::json;
use tokio::time::Instant;

use super::{Held, Method, VaultSignIn};
use crate::login::Login as _;
use crate::provider::ErrorKind;
use crate::rest::Pool;
use crate::sign_ins::SignIns;
use crate::vault::wire::{Call, Wire};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// An instance at `vault` whose files are in `dir`.
fn at(vault: &Vault, dir: &Path, method: Method, fixed: bool) -> VaultSignIn {
    let rest = Pool::default().counting(Arc::new(AtomicU64::new(0))).unwrap();
    VaultSignIn {
        instance: "org".to_owned(),
        wire: Wire::new(rest, &vault.url(), None),
        method,
        mount: method.name().to_owned(),
        role: Some("app".to_owned()),
        fixed,
        sign_in: SignIn::default(),
        token_file: Some(dir.join(".vault-token")),
        service_account: dir.join("token"),
        sign_ins: Arc::new(SignIns::new(dir.to_owned(), false)),
        own: Default::default(),
        waiting: Default::default(),
    }
}

async fn is_known(sign_in: &VaultSignIn, held: &Held) -> bool {
    sign_in.wire.ask(Some(held.token()), &Call::read("auth/token/lookup-self"), soon()).await.is_ok()
}

#[tokio::test]
async fn the_token_of_vault_login_counts_where_the_address_is_fixed() {
    let (vault, dir) = (Vault::start(), tempfile::tempdir().unwrap());
    let missing = at(&vault, dir.path(), Method::Token, true).held(soon()).await.err();
    assert_eq!(missing.map(|fault| fault.kind), Some(ErrorKind::Unauthenticated));
    std::fs::write(dir.path().join(".vault-token"), format!("{}\n", vault.root())).unwrap();
    let sign_in = at(&vault, dir.path(), Method::Token, true);
    let held = sign_in.held(soon()).await.unwrap();
    assert!(is_known(&sign_in, &held).await);
    let of_manifest = at(&vault, dir.path(), Method::Token, false).held(soon()).await.err();
    assert_eq!(of_manifest.map(|fault| fault.kind), Some(ErrorKind::Unauthenticated));
}

#[tokio::test]
async fn a_service_account_signs_in_where_the_address_is_fixed() {
    let (vault, dir) = (Vault::start(), tempfile::tempdir().unwrap());
    let set_up = r#"
import sys, hvac
vault = hvac.Client(url=sys.argv[1], token=sys.argv[2])
vault.sys.enable_auth_method("kubernetes")
vault.auth.kubernetes.create_role("app", bound_service_account_names="shop", bound_service_account_namespaces="dev", policies=["default"])
"#;
    let _ = python::run(set_up, &[&vault.url(), vault.root()]);
    let account =
        |name: &str| vault.jwt(&json!({ "kubernetes.io": { "namespace": "dev", "serviceaccount": { "name": name } } }));
    std::fs::write(dir.path().join("token"), account("shop")).unwrap();
    let sign_in = at(&vault, dir.path(), Method::Kubernetes, true);
    let held = sign_in.held(soon()).await.unwrap();
    assert!(is_known(&sign_in, &held).await);
    let Held::Own(session) = held else { panic!("it is its own") };
    assert_eq!(session.who, format!("kubernetes shop at {}", vault.url()));
    let of_manifest = at(&vault, dir.path(), Method::Kubernetes, false).held(soon()).await.err();
    assert_eq!(of_manifest.map(|fault| fault.kind), Some(ErrorKind::Unauthenticated));
    // Kubernetes replaces the file now and then: a stranger's is a stranger's.
    std::fs::write(dir.path().join("token"), account("stranger")).unwrap();
    let refused = at(&vault, dir.path(), Method::Kubernetes, true).held(soon()).await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Unauthenticated);
    assert_eq!(refused.cause, "HTTP 403: service account name not authorized");
}

#[tokio::test]
async fn no_mount_role_or_namespace_can_pass_for_another_ones_session() {
    let (vault, dir) = (Vault::start(), tempfile::tempdir().unwrap());
    let with = |mount: &str, role: &str, namespace: Option<&str>| {
        let plain = at(&vault, dir.path(), Method::Token, false);
        let rest = Pool::default().counting(Arc::new(AtomicU64::new(0))).unwrap();
        let wire = Wire::new(rest, &vault.url(), namespace);
        VaultSignIn { wire, mount: mount.to_owned(), role: Some(role.to_owned()), ..plain }.session()
    };
    let theirs = with("token", "app", Some("team-a"));
    for (mount, role) in [
        ("token", "app namespace=team-a"),
        ("token", "app\" namespace=\"team-a"),
        ("token\" role=\"app\" namespace=\"team-a", "app"),
        ("token role=app namespace=team-a", ""),
    ] {
        assert_ne!(with(mount, role, None), theirs, "{mount} {role}");
    }
    assert_eq!(with("token", "app", Some("/team-a/")), theirs);
}
