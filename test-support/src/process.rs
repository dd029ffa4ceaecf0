//! The daemon as a process: finds or builds the program, starts it in a clean environment, stops it, and kills it on
//! drop.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{WAIT_TIMEOUT, eventually::POLL_INTERVAL};

/// A debug build on a busy machine starts slowly.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running program that has printed its address; killed on drop.
pub struct Process {
    pub child: Child,
    pub url: String,
    /// Standard output after the first line.
    pub output: BufReader<ChildStdout>,
}

impl Process {
    /// Sends SIGTERM.
    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Sends SIGHUP, which reloads the settings.
    pub fn hang_up(&self) {
        signal(&self.child, rustix::process::Signal::HUP);
    }

    /// Waits for it to exit.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends SIGTERM, as the system does at shutdown.
pub fn terminate(child: &Child) {
    signal(child, rustix::process::Signal::TERM);
}

/// Sends SIGINT, like Ctrl-C.
pub fn interrupt(child: &Child) {
    signal(child, rustix::process::Signal::INT);
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("the process exists");
}

/// Waits for a process to exit; after the timeout it is killed and the test fails.
pub fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is a child process") {
            return status;
        }
        if start.elapsed() > WAIT_TIMEOUT {
            let _ = child.kill();
            panic!("timed out after {WAIT_TIMEOUT:?}: the end of a process");
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The daemon's binary: `OPENORCH_BIN`, or the one in cargo's target directory. `cargo test` of the workspace builds
/// it; a test of a single crate builds it if it is missing.
pub fn daemon_binary() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = env::var_os("OPENORCH_BIN").filter(|given| !given.is_empty()) {
            return given.into();
        }
        // Tests are in `target/<profile>/deps`, programs one directory above.
        let test = env::current_exe().expect("the test has a path");
        let folder = test.parent().and_then(Path::parent).expect("tests are in a directory of the profile");
        let program = folder.join(format!("openorch{}", env::consts::EXE_SUFFIX));
        if !program.exists() {
            let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--package", "openorch"]);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().is_ok_and(|status| status.success()), "building the daemon failed");
        }
        program
    })
}

/// The daemon with its data in this directory, or in a schema of the database server that `tools/test-on-postgres`
/// names by variables. Its environment is otherwise empty.
pub fn command(program: impl AsRef<OsStr>, data_dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("OPENORCH_DATA_DIR", data_dir)
        .env("OPENORCH_DB_SCHEMA", schema_of(data_dir))
        .envs(env::vars().filter(|(name, _)| ["OPENORCH_DB", "OPENORCH_DB_STRING"].contains(&name.as_str())))
        .envs(env::var("OPENORCH_DB").map(|_| ("OPENORCH_ENCRYPTION_KEY", "the key of the tests")))
        .env("OPENORCH_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A distinct schema for each data directory.
pub fn schema_of(data_dir: &Path) -> String {
    let name = data_dir.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    format!("t_{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

/// Starts the daemon and waits until it prints its address.
pub fn run(command: &mut Command) -> Process {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = output.read_line(&mut line);
        // The receiver may have been dropped.
        let _ = sender.send(read.map(|_| (line, output)));
    });
    let Ok(first_line) = receiver.recv_timeout(START_TIMEOUT) else {
        let _ = child.kill();
        panic!("it did not print its address within {START_TIMEOUT:?}");
    };
    let (line, output) = first_line.expect("its output is readable");
    let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    if !url.starts_with("http") {
        let status = wait(&mut child);
        panic!("it did not print its address: {line}{status}");
    }
    Process { child, url, output }
}

/// Starts a daemon that must refuse to start; returns its error output.
pub fn expect_start_failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } =
        command.stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the program starts");
    let text = String::from_utf8(stderr).expect("its output is text");
    // 2 for invalid settings, as for flags; 1 for problems of the environment.
    assert!([Some(1), Some(2)].contains(&status.code()), "{text}");
    text
}
