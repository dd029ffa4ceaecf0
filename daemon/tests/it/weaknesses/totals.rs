//! Limits on all accounts together: the part reserved for accounts that own little, and registrations from one network.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Daemon, status};

#[tokio::test]
async fn w173_accounts_at_their_quota_leave_room_for_small_ones() {
    let daemon = Daemon::with_flags(&[
        "--user-max-access-rule-memory",
        "600000",
        "--user-max-access-rule-memory-per-account",
        "200000",
        "--registry-max-instances",
        "20",
        "--api-max-stored-answers",
        "80",
    ])
    .await;
    let late = daemon.register("late").await;
    let save = async |token: &str, slug: &str, part: usize, count: usize| {
        let saved: Vec<Value> = (0..count)
            .map(|n| json!({ "id": format!("{slug}:p{part}-{n}"), "description": "x".repeat(500) }))
            .collect();
        daemon.call("PUT", "/user-svc/permissions", token, json!({ "permissions": saved })).await
    };
    let mut codes = BTreeSet::new();
    for n in 0..6 {
        let (slug, token) = (format!("large-{n}"), daemon.register(&format!("large-{n}")).await);
        for part in 0..10 {
            let answer = save(&token, &slug, part, 20).await;
            if answer.status != 200 {
                codes.insert(answer.json()["code"].as_str().unwrap().to_owned());
                break;
            }
        }
    }
    assert!(codes.contains("user.rule_memory_full"), "{codes:?}");
    let saved = save(&late, "late", 0, 1).await;
    assert_eq!(saved.status, 200, "{}", saved.text);
    assert_eq!(save(&late, "late", 1, 20).await.status, 429, "but not many");

    let large = daemon.register("large").await;
    let put = async |token: &str, n: usize| {
        daemon.put_instance(token, json!({ "url": format!("http://127.0.0.1:1/{n}") })).await.status.as_u16()
    };
    let mut registered = 0;
    while put(&large, registered).await == 201 {
        registered += 1;
    }
    assert_eq!((registered, put(&late, 100).await), (15, 201));

    let found = async |token: &str, n: usize| {
        let body = json!({ "id": format!("org-{n}"), "name": "O" }).to_string().into_bytes();
        let key = n.to_string();
        daemon.send("POST", "/user-svc/organization", token, body, &[("idempotency-key", &*key)]).await.status.as_u16()
    };
    let mut answered = 0;
    while found(&large, answered).await == 200 {
        answered += 1;
    }
    assert_eq!((answered, found(&late, 100).await), (60, 200));
}

#[tokio::test]
async fn w179_registrations_per_network_are_limited() {
    let flags =
        ["--registration", "open", "--trusted-proxies", "127.0.0.0/8", "--user-max-registrations-per-network", "3"];
    let daemon = Daemon::with_flags(&flags).await;
    let change = json!({ "currentPassword": "changeme", "newPassword": "correct horse battery" });
    assert_eq!(status(&daemon, "POST", "/user-svc/change-password", &daemon.admin().await, change).await, 200);
    let register = async |slug: &str, address: &str| {
        let body = json!({ "slug": slug, "password": "correct horse battery" }).to_string().into_bytes();
        daemon.send("POST", "/user-svc/register", "", body, &[("x-forwarded-for", address)]).await
    };
    // A customer may have a /48.
    for n in 0..3 {
        assert_eq!(register(&format!("four-{n}"), "203.0.113.7").await.status, 200);
        assert_eq!(register(&format!("six-{n}"), &format!("2001:db8:1:{n}::1")).await.status, 200);
    }
    for address in ["203.0.113.7", "2001:db8:1:9::1"] {
        let refused = register("more", address).await;
        assert_eq!(refused.json()["code"], "user.too_many_registrations", "{}", refused.text);
        let wait: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1190..=1210).contains(&wait), "{wait}");
    }
    assert_eq!(register("elsewhere", "203.0.113.8").await.status, 200);
    for n in 0..5 {
        daemon.register(&format!("local-{n}")).await;
    }
    daemon.clock.advance(1210);
    assert_eq!(register("more", "203.0.113.7").await.status, 200);
}
