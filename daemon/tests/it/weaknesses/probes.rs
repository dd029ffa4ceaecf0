//! Effects of a registration: connections to an address that the caller chose, and stored rows.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Daemon, Echo};

/// A server that counts its connections.
async fn counting_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, count) = (format!("http://{}", listener.local_addr().unwrap()), Arc::<AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, count)
}

#[tokio::test]
async fn w67_one_account_does_not_make_the_daemon_open_connections_without_end() {
    let daemon =
        Daemon::with_flags(&["--registry-probe-interval", "1h", "--registry-probe-rate-per-account", "1"]).await;
    let (shop, (url, count)) = (daemon.register("shop-svc").await, counting_server().await);
    let began = std::time::Instant::now();
    for n in 0..60 {
        let body = json!({ "url": format!("{url}/{}", n % 6) });
        assert_eq!(daemon.put_instance(&shop, body).await.status, 201);
    }
    daemon.until("it is probed", async || count.load(Ordering::Relaxed) > 0).await;
    // A burst of five, then one per second.
    let (probed, limit) = (count.load(Ordering::Relaxed), 5 + began.elapsed().as_secs() as usize + 1);
    assert!(probed <= limit, "{probed} after {:?}", began.elapsed());
    // Other accounts have their own rate.
    let (other, (url, count)) = (daemon.register("other-svc").await, counting_server().await);
    assert_eq!(daemon.put_instance(&other, json!({ "url": url })).await.status, 201);
    daemon.until("it is probed", async || count.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn w67_many_accounts_do_not_either_where_it_is_one_host() {
    let flags =
        ["--registry-probe-interval", "1h", "--registry-probe-rate-per-host", "4", "--registry-register-wait", "1ms"];
    let (daemon, (url, count)) = (Daemon::with_flags(&flags).await, counting_server().await);
    let began = std::time::Instant::now();
    for n in 0..4 {
        let token = daemon.register(&format!("s{n}-svc")).await;
        for path in 0..8 {
            let body = json!({ "url": format!("{url}/{n}/{path}") });
            assert_eq!(daemon.put_instance(&token, body).await.status, 201);
        }
    }
    let (probed, most) = (count.load(Ordering::Relaxed), 4 + 4 * (began.elapsed().as_secs() as usize + 1));
    assert!(probed <= most, "{probed} after {:?}", began.elapsed());
    daemon.until("all are probed in the end", async || count.load(Ordering::Relaxed) >= 32).await;
}

#[tokio::test]
async fn w68_nobody_overruns_the_quota_of_instances_by_registering_at_once() {
    let daemon = Arc::new(Daemon::with_flags(&["--registry-max-instances-per-account", "10"]).await);
    let token = daemon.register("shop-svc").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..30 {
        let (daemon, token) = (daemon.clone(), token.clone());
        calls.spawn(async move {
            let body = json!({ "url": format!("http://127.0.0.1:{}", 20_000 + n) });
            daemon.put_instance(&token, body).await.status.as_u16()
        });
    }
    let statuses = calls.join_all().await;
    let of = |status: u16| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((of(201), of(429)), (10, 20), "{statuses:?}");
    assert_eq!(daemon.instances(&token).await.len(), 10);
}

#[tokio::test]
async fn w69_no_metadata_address_of_any_cloud_is_registered_in_any_spelling() {
    let daemon = Daemon::start().await;
    let token = daemon.register("bad-svc").await;
    for host in [
        "192.0.0.192",
        "168.63.129.16",
        "100.100.100.200",
        "100.96.0.96",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.42.42",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd00:42::42]",
        "[fd00:a9fe:a9fe::1]",
        "[::ffff:192.0.0.192]",
        "[64:ff9b::192.0.0.192]",
        "[64:ff9b:1::192.0.0.192]",
        "[64:ff9b:1:c000:0:c000::]",
        "[2002:c000:c0::1]",
        "[2001::3fff:ff3f]",
        "3221225664",
        "0300.0.0.0300",
    ] {
        let answer = daemon.put_instance(&token, json!({ "url": format!("http://{host}:80") })).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text);
    }
    assert!(daemon.instances(&token).await.is_empty());
}

/// A server that accepts connections and never answers.
async fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    url
}

#[tokio::test]
async fn w135_many_accounts_whose_instances_hang_do_not_hold_up_the_probes_of_others() {
    let flags = [
        "--registry-probe-concurrency",
        "8",
        "--registry-probe-timeout",
        "1h",
        "--registry-probe-interval",
        "1h",
        "--registry-register-wait",
        "1ms",
    ];
    let (daemon, hanging) = (Daemon::with_flags(&flags).await, silent_server().await);
    for n in 0..4 {
        let token = daemon.register(&format!("s{n}-svc")).await;
        for path in 0..8 {
            let body = json!({ "url": format!("{hanging}/{n}/{path}"), "healthPath": "/health" });
            assert_eq!(daemon.put_instance(&token, body).await.status, 201);
        }
    }
    let (victim, (url, count)) = (daemon.register("victim-svc").await, counting_server().await);
    assert_eq!(daemon.put_instance(&victim, json!({ "url": url })).await.status, 201);
    daemon.until("it is probed", async || count.load(Ordering::Relaxed) >= 1).await;
}

#[tokio::test]
async fn w140_many_instances_on_a_host_do_not_hold_up_the_first_probes_of_another_account_there() {
    let flags =
        ["--registry-probe-rate-per-host", "50", "--registry-probe-interval", "1h", "--registry-register-wait", "1ms"];
    let (daemon, service) = (Daemon::with_flags(&flags).await, Echo::start().await);
    let many = daemon.register("many").await;
    for n in 0..600 {
        assert_eq!(daemon.put_instance(&many, json!({ "url": format!("http://127.0.0.1:1/{n}") })).await.status, 201);
    }
    let few = daemon.register("few").await;
    assert_eq!(daemon.put_instance(&few, json!({ "url": service.url })).await.status, 201);
    daemon.until("reached", async || daemon.call("GET", "/few/x", "", json!(null)).await.status == 200).await;
}
