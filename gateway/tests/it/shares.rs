//! Tests of the limits per client and in total: connections, requests, unread responses.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use openorch_chassis::{forwarded::NetworkList, settings::ByteSize};
use openorch_gateway::Settings;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Removes the exemption of loopback, the address of the tests.
fn without_exemption(settings: &mut Settings) {
    settings.http.address_limit_exempt = NetworkList::default();
    // High, so that a test of one limit does not reach the other.
    settings.http.max_connections_per_address = Some(1000);
    settings.http.max_requests_per_address = Some(1000);
}

/// An HTTP/2 client with this initial flow-control window, and the task of its connection.
async fn http2(platform: &Platform, window: Option<u32>) -> (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(platform.address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

#[tokio::test]
async fn one_address_cannot_hold_every_connection() {
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.http.max_connections = 8;
        settings.http.max_connections_per_address = Some(3);
    })
    .await;
    platform.publish("demo", &[&format!("http://{}", fixed_response(OK).await)]);
    let mut held = vec![platform.client().await, platform.client().await, platform.client().await];
    for client in &mut held {
        assert_eq!(client.round_trip(&get("/demo")).await.status, 200);
    }
    assert!(within(platform.client().await.is_closed()).await, "the fourth is closed");
    assert_eq!(platform.metrics.connections_refused.get(), 1);
    held.pop();
    until("a free connection", || platform.metrics.connections.get() <= 2).await;
    assert_eq!(platform.get("/demo").await.status, 200, "a slot is free again");
}

#[tokio::test]
async fn w152_connections_without_a_request_give_way_where_no_place_is_left() {
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.http.max_connections = 3;
    })
    .await;
    platform.publish("demo", &[&format!("http://{}", fixed_response(OK).await)]);
    let slow = listen(|mut stream, _| async move { while stream.read_more().await {} }).await;
    platform.publish("slow", &[&format!("http://{slow}")]);
    let mut busy = platform.client().await;
    busy.send(&get("/slow")).await;
    while platform.metrics.in_flight.get() == 0 {
        tokio::task::yield_now().await;
    }
    let mut silent = vec![platform.client().await, platform.client().await];
    for _ in 0..3 {
        let mut next = platform.client().await;
        assert_eq!(within(next.round_trip(&get("/demo"))).await.status, 200);
        silent.push(next);
    }
    assert!(within(silent[0].is_closed()).await && within(silent[1].is_closed()).await);
    assert_eq!(platform.metrics.in_flight.get(), 1, "the request in progress continues");
    assert!(platform.metrics.connections.get() <= 3);
    drop(busy);
}

#[tokio::test]
async fn requests_in_progress_have_a_total_and_a_share_of_it() {
    let slow = listen(|mut stream, _| async move {
        while let Some(request) = stream.read_message().await {
            if request.contains("/demo/slow") {
                std::future::pending::<()>().await;
            }
            stream.send(OK).await;
        }
    })
    .await;
    for (status, sentence, in_all, of_address) in
        [(503, "OPENORCH_HTTP_MAX_REQUESTS)", 2, 3), (429, "OPENORCH_HTTP_MAX_REQUESTS_PER_ADDRESS", 20, 2)]
    {
        let platform = Platform::with(|settings| {
            without_exemption(settings);
            settings.http.max_requests = in_all;
            settings.http.max_requests_per_address = Some(of_address);
        })
        .await;
        platform.publish("demo", &[&format!("http://{slow}")]);
        let mut held = vec![platform.client().await, platform.client().await];
        for client in &mut held {
            client.send(&get("/demo/slow")).await;
        }
        until("two requests in flight", || platform.metrics.in_flight.get() >= 2).await;
        let refused = platform.get("/demo").await;
        assert_eq!(refused.status, status);
        assert!(refused.body.contains(sentence) && refused.header("retry-after").is_some(), "{}", refused.body);
        drop(held);
        until("no requests in flight", || platform.metrics.in_flight.get() == 0).await;
        assert_eq!(platform.get("/demo").await.status, 200);
    }
}

#[tokio::test]
async fn requests_refused_to_one_address_take_no_place_from_others_and_a_flood_of_them_ends_its_connection() {
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.http.max_requests_per_address = Some(2);
        settings.http.max_requests = 4;
    })
    .await;
    let (mut sender, connection) = http2(&platform, Some(0)).await;
    let ask = || Request::get("http://localhost/user-svc/x").body(Empty::new()).unwrap();
    let mut held = Vec::new();
    for status in [200, 200, 429, 429] {
        let response = within(sender.send_request(ask())).await.unwrap();
        assert_eq!(response.status(), status);
        held.push(response.into_body());
    }
    let now = &platform.metrics;
    assert_eq!((now.in_flight.get(), now.refused_in_flight.get()), (2, 2));
    let mut other = platform.client_from("127.0.0.2").await;
    for _ in 0..3 {
        assert_eq!(other.round_trip(&get("/user-svc/x")).await.status, 200);
    }
    assert!(within(sender.send_request(ask())).await.is_err());
    // With or without an error, the connection was closed.
    let _ = within(connection).await;
    drop(held);
    until("neither requests nor refusals in flight", || {
        platform.metrics.in_flight.get() + platform.metrics.refused_in_flight.get() == 0
    })
    .await;
}

#[tokio::test]
async fn an_untaken_refusal_is_given_up_soon() {
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.http.max_requests_per_address = Some(1);
    })
    .await;
    let (mut sender, _) = http2(&platform, Some(0)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let request = Request::get("http://localhost/user-svc/x").body(Empty::new()).unwrap();
        held.push(within(sender.send_request(request)).await.unwrap());
    }
    until("no refusals in flight", || platform.metrics.refused_in_flight.get() == 0).await;
    assert_eq!(platform.metrics.in_flight.get(), 1, "the response of the admitted request has a longer timeout");
}

/// Short write timeouts, for built-in operations and services.
fn short_write_timeouts(settings: &mut Settings) {
    settings.http.write_timeout = Duration::from_millis(200);
    settings.forward.write_timeout = Duration::from_millis(200);
}

/// An instance that sends a response until the gateway closes the connection.
async fn endless() -> std::net::SocketAddr {
    listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.send("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n").await;
        // Ends when the gateway closes the connection.
        let piece = "x".repeat(1 << 20);
        while stream.send(&piece).await {}
    })
    .await
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_take_is_ended_over_http1() {
    let endless = endless().await;
    let platform = Platform::with(short_write_timeouts).await;
    platform.publish("demo", &[&format!("http://{endless}")]);
    for path in ["/user-svc/large", "/demo"] {
        let before = platform.metrics.stalled.get();
        let mut client = platform.client().await;
        client.send(&get(path)).await;
        until("an answer that stalls", || platform.metrics.stalled.get() != before).await;
        assert!(!within(client.answer()).await.is_complete, "{path}: the response is incomplete");
    }
}

#[tokio::test]
async fn untaken_answers_of_services_have_a_budget() {
    let endless = endless().await;
    // An address may use a tenth of the total; a response holds less than 1 MiB.
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.forward.max_response_memory = ByteSize(11 << 20);
    })
    .await;
    platform.publish("demo", &[&format!("http://{endless}")]);
    let mut clients = [platform.client().await, platform.client().await, platform.client_from("127.0.0.2").await];
    for client in &mut clients {
        client.send(&get("/demo")).await;
    }
    until("an answer that stalls", || platform.metrics.stalled.get() != 0).await;
    until("one request less in flight", || platform.metrics.in_flight.get() != 3).await;
    let now = &platform.metrics;
    assert_eq!((now.stalled.get(), now.in_flight.get()), (1, 2), "responses within the budget continue");
}

#[tokio::test]
async fn an_untaken_stream_of_http2_is_reset_and_the_others_of_its_connection_go_on() {
    let platform = Platform::with(short_write_timeouts).await;
    platform.publish("demo", &[&format!("http://{}", fixed_response(OK).await)]);
    // With a window of one byte hyper accepts a whole frame, most of which stays in its buffer.
    for window in [0, 1] {
        let stalled = platform.metrics.stalled.get();
        let (mut sender, _) = http2(&platform, Some(window)).await;
        let ask = |method: &str, path: &str| {
            Request::builder().method(method).uri(format!("http://localhost{path}")).body(Empty::new()).unwrap()
        };
        let mut held = Vec::new();
        for path in ["/user-svc/x", "/user-svc/large", "/demo"] {
            let response = within(sender.send_request(ask("GET", path))).await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            held.push(response.into_body());
        }
        assert_eq!(platform.metrics.in_flight.get(), 3, "window {window}: all three count");
        // Reading the bodies would enlarge the flow-control windows.
        until("three answers that stall", || platform.metrics.stalled.get() - stalled >= 3).await;
        for mut body in held {
            let mut end = None;
            while end.as_ref().is_none_or(Result::is_ok)
                && let Some(frame) = within(body.frame()).await
            {
                end = Some(frame);
            }
            assert!(end.is_some_and(|frame| frame.is_err()), "window {window}: the stream is reset");
        }
        let response = within(sender.send_request(ask("HEAD", "/user-svc/x"))).await.unwrap();
        assert_eq!(response.status(), 200, "the connection stays open");
    }
}

#[tokio::test]
async fn large_and_small_answers_come_whole_over_http2() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let (mut sender, _) = http2(&platform, None).await;
    for (path, least) in [("/user-svc/x", 10), ("/user-svc/large", 16 << 20), ("/demo", 10), ("/nobody", 10)] {
        let request = Request::builder().uri(format!("http://localhost{path}")).body(Empty::new()).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        let body = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert!(body.len() > least, "{path}: {}", body.len());
    }
    assert_eq!(platform.metrics.in_flight.get(), 0);
}

#[tokio::test]
async fn an_event_stream_may_be_silent_for_longer_than_an_answer_may_be_untaken() {
    let quiet = listen(|mut stream, _| async move {
        stream.read_message().await;
        stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        // Deliberately slow: three times the write timeout.
        tokio::time::sleep(Duration::from_millis(600)).await;
        stream.send("1\r\nb\r\n0\r\n\r\n").await;
    })
    .await;
    let platform = Platform::with(short_write_timeouts).await;
    platform.publish("demo", &[&format!("http://{quiet}")]);
    let answer = platform.get("/demo").await;
    assert_eq!((answer.body.as_str(), answer.is_complete), ("1\r\na\r\n1\r\nb\r\n0\r\n\r\n", true));
}

#[tokio::test]
async fn a_builtin_answer_in_progress_ends_with_the_session_it_is_for() {
    let platform = Platform::with(|_| {}).await;
    let mut lasting = platform.client().await;
    lasting.send(&get("/user-svc/endless?lasting")).await;
    let mut ended = platform.client().await;
    ended.send(&get("/user-svc/endless?ended")).await;
    until("an answer that ends with its session", || platform.metrics.session_ended.get() != 0).await;
    assert!(!within(ended.answer()).await.is_complete);
    assert_eq!(platform.metrics.session_ended.get(), 1);
}

#[tokio::test]
async fn w156_a_session_of_which_nothing_is_known_keeps_no_other_exchange_from_ending() {
    let platform = Platform::start().await;
    let mut lasting = platform.client().await;
    lasting.send(&get("/user-svc/endless?unknowable")).await;
    let mut ended = platform.client().await;
    ended.send(&get("/user-svc/endless?ended")).await;
    until("an answer that ends with its session", || platform.metrics.session_ended.get() != 0).await;
    assert!(!within(ended.answer()).await.is_complete);
    assert_eq!(platform.metrics.session_ended.get(), 1);
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_among_the_connections_and_ends_some_time_after_one_side_did() {
    let instance = listen(|mut stream, _| async move {
        stream.read_head().await;
        stream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let platform = Platform::with(|settings| {
        settings.http.max_connections = 2;
        settings.forward.half_closed_timeout = Duration::from_millis(50);
    })
    .await;
    platform.publish("demo", &[&format!("http://{instance}")]);
    let upgrade = "GET /demo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n";
    let mut tunnels = vec![platform.client().await, platform.client().await];
    for client in &mut tunnels {
        assert_eq!(client.round_trip(upgrade).await.status, 101);
    }
    let mut third = platform.client().await;
    third.send(&get("/user-svc/x")).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), third.read_head()).await.is_err(),
        "both slots are in use"
    );
    // The instance does not respond: without a timeout the slot would never be released.
    tunnels.pop();
    assert!(within(third.read_head()).await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_is_silent_in_the_middle_of_a_body_is_given_up_unless_it_was_answered() {
    let instance = listen(|mut stream, _| async move {
        let head = stream.read_head().await.unwrap();
        if head.contains("/demo/talk") {
            stream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    let platform = Platform::with(|settings| settings.forward.read_timeout = Duration::from_millis(100)).await;
    platform.publish("demo", &[&format!("http://{instance}")]);
    let mut talking = platform.client().await;
    talking.send("POST /demo/talk HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1").await;
    let mut silent = platform.client().await;
    silent.send("POST /demo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1").await;
    assert!(within(silent.is_closed()).await);
    assert!(within(talking.read_head()).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(platform.metrics.stalled.get(), 1);
}

#[tokio::test]
async fn services_leave_an_eighth_of_the_places_to_built_in_operations() {
    let slow = listen(|mut stream, _| async move {
        stream.read_message().await;
        std::future::pending::<()>().await;
    })
    .await;
    let platform = Platform::with(|settings| settings.http.max_requests = 8).await;
    platform.publish("demo", &[&format!("http://{slow}")]);
    let mut held = Vec::new();
    for _ in 0..7 {
        let mut client = platform.client().await;
        client.send(&get("/demo")).await;
        held.push(client);
    }
    until("seven requests in flight", || platform.metrics.in_flight.get() >= 7).await;
    let refused = platform.get("/demo").await;
    assert!(refused.status == 503 && refused.body.contains("requests to services"), "{}", refused.body);
    assert_eq!(platform.get("/user-svc/x").await.status, 200);
}

#[tokio::test]
async fn heads_of_answers_do_not_pile_up_for_a_client_that_reads_nothing() {
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(200 << 10));
    let instance = listen(move |mut stream, _| {
        let large = large.clone();
        async move {
            while stream.read_message().await.is_some() {
                stream.send(&large).await;
            }
        }
    })
    .await;
    let platform = Platform::in_front_of(instance).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(platform.address).await.unwrap();
    // A handwritten HTTP/2 client that never reads, unlike hyper: the preface, then requests in an endless loop.
    let head = [0x82, 0x86, 0x41, 0x01, b'h', 0x44, 0x05, b'/', b'd', b'e', b'm', b'o'];
    let sent = within(async move {
        stream.writable().await.unwrap();
        let mut stream = stream;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        for stream_id in (1u32..20_000).step_by(2) {
            let mut frame = vec![0, 0, head.len() as u8, 0x01, 0x05];
            frame.extend(stream_id.to_be_bytes());
            frame.extend(head);
            if stream.write_all(&frame).await.is_err() {
                return stream_id;
            }
            // Slowly, so that the requests are answered in between.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        u32::MAX
    })
    .await;
    assert!(sent < u32::MAX, "the connection should have been closed");
}

#[tokio::test]
async fn what_goes_on_without_its_client_keeps_its_place() {
    let platform = Platform::with(|settings| settings.http.max_requests = 2).await;
    for n in 0..2 {
        let mut client = platform.client().await;
        client.send(&get("/user-svc/goes-on")).await;
        until("one more request in flight", || platform.metrics.in_flight.get() > n).await;
    }
    until("no connections", || platform.metrics.connections.get() == 0).await;
    assert_eq!(platform.metrics.in_flight.get(), 2);
    assert_eq!(platform.get("/user-svc/x").await.status, 503);
}

#[tokio::test]
async fn a_body_whose_answer_is_over_keeps_its_place_and_ends_soon() {
    let instance = listen(|mut stream, _| async move {
        stream.read_head().await;
        stream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        std::future::pending::<()>().await;
    })
    .await;
    for (linger, ends) in [(Duration::from_secs(3600), false), (Duration::from_millis(100), true)] {
        let platform = Platform::with(|settings| settings.forward.linger_timeout = linger).await;
        platform.publish("demo", &[&format!("http://{instance}")]);
        let mut client = platform.client().await;
        client.send("POST /demo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n0123456789").await;
        assert_eq!(within(client.answer()).await.status, 200);
        match ends {
            true => {
                assert!(within(client.is_closed()).await);
                until("no requests in flight", || platform.metrics.in_flight.get() == 0).await;
            }
            false => assert_eq!(platform.metrics.in_flight.get(), 1),
        }
    }
}

#[tokio::test]
async fn w153_requests_given_up_at_once_open_and_cut_so_many_connections_of_a_service_and_no_more() {
    let platform = Platform::with(without_exemption).await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let slow = listen(move |mut stream, _| {
        let _ = arrived.send(());
        async move { while stream.read_more().await {} }
    })
    .await;
    platform.publish("slow", &[&format!("http://{slow}")]);
    platform.publish("demo", &[&format!("http://{}", fixed_response(OK).await)]);
    let (mut sender, _connection) = http2(&platform, None).await;
    let ask = |path: &str| Request::get(format!("http://h/{path}")).body(Empty::<Bytes>::new()).unwrap();
    // A twentieth of the limit of 1000.
    for _ in 0..50 {
        let asked = sender.send_request(ask("slow"));
        tokio::select! {
            _ = asked => panic!("it never answers"),
            arrived = arrivals.recv() => assert!(arrived.is_some()),
        }
    }
    let refused = async {
        loop {
            // The last abandoned request may not have been detected yet.
            let asked = sender.send_request(ask("slow"));
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(20), asked).await {
                return answer.unwrap();
            }
        }
    };
    let answer = within(refused).await;
    assert_eq!(answer.status(), 429);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("abandoned within a second"), "{text:?}");
    assert_eq!(sender.send_request(ask("user-svc/x")).await.unwrap().status(), 200, "built-in operations still work");
    let again = async { while sender.send_request(ask("demo")).await.unwrap().status() != 200 {} };
    within(again).await;
}

/// Makes loopback a trusted proxy, and the number of requests of each of its clients two.
fn behind_proxy(settings: &mut Settings) {
    without_exemption(settings);
    settings.http.trusted_proxies = "127.0.0.1".parse().unwrap();
    settings.http.max_requests_per_address = Some(2);
}

#[tokio::test]
async fn w182_tunnels_count_among_the_requests_of_their_client() {
    let instance = listen(|mut stream, _| async move {
        stream.read_head().await;
        stream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n").await;
        while stream.read_more().await {}
    })
    .await;
    let platform = Platform::with(behind_proxy).await;
    platform.publish("demo", &[&format!("http://{instance}")]);
    let mut held = Vec::new();
    for (client, status) in [("203.0.113.5", 101), ("203.0.113.5", 101), ("203.0.113.5", 429), ("203.0.113.6", 101)] {
        let mut tunnel = platform.client().await;
        let upgrade = format!(
            "GET /demo HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"
        );
        assert_eq!(tunnel.round_trip(&upgrade).await.status, status, "{client}");
        held.push(tunnel);
    }
    until("three tunnels", || platform.metrics.in_flight.get() == 3).await;
    drop(held);
    until("no requests in flight", || platform.metrics.in_flight.get() == 0).await;
}

#[tokio::test]
async fn w183_unread_responses_of_one_proxied_client_do_not_end_those_of_another() {
    let endless = endless().await;
    // The proxy may use 8 MiB, each of its clients 1.1 MiB; a response holds 1 MiB.
    let platform = Platform::with(|settings| {
        behind_proxy(settings);
        settings.forward.max_response_memory = ByteSize(11 << 20);
    })
    .await;
    platform.publish("demo", &[&format!("http://{endless}")]);
    let mut held = Vec::new();
    for client in ["203.0.113.6", "203.0.113.5", "203.0.113.5"] {
        let mut reader = platform.client().await;
        reader.send(&format!("GET /demo HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\n\r\n")).await;
        held.push(reader);
    }
    until("an answer that ends", || platform.metrics.stalled.get() != 0).await;
    until("two requests in flight", || platform.metrics.in_flight.get() == 2).await;
    assert_eq!(platform.metrics.stalled.get(), 1);
}

#[tokio::test]
async fn w184_large_request_heads_that_wait_for_a_service_are_budgeted() {
    let silent = listen(|mut stream, _| async move { while stream.read_more().await {} }).await;
    // An address may use 1.1 MiB, which is six heads of 60 KB.
    let platform = Platform::with(|settings| {
        without_exemption(settings);
        settings.forward.max_response_memory = ByteSize(11 << 20);
    })
    .await;
    platform.publish("demo", &[&format!("http://{silent}")]);
    let fields = format!("X-Large: {}\r\n", "x".repeat(1000)).repeat(60);
    let large = format!("GET /demo HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let mut held = vec![platform.client_from("127.0.0.2").await, platform.client().await];
    held[0].send(&large).await;
    held[1].send(&get("/demo")).await;
    for _ in 0..8 {
        let mut client = platform.client().await;
        client.send(&large).await;
        held.push(client);
    }
    until("ten requests in flight", || platform.metrics.in_flight.get() == 10).await;
    until("two requests that end", || platform.metrics.in_flight.get() == 8).await;
    assert_eq!(platform.metrics.stalled.get(), 2);
}
