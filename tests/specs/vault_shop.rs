//! A project whose commands get an account of a database, issued by Vault for each run.

use std::collections::BTreeSet;
use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use broker_tests::deadline;
use broker_tests::fakes::vault::Vault;
use broker_tests::home::Home;
use broker_tests::http::{self, Message};
use broker_tests::project::Project;
use serde_json::{Value, json};

/// How soon after its run a credential must be gone at the manager.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// The server, and a home whose configuration names it as `org`.
pub(crate) struct VaultShop {
    pub(crate) home: Home,
    pub(crate) vault: Vault,
    token: String,
}

impl VaultShop {
    /// Sets everything up over the wire. Accounts live for `ttl`, tokens of runs for `session` unless they are renewed.
    pub(crate) fn new(ttl: &str, session: &str) -> Self {
        let vault = Vault::start();
        let home = Home::new();
        home.configure(&format!(
            "[providers.org]\nkind = \"vault\"\naddress = \"{}\"\nsession-ttl = \"{session}\"\n",
            vault.url()
        ));
        let mut shop = Self { home, vault, token: String::new() };
        shop.set("POST", "sys/mounts/database", &json!({ "type": "database" }));
        shop.set("POST", "database/config/shop", &json!({}));
        let role = json!({ "db_name": "shop", "default_ttl": ttl, "max_ttl": "2h" });
        shop.set("POST", "database/roles/app", &role);
        let accounts = "path \"database/creds/app\" { capabilities = [\"read\"] }";
        let stored = "path \"secret/data/shop/*\" { capabilities = [\"read\"] }";
        let make = "path \"auth/token/create\" { capabilities = [\"update\"] }";
        for (name, policy) in [("accounts", accounts), ("stored", stored), ("make", make)] {
            shop.set("PUT", &format!("sys/policies/acl/{name}"), &json!({ "policy": policy }));
        }
        shop.set("POST", "secret/data/shop/api", &json!({ "data": { "key": "a stored value" } }));
        let body = json!({ "policies": ["accounts", "stored", "make"], "ttl": "24h" });
        let made = shop.set("POST", "auth/token/create", &body);
        shop.token = made["auth"]["client_token"].as_str().expect("a token is made").to_owned();
        shop
    }

    /// The project, trusted and signed in, with more lines of its profile.
    pub(crate) fn project(&self, more: &str) -> Project<'_> {
        let manifest = format!(
            "[project]\nname = \"shop\"\ndefault-profile = \"dev\"\n[secrets]\n\
             DB = {{ ref = \"org://database/creds/app\", variables = {{ DB_USER = \"username\", DB_PASSWORD = \"password\" }} }}\n\
             API_KEY = \"org://secret/shop/api#key\"\n[profiles.dev]\nsecrets = [\"DB\"]\n{more}\n\
             [profiles.stored]\nsecrets = [\"API_KEY\"]\n[profiles.all]\nsecrets = [\"API_KEY\", \"DB\"]\n"
        );
        self.home.project("shop", &manifest).signed_in(&[("VAULT_TOKEN", &self.token)]).trusted()
    }

    /// Asks as root.
    pub(crate) fn set(&self, method: &str, path: &str, body: &Value) -> Value {
        let address = self.vault.address();
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let headers = [("host", address.as_str()), ("x-vault-token", self.vault.root()), ("x-vault-request", "true")];
        let request = Message {
            first: format!("{method} /v1/{path} HTTP/1.1"),
            headers: headers.into_iter().map(header).collect(),
            body: body.to_string().into_bytes(),
        };
        stream.write_all(&request.to_bytes()).expect("it reads");
        let answer = http::read_response(&mut BufReader::new(stream)).expect("it answers");
        assert!(answer.status() < 300, "{method} {path}: {}", answer.status());
        answer.body_json()
    }

    /// Returns the accounts that are there, in the database's own word.
    pub(crate) fn accounts(&self) -> BTreeSet<String> {
        self.vault.accounts("shop")
    }

    /// Waits until neither account nor lease nor token is alive that was made for a run, and tells how long that took.
    pub(crate) fn until_nothing_is_alive(&self) -> Duration {
        let began = Instant::now();
        deadline::until_true("everything that was issued is gone at the manager", || {
            self.accounts().is_empty() && self.vault.alive_leases().is_empty() && self.runs_alive() == 0
        });
        began.elapsed()
    }

    /// Counts the tokens that were made for a run.
    pub(crate) fn runs_alive(&self) -> usize {
        self.vault.alive_tokens().iter().filter(|token| token.meta.contains_key("project")).count()
    }
}
