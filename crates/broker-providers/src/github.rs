//! GitHub Apps: an installation access token for each run, for the repositories and the permissions that its reference
//! names, revoked when the run ends.
//!
//! The app's private key stays in the manager that keeps it and comes with each order. A token is written into the ledger
//! before anything else is done with its answer, and one that can do more than was asked is never handed out. The request
//! that makes one is repeated only where it surely made none: an unknown token could not be revoked. Whoever stops waiting
//! leaves a task behind that revokes what still comes. Sources: "REST API endpoints for GitHub Apps" and "for GitHub App
//! installations", version 2022-11-28.

mod answer;
mod app;
mod made;
mod wanted;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::reference::SecretRef;
use broker_core::secret::SecretValue;
use futures_util::future::join_all;
use reqwest::{Method, Url};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fault::{Fault, persist};
use crate::issue::{About, Credential, Ending, Issued, Ledger, Order, Revocation};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
    unsupported,
};
use crate::registry::{Instance, Opening};
use crate::rest::{Answer, Rest};
use answer::{Asked, fault_of, hint};
use app::App;
use made::Made;
pub(crate) use wanted::OPTIONS;
use wanted::{Place, Wanted};

/// Variables that are a credential of GitHub, or that its clients take for one.
pub(crate) const BOOTSTRAP_ENV: &[&str] =
    &["GH_ENTERPRISE_TOKEN", "GH_TOKEN", "GITHUB_API_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GITHUB_PAT", "GITHUB_TOKEN"];

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

const GITHUB: &str = "https://api.github.com";
/// How long after the deadline an answer may still come, whose token is then revoked.
const GRACE: Duration = Duration::from_secs(30);
/// How often a token is asked for, where each time before surely made none.
const MAX_ATTEMPTS: u32 = 4;
const NOT_STORED: &str = "a GitHub App's tokens are made for each run, and nothing is stored here";

/// Why an `endpoint` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum EndpointError {
    /// It is no address that a path could follow.
    #[error("`endpoint` is `https://` and a host, without a user, a `?` or a `#`")]
    NoAddress,
    /// A manifest names another one than GitHub's own.
    #[error("a manifest cannot send what your app signs to another `endpoint`")]
    Foreign,
}

/// Opens an instance. Nobody is asked before the first order.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    let refuse = |cause: String, hint: &str| ProviderError {
        kind: ErrorKind::Unsupported,
        instance: opening.instance.to_owned(),
        reference: None,
        cause,
        hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        retry: Retry::Never,
    };
    let endpoint = settings.endpoint.as_deref().unwrap_or(GITHUB);
    check_endpoint(endpoint, opening.fixed).map_err(|error| {
        let hint = match error {
            EndpointError::NoAddress => "leave it out for `https://api.github.com`",
            // Whoever wrote the manifest could act as the app.
            EndpointError::Foreign => "put this instance into your own configuration, which may",
        };
        refuse(error.to_string(), hint)
    })?;
    let app_id = settings.app_id.clone().filter(|id| app::is_id(id)).ok_or_else(|| {
        let cause = "`app-id` is the number of a GitHub App, or its client id".to_owned();
        refuse(cause, "both stand at the top of the app's settings")
    })?;
    let rest = opening.shared.http.counting(Arc::clone(&opening.calls)).map_err(|fault| refuse(fault.cause, ""))?;
    let api = Api { rest, endpoint: endpoint.trim_end_matches('/').to_owned() };
    let instance = opening.as_instance();
    let own = Own { name: opening.instance.to_owned(), instance, api, ledger: Arc::clone(&opening.shared.ledger) };
    Ok(Arc::new(GithubApp { own: Arc::new(own), app_id }))
}

fn check_endpoint(endpoint: &str, fixed: bool) -> Result<(), EndpointError> {
    let is_plain = !endpoint.contains(['?', '#', '@', '\\']) && !endpoint.contains(char::is_whitespace);
    let is_http = Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    match (is_plain && is_http, fixed || endpoint.strip_suffix('/').unwrap_or(endpoint) == GITHUB) {
        (false, _) => Err(EndpointError::NoAddress),
        (true, false) => Err(EndpointError::Foreign),
        (true, true) => Ok(()),
    }
}

struct GithubApp {
    own: Arc<Own>,
    app_id: String,
}

/// What a task that outlives its order needs.
struct Own {
    name: String,
    instance: Instance,
    api: Api,
    ledger: Arc<dyn Ledger>,
}

/// The API at one endpoint.
#[derive(Clone)]
struct Api {
    rest: Rest,
    endpoint: String,
}

impl Api {
    /// Begins a request that shows `credential`: a JWT of the app, or a token.
    fn request(&self, method: Method, path: &str, credential: &SecretValue) -> reqwest::RequestBuilder {
        // Opened to be shown to the API that it is of or for.
        let credential = String::from_utf8_lossy(credential.expose());
        let request = self.rest.request(method, &format!("{}{path}", self.endpoint));
        let request = request.header("user-agent", "broker").header("accept", "application/vnd.github+json");
        request.header("x-github-api-version", "2022-11-28").bearer_auth(credential)
    }

    /// Finds the installation at an account, a person's or an organisation's.
    async fn installation(&self, app: &App, account: &str, deadline: Instant) -> Result<u64, Fault> {
        #[derive(serde::Deserialize)]
        struct Installation {
            id: u64,
        }
        let (path, jwt) = (format!("/users/{account}/installation"), app.jwt()?);
        let found = persist(deadline, || async {
            let answer = self.rest.send(self.request(Method::GET, &path, &jwt)).await?;
            if !answer.is_success() {
                return Err(fault_of(&answer, Asked::Account));
            }
            answer.json::<Installation>()
        });
        Ok(found.await?.id)
    }

    /// Asks for a token until the answer is one, or may have made one that nobody knows.
    async fn make(&self, app: &App, installation: u64, body: &str, deadline: Instant) -> Result<Answer, Fault> {
        let path = format!("/app/installations/{installation}/access_tokens");
        let mut attempt = 1;
        loop {
            let request = self.request(Method::POST, &path, &app.jwt()?);
            let request = request.header("content-type", "application/json").body(body.to_owned());
            let (fault, made_none) = match self.rest.send(request).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) => (fault_of(&answer, Asked::Token), answer::made_none(&answer)),
                Err(fault) => {
                    let was_not_sent = fault.was_not_sent();
                    (fault, was_not_sent)
                }
            };
            let pause = fault.retry_after.unwrap_or(Duration::from_millis(200) * attempt);
            let wake = Instant::now() + pause;
            let is_worth_it = matches!(fault.kind, ErrorKind::Throttled | ErrorKind::Unavailable);
            if !made_none || !is_worth_it || attempt == MAX_ATTEMPTS || wake >= deadline {
                return Err(fault);
            }
            attempt += 1;
            sleep_until(wake).await;
        }
    }

    /// Revokes a token. One that GitHub does not know any more has ended.
    async fn revoke(&self, token: &SecretValue, deadline: Instant) -> Result<(), Fault> {
        persist(deadline, || async {
            let answer = self.rest.send(self.request(Method::DELETE, "/installation/token", token)).await?;
            if answer.is_success() || answer.status == 401 { Ok(()) } else { Err(fault_of(&answer, Asked::End)) }
        })
        .await
    }
}

impl Own {
    /// Makes one token and writes it down; one that is more than was asked for is revoked instead.
    async fn issue(
        &self,
        app: &App,
        reference: &SecretRef,
        wanted: &Wanted,
        order: &Order,
        deadline: Instant,
    ) -> Result<Issued, Fault> {
        let installation = match &wanted.place {
            Place::Installation(id) => *id,
            Place::Account(name) => self.api.installation(app, name, deadline).await?,
        };
        let answer = self.api.make(app, installation, &wanted.body(), deadline).await?;
        let made = Made::read(&answer)?;
        let (references, instance) = (vec![reference.clone()], self.instance.clone());
        let about = About {
            lease: Some(order.lease),
            name: self.name.clone(),
            instance,
            references: references.clone(),
            expires: made.expires_at_the_latest(),
            renewable: false,
            leases: Vec::new(),
        };
        let ending = Ending { about, credential: Arc::clone(&made.token) };
        let entry = match self.ledger.hold(&ending) {
            Ok(entry) => entry,
            Err(error) => {
                // Nothing else would end it. Where this fails, too, it ends by itself within the hour.
                let _ = self.api.revoke(&ending.credential, Instant::now() + GRACE).await;
                return Err(error.fault());
            }
        };
        match made.checked(wanted) {
            Ok(expires) => {
                let revocation = Some(Revocation { entry, ending });
                let credential = Credential { instance: self.name.clone(), references, expires, revocation };
                Ok(Issued { value: made.token, lone_field: Some("token"), credential: Arc::new(credential) })
            }
            Err(fault) => {
                self.end(&Revocation { entry, ending }).await;
                Err(fault)
            }
        }
    }

    /// Revokes a token that nobody gets. Where that fails it stays in the ledger, for whoever ends what stands there.
    async fn end(&self, revocation: &Revocation) {
        if self.api.revoke(&revocation.ending.credential, Instant::now() + GRACE).await.is_ok() {
            self.ledger.strike(revocation.entry);
        }
    }
}

impl GithubApp {
    async fn order(&self, reference: &SecretRef, order: &Order, deadline: Instant) -> Result<Issued, Fault> {
        let wanted = Wanted::of(reference)?;
        let key = order.key.as_ref().ok_or_else(|| {
            let cause =
                "the private key of the app is not there: `key` of the instance names no secret that could be had";
            Fault::new(ErrorKind::Unauthenticated, cause)
        })?;
        let app = App::of(&self.app_id, key)?;
        let (sender, receiver) = oneshot::channel();
        let (own, order, reference) = (Arc::clone(&self.own), order.clone(), reference.clone());
        // A task of its own: whoever waits may leave at any moment, and a token may have been made by then.
        tokio::spawn(async move {
            let late = deadline + GRACE;
            let made = timeout_at(late, own.issue(&app, &reference, &wanted, &order, deadline)).await;
            let made = made.unwrap_or_else(|_| Err(Fault::late()));
            if let Err(Ok(Issued { credential, .. })) = sender.send(made)
                && let Some(revocation) = &credential.revocation
            {
                own.end(revocation).await;
            }
        });
        let gone = || Fault::new(ErrorKind::Unavailable, "the order was broken off");
        timeout_at(deadline, receiver).await.map_err(|_| Fault::late())?.map_err(|_| gone())?
    }

    fn error(&self, fault: Fault, reference: Option<&SecretRef>) -> ProviderError {
        ProviderError {
            hint: hint(&fault),
            kind: fault.kind,
            instance: self.own.name.clone(),
            reference: reference.cloned(),
            retry: fault.retry(),
            cause: fault.cause,
        }
    }
}

#[async_trait]
impl Provider for GithubApp {
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
        Err(self.error(Fault::new(ErrorKind::Unsupported, NOT_STORED), None))
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

    async fn revoke(&self, ending: &Ending, deadline: Instant) -> Result<(), ProviderError> {
        let revoked = self.own.api.revoke(&ending.credential, deadline).await;
        revoked.map_err(|fault| self.error(fault, ending.about.references.first()))
    }

    fn forget(&self) {}
}

impl fmt::Debug for GithubApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GithubApp").field("instance", &self.own.name).field("app", &self.app_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_leads_what_the_app_signs_to_github_and_nowhere_else() {
        for endpoint in ["https://api.github.com", "https://api.github.com/"] {
            assert_eq!(check_endpoint(endpoint, false), Ok(()), "{endpoint}");
        }
        for endpoint in [
            "https://github.example/api/v3",
            "https://api.github.com.evil.example",
            "http://127.0.0.1:1",
            "http://api.github.com",
        ] {
            assert_eq!(check_endpoint(endpoint, false), Err(EndpointError::Foreign), "{endpoint}");
            assert_eq!(check_endpoint(endpoint, true), Ok(()), "{endpoint}");
        }
        for endpoint in ["https://api.github.com?x=", "https://api.github.com@evil.example", "file:///etc", ""] {
            for fixed in [true, false] {
                assert_eq!(check_endpoint(endpoint, fixed), Err(EndpointError::NoAddress), "{endpoint}");
            }
        }
    }
}
