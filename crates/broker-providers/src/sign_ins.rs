//! The sessions of those who signed in: in memory, renewed in silence, and where they must outlive the daemon in the
//! keyring of the operating system.
//!
//! There is one session per [`SessionKey`]. Whoever needs it waits for the same renewal and the same prompt: two hundred
//! commands that find nobody signed in lead to one code. A session that ended and cannot be renewed is dropped, and the
//! next request says how to sign in.

pub(crate) mod flow;
pub(crate) mod keep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use broker_core::secret::SecretValue;
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::login::{Begun, Login, Session, SessionKey};
use crate::provider::{ErrorKind, ProviderError};
use crate::sign_ins::flow::Flow;
pub use crate::sign_ins::flow::Prompt;
use crate::sign_ins::keep::Keep;

/// How long a renewal that failed is not tried again while the session is still good.
const RENEWAL_RESTS: Duration = Duration::from_secs(30);

/// All sessions of one daemon.
pub struct SignIns {
    keep: Keep,
    places: Mutex<HashMap<SessionKey, Arc<Place>>>,
}

/// The place of one session.
#[derive(Default)]
pub(crate) struct Place {
    held: Mutex<Held>,
    /// Whoever renews, reads the keyring or begins a flow has the turn.
    turn: tokio::sync::Mutex<()>,
    /// Whether the keyring was looked into.
    looked: AtomicBool,
}

#[derive(Default)]
struct Held {
    session: Option<Arc<Session>>,
    /// Since when we have it, which tells how much of its life is over.
    since: Option<SystemTime>,
    rests_until: Option<Instant>,
    flow: Option<Arc<Flow>>,
}

/// A way to sign in, opened for one instance by the registry.
#[derive(Clone)]
pub struct SignInWay {
    pub(crate) instance: String,
    pub(crate) login: Arc<dyn Login>,
}

/// How a session is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptIn {
    /// It ends with the daemon.
    Memory,
    /// It outlives the daemon.
    Keyring,
}

impl SignIns {
    pub(crate) fn new(dir: std::path::PathBuf, keyring: bool) -> Self {
        Self { keep: Keep::new(dir, keyring), places: Mutex::default() }
    }

    /// Returns the live session of `login`, if somebody signed in; renews it when most of its life is over.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] and the like when it ended and the manager cannot be asked to renew it.
    pub(crate) async fn session(&self, login: &dyn Login, deadline: Instant) -> Result<Option<Arc<Session>>, Fault> {
        let key = login.session();
        let place = self.place(&key);
        // Confirmed after whoever showed the code had left.
        self.adopt(&key, &place).await;
        if let Some(session) = place.fresh() {
            return Ok(Some(session));
        }
        if place.is_known_empty() {
            return Ok(None);
        }
        let _turn = timeout_at(deadline, place.turn.lock()).await.map_err(|_| Fault::late())?;
        if let Some(session) = place.fresh() {
            return Ok(Some(session));
        }
        if !place.looked.load(Ordering::Acquire) && place.lock().session.is_none() {
            if let Some(found) = self.keep.find(&key).await {
                place.hold(Arc::new(found));
            }
            place.looked.store(true, Ordering::Release);
            if let Some(session) = place.fresh() {
                return Ok(Some(session));
            }
        }
        let Some(old) = place.lock().session.clone() else { return Ok(None) };
        self.renew(login, &key, &place, &old, deadline).await
    }

    /// Says that the manager no longer takes `session`. Returns the one to go on with, if there is one.
    ///
    /// # Errors
    /// Like [`SignIns::session`].
    pub(crate) async fn refused(
        &self,
        login: &dyn Login,
        session: &Arc<Session>,
        deadline: Instant,
    ) -> Result<Option<Arc<Session>>, Fault> {
        let key = login.session();
        let place = self.place(&key);
        let _turn = timeout_at(deadline, place.turn.lock()).await.map_err(|_| Fault::late())?;
        let held = place.lock().session.clone();
        match held {
            Some(newer) if !Arc::ptr_eq(&newer, session) => Ok(Some(newer)),
            Some(same) => {
                // It is not good as it is, whatever it says of its end.
                let ended = Arc::new(Session { expires: Some(SystemTime::UNIX_EPOCH), ..(*same).clone() });
                place.lock().session = Some(Arc::clone(&ended));
                self.renew(login, &key, &place, &ended, deadline).await
            }
            None => Ok(None),
        }
    }

    async fn renew(
        &self,
        login: &dyn Login,
        key: &SessionKey,
        place: &Place,
        old: &Arc<Session>,
        deadline: Instant,
    ) -> Result<Option<Arc<Session>>, Fault> {
        let ended = old.has_ended(SystemTime::now());
        let renewed = if old.renewable {
            timeout_at(deadline, login.renew(old, deadline)).await.unwrap_or_else(|_| Err(Fault::late()))
        } else {
            Err(Fault::new(ErrorKind::Unauthenticated, "it cannot be renewed"))
        };
        match renewed {
            Ok(session) => {
                let session = Arc::new(session);
                place.hold(Arc::clone(&session));
                let _ = self.keep.store(key, &session).await;
                Ok(Some(session))
            }
            Err(_) if !ended => {
                place.lock().rests_until = Some(Instant::now() + RENEWAL_RESTS);
                Ok(Some(Arc::clone(old)))
            }
            Err(fault) if matches!(fault.kind, ErrorKind::Unavailable | ErrorKind::Throttled) => Err(fault),
            Err(_) => {
                place.lock().session = None;
                self.keep.remove(key).await;
                Ok(None)
            }
        }
    }

    /// Begins to sign in, or joins whoever already does. With `anew`, even if somebody is signed in.
    ///
    /// # Errors
    /// The manager's.
    pub async fn begin(&self, way: &SignInWay, anew: bool, deadline: Instant) -> Result<Prompt, ProviderError> {
        let login = &way.login;
        if !anew && let Some(session) = self.session(&**login, deadline).await.map_err(|f| way.error(f))? {
            return Ok(Prompt::Done { session, new: false });
        }
        let key = login.session();
        let place = self.place(&key);
        let begin = async {
            let _turn = place.turn.lock().await;
            if let Some(flow) = place.lock().flow.clone().filter(|flow| !flow.is_over()) {
                return Ok(flow.prompt(false));
            }
            if !anew && let Some(session) = place.fresh() {
                return Ok(Prompt::Done { session, new: false });
            }
            match login.begin(deadline).await? {
                Begun::Ask(questions) => Ok(Prompt::Ask(questions)),
                Begun::Done(session) => {
                    let session = self.keep(&key, &place, session).await;
                    Ok(Prompt::Done { session, new: true })
                }
                Begun::Device(code) => {
                    let flow = Flow::start(Arc::clone(login), code);
                    place.lock().flow = Some(Arc::clone(&flow));
                    Ok(flow.prompt(true))
                }
            }
        };
        let done = timeout_at(deadline, begin).await.unwrap_or_else(|_| Err(Fault::late()));
        done.map_err(|fault| way.error(fault))
    }

    /// Waits for the person to confirm; nothing when `deadline` comes first. Tells the first of those who wait that the
    /// session is new.
    ///
    /// # Errors
    /// The code expired or was refused, or nobody is signing in.
    pub async fn wait(
        &self,
        way: &SignInWay,
        deadline: Instant,
    ) -> Result<Option<(Arc<Session>, bool)>, ProviderError> {
        let key = way.login.session();
        let place = self.place(&key);
        let flow = place.lock().flow.clone();
        let Some(flow) = flow else {
            if let Some(session) = place.fresh() {
                return Ok(Some((session, false)));
            }
            let cause = "nobody is signing in to it, or it was given up";
            return Err(way.error(Fault::new(ErrorKind::Unauthenticated, cause)));
        };
        match flow.landed(deadline).await {
            None => Ok(None),
            Some(Err(fault)) => Err(way.error(fault)),
            Some(Ok(session)) => Ok(Some((session, self.adopt(&key, &place).await))),
        }
    }

    /// Takes up what a confirmed code led to. Tells whether there was something to take up.
    async fn adopt(&self, key: &SessionKey, place: &Place) -> bool {
        let landed = {
            let mut held = place.lock();
            let landed = held.flow.as_ref().and_then(|flow| flow.session());
            if landed.is_some() {
                held.flow = None;
            }
            landed
        };
        match landed {
            Some(session) => {
                self.put(key, place, &session).await;
                true
            }
            None => false,
        }
    }

    /// Signs in with the answers of a person.
    ///
    /// # Errors
    /// The manager's.
    pub async fn answer(
        &self,
        way: &SignInWay,
        answers: Vec<SecretValue>,
        deadline: Instant,
    ) -> Result<Arc<Session>, ProviderError> {
        let key = way.login.session();
        let place = self.place(&key);
        let done = async {
            let _turn = place.turn.lock().await;
            let session = way.login.answer(answers, deadline).await?;
            Ok(self.keep(&key, &place, session).await)
        };
        let done = timeout_at(deadline, done).await.unwrap_or_else(|_| Err(Fault::late()));
        done.map_err(|fault| way.error(fault))
    }

    /// Returns the session as it is, without renewing it, and where it is kept.
    pub async fn status(&self, way: &SignInWay) -> Option<(Arc<Session>, KeptIn)> {
        let key = way.login.session();
        let place = self.place(&key);
        let _turn = place.turn.lock().await;
        let kept = self.keep.find(&key).await;
        let kept_in = if kept.is_some() { KeptIn::Keyring } else { KeptIn::Memory };
        let held = place.lock().session.clone();
        let session = held.or_else(|| kept.map(Arc::new))?;
        (session.renewable || !session.has_ended(SystemTime::now())).then_some((session, kept_in))
    }

    /// Signs out: forgets the session here, then ends it at the manager. Tells whether there was one.
    ///
    /// # Errors
    /// The manager's: the session is forgotten and may live on there until it expires.
    pub async fn end(&self, way: &SignInWay, deadline: Instant) -> Result<bool, ProviderError> {
        let key = way.login.session();
        let place = self.place(&key);
        let _turn = place.turn.lock().await;
        let kept = self.keep.find(&key).await.map(Arc::new);
        self.keep.remove(&key).await;
        let held = {
            let mut held = place.lock();
            held.flow = None;
            held.session.take()
        };
        let Some(session) = held.or(kept) else { return Ok(false) };
        let ended =
            timeout_at(deadline, way.login.end(&session, deadline)).await.unwrap_or_else(|_| Err(Fault::late()));
        ended.map(|()| true).map_err(|fault| way.error(fault))
    }

    /// Forgets what is in memory, and gives up what is under way. What the keyring keeps is read again when needed.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    async fn keep(&self, key: &SessionKey, place: &Place, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        self.put(key, place, &session).await;
        session
    }

    async fn put(&self, key: &SessionKey, place: &Place, session: &Arc<Session>) {
        place.hold(Arc::clone(session));
        place.looked.store(true, Ordering::Release);
        // Where there is no keyring the session ends with the daemon, and the status says so.
        let _ = self.keep.store(key, session).await;
    }

    /// Returns how many places there are.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.lock().len()
    }

    /// Puts a session in its place as if it were that old.
    #[cfg(test)]
    pub(crate) fn hold_since(&self, way: &SignInWay, session: Session, age: Duration) {
        let place = self.place(&way.login.session());
        place.hold(Arc::new(session));
        place.lock().since = SystemTime::now().checked_sub(age);
    }

    fn place(&self, key: &SessionKey) -> Arc<Place> {
        let mut places = self.lock();
        if places.len() >= MAX_PLACES && !places.contains_key(key) {
            places.retain(|_, place| Arc::strong_count(place) > 1 || !place.is_empty());
        }
        Arc::clone(places.entry(key.clone()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many places there may be before the empty ones go.
const MAX_PLACES: usize = 256;

impl Place {
    /// Returns the session if nothing needs to be done about it.
    fn fresh(&self) -> Option<Arc<Session>> {
        let held = self.lock();
        let session = held.session.as_ref()?;
        let now = SystemTime::now();
        let Some(expires) = session.expires else { return Some(Arc::clone(session)) };
        let left = expires.duration_since(now).ok().filter(|left| !left.is_zero())?;
        let life = held.since.and_then(|since| expires.duration_since(since).ok()).unwrap_or_default();
        let rests = held.rests_until.is_some_and(|until| Instant::now() < until);
        let is_young = left >= life / 3;
        (!session.renewable || is_young || rests).then(|| Arc::clone(session))
    }

    fn is_known_empty(&self) -> bool {
        self.looked.load(Ordering::Acquire) && self.lock().session.is_none()
    }

    fn is_empty(&self) -> bool {
        let held = self.lock();
        held.session.is_none() && held.flow.as_ref().is_none_or(|flow| flow.is_over() && flow.session().is_none())
    }

    fn hold(&self, session: Arc<Session>) {
        let mut held = self.lock();
        held.session = Some(session);
        held.since = Some(SystemTime::now());
        held.rests_until = None;
        if held.flow.as_ref().is_some_and(|flow| flow.is_over()) {
            held.flow = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Tells whether it is over.
    #[must_use]
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl SignInWay {
    /// Names the session that this way leads to.
    #[must_use]
    pub fn session_key(&self) -> SessionKey {
        self.login.session()
    }

    fn error(&self, fault: Fault) -> ProviderError {
        let hint = self.login.hint(&fault).or_else(|| {
            (fault.kind == ErrorKind::Unauthenticated).then(|| format!("try again: broker login {}", self.instance))
        });
        ProviderError {
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: None,
            retry: fault.retry(),
            cause: fault.cause,
            hint,
        }
    }
}

impl fmt::Debug for SignInWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignInWay").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl fmt::Debug for SignIns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIns").field("places", &self.lock().len()).finish_non_exhaustive()
    }
}
