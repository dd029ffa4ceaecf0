//! Observability: the metrics, the warning about requests that no instance answered, and the access log.

use std::{collections::BTreeSet, io::Read, process::Stdio};

use serde_json::{Value, json};

use crate::{
    process::{command, run},
    support::{Daemon, Echo, id_of, status},
};

async fn metrics(daemon: &Daemon, admin: &str) -> String {
    let answer = daemon.call("GET", "/metrics", admin, Value::Null).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    answer.text
}

/// Request count of a service in a status class.
fn requests(text: &str, service: &str, class: &str) -> Option<u64> {
    let start = format!("openorch_gateway_request_duration_seconds_count{{service=\"{service}\",status=\"{class}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(start.as_str()))?.parse().ok()
}

#[tokio::test]
async fn every_metric_has_its_help_its_type_and_a_conventional_name() {
    let daemon = Daemon::start().await;
    let text = metrics(&daemon, &daemon.admin().await).await;
    let (mut names, mut family, mut kind) = (BTreeSet::new(), "", "");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(help.len() > 10 && help.ends_with('.') && !help.ends_with(".."), "{line}");
            assert!(names.insert(name), "{name} appears twice");
            family = name;
            let of_type = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).expect("a type after the help");
            kind = of_type.strip_prefix(name).unwrap().trim();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
            continue;
        }
        let sample = line.split(['{', ' ']).next().unwrap();
        let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(ends.iter().any(|end| sample.strip_suffix(end) == Some(family)), "{line} does not belong to {family}");
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
    }
    assert!(text.contains(&format!("openorch_build_info{{version=\"{}\"}} 1", openorch::VERSION)));
    let process = ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds", "threads"];
    for name in process.iter().filter(|_| cfg!(target_os = "linux")) {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
        assert!(line.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0), "process_{name}: {line:?}");
    }
}

#[tokio::test]
async fn a_service_has_series_until_its_account_is_deleted_and_unknown_slugs_share_one() {
    let daemon = Daemon::with_flags(&["--registry-node-heartbeat-interval", "1h"]).await;
    let (echo, service, admin) = (Echo::start().await, daemon.register("timed-svc").await, daemon.admin().await);
    assert_eq!(daemon.put_instance(&service, json!({ "url": echo.url })).await.status, 201);
    assert_eq!(requests(&metrics(&daemon, &admin).await, "timed-svc", "2xx"), None);
    for _ in 0..3 {
        assert_eq!(status(&daemon, "GET", "/timed-svc/x", &service, Value::Null).await, 200);
    }
    for n in 0..5 {
        assert_eq!(status(&daemon, "GET", &format!("/unknown-{n}-svc/x"), "", Value::Null).await, 404);
    }
    echo.stop();
    assert!(status(&daemon, "GET", "/timed-svc/x", "", Value::Null).await >= 502);
    let text = metrics(&daemon, &admin).await;
    assert_eq!(requests(&text, "timed-svc", "2xx"), Some(3), "{text}");
    assert_eq!(requests(&text, "timed-svc", "5xx"), Some(1), "{text}");
    assert_eq!(requests(&text, "(unknown)", "4xx"), Some(5), "{text}");
    assert!(!text.contains("unknown-1-svc"), "{text}");
    assert!(text.contains(r#"openorch_gateway_requests_total{outcome="forwarded"} 3"#), "{text}");

    let path = format!("/user-svc/user/{}", id_of(&service));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    let is_gone = async || !metrics(&daemon, &admin).await.contains("timed-svc");
    daemon.until("the series of a deleted service are gone", is_gone).await;
}

/// Standard error of a daemon with these settings while `work` runs.
async fn log_of<F: Future<Output = ()>>(settings: &[(&str, &str)], work: impl FnOnce(String) -> F) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let mut process = run(command.envs(settings.iter().copied()).stderr(Stdio::piped()));
    work(process.url.clone()).await;
    process.terminate();
    let mut log = String::new();
    process.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    log
}

/// Sends a request with this request id; returns its status and text.
async fn send(url: &str, method: &str, path: &str, token: &str, id: &str, body: Value) -> (u16, String) {
    let http = reqwest::Client::new();
    let request = http.request(method.parse().unwrap(), format!("{url}{path}")).header("x-request-id", id);
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    let request = if body.is_null() { request } else { request.body(body.to_string()) };
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Registers `down-svc` with an instance that answers once, stops it, and sends twenty more requests. Returns the
/// token.
async fn send_failing_requests(url: &str) -> String {
    let account = json!({ "slug": "down-svc", "name": "d", "password": "a-password-in-a-body" });
    let (_, text) = send(url, "POST", "/user-svc/register", "", "registers", account).await;
    let token = serde_json::from_str::<Value>(&text).unwrap()["token"]["token"].as_str().unwrap().to_owned();
    let echo = Echo::start().await;
    let instance = json!({ "id": "inst-1", "url": echo.url });
    assert_eq!(send(url, "PUT", "/registry-svc/instance", &token, "puts", instance).await.0, 201);
    assert_eq!(send(url, "GET", "/down-svc/some-path?q=a-query", &token, "forwards", Value::Null).await.0, 200);
    echo.stop();
    for n in 0..20 {
        let status =
            send(url, "GET", "/down-svc/some-path?q=a-query", &token, &format!("burst-{n}"), Value::Null).await.0;
        assert!([502, 503].contains(&status), "{status}");
    }
    token
}

#[tokio::test]
async fn requests_that_no_instance_answers_are_one_line_a_minute_for_each_service() {
    let mut token = String::new();
    let log = log_of(&[], async |url: String| token = send_failing_requests(&url).await).await;
    let warnings = log.lines().filter(|line| line.contains(" WARN ") && line.contains("down-svc"));
    let lines: Vec<&str> = warnings.collect();
    let [line] = lines[..] else { panic!("not one line: {log}") };
    for part in
        [" WARN ", "status=502", "service=\"down-svc\"", "instance.id=\"inst-1\"", "instance.address=\"127.0.0.1:"]
    {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    for part in ["request.id=\"burst-0\"", "cause=", "cannot connect to an instance of `down-svc`"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    for secret in [token.as_str(), "some-path", "a-query", "a-password"] {
        assert!(!log.contains(secret), "{secret} is in {log}");
    }
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_sampled_request_and_no_secret() {
    let mut token = String::new();
    let log =
        log_of(&[("OPENORCH_HTTP_ACCESS_LOG", "1")], async |url: String| token = send_failing_requests(&url).await)
            .await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" access ")).collect();
    assert_eq!(lines.len(), 23, "{log}");
    let line_of = |id: &str| {
        let id = format!("request.id=\"{id}\"");
        *lines.iter().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("no {id} in {log}"))
    };
    for (id, parts) in [
        ("registers", &["method=\"POST\"", "path=\"/user-svc/register\"", "status=200", "operation=\"register\""][..]),
        ("puts", &["operation=\"registerInstance\"", "status=201", "caller=\"down-svc\"", "client.address=127.0.0.1"]),
        ("forwards", &["path=\"/down-svc/some-path\" status=200", "service=\"down-svc\"", "instance.id=\"inst-1\""]),
        ("forwards", &["caller=\"down-svc\"", "duration.ms="]),
        ("burst-7", &["status=50", "service=\"down-svc\""]),
    ] {
        let line = line_of(id);
        parts.iter().for_each(|part| assert!(line.contains(part), "{part} is not in {line}"));
        assert!(!line.contains("bytes=0"), "each request had a body: {line}");
    }
    for secret in [token.as_str(), "a-query", "a-password"] {
        assert!(!log.contains(secret), "{secret} is in {log}");
    }
}

#[tokio::test]
async fn w155_a_line_of_the_access_log_has_the_beginning_of_a_long_method_and_a_long_path() {
    let long = "M".repeat(10_000);
    let log = log_of(&[("OPENORCH_HTTP_ACCESS_LOG", "1")], async |url: String| {
        send(&url, &long, &format!("/{}", "p".repeat(10_000)), "", "long", Value::Null).await;
    })
    .await;
    let line = log.lines().find(|line| line.contains("request.id=\"long\"")).unwrap();
    assert!(line.contains("method=\"MMMM") && line.len() < 1_500, "{}", line.len());
}

#[tokio::test]
async fn at_level_debug_each_request_has_one_span_with_what_came_of_it() {
    let mut token = String::new();
    let log = log_of(&[("OPENORCH_LOG", "debug")], async |url: String| token = send_failing_requests(&url).await).await;
    for (id, start) in [
        ("puts", r#"call{operation="registerInstance" request.id="puts" caller="down-svc" status=201 duration="#),
        (
            "forwards",
            r#"forward{request.id="forwards" service="down-svc" instance="inst-1" caller="down-svc" status=200 duration="#,
        ),
    ] {
        let ends = |line: &&str| line.contains(&format!("request.id=\"{id}\"")) && line.ends_with("responded");
        let lines: Vec<&str> = log.lines().filter(ends).collect();
        assert!(lines.len() == 1 && lines[0].contains(start), "{id}: {lines:?}");
    }
    for secret in [token.as_str(), "some-path", "a-query", "a-password"] {
        assert!(!log.contains(secret), "{secret} is in {log}");
    }
}
