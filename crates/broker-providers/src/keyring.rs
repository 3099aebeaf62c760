//! The keyring of the operating system: the Secret Service of the desktop, or the kernel's own (keyutils).
//!
//! `keyring://SERVICE/ACCOUNT` is the item whose attributes `service` and `username` are these, as other programs write
//! them: everything before the first `/` is the service. Its calls block, and one that waits for a person to unlock a
//! collection blocks without end: each runs on a thread of its own, of which there are only a few, and the caller waits
//! until its deadline. The service `broker` holds what the broker itself keeps there; no reference reaches it.

pub(crate) mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::reference::{SecretRef, Version};
use broker_core::secret::SecretValue;
use keyring_core::{Entry, Error};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::fault::Fault;
use crate::keyring::store::{OWN_SERVICE, Store, Which};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
    unsupported,
};
use crate::registry::Opening;
use crate::words::safe;

/// What this provider can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: false,
    describe: false,
    versions: false,
    previous: false,
    pending: false,
    promote: false,
    issues: false,
    batch: usize::MAX,
};

/// What a fault is called when the daemon has no session keyring that it could read.
const NO_SESSION: &str = "no-session";

/// Threads that wait for a keyring, of all instances. One that hangs takes its thread along until somebody answers it.
static THREADS: Semaphore = Semaphore::const_new(4);

/// One keyring.
struct OsKeyring {
    instance: String,
    /// What the settings say.
    wanted: Option<Which>,
    /// What was found to work, where they say nothing.
    found: Arc<Mutex<Option<Which>>>,
    calls: Arc<AtomicU64>,
}

/// Opens an instance. Which keyring works is found out with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let wanted = match &opening.settings.store {
        None => None,
        Some(name) => Some(Which::named(name).ok_or_else(|| ProviderError {
            kind: ErrorKind::Unsupported,
            instance: opening.instance.to_owned(),
            reference: None,
            cause: format!("there is no `store` called `{}`", safe(name)),
            hint: Some("stores are `secret-service` and `keyutils`".to_owned()),
            retry: Retry::Never,
        })?),
    };
    let (instance, calls) = (opening.instance.to_owned(), Arc::clone(&opening.calls));
    Ok(Arc::new(OsKeyring { instance, wanted, found: Arc::default(), calls }))
}

/// The name of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    service: String,
    account: String,
}

impl Item {
    /// Reads a path. Every path is at most one item, and every item at most one path.
    fn of(path: &str) -> Result<Self, Fault> {
        match path.split_once('/') {
            // Nobody who may write a manifest may read the key of the embedded store or a kept sign-in.
            Some((OWN_SERVICE, _)) => {
                Err(Fault::new(ErrorKind::Denied, "the service `broker` is the broker's own and is not served"))
            }
            Some((service, account)) if !service.is_empty() && !account.is_empty() => {
                Ok(Self { service: service.to_owned(), account: account.to_owned() })
            }
            _ => Err(Fault::new(ErrorKind::Unsupported, "its name is no `SERVICE/ACCOUNT`")),
        }
    }

    /// Reads a reference.
    fn named(reference: &SecretRef) -> Result<Self, Fault> {
        if reference.version != Version::Current {
            return Err(Fault::new(ErrorKind::Unsupported, "a keyring has no versions"));
        }
        Self::of(&reference.path)
    }

    fn entry(&self, store: &Store) -> Result<Entry, Fault> {
        store.build(&self.service, &self.account, None).map_err(fault)
    }
}

impl OsKeyring {
    /// Runs `work` with the keyring, on a thread, until `deadline`.
    async fn with<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(Which, &Store) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let busy = || Fault::new(ErrorKind::Unavailable, "the keyring has not answered earlier requests yet");
        let turn = timeout_at(deadline, THREADS.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let (wanted, found) = (self.wanted, Arc::clone(&self.found));
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("keyring".to_owned()).spawn(move || {
            let known = wanted.or(*found.lock().unwrap_or_else(PoisonError::into_inner));
            let result = store::connect(known).map_err(fault_of_store).and_then(|(which, store)| {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(which);
                work(which, &*store)
            });
            drop(turn);
            // A receiver that gave up drops the result, wiped.
            drop(sender.send(result));
        });
        thread.map_err(|error| Fault::new(ErrorKind::Unavailable, error.to_string()))?;
        let late = "the keyring did not answer before the deadline; it may be waiting to be unlocked";
        match timeout_at(deadline, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Fault::new(ErrorKind::Unavailable, "the client of the keyring broke down")),
            Err(_) => Err(Fault::new(ErrorKind::Unavailable, late)),
        }
    }

    /// Says `fault` of `reference`, with the way out that fits.
    fn error(&self, fault: Fault, reference: Option<&SecretRef>) -> ProviderError {
        let hint = match (fault.kind, reference) {
            _ if fault.is(NO_SESSION) => Some(
                "use the Secret Service, or give the daemon a session of its own: `broker daemon stop`, then `keyctl \
                 session - COMMAND`"
                    .to_owned(),
            ),
            (ErrorKind::NotFound, Some(reference)) => Some(format!(
                "see what there is with `broker secret list {}://`, or store it: broker secret set {reference}",
                self.instance
            )),
            (ErrorKind::Unauthenticated, _) => {
                Some("unlock your keyring: log in to the desktop, or use its password program".to_owned())
            }
            (ErrorKind::Unavailable, _) => Some(
                "look for a window that asks to unlock it; without a desktop, say `store = \"keyutils\"`".to_owned(),
            ),
            (ErrorKind::Unsupported, Some(reference)) if Item::of(&reference.path).is_err() => {
                Some(format!("a reference here is `{}://SERVICE/ACCOUNT`", self.instance))
            }
            _ => None,
        };
        let retry = match fault.kind {
            // Only another daemon changes that.
            _ if fault.is(NO_SESSION) => Retry::Never,
            ErrorKind::Unavailable => Retry::After(Duration::from_secs(1)),
            _ => Retry::Never,
        };
        ProviderError {
            kind: fault.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            cause: fault.cause,
            hint,
            retry,
        }
    }

    async fn read(&self, items: Vec<Item>, deadline: Instant) -> Result<Vec<Result<SecretValue, Fault>>, Fault> {
        self.with(deadline, move |_, store| {
            let read = |item: &Item| {
                if Instant::now() >= deadline {
                    return Err(Fault::new(ErrorKind::Unavailable, "the deadline passed before it was its turn"));
                }
                item.entry(store)?.get_secret().map(SecretValue::new).map_err(fault)
            };
            Ok(items.iter().map(read).collect())
        })
        .await
    }

    async fn stored(&self, reference: &SecretRef, value: SecretValue, deadline: Instant) -> Result<(), Fault> {
        let item = Item::named(reference)?;
        self.with(deadline, move |which, store| {
            if value.len() > which.longest() {
                let cause = format!("this keyring takes at most {} bytes", which.longest());
                return Err(Fault::new(ErrorKind::Unsupported, cause));
            }
            // Opened to be handed to the keyring.
            item.entry(store)?.set_secret(value.expose()).map_err(fault)
        })
        .await
    }

    async fn listed(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, Fault> {
        if !options.tags.is_empty() {
            return Err(Fault::new(ErrorKind::Unsupported, "a keyring has no tags"));
        }
        let prefix = options.prefix.to_owned();
        self.with(deadline, move |which, store| {
            if which == Which::Keyutils {
                return Err(Fault::new(ErrorKind::Unsupported, "the kernel's keyring cannot be searched"));
            }
            let service = prefix.split_once('/').map(|(service, _)| ("service", service));
            let mut paths = Vec::new();
            for entry in store.search(&service.into_iter().collect()).map_err(fault)? {
                if Instant::now() >= deadline {
                    return Err(Fault::new(ErrorKind::Unavailable, "the listing was not done before the deadline"));
                }
                let attributes = match entry.get_attributes() {
                    Ok(attributes) => attributes,
                    // It went away in between.
                    Err(Error::NoEntry) => continue,
                    Err(error) => return Err(fault(error)),
                };
                paths.extend(path_of(&attributes).filter(|path| path.starts_with(&prefix)));
            }
            paths.sort_unstable();
            paths.dedup();
            Ok(paths.into_iter().map(|path| Listed { path, version: None, changed: None }).collect())
        })
        .await
    }
}

/// Returns the path of an item with these attributes, if a reference can name it.
fn path_of(attributes: &HashMap<String, String>) -> Option<String> {
    let (service, account) = (attributes.get("service")?, attributes.get("username")?);
    let path = format!("{service}/{account}");
    let item = Item { service: service.clone(), account: account.clone() };
    let is_named = Item::of(&path).is_ok_and(|named| named == item) && !path.chars().any(char::is_control);
    is_named.then_some(path)
}

/// Makes a keyring's error one of ours. Two of them carry the bytes that were read, which are never shown.
fn fault(error: Error) -> Fault {
    match error {
        Error::NoEntry => Fault::new(ErrorKind::NotFound, "the keyring holds no such item"),
        Error::NoStorageAccess(why) => {
            Fault::new(ErrorKind::Unauthenticated, format!("the keyring is locked ({})", safe(&why.to_string())))
        }
        Error::BadEncoding(_) | Error::BadDataFormat(..) => {
            Fault::new(ErrorKind::Malformed, "the keyring's answer makes no sense")
        }
        Error::Ambiguous(entries) => {
            let cause = format!("the keyring holds {} items of this service and account", entries.len());
            Fault::new(ErrorKind::Malformed, cause)
        }
        Error::TooLong(what, most) => {
            Fault::new(ErrorKind::Unsupported, format!("its {what} is longer than the {most} that the keyring takes"))
        }
        Error::Invalid(what, why) => Fault::new(ErrorKind::Unsupported, format!("its {what} {}", safe(&why))),
        Error::NotSupportedByStore(why) => Fault::new(ErrorKind::Unsupported, safe(&why)),
        other => Fault::new(ErrorKind::Unavailable, safe(&other.to_string())),
    }
}

fn fault_of_store(error: store::NoStore) -> Fault {
    match error {
        store::NoStore::Failed(error) => fault(error),
        none @ (store::NoStore::NoSession | store::NoStore::SessionGone(_)) => {
            Fault { code: Some(NO_SESSION.to_owned()), ..Fault::new(ErrorKind::Unavailable, none.to_string()) }
        }
        none => Fault::new(ErrorKind::Unavailable, none.to_string()),
    }
}

#[async_trait]
impl Provider for OsKeyring {
    fn capabilities(&self) -> Capabilities {
        let which = self.wanted.or(*self.found.lock().unwrap_or_else(PoisonError::into_inner));
        Capabilities { list: which != Some(Which::Keyutils), ..CAPABILITIES }
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let named: Vec<_> = references.iter().map(Item::named).collect();
        let items: Vec<_> = named.iter().flatten().cloned().collect();
        let read = if items.is_empty() { Ok(Vec::new()) } else { self.read(items, options.deadline).await };
        let mut read = match read {
            Ok(values) => Ok(values.into_iter()),
            Err(fault) => Err(fault),
        };
        let results = named.into_iter().map(|named| {
            named.and_then(|_| match &mut read {
                Ok(values) => {
                    let lost = || Err(Fault::new(ErrorKind::Malformed, "the keyring gave no answer for it"));
                    values.next().unwrap_or_else(lost)
                }
                Err(fault) => Err(fault.clone()),
            })
        });
        let fetched = |value| Fetched {
            value: Arc::new(value),
            version: None,
            fetched_at: Instant::now(),
            stale: false,
            lone_field: None,
        };
        let results = references.iter().zip(results);
        results.map(|(r, result)| result.map(fetched).map_err(|fault| self.error(fault, Some(r)))).collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let done = self.stored(reference, value, deadline).await;
        done.map(|()| None).map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        let done = match Item::named(reference) {
            Ok(item) => {
                let delete = move |_, store: &Store| item.entry(store)?.delete_credential().map_err(fault);
                self.with(deadline, delete).await
            }
            Err(fault) => Err(fault),
        };
        done.map_err(|fault| self.error(fault, Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        self.listed(options, deadline).await.map_err(|fault| self.error(fault, None))
    }

    async fn describe(&self, reference: &SecretRef, _: Instant) -> Result<Described, ProviderError> {
        Err(unsupported(reference, "a keyring tells nothing besides the value"))
    }

    fn forget(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for OsKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsKeyring").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str) -> Option<(String, String)> {
        Item::of(path).ok().map(|item| (item.service, item.account))
    }

    #[test]
    fn a_path_is_one_service_and_one_account() {
        for (path, service, account) in [
            ("shop/dev", "shop", "dev"),
            ("shop/dev/db", "shop", "dev/db"),
            ("shop//db", "shop", "/db"),
            ("a@b/c@d", "a@b", "c@d"),
            ("Broker/x", "Broker", "x"),
            ("broker /x", "broker ", "x"),
        ] {
            assert_eq!(item(path), Some((service.to_owned(), account.to_owned())), "{path}");
        }
        for path in ["shop", "shop/", "/shop", "/"] {
            assert_eq!(Item::of(path).unwrap_err().kind, ErrorKind::Unsupported, "{path}");
        }
    }

    #[test]
    fn what_the_broker_keeps_there_has_no_name() {
        for path in ["broker/x", "broker/", "broker//", "broker/a/b"] {
            assert_eq!(Item::of(path).unwrap_err().kind, ErrorKind::Denied, "{path}");
        }
        let attributes = |service: &str, account: &str| {
            HashMap::from([("service", service), ("username", account)].map(|(n, v)| (n.to_owned(), v.to_owned())))
        };
        assert_eq!(path_of(&attributes("broker", "key")), None);
        assert_eq!(path_of(&attributes("shop", "key")).as_deref(), Some("shop/key"));
        // Items of other programs that no reference can name.
        for (service, account) in [("https://example.com", "me"), ("shop", ""), ("", "me"), ("shop", "a\nb")] {
            assert_eq!(path_of(&attributes(service, account)), None, "{service} {account}");
        }
    }

    #[test]
    fn an_error_that_carries_bytes_shows_none() {
        for error in [Error::BadEncoding(b"canary".to_vec()), Error::BadDataFormat(b"canary".to_vec(), "x".into())] {
            let fault = fault(error);
            assert_eq!(fault.kind, ErrorKind::Malformed);
            assert!(!format!("{fault:?}").contains("canary") && !format!("{fault:?}").contains("99, 97"));
        }
    }
}
