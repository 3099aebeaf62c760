//! The server that the tests of Vault stand on, against `vaultrs`, a typed client that others wrote: what it cannot read
//! into its own types is no answer of Vault. (`hvac` is asked beside the server itself.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::collections::HashMap;

use serde_json::{Value, json};
use support::unique;
use support::vault::{Server, ours, servers};
use vaultrs::api::token::requests::CreateTokenRequest;
use vaultrs::client::{VaultClient, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use vaultrs::{auth, kv1, kv2, sys, token};

fn client(server: &Server, token: &str) -> VaultClient {
    // The first provider stays; it is always this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    VaultClient::new(VaultClientSettingsBuilder::default().address(server.url()).token(token).build().unwrap()).unwrap()
}

/// Returns the status and the words of a refusal.
fn refusal<T>(result: Result<T, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::APIError { code, errors }) => (code, errors.join(" ")),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn vaultrs_reads_every_answer_about_secrets() {
    for server in servers() {
        let (two, one) = (unique("two"), unique("one"));
        server.enable_kv(&two, "2");
        server.enable_kv(&one, "1");
        let root = client(&server, server.root());
        assert!(sys::mount::list(&root).await.unwrap().contains_key(&format!("{two}/")));
        assert!(!sys::health(&root).await.unwrap().sealed);

        assert_eq!(refusal(kv2::read::<Value>(&root, &two, "a/b").await).0, 404);
        assert_eq!(kv2::set(&root, &two, "a/b", &json!({ "x": "1" })).await.unwrap().version, 1);
        kv2::set(&root, &two, "a/b", &json!({ "x": "2" })).await.unwrap();
        assert_eq!(kv2::read::<Value>(&root, &two, "a/b").await.unwrap(), json!({ "x": "2" }));
        assert_eq!(kv2::read_version::<Value>(&root, &two, "a/b", 1).await.unwrap(), json!({ "x": "1" }));
        let stale = vaultrs::api::kv2::requests::SetSecretRequestOptions { cas: 1 };
        let (status, words) = refusal(kv2::set_with_options(&root, &two, "a/b", &json!({}), stale).await);
        assert_eq!((status, words.contains("check-and-set")), (400, true), "{words}");
        kv2::delete_versions(&root, &two, "a/b", vec![1]).await.unwrap();
        kv2::destroy_versions(&root, &two, "a/b", vec![2]).await.unwrap();
        let known = kv2::read_metadata(&root, &two, "a/b").await.unwrap();
        assert_eq!((known.current_version, known.versions["2"].destroyed), (2, true));
        assert!(!known.versions["1"].deletion_time.is_empty());
        kv2::undelete_versions(&root, &two, "a/b", vec![1]).await.unwrap();
        assert_eq!(kv2::read_version::<Value>(&root, &two, "a/b", 1).await.unwrap(), json!({ "x": "1" }));
        assert_eq!(kv2::list(&root, &two, "a").await.unwrap(), ["b"]);
        kv2::delete_metadata(&root, &two, "a/b").await.unwrap();
        assert_eq!(refusal(kv2::list(&root, &two, "a").await).0, 404);

        kv1::set(&root, &one, "a", &HashMap::from([("x", "1")])).await.unwrap();
        assert_eq!(kv1::get::<Value>(&root, &one, "a").await.unwrap(), json!({ "x": "1" }));
        assert_eq!(kv1::list(&root, &one, "").await.unwrap().data.keys, ["a"]);
        kv1::delete(&root, &one, "a").await.unwrap();
        assert_eq!(refusal(kv1::get::<Value>(&root, &one, "a").await).0, 404);
    }
}

#[tokio::test]
async fn vaultrs_reads_every_answer_about_tokens_and_sign_ins() {
    for server in servers() {
        let (approle, userpass) = (unique("approle"), unique("userpass"));
        for (kind, at) in [("approle", &approle), ("userpass", &userpass)] {
            server.set("POST", &format!("sys/auth/{at}"), &json!({ "type": kind }));
        }
        let root = client(&server, server.root());
        sys::policy::set(&root, "second-opinion", "path \"x\" { capabilities = [\"read\"] }").await.unwrap();
        assert!(sys::policy::list(&root).await.unwrap().policies.contains(&"second-opinion".to_owned()));
        let mut wanted = CreateTokenRequest::builder();
        wanted.policies(vec!["second-opinion".to_owned()]).ttl("30m");
        let made = token::new(&root, Some(&mut wanted)).await.unwrap();
        let own = client(&server, &made.client_token);
        assert_eq!(token::lookup_self(&own).await.unwrap().accessor, made.accessor);
        token::renew_self(&own, Some("1h")).await.unwrap();
        token::revoke_self(&own).await.unwrap();
        let (status, words) = refusal(token::lookup_self(&own).await);
        assert_eq!((status, words.contains("permission denied")), (403, true), "{words}");

        auth::approle::role::set(&root, &approle, "dev", None).await.unwrap();
        let role = auth::approle::role::read_id(&root, &approle, "dev").await.unwrap().role_id;
        let id = auth::approle::role::secret::generate(&root, &approle, "dev", None).await.unwrap().secret_id;
        assert!(auth::approle::login(&root, &approle, &role, &id).await.unwrap().renewable);
        let (status, words) = refusal(auth::approle::login(&root, &approle, &role, "no").await);
        assert_eq!((status, words.as_str()), (400, "invalid role or secret ID"));
        auth::userpass::user::set(&root, &userpass, "ada", "pw", None).await.unwrap();
        let ada = auth::userpass::login(&root, &userpass, "ada", "pw").await.unwrap();
        assert_eq!(ada.metadata.unwrap()["username"], "ada");
        let (status, words) = refusal(auth::userpass::login(&root, &userpass, "ada", "no").await);
        assert_eq!((status, words.as_str()), (400, "invalid username or password"));
    }
}

#[tokio::test]
async fn vaultrs_reads_every_answer_about_children_and_what_hangs_on_them() {
    for server in servers() {
        let (mount, policy) = (unique("kv"), unique("reader"));
        server.enable_kv(&mount, "2");
        server.store(&mount, "a", &json!({ "x": "1" }));
        let root = client(&server, server.root());
        let rule = format!("path \"{mount}/data/a\" {{ capabilities = [\"read\"] }}");
        sys::policy::set(&root, &policy, &rule).await.unwrap();
        let mut wanted = CreateTokenRequest::builder();
        wanted
            .policies(vec![policy.clone()])
            .ttl("2h")
            .explicit_max_ttl("1h")
            .num_uses(3_u64)
            .display_name("broker-shop");
        wanted.meta(HashMap::from([("lease".to_owned(), "l-1".to_owned())])).renewable(false).token_type("service");
        let made = token::new(&root, Some(&mut wanted)).await.unwrap();
        assert_eq!((made.lease_duration, made.renewable), (3_600, false));
        let own = client(&server, &made.client_token);
        let known = token::lookup_self(&own).await.unwrap();
        assert_eq!((known.display_name.as_str(), known.explicit_max_ttl), ("token-broker-shop", 3_600));
        assert_eq!(known.meta.unwrap()["lease"], "l-1");
        assert_eq!(kv2::read::<Value>(&own, &mount, "a").await.unwrap(), json!({ "x": "1" }));
        token::revoke_self(&own).await.unwrap();
        assert_eq!(refusal(kv2::read::<Value>(&own, &mount, "a").await).0, 403);
    }
    // A database is at hand on our own server only.
    let server = ours();
    server.set("POST", "sys/mounts/database", &json!({ "type": "database" }));
    server.set("POST", "database/config/shop", &json!({}));
    server.set("POST", "database/roles/reader", &json!({ "db_name": "shop" }));
    let root = client(&server, server.root());
    let account = vaultrs::database::role::creds(&root, "database", "reader").await.unwrap();
    assert!(server.ours().accounts("shop").contains(&account.username));
}
