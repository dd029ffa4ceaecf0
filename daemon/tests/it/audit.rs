//! The audit log: every change and every refusal is recorded with its caller and client address, without secrets.

use serde_json::{Value, json};

use crate::support::{Daemon, claims};

async fn audit(daemon: &Daemon, body: Value) -> Vec<Value> {
    let answer = daemon.call("POST", "/user-svc/audit", &daemon.admin().await, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_change_is_told_with_who_from_where_what_and_the_request() {
    let mut daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let ann = daemon.register("ann").await;
    let ann_id = claims(&ann)["oui"].as_str().unwrap().to_owned();
    let enroll = json!({ "enrolls": [{ "userId": ann_id, "role": "user-svc:admin" }] });
    let id = [("x-request-id", "the-request")];
    let answer = daemon.send("PUT", "/user-svc/enrolls", &admin, enroll.to_string().into_bytes(), &id).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let told = audit(&daemon, json!({ "operation": "saveEnrolls" })).await;
    let [entry] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(entry["actorSlug"], "openorch");
    assert_eq!(entry["actorId"], claims(&admin)["oui"]);
    assert_eq!(entry["clientIp"], "127.0.0.1");
    assert_eq!(entry["target"], format!("{ann_id} user-svc:admin"));
    assert_eq!((&entry["outcome"], &entry["status"], &entry["count"]), (&json!("done"), &json!(200), &json!(1)));
    assert_eq!(entry["requestId"], "the-request");
    assert!(entry["at"].as_str().unwrap().starts_with("20"));

    let registered = audit(&daemon, json!({ "target": "ann", "operation": "register" })).await;
    assert_eq!(registered.len(), 1, "anonymous calls are recorded too");
    daemon.restart(&[]).await;
    assert_eq!(audit(&daemon, json!({ "operation": "saveEnrolls" })).await, told, "it is stored");
    let wide = daemon.call("POST", "/user-svc/audit", &daemon.admin().await, json!({ "limit": 1000 })).await.text;
    assert!(!wide.contains("pass") && !wide.contains("changeme") && !wide.contains("eyJ"), "{wide}");
}

#[tokio::test]
async fn each_change_is_one_entry_and_what_repeats_what_is_there_is_none_but_for_sign_ins_which_are_counted() {
    let (daemon, _post) = crate::contacts::start().await;
    let ann = daemon.register("ann").await;
    let count = async |operation: &str| audit(&daemon, json!({ "operation": operation, "actor": "ann" })).await.len();
    for n in 1..=3 {
        // The session exists already, and after the first round the permission and the permit do too.
        daemon.login("ann", "pass", "").await;
        let permissions = json!({ "permissions": [{ "id": "ann:x" }] });
        daemon.call("PUT", "/user-svc/permissions", &ann, permissions).await;
        let permit = json!({ "permits": [{ "permission": "ann:x", "slugs": ["ann"] }] });
        daemon.call("PUT", "/user-svc/permits", &ann, permit).await;
        daemon.call("PUT", "/user-svc/self", &ann, json!({ "name": format!("Ann {n}") })).await;
        daemon.call("POST", "/user-svc/self", &ann, Value::Null).await;
        for (operation, entries) in [("login", 1), ("savePermissions", 1), ("savePermits", 1), ("saveSelf", n)] {
            assert_eq!(count(operation).await, entries, "{operation}");
        }
    }
    assert_eq!(count("readSelf").await, 0);
    let signed_in = json!({ "operation": "login", "actor": "ann" });
    daemon.until("all are counted", async || audit(&daemon, signed_in.clone()).await[0]["count"] == 3).await;
    // Intermediate writes are not separate changes: a code is one entry, whether sent or used.
    let asked = crate::contacts::request_code(&daemon, "", "bob@example.org").await;
    let sent = audit(&daemon, json!({ "operation": "sendOtp" })).await;
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0]["target"], &sent[0]["outcome"]), (&json!("bob@example.org"), &json!("done")));
    crate::contacts::request_code(&daemon, &ann, "ann@example.org").await;
    assert_eq!(count("sendOwnOtp").await, 1);
    assert!(!asked.is_empty());
}

#[tokio::test]
async fn refusals_of_one_caller_operation_and_target_within_a_minute_are_one_entry() {
    let daemon = Daemon::start().await;
    let (ann, bob) = (daemon.register("ann").await, daemon.register("bob").await);
    for token in [&ann, &ann, &ann, &bob, ""] {
        let grant = json!({ "grants": [{ "permissionId": "user-svc:user:view", "slugs": ["ann"] }] });
        assert!(daemon.call("PUT", "/user-svc/grants", token, grant).await.status.is_client_error());
    }
    daemon.login("ann", "wrong", "").await;
    let refused = json!({ "outcome": "refused", "operation": "saveGrants" });
    let all = async || {
        let told = audit(&daemon, refused.clone()).await;
        told.len() == 3 && told.iter().any(|entry| entry["count"] == 3)
    };
    daemon.until("the refusals are recorded", all).await;
    let told = audit(&daemon, refused.clone()).await;
    let of = |slug: &str| told.iter().find(|entry| entry["actorSlug"].as_str().unwrap_or_default() == slug).unwrap();
    assert_eq!((&of("ann")["count"], &of("ann")["status"]), (&json!(3), &json!(403)));
    assert_eq!((&of("bob")["count"], &of("")["status"]), (&json!(1), &json!(401)));
    let wrong = audit(&daemon, json!({ "operation": "login", "outcome": "refused" })).await;
    assert_eq!((&wrong[0]["target"], &wrong[0]["status"]), (&json!("ann"), &json!(401)));
    daemon.clock.advance(60);
    daemon.call("PUT", "/user-svc/grants", &ann, json!({})).await;
    daemon
        .until("a refusal in another minute is another entry", async || {
            audit(&daemon, refused.clone()).await.len() == 4
        })
        .await;
}

#[tokio::test]
async fn the_log_is_asked_by_time_actor_operation_and_target_in_pages_and_by_admins_alone() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let start = openorch_api::Time(openorch_chassis::clock::Clock::now(&*daemon.clock)).to_string();
    for n in 0..5 {
        daemon.clock.advance(10);
        daemon.call("POST", "/user-svc/role", &ann, json!({ "id": format!("ann:r{n}"), "name": "R" })).await;
    }
    let own = audit(&daemon, json!({ "operation": "createRole", "actor": "ann" })).await;
    let registered = audit(&daemon, json!({ "operation": "register", "actor": "ann" })).await;
    assert_eq!(registered.len(), 1, "an account is the actor of its own registration");
    let targets: Vec<_> = own.iter().map(|entry| entry["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["ann:r4", "ann:r3", "ann:r2", "ann:r1", "ann:r0"], "the newest first");
    assert_eq!(audit(&daemon, json!({ "operation": "createRole", "actor": claims(&ann)["oui"] })).await.len(), 5);
    assert_eq!(audit(&daemon, json!({ "target": "ann:r3" })).await.len(), 1);
    assert_eq!(
        audit(&daemon, json!({ "operation": "createRole", "actor": "ann", "until": own[2]["at"] })).await.len(),
        2
    );
    assert_eq!(
        audit(&daemon, json!({ "operation": "createRole", "actor": "ann", "from": own[2]["at"] })).await.len(),
        3
    );
    assert_eq!(audit(&daemon, json!({ "operation": "createRole", "actor": "ann", "until": start })).await.len(), 0);
    let admin = daemon.admin().await;
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let body = json!({ "operation": "createRole", "actor": "ann", "limit": 2, "after": after });
        let page = daemon.call("POST", "/user-svc/audit", &admin, body).await.json();
        seen.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["id"].clone()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, own.iter().map(|entry| entry["id"].clone()).collect::<Vec<_>>());
    assert_eq!(daemon.call("POST", "/user-svc/audit", &ann, Value::Null).await.status, 403);
    for body in [json!({ "limit": 5000 }), json!({ "after": "x" }), json!({ "from": "yesterday" })] {
        assert_eq!(daemon.call("POST", "/user-svc/audit", &admin, body).await.status, 400);
    }
}

#[tokio::test]
async fn each_entry_is_found_by_what_the_call_was_about_and_by_whoever_called() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let ann_id = claims(&ann)["oui"].as_str().unwrap().to_owned();
    let call = async |method: &str, path: &str, token: &str, body: Value| {
        let answer = daemon.call(method, path, token, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    };
    let long = format!("ann:{}", "r".repeat(252));
    for role in ["ann:guest", &long] {
        call("POST", "/user-svc/role", &ann, json!({ "id": role })).await;
    }
    let waits = json!({ "enrolls": [{ "contactId": "bob@example.org", "role": "ann:guest" }] });
    call("PUT", "/user-svc/enrolls", &ann, waits).await;
    let found = async |target: &str| audit(&daemon, json!({ "target": target })).await.len();
    assert_eq!(found("bob@example.org ann:guest").await, 1, "also a contact that is not registered yet");

    let given = json!({ "enrolls": [{ "userId": ann_id, "role": long }] });
    let enroll = call("PUT", "/user-svc/enrolls", &ann, given).await["enrolls"][0]["id"].as_str().unwrap().to_owned();
    call("DELETE", &format!("/user-svc/enroll/{enroll}"), &ann, Value::Null).await;
    assert_eq!((found(&long).await, found(&enroll).await), (2, 1), "created and assigned, with a long id");

    let made = call("POST", "/user-svc/organization", &ann, json!({ "name": "Only a name" })).await;
    assert_eq!(found(made["organization"]["id"].as_str().unwrap()).await, 1, "by its generated id");

    // A chosen id may look like a slug.
    let eve = json!({ "user": { "id": "plain", "name": "Eve", "slug": "eve" }, "password": "pass" });
    call("POST", "/user-svc/user", &admin, eve).await;
    daemon.login("eve", "pass", "").await;
    for actor in ["plain", "eve"] {
        assert_eq!(audit(&daemon, json!({ "actor": actor })).await.len(), 1, "{actor}");
    }
    for after in ["x", "[]", "[\"a\"]"] {
        let answer = daemon.call("POST", "/user-svc/audit", &admin, json!({ "after": after })).await;
        assert!(answer.status == 400 && answer.error().contains("`after`"), "{}", answer.text);
    }
}
