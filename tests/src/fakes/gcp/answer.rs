//! Errors as Google's APIs write them: a code, a status, a sentence and, where there is one, an `ErrorInfo`.

use serde_json::{Value, json};

use crate::http::Message;

/// Why a call is refused.
#[derive(Debug)]
pub(super) enum Problem {
    /// A path that no API has: a page for people.
    NoSuchPage,
    /// An error of the API.
    Status { code: u16, status: &'static str, message: String, info: Option<Value>, challenge: bool },
}

/// The result of a method: the body of its answer.
pub(super) type Answered = Result<Value, Problem>;

impl Problem {
    fn new(code: u16, status: &'static str, message: impl Into<String>) -> Self {
        Self::Status { code, status, message: message.into(), info: None, challenge: false }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "INVALID_ARGUMENT", message)
    }

    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Self::new(400, "FAILED_PRECONDITION", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "NOT_FOUND", message)
    }

    pub(super) fn exists(message: impl Into<String>) -> Self {
        Self::new(409, "ALREADY_EXISTS", message)
    }

    pub(super) fn unimplemented() -> Self {
        Self::new(501, "UNIMPLEMENTED", "Operation is not implemented, or supported, or enabled.")
    }

    pub(super) fn denied(permission: &str, resource: &str) -> Self {
        Self::Status {
            code: 403,
            status: "PERMISSION_DENIED",
            message: format!("Permission '{permission}' denied for resource '{resource}' (or it may not exist)."),
            info: Some(info(
                "IAM_PERMISSION_DENIED",
                "iam.googleapis.com",
                json!({ "permission": permission, "resource": resource }),
            )),
            challenge: false,
        }
    }

    /// The token is for other services.
    pub(super) fn insufficient_scopes() -> Self {
        let metadata = json!({ "service": "secretmanager.googleapis.com" });
        Self::Status {
            code: 403,
            status: "PERMISSION_DENIED",
            message: "Request had insufficient authentication scopes.".to_owned(),
            info: Some(info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", metadata)),
            challenge: false,
        }
    }

    /// No token, or one that does not count; `reason` as `ErrorInfo` says it.
    pub(super) fn unauthenticated(reason: &str) -> Self {
        let message = match reason {
            "CREDENTIALS_MISSING" => {
                "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or \
                 other valid authentication credential."
            }
            _ => {
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
                 valid authentication credential."
            }
        };
        let message = format!("{message} See https://developers.google.com/identity/sign-in/web/devconsole-project.");
        let metadata = json!({ "service": "secretmanager.googleapis.com" });
        let info = Some(info(reason, "googleapis.com", metadata));
        Self::Status { code: 401, status: "UNAUTHENTICATED", message, info, challenge: true }
    }

    pub(super) fn to_message(&self) -> Message {
        match self {
            Self::NoSuchPage => {
                let headers = vec![("content-type".to_owned(), "text/html; charset=UTF-8".to_owned())];
                let body = b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>".to_vec();
                Message { headers, body, ..Message::empty(404) }
            }
            Self::Status { code, status, message, info, challenge } => {
                let mut error = json!({ "code": code, "message": message, "status": status });
                if let Some(info) = info {
                    error["details"] = json!([info]);
                }
                let mut answer = Message::json(*code, &json!({ "error": error }));
                if *challenge {
                    let realm = "Bearer realm=\"https://accounts.google.com/\"".to_owned();
                    answer.headers.push(("www-authenticate".to_owned(), realm));
                }
                answer
            }
        }
    }
}

fn info(reason: &str, domain: &str, metadata: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason, "domain": domain, "metadata": metadata,
    })
}
