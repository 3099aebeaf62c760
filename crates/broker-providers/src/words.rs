//! Foreign words made fit to be shown: bounded, on one line, without a control character.
//!
//! A manager's error text is written by somebody else and ends on a terminal and in the audit. An escape sequence in it
//! must not reach either.

use std::error::Error;
use std::fmt::Write as _;

/// Longest text that is passed on, in characters.
pub(crate) const MAX_CHARS: usize = 500;

/// Escapes control and direction-changing characters of `text` and cuts it at [`MAX_CHARS`] with `…`.
pub(crate) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_CHARS));
    // Counted as shown: an escaped character is many.
    let mut left = MAX_CHARS;
    for c in text.trim().chars() {
        let escaped = (c.is_control() && !c.is_whitespace()) || is_invisible(c);
        let shown = if escaped { c.escape_unicode().len() } else { 1 };
        if shown > left {
            out.push('…');
            break;
        }
        left -= shown;
        if escaped {
            // Writing to a `String` does not fail.
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(if c.is_control() { ' ' } else { c });
        }
    }
    out
}

/// Tells whether `c` reorders or hides what stands around it (Unicode UAX #9 and zero-width characters).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{2028}' | '\u{2029}')
}

/// Joins an error and its sources, `a: b: c`, leaving out a source that its parent already quotes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = source.source();
    }
    safe(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_of_the_manager_is_shown_and_not_obeyed() {
        assert_eq!(safe("a\x1b[2Jb\r\nc\u{202e}d"), "a\\u{1b}[2Jb  c\\u{202e}d");
    }

    #[test]
    fn a_long_text_is_cut() {
        for c in ["x", "ü", "\x1b", "\u{e0041}"] {
            let cut = safe(&c.repeat(10_000));
            assert!(cut.ends_with('…') && (MAX_CHARS - 10..=MAX_CHARS + 1).contains(&cut.chars().count()), "{cut}");
        }
        assert_eq!(safe(&"x".repeat(MAX_CHARS)), "x".repeat(MAX_CHARS));
    }
}
