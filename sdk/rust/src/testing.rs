//! Starts a daemon for a test, in a temporary directory and on a free port; it is stopped when the value is dropped.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use openorch_api::{
    Body, Json,
    user::{LOGIN, LoginRequest, REGISTER, RegisterRequest},
};

use crate::{Client, ClientFactory, Error};

/// Environment variable with the path of the daemon's program.
const PROGRAM: &str = "OPENORCH_BIN";
/// The default password of the admin, with which the daemon only serves loopback clients.
const DEFAULT_PASSWORD: &str = "changeme";
/// Generous, for a debug build on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it stops the daemon and deletes its data.
///
/// The program is the one named by `OPENORCH_BIN`, otherwise `openorch` in cargo's target directory of the test, otherwise
/// `openorch` on the `PATH`.
///
/// ```no_run
/// use openorch_sdk::{api::{Body, Json, registry::{LIST_NODES, ListNodesRequest}}, testing::TestDaemon};
///
/// #[tokio::test]
/// async fn the_daemon_knows_its_node() -> Result<(), Box<dyn std::error::Error>> {
///     let daemon = TestDaemon::start().await?;
///     let Json(list) = daemon.admin().await?.call(LIST_NODES, Body(ListNodesRequest::default())).await?;
///     assert_eq!(list.nodes.len(), 1);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct TestDaemon {
    process: Process,
    factory: ClientFactory,
    url: String,
    variables: Vec<(String, String)>,
    directory: tempfile::TempDir,
}

/// Killed when it is dropped.
#[derive(Debug)]
struct Process(Option<Child>);

impl TestDaemon {
    /// Starts a daemon with default settings, except for a shorter probe interval.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), openorch_sdk::Error> {
    /// let daemon = openorch_sdk::testing::TestDaemon::start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start() -> Result<TestDaemon, Error> {
        TestDaemon::start_with(&[]).await
    }

    /// Starts a daemon with additional settings, given as environment variables.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), openorch_sdk::Error> {
    /// use openorch_sdk::testing::TestDaemon;
    /// let daemon = TestDaemon::start_with(&[("OPENORCH_USER_DELEGATED_TOKEN_LIFETIME", "2s")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start_with(variables: &[(&str, &str)]) -> Result<TestDaemon, Error> {
        let directory =
            tempfile::tempdir().map_err(|error| failed(format!("cannot create a temporary directory: {error}")))?;
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let (process, url) = launch(directory.path(), &variables, "127.0.0.1:0").await?;
        let factory = ClientFactory::new(&url)?;
        Ok(TestDaemon { process, factory, url, variables, directory })
    }

    /// The URL of the daemon.
    ///
    /// ```no_run
    /// # fn example(daemon: &openorch_sdk::testing::TestDaemon) {
    /// assert!(daemon.url().starts_with("http://127.0.0.1:"));
    /// # }
    /// ```
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An anonymous client.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, api::platform::READY, testing::TestDaemon};
    /// async fn is_ready(daemon: &TestDaemon) -> bool {
    ///     daemon.client().call(READY, ()).await.is_ok()
    /// }
    /// ```
    pub fn client(&self) -> Client {
        self.factory.client()
    }

    /// A client that calls as the admin.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Client, Error, testing::TestDaemon};
    /// async fn admin(daemon: &TestDaemon) -> Result<Client, Error> {
    ///     daemon.admin().await
    /// }
    /// ```
    pub async fn admin(&self) -> Result<Client, Error> {
        self.client().with_token(&self.admin_token().await?)
    }

    /// A session token of the admin.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, testing::TestDaemon};
    /// async fn token(daemon: &TestDaemon) -> Result<String, Error> {
    ///     daemon.admin_token().await
    /// }
    /// ```
    pub async fn admin_token(&self) -> Result<String, Error> {
        let given = self.variables.iter().find(|(name, _)| name == "OPENORCH_ADMIN_PASSWORD");
        let password = given.map_or(DEFAULT_PASSWORD, |(_, password)| password);
        let input = LoginRequest {
            slug: Some("openorch".into()),
            password: Some(password.to_owned()),
            ..LoginRequest::default()
        };
        let Json(answer) = self.client().call(LOGIN, Body(input)).await?;
        Ok(answer.token.token)
    }

    /// Registers an account with this slug; returns a client that calls as this account.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, http::Method, testing::TestDaemon};
    /// async fn greet_as_joe(daemon: &TestDaemon) -> Result<u16, Error> {
    ///     let joe = daemon.register("joe").await?;
    ///     Ok(joe.request(Method::GET, "/skeleton-svc/hello", None).await?.status.as_u16())
    /// }
    /// ```
    pub async fn register(&self, slug: &str) -> Result<Client, Error> {
        let input = RegisterRequest {
            slug: slug.to_owned(),
            password: "a-password-of-a-test".into(),
            ..RegisterRequest::default()
        };
        let Json(answer) = self.client().call(REGISTER, Body(input)).await?;
        self.client().with_token(&answer.token.token)
    }

    /// Kills the daemon, as in a crash. Committed data is kept for [`resume`](Self::resume).
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), openorch_sdk::Error> {
    /// daemon.kill();
    /// // … what does the service do now?
    /// daemon.resume().await
    /// # }
    /// ```
    pub fn kill(&mut self) {
        self.process.kill_and_wait();
    }

    /// Restarts the daemon after [`kill`](Self::kill), at the same address and with the same data.
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), openorch_sdk::Error> {
    /// daemon.kill();
    /// daemon.resume().await
    /// # }
    /// ```
    pub async fn resume(&mut self) -> Result<(), Error> {
        self.process.kill_and_wait();
        let address = self.url.trim_start_matches("http://");
        let (process, _) = launch(self.directory.path(), &self.variables, address).await?;
        self.process = process;
        Ok(())
    }

    /// The data directory. Change it only while the daemon is not running.
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), Box<dyn std::error::Error>> {
    /// daemon.kill();
    /// std::fs::remove_dir_all(daemon.data_dir().join("server"))?;
    /// daemon.resume().await?; // Starts with an empty store.
    /// # Ok(())
    /// # }
    /// ```
    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }
}

impl Process {
    fn kill_and_wait(&mut self) {
        if let Some(mut child) = self.0.take() {
            // `kill` fails if the process has already exited; `wait` reaps it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_and_wait();
    }
}

/// Starts the program and waits until it prints its URL.
async fn launch(directory: &Path, variables: &[(String, String)], listen: &str) -> Result<(Process, String), Error> {
    let program = program()?;
    let log = directory.join("daemon.log");
    let errors = File::create(&log).map_err(|error| failed(format!("`{}`: {error}", log.display())))?;
    let mut command = Command::new(&program);
    // Isolate the daemon from the settings in the test's environment.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPENORCH_")) {
        command.env_remove(name);
    }
    command
        .env("OPENORCH_LISTEN", listen)
        .env("OPENORCH_DATA_DIR", directory)
        .env("OPENORCH_UI_LISTEN", "")
        .env("OPENORCH_REGISTRY_PROBE_INTERVAL", "200ms")
        .env("HOME", directory)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    let mut child = command.spawn().map_err(|error| failed(format!("`{}`: {error}", program.display())))?;
    let output = child.stdout.take();
    let process = Process(Some(child));
    let (url_sender, heard) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let mut lines = output.map(|output| BufReader::new(output).lines()).into_iter().flatten().map_while(Result::ok);
        let url = lines.find_map(|line| line.split_once("listens on ").map(|(_, url)| url.trim().to_owned()));
        // The receiver may have timed out.
        let _ = url_sender.send(url);
        // Drain the output, so that the daemon does not block on a full pipe.
        lines.for_each(drop);
    });
    match tokio::time::timeout(START_TIMEOUT, heard).await {
        Ok(Ok(Some(url))) => Ok((process, url)),
        Ok(_) => Err(failed(format!("it exited: {}", fs::read_to_string(&log).unwrap_or_default().trim()))),
        Err(_) => Err(failed(format!("it did not listen within {} s", START_TIMEOUT.as_secs()))),
    }
}

fn program() -> Result<PathBuf, Error> {
    if let Some(given) = env::var_os(PROGRAM).filter(|given| !given.is_empty()) {
        return Ok(given.into());
    }
    let name = format!("openorch{}", env::consts::EXE_SUFFIX);
    // Tests are in `target/<profile>/deps`, programs in its parent directory.
    let beside = env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join(&name)));
    let in_path = env::var_os("PATH");
    let in_path = in_path.iter().flat_map(env::split_paths).map(|directory| directory.join(&name));
    beside.into_iter().chain(in_path).find(|path| path.is_file()).ok_or_else(|| {
        failed(format!(
            "program `{name}` not found; build it in the same target directory, put it on the PATH, or set {PROGRAM}"
        ))
    })
}

fn failed(why: String) -> Error {
    Error::Service(format!("cannot start the test daemon: {why}"))
}
