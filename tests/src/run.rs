//! One run of a program: a cleared environment, no terminal, captured streams, and a deadline that ends it.
//!
//! Invariants: a run never hangs the suite; a run that leaves its output open after its end fails; nothing of the
//! caller's environment is seen by it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use crate::process::{self, Pid};

/// Longest life of a run unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run to be made.
#[derive(Clone)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    before: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    stdin: Input,
    descriptor_3: Option<Vec<u8>>,
    deadline: Duration,
}

#[derive(Clone)]
enum Input {
    Empty,
    Bytes(Vec<u8>),
    Open,
}

impl Run {
    /// Prepares `program` with an empty environment, in `/`, in a session of its own.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            before: Vec::new(),
            environment: BTreeMap::new(),
            directory: PathBuf::from("/"),
            stdin: Input::Empty,
            descriptor_3: None,
            deadline: DEADLINE,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Starts the program through another one: `before PROGRAM ARG...`, as `env`, `strace` or `setpriv` do it. Of two
    /// calls the later one is the outer one.
    #[must_use]
    pub fn through<S: AsRef<OsStr>>(mut self, before: impl IntoIterator<Item = S>) -> Self {
        let outer: Vec<OsString> = before.into_iter().map(|a| a.as_ref().to_owned()).collect();
        self.before.splice(0..0, outer);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.remove(name.as_ref());
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, directory: &Path) -> Self {
        self.directory = directory.to_owned();
        self
    }

    /// Gives it these bytes on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Input::Bytes(bytes.as_ref().to_vec());
        self
    }

    /// Keeps its standard input open for as long as it runs.
    #[must_use]
    pub fn stdin_open(mut self) -> Self {
        self.stdin = Input::Open;
        self
    }

    /// Gives it these bytes on descriptor 3.
    #[must_use]
    pub fn descriptor_3(mut self, bytes: &str) -> Self {
        self.descriptor_3 = Some(bytes.as_bytes().to_vec());
        self
    }

    /// Ends it after this long.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn command(&self, fifo: Option<&Path>) -> Command {
        // `setsid` as a child that leads no group changes nothing but the session and becomes the program in place, so
        // the pid is the program's; without a terminal no prompt can reach the person who runs the tests.
        let mut command = Command::new("/usr/bin/setsid");
        if let Some(fifo) = fifo {
            let script = "f=$1; shift; exec \"$@\" 3<\"$f\"";
            command.args(["/bin/sh", "-c", script, "sh"]).arg(fifo);
        }
        command.args(&self.before).arg(&self.program).args(&self.args);
        command.env_clear().envs(&self.environment).current_dir(&self.directory);
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it can't be started at all.
    #[must_use]
    pub fn start(mut self) -> Running {
        let fifo = self.descriptor_3.take().map(Fifo::of);
        let mut command = self.command(fifo.as_ref().map(|f| f.path.as_path()));
        let stdin = if matches!(self.stdin, Input::Empty) { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {:?}: {e}", self.program));
        let stdout = drain(child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
        let stderr = drain(child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = self.stdin {
            let pipe = stdin.take();
            // A program may end without reading its input; that is no failure of the harness.
            thread::spawn(move || pipe.map(|mut p| p.write_all(&bytes)));
        }
        Running {
            child,
            stdin,
            stdout,
            stderr,
            began,
            end: began + self.deadline,
            what: self.program,
            ended: false,
            _fifo: fifo,
        }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it outlives its deadline or leaves its output open.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.start().finish()
    }

    /// Runs it to its end and demands success.
    ///
    /// # Panics
    /// When its status is not 0; the message holds both streams.
    pub fn succeed(self) -> Outcome {
        let outcome = self.run();
        outcome.expect_code(0);
        outcome
    }
}

/// A named pipe that gives its bytes to whoever opens it. Unlike an inherited pipe it can't end up in a program that
/// another thread starts at the same time, and unlike a file it puts nothing on the disk.
struct Fifo {
    path: PathBuf,
    _directory: TempDir,
}

impl Fifo {
    fn of(bytes: Vec<u8>) -> Self {
        let directory = tempfile::Builder::new().prefix("bf-").tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("3");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("a fifo can be made");
        let to = path.clone();
        // Opening blocks until the other side opens too.
        thread::spawn(move || File::options().write(true).open(to).and_then(|mut f| f.write_all(&bytes)));
        Self { path, _directory: directory }
    }
}

fn drain(stream: Option<Box<dyn Read + Send>>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let mut chunk = [0; 16 << 10];
            while let Ok(n @ 1..) = stream.read(&mut chunk) {
                bytes.extend_from_slice(&chunk[..n]);
            }
        }
        sender.send(bytes)
    });
    receiver
}

/// A run that was started.
pub struct Running {
    child: Child,
    /// Its standard input, when it was kept open.
    pub stdin: Option<std::process::ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    began: Instant,
    end: Instant,
    what: OsString,
    ended: bool,
    _fifo: Option<Fifo>,
}

impl Running {
    /// Returns the pid that was spawned.
    #[must_use]
    pub fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// Sends a signal by number.
    pub fn signal(&self, signal: i32) {
        process::signal(self.pid(), signal);
    }

    /// Tells whether it still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its input and waits for its end and for the end of both its streams.
    ///
    /// # Panics
    /// When that takes longer than the deadline; it is killed then.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        drop(self.stdin.take());
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        if !process::wait_end(self.pid(), left(self.end)) {
            self.end_now();
            let said = self.stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
            panic!("{:?} was still running at its deadline; it said {:?}", self.what, String::from_utf8_lossy(&said));
        }
        let status = self.child.wait().expect("a child can be waited for");
        let elapsed = self.began.elapsed();
        self.ended = true;
        let patience = left(self.end).max(Duration::from_secs(5));
        let (Ok(stdout), Ok(stderr)) = (self.stdout.recv_timeout(patience), self.stderr.recv_timeout(patience)) else {
            panic!("{:?} ended, but something still holds its output open", self.what)
        };
        Outcome { status, stdout, stderr, elapsed }
    }

    fn end_now(&mut self) {
        process::signal(-self.pid(), 9);
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.end_now();
        }
    }
}

/// How a run ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub elapsed: Duration,
}

impl Outcome {
    /// Returns the exit code as a shell shows it: 128+n for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Returns standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Reads standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {}\n{}", self.out(), self.err()))
    }

    /// Demands an exit code.
    ///
    /// # Panics
    /// When it is another one; the message holds both streams.
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "\n--- stdout\n{}\n--- stderr\n{}", self.out(), self.err());
        self
    }

    /// Demands a failure of ours: this exit code, `error[CODE]:` with this code, and nothing on standard output.
    ///
    /// # Panics
    /// When it ended otherwise; the message holds both streams.
    pub fn expect_error(&self, exit: i32, code: &str) -> &Self {
        self.expect_code(exit);
        let words = format!("error[{code}]: ");
        assert!(self.err().contains(&words), "no `{words}` in\n{}", self.err());
        assert_eq!(self.out(), "", "a failure of ours says nothing on standard output");
        self
    }

    /// Demands words on standard error.
    ///
    /// # Panics
    /// When one of them is missing.
    pub fn expect_words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> &Self {
        for word in words {
            assert!(self.err().contains(word), "no {word:?} in\n{}", self.err());
        }
        self
    }
}

/// Writes a file that only its owner may read.
///
/// # Panics
/// When the file system refuses.
pub fn write_private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt;
    let file: std::io::Result<File> = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(bytes)).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
