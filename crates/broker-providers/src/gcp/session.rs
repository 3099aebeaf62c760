//! The session of one instance at Google Cloud: opened with the first request, replaced when the file of
//! the sign-in was edited and when the service no longer takes its token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_core::instance::InstanceSettings;
use broker_core::lease::LeaseId;
use broker_core::sign_in::SignIn;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use tokio::time::{Instant, timeout_at};

use crate::fault::{Fault, persist};
use crate::file_stamp::FilesStamp;
use crate::gcp::sign_in::{Places, Plan, stamp};
use crate::gcp::token::{SHORT, Tokens, reason};
use crate::gcp::wire::Wire;
use crate::provider::ErrorKind;
use crate::rest::Rest;

/// What sessions are made from, and the one that is held.
pub(crate) struct Sessions {
    pub(crate) settings: InstanceSettings,
    pub(crate) sign_in: SignIn,
    pub(crate) places: Places,
    /// Nobody signs in at all.
    pub(crate) anonymous: bool,
    pub(crate) rest: Rest,
    pub(crate) held: Mutex<Option<Session>>,
}

/// An identity that is signed in, or will be with its first request.
#[derive(Clone)]
pub(crate) struct Session {
    tokens: Arc<Tokens>,
    /// The file of the sign-in as it was: a session of an edited file is no longer anybody's.
    files: FilesStamp,
    rest: Rest,
    endpoint: Option<String>,
}

impl Session {
    /// Returns the tokens of the identity.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Returns the client of a location's endpoint, whose requests say that they are for the run `lease`, if for one.
    pub(crate) fn client(&self, location: Option<&str>, lease: Option<LeaseId>) -> SecretManagerService {
        let endpoint = match (&self.endpoint, location) {
            (Some(endpoint), _) => endpoint.trim_end_matches('/').to_owned(),
            (None, None) => "https://secretmanager.googleapis.com".to_owned(),
            (None, Some(location)) => format!("https://secretmanager.{location}.rep.googleapis.com"),
        };
        let reason = lease.map(|lease| reason(lease, None));
        let wire = Wire::new(self.rest.clone(), endpoint, Arc::clone(&self.tokens), reason);
        SecretManagerService::from_stub::<Wire>(wire)
    }
}

impl Sessions {
    /// Forgets the session with its tokens.
    pub(crate) fn forget(&self) {
        *self.held() = None;
    }

    /// Returns a session with a token in hand, and whether that token is of an earlier request.
    pub(crate) async fn session(&self, deadline: Instant) -> Result<(Session, bool), Fault> {
        let files = stamp(&self.sign_in);
        let held = self.held().clone().filter(|session| session.files == files);
        let session = match held {
            Some(session) => session,
            None => {
                let plan = timeout_at(deadline, self.plan()).await.map_err(|_| Fault::late())??;
                let (rest, endpoint) = (self.rest.clone(), self.settings.endpoint.clone());
                let life = self.settings.session_ttl().ok().flatten().unwrap_or(SHORT);
                let tokens = Arc::new(Tokens::new(rest.clone(), plan, life));
                let mut held = self.held();
                // Whoever was first while the file was read: one session has one token.
                let first = held.take().filter(|session| session.files == files);
                held.insert(first.unwrap_or(Session { tokens, files, rest, endpoint })).clone()
            }
        };
        let had = session.tokens.had();
        // Once and before everything else: a sign-in that fails is not tried for each secret.
        let signed_in = persist(deadline, || session.tokens.bearer()).await;
        signed_in.map(|_| (session.clone(), had)).inspect_err(|_| self.reject(&session))
    }

    async fn plan(&self) -> Result<Plan, Fault> {
        if self.anonymous {
            return Ok(Plan::anonymous());
        }
        let (settings, sign_in, places) = (self.settings.clone(), self.sign_in.clone(), self.places.clone());
        let read = tokio::task::spawn_blocking(move || Plan::read(&settings, &sign_in, places)).await;
        read.unwrap_or_else(|_| Err(Fault::new(ErrorKind::Unavailable, "the credentials could not be read")))
    }

    fn held(&self) -> MutexGuard<'_, Option<Session>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a session that the service no longer takes, unless somebody else already did.
    pub(crate) fn reject(&self, session: &Session) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.tokens, &session.tokens)) {
            *held = None;
        }
    }

    /// Does one thing signed in. A token of an earlier request that is refused is replaced once: it may have ended early.
    pub(crate) async fn signed_in<T, F>(&self, deadline: Instant, mut act: impl FnMut(Session) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let (session, had) = self.session(deadline).await?;
        let done = act(session.clone()).await;
        let refused = done.as_ref().is_err_and(|fault| fault.kind == ErrorKind::Unauthenticated);
        if refused {
            self.reject(&session);
        }
        if !refused || !had || self.anonymous {
            return done;
        }
        let (session, _) = self.session(deadline).await?;
        act(session).await
    }
}
