//! Signing in and out: the same steps before as for a secret, since a credential leaves for the address that a manifest
//! may name, and a record of what came of it.

use std::time::{Duration, SystemTime};

use broker_core::event::Event;
use broker_core::request::Right;
use broker_core::secret::SecretValue;
use broker_protocol::message::Ask;
use broker_protocol::sign_in::{LoggedOut, LoginAsk, LoginQuestion, LoginRow, LoginStep, Logins, SignedIn};
use broker_providers::login::Session;
use broker_providers::sign_ins::{KeptIn, Prompt, SignInWay};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::fetch::sign_in_of;
use crate::peer::Peer;
use crate::pipeline::{control, permit};
use crate::refusal::Refusal;
use crate::subject::Subject;

/// How long one exchange with a manager may take.
const BUDGET: Duration = Duration::from_secs(20);
/// How long one request waits for a person. The client asks again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Begins to sign in, or joins whoever already does.
pub(crate) async fn login(broker: &Broker, peer: &Peer, asked: LoginAsk) -> Result<LoginStep, Refusal> {
    let way = permitted(broker, peer, &asked)?;
    let prompt = broker.stores.sign_ins().begin(&way, asked.anew, Instant::now() + BUDGET).await?;
    Ok(match prompt {
        Prompt::Visit { user_code, address, address_complete, expires_in, first } => {
            let expires_seconds = expires_in.as_secs();
            let origin = way.session_key().origin;
            LoginStep::Visit { user_code, address, address_complete, expires_seconds, first, origin }
        }
        Prompt::Ask(questions) => {
            let question = |q: broker_providers::login::Question| LoginQuestion { label: q.label, hidden: q.hidden };
            LoginStep::Ask { questions: questions.into_iter().map(question).collect() }
        }
        Prompt::Done { new, .. } => done(broker, &asked.instance, &way, new).await?,
    })
}

/// Waits a while for a person to confirm a code.
pub(crate) async fn wait(broker: &Broker, peer: &Peer, asked: LoginAsk) -> Result<LoginStep, Refusal> {
    control(broker, peer)?;
    let subject = Subject::of_instance(broker, &asked.ask, &asked.instance)?;
    let way = way_of(broker, &subject, &asked)?;
    match broker.stores.sign_ins().wait(&way, Instant::now() + PATIENCE).await? {
        None => Ok(LoginStep::Waiting),
        Some((_, new)) => done(broker, &asked.instance, &way, new).await,
    }
}

/// Signs in with what a person typed.
pub(crate) async fn answer(
    broker: &Broker,
    peer: &Peer,
    asked: LoginAsk,
    answers: Vec<SecretValue>,
) -> Result<LoginStep, Refusal> {
    let way = permitted(broker, peer, &asked)?;
    broker.stores.sign_ins().answer(&way, answers, Instant::now() + BUDGET).await?;
    done(broker, &asked.instance, &way, true).await
}

/// Signs out.
pub(crate) async fn logout(broker: &Broker, peer: &Peer, asked: LoginAsk) -> Result<LoggedOut, Refusal> {
    let way = permitted(broker, peer, &asked)?;
    let ended = broker.stores.sign_ins().end(&way, Instant::now() + BUDGET).await;
    broker.stores.forget_values();
    let (was_signed_in, note) = match ended {
        Ok(was) => (was, None),
        Err(error) => (true, Some(error.to_string())),
    };
    if was_signed_in {
        broker.audit.append(Event::SignedOut { instance: asked.instance })?;
    }
    Ok(LoggedOut { was_signed_in, note })
}

/// Lists who is signed in where. Asks no manager.
pub(crate) async fn logins(broker: &Broker, peer: &Peer, ask: Ask) -> Result<Logins, Refusal> {
    control(broker, peer)?;
    let mut logins = Vec::new();
    for instance in Subject::instances_in_sight(broker, &ask)? {
        let Ok(subject) = Subject::of_instance(broker, &ask, &instance) else { continue };
        let kind = subject.instance(&instance).map(|known| known.settings.kind.clone()).unwrap_or_default();
        let (state, session) = match broker.stores.way_to_sign_in(&subject, &instance, &sign_in_of(&ask)) {
            Ok(None) => ("not-needed", None),
            // Its settings make no sense; the first request for a secret says so.
            Err(_) => ("broken", None),
            Ok(Some(way)) => match broker.stores.sign_ins().status(&way).await {
                Some((session, kept)) => ("signed-in", Some(signed_in(&session, kept))),
                None => ("signed-out", None),
            },
        };
        logins.push(LoginRow { instance, kind, state: state.to_owned(), session });
    }
    Ok(Logins { logins })
}

/// Takes a request through the steps that come before a credential leaves.
fn permitted(broker: &Broker, peer: &Peer, asked: &LoginAsk) -> Result<SignInWay, Refusal> {
    let subject = Subject::of_instance(broker, &asked.ask, &asked.instance)?;
    let permit = permit(broker, peer, Right::Use, subject, &asked.ask, false)?;
    way_of(broker, permit.subject(), asked)
}

fn way_of(broker: &Broker, subject: &Subject, asked: &LoginAsk) -> Result<SignInWay, Refusal> {
    let way = broker.stores.way_to_sign_in(subject, &asked.instance, &sign_in_of(&asked.ask))?;
    way.ok_or_else(|| Refusal::NoSignIn(asked.instance.clone()))
}

/// Records a sign-in that succeeded just now. What was fetched before was not theirs.
async fn done(broker: &Broker, instance: &str, way: &SignInWay, new: bool) -> Result<LoginStep, Refusal> {
    let status = broker.stores.sign_ins().status(way).await;
    let (session, kept) = status.ok_or_else(|| Refusal::NoSignIn(instance.to_owned()))?;
    if new {
        broker.stores.forget_values();
        broker.audit.append(Event::SignedIn { instance: instance.to_owned(), who: session.who.clone() })?;
    }
    Ok(LoginStep::Done(signed_in(&session, kept)))
}

fn signed_in(session: &Session, kept: KeptIn) -> SignedIn {
    let timestamp = |time: SystemTime| Timestamp::try_from(time).ok();
    SignedIn {
        who: session.who.clone(),
        expires: session.expires.and_then(timestamp),
        renewable: session.renewable,
        kept: match kept {
            KeptIn::Memory => "memory",
            KeptIn::Keyring => "keyring",
        }
        .to_owned(),
    }
}
