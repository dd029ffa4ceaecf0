//! Tests of streaming in both directions: event streams, large bodies, trailers, upgrades, `Expect` (gateway.md, 4 and 5).

use http::Response;
use http_body_util::{BodyExt, Full};

use crate::support::*;

#[tokio::test]
async fn an_event_reaches_the_client_before_the_next_one_is_written() {
    let instance = listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        stream.send("9\r\ndata: 1\n\n\r\n").await;
        // The second event never follows, so that a buffer in between would delay the first one forever.
        std::future::pending::<()>().await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    client.send(&get("/demo/events")).await;
    let head = within(client.read_head()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(within(client.read_line()).await.unwrap(), "9\r\n");
    assert_eq!(within(client.read_exactly(9)).await.unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn a_large_body_passes_both_ways_whole() {
    let instance = instance(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body))
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let body = "0123456789abcdef".repeat(1 << 19);
    let answer = platform.ask(&post("/demo", &body)).await;
    assert_eq!((answer.status, answer.is_complete, answer.body.len()), (200, true, body.len()));
    assert!(answer.body == body);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let instance = listen(move |mut stream, _| async move {
            stream.read_message().await;
            stream.send(cut).await;
        })
        .await;
        let platform = Platform::in_front_of(instance).await;
        let answer = platform.get("/demo").await;
        assert!(!answer.is_complete, "{answer:?}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let instance = listen(|mut stream, _| async move {
        let request = stream.read_message().await.unwrap();
        let answer = if request.contains("x-sum: 7") { "yes" } else { "no " };
        stream
            .send(&format!("HTTP/1.1 200 OK\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{answer}\r\n0\r\nX-Check: 9\r\n\r\n"))
            .await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let request = "POST /demo HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n";
    let answer = platform.ask(request).await;
    assert!(answer.body.contains("yes") && answer.body.to_lowercase().contains("x-check: 9"), "{answer:?}");
}

#[tokio::test]
async fn trailers_carry_nothing_that_the_head_would_not_be_let_through_with() {
    let instance = listen(|mut stream, _| async move {
        let request = stream.read_message().await.unwrap().to_lowercase();
        let forbidden = ["cookie: a", "x-request-id: forged", "openorch-challenge: 1", "x-forwarded-for: 9", "authorization: b"];
        let found: Vec<_> = forbidden.iter().filter(|name| request.contains(*name)).collect();
        let names = "Clear-Site-Data, Service-Worker-Allowed, Set-Cookie, X-Request-Id, X-Check";
        let trailers = "Clear-Site-Data: *\r\nService-Worker-Allowed: /\r\nSet-Cookie: a=1\r\nX-Request-Id: forged\r\nX-Check: 9";
        let body = format!("{found:?}");
        let length = format!("{:x}", body.len());
        stream
            .send(&format!("HTTP/1.1 200 OK\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n{length}\r\n{body}\r\n0\r\n{trailers}\r\n\r\n"))
            .await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let head = "POST /demo HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
                Trailer: Cookie, X-Request-Id, OpenOrch-Challenge, X-Forwarded-For, Authorization\r\n\r\n1\r\na\r\n0\r\n";
    let trailers =
        "Cookie: a=1\r\nX-Request-Id: forged\r\nOpenOrch-Challenge: 1\r\nX-Forwarded-For: 9.9.9.9\r\nAuthorization: b";
    let answer = platform.ask(&format!("{head}{trailers}\r\n\r\n")).await;
    let body = answer.body.to_lowercase();
    assert!(body.contains("[]") && body.contains("x-check: 9"), "{answer:?}");
    for name in ["clear-site-data: ", "service-worker-allowed: ", "set-cookie: ", "forged"] {
        assert!(!body.contains(name), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let instance = listen(|mut stream, _| async move {
        let head = stream.read_head().await.unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        stream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        while let Some(text) = stream.read_exactly(4).await {
            stream.send(&text.to_uppercase()).await;
        }
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    let answer = client
        .round_trip("GET /demo/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(answer.status, 101);
    assert_eq!(within(client.read_exactly(5)).await.as_deref(), Some("hello"));
    for word in ["ping", "pong"] {
        client.send(word).await;
        assert_eq!(within(client.read_exactly(4)).await.unwrap(), word.to_uppercase());
    }
    assert_eq!(client.buffered(), 0);
}

#[tokio::test]
async fn a_body_behind_expect_is_sent_when_the_instance_wants_it() {
    let instance = listen(|mut stream, _| async move {
        let head = stream.read_head().await.unwrap();
        assert!(head.to_lowercase().contains("expect: 100-continue"), "{head}");
        stream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = stream.read_exactly(5).await.unwrap();
        stream.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}")).await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    client.send("POST /demo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert!(within(client.read_head()).await.unwrap().starts_with("HTTP/1.1 100"));
    client.send("12345").await;
    assert_eq!(client.answer().await.body, "12345");
}

#[tokio::test]
async fn an_instance_that_refuses_needs_no_body() {
    let instance = listen(|mut stream, _| async move {
        stream.read_head().await;
        stream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        stream.is_closed().await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    let request = "POST /demo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let answer = client.round_trip(request).await;
    assert_eq!((answer.status, answer.body.as_str()), (403, "no"));
}

#[tokio::test]
async fn when_the_client_leaves_the_instance_learns_it() {
    let (sender, disconnected) = tokio::sync::oneshot::channel();
    let told = std::sync::Mutex::new(Some(sender));
    let instance = listen(move |mut stream, _| {
        let told = told.lock().unwrap().take();
        async move {
            stream.read_message().await;
            assert!(stream.is_closed().await);
            told.unwrap().send(()).unwrap();
        }
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    client.send(&get("/demo/long")).await;
    // The request must have been forwarded before the client disconnects.
    until("a request that was sent on", || platform.metrics.connected.get() != 0).await;
    drop(client);
    within(disconnected).await.unwrap();
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_has_left() {
    let instance = listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.is_closed().await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    client.send(&get("/demo/long")).await;
    client.shutdown_write().await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_answer_whose_first_chunk_is_badly_framed_is_502_and_an_empty_one_is_empty() {
    for (body, status) in [("zz\r\nhello\r\n0\r\n\r\n", 502), ("-1\r\nhello", 502), ("0\r\n\r\n", 200)] {
        let instance = listen(move |mut stream, _| async move {
            stream.read_message().await;
            stream.send(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
            std::future::pending::<()>().await;
        })
        .await;
        let platform = Platform::in_front_of(instance).await;
        let answer = platform.get("/demo").await;
        assert_eq!((answer.status, answer.is_complete), (status, true), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_does_not_wait_for_a_first_chunk_that_comes_late() {
    let instance = listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let mut client = platform.client().await;
    client.send(&get("/demo/events")).await;
    assert!(within(client.read_head()).await.unwrap().starts_with("HTTP/1.1 200"));
}
