//! `broker whoami`: who this process is in the daemon's eyes.

use crate::call::Call;
use crate::report::{Outcome, print, print_json};
use crate::session::Session;

/// Show who you are in the daemon's eyes, as the kernel attests it
///
/// With --json: {"principal": {"uid", "owner", "process": {"pid", "start_time", "boot_id"}, "exe", "exe_sha256",
/// "terminal", "session"}}.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, call: &Call) -> Outcome {
    let who = Session::open(call)?.ask(|connection| connection.whoami())?;
    if args.json {
        print_json(&who)?;
        return Ok(0);
    }
    let principal = who.principal;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    print(&format!(
        "uid         {}\nowner       {}\nprocess     {}\nexecutable  {}\nsha256      {}\nterminal    {}\nsession     {}\n",
        principal.uid,
        principal.owner,
        principal.process.pid,
        or_dash(principal.exe.map(|exe| crate::report::printable(&exe.to_string_lossy()).into_owned())),
        or_dash(principal.exe_sha256),
        or_dash(principal.terminal.map(|device| device.to_string())),
        principal.session,
    ))?;
    Ok(0)
}
