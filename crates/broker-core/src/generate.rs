//! Values that the embedded store makes on first use: `hex:32`, `base64:32`, `alnum:24`, `uuid`.
//!
//! Pure: the caller brings the random bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::SecretValue;

/// How a value is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generate {
    /// N random bytes as 2N lower-case hex digits.
    Hex(u16),
    /// N random bytes in standard padded base64 (RFC 4648 section 4).
    Base64(u16),
    /// N letters and digits.
    Alnum(u16),
    /// A random UUID, version 4 (RFC 9562 section 5.4).
    Uuid,
}

/// The text names no known way to make a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value is generated as `hex:N`, `base64:N`, `alnum:N` (N from 8 to 4096) or `uuid`")]
pub struct GenerateError;

const ALNUM: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Generate {
    /// Returns how many random bytes [`Generate::value`] needs at least.
    ///
    /// `alnum` rejects bytes that would bias the alphabet, so it asks for more than it prints.
    #[must_use]
    pub fn random_len(self) -> usize {
        match self {
            Self::Hex(n) | Self::Base64(n) => n.into(),
            Self::Alnum(n) => usize::from(n) * 2 + 64,
            Self::Uuid => 16,
        }
    }

    /// Makes the value from `random`, or `None` when the bytes do not suffice.
    #[must_use]
    pub fn value(self, random: &[u8]) -> Option<SecretValue> {
        Some(match self {
            Self::Hex(n) => SecretValue::from(hex(random.get(..n.into())?)),
            Self::Base64(n) => SecretValue::from(STANDARD.encode(random.get(..n.into())?)),
            Self::Alnum(n) => {
                // 248 = 4 * 62: bytes from there on would make the first letters likelier.
                let letters = random.iter().filter(|b| **b < 248).map(|b| ALNUM[usize::from(b % 62)]);
                let text: Vec<u8> = letters.take(n.into()).collect();
                (text.len() == usize::from(n)).then(|| SecretValue::new(text))?
            }
            Self::Uuid => {
                let mut id = Zeroizing::new([0_u8; 16]);
                id.copy_from_slice(random.get(..16)?);
                id[6] = (id[6] & 0x0f) | 0x40;
                id[8] = (id[8] & 0x3f) | 0x80;
                let h = Zeroizing::new(hex(&*id));
                SecretValue::from(format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]))
            }
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| DIGITS[usize::from(d)] as char).collect()
}

impl FromStr for Generate {
    type Err = GenerateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "uuid" {
            return Ok(Self::Uuid);
        }
        let (way, count) = text.split_once(':').ok_or(GenerateError)?;
        let count: u16 = count.parse().ok().filter(|n| (8..=4096).contains(n)).ok_or(GenerateError)?;
        match way {
            "hex" => Ok(Self::Hex(count)),
            "base64" => Ok(Self::Base64(count)),
            "alnum" => Ok(Self::Alnum(count)),
            _ => Err(GenerateError),
        }
    }
}

impl fmt::Display for Generate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hex(n) => write!(f, "hex:{n}"),
            Self::Base64(n) => write!(f, "base64:{n}"),
            Self::Alnum(n) => write!(f, "alnum:{n}"),
            Self::Uuid => f.write_str("uuid"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(way: &str, random: &[u8]) -> String {
        let value = way.parse::<Generate>().unwrap().value(random).unwrap();
        String::from_utf8(value.expose().to_vec()).unwrap()
    }

    #[test]
    fn each_way_has_its_shape() {
        let random: Vec<u8> = (0..=255).collect();
        assert_eq!(text("hex:8", &random), "0001020304050607");
        assert_eq!(text("base64:8", &random), "AAECAwQFBgc=");
        assert_eq!(text("alnum:12", &random), "0123456789AB");
        assert_eq!(text("uuid", &random), "00010203-0405-4607-8809-0a0b0c0d0e0f");
    }

    #[test]
    fn too_few_random_bytes_make_no_value() {
        assert!(Generate::Hex(32).value(&[1; 31]).is_none());
        assert!(Generate::Alnum(32).value(&[255; 128]).is_none());
    }

    #[test]
    fn other_words_are_refused() {
        for way in ["hex", "hex:", "hex:7", "hex:5000", "rot13:9", "uuid:4", "alnum:-8"] {
            assert_eq!(way.parse::<Generate>(), Err(GenerateError), "{way}");
        }
    }
}
