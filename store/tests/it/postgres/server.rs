//! A PostgreSQL of a test's own, to be stopped, killed and started again at will.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use openorch_test_support::{PATIENCE, eventually_some, eventually_sync, free_address, process::wait};
use rustix::process::{Pid, Signal, kill_process};

use super::skip;

/// A server with a data folder of its own, which goes with it.
pub struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    owner: Option<(u32, u32)>,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// Starts one, its data in a folder of the system's. None where there is no PostgreSQL; that is said aloud.
    pub async fn new() -> Option<Self> {
        Self::within(None, &[]).await
    }

    /// The same with its data in this folder, and with settings such as `ssl=on`.
    pub async fn within(place: Option<&Path>, settings: &[&str]) -> Option<Self> {
        let mut this = Self::made(place, settings)?;
        this.start().await;
        Some(this)
    }

    /// One that has not been started.
    pub fn made(place: Option<&Path>, settings: &[&str]) -> Option<Self> {
        let Some(programs) = std::env::var_os("OPENORCH_TEST_DB_PROGRAMS").map(PathBuf::from) else {
            skip("servers of tests' own", "OPENORCH_TEST_DB_PROGRAMS is not set; run `tools/postgres cargo test`");
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
        this.give(this.folder.path());
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

    /// A file of the server's, such as a certificate.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.give(&path);
        path
    }

    /// Makes a file or a folder the server's own.
    pub fn give(&self, path: &Path) {
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// The address, by this name of the host.
    pub fn at(&self, host: &str) -> String {
        format!("postgres://openorch@{host}:{}/postgres", self.port)
    }

    pub fn connection(&self) -> String {
        self.at("127.0.0.1")
    }

    pub async fn start(&mut self) {
        // Whether another program has taken the port since is only known afterwards.
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
        eventually_some(PATIENCE, "the server answers or ends", async || {
            if tokio_postgres::connect(&connection, tokio_postgres::NoTls).await.is_ok() {
                return Some(true);
            }
            self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some()).then_some(false)
        })
        .await
    }

    /// As an operator stops it who cannot wait: no session is asked.
    pub fn stop_at_once(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
            wait(&mut process);
        }
    }

    /// Lets all of its processes stand still.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// First to the one that makes the others.
    fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        let postmaster = Pid::from_child(process);
        kill_process(postmaster, signal).unwrap();
        for child in children(postmaster) {
            let _ = kill_process(child, signal);
        }
    }

    /// Kills all of its processes; none has the time for a word.
    pub fn kill(&mut self) {
        // It must not see its children die, and make new ones.
        self.freeze();
        let Some(mut process) = self.process.take() else { return };
        let postmaster = Pid::from_child(&process);
        let children = children(postmaster);
        for child in &children {
            let _ = kill_process(*child, Signal::KILL);
        }
        kill_process(postmaster, Signal::KILL).unwrap();
        wait(&mut process);
        // They are nobody's now, so that nobody can wait for them; what they have open is open until they are gone.
        let is_gone = |child: &Pid| state(*child).is_none_or(|state| state == "Z");
        eventually_sync(PATIENCE, "the server's processes are gone", || children.iter().all(is_gone));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn command(&self, program: &str) -> Command {
        self.as_owner(self.programs.join(program))
    }

    /// A program that runs as the user whom the server's files belong to.
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
        self.stop_at_once();
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

/// The letter of what a process does; none where there is no such process.
fn state(pid: Pid) -> Option<String> {
    field(pid, 0)
}

/// A field of what the system says of a process, counted from behind its name, which may have anything in it.
fn field(pid: Pid, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(number).map(str::to_owned)
}
