//! One problem of a text that a person wrote: where it is, what it is, and one way out.
//!
//! What stands in quotes or behind `=` may be a secret in the wrong place, so the quoted source line shows keys and
//! punctuation only: [`masked`] replaces the rest by `…`.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How many bytes of a line are shown on either side of a problem.
const CONTEXT: usize = 160;

/// A problem with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file as it was named by the caller.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1, as an editor counts it.
    pub column: usize,
    /// The line's text, masked, so that its columns are not those of the file.
    pub source: String,
    /// How many characters of `source` stand before the underlined ones.
    pub indent: usize,
    /// How many characters of `source` are underlined, at least 1.
    pub underline: usize,
    /// What is wrong.
    pub message: String,
    /// One way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Places a problem at the byte range `span` of `text`.
    #[must_use]
    pub fn at(file: &str, text: &str, span: Range<usize>, message: String, hint: Option<String>) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_boundary(text, span.end).clamp(start, line_end);
        // Of a long line only the surroundings are shown, and looked at.
        let shown_start = floor_boundary(text, start.saturating_sub(CONTEXT).max(line_start));
        let shown_end = floor_boundary(text, start.saturating_add(CONTEXT).min(line_end));
        let end = end.min(shown_end);
        let full = &text[shown_start..shown_end];
        let (mut source, from, to) = masked(full, start - shown_start, end - shown_start);
        if shown_start > line_start {
            // A cut line may begin in the middle of a value: nothing of it is shown.
            source = "…".to_owned();
        }
        let (from, to) = if shown_start > line_start { (0, 1) } else { (from, to) };
        Self {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source,
            indent: from,
            underline: to.saturating_sub(from).max(1),
            message,
            hint,
        }
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Masks one line of TOML; `from` and `to` are byte offsets that are returned as character offsets of the masked line.
///
/// Kept: table headers, bare keys in front of `=`, punctuation. Everything else becomes one `…`.
fn masked(line: &str, from: usize, to: usize) -> (String, usize, usize) {
    let mut shown = String::new();
    let (mut shown_from, mut shown_to) = (None, None);
    let mut rest = line;
    while !rest.is_empty() {
        let (len, keep) = next_token(rest, line.len() == rest.len(), line);
        let at = line.len() - rest.len();
        let before = shown.chars().count();
        if keep {
            shown.push_str(&rest[..len]);
        } else if !shown.ends_with('…') {
            shown.push('…');
        }
        let after = shown.chars().count();
        let place = |offset: usize| if keep { before + rest[..offset - at].chars().count() } else { after.max(1) - 1 };
        if from >= at && from < at + len {
            shown_from = Some(place(from));
        }
        if to > at && to <= at + len {
            shown_to = Some(if keep { place(to) } else { after });
        }
        rest = &rest[len..];
    }
    let end = shown.chars().count();
    (shown, shown_from.unwrap_or(end), shown_to.unwrap_or(end))
}

/// Returns the length of the token that `rest` begins with and whether it may be shown.
fn next_token(rest: &str, first: bool, line: &str) -> (usize, bool) {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let word = rest.find(|c: char| !bare(c)).unwrap_or(rest.len());
    match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            // To the closing quote or, when there is none, to the end of the line.
            let mut escaped = false;
            for (at, c) in rest.char_indices().skip(1) {
                if c == quote && !escaped {
                    return (at + 1, false);
                }
                escaped = quote == '"' && c == '\\' && !escaped;
            }
            (rest.len(), false)
        }
        Some('#') => (rest.len(), false),
        Some(c) if bare(c) => {
            // A table header or the bare key of `key = value`, at the start or inside an inline table. A word that a
            // key's `=` follows without being at such a place can be part of a pasted value: mask it.
            let before = line[..line.len() - rest.len()].trim_end();
            let at_key = first || before.is_empty() || before.ends_with(['{', ',', '.']) || before.ends_with('[');
            let after = rest[word..].trim_start();
            let header = line.trim_start().starts_with('[') && after.starts_with([']', '.']);
            let key = after.starts_with(['=', '.'])
                && (!line[..line.len() - rest.len()].contains('=') || before.contains('{'));
            (word, word <= 64 && at_key && (header || key))
        }
        Some(c) => (c.len_utf8(), c.is_whitespace() || "[]{}=,.".contains(c)),
        None => (0, true),
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margin = self.line.to_string().len();
        writeln!(f, "{}", self.message)?;
        writeln!(f, "{:margin$}--> {}:{}:{}", "", self.file, self.line, self.column)?;
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{} | {}", self.line, self.source)?;
        write!(f, "{:margin$} | {:indent$}{}", "", "", "^".repeat(self.underline), indent = self.indent)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n{:margin$} hint: {hint}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, needle: &str) -> Diagnostic {
        let start = text.find(needle).unwrap();
        Diagnostic::at("broker.toml", text, start..start + needle.len(), "wrong".into(), None)
    }

    #[test]
    fn the_place_is_counted_in_lines_and_characters() {
        let d = shown("[project]\nname = \"ä\"\nnmae = \"x\"\n", "nmae");
        assert_eq!((d.line, d.column, d.underline, d.source.as_str()), (3, 1, 4, "nmae = …"));
        assert_eq!(d.to_string(), "wrong\n --> broker.toml:3:1\n  |\n3 | nmae = …\n  | ^^^^");
    }

    #[test]
    fn a_value_is_underlined_without_being_shown() {
        let d = shown("KEY = { ref = \"hunter2\", required = maybe }", "\"hunter2\"");
        assert_eq!((d.source.as_str(), d.indent, d.underline), ("KEY = { ref = …, required = … }", 14, 1));
    }

    #[test]
    fn nothing_that_may_be_a_secret_is_shown() {
        for line in [
            "STRIPE_KEY=sk_live_hunter2",
            "KEY = hunter2",
            "KEY = \"hunter2",
            "hunter2",
            "KEY = \"a\\\"hunter2\"",
            "KEY = 'it' hunter2 = 3",
            "# hunter2",
            "KEY = \"x\" # hunter2",
            "export KEY=hunter2=hunter2",
            "KEY = postgres://u:hunter2@host/db",
            "\"hunter2\" = 1",
            "KEY = a,hunter2=",
            "hunter2 hunter2=x",
        ] {
            for at in 0..line.len() {
                let d = Diagnostic::at("f", line, at..at + 1, String::new(), None);
                assert!(!d.source.contains("hunter2"), "{line:?} -> {:?}", d.source);
            }
        }
    }

    #[test]
    fn a_place_outside_the_text_is_moved_into_it() {
        for text in ["", "ä", "a\n"] {
            let d = Diagnostic::at("f", text, 90..99, String::new(), None);
            assert!(d.column >= 1 && d.underline >= 1);
        }
    }
}
