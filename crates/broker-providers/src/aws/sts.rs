//! The session of a role, for one run.
//!
//! It cannot be revoked, so it lives as short as serves: for the run, at most an hour, unless somebody says otherwise. Its
//! value is what a `credential_process` prints, which every SDK can be handed. Sources: `AssumeRole` of the STS API Reference,
//! and "Process credential provider" of the AWS SDKs and Tools Reference Guide.

use std::sync::Arc;
use std::time::Duration;

use broker_core::duration;
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::aws::answer::{Action, persist};
use crate::aws::issuer::{Made, Ware};
use crate::aws::role_session::{RoleSession, SHORTEST, Whom, client};
use crate::aws::session::AwsSession;
use crate::aws::sign_in::is_role;
use crate::fault::Fault;
use crate::issue::Order;
use crate::provider::{ErrorKind, Provider, ProviderError};
use crate::registry::Opening;

/// The longest life that is asked for when nobody says one.
const LONGEST_UNSAID: Duration = Duration::from_secs(3600);

/// What a reference may say behind `?`.
pub(crate) const OPTIONS: &[&str] = &["duration", "external-id", "policy-arns"];

/// The variables in which every SDK takes a session, each with its field.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "AccessKeyId"),
    ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey"),
    ("AWS_SESSION_TOKEN", "SessionToken"),
];

/// Opens an instance. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    super::issuer::open(opening, Ware::RoleSession)
}

/// The output of a `credential_process`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Output<'a> {
    version: u8,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: String,
}

/// Assumes the role that `reference` names.
///
/// # Errors
/// [`ErrorKind::NotFound`] for what is no role, [`ErrorKind::Unsupported`] for options that make no sense, and what AWS says.
pub(crate) async fn make(
    session: &AwsSession,
    reference: &SecretRef,
    order: &Order,
    deadline: Instant,
) -> Result<Made, Fault> {
    let asked = asked(session, reference, order)?;
    let (signed_in, _) = session.credentials(deadline).await?;
    let sts = client(&signed_in.sts, signed_in.credentials.clone());
    // Whatever an attempt without an answer made ends by itself.
    let answer = persist(deadline, Action::Write, || asked.request(&sts).send()).await?;
    let nonsense = |cause: &str| Fault::new(ErrorKind::Malformed, cause);
    let issued = answer.credentials.ok_or_else(|| nonsense("STS issued no credentials"))?;
    let expires = Timestamp::from_second(issued.expiration.secs());
    let expires = expires.map_err(|_| nonsense("STS names no time for their end"))?;
    let output = Output {
        version: 1,
        access_key_id: &issued.access_key_id,
        secret_access_key: &issued.secret_access_key,
        session_token: &issued.session_token,
        expiration: expires.to_string(),
    };
    let value = serde_json::to_vec(&output).map_err(|_| nonsense("the credentials cannot be written"))?;
    Ok(Made { value: SecretValue::new(value), expires })
}

fn asked(session: &AwsSession, reference: &SecretRef, order: &Order) -> Result<RoleSession, Fault> {
    if !is_role(&reference.path) {
        let cause = "it is the ARN of no role, such as `arn:aws:iam::111122223333:role/NAME`";
        return Err(Fault::new(ErrorKind::NotFound, cause));
    }
    let plan = session.plan();
    let said = match reference.options.get("duration") {
        None => plan.session_ttl(),
        Some(text) => Some(
            duration::parse(text)
                .ok_or_else(|| Fault::new(ErrorKind::Unsupported, "`duration` is a time such as `15m` or `1h`"))?,
        ),
    };
    let arns = reference.options.get("policy-arns").map(String::as_str).unwrap_or_default();
    // The instance's own is for the last role on the way, where there is one.
    let own = plan.external_id().filter(|_| plan.last_role().is_none());
    Ok(RoleSession {
        role: reference.path.clone(),
        external_id: reference.options.get("external-id").map(String::as_str).or(own).map(str::to_owned),
        // Whatever is said, not longer than the run: it could not be taken back.
        duration: said.map_or_else(|| shortest_for(order.ttl), |said| said.min(order.ttl.max(SHORTEST))),
        policy: None,
        policy_arns: arns.split(',').filter(|arn| !arn.is_empty()).map(str::to_owned).collect(),
        whom: Whom::of_run(&order.scope, order.lease),
    })
}

/// Returns the shortest life that serves a run of at most `ttl`.
fn shortest_for(ttl: Duration) -> Duration {
    ttl.min(LONGEST_UNSAID).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_that_of_the_run_between_a_quarter_of_an_hour_and_an_hour() {
        for (ttl, life) in [(60, 900), (1800, 1800), (86_400, 3600)] {
            assert_eq!(shortest_for(Duration::from_secs(ttl)), Duration::from_secs(life));
        }
    }
}
