//! Long requests: they end with the session that they carry, and with the service that they go to.

use openorch_test_support::wire::listen;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Daemon, Echo, delegated_token, id_of, status, token_of};

/// A service that switches protocols on request, never answers below `/silent`, and otherwise starts an endless event
/// stream.
async fn endless_service() -> String {
    let address = listen(|mut stream, _| async move {
        let head = stream.read_head().await.unwrap_or_default().to_lowercase();
        let answer = match () {
            () if head.contains("upgrade: test") => {
                "101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n"
            }
            () if head.contains("/silent") => return std::future::pending::<()>().await,
            () if head.contains("get / ") => "200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            () => "200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        };
        stream.send(&format!("HTTP/1.1 {answer}")).await;
        if !head.contains("get / ") {
            std::future::pending::<()>().await;
        }
    });
    format!("http://{}", address.await)
}

/// Starts a request and reads the head of the response, if it is to wait for it.
async fn start_request(daemon: &Daemon, path: &str, headers: &str, waits_for_head: bool) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while waits_for_head && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{}", String::from_utf8_lossy(&head));
    }
    let head = String::from_utf8_lossy(&head);
    assert!(!waits_for_head || head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

/// Starts each kind of long request with this token, or without one.
async fn start_all(daemon: &Daemon, token: &str) -> Vec<TcpStream> {
    let token = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    vec![
        start_request(daemon, "/shop-svc/tunnel", &format!("{token}connection: upgrade\r\nupgrade: test\r\n"), true)
            .await,
        start_request(daemon, "/shop-svc/events", &token, true).await,
        start_request(daemon, "/shop-svc/silent", &token, false).await,
    ]
}

/// Whether all connections are closed by the daemon, each within two seconds.
async fn all_end(connections: Vec<TcpStream>) -> bool {
    let mut all = true;
    for mut connection in connections {
        let to_its_end = async {
            let mut rest = Vec::new();
            // A reset counts as the end too.
            let _ = connection.read_to_end(&mut rest).await;
        };
        all &= tokio::time::timeout(std::time::Duration::from_secs(2), to_its_end).await.is_ok();
    }
    all
}

async fn is_open(connection: &mut TcpStream) -> bool {
    let mut byte = [0; 64];
    let read = tokio::time::timeout(std::time::Duration::from_millis(10), connection.read(&mut byte)).await;
    !matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn w30_tunnels_and_streams_end_with_their_session_and_with_their_service() {
    let daemon = Daemon::start().await;
    let shop = daemon.register("shop-svc").await;
    let put = daemon.put_instance(&shop, json!({ "url": endless_service().await })).await;
    assert_eq!(put.status, 201, "{}", put.text);
    let admin = daemon.admin().await;
    for (slug, way) in
        [("ann", "signs out"), ("bob", "is signed out"), ("cid", "is deleted"), ("dan", "changes the password")]
    {
        daemon.register(slug).await;
        let token = token_of(&daemon.login(slug, "pass", "here").await);
        let other = token_of(&daemon.login(slug, "pass", "elsewhere").await);
        let of_other = start_all(&daemon, &other).await;
        let mut without = start_all(&daemon, "").await;
        let connections = start_all(&daemon, &token).await;
        let (method, path, by, body) = match way {
            "signs out" => ("DELETE", "/user-svc/tokens".to_owned(), &token, json!({})),
            "is signed out" => {
                ("DELETE", "/user-svc/tokens".into(), &admin, json!({ "userId": id_of(&token), "device": "here" }))
            }
            "is deleted" => ("DELETE", format!("/user-svc/user/{}", id_of(&token)), &admin, Value::Null),
            _ => (
                "POST",
                "/user-svc/change-password".into(),
                &other,
                json!({ "slug": slug, "currentPassword": "pass", "newPassword": "other" }),
            ),
        };
        assert_eq!(status(&daemon, method, &path, by, body).await, 200, "{way}");
        assert!(all_end(connections).await, "{way}");
        let mut of_other = of_other;
        if way == "is deleted" {
            assert!(all_end(of_other).await, "{way}");
        } else {
            for connection in &mut of_other {
                assert!(is_open(connection).await, "{way}: requests of the other session continue");
            }
        }
        for connection in &mut without {
            assert!(is_open(connection).await, "{way}: requests without a token continue");
        }
    }
    // When the service itself is deleted, all requests to it end, with or without a token.
    let eve = daemon.register("eve").await;
    let (with, without) = (start_all(&daemon, &eve).await, start_all(&daemon, "").await);
    let path = format!("/user-svc/user/{}", id_of(&shop));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    assert!(all_end(with).await && all_end(without).await);
}

#[tokio::test]
async fn w130_tunnels_and_streams_end_with_the_delegated_token_and_the_delegation_they_came_by() {
    let daemon = Daemon::start().await;
    let (shop, desk, ann) =
        (daemon.register("shop-svc").await, daemon.register("desk-svc").await, daemon.register("ann").await);
    let admin = daemon.admin().await;
    let echo = Echo::start().await;
    assert_eq!(daemon.put_instance(&desk, json!({ "url": echo.url })).await.status, 201);
    assert_eq!(daemon.put_instance(&shop, json!({ "url": endless_service().await })).await.status, 201);
    let delegated = async || delegated_token(&daemon, "/desk-svc/x", &ann).await;
    let delegation = json!({ "slug": "desk-svc", "services": ["shop-svc"] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, delegation.clone()).await, 200);

    let connections = start_all(&daemon, &delegated().await).await;
    let mut of_session = start_all(&daemon, &ann).await;
    assert_eq!(status(&daemon, "DELETE", "/user-svc/delegation/desk-svc", &admin, Value::Null).await, 200);
    assert!(all_end(connections).await, "the delegation was revoked");

    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, delegation).await, 200);
    let mut connections = start_all(&daemon, &delegated().await).await;
    // Only answered requests are known to have started before the expiry.
    connections.truncate(2);
    daemon.clock.advance(301);
    for connection in &mut connections {
        assert!(is_open(connection).await, "a request started in time has the same time again");
    }
    daemon.clock.advance(300);
    assert!(all_end(connections).await, "the token expired long ago");
    for connection in &mut of_session {
        assert!(is_open(connection).await, "requests of the session continue");
    }
}

#[tokio::test]
async fn w131_a_value_with_many_tokens_is_refused_without_verifying_them() {
    let daemon = Daemon::start().await;
    let (shop, echo) = (daemon.register("shop-svc").await, Echo::start().await);
    assert_eq!(daemon.put_instance(&shop, json!({ "url": echo.url })).await.status, 201);
    let header = shop.split('.').next().unwrap();
    let forged = format!("{header}.e30.AAAA");
    let ask = async |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        daemon.send("GET", "/shop-svc/x", "", Vec::new(), &headers).await.status
    };
    // The token names one of the daemon's keys, which is reason enough to refuse it.
    for values in [
        vec![format!("Token {forged}")],
        vec![vec![forged.clone(); 100].join(" ")],
        vec![format!("Bearer {forged}"); 50],
        vec!["x".into(), format!("a={forged}")],
        vec!["eyJ ".repeat(100)],
    ] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        assert_eq!(ask(&values).await, 400, "{}", values[0]);
    }
    let foreign = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im90aGVyIn0.e30.AAAA";
    for spoilt in [format!("{shop}A"), format!("{shop}-x"), format!("{shop}."), forged.clone()] {
        let status = ask(&[&format!("Bearer {spoilt}")]).await.as_u16();
        assert_eq!(status / 100, 4, "{status} {spoilt}: a service could strip the suffix");
    }
    for values in [vec![format!("Token {foreign}")], vec![format!("Bearer {foreign}"); 2]] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        assert_eq!(ask(&values).await, 200, "{}: foreign tokens are for the service to check", values[0]);
    }
}
