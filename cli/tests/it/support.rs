//! A home directory for each test, ways to run `oo` in it, and a daemon.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use openorch_test_support::{
    process::{self, Process},
    stub::Stub,
};

pub struct Home {
    pub directory: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { directory: tempfile::tempdir().unwrap() }
    }

    /// A home in which `openorch` is signed in to the stub.
    pub fn signed_in(stub: &Stub) -> Home {
        let home = Home::new();
        let users = "{openorch: {slug: openorch, token: t0k}}";
        let environment = format!("{{url: '{}', selectedUser: openorch, users: {users}}}", stub.url);
        home.write_settings(format!("selectedEnvironment: s\nenvironments: {{s: {environment}}}\n"));
        home
    }

    pub fn settings(&self) -> PathBuf {
        self.directory.path().join(".openorch/cliConfig.yaml")
    }

    pub fn write_settings(&self, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.settings().parent().unwrap()).unwrap();
        fs::write(self.settings(), text).unwrap();
    }

    /// Writes a file beside the settings; returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oo"));
        command.args(line.split_whitespace());
        self.prepare(&mut command);
        command
    }

    /// Sets the home directory and clears the test's own environment.
    pub fn prepare(&self, command: &mut Command) {
        command.env("HOME", self.directory.path()).env("USERPROFILE", self.directory.path()).stdin(Stdio::null());
        for name in ["OPENORCH_URL", "OPENORCH_TOKEN", "NO_COLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
    }

    pub fn oo(&self, line: &str) -> CommandOutput {
        CommandOutput::of(self.command(line).output().unwrap())
    }

    /// For words that contain spaces.
    pub fn oo_words(&self, words: &[&str]) -> CommandOutput {
        CommandOutput::of(self.command("").args(words).output().unwrap())
    }

    pub fn oo_with_input(&self, line: &str, input: &str) -> CommandOutput {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that fails before it reads closes its end; its output shows that.
        match child.stdin.take().unwrap().write_all(input.as_bytes()) {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
        CommandOutput::of(child.wait_with_output().unwrap())
    }
}

#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    pub fn of(output: Output) -> CommandOutput {
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn expect(&self, code: i32, out: &str, err: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (code, out, err));
    }

    /// Checks the exit code, that stdout is empty, and that the error contains these words.
    #[track_caller]
    pub fn expect_error(&self, code: i32, words: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.starts_with("Error: ") && self.err.contains(words), "`{words}` is not in {}", self.err);
    }
}

/// A daemon with its own data directory, stopped at the end of the test.
pub struct Daemon {
    pub url: String,
    _process: Process,
    _data_dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let mut command = process::command(process::daemon_binary(), folder.path());
        let process = process::run(command.args(["--registry-probe-interval", "200ms"]));
        Daemon { url: process.url.clone(), _process: process, _data_dir: folder }
    }
}
