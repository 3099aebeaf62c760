//! The settings of a provider instance, as a manifest or a configuration file writes them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One configured use of a provider. Which keys a kind understands is said by its row in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InstanceSettings {
    /// The kind of provider, such as `aws-secrets-manager` or `local`.
    pub kind: String,
    /// AWS: the region. Google Cloud: none; a regional secret names its `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// AWS: the profile of the user's AWS configuration to sign in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// AWS: the role to assume, or a chain of roles, each assumed by the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<Words>,
    /// AWS: what the owner of the assumed role wants to hear (`sts:ExternalId`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// AWS: the `sso-session` of the user's AWS configuration that `broker login` signs in to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sso_session: Option<String>,
    /// AWS, Vault: for whom a narrow session is cut: `per-scope` (runs of one project, profile and principal with the same
    /// secrets) or `per-run`. Vault: also `shared`, the session of the sign-in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// AWS, Google Cloud: how long a session, or a credential that is issued, lives (default: the shortest that the manager
    /// issues). Vault: the time after which a token ends that nobody renews (default `15m`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ttl: Option<String>,
    /// Vault: the policies among which those of a run are chosen (default: all of the sign-in's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<Words>,
    /// GitHub: the id, or the client id, of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// GitHub: the reference of the app's private key, which stays where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// AWS: regions with replicas of the secrets, asked in this order when `region` is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Words>,
    /// AWS, Google Cloud: where the service is, for test servers and private endpoints. `http://` only to loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// AWS: where STS is, when it is not at `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_sts: Option<String>,
    /// AWS: where IAM Identity Center is, when it is not at `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_sso: Option<String>,
    /// Google Cloud: the project of references that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Google Cloud: the location of references that name none, for regional secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Google Cloud: the service account to act as, or a chain of delegates that ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonate: Option<Words>,
    /// Vault, Azure: where the server is, such as `https://vault.example.com:8200`. `http://` only to loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Vault: the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How to sign in, in the words of the kind: `token`, `approle`, `oidc`, `managed-identity`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// Vault: where the sign-in method is mounted, when it is not at its default path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_mount: Option<String>,
    /// Vault: the role, or the user name, to sign in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Vault: a PEM file with the certificate authority of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Azure: the tenant to sign in to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Azure: the application to sign in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Azure: where to sign in, when it is not Azure's public cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Keyring: which store of the operating system, such as `secret-service` or `keyutils`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Exec: the program, by its absolute path, and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Words>,
    /// Exec: SHA-256 of the program, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Exec: the variables that the program gets besides `PATH`, `HOME` and `LANG`: `NAME` as the caller has it, or
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Words>,
    /// How long a fetched value is used without asking again (default `5m`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// How long "not found" and "denied" are remembered (default `5s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<String>,
    /// How old a value may be when the manager cannot be reached (default: not at all).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stale: Option<String>,
    /// The time that one request may take in all, retries included (default `10s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// One or more words: a string, or an array of strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl Words {
    /// Returns the words in order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }
}

impl From<&str> for Words {
    fn from(word: &str) -> Self {
        Self::One(word.to_owned())
    }
}

/// The durations of an instance, read and with defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a value is fresh.
    pub ttl: Duration,
    /// How long a refusal is remembered.
    pub negative_ttl: Duration,
    /// How old a value may be served when the manager is away.
    pub max_stale: Duration,
    /// The deadline of one fetch.
    pub timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            max_stale: Duration::ZERO,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A key of an instance whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// A duration that [`crate::duration::parse`] does not read.
    #[error("`{0}` must be a duration such as `30s`, `5m` or `1h`")]
    Duration(&'static str),
    /// A name with characters that are invisible, not ASCII or a line feed.
    #[error("`{0}` must be plain ASCII text")]
    Name(&'static str),
    /// An address that is neither `https://` nor loopback `http://`.
    #[error("`{0}` must be an `https://` address (`http://` only to loopback)")]
    Address(&'static str),
}

impl InstanceError {
    /// Returns the key at fault.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Duration(key) | Self::Name(key) | Self::Address(key) => key,
        }
    }
}

impl InstanceSettings {
    /// Returns an instance of `kind` with nothing else said.
    #[must_use]
    pub fn of_kind(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }

    /// Reads the durations.
    ///
    /// # Errors
    /// The first key whose value is no duration.
    pub fn timing(&self) -> Result<Timing, InstanceError> {
        let defaults = Timing::default();
        self.session_ttl()?;
        let read = |key, text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) if text == "0" && key != "timeout" => Ok(Duration::ZERO),
            Some(text) => crate::duration::parse(text).ok_or(InstanceError::Duration(key)),
        };
        Ok(Timing {
            ttl: read("ttl", &self.ttl, defaults.ttl)?,
            negative_ttl: read("negative-ttl", &self.negative_ttl, defaults.negative_ttl)?,
            max_stale: read("max-stale", &self.max_stale, defaults.max_stale)?,
            timeout: read("timeout", &self.timeout, defaults.timeout)?,
        })
    }

    /// Reads how long a session or an issued credential lives, where that is said.
    ///
    /// # Errors
    /// `session-ttl` is no duration.
    pub fn session_ttl(&self) -> Result<Option<Duration>, InstanceError> {
        let read = |text: &String| crate::duration::parse(text).ok_or(InstanceError::Duration("session-ttl"));
        self.session_ttl.as_ref().map(read).transpose()
    }

    /// Checks that credentials can only go to places that are allowed at all, and that no name hides anything.
    ///
    /// # Errors
    /// The first address that is neither `https://` nor `http://` to loopback, or the first word that is not plain ASCII.
    pub fn check_addresses(&self) -> Result<(), InstanceError> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        for (key, words) in self.entries() {
            if ADDRESSES.contains(&key) {
                if !words.iter().all(|address| is_allowed_address(address)) {
                    return Err(InstanceError::Address(key));
                }
            } else if words.is_empty() || !words.iter().all(|word| plain(word)) {
                return Err(InstanceError::Name(key));
            }
        }
        Ok(())
    }

    /// Returns every key that is said, with its value, in the order of the documentation.
    #[must_use]
    pub fn said(&self) -> Vec<(String, String)> {
        let kind = ("kind".to_owned(), self.kind.clone());
        let rest = self.entries().into_iter().map(|(key, words)| (key.to_owned(), words.join(", ")));
        std::iter::once(kind).chain(rest).collect()
    }

    /// Returns the keys that are said besides `kind`, in the order of the documentation.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        self.entries().into_iter().map(|(key, _)| key).collect()
    }

    /// Returns the keys by which this instance says where credentials are sent and as whom, with their values.
    #[must_use]
    pub fn destinations(&self) -> Vec<(&'static str, String)> {
        let leads = |key: &&str| ADDRESSES.contains(key) || ["assume-role", "impersonate", "ca"].contains(key);
        self.entries().into_iter().filter(|(key, _)| leads(key)).map(|(key, words)| (key, words.join(", "))).collect()
    }

    /// Returns the keys that are said besides `kind`, each with its words.
    fn entries(&self) -> Vec<(&'static str, &[String])> {
        // Taken apart by name, so that a new key cannot be forgotten here.
        let Self {
            kind: _,
            region,
            profile,
            assume_role,
            external_id,
            sso_session,
            session,
            session_ttl,
            policies,
            app_id,
            key,
            replicas,
            endpoint,
            endpoint_sts,
            endpoint_sso,
            project,
            location,
            impersonate,
            address,
            namespace,
            auth,
            auth_mount,
            role,
            ca,
            tenant,
            client_id,
            authority,
            store,
            command,
            sha256,
            environment,
            ttl,
            negative_ttl,
            max_stale,
            timeout,
        } = self;
        fn one(word: &Option<String>) -> Option<&[String]> {
            word.as_ref().map(std::slice::from_ref)
        }
        fn many(words: &Option<Words>) -> Option<&[String]> {
            words.as_ref().map(Words::as_slice)
        }
        let all = [
            ("region", one(region)),
            ("profile", one(profile)),
            ("assume-role", many(assume_role)),
            ("external-id", one(external_id)),
            ("sso-session", one(sso_session)),
            ("session", one(session)),
            ("session-ttl", one(session_ttl)),
            ("policies", many(policies)),
            ("app-id", one(app_id)),
            ("key", one(key)),
            ("replicas", many(replicas)),
            ("endpoint", one(endpoint)),
            ("endpoint-sts", one(endpoint_sts)),
            ("endpoint-sso", one(endpoint_sso)),
            ("project", one(project)),
            ("location", one(location)),
            ("impersonate", many(impersonate)),
            ("address", one(address)),
            ("namespace", one(namespace)),
            ("auth", one(auth)),
            ("auth-mount", one(auth_mount)),
            ("role", one(role)),
            ("ca", one(ca)),
            ("tenant", one(tenant)),
            ("client-id", one(client_id)),
            ("authority", one(authority)),
            ("store", one(store)),
            ("command", many(command)),
            ("sha256", one(sha256)),
            ("environment", many(environment)),
            ("ttl", one(ttl)),
            ("negative-ttl", one(negative_ttl)),
            ("max-stale", one(max_stale)),
            ("timeout", one(timeout)),
        ];
        all.into_iter().filter_map(|(key, words)| Some((key, words?))).collect()
    }
}

/// The keys whose value is an address that credentials are sent to.
const ADDRESSES: &[&str] = &["endpoint", "endpoint-sts", "endpoint-sso", "address", "authority"];

/// Tells whether `address` is `https://HOST` or `http://` to a loopback address, without user information.
fn is_allowed_address(address: &str) -> bool {
    let (rest, secure) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains(['@', '\\']) || !address.bytes().all(|b| b.is_ascii_graphic()) {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    secure || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_loopback_only() {
        for address in ["https://sm.example.com", "http://127.0.0.1:4566", "http://localhost:1/x", "http://[::1]:80"] {
            assert!(is_allowed_address(address), "{address}");
        }
        for address in [
            "http://example.com",
            "http://127.0.0.1@example.com",
            "http://localhost.example.com",
            "ftp://x",
            "https://",
            "http://10.0.0.1",
            "https://a b",
            "http://127.0.0.1\\@evil.example",
            "https://\u{430}ws.example.com",
        ] {
            assert!(!is_allowed_address(address), "{address}");
        }
    }

    #[test]
    fn a_bad_duration_names_its_key() {
        let settings = InstanceSettings { max_stale: Some("soon".into()), ..InstanceSettings::of_kind("local") };
        assert_eq!(settings.timing(), Err(InstanceError::Duration("max-stale")));
    }
}
