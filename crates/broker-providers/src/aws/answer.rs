//! What a failed request to AWS means, in our own few kinds.
//!
//! AWS's code decides, then the HTTP status. The text passed on is AWS's own, made safe; an answer that cannot be read is
//! described and never quoted, since it may hold a value. Codes: "Common errors" and the pages of each action in the
//! Secrets Manager API Reference.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::time::Instant;

use crate::aws::http::MAX_ANSWER;
use crate::aws::login::PortalFault;
use crate::fault::{self, Fault};
use crate::provider::ErrorKind;
use crate::words::chain;

/// What was asked for: the same code means different things for a read and for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
}

impl Fault {
    /// Returns the fault that AWS names by `code`, in a failed request or in one entry of a batch.
    pub(crate) fn named(code: &str, message: &str, status: u16, action: Action) -> Self {
        Self::coded(kind_of(code, message, status, action), code, message)
    }
}

/// Sends a request of the SDK until it is answered, makes no sense to repeat, or `deadline` comes.
pub(crate) async fn persist<T, E, F>(deadline: Instant, action: Action, send: impl Fn() -> F) -> Result<T, Fault>
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    fault::persist(deadline, || {
        let sent = send();
        async move { sent.await.map_err(|error| fault_of(&error, action)) }
    })
    .await
}

fn fault_of<E>(error: &SdkError<E, HttpResponse>, action: Action) -> Fault
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    if let Some(sign_in) = find::<CredentialsError>(error) {
        return sign_in_fault(sign_in);
    }
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let (code, message) =
                (context.err().code().unwrap_or_default(), context.err().message().unwrap_or_default());
            let fault =
                if code.is_empty() { unreadable(status, error) } else { Fault::named(code, message, status, action) };
            Fault { retry_after: context.raw().headers().get("retry-after").and_then(fault::retry_after), ..fault }
        }
        SdkError::ResponseError(context) => {
            let retry_after = context.raw().headers().get("retry-after").and_then(fault::retry_after);
            Fault { retry_after, ..unreadable(context.raw().status().as_u16(), error) }
        }
        SdkError::TimeoutError(_) => Fault::new(ErrorKind::Unavailable, "no answer in time"),
        other => Fault::new(ErrorKind::Unavailable, without_layers(&chain(other))),
    }
}

/// Leaves out the names of the SDK's layers that stand before what happened.
fn without_layers(words: &str) -> &str {
    const LAYERS: [&str; 5] =
        ["dispatch failure: ", "io error: ", "other: ", "client error (Connect): ", "client error (SendRequest): "];
    LAYERS.iter().fold(words, |words, layer| words.strip_prefix(layer).unwrap_or(words))
}

/// Speaks of an answer without a code. Its text is never quoted: it may be part of a value.
fn unreadable(status: u16, error: &(dyn Error + 'static)) -> Fault {
    let words = |text: &str| format!("HTTP {status}, {text}");
    match status {
        429 => Fault::new(ErrorKind::Throttled, words("asked to slow down")),
        401 => Fault::new(ErrorKind::Unauthenticated, words("without a reason")),
        403 => Fault::new(ErrorKind::Denied, words("without a reason")),
        500.. => Fault::new(ErrorKind::Unavailable, words("the service failed")),
        300..=399 => Fault::new(ErrorKind::Malformed, words("a redirect, which is never followed")),
        _ if find::<http_body_util::LengthLimitError>(error).is_some() => {
            Fault::new(ErrorKind::Malformed, words(&format!("an answer of more than {} MiB", MAX_ANSWER >> 20)))
        }
        _ => Fault::new(ErrorKind::Malformed, words("an answer that is cut off or makes no sense")),
    }
}

fn kind_of(code: &str, message: &str, status: u16, action: Action) -> ErrorKind {
    match code {
        "ResourceNotFoundException" | "ParameterNotFound" | "ParameterVersionNotFound" => ErrorKind::NotFound,
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "NotAuthorized" => ErrorKind::Denied,
        "DecryptionFailure" | "EncryptionFailure" | "KMSAccessDeniedException" | "InvalidKeyId" => ErrorKind::Denied,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestTimeTooSkewed" => ErrorKind::Unauthenticated,
        "InvalidRequestException" if action == Action::Read || is_deleted(message) => ErrorKind::NotFound,
        "InvalidParameterException" | "ValidationException" | "InvalidParameterValue" if action == Action::Read => {
            ErrorKind::NotFound
        }
        _ if code.contains("Throttl")
            || code.contains("TooManyRequests")
            || code == "RequestLimitExceeded"
            || code == "TooManyUpdates"
            || code == "SlowDown" =>
        {
            ErrorKind::Throttled
        }
        _ if status == 429 => ErrorKind::Throttled,
        "InternalServiceError"
        | "InternalServiceErrorException"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => ErrorKind::Unavailable,
        _ if status >= 500 => ErrorKind::Unavailable,
        _ if status == 401 => ErrorKind::Unauthenticated,
        _ if status == 403 => ErrorKind::Denied,
        _ if action == Action::Write => ErrorKind::Unsupported,
        _ => ErrorKind::Malformed,
    }
}

/// Tells whether AWS speaks of a secret that is scheduled for deletion: it still exists and cannot be read.
pub(crate) fn is_deleted(message: &str) -> bool {
    message.contains("marked for deletion")
        || message.contains("marked deleted")
        || message.contains("scheduled for deletion")
}

/// Says why nobody could be signed in as.
pub(crate) fn sign_in_fault(error: &CredentialsError) -> Fault {
    if let Some(PortalFault(fault)) = find::<PortalFault>(error) {
        return fault.clone();
    }
    // A role is asked for with somebody's credentials: whoever has none never reached STS.
    let inner = error.source().and_then(|source| find::<CredentialsError>(source));
    if let Some(inner) = inner {
        return sign_in_fault(inner);
    }
    let sts = find::<SdkError<AssumeRoleError, HttpResponse>>(error).map(|e| (e.code(), e.message(), is_network(e)));
    let sts = sts.or_else(|| {
        find::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error)
            .map(|e| (e.code(), e.message(), is_network(e)))
    });
    match (error, sts) {
        (_, Some((_, _, true))) => Fault::new(ErrorKind::Unavailable, format!("STS: {}", chain(error))),
        (_, Some((Some(code), message, _))) => {
            let fault = Fault::named(code, message.unwrap_or_default(), 400, Action::Read);
            let kind = if fault.kind == ErrorKind::Malformed { ErrorKind::Unauthenticated } else { fault.kind };
            Fault { kind, cause: format!("STS: {}", fault.cause), ..fault }
        }
        (CredentialsError::CredentialsNotLoaded(_), _) => {
            let reason = chain(error);
            // The SDK's standing phrase says nothing; the reasons it appends ("profile `x` was not defined") do.
            let reason = reason.strip_prefix("the credential provider was not enabled").unwrap_or(&reason);
            Fault::new(ErrorKind::Unauthenticated, format!("no credentials were found{reason}"))
        }
        (CredentialsError::ProviderTimedOut(_), _) => Fault::new(ErrorKind::Unavailable, "signing in took too long"),
        _ => Fault::new(ErrorKind::Unauthenticated, chain(error)),
    }
}

fn is_network<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => true,
        SdkError::ServiceError(context) => context.raw().status().as_u16() >= 500,
        SdkError::ResponseError(context) => context.raw().status().as_u16() >= 500,
        _ => false,
    }
}

/// Finds an error of one type among `error` and its sources.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_api_reference_says() {
        for (code, message, status, kind) in [
            ("ResourceNotFoundException", "", 400, ErrorKind::NotFound),
            ("AccessDeniedException", "", 400, ErrorKind::Denied),
            ("AccessDeniedException", "", 403, ErrorKind::Denied),
            ("ParameterNotFound", "", 400, ErrorKind::NotFound),
            ("ParameterVersionNotFound", "", 400, ErrorKind::NotFound),
            ("InvalidKeyId", "", 400, ErrorKind::Denied),
            ("TooManyUpdates", "", 400, ErrorKind::Throttled),
            ("DecryptionFailure", "", 400, ErrorKind::Denied),
            ("ExpiredTokenException", "", 403, ErrorKind::Unauthenticated),
            ("UnrecognizedClientException", "", 400, ErrorKind::Unauthenticated),
            ("InvalidSignatureException", "", 400, ErrorKind::Unauthenticated),
            ("ThrottlingException", "", 400, ErrorKind::Throttled),
            ("TooManyRequestsException", "", 429, ErrorKind::Throttled),
            ("InternalServiceError", "", 500, ErrorKind::Unavailable),
            ("WhoKnows", "", 503, ErrorKind::Unavailable),
            ("InvalidRequestException", "the secret is marked for deletion", 400, ErrorKind::NotFound),
            ("InvalidParameterException", "Invalid name", 400, ErrorKind::NotFound),
            ("WhoKnows", "", 400, ErrorKind::Malformed),
        ] {
            assert_eq!(Fault::named(code, message, status, Action::Read).kind, kind, "{code} {status}");
        }
        let refused = Fault::named("InvalidParameterException", "too long", 400, Action::Write);
        assert_eq!(refused.kind, ErrorKind::Unsupported);
    }
}
