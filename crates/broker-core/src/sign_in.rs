//! The caller's sign-in variables: which names travel with a request, and the set that came with one.
//!
//! A daemon that served everybody with the variables of whoever started it would mix identities. So they travel with
//! each request, serve that request alone and are part of every cache key. Variables that say where to connect or whom
//! to believe (endpoints, proxies, certificate authorities) never travel: they count from configuration or a trusted
//! manifest only.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::secret::{SecretValue, SharedValue};

/// Those of the managers that we speak to, and of the programs that stand behind many an `exec` instance: such an
/// instance gets one only if its `environment` names it.
const PREFIXES: &[&str] =
    &["AWS_", "AZURE_", "BAO_", "BWS_", "CLOUDSDK_", "DOPPLER_", "GOOGLE_", "INFISICAL_", "OP_", "SOPS_", "VAULT_"];

/// Words that mark a variable as an address, a proxy or a trust anchor.
const NEVER: &[&str] = &[
    "ENDPOINT",
    "_URL",
    "_URI",
    "_ADDR",
    "PROXY",
    "CA_BUNDLE",
    "CA_CERT",
    "CACERT",
    "CAPATH",
    "SKIP_VERIFY",
    "_HOST",
    "TLS_SERVER_NAME",
];

/// Tells whether the variable `name` travels from the client to the daemon.
#[must_use]
pub fn travels(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !NEVER.iter().any(|word| name.contains(word))
}

/// The sign-in variables of one request, ordered by name.
#[derive(Clone, Default)]
pub struct SignIn(BTreeMap<String, SharedValue>);

impl SignIn {
    /// Keeps those of `variables` that may travel; drops the rest.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (String, SecretValue)>) -> Self {
        Self(variables.into_iter().filter(|(name, _)| travels(name)).map(|(n, v)| (n, SharedValue::new(v))).collect())
    }

    /// Returns the value of `name`, unless it is missing, empty or no UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        // Opened for the provider's own sign-in code, which takes text.
        std::str::from_utf8(self.0.get(name)?.expose()).ok().filter(|text| !text.is_empty())
    }

    /// Keeps only the variables that `wanted` names: an instance sees what its kind reads and nothing else.
    #[must_use]
    pub fn only(&self, wanted: &[&str]) -> Self {
        Self(self.0.iter().filter(|(n, _)| wanted.contains(&n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect())
    }

    /// Returns a digest that is equal exactly for equal sets: the identity part of a cache key.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            for part in [name.as_bytes(), value.expose()] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    /// Tells whether no variable came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> SignIn {
        SignIn::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), SecretValue::from((*v).to_owned()))))
    }

    #[test]
    fn addresses_proxies_and_trust_anchors_never_travel() {
        for name in [
            "AWS_ENDPOINT_URL",
            "AWS_ENDPOINT_URL_STS",
            "AWS_CA_BUNDLE",
            "VAULT_ADDR",
            "VAULT_CACERT",
            "AZURE_HTTP_PROXY",
            "VAULT_SKIP_VERIFY",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
            "HTTPS_PROXY",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "GCE_METADATA_HOST",
            "OP_CONNECT_HOST",
            "DOPPLER_API_HOST",
            "INFISICAL_API_URL",
        ] {
            assert!(!travels(name), "{name}");
        }
        for name in [
            "AWS_PROFILE",
            "AWS_ACCESS_KEY_ID",
            "AWS_SESSION_TOKEN",
            "VAULT_TOKEN",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "OP_SERVICE_ACCOUNT_TOKEN",
        ] {
            assert!(travels(name), "{name}");
        }
    }

    #[test]
    fn the_digest_tells_sets_apart_however_they_are_cut() {
        assert_eq!(set(&[("AWS_A", "1"), ("AWS_B", "2")]).digest(), set(&[("AWS_B", "2"), ("AWS_A", "1")]).digest());
        assert_ne!(set(&[("AWS_A", "1AWS_B")]).digest(), set(&[("AWS_A", "1"), ("AWS_B", "")]).digest());
    }

    #[test]
    fn debug_shows_names_and_never_values() {
        assert_eq!(format!("{:?}", set(&[("AWS_SECRET_ACCESS_KEY", "canary")])), "{\"AWS_SECRET_ACCESS_KEY\"}");
    }
}
