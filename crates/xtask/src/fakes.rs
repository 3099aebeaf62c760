//! The servers of our own, for whoever tries something by hand with `cargo xtask servers CMD`: the variables say where they
//! are and how to sign in.

use broker_tests::fakes::azure::{Azure, Role, TENANT};
use broker_tests::fakes::gcp::FakeGcp;
use broker_tests::fakes::vault::Vault;

/// The running servers.
pub(crate) struct Fakes {
    vault: Vault,
    gcp: FakeGcp,
    azure: Azure,
}

impl Fakes {
    /// Starts them: Vault with its root token, Google Cloud for everybody with a project `shop`, Azure with one
    /// application that may do everything with secrets.
    pub(crate) fn start() -> Self {
        let fakes = Self { vault: Vault::start(), gcp: FakeGcp::start(), azure: Azure::start() };
        fakes.gcp.allow_anonymous();
        fakes.gcp.add_project("shop", "1234567890");
        fakes.azure.assign(&fakes.azure.application().oid, Role::SecretsOfficer);
        fakes
    }

    /// Returns the variables that say where they are.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let application = self.azure.application();
        vec![
            ("BROKER_FAKE_VAULT", self.vault.url()),
            ("BROKER_FAKE_VAULT_TOKEN", self.vault.root().to_owned()),
            ("BROKER_FAKE_GCP", self.gcp.url()),
            ("BROKER_FAKE_AZURE_VAULT", self.azure.vault().url()),
            ("BROKER_FAKE_AZURE_LOGIN", self.azure.login().url()),
            ("BROKER_FAKE_AZURE_TENANT", TENANT.to_owned()),
            ("BROKER_FAKE_AZURE_CLIENT_ID", application.client_id),
            ("BROKER_FAKE_AZURE_CLIENT_SECRET", application.secret),
        ]
    }
}
