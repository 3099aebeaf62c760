//! A program of the user's as a provider: whatever `op`, `pass` or a script of ten lines can reach.
//!
//! An instance names the program by absolute path and digest, and stands in the user's or the machine's configuration
//! only: a repository that could name a program would run it. One process answers for many references. Which operations
//! the program knows is asked once, and only when something else than plain reading is wanted. Nothing is repeated on its
//! own: a program may ask its user something, and how often is for a person to decide. The exchange is documented in
//! docs/providers/exec.md.

pub(crate) mod exchange;
pub(crate) mod program;
pub(crate) mod protocol;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use broker_core::reference::{SecretRef, Version};
use broker_core::reserved::{is_reserved, is_variable_name};
use broker_core::secret::SecretValue;
use broker_core::sign_in::SignIn;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::exec::exchange::{Exchange, ExchangeError};
use crate::exec::program::{Pin, ProgramError};
use crate::exec::protocol::Problem;
use crate::exec::protocol::answer::{self, Abilities, Found};
use crate::exec::protocol::request::{self, Asked, Task};
use crate::provider::{
    Capabilities, Described, ErrorKind, FetchOptions, Fetched, ListOptions, Listed, Provider, ProviderError, Retry,
};
use crate::registry::Opening;
use crate::words::safe;

/// Most references of one process.
const BATCH: usize = 1000;

/// What such a program may be able to do; what it can it says itself.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    write: true,
    list: true,
    tags: false,
    describe: true,
    versions: true,
    previous: true,
    pending: false,
    promote: true,
    issues: false,
    batch: BATCH,
};

/// A program, for one identity.
struct Exec {
    instance: String,
    exchange: Arc<Exchange>,
    calls: Arc<AtomicU64>,
    abilities: Mutex<Option<Arc<Abilities>>>,
}

/// Opens an instance. The program is read and checked with its first request.
pub(crate) fn open(opening: &Opening<'_>) -> Result<Arc<dyn Provider>, ProviderError> {
    let settings = opening.settings;
    let refuse = |cause: String, hint: &str| ProviderError {
        kind: ErrorKind::Unsupported,
        instance: opening.instance.to_owned(),
        reference: None,
        cause,
        hint: Some(hint.to_owned()),
        retry: Retry::Never,
    };
    // The registry has refused it already; what would run a repository's program is refused twice.
    if !opening.fixed {
        return Err(refuse("a manifest cannot configure it".to_owned(), "put the instance into `config.toml`"));
    }
    let words = settings.command.as_ref().map(|words| words.as_slice()).unwrap_or_default();
    let Some((path, arguments)) = words.split_first() else {
        return Err(refuse("it has no `command`".to_owned(), "say `command = [\"/path/of/the/program\"]`"));
    };
    let Some(sha256) = &settings.sha256 else {
        return Err(refuse("it has no `sha256`".to_owned(), &format!("`sha256sum {path}` prints it")));
    };
    let pin = Pin::new(path, sha256).map_err(|error| refuse(error.to_string(), "see docs/providers/exec.md"))?;
    let names = settings.environment.as_ref().map(|words| words.as_slice()).unwrap_or_default();
    let environment = environment(names, &opening.sign_in)
        .map_err(|cause| refuse(cause, "`environment` holds names, and texts such as `NAME=value`"))?;
    Ok(Arc::new(Exec {
        instance: opening.instance.to_owned(),
        exchange: Arc::new(Exchange::new(pin, arguments.to_vec(), environment)),
        calls: Arc::clone(&opening.calls),
        abilities: Mutex::default(),
    }))
}

/// Returns the caller's variables that an instance passes on: those that its `environment` names without a value.
pub(crate) fn passed_on(environment: &[String]) -> impl Iterator<Item = &str> {
    environment.iter().map(String::as_str).filter(|word| !word.contains('='))
}

/// Returns the variables that `words` name: `NAME=value` as it stands there, `NAME` as the caller has it, else as the
/// daemon does.
fn environment(words: &[String], sign_in: &SignIn) -> Result<Vec<(String, OsString)>, String> {
    let mut variables = Vec::new();
    for word in words {
        let (name, said) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        if !is_variable_name(name) {
            return Err("`environment` has something else than a name".to_owned());
        }
        let value = match said {
            Some(value) if value.contains('\0') => return Err(format!("`{name}` in `environment` has a NUL byte")),
            Some(value) => Some(value.into()),
            // What changes how a program is loaded or what it trusts is for the configuration to say, not for a caller.
            None if is_reserved(name) => return Err(format!("`{name}` in `environment` needs a value of its own")),
            // Opened to be passed on, as the configuration says.
            None => sign_in.text(name).map(OsString::from).or_else(|| std::env::var_os(name)),
        };
        variables.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(variables)
}

impl Exec {
    /// Starts the program for one operation and returns its answer.
    async fn ask(
        &self,
        operation: &'static str,
        task: Task<'_>,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.problem(&ExchangeError::Silent, operation));
        }
        let request = request::request(operation, left, task)?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.exchange.ask(request, deadline).await.map_err(|error| self.problem(&error, operation))
    }

    /// Returns what the program can, asking it the first time.
    async fn abilities(&self, deadline: Instant) -> Result<Arc<Abilities>, Problem> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let answer = self.ask("capabilities", Task::None {}, deadline).await?;
        let by_hand = |problem: Problem| match problem.kind {
            // Whatever it was asked for after that, this is what failed.
            ErrorKind::Malformed if problem.hint.is_none() => {
                Problem { hint: Some(self.by_hand("capabilities")), ..problem }
            }
            _ => problem,
        };
        let abilities = Arc::new(answer::abilities(&answer).map_err(by_hand)?);
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&abilities));
        Ok(abilities)
    }

    fn known(&self) -> Option<Arc<Abilities>> {
        self.abilities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes sure that the program knows `operation`.
    async fn needs(&self, operation: &'static str, deadline: Instant) -> Result<(), Problem> {
        if self.abilities(deadline).await?.can(operation) {
            return Ok(());
        }
        Err(Problem::new(ErrorKind::Unsupported, format!("the program says that it does not know `{operation}`")))
    }

    /// Fetches many at once. Every reference gets its own result.
    async fn many(&self, references: &[&SecretRef], deadline: Instant) -> Vec<Result<Found, Problem>> {
        let asked = references.iter().enumerate().map(|(place, reference)| Asked::new(place, reference)).collect();
        match self.ask("fetch", Task::Many { references: asked }, deadline).await {
            Ok(answer) => answer::results(&answer, references.len()),
            Err(problem) => references.iter().map(|_| Err(problem.clone())).collect(),
        }
    }

    /// Tells why `reference` cannot be asked for, if it can't.
    fn refused(abilities: Option<&Result<Arc<Abilities>, Problem>>, reference: &SecretRef) -> Option<Problem> {
        let stage = match (abilities?, &reference.version) {
            (_, Version::Current) => return None,
            (Err(problem), _) => return Some(problem.clone()),
            (Ok(abilities), Version::Id(_)) if abilities.versions => return None,
            (Ok(_), Version::Id(_)) => "version=...",
            (Ok(abilities), Version::Previous) if abilities.knows("previous") => return None,
            (Ok(_), Version::Previous) => "stage=previous",
            (Ok(abilities), Version::Pending) if abilities.knows("pending") => return None,
            (Ok(_), Version::Pending) => "stage=pending",
        };
        Some(Problem::new(ErrorKind::Unsupported, format!("the program says that it does not know `?{stage}`")))
    }

    fn problem(&self, error: &ExchangeError, operation: &str) -> Problem {
        let kind = match error {
            ExchangeError::Program(ProgramError::Unreadable { .. })
            | ExchangeError::Start(_)
            | ExchangeError::Stream(_)
            | ExchangeError::Silent
            | ExchangeError::Ended { .. } => ErrorKind::Unavailable,
            // Nobody may be served by it, and nothing that it said earlier stands in.
            ExchangeError::Program(ProgramError::Changed { .. } | ProgramError::Exposed { .. }) => ErrorKind::Denied,
            ExchangeError::Program(_) => ErrorKind::Unsupported,
            ExchangeError::Flood { .. } => ErrorKind::Malformed,
        };
        let hint = match error {
            ExchangeError::Program(ProgramError::Changed { path, .. }) => format!(
                "if you know who changed `{}` and why, put its new digest into `[providers.{}]`",
                path.display(),
                self.instance
            ),
            ExchangeError::Program(ProgramError::Exposed { .. }) => {
                "keep it where only you and root can write".to_owned()
            }
            ExchangeError::Silent => format!("give `{}` a longer `timeout`, or see why it hangs", self.instance),
            ExchangeError::Ended { .. } | ExchangeError::Flood { .. } => self.by_hand(operation),
            _ => format!("check `command` in `[providers.{}]`", self.instance),
        };
        Problem { hint: Some(hint), ..Problem::new(kind, safe(&error.to_string())) }
    }

    /// Says how to try `operation` at a terminal, where standard error can be read. What was asked for is left out: a name
    /// may hold what a shell takes for a command.
    fn by_hand(&self, operation: &str) -> String {
        let task = match operation {
            "fetch" => r#","references":[{"id":"0","path":"PATH"}]"#,
            "put" => r#","path":"PATH","value":"dGVzdA==""#,
            "delete" | "describe" => r#","path":"PATH""#,
            "list" => r#","prefix":"""#,
            _ => "",
        };
        let request = format!(r#"{{"broker":1,"operation":"{operation}","seconds":10{task}}}"#);
        let shown = self.exchange.shown();
        let name = if task.contains("PATH") { ", with a name for PATH" } else { "" };
        format!("`{operation}` failed; see what the program says{name}: echo '{request}' | {shown}")
    }

    /// Says `problem` of `reference`, with the way out that fits.
    fn error(&self, problem: Problem, operation: &str, reference: Option<&SecretRef>) -> ProviderError {
        let hint = problem.hint.or_else(|| match problem.kind {
            ErrorKind::NotFound => Some(format!("check its name, as the program behind `{}` knows it", self.instance)),
            ErrorKind::Denied => Some(format!("the program behind `{}` may not read it", self.instance)),
            ErrorKind::Unauthenticated => Some(format!("sign in to what stands behind `{}`", self.instance)),
            ErrorKind::Malformed => Some(self.by_hand(operation)),
            ErrorKind::Throttled | ErrorKind::Unavailable => {
                Some("try again in a while, or allow older values with `max-stale`".to_owned())
            }
            _ => None,
        });
        ProviderError {
            kind: problem.kind,
            instance: self.instance.clone(),
            reference: reference.cloned(),
            cause: problem.cause,
            hint,
            retry: problem.retry,
        }
    }

    async fn stored(
        &self,
        reference: &SecretRef,
        value: &SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, Problem> {
        if reference.version != Version::Current {
            return Err(Problem::new(ErrorKind::Unsupported, "only the current version can be written"));
        }
        self.needs("put", deadline).await?;
        let encoded = request::encoded(value);
        let answer = self.ask("put", Task::Put { path: &reference.path, value: &encoded }, deadline).await?;
        answer::stored(&answer, value)
    }

    async fn deleted(&self, reference: &SecretRef, deadline: Instant) -> Result<(), Problem> {
        self.needs("delete", deadline).await?;
        answer::done(&self.ask("delete", Task::One { path: &reference.path }, deadline).await?)
    }

    async fn described(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, Problem> {
        self.needs("describe", deadline).await?;
        answer::described(&self.ask("describe", Task::One { path: &reference.path }, deadline).await?)
    }

    async fn listed(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, Problem> {
        if !options.tags.is_empty() {
            return Err(Problem::new(ErrorKind::Unsupported, "a program is not asked for tags"));
        }
        let prefix = options.prefix;
        self.needs("list", deadline).await?;
        let entries = answer::entries(&self.ask("list", Task::List { prefix }, deadline).await?)?;
        // A program may tell more than it was asked for.
        let entries = entries.into_iter().filter(|entry| entry.path.starts_with(prefix));
        let mut listed: Vec<_> = entries
            .map(|entry| Listed { changed: entry.changed(), path: entry.path, version: entry.version })
            .collect();
        listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        listed.dedup_by(|a, b| a.path == b.path);
        Ok(listed)
    }
}

#[async_trait]
impl Provider for Exec {
    fn capabilities(&self) -> Capabilities {
        let Some(known) = self.known() else { return CAPABILITIES };
        Capabilities {
            write: known.can("put"),
            list: known.can("list"),
            tags: false,
            describe: known.can("describe"),
            versions: known.versions,
            previous: known.knows("previous"),
            // Written is only what is current.
            pending: false,
            issues: false,
            promote: known.can("put") && known.versions && known.knows("previous"),
            batch: BATCH,
        }
    }

    async fn fetch(&self, references: &[SecretRef], options: FetchOptions) -> Vec<Result<Fetched, ProviderError>> {
        let is_plain = references.iter().all(|reference| reference.version == Version::Current);
        let abilities = if is_plain { None } else { Some(self.abilities(options.deadline).await) };
        let mut results = HashMap::with_capacity(references.len());
        let mut asked = Vec::with_capacity(references.len());
        for reference in references {
            if results.contains_key(reference) {
                continue;
            }
            let refused = Self::refused(abilities.as_ref(), reference);
            if refused.is_none() {
                asked.push(reference);
            }
            let unasked = || Problem::new(ErrorKind::Malformed, "the program gave no result for it");
            results.insert(reference, Err(refused.unwrap_or_else(unasked)));
        }
        for references in asked.chunks(BATCH) {
            let found = self.many(references, options.deadline).await;
            for (reference, found) in references.iter().zip(found) {
                let fetched = found.map(|found| {
                    let (value, version) = (Arc::new(found.value), found.version);
                    Fetched { value, version, fetched_at: Instant::now(), stale: false, lone_field: None }
                });
                results.insert(reference, fetched);
            }
        }
        references
            .iter()
            .map(|reference| match results.get(reference) {
                Some(Ok(fetched)) => Ok(fetched.clone()),
                Some(Err(problem)) => Err(self.error(problem.clone(), "fetch", Some(reference))),
                None => Err(self.error(
                    Problem::new(ErrorKind::Malformed, "it was not asked for"),
                    "fetch",
                    Some(reference),
                )),
            })
            .collect()
    }

    async fn put(
        &self,
        reference: &SecretRef,
        value: SecretValue,
        deadline: Instant,
    ) -> Result<Option<String>, ProviderError> {
        let done = self.stored(reference, &value, deadline).await;
        done.map_err(|problem| self.error(problem, "put", Some(reference)))
    }

    async fn delete(&self, reference: &SecretRef, deadline: Instant) -> Result<(), ProviderError> {
        self.deleted(reference, deadline).await.map_err(|problem| self.error(problem, "delete", Some(reference)))
    }

    async fn list(&self, options: ListOptions<'_>, deadline: Instant) -> Result<Vec<Listed>, ProviderError> {
        self.listed(options, deadline).await.map_err(|problem| self.error(problem, "list", None))
    }

    async fn describe(&self, reference: &SecretRef, deadline: Instant) -> Result<Described, ProviderError> {
        self.described(reference, deadline).await.map_err(|problem| self.error(problem, "describe", Some(reference)))
    }

    fn forget(&self) {
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.exchange.forget();
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("instance", &self.instance).finish_non_exhaustive()
    }
}
