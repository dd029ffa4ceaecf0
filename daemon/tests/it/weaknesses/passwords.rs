//! Passwords: requirements on loopback and over the network, and the number of concurrent hashes.

use serde_json::{Value, json};

use crate::support::{Answer, Daemon, token_of};

const STRONG: &str = "correct horse battery";

/// A daemon whose admin has changed the default password, so that remote requests are accepted.
async fn open_daemon(flags: &[&str]) -> Daemon {
    let daemon = Daemon::with_flags(flags).await;
    let body = json!({ "currentPassword": "changeme", "newPassword": STRONG });
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &daemon.admin().await, body).await.status, 200);
    daemon
}

async fn login_with(daemon: &Daemon, password: &str, headers: &[(&str, &str)]) -> Answer {
    let body = json!({ "slug": "short-svc", "password": password }).to_string();
    daemon.send("POST", "/user-svc/login", "", body.into_bytes(), headers).await
}

#[tokio::test]
async fn w75_a_password_that_is_too_weak_for_the_network_opens_nothing_from_there() {
    let mut daemon = open_daemon(&[]).await;
    let token = daemon.register("short-svc").await;
    let from_elsewhere = [
        [("host", "openorch.example")],
        [("origin", "https://page.example")],
        [("x-forwarded-for", "203.0.113.9")],
        [("forwarded", "for=203.0.113.9")],
        [("x-real-ip", "203.0.113.9")],
    ];
    for headers in &from_elsewhere {
        let refused = login_with(&daemon, "pass", headers).await;
        assert_eq!(refused.status, 403, "{headers:?}: {}", refused.text);
        assert_eq!(refused.json()["code"], "user.password_too_weak", "{headers:?}");
        assert!(refused.error().contains("at least 8 characters"), "{}", refused.text);
        assert!(refused.error().contains("change-password"), "the error names the remedy: {}", refused.text);
        assert_eq!(login_with(&daemon, "wrong", headers).await.status, 401, "{headers:?}");
        let register = json!({ "slug": "other-svc", "password": "pass" }).to_string().into_bytes();
        assert_eq!(daemon.send("POST", "/user-svc/register", "", register, headers).await.status, 400, "{headers:?}");
    }
    for local in [vec![], vec![("host", "localhost")], vec![("origin", "http://127.0.0.1:3901")]] {
        assert_eq!(login_with(&daemon, "pass", &local).await.status, 200, "{local:?}");
    }
    daemon.restart(&[]).await;
    assert_eq!(daemon.passwords(), (1, 0), "the start counts weak passwords");
    let change = json!({ "currentPassword": "pass", "newPassword": STRONG });
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &token, change).await.status, 200);
    for headers in &from_elsewhere {
        assert_eq!(login_with(&daemon, STRONG, headers).await.status, 200, "{headers:?}");
    }
    daemon.restart(&[]).await;
    assert_eq!(daemon.passwords(), (0, 0));
}

#[tokio::test]
async fn w76_a_password_is_the_same_however_its_letters_are_composed() {
    let daemon = Daemon::start().await;
    let (composed, decomposed) = ("p\u{e4}ssw\u{f6}rd", "pa\u{308}sswo\u{308}rd");
    for (slug, registered) in [("nfc-svc", composed), ("nfd-svc", decomposed)] {
        let body = json!({ "slug": slug, "password": registered });
        assert_eq!(daemon.call("POST", "/user-svc/register", "", body).await.status, 200);
        for password in [composed, decomposed] {
            assert_eq!(daemon.login(slug, password, "test").await.status, 200, "{slug}: {password:?}");
        }
        assert_eq!(daemon.login(slug, "password", "test").await.status, 401);
        let token = token_of(&daemon.login(slug, decomposed, "test").await);
        let change = json!({ "currentPassword": composed, "newPassword": decomposed });
        assert_eq!(daemon.call("POST", "/user-svc/change-password", &token, change).await.status, 200);
        assert_eq!(daemon.login(slug, composed, "test").await.status, 200);
    }
    // The limit applies to the bytes sent.
    let long = "a\u{308}".repeat(342);
    let body = json!({ "slug": "long-svc", "password": long });
    assert_eq!(daemon.call("POST", "/user-svc/register", "", body).await.status, 400);
}

/// Responses to `count` concurrent sign-ins.
async fn sign_in_at_once(daemon: Daemon, count: usize) -> Vec<Answer> {
    let daemon = std::sync::Arc::new(daemon);
    let mut sign_ins = tokio::task::JoinSet::new();
    for n in 0..count {
        let daemon = daemon.clone();
        sign_ins.spawn(async move { daemon.login("many-svc", "pass", &format!("device {n}")).await });
    }
    sign_ins.join_all().await
}

#[tokio::test]
async fn w77_two_hundred_programs_of_one_host_that_sign_in_at_once_all_get_in() {
    // Much longer than the default: the machine may be busy.
    let daemon =
        Daemon::with_flags(&["--user-password-hash-max-wait", "10m", "--user-password-hash-concurrency", "2"]).await;
    daemon.register("many-svc").await;
    let answers = sign_in_at_once(daemon, 200).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).map(|answer| &answer.text).collect();
    assert!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused.first());
}

#[tokio::test]
async fn w77_those_whose_turn_would_come_too_late_are_told_to_come_back_one_after_the_other() {
    let daemon =
        Daemon::with_flags(&["--user-password-hash-max-wait", "200ms", "--user-password-hash-concurrency", "1"]).await;
    daemon.register("many-svc").await;
    let answers = sign_in_at_once(daemon, 300).await;
    let refused: Vec<i64> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .map(|answer| answer.headers["retry-after"].to_str().unwrap().parse().unwrap())
        .collect();
    let (first, last) = (refused.iter().min().unwrap(), refused.iter().max().unwrap());
    assert!(*first <= 2 && *last >= first + 2, "{refused:?}");
    assert!(
        answers.iter().any(|answer| answer.status == 200) && answers.iter().all(|answer| answer.json() != Value::Null)
    );
}

#[tokio::test]
async fn w163_strangers_from_very_many_networks_keep_nobody_out_who_is_known_or_on_the_machine() {
    let daemon = open_daemon(&[
        "--user-password-hash-max-wait",
        "2s",
        "--user-password-hash-concurrency",
        "1",
        "--trusted-proxies",
        "127.0.0.0/8",
    ])
    .await;
    let sign_in = async |daemon: &Daemon, address: &str, body: Value| {
        let body = body.to_string().into_bytes();
        daemon.send("POST", "/user-svc/login", "", body, &[("x-forwarded-for", address)]).await
    };
    let own = json!({ "slug": "openorch", "password": STRONG, "device": "home" });
    assert_eq!(sign_in(&daemon, "203.0.113.1", own.clone()).await.status, 200);
    let (daemon, mut strangers) = (std::sync::Arc::new(daemon), tokio::task::JoinSet::new());
    for n in 0..1000 {
        let daemon = daemon.clone();
        strangers.spawn(async move {
            // Half of them from one customer's network, the others from many networks.
            let address =
                if n % 2 == 0 { format!("2001:db8:1:{n:x}::1") } else { format!("198.51.{}.{}", n / 250, n % 250) };
            let guess = json!({ "contact": { "value": format!("{n}@example.org") }, "password": "guess" });
            sign_in(&daemon, &address, guess).await
        });
    }
    strangers.join_next().await;
    for _ in 0..3 {
        let answer = sign_in(&daemon, "203.0.113.1", own.clone()).await;
        assert_eq!(answer.status, 200, "from a known address: {}", answer.text);
        let answer = daemon.login("openorch", STRONG, "host").await;
        assert_eq!(answer.status, 200, "from loopback: {}", answer.text);
    }
    let answers = strangers.join_all().await;
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert!(refused > 100, "the flood exceeds the capacity: {refused}");
}

#[tokio::test]
async fn w175_foreign_guesses_on_loopback_do_not_lock_out_local_programs() {
    let daemon = open_daemon(&[]).await;
    daemon.register("shop-svc").await;
    let fresh = json!({ "user": { "slug": "fresh-svc", "name": "F" }, "password": STRONG });
    assert_eq!(
        daemon
            .call("POST", "/user-svc/user", &token_of(&daemon.login("openorch", STRONG, "a").await), fresh)
            .await
            .status,
        200
    );
    for headers in [[("origin", "https://evil.example")], [("x-forwarded-for", "203.0.113.9")]] {
        let guess = async |body: Value| {
            let body = body.to_string().into_bytes();
            daemon.send("POST", "/user-svc/login", "", body, &headers).await.status.as_u16()
        };
        let mut statuses = Vec::new();
        for n in 0..8 {
            for slug in ["openorch", "shop-svc"] {
                statuses.push(guess(json!({ "slug": slug, "password": format!("wrong {n}") })).await);
            }
        }
        assert!(statuses.contains(&429), "they are throttled: {statuses:?}");
        for n in 0..60 {
            guess(json!({ "contact": { "value": format!("{n}@example.org") }, "password": "wrong" })).await;
        }
    }
    for (slug, password) in [("openorch", STRONG), ("shop-svc", "pass"), ("fresh-svc", STRONG)] {
        let answer = daemon.login(slug, password, "host").await;
        assert_eq!(answer.status, 200, "{slug}: {}", answer.text);
    }
}
