//! What the client sends, and how it handles valid, invalid and foreign responses.

use openorch_sdk::{
    Client, ClientFactory, Error, SdkSettings,
    api::{
        Body, Json, NoContent, Path, Query,
        registry::{self, LIST_INSTANCES, LIST_NODES, ListInstancesRequest, ListNodesRequest, REMOVE_INSTANCE},
        user::{
            CREATE_ORGANIZATION, CreateOrganizationRequest, IS_AUTHORIZED, LOGIN, LoginRequest, PermissionId,
            READ_USER_BY_TOKEN, SAVE_SELF, SaveSelfRequest,
        },
    },
    http::{HeaderMap, Method},
};
use openorch_test_support::{
    free_address, gate,
    stub::{self, Stub, json},
};

fn client(stub: &Stub) -> Client {
    ClientFactory::new(&stub.url).unwrap().client()
}

#[tokio::test]
async fn a_call_is_path_query_body_and_the_callers_token() {
    let stub = Stub::new(|request| match request.method.as_str() {
        "DELETE" => "HTTP/1.1 204 X\r\n\r\n".into(),
        "GET" => json(200, r#"{"instances":[{"id":"inst_1","url":"http://a","status":"Healthy","unknown":1}]}"#),
        _ => json(200, "{}"),
    });
    let client = client(&stub).with_token("t0k").unwrap().with_header("X-App", "shop").unwrap();
    let Json(list) = client
        .call(LIST_INSTANCES, Query(ListInstancesRequest { slug: Some("a b".into()), ..Default::default() }))
        .await
        .unwrap();
    assert_eq!(list.instances[0].id, "inst_1");
    let removed = client.call(REMOVE_INSTANCE, Path(registry::InstanceId("a/b".into()))).await.unwrap();
    assert_eq!(removed, NoContent);
    let permission = Path(PermissionId("user-svc:role:view".into()));
    client.call(IS_AUTHORIZED, (permission, Body(Default::default()))).await.unwrap();
    client.call(LIST_NODES, Body(ListNodesRequest { ids: vec!["n".into()] })).await.unwrap();
    client.call(READ_USER_BY_TOKEN, ()).await.unwrap();

    let seen = stub.requests();
    let lines: Vec<_> = seen.iter().map(|request| (request.line(), request.body.as_str())).collect();
    let expected = [
        ("GET /registry-svc/instances?slug=a%20b", ""),
        ("DELETE /registry-svc/instance/a%2Fb", ""),
        ("POST /user-svc/permission/user-svc%3Arole%3Aview/is-authorized", "{}"),
        ("POST /registry-svc/nodes", r#"{"ids":["n"]}"#),
        ("POST /user-svc/user/by-token", ""),
    ];
    assert_eq!(lines, expected.map(|(line, body)| (line.to_owned(), body)));
    for request in &seen {
        assert_eq!(request.header("authorization"), Some("Bearer t0k"));
        assert_eq!(request.header("openorch-extended"), Some("1"));
        assert_eq!(request.header("x-app"), Some("shop"));
        assert_eq!(request.connection, 0, "all calls share one connection");
    }
    assert_eq!(seen[3].header("content-type"), Some("application/json"));
    assert_eq!(seen[4].header("content-type"), None);
}

#[tokio::test]
async fn the_token_of_an_incoming_request_is_passed_on_and_never_an_older_one() {
    let stub = Stub::new(|_| json(200, "{}"));
    let mut incoming = HeaderMap::new();
    incoming.insert("authorization", "Bearer theirs".parse().unwrap());
    let own = client(&stub).with_token("own").unwrap();
    own.clone().with_forwarded_token(&incoming).call(READ_USER_BY_TOKEN, ()).await.unwrap();
    own.with_forwarded_token(&HeaderMap::new()).call(READ_USER_BY_TOKEN, ()).await.unwrap();
    let tokens: Vec<_> =
        stub.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(tokens, [Some("Bearer theirs".to_owned()), None]);
}

#[tokio::test]
async fn a_refusal_is_the_servers_sentence_with_its_request_id() {
    let stub = Stub::new(|_| {
        json(403, r#"{"error": "account `x` lacks the permission", "code": "access.permission_missing"}"#)
    });
    let error = client(&stub).call(LIST_NODES, Body(ListNodesRequest::default())).await.unwrap_err();
    let expected = Error::Refused {
        operation: "listNodes".into(),
        status: 403,
        code: Some("access.permission_missing".into()),
        message: "account `x` lacks the permission".into(),
        retry_after: None,
        request_id: Some("req-1".into()),
    };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "listNodes: account `x` lacks the permission (403) [request req-1]");
}

#[tokio::test]
async fn answers_that_are_not_ours_are_named() {
    let html = "<html><body>It works!</body></html>";
    for (answer, status, words) in [
        (json(200, html), 200, "HTML page"),
        (json(502, html), 502, "HTML page"),
        (json(500, "Internal Server Error"), 500, "the body is `Internal Server Error`"),
        (json(200, ""), 200, "the body is empty"),
        (json(200, r#"{"nodes":["#), 200, "the body is not valid"),
        (json(200, r#"{"nodes":[{"id":1}]}"#), 200, "the body is not valid"),
        (
            "HTTP/1.1 302 X\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n".into(),
            302,
            "elsewhere",
        ),
        ("HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\n{}".into(), 404, "the error response has no `error`"),
    ] {
        let shown = answer.clone();
        let stub = Stub::new(move |_| answer.clone());
        let error = client(&stub).call(LIST_NODES, Body(ListNodesRequest::default())).await.unwrap_err();
        assert!(
            matches!(&error, Error::Unexpected { operation, .. } if operation == "listNodes"),
            "{shown}: {error:?}"
        );
        assert_eq!(error.status(), Some(status), "{shown}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let stub = Stub::new(|_| "HTTP/1.1 431 X\r\nContent-Length: 0\r\n\r\n".into());
    let error = client(&stub).call(LIST_NODES, Body(ListNodesRequest::default())).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 431, .. }), "an error of the HTTP library has no body: {error:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_taken_for_a_whole_one() {
    let stub = Stub::new(|_| "HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n{}".into());
    let error = client(&stub).request(Method::GET, "/x/hang-up", None).await.unwrap_err();
    assert!(matches!(&error, Error::Unexpected { status: 200, .. }), "{error:?}");
    let stub = Stub::new(|_| String::new());
    let error = client(&stub).request(Method::GET, "/x/hang-up", None).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { was_sent: true, .. }), "{error:?}");
}

#[tokio::test]
async fn a_raw_call_answers_whatever_comes_back() {
    let stub = Stub::new(|_| json(503, r#"{"error":"no instance"}"#));
    let answer = client(&stub).request(Method::POST, "/skeleton-svc/hello?a=1", Some("{}".into())).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.error_message().as_deref()), (503, Some("no instance")));
    assert_eq!(answer.request_id(), Some("req-1"));
    assert_eq!(stub.requests()[0].line(), "POST /skeleton-svc/hello?a=1");
}

#[tokio::test]
async fn reads_wait_for_a_server_that_is_about_to_listen_and_writes_do_not() {
    let address = free_address();
    let client = ClientFactory::new(&format!("http://{address}")).unwrap().client();

    let write = client.call(LOGIN, Body(LoginRequest::default())).await.unwrap_err();
    assert!(matches!(&write, Error::Unreachable { was_sent: false, .. }), "{write:?}");
    assert!(write.to_string().contains(&format!("no response from http://{address}: ")), "{write}");

    let read = tokio::spawn(async move { client.call(READ_USER_BY_TOKEN, ()).await });
    // Long enough for at least one refused connection, which cannot be observed.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let stub = Stub::on(std::net::TcpListener::bind(address).unwrap(), |_| json(200, "{}"));
    read.await.unwrap().unwrap();
    assert_eq!(stub.requests().len(), 1);
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is() {
    assert!(matches!(ClientFactory::new("example.com"), Err(Error::Invalid(_))));
    let client = || ClientFactory::new("http://127.0.0.1:1").unwrap().client();
    assert!(client().with_token("a\nb").is_err());
    assert!(client().with_header("a b", "c").is_err());
    assert!(!format!("{:?}", client().with_token("s3cret").unwrap()).contains("s3cret"));
    assert!(SdkSettings::default().client().unwrap_err().to_string().contains("OPENORCH_URL is not set"));
}

#[tokio::test]
async fn a_read_is_tried_again_when_the_server_asks_for_patience_and_a_write_is_not() {
    let refused = |times: usize| {
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |_: &stub::Request| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            before if before < times => {
                "HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 16\r\n\r\n{\"error\":\"away\"}".to_owned()
            }
            _ => json(200, "{}"),
        }
    };
    for (times, calls, ends) in [(1, 2, None), (2, 3, None), (3, 3, Some(503))] {
        let stub = Stub::new(refused(times));
        let read = client(&stub).call(LIST_NODES, Body(ListNodesRequest::default())).await;
        assert_eq!((read.err().and_then(|error| error.status()), stub.requests().len()), (ends, calls));
    }
    let stub = Stub::new(refused(1));
    let write = client(&stub).call(LOGIN, Body(LoginRequest::default())).await.unwrap_err();
    assert_eq!((write.status(), stub.requests().len()), (Some(503), 1));
    let stub = Stub::new(refused(1));
    let raw = client(&stub).request(Method::GET, "/a-svc/x", None).await.unwrap();
    assert_eq!((raw.status.as_u16(), stub.requests().len()), (503, 1), "a raw call is not retried");
}

#[tokio::test]
async fn a_read_whose_connection_broke_is_sent_again() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let stub = Stub::new(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        // The stub closes the connection without a response.
        0 => panic!("this connection ends here"),
        _ => json(200, "{}"),
    });
    client(&stub).call(READ_USER_BY_TOKEN, ()).await.unwrap();
    assert_eq!(stub.requests().len(), 2);
}

/// The server executes a call once, however often it is sent with the same key.
#[tokio::test]
async fn a_keyed_write_is_tried_again_with_its_key_and_no_other_write_has_one() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let in_flight = r#"{"error":"in progress","code":"repeat.in_flight"}"#;
    let stub = Stub::new(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        // The connection is closed without a response.
        0 => String::new(),
        1 => json(409, in_flight),
        _ => json(200, "{\"organization\":{}}"),
    });
    let own = client(&stub);
    let create = || own.call(CREATE_ORGANIZATION, Body(CreateOrganizationRequest::default()));
    create().await.unwrap();
    create().await.unwrap();
    client(&stub).call(SAVE_SELF, Body(SaveSelfRequest::default())).await.unwrap();
    let keys: Vec<_> = stub.requests().iter().map(|seen| seen.header("idempotency-key").map(str::to_owned)).collect();
    assert_eq!(keys.len(), 5);
    assert!(
        keys[0].as_ref().is_some_and(|key| key.len() == 32) && keys[0] == keys[1] && keys[0] == keys[2],
        "{keys:?}"
    );
    assert!(keys[3].is_some() && keys[3] != keys[0] && keys[4].is_none(), "{keys:?}");
    // Other conflicts are not retried.
    let stub = Stub::new(|_| json(409, r#"{"error":"taken","code":"user.organization_taken"}"#));
    let taken = client(&stub).call(CREATE_ORGANIZATION, Body(CreateOrganizationRequest::default())).await.unwrap_err();
    assert_eq!((taken.status(), stub.requests().len()), (Some(409), 1));
}

/// The client adds the key on its own, so a call must not fail because of it.
#[tokio::test]
async fn a_call_whose_answer_the_server_has_no_room_to_keep_is_made_without_a_key() {
    for (status, code) in
        [(429, "repeat.too_many_keys"), (503, "repeat.answers_full"), (413, "repeat.answer_too_large")]
    {
        let refusal = format!("{{\"error\":\"no room\",\"code\":\"{code}\"}}");
        let count = std::sync::atomic::AtomicUsize::new(0);
        let stub = Stub::new(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => format!(
                "HTTP/1.1 {status} No\r\nretry-after: 3600\r\ncontent-length: {}\r\n\r\n{refusal}",
                refusal.len()
            ),
            _ => json(200, "{\"organization\":{}}"),
        });
        client(&stub).call(CREATE_ORGANIZATION, Body(CreateOrganizationRequest::default())).await.unwrap();
        let keys: Vec<_> = stub.requests().iter().map(|seen| seen.header("idempotency-key").is_some()).collect();
        assert_eq!(keys, [true, false], "{code}");
    }
}

#[tokio::test]
async fn a_slow_server_is_left_when_the_time_is_up() {
    let (_let_go, held) = gate();
    let stub = Stub::new(move |_| {
        held.wait();
        json(200, "{}")
    });
    let (limit, started) = (std::time::Duration::from_millis(200), std::time::Instant::now());
    let error = client(&stub).with_timeout(limit).call(READ_USER_BY_TOKEN, ()).await.unwrap_err();
    assert!(started.elapsed() < limit * 20);
    assert!(matches!(&error, Error::Unreachable { was_sent: true, .. }), "{error:?}");
    let expected = format!("readUserByToken: no response from {}: timed out after 200 ms", stub.url);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_client_can_turn_to_another_address_with_all_it_carries() {
    let (one, other) = (Stub::new(|_| json(200, "{}")), Stub::new(|_| json(200, "{}")));
    let client = client(&one).with_token("t0k").unwrap().with_header("X-App", "shop").unwrap();
    let there = client.with_url(&other.url).unwrap();
    assert_eq!(there.url(), other.url);
    there.call(READ_USER_BY_TOKEN, ()).await.unwrap();
    assert_eq!((one.requests().len(), other.requests()[0].header("x-app")), (0, Some("shop")));
    assert_eq!(other.requests()[0].header("authorization"), Some("Bearer t0k"));
    assert!(there.with_url("https://openorch.example").is_ok());
}

#[tokio::test]
async fn a_server_of_another_version_is_understood_as_far_as_it_can_be() {
    // A response with unknown fields and without known ones.
    let stub = Stub::new(|_| json(200, r#"{"user":{"id":"usr_1","nickname":"J","contacts":[]},"since":"2.0"}"#));
    let Json(answer) = client(&stub).call(READ_USER_BY_TOKEN, ()).await.unwrap();
    assert_eq!((answer.user.id.as_str(), answer.user.slug.as_str()), ("usr_1", ""));
    // A response of another type, and a server without this operation.
    let stub = Stub::new(|_| json(200, r#"{"user":"joe"}"#));
    let error = client(&stub).call(READ_USER_BY_TOKEN, ()).await.unwrap_err();
    assert!(error.to_string().starts_with("readUserByToken: this is not a response of OpenOrch (200)"), "{error}");
    let stub = Stub::new(|_| json(404, r#"{"error":"there is no such path"}"#));
    let error = client(&stub).call(READ_USER_BY_TOKEN, ()).await.unwrap_err();
    assert_eq!(error.to_string(), "readUserByToken: there is no such path (404) [request req-1]");
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused_with_or_without_its_length() {
    let stub = Stub::new(|request| match request.target.as_str() {
        "/length" => json(200, "0123456789"),
        _ => "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n".into(),
    });
    for path in ["/length", "/pieces"] {
        let get = async |limit| client(&stub).with_max_response_bytes(limit).request(Method::GET, path, None).await;
        assert_eq!(get(10).await.unwrap().bytes, "0123456789");
        let error = get(9).await.unwrap_err();
        assert!(error.to_string().contains("the body exceeds the client's limit of 9 bytes"), "{error}");
        assert!(!error.is_temporary());
        let answer = client(&stub).with_max_response_bytes(9).stream(Method::GET, path, None).await.unwrap();
        assert!(answer.read_to_end().await.is_err());
    }
}

#[test]
fn what_an_answer_holds_never_lands_in_a_log() {
    let bytes = r#"{"token":"s3cret"}"#.into();
    let answer = openorch_sdk::Response { status: http_ok(), headers: HeaderMap::new(), bytes };
    assert!(!format!("{answer:?}").contains("s3cret"));
}

fn http_ok() -> openorch_sdk::http::StatusCode {
    openorch_sdk::http::StatusCode::OK
}
