//! Network traffic: the gateway, addresses, queries, bodies.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use openorch_test_support::wire::listen;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Daemon, Echo, gzip, status};

/// The complete response to this text, which requests that the connection is closed or is incomplete.
async fn send_raw(daemon: &Daemon, text: &str) -> String {
    let mut stream = TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset counts as the end too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn w14_a_service_gets_neither_its_callers_session_nor_what_was_meant_for_one_hop() {
    let daemon = Daemon::start().await;
    let echo = Echo::start().await;
    let (evil, admin) = (daemon.register("evil-svc").await, daemon.admin().await);
    daemon.put_instance(&evil, json!({ "url": echo.url })).await;
    let head = send_raw(
        &daemon,
        &format!(
            "GET /evil-svc/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {admin}\r\nconnection: close, x-mine\r\n\
             x-mine: one hop\r\nkeep-alive: timeout=9\r\nproxy-authorization: Basic c2VjcmV0\r\nte: gzip\r\nx-other: goes on\r\n\r\n"
        ),
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-other: goes on"), "{head}");
    for dropped in [admin.as_str(), admin.rsplit('.').next().unwrap(), "one hop", "c2VjcmV0", "keep-alive", "te: gzip"]
    {
        assert!(!head.contains(dropped), "{dropped}: {head}");
    }

    // The client follows redirects: the daemon never requests an address that a service names.
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/secrets", inside.local_addr().unwrap());
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let address = listen(move |mut stream, _| {
        let redirect = redirect.clone();
        async move {
            stream.read_head().await;
            stream.send(&redirect).await;
        }
    });
    let sly = daemon.register("sly-svc").await;
    daemon.put_instance(&sly, json!({ "url": format!("http://{}", address.await) })).await;
    let answer = daemon.call("GET", "/sly-svc/x", &admin, Value::Null).await;
    assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (302, target.as_str()));
    let asked = tokio::select! {
        biased;
        _ = inside.accept() => true,
        _ = std::future::ready(()) => false,
    };
    assert!(!asked, "the daemon followed the redirect");

    // Paths without a service are not forwarded.
    for path in ["/", "/?x", "//evil-svc/x"] {
        let answer = daemon.call("GET", path, &admin, Value::Null).await;
        assert!(!answer.text.contains("\"head\""), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn w15_no_instance_is_registered_at_an_address_that_only_the_daemon_may_reach_or_that_is_anothers() {
    let daemon = Daemon::start().await;
    let token = daemon.register("bad-svc").await;
    let own = daemon.url.clone();
    for url in [
        "",
        "ftp://127.0.0.1:21",
        "127.0.0.1:80",
        "http://",
        "http://user@127.0.0.1:80",
        "http://127.0.0.1:80/?q",
        "http://127.0.0.1:80/#f",
        "http://169.254.169.254",
        "http://[fe80::1]:80",
        "http://224.0.0.1",
        "http://0.0.0.0:80",
        "http://[::ffff:169.254.169.254]",
        "http://0251.0376.0251.0376",
        "http://2852039166",
        own.as_str(),
    ] {
        let answer = daemon.put_instance(&token, json!({ "url": url })).await;
        assert_eq!(answer.status, 400, "{url}: {}", answer.text);
    }
    let long = format!("http://127.0.0.1/{}", "a".repeat(3000));
    assert_eq!(daemon.put_instance(&token, json!({ "url": long })).await.status, 400);
    assert!(daemon.instances(&token).await.is_empty());

    // An error names the owner of an address; an admin can resolve the conflict.
    let (echo, shop, admin) = (Echo::start().await, daemon.register("shop-svc").await, daemon.admin().await);
    assert_eq!(daemon.put_instance(&token, json!({ "url": echo.url, "id": "inst_x" })).await.status, 201);
    let refused = daemon.put_instance(&shop, json!({ "url": echo.url })).await;
    assert!(refused.status == 403 && refused.error().contains("bad-svc"), "{}", refused.text);
    assert_eq!(daemon.call("DELETE", "/registry-svc/instance/inst_x", &admin, Value::Null).await.status, 204);
    assert_eq!(daemon.put_instance(&shop, json!({ "url": echo.url })).await.status, 201);
}

#[tokio::test]
async fn w17_no_name_or_value_of_a_query_becomes_sql() {
    let daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let ask = async |body: Value| daemon.call("POST", "/user-svc/users", &admin, body).await;
    let all = ask(json!({ "count": true })).await.json()["count"].clone();
    for attack in [
        "slug' OR '1'='1",
        "slug\" OR \"1\"=\"1",
        "1=1) OR (1=1",
        "slug) UNION SELECT id, hash FROM userSvcPasswords --",
        "slug; DROP TABLE c_userSvcUsers; --",
        "body->>'slug'",
        "json_extract(body, '$.slug')",
        "lower(slug)",
        "slug\u{0}",
        "[slug]",
        "slug/**/",
    ] {
        let values = json!([attack]).to_string();
        let by_field = json!({ "query": { "filters": [{ "op": "equals", "fields": [attack], "jsonValues": "[1]" }] } });
        let by_order = json!({ "query": { "orderBys": [{ "field": attack, "desc": true }] } });
        for body in [by_field, by_order] {
            let answer = ask(body.clone()).await;
            assert_eq!(answer.status, 400, "{body}: {}", answer.text);
            assert!(!answer.text.to_lowercase().contains("syntax"), "{}", answer.text);
        }
        for op in ["equals", "startsWith", "containsSubstring", "intersects", "isInList"] {
            let body = json!({ "query": { "filters": [{ "op": op, "fields": ["slug"], "jsonValues": values }] } });
            let answer = ask(body).await;
            let found = answer.json()["users"].as_array().map_or(0, Vec::len);
            // JSON text with a NUL is rejected.
            let is_taken = answer.status == 200 || (answer.status == 400 && attack.contains('\0'));
            assert!(is_taken && found == 0, "{op} {attack}: {}", answer.text);
        }
        let searched = ask(json!({ "search": attack })).await;
        assert!(searched.json()["users"].as_array().is_none_or(Vec::is_empty), "{attack}: {}", searched.text);
    }
    // The wildcards of LIKE are ordinary characters.
    for (op, value) in [("containsSubstring", "%"), ("startsWith", "_nn"), ("startsWith", "a%")] {
        let filter = json!({ "op": op, "fields": ["slug"], "jsonValues": json!([value]).to_string() });
        let answer = ask(json!({ "query": { "filters": [filter] } })).await.json();
        assert!(answer["users"].as_array().is_none_or(Vec::is_empty), "{value}: {answer}");
    }
    assert_eq!(ask(json!({ "count": true })).await.json()["count"], all);
    assert_eq!(status(&daemon, "POST", "/user-svc/user/by-token", &ann, Value::Null).await, 200);
}

#[tokio::test]
async fn w18_no_body_is_too_large_or_too_slow_for_the_daemon_and_no_cookie_is_ever_credentials() {
    let daemon = Daemon::start().await;
    let post = async |body: Vec<u8>, headers: &[(&str, &str)]| {
        daemon.send("POST", "/user-svc/register", "", body, headers).await.status.as_u16()
    };
    let valid = br#"{"slug":"x-svc","password":"p"}"#.to_vec();
    assert_eq!(post(vec![b' '; (4 << 20) + 1], &[]).await, 413);
    // Decompression bombs: 16 MiB and one byte of spaces.
    let gzipped = gzip(&vec![b' '; (16 << 20) + 1]);
    let brotli = [
        203, 255, 255, 63, 248, 37, 64, 226, 177, 64, 32, 247, 254, 143, 255, 255, 127, 240, 75, 0, 196, 97, 17, 128,
        238, 253, 31, 0, 0, 2, 32, 3,
    ];
    assert_eq!(post(gzipped, &[("content-encoding", "gzip")]).await, 413);
    assert_eq!(post(brotli.to_vec(), &[("content-encoding", "br")]).await, 413);
    assert_eq!(
        post(gzip(&gzip(&valid)), &[("content-encoding", "gzip, gzip")]).await,
        400,
        "only one content coding is accepted"
    );
    let deep = "[".repeat(100_000);
    assert_eq!(post(deep.into_bytes(), &[]).await, 400);

    // Clients that never finish: without any bytes, in the head, in the body.
    let limits =
        ["--api-body-idle-timeout", "100ms", "--http-header-timeout", "100ms", "--http-first-byte-timeout", "100ms"];
    let impatient = Daemon::with_flags(&limits).await;
    assert_eq!(send_raw(&impatient, "").await, "");
    let slow = send_raw(&impatient, "POST /user-svc/register HTTP/1.1\r\nhost: localhost\r\nx-slow").await;
    assert!(slow.is_empty() || slow.starts_with("HTTP/1.1 408"), "{slow}");
    let head = "POST /user-svc/register HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n";
    let slow = send_raw(&impatient, &format!("{head}connection: close\r\n\r\n{{")).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let endless = format!("{head}x-long: {}\r\n\r\n", "y".repeat(80_000));
    assert!(send_raw(&impatient, &endless).await.starts_with("HTTP/1.1 431"));
    assert_eq!(post(valid, &[]).await, 200, "the daemon still serves");

    // CORS allows any origin, but without credentials.
    let admin = daemon.admin().await;
    for method in ["GET", "OPTIONS"] {
        let asked = [("origin", "http://localhost"), ("access-control-request-method", "PUT")];
        let answer = daemon.send(method, "/user-svc/public-key", "", Vec::new(), &asked).await;
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{:?}", answer.headers);
    }
    let cookies = format!("token={admin}; Authorization=Bearer {admin}; session={admin}");
    let answer = daemon.send("GET", "/user-svc/roles", "", Vec::new(), &[("cookie", &cookies)]).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn w134_on_loopback_no_page_in_a_browser_registers_an_account() {
    let daemon = Daemon::start().await;
    // After the default password is changed, pages and proxies can reach the daemon again.
    let admin = daemon.admin().await;
    let change = json!({ "currentPassword": "changeme", "newPassword": "another one" });
    assert_eq!(status(&daemon, "POST", "/user-svc/change-password", &admin, change).await, 200);
    let register = async |slug: &str, headers: &[(&str, &str)]| {
        let body = json!({ "slug": slug, "password": "a long enough one" }).to_string().into_bytes();
        daemon.send("POST", "/user-svc/register", "", body, headers).await
    };
    for headers in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("host", "evil.example:58231"),
        ("x-forwarded-for", "203.0.113.5"),
    ] {
        let refused = register("page", &[headers]).await;
        assert!(refused.status == 403 && refused.error().contains("OPENORCH_REGISTRATION"), "{}", refused.text);
    }
    assert_eq!(register("page", &[("origin", "http://localhost:3000")]).await.status, 200);
    let invited = daemon.call("POST", "/user-svc/invitation", &admin, json!({})).await.json();
    let body =
        json!({ "slug": "invited", "password": "a long enough one", "invitation": invited["invitation"]["code"] })
            .to_string()
            .into_bytes();
    let headers = [("origin", "https://shop.example")];
    assert_eq!(daemon.send("POST", "/user-svc/register", "", body, &headers).await.status, 200);
}

#[tokio::test]
async fn w136_no_spelling_of_a_token_brings_a_session_to_a_service() {
    let daemon = Daemon::start().await;
    let (shop, echo) = (daemon.register("shop-svc").await, Echo::start().await);
    assert_eq!(daemon.put_instance(&shop, json!({ "url": echo.url })).await.status, 201);
    let ann = daemon.register("ann").await;
    let basic = |text: String| format!("Basic {}", BASE64.encode(text));
    for value in
        [basic(format!("user:{ann}")), basic(format!("{ann}:")), format!("Bearer {ann}."), format!("Bearer {ann}A")]
    {
        let answer = daemon.send("GET", "/shop-svc/x", "", Vec::new(), &[("authorization", &value)]).await;
        assert!(answer.status.is_client_error(), "{value}: {}", answer.text);
    }
    for value in ["Basic dXNlcjpwYXNz", "Basic %", "Basic eyJhIjoxfQ.eyJiIjoxfQ.x"] {
        let answer = daemon.send("GET", "/shop-svc/x", "", Vec::new(), &[("authorization", value)]).await;
        assert_eq!(answer.status, 200, "{value}: {}", answer.text);
    }
}

#[tokio::test]
async fn w137_paths_and_queries_of_very_many_parts_are_refused_before_they_are_decoded() {
    let daemon = Daemon::start().await;
    for path in [format!("/health?{}", "a&".repeat(2000)), format!("/user-svc{}", "/a".repeat(2000))] {
        let answer = daemon.call("GET", &path, "", Value::Null).await;
        assert!(answer.status == 400 && answer.error().contains("more"), "{}", answer.text);
    }
}

#[tokio::test]
async fn w185_no_instance_is_registered_at_the_operators_mail_server() {
    let flags = ["--smtp-host", "127.0.0.1", "--smtp-port", "2525", "--smtp-from", "us@example.org"];
    let daemon = Daemon::with_flags(&flags).await;
    let token = daemon.register("bad-svc").await;
    for (authority, status) in [
        ("127.0.0.1:2525", 400),
        ("127.0.0.1:25", 400),
        ("127.0.0.1:587", 400),
        ("[::ffff:127.0.0.1]:2525", 400),
        ("127.0.0.1:2526", 201),
    ] {
        let answer = daemon.put_instance(&token, json!({ "url": format!("http://{authority}") })).await;
        assert_eq!(answer.status, status, "{authority}: {}", answer.text);
        assert!(status == 201 || answer.error().contains("mail server"), "{}", answer.text);
    }
}
