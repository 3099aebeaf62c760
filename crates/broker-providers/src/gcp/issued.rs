//! Access tokens of Google Cloud for one run: of the service account that a reference names, for the scopes, the time and,
//! at Cloud Storage, the bucket that it says.
//!
//! Google revokes no such token: it is asked for with no longer a life than the run may last, or five minutes, and what a
//! repeated request leaves behind unknown ends with that. The run stands in Google's audit log. Sources: the IAM Service
//! Account Credentials API v1, "Create a downscoped short-lived credential", RFC 8693.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::duration;
use broker_core::instance::InstanceSettings;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fault::{Fault, persist};
use crate::gcp::endpoint::{self, EndpointError};
use crate::gcp::session::{Session, Sessions};
use crate::gcp::sign_in::{Hop, Places, chain, is_account};
use crate::gcp::token::{LIVES, SCOPE, SHORT, Wish, reason};
use crate::issue::{Credential, Issued, Order};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
    unsupported,
};
use crate::registry::Opening;

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: false,
    list: false,
    tags: false,
    describe: false,
    versions: false,
    previous: false,
    pending: false,
    promote: false,
    issues: true,
    batch: 1,
};

/// The options that a reference may have.
pub(crate) const OPTIONS: &[&str] = &["bucket", "bucket-role", "lifetime", "scopes"];

/// What Google gives to an account without a policy of its organisation.
const USUAL: Duration = Duration::from_secs(3600);
const NOT_STORED: &str = "tokens of a service account are made for each run, and nothing is stored here";

/// Opens an instance. Signing in happens with its first order.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    let refuse = |cause: String, hint: Option<&str>| ProviderError {
        kind: ErrorKind::Unsupported,
        instance: opening.instance.to_owned(),
        reference: None,
        cause,
        hint: hint.map(str::to_owned),
        retry: Retry::Never,
    };
    if let Some(named) = settings.endpoint.as_deref() {
        let checked = endpoint::check(named, true, false);
        // Not even Google's own: the sign-in goes to four of its hosts, and none of them is meant.
        let checked = checked.and(if opening.fixed { Ok(()) } else { Err(EndpointError::Foreign) });
        checked.map_err(|error| {
            let hint = match error {
                EndpointError::NoAddress => "leave it out for Google's own",
                EndpointError::Foreign => "put this instance into your own configuration, which may",
            };
            refuse(error.to_string(), Some(hint))
        })?;
    }
    let life = settings.session_ttl().ok().flatten();
    if life.is_some_and(|life| !LIVES.contains(&life)) {
        return Err(refuse("`session-ttl` of this kind is from `2m` to `12h`".to_owned(), None));
    }
    let delegates = chain(settings).map_err(|fault| refuse(fault.cause, None))?;
    let delegates = delegates.map(|hop| [hop.delegates, vec![hop.email]].concat()).unwrap_or_default();
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls));
    let rest = rest.map_err(|fault| refuse(fault.cause, None))?;
    Ok(Arc::new(GcpToken {
        instance: opening.instance.to_owned(),
        delegates,
        life,
        sessions: Sessions {
            // Who is acted as on the way stands in the request itself.
            settings: InstanceSettings { impersonate: None, ..settings.clone() },
            sign_in: opening.sign_in.clone(),
            places: Places::of(settings.endpoint.as_deref()),
            anonymous: false,
            rest,
            held: Mutex::default(),
        },
    }))
}

struct GcpToken {
    instance: String,
    /// Service accounts to act as on the way, one through the other.
    delegates: Vec<String>,
    life: Option<Duration>,
    sessions: Sessions,
}

/// One token, as a reference wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    account: String,
    scopes: Vec<String>,
    life: Option<Duration>,
    /// A bucket of Cloud Storage and the role that the token is cut down to there.
    bucket: Option<(String, String)>,
}

impl Wanted {
    fn of(reference: &SecretRef) -> Result<Self, Fault> {
        if reference.version != Version::Current {
            return Err(refused("a token has no versions"));
        }
        // An address, or the account's number.
        let is_number = reference.path.bytes().all(|byte| byte.is_ascii_digit());
        if !is_account(&reference.path) || !(is_number || reference.path.contains('@')) {
            return Err(refused("its name is no service account's address"));
        }
        let option = |name: &str| reference.options.get(name).map(String::as_str);
        let scopes = option("scopes").unwrap_or("cloud-platform").split(',').map(scope).collect::<Option<Vec<_>>>();
        let scopes = scopes.ok_or_else(|| {
            refused("`scopes` is a list of Google's scopes, in short or as addresses: `scopes=devstorage.read_only`")
        })?;
        let life = option("lifetime").map(|text| duration::parse(text).filter(|life| LIVES.contains(life)));
        let life = life.map(|life| life.ok_or_else(|| refused("`lifetime` is from `2m` to `12h`"))).transpose()?;
        let bucket = match (option("bucket"), option("bucket-role")) {
            (None, None) => None,
            (Some(name), role) if is_bucket(name) && role.is_none_or(is_role) => {
                Some((name.to_owned(), role.unwrap_or("storage.objectViewer").to_owned()))
            }
            (None, Some(_)) => return Err(refused("`bucket-role` says what is done in a `bucket`, and there is none")),
            _ => {
                return Err(refused(
                    "`bucket` is the name of a bucket, and `bucket-role` a role such as `storage.objectViewer`",
                ));
            }
        };
        Ok(Self { account: reference.path.clone(), scopes, life, bucket })
    }

    /// Returns the options of the exchange that cuts a token down to one bucket.
    fn boundary(&self) -> Option<Value> {
        let (bucket, role) = self.bucket.as_ref()?;
        let rule = json!({
            "availableResource": format!("//storage.googleapis.com/projects/_/buckets/{bucket}"),
            "availablePermissions": [format!("inRole:roles/{role}")],
        });
        Some(json!({ "accessBoundary": { "accessBoundaryRules": [rule] } }))
    }
}

/// Reads a scope: `devstorage.read_only`, or its whole address.
fn scope(text: &str) -> Option<String> {
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_/".contains(&b));
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && is_plain(rest) => Some(text.to_owned()),
        None if !text.is_empty() && is_plain(text) => Some(format!("{}{text}", SCOPE.strip_suffix("cloud-platform")?)),
        _ => None,
    }
}

fn is_bucket(text: &str) -> bool {
    (3..=222).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

fn is_role(text: &str) -> bool {
    text.strip_prefix("storage.")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn refused(cause: &str) -> Fault {
    Fault::new(ErrorKind::Unsupported, cause)
}

impl GcpToken {
    async fn order(&self, reference: &SecretRef, order: &Order, deadline: Instant) -> Result<Issued, Fault> {
        let wanted = Wanted::of(reference)?;
        // No longer than the run may last, where nothing is said: nobody can end it before.
        let life = wanted.life.or(self.life).unwrap_or_else(|| order.ttl.clamp(SHORT, USUAL));
        let made = self.sessions.signed_in(deadline, |session| {
            let wanted = &wanted;
            async move { persist(deadline, || self.make(&session, wanted, life, order)).await }
        });
        let (value, expires) = made.await?;
        let references = vec![reference.clone()];
        let credential = Credential { instance: self.instance.clone(), references, expires, revocation: None };
        Ok(Issued { value: Arc::new(value), lone_field: Some("access_token"), credential: Arc::new(credential) })
    }

    async fn make(
        &self,
        session: &Session,
        wanted: &Wanted,
        life: Duration,
        order: &Order,
    ) -> Result<(SecretValue, jiff::Timestamp), Fault> {
        let tokens = session.tokens();
        let nobody = || Fault::new(ErrorKind::Unauthenticated, "no credentials were found");
        let acting = tokens.bearer().await?.ok_or_else(nobody)?;
        let hop = Hop { email: wanted.account.clone(), delegates: self.delegates.clone() };
        let reason = Some(reason(order.lease, Some(&order.scope)));
        let made = tokens.generate(&acting, &Wish { hop: &hop, scopes: &wanted.scopes, life, reason }).await;
        let made = made.map_err(|fault| match fault.is("INVALID_ARGUMENT") {
            true => Fault { kind: ErrorKind::Unsupported, ..fault },
            false => fault,
        })?;
        match wanted.boundary() {
            None => Ok((made.token, made.expires)),
            Some(boundary) => Ok((tokens.cut_down(&made.token, &boundary).await?, made.expires)),
        }
    }

    fn error(&self, fault: Fault, reference: Option<&SecretRef>) -> ProviderError {
        ProviderError {
            hint: hint(&fault),
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }
}

/// Returns one way out, where there is one.
fn hint(fault: &Fault) -> Option<String> {
    let known = match fault.kind {
        ErrorKind::Denied if fault.is("SERVICE_DISABLED") => {
            "enable the API with `gcloud services enable iamcredentials.googleapis.com`"
        }
        ErrorKind::Denied => {
            "who signs in, or the last of `impersonate`, lacks `roles/iam.serviceAccountTokenCreator` on that service account"
        }
        ErrorKind::NotFound => "check the address of the service account",
        ErrorKind::Unsupported if fault.is("INVALID_ARGUMENT") => {
            "more than an hour needs the policy `iam.allowServiceAccountCredentialLifetimeExtension` of your organisation"
        }
        ErrorKind::Unsupported if fault.cause.starts_with("its name") => {
            "such as `gcp-token://deploy@PROJECT.iam.gserviceaccount.com`"
        }
        ErrorKind::Unauthenticated => "sign in with `gcloud auth application-default login`",
        ErrorKind::Throttled => "try again in a while, or raise `timeout` of the instance",
        ErrorKind::Unavailable => "check the network",
        _ => return None,
    };
    Some(known.to_owned())
}

#[async_trait]
impl Provider for GcpToken {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], _: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        references.iter().map(|reference| Err(unsupported(reference, NOT_STORED))).collect()
    }

    async fn put(&self, reference: &SecretRef, _: SecretValue, _: Instant) -> Result<Option<String>, ProviderError> {
        Err(unsupported(reference, NOT_STORED))
    }

    async fn delete(&self, reference: &SecretRef, _: Instant) -> Result<(), ProviderError> {
        Err(unsupported(reference, NOT_STORED))
    }

    async fn list(&self, _: ListOptions<'_>, _: Instant) -> Result<Vec<Listed>, ProviderError> {
        Err(self.error(refused(NOT_STORED), None))
    }

    async fn describe(&self, reference: &SecretRef, _: Instant) -> Result<Described, ProviderError> {
        Err(unsupported(reference, NOT_STORED))
    }

    async fn issue(
        &self,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Vec<Result<Issued, ProviderError>> {
        let each = references.iter().map(|reference| async move {
            self.order(reference, order, deadline).await.map_err(|fault| self.error(fault, Some(reference)))
        });
        join_all(each).await
    }

    fn forget(&self) {
        self.sessions.forget();
    }
}

impl fmt::Debug for GcpToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcpToken").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, Fault> {
        Wanted::of(&text.parse().unwrap())
    }

    #[test]
    fn a_reference_says_who_for_what_and_how_long() {
        let read = wanted(
            "g://deploy@shop.iam.gserviceaccount.com?scopes=devstorage.read_only,https://mail.google.com/&lifetime=10m",
        );
        let read = read.unwrap();
        let short = "https://www.googleapis.com/auth/devstorage.read_only";
        assert_eq!(read.scopes, [short, "https://mail.google.com/"]);
        assert_eq!((read.life, read.bucket), (Some(Duration::from_secs(600)), None));
        let cut = wanted("g://1234567890?bucket=shop-assets&bucket-role=storage.objectCreator").unwrap();
        assert_eq!(cut.scopes, [SCOPE]);
        let rules = &cut.boundary().unwrap()["accessBoundary"]["accessBoundaryRules"];
        assert_eq!(rules[0]["availableResource"], "//storage.googleapis.com/projects/_/buckets/shop-assets");
        assert_eq!(rules[0]["availablePermissions"], json!(["inRole:roles/storage.objectCreator"]));
    }

    #[test]
    fn what_google_has_no_name_for_is_refused_before_anything_is_sent() {
        for text in [
            "g://deploy",
            "g://a@b/c",
            "g://a@b?version=1",
            "g://a@b?scopes=a,",
            "g://a@b?scopes=http://x",
            "g://a@b?lifetime=1m",
            "g://a@b?lifetime=13h",
            "g://a@b?bucket=A",
            "g://a@b?bucket=shop/x",
            "g://a@b?bucket=shop&bucket-role=viewer",
            "g://a@b?bucket-role=storage.objectViewer",
        ] {
            assert_eq!(wanted(text).unwrap_err().kind, ErrorKind::Unsupported, "{text}");
        }
    }
}
