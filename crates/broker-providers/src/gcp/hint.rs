//! One way out of each failure of Google Cloud Secret Manager.

use broker_core::sign_in::SignIn;

use crate::fault::Fault;
use crate::gcp::name::{Parent, Target};
use crate::provider::ErrorKind;

/// What a way out depends on, besides the failure.
pub(crate) struct About<'a> {
    /// The instance's name.
    pub(crate) instance: &'a str,
    /// The secret concerned, where it is one.
    pub(crate) target: Option<Target>,
    /// Whether nobody is signed in, on purpose.
    pub(crate) anonymous: bool,
    /// The caller's variables.
    pub(crate) sign_in: &'a SignIn,
}

/// Returns one way out, where there is one.
pub(crate) fn hint(fault: &Fault, about: About<'_>) -> Option<String> {
    Some(match fault.kind {
        ErrorKind::NotFound if fault.is("FAILED_PRECONDITION") => "enable that version, or add a new one".to_owned(),
        ErrorKind::NotFound => match about.target {
            Some(Target { parent: Parent { project, location: None }, .. }) => {
                format!("it was looked for in the project `{project}`: check its name")
            }
            Some(Target { parent: Parent { project, location: Some(location) }, .. }) => {
                format!("it was looked for in the project `{project}` in `{location}`: check its name")
            }
            None => "check the version and the name".to_owned(),
        },
        ErrorKind::Denied if fault.is("SERVICE_DISABLED") => {
            "enable the API with `gcloud services enable secretmanager.googleapis.com`".to_owned()
        }
        ErrorKind::Denied if fault.cause.starts_with("to act as") => {
            "your identity lacks `roles/iam.serviceAccountTokenCreator` on that service account".to_owned()
        }
        ErrorKind::Denied => {
            let role = match missing_permission(&fault.cause) {
                Some("secretmanager.versions.add") => "roles/secretmanager.secretVersionAdder",
                Some("secretmanager.versions.list" | "secretmanager.secrets.get" | "secretmanager.secrets.list") => {
                    "roles/secretmanager.viewer"
                }
                None | Some("secretmanager.versions.access") => "roles/secretmanager.secretAccessor",
                Some(_) => "roles/secretmanager.admin",
            };
            format!("the signed-in identity lacks `{role}` on it, or it does not exist")
        }
        ErrorKind::Unauthenticated if about.anonymous => "this server wants a sign-in".to_owned(),
        ErrorKind::Unauthenticated => {
            let base = "sign in with `gcloud auth application-default login`";
            match about.sign_in.text("GOOGLE_APPLICATION_CREDENTIALS") {
                Some(_) => {
                    format!("{base}, or check `GOOGLE_APPLICATION_CREDENTIALS` and the clock of this machine")
                }
                None => format!("{base}, or set `GOOGLE_APPLICATION_CREDENTIALS`"),
            }
        }
        ErrorKind::Unsupported if fault.cause.contains("which project") => {
            format!("give `{}` a `project`, or write `PROJECT/SECRET`", about.instance)
        }
        ErrorKind::Throttled => "try again in a while, or raise `timeout` of the instance".to_owned(),
        ErrorKind::Unavailable => "check the network, or allow older values with `max-stale`".to_owned(),
        _ => return None,
    })
}

/// Returns the permission in Google's sentence `Permission '...' denied for resource '...'`.
fn missing_permission(cause: &str) -> Option<&str> {
    cause.split("Permission '").nth(1)?.split('\'').next()
}
