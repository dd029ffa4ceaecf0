//! A daemon of its own for a test, in one line: in a temporary folder, on a free port, gone with the value.

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

/// Names the daemon's program.
const PROGRAM: &str = "OPENORCH_BIN";
/// The first password of the admin, which the daemon has while it is for this machine alone.
const FIRST_PASSWORD: &str = "changeme";
/// A debug build on a busy machine takes some.
const START_TIME_OUT: Duration = Duration::from_secs(60);

/// A running daemon that is ended, with all it keeps, when this is dropped.
///
/// Its program, `openorch`, is that of `OPENORCH_BIN`, else the one that cargo built beside the test, else the one that
/// `PATH` finds.
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
    folder: tempfile::TempDir,
}

/// Ended when dropped.
#[derive(Debug)]
struct Process(Option<Child>);

impl TestDaemon {
    /// Starts one with the usual settings, but that it finds out sooner which instances are well.
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

    /// Starts one with some settings, given as the variables that the daemon reads.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), openorch_sdk::Error> {
    /// use openorch_sdk::testing::TestDaemon;
    /// let daemon = TestDaemon::start_with(&[("OPENORCH_USER_DELEGATED_TOKEN_LIFETIME", "2s")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start_with(variables: &[(&str, &str)]) -> Result<TestDaemon, Error> {
        let folder = tempfile::tempdir().map_err(|error| failed(format!("there is no temporary folder: {error}")))?;
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let (process, url) = launch(folder.path(), &variables, "127.0.0.1:0").await?;
        let factory = ClientFactory::new(&url)?;
        Ok(TestDaemon { process, factory, url, variables, folder })
    }

    /// Its address.
    ///
    /// ```no_run
    /// # fn example(daemon: &openorch_sdk::testing::TestDaemon) {
    /// assert!(daemon.url().starts_with("http://127.0.0.1:"));
    /// # }
    /// ```
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client that calls as nobody.
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

    /// A token of the admin.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, testing::TestDaemon};
    /// async fn token(daemon: &TestDaemon) -> Result<String, Error> {
    ///     daemon.admin_token().await
    /// }
    /// ```
    pub async fn admin_token(&self) -> Result<String, Error> {
        let given = self.variables.iter().find(|(name, _)| name == "OPENORCH_ADMIN_PASSWORD");
        let password = given.map_or(FIRST_PASSWORD, |(_, password)| password);
        let input = LoginRequest {
            slug: Some("openorch".into()),
            password: Some(password.to_owned()),
            ..LoginRequest::default()
        };
        let Json(answer) = self.client().call(LOGIN, Body(input)).await?;
        Ok(answer.token.token)
    }

    /// A client that calls as a new account with this slug.
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

    /// Ends the daemon without a word, as a crash does. What it has acknowledged stays for [`resume`](Self::resume).
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), openorch_sdk::Error> {
    /// daemon.kill();
    /// // … what does the service do now?
    /// daemon.resume().await
    /// # }
    /// ```
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Starts it again, after [`kill`](Self::kill), at the same address and with what it kept.
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), openorch_sdk::Error> {
    /// daemon.kill();
    /// daemon.resume().await
    /// # }
    /// ```
    pub async fn resume(&mut self) -> Result<(), Error> {
        self.process.end();
        let address = self.url.trim_start_matches("http://");
        let (process, _) = launch(self.folder.path(), &self.variables, address).await?;
        self.process = process;
        Ok(())
    }

    /// Where it keeps its data. To be changed only while it is ended.
    ///
    /// ```no_run
    /// # async fn example(mut daemon: openorch_sdk::testing::TestDaemon) -> Result<(), Box<dyn std::error::Error>> {
    /// daemon.kill();
    /// std::fs::remove_dir_all(daemon.folder().join("server"))?;
    /// daemon.resume().await?; // It has forgotten everything.
    /// # Ok(())
    /// # }
    /// ```
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Process {
    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended by itself cannot be killed; waiting takes it off the list of processes.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the program and waits until it says where it listens.
async fn launch(folder: &Path, variables: &[(String, String)], listen: &str) -> Result<(Process, String), Error> {
    let program = program()?;
    let log = folder.join("daemon.log");
    let errors = File::create(&log).map_err(|error| failed(format!("`{}`: {error}", log.display())))?;
    let mut command = Command::new(&program);
    // Nothing of the surroundings of the test reaches it.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPENORCH_")) {
        command.env_remove(name);
    }
    command
        .env("OPENORCH_LISTEN", listen)
        .env("OPENORCH_DATA_DIR", folder)
        .env("OPENORCH_UI_LISTEN", "")
        .env("OPENORCH_REGISTRY_PROBE_INTERVAL", "200ms")
        .env("HOME", folder)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    let mut child = command.spawn().map_err(|error| failed(format!("`{}`: {error}", program.display())))?;
    let output = child.stdout.take();
    let process = Process(Some(child));
    let (told, heard) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let mut lines = output.map(|output| BufReader::new(output).lines()).into_iter().flatten().map_while(Result::ok);
        let url = lines.find_map(|line| line.split_once("listens on ").map(|(_, url)| url.trim().to_owned()));
        // Whoever asked may have given up.
        let _ = told.send(url);
        // What else it has to say must not block it.
        lines.for_each(drop);
    });
    match tokio::time::timeout(START_TIME_OUT, heard).await {
        Ok(Ok(Some(url))) => Ok((process, url)),
        Ok(_) => Err(failed(format!("it ended: {}", fs::read_to_string(&log).unwrap_or_default().trim()))),
        Err(_) => Err(failed(format!("it did not listen within {} s", START_TIME_OUT.as_secs()))),
    }
}

fn program() -> Result<PathBuf, Error> {
    if let Some(given) = env::var_os(PROGRAM).filter(|given| !given.is_empty()) {
        return Ok(given.into());
    }
    let name = format!("openorch{}", env::consts::EXE_SUFFIX);
    // Tests stand in `target/<profile>/deps`, programs a folder above.
    let beside = env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join(&name)));
    let in_path = env::var_os("PATH");
    let in_path = in_path.iter().flat_map(env::split_paths).map(|folder| folder.join(&name));
    beside.into_iter().chain(in_path).find(|path| path.is_file()).ok_or_else(|| {
        failed(format!(
            "there is no program `{name}`; build it beside the test, put it on the PATH or name it with {PROGRAM}"
        ))
    })
}

fn failed(why: String) -> Error {
    Error::Service(format!("no daemon for the test: {why}"))
}
