//! Tokens over time: renewal, key rotation, expiry; and what a service may do with delegated tokens.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, claims, delegated_token, start_time, status, token_of};

async fn token_status(daemon: &Daemon, token: &str) -> u16 {
    status(daemon, "POST", "/user-svc/user/by-token", token, Value::Null).await
}

fn kid(token: &str) -> String {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let head = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&head).unwrap()["kid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_a_service_is_given_ends_when_the_session_ends_by_its_age_or_unused() {
    for (flag, limit, steps) in
        [("--user-session-max-lifetime", "10m", [590, 11]), ("--user-session-idle-timeout", "60s", [30, 61])]
    {
        let daemon = Daemon::with_flags(&[flag, limit, "--registry-probe-interval", "24h"]).await;
        let echo = Echo::start().await;
        let (shop, ann) = (daemon.register("shop-svc").await, daemon.register("ann").await);
        daemon.put_instance(&shop, json!({ "url": echo.url })).await;
        let start = start_time().as_second();
        daemon.clock.advance(steps[0]);
        let ends = claims(&delegated_token(&daemon, "/shop-svc/x", &ann).await)["exp"].as_i64().unwrap() - start;
        assert_eq!(ends, if flag == "--user-session-max-lifetime" { 600 } else { 330 }, "{flag}");
        daemon.clock.advance(steps[1]);
        assert_eq!(daemon.call("GET", "/shop-svc/x", &ann, Value::Null).await.status, 401, "{flag}");
    }
}

#[tokio::test]
async fn another_key_signs_and_nobody_is_signed_out() {
    let mut daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    assert_eq!(status(&daemon, "POST", "/user-svc/key/rotate", &ann, Value::Null).await, 403);
    let (one, other) = tokio::join!(
        status(&daemon, "POST", "/user-svc/key/rotate", &admin, Value::Null),
        status(&daemon, "POST", "/user-svc/key/rotate", &admin, Value::Null),
    );
    assert_eq!((one, other), (200, 200));
    for restarted in [false, true] {
        if restarted {
            daemon.restart(&[]).await;
        }
        assert_eq!((token_status(&daemon, &ann).await, token_status(&daemon, &admin).await), (200, 200));
        let keys = daemon.call("GET", "/user-svc/jwks.json", "", Value::Null).await.json();
        let kids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
        let fresh = token_of(&daemon.login("ann", "pass", if restarted { "b" } else { "a" }).await);
        assert_eq!(kids.len(), 3, "two concurrent rotations created two keys: {kids:?}");
        assert!(kid(&fresh) == kids[0] && kid(&ann) != kids[0] && kids.contains(&kid(&ann).as_str()));
    }
    let pem = daemon.call("GET", "/user-svc/public-key", "", Value::Null).await.text;
    assert!(!pem.contains("PRIVATE"));
    daemon.clock.advance(25 * 3600);
    let keys = daemon.call("GET", "/user-svc/jwks.json", "", Value::Null).await.json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "tokens of the old keys have expired");
    assert_eq!(
        token_status(&daemon, &ann).await,
        200,
        "the daemon accepts its own tokens as long as their sessions exist"
    );
}

#[tokio::test]
async fn a_token_is_renewed_within_its_session() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    daemon.clock.advance(48 * 3600);
    let renewed = token_of(&daemon.call("POST", "/user-svc/refresh-token", &ann, Value::Null).await);
    assert!(claims(&renewed)["exp"].as_i64() > claims(&ann)["exp"].as_i64());
    assert_eq!(claims(&renewed)["sid"], claims(&ann)["sid"]);
    assert_ne!(claims(&renewed)["jti"], claims(&ann)["jti"]);
    assert_eq!((token_status(&daemon, &renewed).await, token_status(&daemon, &ann).await), (200, 200));
    daemon.call("DELETE", "/user-svc/tokens", &renewed, Value::Null).await;
    assert_eq!((token_status(&daemon, &renewed).await, token_status(&daemon, &ann).await), (401, 401));
}

#[tokio::test]
async fn a_session_has_an_absolute_end_where_it_is_set() {
    let daemon = Daemon::with_flags(&["--user-session-max-lifetime", "48h"]).await;
    let ann = daemon.register("ann").await;
    daemon.clock.advance(47 * 3600);
    assert_eq!(token_status(&daemon, &ann).await, 200);
    let renewed = token_of(&daemon.call("POST", "/user-svc/refresh-token", &ann, Value::Null).await);
    daemon.clock.advance(2 * 3600);
    assert_eq!((token_status(&daemon, &ann).await, token_status(&daemon, &renewed).await), (401, 401));
    let fresh = token_of(&daemon.login("ann", "pass", "").await);
    assert!(token_status(&daemon, &fresh).await == 200 && claims(&fresh)["sid"] != claims(&ann)["sid"]);
}

#[tokio::test]
async fn a_service_does_for_its_callers_what_an_admin_opened_and_no_more() {
    let daemon = Daemon::start().await;
    let (shop_echo, mail_echo) = (Echo::start().await, Echo::start().await);
    let (shop, mail) = (daemon.register("shop-svc").await, daemon.register("mail-svc").await);
    daemon.put_instance(&shop, json!({ "url": shop_echo.url })).await;
    daemon.put_instance(&mail, json!({ "url": mail_echo.url })).await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let delegated = delegated_token(&daemon, "/shop-svc/x", &ann).await;
    let profile = json!({ "name": "Ann of the shop" });
    let acts = async || {
        let save = status(&daemon, "PUT", "/user-svc/self", &delegated, profile.clone()).await;
        (save, status(&daemon, "GET", "/mail-svc/x", &delegated, Value::Null).await)
    };
    assert_eq!(acts().await, (403, 403));
    // An error suggests a delegation only for operations that an admin can delegate.
    for (method, path, told) in [("PUT", "/user-svc/self", true), ("POST", "/user-svc/refresh-token", false)] {
        let refused = daemon.call(method, path, &delegated, Value::Null).await;
        assert_eq!((refused.status.as_u16(), refused.error().contains("an admin can allow it")), (403, told), "{path}");
    }
    let open = json!({ "slug": "shop-svc", "operations": ["saveSelf", "saveGrants"], "services": ["mail-svc"] });
    for token in [&shop, &ann, &delegated] {
        assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", token, open.clone()).await, 403);
    }
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, open).await, 200);
    assert_eq!(acts().await, (200, 200));
    assert_eq!(
        delegated_token(&daemon, "/mail-svc/x", &delegated).await,
        delegated,
        "the token is passed on unchanged"
    );
    // The service has no rights beyond its caller's, and other services got none.
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &delegated, json!({})).await, 403);
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &delegated, json!({ "id": "ann:r" })).await, 403);
    let of_mail = delegated_token(&daemon, "/mail-svc/x", &ann).await;
    assert_eq!(status(&daemon, "PUT", "/user-svc/self", &of_mail, profile.clone()).await, 403);
    assert_eq!(status(&daemon, "GET", "/shop-svc/x", &of_mail, Value::Null).await, 403);
    let listed = daemon.call("GET", "/user-svc/delegations", &admin, Value::Null).await.json();
    assert_eq!(listed["delegations"][0]["slug"], "shop-svc");
    for bad in [
        json!({ "slug": "shop-svc", "operations": ["noSuchThing"] }),
        json!({ "slug": "shop-svc", "operations": ["login"] }),
        json!({ "slug": "shop-svc", "operations": ["refreshToken"] }),
        json!({ "slug": "shop-svc", "operations": ["saveOrganization"] }),
        json!({ "slug": "Shop" }),
        json!({}),
    ] {
        assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, bad.clone()).await, 400, "{bad}");
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/delegation/shop-svc", &admin, Value::Null).await, 200);
    assert_eq!(acts().await, (403, 403));
    assert_eq!(status(&daemon, "DELETE", "/user-svc/delegation/shop-svc", &admin, Value::Null).await, 404);
}

#[tokio::test]
async fn an_account_with_as_many_sessions_as_it_may_have_loses_the_one_idle_longest() {
    let daemon = Daemon::with_flags(&["--user-max-sessions-per-account", "3"]).await;
    let first = daemon.register("many").await;
    let mut tokens = vec![first];
    for device in ["a", "b"] {
        daemon.clock.advance(60);
        tokens.push(token_of(&daemon.login("many", "pass", device).await));
    }
    // The oldest session is used, so the second one has been idle longest.
    daemon.clock.advance(60);
    assert_eq!(token_status(&daemon, &tokens[0]).await, 200);
    tokens.push(token_of(&daemon.login("many", "pass", "c").await));
    let alive = async || {
        let mut alive = Vec::new();
        for token in &tokens {
            alive.push(token_status(&daemon, token).await);
        }
        alive
    };
    assert_eq!(alive().await, [200, 401, 200, 200]);
    // The same device again does not add a session.
    daemon.login("many", "pass", "c").await;
    assert_eq!(alive().await, [200, 401, 200, 200]);
    // Concurrent sign-ins all succeed, and the limit is never exceeded.
    let login = |device: &'static str| daemon.login("many", "pass", device);
    let (d, e, f, g, h) = tokio::join!(login("d"), login("e"), login("f"), login("g"), login("h"));
    let all = [d, e, f, g, h];
    assert!(all.iter().all(|answer| answer.status == 200), "{:?}", all.iter().map(|a| &a.text).collect::<Vec<_>>());
    let last = token_of(&all[0]);
    let admin = daemon.admin().await;
    let path = format!("/user-svc/sessions?userId={}", crate::support::id_of(&last));
    let listed = daemon.call("GET", &path, &admin, Value::Null).await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 3, "{listed}");
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_signs_nobody_out_nor_does_the_first_hour_after_a_start() {
    const DAY: i64 = 24 * 3600;
    let mut daemon = Daemon::with_flags(&["--user-session-idle-timeout", "240h"]).await;
    let ann = daemon.register("ann").await;
    let bob = daemon.register("bob").await;
    daemon.clock.advance(2 * 3600);
    daemon.clock.jump(2 * 365 * DAY);
    assert_eq!(token_status(&daemon, &ann).await, 200);
    daemon.clock.jump(-2 * 365 * DAY);
    assert_eq!(token_status(&daemon, &ann).await, 200);
    // Stopped for eleven days: without the grace period bob's session would expire.
    daemon.clock.advance(11 * DAY);
    daemon.restart(&["--user-session-idle-timeout", "240h"]).await;
    daemon.clock.advance(3599);
    assert_eq!(token_status(&daemon, &ann).await, 200);
    daemon.clock.advance(2);
    assert_eq!((token_status(&daemon, &ann).await, token_status(&daemon, &bob).await), (200, 401));
}
