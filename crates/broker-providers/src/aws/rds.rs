//! A token to sign in to a database of RDS or Aurora with, for one run.
//!
//! It is the address of a `connect` request, signed beforehand: it names the database and its user, is good for fifteen
//! minutes and for new connections only, and no request is sent for it. With `assume-role` a session of the run's own
//! signs it, which may connect as this user and do nothing else. Source: "IAM database authentication" of the Amazon RDS
//! User Guide.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::aws::issuer::{Made, Ware};
use crate::aws::json::is_region;
use crate::aws::role_session::{RoleSession, SHORTEST, Whom};
use crate::aws::session::AwsSession;
use crate::fault::Fault;
use crate::issue::Order;
use crate::provider::{ErrorKind, Provider, ProviderError};
use crate::registry::Opening;

/// How long a token opens connections; AWS takes no longer one.
const LIFE: Duration = Duration::from_secs(900);

/// What a reference may say behind `?`.
pub(crate) const OPTIONS: &[&str] = &["region"];

/// What stands as it is in the query of an address (RFC 3986 section 2.3).
const QUERY_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    super::issuer::open(opening, Ware::DatabaseToken)
}

/// A database and one of its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Database<'r> {
    host: &'r str,
    port: u16,
    user: &'r str,
}

impl<'r> Database<'r> {
    /// Reads `HOST:PORT/USER`.
    fn of(path: &'r str) -> Option<Self> {
        let (address, user) = path.split_once('/')?;
        let (host, port) = address.rsplit_once(':')?;
        let is_of_hosts = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        // The user stands in a policy, where other characters would mean something.
        let is_of_users = |b: u8| b.is_ascii_alphanumeric() || b"_.@+=-".contains(&b);
        let fits =
            !host.is_empty() && host.bytes().all(is_of_hosts) && !user.is_empty() && user.bytes().all(is_of_users);
        let port = port.parse().ok().filter(|port| *port > 0 && fits)?;
        Some(Self { host, port, user })
    }

    /// Returns the region in the name that RDS gave the database: `NAME.ID.REGION.rds.amazonaws.com`.
    fn region(&self) -> Option<&'r str> {
        let name = self.host.strip_suffix(".cn").unwrap_or(self.host);
        let region = name.strip_suffix(".rds.amazonaws.com")?.rsplit('.').next()?;
        region.contains('-').then_some(region)
    }
}

/// Signs a token for the database and the user that `reference` names.
///
/// # Errors
/// [`ErrorKind::NotFound`] for what is no database, [`ErrorKind::Unsupported`] for what is no region, and what signing in
/// says.
pub(crate) async fn make(
    session: &Arc<AwsSession>,
    reference: &SecretRef,
    order: &Order,
    deadline: Instant,
) -> Result<Made, Fault> {
    let database = Database::of(&reference.path).ok_or_else(|| {
        let cause = "it names no database and user, such as `shop.abc123.eu-west-1.rds.amazonaws.com:5432/app`";
        Fault::new(ErrorKind::NotFound, cause)
    })?;
    let said = reference.options.get("region").map(String::as_str).or_else(|| database.region());
    let region = match said {
        Some(region) => region.to_owned(),
        None => session.signed_in(deadline).await?.region.as_ref().to_owned(),
    };
    if !is_region(&region) {
        return Err(Fault::new(ErrorKind::Unsupported, "`region` is no name of a region"));
    }
    let credentials = match narrow(session, &region, database.user, order) {
        Some(narrow) => narrow.credentials(deadline).await?.1,
        None => session.credentials(deadline).await?.1,
    };
    let now = SystemTime::now();
    let token = token(&credentials, database, &region, now)?;
    // A token dies with the keys that signed it.
    let end = credentials.expiry().map_or(now + LIFE, |expiry| expiry.min(now + LIFE));
    let expires = Timestamp::try_from(end).map_err(|_| Fault::new(ErrorKind::Malformed, "the keys end at no time"))?;
    Ok(Made { value: token, expires })
}

/// Returns a session of the instance's role for this run, which may connect as `user`; nothing where it assumes no role.
fn narrow(session: &Arc<AwsSession>, region: &str, user: &str, order: &Order) -> Option<AwsSession> {
    let role = session.plan().last_role()?;
    let part = |at| role.arn.split(':').nth(at).unwrap_or_default();
    // A policy names a database by an id that its address does not tell, so this is every one of the account and region.
    let resource = format!("arn:{}:rds-db:{region}:{}:dbuser:*/{user}", part(1), part(4));
    let statement = json!([{ "Effect": "Allow", "Action": "rds-db:connect", "Resource": resource }]);
    let asked = RoleSession {
        role: role.arn.clone(),
        external_id: role.external_id.clone(),
        duration: SHORTEST,
        policy: Some(json!({ "Version": "2012-10-17", "Statement": statement }).to_string()),
        policy_arns: Vec::new(),
        whom: Whom::of_run(&order.scope, order.lease),
    };
    Some(session.cut(asked))
}

/// Signs the token.
fn token(
    credentials: &Credentials,
    database: Database<'_>,
    region: &str,
    now: SystemTime,
) -> Result<SecretValue, Fault> {
    let unsigned = || Fault::new(ErrorKind::Unauthenticated, "the token cannot be signed");
    let Database { host, port, user } = database;
    let address = format!("{host}:{port}/?Action=connect&DBUser={}", utf8_percent_encode(user, QUERY_ESCAPES));
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFE);
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|_| unsigned())?;
    let with_scheme = format!("https://{address}");
    let request = SignableRequest::new("GET", &with_scheme, std::iter::empty(), SignableBody::Bytes(&[]));
    let signed = sign(request.map_err(|_| unsigned())?, &parameters.into()).map_err(|_| unsigned())?;
    let (instructions, _) = signed.into_parts();
    let mut token = Zeroizing::new(address);
    for (name, value) in instructions.params() {
        let pair = Zeroizing::new(format!("&{name}={}", utf8_percent_encode(value, QUERY_ESCAPES)));
        token.push_str(&pair);
    }
    Ok(SecretValue::new(token.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_host_a_port_and_a_user() {
        let path = "shop.abc123.eu-west-1.rds.amazonaws.com:5432/app";
        let database = Database::of(path).unwrap();
        assert_eq!((database.host, database.port, database.user), (&path[..39], 5432, "app"));
        assert_eq!(database.region(), Some("eu-west-1"));
        assert_eq!(Database::of("a.cn-north-1.rds.amazonaws.com.cn:1/u").unwrap().region(), Some("cn-north-1"));
        assert_eq!(Database::of("db.corp.example:5432/app").unwrap().region(), None);
        for path in
            ["", "db", "db:5432", "db/app", "db:x/app", "db:0/app", ":5432/app", "db:5432/", "db:5432/a*", "d b:1/a"]
        {
            assert_eq!(Database::of(path), None, "{path}");
        }
    }
}
