//! Runs this test binary as a child process: ignored tests are what the children do, until they are killed.

use std::{
    ffi::OsStr,
    io::BufRead,
    process::{Child, Command, Stdio},
};

/// Starts the ignored test of this unique name. Its parameters are in the environment.
pub fn start(name: &str, environment: &[(&str, &OsStr)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--ignored", "--nocapture", "--test-threads=1"])
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The output of the child, line by line.
pub fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

/// Runs a program; returns whether it succeeded.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    let outcome = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    outcome.is_ok_and(|status| status.success())
}
