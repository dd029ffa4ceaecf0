//! Policies: rate limits and blocked addresses, and who owns them and their counters.

use serde_json::{Value, json};

use crate::support::Daemon;

fn rate_limit(max: u32, window: &str, entity: &str, scope: &str) -> Value {
    let rate_limit = json!({ "maxRequests": max, "timeWindow": window, "entity": entity, "scope": scope });
    json!({ "templateId": "rate-limit", "parameters": { "rateLimit": rate_limit } })
}

fn blocklist(addresses: &[&str]) -> Value {
    json!({ "templateId": "blocklist", "parameters": { "blocklist": { "blockedIPs": addresses } } })
}

/// Calls of policy-svc.
trait Policies {
    async fn save_policy(&self, id: &str, token: &str, instance: Value) -> u16;
    /// Number of allowed checks out of `count`.
    async fn allowed(&self, token: &str, count: usize, request: Value) -> usize;
}

impl Policies for Daemon {
    async fn save_policy(&self, id: &str, token: &str, instance: Value) -> u16 {
        let path = format!("/policy-svc/instance/{id}");
        self.call("PUT", &path, token, json!({ "instance": instance })).await.status.as_u16()
    }

    async fn allowed(&self, token: &str, count: usize, request: Value) -> usize {
        let mut allowed = 0;
        for _ in 0..count {
            let answer = self.call("POST", "/policy-svc/check", token, request.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            allowed += usize::from(answer.json()["allowed"].as_bool().unwrap());
        }
        allowed
    }
}

#[tokio::test]
async fn a_rate_limit_counts_by_account_or_address_and_by_endpoint_or_all_together() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let of = |user: &str, ip: &str, endpoint: &str| json!({ "userId": user, "ip": ip, "endpoint": endpoint });
    assert_eq!(daemon.save_policy("p", &admin, rate_limit(5, "1m", "userId", "endpoint")).await, 200);
    assert_eq!(daemon.allowed(&ann, 7, of("usr_1", "", "/a")).await, 5);
    assert_eq!(daemon.allowed(&ann, 7, of("usr_1", "", "/b")).await, 5, "another endpoint");
    assert_eq!(daemon.allowed(&ann, 7, of("usr_2", "", "/a")).await, 5, "another account");
    assert_eq!(
        daemon.allowed(&ann, 7, of("", "192.0.2.1", "/a")).await,
        7,
        "requests without an account are not counted"
    );
    daemon.clock.advance(60);
    assert_eq!(daemon.allowed(&ann, 7, of("usr_1", "", "/a")).await, 5, "a window later");

    assert_eq!(daemon.save_policy("p", &admin, rate_limit(2, "1h30m", "ip", "global")).await, 200);
    assert_eq!(daemon.allowed(&ann, 1, of("", "192.0.2.1", "/a")).await, 1);
    assert_eq!(daemon.allowed(&ann, 3, of("", "::ffff:192.0.2.1", "/b")).await, 1, "the same address");
    let bob = daemon.register("bob").await;
    assert_eq!(daemon.allowed(&bob, 3, of("", "192.0.2.1", "/a")).await, 2, "each asking service has its own counters");
}

#[tokio::test]
async fn a_policy_is_for_its_endpoint_and_outlives_a_restart_until_it_is_deleted() {
    let mut daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let at = |ip: &str, endpoint: &str| json!({ "ip": ip, "endpoint": endpoint });
    let mut blocked = blocklist(&["192.0.2.0/24", "2001:db8::1"]);
    blocked["endpoint"] = "/admin/*".into();
    assert_eq!(daemon.save_policy("block", &admin, blocked).await, 200);
    daemon.restart(&[]).await;
    let admin = daemon.admin().await;
    for (ip, endpoint, allowed) in [
        ("192.0.2.77", "/admin/users", 0),
        ("::ffff:192.0.2.77", "/admin/users", 0),
        ("2001:db8::1", "/admin/", 0),
        ("198.51.100.1", "/admin/users", 1),
        ("192.0.2.77", "/other", 1),
    ] {
        assert_eq!(daemon.allowed(&admin, 1, at(ip, endpoint)).await, allowed, "{ip} {endpoint}");
    }
    let listed = daemon.call("GET", "/policy-svc/instances", &admin, Value::Null).await.json();
    assert_eq!((&listed["instances"][0]["id"], &listed["instances"][1]), (&json!("block"), &Value::Null), "{listed}");
    let delete =
        async || daemon.call("DELETE", "/policy-svc/instance/block", &admin, Value::Null).await.status.as_u16();
    assert_eq!((delete().await, delete().await), (200, 404));
    assert_eq!(daemon.allowed(&admin, 1, at("192.0.2.77", "/admin/users")).await, 1);
}

#[tokio::test]
async fn what_is_no_policy_is_refused_and_changes_nothing() {
    let daemon = Daemon::with_flags(&["--policy-max-policies-per-app", "1"]).await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    for (instance, words) in [
        (Value::Null, "`instance` is required"),
        (json!({ "templateId": "quota" }), "it must be one of rate-limit, blocklist"),
        (json!({ "templateId": "rate-limit", "parameters": {} }), "parameters.rateLimit is required"),
        (rate_limit(0, "1m", "userId", "global"), "at least 1 is allowed"),
        (rate_limit(5, "soon", "userId", "global"), "timeWindow: `soon`"),
        (rate_limit(5, "1000h", "userId", "global"), "timeWindow"),
        (rate_limit(5, "1m", "planet", "global"), "planet"),
        (blocklist(&[]), "blockedIPs"),
        (blocklist(&["here"]), "`here` is not an address"),
        (blocklist(&["192.0.2.1"; 1001]), "blockedIPs` has 1001 entries"),
    ] {
        let answer = daemon.call("PUT", "/policy-svc/instance/p", &admin, json!({ "instance": instance })).await;
        assert!(answer.status == 400 && answer.error().contains(words), "{words}: {} {}", answer.status, answer.text);
    }
    let listed = daemon.call("GET", "/policy-svc/instances", &admin, Value::Null).await;
    assert_eq!(listed.text, "{}");
    assert_eq!(daemon.save_policy("p", &ann, blocklist(&["192.0.2.1"])).await, 403);
    assert_eq!(daemon.save_policy("p", &admin, blocklist(&["192.0.2.1"])).await, 200);
    assert_eq!(daemon.save_policy("p", &admin, blocklist(&["192.0.2.2"])).await, 200, "it is replaced");
    assert_eq!(daemon.save_policy("q", &admin, blocklist(&["192.0.2.1"])).await, 409);
    let answer = daemon.call("POST", "/policy-svc/check", &ann, json!({ "ip": "here" })).await;
    assert!(answer.status == 400 && answer.error().contains("`here` is not an address"), "{}", answer.text);
}
