//! Pending invitations and roles for contacts are valid only as long as their giver has the right to give them.

use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, login, make_app, register},
    contacts,
    support::{Daemon, id_of, status, token_of},
};

const ADMIN: &str = "user-svc:admin";

/// Creates another admin; returns its token and account id.
async fn second_admin(daemon: &Daemon, admin: &str, slug: &str) -> (String, String) {
    let token = daemon.register(slug).await;
    let id = id_of(&token);
    assert_eq!(enroll(daemon, admin, &json!(id), ADMIN, "").await.status, 200);
    (token, id)
}

async fn demote(daemon: &Daemon, admin: &str, id: &str) {
    let path = format!("/user-svc/enroll/unnamed:{id}:user-svc:admin");
    assert_eq!(status(daemon, "DELETE", &path, admin, Value::Null).await, 200);
}

async fn roles_of(daemon: &Daemon, token: &str) -> Value {
    daemon.call("POST", "/user-svc/self", token, Value::Null).await.json()["roles"].clone()
}

#[tokio::test]
async fn w44_invitations_are_seen_and_revoked_in_their_app_alone() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let there = token_of(&register(&daemon, "help", HOST).await);
    let permit = json!({ "permits": [
        { "permission": "user-svc:user:create", "slugs": ["help"], "appHost": HOST }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
    let make = async |token: &str| {
        let made = daemon.call("POST", "/user-svc/invitation", token, json!({})).await;
        assert_eq!(made.status, 200, "{}", made.text);
        made.json()["invitation"]["id"].as_str().unwrap().to_owned()
    };
    let list = async |token: &str| {
        let listed = daemon.call("GET", "/user-svc/invitations", token, Value::Null).await;
        assert_eq!(listed.status, 200, "{}", listed.text);
        let rows = listed.json()["invitations"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    let (of_admin, of_help) = (make(&admin).await, make(&there).await);
    assert_eq!(list(&there).await, [of_help.clone()].into());
    assert_eq!(list(&admin).await, [of_admin.clone(), of_help.clone()].into(), "an admin sees those of all apps");
    let revoke = async |token: &str, id: &str| {
        status(&daemon, "DELETE", &format!("/user-svc/invitation/{id}"), token, Value::Null).await
    };
    assert_eq!((revoke(&there, &of_admin).await, revoke(&there, &of_help).await), (404, 200));
    assert_eq!(list(&admin).await, [of_admin].into());
}

#[tokio::test]
async fn w45_an_invitation_ends_with_the_rights_of_its_maker() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let invite = async |token: &str, roles: Value| {
        let made = daemon.call("POST", "/user-svc/invitation", token, json!({ "roleIds": roles, "uses": 9 })).await;
        assert_eq!(made.status, 200, "{}", made.text);
        made.json()["invitation"]["code"].as_str().unwrap().to_owned()
    };
    let redeem = async |slug: &str, code: &str| {
        let body = json!({ "slug": slug, "password": "pass", "invitation": code });
        daemon.call("POST", "/user-svc/register", "", body).await
    };
    for (n, ends) in ["demoted", "deleted"].into_iter().enumerate() {
        let (boss, id) = second_admin(&daemon, &admin, &format!("boss-{n}")).await;
        let (as_admin, as_user) = (invite(&boss, json!([ADMIN])).await, invite(&boss, json!(["user-svc:user"])).await);
        let made = redeem(&format!("early-{n}"), &as_admin).await;
        assert_eq!(roles_of(&daemon, &token_of(&made)).await, json!([ADMIN]));
        match ends {
            "demoted" => demote(&daemon, &admin, &id).await,
            _ => {
                let path = format!("/user-svc/user/{id}");
                assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
                let listed = daemon.call("GET", "/user-svc/invitations", &admin, Value::Null).await.text;
                assert!(!listed.contains(&format!("boss-{n}")), "its invitations are deleted too: {listed}");
            }
        }
        for code in [&as_admin, &as_user] {
            let refused = redeem(&format!("late-{n}"), code).await;
            assert_eq!(refused.status, 403, "{ends}: {}", refused.text);
        }
    }
    // A former admin who may still create accounts gives only what it may give.
    let (boss, id) = second_admin(&daemon, &admin, "boss-2").await;
    let (as_admin, as_user) = (invite(&boss, json!([ADMIN])).await, invite(&boss, json!(["user-svc:user"])).await);
    demote(&daemon, &admin, &id).await;
    let grant = json!({ "grants": [{ "permissionId": "user-svc:user:create", "slugs": ["boss-2"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, grant).await, 200);
    let refused = redeem("late-2", &as_admin).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(roles_of(&daemon, &token_of(&redeem("late-2", &as_user).await)).await, json!(["user-svc:user"]));
}

#[tokio::test]
async fn w46_a_role_that_waits_for_a_contact_ends_with_the_rights_of_its_giver() {
    let (daemon, post) = contacts::start().await;
    let admin = daemon.admin().await;
    let give = async |token: &str, contact: &str| {
        let body = json!({ "enrolls": [{ "contactId": contact, "role": ADMIN }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", token, body).await, 200, "{contact}");
    };
    // Registers an account with the verified contact; returns its roles.
    let arrive = async |slug: &str, contact: &str| {
        let id = contacts::request_code(&daemon, "", contact).await;
        let shown = json!({ "platform": "email", "value": contact, "otpId": id, "otpCode": post.last_code().0 });
        let body = json!({ "slug": slug, "password": "pass", "contact": shown });
        let made = daemon.call("POST", "/user-svc/register", "", body).await;
        assert_eq!(made.status, 200, "{}", made.text);
        roles_of(&daemon, &token_of(&made)).await
    };
    let (both, user) = (json!([ADMIN, "user-svc:user"]), json!(["user-svc:user"]));
    let (boss, id) = second_admin(&daemon, &admin, "boss").await;
    for contact in ["a@example.org", "b@example.org", "c@example.org"] {
        give(&boss, contact).await;
    }
    assert_eq!(arrive("ann", "a@example.org").await, both);
    demote(&daemon, &admin, &id).await;
    assert_eq!(arrive("bob", "b@example.org").await, user, "the giver has lost the right");
    // Another admin assigns it again, although it is pending already.
    give(&admin, "c@example.org").await;
    assert_eq!(arrive("cleo", "c@example.org").await, both);
    // Nor after the giver and its assignments are deleted.
    let (chief, id) = second_admin(&daemon, &admin, "chief").await;
    give(&chief, "d@example.org").await;
    assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{id}"), &admin, Value::Null).await, 200);
    let listed = daemon.call("POST", "/user-svc/enrolls", &admin, json!({ "contactId": "d@example.org" })).await;
    assert_eq!(listed.json()["enrolls"], json!([]));
    assert_eq!(arrive("dan", "d@example.org").await, user);
    // A role owned by an account gives no access to an app once the account that assigned it is no longer an admin.
    make_app(&daemon, &admin, HOST).await;
    let (owner, id) = second_admin(&daemon, &admin, "owner").await;
    assert_eq!(
        status(&daemon, "POST", "/user-svc/role", &owner, json!({ "id": "owner:key", "name": "Key" })).await,
        200
    );
    let body = json!({ "enrolls": [{ "contactId": "e@example.org", "role": "owner:key", "appHost": HOST }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &owner, body).await, 200);
    demote(&daemon, &admin, &id).await;
    arrive("eve", "e@example.org").await;
    assert_eq!(login(&daemon, "eve", HOST).await.status, 403);
}
