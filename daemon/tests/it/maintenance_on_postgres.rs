//! `openorch backup`, `restore` and `check` with PostgreSQL, and the migration there from SQLite.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use openorch_store::{Batch, Collection, SqliteOptions, SqliteStore};
use openorch_test_support::{
    WAIT_TIMEOUT, eventually,
    process::{schema_of, wait},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    database::{database, on_postgres},
    maintenance::stdout_of,
    process::{Process, command, expect_start_failure, post, run},
};

const KEY: &str = "the operator's key of 32 letters";

/// A data directory, its schema of the same name, and the database.
struct TestInstallation {
    _root: TempDir,
    folder: PathBuf,
    string: String,
}

impl TestInstallation {
    fn new() -> Option<TestInstallation> {
        let (string, root) = (database()?, TempDir::new().unwrap());
        // The schema is named after the directory, whose name must be unique.
        let folder = root.path().join(root.path().file_name().unwrap());
        fs::create_dir(&folder).unwrap();
        Some(TestInstallation { _root: root, folder, string })
    }

    /// With the operator's key.
    fn on_postgres(&self, arguments: &[&str]) -> Command {
        self.with_variables(&[("OPENORCH_ENCRYPTION_KEY", KEY)], arguments)
    }

    fn with_variables(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
        let all = [&[("OPENORCH_DB_STRING", self.string.as_str())], variables].concat();
        let mut command = on_postgres(&self.folder, &all);
        command.args(arguments);
        command
    }

    /// With the same key.
    fn on_sqlite(&self, arguments: &[&str]) -> Command {
        let mut command = self.on_sqlite_without_key(arguments);
        command.env("OPENORCH_ENCRYPTION_KEY", KEY);
        command
    }

    fn on_sqlite_without_key(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.folder);
        command.env("OPENORCH_DB", "sqlite").env_remove("OPENORCH_ENCRYPTION_KEY").args(arguments);
        command
    }

    fn schema(&self) -> String {
        schema_of(&self.folder)
    }

    /// Rows of a query, as the text of the first column.
    async fn query(&self, sql: &str) -> Vec<String> {
        let (client, connection) = tokio_postgres::connect(&self.string, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await.unwrap();
        connection.abort();
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        rows.collect()
    }
}

fn account(slug: &str) -> Value {
    json!({ "slug": slug, "password": "p" })
}

async fn register(daemon: &Process, slug: &str) -> String {
    let answer = post(&daemon.url, "/user-svc/register", "", account(slug)).await.unwrap();
    answer["token"]["token"].as_str().unwrap().to_owned()
}

/// Whether a daemon has an account and still accepts its token.
async fn knows(daemon: &Process, slug: &str, token: &str) -> bool {
    let login = post(&daemon.url, "/user-svc/login", "", account(slug)).await;
    login.is_some() && post(&daemon.url, "/user-svc/user/by-token", token, json!({})).await.is_some()
}

fn stop(mut daemon: Process) {
    daemon.terminate();
    assert!(daemon.wait().success());
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_a_daemon_that_writes_is_a_daemon_in_another_schema_and_on_sqlite() {
    let (Some(first), Some(second)) = (TestInstallation::new(), TestInstallation::new()) else { return };
    let file = first.folder.join("backup");
    let daemon = run(&mut first.on_postgres(&[]));
    let token = register(&daemon, "kept-svc").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (url, is_over) = (daemon.url.clone(), is_over.clone());
        async move {
            let mut count = 0;
            while !is_over.load(SeqCst) {
                post(&url, "/user-svc/register", "", account(&format!("during-{count}"))).await.unwrap();
                count += 1;
            }
            count
        }
    });
    let (mut backup, mut check) = (first.on_postgres(&["backup", text(&file)]), first.on_postgres(&["check"]));
    let said = tokio::task::spawn_blocking(move || (stdout_of(&mut backup), stdout_of(&mut check))).await.unwrap();
    assert!(said.0.contains(&first.schema()) && said.0.contains("back up OPENORCH_ENCRYPTION_KEY too"), "{}", said.0);
    assert!(said.1.contains("is sound"), "{}", said.1);
    is_over.store(true, SeqCst);
    assert!(writer.await.unwrap() > 0);
    register(&daemon, "later-svc").await;
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "the operator's key is not included");
    assert!(expect_start_failure(&mut first.on_postgres(&["backup", text(&file)])).contains("exists already"));
    assert!(expect_start_failure(&mut first.on_postgres(&["restore", text(&file)])).contains("in use"));
    stop(daemon);
    let not_empty = expect_start_failure(&mut first.on_postgres(&["restore", text(&file)]));
    assert!(not_empty.contains(&first.schema()) && not_empty.contains("is not empty"), "{not_empty}");
    assert!(knows(&run(&mut first.on_postgres(&[])), "later-svc", &token).await, "existing data is unchanged");

    for on_engine in
        [TestInstallation::on_postgres, TestInstallation::on_sqlite] as [fn(&TestInstallation, &[&str]) -> Command; 2]
    {
        let command = |arguments: &[&str]| on_engine(&second, arguments);
        let said = stdout_of(&mut command(&["restore", text(&file)]));
        assert!(said.contains("start the daemon with its original OPENORCH_ENCRYPTION_KEY"), "{said}");
        assert!(stdout_of(&mut command(&["check"])).contains("is sound"));
        let daemon = run(&mut command(&[]));
        assert!(knows(&daemon, "kept-svc", &token).await);
        let later = post(&daemon.url, "/user-svc/login", "", account("later-svc")).await;
        assert!(later.is_none(), "it was registered after the backup");
        stop(daemon);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_a_folder_move_to_postgres_and_the_key_is_handed_over() {
    let Some(place) = TestInstallation::new() else { return };
    let file = place.folder.join("backup");
    let daemon = run(&mut place.on_sqlite_without_key(&[]));
    let token = register(&daemon, "kept-svc").await;
    stop(daemon);
    stdout_of(&mut place.on_sqlite_without_key(&["backup", text(&file)]));
    let key_file = place.folder.join("server/encryption.key");
    let key = fs::read_to_string(&key_file).unwrap();

    // A different key file prevents the restore; without one the key is stored there.
    fs::write(&key_file, "another key").unwrap();
    let said = expect_start_failure(&mut place.with_variables(&[], &["restore", text(&file)]));
    assert!(said.contains("another one") && said.contains(text(&key_file)) && !said.contains(&key), "{said}");
    let schemas = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", place.schema());
    assert!(place.query(&schemas).await.is_empty());
    fs::remove_file(&key_file).unwrap();
    let said = stdout_of(&mut place.on_postgres(&["restore", text(&file)]));
    let way = format!("start the daemon with OPENORCH_ENCRYPTION_KEY_FILE={}, instead of", text(&key_file));
    assert!(said.contains(&way) && !said.contains(&key), "{said}");

    assert!(expect_start_failure(&mut place.on_postgres(&[])).contains("OPENORCH_ENCRYPTION_KEY"));
    let with_file = [("OPENORCH_ENCRYPTION_KEY_FILE", text(&key_file))];
    assert!(stdout_of(&mut place.with_variables(&with_file, &["check"])).contains("is sound"));
    let daemon = run(&mut place.with_variables(&with_file, &[]));
    assert!(knows(&daemon, "kept-svc", &token).await, "sessions and the signing key are included");
    stop(daemon);

    let list =
        format!("UPDATE {}.\"c_userSvcUsers\" SET f_slug = '\\x00' WHERE doc->>'slug' = 'kept-svc'", place.schema());
    place.query(&list).await;
    let id = format!("SELECT id FROM {}.\"c_userSvcUsers\" WHERE doc->>'slug' = 'kept-svc'", place.schema());
    let id = place.query(&id).await.remove(0);
    let said = expect_start_failure(&mut place.with_variables(&with_file, &["check"]));
    assert!(said.contains("has 1 problems") && said.contains(&format!("`{id}` of userSvcUsers")), "{said}");
}

const MANY: Collection = Collection { name: "testSvcMany", indexes: &[] };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_killed_leaves_nothing_and_can_be_done_again() {
    let Some(place) = TestInstallation::new() else { return };
    let file = place.folder.join("backup");
    stop(run(&mut place.on_sqlite(&[])));
    let store = SqliteStore::open(place.folder.join("server"), SqliteOptions::default()).unwrap();
    store.open_collections(&[MANY]).await.unwrap();
    let body = json!({ "text": "x".repeat(1000) }).to_string();
    for thousand in 0..40 {
        let batch = (0..1000)
            .fold(Batch::new(), |batch, one| batch.create(MANY.name, format!("{thousand}-{one}"), body.as_str()));
        store.commit(batch).await.unwrap();
    }
    store.close().await;
    stdout_of(&mut place.on_sqlite(&["backup", text(&file)]));

    let schemas = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", place.schema());
    for _ in 0..3 {
        let mut restoring = place.on_postgres(&["restore", text(&file)]).stdout(Stdio::null()).spawn().unwrap();
        // Kill it while it is writing.
        let writing =
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY \"c_testSvcMany\"%' AND state = 'active'";
        eventually(WAIT_TIMEOUT, "the restore is writing", async || {
            assert!(restoring.try_wait().unwrap().is_none(), "it ended before the write was observed");
            !place.query(writing).await.is_empty()
        })
        .await;
        restoring.kill().unwrap();
        wait(&mut restoring);
        assert!(place.query(&schemas).await.is_empty(), "nothing is visible");
    }
    // The server may not have noticed the last disconnect yet; the next restore waits for that.
    stdout_of(&mut place.on_postgres(&["restore", text(&file)]));
    stop(run(&mut place.on_postgres(&[])));
    let documents = format!("SELECT count(*) FROM {}.\"c_testSvcMany\"", place.schema());
    assert_eq!(place.query(&documents).await, ["40000"]);
}
