//! `broker daemon`: starts, stops and looks at the daemon, which otherwise starts by itself.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command as Process;

use broker_core::code::ErrorCode;
use broker_core::duration;
use broker_protocol::client::{ClientError, Connection};
use broker_protocol::message::Status;
use broker_protocol::place::Place;
use broker_protocol::start::{StartError, beside_us, connect_existing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, getuid, pidfd_open};

use crate::call::Call;
use crate::report::{FAILED, Fault, Outcome, print, print_json, printable};
use crate::session::Session;

/// How long a daemon may take to end.
const GONE_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Start, stop and look at the daemon
///
/// There is one per user. Commands start it when they need it, and it ends by itself when it was idle for long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start it, unless it runs
    Start,
    /// Stop it: leases end, values are forgotten, commands that run go on
    Stop,
    /// Show how it is; exits with 1 when none runs
    ///
    /// With --json: {"running": false}, or {"running": true, "version", "protocol", "pid", "uptime_seconds", "leases",
    /// "cached_values", "calls": [[INSTANCE, COUNT]], "grants", "local_store", "local_store_key", "audit", "config"}.
    Status {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Run it in the foreground, for a service manager or to see what it says
    Run {
        /// Passed on to `brokerd run`
        #[arg(last = true)]
        args: Vec<std::ffi::OsString>,
    },
}

impl Args {
    /// Tells whether failures are shown as JSON.
    pub(crate) fn json(&self) -> bool {
        matches!(self.command, Command::Status { json: true })
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    match args.command {
        Command::Start => start(call),
        Command::Stop => stop(call),
        Command::Status { json } => status(json, call),
        Command::Run { args } => match foreground(&args) {
            Err(fault) => Err(fault),
        },
    }
}

fn start(call: &Call) -> Outcome {
    let connection = Connection::open(&Place::find()?)?;
    call.report.note(&format!("the daemon runs (process {})", connection.daemon_pid()));
    Ok(0)
}

fn stop(call: &Call) -> Outcome {
    let place = Place::find()?;
    let mut connection = match Connection::existing_of_any_version(&place) {
        Ok(Some(connection)) => connection,
        Ok(None) => {
            call.report.note("no daemon runs");
            return Ok(0);
        }
        Err(ClientError::Silent(_)) => return Err(silent(listening(&place))),
        // Its queue is full: there is no connection whose other end could be asked for.
        Err(ClientError::Start(StartError::Stuck(_))) => return Err(silent(None)),
        Err(error) => return Err(error.into()),
    };
    // Held before it is asked to end, so that its number can't come to mean another process.
    let process = i32::try_from(connection.daemon_pid()).ok().and_then(Pid::from_raw);
    let held = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    match connection.stop() {
        Err(ClientError::Silent(_)) => return Err(silent(process)),
        answer => answer?,
    }
    if let Some(held) = held {
        let gone = poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&GONE_WITHIN));
        if !gone.is_ok_and(|ready| ready > 0) {
            return Err(Fault::new(ErrorCode::Daemon, "the daemon was told to stop and still runs")
                .hint(format!("end it: kill {}", connection.daemon_pid())));
        }
    }
    call.report.note("the daemon stopped");
    Ok(0)
}

/// Returns the process that listens on our socket, as the kernel noted it, if it is our user's (`SO_PEERCRED`, unix(7)).
fn listening(place: &Place) -> Option<Pid> {
    let stream = connect_existing(place).ok()??;
    let peer = socket_peercred(&stream).ok()?;
    (peer.uid == getuid()).then_some(peer.pid)
}

/// Says how to end a daemon that does not answer, and so can't be asked to end.
fn silent(process: Option<Pid>) -> Fault {
    let fault = |message: String| Fault::new(ErrorCode::Daemon, message);
    let Some(pid) = process.map(|pid| pid.as_raw_nonzero()) else {
        return fault("the daemon does not answer".to_owned())
            .hint("see which process listens on `broker.sock`: ss -xlp".to_owned());
    };
    if suspended(pid.get()) {
        // It acts on no signal but these two (signal(7)).
        return fault(format!("the daemon (process {pid}) is suspended and does not answer"))
            .hint(format!("let it go on: kill -CONT {pid}; or end it: kill -KILL {pid}"));
    }
    fault(format!("the daemon (process {pid}) does not answer")).hint(format!("end it: kill {pid}"))
}

/// Tells whether a process was stopped by a signal or a tracer (proc_pid_stat(5): the state follows the last `)`).
fn suspended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

fn status(json: bool, call: &Call) -> Outcome {
    let Some(mut session) = Session::existing(call)? else {
        if json {
            print_json(&serde_json::json!({ "running": false }))?;
        } else {
            print("no daemon runs\n")?;
        }
        return Ok(FAILED);
    };
    let status = session.ask(|connection| connection.status())?;
    if json {
        let mut value =
            serde_json::to_value(&status).map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
        value["running"] = true.into();
        print_json(&value)?;
    } else {
        print(&words(&status))?;
    }
    Ok(0)
}

fn words(status: &Status) -> String {
    let calls: Vec<_> = status.calls.iter().map(|(instance, count)| format!("{instance} {count}")).collect();
    let config: Vec<_> = status.config.iter().map(|path| path.display().to_string()).collect();
    let listed = |words: Vec<String>| if words.is_empty() { "-".to_owned() } else { words.join(", ") };
    let uptime = duration::format(std::time::Duration::from_secs(status.uptime_seconds.max(1)));
    let store = if status.local_store_key.is_empty() {
        status.local_store.clone()
    } else {
        format!("{} (key: {})", status.local_store, status.local_store_key)
    };
    format!(
        "process         {}\nversion         {} (protocol {})\nup              {uptime}\nlive leases     {}\ngrants          {}\nvalues held     {}\ncalls           {}\nembedded store  {store}\naudit           {}\nconfiguration   {}\n",
        status.pid,
        printable(&status.version),
        status.protocol,
        status.leases,
        status.grants,
        status.cached_values,
        printable(&listed(calls)),
        printable(&status.audit.to_string_lossy()),
        printable(&listed(config)),
    )
}

fn foreground(args: &[std::ffi::OsString]) -> Result<Infallible, Fault> {
    let daemon = |words: String| Fault::new(ErrorCode::Daemon, words);
    let program = beside_us().map_err(|error| daemon(error.to_string()))?;
    let error = Process::new(&program).arg("run").args(args).exec();
    Err(daemon(format!("cannot run `{}`: {error}", program.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(process: Option<Pid>) -> String {
        silent(process).problems.remove(0).hint.unwrap()
    }

    #[test]
    fn a_silent_daemon_is_ended_by_a_signal_that_reaches_it() {
        let mut child = Process::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let running = hint(Some(pid));
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let options = rustix::process::WaitOptions::UNTRACED;
        rustix::process::waitpid(Some(pid), options).unwrap();
        let stopped = hint(Some(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        let pid = child.id();
        assert_eq!(running, format!("end it: kill {pid}"));
        assert_eq!(stopped, format!("let it go on: kill -CONT {pid}; or end it: kill -KILL {pid}"));
    }

    #[test]
    fn whoever_listens_without_an_answer_is_named() {
        let pid = rustix::process::getpid();
        assert!(silent(Some(pid)).problems[0].message.contains(&format!("process {}", pid.as_raw_nonzero())));
        assert!(!hint(None).contains("daemon stop"));
    }
}
