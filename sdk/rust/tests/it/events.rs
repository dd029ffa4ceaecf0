//! Event streams in the client: parsing, reconnection and errors.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use openorch_sdk::{
    ClientFactory, Error, EventStream, StreamItem,
    api::{
        Query,
        platform::{MONITOR_REQUESTS, MonitorRequestsRequest, RequestSeen, StatusClass},
        user::{REVOKE_TOKENS, RevokeTokensRequest},
    },
};
use openorch_test_support::stub::{Stub, json};

use crate::daemon::start;

/// A server that sends these responses in order, and then repeats the last one.
fn scripted_server(answers: Vec<String>) -> Stub {
    let asked = AtomicUsize::new(0);
    Stub::new(move |_| answers[asked.fetch_add(1, SeqCst).min(answers.len() - 1)].clone())
}

fn stream(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

async fn follow(stub: &Stub) -> Result<EventStream<RequestSeen>, Error> {
    let asked = MonitorRequestsRequest { status: Some(StatusClass::ServerError), ..Default::default() };
    ClientFactory::new(&stub.url).unwrap().client().events(MONITOR_REQUESTS, Query(asked)).await
}

#[tokio::test]
async fn events_come_in_order_unknown_ones_are_left_out_and_a_lost_connection_is_made_again() {
    let event = |path: &str| format!("event: request\r\ndata: {{\"path\":\ndata: \"{path}\"}}\n\n");
    let first = format!(
        ":\n\nretry: 120\n{}event: new-kind\ndata: x\n\nevent: missed\ndata: {{\"count\":3}}\n\n{}event: request\ndata: cut",
        event("/a"),
        event("/b")
    );
    let stub = scripted_server(vec![
        stream(&first),
        "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".into(),
        stream(&event("/c")),
        json(403, r#"{"error": "not any more", "code": "access.permission_missing"}"#),
    ]);
    let mut events = follow(&stub).await.unwrap();
    let path = |item: StreamItem<RequestSeen>| match item {
        StreamItem::Event(seen) => seen.path,
        other => panic!("{other:?}"),
    };
    assert_eq!(path(events.next().await.unwrap()), "/a");
    assert_eq!(events.next().await.unwrap(), StreamItem::Missed(3));
    assert_eq!(path(events.next().await.unwrap()), "/b");
    let StreamItem::Interrupted { pause, .. } = events.next().await.unwrap() else { panic!("it ended") };
    assert!((120..=180).contains(&pause.as_millis()), "the delay that the server set: {pause:?}");
    // Cancelled and called again, as in `select!`.
    assert!(tokio::time::timeout(Duration::from_millis(1), events.next()).await.is_err());
    assert_eq!(events.next().await.unwrap(), StreamItem::Resumed);
    assert_eq!(path(events.next().await.unwrap()), "/c");
    assert!(matches!(events.next().await.unwrap(), StreamItem::Interrupted { .. }));
    for _ in 0..2 {
        let error = events.next().await.unwrap_err();
        assert!(error.status() == Some(403) && error.to_string().contains("not any more"), "{error}");
    }
    let seen = stub.requests();
    assert_eq!(seen.len(), 4, "an error response is not retried");
    assert_eq!(seen[0].line(), "GET /platform-svc/requests?status=5xx");
    assert!(seen.iter().all(|request| request.header("accept") == Some("text/event-stream")));
}

#[tokio::test]
async fn what_is_no_stream_of_such_events_is_an_error_that_stays() {
    let refused = follow(&scripted_server(vec![json(401, r#"{"error": "who are you"}"#)])).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { status: 401, .. }), "{refused}");
    let other = follow(&scripted_server(vec![json(200, "{}")])).await.unwrap_err();
    assert!(other.to_string().contains("it is not an event stream"), "{other}");
    let long = format!("data: {}", "x".repeat(2 << 20));
    for (text, words) in
        [("event: request\ndata: x\n\n", "`request` cannot be decoded"), (&long, "limit of 1048576 bytes")]
    {
        let stub = scripted_server(vec![stream(text)]);
        let mut events = follow(&stub).await.unwrap();
        for _ in 0..2 {
            let error = events.next().await.unwrap_err().to_string();
            assert!(error.contains("monitorRequests") && error.contains(words), "{error}");
        }
        assert_eq!(stub.requests().len(), 1);
    }
}

#[tokio::test]
async fn the_daemon_tells_its_requests_and_a_session_that_ended_is_refused() {
    let daemon = start(&[]).await;
    let admin = daemon.admin().await.unwrap();
    let mut events = admin.events(MONITOR_REQUESTS, Query(Default::default())).await.unwrap();
    let joe = daemon.register("joe").await.unwrap();
    joe.call(REVOKE_TOKENS, openorch_sdk::api::Body(RevokeTokensRequest::default())).await.unwrap();
    for operation in ["register", "revokeTokens"] {
        let StreamItem::Event(seen) = events.next().await.unwrap() else { panic!("an event") };
        assert_eq!((seen.operation.as_str(), seen.service.as_str()), (operation, "user-svc"));
    }
    admin.call(REVOKE_TOKENS, openorch_sdk::api::Body(RevokeTokensRequest::default())).await.unwrap();
    let error = loop {
        if let Err(error) = events.next().await {
            break error;
        }
    };
    assert_eq!(error.status(), Some(401), "{error}");
}
