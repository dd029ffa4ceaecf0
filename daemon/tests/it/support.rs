//! The test daemon of `openorch_test_support`, and helpers for these tests.

use openorch_test_support::wire::{Server, serve};
pub use openorch_test_support::{
    answer::{Answer, token_of},
    daemon::{Daemon, settings, start_time},
};
use serde_json::{Value, json};

/// The account id in a token.
pub fn id_of(token: &str) -> String {
    claims(token)["oui"].as_str().unwrap_or_else(|| panic!("no account in {token}")).to_owned()
}

pub async fn status(daemon: &Daemon, method: &str, path: &str, token: &str, body: Value) -> u16 {
    daemon.call(method, path, token, body).await.status.as_u16()
}

/// The delegated token that an [`Echo`] service at this path receives instead of the caller's.
pub async fn delegated_token(daemon: &Daemon, path: &str, token: &str) -> String {
    let answer = daemon.call("GET", path, token, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let head = answer.json()["head"].as_str().unwrap().to_owned();
    head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).expect("a token").to_owned()
}

/// Whether an account has a permission; both operations that check it must agree.
pub async fn has_permission(daemon: &Daemon, token: &str, permission: &str) -> bool {
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

/// The claims of a token, without verification.
pub fn claims(token: &str) -> Value {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Forwarded requests are served only after the admin's default password is changed.
pub async fn admin_behind_a_proxy(daemon: &Daemon) -> String {
    let admin = daemon.admin().await;
    let change = json!({ "currentPassword": "changeme", "newPassword": "another one" });
    assert_eq!(status(daemon, "POST", "/user-svc/change-password", &admin, change).await, 200);
    admin
}

/// A service that answers each request with its head, as JSON.
pub struct Echo {
    pub url: String,
    server: Server,
}

impl Echo {
    pub async fn start() -> Echo {
        let server = serve(|mut stream, _| async move {
            let Some(head) = stream.read_head().await else { return };
            let text = json!({ "head": head }).to_string();
            let length = text.len();
            stream
                .send(&format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}"))
                .await;
        });
        let server = server.await;
        Echo { url: format!("http://{}", server.address), server }
    }

    pub fn stop(&self) {
        self.server.stop();
    }
}
