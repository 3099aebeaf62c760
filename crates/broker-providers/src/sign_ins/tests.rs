//! What [`SignIns`](crate::sign_ins::SignIns) promises, on a way to sign in that a test commands.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use broker_core::secret::SecretValue;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::login::{Begun, DeviceCode, Login, Poll, Session, SessionKey};
use crate::provider::ErrorKind;
use crate::sign_ins::{Prompt, SignInWay, SignIns};

/// A manager that counts what it is asked and answers as it is told.
#[derive(Default)]
struct Manager {
    /// Tells one manager from another.
    number: usize,
    begun: AtomicUsize,
    polls: AtomicUsize,
    renewals: AtomicUsize,
    ended: AtomicUsize,
    confirmed: Mutex<bool>,
    renews: Mutex<Option<Fault>>,
    life: Mutex<Option<Duration>>,
    /// What it says of a code: how often to ask, and how long it is good.
    says: Mutex<Option<(Duration, Duration)>>,
}

impl Manager {
    fn session(&self, number: usize) -> Session {
        let expires = self.life.lock().unwrap().map(|life| SystemTime::now() + life);
        let credential = Arc::new(SecretValue::from(format!("credential {number}")));
        Session { credential, expires, renewable: true, who: "alice".to_owned() }
    }
}

#[async_trait]
impl Login for Manager {
    fn session(&self) -> SessionKey {
        SessionKey { kind: "test", origin: "https://manager.example".to_owned(), detail: self.number.to_string() }
    }

    async fn begin(&self, _: Instant) -> Result<Begun, Fault> {
        let nth = self.begun.fetch_add(1, Ordering::SeqCst);
        // As slow as a network, so that all who come meanwhile find it under way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let says = *self.says.lock().unwrap();
        let (interval, expires_in) = says.unwrap_or((Duration::from_secs(1), Duration::from_secs(60)));
        Ok(Begun::Device(DeviceCode {
            user_code: Some(format!("CODE-{nth}")),
            address: "https://manager.example/device".to_owned(),
            address_complete: None,
            interval,
            expires_in,
            secret: SecretValue::new(Vec::new()),
        }))
    }

    async fn poll(&self, _: &DeviceCode, _: Instant) -> Result<Poll, Fault> {
        let nth = self.polls.fetch_add(1, Ordering::SeqCst);
        Ok(match *self.confirmed.lock().unwrap() {
            true => Poll::Done(Manager::session(self, 0)),
            false if nth == 0 => Poll::SlowDown,
            false => Poll::Pending,
        })
    }

    async fn answer(&self, _: Vec<SecretValue>, _: Instant) -> Result<Session, Fault> {
        Ok(Manager::session(self, 0))
    }

    async fn renew(&self, _: &Session, _: Instant) -> Result<Session, Fault> {
        let nth = self.renewals.fetch_add(1, Ordering::SeqCst);
        match self.renews.lock().unwrap().clone() {
            None => Ok(Manager::session(self, nth + 1)),
            Some(fault) => Err(fault),
        }
    }

    async fn end(&self, _: &Session, _: Instant) -> Result<(), Fault> {
        self.ended.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct World {
    sign_ins: Arc<SignIns>,
    manager: Arc<Manager>,
    way: SignInWay,
}

impl World {
    fn new() -> Self {
        let manager = Arc::new(Manager::default());
        let login: Arc<dyn Login> = Arc::clone(&manager) as _;
        let way = SignInWay { instance: "org".to_owned(), login };
        Self { sign_ins: Arc::new(SignIns::new("/nonexistent".into(), false)), manager, way }
    }

    async fn signed_in(life: Option<Duration>) -> Self {
        let world = Self::new();
        *world.manager.life.lock().unwrap() = life;
        world.sign_ins.answer(&world.way, Vec::new(), soon()).await.unwrap();
        world
    }

    async fn credential(&self) -> Result<Option<String>, Fault> {
        let session = self.sign_ins.session(&*self.manager, soon()).await?;
        Ok(session.map(|session| String::from_utf8(session.credential.expose().to_vec()).unwrap()))
    }

    /// Replaces the held session by one whose last third has begun, or that is over.
    async fn grow_old(&self, left: Duration) {
        let session = self.sign_ins.session(&*self.manager, soon()).await.unwrap().unwrap();
        let expires = Some(SystemTime::now() + left);
        self.sign_ins.hold_since(&self.way, Session { expires, ..(*session).clone() }, Duration::from_secs(3600));
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test(start_paused = true)]
async fn two_hundred_commands_lead_to_one_code() {
    let world = World::new();
    let commands: Vec<_> = (0..200)
        .map(|_| {
            let (sign_ins, way) = (Arc::clone(&world.sign_ins), world.way.clone());
            tokio::spawn(async move {
                let prompt = sign_ins.begin(&way, false, soon()).await.unwrap();
                let Prompt::Visit { user_code, first, .. } = prompt else { panic!("{prompt:?}") };
                assert_eq!(user_code.as_deref(), Some("CODE-0"));
                let waited = sign_ins.wait(&way, Instant::now() + Duration::from_secs(60)).await.unwrap();
                (first, waited.unwrap().1)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    *world.manager.confirmed.lock().unwrap() = true;
    let (mut shown, mut new) = (0, 0);
    for command in commands {
        let (first, is_new) = command.await.unwrap();
        (shown, new) = (shown + usize::from(first), new + usize::from(is_new));
    }
    assert_eq!((shown, new, world.manager.begun.load(Ordering::SeqCst)), (1, 1, 1));
    assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 0"));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_asks_for_patience_is_asked_less_often() {
    let world = World::new();
    world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
    // After 1 s `slow_down`, then every 6 s.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.manager.polls.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_nobody_confirms_expires_and_the_next_one_is_another() {
    let world = World::new();
    world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
    let error = world.sign_ins.wait(&world.way, Instant::now() + Duration::from_secs(300)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.cause.as_str()),
        (ErrorKind::Unauthenticated, "the code expired before it was confirmed")
    );
    assert_eq!(error.hint.as_deref(), Some("try again: broker login org"));
    let prompt = world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
    assert!(matches!(prompt, Prompt::Visit { user_code: Some(code), first: true, .. } if code == "CODE-1"));
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_good_until_the_end_of_time_is_waited_for_an_hour() {
    for interval in [Duration::from_secs(600), Duration::MAX] {
        let world = World::new();
        *world.manager.says.lock().unwrap() = Some((interval, Duration::from_secs(u64::MAX)));
        let prompt = world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
        let Prompt::Visit { expires_in, .. } = prompt else { panic!("{prompt:?}") };
        assert_eq!(expires_in, Duration::from_secs(3600));
        let late = Instant::now() + Duration::from_secs(4000);
        let error = world.sign_ins.wait(&world.way, late).await.unwrap_err();
        assert_eq!(error.cause, "the code expired before it was confirmed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_that_is_confirmed_after_its_command_left_still_counts() {
    let world = World::new();
    world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
    *world.manager.confirmed.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 0"));
}

#[tokio::test(start_paused = true)]
async fn a_session_near_its_end_is_renewed_once_for_all_who_need_it() {
    let world = World::signed_in(Some(Duration::from_secs(3600))).await;
    assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 0"));
    world.grow_old(Duration::from_secs(60)).await;
    for _ in 0..20 {
        assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 1"));
    }
    assert_eq!(world.manager.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_does_not_take_away_what_is_still_good() {
    let world = World::signed_in(Some(Duration::from_secs(3600))).await;
    *world.manager.renews.lock().unwrap() = Some(Fault::new(ErrorKind::Unavailable, "away"));
    world.grow_old(Duration::from_secs(60)).await;
    for _ in 0..20 {
        assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 0"));
    }
    assert_eq!(world.manager.renewals.load(Ordering::SeqCst), 1, "it is left in peace for a while");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_is_renewed_or_gone_but_not_lost_to_a_broken_network() {
    let world = World::signed_in(Some(Duration::from_secs(3600))).await;
    world.grow_old(Duration::ZERO).await;
    *world.manager.renews.lock().unwrap() = Some(Fault::new(ErrorKind::Unavailable, "away"));
    assert_eq!(world.credential().await.unwrap_err().kind, ErrorKind::Unavailable);
    *world.manager.renews.lock().unwrap() = None;
    assert_eq!(world.credential().await.unwrap().as_deref(), Some("credential 2"));
    world.grow_old(Duration::ZERO).await;
    *world.manager.renews.lock().unwrap() = Some(Fault::new(ErrorKind::Unauthenticated, "invalid_grant"));
    assert_eq!(world.credential().await.unwrap(), None);
    assert!(world.sign_ins.status(&world.way).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_manager_refuses_is_renewed_once_for_all_who_had_it() {
    let world = World::signed_in(None).await;
    let old = world.sign_ins.session(&*world.manager, soon()).await.unwrap().unwrap();
    let first = world.sign_ins.refused(&*world.manager, &old, soon()).await.unwrap().unwrap();
    let second = world.sign_ins.refused(&*world.manager, &old, soon()).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(world.manager.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn signing_out_forgets_and_ends_the_session() {
    let world = World::signed_in(None).await;
    assert!(world.sign_ins.end(&world.way, soon()).await.unwrap());
    assert_eq!(world.credential().await.unwrap(), None);
    assert_eq!(world.manager.ended.load(Ordering::SeqCst), 1);
    assert!(!world.sign_ins.end(&world.way, soon()).await.unwrap(), "there was nobody left");
}

#[tokio::test(start_paused = true)]
async fn forgetting_gives_up_a_code_under_way() {
    let world = World::new();
    world.sign_ins.begin(&world.way, false, soon()).await.unwrap();
    world.sign_ins.forget();
    *world.manager.confirmed.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.manager.polls.load(Ordering::SeqCst), 0);
    assert_eq!(world.credential().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn codes_that_expired_take_no_room() {
    let sign_ins = SignIns::new("/nonexistent".into(), false);
    for number in 0..600 {
        let login: Arc<dyn Login> = Arc::new(Manager { number, ..Manager::default() });
        let way = SignInWay { instance: "org".to_owned(), login };
        sign_ins.begin(&way, false, soon()).await.unwrap();
        if number % 100 == 99 {
            // Every code that was shown so far has expired after this time.
            tokio::time::sleep(Duration::from_secs(120)).await;
        }
    }
    assert!(sign_ins.places() <= 256 + 100, "{}", sign_ins.places());
}
