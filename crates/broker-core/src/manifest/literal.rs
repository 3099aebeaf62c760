//! Tells a plain setting from a secret that was written where it does not belong.
//!
//! A guard against accidents: what it lets through is not thereby proven harmless.

/// Beginnings of tokens that services issue, from their own documentation.
const PREFIXES: &[&str] = &[
    "-----BEGIN ",
    "AKIA",
    "ASIA",
    "AIza",
    "EAAC",
    "SG.",
    "dckr_pat_",
    "dop_v1_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hvs.",
    "npm_",
    "pypi-",
    "rk_live_",
    "rk_test_",
    "shpat_",
    "sk-ant-",
    "sk-proj-",
    "sk_live_",
    "sk_test_",
    "whsec_",
    "xoxb-",
    "xoxp-",
    "ya29.",
];

/// Words in a variable's name that say its value is a secret.
const WORDS: &[&str] = &[
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "TOKEN",
    "APIKEY",
    "API_KEY",
    "PRIVATE_KEY",
    "ACCESS_KEY",
    "CREDENTIAL",
];

/// Tells whether the setting `name = value` looks like a secret.
#[must_use]
pub fn looks_secret(name: &str, value: &str) -> bool {
    if PREFIXES.iter().any(|prefix| value.starts_with(prefix)) || has_password(value) {
        return true;
    }
    let name = name.to_ascii_uppercase();
    let named = WORDS.iter().any(|word| name.contains(word)) && !name.ends_with("_FILE") && !name.ends_with("_PATH");
    let plain = ["true", "false", "none", "null"].contains(&value) || value.parse::<f64>().is_ok();
    (named && value.len() >= 6 && !plain) || is_random(value)
}

/// Tells whether the text is a URL with a password in front of its host.
fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, word)| !word.is_empty()))
}

/// Tells whether the text is one long word of mixed letters and digits with little repetition.
fn is_random(value: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"+/=_-".contains(&b);
    if value.len() < 24 || !value.bytes().all(word) {
        return false;
    }
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let hex = value.len() >= 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    let mixed = value.bytes().any(|b| b.is_ascii_lowercase()) && value.bytes().any(|b| b.is_ascii_uppercase());
    (hex || mixed) && digits * 12 >= value.len() && entropy(value) > if hex { 3.0 } else { 3.9 }
}

/// Returns the Shannon entropy of the bytes, in bits per byte.
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    value.bytes().for_each(|b| counts[usize::from(b)] += 1);
    let total = value.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / total).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_the_wrong_place_are_seen() {
        for (name, value) in [
            ("STRIPE", "sk_live_4eC39HqLyjWDarjtT1zdp7dc"),
            ("DB_PASSWORD", "correct horse"),
            ("DATABASE_URL", "postgres://app:hunter2@db/shop"),
            ("SALT", "9f86d081884c7d659a2feaa0c55ad015"),
            ("BLOB", "dGhpcyBpcyBhIHNlY3JldCBib3g5MDIxNzQ="),
            ("KEY", "-----BEGIN PRIVATE KEY-----"),
        ] {
            assert!(looks_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn plain_settings_pass() {
        for (name, value) in [
            ("PORT", "3000"),
            ("LOG_LEVEL", "debug"),
            ("API_URL", "https://api.example.com/v1"),
            ("TOKEN_TTL", "3600"),
            ("PASSWORD_FILE", "/run/secrets/pw"),
            ("USE_TOKEN", "false"),
            ("NAME", "a-rather-long-but-plain-service-name"),
            ("DATABASE_URL", "postgres://db.internal/shop"),
            ("BUCKET", "ShopAssetsProductionEuropeWest"),
        ] {
            assert!(!looks_secret(name, value), "{name}={value}");
        }
    }
}
