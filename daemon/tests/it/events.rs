//! Event streams, tested with the one of all requests: who may subscribe and for how long, what is sent, and how much
//! memory a subscriber can use.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use openorch_api::events::{EventReader, ReceivedEvent};
use openorch_test_support::{WAIT_TIMEOUT, within};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    apps::enroll,
    support::{Daemon, Echo, delegated_token, id_of, status, token_of},
};

const PATH: &str = "/platform-svc/requests";
const ADMIN: &str = "user-svc:admin";
/// Maximum delay until a stream ends after its session or right has ended.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// An open event stream.
struct EventStream {
    response: reqwest::Response,
    reader: EventReader,
    events: VecDeque<ReceivedEvent>,
    /// Everything received.
    text: String,
}

impl EventStream {
    async fn start(daemon: &Daemon, token: &str, query: &str) -> EventStream {
        let request = reqwest::Client::new().get(format!("{}{PATH}{query}", daemon.url)).bearer_auth(token);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let reader = EventReader::new(1 << 20);
        EventStream { response, reader, events: VecDeque::new(), text: String::new() }
    }

    /// Reads a chunk; false at the end, even if the connection was cut.
    async fn read_more(&mut self) -> bool {
        let piece = within(WAIT_TIMEOUT, "an event, a comment or the end", self.response.chunk()).await;
        let Ok(Some(piece)) = piece else { return false };
        let mut events = Vec::new();
        self.reader.read(&piece, &mut events).unwrap();
        self.events.extend(events);
        self.text += std::str::from_utf8(&piece).unwrap();
        true
    }

    /// Data of the next event.
    async fn next(&mut self) -> Value {
        loop {
            if let Some(event) = self.events.pop_front() {
                assert_eq!(event.name, "request");
                return serde_json::from_str(&event.data).unwrap();
            }
            assert!(self.read_more().await, "the stream ended: {}", self.text);
        }
    }

    /// Reads to the end; returns the time that took.
    async fn end(&mut self) -> Duration {
        let started = Instant::now();
        while self.read_more().await {}
        started.elapsed()
    }
}

#[tokio::test]
async fn requests_are_seen_with_service_instance_and_caller_and_without_anything_secret() {
    let daemon = Daemon::start().await;
    let (echo, shop, admin) = (Echo::start().await, daemon.register("shop-svc").await, daemon.admin().await);
    assert_eq!(daemon.put_instance(&shop, json!({ "id": "inst-1", "url": echo.url })).await.status, 201);
    let ann = daemon.register("ann").await;
    let mut following = EventStream::start(&daemon, &admin, "").await;
    let headers = [("x-request-id", "the-id"), ("x-secret", "a-secret-header")];
    let secret = b"a-secret-body".to_vec();
    assert_eq!(daemon.send("POST", "/shop-svc/orders/7?q=a-secret-query", &ann, secret, &headers).await.status, 200);
    let seen = following.next().await;
    for (field, want) in [
        ("method", json!("POST")),
        ("path", json!("/shop-svc/orders/7")),
        ("service", json!("shop-svc")),
        ("instanceId", json!("inst-1")),
        ("caller", json!("ann")),
        ("status", json!(200)),
        ("requestId", json!("the-id")),
    ] {
        assert_eq!(seen[field], want, "{field} of {seen}");
    }
    assert!(seen["durationMs"].as_f64().unwrap() > 0.0 && seen.get("operation").is_none(), "{seen}");
    assert!(seen["at"].as_str().unwrap().starts_with("2026-11-24T1"), "{seen}");

    assert_eq!(status(&daemon, "POST", "/user-svc/self?q=a-secret-query", &ann, Value::Null).await, 200);
    let seen = following.next().await;
    let fields = ["path", "service", "operation", "caller"].map(|field| seen[field].as_str().unwrap());
    assert_eq!(fields, ["/user-svc/self", "user-svc", "readSelf", "ann"], "{seen}");
    assert!(seen.get("instanceId").is_none(), "{seen}");

    // Refused requests too, without a caller.
    assert_eq!(status(&daemon, "GET", "/nothing-svc/x", "", Value::Null).await, 404);
    assert_eq!(status(&daemon, "POST", "/user-svc/self", "", Value::Null).await, 401);
    let (unknown, nobody) = (following.next().await, following.next().await);
    assert!(unknown["status"] == 404 && unknown.get("service").is_none(), "{unknown}");
    assert!(nobody["status"] == 401 && nobody.get("caller").is_none(), "{nobody}");
    for secret in [ann.as_str(), "a-secret", "?"] {
        assert!(!following.text.contains(secret), "{secret} is in {}", following.text);
    }
    assert!(!following.text.contains(PATH), "its own request is not complete");
}

#[tokio::test]
async fn a_stream_is_told_of_once_it_has_ended() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let mut first = EventStream::start(&daemon, &admin, "").await;
    let second = EventStream::start(&daemon, &admin, "?service=no-such-svc").await;
    assert_eq!(status(&daemon, "GET", "/health", "", Value::Null).await, 200);
    assert_eq!(first.next().await["path"], "/health");
    drop(second);
    let seen = first.next().await;
    assert!(seen["path"] == PATH && seen["caller"] == "openorch" && seen["operation"] == "monitorRequests", "{seen}");
}

#[tokio::test]
async fn what_is_asked_for_is_told_alone() {
    let daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let mut by_service = EventStream::start(&daemon, &admin, "?service=user-svc").await;
    let mut by_caller = EventStream::start(&daemon, &admin, "?caller=ann").await;
    let mut by_status = EventStream::start(&daemon, &admin, "?status=4xx").await;
    let mut by_all = EventStream::start(&daemon, &admin, "?service=user-svc&caller=ann&status=2xx").await;
    for (path, token) in [("/health", ""), ("/metrics", ann.as_str()), ("/user-svc/self", ""), ("/user-svc/self", &ann)]
    {
        let method = if path.ends_with("self") { "POST" } else { "GET" };
        status(&daemon, method, path, token, Value::Null).await;
    }
    let told = async |following: &mut EventStream, count: usize| {
        let mut told = Vec::new();
        for _ in 0..count {
            let seen = following.next().await;
            told.push(format!("{} {}", seen["path"].as_str().unwrap(), seen["status"]));
        }
        assert!(following.events.is_empty());
        told
    };
    assert_eq!(told(&mut by_service, 2).await, ["/user-svc/self 401", "/user-svc/self 200"]);
    assert_eq!(told(&mut by_caller, 2).await, ["/metrics 403", "/user-svc/self 200"]);
    assert_eq!(told(&mut by_status, 2).await, ["/metrics 403", "/user-svc/self 401"]);
    assert_eq!(told(&mut by_all, 1).await, ["/user-svc/self 200"]);
    for query in ["?status=200", "?status=6xx", "?service=A%20b"] {
        let refused = daemon.call("GET", &format!("{PATH}{query}"), &admin, Value::Null).await;
        assert_eq!(refused.json()["code"], "request.invalid_input", "{query}");
    }
}

#[tokio::test]
async fn only_who_has_the_permission_in_the_default_app_may_follow_and_no_service_for_it() {
    let daemon = Daemon::start().await;
    assert_eq!(status(&daemon, "GET", PATH, "", Value::Null).await, 401);
    assert_eq!(status(&daemon, "GET", PATH, &daemon.register("ann").await, Value::Null).await, 403);
    // The delegated token that a service receives for an admin.
    let (echo, shop) = (Echo::start().await, daemon.register("shop-svc").await);
    assert_eq!(daemon.put_instance(&shop, json!({ "url": echo.url })).await.status, 201);
    let answer = daemon.call("GET", "/shop-svc/x", &daemon.admin().await, Value::Null).await.json();
    let head = answer["head"].as_str().unwrap();
    let line = head.split("\r\n").find(|line| line.to_lowercase().starts_with("authorization: ")).unwrap();
    let delegated = line.rsplit(' ').next().unwrap();
    let refused = daemon.call("GET", PATH, delegated, Value::Null).await;
    assert_eq!(refused.json()["code"], "access.not_delegated", "{}", refused.text);
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let daemon = Daemon::start().await;
    let (thief, own) = (daemon.admin().await, token_of(&daemon.login("openorch", "changeme", "own").await));
    let mut stolen = EventStream::start(&daemon, &thief, "").await;
    let mut kept = EventStream::start(&daemon, &own, "").await;
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &own, json!({ "device": "test" })).await, 200);
    let took = stolen.end().await;
    assert!(took < MAX_DELAY, "{took:?}");
    assert_eq!(status(&daemon, "GET", "/health", "", Value::Null).await, 200);
    while kept.next().await["path"] != "/health" {}
    assert!(!stolen.text.contains("/health"));
}

#[tokio::test]
async fn a_stream_ends_with_the_permission() {
    let daemon = Daemon::start().await;
    let (admin, second) = (daemon.admin().await, daemon.register("second").await);
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&second)), ADMIN, "").await.status, 200);
    let mut following = EventStream::start(&daemon, &second, "").await;
    let path = format!("/user-svc/enroll/unnamed:{}:{ADMIN}", id_of(&second));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    let took = following.end().await;
    assert!(took < MAX_DELAY, "{took:?}");
    assert_eq!(status(&daemon, "GET", PATH, &second, Value::Null).await, 403);
}

#[tokio::test]
async fn a_stop_of_the_daemon_ends_streams_at_its_start_and_says_when_to_connect_again() {
    let mut daemon = Daemon::with_flags(&["--events-reconnect-delay", "1500ms", "--drain", "60s"]).await;
    let mut following = EventStream::start(&daemon, &daemon.admin().await, "").await;
    assert_eq!(status(&daemon, "GET", "/health", "", Value::Null).await, 200);
    let reading = tokio::spawn(async move {
        let took = following.end().await;
        (took, following)
    });
    let started = Instant::now();
    daemon.restart(&[]).await;
    assert!(started.elapsed() < Duration::from_secs(10), "the drain does not wait for streams");
    let (_, following) = reading.await.unwrap();
    assert!(following.text.ends_with("retry: 1500\n\n"), "{}", following.text);
    assert_eq!(following.reader.retry(), Some(Duration::from_millis(1500)));
    assert!(following.text.contains("/health"), "earlier events were sent");
}

#[tokio::test]
async fn an_idle_stream_says_that_it_stands_and_is_not_taken_for_one_that_nobody_reads() {
    // Shorter than the test's stream: these timeouts are for clients that do not read.
    let daemon = Daemon::with_flags(&[
        "--events-heartbeat-interval",
        "100ms",
        "--http-write-timeout",
        "300ms",
        "--api-body-timeout",
        "1s",
    ])
    .await;
    let mut idle = EventStream::start(&daemon, &daemon.admin().await, "?service=no-such-svc").await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        assert!(idle.read_more().await, "the stream was closed");
    }
    let comments = idle.text.matches(":\n\n").count();
    assert!(comments >= 5 && comments * 3 == idle.text.len(), "{comments}: {}", idle.text);
}

#[tokio::test]
async fn streams_are_bounded_by_account_and_those_of_clients_that_left_are_free() {
    let daemon = Daemon::with_flags(&["--events-max-streams-per-account", "2", "--events-max-streams", "3"]).await;
    let (admin, second) = (daemon.admin().await, daemon.register("second").await);
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&second)), ADMIN, "").await.status, 200);
    let refusal = async |token: &str, status: u16, code: &str| {
        let refused = daemon.call("GET", PATH, token, Value::Null).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (status, &json!(code)));
        assert!(refused.headers.contains_key("retry-after"));
        refused.error()
    };
    let one = EventStream::start(&daemon, &admin, "").await;
    let _two = EventStream::start(&daemon, &admin, "").await;
    assert!(refusal(&admin, 429, "access.too_many_streams").await.contains("limit of 2 open event streams"));
    let three = EventStream::start(&daemon, &second, "").await;
    assert!(refusal(&second, 503, "access.streams_full").await.contains("limit of 3 open event streams"));
    let open = async || {
        let text = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("openorch_event_streams "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(open().await, 3);
    drop((one, three));
    daemon.until("the slots of disconnected clients are released", async || open().await == 1).await;
    let _again = EventStream::start(&daemon, &second, "").await;
    // A HEAD request uses no slot.
    assert_eq!(daemon.send("HEAD", PATH, &admin, Vec::new(), &[]).await.status, 200);
    daemon.until("HEAD releases its slot", async || open().await == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_who_does_not_read_misses_events_and_holds_no_more_memory() {
    let daemon = Daemon::with_flags(&["--events-max-queue-bytes", "16KiB"]).await;
    let admin = daemon.admin().await;
    let address = daemon.url.trim_start_matches("http://").parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow: TcpStream = socket.connect(address).await.unwrap();
    let head = format!("GET {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {admin}\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b":\n\n\r\n") {
        assert!(slow.read_buf(&mut text).await.unwrap() > 0);
    }
    let memory = async || {
        let text = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("openorch_request_memory_bytes "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let held = memory().await;
    assert!((16 << 10..64 << 10).contains(&held), "the stream's memory is accounted for: {held}");
    // More than the socket buffers can hold.
    let long = format!("/health/{}", "x".repeat(900));
    let asking = (0..8).map(|_| {
        let (url, client) = (format!("{}{long}", daemon.url), reqwest::Client::new());
        tokio::spawn(async move {
            for _ in 0..1500 {
                client.get(&url).send().await.unwrap().bytes().await.unwrap();
            }
        })
    });
    for task in asking.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(memory().await, held);
    // It can continue to read, and learns how many events it missed.
    let (mut reader, mut events) = (EventReader::new(1 << 20), Vec::new());
    let (mut told, mut missed) = (0, 0);
    let mut body = text.split_off(text.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4);
    while told + missed < 12_000 {
        // Decodes the chunks (RFC 9112, 7.1).
        while let Some(end) = body.windows(2).position(|bytes| bytes == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
            if body.len() < end + 2 + size + 2 {
                break;
            }
            reader.read(&body[end + 2..end + 2 + size], &mut events).unwrap();
            body.drain(..end + 2 + size + 2);
        }
        for event in events.drain(..) {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            match event.name.as_str() {
                "missed" => missed += data["count"].as_u64().unwrap(),
                _ => told += u64::from(data["path"] == long.as_str()),
            }
        }
        let read = within(WAIT_TIMEOUT, "the rest", slow.read_buf(&mut body)).await.unwrap();
        assert!(read > 0 || told + missed >= 12_000, "{told} {missed}");
    }
    assert!(missed > 0, "all {told} fit into the buffers");
}

#[tokio::test]
async fn w167_a_stream_is_for_the_caller_alone_also_where_a_delegation_names_the_operation() {
    let daemon = Daemon::start().await;
    let (echo, service) = (Echo::start().await, daemon.register("echo-svc").await);
    assert_eq!(daemon.put_instance(&service, json!({ "url": echo.url })).await.status, 201);
    let admin = daemon.admin().await;
    let delegated = delegated_token(&daemon, "/echo-svc/x", &admin).await;
    let open = json!({ "slug": "echo-svc", "operations": ["monitorRequests", "backup", "getUsers"] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, open).await, 200);
    assert_eq!(status(&daemon, "POST", "/user-svc/users", &delegated, json!({})).await, 200, "the delegation works");
    for (method, path) in [("GET", PATH), ("POST", "/platform-svc/backup")] {
        let refused = daemon.call(method, path, &delegated, Value::Null).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (403, &json!("access.not_delegated")), "{path}");
    }
    echo.stop();
}
