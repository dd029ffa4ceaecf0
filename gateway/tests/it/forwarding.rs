//! Tests of the headers of forwarded requests and responses (decision "Restricted mode", decision "Client address",
//! decision "Shared origin", decision "Forwarding").

use std::sync::atomic::Ordering::SeqCst;

use crate::support::*;

#[tokio::test]
async fn an_instance_is_told_who_asked_for_what() {
    let instance = echo_server().await;
    let platform = Platform::in_front_of(instance).await;
    let sent = platform.get("/demo").await.body;
    for (name, value) in [
        ("host", instance.to_string().as_str()),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
        ("forwarded", "for=127.0.0.1;host=\"shop.example\";proto=http"),
        ("via", "1.1 openorch"),
    ] {
        assert_eq!(header(&sent, name).as_deref(), Some(value), "{sent}");
    }
    assert_eq!(header(&sent, "x-request-id").unwrap().len(), 20);
}

#[tokio::test]
async fn a_second_host_on_one_connection_is_not_mixed_up_with_the_first() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let mut client = platform.client().await;
    for host in ["one.example", "two.example:8080", "one.example"] {
        let request = format!("GET /demo HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let sent = client.round_trip(&request).await.body;
        assert_eq!(header(&sent, "x-forwarded-host").unwrap(), host);
        assert!(header(&sent, "forwarded").unwrap().contains(&format!("\"{host}\"")));
    }
}

#[tokio::test]
async fn what_a_stranger_says_of_itself_is_dropped() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let lies = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-OpenOrch-User: admin\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX_OpenOrch_User: admin\r\nX-Forwarded-Anything: 6\r\n";
    let sent = platform.ask(&format!("GET /demo HTTP/1.1\r\nHost: h\r\n{lies}\r\n")).await.body.to_lowercase();
    for lie in ["6.6.6.6", "evil", "openorch-user", "openorch_user", "x-real-ip", "anything", "https"] {
        assert!(!sent.contains(lie), "{lie}: {sent}");
    }
    assert_eq!(header(&sent, "x-forwarded-for").unwrap(), "127.0.0.1");

    let told = platform.ask(&format!("GET /user-svc HTTP/1.1\r\nHost: h\r\n{lies}\r\n")).await.body;
    assert!(told.contains("client 127.0.0.1 https=false host=Some(\"h\")"), "{told}");
    assert!(!told.contains("6.6.6.6") && !told.contains("openorch-user"), "{told}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let platform = Platform::with(|settings| {
        settings.http.trusted_proxies = "127.0.0.0/8".parse().unwrap();
    })
    .await;
    platform.publish("demo", &[&format!("http://{}", echo_server().await)]);
    let said = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nX-OpenOrch-User: admin\r\nX_Real_IP: 6.6.6.6\r\n";
    let sent = platform.ask(&format!("GET /demo HTTP/1.1\r\nHost: inner\r\n{said}\r\n")).await.body;
    assert_eq!(header(&sent, "x-forwarded-for").unwrap(), "9.9.9.9, 127.0.0.1");
    assert_eq!(header(&sent, "x-forwarded-proto").unwrap(), "https");
    assert_eq!(header(&sent, "x-forwarded-host").unwrap(), "shop.example");
    assert_eq!(header(&sent, "forwarded").unwrap(), "for=9.9.9.9;host=\"shop.example\";proto=https, for=127.0.0.1");
    assert!(!sent.contains("admin") && !sent.contains("6.6.6.6"), "{sent}");
    let told = platform.ask(&format!("GET /user-svc HTTP/1.1\r\nHost: inner\r\n{said}\r\n")).await.body;
    assert!(told.contains("client 9.9.9.9 https=true host=Some(\"shop.example\")"), "{told}");
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_harmless() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let ask =
        async |path: &str, lines: &str| platform.ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await;
    let sent = ask("/demo", "X-Request-Id: abc-123\r\n").await.body;
    assert_eq!(header(&sent, "x-request-id").unwrap(), "abc-123");
    let sent = ask("/demo", "X-Request-Id: abc 123\r\n").await.body;
    assert_ne!(header(&sent, "x-request-id").unwrap(), "abc 123");
    let sent = ask("/demo", "X-Request-Id: a\r\nX-Request-Id: b\r\n").await.body;
    assert_eq!(header(&sent, "x-request-id").unwrap().len(), 20);

    let answer = ask("/user-svc", "X-Request-Id: abc-123\r\n").await;
    assert_eq!(answer.header("x-request-id").unwrap(), "abc-123");
    assert!(answer.body.contains("\nid abc-123\n"));
    let answer = ask("/nothing-here", "X-Request-Id: abc-123\r\n").await;
    assert_eq!((answer.status, answer.header("x-request-id").as_deref()), (404, Some("abc-123")));
}

#[tokio::test]
async fn headers_for_one_hop_end_here_and_all_others_pass() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let lines = "Connection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: secret\r\nTE: gzip, trailers\r\nTraceparent: 00-aa-bb-01\r\nCookie: a=1\r\nX-Twice: 1\r\nX-Twice: 2\r\nUser_Name: bob\r\n";
    let sent = platform.ask(&format!("GET /demo HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).await.body;
    for gone in ["x-mine", "keep-alive", "proxy-connection", "proxy-authorization"] {
        assert_eq!(header(&sent, gone), None, "{sent}");
    }
    for (name, value) in [
        ("te", "trailers"),
        ("traceparent", "00-aa-bb-01"),
        ("cookie", "a=1"),
        ("x-twice", "1 | 2"),
        ("user_name", "bob"),
    ] {
        assert_eq!(header(&sent, name).as_deref(), Some(value), "{sent}");
    }
}

#[tokio::test]
async fn the_connection_header_cannot_take_away_what_matters() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let lines = "Connection: authorization, x-forwarded-for, forwarded, via, host, x-request-id, content-length, cookie\r\nAuthorization: Bearer ours\r\nCookie: a=1\r\nContent-Length: 2\r\n";
    let sent = platform.ask(&format!("POST /demo HTTP/1.1\r\nHost: h\r\n{lines}\r\nhi")).await.body;
    for (name, value) in [
        ("authorization", "Bearer delegated-for-demo"),
        ("x-forwarded-for", "127.0.0.1"),
        ("via", "1.1 openorch"),
        ("cookie", "a=1"),
        ("content-length", "2"),
    ] {
        assert_eq!(header(&sent, name).as_deref(), Some(value), "{sent}");
    }
    assert!(header(&sent, "forwarded").is_some() && header(&sent, "x-request-id").is_some());
    assert!(sent.ends_with("\r\n\r\nhi"), "{sent}");
}

#[tokio::test]
async fn an_answer_comes_back_as_it_was_given() {
    let instance = fixed_response("HTTP/1.1 201 Made It\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nService-Worker-Allowed: /\r\nClear-Site-Data: \"*\"\r\nLocation: /elsewhere\r\n\r\nok").await;
    let platform = Platform::in_front_of(instance).await;
    let answer = platform.get("/demo").await;
    assert!(answer.head.starts_with("HTTP/1.1 201 Made It\r\n"), "{}", answer.head);
    assert_eq!(answer.header("set-cookie").unwrap(), "a=1 | b=2");
    assert_eq!(answer.header("location").unwrap(), "/elsewhere");
    for gone in ["x-mine", "keep-alive", "service-worker-allowed", "clear-site-data"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert_eq!(answer.body, "ok");
}

#[tokio::test]
async fn options_belongs_to_the_service() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let answer = platform.ask("OPTIONS /demo HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\r\n").await;
    assert!(answer.body.starts_with("OPTIONS /demo HTTP/1.1"), "{}", answer.body);
}

#[tokio::test]
async fn a_client_that_speaks_http_1_0_is_served() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let mut client = platform.client().await;
    let answer = client.round_trip("GET /demo HTTP/1.0\r\n\r\n").await;
    assert!(answer.body.starts_with("GET /demo HTTP/1.1\r\n"), "{}", answer.body);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_speaks_http2_from_the_start_is_served() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let stream = tokio::net::TcpStream::connect(platform.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Full<bytes::Bytes>>(executor, io).await.unwrap();
    tokio::spawn(connection);
    for (body, framing) in [("", None), ("hello", Some("content-length: 5"))] {
        let request = http::Request::post("http://shop.example/demo/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(http_body_util::Full::from(body))
            .unwrap();
        let answer = within(sender.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let sent = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let sent = String::from_utf8_lossy(&sent);
        assert!(sent.starts_with("POST /demo/x?y HTTP/1.1\r\n"), "{sent}");
        assert!(sent.contains("\r\ncookie: a=1; b=2\r\n"), "{sent}");
        assert_eq!(header(&sent, "x-forwarded-host").unwrap(), "shop.example");
        assert!(framing.is_none_or(|framing| sent.contains(framing)), "{sent}");
        assert!(sent.ends_with(&format!("\r\n\r\n{body}")), "{sent}");
    }
}

#[tokio::test]
async fn while_the_default_password_stands_strangers_are_refused() {
    let platform = Platform::in_front_of(echo_server().await).await;
    platform.loopback_only.store(true, SeqCst);
    let cases = [
        ("GET /demo HTTP/1.1\r\nHost: localhost:58231\r\n\r\n", 200),
        ("GET /demo HTTP/1.1\r\nHost: app.localhost\r\n\r\n", 200),
        ("GET /demo HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://localhost:3901\r\n\r\n", 200),
        ("GET /demo HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", 200),
        ("GET /demo HTTP/1.0\r\n\r\n", 200),
        ("GET /demo HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 403),
        ("GET /demo HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 403),
        ("GET http://rebound.example/demo HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        ("GET /demo HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n", 403),
        ("GET /demo HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", 403),
        ("OPTIONS /user-svc HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n", 403),
        ("GET /user-svc HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /user-svc HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n", 403),
        ("GET /user-svc HTTP/1.1\r\nHost: localhost\r\nForwarded: for=1.1.1.1\r\n\r\n", 403),
        ("GET /user-svc HTTP/1.1\r\nHost: localhost\r\nForwarded: for=1.1.1.1\r\nVia: 1.1 openorch\r\n\r\n", 403),
        ("GET /demo HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n", 200),
    ];
    for (request, status) in cases {
        let answer = platform.ask(request).await;
        assert_eq!(answer.status, status, "{request}");
        if status == 403 {
            assert!(answer.body.contains("restricted by the test"), "{}", answer.body);
        }
    }
    platform.loopback_only.store(false, SeqCst);
    assert_eq!(platform.ask(cases[5].0).await.status, 200);
}

#[tokio::test]
async fn what_speaks_for_the_whole_origin_is_not_passed_on() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAlt-Svc: h3=\":443\"\r\nStrict-Transport-Security: max-age=9\r\nNEL: {}\r\n\
                  Report-To: {}\r\nReporting-Endpoints: a=\"b\"\r\nClear-Site-Data: \"*\"\r\nService-Worker-Allowed: /\r\n\
                  Shared-Storage-Write: clear\r\nIdP-SignIn-Status: action=signin\r\nX-Own: kept\r\n\r\nok";
    let platform = Platform::in_front_of(fixed_response(answer).await).await;
    let answer = platform.get("/demo").await;
    for name in [
        "alt-svc",
        "strict-transport-security",
        "nel",
        "report-to",
        "reporting-endpoints",
        "clear-site-data",
        "service-worker-allowed",
        "shared-storage-write",
        "idp-signin-status",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-own").as_deref(), Some("kept"));
}

#[tokio::test]
async fn trace_tells_a_service_neither_token_nor_cookie() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let answer = platform
        .ask("TRACE /demo HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ours\r\nAuthorization: Basic x\r\nCookie: a=secret\r\nX-Own: kept\r\n\r\n")
        .await;
    let told = answer.body.to_lowercase();
    assert!(answer.status == 200 && told.contains("x-own: kept"), "{told}");
    assert!(!told.contains("authorization") && !told.contains("cookie") && !told.contains("delegated"), "{told}");
}
