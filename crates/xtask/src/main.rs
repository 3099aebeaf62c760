//! `cargo xtask COMMAND`: everything a contributor or the continuous integration does to this repository.

mod bench;
mod build;
mod cargo;
mod check;
mod debian;
mod demo;
mod failure;
mod fakes;
mod install;
mod keyring;
mod other_user;
mod report;
mod repository;
mod test;
mod test_servers;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo              run the main job for real in a throwaway home, and check what is claimed of it
  test [FILTER]     install and start the test servers, run every test
  servers CMD...    run a command with the test servers up
  check             formatting, lints, licences, and the rules of this repository
  build --release   put both programs, as they ship, into target/release
  bench [PART...]   measure: warm, cold, managers, leases, parallel, memory, grants";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["demo"] => demo::run(),
        ["test"] => test::run(None),
        ["test", filter] => test::run(Some(filter)),
        ["servers", program, args @ ..] => test::with_servers(program, args),
        ["check"] => check::run(),
        ["build", "--release"] => build::run(),
        ["bench", parts @ ..] => bench::run(parts),
        _ => {
            report::warn(USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::failed(&failure);
            ExitCode::FAILURE
        }
    }
}
