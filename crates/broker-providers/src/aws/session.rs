//! How one instance is signed in to AWS, whichever of its services it speaks to: who signs, where, and what to say when
//! nobody can.
//!
//! Held until a file of the sign-in changes, AWS calls it expired or everything is forgotten. A session that is cut from
//! it for somebody shares its base: only the last role is assumed once more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use broker_core::reference::SecretRef;
use tokio::time::{Instant, timeout_at};

use crate::aws::answer::sign_in_fault;
use crate::aws::keys::Kept;
use crate::aws::process;
use crate::aws::role_session::{RoleKeys, RoleSession};
use crate::aws::sign_in::{SignInPlan, SignedIn};
use crate::fault::Fault;
use crate::file_stamp::FilesStamp;
use crate::provider::{ErrorKind, ProviderError};
use crate::registry::Opening;

/// What a trust policy has to allow for a session that carries for whom it is.
const TRUST_ACTIONS: [&str; 2] = ["sts:TagSession", "sts:SetSourceIdentity"];

/// One instance's sign-in.
pub(crate) struct AwsSession {
    instance: String,
    plan: Arc<SignInPlan>,
    held: Mutex<Option<(Arc<SignedIn>, FilesStamp)>>,
    cut: Option<Cut>,
}

/// What a session is cut from, and how.
struct Cut {
    whole: Arc<AwsSession>,
    asked: RoleSession,
    /// Itself, and the whole that it was cut from.
    held: Mutex<Option<(Arc<SignedIn>, Arc<SignedIn>)>>,
}

impl AwsSession {
    /// # Errors
    /// [`ErrorKind::Unsupported`] for settings that make no sense.
    pub(crate) fn new(opening: &Opening<'_>) -> Result<Self, ProviderError> {
        let plan = Arc::new(SignInPlan::new(opening));
        let session = Self { instance: opening.instance.to_owned(), plan, held: Mutex::default(), cut: None };
        match session.plan.check() {
            Ok(()) => Ok(session),
            Err(fault) => Err(session.error(fault, None, None)),
        }
    }

    /// Returns a session of the last role that is cut as `asked` says. Asks nobody.
    pub(crate) fn cut(self: &Arc<Self>, asked: RoleSession) -> Self {
        let cut = Some(Cut { whole: Arc::clone(self), asked, held: Mutex::default() });
        Self { instance: self.instance.clone(), plan: Arc::clone(&self.plan), held: Mutex::default(), cut }
    }

    /// Returns the sign-in, put together anew when one of its files was edited. Asks nobody.
    pub(crate) async fn signed_in(&self, deadline: Instant) -> Result<Arc<SignedIn>, Fault> {
        if let Some(cut) = &self.cut {
            return cut.signed_in(deadline).await;
        }
        let files = self.plan.files_stamp();
        if let Some((signed_in, _)) = self.held().as_ref().filter(|(_, before)| *before == files) {
            return Ok(Arc::clone(signed_in));
        }
        let prepared = timeout_at(deadline, self.plan.prepare()).await.map_err(|_| {
            Fault::new(ErrorKind::Unavailable, "the sign-in files could not be read before the deadline")
        })?;
        let prepared = prepared.map_err(|error| Fault::new(ErrorKind::Unauthenticated, error.to_string()))?;
        let mut held = self.held();
        // Whoever was faster signs for all: what is cut from one sign-in is not asked for again for another.
        if let Some((signed_in, _)) = held.as_ref().filter(|(_, before)| *before == files) {
            return Ok(Arc::clone(signed_in));
        }
        let signed_in = Arc::new(prepared);
        *held = Some((Arc::clone(&signed_in), files));
        Ok(signed_in)
    }

    /// Returns the sign-in and its credentials, signing in where it has to be.
    pub(crate) async fn credentials(&self, deadline: Instant) -> Result<(Arc<SignedIn>, Credentials), Fault> {
        let signed_in = self.signed_in(deadline).await?;
        let found = timeout_at(deadline, signed_in.credentials.provide_credentials()).await;
        let found = found.map_err(|_| Fault::new(ErrorKind::Unavailable, "signing in took too long"))?;
        let credentials = found.map_err(|error| sign_in_fault(&error))?;
        Ok((signed_in, credentials))
    }

    /// Says `fault` of `reference`. `hint` is the service's own, for what signing in has nothing to do with.
    pub(crate) fn error(&self, fault: Fault, reference: Option<&SecretRef>, hint: Option<String>) -> ProviderError {
        if fault.kind == ErrorKind::Unauthenticated {
            // Next time everything is read anew: the person may have signed in meanwhile.
            self.forget();
            if let Some(cut) = &self.cut {
                cut.whole.forget();
            }
        }
        ProviderError {
            hint: hint.or_else(|| self.hint(&fault)),
            retry: fault.retry(),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            cause: fault.cause,
        }
    }

    fn hint(&self, fault: &Fault) -> Option<String> {
        Some(match fault.kind {
            _ if fault.cause.to_ascii_lowercase().contains("durationseconds") => {
                "a session lives from fifteen minutes to what the role allows, and an hour where a role assumes the next: \
                 `session-ttl` says how long"
                    .to_owned()
            }
            ErrorKind::Denied if is_of_key(fault) => {
                "the role lacks `kms:Decrypt` on the key of this secret".to_owned()
            }
            ErrorKind::Denied if fault.cause.contains("no session policy allows") => {
                "the session was cut for other secrets than this".to_owned()
            }
            ErrorKind::Denied => {
                let action = missing_action(&fault.cause)?;
                if TRUST_ACTIONS.contains(&action) {
                    return Some(format!(
                        "add `{action}` beside `sts:AssumeRole` to the trust policy of the role, as \
                         `deploy/aws/trust.json` has it"
                    ));
                }
                format!("the signed-in identity lacks `{action}` on it")
            }
            ErrorKind::Unauthenticated if fault.cause.starts_with("no region") => {
                format!("give `{}` a `region`, or set `AWS_REGION`", self.instance)
            }
            ErrorKind::Unauthenticated if fault.is("RequestTimeTooSkewed") || is_skewed(&fault.cause) => {
                "set the clock of this machine".to_owned()
            }
            ErrorKind::Unauthenticated | ErrorKind::Unavailable if fault.cause.starts_with(process::CAUSE) => {
                format!("run the command of the profile `{}` by hand to see what it says", self.plan.profile_name())
            }
            ErrorKind::Unauthenticated if self.plan.has_login() => format!("sign in: `broker login {}`", self.instance),
            ErrorKind::Unauthenticated => format!(
                "sign in with `aws sso login --profile {profile}`, or set `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and \
                 `AWS_SECRET_ACCESS_KEY`, or give `{}` a `profile`",
                self.instance,
                profile = self.plan.profile_name(),
            ),
            ErrorKind::Throttled => "try again in a while, or raise `timeout` of the instance".to_owned(),
            ErrorKind::Unavailable => "check the network, or allow older values with `max-stale`".to_owned(),
            _ => return None,
        })
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn plan(&self) -> &SignInPlan {
        &self.plan
    }

    /// Forgets what is held. What a session was cut from stays.
    pub(crate) fn forget(&self) {
        *self.held() = None;
        if let Some(cut) = &self.cut {
            *cut.held() = None;
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<(Arc<SignedIn>, FilesStamp)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cut {
    async fn signed_in(&self, deadline: Instant) -> Result<Arc<SignedIn>, Fault> {
        // Boxed, since a session could be cut from one that was cut itself.
        let whole = Box::pin(self.whole.signed_in(deadline)).await?;
        let mut held = self.held();
        if let Some((cut, _)) = held.as_ref().filter(|(_, from)| Arc::ptr_eq(from, &whole)) {
            return Ok(Arc::clone(cut));
        }
        let Some(before) = &whole.before else {
            return Err(Fault::new(ErrorKind::Unsupported, "without `assume-role` there is no session to cut"));
        };
        let keys = RoleKeys::new(self.asked.clone(), &whole.sts, before.clone());
        let credentials = Kept::of_sessions(SharedCredentialsProvider::new(keys), self.asked.duration);
        let cut = Arc::new(SignedIn { credentials, ..SignedIn::clone(&whole) });
        *held = Some((Arc::clone(&cut), whole));
        Ok(cut)
    }

    fn held(&self) -> MutexGuard<'_, Option<(Arc<SignedIn>, Arc<SignedIn>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether AWS refused the key that encrypts a secret, and not the secret.
fn is_of_key(fault: &Fault) -> bool {
    fault.is("DecryptionFailure")
        || fault.is("InvalidKeyId")
        || fault.cause.contains("kms:")
        || fault.cause.contains("ciphertext")
}

/// Tells whether AWS says that the signature is of another time.
fn is_skewed(cause: &str) -> bool {
    cause.contains("Signature expired") || cause.contains("Signature not yet current")
}

/// Returns the action in AWS's sentence `... is not authorized to perform: ACTION on resource: ...`.
pub(crate) fn missing_action(cause: &str) -> Option<&str> {
    let action = cause.split("perform: ").nth(1)?.split_whitespace().next()?;
    action.contains(':').then_some(action)
}
