//! What a reference asks for: `github-app://INSTALLATION?repositories=shop,api&permissions=contents:read`.

use std::collections::BTreeMap;

use broker_core::reference::{SecretRef, Version};
use serde_json::{Map, json};

use crate::fault::Fault;
use crate::provider::ErrorKind;

/// The options that a reference may have.
pub(crate) const OPTIONS: &[&str] = &["permissions", "repositories"];

/// The levels of a permission, each of which holds those before it.
const LEVELS: [&str; 3] = ["read", "write", "admin"];
/// Most repositories that one token may name. Source: "Create an installation access token for an app".
const MAX_REPOSITORIES: usize = 500;

/// Where the app is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At whatever account, by the installation's number.
    Installation(u64),
    /// At an organisation or a person, by its name.
    Account(String),
}

/// One token, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) place: Place,
    /// Names without the owner; empty for all that the installation has.
    pub(super) repositories: Vec<String>,
    /// Names and levels; empty for all that the installation has.
    pub(super) permissions: BTreeMap<String, String>,
}

impl Wanted {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a version, and for a name or an option that is none of GitHub's.
    pub(super) fn of(reference: &SecretRef) -> Result<Self, Fault> {
        if reference.version != Version::Current {
            return Err(refused("a token has no versions"));
        }
        let place = match reference.path.parse() {
            Ok(id) => Place::Installation(id),
            Err(_) if is_account(&reference.path) => Place::Account(reference.path.clone()),
            Err(_) => return Err(refused("its name is no number of an installation and no account's name")),
        };
        let words = |option: &str| -> Vec<&str> {
            reference.options.get(option).map(|text| text.split(',').collect()).unwrap_or_default()
        };
        let repositories: Vec<_> = words("repositories").into_iter().map(str::to_owned).collect();
        if !repositories.iter().all(|name| is_repository(name)) || repositories.len() > MAX_REPOSITORIES {
            return Err(refused("`repositories` is a list of names without their owner: `repositories=shop,api`"));
        }
        let mut permissions = BTreeMap::new();
        for word in words("permissions") {
            let pair = word.split_once(':').filter(|(name, level)| is_permission(name) && LEVELS.contains(level));
            let is_new =
                pair.is_some_and(|(name, level)| permissions.insert(name.to_owned(), level.to_owned()).is_none());
            if !is_new {
                return Err(refused(
                    "`permissions` is a list of names and levels (`read`, `write`, `admin`): `permissions=contents:read,issues:write`",
                ));
            }
        }
        Ok(Self { place, repositories, permissions })
    }

    /// Returns the body of the request.
    pub(super) fn body(&self) -> String {
        let mut body = Map::new();
        if !self.repositories.is_empty() {
            body.insert("repositories".to_owned(), json!(self.repositories));
        }
        if !self.permissions.is_empty() {
            body.insert("permissions".to_owned(), json!(self.permissions));
        }
        serde_json::Value::Object(body).to_string()
    }
}

fn is_account(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (1..=100).contains(&text.len()) && plain && !text.starts_with('-')
}

fn is_repository(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (1..=100).contains(&text.len()) && plain
}

fn is_permission(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn refused(cause: &str) -> Fault {
    Fault::new(ErrorKind::Unsupported, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, Fault> {
        Wanted::of(&text.parse().unwrap())
    }

    #[test]
    fn a_reference_says_where_and_how_little() {
        let read = wanted("gh://42?repositories=shop,api&permissions=contents:read,issues:write").unwrap();
        assert_eq!(read.place, Place::Installation(42));
        assert_eq!(
            read.body(),
            r#"{"permissions":{"contents":"read","issues":"write"},"repositories":["shop","api"]}"#
        );
        let all = wanted("gh://Shop-Org").unwrap();
        assert_eq!((all.place.clone(), all.body().as_str()), (Place::Account("Shop-Org".to_owned()), "{}"));
    }

    #[test]
    fn what_github_has_no_name_for_is_refused_before_anything_is_sent() {
        for text in [
            "gh://shop/web",
            "gh://-shop",
            "gh://42/../../user",
            "gh://42?version=1",
            "gh://42?repositories=shop/web",
            "gh://42?repositories=web,",
            "gh://42?permissions=contents",
            "gh://42?permissions=contents:all",
            "gh://42?permissions=contents:read,contents:write",
        ] {
            assert_eq!(wanted(text).unwrap_err().kind, ErrorKind::Unsupported, "{text}");
        }
    }
}
