//! Resources that a caller can use: bytes, parsed values, streams, connections. Each has a limit per request, per
//! address and in total, and stalled requests end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    process::{Process, command, run},
    support::{Answer, Daemon, admin_behind_a_proxy, gzip},
};

async fn post(daemon: &Daemon, path: &str, token: &str, body: Vec<u8>, coding: &str) -> Answer {
    let headers: &[_] = if coding.is_empty() { &[] } else { &[("content-encoding", coding)] };
    daemon.send("POST", path, token, body, headers).await
}

/// `{"a":[{"":0},…]}` with `count` objects, each of which takes hundreds of bytes when parsed.
fn many_objects(count: usize) -> Vec<u8> {
    format!("{{\"a\":[{}]}}", vec!["{\"\":0}"; count].join(",")).into_bytes()
}

/// The value of a metric without labels.
async fn metric(daemon: &Daemon, admin: &str, name: &str) -> u64 {
    let text = daemon.call("GET", "/metrics", admin, Value::Null).await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// A request of which only the first part of the body is sent.
async fn start_upload(daemon: &Daemon, headers: &str, announced: usize, sent: usize) -> TcpStream {
    start_upload_to(daemon, "/user-svc/register", headers, announced, sent).await
}

async fn start_upload_to(daemon: &Daemon, path: &str, headers: &str, announced: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {announced}\r\n\r\n{}",
        " ".repeat(sent)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn w26_a_small_body_becomes_neither_gigabytes_of_values_nor_of_query() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let admin = daemon.admin().await;
    // 2.3 million values in 23 KB of gzip.
    let bomb = post(&daemon, "/user-svc/login", "", gzip(&many_objects(1_150_000)), "gzip").await;
    assert_eq!(bomb.status, 413, "{}", bomb.text);
    let bomb = post(&daemon, "/user-svc/self", &ann, gzip(&many_objects(1_150_000)), "gzip").await;
    assert_eq!(bomb.status, 413, "{}", bomb.text);
    for (path, token, limit) in [("/user-svc/login", "", 10_000), ("/user-svc/self", ann.as_str(), 100_000)] {
        // The root, the list, and an object and a number for each.
        let refused = post(&daemon, path, token, many_objects(limit / 2), "").await;
        assert_eq!(refused.status, 413, "{}", refused.text);
        assert!(refused.error().contains(&limit.to_string()), "{}", refused.text);
        let read = post(&daemon, path, token, many_objects(limit / 2 - 1), "").await;
        assert!([200, 400].contains(&read.status.as_u16()), "{path}: {}", read.text);
    }
    // Bodies of public operations have their own limits, compressed and decompressed.
    let million = vec![b' '; (1 << 20) + 1];
    assert_eq!(post(&daemon, "/user-svc/login", "", million.clone(), "").await.status, 413);
    assert_eq!(post(&daemon, "/user-svc/self", &ann, million.clone(), "").await.status, 200);
    let poor = [&million[..], &many_objects(4000), &million].concat();
    let refused = post(&daemon, "/user-svc/self", &ann, gzip(&poor), "gzip").await;
    assert!(refused.status == 413 && refused.error().contains("100 times"), "{}", refused.text);

    // A filter over many fields counts as many filters, each of which compares all values.
    let values = json!(vec![1; 9_000]).to_string();
    for (fields, values) in [(vec!["slug"; 1_000], "[1,2,3,4,5,6,7,8,9,10,11]"), (vec!["slug"; 100], values.as_str())] {
        let filter = json!({ "op": "isInList", "fields": fields, "jsonValues": values });
        let refused = daemon.call("POST", "/user-svc/users", &admin, json!({ "query": { "filters": [filter] } })).await;
        assert!(refused.status == 400 && refused.error().contains("more than"), "{}", refused.text);
    }
    // Values within a string count too.
    let filter =
        json!({ "op": "equals", "fields": ["slug"], "jsonValues": String::from_utf8(many_objects(200_000)).unwrap() });
    let refused = daemon.call("POST", "/user-svc/users", &admin, json!({ "query": { "filters": [filter] } })).await;
    assert!(refused.status == 400 && refused.error().contains("more than"), "{}", refused.text);
    assert_eq!(metric(&daemon, &admin, "openorch_request_memory_bytes").await, 0);
}

#[tokio::test]
async fn w27_a_body_that_trickles_in_is_ended() {
    use tokio::io::AsyncReadExt;
    let trickle = async |flags: &[&str]| {
        let daemon = Daemon::with_flags(flags).await;
        let stream = start_upload(&daemon, "connection: close\r\n", 1 << 20, 1).await;
        let (mut reading, mut writing) = stream.into_split();
        let drip = tokio::spawn(async move {
            while writing.write_all(b" ").await.is_ok() {
                // Slow on purpose.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let (started, mut answer) = (Instant::now(), Vec::new());
        // The connection stays open for a while, and the rest of the body is discarded.
        let read = async {
            while !answer.ends_with(b"}") && reading.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
        };
        let _ = tokio::time::timeout(Duration::from_secs(8), read).await;
        drip.abort();
        assert!(started.elapsed() < Duration::from_secs(8));
        String::from_utf8_lossy(&answer).into_owned()
    };
    let slow = trickle(&["--api-body-min-rate-grace", "100ms", "--api-body-min-rate", "10000"]).await;
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("10000 bytes per second"), "{slow}");
    let long = trickle(&["--api-body-timeout", "300ms"]).await;
    assert!(long.starts_with("HTTP/1.1 408") && long.contains("not complete after 0.3 s"), "{long}");
}

#[tokio::test]
async fn w28_bodies_in_progress_share_a_budget_and_one_address_a_part_of_it() {
    let daemon = Daemon::with_flags(&[
        "--api-max-request-memory",
        // Public requests have half of it.
        "2000000",
        "--api-max-request-memory-per-address",
        "400000",
        "--api-request-memory-wait",
        "50ms",
        "--trusted-proxies",
        "127.0.0.0/8",
    ])
    .await;
    let admin = admin_behind_a_proxy(&daemon).await;
    let from = async |address: &str, spaces: usize| {
        let headers = [("x-forwarded-for", address)];
        daemon.send("POST", "/user-svc/login", "", vec![b' '; spaces], &headers).await
    };
    assert_eq!(from("192.0.2.1", 200_000).await.status, 400, "there is room");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(start_upload(&daemon, "x-forwarded-for: 192.0.2.1\r\n", 1_000_000, 100_000).await);
    }
    let holds = |bytes: u64| {
        let (daemon, admin) = (&daemon, &admin);
        async move { metric(daemon, admin, "openorch_request_memory_bytes").await >= bytes }
    };
    daemon.until("the bodies hold memory", || holds(300_000)).await;
    let refused = from("192.0.2.1", 200_000).await;
    assert!(refused.status == 503 && refused.headers.contains_key("retry-after"), "{}", refused.text);
    assert!(refused.error().contains("OPENORCH_API_MAX_REQUEST_MEMORY_PER_ADDRESS"), "{}", refused.text);
    assert_eq!(from("192.0.2.2", 200_000).await.status, 400, "another address has its own share");
    for address in ["192.0.2.2", "192.0.2.3"] {
        held.push(start_upload(&daemon, &format!("x-forwarded-for: {address}\r\n"), 1_000_000, 260_000).await);
    }
    daemon.until("the bodies hold the whole budget", || holds(900_000)).await;
    let refused = from("192.0.2.4", 300_000).await;
    assert!(refused.status == 503 && refused.error().contains("OPENORCH_API_MAX_REQUEST_MEMORY:"), "{}", refused.text);
    // Small requests still find memory, and all of it is released.
    assert_eq!(from("192.0.2.4", 10).await.status, 400);
    drop(held);
    let is_free = || async { metric(&daemon, &admin, "openorch_request_memory_bytes").await == 0 };
    daemon.until("the memory is released", is_free).await;
    assert_eq!(metric(&daemon, &admin, "openorch_request_memory_refused_total").await, 2);
    assert_eq!(from("192.0.2.4", 300_000).await.status, 400);
}

#[tokio::test]
async fn w29_answers_that_nobody_reads_share_the_budget_and_end() {
    let flags =
        ["--http-write-timeout", "2s", "--api-max-request-memory", "1000000", "--api-request-memory-wait", "50ms"];
    let daemon = Daemon::with_flags(&flags).await;
    let ann = daemon.register("ann").await;
    let admin = daemon.admin().await;
    // Long descriptions make the list long.
    for number in 0..100 {
        let role = json!({ "id": format!("ann:r{number}"), "name": "R", "description": "y".repeat(1000) });
        let saved = daemon.call("POST", "/user-svc/role", &ann, role).await;
        assert_eq!(saved.status, 200, "{}", saved.text);
    }
    // HTTP/2 with a zero flow-control window.
    let deaf = reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(0).build().unwrap();
    let ask = async |path: &str| deaf.get(format!("{}{path}", daemon.url)).bearer_auth(&admin).send().await.unwrap();
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        let answer = ask("/user-svc/roles").await;
        match answer.status().as_u16() {
            200 => held.push(answer),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    let used = metric(&daemon, &admin, "openorch_request_memory_bytes").await;
    assert!(held.len() >= 2 && refused >= 2, "{} answers held, {refused} refused, {used} bytes", held.len());
    assert!((500_000..1_000_000).contains(&used), "{used}");
    // Static documents share their bytes.
    let document = ask("/openapi.json").await;
    assert_eq!(document.status(), 200);
    for answer in held.drain(..).chain([document]) {
        assert!(answer.bytes().await.is_err(), "an unread response is aborted");
    }
    assert_eq!(metric(&daemon, &admin, "openorch_request_memory_bytes").await, 0);
    assert!(metric(&daemon, &admin, "openorch_gateway_stalled_answers_total").await > 2);
}

/// Peak resident memory of the process in MiB.
fn peak_memory(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

#[tokio::test]
async fn w31_the_largest_input_of_every_operation_stays_within_the_budget() {
    const BUDGET: usize = 48;
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.env("OPENORCH_API_MAX_REQUEST_MEMORY", (BUDGET << 20).to_string());
    command.env("OPENORCH_API_REQUEST_MEMORY_WAIT", "50ms");
    let process = run(&mut command);
    let http = reqwest::Client::new();
    let login = json!({ "slug": "openorch", "password": "changeme" }).to_string();
    let signed_in = http.post(format!("{}/user-svc/login", process.url)).body(login).send().await.unwrap();
    let answer: Value = serde_json::from_str(&signed_in.text().await.unwrap()).unwrap();
    let token = answer["token"]["token"].as_str().unwrap().to_owned();
    let before = peak_memory(&process);
    // Objects cost most: as many as the limits on bytes or values allow, and far more of them compressed.
    let most = many_objects(49_990);
    let many = many_objects(500_000);
    let wide = format!("{{\"a\":[{}]}}", vec!["1"; 99_990].join(",")).into_bytes();
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat((4 << 20) - 20)).into_bytes();
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat((16 << 20) - 20)).into_bytes();
    let bodies: Vec<(Vec<u8>, &str)> = vec![
        (gzip(&most), "gzip"),
        (most, ""),
        (gzip(&many), "gzip"),
        (many, ""),
        (wide, ""),
        (text, ""),
        (gzip(&long), "gzip"),
    ];
    for row in openorch_api::operations().filter(|row| (row.input)(&mut Default::default()).body.is_some()) {
        // Ending the session would end the test.
        if ["revokeTokens", "changePassword", "deleteUser"].contains(&row.id) {
            continue;
        }
        let path =
            row.path_parameters().fold(row.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), "x"));
        let send = |(body, coding): &(Vec<u8>, &'static str)| {
            let method = reqwest::Method::from_bytes(row.method.as_str().as_bytes()).unwrap();
            let mut request =
                http.request(method, format!("{}{path}", process.url)).bearer_auth(&token).body(body.clone());
            if !coding.is_empty() {
                request = request.header("content-encoding", *coding);
            }
            tokio::spawn(request.send())
        };
        let answers: Vec<_> = bodies.iter().cycle().take(2 * bodies.len()).map(send).collect();
        for answer in answers {
            let answer = answer.await.unwrap().unwrap();
            let status = answer.status().as_u16();
            assert!(status < 500 || status == 503, "{}: {}", row.id, answer.text().await.unwrap());
        }
    }
    // Plus password hashes (19 MiB each, for half the cores at once) and the pages of the allocator and of SQLite.
    let peak = peak_memory(&process);
    assert!(peak < before + BUDGET + 80, "{before} MiB before, {peak} MiB at most");
}

#[tokio::test]
async fn w32_connections_that_misbehave_do_not_fill_the_log() {
    use tokio::io::AsyncReadExt;
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    let mut process = run(command.stderr(std::process::Stdio::piped()));
    let admin_metrics = |url: String| async move {
        let http = reqwest::Client::new();
        let login = json!({ "slug": "openorch", "password": "changeme" }).to_string();
        let text = http.post(format!("{url}/user-svc/login")).body(login).send().await.unwrap().text().await.unwrap();
        let token = serde_json::from_str::<Value>(&text).unwrap()["token"]["token"].as_str().unwrap().to_owned();
        http.get(format!("{url}/metrics")).bearer_auth(token).send().await.unwrap().text().await.unwrap()
    };
    for _ in 0..20 {
        let mut stream = TcpStream::connect(process.url.trim_start_matches("http://")).await.unwrap();
        // SETTINGS, then streams that are reset as soon as they are opened (CVE-2023-44487). The header block is GET /
        // of localhost over http, encoded with the static table of HPACK.
        let block = [&[0x82, 0x84, 0x86, 0x41, 9][..], b"localhost"].concat();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for stream in (1..2000_u32).step_by(2) {
            bytes.extend([0, 0, block.len() as u8, 1, 5]);
            bytes.extend(stream.to_be_bytes());
            bytes.extend(&block);
            bytes.extend([0, 0, 4, 3, 0]);
            bytes.extend(stream.to_be_bytes());
            bytes.extend(8_u32.to_be_bytes());
        }
        // The daemon closes the connection meanwhile.
        let _ = stream.write_all(&bytes).await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
    let metrics = admin_metrics(process.url.clone()).await;
    let errors = metrics.lines().find_map(|line| line.strip_prefix("openorch_gateway_connection_errors_total "));
    assert!(errors.unwrap().parse::<u32>().unwrap() >= 20, "the errors are counted: {errors:?}");
    process.terminate();
    let mut log = String::new();
    std::io::Read::read_to_string(&mut process.child.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.matches(" WARN ").count() + log.matches(" ERROR ").count() < 3, "{log}");
}

#[tokio::test]
async fn w142_a_refusal_does_not_repeat_what_was_sent() {
    let daemon = Daemon::start().await;
    let long = "\u{7f}".repeat(450_000);
    for body in [
        serde_json::to_vec(&json!(long)).unwrap(),
        serde_json::to_vec(&json!({ "slug": long })).unwrap(),
        serde_json::to_vec(&json!({ "contact": { "value": { "a": long } } })).unwrap(),
        serde_json::to_vec(&json!({ "device": long })).unwrap(),
        format!(r#"{{"{long}": 1, "{long}": 2}}"#).into_bytes(),
    ] {
        let refused = post(&daemon, "/user-svc/login", "", body, "").await;
        assert_eq!(refused.status, 400, "{} bytes", refused.text.len());
        assert!(refused.text.len() < 8 << 10, "{} bytes", refused.text.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w157_the_networks_that_an_app_blocks_have_a_bound_also_where_many_are_saved_at_once() {
    let daemon = Arc::new(Daemon::start().await);
    let admin = daemon.admin().await;
    let mut saving = JoinSet::new();
    for n in 0..14 {
        let (daemon, admin) = (daemon.clone(), admin.clone());
        let networks: Vec<String> = (0..1000).map(|k| format!("10.{n}.{}.{}", k / 250, k % 250)).collect();
        let instance = json!({ "templateId": "blocklist", "parameters": { "blocklist": { "blockedIPs": networks } } });
        saving.spawn(async move {
            let path = format!("/policy-svc/instance/p{n}");
            daemon.call("PUT", &path, &admin, json!({ "instance": instance })).await.status.as_u16()
        });
    }
    let mut statuses = saving.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 10].as_slice(), &[409; 4]].concat());
}

/// A daemon behind a proxy on loopback, with little request memory.
async fn with_memory(total: &str, of_address: &str) -> (Daemon, String) {
    let daemon = Daemon::with_flags(&[
        "--api-max-request-memory",
        total,
        "--api-max-request-memory-per-address",
        of_address,
        "--api-request-memory-wait",
        "50ms",
        "--trusted-proxies",
        "127.0.0.0/8",
    ])
    .await;
    let admin = admin_behind_a_proxy(&daemon).await;
    (daemon, admin)
}

#[tokio::test]
async fn w168_slow_uploads_leave_request_memory_for_sign_ins() {
    let (daemon, admin) = with_memory("2000000", "1000000").await;
    let (mut accounts, mut held) = (Vec::new(), Vec::new());
    for n in 0..7 {
        accounts.push(daemon.register(&format!("slow-{n}")).await);
    }
    for (n, account) in accounts.iter().enumerate() {
        let headers = format!("x-forwarded-for: 192.0.2.{n}\r\nauthorization: Bearer {account}\r\n");
        // Each holds 256 KiB, since the capacity is doubled.
        held.push(start_upload_to(&daemon, "/user-svc/self", &headers, 1_000_000, 200_000).await);
    }
    let all_came = || async {
        let of = async |name: &str| metric(&daemon, &admin, name).await;
        of("openorch_request_memory_refused_total").await >= 4 || of("openorch_request_memory_bytes").await > 1_800_000
    };
    daemon.until("all bodies hold memory or are refused", all_came).await;
    let sign_in = json!({ "slug": "slow-0", "password": "pass" }).to_string().into_bytes();
    // The password is right, but too weak for others than programs on this machine.
    for (headers, status) in [(&[("x-forwarded-for", "192.0.2.9")][..], 403), (&[][..], 200)] {
        let signed_in = daemon.send("POST", "/user-svc/login", "", sign_in.clone(), headers).await;
        assert_eq!(signed_in.status, status, "{}", signed_in.text);
    }
    drop(held);
    let is_free = || async { metric(&daemon, &admin, "openorch_request_memory_bytes").await == 0 };
    daemon.until("the memory is released", is_free).await;
}

#[tokio::test]
async fn w169_an_account_shares_one_memory_limit_across_addresses() {
    let (daemon, admin) = with_memory("8000000", "600000").await;
    let (ann, bob) = (daemon.register("ann").await, daemon.register("bob").await);
    let headers = format!("x-forwarded-for: 192.0.2.1\r\nauthorization: Bearer {ann}\r\n");
    let _held = start_upload_to(&daemon, "/user-svc/self", &headers, 1_000_000, 300_000).await;
    let holds = || async { metric(&daemon, &admin, "openorch_request_memory_bytes").await >= 300_000 };
    daemon.until("the body holds memory", holds).await;
    let send = async |token: &str| {
        let headers = [("x-forwarded-for", "192.0.2.2")];
        daemon.send("POST", "/user-svc/self", token, vec![b' '; 400_000], &headers).await
    };
    let refused = send(&ann).await;
    assert!(refused.status == 503 && refused.error().contains("of the account"), "{}", refused.text);
    assert_eq!(send(&bob).await.status, 200);
}
