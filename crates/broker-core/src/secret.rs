//! A secret's bytes, and the one way to look at them.
//!
//! A value enters [`SecretValue`] as soon as a program of ours holds it and stays there until it crosses the last
//! boundary. The type has no `Clone`, no `Serialize` and no `Display`; its `Debug` says `[redacted]`; its memory is
//! wiped when it is dropped. `rg 'expose\('` lists every place that opens one.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Holds the bytes of one secret value.
///
/// Values are bytes: nothing trims, decodes or re-encodes them.
pub struct SecretValue(Zeroizing<Vec<u8>>);

/// A value that several holders share without copying it.
pub type SharedValue = Arc<SecretValue>;

impl SecretValue {
    /// Takes ownership of `bytes`; the caller keeps no copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Opens the value. Every call is a place where a secret can leak: justify it where it stands.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the length in bytes, which is not treated as secret.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether the value has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares two values without telling, by its duration, where they differ. Lengths are not hidden.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let (a, b) = (self.expose(), other.expose());
        a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_value_or_its_length() {
        let value = SecretValue::from("hunter2-hunter2".to_owned());
        assert_eq!(format!("{value:?} {:#?}", Some(&value)), "[redacted] Some(\n    [redacted],\n)");
    }

    #[test]
    fn equality_is_of_bytes() {
        let value = |s: &str| SecretValue::from(s.to_owned());
        assert!(value("a\0b").same_as(&value("a\0b")));
        assert!(!value("a\0b").same_as(&value("a\0c")));
        assert!(!value("a").same_as(&value("ab")));
    }
}
