//! Tests of retries (decision "Gateway retries").

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An instance whose first connection answers one request and is reset when the second arrives; later connections answer all
/// requests. Counts the requests that arrived.
async fn resets_on_reuse(seen: Arc<AtomicUsize>) -> std::net::SocketAddr {
    listen(move |mut stream, connection| {
        let seen = seen.clone();
        async move {
            let mut requests = 0;
            while stream.read_message().await.is_some() {
                requests += 1;
                seen.fetch_add(1, SeqCst);
                if connection == 0 && requests == 2 {
                    return stream.reset();
                }
                stream.send(OK).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_get_survives_a_pooled_connection_that_ends_at_reuse() {
    let seen = Arc::new(AtomicUsize::new(0));
    let platform = Platform::in_front_of(resets_on_reuse(seen.clone()).await).await;
    assert_eq!(platform.get("/demo").await.status, 200);
    assert_eq!(platform.get("/demo").await.status, 200);
    assert_eq!(seen.load(SeqCst), 3);
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let platform = Platform::in_front_of(resets_on_reuse(seen.clone()).await).await;
    assert_eq!(platform.ask(&post("/demo", "a=1")).await.status, 200);
    assert_eq!(platform.ask(&post("/demo", "a=1")).await.status, 502);
    assert_eq!(seen.load(SeqCst), 2, "each arrived once");
}

#[tokio::test]
async fn a_connection_that_ended_while_it_was_idle_costs_no_request_of_any_method() {
    let instance = listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.send(OK).await;
        // Dropped: each connection serves one request, without `Connection: close`.
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    for _ in 0..20 {
        assert_eq!(platform.ask(&post("/demo", "x")).await.status, 200);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_connected_to_is_suspected_and_another_is_tried() {
    let mut platform = Platform::start().await;
    let (alive, dead) = (fixed_response(OK).await, "http://127.0.0.1:1");
    platform.publish("demo", &[dead, &format!("http://{alive}")]);
    for _ in 0..20 {
        assert_eq!(platform.ask(&post("/demo", "x")).await.status, 200);
    }
    assert_eq!(within(platform.unreachable_reports.recv()).await.as_deref(), Some(dead));
    platform.publish("demo", &[dead]);
    let answer = platform.get("/demo").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("`demo`"), "{}", answer.body);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_502() {
    for nonsense in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let platform = Platform::in_front_of(fixed_response(nonsense).await).await;
        assert_eq!(platform.get("/demo").await.status, 502, "{nonsense}");
    }
}
