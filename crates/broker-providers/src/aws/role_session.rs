//! One session of a role that is made for somebody: its name, its tags and its policy, as `AssumeRole` takes them.
//!
//! The name of the session is `PERSON@ID`, where the id is that of the scope or of the run, so that the log of the account
//! and ours join on it; it is never cut. Nothing is left out to please a trust policy: one that refuses the tags or the source
//! identity is an error. Source: `AssumeRole` of the STS API Reference, version 2011-06-15.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::operation::assume_role::builders::AssumeRoleFluentBuilder;
use aws_sdk_sts::types::{PolicyDescriptorType, Tag};
use broker_core::lease::LeaseId;
use broker_core::scope::Scope;

/// The shortest life of a session that AWS issues.
pub(crate) const SHORTEST: Duration = Duration::from_secs(900);
/// Longest `RoleSessionName`, and longest `SourceIdentity`.
const MAX_NAME: usize = 64;
/// Longest value of a tag, in characters.
const MAX_TAG: usize = 256;

/// How a session is asked for.
#[derive(Clone, Debug)]
pub(crate) struct RoleSession {
    /// The ARN of the role.
    pub(crate) role: String,
    pub(crate) external_id: Option<String>,
    /// How long it lives, in whole seconds.
    pub(crate) duration: Duration,
    /// The inline session policy.
    pub(crate) policy: Option<String>,
    /// The ARNs of managed session policies.
    pub(crate) policy_arns: Vec<String>,
    pub(crate) whom: Whom,
}

/// For whom a session is, as AWS writes it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whom {
    name: String,
    source_identity: Option<String>,
    tags: Vec<(&'static str, String)>,
}

impl Whom {
    /// Says it of a scope: of its run where it is of one alone, else of all that share its session.
    pub(crate) fn of(scope: &Scope) -> Self {
        Self::named(scope, scope.lease)
    }

    /// Says it of one run in a scope.
    pub(crate) fn of_run(scope: &Scope, lease: LeaseId) -> Self {
        Self::named(scope, Some(lease))
    }

    fn named(scope: &Scope, lease: Option<LeaseId>) -> Self {
        let id = lease.map_or_else(|| scope.session.to_string(), |lease| lease.to_string());
        let person: String = scope.person.chars().map(|c| if is_of_names(c) { c } else { '-' }).collect();
        let cut = |most: usize| &person[..person.len().min(most)];
        let name = match cut(MAX_NAME - id.len() - 1) {
            "" => id,
            person => format!("{person}@{id}"),
        };
        let source_identity = match cut(MAX_NAME) {
            "" => None,
            // AWS takes no name of one character.
            person if person.len() == 1 => Some(format!("{person}_")),
            person => Some(person.to_owned()),
        };
        let mut tags = vec![
            ("broker:project", tag_value(&scope.project)),
            ("broker:profile", tag_value(&scope.profile)),
            ("broker:session", scope.session.to_string()),
            ("broker:tier", scope.tier.word().to_owned()),
        ];
        tags.extend(lease.map(|lease| ("broker:lease", lease.to_string())));
        tags.retain(|(_, value)| !value.is_empty());
        Self { name, source_identity, tags }
    }
}

/// Tells whether `c` may stand in the name of a session and in a source identity: `[\w+=,.@-]`.
fn is_of_names(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

/// Makes a text fit to be the value of a tag: `[\p{L}\p{Z}\p{N}_.:/=+\-@]`, at most 256.
fn tag_value(text: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
    text.chars().take(MAX_TAG).map(|c| if fits(c) { c } else { '_' }).collect()
}

impl RoleSession {
    /// Returns the request for it.
    pub(crate) fn request(&self, client: &Client) -> AssumeRoleFluentBuilder {
        let tag = |(key, value): &(&str, String)| Tag::builder().key(*key).value(value).build().ok();
        let arns = self.policy_arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build());
        let arns: Vec<_> = arns.collect();
        client
            .assume_role()
            .role_arn(&self.role)
            .role_session_name(&self.whom.name)
            .set_source_identity(self.whom.source_identity.clone())
            // Key and value are both there, so every tag is one.
            .set_tags(Some(self.whom.tags.iter().filter_map(tag).collect()))
            .duration_seconds(i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX))
            .set_external_id(self.external_id.clone())
            .set_policy(self.policy.clone())
            .set_policy_arns((!arns.is_empty()).then_some(arns))
    }
}

/// Returns the STS that `base` asks.
pub(crate) fn client(sts: &SdkConfig, base: SharedCredentialsProvider) -> Client {
    // The credentials are kept where they come from.
    let config = sts.clone().into_builder().credentials_provider(base).identity_cache(IdentityCache::no_cache());
    Client::new(&config.build())
}

/// The keys of such a session, asked for anew each time.
#[derive(Debug)]
pub(crate) struct RoleKeys {
    asked: RoleSession,
    client: Client,
}

impl RoleKeys {
    pub(crate) fn new(asked: RoleSession, sts: &SdkConfig, base: SharedCredentialsProvider) -> Self {
        Self { asked, client: client(sts, base) }
    }

    async fn credentials(&self) -> provider::Result {
        let answer = self.asked.request(&self.client).send().await.map_err(CredentialsError::provider_error)?;
        let issued = answer.credentials.ok_or_else(|| CredentialsError::unhandled("STS issued no credentials"))?;
        let expiry = issued.expiration.try_into().map_err(CredentialsError::unhandled)?;
        let (id, key, token) = (issued.access_key_id, issued.secret_access_key, issued.session_token);
        Ok(Credentials::new(id, key, Some(token), Some(expiry), "AssumeRole"))
    }
}

impl ProvideCredentials for RoleKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use broker_core::principal::Tier;

    use super::*;

    fn scope(project: &str, profile: &str, person: &str) -> Scope {
        Scope::new(&[7; 32], project, profile, person, Tier::Agent, [])
    }

    #[test]
    fn the_id_is_never_cut_and_the_person_is_as_far_as_there_is_room() {
        let long = "p".repeat(100);
        for (person, name, source) in [
            ("ada", "ada@", Some("ada")),
            ("ada lovelace/ä*", "ada-lovelace---@", Some("ada-lovelace---")),
            ("a", "a@", Some("a_")),
            ("", "", None),
            (&long, &format!("{}@", "p".repeat(37)), Some(&long[..64])),
        ] {
            let scope = scope("shop", "dev", person);
            let whom = Whom::of(&scope);
            assert_eq!(whom.name, format!("{name}{}", scope.session), "{person}");
            assert_eq!(whom.source_identity.as_deref(), source, "{person}");
            assert!(whom.name.len() <= 64);
        }
    }

    #[test]
    fn a_session_of_one_run_bears_the_id_of_the_run() {
        let lease = LeaseId::from_random([3; 24]);
        let scope = scope("shop", "dev", "ada");
        for whom in [Whom::of(&scope.of_run(lease)), Whom::of_run(&scope, lease)] {
            assert_eq!(whom.name, format!("ada@{lease}"));
            assert!(whom.tags.contains(&("broker:lease", lease.to_string())), "{whom:?}");
        }
        assert!(!Whom::of(&scope).tags.iter().any(|(key, _)| *key == "broker:lease"));
    }

    #[test]
    fn a_tag_holds_what_aws_takes_and_an_empty_one_is_left_out() {
        let whom = Whom::of(&scope("shop (new)*\u{7}é", "", "ada"));
        let tags: Vec<_> = whom.tags.iter().map(|(key, _)| *key).collect();
        assert_eq!(tags, ["broker:project", "broker:session", "broker:tier"]);
        assert_eq!(whom.tags[0].1, "shop _new___é");
        assert_eq!(whom.tags[2].1, "agent");
        assert_eq!(tag_value(&"é".repeat(300)).chars().count(), 256);
    }
}
