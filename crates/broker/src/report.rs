//! From errors to words and exit codes.
//!
//! Every word of ours goes to standard error; only what was asked for goes to standard output. A failure is
//! `error[code]: what happened`, then `hint:` and one way out; several problems are all shown, and the first decides the
//! code. Text from elsewhere (names, managers' answers, arguments) is shown with its control characters escaped, so
//! that it can't draw on the terminal.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

use broker_core::code::ErrorCode;
use broker_protocol::client::{ClientError, Waiting};
use broker_protocol::message::{Failure, Problem};
use broker_protocol::place::PlaceError;
use serde_json::json;

/// Exit code of `exec` when the broker failed or refused.
pub(crate) const BROKER_FAILED: u8 = 125;

/// Exit code of every other command that failed.
pub(crate) const FAILED: u8 = 1;

/// Exit code of every other command that was called in a way that makes no sense.
pub(crate) const USAGE: u8 = 2;

/// A command that failed: what to say and how to exit.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What went wrong, never empty unless everything was said already.
    pub problems: Vec<Problem>,
    /// The exit code, where it is not the ordinary one of the command.
    pub exit: Option<u8>,
}

/// A command's result: its exit code.
pub(crate) type Outcome = Result<u8, Fault>;

impl Fault {
    /// Makes a fault of one problem.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { code, message: message.into(), hint: None, diagnostic: None }], exit: None }
    }

    /// Adds one way out.
    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        if let Some(problem) = self.problems.last_mut() {
            problem.hint = hint.into();
        }
        self
    }

    /// Sets the exit code.
    pub(crate) fn exit(mut self, code: u8) -> Self {
        self.exit = Some(code);
        self
    }

    /// Makes a fault that ends the program without another word.
    pub(crate) fn silent(code: u8) -> Self {
        Self { problems: Vec::new(), exit: Some(code) }
    }

    /// Returns the exit code of a command that is not `exec`.
    pub(crate) fn exit_code(&self) -> u8 {
        let usage = self.problems.first().is_some_and(|problem| problem.code == ErrorCode::Usage);
        self.exit.unwrap_or(if usage { USAGE } else { FAILED })
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(Failure { problems, .. }) if !problems.is_empty() => Self { problems, exit: None },
            error => Self::new(error.code(), error.to_string()).hint(error.hint()),
        }
    }
}

impl From<PlaceError> for Fault {
    fn from(error: PlaceError) -> Self {
        ClientError::from(error).into()
    }
}

/// How our words are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// Notes are left out.
    pub quiet: bool,
    /// Failures are one line of JSON.
    pub json: bool,
    /// With colours.
    pub colour: bool,
    /// With a line while something takes its time.
    pub progress: bool,
}

impl Report {
    /// Decides by the terminal and by `NO_COLOR`, `CLICOLOR_FORCE`, `CI` (no-color.org, bixense.com/clicolors).
    pub(crate) fn new(quiet: bool, json: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = !no_colour && (set("CLICOLOR_FORCE") || terminal);
        Self { quiet, json, colour, progress: terminal && !quiet && !set("CI") }
    }

    /// Says why a command failed.
    ///
    /// With `--json`: `{"code": CODE, "problems": [{"code", "message", "hint"?, "diagnostic"?}]}`, one line.
    pub(crate) fn fault(&self, fault: &Fault) {
        let Some(first) = fault.problems.first() else { return };
        if self.json {
            let text = json!({ "code": first.code, "problems": fault.problems }).to_string();
            say(&format!("{}\n", printable_json(&text)));
            return;
        }
        let next = fault.problems.iter().skip(1).map(Some).chain([None]);
        // Fifty secrets of one manager that nobody signed in to have one way out.
        let told_later = |problem: &Problem, next: Option<&Problem>| next.is_some_and(|next| next.hint == problem.hint);
        let words =
            fault.problems.iter().zip(next).map(|(problem, next)| self.problem(problem, told_later(problem, next)));
        say(&words.collect::<String>());
    }

    /// Puts a problem into words; its hint is left out where the next problem has the same.
    fn problem(&self, problem: &Problem, told_later: bool) -> String {
        let (red, bold, plain) = if self.colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error[{}]{plain}: ", problem.code);
        match &problem.diagnostic {
            Some(diagnostic) => {
                let shown = diagnostic.to_string();
                let lines: Vec<_> = shown.lines().map(printable).collect();
                text.push_str(&lines.join("\n"));
            }
            None => text.push_str(&format!("{bold}{}{plain}", printable(&problem.message))),
        }
        text.push('\n');
        let told = told_later || problem.diagnostic.as_ref().is_some_and(|diagnostic| diagnostic.hint.is_some());
        if let Some(hint) = problem.hint.as_ref().filter(|_| !told) {
            // A hint may be something to be pasted: its lines stay lines, indented, so that none looks like a word of ours.
            let lines: Vec<_> = hint.lines().map(printable).collect();
            text.push_str(&format!("  hint: {}\n", lines.join("\n        ")));
        }
        text
    }

    /// Says something that is good to know and no failure.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            say(&format!("broker: {}\n", printable(text)));
        }
    }

    /// Says what a person asked to be told, quiet or not. Lines are escaped one by one; what is foreign within a line must
    /// be [`printable`] before, or its line feeds make lines.
    pub(crate) fn tell(&self, text: &str) {
        say(&text.lines().map(|line| format!("{}\n", printable(line))).collect::<String>());
    }

    /// Returns what to show while the daemon takes its time, if anything.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        self.progress.then_some(Waiting {
            moment: std::time::Duration::from_millis(400),
            began: || say("broker: waiting for the secret manager ..."),
            ended: || say("\r\x1b[K"),
        })
    }
}

/// Writes to standard error; a reader that is gone is no reason to fail.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes what was asked for to standard output.
pub(crate) fn print(text: &str) -> Result<(), Fault> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output. A reader that is gone ends the command without a word.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Fault::silent(FAILED),
        _ => Fault::new(ErrorCode::Internal, format!("cannot write to standard output: {error}")),
    })
}

/// Writes a value of ours as indented JSON to standard output, escaped like [`printable_json`] wherever that leads: it may
/// be piped on to a terminal.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Fault> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
    print(&(printable_json(&text).into_owned() + "\n"))
}

/// Escapes what would act on a terminal or mislead whoever reads it: see [`misleads`].
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, misleads, |c, shown| shown.extend(c.escape_default()))
}

/// Escapes the same within JSON text, which stays the same JSON. Line feeds between its tokens are kept: within its
/// strings there are none.
fn printable_json(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| c != '\n' && misleads(c),
        |c, shown| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        },
    )
}

fn escaped(text: &str, must: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&must) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if must(c) { escape(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Tells whether a character draws on a terminal, reorders text or can't be seen.
///
/// Control characters (C0, DEL, C1); line and paragraph separators; bidirectional formatting (Unicode UAX 9); what is
/// `Default_Ignorable_Code_Point` in Unicode's `DerivedCoreProperties.txt`; interlinear annotation.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Makes a panic say where it was and never what it said: a payload may quote a value.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn hide_panic_payloads() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        say(&format!(
            "error[internal]: broker {} failed{place}\n  hint: this is a fault of ours, please report it\n",
            env!("CARGO_PKG_VERSION")
        ));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Report = Report { quiet: false, json: false, colour: false, progress: false };

    #[test]
    fn a_problem_is_its_code_its_words_and_one_way_out() {
        let fault = Fault::new(ErrorCode::Denied, "`org` refused").hint("ask for it".to_owned());
        assert_eq!(PLAIN.problem(&fault.problems[0], false), "error[denied]: `org` refused\n  hint: ask for it\n");
        // Where the next problem has the same way out, it is told there.
        assert_eq!(PLAIN.problem(&fault.problems[0], true), "error[denied]: `org` refused\n");
    }

    #[test]
    fn the_lines_of_a_hint_stay_lines_and_what_is_in_them_is_escaped() {
        let fault =
            Fault::new(ErrorCode::Provider, "no").hint("write:\n[providers.org]\nkind = \"\x1b[2J\"".to_owned());
        let shown = "error[provider]: no\n  hint: write:\n        [providers.org]\n        kind = \"\\u{1b}[2J\"\n";
        assert_eq!(PLAIN.problem(&fault.problems[0], false), shown);
    }

    #[test]
    fn foreign_text_cannot_draw_on_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{202e}c"), "a\\u{1b}[2Jb\\r\\n\\u{202e}c");
        assert!(matches!(printable("plain ä"), Cow::Borrowed(_)));
    }

    const MISLEADING: &str = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200f}\u{202a}\u{202e}\u{2060}\u{2069}\u{feff}\
        \u{e0000}\u{e007f}\u{80}\u{9b}\u{9f}\u{7f}\u{fe0f}\u{3164}";

    #[test]
    fn nothing_invisible_stays_invisible() {
        for c in MISLEADING.chars() {
            assert_eq!(printable(&c.to_string()), c.escape_default().to_string());
        }
    }

    #[test]
    fn json_cannot_draw_on_the_terminal_and_stays_the_same_json() {
        let value = json!({ "name": MISLEADING, "other": ["ä", "\x1b[2J\n"] });
        let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
        assert!(!shown.contains(|c: char| c != '\n' && misleads(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn a_usage_error_exits_2_and_any_other_failure_1() {
        assert_eq!(Fault::new(ErrorCode::Usage, "x").exit_code(), 2);
        assert_eq!(Fault::new(ErrorCode::Daemon, "x").exit_code(), 1);
        assert_eq!(Fault::new(ErrorCode::NotFound, "x").exit(127).exit_code(), 127);
    }
}
