//! A PostgreSQL server for one test, which can be stopped, killed and restarted.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use openorch_test_support::{WAIT_TIMEOUT, eventually_some, eventually_sync, free_address, process::wait};
use rustix::process::{Pid, Signal, kill_process};

use super::skip;

/// A server with its own data directory, which is removed with it.
pub struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// Starts a server with its data in a temporary directory. `None` if there is no PostgreSQL, which is reported.
    pub async fn new() -> Option<Self> {
        Self::within(None, &[]).await
    }

    /// The same, with its data in this directory and with settings such as `ssl=on`.
    pub async fn within(place: Option<&Path>, settings: &[&str]) -> Option<Self> {
        let mut this = Self::create(place, settings)?;
        this.start().await;
        Some(this)
    }

    /// Creates a server without starting it.
    pub fn create(place: Option<&Path>, settings: &[&str]) -> Option<Self> {
        let Some(programs) = std::env::var_os("OPENORCH_TEST_DB_PROGRAMS").map(PathBuf::from) else {
            skip(
                "tests that start their own server",
                "OPENORCH_TEST_DB_PROGRAMS is not set; run `tools/postgres cargo test`",
            );
            return None;
        };
        let memory = Path::new("/dev/shm");
        let place =
            place.map_or_else(|| if memory.is_dir() { memory.into() } else { std::env::temp_dir() }, Path::to_owned);
        let folder = tempfile::Builder::new().prefix("openorch-server").tempdir_in(place).unwrap();
        // PostgreSQL refuses to run as root.
        let owner = rustix::process::geteuid().is_root().then(owner);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut this = Self { folder, programs, owner, settings, port: 0, process: None };
        this.chown(this.folder.path());
        let data = this.data();
        let mut initdb = this.command("initdb");
        initdb.args(["--no-sync", "-U", "openorch", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]).arg(data);
        let made = initdb.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(made.success(), "initdb failed");
        this.port = free_address().port();
        Some(this)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes a file for the server, such as a certificate.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.chown(&path);
        path
    }

    /// Makes the server's user the owner of a file or directory.
    pub fn chown(&self, path: &Path) {
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// The connection string with this host name.
    pub fn at(&self, host: &str) -> String {
        format!("postgres://openorch@{host}:{}/postgres", self.port)
    }

    pub fn connection(&self) -> String {
        self.at("127.0.0.1")
    }

    pub async fn start(&mut self) {
        // A failed start is the only sign that another program has taken the port meanwhile.
        for _ in 0..3 {
            self.spawn();
            if self.is_up().await {
                return;
            }
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("the server does not start: {log}");
    }

    pub fn spawn(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(self.folder.path());
        for setting in ["listen_addresses=localhost", "max_connections=60"]
            .into_iter()
            .map(str::to_owned)
            .chain(self.settings.clone())
        {
            command.args(["-c", &setting]);
        }
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    async fn is_up(&mut self) -> bool {
        let connection = self.connection();
        eventually_some(WAIT_TIMEOUT, "the server answers or ends", async || {
            if tokio_postgres::connect(&connection, tokio_postgres::NoTls).await.is_ok() {
                return Some(true);
            }
            self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some()).then_some(false)
        })
        .await
    }

    /// An immediate shutdown: sessions are aborted.
    pub fn stop_immediately(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
            wait(&mut process);
        }
    }

    /// Suspends all of its processes.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes them.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Signals the parent process first, then its children.
    fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        let postmaster = Pid::from_child(process);
        kill_process(postmaster, signal).unwrap();
        for child in children(postmaster) {
            let _ = kill_process(child, signal);
        }
    }

    /// Kills all of its processes without a shutdown.
    pub fn kill(&mut self) {
        // The parent must not see its children die and start new ones.
        self.freeze();
        let Some(mut process) = self.process.take() else { return };
        let postmaster = Pid::from_child(&process);
        let children = children(postmaster);
        for child in &children {
            let _ = kill_process(*child, Signal::KILL);
        }
        kill_process(postmaster, Signal::KILL).unwrap();
        wait(&mut process);
        // They are orphans, so they cannot be waited for; their files stay open until they are gone.
        let is_gone = |child: &Pid| state(*child).is_none_or(|state| state == "Z");
        eventually_sync(WAIT_TIMEOUT, "the server's processes are gone", || children.iter().all(is_gone));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn command(&self, program: &str) -> Command {
        self.as_owner(self.programs.join(program))
    }

    /// A program that runs as the owner of the server's files.
    pub fn as_owner(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null());
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_immediately();
    }
}

fn owner() -> (u32, u32) {
    let number = |kind: &str, name: &str| {
        let output = Command::new("id").args([kind, name]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    let of = |name: &str| Some((number("-u", name)?, number("-g", name)?));
    of("postgres").or_else(|| of("nobody")).expect("a user who is not root")
}

fn children(parent: Pid) -> Vec<Pid> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_child = |pid: &Pid| field(*pid, 1).is_some_and(|of| of == parent.as_raw_nonzero().to_string());
    pids.filter_map(Pid::from_raw).filter(is_child).collect()
}

/// The state letter of a process; `None` if it does not exist.
fn state(pid: Pid) -> Option<String> {
    field(pid, 0)
}

/// A field of `/proc/PID/stat`, counted after the name, which may contain anything.
fn field(pid: Pid, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number).map(str::to_owned)
}
