//! The project that most specifications use: three secrets in the embedded store, two profiles.

use broker_tests::canary;
use broker_tests::home::Home;
use broker_tests::project::Project;

/// The manifest.
pub(crate) const MANIFEST: &str = r#"
[project]
name = "shop"
default-profile = "dev"

[secrets]
DATABASE_URL = "local://shop/db"
STRIPE_KEY = { ref = "local://shop/stripe", description = "test mode" }
ADMIN_URL = "local://shop/admin"

[settings]
PORT = "3000"

[profiles.dev]
secrets = ["DATABASE_URL", "STRIPE_KEY"]
ttl = "30m"

[profiles.migrate]
extends = "dev"
secrets = ["ADMIN_URL"]
"#;

/// A home with the shop's values stored.
pub(crate) struct Shop {
    /// The home.
    pub(crate) home: Home,
    /// The value of `DATABASE_URL`.
    pub(crate) database: String,
    /// The value of `STRIPE_KEY`.
    pub(crate) stripe: String,
    /// The value of `ADMIN_URL`.
    pub(crate) admin: String,
}

impl Shop {
    /// Stores the values.
    pub(crate) fn new() -> Self {
        let shop = Self {
            home: Home::new(),
            database: canary::word("database"),
            stripe: canary::word("stripe"),
            admin: canary::word("admin"),
        };
        shop.home.store("local://shop/db", &shop.database);
        shop.home.store("local://shop/stripe", &shop.stripe);
        shop.home.store("local://shop/admin", &shop.admin);
        shop
    }

    /// The project, trusted.
    pub(crate) fn project(&self) -> Project<'_> {
        self.home.project("shop", MANIFEST).trusted()
    }
}

/// A home with one value under `local://one`, and the text of a manifest that has it as `VALUE`.
pub(crate) fn one(value: &[u8]) -> (Home, &'static str) {
    let home = Home::new();
    home.store("local://one", value);
    (home, "[project]\nname = \"one\"\n[secrets]\nVALUE = \"local://one\"\n")
}
