//! What a failure of Vault means to a person, and the way out.

use broker_core::reference::SecretRef;

use crate::fault::Fault;
use crate::provider::{ErrorKind, ProviderError};
use crate::vault::Vault;
use crate::vault::sign_in::STALE;

pub(crate) const KEEPS_NO_VERSIONS: &str = "a KV engine of version 1 keeps no versions";
/// Codes of our own: there is no mount, a version was deleted (its number follows), a version was destroyed.
pub(crate) const NO_MOUNT: &str = "no mount";
pub(crate) const DELETED: &str = "deleted ";
pub(crate) const DESTROYED: &str = "destroyed";
/// Codes of our own for a sign-in of which no child can be had: it may make none, none has one, it has not the policies that
/// are named, it is root.
pub(crate) const NO_CHILD: &str = "no child";
pub(crate) const CHILDLESS: &str = "childless";
pub(crate) const NOT_SUBSET: &str = "not subset";
pub(crate) const ROOT: &str = "root";

impl Vault {
    /// Says `fault` of `reference`, with the way out that fits.
    pub(crate) fn error(&self, fault: Fault, reference: Option<&SecretRef>) -> ProviderError {
        ProviderError {
            hint: self.hint(&fault, reference),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }

    fn hint(&self, fault: &Fault, reference: Option<&SecretRef>) -> Option<String> {
        let place = reference.and_then(|reference| self.mounts.place(&reference.path));
        let code = fault.code.as_deref().unwrap_or_default();
        if let Some(hint) = of_child(code) {
            return Some(hint.to_owned());
        }
        Some(match (fault.kind, place) {
            (ErrorKind::NotFound, Some(place)) if code.starts_with(DELETED) => format!(
                "`vault kv undelete -mount={} -versions={} {}` brings it back",
                place.mount.trim_end_matches('/'),
                code.trim_start_matches(DELETED),
                place.name
            ),
            (ErrorKind::NotFound, _) if code == DESTROYED => "its bytes are gone: name another `?version=`".to_owned(),
            (ErrorKind::NotFound | ErrorKind::Denied, None) if code == NO_MOUNT => {
                "there is no such mount, or no policy of the token grants anything in it".to_owned()
            }
            (ErrorKind::NotFound, Some(place)) => {
                format!("it was looked for at `{}`: check the path and the namespace", place.data())
            }
            (ErrorKind::NotFound, None) => format!("check the path and the namespace of `{}`", self.instance),
            (ErrorKind::Denied, _) if !code.is_empty() => format!("a policy of the token must grant it: `{code}`"),
            (ErrorKind::Denied, _) => "no policy of the token grants this".to_owned(),
            (ErrorKind::Unauthenticated, _) if code == STALE => format!(
                "put a good one there or remove it, or sign in with `broker login {}`, which goes before it",
                self.instance
            ),
            (ErrorKind::Unauthenticated, _) => self.sign_in.hint(),
            (ErrorKind::Unavailable, _) if fault.cause.contains("sealed") => {
                "somebody who holds its keys has to unseal it: `vault operator unseal`".to_owned()
            }
            (ErrorKind::Throttled, _) => "try again in a while, or raise `timeout` of the instance".to_owned(),
            (ErrorKind::Unavailable, _) => "check the network, or allow older values with `max-stale`".to_owned(),
            (ErrorKind::Unsupported, _) if fault.cause.contains("check-and-set parameter required") => {
                "let the token read `metadata/` of it, too, so that the version is known".to_owned()
            }
            _ => return None,
        })
    }
}

/// The way out where no token could be made for a run.
fn of_child(code: &str) -> Option<&'static str> {
    Some(match code {
        NO_CHILD => {
            "give the sign-in a policy with `path \"auth/token/create\" { capabilities = [\"update\"] }`; or let stored \
             secrets be read with its own token: `session = \"shared\"` of the instance"
        }
        CHILDLESS => {
            "a batch token, or one for a number of uses, has no children: let its role give others \
             (`token_type=service token_num_uses=0`); or read stored secrets with the sign-in's own token: \
             `session = \"shared\"` of the instance"
        }
        NOT_SUBSET => {
            "`policies` of the instance may name only what the sign-in's token has itself, not by its identity"
        }
        ROOT => {
            "name in `policies` of the instance what a run may get (`policies = [\"shop-dev\"]`); or read stored secrets \
             with the sign-in's own token: `session = \"shared\"`"
        }
        _ => return None,
    })
}
