//! A connection in use: requests are made, and the embedded store is opened on the way when it has to be.

use broker_core::code::ErrorCode;
use broker_protocol::client::{ClientError, Connection};
use broker_protocol::message::{Ask, Failure, Needs};
use broker_protocol::place::Place;

use crate::call::Call;
use crate::prompt::{PromptError, Terminal};
use crate::report::Fault;
use crate::sign_in::{sign_in_first, wanted};

/// How often a person may mistype a passphrase.
const TRIES: usize = 3;

/// A connection and the call that it serves.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    connection: Connection,
    call: &'c Call,
}

impl<'c> Session<'c> {
    /// Connects, starting the daemon where needed.
    ///
    /// # Errors
    /// No believable place, or no daemon.
    pub(crate) fn open(call: &'c Call) -> Result<Self, Fault> {
        Ok(Self::over(Connection::open(&Place::find()?)?, call))
    }

    /// Connects to a daemon that runs already.
    ///
    /// # Errors
    /// No believable place, or a daemon that can't be talked to.
    pub(crate) fn existing(call: &'c Call) -> Result<Option<Self>, Fault> {
        Ok(Connection::existing(&Place::find()?)?.map(|connection| Self::over(connection, call)))
    }

    fn over(mut connection: Connection, call: &'c Call) -> Self {
        if let Some(waiting) = call.report.waiting() {
            connection.tell_when_waiting(waiting);
        }
        Self { connection, call }
    }

    /// Makes a request; when it fails for want of a passphrase, asks for that and makes it once more.
    ///
    /// # Errors
    /// What the daemon says, or why there is no passphrase.
    pub(crate) fn ask<T>(
        &mut self,
        request: impl FnMut(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, Fault> {
        self.ask_until_settled(None, request)
    }

    /// Makes a request about secrets; when it fails since nobody is signed in, or for want of a passphrase, asks a person
    /// for either and makes it once more.
    ///
    /// # Errors
    /// What the daemon says, or why nobody signed in.
    pub(crate) fn ask_signed_in<T>(
        &mut self,
        ask: &Ask,
        request: impl FnMut(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, Fault> {
        self.ask_until_settled(Some(ask), request)
    }

    fn ask_until_settled<T>(
        &mut self,
        mut ask: Option<&Ask>,
        mut request: impl FnMut(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, Fault> {
        let mut may_unlock = true;
        loop {
            let error = match request(&mut self.connection) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Each is settled once: what fails again for the same reason is told.
            if let (Some(asked), Some(instances)) = (ask, wanted(self.call, &error)) {
                sign_in_first(&mut self.connection, self.call, asked, &instances)?;
                ask = None;
                continue;
            }
            match error {
                ClientError::Refused(Failure { needs: Some(needs), .. }) if may_unlock => {
                    self.unlock(needs)?;
                    may_unlock = false;
                }
                error => return Err(error.into()),
            }
        }
    }

    /// Lets `conversation` have the connection.
    ///
    /// # Errors
    /// What it says.
    pub(crate) fn request<T>(
        &mut self,
        conversation: impl FnOnce(&mut Connection, &Call) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        conversation(&mut self.connection, self.call)
    }

    /// Asks a person to agree while the connection is kept.
    ///
    /// # Errors
    /// Nobody answers.
    pub(crate) fn agrees(&mut self, terminal: &mut Terminal, question: &str) -> Result<bool, PromptError> {
        terminal.agrees(question, &mut || self.connection.keep())
    }

    /// Opens the embedded store, or makes it, with a passphrase from the descriptor or the terminal.
    ///
    /// # Errors
    /// Nobody to ask, a person who gives up, a passphrase that is wrong.
    pub(crate) fn unlock(&mut self, needs: Needs) -> Result<String, Fault> {
        let create = needs == Needs::NewPassphrase;
        if let Some(passphrase) = self.call.passphrase()? {
            return Ok(self.connection.unlock(&passphrase, create)?.message);
        }
        if self.call.non_interactive {
            return Err(no_passphrase(create, "nobody may be asked"));
        }
        let mut terminal = Terminal::open().map_err(|error| no_passphrase(create, &error.to_string()))?;
        let mut wrong = None;
        for _ in 0..TRIES {
            let keep = &mut || self.connection.keep();
            let passphrase = if create {
                terminal.hidden_twice("new passphrase for the embedded store", keep)
            } else {
                terminal.hidden("passphrase of the embedded store", keep)
            };
            let passphrase = match passphrase {
                Ok(passphrase) if passphrase.is_empty() => {
                    self.call.report.tell("broker: an empty passphrase is none");
                    continue;
                }
                Ok(passphrase) => passphrase,
                Err(PromptError::Differ) => {
                    self.call.report.tell("broker: the two entries differ");
                    continue;
                }
                Err(error) => return Err(no_passphrase(create, &error.to_string())),
            };
            match self.connection.unlock(&passphrase, create) {
                Ok(done) => return Ok(done.message),
                Err(error) if error.code() == ErrorCode::Unauthenticated => {
                    self.call.report.tell(&format!("broker: {error}"));
                    wrong = Some(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(wrong.unwrap_or_else(|| no_passphrase(create, "no passphrase was given")))
    }
}

fn no_passphrase(create: bool, why: &str) -> Fault {
    let message = if create {
        format!("the embedded store does not exist yet and needs a first passphrase: {why}")
    } else {
        format!("the embedded store is locked: {why}")
    };
    Fault::new(ErrorCode::Unauthenticated, message)
        .hint("run `broker unlock` in a terminal, or hand it over: --passphrase-fd N".to_owned())
}
