//! Settings and errors of the PostgreSQL engine. The daemon's behaviour on it is tested by `tools/test-on-postgres`,
//! which runs the other tests there.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use openorch_chassis::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{command, expect_start_failure, post, run, terminate, wait},
    support::settings,
};

/// The PostgreSQL to test with; without one the test prints that it is skipped.
pub fn database() -> Option<String> {
    let string = std::env::var("OPENORCH_TEST_DB_STRING").ok();
    if string.is_none() {
        assert!(std::env::var_os("REQUIRE_POSTGRES").is_none(), "OPENORCH_TEST_DB_STRING names no PostgreSQL");
        eprintln!("SKIP: OPENORCH_TEST_DB_STRING names no PostgreSQL");
    }
    string
}

/// The program with PostgreSQL, with only these variables.
pub fn on_postgres(folder: &Path, variables: &[(&str, &str)]) -> std::process::Command {
    let mut command = command(folder);
    command.env("OPENORCH_DB", "postgres").envs(variables.iter().copied());
    for name in ["OPENORCH_DB_STRING", "OPENORCH_ENCRYPTION_KEY"] {
        if !variables.iter().any(|(given, _)| *given == name) {
            command.env_remove(name);
        }
    }
    command
}

#[test]
fn what_is_missing_or_wrong_is_named_without_the_password() {
    let folder = TempDir::new().unwrap();
    let key = ("OPENORCH_ENCRYPTION_KEY", "a long text");
    let away = ("OPENORCH_DB_STRING", "postgres://u:hush@127.0.0.1:1/d");
    let soon = ("OPENORCH_DB_CONNECT_TIMEOUT", "0s");
    let schema = ("OPENORCH_DB_SCHEMA", "no schema");
    for (variables, words) in [
        (vec![key], "OPENORCH_DB_STRING"),
        (vec![away], "OPENORCH_ENCRYPTION_KEY"),
        (vec![key, soon, away], "127.0.0.1:1"),
        (vec![key, soon, schema, away], "no schema"),
        (vec![key, ("OPENORCH_DB_STRING", "hush")], "cannot be read"),
        (vec![key, away, ("OPENORCH_DB_DRIVER", "mysql")], "OPENORCH_DB_DRIVER"),
    ] {
        let told = expect_start_failure(&mut on_postgres(folder.path(), &variables));
        assert!(told.contains(words) && !told.contains("hush"), "{variables:?}: {told}");
    }
    for work in [&["backup", "x"][..], &["check"]] {
        let told = expect_start_failure(on_postgres(folder.path(), &[key, soon, away]).args(work));
        assert!(told.contains("127.0.0.1:1") && !told.contains("hush"), "{told}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created in the data directory");
}

#[test]
fn a_signal_while_it_waits_for_the_database_ends_it_in_order() {
    let folder = TempDir::new().unwrap();
    let given = [("OPENORCH_ENCRYPTION_KEY", "a long text"), ("OPENORCH_DB_STRING", "postgres://u:hush@127.0.0.1:1/d")];
    let mut daemon = on_postgres(folder.path(), &given).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines();
    log.find(|line| line.as_ref().unwrap().contains("waiting for it")).unwrap().unwrap();
    terminate(&daemon);
    assert!(wait(&mut daemon).success());
}

#[tokio::test]
async fn another_key_and_a_second_daemon_are_refused_and_services_cannot_name_the_database() {
    let Some(string) = database() else { return };
    let folder = TempDir::new().unwrap();
    let with =
        |key| on_postgres(folder.path(), &[("OPENORCH_DB_STRING", string.as_str()), ("OPENORCH_ENCRYPTION_KEY", key)]);
    let mut first = run(&mut with("the right key"));
    assert!(expect_start_failure(&mut with("the right key")).contains("in use"));
    let database = string.rsplit_once('@').unwrap().1.split_once('/').unwrap().0;
    let token = crate::process::post(
        &first.url,
        "/user-svc/register",
        "",
        serde_json::json!({ "slug": "sly-svc", "password": "p" }),
    );
    let token = token.await.unwrap()["token"]["token"].as_str().unwrap().to_owned();
    let url = format!("http://{database}");
    let instance =
        crate::process::post(&first.url, "/registry-svc/instance", &token, serde_json::json!({ "url": url }));
    assert!(instance.await.is_none(), "the database's address is rejected as an instance");
    first.terminate();
    assert!(first.wait().success());
    let told = expect_start_failure(&mut with("hush-hush"));
    assert!(told.contains("OPENORCH_ENCRYPTION_KEY") && !told.contains("hush-hush"), "{told}");
    run(&mut with("the right key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_told_why_the_store_does_not_answer_once_and_not_for_each_request() {
    let Some(string) = database() else { return };
    let (before, after) = string.split_once('@').unwrap();
    let (place, name) = after.split_once('/').unwrap();
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("{before}@{}/{name}", relay.local_addr().unwrap());
    let place = place.to_owned();
    let relaying = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = relay.accept().await {
            let place = place.clone();
            connections.spawn(async move {
                let mut far = tokio::net::TcpStream::connect(place).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let folder = TempDir::new().unwrap();
    let given = [("OPENORCH_DB_STRING", through.as_str()), ("OPENORCH_ENCRYPTION_KEY", "a long text")];
    let mut daemon = run(on_postgres(folder.path(), &given).stderr(Stdio::piped()));
    relaying.abort();
    let _ = relaying.await;
    for slug in ["one", "two"] {
        let told = post(&daemon.url, "/user-svc/register", "", serde_json::json!({ "slug": slug, "password": "pass" }));
        assert_eq!(told.await, None, "refused");
    }
    daemon.terminate();
    let mut log = String::new();
    daemon.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("logged at most once a minute").count(), 1, "{log}");
    assert!(log.contains("(because: "), "{log}");
}

/// A clock that is two years ahead.
struct SkewedClock;

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_hours(2 * 365 * 24)
    }

    fn uptime(&self) -> Duration {
        SystemClock.uptime()
    }
}

/// Difference between the creation time of a new account and the true time.
async fn creation_time_error(engine: &str, string: &str) -> SignedDuration {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(folder.path(), &["--db", engine]);
    settings.secrets.db_string = Some(string.to_owned());
    settings.secrets.encryption_key = Some("a long text".into());
    let daemon = openorch::start(settings, Arc::new(SkewedClock)).await.unwrap();
    let url = format!("http://{}", daemon.address);
    let registered = post(&url, "/user-svc/register", "", json!({ "slug": "timed", "password": "p" })).await.unwrap();
    let token = registered["token"]["token"].as_str().unwrap();
    let user: Value = post(&url, "/user-svc/user/by-token", token, json!({})).await.unwrap();
    daemon.stop().await;
    let created: Timestamp = user["user"]["createdAt"].as_str().unwrap().parse().unwrap();
    created.duration_since(SystemClock.now())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_the_database_servers_where_the_clock_of_the_machine_is_wrong() {
    let Some(string) = database() else { return };
    let minute = SignedDuration::from_mins(1);
    assert!(creation_time_error("postgres", &string).await.abs() < minute);
    assert!(
        creation_time_error("sqlite", &string).await > SignedDuration::from_hours(24 * 365),
        "SQLite uses the machine's clock"
    );
}
