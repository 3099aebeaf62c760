//! Asks a person on the controlling terminal, not on standard input: that may be a pipe, and belongs to the child.
//!
//! While a hidden answer is typed, line editing and the terminal's signals are ours, so that there is no way out of the
//! prompt (interrupt included) that leaves the terminal without echo.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use broker_core::secret::SecretValue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::report::printable;

/// How often whoever waits for the answer is told that it is still awaited.
const STILL_WAITING: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    /// There is nobody to ask.
    #[error("there is no terminal to ask on")]
    NoTerminal,
    /// The person gave up.
    #[error("interrupted at the prompt")]
    Interrupted,
    /// The answer is longer than anything we take.
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// The two answers differ.
    #[error("the two entries differ")]
    Differ,
    /// The terminal failed.
    #[error("cannot talk to the terminal: {0}")]
    Io(#[from] io::Error),
}

/// The controlling terminal. `idle` of its questions is called every ten seconds while a person thinks, so that a
/// connection which waits for the answer can be kept.
#[derive(Debug)]
pub(crate) struct Terminal(File);

impl Terminal {
    /// Opens the controlling terminal.
    ///
    /// # Errors
    /// [`PromptError::NoTerminal`]
    pub(crate) fn open() -> Result<Self, PromptError> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
        tty.map(Self).map_err(|_| PromptError::NoTerminal)
    }

    /// Asks for one line without showing it.
    ///
    /// # Errors
    /// See [`PromptError`].
    pub(crate) fn hidden(&mut self, question: &str, idle: &mut dyn FnMut()) -> Result<SecretValue, PromptError> {
        write!(self.0, "{}: ", printable(question))?;
        let line = {
            let mut raw = Unechoed::new(&self.0)?;
            edited(|| raw.byte(idle))
        };
        writeln!(self.0)?;
        line
    }

    /// Asks for one line that is shown while it is typed.
    ///
    /// # Errors
    /// See [`PromptError`].
    pub(crate) fn shown(&mut self, question: &str, idle: &mut dyn FnMut()) -> Result<SecretValue, PromptError> {
        write!(self.0, "{}: ", printable(question))?;
        await_input(&self.0, idle);
        // The terminal itself edits the line and hands it over whole.
        let mut answer = Zeroizing::new([0; 4096]);
        let count = self.0.read(answer.as_mut_slice())?;
        match answer[..count].strip_suffix(b"\n") {
            Some(line) => Ok(SecretValue::new(line.to_vec())),
            None if count == 0 => Err(PromptError::Interrupted),
            None => Err(PromptError::TooLong),
        }
    }

    /// Asks twice and takes the answer when both are the same.
    ///
    /// # Errors
    /// See [`PromptError`].
    pub(crate) fn hidden_twice(&mut self, question: &str, idle: &mut dyn FnMut()) -> Result<SecretValue, PromptError> {
        let first = self.hidden(question, idle)?;
        let second = self.hidden(&format!("{question} (again)"), idle)?;
        if first.same_as(&second) { Ok(first) } else { Err(PromptError::Differ) }
    }

    /// Asks a question whose answer is no unless it begins with `y`.
    ///
    /// # Errors
    /// See [`PromptError`].
    pub(crate) fn agrees(&mut self, question: &str, idle: &mut dyn FnMut()) -> Result<bool, PromptError> {
        write!(self.0, "{} [y/N] ", printable(question))?;
        await_input(&self.0, idle);
        let mut answer = [0; 256];
        let count = self.0.read(&mut answer)?;
        Ok(matches!(answer[..count].trim_ascii(), b"y" | b"Y" | b"yes" | b"Yes" | b"YES"))
    }
}

/// Returns when there is something to read, or nothing to wait for.
fn await_input(terminal: &File, idle: &mut dyn FnMut()) {
    while let Ok(0) = poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&STILL_WAITING)) {
        idle();
    }
}

/// The terminal without echo, line editing and signals, until it is dropped.
struct Unechoed<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Unechoed<'t> {
    fn new(terminal: &'t File) -> Result<Self, PromptError> {
        let before = tcgetattr(terminal).map_err(io::Error::from)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Flush: what was typed before the prompt was not meant for it.
        tcsetattr(terminal, OptionalActions::Flush, &quiet).map_err(io::Error::from)?;
        Ok(Self { terminal, before })
    }

    /// Reads one byte; `None` at the end of the input.
    fn byte(&mut self, idle: &mut dyn FnMut()) -> io::Result<Option<u8>> {
        await_input(self.terminal, idle);
        let mut byte = Zeroizing::new([0]);
        let mut terminal = self.terminal;
        Ok((terminal.read(&mut *byte)? > 0).then_some(byte[0]))
    }
}

impl Drop for Unechoed<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Reads one line with the few keys that people use at a password prompt.
fn edited(mut byte: impl FnMut() -> io::Result<Option<u8>>) -> Result<SecretValue, PromptError> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
    loop {
        match byte()? {
            Some(b'\r' | b'\n') => return Ok(SecretValue::new(line.to_vec())),
            // Interrupt and quit; end of input on an empty line.
            Some(0x03 | 0x1c) => return Err(PromptError::Interrupted),
            None | Some(0x04) if line.is_empty() => return Err(PromptError::Interrupted),
            None => return Ok(SecretValue::new(line.to_vec())),
            Some(0x04) => {}
            // Backspace takes a whole character.
            Some(0x08 | 0x7f) => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // Control-U takes the line.
            Some(0x15) => line.clear(),
            // Control-Z and the like were meant for the terminal, which does not get them here: no part of what is typed.
            Some(0x00..=0x08 | 0x0b..=0x1f) => {}
            Some(_) if line.len() == MAX_ANSWER_BYTES => return Err(PromptError::TooLong),
            Some(byte) => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Result<Vec<u8>, PromptError> {
        let mut keys = keys.iter().copied();
        edited(|| Ok(keys.next())).map(|line| line.expose().to_vec())
    }

    #[test]
    fn a_line_is_edited_by_character_and_by_line() {
        assert_eq!(typed(b"abc\n").unwrap(), b"abc");
        assert_eq!(typed("aä\u{7f}\u{7f}b\r".as_bytes()).unwrap(), b"b");
        assert_eq!(typed(b"wrong\x15right\n").unwrap(), b"right");
        assert_eq!(typed(b"\n").unwrap(), b"");
        assert_eq!(typed(b"a\x1ab\n").unwrap(), b"ab");
    }

    #[test]
    fn giving_up_is_no_answer() {
        for keys in [&b"abc\x03"[..], b"abc\x1c", b"\x04", b""] {
            assert!(matches!(typed(keys), Err(PromptError::Interrupted)));
        }
    }
}
