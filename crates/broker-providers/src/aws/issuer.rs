//! What AWS issues for one run: the session of a role ([`sts`]), a token to sign in to a database ([`rds`]).
//!
//! Nothing of it is stored, held or revocable: it ends by itself, soon. Whoever asks for it outside a run is refused.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::aws::session::AwsSession;
use crate::aws::{rds, sts};
use crate::fault::Fault;
use crate::issue::{Credential, Issued, Order};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError,
    unsupported,
};
use crate::registry::Opening;

/// What these providers can do.
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

/// Why nothing else works.
const ONLY: &str = "it is issued for one run, and nothing is stored";

/// What is issued.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ware {
    RoleSession,
    DatabaseToken,
}

/// Something issued.
pub(crate) struct Made {
    pub(crate) value: SecretValue,
    pub(crate) expires: Timestamp,
}

/// Opens an instance of the kind that issues `ware`. Signing in happens with its first request.
pub(crate) fn open(opening: &Opening<'_>, ware: Ware) -> Result<Arc<dyn Provider>, ProviderError> {
    Ok(Arc::new(AwsIssuer { session: Arc::new(AwsSession::new(opening)?), ware }))
}

struct AwsIssuer {
    session: Arc<AwsSession>,
    ware: Ware,
}

impl AwsIssuer {
    async fn make(&self, reference: &SecretRef, order: &Order, deadline: Instant) -> Result<Issued, ProviderError> {
        let made = async {
            if reference.version != Version::Current {
                return Err(Fault::new(ErrorKind::NotFound, "what is issued has no versions"));
            }
            match self.ware {
                Ware::RoleSession => sts::make(&self.session, reference, order, deadline).await,
                Ware::DatabaseToken => rds::make(&self.session, reference, order, deadline).await,
            }
        };
        let Made { value, expires } = made.await.map_err(|fault| self.session.error(fault, Some(reference), None))?;
        let instance = self.session.instance().to_owned();
        let credential = Credential { instance, references: vec![reference.clone()], expires, revocation: None };
        Ok(Issued { value: Arc::new(value), lone_field: None, credential: Arc::new(credential) })
    }
}

#[async_trait]
impl Provider for AwsIssuer {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn fetch(&self, references: &[SecretRef], _: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        references.iter().map(|reference| Err(unsupported(reference, ONLY))).collect()
    }

    async fn put(&self, reference: &SecretRef, _: SecretValue, _: Instant) -> Result<Option<String>, ProviderError> {
        Err(unsupported(reference, ONLY))
    }

    async fn delete(&self, reference: &SecretRef, _: Instant) -> Result<(), ProviderError> {
        Err(unsupported(reference, ONLY))
    }

    async fn list(&self, _: ListOptions<'_>, _: Instant) -> Result<Vec<Listed>, ProviderError> {
        Err(self.session.error(Fault::new(ErrorKind::Unsupported, ONLY), None, None))
    }

    async fn describe(&self, reference: &SecretRef, _: Instant) -> Result<Described, ProviderError> {
        Err(unsupported(reference, ONLY))
    }

    async fn issue(
        &self,
        references: &[SecretRef],
        order: &Order,
        deadline: Instant,
    ) -> Vec<Result<Issued, ProviderError>> {
        join_all(references.iter().map(|reference| self.make(reference, order, deadline))).await
    }

    fn forget(&self) {
        self.session.forget();
    }
}

impl fmt::Debug for AwsIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.session.instance();
        f.debug_struct("AwsIssuer").field("instance", &instance).field("ware", &self.ware).finish_non_exhaustive()
    }
}
