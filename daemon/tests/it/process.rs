//! The daemon as a process: killed under load, started twice, with damaged data, with its port in use.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

pub use openorch_test_support::process::{Process, expect_start_failure, run, terminate, wait};
use openorch_test_support::{WAIT_TIMEOUT, eventually, process as support};
use serde_json::{Value, json};
use tempfile::TempDir;

pub fn command(folder: &Path) -> Command {
    let mut command = support::command(env!("CARGO_BIN_EXE_openorch"), folder);
    command.env("OPENORCH_REGISTRY_MAX_INSTANCES_PER_ACCOUNT", "1000000");
    command
}

fn start(folder: &Path) -> Process {
    run(&mut command(folder))
}

pub async fn post(url: &str, path: &str, token: &str, body: Value) -> Option<Value> {
    let method = if path.contains("registry") { reqwest::Method::PUT } else { reqwest::Method::POST };
    let request = reqwest::Client::new().request(method, format!("{url}{path}")).body(body.to_string());
    let answer = request.header("authorization", format!("Bearer {token}")).send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    serde_json::from_str(&answer.text().await.ok()?).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_write_load_lose_no_acknowledged_write() {
    let folder = TempDir::new().unwrap();
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut token = String::new();
    for round in 0..20 {
        let mut process = start(folder.path());
        if round == 0 {
            let body = json!({ "slug": "writer-svc", "password": "p" });
            let answer = post(&process.url, "/user-svc/register", "", body).await.unwrap();
            token = answer["token"]["token"].as_str().unwrap().to_owned();
        }
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (url, token, acknowledged) = (process.url.clone(), token.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    for count in 0.. {
                        let id = format!("inst_{round}_{writer}_{count}");
                        let body = json!({ "url": format!("http://127.0.0.1:9/{id}"), "id": id });
                        if post(&url, "/registry-svc/instance", &token, body).await.is_none() {
                            return;
                        }
                        acknowledged.lock().unwrap().push(id);
                    }
                })
            })
            .collect();
        // In the middle of the load, at a different moment each round.
        let enough = acknowledged.lock().unwrap().len() + 4 + round;
        eventually(WAIT_TIMEOUT, "writes", async || acknowledged.lock().unwrap().len() >= enough).await;
        process.child.kill().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let process = start(folder.path());
    let request = reqwest::Client::new().get(format!("{}/registry-svc/instances", process.url));
    let list = request.header("authorization", format!("Bearer {token}")).send().await.unwrap().text().await.unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let stored: std::collections::HashSet<&str> =
        list["instances"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() > 100, "the load was real: {}", acknowledged.len());
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
}

#[test]
fn a_second_daemon_on_the_folder_is_told_who_has_it() {
    let folder = TempDir::new().unwrap();
    let process = start(folder.path());
    let text = expect_start_failure(&mut command(folder.path()));
    assert!(text.contains(&process.child.id().to_string()) && text.contains(folder.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_taken_port_is_told_and_no_data_is_touched() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = expect_start_failure(command(folder.path()).env("OPENORCH_LISTEN", &address));
    assert!(text.contains(&address) && text.contains("OPENORCH_LISTEN"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn damaged_missing_and_wrongly_keyed_data_is_named_and_left_alone() {
    let folder = TempDir::new().unwrap();
    drop(start(folder.path()));
    let server = folder.path().join("server");
    let database = fs::read_dir(&server)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "db"))
        .unwrap();

    let text = expect_start_failure(command(folder.path()).env("OPENORCH_ENCRYPTION_KEY", "another key"));
    assert!(text.contains("OPENORCH_ENCRYPTION_KEY"), "{text}");

    let key = server.join("encryption.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let text = expect_start_failure(&mut command(folder.path()));
    assert!(text.contains("encryption.key") && !key.exists(), "{text}");
    fs::write(&key, kept).unwrap();
    drop(start(folder.path()));

    for end in ["db-wal", "db-shm"] {
        // They may not exist any more.
        let _ = fs::remove_file(database.with_extension(end));
    }
    fs::write(&database, b"not a database, but a text file").unwrap();
    let text = expect_start_failure(&mut command(folder.path()));
    assert!(text.contains(database.file_name().unwrap().to_str().unwrap()), "{text}");
    assert_eq!(fs::read(&database).unwrap(), b"not a database, but a text file");
    fs::remove_file(&database).unwrap();
    expect_start_failure(&mut command(folder.path()));
    assert!(!database.exists(), "a missing database is not recreated");
}

#[tokio::test]
async fn the_admin_password_is_reset_while_the_daemon_is_stopped() {
    let folder = TempDir::new().unwrap();
    let process = start(folder.path());
    let text = expect_start_failure(
        command(folder.path()).args(["admin", "reset-password"]).env("OPENORCH_ADMIN_PASSWORD", "new"),
    );
    assert!(text.contains("pid") || text.contains(&process.child.id().to_string()), "{text}");
    let login = |password: &str| json!({ "slug": "openorch", "password": password });
    let answer = post(&process.url, "/user-svc/login", "", login("changeme")).await.unwrap();
    let old = answer["token"]["token"].as_str().unwrap().to_owned();
    drop(process);
    let done = command(folder.path()).args(["admin", "reset-password"]).env("OPENORCH_ADMIN_PASSWORD", "new").status();
    assert!(done.unwrap().success());
    let process = start(folder.path());
    assert!(post(&process.url, "/user-svc/login", "", login("changeme")).await.is_none());
    assert!(post(&process.url, "/user-svc/login", "", login("new")).await.is_some());
    assert!(post(&process.url, "/user-svc/user/by-token", &old, json!({})).await.is_none(), "its sessions ended");

    // Any other remaining admin can be reset.
    let admin = post(&process.url, "/user-svc/login", "", login("new")).await.unwrap();
    let second = json!({ "user": { "slug": "second", "name": "Second" }, "roleIds": ["user-svc:admin"] });
    let token = admin["token"]["token"].as_str().unwrap();
    assert!(post(&process.url, "/user-svc/user", token, second).await.is_some());
    drop(process);
    let reset = |slug: &str| {
        let mut command = command(folder.path());
        command.args(["admin", "reset-password", "--slug", slug]).env("OPENORCH_ADMIN_PASSWORD", "another");
        command
    };
    let text = expect_start_failure(&mut reset("nobody"));
    assert!(text.contains("--slug") && text.contains("`openorch`") && text.contains("`second`"), "{text}");
    assert!(reset("second").status().unwrap().success());
    let process = start(folder.path());
    let second = json!({ "slug": "second", "password": "another" });
    assert!(post(&process.url, "/user-svc/login", "", second).await.is_some());
    assert!(post(&process.url, "/user-svc/login", "", login("new")).await.is_some());
}

#[tokio::test]
async fn a_second_signal_ends_what_the_first_one_waits_for() {
    let folder = TempDir::new().unwrap();
    let mut process = run(command(folder.path()).env("OPENORCH_DRAIN", "1h"));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registered = post(&process.url, "/user-svc/register", "", json!({ "slug": "slow-svc", "password": "p" })).await;
    let token = registered.unwrap()["token"]["token"].as_str().unwrap().to_owned();
    let url = format!("http://{}", silent.local_addr().unwrap());
    post(&process.url, "/registry-svc/instance", &token, json!({ "url": url })).await.unwrap();
    let asked = format!("{}/slow-svc/x", process.url);
    let request = tokio::spawn(async move { reqwest::get(asked).await });
    // The first connection is the probe's, the second that of the request, which is never answered.
    let _probe = silent.accept().await.unwrap();
    let _request = silent.accept().await.unwrap();
    process.terminate();
    let address = process.url.trim_start_matches("http://").to_owned();
    eventually(WAIT_TIMEOUT, "it has stopped listening", async || std::net::TcpStream::connect(&address).is_err())
        .await;
    assert!(process.child.try_wait().unwrap().is_none(), "it is draining the request");
    process.terminate();
    let ended = tokio::task::spawn_blocking(move || process.wait());
    assert!(ended.await.unwrap().success());
    assert!(request.await.unwrap().is_err());
}

#[tokio::test]
async fn out_of_descriptors_no_instance_is_blamed_and_what_is_open_goes_on() {
    let folder = TempDir::new().unwrap();
    let daemon = env!("CARGO_BIN_EXE_openorch");
    let mut limited = Command::new("sh");
    limited.env_clear().args(["-c", &format!("ulimit -n 64; exec {daemon} --registry-probe-interval 50ms")]);
    limited.env("OPENORCH_DATA_DIR", folder.path()).env("OPENORCH_LISTEN", "127.0.0.1:0").stderr(Stdio::null());
    let process = run(&mut limited);
    let service = crate::support::Echo::start().await;
    let client = reqwest::Client::new();
    let registered = post(&process.url, "/user-svc/register", "", json!({ "slug": "well-svc", "password": "p" })).await;
    let token = registered.unwrap()["token"]["token"].as_str().unwrap().to_owned();
    post(&process.url, "/registry-svc/instance", &token, json!({ "url": service.url })).await.unwrap();
    let statuses = || async {
        let asked = client.get(format!("{}/registry-svc/instances", process.url)).bearer_auth(&token).send().await;
        asked.unwrap().text().await.unwrap()
    };
    assert!(statuses().await.contains("Healthy"));
    let address = process.url.trim_start_matches("http://");
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    // Checked over the client's open connection during ten probe intervals: there is no event that would show the
    // absence of a failure.
    for _ in 0..50 {
        assert!(statuses().await.contains("Healthy"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_may_be_open_follows_the_hard_limit_on_open_files_and_not_the_soft_one() {
    let directory = TempDir::new().unwrap();
    let mut limited = Command::new("sh");
    limited
        .env_clear()
        .args(["-c", &format!("ulimit -Sn 600 && ulimit -Hn 1000 && exec {}", env!("CARGO_BIN_EXE_openorch"))]);
    limited.env("OPENORCH_DATA_DIR", directory.path()).env("OPENORCH_LISTEN", "127.0.0.1:0").stderr(Stdio::null());
    let daemon = run(&mut limited);
    let login = json!({ "slug": "openorch", "password": "changeme" });
    let answer = post(&daemon.url, "/user-svc/login", "", login).await.unwrap();
    let request = reqwest::Client::new().get(format!("{}/metrics", daemon.url));
    let metrics = request.bearer_auth(answer["token"]["token"].as_str().unwrap()).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for name in ["connections", "requests"] {
        // Half of what remains after 256 reserved files.
        let line = format!("openorch_gateway_{name}_limit 372");
        assert!(metrics.lines().any(|one| one == line), "{metrics}");
    }
}
