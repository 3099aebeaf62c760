//! The standard credential chain of AWS, with the caller's variables in place of our own.
//!
//! `aws_config`'s loader reads the environment of its own process, which here is the daemon's and belongs to nobody. So
//! the chain is put together from its parts, in the order of the SDKs: keys in variables, the profile (static keys, a
//! sign-in to IAM Identity Center, `credential_process`, role chains), a web identity, the instance's metadata service.
//! The instance's own `session` or `profile` comes first and alone; then its `assume-role`s, one from the other. Source:
//! "Standardized credential providers", AWS SDKs and Tools Reference Guide. Container credentials are left out: their
//! variables carry an address, and addresses never travel.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use broker_core::instance::Words;
use broker_core::sign_in::SignIn;

use crate::aws::keys::Kept;
use crate::aws::login::{AwsLogin, PortalKeys};
use crate::aws::process::Process;
use crate::aws::profile::{self, ProfileError};
use crate::aws::profile_walk::{Base, Portal, Role, SsoProfile, Walk, WalkError, portal, sso_role, walk};
use crate::aws::source::{Keys, Machine, Metadata, Nobody, WebIdentity};
use crate::aws::sso::AwsSso;
use crate::fault::Fault;
use crate::file_stamp::FilesStamp;
use crate::provider::ErrorKind;
use crate::registry::Opening;
use crate::rest::Rest;
use crate::sign_ins::SignIns;

/// The caller's variables that are read.
pub(crate) const SIGN_IN_ENV: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// The variables that are or lead to a credential of AWS, whether we read them or only the child's SDK would: older names
/// (boto 2, the SDK for Java 1) and those of containers too.
pub(crate) const BOOTSTRAP_ENV: &[&str] = &[
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// The session name in AWS's own records.
const SESSION_NAME: &str = "broker";

/// What signing in needs to know.
#[derive(Debug)]
pub(crate) struct SignInPlan {
    sign_in: SignIn,
    profile: Option<String>,
    region: Option<String>,
    session: Option<String>,
    roles: Vec<Role>,
    endpoint_sts: Option<String>,
    endpoint_sso: Option<String>,
    /// Whether the addresses are the services' own or stand in configuration: what the caller has on disk may go there.
    is_trusted: bool,
    external_id: Option<String>,
    session_ttl: Option<Duration>,
    http: SharedHttpClient,
    /// The same connections, counting into the instance's calls.
    counted: SharedHttpClient,
    rest: Result<Rest, Fault>,
    sign_ins: Arc<SignIns>,
    /// Whether a person can sign in with us, as far as is known.
    has_login: AtomicBool,
}

/// A region, and who signs.
#[derive(Clone, Debug)]
pub(crate) struct SignedIn {
    pub(crate) region: Region,
    pub(crate) credentials: SharedCredentialsProvider,
    /// Who asks for the last role of the instance's `assume-role`, where there is one.
    pub(crate) before: Option<SharedCredentialsProvider>,
    /// How STS is reached for sessions that are cut for somebody; its requests are calls of the instance.
    pub(crate) sts: SdkConfig,
}

/// Why there is nobody to sign in as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    /// There is no region to talk to.
    #[error("no region is configured")]
    NoRegion,
    /// A profile file does not count.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A profile leads nowhere.
    #[error("{}", crate::words::safe(&.0.to_string()))]
    Walk(#[from] WalkError),
    /// A token of the caller would go to an address that a manifest names.
    #[error("the web identity of the caller is not shown to an address that a manifest names")]
    Elsewhere,
}

impl SignInPlan {
    pub(crate) fn new(opening: &Opening<'_>) -> Self {
        let settings = opening.settings;
        let names = settings.assume_role.as_ref().map(Words::as_slice).unwrap_or_default();
        let role = |(at, arn): (usize, &String)| Role {
            arn: arn.clone(),
            // The owner of the last role asks for it; those before are one's own.
            external_id: settings.external_id.clone().filter(|_| at + 1 == names.len()),
            session_name: None,
        };
        Self {
            sign_in: opening.sign_in.clone(),
            profile: settings.profile.clone(),
            region: settings.region.clone(),
            session: settings.sso_session.clone(),
            roles: names.iter().enumerate().map(role).collect(),
            endpoint_sts: settings.endpoint_sts.clone().or_else(|| settings.endpoint.clone()),
            endpoint_sso: settings.endpoint_sso.clone().or_else(|| settings.endpoint.clone()),
            is_trusted: opening.fixed,
            external_id: settings.external_id.clone(),
            // Checked when the instance was opened.
            session_ttl: settings.session_ttl().ok().flatten(),
            http: opening.shared.transport.client(),
            counted: opening.shared.transport.counting(Arc::clone(&opening.calls)),
            rest: opening.shared.http.counting(Arc::default()),
            sign_ins: Arc::clone(&opening.shared.sign_ins),
            has_login: AtomicBool::new(settings.sso_session.is_some()),
        }
    }

    /// Checks what the settings say without asking anybody.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a role that is no ARN of one.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match self.roles.iter().find(|role| !is_role(&role.arn)) {
            None => Ok(()),
            Some(role) => {
                let said = crate::words::safe(&role.arn);
                let cause = format!(
                    "`assume-role` is the ARN of a role, such as `arn:aws:iam::111122223333:role/NAME`, and not `{said}`"
                );
                Err(Fault::new(ErrorKind::Unsupported, cause))
            }
        }
    }

    /// Returns the name of the AWS profile that applies, for hints.
    pub(crate) fn profile_name(&self) -> &str {
        self.profile.as_deref().or_else(|| self.sign_in.text("AWS_PROFILE")).unwrap_or("default")
    }

    /// Tells whether `broker login` can help, as far as is known.
    pub(crate) fn has_login(&self) -> bool {
        self.has_login.load(Ordering::Relaxed)
    }

    /// Returns the last role of the instance's own `assume-role`.
    pub(crate) fn last_role(&self) -> Option<&Role> {
        self.roles.last()
    }

    /// Returns what the owner of a role wants to hear.
    pub(crate) fn external_id(&self) -> Option<&str> {
        self.external_id.as_deref()
    }

    /// Returns how long a session lives, where the settings say it.
    pub(crate) fn session_ttl(&self) -> Option<Duration> {
        self.session_ttl
    }

    /// Returns the region that applies. Reads the profile files, and blocks for it, only where nothing else names it.
    pub(crate) fn region_now(&self) -> Result<Region, SignInError> {
        if let Some(region) = self.region(&EnvConfigSections::default()) {
            return Ok(region);
        }
        self.region(&profile::profiles(&self.sign_in)?).ok_or(SignInError::NoRegion)
    }

    /// Tells the state of the files that signing in reads, to notice that one was edited.
    pub(crate) fn files_stamp(&self) -> FilesStamp {
        profile::stamp(&self.sign_in)
    }

    /// Returns the way for a person to sign in, if the instance or its profile names a portal. Reads the profile files
    /// and blocks for it.
    pub(crate) fn login(&self) -> Result<Option<AwsLogin>, SignInError> {
        let profiles = profile::profiles(&self.sign_in)?;
        let portal = match &self.session {
            Some(session) => Some(portal(&profiles, session)?),
            None => match walk(&profiles, self.profile_name(), false)?.map(|walk| walk.base) {
                Some(Base::Sso(sso)) => Some(sso.portal),
                _ => None,
            },
        };
        Ok(portal.and_then(|portal| self.login_to(portal).ok()))
    }

    fn login_to(&self, portal: Portal) -> Result<AwsLogin, Fault> {
        let (rest, endpoint) = (self.rest.clone()?, self.endpoint_sso.clone());
        Ok(AwsLogin { sso: AwsSso { rest, portal, endpoint } })
    }

    /// Reads the profile files that apply. Blocks elsewhere.
    async fn profiles(&self) -> Result<EnvConfigSections, SignInError> {
        let sign_in = self.sign_in.clone();
        let read = tokio::task::spawn_blocking(move || profile::profiles(&sign_in)).await;
        // Reading files does not panic; if it did, there would be no profiles.
        Ok(read.unwrap_or_else(|_| Ok(EnvConfigSections::default()))?)
    }

    /// Puts the chain together. Reads the profile files; asks nobody.
    pub(crate) async fn prepare(&self) -> Result<SignedIn, SignInError> {
        let profiles = self.profiles().await?;
        let region = self.region(&profiles).ok_or(SignInError::NoRegion)?;
        let config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(self.http.clone())
            .with_retry_config(RetryConfig::standard().with_max_attempts(2))
            .with_timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).build());
        let sts = self.sts_config(&region, &self.http);
        let (mut credentials, mut roles) = self.source(&profiles, &config, &sts)?;
        credentials = Kept::around(credentials);
        roles.extend(self.roles.iter().cloned());
        let mut before = None;
        for role in roles {
            before = Some(credentials.clone());
            let mut assumed = AssumeRoleProvider::builder(&role.arn)
                .session_name(role.session_name.as_deref().unwrap_or(SESSION_NAME))
                .configure(&sts);
            if let Some(external_id) = &role.external_id {
                assumed = assumed.external_id(external_id);
            }
            let assumed = assumed.build_from_provider(credentials).await;
            credentials = Kept::around(SharedCredentialsProvider::new(assumed));
        }
        let before = before.filter(|_| !self.roles.is_empty());
        let sts = self.sts_config(&region, &self.counted);
        Ok(SignedIn { region, credentials, before, sts })
    }

    /// Returns who is signed in first, and the roles that the profile assumes from there.
    fn source(
        &self,
        profiles: &EnvConfigSections,
        config: &ProviderConfig,
        sts: &SdkConfig,
    ) -> Result<(SharedCredentialsProvider, Vec<Role>), SignInError> {
        if let Some(session) = &self.session {
            let role = profiles.get_profile(self.profile_name()).and_then(sso_role);
            let sso = SsoProfile { portal: portal(profiles, session)?, role };
            return Ok((self.portal_keys(sso), Vec::new()));
        }
        if let Some(keys) = self.keys().filter(|_| self.profile.is_none()) {
            return Ok((SharedCredentialsProvider::new(keys), Vec::new()));
        }
        let is_named = self.profile.is_some() || self.sign_in.text("AWS_PROFILE").is_some();
        let walked = walk(profiles, self.profile_name(), is_named)?;
        let Some(Walk { base, roles }) = walked else {
            let rest = Machine { web_identity: None, metadata: Metadata::off() };
            let rest = if self.profile.is_some() {
                rest
            } else {
                Machine { web_identity: self.web_identity(sts)?, metadata: self.metadata(config) }
            };
            return Ok((SharedCredentialsProvider::new(rest), Vec::new()));
        };
        let source = match base {
            Base::Keys(keys) => SharedCredentialsProvider::new(keys),
            Base::Environment => SharedCredentialsProvider::new(Keys(self.keys())),
            Base::Metadata => SharedCredentialsProvider::new(self.metadata(config)),
            Base::Sso(sso) => self.portal_keys(sso),
            Base::Process(command) => SharedCredentialsProvider::new(Process(command)),
            Base::WebIdentity { role, token_file, session } => {
                let identity = self.web_identity_of(sts, role, PathBuf::from(token_file), session)?;
                SharedCredentialsProvider::new(Machine { web_identity: Some(identity), metadata: Metadata::off() })
            }
        };
        Ok((source, roles))
    }

    fn portal_keys(&self, sso: SsoProfile) -> SharedCredentialsProvider {
        self.has_login.store(true, Ordering::Relaxed);
        match self.login_to(sso.portal) {
            Ok(login) => SharedCredentialsProvider::new(PortalKeys {
                cli: login.sso.endpoint.is_none() || self.is_trusted,
                login,
                sign_ins: Arc::clone(&self.sign_ins),
                role: sso.role,
            }),
            Err(fault) => SharedCredentialsProvider::new(Nobody(fault)),
        }
    }

    /// Returns the configuration of our own requests to STS.
    fn sts_config(&self, region: &Region, http: &SharedHttpClient) -> SdkConfig {
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http.clone())
            .time_source(SharedTimeSource::default())
            .retry_config(RetryConfig::standard().with_max_attempts(2));
        config.set_endpoint_url(self.endpoint_sts.clone());
        config.build()
    }

    fn region(&self, profiles: &EnvConfigSections) -> Option<Region> {
        let named = self
            .region
            .as_deref()
            .or_else(|| self.sign_in.text("AWS_REGION"))
            .or_else(|| self.sign_in.text("AWS_DEFAULT_REGION"))
            .or_else(|| profiles.get_profile(self.profile_name())?.get("region"));
        named.map(|region| Region::new(region.to_owned()))
    }

    /// Returns the keys in variables, if both are there.
    fn keys(&self) -> Option<Credentials> {
        Some(Credentials::new(
            self.sign_in.text("AWS_ACCESS_KEY_ID")?,
            self.sign_in.text("AWS_SECRET_ACCESS_KEY")?,
            self.sign_in.text("AWS_SESSION_TOKEN").map(str::to_owned),
            None,
            "the caller's variables",
        ))
    }

    fn web_identity(&self, sts: &SdkConfig) -> Result<Option<WebIdentity>, SignInError> {
        let (Some(role), Some(file)) =
            (self.sign_in.text("AWS_ROLE_ARN"), self.sign_in.text("AWS_WEB_IDENTITY_TOKEN_FILE"))
        else {
            return Ok(None);
        };
        let session = self.sign_in.text("AWS_ROLE_SESSION_NAME").map(str::to_owned);
        self.web_identity_of(sts, role.to_owned(), PathBuf::from(file), session).map(Some)
    }

    fn web_identity_of(
        &self,
        sts: &SdkConfig,
        role: String,
        token_file: PathBuf,
        session: Option<String>,
    ) -> Result<WebIdentity, SignInError> {
        if self.endpoint_sts.is_some() && !self.is_trusted {
            return Err(SignInError::Elsewhere);
        }
        let session = session.unwrap_or_else(|| SESSION_NAME.to_owned());
        Ok(WebIdentity { role, token_file, session, sts: aws_sdk_sts::Client::new(sts) })
    }

    fn metadata(&self, config: &ProviderConfig) -> Metadata {
        let is_off = self.sign_in.text("AWS_EC2_METADATA_DISABLED").is_some_and(|t| t.eq_ignore_ascii_case("true"));
        if is_off { Metadata::off() } else { Metadata::of(config) }
    }
}

/// Tells whether `arn` names a role: `arn:PARTITION:iam::ACCOUNT:role/NAME`.
pub(crate) fn is_role(arn: &str) -> bool {
    match arn.splitn(6, ':').collect::<Vec<_>>().as_slice() {
        ["arn", partition, "iam", "", account, role] => {
            partition.starts_with("aws")
                && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && role
                    .strip_prefix("role/")
                    .is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()))
        }
        _ => false,
    }
}
