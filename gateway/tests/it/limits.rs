//! Tests of the limits on size and time of requests (decision "Limits"), and of framing (decision "Forwarding").

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn heads_up_to_the_promise_pass_and_larger_ones_are_refused() {
    let platform = Platform::in_front_of(fixed_response(OK).await).await;
    let with = |fields: String| format!("GET /demo HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let large = |bytes: usize| format!("x-large: {}\r\n", "y".repeat(bytes));
    assert_eq!(platform.ask(&with(many(85))).await.status, 200);
    assert_eq!(platform.ask(&with(many(150))).await.status, 431);
    assert_eq!(platform.ask(&with(large(16_000))).await.status, 200);
    assert_eq!(platform.ask(&with(large(80_000))).await.status, 431);
    let long = |bytes: usize| format!("GET /demo/{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(bytes));
    assert_eq!(platform.ask(&long(30_000)).await.status, 200);
    assert_eq!(platform.ask(&long(40_000)).await.status, 414);
}

#[tokio::test]
async fn a_silent_or_slow_client_is_let_go() {
    let short = Duration::from_millis(150);
    let platform = Platform::with(|settings| {
        settings.http.first_byte_timeout = short;
        settings.http.header_timeout = short;
        settings.http.keepalive_timeout = short;
    })
    .await;
    platform.publish("demo", &[&format!("http://{}", fixed_response(OK).await)]);
    let mut silent = platform.client().await;
    assert!(within(silent.is_closed()).await);
    let mut slow = platform.client().await;
    slow.send("GET /demo HTTP/1.1\r\nHo").await;
    while within(slow.read_more()).await {}
    let mut idle = platform.client().await;
    assert_eq!(idle.round_trip(&get("/demo")).await.status, 200);
    assert!(within(idle.is_closed()).await);
}

#[tokio::test]
async fn ambiguous_framing_never_reaches_an_instance_as_two_requests() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let smuggled = "POST /demo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /demo/evil HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut client = platform.client().await;
    let answer = client.round_trip(smuggled).await;
    if answer.status == 200 {
        assert!(!answer.body.to_lowercase().contains("content-length"), "{}", answer.body);
        assert!(client.is_closed().await, "the connection is closed afterwards");
    } else {
        assert_eq!(answer.status, 400);
    }
    for bad in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: +1",
        "Content-Length: -1",
        "Transfer-Encoding : chunked",
    ] {
        let status = platform.ask(&format!("POST /demo HTTP/1.1\r\nHost: h\r\n{bad}\r\n\r\n0\r\n\r\n")).await.status;
        assert!([400, 501].contains(&status), "{bad}: {status}");
    }
}

#[tokio::test]
async fn whoever_sends_a_body_that_nobody_wants_still_reads_why() {
    let platform = Platform::start().await;
    // Much more than the socket buffers hold, and sent completely before anything is read, as many clients do.
    let body = "x".repeat(20 << 20);
    for (path, status) in [("/nobody-svc/upload", 404), ("/user-svc/upload", 200)] {
        let mut client = platform.client().await;
        client.send(&post(path, &body)).await;
        assert_eq!(within(client.answer()).await.status, status, "{path}");
        let again = within(client.round_trip(&get("/nobody-svc"))).await;
        assert_eq!(again.status, 404, "the connection stays open");
    }
}

#[tokio::test]
async fn a_body_without_end_that_nobody_wants_is_cut() {
    let platform = Platform::start().await;
    let mut client = platform.client().await;
    client.send("POST /nobody-svc HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n").await;
    assert_eq!(within(client.answer()).await.status, 404);
    let mut stream = client.into_inner();
    let piece = vec![0; 1 << 20];
    let sending = async {
        let mut sent = 0_u64;
        while stream.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        sent
    };
    let sent = within(sending).await;
    assert!((64..200).contains(&sent), "{sent} MiB");
}

#[tokio::test]
async fn after_an_unknown_transfer_coding_nothing_more_is_read_from_the_connection() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let mut client = platform.client().await;
    let request = "POST /demo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /demo/evil HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = client.round_trip(request).await;
    assert!([400, 501].contains(&answer.status), "{answer:?}");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(within(client.is_closed()).await);
}

#[tokio::test]
async fn a_host_is_a_name_or_an_address_with_an_optional_port() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for (host, status) in [
        ("shop.example", 200),
        ("shop.example:80", 200),
        ("shop.example:", 200),
        ("[::1]:80", 200),
        ("a_b.example", 200),
        ("", 200),
        ("name:notaport", 400),
        ("name:99999", 400),
        ("name:80:80", 400),
        ("user@name", 400),
        ("na me", 400),
        ("name/path", 400),
    ] {
        let answer = platform.ask(&format!("GET /demo HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{host:?}");
    }
}
