//! Tests of routing, and of the errors of requests without a route (decision "Paths are decoded once", decision
//! "Services without an instance", decision "Forwarding").

use openorch_chassis::routes::{Eligibility, Routes};

use crate::support::*;

#[tokio::test]
async fn a_request_reaches_the_service_its_first_segment_names() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let answer = platform.get("/demo/hello").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("GET /demo/hello HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn what_is_sent_on_is_the_target_byte_for_byte() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for target in [
        "/demo",
        "/demo/",
        "/demo?",
        "/demo/?",
        "/demo/a?b=c&b=%20&d",
        "/demo//x/./y/../z",
        "/demo/%2F%2e%2E/%zz%",
        "/demo/%e4%20;p=1?x=%2F%zz?y",
        "/d%65mo/x",
        "/demo/a:b@c!$&'()*+,;=~",
    ] {
        let answer = platform.get(target).await;
        assert_eq!(answer.body.split(' ').nth(1), Some(target));
    }
}

#[tokio::test]
async fn an_instance_with_a_base_path_gets_it_before_the_target() {
    let instance = echo_server().await;
    let platform = Platform::start().await;
    platform.publish("demo", &[&format!("http://{instance}/base/path/")]);
    for (asked, sent) in [("/demo/x?y=1", "/base/path/demo/x?y=1"), ("/demo?", "/base/path/demo?")] {
        assert_eq!(platform.get(asked).await.body.split(' ').nth(1), Some(sent));
    }
}

#[tokio::test]
async fn a_target_with_its_host_in_it_is_sent_on_without() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let request = "GET http://other.example/demo/x?y HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let answer = platform.ask(request).await;
    assert!(answer.body.starts_with("GET /demo/x?y HTTP/1.1"), "{}", answer.body);
    assert_eq!(header(&answer.body, "x-forwarded-host").unwrap(), "other.example");

    let answer = platform.ask("GET http://h/user-svc/x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.body.starts_with("builtin GET /user-svc/x\n"), "{}", answer.body);
}

#[tokio::test]
async fn a_path_that_names_no_service_is_refused() {
    let platform = Platform::in_front_of(echo_server().await).await;
    for (path, status) in [
        ("//demo/x", 404),
        ("//", 404),
        ("/unknown/x", 404),
        ("/DEMO/x", 404),
        ("/demo%2Fx", 404),
        ("/de%6do%00", 404),
        ("/%ff/x", 400),
    ] {
        let answer = platform.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body.starts_with("{\"error\": \""), "{}", answer.body);
        assert_eq!(answer.header("content-type").unwrap(), "application/json");
    }
    let answer = platform.get("/unk%22nown/x").await;
    assert_eq!(
        answer.body,
        r#"{"error": "no instance of `unk\"nown` is registered; its account registers one with PUT /registry-svc/instance", "code": "gateway.no_such_service"}"#
    );
}

#[tokio::test]
async fn built_in_paths_never_reach_an_instance() {
    let platform = Platform::in_front_of(echo_server().await).await;
    platform.publish("user-svc", &[&format!("http://{}", echo_server().await)]);
    for path in ["/", "/?x", "/user-svc", "/user-svc/login", "/user%2Dsvc/login"] {
        let answer = platform.get(path).await;
        assert!(answer.body.starts_with(&format!("builtin GET {path}\n")), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_service_without_a_ready_instance_is_unavailable_for_now() {
    let platform = Platform::start().await;
    let url = format!("http://{}", echo_server().await);
    assert_eq!(platform.get("/demo").await.status, 404);
    platform.publish_as("demo", &[&url], Eligibility::Ineligible);
    let answer = platform.get("/demo").await;
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("1")));
    assert!(answer.body.contains("`demo`"), "{}", answer.body);
    // The slug stays in the table after all instances were removed.
    platform.publish("demo", &[]);
    assert_eq!(platform.get("/demo").await.status, 503);
    platform.publish_as("demo", &[&url], Eligibility::Fallback);
    assert_eq!(platform.get("/demo").await.status, 200);
    platform.table.load(vec![]);
    assert_eq!(platform.get("/demo").await.status, 404);
}

#[tokio::test]
async fn slow_instances_serve_only_while_no_healthy_one_exists() {
    let slow = fixed_response("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
    let platform = Platform::start().await;
    let slow_url = format!("http://{slow}");
    platform.publish_as("demo", &[&slow_url], Eligibility::Fallback);
    assert_eq!(platform.get("/demo").await.body, "slow");
    let healthy = fixed_response("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhealthy").await;
    let backend = |url: &str, routable| openorch_chassis::routes::Backend {
        instance_id: url.into(),
        url: std::sync::Arc::new(openorch_chassis::outbound::InstanceUrl::parse(url).unwrap()),
        eligibility: routable,
    };
    platform.table.publish(
        "demo",
        vec![backend(&slow_url, Eligibility::Fallback), backend(&format!("http://{healthy}"), Eligibility::Eligible)],
    );
    for _ in 0..20 {
        assert_eq!(platform.get("/demo").await.body, "healthy");
    }
}

#[tokio::test]
async fn requests_spread_over_the_healthy_instances() {
    let one = fixed_response("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1").await;
    let two = fixed_response("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2").await;
    let platform = Platform::start().await;
    platform.publish("demo", &[&format!("http://{one}"), &format!("http://{two}")]);
    let mut client = platform.client().await;
    let mut seen = String::new();
    for _ in 0..60 {
        seen += &client.round_trip(&get("/demo")).await.body;
    }
    assert!(seen.contains('1') && seen.contains('2'), "{seen}");
}

#[tokio::test]
async fn an_instance_that_cannot_be_connected_to_is_a_bad_gateway_and_suspect() {
    let mut platform = Platform::start().await;
    let closed_listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed_listener.local_addr().unwrap());
    drop(closed_listener);
    platform.publish("demo", &[&url]);
    let answer = platform.ask(&post("/demo", "body")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("`demo`"), "{}", answer.body);
    assert_eq!(&*within(platform.unreachable_reports.recv()).await.unwrap(), url);
    // With a reachable instance as well, requests go there, even a POST.
    platform.publish("demo", &[&url, &format!("http://{}", echo_server().await)]);
    for _ in 0..10 {
        assert_eq!(platform.ask(&post("/demo", "body")).await.status, 200);
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_forbidden_address_is_not_dialled() {
    let instance_networks = "private,public".parse().unwrap();
    let dialling = openorch_chassis::outbound::OutboundSettings { instance_networks, ..Default::default() };
    let platform = Platform::dialling(dialling, |_| {}).await;
    let port = echo_server().await.port();
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        platform.publish("demo", &[&format!("http://{host}:{port}")]);
        assert_eq!(platform.get("/demo").await.status, 502, "{host}");
    }
    let url = openorch_chassis::outbound::InstanceUrl::parse(&format!("http://localhost:{port}")).unwrap();
    assert!(platform.outbound.check_registration(&url, "demo").await.is_err());
}

#[tokio::test]
async fn the_daemon_never_dials_itself() {
    let platform = Platform::start().await;
    let port = platform.address.port();
    for own in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        platform.outbound.set_own_addresses(vec![own.parse().unwrap()]);
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{port}");
            platform.publish("demo", &[&url]);
            assert_eq!(platform.get("/demo").await.status, 502, "{host} {own}");
            let url = openorch_chassis::outbound::InstanceUrl::parse(&url).unwrap();
            let refusal = platform.outbound.check_registration(&url, "demo").await.unwrap_err();
            assert!(refusal.contains("this daemon"), "{refusal}");
        }
    }
    // Another port of the same machine is not the daemon.
    platform.publish("demo", &[&format!("http://{}", echo_server().await)]);
    assert_eq!(platform.get("/demo").await.status, 200);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_may_be_registered() {
    let platform = Platform::start().await;
    let url = openorch_chassis::outbound::InstanceUrl::parse("http://no-such-host.invalid:1").unwrap();
    assert!(platform.outbound.check_registration(&url, "demo").await.is_ok());
    platform.publish("demo", &["http://no-such-host.invalid:1"]);
    assert_eq!(platform.get("/demo").await.status, 502);
}

#[tokio::test]
async fn a_request_sent_in_a_circle_is_detected() {
    let platform = Platform::start().await;
    platform.publish("demo", &[&format!("http://{}", platform.address)]);
    let answer = platform.get("/demo/x").await;
    assert_eq!(answer.status, 508);
    assert!(answer.body.contains("`demo`"), "{}", answer.body);
    // Received six times, forwarded five times.
    assert_eq!(platform.metrics.connected.get(), 5);
}

#[tokio::test]
async fn a_service_workers_script_lies_below_the_slug_so_that_it_answers_for_that_alone() {
    let platform = Platform::in_front_of(echo_server().await).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nService-Worker: script\r\n\r\n");
    for path in ["/demo", "/demo?a=/b", "/d%65mo", "/demo;x"] {
        let refused = platform.ask(&ask(path)).await;
        let is_refused = refused.status == 403 && refused.body.contains("service worker");
        assert!(is_refused || refused.status == 404, "{path}: {}", refused.body);
        assert_ne!(platform.get(path).await.status, 403, "{path}: requests without the header are not refused");
    }
    for path in ["/demo/", "/demo/worker.js"] {
        assert_eq!(platform.ask(&ask(path)).await.status, 200, "{path}");
    }
}
