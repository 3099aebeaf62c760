//! Application Default Credentials, read by us: the file that the caller's variable names, or the one that
//! `gcloud auth application-default login` writes; without either, the metadata server of the machine.
//!
//! Google's own libraries would look in the environment of their process, which is the daemon's. There is a second reason
//! to read the file here: it may say where its credential is sent, and name a command or an address to get one from. What
//! it holds goes to Google's own hosts and nowhere else, commands are not run, and an address must be `https` or on this
//! machine. Format: AIP-4110 and AIP-4112 to 4117.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use broker_core::instance::InstanceSettings;
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use ring::rsa::KeyPair;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::aws::profile::read_text;
use crate::fault::Fault;
use crate::file_stamp::{FileStamp, FilesStamp};
use crate::provider::ErrorKind;
use crate::rest::SecretText;

/// The caller's variables that are read.
pub(crate) const SIGN_IN_ENV: &[&str] = &[
    "CLOUDSDK_CONFIG",
    "CLOUDSDK_CORE_PROJECT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
];

/// The variables that are or lead to a credential of Google, whether we read them or only the child's client would.
pub(crate) const BOOTSTRAP_ENV: &[&str] = &[
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_IMPERSONATE_SERVICE_ACCOUNT",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
];

const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const FILE: &str = "application_default_credentials.json";

/// Who to sign in as.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) source: Source,
    /// Service accounts to act as, one through the other.
    pub(crate) hops: Vec<Hop>,
    /// The project that pays for the calls of a person.
    pub(crate) quota_project: Option<String>,
    pub(crate) places: Places,
}

/// One impersonation.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) email: String,
    pub(crate) delegates: Vec<String>,
}

/// Where a first token comes from.
pub(crate) enum Source {
    /// Nothing is sent at all.
    Anonymous,
    /// A person, by a refresh token.
    User { client_id: String, client_secret: SecretValue, refresh_token: SecretValue },
    /// A service account, by its key.
    ServiceAccount { email: String, key_id: String, key: Arc<KeyPair> },
    /// An identity of another house, by its token.
    External { audience: String, token_type: String, subject: Subject, hop: Option<Hop> },
    /// The machine that we run on.
    Metadata,
}

/// Where the token of another house is found.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) place: SubjectPlace,
    /// The member of a JSON object; none for plain text.
    pub(crate) field: Option<String>,
}

/// See [`Subject`].
pub(crate) enum SubjectPlace {
    File(PathBuf),
    Url { url: String, headers: HashMap<String, SecretText> },
}

/// Where Google's services are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) oauth: String,
    pub(crate) sts: String,
    pub(crate) iam: String,
    pub(crate) metadata: String,
}

impl Places {
    /// Returns Google's own, or the one place that an instance names for everything.
    pub(crate) fn of(elsewhere: Option<&str>) -> Self {
        let place = |google: &str| elsewhere.unwrap_or(google).trim_end_matches('/').to_owned();
        Self {
            oauth: place("https://oauth2.googleapis.com"),
            sts: place("https://sts.googleapis.com"),
            iam: place("https://iamcredentials.googleapis.com"),
            // By its address: a name would be looked up wherever the network says.
            metadata: place("http://169.254.169.254"),
        }
    }
}

/// Looks at the file that a sign-in reads.
pub(crate) fn stamp(sign_in: &SignIn) -> FilesStamp {
    FilesStamp(vec![place(sign_in).ok().flatten().and_then(|path| FileStamp::of(&path))])
}

/// Returns where the credentials are, if there may be any.
fn place(sign_in: &SignIn) -> Result<Option<PathBuf>, Fault> {
    let absolute = |text: &str, variable: &str| {
        let path = PathBuf::from(text);
        let refuse = || sign_in_fault(format!("`{variable}` must be an absolute path"));
        if path.is_absolute() { Ok(Some(path)) } else { Err(refuse()) }
    };
    if let Some(named) = sign_in.text(VARIABLE) {
        return absolute(named, VARIABLE);
    }
    if let Some(folder) = sign_in.text("CLOUDSDK_CONFIG") {
        return Ok(absolute(folder, "CLOUDSDK_CONFIG")?.map(|folder| folder.join(FILE)));
    }
    Ok(std::env::home_dir().map(|home| home.join(".config/gcloud").join(FILE)))
}

impl Plan {
    /// Reads the file that applies. Blocks; asks nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] for a file that cannot be read or does not count.
    pub(crate) fn read(settings: &InstanceSettings, sign_in: &SignIn, places: Places) -> Result<Self, Fault> {
        let (source, mut hops, quota) = match place(sign_in)? {
            Some(path) => match read_text(&path) {
                Ok(text) => {
                    let text = Zeroizing::new(text);
                    let file: AdcFile = serde_json::from_str(&text).map_err(|error| {
                        let at = format!("line {}, column {}", error.line(), error.column());
                        sign_in_fault(format!("`{}` makes no sense at {at}", path.display()))
                    })?;
                    let quota = file.quota_project_id.clone();
                    let (source, hops) = file.open().map_err(|why| named(&path, &why))?;
                    (source, hops, quota)
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && sign_in.text(VARIABLE).is_none() => {
                    (Source::Metadata, Vec::new(), None)
                }
                Err(error) => return Err(named(&path, &error.to_string())),
            },
            None => (Source::Metadata, Vec::new(), None),
        };
        hops.extend(chain(settings)?);
        let quota_project = sign_in.text("GOOGLE_CLOUD_QUOTA_PROJECT").map(str::to_owned).or(quota);
        Ok(Self { source, hops, quota_project, places })
    }

    /// Returns the plan of nobody.
    pub(crate) fn anonymous() -> Self {
        Self { source: Source::Anonymous, hops: Vec::new(), quota_project: None, places: Places::of(None) }
    }
}

/// Reads `impersonate`: delegates, then the account to act as.
pub(crate) fn chain(settings: &InstanceSettings) -> Result<Option<Hop>, Fault> {
    let Some(words) = &settings.impersonate else { return Ok(None) };
    if let Some(bad) = words.as_slice().iter().find(|word| !is_account(word)) {
        return Err(Fault::new(ErrorKind::Unsupported, format!("`{bad}` is not the address of a service account")));
    }
    let split = words.as_slice().split_last();
    Ok(split.map(|(email, delegates)| Hop { email: email.clone(), delegates: delegates.to_vec() }))
}

/// A service account's address or number, of characters that mean themselves in a URL.
pub(crate) fn is_account(text: &str) -> bool {
    !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@.-_".contains(&b))
}

/// A file of credentials, whatever its type.
#[derive(Deserialize)]
struct AdcFile {
    r#type: String,
    quota_project_id: Option<String>,
    // authorized_user
    client_id: Option<String>,
    client_secret: Option<SecretText>,
    refresh_token: Option<SecretText>,
    // service_account
    client_email: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<SecretText>,
    // external_account
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    credential_source: Option<CredentialSource>,
    // external_account and impersonated_service_account
    service_account_impersonation_url: Option<String>,
    delegates: Option<Vec<String>>,
    source_credentials: Option<Box<AdcFile>>,
    token_uri: Option<String>,
    universe_domain: Option<String>,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<String>,
    url: Option<String>,
    headers: Option<HashMap<String, SecretText>>,
    executable: Option<serde::de::IgnoredAny>,
    environment_id: Option<String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
    subject_token_field_name: Option<String>,
}

impl AdcFile {
    /// Turns it into a source, and the accounts to act as.
    fn open(self) -> Result<(Source, Vec<Hop>), String> {
        let missing = |field: &str| format!("`{field}` is missing");
        if let Some(domain) = self.universe_domain.as_deref().filter(|domain| *domain != "googleapis.com") {
            return Err(format!("`{domain}` is not Google's public cloud"));
        }
        for (field, url) in [("token_uri", &self.token_uri), ("token_url", &self.token_url)] {
            if url.as_deref().is_some_and(|url| !is_google(url)) {
                return Err(format!("`{field}` must be an address of Google"));
            }
        }
        match self.r#type.as_str() {
            "authorized_user" => {
                let client_id = self.client_id.ok_or_else(|| missing("client_id"))?;
                let client_secret = self.client_secret.ok_or_else(|| missing("client_secret"))?.0;
                let refresh_token = self.refresh_token.ok_or_else(|| missing("refresh_token"))?.0;
                Ok((Source::User { client_id, client_secret, refresh_token }, Vec::new()))
            }
            "service_account" => {
                let email = self.client_email.ok_or_else(|| missing("client_email"))?;
                let key_id = self.private_key_id.ok_or_else(|| missing("private_key_id"))?;
                let key = Arc::new(read_key(&self.private_key.ok_or_else(|| missing("private_key"))?.0)?);
                Ok((Source::ServiceAccount { email, key_id, key }, Vec::new()))
            }
            "external_account" => {
                let hop = self.service_account_impersonation_url.as_deref().map(hop_of).transpose()?;
                let subject = self.credential_source.ok_or_else(|| missing("credential_source"))?.open()?;
                let audience = self.audience.ok_or_else(|| missing("audience"))?;
                let token_type = self.subject_token_type.ok_or_else(|| missing("subject_token_type"))?;
                Ok((Source::External { audience, token_type, subject, hop }, Vec::new()))
            }
            "impersonated_service_account" => {
                let url = self
                    .service_account_impersonation_url
                    .ok_or_else(|| missing("service_account_impersonation_url"))?;
                let mut hop = hop_of(&url)?;
                hop.delegates = self.delegates.unwrap_or_default().iter().map(|name| bare(name)).collect();
                if !hop.delegates.iter().all(|name| is_account(name)) {
                    return Err("`delegates` must name service accounts".to_owned());
                }
                let source = self.source_credentials.ok_or_else(|| missing("source_credentials"))?;
                let (source, mut hops) = source.open()?;
                hops.push(hop);
                Ok((source, hops))
            }
            other => Err(format!("credentials of type `{}` are not understood", crate::words::safe(other))),
        }
    }
}

impl CredentialSource {
    fn open(self) -> Result<Subject, String> {
        let format = self.format.filter(|format| format.r#type == "json");
        let field = match format {
            None => None,
            Some(format) => Some(format.subject_token_field_name.ok_or("`subject_token_field_name` is missing")?),
        };
        if self.executable.is_some() {
            return Err("a command as the source of a token is never run; use `file` or `url`".to_owned());
        }
        if self.environment_id.is_some() {
            return Err("an AWS identity as the source of a token is not supported; use `file` or `url`".to_owned());
        }
        let place = match (self.file, self.url) {
            (Some(file), _) if Path::new(&file).is_absolute() => SubjectPlace::File(PathBuf::from(file)),
            (Some(_), _) => return Err("`credential_source.file` must be an absolute path".to_owned()),
            (None, Some(url)) if is_fetchable(&url) => {
                SubjectPlace::Url { url, headers: self.headers.unwrap_or_default() }
            }
            (None, Some(_)) => return Err("`credential_source.url` must be `https://`, or on this machine".to_owned()),
            (None, None) => return Err("`credential_source` names no `file` and no `url`".to_owned()),
        };
        Ok(Subject { place, field })
    }
}

/// Reads the account out of `https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/X:generateAccessToken`.
fn hop_of(url: &str) -> Result<Hop, String> {
    let email = is_google(url).then(|| url.rsplit_once("/serviceAccounts/")).flatten();
    let email = email.and_then(|(_, rest)| rest.strip_suffix(":generateAccessToken")).filter(|email| is_account(email));
    let email = email.ok_or("`service_account_impersonation_url` is not one of Google's")?;
    Ok(Hop { email: email.to_owned(), delegates: Vec::new() })
}

fn bare(name: &str) -> String {
    name.strip_prefix("projects/-/serviceAccounts/").unwrap_or(name).to_owned()
}

/// Tells whether `address` is `https` at a host of Google's APIs or accounts.
fn is_google(address: &str) -> bool {
    let authority = address.strip_prefix("https://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    authority.is_some_and(|host| {
        let plain = host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        plain && (host.ends_with(".googleapis.com") || host == "accounts.google.com")
    })
}

/// Tells whether a token may be fetched there: encrypted, or from this machine or its metadata server.
fn is_fetchable(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else { return address.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    !authority.contains(['@', '\\', '['])
        && (host == "localhost"
            || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback() || ip.is_link_local()))
}

/// Reads a key in PKCS #8 as PEM, the only form that Google hands out.
fn read_key(pem: &SecretValue) -> Result<KeyPair, String> {
    let bad = || "`private_key` is no RSA key in PKCS #8".to_owned();
    // Opened to be read into the key that signs; the text is wiped.
    let text = std::str::from_utf8(pem.expose()).map_err(|_| bad())?;
    let body = text.split("-----BEGIN PRIVATE KEY-----").nth(1).and_then(|rest| rest.split("-----END").next());
    let body: Zeroizing<String> = Zeroizing::new(body.ok_or_else(bad)?.split_whitespace().collect());
    let der = Zeroizing::new(BASE64_STANDARD.decode(body.as_bytes()).map_err(|_| bad())?);
    KeyPair::from_pkcs8(&der).map_err(|_| bad())
}

fn named(path: &Path, why: &str) -> Fault {
    sign_in_fault(format!("`{}`: {why}", path.display()))
}

fn sign_in_fault(cause: String) -> Fault {
    Fault::new(ErrorKind::Unauthenticated, cause)
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::User { .. } => "User",
            Self::ServiceAccount { .. } => "ServiceAccount",
            Self::External { .. } => "External",
            Self::Metadata => "Metadata",
        })
    }
}

impl fmt::Debug for SubjectPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Url { url, .. } => f.debug_tuple("Url").field(url).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_to_google_and_to_nobody_whose_name_looks_like_it() {
        for address in ["https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"] {
            assert!(is_google(address), "{address}");
        }
        for address in [
            "http://oauth2.googleapis.com/token",
            "https://googleapis.com.evil.example/token",
            "https://evilgoogleapis.com/token",
            "https://oauth2.googleapis.com@evil.example/token",
            "https://evil.example/x.googleapis.com",
            "https://oauth2.googleapis.com:8443/token",
            "https://evil.example\\.googleapis.com",
        ] {
            assert!(!is_google(address), "{address}");
        }
    }

    #[test]
    fn a_token_of_another_house_is_fetched_over_tls_or_on_this_machine() {
        for address in
            ["https://token.example/x", "http://127.0.0.1:80/x", "http://169.254.169.254/x", "http://localhost:5/"]
        {
            assert!(is_fetchable(address), "{address}");
        }
        for address in
            ["http://10.0.0.1/", "http://localhost.evil.example/", "http://127.0.0.1@evil.example/", "file:///x"]
        {
            assert!(!is_fetchable(address), "{address}");
        }
    }

    #[test]
    fn a_file_that_leads_elsewhere_or_runs_something_does_not_count() {
        let source = |source: &str| {
            format!(
                r#"{{"type":"external_account","audience":"a","subject_token_type":"t","token_url":"https://sts.googleapis.com/v1/token","credential_source":{source}}}"#
            )
        };
        let user = r#"{"type":"authorized_user","client_id":"i","client_secret":"canary","refresh_token":"canary""#;
        for (text, why) in [
            (format!(r#"{user},"token_uri":"https://evil.example/token"}}"#), "`token_uri`"),
            (format!(r#"{user},"universe_domain":"evil.example"}}"#), "`evil.example`"),
            (source(r#"{"executable":{"command":"/bin/sh"}}"#), "never run"),
            (source(r#"{"environment_id":"aws1"}"#), "AWS"),
            (source(r#"{"url":"http://evil.example/"}"#), "`credential_source.url`"),
            (source(r#"{"file":"token"}"#), "absolute"),
            (r#"{"type":"gdch_service_account"}"#.to_owned(), "gdch_service_account"),
            (
                r#"{"type":"service_account","client_email":"a","private_key_id":"b","private_key":"canary"}"#
                    .to_owned(),
                "PKCS",
            ),
        ] {
            let file: AdcFile = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let refused = file.open().expect_err(&text);
            assert!(refused.contains(why) && !refused.contains("canary"), "{refused}");
        }
    }
}
