//! Signing in to Azure for one instance: which way, and one token that all its requests share.
//!
//! The way is what `auth` says. Where it says nothing: the caller's client secret, the caller's federated assertion, the
//! session of `broker login`, the session of the Azure CLI, in this order. A machine's own identity is used only where it
//! is asked for: on a laptop nobody answers there, and elsewhere everybody on the machine has it.
//!
//! One sign-in at a time, however many requests wait. A token that the vault refuses is replaced once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_core::instance::InstanceSettings;
use broker_core::secret::{SecretValue, SharedValue};
use broker_core::sign_in::SignIn;
use tokio::time::{Instant, timeout_at};

use crate::azure::az::Az;
use crate::azure::login::{AzureLogin, access_token};
use crate::azure::place::Place;
use crate::azure::token::{Form, Token, TokenAnswer, of_machine, post};
use crate::fault::Fault;
use crate::file_stamp::{FileStamp, FilesStamp};
use crate::login::Session;
use crate::provider::ErrorKind;
use crate::rest::Rest;
use crate::sign_ins::SignIns;

/// The caller's variables that are read.
pub(crate) const SIGN_IN_ENV: &[&str] =
    &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_CONFIG_DIR"];

/// What a child must not inherit.
pub(crate) const BOOTSTRAP_ENV: &[&str] = &[
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_PASSWORD",
    "AZURE_USERNAME",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
];

/// Longest assertion that is read from a file, in bytes.
const MAX_ASSERTION: u64 = 64 * 1024;
/// How long it is remembered that the vault refused a token that was just had.
const RENEWAL_RESTS: Duration = Duration::from_secs(10);
/// What an assertion is, in the words of RFC 7523.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The words that `auth` may say.
pub(crate) const AUTHS: [&str; 5] = ["client-secret", "workload-identity", "managed-identity", "az", "device-code"];

/// A way to sign in.
enum Way {
    Secret { tenant: String, client_id: String, secret: SharedValue },
    Federated { tenant: String, client_id: String, file: PathBuf },
    Machine { client_id: Option<String> },
    Az(Az),
    Person,
}

/// The sign-in of one instance for one identity.
pub(crate) struct AzureSignIn {
    place: Place,
    rest: Rest,
    auth: Option<String>,
    env: SignIn,
    tenant: Option<String>,
    client_id: Option<String>,
    login: AzureLogin,
    sign_ins: Arc<SignIns>,
    held: Mutex<Held>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    replaced: Option<Instant>,
}

/// A token to show, and where it is from.
#[derive(Clone)]
pub(crate) struct Pass {
    pub(crate) token: SharedValue,
    session: Option<Arc<Session>>,
}

impl AzureSignIn {
    /// Reads the settings. Reaches nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an `auth`, a tenant or an application that makes no sense.
    pub(crate) fn new(
        settings: &InstanceSettings,
        env: SignIn,
        place: Place,
        rest: Rest,
        sign_ins: Arc<SignIns>,
    ) -> Result<Self, Fault> {
        let refuse = |cause: String| Fault::new(ErrorKind::Unsupported, cause);
        let auth = settings.auth.clone();
        if auth.as_deref().is_some_and(|auth| !AUTHS.contains(&auth)) {
            return Err(refuse(format!(
                "`auth` of this kind is one of {}",
                AUTHS.map(|auth| format!("`{auth}`")).join(", ")
            )));
        }
        let said = |key: &Option<String>, name| key.clone().or_else(|| env.text(name).map(str::to_owned));
        let tenant = said(&settings.tenant, "AZURE_TENANT_ID");
        let client_id = said(&settings.client_id, "AZURE_CLIENT_ID");
        for (key, word) in [("tenant", &tenant), ("client-id", &client_id)] {
            // Part of an address and of a command's arguments.
            if word.as_deref().is_some_and(|word| !is_plain(word)) {
                return Err(refuse(format!("`{key}` is an id or a domain: letters, digits, `.` and `-`")));
            }
        }
        let login = AzureLogin::new(&place, rest.clone(), tenant.as_deref(), settings.client_id.as_deref());
        Ok(Self {
            place,
            rest,
            auth,
            env,
            tenant,
            client_id,
            login,
            sign_ins,
            held: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Returns a token that is good for a while, signing in where needed.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when there is no way in, and what the login authority says.
    pub(crate) async fn pass(&self, deadline: Instant) -> Result<Pass, Fault> {
        if let Some(token) = self.young() {
            return Ok(Pass { token, session: None });
        }
        let _turn = timeout_at(deadline, self.turn.lock()).await.map_err(|_| Fault::late())?;
        if let Some(token) = self.young() {
            return Ok(Pass { token, session: None });
        }
        self.sign_in(deadline).await
    }

    /// Returns another token than `pass`, which the vault refused; nothing when the next one would be no better.
    ///
    /// # Errors
    /// Like [`AzureSignIn::pass`].
    pub(crate) async fn another(&self, pass: &Pass, deadline: Instant) -> Result<Option<Pass>, Fault> {
        let _turn = timeout_at(deadline, self.turn.lock()).await.map_err(|_| Fault::late())?;
        if let Some(token) = self.young().filter(|token| !Arc::ptr_eq(token, &pass.token)) {
            return Ok(Some(Pass { token, session: None }));
        }
        if self.lock().replaced.is_some_and(|at| at.elapsed() < RENEWAL_RESTS) {
            return Ok(None);
        }
        {
            let mut held = self.lock();
            held.token = None;
            held.replaced = Some(Instant::now());
        }
        if let Some(session) = &pass.session {
            let renewed = self.sign_ins.refused(&self.login, session, deadline).await?;
            return Ok(renewed.and_then(|session| pass_of(&session)));
        }
        self.sign_in(deadline).await.map(Some)
    }

    async fn sign_in(&self, deadline: Instant) -> Result<Pass, Fault> {
        let token = match self.way()? {
            Some(Way::Person) => return self.of_person(deadline).await?.ok_or_else(nobody),
            None => {
                if let Some(pass) = self.of_person(deadline).await? {
                    return Ok(pass);
                }
                let az = Az::find(self.env.text("AZURE_CONFIG_DIR")).ok_or_else(nobody)?;
                self.obtain(&Way::Az(az), deadline).await?
            }
            Some(way) => self.obtain(&way, deadline).await?,
        };
        let value = Arc::clone(&token.value);
        self.lock().token = Some(token);
        Ok(Pass { token: value, session: None })
    }

    /// Chooses the way; none where it depends on who has a session.
    fn way(&self) -> Result<Option<Way>, Fault> {
        let missing = |what: &str| Fault::new(ErrorKind::Unauthenticated, format!("signing in needs {what}"));
        let secret = || {
            let tenant = self.tenant.clone().ok_or_else(|| missing("`tenant`, or AZURE_TENANT_ID"))?;
            let client_id = self.client_id.clone().ok_or_else(|| missing("`client-id`, or AZURE_CLIENT_ID"))?;
            let secret = self.env.text("AZURE_CLIENT_SECRET").ok_or_else(|| missing("AZURE_CLIENT_SECRET"))?;
            Ok(Way::Secret { tenant, client_id, secret: Arc::new(SecretValue::from(secret.to_owned())) })
        };
        let federated = || {
            let tenant = self.tenant.clone().ok_or_else(|| missing("`tenant`, or AZURE_TENANT_ID"))?;
            let client_id = self.client_id.clone().ok_or_else(|| missing("`client-id`, or AZURE_CLIENT_ID"))?;
            let file =
                self.env.text("AZURE_FEDERATED_TOKEN_FILE").ok_or_else(|| missing("AZURE_FEDERATED_TOKEN_FILE"))?;
            Ok(Way::Federated { tenant, client_id, file: PathBuf::from(file) })
        };
        Ok(Some(match self.auth.as_deref() {
            Some("client-secret") => secret()?,
            Some("workload-identity") => federated()?,
            Some("managed-identity") => Way::Machine { client_id: self.client_id.clone() },
            Some("az") => {
                let found = Az::find(self.env.text("AZURE_CONFIG_DIR"));
                Way::Az(found.ok_or_else(|| {
                    Fault::new(ErrorKind::Unauthenticated, "there is no `az` that only root and you can change")
                })?)
            }
            Some(_) => Way::Person,
            None if self.env.text("AZURE_CLIENT_SECRET").is_some() => secret()?,
            None if self.env.text("AZURE_FEDERATED_TOKEN_FILE").is_some() => federated()?,
            None => return Ok(None),
        }))
    }

    async fn obtain(&self, way: &Way, deadline: Instant) -> Result<Token, Fault> {
        match way {
            Way::Secret { tenant, client_id, secret } => {
                let form = self.client(client_id).with_secret("client_secret", secret);
                let token = self.client_token(tenant, &form, deadline).await;
                token.map_err(|fault| shown("AZURE_CLIENT_SECRET", fault))
            }
            Way::Federated { tenant, client_id, file } => {
                let assertion = read_assertion(file).await?;
                let form = self.client(client_id).with("client_assertion_type", ASSERTION_TYPE);
                let form = form.with_secret("client_assertion", &assertion);
                let token = self.client_token(tenant, &form, deadline).await;
                token.map_err(|fault| shown("AZURE_FEDERATED_TOKEN_FILE", fault))
            }
            Way::Machine { client_id } => {
                let Place { metadata, resource, .. } = &self.place;
                of_machine(&self.rest, metadata, resource, client_id.as_deref(), deadline).await
            }
            Way::Az(az) => az.token(self.place.resource, self.tenant.as_deref(), deadline).await,
            Way::Person => Err(nobody()),
        }
    }

    fn client(&self, client_id: &str) -> Form {
        let form = Form::new().with("grant_type", "client_credentials").with("client_id", client_id);
        form.with("scope", &self.place.scope())
    }

    async fn client_token(&self, tenant: &str, form: &Form, deadline: Instant) -> Result<Token, Fault> {
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.place.authority);
        let answer: TokenAnswer = post(&self.rest, &url, form, deadline).await?;
        let life = answer.life();
        Ok(Token::new(answer.access_token.0, life))
    }

    async fn of_person(&self, deadline: Instant) -> Result<Option<Pass>, Fault> {
        Ok(self.sign_ins.session(&self.login, deadline).await?.and_then(|session| pass_of(&session)))
    }

    /// Says how to mend a sign-in that failed with `fault`.
    pub(crate) fn hint(&self, instance: &str, fault: &Fault) -> String {
        let cause = &fault.cause;
        let says = |code: &str| cause.contains(code);
        let in_env = self.env.text("AZURE_CLIENT_SECRET").is_some() || self.auth.as_deref() == Some("client-secret");
        if says("AADSTS7000222") {
            return "the client secret is over: make a new one (`az ad app credential reset`)".to_owned();
        }
        if says("AADSTS7000215") {
            return "AZURE_CLIENT_SECRET is the secret's value, not its id".to_owned();
        }
        if says("AADSTS700016") || says("AADSTS90002") {
            return "check `tenant` and `client-id`, or AZURE_TENANT_ID and AZURE_CLIENT_ID".to_owned();
        }
        if says("AADSTS70021") || says("AADSTS700024") {
            return "check the federated credential of the application: its issuer, subject and audience, and the file's age".to_owned();
        }
        if says("AKV10032") || says("AKV10022") {
            return "the token is of another tenant or cloud than the vault: check `tenant`".to_owned();
        }
        match self.auth.as_deref() {
            Some("managed-identity") => {
                "does this machine have a managed identity, and is `client-id` one of its own?".to_owned()
            }
            Some("az") => match &self.tenant {
                Some(tenant) => format!("sign in: az login --tenant {tenant}"),
                None => "sign in: az login".to_owned(),
            },
            None if in_env => format!(
                "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or unset the last: it goes before the session of `broker login {instance}`"
            ),
            _ if in_env => "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET".to_owned(),
            Some("workload-identity") => {
                "check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE".to_owned()
            }
            _ => format!("sign in: broker login {instance}"),
        }
    }

    /// Forgets the token.
    pub(crate) fn forget(&self) {
        *self.lock() = Held::default();
    }

    fn young(&self) -> Option<SharedValue> {
        self.lock().token.as_ref().filter(|token| token.is_young()).map(|token| Arc::clone(&token.value))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the files that a sign-in of these variables reads.
pub(crate) fn stamp(env: &SignIn) -> FilesStamp {
    FilesStamp(env.text("AZURE_FEDERATED_TOKEN_FILE").map(|file| FileStamp::of(Path::new(file))).into_iter().collect())
}

fn pass_of(session: &Arc<Session>) -> Option<Pass> {
    Some(Pass { token: access_token(session)?, session: Some(Arc::clone(session)) })
}

/// Says of a refusal which of the caller's credentials was shown: it goes before a session of `broker login`.
fn shown(credential: &str, fault: Fault) -> Fault {
    match fault.kind {
        ErrorKind::Unauthenticated => Fault { cause: format!("{credential} was refused: {}", fault.cause), ..fault },
        _ => fault,
    }
}

fn nobody() -> Fault {
    Fault::new(ErrorKind::Unauthenticated, "nobody is signed in")
}

fn is_plain(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with(['-', '.'])
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
}

/// Reads an assertion that a cluster keeps fresh in a file.
async fn read_assertion(file: &Path) -> Result<SecretValue, Fault> {
    use std::io::Read as _;
    let file = file.to_owned();
    let refuse = |why: &str| Fault::new(ErrorKind::Unauthenticated, format!("AZURE_FEDERATED_TOKEN_FILE: {why}"));
    let read = tokio::task::spawn_blocking(move || {
        if !file.is_absolute() || !std::fs::metadata(&file)?.is_file() {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
        }
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(MAX_ASSERTION as usize));
        std::fs::File::open(&file)?.take(MAX_ASSERTION).read_to_end(&mut bytes)?;
        // A file ends with a line feed that is no part of it.
        Ok(SecretValue::new(bytes.trim_ascii().to_vec()))
    });
    match read.await {
        Ok(Ok(assertion)) if !assertion.is_empty() => Ok(assertion),
        Ok(Ok(_)) => Err(refuse("the file is empty")),
        Ok(Err(error)) => Err(refuse(&error.to_string())),
        Err(_) => Err(refuse("it could not be read")),
    }
}

impl fmt::Debug for AzureSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureSignIn").field("place", &self.place).field("auth", &self.auth).finish_non_exhaustive()
    }
}
