//! The daemon as a process: the program is found or built, started with nothing of what surrounds the test, told to stop,
//! and killed with the value.

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

use crate::{PATIENCE, eventually::PAUSE};

/// A debug build on a busy machine takes some.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running program that has said where it listens; killed when this is dropped.
pub struct Process {
    pub child: Child,
    pub url: String,
    /// All that it says after the first line.
    pub output: BufReader<ChildStdout>,
}

impl Process {
    /// Asks it to stop.
    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Asks it to reload.
    pub fn hang_up(&self) {
        signal(&self.child, rustix::process::Signal::HUP);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a program to stop, as the system does when it shuts down.
pub fn terminate(child: &Child) {
    signal(child, rustix::process::Signal::TERM);
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    signal(child, rustix::process::Signal::INT);
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("the program is there");
}

/// Waits for the end of a program; one that goes on is killed, and the test fails.
pub fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is a child of ours") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("waited {PATIENCE:?} in vain: the end of a program");
        }
        thread::sleep(PAUSE);
    }
}

/// The daemon's program: that of `OPENORCH_BIN`, or the one that cargo put beside the test. `cargo test` of the workspace
/// has built it; a test of one crate alone builds it where it is missing.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(given) = env::var_os("OPENORCH_BIN").filter(|given| !given.is_empty()) {
            return given.into();
        }
        // Tests stand in `target/<profile>/deps`, programs a folder above.
        let test = env::current_exe().expect("a test is a program");
        let folder = test.parent().and_then(Path::parent).expect("tests stand in a folder of the profile");
        let program = folder.join(format!("openorch{}", env::consts::EXE_SUFFIX));
        if !program.exists() {
            let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--package", "openorch"]);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().is_ok_and(|status| status.success()), "the daemon cannot be built");
        }
        program
    })
}

/// The daemon with its data in this folder, or in a schema of the database server that `tools/test-on-postgres` names by
/// variables. Nothing else of what surrounds the test reaches it.
pub fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("OPENORCH_DATA_DIR", folder)
        .env("OPENORCH_DB_SCHEMA", schema(folder))
        .envs(env::vars().filter(|(name, _)| ["OPENORCH_DB", "OPENORCH_DB_STRING"].contains(&name.as_str())))
        .envs(env::var("OPENORCH_DB").map(|_| ("OPENORCH_ENCRYPTION_KEY", "the key of the tests")))
        .env("OPENORCH_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A schema of its own for each folder.
pub fn schema(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    format!("t_{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

/// Starts it and waits until it says where it listens.
pub fn run(command: &mut Command) -> Process {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
    let mut output = BufReader::new(child.stdout.take().expect("it was asked for"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = output.read_line(&mut line);
        // Who waited may have given up.
        let _ = tell.send(read.map(|_| (line, output)));
    });
    let Ok(told) = told.recv_timeout(START_TIMEOUT) else {
        let _ = child.kill();
        panic!("it did not say where it listens within {START_TIMEOUT:?}");
    };
    let (line, output) = told.expect("what it says can be read");
    let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    if !url.starts_with("http") {
        let status = wait(&mut child);
        panic!("it did not say where it listens: {line}{status}");
    }
    Process { child, url, output }
}

/// Starts where it must refuse: answers what it said.
pub fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } =
        command.stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the program can be started");
    let text = String::from_utf8(stderr).expect("it says text");
    // Where the settings are wrong it is as for a flag; else something around the daemon is.
    assert!([Some(1), Some(2)].contains(&status.code()), "{text}");
    text
}
