//! Why a request is not served, each way in its own words, and how that reaches the client.

use std::path::PathBuf;

use broker_core::code::ErrorCode;
use broker_core::diagnostic::Diagnostic;
use broker_core::manifest::SelectError;
use broker_protocol::message::{Failure, Needs, Problem};
use broker_providers::provider::{ErrorKind, ProviderError};

use crate::audit::AuditError;
use crate::peer::PeerError;
use crate::quota::Exceeded;
use crate::trust::TrustError;

/// A request that is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The message is not one that this protocol knows.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// The connection was not attested first.
    #[error("the connection was not attested")]
    NotAttested,
    /// A manifest or a configuration file has problems.
    #[error("a file has problems")]
    Text(Vec<Diagnostic>),
    /// The request needs a manifest and came without one.
    #[error("there is no `broker.toml` here or above")]
    NoManifest,
    /// Nothing can be selected.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The target is neither a name of the manifest nor a reference.
    #[error("unknown secret `{name}`")]
    UnknownTarget {
        /// What was asked for, if it has the shape of a name.
        name: String,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// The target names a provider instance that does not exist.
    #[error("unknown provider `{0}`")]
    UnknownInstance(String),
    /// The target cannot be written as it stands.
    #[error("`{0}` names a field or a version, which cannot be written alone")]
    NotWhole(String),
    /// The reference says behind `?` what its kind does not know.
    #[error("`{0}` has the option `{1}`, which its provider does not know")]
    UnknownOption(String, String),
    /// Where an instance names its key there is no reference.
    #[error("the `key` of `{0}` is no reference")]
    KeyIsNoReference(String),
    /// Two endpoints of one protocol: a program can ask one of them only.
    #[error("`{0}` and `{1}` are both served by the variables of one endpoint")]
    TwoEndpoints(String, String),
    /// The endpoint cannot listen.
    #[error("the endpoint of `{0}` cannot be served: {1}")]
    Endpoint(String, std::io::Error),
    /// Everything was ended while the request was under way.
    #[error("all leases were ended while this one was about to begin")]
    EndedMeanwhile,
    /// The project has all that it may have.
    #[error(transparent)]
    Quota(#[from] Exceeded),
    /// The manifest was not agreed to, or changed since.
    #[error("`{0}` is not trusted as it is now")]
    Untrusted(PathBuf),
    /// The person agreed to other bytes than these.
    #[error("`{0}` changed while it was being looked at")]
    ChangedMeanwhile(PathBuf),
    /// Policy said no.
    #[error("{because}")]
    Denied {
        /// The rule that decided.
        rule: String,
        /// Why.
        because: String,
    },
    /// Policy wants a person to answer, and nobody can be asked.
    #[error("a person has to approve this first")]
    ApprovalNeeded {
        /// The rule that decided.
        rule: String,
    },
    /// No record, no secret.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The process is not, or no longer, to be believed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Trust cannot be read or kept.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Secrets that could not be had: all of them.
    #[error("secrets could not be fetched")]
    Providers(Vec<(Option<String>, ProviderError)>),
    /// The same, and a person who signed in to these instances could have them.
    #[error("secrets could not be fetched")]
    SignIn(Vec<(Option<String>, ProviderError)>, Vec<String>),
    /// There is nothing to sign in to.
    #[error("`{0}` has no sign-in of its own")]
    NoSignIn(String),
    /// There is no such lease.
    #[error("there is no live lease `{0}`")]
    UnknownLease(String),
}

impl From<ProviderError> for Refusal {
    fn from(error: ProviderError) -> Self {
        Self::Providers(vec![(None, error)])
    }
}

impl Refusal {
    /// Returns the code of its first problem.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) | Self::NotAttested => ErrorCode::Daemon,
            Self::Text(_) | Self::NoManifest => ErrorCode::Manifest,
            Self::Select(_) | Self::UnknownTarget { .. } | Self::UnknownInstance(_) | Self::UnknownLease(_) => {
                ErrorCode::NotFound
            }
            Self::NotWhole(_) | Self::UnknownOption(..) => ErrorCode::Usage,
            Self::KeyIsNoReference(_) | Self::TwoEndpoints(..) => ErrorCode::Manifest,
            Self::Endpoint(..) => ErrorCode::Daemon,
            Self::EndedMeanwhile => ErrorCode::Denied,
            Self::Quota(_) => ErrorCode::Quota,
            Self::Untrusted(_) | Self::ChangedMeanwhile(_) => ErrorCode::Untrusted,
            Self::Denied { .. } => ErrorCode::Denied,
            Self::ApprovalNeeded { .. } => ErrorCode::ApprovalNeeded,
            Self::Audit(_) => ErrorCode::Audit,
            Self::Peer(_) => ErrorCode::Denied,
            Self::Trust(_) => ErrorCode::Internal,
            Self::NoSignIn(_) => ErrorCode::Usage,
            Self::Providers(all) | Self::SignIn(all, _) => {
                all.first().map_or(ErrorCode::Internal, |(_, error)| error.kind.code())
            }
        }
    }

    /// Returns one way out.
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Malformed(_) | Self::NotAttested => {
                "client and daemon do not fit: install both together, then: broker daemon stop".to_owned()
            }
            Self::NoManifest => "write one (see: broker help exec), or change to a directory of the project".to_owned(),
            Self::Select(error) => error.hint(),
            Self::UnknownTarget { nearest: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::UnknownTarget { .. } => "give a name of the manifest or a reference such as local://NAME".to_owned(),
            Self::UnknownInstance(_) => "see which exist: broker provider list".to_owned(),
            Self::NotWhole(_) => "name the whole secret, without `#field` and `?version`".to_owned(),
            Self::UnknownOption(..) => {
                "leave it out; the page of the kind in docs/providers says what there is".to_owned()
            }
            Self::KeyIsNoReference(_) => {
                "store the key in a manager and write its reference, such as `org://github/app-key`".to_owned()
            }
            Self::TwoEndpoints(one, _) => format!("leave one of them out: --except {one}"),
            Self::Endpoint(..) | Self::EndedMeanwhile => "run the command again".to_owned(),
            Self::Quota(exceeded) => exceeded.hint(),
            Self::Untrusted(_) => "look what it asks for and agree: broker trust".to_owned(),
            Self::ChangedMeanwhile(_) => "look again: broker trust".to_owned(),
            Self::Denied { rule, .. } => format!("rule `{rule}` decided; see: broker explain"),
            Self::ApprovalNeeded { rule } => format!("rule `{rule}` decided, and this version knows no approvers yet"),
            Self::Audit(_) => "nothing was delivered; make room, or make the state directory writable".to_owned(),
            Self::Peer(PeerError::Traced(_)) => {
                "run it without the tracer: values are never given to a traced process".to_owned()
            }
            Self::Peer(_) => "run the command again".to_owned(),
            Self::Trust(_) => "make the state directory writable".to_owned(),
            Self::UnknownLease(_) => "see which are live: broker lease list".to_owned(),
            Self::NoSignIn(_) => {
                "it takes the session that you have: see its page in docs/providers, or `broker login --status`"
                    .to_owned()
            }
            Self::Text(_) | Self::Providers(_) | Self::SignIn(..) => return None,
        })
    }

    /// Returns the body that the client gets.
    pub(crate) fn to_failure(&self) -> Failure {
        let problems = match self {
            Self::Text(diagnostics) => diagnostics.iter().map(problem_of_text).collect(),
            Self::Providers(errors) | Self::SignIn(errors, _) => {
                errors.iter().map(|(name, error)| problem_of_provider(name.as_deref(), error)).collect()
            }
            _ => vec![Problem { code: self.code(), message: self.to_string(), hint: self.hint(), diagnostic: None }],
        };
        let sign_in = if let Self::SignIn(_, instances) = self { instances.clone() } else { Vec::new() };
        Failure { problems, needs: self.needs(), sign_in }
    }

    fn needs(&self) -> Option<Needs> {
        let (Self::Providers(errors) | Self::SignIn(errors, _)) = self else { return None };
        errors.iter().find_map(|(_, error)| match error.kind {
            ErrorKind::Locked => Some(Needs::Passphrase),
            ErrorKind::NotCreated => Some(Needs::NewPassphrase),
            _ => None,
        })
    }
}

fn problem_of_text(diagnostic: &Diagnostic) -> Problem {
    Problem {
        code: ErrorCode::Manifest,
        message: diagnostic.message.clone(),
        hint: diagnostic.hint.clone(),
        diagnostic: Some(diagnostic.clone()),
    }
}

/// Returns a provider's failure as a problem, with the variable it leaves unset.
pub(crate) fn problem_of_provider(name: Option<&str>, error: &ProviderError) -> Problem {
    let message = match name {
        Some(name) => format!("`{name}`: {error}"),
        None => error.to_string(),
    };
    Problem { code: error.kind.code(), message, hint: error.hint.clone(), diagnostic: None }
}
