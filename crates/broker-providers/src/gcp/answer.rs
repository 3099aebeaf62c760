//! What the answers of Google Cloud Secret Manager say, checked: whose they are, and that nothing was damaged.

use std::sync::Arc;
use std::time::SystemTime;

use broker_core::secret::SecretValue;
use google_cloud_secretmanager_v1::model::{self, secret_version};
use tokio::time::Instant;

use crate::fault::Fault;
use crate::gcp::name::Target;
use crate::provider::{ErrorKind, Fetched};

/// One version as a listing says it.
pub(crate) struct Standing {
    pub(crate) number: u64,
    pub(crate) usable: bool,
    pub(crate) created: Option<SystemTime>,
}

impl Standing {
    pub(crate) fn of(version: model::SecretVersion) -> Option<Self> {
        let number = version.name.rsplit('/').next()?.parse().ok()?;
        let created = version.create_time.and_then(|time| SystemTime::try_from(time).ok());
        Some(Self { number, usable: version.state == secret_version::State::Enabled, created })
    }
}

/// Checks an answer and takes the value out of it.
pub(crate) fn fetched(answer: model::AccessSecretVersionResponse, target: &Target) -> Result<Fetched, Fault> {
    let version = number_in(&answer.name, target)?.to_owned();
    let payload = answer.payload.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds no payload"))?;
    let sum = payload.data_crc32c.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds no checksum"))?;
    let value = SecretValue::new(payload.data.into());
    // Opened to be checked against Google's checksum.
    if i64::from(crc32c(value.expose())) != sum {
        return Err(Fault::new(ErrorKind::Malformed, "the value was damaged on its way: its checksum does not fit"));
    }
    Ok(Fetched {
        value: Arc::new(value),
        version: Some(version),
        fetched_at: Instant::now(),
        stale: false,
        lone_field: None,
    })
}

/// Returns the version's number in the name that an answer gives, which must be of the secret that was asked for. The
/// project there is a number, whatever was asked.
pub(crate) fn number_in<'a>(name: &'a str, target: &Target) -> Result<&'a str, Fault> {
    let of_secret = name.rsplit_once("/versions/").filter(|(secret, number)| {
        secret.rsplit('/').next() == Some(&target.secret) && number.bytes().all(|b| b.is_ascii_digit())
    });
    let number = of_secret.map(|(_, number)| number).filter(|number| !number.is_empty());
    number.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer is about another secret"))
}

/// What cannot be found out for a read cannot be done for a write.
pub(crate) fn of_write(fault: Fault) -> Fault {
    match fault.is("INVALID_ARGUMENT") || fault.is("FAILED_PRECONDITION") {
        true => Fault { kind: ErrorKind::Unsupported, ..fault },
        false => fault,
    }
}

/// Returns the Castagnoli CRC of `bytes` (RFC 3720 appendix B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720 appendix B.4, and the check value of the catalogues.
        for (bytes, sum) in [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (b"123456789", 0xe306_9283)] {
            assert_eq!(crc32c(bytes), sum);
        }
    }
}
