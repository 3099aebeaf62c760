//! Bytes as a Key Vault keeps them, which keeps text: what is plain text is stored as it is, everything else in base64
//! under the tag `file-encoding`, as `az keyvault secret set --encoding base64` writes it and `... download` reads it.
//!
//! Plain is UTF-8 without control characters but tab, line feed and carriage return. The way back follows the tag alone,
//! so bytes come back unchanged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_core::secret::SecretValue;
use zeroize::Zeroizing;

/// The tag that says how a value is written.
pub(crate) const TAG: &str = "file-encoding";
/// What the tag says of a value in base64.
pub(crate) const BASE64: &str = "base64";
/// What the tag says of a value in hex, which `az` can write, too.
const HEX: &str = "hex";

/// Returns the text to be stored, and whether it is base64.
pub(crate) fn stored(value: &SecretValue) -> (Zeroizing<String>, bool) {
    // Opened to be sent to the vault.
    match std::str::from_utf8(value.expose()) {
        Ok(text) if text.chars().all(is_plain) => (Zeroizing::new(text.to_owned()), false),
        _ => (Zeroizing::new(STANDARD.encode(value.expose())), true),
    }
}

/// Returns the bytes of a stored text whose tag says `encoding`; nothing when the text is not what the tag says.
pub(crate) fn bytes(stored: SecretValue, encoding: Option<&str>) -> Option<SecretValue> {
    match encoding {
        // Opened to be decoded; the text is wiped with the value that it came in. `az` breaks it into lines.
        Some(BASE64) => {
            let lines = stored.expose().iter().copied().filter(|b| !b.is_ascii_whitespace());
            let mut text = Zeroizing::new(Vec::with_capacity(stored.len()));
            text.extend(lines);
            STANDARD.decode(&*text).ok().map(SecretValue::new)
        }
        Some(HEX) => unhex(stored.expose()).map(SecretValue::new),
        _ => Some(stored),
    }
}

fn is_plain(c: char) -> bool {
    !c.is_control() || matches!(c, '\t' | '\n' | '\r')
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(value: &[u8]) -> (String, Vec<u8>) {
        let (text, coded) = stored(&SecretValue::new(value.to_vec()));
        let back = bytes(SecretValue::from(text.to_string()), coded.then_some(BASE64)).unwrap();
        (text.to_string(), back.expose().to_vec())
    }

    #[test]
    fn plain_text_is_stored_as_it_is_and_everything_comes_back() {
        for text in ["", "value\n", "null", "a\tb\r\n", "ä€😀", "aGVsbG8="] {
            assert_eq!(there_and_back(text.as_bytes()), (text.to_owned(), text.as_bytes().to_vec()));
        }
        for value in [b"a\0b".as_slice(), b"\xff\xfe", b"\x1b[31m", &std::array::from_fn::<u8, 256, _>(|b| b as u8)] {
            let (text, back) = there_and_back(value);
            assert_ne!(text.as_bytes(), value);
            assert_eq!(back, value);
        }
    }

    #[test]
    fn the_tag_alone_says_what_a_text_means() {
        let read =
            |text: &str, tag| bytes(SecretValue::from(text.to_owned()), tag).map(|value| value.expose().to_vec());
        assert_eq!(read("aGVsbG8=", None).as_deref(), Some(b"aGVsbG8=".as_slice()));
        assert_eq!(read("aGVsbG8=", Some("utf-8")).as_deref(), Some(b"aGVsbG8=".as_slice()));
        assert_eq!(read("aGVsbG8=", Some("base64")).as_deref(), Some(b"hello".as_slice()));
        assert_eq!(read("aGVs\nbG8=\n", Some("base64")).as_deref(), Some(b"hello".as_slice()), "as `az` writes it");
        assert_eq!(read("68656C6c6f", Some("hex")).as_deref(), Some(b"hello".as_slice()));
        for (text, tag) in [("no base64!", "base64"), ("68656", "hex"), ("xx", "hex")] {
            assert_eq!(read(text, Some(tag)), None);
        }
    }
}
