//! Where a Key Vault is, where one signs in for it, and whether a token may go there at all.
//!
//! A token for Key Vault is good at every vault of its cloud that lets its owner in. So it is sent to Microsoft's own
//! names only, or to an address that user or machine configuration fixes; what proves who we are goes to Microsoft's
//! login authorities only, or to a fixed one. A manifest cannot lead either elsewhere.

use broker_core::instance::InstanceSettings;
use reqwest::Url;

/// One of Microsoft's clouds: the end of its vaults' names, its login authority, and what its tokens are for.
/// Source: "Azure Key Vault endpoints" and "National clouds and Microsoft Entra ID".
struct Cloud {
    vaults: &'static str,
    authority: &'static str,
    resource: &'static str,
}

const PUBLIC: Cloud = Cloud {
    vaults: ".vault.azure.net",
    authority: "https://login.microsoftonline.com",
    resource: "https://vault.azure.net",
};

const CLOUDS: [Cloud; 3] = [
    PUBLIC,
    Cloud {
        vaults: ".vault.azure.cn",
        authority: "https://login.partner.microsoftonline.cn",
        resource: "https://vault.azure.cn",
    },
    Cloud {
        vaults: ".vault.usgovcloudapi.net",
        authority: "https://login.microsoftonline.us",
        resource: "https://vault.usgovcloudapi.net",
    },
];

/// Another name of the Chinese authority, which older instructions use.
const OLD_AUTHORITY: &str = "https://login.chinacloudapi.cn";

/// Where the metadata service of a machine in Azure is.
const METADATA: &str = "http://169.254.169.254";

/// The addresses of one instance, allowed and without a slash at their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The vault.
    pub(crate) vault: String,
    /// Where tokens are had.
    pub(crate) authority: String,
    /// The metadata service of the machine.
    pub(crate) metadata: String,
    /// What tokens are for.
    pub(crate) resource: &'static str,
    /// The origin that a session is bound to: the whole cloud, or the one fixed address.
    pub(crate) bound_to: String,
}

/// Why an instance goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// No `address`.
    #[error("it has no `address`, such as `https://NAME.vault.azure.net`")]
    NoVault,
    /// An address with a path or a query.
    #[error("`{0}` is an address with nothing after the host, such as `https://NAME.vault.azure.net`")]
    NotAnOrigin(&'static str),
    /// A vault's address that is not one of Microsoft's names.
    #[error(
        "a token goes to `https://NAME.vault.azure.net` (`.vault.azure.cn`, `.vault.usgovcloudapi.net`) only, or where `config.toml` says"
    )]
    ForeignVault,
    /// An authority that is not one of Microsoft's.
    #[error("`authority` is one of Microsoft's login addresses, or stands in `config.toml`")]
    ForeignAuthority,
}

impl Place {
    /// Decides where the instance may go; `fixed` where user or machine configuration says so.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub(crate) fn of(settings: &InstanceSettings, fixed: bool) -> Result<Self, PlaceError> {
        let address = settings.address.as_deref().ok_or(PlaceError::NoVault)?;
        let vault = origin("address", address)?;
        let cloud = CLOUDS.iter().find(|cloud| is_vault_of(&vault, cloud));
        if cloud.is_none() && !fixed {
            return Err(PlaceError::ForeignVault);
        }
        let is_foreign = cloud.is_none();
        let cloud = cloud.unwrap_or(&PUBLIC);
        let said = settings.authority.as_deref().map(|authority| origin("authority", authority)).transpose()?;
        if said.as_ref().is_some_and(|said| !fixed && !is_login(said)) {
            return Err(PlaceError::ForeignAuthority);
        }
        // The metadata service has no name of its own: where it is elsewhere, as on Azure Arc, the same key says so.
        let metadata = said.clone().filter(|said| !is_login(said)).unwrap_or_else(|| METADATA.to_owned());
        let authority = said.unwrap_or_else(|| cloud.authority.to_owned());
        let bound_to = if is_foreign { vault.clone() } else { cloud.resource.to_owned() };
        Ok(Self { vault, authority, metadata, resource: cloud.resource, bound_to })
    }

    /// Returns the scope of its tokens.
    pub(crate) fn scope(&self) -> String {
        format!("{}/.default", self.resource)
    }

    /// Returns the address that `link`, a continuation as the vault wrote it, leads to; nothing when it leads elsewhere.
    pub(crate) fn within(&self, link: &str) -> Option<String> {
        let (own, link) = (Url::parse(&self.vault).ok()?, Url::parse(link).ok()?);
        // Azure writes the port of HTTPS out.
        let same = own.scheme() == link.scheme()
            && own.host_str() == link.host_str()
            && own.port_or_known_default() == link.port_or_known_default();
        let is_listing = link.path() == "/secrets" || link.path().starts_with("/secrets/");
        let query = link.query()?;
        (same && is_listing).then(|| format!("{}{}?{query}", self.vault, link.path()))
    }

    /// Returns the name of the vault, or its host where that is not one of Microsoft's: for people and their commands.
    pub(crate) fn vault_label(&self) -> &str {
        let host = self.vault.split_once("://").map_or(self.vault.as_str(), |(_, host)| host);
        CLOUDS.iter().find_map(|cloud| host.strip_suffix(cloud.vaults)).unwrap_or(host)
    }

    /// Tells whether `cause` is of the login authority, whose faults begin with its host.
    pub(crate) fn is_of_authority(&self, cause: &str) -> bool {
        let host = self.authority.split_once("://").map_or(self.authority.as_str(), |(_, host)| host);
        cause.strip_prefix(host).is_some_and(|rest| rest.starts_with(": "))
    }
}

/// Reads an address that is an origin and nothing more.
fn origin(key: &'static str, address: &str) -> Result<String, PlaceError> {
    let url = Url::parse(address).map_err(|_| PlaceError::NotAnOrigin(key))?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let origin = url.origin();
    if plain && origin.is_tuple() { Ok(origin.ascii_serialization()) } else { Err(PlaceError::NotAnOrigin(key)) }
}

fn is_vault_of(origin: &str, cloud: &Cloud) -> bool {
    let name = origin.strip_prefix("https://").and_then(|host| host.strip_suffix(cloud.vaults));
    name.is_some_and(|name| {
        (3..=24).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

fn is_login(origin: &str) -> bool {
    origin == OLD_AUTHORITY || CLOUDS.iter().any(|cloud| origin == cloud.authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, authority: Option<&str>, fixed: bool) -> Result<Place, PlaceError> {
        let settings = InstanceSettings {
            address: Some(address.to_owned()),
            authority: authority.map(str::to_owned),
            ..InstanceSettings::of_kind("azure-key-vault")
        };
        Place::of(&settings, fixed)
    }

    #[test]
    fn a_manifest_leads_a_token_to_microsofts_vaults_only() {
        for address in
            ["https://shop.vault.azure.net", "https://SHOP.vault.azure.net/", "https://shop.vault.azure.net:443"]
        {
            assert_eq!(place(address, None, false).unwrap().vault, "https://shop.vault.azure.net");
        }
        for address in [
            "https://shop.vault.azure.net.evil.example",
            "https://evil.example",
            "https://vault.azure.net",
            "https://a.b.vault.azure.net",
            "https://shopvault.azure.net",
            "http://shop.vault.azure.net",
            "https://shop.vault.azure.net:8443",
            "http://127.0.0.1:8200",
        ] {
            assert_eq!(place(address, None, false), Err(PlaceError::ForeignVault), "{address}");
            assert!(place(address, None, true).is_ok(), "{address}");
        }
        for address in
            ["https://shop.vault.azure.net/secrets", "https://shop.vault.azure.net?x", "https://u@shop.vault.azure.net"]
        {
            assert_eq!(place(address, None, true), Err(PlaceError::NotAnOrigin("address")), "{address}");
        }
    }

    #[test]
    fn a_manifest_leads_a_client_secret_to_microsofts_logins_only() {
        let vault = "https://shop.vault.azure.net";
        for authority in ["https://login.microsoftonline.us", "https://login.chinacloudapi.cn/"] {
            assert_eq!(place(vault, Some(authority), false).unwrap().authority, authority.trim_end_matches('/'));
        }
        for authority in [
            "https://login.microsoftonline.com.evil.example",
            "http://127.0.0.1:1",
            "https://login.microsoftonline.com:8443",
        ] {
            assert_eq!(place(vault, Some(authority), false), Err(PlaceError::ForeignAuthority), "{authority}");
            assert_eq!(place(vault, Some(authority), true).unwrap().authority, authority);
        }
    }

    #[test]
    fn each_cloud_has_its_own_login_and_its_own_tokens() {
        let china = place("https://shop.vault.azure.cn", None, false).unwrap();
        assert_eq!(
            (china.authority.as_str(), china.scope().as_str()),
            ("https://login.partner.microsoftonline.cn", "https://vault.azure.cn/.default")
        );
        assert_eq!(china.vault_label(), "shop");
        assert!(china.is_of_authority("login.partner.microsoftonline.cn: dns error"));
        assert!(!china.is_of_authority("shop.vault.azure.cn: dns error"));
        assert_eq!(place("http://127.0.0.1:8200", None, true).unwrap().vault_label(), "127.0.0.1:8200");
    }

    #[test]
    fn a_continuation_stays_at_the_vault() {
        let place = place("https://shop.vault.azure.net", None, false).unwrap();
        let next = "https://shop.vault.azure.net:443/secrets?api-version=7.4&$skiptoken=x";
        assert_eq!(place.within(next).unwrap(), "https://shop.vault.azure.net/secrets?api-version=7.4&$skiptoken=x");
        for link in [
            "https://evil.example/secrets?x",
            "http://shop.vault.azure.net/secrets?x",
            "https://shop.vault.azure.net@evil.example/secrets?x",
            "https://shop.vault.azure.net:444/secrets?x",
            "https://shop.vault.azure.net/keys?x",
            "https://shop.vault.azure.net/secretsx?x",
            "/secrets?x",
            "",
        ] {
            assert_eq!(place.within(link), None, "{link}");
        }
    }
}
