//! The messages by which a person signs in to an instance, and the requests that carry them.
//!
//! `POST /v1/login` begins or joins, `/v1/login/wait` waits a while for the confirmation of a code, `/v1/login/answer`
//! brings what was typed (one line of JSON with the lengths, then the raw bytes, as a grant does), `/v1/logout` ends and
//! `/v1/logins` lists.

use broker_core::secret::SecretValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::client::{ClientError, Connection, encoded, understood};
use crate::message::Ask;

/// `POST /v1/{login,login/wait,logout}`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginAsk {
    /// The context: manifest, the caller's variables.
    pub ask: Ask,
    /// Which instance.
    pub instance: String,
    /// Sign in even if somebody is signed in already.
    #[serde(default)]
    pub anew: bool,
}

/// What comes next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum LoginStep {
    /// A person visits an address, and may have to compare or enter a code.
    Visit {
        /// The code, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_code: Option<String>,
        /// Where.
        address: String,
        /// The address that holds the code already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address_complete: Option<String>,
        /// How much longer the code is good.
        expires_seconds: u64,
        /// Whether no other command shows it.
        first: bool,
        /// What is signed in to: the origin that the session will be good for.
        origin: String,
    },
    /// A person answers questions.
    Ask {
        /// In this order.
        questions: Vec<LoginQuestion>,
    },
    /// Signed in.
    Done(SignedIn),
    /// Nobody confirmed it yet: wait again.
    Waiting,
}

/// One question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginQuestion {
    /// What for.
    pub label: String,
    /// Whether it stays invisible while it is typed.
    pub hidden: bool,
}

/// Who is signed in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedIn {
    /// As whom, in the manager's words.
    pub who: String,
    /// Until when, where known. A session that can be renewed lasts longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether it is renewed without a person.
    pub renewable: bool,
    /// `keyring` when it outlives the daemon, else `memory`.
    pub kept: String,
}

/// What `logout` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoggedOut {
    /// Whether somebody was signed in.
    pub was_signed_in: bool,
    /// Why the session could not be ended at the manager, where it lives on until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /v1/logins` ([`Ask`] in).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Logins {
    /// One row per configured instance and per instance that the manifest uses, ordered by name.
    pub logins: Vec<LoginRow>,
}

/// One row of [`Logins`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginRow {
    /// The instance.
    pub instance: String,
    /// Its kind.
    pub kind: String,
    /// `signed-in`, `signed-out`, `not-needed` where there is nothing to sign in to (the caller's own session is used), or
    /// `broken` where its settings make no sense.
    pub state: String,
    /// Who is signed in.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub session: Option<SignedIn>,
}

impl Connection {
    /// Begins to sign in to an instance, or joins whoever already does.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn login(&mut self, ask: &LoginAsk) -> Result<LoginStep, ClientError> {
        self.ask("/v1/login", ask)
    }

    /// Waits a while for the confirmation of a code.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn login_wait(&mut self, ask: &LoginAsk) -> Result<LoginStep, ClientError> {
        self.ask("/v1/login/wait", ask)
    }

    /// Signs in with what was typed, in the order of the questions.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn login_answer(&mut self, ask: &LoginAsk, answers: &[SecretValue]) -> Result<LoginStep, ClientError> {
        let lengths: Vec<usize> = answers.iter().map(SecretValue::len).collect();
        let head = encoded(&(ask, lengths))?;
        let mut body =
            Zeroizing::new(Vec::with_capacity(head.len() + 1 + answers.iter().map(SecretValue::len).sum::<usize>()));
        body.extend_from_slice(&head);
        body.push(b'\n');
        for answer in answers {
            // Opened to be sent to the daemon that signs in with it.
            body.extend_from_slice(answer.expose());
        }
        understood(&self.post("/v1/login/answer", &body)?)
    }

    /// Signs out of an instance.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn logout(&mut self, ask: &LoginAsk) -> Result<LoggedOut, ClientError> {
        self.ask("/v1/logout", ask)
    }

    /// Lists who is signed in where.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn logins(&mut self, ask: &Ask) -> Result<Logins, ClientError> {
        self.ask("/v1/logins", ask)
    }
}
