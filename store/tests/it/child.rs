//! This binary, started again: tests that are marked as ignored are what its children do, until they are killed.

use std::ffi::OsStr;
use std::io::BufRead;
use std::process::{Child, Command, Stdio};

/// Starts the ignored test of this name. What it needs to know is in its environment.
pub fn start(name: &str, environment: &[(&str, &OsStr)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it says, line by line, as it comes.
pub fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

/// Runs a program to its end; says whether it went well.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    let outcome = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    outcome.is_ok_and(|status| status.success())
}
