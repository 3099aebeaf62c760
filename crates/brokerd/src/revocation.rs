//! Ends credentials at their managers and does not give up before they have ended.
//!
//! A manager that is away is asked again, with growing pauses, until it has revoked the credential or the credential's own
//! time is up. What revoking takes stays in the ledger until then.

use std::time::Duration;

use broker_core::lease::{CredentialEnd, EndedCredential};
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::fetch::Stores;
use crate::ledger::{Entry, Ledger};
use broker_providers::issue::Ledger as _;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The pause after the first failed attempt; each one after it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Ends all entries, side by side, and strikes each when it has ended.
pub(crate) async fn revoke(stores: &Stores, ledger: &Ledger, entries: Vec<Entry>) -> Vec<EndedCredential> {
    join_all(entries.into_iter().map(|entry| revoke_one(stores, ledger, entry))).await
}

async fn revoke_one(stores: &Stores, ledger: &Ledger, (id, ending): Entry) -> EndedCredential {
    let mut pause = FIRST_PAUSE;
    let end = loop {
        match stores.revoke(&ending, Instant::now() + ATTEMPT).await {
            Ok(()) => break CredentialEnd::Revoked,
            Err(_) if ending.about.expires <= Timestamp::now() => break CredentialEnd::Expired,
            Err(error) => tracing::warn!(%error, "a credential is not revoked yet"),
        }
        let left = Duration::try_from(ending.about.expires - Timestamp::now()).unwrap_or_default();
        tokio::time::sleep(pause.min(left.max(FIRST_PAUSE))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    ledger.strike(id);
    EndedCredential { references: ending.about.references.clone(), end, expires: None }
}
