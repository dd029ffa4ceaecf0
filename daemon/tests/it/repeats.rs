//! `Idempotency-Key`: a call is executed once, and a repeat gets the stored response.

use std::time::Duration;

use openorch_api::{Access, Effect, Exempt, Idempotency};
use openorch_test_support::{WAIT_TIMEOUT, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::{
    process::{command, post, run},
    support::{Answer, Daemon, Echo, delegated_token, id_of, status, token_of},
};

const ORGANIZATION: &str = "/user-svc/organization";

async fn send_with_key(daemon: &Daemon, method: &str, path: &str, token: &str, key: &str, body: Value) -> Answer {
    daemon.send(method, path, token, body.to_string().into_bytes(), &[("idempotency-key", key)]).await
}

/// Creates an organization with this name.
async fn create(daemon: &Daemon, token: &str, key: &str, name: &str) -> Answer {
    send_with_key(daemon, "POST", ORGANIZATION, token, key, json!({ "name": name })).await
}

async fn organizations(daemon: &Daemon) -> usize {
    let answer = daemon.call("POST", "/user-svc/organizations", &daemon.admin().await, json!({ "limit": 100 })).await;
    answer.json()["organizations"].as_array().map_or(0, Vec::len)
}

#[test]
fn each_operation_that_writes_says_what_comes_of_a_repeat_and_keyed_ones_can_be() {
    let mut count = 0;
    for row in openorch_api::operations() {
        match row.effect() {
            Effect::Write => assert!(row.repeat.is_some(), "{} does not declare `repeat`", row.id),
            Effect::Read => assert_eq!(row.idempotency(), Idempotency::Natural, "{}", row.id),
        }
        let reads_key = row.all_request_headers().any(|header| header.name == "idempotency-key");
        assert_eq!(reads_key, row.idempotency() == Idempotency::Keyed, "{}", row.id);
        if reads_key {
            count += 1;
            assert!(row.audited && row.returns_json() && !row.returns_token(), "{}", row.id);
            // Ownership would have to be checked before a replay.
            assert!(matches!(
                row.access,
                Access::SignedIn | Access::Needs(openorch_api::PermissionRequirement { exempt: Exempt::None, .. })
            ));
        }
    }
    assert!(count > 2);
}

#[tokio::test]
async fn each_keyed_operation_answers_a_repeat_byte_for_byte_and_does_nothing() {
    let mut daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let calls = [
        ("createOrganization", json!({ "name": "Ours", "slug": "ours" })),
        ("updateApp", json!({ "newHost": "shop.example.com" })),
        ("createUser", json!({ "user": { "slug": "bob", "name": "Bob" }, "password": "a-long-password" })),
    ];
    let rows: Vec<_> = openorch_api::operations().filter(|row| row.idempotency() == Idempotency::Keyed).collect();
    let tested: Vec<&str> = calls.iter().map(|(id, _)| *id).collect();
    assert!(
        rows.iter().all(|row| tested.contains(&row.id)) && rows.len() == calls.len(),
        "every keyed operation is tested here"
    );
    let entries = async |daemon: &Daemon, id: &str| {
        let answer = daemon.call("POST", "/user-svc/audit", &admin, json!({ "operation": id })).await;
        answer.json()["entries"].as_array().map_or(0, Vec::len)
    };
    let mut first = Vec::new();
    for (id, body) in &calls {
        let row = rows.iter().find(|row| row.id == *id).unwrap();
        let send = || send_with_key(&daemon, row.method.as_str(), row.path, &admin, "the key", body.clone());
        let (once, again) = (send().await, send().await);
        assert_eq!((once.status.as_u16(), &once.text), (again.status.as_u16(), &again.text), "{id}");
        assert_eq!(once.headers["content-type"], again.headers["content-type"]);
        assert!(once.status.is_success(), "{id}: {}", once.text);
        assert_eq!(entries(&daemon, id).await, 1, "{id} is executed once");
        // Without the key it is another call, which fails because the name is taken.
        let other = daemon.call(row.method.as_str(), row.path, &admin, body.clone()).await;
        assert_eq!(other.status, 409, "{id}: {}", other.text);
        first.push(once.text);
    }
    daemon.restart(&[]).await;
    for ((id, body), text) in calls.iter().zip(first) {
        let row = rows.iter().find(|row| row.id == *id).unwrap();
        let again = send_with_key(&daemon, row.method.as_str(), row.path, &admin, "the key", body.clone()).await;
        assert_eq!((again.status.as_u16(), again.text), (200, text), "{id} after a restart");
    }
}

#[tokio::test]
async fn a_key_is_of_one_account_audience_operation_app_and_request() {
    let daemon = Daemon::start().await;
    let (echo, service) = (Echo::start().await, daemon.register("echo-svc").await);
    assert_eq!(daemon.put_instance(&service, json!({ "url": echo.url })).await.status, 201);
    let (admin, ann, bob) = (daemon.admin().await, daemon.register("ann").await, daemon.register("bob").await);
    let first = create(&daemon, &ann, "k", "A").await;
    assert_eq!(first.status, 200, "{}", first.text);
    let other = create(&daemon, &ann, "k", "B").await;
    assert_eq!((other.status.as_u16(), &other.json()["code"]), (422, &json!("repeat.other_request")));
    assert_ne!(create(&daemon, &bob, "k", "A").await.text, first.text, "another account");
    assert_ne!(create(&daemon, &ann, "K", "A").await.text, first.text, "another key");
    let phone = token_of(&daemon.login("ann", "pass", "phone").await);
    assert_eq!(create(&daemon, &phone, "k", "A").await.text, first.text, "another session of the account");
    let open = json!({ "slug": "echo-svc", "operations": ["createOrganization"] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, open).await, 200);
    let delegated = delegated_token(&daemon, "/echo-svc/x", &ann).await;
    assert_ne!(create(&daemon, &delegated, "k", "A").await.text, first.text, "another audience");
    assert_eq!(create(&daemon, &delegated, "k", "B").await.status, 422);
    // An operation that is not keyed ignores the header.
    for name in ["Ann", "Anna"] {
        assert_eq!(
            send_with_key(&daemon, "PUT", "/user-svc/self", &ann, "k", json!({ "name": name })).await.status,
            200
        );
    }
    let app = json!({ "newHost": "shop.example.com" });
    assert_eq!(send_with_key(&daemon, "PUT", "/user-svc/app", &admin, "k", app).await.status, 200);
    let there = json!({ "newAppHost": "shop.example.com" });
    let enroll =
        json!({ "enrolls": [{ "userId": id_of(&ann), "role": "user-svc:user", "appHost": "shop.example.com" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll).await, 200);
    let in_shop = token_of(&daemon.call("PUT", "/user-svc/token/exchange", &ann, there).await);
    assert_eq!(create(&daemon, &in_shop, "k", "A").await.status, 422, "another app");
    echo.stop();
}

#[tokio::test]
async fn a_key_is_printable_and_short_and_there_once() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let long = "k".repeat(256);
    for key in ["", " ", "\u{e9}", &long] {
        let answer = create(&daemon, &ann, key, "A").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (400, &json!("repeat.invalid_key")), "{key:?}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let answer = daemon.send("POST", ORGANIZATION, &ann, b"{\"name\":\"A\"}".to_vec(), &twice).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert_eq!(create(&daemon, &ann, &long[1..], "A").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_with_one_key_one_is_done() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let call = || create(&daemon, &ann, "k", "A");
    let (a, b, c, d) = tokio::join!(call(), call(), call(), call());
    let answers = [a, b, c, d];
    let texts: std::collections::HashSet<_> =
        answers.iter().filter(|answer| answer.status == 200).map(|answer| &answer.text).collect();
    assert_eq!(texts.len(), 1, "all successful calls have the same answer");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (409, &json!("repeat.in_flight")));
    }
    assert_eq!(organizations(&daemon).await, 1);
    assert_eq!(create(&daemon, &ann, "k", "A").await.text, **texts.iter().next().unwrap());
}

#[tokio::test]
async fn access_is_checked_before_a_repeat_is_answered_and_refusals_are_not_stored() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let app = async |host: &str| {
        send_with_key(&daemon, "PUT", "/user-svc/app", &ann, "k", json!({ "newHost": host })).await.status.as_u16()
    };
    assert_eq!(app("a.example.com").await, 403);
    let permit = json!({ "permits": [{ "id": "p", "permission": "user-svc:app:edit", "slugs": ["ann"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
    assert_eq!(app("not a host").await, 400);
    assert_eq!(app("a.example.com").await, 200, "a refused call can be repeated with the same key");
    assert_eq!(app("a.example.com").await, 200);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/p", &admin, Value::Null).await, 200);
    assert_eq!(app("a.example.com").await, 403, "the right was lost");
    let phone = token_of(&daemon.login("ann", "pass", "phone").await);
    create(&daemon, &phone, "o", "A").await;
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &phone, json!({})).await, 200);
    assert_eq!(create(&daemon, &phone, "o", "A").await.status, 401, "the session ended");
}

#[tokio::test]
async fn an_account_stores_so_many_answers_and_they_end_after_a_day() {
    let daemon = Daemon::with_flags(&["--api-max-stored-answers-per-account", "2"]).await;
    let (ann, bob) = (daemon.register("ann").await, daemon.register("bob").await);
    let first = create(&daemon, &ann, "a", "A").await;
    assert_eq!((first.status.as_u16(), create(&daemon, &ann, "b", "B").await.status.as_u16()), (200, 200));
    let third = create(&daemon, &ann, "c", "C").await;
    assert_eq!((third.status.as_u16(), &third.json()["code"]), (429, &json!("repeat.too_many_keys")));
    assert!(third.error().contains("OPENORCH_API_MAX_STORED_ANSWERS_PER_ACCOUNT"), "{}", third.text);
    assert_eq!(create(&daemon, &ann, "a", "A").await.text, first.text, "a stored answer is returned");
    let unkeyed = daemon.call("POST", ORGANIZATION, &ann, json!({ "name": "D" })).await;
    assert_eq!((unkeyed.status.as_u16(), create(&daemon, &bob, "a", "A").await.status.as_u16()), (200, 200));
    daemon.clock.advance(24 * 3600 - 1);
    assert_eq!(create(&daemon, &ann, "a", "A").await.text, first.text);
    daemon.clock.advance(1);
    let anew = create(&daemon, &ann, "a", "A").await;
    assert!(anew.status == 200 && anew.text != first.text, "another call: {}", anew.text);
    assert_eq!(create(&daemon, &ann, "a", "A").await.text, anew.text);
    // With a wrong clock nothing expires.
    daemon.clock.jump(300 * 24 * 3600);
    assert_eq!(create(&daemon, &ann, "a", "A").await.text, anew.text);
}

#[tokio::test]
async fn all_accounts_store_so_many_answers_together_and_those_of_a_deleted_one_go() {
    let daemon = Daemon::with_flags(&["--api-max-stored-answers", "2"]).await;
    let (admin, ann, bob) = (daemon.admin().await, daemon.register("ann").await, daemon.register("bob").await);
    for key in ["a", "b"] {
        assert_eq!(create(&daemon, &ann, key, "A").await.status, 200);
    }
    let full = create(&daemon, &bob, "a", "A").await;
    assert_eq!((full.status.as_u16(), &full.json()["code"]), (503, &json!("repeat.answers_full")), "{}", full.text);
    let ann_id = id_of(&ann);
    assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{ann_id}"), &admin, Value::Null).await, 200);
    assert_eq!(create(&daemon, &bob, "a", "A").await.status, 200);
}

/// The client never gets the response, because the daemon is killed between commit and response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_answer_was_lost_in_a_crash_is_answered_and_not_done_again() {
    let folder = TempDir::new().unwrap();
    let mut process = run(&mut command(folder.path()));
    let register = json!({ "slug": "ann", "password": "p" });
    let token = post(&process.url, "/user-svc/register", "", register).await.unwrap();
    let token = token["token"]["token"].as_str().unwrap().to_owned();
    let own = async |url: &str| {
        let answer = post(url, "/user-svc/self", &token, json!({})).await.unwrap();
        answer["organizations"].as_array().cloned().unwrap_or_default()
    };
    let body = json!({ "name": "Lost" }).to_string();
    let mut stream = tokio::net::TcpStream::connect(process.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {ORGANIZATION} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nidempotency-key: k\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It is committed, but the response is never read.
    eventually(WAIT_TIMEOUT, "the organization", async || own(&process.url).await.len() == 1).await;
    process.child.kill().unwrap();
    process.wait();
    drop(stream);
    let process = run(&mut command(folder.path()));
    let made = own(&process.url).await;
    let request = reqwest::Client::new().post(format!("{}{ORGANIZATION}", process.url)).body(body);
    let request = request.header("authorization", format!("Bearer {token}")).header("idempotency-key", "k");
    let answer = request.timeout(Duration::from_secs(30)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(answer["organization"]["id"], made[0]["id"]);
    assert_eq!(own(&process.url).await.len(), 1, "it is executed once");
}
