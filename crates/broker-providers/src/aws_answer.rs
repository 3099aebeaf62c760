//! What a failed request to AWS means, in our own few kinds, and how long it is worth asking again.
//!
//! AWS's code decides, then the HTTP status. The text passed on is AWS's own, made safe; an answer that cannot be read is
//! described and never quoted, since it may hold a value. Codes: "Common errors" and the pages of each action in the
//! Secrets Manager API Reference.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::aws_http::MAX_ANSWER;
use crate::provider::ErrorKind;
use crate::words::{chain, safe};

/// What is wrong, before it is said of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    /// AWS's code, where it named one.
    pub(crate) code: Option<String>,
    pub(crate) cause: String,
}

/// What was asked for: the same code means different things for a read and for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, code: None, cause: cause.into() }
    }

    /// Returns the fault that AWS names by `code`, in a failed request or in one entry of a batch.
    pub(crate) fn named(code: &str, message: &str, status: u16, action: Action) -> Self {
        // Cut as a whole: a code may be as long as a message.
        let cause = if message.is_empty() { safe(code) } else { safe(&format!("{code}: {message}")) };
        Self { kind: kind_of(code, message, status, action), code: Some(safe(code)), cause }
    }

    /// Tells whether AWS named this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// How many times in all a request is sent that fails like this.
    fn attempts(&self) -> u32 {
        match self.kind {
            ErrorKind::Throttled => 8,
            ErrorKind::Unavailable => 4,
            ErrorKind::Malformed => 2,
            _ => 1,
        }
    }
}

/// Sends a request until it is answered, makes no sense to repeat, or `deadline` comes.
///
/// The first attempt gets two fifths of the time: a kept connection that died silently (a laptop that moved) leaves
/// enough for a second one. Pauses have full jitter.
pub(crate) async fn persist<T, E, F>(deadline: Instant, action: Action, send: impl Fn() -> F) -> Result<T, Fault>
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    let first = Instant::now() + deadline.saturating_duration_since(Instant::now()) * 2 / 5;
    let mut attempt = 1;
    let mut last = None;
    loop {
        let until = if attempt == 1 { first } else { deadline };
        let fault = match timeout_at(until, send()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => fault_of(&error, action),
            Err(_) if Instant::now() < deadline => {
                Fault::new(ErrorKind::Unavailable, "no answer, and the time is running out")
            }
            Err(_) => {
                return Err(last.unwrap_or_else(|| Fault::new(ErrorKind::Unavailable, "no answer before the deadline")));
            }
        };
        let wake = Instant::now() + pause(attempt);
        if attempt >= fault.attempts() || wake >= deadline {
            return Err(fault);
        }
        attempt += 1;
        last = Some(fault);
        sleep_until(wake).await;
    }
}

/// Returns a random pause before the attempt after `attempt`: between nothing and 50 ms, 100 ms and so on up to 2 s.
fn pause(attempt: u32) -> Duration {
    let most = (50_u64 << attempt.saturating_sub(1).min(6)).min(2000);
    // Without randomness the longest pause is taken, which is merely less polite.
    let random = getrandom::u64().unwrap_or(u64::MAX);
    Duration::from_millis(1 + random % most)
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
            if code.is_empty() { unreadable(status, error) } else { Fault::named(code, message, status, action) }
        }
        SdkError::ResponseError(context) => unreadable(context.raw().status().as_u16(), error),
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
        "ResourceNotFoundException" => ErrorKind::NotFound,
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "NotAuthorized" => ErrorKind::Denied,
        "DecryptionFailure" | "EncryptionFailure" | "KMSAccessDeniedException" => ErrorKind::Denied,
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

fn sign_in_fault(error: &CredentialsError) -> Fault {
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

    #[test]
    fn however_long_a_code_and_a_message_are_the_cause_is_cut_at_500_characters() {
        let long = "\u{202e}x".repeat(100_000);
        for (code, message) in [("AccessDenied", long.as_str()), (&long, ""), (&long, &long)] {
            let fault = Fault::named(code, message, 400, Action::Read);
            assert!(fault.cause.chars().count() <= 501 && fault.cause.ends_with('…'), "{}", fault.cause);
            assert!(fault.code.is_some_and(|code| code.chars().count() <= 501));
        }
    }

    #[test]
    fn pauses_are_random_and_bounded() {
        let pauses: std::collections::HashSet<_> = (0..50).map(|_| pause(7)).collect();
        assert!(pauses.len() > 10);
        assert!((1..40).all(|attempt| pause(attempt) <= Duration::from_millis(2000)));
        assert!((0..100).all(|_| pause(1) <= Duration::from_millis(50)));
    }
}
