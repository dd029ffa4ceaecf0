//! Caches: no account can evict cached data of others, or make the daemon scan all of it.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, claims, delegated_token, id_of, status, token_of};

/// A daemon with a service that echoes its requests.
async fn with_service() -> (Daemon, Echo) {
    let daemon = Daemon::with_flags(&["--registry-node-heartbeat-interval", "1h"]).await;
    let (echo, service) = (Echo::start().await, daemon.register("echo-svc").await);
    assert_eq!(daemon.put_instance(&service, json!({ "url": echo.url })).await.status, 201);
    // The audit entries are counted one second after the start.
    let admin = daemon.admin().await;
    let counted =
        async || daemon.call("GET", "/metrics", &admin, Value::Null).await.text.contains("openorch_audit_entries");
    daemon.until("the audit entries are counted", counted).await;
    (daemon, echo)
}

async fn make_role(daemon: &Daemon, token: &str, id: &str) {
    let role = json!({ "id": id, "name": "", "permissionIds": [] });
    assert_eq!(status(daemon, "POST", "/user-svc/role", token, role).await, 200);
}

async fn assign_role(daemon: &Daemon, token: &str, role: &str, to: &str) {
    let enroll = json!({ "enrolls": [{ "userId": id_of(to), "role": role }] });
    assert_eq!(status(daemon, "PUT", "/user-svc/enrolls", token, enroll).await, 200);
}

async fn store_reads(daemon: &Daemon, admin: &str) -> u64 {
    let metrics = daemon.call("GET", "/metrics", admin, Value::Null).await.text;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("openorch_store_duration_seconds_count{") && line.contains("\"read\""));
    line.expect("a counter of reads").rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn w110_who_deletes_a_role_or_an_organization_of_its_own_makes_the_daemon_forget_nothing_of_others() {
    let (daemon, _echo) = with_service().await;
    let (admin, eve, ann, member) = (
        daemon.admin().await,
        daemon.register("eve").await,
        daemon.register("ann").await,
        daemon.register("member").await,
    );
    for role in ["eve:nobody", "eve:crew"] {
        make_role(&daemon, &eve, role).await;
    }
    assign_role(&daemon, &eve, "eve:crew", &member).await;
    for id in ["eve:alone", "eve:club"] {
        assert_eq!(status(&daemon, "POST", "/user-svc/organization", &eve, json!({ "id": id })).await, 200);
    }
    let join = json!({ "userId": id_of(&member) });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/eve:club/user", &eve, join).await, 200);

    let (of_ann, of_member) =
        (delegated_token(&daemon, "/echo-svc/x", &ann).await, delegated_token(&daemon, "/echo-svc/x", &member).await);
    let roles = |token: &str| claims(token)["ori"].to_string();
    assert!(roles(&of_member).contains("eve:crew") && roles(&of_member).contains("org:{eve:club}"), "{of_member}");
    let before = store_reads(&daemon, &admin).await;
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &ann).await, of_ann, "the token is cached");
    assert_eq!(store_reads(&daemon, &admin).await, before, "the account is cached");

    // Roles and organizations without other members.
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/eve:nobody", &eve, Value::Null).await, 200);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/organization/eve:alone", &eve, Value::Null).await, 200);
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &member).await, of_member);
    // A role with another member: only that account is evicted, immediately.
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/eve:crew", &eve, Value::Null).await, 200);
    let without_role = roles(&delegated_token(&daemon, "/echo-svc/x", &member).await);
    assert!(!without_role.contains("eve:crew") && without_role.contains("org:{eve:club}"), "{without_role}");
    assert_eq!(status(&daemon, "DELETE", "/user-svc/organization/eve:club", &eve, Value::Null).await, 200);
    assert!(!roles(&delegated_token(&daemon, "/echo-svc/x", &member).await).contains("eve:club"));
    // Deleting an account deletes its roles.
    make_role(&daemon, &eve, "eve:last").await;
    assign_role(&daemon, &eve, "eve:last", &member).await;
    assert!(roles(&delegated_token(&daemon, "/echo-svc/x", &member).await).contains("eve:last"));
    let path = format!("/user-svc/user/{}", id_of(&eve));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    assert!(!roles(&delegated_token(&daemon, "/echo-svc/x", &member).await).contains("eve:last"));

    let before = store_reads(&daemon, &admin).await;
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &ann).await, of_ann, "the cached token survives all changes");
    assert_eq!(store_reads(&daemon, &admin).await, before, "nothing was read from the store");
}

#[tokio::test]
async fn w111_sessions_end_with_the_one_they_came_from_and_those_of_others_are_left_alone() {
    let (daemon, _echo) = with_service().await;
    let (ann, bob) = (daemon.register("ann").await, daemon.register("bob").await);
    let exchange = json!({ "newDevice": "phone" });
    let phone = token_of(&daemon.call("PUT", "/user-svc/token/exchange", &ann, exchange).await);
    let laptop = token_of(&daemon.login("ann", "pass", "laptop").await);
    let (of_phone, of_bob, of_laptop) = (
        delegated_token(&daemon, "/echo-svc/x", &phone).await,
        delegated_token(&daemon, "/echo-svc/x", &bob).await,
        delegated_token(&daemon, "/echo-svc/x", &laptop).await,
    );
    // A delegated token of the exchanged session is cached; it still ends with the original session.
    let revoke = json!({ "allTokens": false });
    assert_eq!(status(&daemon, "POST", "/user-svc/login", "", json!({ "slug": "bob", "password": "no" })).await, 401);
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &phone).await, of_phone);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &ann, revoke).await, 200);
    for token in [&ann, &phone] {
        assert_eq!(status(&daemon, "GET", "/echo-svc/x", token, Value::Null).await, 401);
    }
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &laptop).await, of_laptop);
    // A password change ends all sessions except the one that makes it.
    let other = token_of(&daemon.login("ann", "pass", "other").await);
    assert_eq!(status(&daemon, "GET", "/echo-svc/x", &other, Value::Null).await, 200);
    let change = json!({ "currentPassword": "pass", "newPassword": "better" });
    assert_eq!(status(&daemon, "POST", "/user-svc/change-password", &laptop, change).await, 200);
    assert_eq!(status(&daemon, "GET", "/echo-svc/x", &other, Value::Null).await, 401);
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &laptop).await, of_laptop);
    assert_eq!(delegated_token(&daemon, "/echo-svc/x", &bob).await, of_bob, "ann's changes do not affect bob");
}
