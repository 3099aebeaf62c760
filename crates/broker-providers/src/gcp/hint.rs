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
    /// What was asked for.
    pub(crate) does: Does,
    /// Whether nobody is signed in, on purpose.
    pub(crate) anonymous: bool,
    /// The caller's variables.
    pub(crate) sign_in: &'a SignIn,
}

/// What was asked for: each takes another role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Fetch,
    Put,
    Delete,
    /// Names and versions, and no value.
    Look,
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
            let role = match (missing_permission(&fault.cause), about.does) {
                (Some("secretmanager.versions.access"), _) => "roles/secretmanager.secretAccessor",
                (Some("secretmanager.versions.add"), _) => "roles/secretmanager.secretVersionAdder",
                // The previous version is found by listing.
                (
                    Some("secretmanager.versions.list" | "secretmanager.secrets.get" | "secretmanager.secrets.list"),
                    _,
                ) => "roles/secretmanager.viewer",
                (None, Does::Fetch) => "roles/secretmanager.secretAccessor",
                (None, Does::Put) => "roles/secretmanager.secretVersionAdder",
                (None, Does::Look) => "roles/secretmanager.viewer",
                (Some(_), _) | (None, Does::Delete) => "roles/secretmanager.admin",
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
            // A manifest has no table for an instance that is there by itself.
            let own = if about.instance == "gcp-sm" { "org" } else { about.instance };
            format!(
                "write `{}://PROJECT/SECRET`, or the project down, and references as `{own}://...`:\n[providers.{own}]\nkind = \"gcp-secret-manager\"\nproject = \"PROJECT\"",
                about.instance
            )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hinted(instance: &str, kind: ErrorKind, cause: &str, does: Does) -> String {
        let sign_in = SignIn::default();
        let about = About { instance, target: None, does, anonymous: false, sign_in: &sign_in };
        hint(&Fault::new(kind, cause), about).expect("there is a way out")
    }

    #[test]
    fn a_denial_without_a_permission_names_the_role_of_what_was_asked_for() {
        for (does, role) in [
            (Does::Fetch, "`roles/secretmanager.secretAccessor`"),
            (Does::Put, "`roles/secretmanager.secretVersionAdder`"),
            (Does::Delete, "`roles/secretmanager.admin`"),
            (Does::Look, "`roles/secretmanager.viewer`"),
        ] {
            let hint = hinted("g", ErrorKind::Denied, "PERMISSION_DENIED", does);
            assert!(hint.contains(role), "{does:?}: {hint}");
        }
    }

    #[test]
    fn an_instance_that_is_there_by_itself_is_told_to_write_one_of_its_own() {
        let hint = hinted("gcp-sm", ErrorKind::Unsupported, "it is not said in which project", Does::Fetch);
        let (said, table) = hint.split_once(":\n").expect("there is a table");
        assert!(said.contains("`gcp-sm://PROJECT/SECRET`"), "{said}");
        assert_eq!(table, "[providers.org]\nkind = \"gcp-secret-manager\"\nproject = \"PROJECT\"");
    }
}
