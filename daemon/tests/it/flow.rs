//! The core flow: a program registers an account and the URL of its instance, and is reachable under its slug; only its
//! account or an admin can change that.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo};

#[tokio::test]
async fn a_registered_instance_is_reached_under_its_slug_at_once() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let token = daemon.register("skeleton-svc").await;
    let answer = daemon.put_instance(&token, json!({ "url": service.url })).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (201, "{}"));
    let answer = daemon.call("GET", "/skeleton-svc/hello?a=b%20c", "", Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let head = answer.json()["head"].as_str().unwrap().to_lowercase();
    assert!(head.starts_with("get /skeleton-svc/hello?a=b%20c http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nvia: 1.1 openorch\r\n") && head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"),
        "{head}"
    );

    let rows = daemon.instances(&token).await;
    assert_eq!((rows[0]["status"].as_str(), rows[0]["slug"].as_str()), (Some("Healthy"), Some("skeleton-svc")));
}

#[tokio::test]
async fn an_instance_that_starts_to_listen_after_it_registered_is_found_quickly() {
    let daemon = Daemon::with_flags(&["--registry-probe-interval", "1h"]).await;
    let address = openorch_test_support::free_address();
    let token = daemon.register("late-svc").await;
    assert_eq!(daemon.put_instance(&token, json!({ "url": format!("http://{address}") })).await.status, 201);
    assert_eq!(daemon.call("GET", "/late-svc/", "", Value::Null).await.status, 503);
    let _listening = tokio::net::TcpListener::bind(address).await.unwrap();
    daemon.until("it is Healthy", || async { daemon.instances(&token).await[0]["status"] == "Healthy" }).await;
}

#[tokio::test]
async fn only_the_owner_and_admins_change_an_instance() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let (owner, other, admin) =
        (daemon.register("owner-svc").await, daemon.register("other-svc").await, daemon.admin().await);
    daemon.put_instance(&owner, json!({ "url": service.url, "id": "inst_mine" })).await;

    for body in [json!({ "url": service.url }), json!({ "url": "http://127.0.0.1:9", "id": "inst_mine" })] {
        let answer = daemon.put_instance(&other, body).await;
        assert_eq!(answer.status, 403);
        assert!(answer.error().contains("caller slug 'other-svc' does not match instance slug 'owner-svc'"));
    }
    assert_eq!(daemon.call("DELETE", "/registry-svc/instance/inst_mine", &other, Value::Null).await.status, 403);
    // The same address in another spelling.
    let spelled = service.url.replace("http", "HTTP") + "/";
    assert_eq!(daemon.put_instance(&other, json!({ "url": spelled })).await.status, 403);
    assert_eq!(daemon.call("GET", "/owner-svc/", "", Value::Null).await.status, 200);

    let answer = daemon.put_instance(&admin, json!({ "url": service.url, "path": "/changed" })).await;
    assert_eq!(answer.status, 201);
    let rows = daemon.instances(&owner).await;
    assert_eq!(
        (rows.len(), rows[0]["slug"].as_str(), rows[0]["path"].as_str()),
        (1, Some("owner-svc"), Some("/changed"))
    );

    assert_eq!(daemon.call("DELETE", "/registry-svc/instance/inst_mine", &owner, Value::Null).await.status, 204);
    assert_eq!(daemon.call("DELETE", "/registry-svc/instance/inst_mine", &owner, Value::Null).await.status, 404);
    let gone = daemon.call("GET", "/owner-svc/", "", Value::Null).await;
    assert_eq!((gone.status.as_u16(), gone.headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert_eq!(daemon.call("GET", "/never-was/", "", Value::Null).await.status, 404);
}

#[tokio::test]
async fn the_same_id_at_another_url_moves_the_instance() {
    let daemon = Daemon::start().await;
    let (first, second) = (Echo::start().await, Echo::start().await);
    let token = daemon.register("moving-svc").await;
    daemon.put_instance(&token, json!({ "url": first.url, "id": "inst_1" })).await;
    daemon.put_instance(&token, json!({ "url": second.url, "id": "inst_1" })).await;
    let rows = daemon.instances(&token).await;
    assert_eq!((rows.len(), rows[0]["url"].as_str()), (1, Some(second.url.as_str())));
    // The same URL under a new id renames the instance.
    daemon.put_instance(&token, json!({ "url": second.url, "id": "inst_2" })).await;
    let rows = daemon.instances(&token).await;
    assert_eq!((rows.len(), rows[0]["id"].as_str()), (1, Some("inst_2")));
}

#[tokio::test]
async fn a_service_that_dies_is_unreachable_and_comes_back() {
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let token = daemon.register("dying-svc").await;
    daemon.put_instance(&token, json!({ "url": service.url })).await;
    service.stop();
    daemon.until("it is Unreachable", || async { daemon.instances(&token).await[0]["status"] == "Unreachable" }).await;
    assert_eq!(daemon.call("GET", "/dying-svc/", "", Value::Null).await.status, 503);
    assert!(!daemon.instances(&token).await[0]["details"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn only_an_instance_that_announced_a_heartbeat_is_removed_for_silence() {
    let daemon = Daemon::with_flags(&["--registry-heartbeat-check-interval", "10ms"]).await;
    let token = daemon.register("silent-svc").await;
    let beat = json!({ "url": "http://127.0.0.1:9", "id": "inst_a", "heartbeatSeconds": 1 });
    daemon.put_instance(&token, beat.clone()).await;
    daemon.put_instance(&token, json!({ "url": "http://127.0.0.1:19", "id": "inst_b" })).await;
    // An empty id counts as none.
    assert_eq!(daemon.put_instance(&token, json!({ "url": "http://127.0.0.1:19", "id": "" })).await.status, 201);
    // A single jump means that the daemon was paused or the clock was set.
    daemon.clock.advance(3600);
    for _ in 0..20 {
        assert_eq!(daemon.instances(&token).await.len(), 2);
    }
    daemon.put_instance(&token, beat).await;
    let shown = daemon.instances(&token).await;
    let beaten: Vec<_> = shown.iter().map(|one| one["lastHeartbeat"] != "0001-01-01T00:00:00Z").collect();
    assert_eq!(beaten, [true, false], "repeating the registration is a heartbeat");
    let gone = || async {
        daemon.clock.advance(1);
        daemon.instances(&token).await.len() == 1
    };
    daemon.until("the silent one is removed", gone).await;
    assert_eq!(daemon.instances(&token).await[0]["id"], "inst_b");
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_the_last_status_counts() {
    let mut daemon = Daemon::start().await;
    let service = Echo::start().await;
    let token = daemon.register("lasting-svc").await;
    daemon.put_instance(&token, json!({ "url": service.url })).await;
    daemon.until("its status is stored", || async { daemon.instances(&token).await[0]["status"] == "Healthy" }).await;
    daemon.restart(&["--registry-probe-interval", "1h"]).await;
    assert_eq!(daemon.call("GET", "/lasting-svc/", "", Value::Null).await.status, 200);
    assert_eq!(daemon.instances(&token).await.len(), 1, "the token is still valid");
}

#[tokio::test]
async fn one_accounts_hanging_instances_do_not_delay_those_of_others() {
    let daemon = Daemon::with_flags(&[
        "--registry-probe-concurrency",
        "4",
        "--registry-probe-concurrency-per-account",
        "2",
        "--registry-probe-timeout",
        "1h",
    ])
    .await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let hanging = daemon.register("hanging-svc").await;
    for n in 0..20 {
        let instance = json!({ "url": format!("http://127.0.0.1:{port}/{n}"), "healthPath": "/health" });
        assert_eq!(daemon.put_instance(&hanging, instance).await.status, 201);
    }
    let service = Echo::start().await;
    let quick = daemon.register("quick-svc").await;
    daemon.put_instance(&quick, json!({ "url": service.url })).await;
    assert_eq!(daemon.call("GET", "/quick-svc/", "", Value::Null).await.status, 200);
}

#[tokio::test]
async fn definitions_are_saved_listed_and_removed_by_admins() {
    let daemon = Daemon::start().await;
    let (user, admin) = (daemon.register("some-svc").await, daemon.admin().await);
    let definition = json!({ "id": "def-a", "image": { "name": "nginx", "internalPorts": [80] },
        "clients": [{ "language": "C#", "url": "https://example.org" }] });
    let body = json!({ "definition": definition });
    assert_eq!(daemon.call("PUT", "/registry-svc/definition", &user, body.clone()).await.status, 403);
    assert_eq!(daemon.call("PUT", "/registry-svc/definition", &admin, body).await.status, 201);
    let list = daemon.call("GET", "/registry-svc/definitions", &user, Value::Null).await.json();
    assert_eq!(list["definitions"][0], definition);
    assert_eq!(daemon.call("DELETE", "/registry-svc/definition/def-a", &admin, Value::Null).await.status, 204);
    assert_eq!(daemon.call("DELETE", "/registry-svc/definition/def-a", &admin, Value::Null).await.status, 404);
    assert_eq!(daemon.call("PUT", "/registry-svc/definition", &admin, json!({})).await.status, 400);
}

#[tokio::test]
async fn the_node_tells_its_load_and_can_be_forgotten() {
    let daemon = Daemon::with_flags(&["--node-id", "node-one", "--az", "zone-a", "--region", "north"]).await;
    let admin = daemon.admin().await;
    let own = daemon.call("GET", "/registry-svc/node/self", &admin, Value::Null).await.json();
    assert_eq!((own["node"]["id"].as_str(), own["node"]["region"].as_str()), (Some("node-one"), Some("north")));
    daemon
        .until("memory is measured", || async {
            let own = daemon.call("GET", "/registry-svc/node/self", &admin, Value::Null).await.json();
            own["node"]["usage"]["memory"]["total"].as_u64().unwrap_or_default() > 0
        })
        .await;
    for body in [Value::Null, json!(null), json!({}), json!({ "ids": ["node-one"] })] {
        let nodes = daemon.call("POST", "/registry-svc/nodes", &admin, body).await.json();
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);
    }
    let none = daemon.call("POST", "/registry-svc/nodes", &admin, json!({ "ids": ["other"] })).await;
    assert_eq!(none.text, r#"{"nodes":[]}"#);
    let unknown = daemon.call("DELETE", "/registry-svc/node/http%3A%2F%2Fnowhere%3A1", &admin, Value::Null).await;
    assert_eq!(unknown.status, 404);
}
