//! Azure Key Vault: its secrets, over its REST interface.
//!
//! There is no batch: secrets are read one by one, at most sixteen at the same time. The path of a reference is the
//! secret's name in lower case; Azure does not tell cases apart, and one secret has one reference. Versions have no stages
//! that could be moved: the previous one is the one written before the current one, and to promote a version is to write
//! its value once more. Bytes that are no plain text are kept in base64 ([`azure_text`](crate::azure::text)). Source: Key
//! Vault REST reference, version 7.4.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use crate::azure::answer::{Action, Bundle, Item, Lapse, Page, fault_of, is_version_id, now_at, time};
use crate::azure::login::AzureLogin;
use crate::azure::place::Place;
use crate::azure::sign_in::AzureSignIn;
pub(crate) use crate::azure::sign_in::{BOOTSTRAP_ENV, SIGN_IN_ENV, stamp};
use crate::azure::text;
use crate::azure::versions::{Standing, standing};
use crate::fault::{Fault, persist};
use crate::login::Login;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use crate::registry::Opening;
use crate::rest::{Answer, Rest};

/// The version of the interface.
const API: &str = "api-version=7.4";
/// Longest name, in characters.
const MAX_NAME: usize = 127;
/// Longest value as it is stored, in bytes.
const MAX_STORED: usize = 25 * 1024;
/// Most requests of one instance at the same time.
const MAX_READS: usize = 16;
/// Most pages that are followed; more is a server gone wrong.
const MAX_PAGES: usize = 1000;
/// How often a write is sent that the vault had no time for.
const MAX_WRITES: u32 = 3;

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: true,
    describe: true,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    issues: false,
    batch: 1,
};

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let refuse = |fault: Fault, hint: Option<String>| refused(opening.instance, fault, hint);
    let place = place_of(opening)?;
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls)).map_err(|fault| refuse(fault, None))?;
    let sign_ins = Arc::clone(&opening.shared.sign_ins);
    let sign_in = AzureSignIn::new(opening.settings, opening.sign_in.clone(), place.clone(), rest.clone(), sign_ins);
    let sign_in = sign_in.map_err(|fault| refuse(fault, None))?;
    let instance = opening.instance.to_owned();
    Ok(Arc::new(AzureKeyVault { instance, place, rest, sign_in, reads: Semaphore::new(MAX_READS) }))
}

/// Opens the instance's way for a person to sign in; none where `auth` says another one.
pub(crate) fn login(opening: &Opening<'_>) -> Result<Option<Arc<dyn Login>>, ProviderError> {
    let settings = opening.settings;
    if settings.auth.as_deref().is_some_and(|auth| auth != "device-code") {
        return Ok(None);
    }
    let place = place_of(opening)?;
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls));
    let rest = rest.map_err(|fault| refused(opening.instance, fault, None))?;
    let tenant = settings.tenant.as_deref().or_else(|| opening.sign_in.text("AZURE_TENANT_ID"));
    Ok(Some(Arc::new(AzureLogin::new(&place, rest, tenant, settings.client_id.as_deref()))))
}

fn place_of(opening: &Opening<'_>) -> Result<Place, ProviderError> {
    Place::of(opening.settings, opening.fixed).map_err(|error| {
        let name = opening.instance;
        // A manifest has no table for an instance that is there by itself.
        let own = if name == "azure-kv" { "org" } else { name };
        let hint = format!(
            "write it down, and references as `{own}://...`:\n[providers.{own}]\nkind = \"azure-key-vault\"\naddress = \"https://NAME.vault.azure.net\""
        );
        refused(name, Fault::new(ErrorKind::Unsupported, error.to_string()), Some(hint))
    })
}

fn refused(instance: &str, fault: Fault, hint: Option<String>) -> ProviderError {
    let (kind, cause) = (fault.kind, fault.cause);
    ProviderError { kind, instance: instance.to_owned(), reference: None, cause, hint, retry: Retry::Never }
}

struct AzureKeyVault {
    instance: String,
    place: Place,
    rest: Rest,
    sign_in: AzureSignIn,
    reads: Semaphore,
}

impl AzureKeyVault {
    /// Sends a request that reads, when it is its turn, and takes the answer apart. One token is replaced where the
    /// vault refuses it.
    async fn read<T>(
        &self,
        url: &str,
        deadline: Instant,
        take: impl Fn(&Answer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let _turn = timeout_at(deadline, self.reads.acquire()).await.map_err(|_| Fault::late())?;
        let mut pass = self.sign_in.pass(deadline).await?;
        let mut is_second = false;
        loop {
            let done = persist(deadline, || async {
                let answer = self.rest.send(self.request(Method::GET, url, &pass.token)).await?;
                if answer.is_success() { take(&answer) } else { Err(fault_of(&answer, Action::Read)) }
            });
            match done.await {
                Err(fault) if fault.kind == ErrorKind::Unauthenticated && !is_second => {
                    pass = self.sign_in.another(&pass, deadline).await?.ok_or(fault)?;
                    is_second = true;
                }
                done => return done,
            }
        }
    }

    /// Sends a request that writes. Key Vault takes a repeated one for another one, so only what was surely not done is
    /// sent again.
    async fn write(
        &self,
        method: Method,
        url: &str,
        body: Option<&Zeroizing<Vec<u8>>>,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let mut pass = self.sign_in.pass(deadline).await?;
        let (mut is_second, mut sent) = (false, 0);
        loop {
            let mut request = self.request(method.clone(), url, &pass.token);
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body.to_vec());
            }
            let answer = timeout_at(deadline, self.rest.send(request)).await.map_err(|_| Fault::late())??;
            if answer.is_success() {
                return Ok(answer);
            }
            let fault = fault_of(&answer, Action::Write);
            sent += 1;
            match fault.kind {
                ErrorKind::Unauthenticated if !is_second => {
                    pass = self.sign_in.another(&pass, deadline).await?.ok_or(fault)?;
                    is_second = true;
                }
                ErrorKind::Throttled if sent < MAX_WRITES => {
                    let wake = Instant::now() + fault.retry_after.unwrap_or(std::time::Duration::from_secs(1));
                    if wake >= deadline {
                        return Err(fault);
                    }
                    sleep_until(wake).await;
                }
                _ => return Err(fault),
            }
        }
    }

    fn request(&self, method: Method, url: &str, token: &SecretValue) -> reqwest::RequestBuilder {
        // Opened to be shown to the vault that it is for.
        let token = String::from_utf8_lossy(token.expose());
        self.rest.request(method, url).header("accept", "application/json").bearer_auth(token)
    }

    /// Returns the address of a secret, or of one of its versions.
    fn url(&self, name: &str, version: Option<&str>) -> String {
        let version = version.map(|version| format!("/{version}")).unwrap_or_default();
        format!("{}/secrets/{name}{version}?{API}", self.place.vault)
    }

    async fn one(&self, reference: &SecretRef, deadline: Instant) -> Result<Fetched, Fault> {
        let name = checked(&reference.path)?;
        match &reference.version {
            Version::Current => self.version(name, None, deadline).await,
            Version::Id(id) if is_version_id(id) => self.version(name, Some(id), deadline).await,
            Version::Id(_) => {
                Err(Fault::new(ErrorKind::NotFound, "the id of a version is 32 hex digits in lower case"))
            }
            Version::Pending => Err(Fault::new(ErrorKind::Unsupported, "Key Vault has no pending versions")),
            Version::Previous => {
                let versions = self.versions(name, deadline).await?;
                if versions.is_empty() {
                    return Err(Fault::new(ErrorKind::NotFound, "there is no version of it"));
                }
                let stands = match standing(&versions) {
                    // Two versions of the same second: the vault itself says which one is current.
                    Standing::Tied => {
                        let current = self.version(name, None, deadline).await?.version;
                        standing_below(&versions, current.as_deref())
                    }
                    stands => stands,
                };
                match stands {
                    Standing::Clear { previous: Some(id), .. } => self.version(name, Some(&id), deadline).await,
                    Standing::Clear { previous: None, .. } => {
                        Err(Fault::new(ErrorKind::NotFound, "there is one version of it only"))
                    }
                    Standing::Tied => Err(Fault::new(
                        ErrorKind::Unsupported,
                        "several versions were written in the same second, and the vault does not say in which order",
                    )),
                }
            }
        }
    }

    async fn version(&self, name: &str, version: Option<&str>, deadline: Instant) -> Result<Fetched, Fault> {
        self.read(&self.url(name, version), deadline, |answer| {
            let (item, stored) = answer.json::<Bundle>()?.into_parts();
            let strange = |what: &str| Fault::new(ErrorKind::Malformed, format!("the answer {what}"));
            let id = item.version().ok_or_else(|| strange("names no version"))?.to_owned();
            if item.name().as_deref() != Some(name) || version.is_some_and(|asked| asked != id) {
                return Err(strange("is about another secret"));
            }
            // A version that is named is served all the same, as Azure does: to look at what was.
            if version.is_none()
                && let Some((lapse, at)) = item.attributes.lapse(now_at(answer))
            {
                return Err(lapsed(lapse, at));
            }
            let encoding = item.tags.as_ref().and_then(|tags| tags.get(text::TAG));
            let value = text::bytes(stored, encoding.map(String::as_str))
                .ok_or_else(|| strange("is not encoded as its tag `file-encoding` says"))?;
            Ok(Fetched {
                value: Arc::new(value),
                version: Some(id),
                fetched_at: Instant::now(),
                stale: false,
                lone_field: None,
            })
        })
        .await
    }

    /// Returns all versions of a secret, in no order; none where there is no such secret.
    async fn versions(&self, name: &str, deadline: Instant) -> Result<Vec<Item>, Fault> {
        self.pages(format!("{}/secrets/{name}/versions?{API}", self.place.vault), deadline).await
    }

    async fn pages(&self, first: String, deadline: Instant) -> Result<Vec<Item>, Fault> {
        let mut all = Vec::new();
        let mut next = first;
        for _ in 0..MAX_PAGES {
            let page: Page = self.read(&next, deadline, |answer| answer.json()).await?;
            all.extend(page.value.ok_or_else(|| Fault::new(ErrorKind::Malformed, "the answer holds no list"))?);
            let Some(link) = page.next.filter(|link| !link.is_empty()) else { return Ok(all) };
            let elsewhere =
                || Fault::new(ErrorKind::Malformed, "the list goes on at another address, which is not followed");
            next = self.place.within(&link).ok_or_else(elsewhere)?;
        }
        Err(Fault::new(ErrorKind::Malformed, "the list has no end"))
    }

    async fn store(&self, name: &str, value: &SecretValue, deadline: Instant) -> Result<Option<String>, Fault> {
        let (text, is_base64) = text::stored(value);
        if text.len() > MAX_STORED {
            let coded = if is_base64 { ", and these bytes are no plain text and stand in base64" } else { "" };
            let cause = format!("Key Vault takes values of at most 25 KiB{coded}");
            return Err(Fault::new(ErrorKind::Unsupported, cause));
        }
        let (mut tags, content_type) = self.kept(name, deadline).await?;
        tags.remove(text::TAG);
        if is_base64 {
            tags.insert(text::TAG.to_owned(), text::BASE64.to_owned());
        }
        let body = body_of(&text, &tags, content_type.as_deref())?;
        let answer = self.write(Method::PUT, &self.url(name, None), Some(&body), deadline).await?;
        let item: Item = answer.json()?;
        Ok(item.version().map(str::to_owned))
    }

    /// Returns the tags and the content type that a new version takes over: Azure gives it none by itself. Nothing where
    /// this identity may write and not look.
    async fn kept(&self, name: &str, deadline: Instant) -> Result<(BTreeMap<String, String>, Option<String>), Fault> {
        let versions = match self.versions(name, deadline).await {
            Err(fault) if matches!(fault.kind, ErrorKind::Denied | ErrorKind::NotFound) => Vec::new(),
            versions => versions?,
        };
        let newest = versions.into_iter().max_by_key(|item| item.attributes.created);
        Ok(newest.map(|item| (item.tags.unwrap_or_default(), item.content_type)).unwrap_or_default())
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>, does: Does) -> ProviderError {
        let hint = self.hint(&fault, reference, does);
        let fault = match reference {
            // Azure names it last, after more than is passed on.
            Some(reference) if fault.kind == ErrorKind::Denied && !fault.is(LAPSED) && !fault.is("SecretDisabled") => {
                let vault = self.place.vault_label();
                Fault { cause: format!("`{}` in `{vault}`: {}", reference.path, fault.cause), ..fault }
            }
            _ => fault,
        };
        ProviderError {
            hint,
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }

    fn hint(&self, fault: &Fault, reference: Option<&SecretRef>, does: Does) -> Option<String> {
        let vault = self.place.vault_label();
        let name = reference.map_or("NAME", |reference| reference.path.as_str());
        let command = |verb: &str| format!("az keyvault secret {verb} --vault-name {vault} --name {name}");
        Some(match (fault.code.as_deref(), fault.kind) {
            (Some("ObjectIsDeletedButRecoverable"), _) => {
                format!(
                    "it was deleted and can be brought back: {}; or removed for good, with `purge`",
                    command("recover")
                )
            }
            (Some("SecretDisabled"), _) => {
                format!("its current version is disabled: {} --enabled true", command("set-attributes"))
            }
            (Some(LAPSED), _) => format!(
                "write a new value, or move the time: {} --expires ... --not-before ...; `?version=ID` reads it all the same",
                command("set-attributes")
            ),
            (Some("ForbiddenByFirewall" | "ForbiddenByConnection"), _) => {
                format!(
                    "the firewall of `{vault}` lets this network not in: use its VPN or private endpoint, or have the address allowed"
                )
            }
            (Some("AccessDenied"), ErrorKind::Denied) => {
                format!(
                    "`{vault}` decides by access policies, which know no single secrets: az keyvault set-policy --name {vault} --object-id ID --secret-permissions {}",
                    does.permission()
                )
            }
            (_, ErrorKind::Denied) => match does {
                Does::Fetch => "the role `Key Vault Secrets User` on this one secret is enough; a new role takes some minutes to count".to_owned(),
                Does::Put | Does::Delete => "to write and delete, the role `Key Vault Secrets Officer` on this one secret is enough; a new role takes some minutes to count".to_owned(),
                Does::List => format!("to list, the role `Key Vault Reader` on `{vault}` is enough; it opens no value"),
            },
            (_, ErrorKind::NotFound | ErrorKind::Unsupported) if reference.is_some_and(|r| checked(&r.path).is_err()) => {
                format!("names are letters, digits and `-`; write `{}`", plain_name(name))
            }
            (_, ErrorKind::NotFound) => {
                format!(
                    "it was looked for in {}: check its name, and whether it was deleted ({})",
                    self.place.vault,
                    command("recover")
                )
            }
            (_, ErrorKind::Unauthenticated) => self.sign_in.hint(&self.instance, fault),
            (_, ErrorKind::Unavailable) if self.place.is_of_authority(&fault.cause) => {
                format!("is `{}` the login authority, and does this network reach it?", self.place.authority)
            }
            (_, ErrorKind::Unavailable) if fault.cause.contains("dns") || fault.cause.contains("lookup") => {
                format!("is `{}` the address of the vault?", self.place.vault)
            }
            _ => return None,
        })
    }
}

/// What was asked for: each takes another right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Fetch,
    Put,
    Delete,
    /// The names of secrets, or the versions of one.
    List,
}

impl Does {
    /// Returns its name among the permissions of an access policy.
    fn permission(self) -> &'static str {
        match self {
            Self::Fetch => "get",
            Self::Put => "set",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// The code of a fault that we find and Azure does not.
const LAPSED: &str = "lapsed";

fn lapsed(lapse: Lapse, at: u64) -> Fault {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let at = at.map_or_else(|| "a time past counting".to_owned(), |at| at.to_string());
    let cause = match lapse {
        Lapse::Expired => format!("its current version expired at {at}"),
        Lapse::NotYet => format!("its current version is not to be used before {at}"),
    };
    Fault { code: Some(LAPSED.to_owned()), ..Fault::new(ErrorKind::Denied, cause) }
}

/// Returns `name` if it is one that a secret can have, as it is always written here.
fn checked(name: &str) -> Result<&str, Fault> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    let cause = "the path is the secret's name: 1 to 127 lower-case letters, digits and `-`, for Azure does not tell cases apart";
    Err(Fault::new(ErrorKind::NotFound, cause))
}

/// Returns the nearest name that a secret can have.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().take(MAX_NAME).map(plain).collect()
}

/// Writes a new version as the vault takes it.
fn body_of(
    text: &Zeroizing<String>,
    tags: &BTreeMap<String, String>,
    content_type: Option<&str>,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let written = |error: serde_json::Error| Fault::new(ErrorKind::Unsupported, error.to_string());
    // Room for the worst: six bytes of JSON for one of text. So the value stays in one buffer.
    let mut body = Zeroizing::new(Vec::with_capacity(text.len() * 6 + 16));
    body.extend_from_slice(b"{\"value\":");
    serde_json::to_writer(&mut *body, text.as_str()).map_err(written)?;
    let mut rest = json!({ "tags": tags });
    if let Some(kind) = content_type {
        rest["contentType"] = json!(kind);
    }
    let rest = rest.to_string();
    let mut whole = Zeroizing::new(Vec::with_capacity(body.len() + rest.len()));
    whole.extend_from_slice(&body);
    whole.push(b',');
    whole.extend_from_slice(rest.as_bytes().get(1..).unwrap_or_default());
    Ok(whole)
}

/// Orders `versions` where the vault itself named the current one.
fn standing_below(versions: &[Item], current: Option<&str>) -> Standing {
    let below: Vec<_> = versions.iter().filter(|item| item.version() != current).collect();
    match (crate::azure::versions::newest(below.iter().copied()), current) {
        (Some(Ok(previous)), Some(current)) => {
            Standing::Clear { current: current.to_owned(), previous: Some(previous.to_owned()) }
        }
        (None, Some(current)) => Standing::Clear { current: current.to_owned(), previous: None },
        _ => Standing::Tied,
    }
}

#[async_trait]
impl Provider for AzureKeyVault {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        // Once for all of them: what is wrong with it is then asked for once.
        if let Err(fault) = match references.is_empty() {
            true => return Vec::new(),
            false => timeout_at(options.deadline, self.sign_in.pass(options.deadline)).await,
        }
        .unwrap_or_else(|_| Err(Fault::late()))
        {
            return references
                .iter()
                .map(|reference| Err(self.error(fault.clone(), Some(reference), Does::Fetch)))
                .collect();
        }
        let each = references.iter().map(|reference| async move {
            self.one(reference, options.deadline).await.map_err(|fault| self.error(fault, Some(reference), Does::Fetch))
        });
        join_all(each).await
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let done = async {
            if reference.version != Version::Current {
                return Err(Fault::new(ErrorKind::Unsupported, "only the current version can be written"));
            }
            let name = checked(&reference.path).map_err(|fault| Fault { kind: ErrorKind::Unsupported, ..fault })?;
            self.store(name, &value, deadline).await
        };
        done.await.map_err(|fault| self.error(fault, Some(reference), Does::Put))
    }

    /// Deletes the secret; the vault keeps it for its retention time, 7 to 90 days, and its name is taken until then.
    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = async {
            let name = checked(&reference.path)?;
            self.write(Method::DELETE, &self.url(name, None), None, deadline).await
        };
        done.await.map(|_| ()).map_err(|fault| self.error(fault, Some(reference), Does::Delete))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        let all = self.pages(format!("{}/secrets?{API}&maxresults=25", self.place.vault), deadline).await;
        let has_tags = |item: &Item| {
            let has =
                |(name, value): &(String, String)| item.tags.as_ref().is_some_and(|tags| tags.get(name) == Some(value));
            options.tags.iter().all(has)
        };
        let mut listed: Vec<_> = all
            .map_err(|fault| self.error(fault, None, Does::List))?
            .into_iter()
            .filter(has_tags)
            .filter_map(|item| {
                let path = item.name().filter(|name| name.starts_with(options.prefix))?;
                Some(Listed { path, version: None, changed: time(item.attributes.updated) })
            })
            .collect();
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        listed.dedup_by(|a, b| a.path == b.path);
        Ok(listed)
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        let done = async {
            let versions = self.versions(checked(&reference.path)?, deadline).await?;
            if versions.is_empty() {
                return Err(Fault::new(ErrorKind::NotFound, "there is no version of it"));
            }
            Ok(crate::azure::versions::described(versions, SystemTime::now()))
        };
        done.await.map_err(|fault| self.error(fault, Some(reference), Does::List))
    }

    fn forget(&self) {
        self.sign_in.forget();
    }
}

impl fmt::Debug for AzureKeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureKeyVault").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_secret_has_one_name() {
        for name in ["a", "0", "a-b", &"x".repeat(127)] {
            assert!(checked(name).is_ok(), "{name}");
        }
        for name in ["", "A", "a_b", "a/b", "a.b", "ä", "a%2db", "a?b", "..", &"x".repeat(128)] {
            assert_eq!(checked(name).unwrap_err().kind, ErrorKind::NotFound, "{name}");
        }
        assert_eq!(plain_name("Shop/Dev_DB"), "shop-dev-db");
    }

    #[test]
    fn a_body_is_json_whatever_the_value_holds() {
        let tags = BTreeMap::from([("team".to_owned(), "a\"b".to_owned())]);
        for value in ["", "a\"\\\n\u{1f600}", "}],{"] {
            let body = body_of(&Zeroizing::new(value.to_owned()), &tags, Some("text/plain")).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read, json!({ "value": value, "tags": { "team": "a\"b" }, "contentType": "text/plain" }));
        }
    }
}
