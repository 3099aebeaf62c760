//! Where first credentials come from when they stand in no file: the caller's variables, a token file, the machine's
//! metadata service.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};

use crate::aws::login::PortalFault;
use crate::aws::profile;
use crate::fault::Fault;

/// How long one connection to the metadata service may take; elsewhere than on EC2 nobody answers there.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the whole metadata exchange may take.
const METADATA_BUDGET: Duration = Duration::from_secs(1);
const METADATA_ADDRESS: &str = "http://169.254.169.254";

/// What is tried where no profile says anything: a web identity, then the metadata service.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) web_identity: Option<WebIdentity>,
    pub(crate) metadata: Metadata,
}

impl Machine {
    async fn credentials(&self) -> provider::Result {
        // A source that is set up and fails is the answer.
        match &self.web_identity {
            Some(web_identity) => web_identity.credentials().await,
            None => self.metadata.ask().await,
        }
    }
}

impl ProvideCredentials for Machine {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// Nobody, and why.
#[derive(Debug)]
pub(crate) struct Nobody(pub(crate) Fault);

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::provider_error(PortalFault(self.0.clone()))))
    }
}

/// The caller's keys, for a profile with `credential_source`.
#[derive(Debug)]
pub(crate) struct Keys(pub(crate) Option<Credentials>);

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
pub(crate) struct Metadata(Option<ImdsCredentialsProvider>);

impl Metadata {
    /// Returns one that is never asked.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Returns the one of this machine, at the address that it has everywhere.
    pub(crate) fn of(config: &ProviderConfig) -> Self {
        // Named, since an endpoint in the environment or in a profile would be taken else.
        let client = aws_config::imds::Client::builder().configure(config).endpoint(METADATA_ADDRESS).ok();
        Self(client.map(|client| {
            let client = client
                .max_attempts(1)
                .connect_timeout(METADATA_TIMEOUT)
                .read_timeout(METADATA_TIMEOUT)
                .operation_timeout(METADATA_BUDGET)
                .build();
            ImdsCredentialsProvider::builder().configure(config).imds_client(client).build()
        }))
    }

    async fn ask(&self) -> provider::Result {
        let Some(service) = &self.0 else {
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
        future::ProvideCredentials::new(self.ask())
    }
}

/// A token file exchanged for a role's credentials (`AssumeRoleWithWebIdentity`).
#[derive(Debug)]
pub(crate) struct WebIdentity {
    pub(crate) role: String,
    pub(crate) token_file: PathBuf,
    pub(crate) session: String,
    pub(crate) sts: aws_sdk_sts::Client,
}

impl WebIdentity {
    async fn credentials(&self) -> provider::Result {
        let file = self.token_file.clone();
        // Read anew each time: the token is rotated in place.
        let token = tokio::task::spawn_blocking(move || profile::read_text(&file))
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
