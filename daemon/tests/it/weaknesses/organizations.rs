//! Organizations: the rights of members, and of accounts that are added without their consent.

use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, login, make_app, register},
    support::{Daemon, id_of, status, token_of},
};

async fn create_organization(daemon: &Daemon, token: &str, id: &str) {
    assert_eq!(status(daemon, "POST", "/user-svc/organization", token, json!({ "id": id })).await, 200);
}

async fn set_member(daemon: &Daemon, token: &str, organization: &str, user_id: &str, role: &str) -> u16 {
    let path = format!("/user-svc/organization/{organization}/user/{user_id}");
    status(daemon, "PUT", &path, token, json!({ "role": role })).await
}

async fn remove_member(daemon: &Daemon, token: &str, organization: &str, user_id: &str) -> u16 {
    let path = format!("/user-svc/organization/{organization}/user/{user_id}");
    status(daemon, "DELETE", &path, token, Value::Null).await
}

async fn roles_of(daemon: &Daemon, token: &str) -> Vec<Value> {
    let own = daemon.call("POST", "/user-svc/self", token, Value::Null).await.json();
    own["roles"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn w95_nobody_stays_in_an_app_by_an_organization_that_it_founded_there() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let app = daemon.call("POST", "/user-svc/app", "", json!({ "host": HOST })).await.json()["app"]["id"].clone();
    let app = app.as_str().unwrap();
    let there = token_of(&register(&daemon, "founder", HOST).await);
    create_organization(&daemon, &there, "org_mine").await;
    // An account added to an organization of the app is in the app, even after it changes its own role there.
    let member = token_of(&register(&daemon, "member", HOST).await);
    assert_eq!(set_member(&daemon, &there, "org_mine", &id_of(&member), "admin").await, 200);
    assert_eq!(set_member(&daemon, &member, "org_mine", &id_of(&member), "user").await, 200);
    for account in [&member, &there] {
        let path = format!("/user-svc/enroll/{app}:{}:user-svc:user", id_of(account));
        assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    }
    assert_eq!(status(&daemon, "POST", "/user-svc/self", &member, Value::Null).await, 200);
    assert!([401, 403].contains(&status(&daemon, "POST", "/user-svc/self", &there, Value::Null).await));
    assert_eq!(login(&daemon, "founder", HOST).await.status, 403);
    // After it is readmitted, it has its previous roles.
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&there)), "user-svc:user", HOST).await.status, 200);
    let again = token_of(&login(&daemon, "founder", HOST).await);
    assert!(roles_of(&daemon, &again).await.contains(&json!("user-svc:org:{org_mine}:admin")));
}

#[tokio::test]
async fn w96_an_organization_is_no_trap_for_who_was_put_into_it() {
    let daemon = Daemon::start().await;
    let (eve, vic, third, admin) = (
        daemon.register("eve").await,
        daemon.register("vic").await,
        daemon.register("third").await,
        daemon.admin().await,
    );
    // The last remaining member leaves, and the organization is deleted.
    create_organization(&daemon, &eve, "org_trap").await;
    assert_eq!(set_member(&daemon, &eve, "org_trap", &id_of(&vic), "admin").await, 200);
    assert_eq!(remove_member(&daemon, &eve, "org_trap", &id_of(&eve)).await, 200);
    assert_eq!(remove_member(&daemon, &vic, "org_trap", &id_of(&vic)).await, 200);
    assert_eq!(roles_of(&daemon, &vic).await, [json!("user-svc:user")]);
    let path = "/user-svc/organization/org_trap/users";
    assert_eq!(status(&daemon, "GET", path, &admin, Value::Null).await, 404);
    // With another member, who becomes the admin.
    create_organization(&daemon, &eve, "org_more").await;
    assert_eq!(set_member(&daemon, &eve, "org_more", &id_of(&third), "user").await, 200);
    assert_eq!(set_member(&daemon, &eve, "org_more", &id_of(&vic), "admin").await, 200);
    assert_eq!(remove_member(&daemon, &eve, "org_more", &id_of(&eve)).await, 200);
    assert_eq!(remove_member(&daemon, &vic, "org_more", &id_of(&vic)).await, 200);
    assert!(roles_of(&daemon, &third).await.contains(&json!("user-svc:org:{org_more}:admin")));
    // A founder who is the only admin cannot leave; an admin can still delete the account.
    create_organization(&daemon, &eve, "org_last").await;
    assert_eq!(set_member(&daemon, &eve, "org_last", &id_of(&third), "user").await, 200);
    assert_eq!(remove_member(&daemon, &eve, "org_last", &id_of(&eve)).await, 409);
    let path = format!("/user-svc/user/{}", id_of(&eve));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    assert!(roles_of(&daemon, &third).await.contains(&json!("user-svc:org:{org_last}:admin")));
}
