//! The standard credential chain of AWS, with the caller's variables in place of our own.
//!
//! `aws_config`'s loader reads the environment of its own process, which here is the daemon's and belongs to nobody. So
//! the chain is put together from its public parts, in the order of the SDKs: keys in variables, the profile (static
//! keys, SSO, `credential_process`, role chains), a web identity, the instance's metadata service. The instance's own
//! `profile` comes first and alone. Source: "Standardized credential providers", AWS SDKs and Tools Reference Guide.
//! Container credentials are left out: their variables carry an address, and addresses never travel.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use broker_core::instance::InstanceSettings;
use broker_core::sign_in::SignIn;

use crate::aws_profile::{self, ProfileError};
use crate::file_stamp::FilesStamp;

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

/// How long one connection to the metadata service may take; elsewhere than on EC2 nobody answers there.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the whole metadata exchange may take.
const METADATA_BUDGET: Duration = Duration::from_secs(1);
const METADATA_ADDRESS: &str = "http://169.254.169.254";

/// What signing in needs to know.
#[derive(Debug)]
pub(crate) struct SignInPlan {
    sign_in: SignIn,
    profile: Option<String>,
    region: Option<String>,
    assume_role: Option<String>,
    endpoint_sts: Option<String>,
    http: SharedHttpClient,
}

/// A region, and who signs.
#[derive(Debug)]
pub(crate) struct SignedIn {
    pub(crate) region: Region,
    pub(crate) credentials: SharedCredentialsProvider,
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
}

impl SignInPlan {
    pub(crate) fn new(settings: &InstanceSettings, sign_in: SignIn, http: SharedHttpClient) -> Self {
        Self {
            sign_in,
            profile: settings.profile.clone(),
            region: settings.region.clone(),
            assume_role: settings.assume_role.as_ref().and_then(|roles| roles.as_slice().last().cloned()),
            endpoint_sts: settings.endpoint_sts.clone().or_else(|| settings.endpoint.clone()),
            http,
        }
    }

    /// Returns the name of the AWS profile that applies, for hints.
    pub(crate) fn profile_name(&self) -> &str {
        self.profile.as_deref().or_else(|| self.sign_in.text("AWS_PROFILE")).unwrap_or("default")
    }

    /// Tells the state of the files that signing in reads, to notice that one was edited.
    pub(crate) fn files_stamp(&self) -> FilesStamp {
        aws_profile::stamp(&self.sign_in)
    }

    /// Puts the chain together. Reads the profile files for the region; asks nobody.
    pub(crate) async fn prepare(&self) -> Result<SignedIn, SignInError> {
        let sign_in = self.sign_in.clone();
        let read = tokio::task::spawn_blocking(move || aws_profile::read(&sign_in)).await;
        // Reading files does not panic; if it did, there would be no files.
        let files = read.unwrap_or_else(|_| Ok(EnvConfigFiles::builder().build()))?;
        let region = self.region(&files).await.ok_or(SignInError::NoRegion)?;
        let config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_http_client(self.http.clone())
            .with_retry_config(RetryConfig::standard().with_max_attempts(2))
            .with_timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).build());
        let sts = self.sts_config(&region);
        let chain = SharedCredentialsProvider::new(Chain {
            keys: self.keys().filter(|_| self.profile.is_none()),
            profile: self.profile_provider(&config, files),
            only_profile: self.profile.is_some(),
            web_identity: self.web_identity(&sts),
            metadata: self.metadata(&config),
        });
        let credentials = match &self.assume_role {
            None => chain,
            Some(role) => SharedCredentialsProvider::new(
                AssumeRoleProvider::builder(role)
                    .session_name(SESSION_NAME)
                    .configure(&sts)
                    .build_from_provider(chain)
                    .await,
            ),
        };
        Ok(SignedIn { region, credentials })
    }

    /// Returns the configuration of our own requests to STS.
    fn sts_config(&self, region: &Region) -> SdkConfig {
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(self.http.clone())
            .time_source(SharedTimeSource::default())
            .retry_config(RetryConfig::standard().with_max_attempts(2));
        config.set_endpoint_url(self.endpoint_sts.clone());
        config.build()
    }

    async fn region(&self, files: &EnvConfigFiles) -> Option<Region> {
        let named = self
            .region
            .as_deref()
            .or_else(|| self.sign_in.text("AWS_REGION"))
            .or_else(|| self.sign_in.text("AWS_DEFAULT_REGION"));
        if let Some(region) = named {
            return Some(Region::new(region.to_owned()));
        }
        use aws_config::meta::region::ProvideRegion as _;
        aws_config::profile::ProfileFileRegionProvider::builder()
            .configure(&ProviderConfig::without_region())
            .profile_files(files.clone())
            .profile_name(self.profile_name())
            .build()
            .region()
            .await
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

    fn profile_provider(&self, config: &ProviderConfig, files: EnvConfigFiles) -> ProfileFileCredentialsProvider {
        ProfileFileCredentialsProvider::builder()
            .configure(config)
            .profile_files(files)
            .profile_name(self.profile_name())
            // The sources of the SDK would read the environment of the daemon.
            .with_custom_provider("Environment", Keys(self.keys()))
            .with_custom_provider("EcsContainer", Keys(None))
            .with_custom_provider("Ec2InstanceMetadata", Metadata(self.metadata(config)))
            .build()
    }

    fn web_identity(&self, sts: &SdkConfig) -> Option<WebIdentity> {
        let role = self.sign_in.text("AWS_ROLE_ARN")?.to_owned();
        let token_file = PathBuf::from(self.sign_in.text("AWS_WEB_IDENTITY_TOKEN_FILE")?);
        let session = self.sign_in.text("AWS_ROLE_SESSION_NAME").unwrap_or(SESSION_NAME).to_owned();
        Some(WebIdentity { role, token_file, session, sts: aws_sdk_sts::Client::new(sts) })
    }

    fn metadata(&self, config: &ProviderConfig) -> Option<ImdsCredentialsProvider> {
        if self.sign_in.text("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return None;
        }
        let client = aws_config::imds::Client::builder()
            .configure(config)
            // Named, since an endpoint in the environment or in a profile would be taken else.
            .endpoint(METADATA_ADDRESS)
            .ok()?
            .max_attempts(1)
            .connect_timeout(METADATA_TIMEOUT)
            .read_timeout(METADATA_TIMEOUT)
            .operation_timeout(METADATA_BUDGET)
            .build();
        Some(ImdsCredentialsProvider::builder().configure(config).imds_client(client).build())
    }
}

/// The session name in AWS's own records.
const SESSION_NAME: &str = "broker";

#[derive(Debug)]
struct Chain {
    keys: Option<Credentials>,
    profile: ProfileFileCredentialsProvider,
    only_profile: bool,
    web_identity: Option<WebIdentity>,
    metadata: Option<ImdsCredentialsProvider>,
}

impl Chain {
    async fn credentials(&self) -> provider::Result {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        // A source that is not set up lets the next one try; one that is and fails is the answer.
        match self.profile.provide_credentials().await {
            Err(CredentialsError::CredentialsNotLoaded(_)) if !self.only_profile => {}
            settled => return settled,
        }
        if let Some(web_identity) = &self.web_identity {
            return web_identity.credentials().await;
        }
        Metadata::ask(self.metadata.as_ref()).await
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// The caller's keys, for a profile with `credential_source`.
#[derive(Debug)]
struct Keys(Option<Credentials>);

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.0.clone().ok_or_else(CredentialsError::not_loaded_no_source))
    }
}

/// The metadata service of an EC2 instance, asked briefly.
#[derive(Debug)]
struct Metadata(Option<ImdsCredentialsProvider>);

impl Metadata {
    async fn ask(service: Option<&ImdsCredentialsProvider>) -> provider::Result {
        let Some(service) = service else {
            return Err(CredentialsError::not_loaded_no_source());
        };
        match tokio::time::timeout(METADATA_BUDGET, service.provide_credentials()).await {
            Ok(Ok(credentials)) => Ok(credentials),
            // Nobody there, or no role: there are no credentials, and the reason helps nobody outside EC2.
            Ok(Err(_)) | Err(_) => Err(CredentialsError::not_loaded_no_source()),
        }
    }
}

impl ProvideCredentials for Metadata {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(Self::ask(self.0.as_ref()))
    }
}

/// A token file exchanged for a role's credentials (`AssumeRoleWithWebIdentity`).
#[derive(Debug)]
struct WebIdentity {
    role: String,
    token_file: PathBuf,
    session: String,
    sts: aws_sdk_sts::Client,
}

impl WebIdentity {
    async fn credentials(&self) -> provider::Result {
        let file = self.token_file.clone();
        // Read anew each time: the token is rotated in place.
        let token = tokio::task::spawn_blocking(move || aws_profile::read_text(&file))
            .await
            .map_err(CredentialsError::unhandled)?
            .map_err(CredentialsError::invalid_configuration)?;
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(&self.role)
            .role_session_name(&self.session)
            .web_identity_token(token.trim_end())
            .send()
            .await
            .map_err(CredentialsError::provider_error)?;
        let issued = answer.credentials.ok_or_else(|| CredentialsError::unhandled("STS issued no credentials"))?;
        Ok(Credentials::new(
            issued.access_key_id,
            issued.secret_access_key,
            Some(issued.session_token),
            issued.expiration.try_into().ok(),
            "AssumeRoleWithWebIdentity",
        ))
    }
}
