//! A daemon inside the test process, with a temporary data directory and a manual clock; helpers that call it by path
//! or by operation.

use std::{path::Path, sync::Arc};

use clap::Parser;
use openorch::{Running, Settings, settings::Flags as SettingFlags};
use openorch_api::{
    Body, Json,
    events::EVENT_STREAM,
    user::{REGISTER, RegisterRequest},
};
use openorch_chassis::clock::ManualClock;
use openorch_sdk::{Client, ClientFactory};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    WAIT_TIMEOUT,
    answer::{Answer, token_of},
    eventually,
    process::schema_of,
};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    given: SettingFlags,
}

pub struct Daemon {
    pub clock: Arc<ManualClock>,
    pub url: String,
    pub data_dir: TempDir,
    running: Option<Running>,
    http: reqwest::Client,
}

pub fn start_time() -> jiff::Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

impl Daemon {
    pub async fn start() -> Daemon {
        Daemon::with_flags(&[]).await
    }

    /// Starts a daemon with additional flags.
    pub async fn with_flags(flags: &[&str]) -> Daemon {
        let mut daemon = Daemon {
            clock: ManualClock::new(start_time()),
            url: String::new(),
            data_dir: tempfile::tempdir().unwrap(),
            running: None,
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
        };
        daemon.run(flags).await;
        daemon
    }

    async fn run(&mut self, flags: &[&str]) {
        let settings = settings(self.data_dir.path(), flags);
        let running = openorch::start(settings, self.clock.clone()).await.unwrap();
        self.url = format!("http://{}", running.address);
        self.running = Some(running);
    }

    /// Restarts the daemon on the same data directory.
    pub async fn restart(&mut self, flags: &[&str]) {
        self.running.take().unwrap().stop().await;
        self.run(flags).await;
    }

    /// Counts of stored passwords checked at the start: too weak for network access, and unknown.
    pub fn passwords(&self) -> (u64, u64) {
        let counts = self.running.as_ref().unwrap().passwords;
        (counts.too_weak, counts.unknown)
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, token, body.into_bytes(), &[]).await
    }

    /// A POST with a binary response.
    pub async fn send_for_bytes(&self, path: &str, token: &str) -> Vec<u8> {
        let answer = self.http.post(format!("{}{path}", self.url)).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.unwrap().into()
    }

    pub async fn send(&self, method: &str, path: &str, token: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}{path}", self.url);
        let mut request = self.http.request(method.parse::<Method>().unwrap(), url).body(body);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        // An event stream does not end: the response headers are the answer.
        let is_stream = headers.get("content-type").is_some_and(|kind| kind == EVENT_STREAM);
        let text = if is_stream { String::new() } else { response.text().await.unwrap() };
        let answer = Answer { status, headers, text };
        answer.check(method, path);
        answer
    }

    /// A client for typed calls of operations, with this token or none.
    pub fn client(&self, token: &str) -> Client {
        let client = ClientFactory::new(&self.url).unwrap().client();
        if token.is_empty() { client } else { client.with_token(token).unwrap() }
    }

    /// Registers an account; returns its token.
    pub async fn register(&self, slug: &str) -> String {
        let input = RegisterRequest {
            slug: slug.to_owned(),
            name: Some(slug.to_owned()),
            password: "pass".to_owned(),
            ..RegisterRequest::default()
        };
        let Json(answer) = self.client("").call(REGISTER, Body(input)).await.unwrap();
        answer.token.token
    }

    pub async fn login(&self, slug: &str, password: &str, device: &str) -> Answer {
        self.call("POST", "/user-svc/login", "", json!({ "slug": slug, "password": password, "device": device })).await
    }

    pub async fn admin(&self) -> String {
        token_of(&self.login("openorch", "changeme", "test").await)
    }

    pub async fn put_instance(&self, token: &str, body: Value) -> Answer {
        self.call("PUT", "/registry-svc/instance", token, body).await
    }

    pub async fn instances(&self, token: &str) -> Vec<Value> {
        let answer = self.call("GET", "/registry-svc/instances", token, Value::Null).await;
        answer.json()["instances"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the condition holds.
    pub async fn until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        eventually(WAIT_TIMEOUT, what, condition).await;
    }
}

/// Settings with this data directory and these flags.
pub fn settings(data_dir: &Path, flags: &[&str]) -> Settings {
    let schema = schema_of(data_dir);
    let folder = data_dir.to_str().unwrap();
    let always = ["test", "--listen", "127.0.0.1:0", "--data-dir", folder, "--db-schema", &schema];
    let probing: &[&str] =
        if flags.contains(&"--registry-probe-interval") { &[] } else { &["--registry-probe-interval", "200ms"] };
    let given = Flags::parse_from(always.iter().chain(probing).chain(flags)).given;
    Settings::new(given, None).unwrap()
}
