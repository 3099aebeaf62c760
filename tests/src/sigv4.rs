//! AWS Signature Version 4 for one JSON call, by hand, so that what a test puts into a server has passed through
//! nothing that is under test. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Whom a call is signed for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The access key's id.
    pub key_id: String,
    /// The access key.
    pub key: String,
    /// The session's token, for temporary credentials.
    pub token: Option<String>,
}

/// Returns the headers that sign a `POST /` of `body` to `host`.
#[must_use]
pub fn headers(
    identity: &Identity,
    host: &str,
    region: &str,
    service: &str,
    target: &str,
    body: &[u8],
) -> Vec<(String, String)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = timestamp(now);
    let day = &time[..8];
    let mut signed = vec![
        ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
        ("host".to_owned(), host.to_owned()),
        ("x-amz-date".to_owned(), time.clone()),
    ];
    signed.extend(identity.token.iter().map(|t| ("x-amz-security-token".to_owned(), t.clone())));
    signed.push(("x-amz-target".to_owned(), target.to_owned()));
    let names = signed.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = signed.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let mut key = format!("AWS4{}", identity.key).into_bytes();
    for part in [day, region, service, "aws4_request", &to_sign] {
        key = hmac(&key, part.as_bytes());
    }
    let credential = format!("{}/{scope}", identity.key_id);
    let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={}", hex(&key));
    signed.push(("authorization".to_owned(), value));
    signed
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes seconds since 1970 as `20261122T171900Z` (days to a date: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_aws_wants_it() {
        assert_eq!(timestamp(0), "19700101T000000Z");
        assert_eq!(timestamp(1_440_938_160), "20150830T123600Z");
        assert_eq!(timestamp(1_709_251_199), "20240229T235959Z");
    }
}
