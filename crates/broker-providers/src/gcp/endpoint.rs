//! Where an instance of Secret Manager may be.
//!
//! A token of Google opens all of Google Cloud, and other services there take what is sent and keep it. So a manifest
//! names the service's own hosts, each an origin and nothing more; user and machine configuration may name any address.
//! Source: "Global and regional service endpoints" of Secret Manager.

use reqwest::Url;

use crate::gcp::name::is_location;

/// Why an `endpoint` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// It is no address that a path could follow.
    #[error("`endpoint` is `https://` and a host, without a user, a `?` or a `#`")]
    NoAddress,
    /// A manifest names another one than the service's own.
    #[error("a manifest cannot send your sign-in of Google to another `endpoint`")]
    Foreign,
}

/// Checks the `endpoint` of an instance; `fixed` where user or machine configuration says so, `anonymous` where nobody
/// signs in, which only servers on this machine are for.
///
/// # Errors
/// See [`EndpointError`].
pub(crate) fn check(endpoint: &str, fixed: bool, anonymous: bool) -> Result<(), EndpointError> {
    let url = Url::parse(endpoint).map_err(|_| EndpointError::NoAddress)?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && !endpoint.contains(['?', '#', '@', '\\'])
        && !endpoint.contains(char::is_whitespace);
    if !is_plain {
        return Err(EndpointError::NoAddress);
    }
    if fixed || (anonymous && is_loopback(endpoint)) || is_of_service(endpoint) {
        return Ok(());
    }
    Err(EndpointError::Foreign)
}

/// Tells whether `endpoint` is one that Secret Manager itself has, written as Google writes it.
pub(crate) fn is_of_service(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("https://").map(|host| host.strip_suffix('/').unwrap_or(host));
    let service = host.and_then(|host| host.strip_prefix("secretmanager."));
    service.is_some_and(|rest| {
        rest == "googleapis.com" || rest.strip_suffix(".rep.googleapis.com").is_some_and(is_location)
    })
}

/// Tells whether `address` is on this machine.
pub(crate) fn is_loopback(address: &str) -> bool {
    // Read as the client reads it, which alone counts.
    let url = Url::parse(address).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for address in ["http://127.0.0.1:1", "http://localhost:1/x", "http://[::1]:80"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in [
            "https://localhost.example.com",
            "https://10.0.0.1",
            "https://secretmanager.googleapis.com",
            "http://127.0.0.1:1@evil.example",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[test]
    fn a_manifest_leads_a_token_to_secret_manager_and_to_no_other_service_of_googles() {
        for endpoint in [
            "https://secretmanager.googleapis.com",
            "https://secretmanager.googleapis.com/",
            "https://secretmanager.europe-west3.rep.googleapis.com",
        ] {
            assert_eq!(check(endpoint, false, false), Ok(()), "{endpoint}");
        }
        for endpoint in [
            "https://storage.googleapis.com",
            "https://storage.googleapis.com/upload/storage/v1/b/evil/o",
            "https://accounts.google.com",
            "https://evil.storage.googleapis.com",
            "https://secretmanager.googleapis.com/x",
            "https://secretmanager.googleapis.com//",
            "https://secretmanager.googleapis.com:443",
            "https://secretmanager.googleapis.com:8443",
            "http://secretmanager.googleapis.com",
            "https://secretmanager.googleapis.com.evil.example",
            "https://secretmanager.a.b.rep.googleapis.com",
            "https://secretmanager.evil.example/.rep.googleapis.com",
            "https://secretmanager..rep.googleapis.com",
            "https://xsecretmanager.googleapis.com",
        ] {
            assert_eq!(check(endpoint, false, false), Err(EndpointError::Foreign), "{endpoint}");
            assert_eq!(check(endpoint, false, true), Err(EndpointError::Foreign), "{endpoint}");
            assert_eq!(check(endpoint, true, false), Ok(()), "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_that_would_swallow_the_path_is_refused_for_everybody() {
        for endpoint in [
            "https://storage.googleapis.com/upload/storage/v1/b/evil/o?name=",
            "https://secretmanager.googleapis.com?",
            "https://secretmanager.googleapis.com#",
            "https://secretmanager.googleapis.com/#x",
            "https://secretmanager.googleapis.com@evil.example",
            "http://127.0.0.1:1@evil.example",
            "file:///etc",
            "secretmanager.googleapis.com",
            "",
        ] {
            for (fixed, anonymous) in [(true, false), (true, true), (false, true), (false, false)] {
                assert_eq!(check(endpoint, fixed, anonymous), Err(EndpointError::NoAddress), "{endpoint}");
            }
        }
    }
}
