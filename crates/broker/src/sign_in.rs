//! Walks a person through signing in to an instance: shows the code, opens a browser where there is one, asks what must
//! be typed, and waits.

use std::io::IsTerminal as _;
use std::process::{Command, Stdio};

use broker_core::code::ErrorCode;
use broker_core::secret::SecretValue;
use broker_protocol::client::{ClientError, Connection};
use broker_protocol::message::Ask;
use broker_protocol::sign_in::{LoginAsk, LoginQuestion, LoginStep, SignedIn};

use crate::call::Call;
use crate::prompt::Terminal;
use crate::report::{Fault, printable};

/// How a sign-in is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Sign in even if somebody is signed in already.
    pub(crate) anew: bool,
    /// Open a browser where there is one.
    pub(crate) browser: bool,
}

/// Signs in to `instance`.
///
/// # Errors
/// Nobody may be asked, a person who gives up, a code that expires, and what the manager says.
pub(crate) fn sign_in(
    connection: &mut Connection,
    call: &Call,
    ask: &Ask,
    instance: &str,
    manner: Manner,
) -> Result<SignedIn, Fault> {
    if call.non_interactive {
        // Nothing is begun that nobody would end: the next person is not to join it.
        return Err(nobody(instance, "nobody may be asked"));
    }
    let asked = LoginAsk { ask: ask.clone(), instance: instance.to_owned(), anew: manner.anew };
    let mut step = connection.login(&asked)?;
    loop {
        step = match step {
            LoginStep::Done(signed_in) => return Ok(signed_in),
            // The person knows what is waited for.
            LoginStep::Waiting => connection.in_silence(|connection| connection.login_wait(&asked))?,
            LoginStep::Visit { user_code, address, address_complete, expires_seconds, first, origin } => {
                if !may_ask(call) {
                    return Err(nobody(instance, "it takes a person with a browser"));
                }
                let place = format!("`{}` at {}", printable(instance), printable(&origin));
                show(call, &place, user_code.as_deref(), &address, expires_seconds, first);
                if first && manner.browser {
                    open_browser(call, address_complete.as_deref().unwrap_or(&address));
                }
                LoginStep::Waiting
            }
            LoginStep::Ask { questions } => {
                let answers = typed(connection, call, instance, &questions)?;
                connection.login_answer(&asked, &answers)?
            }
        };
    }
}

/// Signs in to all of `instances`, on the way to something else.
///
/// # Errors
/// Like [`sign_in`].
pub(crate) fn sign_in_first(
    connection: &mut Connection,
    call: &Call,
    ask: &Ask,
    instances: &[String],
) -> Result<(), Fault> {
    for instance in instances {
        let manner = Manner { anew: false, browser: true };
        let signed_in = sign_in(connection, call, ask, instance, manner)?;
        call.report.note(&format!("signed in to `{instance}` as {}", signed_in.who));
    }
    Ok(())
}

/// Tells whether there is a person to be asked.
pub(crate) fn may_ask(call: &Call) -> bool {
    !call.non_interactive && std::io::stderr().is_terminal()
}

fn show(call: &Call, place: &str, code: Option<&str>, address: &str, expires_seconds: u64, first: bool) {
    let minutes = expires_seconds.div_ceil(60);
    let address = printable(address);
    if !first {
        let code = code.map(|code| format!(", code {}", printable(code))).unwrap_or_default();
        return call.report.note(&format!("waiting for the sign-in to {place} that began before: {address}{code}"));
    }
    let mut text = format!("broker: sign in to {place} within {minutes} min:\n  {address}");
    if let Some(code) = code {
        text.push_str(&format!("\n  code: {}", printable(code)));
    }
    call.report.tell(&text);
}

fn typed(
    connection: &mut Connection,
    call: &Call,
    instance: &str,
    questions: &[LoginQuestion],
) -> Result<Vec<SecretValue>, Fault> {
    if call.non_interactive {
        return Err(nobody(instance, "nobody may be asked"));
    }
    let mut terminal = Terminal::open().map_err(|error| nobody(instance, &error.to_string()))?;
    let mut answers = Vec::with_capacity(questions.len());
    for LoginQuestion { label, hidden } in questions {
        let question = format!("`{instance}`: {label}");
        let keep = &mut || connection.keep();
        let answer = if *hidden { terminal.hidden(&question, keep) } else { terminal.shown(&question, keep) };
        answers.push(answer.map_err(|error| nobody(instance, &error.to_string()))?);
    }
    Ok(answers)
}

fn nobody(instance: &str, why: &str) -> Fault {
    Fault::new(ErrorCode::Unauthenticated, format!("nobody is signed in to `{instance}`: {why}"))
        .hint(format!("sign in, in a terminal: broker login {instance}"))
}

/// Opens a browser if there is a desktop to open it on. An address is only ever handed on as one word.
fn open_browser(call: &Call, address: &str) {
    let plain = address.bytes().all(|b| b.is_ascii_graphic());
    let known = address.starts_with("https://")
        || address.starts_with("http://127.0.0.1:")
        || address.starts_with("http://localhost:");
    let desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    let own = std::env::var_os("BROWSER").filter(|program| !program.is_empty());
    let program = match own {
        Some(program) => program,
        None if cfg!(target_os = "macos") => "open".into(),
        None if desktop => "xdg-open".into(),
        None => return,
    };
    if !plain || !known {
        return;
    }
    let started =
        Command::new(&program).arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if started.is_err() {
        call.report.note(&format!("`{}` could not be started: open the address yourself", program.display()));
    }
}

/// Returns the instances to sign in to, if that is what a request failed for and a person can be asked.
pub(crate) fn wanted(call: &Call, error: &ClientError) -> Option<Vec<String>> {
    match error {
        ClientError::Refused(failure) if !failure.sign_in.is_empty() && may_ask(call) => Some(failure.sign_in.clone()),
        _ => None,
    }
}
