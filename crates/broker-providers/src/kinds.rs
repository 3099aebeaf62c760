//! The kinds of providers, one row each. A new kind is one file, its `mod` line and one row of [`KINDS`].

use std::sync::Arc;

use broker_core::instance::{InstanceSettings, Words};
use broker_core::manifest::KnownKind;
use broker_core::sign_in::{SignIn, travels};

use crate::file_stamp::FilesStamp;
use crate::login::Login;
use crate::provider::{Capabilities, Provider, ProviderError};
use crate::registry::Opening;
use crate::{aws, azure, gcp, github, vault};

/// One kind of provider: what it is called, what it reads and how it is opened.
#[derive(Debug)]
pub struct Kind {
    /// The name in `kind = "..."`.
    pub kind: &'static str,
    /// The scheme of its default instance; none for a kind that only exists as configured.
    pub scheme: Option<&'static str>,
    /// What people call it.
    pub title: &'static str,
    /// Whether a manifest may configure it. A kind that runs programs stands in user or machine configuration only.
    pub in_manifest: bool,
    /// The keys of an instance that it understands, besides `kind`.
    pub keys: &'static [&'static str],
    /// The keys without which a configured instance serves nobody.
    pub needs: &'static [&'static str],
    /// The keys whose value is one of a few words, and these words.
    pub words: &'static [(&'static str, &'static [&'static str])],
    /// The caller's variables that it reads. They are part of the identity.
    pub sign_in_env: &'static [&'static str],
    /// Variables that are or lead to a credential of its manager, which a child must not inherit.
    pub bootstrap_env: &'static [&'static str],
    /// Looks at the files that it signs in with. Their state is part of the identity, too.
    pub(crate) sign_in_files: fn(&SignIn) -> FilesStamp,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Whether some of what its references name is issued and not stored, which only the manager knows.
    pub issues_too: bool,
    /// Whether fetched values are held for the instance's `ttl`. Not for a store that is at hand anyway.
    pub cached: bool,
    /// What its references may say behind `?`, besides a version.
    pub options: &'static [&'static str],
    /// The variables that a whole reference of it fills, each with its field; empty for the one of its name.
    pub variables: &'static [(&'static str, &'static str)],
    /// How the daemon can serve what it issues as an endpoint, if it can.
    pub endpoint: Option<Endpoint>,
    /// Opens an instance for one identity. Quick, and reaches nobody: sign-in happens with the first request.
    pub open: fn(&Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError>,
    /// Opens the instance's way for a person to sign in; nothing where the settings name none.
    pub(crate) login: OpenLogin,
}

/// The protocols by which a program asks its machine for the credentials of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// That of containers on AWS: `AWS_CONTAINER_CREDENTIALS_FULL_URI` and its token.
    AwsContainer,
    /// The metadata server of Google Cloud: `GCE_METADATA_HOST`.
    GceMetadata,
}

/// Opens a way to sign in, if the settings name one.
type OpenLogin = fn(&Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError>;

/// The keys that instances of every cached kind understand.
macro_rules! with_timing {
    ($($key:literal),*) => { &[$($key,)* "ttl", "negative-ttl", "max-stale", "timeout"] };
}

/// Every kind of provider there is.
pub const KINDS: &[Kind] = &[
    Kind {
        kind: "aws-secrets-manager",
        scheme: Some("aws-sm"),
        title: "AWS Secrets Manager",
        in_manifest: true,
        keys: with_timing![
            "region",
            "replicas",
            "profile",
            "sso-session",
            "assume-role",
            "session",
            "session-ttl",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso"
        ],
        needs: &[],
        words: &[("session", &["per-scope", "per-run"])],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::sm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: aws::sm::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-parameter-store",
        scheme: Some("aws-ssm"),
        title: "AWS Systems Manager Parameter Store",
        in_manifest: true,
        keys: with_timing![
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "session",
            "session-ttl",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso"
        ],
        needs: &[],
        words: &[("session", &["per-scope", "per-run"])],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::ssm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: aws::ssm::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-sts",
        scheme: Some("aws-sts"),
        title: "Sessions of AWS roles",
        in_manifest: true,
        keys: &[
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso",
            "session-ttl",
            "timeout",
        ],
        needs: &[],
        words: &[],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::issuer::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: aws::sts::OPTIONS,
        variables: aws::sts::VARIABLES,
        endpoint: Some(Endpoint::AwsContainer),
        open: aws::sts::open,
        login: aws::login::open,
    },
    Kind {
        kind: "aws-rds-iam",
        scheme: Some("aws-rds-iam"),
        title: "Sign-in tokens of Amazon RDS and Aurora",
        in_manifest: true,
        keys: &[
            "region",
            "profile",
            "sso-session",
            "assume-role",
            "external-id",
            "endpoint",
            "endpoint-sts",
            "endpoint-sso",
            "timeout",
        ],
        needs: &[],
        words: &[],
        sign_in_env: aws::sign_in::SIGN_IN_ENV,
        bootstrap_env: aws::sign_in::BOOTSTRAP_ENV,
        sign_in_files: aws::profile::stamp,
        capabilities: aws::issuer::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: aws::rds::OPTIONS,
        variables: &[],
        endpoint: None,
        open: aws::rds::open,
        login: aws::login::open,
    },
    Kind {
        kind: "gcp-secret-manager",
        scheme: Some("gcp-sm"),
        title: "Google Cloud Secret Manager",
        in_manifest: true,
        keys: with_timing!["project", "location", "impersonate", "session-ttl", "auth", "endpoint"],
        needs: &[],
        words: &[("auth", &["adc", "anonymous"])],
        sign_in_env: gcp::sm::SIGN_IN_ENV,
        bootstrap_env: gcp::sm::BOOTSTRAP_ENV,
        sign_in_files: gcp::sm::stamp,
        capabilities: gcp::sm::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: gcp::sm::open,
        login: no_login,
    },
    Kind {
        kind: "gcp-token",
        scheme: Some("gcp-token"),
        title: "Google Cloud access tokens, made for one run",
        in_manifest: true,
        keys: &["impersonate", "session-ttl", "endpoint", "timeout"],
        needs: &[],
        words: &[],
        sign_in_env: gcp::sm::SIGN_IN_ENV,
        bootstrap_env: gcp::sm::BOOTSTRAP_ENV,
        sign_in_files: gcp::sm::stamp,
        capabilities: gcp::issued::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: gcp::issued::OPTIONS,
        variables: &[],
        endpoint: Some(Endpoint::GceMetadata),
        open: gcp::issued::open,
        login: no_login,
    },
    Kind {
        kind: "vault",
        scheme: Some("vault"),
        title: "HashiCorp Vault and OpenBao",
        in_manifest: true,
        keys: vault::KEYS,
        needs: &["address"],
        words: &[
            ("auth", &["token", "approle", "userpass", "jwt", "oidc", "kubernetes"]),
            ("session", &["shared", "per-scope", "per-run"]),
        ],
        sign_in_env: vault::SIGN_IN_ENV,
        bootstrap_env: vault::BOOTSTRAP_ENV,
        sign_in_files: vault::stamp,
        capabilities: vault::CAPABILITIES,
        issues_too: true,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: vault::open,
        login: vault::login,
    },
    Kind {
        kind: "azure-key-vault",
        scheme: Some("azure-kv"),
        title: "Azure Key Vault",
        in_manifest: true,
        keys: with_timing!["address", "tenant", "client-id", "auth", "authority"],
        needs: &["address"],
        words: &[("auth", &["client-secret", "workload-identity", "managed-identity", "az", "device-code"])],
        sign_in_env: azure::kv::SIGN_IN_ENV,
        bootstrap_env: azure::kv::BOOTSTRAP_ENV,
        sign_in_files: azure::kv::stamp,
        capabilities: azure::kv::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: azure::kv::open,
        login: azure::kv::login,
    },
    Kind {
        kind: "github-app",
        scheme: Some("github-app"),
        title: "GitHub App, whose tokens are made for one run",
        in_manifest: true,
        keys: &["app-id", "key", "endpoint", "timeout"],
        needs: &["app-id", "key"],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: github::BOOTSTRAP_ENV,
        sign_in_files: |_| FilesStamp::default(),
        capabilities: github::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: github::OPTIONS,
        variables: &[],
        endpoint: None,
        open: github::open,
        login: no_login,
    },
    Kind {
        kind: "keyring",
        scheme: Some("keyring"),
        title: "Keyring of the operating system",
        in_manifest: true,
        keys: &["store", "timeout"],
        needs: &[],
        words: &[("store", &["secret-service", "keyutils"])],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::keyring::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::keyring::open,
        login: no_login,
    },
    Kind {
        kind: "local",
        scheme: Some("local"),
        title: "Embedded store",
        in_manifest: true,
        keys: &["timeout"],
        needs: &[],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::local::CAPABILITIES,
        issues_too: false,
        cached: false,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::local::open,
        login: no_login,
    },
    Kind {
        kind: "exec",
        scheme: None,
        title: "Any program of yours; what it can it says itself",
        in_manifest: false,
        keys: with_timing!["command", "sha256", "environment"],
        needs: &["command", "sha256"],
        words: &[],
        sign_in_env: &[],
        bootstrap_env: &[],
        sign_in_files: |_| FilesStamp::default(),
        capabilities: crate::exec::CAPABILITIES,
        issues_too: false,
        cached: true,
        options: &[],
        variables: &[],
        endpoint: None,
        open: crate::exec::open,
        login: no_login,
    },
];

/// Most kinds have no way for a person to sign in.
fn no_login(_: &Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError> {
    Ok(None)
}

impl Kind {
    /// Finds a kind by its name.
    #[must_use]
    pub fn named(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|row| row.kind == kind)
    }

    /// Finds the kind whose default instance has this scheme.
    #[must_use]
    pub fn of_scheme(scheme: &str) -> Option<&'static Self> {
        KINDS.iter().find(|row| row.scheme == Some(scheme))
    }

    /// Returns it as far as a manifest is concerned.
    #[must_use]
    pub fn known(&self) -> KnownKind<'static> {
        let Self { kind, keys, needs, words, in_manifest, options, variables, .. } = *self;
        let endpoint = self.endpoint.is_some();
        KnownKind { name: kind, keys, needs, words, in_manifest, options, variables, endpoint }
    }

    /// Returns the keys that `settings` says and this kind does not understand.
    #[must_use]
    pub fn foreign_keys(&self, settings: &InstanceSettings) -> Vec<&'static str> {
        settings.keys().into_iter().filter(|key| !self.keys.contains(key)).collect()
    }

    /// Returns the caller's variables that an instance with these settings reads: those of its kind, and those that its
    /// `environment` passes on.
    #[must_use]
    pub fn sign_in_names<'a>(&self, settings: &'a InstanceSettings) -> Vec<&'a str> {
        let words = settings.environment.as_ref().map(Words::as_slice).unwrap_or_default();
        self.sign_in_env.iter().copied().chain(crate::exec::passed_on(words)).collect()
    }

    /// Returns the variables that a child must not inherit from an instance with these settings: what is or leads to a
    /// credential of its manager, and what its `environment` passes on to its program.
    #[must_use]
    pub fn bootstrap_names<'a>(&self, settings: &'a InstanceSettings) -> Vec<&'a str> {
        let words = settings.environment.as_ref().map(Words::as_slice).unwrap_or_default();
        let passed_on = crate::exec::passed_on(words).filter(|name| travels(name));
        self.bootstrap_env.iter().copied().chain(passed_on).collect()
    }
}
