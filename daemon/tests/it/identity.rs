//! Accounts, sessions and tokens over HTTP, and attempts to exceed one's rights.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, token_of};

#[tokio::test]
async fn of_two_registrations_of_one_slug_at_once_one_wins() {
    let daemon = Daemon::start().await;
    let body = json!({ "slug": "twin-svc", "password": "p" });
    let (a, b) = tokio::join!(
        daemon.call("POST", "/user-svc/register", "", body.clone()),
        daemon.call("POST", "/user-svc/register", "", body),
    );
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", a.text, b.text);
}

#[tokio::test]
async fn signing_in_has_the_published_refusals() {
    let daemon = Daemon::start().await;
    daemon.register("joe").await;
    let (unknown, wrong) = (daemon.login("nobody", "x", "").await, daemon.login("joe", "x", "").await);
    assert_eq!((unknown.status.as_u16(), unknown.error().as_str()), (400, "Slug not found"));
    assert_eq!((wrong.status.as_u16(), wrong.error().as_str()), (401, "Invalid password"));
    // Built-in services have no password.
    assert_eq!(daemon.login("registry-svc", "", "").await.status, 401);
}

#[tokio::test]
async fn the_same_device_gets_the_same_session_and_its_text_is_renewed() {
    let daemon = Daemon::start().await;
    let first = daemon.register("joe").await;
    let again = daemon.login("joe", "pass", "").await;
    assert_eq!(token_of(&again), first);
    let id = again.json()["token"]["id"].clone();
    daemon.clock.advance(17 * 3600);
    let renewed = daemon.login("joe", "pass", "").await;
    assert_eq!(renewed.json()["token"]["id"], id, "the same session");
    assert_ne!(token_of(&renewed), first, "a new token");
    assert_ne!(daemon.login("joe", "pass", "phone").await.json()["token"]["id"], id, "another device");
    // A program that signed in once keeps working beyond `exp`, until its session has been idle for too long.
    daemon.clock.advance(30 * 24 * 3600);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &first, Value::Null).await.status, 200);
    daemon.clock.advance(91 * 24 * 3600);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &first, Value::Null).await.status, 401);
    assert_ne!(daemon.login("joe", "pass", "").await.json()["token"]["id"], id, "a new session");
}

#[tokio::test]
async fn an_account_with_a_live_instance_is_not_idle() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let token = daemon.register("busy-svc").await;
    daemon.put_instance(&token, json!({ "url": service.url })).await;
    daemon.clock.advance(100 * 24 * 3600);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &token, Value::Null).await.status, 200);
}

#[tokio::test]
async fn changing_the_password_ends_the_other_sessions_at_once() {
    let daemon = Daemon::start().await;
    let shared = daemon.register("joe").await;
    let laptop = token_of(&daemon.login("joe", "pass", "laptop").await);
    let phone = token_of(&daemon.login("joe", "pass", "phone").await);
    let change = |current: &str| json!({ "currentPassword": current, "newPassword": "new" });
    let wrong = daemon.call("POST", "/user-svc/change-password", &laptop, change("nope")).await;
    assert_eq!((wrong.status.as_u16(), wrong.error().as_str()), (400, "current password is incorrect"));
    let others = json!({ "slug": "openorch", "currentPassword": "changeme", "newPassword": "new" });
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &laptop, others).await.status, 403);
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &laptop, change("pass")).await.status, 200);
    for (token, status) in [(&laptop, 200), (&phone, 401), (&shared, 401)] {
        assert_eq!(daemon.call("POST", "/user-svc/user/by-token", token, Value::Null).await.status, status);
    }
    assert_eq!(daemon.login("joe", "pass", "").await.status, 401);
    assert_eq!(daemon.login("joe", "new", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_made_with_the_old_password_outlives_its_change() {
    let daemon = std::sync::Arc::new(Daemon::with_flags(&["--user-password-hash-concurrency", "8"]).await);
    daemon.register("joe").await;
    for round in 0..8 {
        let (old, new) =
            if round == 0 { ("pass".into(), "p1".into()) } else { (format!("p{round}"), format!("p{}", round + 1)) };
        let own = token_of(&daemon.login("joe", &old, "own").await);
        let logins: Vec<_> = (0..6)
            .map(|n| {
                let (daemon, old) = (daemon.clone(), old.clone());
                tokio::spawn(async move { daemon.login("joe", &old, &format!("device {round} {n}")).await })
            })
            .collect();
        let change = json!({ "currentPassword": old, "newPassword": new });
        assert_eq!(daemon.call("POST", "/user-svc/change-password", &own, change).await.status, 200);
        for login in logins {
            let answer = login.await.unwrap();
            if answer.status == 200 {
                let read = daemon.call("POST", "/user-svc/user/by-token", &token_of(&answer), Value::Null).await;
                assert_eq!(read.status, 401, "round {round}");
            }
        }
        assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &own, Value::Null).await.status, 200);
    }
}

#[tokio::test]
async fn a_changed_name_is_told_at_once() {
    let daemon = Daemon::start().await;
    let token = daemon.register("joe").await;
    let name = async || {
        let ask = "/user-svc/permission/registry-svc%3Ainstance%3Aview/is-authorized";
        let authorized = daemon.call("POST", ask, &token, json!({})).await.json();
        let read = daemon.call("POST", "/user-svc/user/by-token", &token, Value::Null).await.json();
        assert_eq!(authorized["user"], read["user"]);
        read["user"]["name"].clone()
    };
    assert_eq!(name().await, "joe");
    assert_eq!(daemon.call("PUT", "/user-svc/self", &token, json!({ "name": "Joseph" })).await.status, 200);
    assert_eq!(name().await, "Joseph");
}

#[tokio::test]
async fn signing_out_ends_the_own_session_at_once_here_and_at_the_gateway() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let some = daemon.register("some-svc").await;
    daemon.put_instance(&some, json!({ "url": service.url })).await;
    let shared = daemon.register("joe").await;
    let [laptop, phone, tablet] = [
        daemon.login("joe", "pass", "laptop"),
        daemon.login("joe", "pass", "phone"),
        daemon.login("joe", "pass", "tablet"),
    ];
    let [laptop, phone, tablet] = [token_of(&laptop.await), token_of(&phone.await), token_of(&tablet.await)];
    let works = async |token: &str| {
        let here = daemon.call("POST", "/user-svc/user/by-token", token, Value::Null).await.status == 200;
        let there = daemon.call("GET", "/some-svc/x", token, Value::Null).await.status == 200;
        assert_eq!(here, there, "the gateway and the daemon agree");
        here
    };
    let revoke = async |token: &str, body: Value| daemon.call("DELETE", "/user-svc/tokens", token, body).await;

    assert!(works(&laptop).await && works(&phone).await && works(&tablet).await && works(&shared).await);
    let answer = revoke(&laptop, Value::Null).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "{}"));
    assert!(!works(&laptop).await && works(&phone).await && works(&shared).await);
    assert_eq!(revoke(&laptop, Value::Null).await.status, 401, "an ended session cannot revoke");

    assert_eq!(revoke(&phone, json!({ "device": "tablet" })).await.status, 200);
    assert!(!works(&tablet).await && works(&phone).await);
    let unknown = revoke(&phone, json!({ "device": "fridge" })).await;
    assert_eq!((unknown.status.as_u16(), unknown.error().contains("`fridge`")), (404, true));

    // The session that programs share does not end with a sign-out elsewhere unless it is named.
    assert_eq!(revoke(&phone, json!({ "allTokens": true })).await.status, 200);
    assert!(!works(&phone).await && works(&shared).await);
    let phone = token_of(&daemon.login("joe", "pass", "phone").await);
    assert_eq!(revoke(&phone, json!({ "device": "unknown" })).await.status, 200);
    assert!(works(&phone).await && !works(&shared).await);
}

#[tokio::test]
async fn sessions_of_others_are_ended_by_an_admin_alone() {
    let daemon = Daemon::start().await;
    let (joe, eve, admin) = (daemon.register("joe").await, daemon.register("eve").await, daemon.admin().await);
    let me = async |token: String| daemon.call("POST", "/user-svc/user/by-token", &token, Value::Null).await;
    let id = me(joe.clone()).await.json()["user"]["id"].as_str().unwrap().to_owned();
    let revoke = async |token: &str, body: Value| daemon.call("DELETE", "/user-svc/tokens", token, body).await;
    let all = json!({ "userId": id, "allTokens": true });

    let refused = revoke(&eve, all.clone()).await;
    assert_eq!((refused.status.as_u16(), refused.error().contains("user-svc:token:revoke")), (403, true));
    assert_eq!(revoke(&admin, json!({ "userId": id })).await.status, 400, "the sessions are not specified");
    assert_eq!(revoke(&admin, json!({ "userId": "usr_none", "allTokens": true })).await.status, 404);
    assert_eq!(me(joe.clone()).await.status, 200);
    assert_eq!(revoke(&admin, all).await.status, 200);
    assert_eq!(me(joe).await.status, 401, "including the session without a device");
    assert_eq!((me(eve).await.status.as_u16(), me(admin).await.status.as_u16()), (200, 200));
    assert_eq!(daemon.login("joe", "pass", "").await.status, 200, "signing in again works");
}

#[tokio::test]
async fn tokens_that_are_not_ours_or_changed_are_refused() {
    let daemon = Daemon::start().await;
    let token = daemon.register("joe").await;
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("not a JWT") };
    let other = Daemon::start().await.register("joe").await;
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
    for forged in [
        "x",
        "a.b.c",
        "eyJ",
        &none,
        &other,
        &format!("{head}.{body}."),
        &format!("{head}.{body}.{}", "A".repeat(signature.len())),
    ] {
        let answer = daemon.call("POST", "/user-svc/user/by-token", forged, Value::Null).await;
        assert_eq!(answer.status, 401, "{forged}");
    }
    let bare = daemon.send("POST", "/user-svc/user/by-token", "", Vec::new(), &[("authorization", &token)]).await;
    assert_eq!(bare.status, 200, "a bare token is accepted");
}

#[tokio::test]
async fn a_service_never_receives_the_session_of_its_caller() {
    let daemon = Daemon::start().await;
    let (evil, good) = (Echo::start().await, Echo::start().await);
    let (evil_token, good_token) = (daemon.register("evil-svc").await, daemon.register("good-svc").await);
    daemon.put_instance(&evil_token, json!({ "url": evil.url })).await;
    daemon.put_instance(&good_token, json!({ "url": good.url })).await;
    let admin = daemon.admin().await;
    let received =
        daemon.call("GET", "/evil-svc/x", &admin, Value::Null).await.json()["head"].as_str().unwrap().to_owned();
    let line = received.lines().find(|line| line.to_lowercase().starts_with("authorization:")).unwrap().to_owned();
    let delegated = line.rsplit(' ').next().unwrap().to_owned();
    assert_ne!(delegated, admin);
    assert!(!received.contains(&admin));

    // Its purpose: asking who the caller is and which permissions it has.
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &delegated, Value::Null).await.status, 200);
    let ask = "/user-svc/permission/user-svc:role:view/is-authorized";
    assert_eq!(daemon.call("POST", ask, &delegated, json!({})).await.status, 200);
    // Nothing else: the service cannot act as the admin, here or at another service.
    for (method, path, body) in [
        ("POST", "/user-svc/invitation", json!({})),
        ("PUT", "/registry-svc/instance", json!({ "url": good.url })),
        ("POST", "/registry-svc/nodes", json!({})),
        ("PUT", "/user-svc/self", json!({ "name": "x" })),
        ("GET", "/good-svc/x", Value::Null),
    ] {
        assert_eq!(daemon.call(method, path, &delegated, body).await.status, 403, "{method} {path}");
    }
    assert_eq!(daemon.call("GET", "/evil-svc/x", &delegated, Value::Null).await.status, 200, "its own service");
    daemon.clock.advance(301);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &delegated, Value::Null).await.status, 401);
    assert_eq!(daemon.call("GET", "/evil-svc/x", &delegated, Value::Null).await.status, 401);
}

#[tokio::test]
async fn a_session_in_an_odd_spelling_does_not_reach_a_service_either() {
    let daemon = Daemon::start().await;
    let evil = Echo::start().await;
    let token = daemon.register("evil-svc").await;
    daemon.put_instance(&token, json!({ "url": evil.url })).await;
    let session = daemon.register("joe").await;
    for spelling in
        ["Bearer\tTOKEN", "Bearer Bearer TOKEN", "Token TOKEN", "Bearer \"TOKEN\"", "Bearer TOKEN;", "x.TOKEN"]
    {
        let value = spelling.replace("TOKEN", &session);
        let answer = daemon.send("GET", "/evil-svc/x", "", Vec::new(), &[("authorization", &value)]).await;
        assert_eq!(answer.status, 400, "{spelling}: {}", answer.text);
    }
    for foreign in ["Basic am9lOnBhc3M=", "Token eyJhbGciOiJub25lIn0.e30.", "Bearer eyJ"] {
        let answer = daemon.send("GET", "/evil-svc/x", "", Vec::new(), &[("authorization", foreign)]).await;
        assert!(answer.text.contains(foreign), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_the_gateway_and_a_foreign_one_passes() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let token = daemon.register("some-svc").await;
    daemon.put_instance(&token, json!({ "url": service.url })).await;
    daemon.register("joe").await;
    let (laptop, phone) =
        (token_of(&daemon.login("joe", "pass", "a").await), token_of(&daemon.login("joe", "pass", "b").await));
    assert_eq!(daemon.call("GET", "/some-svc/", &phone, Value::Null).await.status, 200);
    let change = json!({ "currentPassword": "pass", "newPassword": "new" });
    daemon.call("POST", "/user-svc/change-password", &laptop, change).await;
    assert_eq!(daemon.call("GET", "/some-svc/", &phone, Value::Null).await.status, 401);
    assert_eq!(daemon.call("GET", "/some-svc/", &laptop, Value::Null).await.status, 200);
    let foreign = daemon.call("GET", "/some-svc/", "not-ours", Value::Null).await;
    assert!(foreign.text.contains("Bearer not-ours"), "{}", foreign.text);
}

#[tokio::test]
async fn an_api_key_is_never_passed_on_as_the_services_own_bearer() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    daemon.put_instance(&daemon.register("shop-svc").await, json!({ "url": service.url })).await;
    // `user:oo_key_abc`
    for value in ["Bearer oo_key_abc", "oo_key_abc", "Token token=oo_key_abc", "Basic dXNlcjpvb19rZXlfYWJj"] {
        let answer = daemon.send("GET", "/shop-svc/x", "", Vec::new(), &[("authorization", value)]).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (401, &json!("access.invalid_token")), "{value}");
    }
    let twice = [("authorization", "Bearer abc"), ("authorization", "Bearer oo_key_abc")];
    assert_eq!(
        daemon.send("GET", "/shop-svc/x", "", Vec::new(), &twice).await.json()["code"],
        "access.malformed_token"
    );
    let foreign = daemon.send("GET", "/shop-svc/x", "", Vec::new(), &[("authorization", "Bearer oo_keyabc")]).await;
    assert!(foreign.json()["head"].as_str().unwrap().contains("Bearer oo_keyabc"));
}

#[tokio::test]
async fn an_invitation_makes_as_many_accounts_as_it_says_and_no_more() {
    let daemon = Daemon::with_flags(&["--registration", "invite"]).await;
    let admin = daemon.admin().await;
    let register = |slug: &str, code: Value| json!({ "slug": slug, "password": "p", "invitation": code });
    let plain = daemon.call("POST", "/user-svc/register", "", json!({ "slug": "a", "password": "p" })).await;
    assert_eq!(plain.status, 403);
    let made = daemon.call("POST", "/user-svc/invitation", &admin, json!({ "uses": 2, "expiresIn": 60 })).await.json();
    let (code, id) = (made["invitation"]["code"].clone(), made["invitation"]["id"].as_str().unwrap().to_owned());
    let listed = daemon.call("GET", "/user-svc/invitations", &admin, Value::Null).await;
    assert!(!listed.text.contains(code.as_str().unwrap()), "the code is shown once");
    for (slug, status) in [("a", 200), ("b", 200), ("c", 403)] {
        assert_eq!(daemon.call("POST", "/user-svc/register", "", register(slug, code.clone())).await.status, status);
    }
    assert_eq!(daemon.call("DELETE", &format!("/user-svc/invitation/{id}"), &admin, Value::Null).await.status, 404);

    // A role named twice is assigned once.
    let twice = json!({ "roleIds": ["user-svc:user", "user-svc:user"] });
    let made = daemon.call("POST", "/user-svc/invitation", &admin, twice).await.json();
    let twice = register("twice", made["invitation"]["code"].clone());
    assert_eq!(daemon.call("POST", "/user-svc/register", "", twice).await.status, 200);

    let made = daemon.call("POST", "/user-svc/invitation", &admin, json!({ "expiresIn": 60 })).await.json();
    daemon.clock.advance(61);
    let late = daemon.call("POST", "/user-svc/register", "", register("d", made["invitation"]["code"].clone())).await;
    assert_eq!(late.status, 403);
    for bad in [json!({ "uses": 0 }), json!({ "expiresIn": 0 }), json!({ "roleIds": ["no-such"] })] {
        assert_eq!(daemon.call("POST", "/user-svc/invitation", &admin, bad).await.status, 400);
    }
}

#[tokio::test]
async fn closed_registration_is_refused_and_the_heart_works_for_accounts_that_exist() {
    let mut daemon = Daemon::start().await;
    daemon.register("early-svc").await;
    daemon.restart(&["--registration", "closed"]).await;
    let late = daemon.call("POST", "/user-svc/register", "", json!({ "slug": "late", "password": "p" })).await;
    assert_eq!(late.status, 403);
    assert_eq!(daemon.login("early-svc", "pass", "").await.status, 200);
}

#[tokio::test]
async fn nobody_makes_invitations_while_registration_is_closed() {
    let daemon = Daemon::with_flags(&["--registration", "closed"]).await;
    let admin = daemon.admin().await;
    let refused = daemon.call("POST", "/user-svc/invitation", &admin, json!({})).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (409, &json!("user.invitations_closed")));
    assert!(refused.error().contains("OPENORCH_REGISTRATION=invite"), "it names the remedy: {}", refused.text);
    let listed = daemon.call("GET", "/user-svc/invitations", &admin, Value::Null).await;
    assert_eq!(listed.json()["invitations"], json!([]), "no invitation was created");
    let made = json!({ "user": { "slug": "made", "name": "Made" }, "password": "pass" });
    assert_eq!(
        daemon.call("POST", "/user-svc/user", &admin, made).await.status,
        200,
        "creating an account directly works"
    );
}

#[tokio::test]
async fn while_the_default_password_stands_only_loopback_names_are_served() {
    let daemon = Daemon::start().await;
    for (name, value) in [("host", "example.org"), ("origin", "https://example.org"), ("x-forwarded-for", "10.0.0.1")] {
        let answer = daemon.send("GET", "/health", "", Vec::new(), &[(name, value)]).await;
        assert_eq!(answer.status, 403, "{name}");
    }
    let admin = daemon.admin().await;
    let change = json!({ "currentPassword": "changeme", "newPassword": "better" });
    assert_eq!(daemon.call("POST", "/user-svc/change-password", &admin, change).await.status, 200);
    assert_eq!(daemon.send("GET", "/health", "", Vec::new(), &[("host", "example.org")]).await.status, 200);
}

#[tokio::test]
async fn the_public_key_is_told_as_pem_and_as_a_key_set() {
    let daemon = Daemon::start().await;
    let pem = daemon.call("GET", "/user-svc/public-key", "", Value::Null).await.json();
    assert!(pem["publicKey"].as_str().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let set = daemon.call("GET", "/.well-known/jwks.json", "", Value::Null).await.json();
    assert_eq!((set["keys"][0]["kty"].as_str(), set["keys"][0]["alg"].as_str()), (Some("RSA"), Some("RS256")));
}

#[tokio::test]
async fn once_warm_neither_the_gateway_nor_a_check_asks_the_store() {
    let daemon = Daemon::with_flags(&["--registry-node-heartbeat-interval", "1h"]).await;
    let (echo, user) = (Echo::start().await, daemon.register("warm-svc").await);
    assert_eq!(daemon.put_instance(&user, json!({ "url": echo.url })).await.status, 201);
    let admin = daemon.admin().await;
    let request = async || {
        assert_eq!(daemon.call("GET", "/warm-svc/x", &user, Value::Null).await.status, 200);
        let check = daemon.call("POST", "/user-svc/permission/nobody-svc:x/is-authorized", &user, json!({})).await;
        assert_eq!(check.status, 401, "it has no such permission");
        assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &user, Value::Null).await.status, 200);
    };
    let asked = async || {
        let metrics = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
        let lines = metrics.lines().filter(|line| line.starts_with("openorch_store_duration_seconds_count{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    request().await;
    // The audit entries are counted one second after the start.
    let counted =
        async || daemon.call("GET", "/metrics", &admin, Value::Null).await.text.contains("openorch_audit_entries");
    daemon.until("the audit entries are counted", counted).await;
    let before = asked().await;
    assert!(before.iter().all(|line| !line.ends_with(" 0")) && before.len() == 2, "{before:?}");
    for _ in 0..20 {
        request().await;
    }
    assert_eq!(asked().await, before);
}

/// Statuses of `count` concurrent sign-ins.
async fn concurrent_logins(daemon: &std::sync::Arc<Daemon>, count: usize, password: &'static str) -> Vec<u16> {
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..count {
        let daemon = daemon.clone();
        calls.spawn(async move { daemon.login("joe", password, &format!("worker {n}")).await.status.as_u16() });
    }
    calls.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_guesses_is_no_faster_and_a_burst_of_right_passwords_passes() {
    let daemon = std::sync::Arc::new(Daemon::with_flags(&["--user-password-hash-concurrency", "8"]).await);
    daemon.register("joe").await;
    assert!(concurrent_logins(&daemon, 64, "pass").await.iter().all(|status| *status == 200));
    let guesses = concurrent_logins(&daemon, 64, "wrong").await;
    let judged = guesses.iter().filter(|status| **status == 401).count();
    assert!(judged == 5 && guesses.iter().all(|status| [401, 429].contains(status)), "{guesses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_registrations_shuts_nobody_out_who_signs_in() {
    let daemon = std::sync::Arc::new(Daemon::with_flags(&["--user-password-hash-concurrency", "1"]).await);
    daemon.register("joe").await;
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..200 {
        let daemon = daemon.clone();
        let body = json!({ "slug": format!("flood-{n}"), "password": "p" });
        flood.spawn(async move { daemon.call("POST", "/user-svc/register", "", body).await.status.as_u16() });
    }
    let first = flood.join_next().await.unwrap().unwrap();
    assert!([200, 429].contains(&first));
    assert_eq!(daemon.login("joe", "pass", "").await.status, 200);
    assert!(!flood.is_empty(), "the flood is still queued");
    flood.abort_all();
}
