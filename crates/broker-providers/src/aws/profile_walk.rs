//! What a profile of AWS leads to: where its first credentials come from, and the roles that are assumed one after the
//! other from there (`source_profile`).
//!
//! The SDK has such a walk of its own, but it sends what it finds to the addresses that the environment of its process
//! names, and it knows nothing of a person who signed in with us. Source: "Assume role credential provider" and "IAM
//! Identity Center credential provider", AWS SDKs and Tools Reference Guide.

use aws_credential_types::Credentials;
use aws_runtime::env_config::section::{EnvConfigSections, Profile};

/// A profile, walked to its end.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) base: Base,
    /// The roles in the order in which they are assumed.
    pub(crate) roles: Vec<Role>,
}

/// Where the first credentials come from.
#[derive(Debug)]
pub(crate) enum Base {
    /// Keys in the file.
    Keys(Credentials),
    /// The caller's variables.
    Environment,
    /// The metadata service of the machine.
    Metadata,
    /// A person who signs in to IAM Identity Center.
    Sso(SsoProfile),
    /// A command that prints them.
    Process(String),
    /// A token file exchanged for a role.
    WebIdentity { role: String, token_file: String, session: Option<String> },
}

/// A role to be assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
    pub(crate) session_name: Option<String>,
}

/// A portal, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SsoProfile {
    pub(crate) portal: Portal,
    /// The account and the role, where the profile names them.
    pub(crate) role: Option<(String, String)>,
}

/// A portal of IAM Identity Center.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Portal {
    /// The name of the `sso-session`, none for a profile that says everything itself.
    pub(crate) session: Option<String>,
    pub(crate) start_url: String,
    pub(crate) region: String,
}

/// Why a profile leads nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WalkError {
    /// There is none of that name.
    #[error("the profile `{0}` is not defined")]
    NoProfile(String),
    /// There is no such `sso-session`.
    #[error("there is no `[sso-session {0}]` in the AWS configuration")]
    NoSession(String),
    /// Something is left out.
    #[error("`{0}` has no `{1}`")]
    Missing(String, &'static str),
    /// It leads back to where it came from.
    #[error("the profile `{0}` leads back to itself through `source_profile`")]
    Circle(String),
    /// A source that is not used here.
    #[error("the profile `{profile}` takes its credentials from `{source_name}`, which counts nowhere here")]
    Source { profile: String, source_name: String },
    /// A command by a relative name.
    #[error("`credential_process` of `{0}` must be an absolute path: the broker has a search path of its own")]
    Relative(String),
}

/// Walks from the profile `name` to where its credentials come from; nothing where it says nothing of signing in.
///
/// # Errors
/// A profile that is named and not there, or one that leads nowhere. A missing `default` is nothing.
pub(crate) fn walk(profiles: &EnvConfigSections, name: &str, is_named: bool) -> Result<Option<Walk>, WalkError> {
    let mut roles = Vec::new();
    let mut visited: Vec<String> = Vec::new();
    let mut name = name.to_owned();
    loop {
        let Some(profile) = profiles.get_profile(&name) else {
            let is_wanted = is_named || !visited.is_empty();
            return if is_wanted { Err(WalkError::NoProfile(name)) } else { Ok(None) };
        };
        // The keys of a profile that another one, or itself, names as its source are that source.
        let keys = keys(profile).filter(|_| !visited.is_empty());
        if let Some(keys) = keys {
            roles.reverse();
            return Ok(Some(Walk { base: Base::Keys(keys), roles }));
        }
        if visited.contains(&name) {
            return Err(WalkError::Circle(name));
        }
        let web = profile.get("web_identity_token_file");
        let Some(arn) = profile.get("role_arn").filter(|_| web.is_none()) else {
            let base = base(profiles, &name, profile)?;
            roles.reverse();
            return Ok(base.map(|base| Walk { base, roles }));
        };
        roles.push(Role {
            arn: arn.to_owned(),
            external_id: profile.get("external_id").map(str::to_owned),
            session_name: profile.get("role_session_name").map(str::to_owned),
        });
        match (profile.get("source_profile"), profile.get("credential_source")) {
            (Some(source), _) => {
                visited.push(std::mem::replace(&mut name, source.to_owned()));
            }
            (None, Some(source)) => {
                let base = match source {
                    "Environment" => Base::Environment,
                    "Ec2InstanceMetadata" => Base::Metadata,
                    _ => return Err(WalkError::Source { profile: name, source_name: source.to_owned() }),
                };
                roles.reverse();
                return Ok(Some(Walk { base, roles }));
            }
            (None, None) => return Err(WalkError::Missing(name, "source_profile")),
        }
    }
}

/// Reads where the credentials of a profile without a role come from.
fn base(profiles: &EnvConfigSections, name: &str, profile: &Profile) -> Result<Option<Base>, WalkError> {
    if let Some(token_file) = profile.get("web_identity_token_file") {
        let role = profile.get("role_arn").ok_or_else(|| WalkError::Missing(name.to_owned(), "role_arn"))?;
        let session = profile.get("role_session_name").map(str::to_owned);
        let (role, token_file) = (role.to_owned(), token_file.to_owned());
        return Ok(Some(Base::WebIdentity { role, token_file, session }));
    }
    if let Some(portal) = portal_of(profiles, name, profile)? {
        return Ok(Some(Base::Sso(SsoProfile { portal, role: sso_role(profile) })));
    }
    if let Some(command) = profile.get("credential_process") {
        if !command.trim_start().trim_start_matches(['"', '\'']).starts_with('/') {
            return Err(WalkError::Relative(name.to_owned()));
        }
        return Ok(Some(Base::Process(command.to_owned())));
    }
    Ok(keys(profile).map(Base::Keys))
}

fn portal_of(profiles: &EnvConfigSections, name: &str, profile: &Profile) -> Result<Option<Portal>, WalkError> {
    if let Some(session) = profile.get("sso_session") {
        return portal(profiles, session).map(Some);
    }
    let Some(start_url) = profile.get("sso_start_url") else { return Ok(None) };
    let region = profile.get("sso_region").ok_or_else(|| WalkError::Missing(name.to_owned(), "sso_region"))?;
    Ok(Some(Portal { session: None, start_url: start_url.to_owned(), region: region.to_owned() }))
}

/// Reads an `sso-session`.
pub(crate) fn portal(profiles: &EnvConfigSections, session: &str) -> Result<Portal, WalkError> {
    let section = profiles.sso_session(session).ok_or_else(|| WalkError::NoSession(session.to_owned()))?;
    let read = |key| section.get(key).map(str::to_owned).ok_or_else(|| WalkError::Missing(session.to_owned(), key));
    let (start_url, region) = (read("sso_start_url")?, read("sso_region")?);
    Ok(Portal { session: Some(session.to_owned()), start_url, region })
}

/// Reads the account and the role that a profile wants of its portal.
pub(crate) fn sso_role(profile: &Profile) -> Option<(String, String)> {
    Some((profile.get("sso_account_id")?.to_owned(), profile.get("sso_role_name")?.to_owned()))
}

fn keys(profile: &Profile) -> Option<Credentials> {
    Some(Credentials::new(
        profile.get("aws_access_key_id")?,
        profile.get("aws_secret_access_key")?,
        profile.get("aws_session_token").map(str::to_owned),
        None,
        "a profile",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

    fn walked(config: &str, name: &str) -> Result<Option<Walk>, WalkError> {
        let files = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Config, config).build();
        let profiles = crate::aws::profile::parse(&files).expect("it is a profile file");
        walk(&profiles, name, true)
    }

    #[test]
    fn roles_are_assumed_from_the_far_end() {
        let config = "[profile a]\nrole_arn=arn:a\nsource_profile=b\nexternal_id=x\n\
            [profile b]\nrole_arn=arn:b\nsource_profile=c\nrole_session_name=me\n\
            [profile c]\naws_access_key_id=AKIAC\naws_secret_access_key=x\n";
        let Ok(Some(Walk { base: Base::Keys(keys), roles })) = walked(config, "a") else { panic!("no keys") };
        assert_eq!(keys.access_key_id(), "AKIAC");
        let role = |arn: &str, external_id: Option<&str>, session_name: Option<&str>| Role {
            arn: arn.into(),
            external_id: external_id.map(str::to_owned),
            session_name: session_name.map(str::to_owned),
        };
        assert_eq!(roles, [role("arn:b", None, Some("me")), role("arn:a", Some("x"), None)]);
    }

    #[test]
    fn a_profile_may_be_the_source_of_its_own_role() {
        let config =
            "[profile a]\nrole_arn=arn:a\nsource_profile=a\naws_access_key_id=AKIAA\naws_secret_access_key=x\n";
        let Ok(Some(Walk { base: Base::Keys(_), roles })) = walked(config, "a") else { panic!("no keys") };
        assert_eq!(roles.len(), 1);
    }

    #[test]
    fn what_leads_nowhere_says_why() {
        let no = |config: &'static str| walked(config, "a").expect_err("it leads nowhere").to_string();
        let circle = "[profile a]\nrole_arn=arn:a\nsource_profile=b\n[profile b]\nrole_arn=arn:b\nsource_profile=a\n";
        assert!(no(circle).contains("back to itself"));
        assert!(no("[profile a]\nrole_arn=arn:a\nsource_profile=b\n").contains("`b` is not defined"));
        assert!(no("[profile a]\nrole_arn=arn:a\ncredential_source=EcsContainer\n").contains("EcsContainer"));
        assert!(no("[profile a]\nsso_session=corp\n").contains("[sso-session corp]"));
        assert!(no("[profile a]\ncredential_process=aws-vault export\n").contains("absolute"));
        assert!(walked("[profile a]\nregion=x\n", "a").is_ok_and(|walk| walk.is_none()));
    }

    #[test]
    fn a_session_says_where_to_sign_in_and_the_profile_as_what() {
        let config = "[profile a]\nsso_session=corp\nsso_account_id=111122223333\nsso_role_name=Reader\n\
            [sso-session corp]\nsso_start_url=https://corp.example/start\nsso_region=eu-north-1\n";
        let Ok(Some(Walk { base: Base::Sso(sso), .. })) = walked(config, "a") else { panic!("no portal") };
        assert_eq!(sso.role, Some(("111122223333".into(), "Reader".into())));
        assert_eq!((sso.portal.session.as_deref(), sso.portal.region.as_str()), (Some("corp"), "eu-north-1"));
    }
}
