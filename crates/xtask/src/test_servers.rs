//! One moto and one ministack on free ports of 127.0.0.1, for as long as this process lives.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use broker_tests::{deadline, http};

use crate::cargo::target;
use crate::failure::{Failure, at};
use crate::install::{self, Installed};

/// Longest time from the start of a server to its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The running servers.
pub(crate) struct TestServers {
    moto: Server,
    ministack: Server,
    installed: Installed,
}

struct Server {
    child: Child,
    port: u16,
}

impl TestServers {
    /// Installs them where needed, starts both and waits until both answer.
    pub(crate) fn start() -> Result<Self, Failure> {
        let installed = install::servers()?;
        // The kernel kills them when this process ends, however it ends.
        let through = ["setpriv", "--pdeathsig", "KILL", "--"];
        let moto = Server::start("moto", |port| {
            let mut command = installed.module(&through, "moto.server");
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        })?;
        let ministack = Server::start("ministack", |port| {
            let mut command = installed.module(&through, "ministack");
            let port = port.to_string();
            let settings = [
                ("AUTH", "true"),
                ("BIND_HOST", "127.0.0.1"),
                ("MINISTACK_HOST", "127.0.0.1"),
                ("GATEWAY_PORT", &port),
            ];
            command.envs(settings);
            command
        })?;
        Ok(Self { moto, ministack, installed })
    }

    /// Returns the variables that tell the tests where the servers and the official clients are.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let url = |server: &Server| format!("http://127.0.0.1:{}", server.port);
        let mut variables = self.installed.variables();
        variables.extend([("BROKER_TEST_MOTO", url(&self.moto)), ("BROKER_TEST_MINISTACK", url(&self.ministack))]);
        variables
    }

    /// Returns moto's address.
    pub(crate) fn moto(&self) -> String {
        format!("127.0.0.1:{}", self.moto.port)
    }
}

impl Server {
    fn start(name: &'static str, command: impl Fn(u16) -> Command) -> Result<Self, Failure> {
        let log = log(name);
        let mut said = String::new();
        // A port that was free can be taken by another process before the server has it.
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(at("127.0.0.1"))?.port();
            let out = File::create(&log).map_err(at(&log))?;
            let mut command = command(port);
            command.stdin(Stdio::null()).stdout(out.try_clone().map_err(at(&log))?).stderr(out);
            for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
                command.env_remove(variable);
            }
            let child = command.spawn().map_err(|source| Failure::Start { program: name.into(), source })?;
            let mut server = Self { child, port };
            let answers = deadline::within(START_LIMIT, || match server.child.try_wait() {
                Ok(None) => answers(port).then_some(true),
                _ => Some(false),
            });
            if answers == Some(true) {
                return Ok(server);
            }
            said = fs::read_to_string(&log).unwrap_or_default();
        }
        Err(Failure::Server { name, said })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(name: &str) -> PathBuf {
    target().join("test-servers").join(format!("{name}.log"))
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    asked.is_ok() && http::read_response(&mut BufReader::new(stream)).is_ok_and(|answer| answer.status() > 0)
}
