//! The life of the daemon process: harden, listen, take up the ledger's memory, serve, stop.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use broker_protocol::directories::Directories;
use broker_protocol::place::{Place, PlaceError};
use broker_protocol::start::daemon_environment;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::broker::Broker;
use crate::detach;
use crate::harden::harden;
use crate::ledger_memory::LedgerMemory;
use crate::listen::{ListenError, Listening, listen};
use crate::server::serve;
use crate::signals::block_none;

/// The exit status of a daemon that found another one serving.
pub(crate) const TAKEN: u8 = 3;

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Place(#[from] PlaceError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("`HOME` is not set to an absolute path")]
    NoHome,
    #[error("the process cannot be protected: {0}")]
    Harden(std::io::Error),
    #[error("there is no memory for what outlives the daemon: {0}")]
    Memory(std::io::Error),
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
}

/// What a daemon has before it serves.
struct Prepared {
    listening: Listening,
    runtime: tokio::runtime::Runtime,
    directories: Directories,
    ledger: LedgerMemory,
}

/// Runs the first stage: starts the keeper and ends.
pub(crate) fn start() -> ExitCode {
    match detach::start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            detach::report(&format!("error: brokerd cannot be started: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Serves in the foreground until told to stop, and logs to standard error.
pub(crate) fn run() -> ExitCode {
    if let Err(error) = begin_with_clean_environment("run") {
        complain(&format!("error: brokerd cannot be started: {error}"));
        return ExitCode::FAILURE;
    }
    log_to_stderr();
    serve_until_stopped(None)
}

/// Serves until told to stop, as a copy of the keeper. Readiness or failure is one line on standard output.
pub(crate) fn kept(memory: OwnedFd) -> ExitCode {
    // The keeper reads its signals otherwise.
    block_none();
    detach::begin_session();
    serve_until_stopped(Some(memory))
}

fn serve_until_stopped(memory: Option<OwnedFd>) -> ExitCode {
    let detached = memory.is_some();
    detach::name_process(c"brokerd");
    match prepare(memory) {
        Ok(Prepared { listening, runtime, directories, ledger }) => {
            let report = |line: &str| if detached { detach::report(line) } else { tracing::info!("{line}") };
            runtime.block_on(live(listening, &directories, ledger, report));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let hint = match &error {
                StartError::Place(error) => format!(" ({})", error.hint()),
                _ => String::new(),
            };
            let line = format!("error: {error}{hint}");
            if detached {
                detach::report(&line);
            } else {
                complain(&line);
            }
            match error {
                StartError::Listen(ListenError::Taken) => ExitCode::from(TAKEN),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Becomes the same program once more with the environment that a daemon has, whoever starts it: variables that say
/// whom to believe (`SSL_CERT_FILE`), what to load or where to connect are not those of one shell. Returns when that is so.
pub(crate) fn begin_with_clean_environment(word: &str) -> std::io::Result<()> {
    let own: BTreeMap<_, _> = std::env::vars_os().collect();
    let log = std::env::var_os("BROKER_LOG").map(|level| ("BROKER_LOG".into(), level));
    let clean: BTreeMap<_, _> = daemon_environment(own.clone()).into_iter().chain(log).collect();
    if own == clean {
        return Ok(());
    }
    Err(Command::new("/proc/self/exe").arg0("brokerd").arg(word).env_clear().envs(clean).exec())
}

fn prepare(memory: Option<OwnedFd>) -> Result<Prepared, StartError> {
    harden().map_err(StartError::Harden)?;
    let directories = Directories::from_environment().ok_or(StartError::NoHome)?;
    let place = Place::find()?;
    let listening = listen(&place)?;
    let ledger = LedgerMemory::open(memory).map_err(StartError::Memory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Ok(Prepared { listening, runtime: runtime.map_err(StartError::Runtime)?, directories, ledger })
}

async fn live(listening: Listening, directories: &Directories, ledger: LedgerMemory, report: impl FnOnce(&str)) {
    let Listening { listener, lock } = listening;
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(std::path::Path::to_owned));
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return report(&format!("error: the socket cannot be served: {error}")),
    };
    let broker = Broker::new(directories, ledger);
    broker.begin(socket.clone());
    // Caught from before the first client knows of us, so that the last record is written however soon the end comes.
    if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        let broker = broker.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            broker.stop("signal");
        });
    }
    report("ready");
    serve(listener, broker.clone()).await;
    broker.end(broker.stopped().await).await;
    // Under the lock, so that the socket which is removed is this daemon's and no successor's.
    if let Some(socket) = socket {
        let _ = std::fs::remove_file(socket);
    }
    drop(lock);
}

/// Logs to standard error what `BROKER_LOG` asks for, of our own crates only: libraries log what they send and receive.
fn log_to_stderr() {
    let level = std::env::var("BROKER_LOG").ok().filter(|level| level.chars().all(char::is_alphabetic));
    let level = level.unwrap_or_else(|| "info".to_owned());
    let ours = ["brokerd", "broker_core", "broker_policy", "broker_protocol", "broker_providers"];
    let filter = ours.map(|name| format!("{name}={level}")).join(",");
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Prints a line and succeeds.
pub(crate) fn say(line: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says how this program is used.
pub(crate) fn usage() -> ExitCode {
    complain("brokerd is started by `broker` when it is needed; to watch it work: broker daemon run");
    ExitCode::from(2)
}

fn complain(line: &str) {
    // Standard error may be gone; there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}
