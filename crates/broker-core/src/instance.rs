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
    /// AWS: the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// AWS: the profile of the user's AWS configuration to sign in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// AWS: the role to assume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<String>,
    /// Where the service is, for test servers and private endpoints. `http://` only to loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// AWS: where STS is, when it is not at `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_sts: Option<String>,
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

    /// Checks that credentials can only go to places that are allowed at all, and that no name hides anything.
    ///
    /// # Errors
    /// The first address that is neither `https://` nor `http://` to loopback, or the first name that is not plain ASCII.
    pub fn check_addresses(&self) -> Result<(), InstanceError> {
        let plain = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        for (key, name) in [("assume-role", &self.assume_role), ("profile", &self.profile), ("region", &self.region)] {
            if name.as_ref().is_some_and(|name| !plain(name)) {
                return Err(InstanceError::Name(key));
            }
        }
        for (key, address) in [("endpoint", &self.endpoint), ("endpoint-sts", &self.endpoint_sts)] {
            if address.as_deref().is_some_and(|a| !is_allowed_address(a)) {
                return Err(InstanceError::Address(key));
            }
        }
        Ok(())
    }

    /// Returns every key that is said, with its value, in the order of the documentation.
    #[must_use]
    pub fn said(&self) -> Vec<(String, String)> {
        // By way of the serialised form, so that no key can be forgotten here.
        let said = serde_json::to_value(self).unwrap_or_default();
        let said = said.as_object().into_iter().flatten();
        said.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    /// Returns the keys by which this instance says where credentials are sent, with their values.
    #[must_use]
    pub fn destinations(&self) -> Vec<(&'static str, &str)> {
        [("endpoint", &self.endpoint), ("endpoint-sts", &self.endpoint_sts), ("assume-role", &self.assume_role)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_deref()?)))
            .collect()
    }
}

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
