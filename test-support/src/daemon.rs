//! A daemon in a temporary folder, and short ways to call it.

use std::{path::Path, sync::Arc};

use clap::Parser;
use openorch::{Running, Settings, settings::Flags as SettingFlags};
use openorch_chassis::clock::ManualClock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    given: SettingFlags,
}

pub struct Daemon {
    pub clock: Arc<ManualClock>,
    pub url: String,
    pub folder: TempDir,
    running: Option<Running>,
    http: reqwest::Client,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The sentence of a refusal.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {}", self.text)).to_owned()
    }
}

pub fn start_time() -> jiff::Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

impl Daemon {
    pub async fn start() -> Daemon {
        Daemon::with(&[]).await
    }

    /// With further flags.
    pub async fn with(flags: &[&str]) -> Daemon {
        let mut daemon = Daemon {
            clock: ManualClock::new(start_time()),
            url: String::new(),
            folder: tempfile::tempdir().unwrap(),
            running: None,
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
        };
        daemon.run(flags).await;
        daemon
    }

    async fn run(&mut self, flags: &[&str]) {
        let settings = settings(self.folder.path(), flags);
        let running = openorch::start(settings, self.clock.clone()).await.unwrap();
        self.url = format!("http://{}", running.address);
        self.running = Some(running);
    }

    /// Stops and starts again on the same folder.
    pub async fn restart(&mut self, flags: &[&str]) {
        self.running.take().unwrap().stop().await;
        self.run(flags).await;
    }

    /// What the start found of stored passwords: too weak for the network, and unknown.
    pub fn passwords(&self) -> (u64, u64) {
        let counts = self.running.as_ref().unwrap().passwords;
        (counts.too_weak, counts.unknown)
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, token, body.into_bytes(), &[]).await
    }

    /// The bytes of a POST that is no text.
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
        let answer = Answer { status, headers, text: response.text().await.unwrap() };
        crate::errors::check(method, path, &answer);
        answer
    }

    /// Registers an account; answers its token.
    pub async fn register(&self, slug: &str) -> String {
        let answer = self
            .call("POST", "/user-svc/register", "", json!({ "slug": slug, "name": slug, "password": "pass" }))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        token_of(&answer)
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

    /// Waits until the condition holds; ten seconds at most.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        for _ in 0..500 {
            if condition().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("waited in vain: {what}");
    }
}

/// The schema for a folder, where the tests run on a database server: `tools/test-on-postgres` says so by variables.
pub fn schema(folder: &Path) -> String {
    let name = folder.file_name().unwrap().to_str().unwrap().to_lowercase();
    format!("t_{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
}

pub fn settings(folder: &Path, flags: &[&str]) -> Settings {
    let schema = schema(folder);
    let folder = folder.to_str().unwrap();
    let always = ["test", "--listen", "127.0.0.1:0", "--data-dir", folder, "--db-schema", &schema];
    let probing: &[&str] =
        if flags.contains(&"--registry-probe-interval") { &[] } else { &["--registry-probe-interval", "200ms"] };
    let given = Flags::parse_from(always.iter().chain(probing).chain(flags)).given;
    Settings::new(given, None).unwrap()
}

pub fn token_of(answer: &Answer) -> String {
    answer.json()["token"]["token"].as_str().unwrap_or_else(|| panic!("no token in {}", answer.text)).to_owned()
}

/// The id of the account that a token is of.
pub fn id_of(token: &str) -> String {
    claims(token)["oui"].as_str().unwrap_or_else(|| panic!("no account in {token}")).to_owned()
}

pub async fn status(daemon: &Daemon, method: &str, path: &str, token: &str, body: Value) -> u16 {
    daemon.call(method, path, token, body).await.status.as_u16()
}

/// Whether an account has a permission; both ways of asking must say the same.
pub async fn has(daemon: &Daemon, token: &str, permission: &str) -> bool {
    let answer = daemon.call("POST", &format!("/user-svc/self/has/{permission}"), token, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let authorized = answer.json()["authorized"].as_bool().unwrap();
    let path = format!("/user-svc/permission/{permission}/is-authorized");
    assert_eq!(status(daemon, "POST", &path, token, Value::Null).await == 200, authorized);
    authorized
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What a token says, unchecked.
pub fn claims(token: &str) -> Value {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// A service that answers each request with the head it was sent, as JSON text.
pub struct Echo {
    pub url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    pub async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut buffer = [0; 4096];
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut buffer).await {
                            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
                            _ => return,
                        }
                    }
                    let text = json!({ "head": String::from_utf8_lossy(&head) }).to_string();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    // A caller that left does not want it.
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Echo { url, task }
    }

    pub fn stop(&self) {
        self.task.abort();
    }
}
