//! Unique values that can be looked for, plain and in the encodings in which values leak.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// Returns a word that nothing else contains: letters and digits, 40 of them after `label-`.
#[must_use]
pub fn word(label: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hash = Sha256::new();
    hash.update(fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default());
    hash.update(std::process::id().to_le_bytes());
    hash.update(COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    format!("{label}-{}", &hex(&hash.finalize())[..40])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where a value was found, and in which form.
#[derive(Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The file, or a name for the bytes that were searched.
    pub place: PathBuf,
    /// The name of the form.
    pub form: &'static str,
}

/// One value and all the forms it is looked for in.
pub struct Canary {
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    /// Prepares the search for `value`.
    ///
    /// # Panics
    /// When the value is shorter than 12 bytes: its encodings would match by chance.
    #[must_use]
    pub fn new(value: &[u8]) -> Self {
        assert!(value.len() >= 12, "a canary must be long enough not to be found by chance");
        let mut forms = vec![("plain", value.to_vec())];
        // Within a longer text a value starts at one of three places in a base64 group. What the neighbours decide is
        // cut away: the characters that hold at least one bit of theirs.
        for (shift, names) in
            [(0, ["base64+0", "base64url+0"]), (1, ["base64+1", "base64url+1"]), (2, ["base64+2", "base64url+2"])]
        {
            let padded = [&vec![0; shift][..], value].concat();
            let skip = [0, 2, 3][shift];
            let whole = padded.len() * 8 / 6;
            for (name, text) in
                [(names[0], STANDARD_NO_PAD.encode(&padded)), (names[1], URL_SAFE_NO_PAD.encode(&padded))]
            {
                forms.push((name, text.as_bytes()[skip..whole].to_vec()));
            }
        }
        let lower = hex(value);
        forms.push(("hex, upper case", lower.to_uppercase().into_bytes()));
        forms.push(("hex", lower.into_bytes()));
        forms.push(("percent, all", value.iter().flat_map(|b| format!("%{b:02X}").into_bytes()).collect()));
        forms.push(("percent, as needed", percent(value)));
        forms.push(("reversed", value.iter().rev().copied().collect()));
        forms.push(("UTF-16LE", value.iter().flat_map(|b| [*b, 0]).collect()));
        forms.push(("UTF-16BE", value.iter().flat_map(|b| [0, *b]).collect()));
        forms.push(("upper case", value.to_ascii_uppercase()));
        forms.push((
            "bytes as JSON numbers",
            value.iter().map(u8::to_string).collect::<Vec<_>>().join(",").into_bytes(),
        ));
        forms.push(("bytes as Debug", value.iter().map(u8::to_string).collect::<Vec<_>>().join(", ").into_bytes()));
        Self { forms }
    }

    /// Returns the names and bytes of all forms.
    #[must_use]
    pub fn forms(&self) -> &[(&'static str, Vec<u8>)] {
        &self.forms
    }

    /// Looks for the value in `bytes`, which came from `place`.
    #[must_use]
    pub fn search(&self, place: &Path, bytes: &[u8]) -> Vec<Sighting> {
        let found = self.forms.iter().filter(|(_, form)| contains(bytes, form));
        found.map(|(name, _)| Sighting { place: place.to_owned(), form: name }).collect()
    }

    /// Looks for the value in a file, or in every file below a directory. Links are not followed.
    #[must_use]
    pub fn search_files(&self, place: &Path) -> Vec<Sighting> {
        let Ok(kind) = fs::symlink_metadata(place).map(|m| m.file_type()) else { return Vec::new() };
        if kind.is_dir() {
            let entries = fs::read_dir(place).into_iter().flatten().flatten();
            return entries.flat_map(|e| self.search_files(&e.path())).collect();
        }
        if kind.is_file() { self.search(place, &fs::read(place).unwrap_or_default()) } else { Vec::new() }
    }
}

fn percent(value: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~".contains(b);
    value.iter().flat_map(|b| if plain(b) { vec![*b] } else { format!("%{b:02X}").into_bytes() }).collect()
}

/// Tells whether `needle` is somewhere in `bytes`.
#[must_use]
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|b| b == first) {
        at += next + 1;
        if bytes[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_value_is_found_within_other_text() {
        let value = word("form");
        let canary = Canary::new(value.as_bytes());
        let found =
            |bytes: Vec<u8>| canary.search(Path::new("x"), &bytes).into_iter().map(|s| s.form).collect::<Vec<_>>();
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{value}, and more");
            assert!(found(text.clone().into_bytes()).contains(&"plain"));
            let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
            assert!(found(encoded.into_bytes()).iter().any(|f| f.starts_with("base64+")), "{before:?}");
            assert!(found(hex(text.as_bytes()).into_bytes()).contains(&"hex"));
        }
        assert!(found(value.chars().rev().collect::<String>().into_bytes()).contains(&"reversed"));
        assert!(found(value.encode_utf16().flat_map(u16::to_le_bytes).collect()).contains(&"UTF-16LE"));
        assert!(found(format!("{:?}", value.as_bytes()).into_bytes()).contains(&"bytes as Debug"));
    }

    #[test]
    fn another_value_is_not_found() {
        let canary = Canary::new(word("mine").as_bytes());
        let other = word("mine");
        assert_eq!(canary.search(Path::new("x"), other.as_bytes()), []);
        assert_eq!(canary.search(Path::new("x"), STANDARD_NO_PAD.encode(other).as_bytes()), []);
    }
}
