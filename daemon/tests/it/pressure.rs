//! Concurrent changes of one resource, and a full disk: whatever can wait or be read is not refused.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use openorch_chassis::clock::ManualClock;
use openorch_test_support::{WAIT_TIMEOUT, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{command, run},
    support::{Daemon, Echo, id_of},
};

async fn run_concurrently<F: Future<Output = u16> + Send + 'static>(calls: impl Iterator<Item = F>) -> Vec<u16> {
    let tasks: Vec<_> = calls.map(tokio::spawn).collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    codes
}

fn call(url: &str, method: Method, path: &str, token: &str, body: Value) -> impl Future<Output = u16> + Send + 'static {
    let request = reqwest::Client::new().request(method, format!("{url}{path}")).bearer_auth(token);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = request.body(body).timeout(std::time::Duration::from_secs(20));
    async move { request.send().await.unwrap().status().as_u16() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_changes_what_others_change_at_the_same_time_waits_and_is_not_refused() {
    let daemon = Daemon::start().await;
    let echo = Echo::start().await;
    let ann = daemon.register("ann-svc").await;
    let refresh = |_| call(&daemon.url, Method::POST, "/user-svc/refresh-token", &ann, Value::Null);
    let codes = run_concurrently((0..50).map(refresh)).await;
    // Each refresh ends the previous token, so later calls get 401.
    assert!(codes.iter().all(|code| [200, 401].contains(code)) && codes.contains(&200), "{codes:?}");

    let ann = crate::support::token_of(&daemon.login("ann-svc", "pass", "other").await);
    let register = |n| {
        let body = json!({ "url": echo.url, "deploymentId": format!("d{n}") });
        call(&daemon.url, Method::PUT, "/registry-svc/instance", &ann, body)
    };
    let codes = run_concurrently((0..50).map(register)).await;
    assert!(codes.iter().all(|code| *code == 201), "{codes:?}");
    let name = |n| {
        let body = json!({ "name": format!("Ann {n}") });
        call(&daemon.url, Method::PUT, "/user-svc/self", &ann, body)
    };
    let codes = run_concurrently((0..50).map(name)).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
}

/// A 24 MiB file system; `None` if mounting is not allowed.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: mounting is not allowed here");
            return None;
        }
        Some(SmallDisk(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk completely.
    fn fill(&self, name: &str) -> PathBuf {
        use std::io::Write;
        let path = self.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Best effort.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Writes until the free pages in the database files are used up too.
async fn exhaust_free_pages(url: &str, token: &str) {
    for n in 0..5000 {
        let body = json!({ "name": format!("{n} {}", "x".repeat(200)) });
        if call(url, Method::PUT, "/user-svc/self", token, body).await == 507 {
            return;
        }
    }
    panic!("the disk is not full");
}

async fn sign_in(url: &str) -> (u16, Value) {
    let body = json!({ "slug": "openorch", "password": "changeme", "device": "desk" });
    let answer = reqwest::Client::new()
        .post(format!("{url}/user-svc/login"))
        .body(body.to_string())
        .timeout(std::time::Duration::from_secs(20))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_the_daemon_starts_reads_routes_and_lets_in_who_has_a_session() {
    let Some(disk) = SmallDisk::new() else { return };
    let echo = Echo::start().await;
    let folder = disk.path().join("data");
    let daemon = run(&mut command(&folder));
    let (_, answer) = sign_in(&daemon.url).await;
    let token = answer["token"]["token"].as_str().unwrap().to_owned();
    let registered = call(&daemon.url, Method::PUT, "/registry-svc/instance", &token, json!({ "url": echo.url })).await;
    assert_eq!(registered, 201);
    drop(daemon);

    let first = disk.fill("first");
    let daemon = run(&mut command(&folder));
    let second = disk.fill("second");
    let url = &daemon.url;
    assert_eq!(call(url, Method::GET, "/ready", "", Value::Null).await, 200);
    exhaust_free_pages(url, &token).await;
    for _ in 0..3 {
        let (code, answer) = sign_in(url).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(id_of(answer["token"]["token"].as_str().unwrap()), id_of(&token));
    }
    assert_eq!(call(url, Method::GET, "/registry-svc/instances", &token, Value::Null).await, 200);
    let is_routed = async || call(url, Method::GET, "/openorch/x", &token, Value::Null).await == 200;
    eventually(WAIT_TIMEOUT, "the service is reached", is_routed).await;
    let body = json!({ "slug": "new-svc", "password": "p" });
    assert_eq!(call(url, Method::POST, "/user-svc/register", "", body.clone()).await, 507);
    // Unwritten state is written once there is room.
    std::fs::remove_file(first).unwrap();
    std::fs::remove_file(second).unwrap();
    assert_eq!(call(url, Method::POST, "/user-svc/register", "", body).await, 200);
    let told = async || {
        let request = reqwest::Client::new().post(format!("{url}/user-svc/audit")).bearer_auth(&token);
        let entries =
            request.body(json!({ "operation": "login" }).to_string()).send().await.unwrap().text().await.unwrap();
        let entries: Value = serde_json::from_str(&entries).unwrap();
        entries["entries"].as_array().unwrap().iter().map(|entry| entry["count"].as_u64().unwrap()).sum::<u64>()
    };
    // Aggregated entries are written once a minute by the program's clock.
    eventually(2 * WAIT_TIMEOUT + WAIT_TIMEOUT, "the sign-ins are in the audit log", async || told().await >= 4).await;
}

/// The session is due for a new token, but its time cannot be stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_gets_its_next_token_on_a_full_disk() {
    let Some(disk) = SmallDisk::new() else { return };
    let clock = ManualClock::new(crate::support::start_time());
    let settings = crate::support::settings(&disk.path().join("data"), &["--db", "sqlite"]);
    let running = openorch::start(settings, clock.clone() as Arc<_>).await.unwrap();
    let url = format!("http://{}", running.address);
    let (code, before) = sign_in(&url).await;
    assert_eq!(code, 200);
    disk.fill("ballast");
    let text = |answer: &Value| answer["token"]["token"].as_str().unwrap().to_owned();
    exhaust_free_pages(&url, &text(&before)).await;
    for _ in 0..60 {
        clock.advance(24 * 3600);
        let (code, now) = sign_in(&url).await;
        assert_eq!(code, 200, "{now}");
        if text(&now) != text(&before) {
            running.stop().await;
            return;
        }
    }
    panic!("the token was never renewed");
}
