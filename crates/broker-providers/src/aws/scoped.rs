//! A provider of AWS narrowed to what one scope lists: every part of the list has a session of the instance's role, whose
//! policy allows this part and nothing else.
//!
//! Sessions are made when something of their part is fetched first, side by side, and kept until shortly before they end.
//! What the scope does not list is asked for in a narrow session all the same, one by one, so that it is AWS that refuses it.
//! Nothing is ever asked for with the role alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_core::reference::SecretRef;
use broker_core::scope::Scope;
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::aws::narrow::{Ground, Service, Want, too_long};
use crate::aws::role_session::{RoleSession, SHORTEST, Whom};
use crate::aws::session::AwsSession;
use crate::fault::Fault;
use crate::issue::SessionPolicy;
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError,
};

/// Makes the provider of one session.
pub(crate) type Open = Box<dyn Fn(Arc<AwsSession>) -> Arc<dyn Provider> + Send + Sync>;

type Answer = (SecretRef, Result<Fetched, ProviderError>);

/// The narrowed provider.
struct Scoped {
    whole: Arc<AwsSession>,
    ground: Ground,
    /// What the sessions have in common.
    session: RoleSession,
    open: Open,
    capabilities: Capabilities,
    parts: Mutex<Vec<Arc<Part>>>,
    refused: Mutex<HashMap<SecretRef, Fault>>,
}

/// One session, and what it is for.
struct Part {
    wants: Vec<Want>,
    policy: String,
    session: Arc<AwsSession>,
    provider: Arc<dyn Provider>,
}

impl Part {
    fn has(&self, reference: &SecretRef) -> bool {
        self.wants.iter().any(|want| want.reference == *reference)
    }
}

/// Narrows an instance to what `scope` lists of it; nothing where it assumes no role.
///
/// # Errors
/// There is no region, or what is said can be none.
pub(crate) fn narrowed(
    whole: &Arc<AwsSession>,
    service: Service,
    replicas: &[String],
    scope: &Scope,
    open: Open,
) -> Result<Option<Arc<dyn Provider>>, ProviderError> {
    let plan = whole.plan();
    let Some(role) = plan.last_role() else { return Ok(None) };
    let region = plan.region_now().map_err(|error| Fault::new(ErrorKind::Unauthenticated, error.to_string()));
    let ground = region.and_then(|region| Ground::of(service, &role.arn, region.as_ref(), replicas));
    let ground = ground.map_err(|fault| whole.error(fault, None, None))?;
    let session = RoleSession {
        role: role.arn.clone(),
        external_id: role.external_id.clone(),
        duration: plan.session_ttl().unwrap_or(SHORTEST),
        policy: None,
        policy_arns: Vec::new(),
        whom: Whom::of(scope),
    };
    let cut = ground.parts(scope.of_instance(whole.instance()));
    let scoped = Scoped {
        whole: Arc::clone(whole),
        ground,
        session,
        capabilities: service.capabilities(),
        open,
        parts: Mutex::default(),
        refused: Mutex::new(cut.refused.into_iter().collect()),
    };
    let parts = cut.parts.into_iter().map(|wants| scoped.part(wants)).collect();
    *scoped.parts() = parts;
    Ok(Some(Arc::new(scoped)))
}

impl Scoped {
    fn part(&self, wants: Vec<Want>) -> Arc<Part> {
        let policy = self.ground.policy(&wants);
        let asked = RoleSession { policy: Some(policy.clone()), ..self.session.clone() };
        let session = Arc::new(self.whole.cut(asked));
        let provider = (self.open)(Arc::clone(&session));
        Arc::new(Part { wants, policy, session, provider })
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Arc<Part>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<SecretRef, Fault>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the part that a reference is fetched with, and whether it is listed there.
    fn part_of(&self, reference: &SecretRef) -> Result<(Arc<Part>, bool), Fault> {
        if let Some(fault) = self.refused().get(reference) {
            return Err(fault.clone());
        }
        let parts = self.parts();
        let listed = parts.iter().find(|part| part.has(reference));
        listed
            .map(|part| (Arc::clone(part), true))
            .or_else(|| Some((Arc::clone(parts.first()?), false)))
            .ok_or_else(|| Fault::new(ErrorKind::Denied, "the session was cut for nothing of this instance"))
    }

    /// Fetches each from its part, all parts side by side.
    async fn ask(&self, references: Vec<SecretRef>, options: FetchOptions) -> Vec<Answer> {
        let mut asked: Vec<(Arc<Part>, Vec<SecretRef>)> = Vec::new();
        let mut answers = Vec::new();
        for reference in references {
            match self.part_of(&reference) {
                // What is not listed goes alone: it may cost no other its batch.
                Ok((part, false)) => asked.push((part, vec![reference])),
                Ok((part, true)) => {
                    let is_it = |(other, all): &&mut (Arc<Part>, Vec<SecretRef>)| {
                        Arc::ptr_eq(other, &part) && all.first().is_some_and(|first| part.has(first))
                    };
                    match asked.iter_mut().find(is_it) {
                        Some((_, all)) => all.push(reference),
                        None => asked.push((part, vec![reference])),
                    }
                }
                Err(fault) => {
                    let error = self.whole.error(fault, Some(&reference), None);
                    answers.push((reference, Err(error)));
                }
            }
        }
        let fetches = asked.into_iter().map(|(part, references)| self.ask_part(part, references, options));
        answers.extend(join_all(fetches).await.into_iter().flatten());
        answers
    }

    async fn ask_part(&self, part: Arc<Part>, references: Vec<SecretRef>, options: FetchOptions) -> Vec<Answer> {
        match part.session.credentials(options.deadline).await {
            Ok(_) => {
                let fetched = part.provider.fetch(&references, options).await;
                references.into_iter().zip(fetched).collect()
            }
            // AWS packs policies and tags in a way of its own, and the room for that is smaller than that for their text.
            Err(fault) if fault.is("PackedPolicyTooLarge") => {
                self.halve(&part);
                Box::pin(self.ask(references, options)).await
            }
            Err(fault) => {
                let error = |reference| part.session.error(fault.clone(), Some(reference), None);
                references.iter().map(|reference| (reference.clone(), Err(error(reference)))).collect()
            }
        }
    }

    /// Puts two parts in the place of one. One reference that is too much by itself is in none from then on.
    fn halve(&self, part: &Arc<Part>) {
        let mut parts = self.parts();
        // Another fetch may have been faster.
        let Some(at) = parts.iter().position(|other| Arc::ptr_eq(other, part)) else { return };
        let halves = match part.wants.as_slice() {
            [one] => {
                self.refused().insert(one.reference.clone(), too_long());
                Vec::new()
            }
            wants => {
                let (first, second) = wants.split_at(wants.len() / 2);
                vec![self.part(first.to_vec()), self.part(second.to_vec())]
            }
        };
        parts.splice(at..=at, halves);
    }

    fn provider_of(&self, reference: &SecretRef) -> Result<Arc<dyn Provider>, ProviderError> {
        let found = self.part_of(&reference.whole());
        found
            .map(|(part, _)| Arc::clone(&part.provider))
            .map_err(|fault| self.whole.error(fault, Some(reference), None))
    }
}

#[async_trait]
impl Provider for Scoped {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let answers: HashMap<_, _> = self.ask(references.to_vec(), options).await.into_iter().collect();
        let none = || Fault::new(ErrorKind::Malformed, "AWS gave no answer for it");
        let answer = |reference: &SecretRef| match answers.get(reference) {
            Some(answer) => answer.clone(),
            None => Err(self.whole.error(none(), Some(reference), None)),
        };
        references.iter().map(answer).collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        self.provider_of(reference)?.put(reference, value, deadline).await
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        self.provider_of(reference)?.delete(reference, deadline).await
    }

    async fn list(&self, _: ListOptions<'_>, _: Instant) -> Result<Vec<Listed>, ProviderError> {
        let fault = Fault::new(ErrorKind::Denied, "a session that is cut for single secrets lists none");
        Err(self.whole.error(fault, None, None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        self.provider_of(reference)?.describe(reference, deadline).await
    }

    async fn promote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        self.provider_of(reference)?.promote(reference, deadline).await
    }

    async fn demote(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        self.provider_of(reference)?.demote(reference, deadline).await
    }

    fn session_policies(&self) -> Vec<SessionPolicy> {
        let parts = self.parts();
        let count = parts.len();
        let policy = |(at, part): (usize, &Arc<Part>)| SessionPolicy {
            title: format!("session policy {} of {count}", at + 1),
            text: part.policy.clone(),
        };
        parts.iter().enumerate().map(policy).collect()
    }

    fn forget(&self) {
        for part in self.parts().iter() {
            part.provider.forget();
        }
    }
}

impl fmt::Debug for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.whole.instance();
        f.debug_struct("Scoped")
            .field("instance", &instance)
            .field("parts", &self.parts().len())
            .finish_non_exhaustive()
    }
}
