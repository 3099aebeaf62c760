//! What a reference's path names in Google Cloud Secret Manager.
//!
//! Four forms: `SECRET` in the instance's own project, `PROJECT/SECRET`, and the full names
//! `projects/PROJECT/secrets/SECRET` and `projects/PROJECT/locations/LOCATION/secrets/SECRET`, which may end in
//! `/versions/VERSION`. The forms cannot be mistaken for one another: a full name has four parts or more. Every part
//! consists of characters that mean themselves in a URL, so a path that holds anything else names nothing, and nobody is
//! asked. Source: the resource names in the reference of the Secret Manager API, v1.

use broker_core::reference::{SecretRef, Version};

use crate::fault::Fault;
use crate::provider::ErrorKind;

/// What stands in for the parts that a short path leaves out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) project: Option<String>,
    /// Applies to the two short forms: a full name says itself where it is.
    pub(crate) location: Option<String>,
}

/// Where secrets live: all that share a list and an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) project: String,
    pub(crate) location: Option<String>,
}

/// One version of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) parent: Parent,
    pub(crate) secret: String,
    pub(crate) version: Wanted,
}

/// Which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The one made last.
    Latest,
    /// The newest enabled one before the latest.
    Previous,
    /// By its number or an alias.
    Named(String),
}

impl Parent {
    /// Returns its resource name.
    pub(crate) fn name(&self) -> String {
        match &self.location {
            None => format!("projects/{}", self.project),
            Some(location) => format!("projects/{}/locations/{location}", self.project),
        }
    }
}

impl Target {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a path that names nothing, for a stage that there is not, and for a version that is
    /// said twice; [`ErrorKind::NotFound`] for a version that cannot be one.
    pub(crate) fn of(reference: &SecretRef, defaults: &Defaults) -> Result<Self, Fault> {
        let (parent, secret, in_path) = read_path(&reference.path, defaults)?;
        let version = match (&reference.version, in_path) {
            (Version::Current, None) => Wanted::Latest,
            (Version::Current, Some(version)) => named(version)?,
            (Version::Id(version), None) => named(version)?,
            (Version::Previous, None) => Wanted::Previous,
            (Version::Pending, _) => return Err(refuse("there is no pending stage in Secret Manager")),
            (_, Some(_)) => return Err(refuse("the version is said twice, in the path and after `?`")),
        };
        Ok(Self { parent, secret, version })
    }

    /// Returns the secret's resource name.
    pub(crate) fn secret_name(&self) -> String {
        format!("{}/secrets/{}", self.parent.name(), self.secret)
    }

    /// Returns the resource name of one of its versions.
    pub(crate) fn version_name(&self, version: &str) -> String {
        format!("{}/versions/{version}", self.secret_name())
    }
}

/// What a listing is asked for: the secrets of `parent` whose id begins with `secret`. Paths that are found are written
/// as the prefix is: `stem` and the id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) parent: Parent,
    pub(crate) secret: String,
    pub(crate) stem: String,
}

impl Listing {
    /// Reads a prefix; nothing when no path can begin like that.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when it is not said in which project, or when the instance's own makes no sense.
    pub(crate) fn of(prefix: &str, defaults: &Defaults) -> Result<Option<Self>, Fault> {
        // The id is what follows the last slash: everything before must be whole.
        let (stem, secret) = prefix.rfind('/').map_or(("", prefix), |at| prefix.split_at(at + 1));
        // Any id makes it a path. What the instance itself says wrongly is its own fault, and no prefix's.
        let path = format!("{stem}x");
        let parent = match read_path(&path, defaults) {
            Err(fault) if stem.is_empty() => return Err(fault),
            read => read.ok().filter(|read| read.2.is_none()).map(|read| read.0),
        };
        let fits = secret.bytes().all(is_id_byte);
        Ok(parent.filter(|_| fits).map(|parent| Self { parent, secret: secret.to_owned(), stem: stem.to_owned() }))
    }
}

fn read_path<'a>(path: &'a str, defaults: &Defaults) -> Result<(Parent, String, Option<&'a str>), Fault> {
    let parts: Vec<&str> = path.split('/').collect();
    let (project, location, secret, version) = match parts.as_slice() {
        [secret] => (defaults.project.as_deref().ok_or_else(no_project)?, defaults.location.as_deref(), *secret, None),
        [project, secret] => (*project, defaults.location.as_deref(), *secret, None),
        ["projects", project, "secrets", secret] => (*project, None, *secret, None),
        ["projects", project, "secrets", secret, "versions", version] => (*project, None, *secret, Some(*version)),
        ["projects", project, "locations", location, "secrets", secret] => (*project, Some(*location), *secret, None),
        ["projects", project, "locations", location, "secrets", secret, "versions", version] => {
            (*project, Some(*location), *secret, Some(*version))
        }
        _ => return Err(refuse("the path must be SECRET, PROJECT/SECRET or projects/PROJECT/secrets/SECRET")),
    };
    if secret.is_empty() || secret.len() > 255 || !secret.bytes().all(is_id_byte) {
        return Err(refuse("the name of a secret is letters, digits, `-` and `_`, at most 255 of them"));
    }
    if !is_project(project) {
        return Err(refuse("the project must be its id or its number"));
    }
    if !location.is_none_or(is_location) {
        return Err(refuse("the location must be a region such as `europe-west3`"));
    }
    let parent = Parent { project: project.to_owned(), location: location.map(str::to_owned) };
    Ok((parent, secret.to_owned(), version))
}

fn named(version: &str) -> Result<Wanted, Fault> {
    if version == "latest" {
        return Ok(Wanted::Latest);
    }
    let is_number = !version.starts_with('0') && version.len() < 20 && version.bytes().all(|b| b.is_ascii_digit());
    let is_alias = version.starts_with(|c: char| c.is_ascii_alphabetic()) && version.len() < 64;
    if !version.is_empty() && (is_number || is_alias) && version.bytes().all(is_id_byte) {
        return Ok(Wanted::Named(version.to_owned()));
    }
    Err(Fault::new(ErrorKind::NotFound, "a version is a number or an alias"))
}

fn is_id_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}

/// An id, a number, or an older id with its domain, `example.com:shop`.
fn is_project(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 100 && text.bytes().all(fits)
}

/// A region becomes part of a host name: nothing else may pass.
pub(crate) fn is_location(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 40 && text.bytes().all(fits)
}

fn no_project() -> Fault {
    refuse("it is not said in which project")
}

fn refuse(cause: &str) -> Fault {
    Fault::new(ErrorKind::Unsupported, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str, defaults: &Defaults) -> Result<(String, Wanted), ErrorKind> {
        let reference: SecretRef = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let target = Target::of(&reference, defaults).map_err(|fault| fault.kind)?;
        Ok((target.secret_name(), target.version))
    }

    fn shop() -> Defaults {
        Defaults { project: Some("shop-dev".to_owned()), location: None }
    }

    #[test]
    fn each_form_names_what_it_says() {
        let full = |name: &str, version: Wanted| Ok((name.to_owned(), version));
        let number = || Wanted::Named("3".to_owned());
        for (text, expected) in [
            ("g://key", full("projects/shop-dev/secrets/key", Wanted::Latest)),
            ("g://key?version=3", full("projects/shop-dev/secrets/key", number())),
            ("g://key?version=good", full("projects/shop-dev/secrets/key", Wanted::Named("good".to_owned()))),
            ("g://key?version=latest", full("projects/shop-dev/secrets/key", Wanted::Latest)),
            ("g://key?stage=previous", full("projects/shop-dev/secrets/key", Wanted::Previous)),
            ("g://web/key", full("projects/web/secrets/key", Wanted::Latest)),
            ("g://projects/key", full("projects/projects/secrets/key", Wanted::Latest)),
            ("g://projects/42/secrets/key", full("projects/42/secrets/key", Wanted::Latest)),
            ("g://projects/web/secrets/key/versions/3", full("projects/web/secrets/key", number())),
            (
                "g://projects/web/locations/europe-west3/secrets/key",
                full("projects/web/locations/europe-west3/secrets/key", Wanted::Latest),
            ),
            (
                "g://projects/web/locations/europe-west3/secrets/key/versions/latest",
                full("projects/web/locations/europe-west3/secrets/key", Wanted::Latest),
            ),
        ] {
            assert_eq!(target(text, &shop()), expected, "{text}");
        }
        let regional = Defaults { location: Some("europe-west3".to_owned()), ..shop() };
        let there = |name: &str| Ok((format!("projects/{name}"), Wanted::Latest));
        assert_eq!(target("g://key", &regional), there("shop-dev/locations/europe-west3/secrets/key"));
        assert_eq!(target("g://projects/web/secrets/key", &regional), there("web/secrets/key"));
    }

    #[test]
    fn what_names_nothing_is_refused_before_anybody_is_asked() {
        for text in [
            "g://a%20b",
            "g://a.b",
            "g:///key",
            "g://web/",
            "g://a/b/c",
            "g://..",
            "g://web/..",
            "g://../key",
            "g://web%2F..%2Fkey/x/y",
            "g://k%C3%A9y",
            "g://key:access",
            "g://WEB/key",
            "g://projects/web/secrets/key/",
            "g://projects/web/secrets/key/versions",
            "g://projects/web/locations/evil.example%2F/secrets/key",
            "g://projects/web/locations/evil.example/secrets/key",
            "g://projects/web/secrets/key/versions/3?version=4",
            "g://key?stage=pending",
        ] {
            assert_eq!(target(text, &shop()), Err(ErrorKind::Unsupported), "{text}");
        }
        assert_eq!(target("g://key", &Defaults::default()), Err(ErrorKind::Unsupported));
        for text in ["g://key?version=0", "g://key?version=03", "g://key?version=1a", "g://key?version=a:access"] {
            assert_eq!(target(text, &shop()), Err(ErrorKind::NotFound), "{text}");
        }
    }

    #[test]
    fn a_prefix_lists_the_project_that_its_paths_would_name() {
        let listing = |prefix: &str| {
            let listing = Listing::of(prefix, &shop()).unwrap_or_else(|fault| panic!("{prefix}: {fault:?}"));
            listing.map(|listing| (listing.parent.name(), listing.stem, listing.secret))
        };
        let of = |parent: &str, stem: &str, secret: &str| Some((parent.to_owned(), stem.to_owned(), secret.to_owned()));
        assert_eq!(listing(""), of("projects/shop-dev", "", ""));
        assert_eq!(listing("db-"), of("projects/shop-dev", "", "db-"));
        assert_eq!(listing("web/db"), of("projects/web", "web/", "db"));
        assert_eq!(listing("projects/web/secrets/"), of("projects/web", "projects/web/secrets/", ""));
        for nothing in ["a b", "projects/web/secrets/key/versions/", "a/b/c"] {
            assert_eq!(listing(nothing), None, "{nothing}");
        }
        assert!(Listing::of("", &Defaults::default()).is_err());
    }

    #[test]
    fn a_location_of_the_instance_that_is_no_region_reaches_no_host_in_a_listing_either() {
        for location in ["evil.example/", "evil.example#", "a@evil.example", ""] {
            let defaults = Defaults { location: Some(location.to_owned()), ..shop() };
            for prefix in ["", "db-"] {
                assert_eq!(Listing::of(prefix, &defaults).unwrap_err().kind, ErrorKind::Unsupported, "{location}");
            }
            assert_eq!(Listing::of("web/db", &defaults), Ok(None), "{location}");
        }
    }
}
