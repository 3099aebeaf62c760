//! The ciphers of the embedded store: XChaCha20-Poly1305 for everything, HMAC-SHA256 for names.
//!
//! A sealed text is a random 24-byte nonce followed by the ciphertext and its tag (draft-irtf-cfrg-xchacha). Additional
//! data binds it to its place, so that no record can stand in for another. Keys are wiped when dropped.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key of 256 bits.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// How long a nonce is, in bytes.
const NONCE: usize = 24;

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub(crate) struct NoRandom;

/// Fills an array from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandom> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// Seals `plain` under `key`, bound to `place`.
pub(crate) fn seal(key: &Key, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoRandom> {
    let nonce = random::<NONCE>()?;
    let cipher = XChaCha20Poly1305::new((&**key).into());
    let text = cipher.encrypt(&XNonce::from(*nonce), Payload { msg: plain, aad: place });
    // Sealing fails only past 256 GiB, which no value of ours reaches.
    let mut text = text.map_err(|_| NoRandom)?;
    text.splice(..0, nonce.iter().copied());
    Ok(text)
}

/// Opens what [`seal`] made, or nothing for another key, another place or a changed byte.
pub(crate) fn open(key: &Key, place: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
    let cipher = XChaCha20Poly1305::new((&**key).into());
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: place }).ok().map(Zeroizing::new)
}

/// Derives the key for one purpose (HMAC-SHA256 as a pseudo-random function).
pub(crate) fn derive(key: &Key, purpose: &str) -> Key {
    Zeroizing::new(mac(key, purpose.as_bytes()))
}

/// Returns the keyed digest of `text`.
pub(crate) fn mac(key: &Key, text: &[u8]) -> [u8; 32] {
    // HMAC pads a shorter key with zeros to its block of 64 bytes (RFC 2104 section 2).
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key.iter()).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_only_with_its_key_in_its_place_and_unchanged() {
        let (key, other) = (random::<32>().unwrap(), random::<32>().unwrap());
        let mut sealed = seal(&key, b"here", b"value").unwrap();
        assert_eq!(open(&key, b"here", &sealed).unwrap().as_slice(), b"value");
        assert!(open(&other, b"here", &sealed).is_none());
        assert!(open(&key, b"there", &sealed).is_none());
        for at in 0..sealed.len() {
            sealed[at] ^= 1;
            assert!(open(&key, b"here", &sealed).is_none(), "byte {at}");
            sealed[at] ^= 1;
        }
        assert!(open(&key, b"here", &sealed[..20]).is_none());
    }

    #[test]
    fn the_same_text_never_looks_the_same_twice() {
        let key = random::<32>().unwrap();
        assert_ne!(seal(&key, b"", b"value").unwrap(), seal(&key, b"", b"value").unwrap());
    }

    #[test]
    fn names_are_hidden_by_hmac_sha_256() {
        // Python: hmac.new(bytes(range(32)), b"Hi There", "sha256").hexdigest()
        let key: Key = Zeroizing::new(std::array::from_fn(|at| at as u8));
        let hex: String = mac(&key, b"Hi There").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "278639ec02309d3afded1b273f1349ba63b9089c12476d716bee3ecc94673e9e");
    }
}
