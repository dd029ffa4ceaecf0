//! Rights: grants, permissions, roles, permits, organizations, definitions.

use openorch_api::{Method, op::Effect};
use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, make_app},
    support::{Daemon, has_permission, id_of, status, token_of},
};

/// Ids that the account `bob` must not use, and some that no account can.
const FOREIGN: [&str; 10] =
    ["bobby:x", "ann:x", "user-svc:admin", "user-svc:user:view", "bob", "bob:", ":x", "", "bob:a b", "bob:{x}"];

#[tokio::test]
async fn w01_a_plain_account_saves_no_grant() {
    let daemon = Daemon::start().await;
    let bob = daemon.register("bob").await;
    let grant = json!({ "grants": [{ "permissionId": "user-svc:user:view", "slugs": ["bob"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &bob, grant).await, 403);
    for permission in ["user-svc:user:view", "ann:x", "bobby:x", "bob", "bob-svc:x", ":x", "BOB:x"] {
        let permit = json!({ "permits": [{ "permission": permission, "slugs": ["bob"] }] });
        let status = status(&daemon, "PUT", "/user-svc/permits", &bob, permit).await;
        assert!([400, 403].contains(&status), "{permission}: {status}");
    }
    assert!(!has_permission(&daemon, &bob, "user-svc:user:view").await);
}

#[tokio::test]
async fn w02_nobody_gives_a_permission_of_another() {
    let daemon = Daemon::start().await;
    let (bob, ann) = (daemon.register("bob").await, daemon.register("ann").await);
    daemon.call("PUT", "/user-svc/permissions", &ann, json!({ "permissions": [{ "id": "ann:x" }] })).await;
    daemon.call("POST", "/user-svc/role", &bob, json!({ "id": "bob:r", "name": "R" })).await;
    for permission in ["user-svc:user:create", "ann:x"] {
        for role in ["user-svc:user", "bob:r"] {
            let link = json!({ "permissionLinks": [{ "roleId": role, "permissionId": permission }] });
            assert_eq!(status(&daemon, "PUT", "/user-svc/roles/permissions", &bob, link).await, 403);
        }
        let ids = json!({ "permissionIds": [permission] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/role/bob:r/permissions", &bob, ids).await, 403);
        let role = json!({ "id": "bob:q", "name": "Q", "permissionIds": [permission] });
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &bob, role).await, 403);
    }
    let own = id_of(&bob);
    for role in ["user-svc:admin", "user-svc:user", "ann:r", "user-svc:org:{x}:admin"] {
        let enroll = json!({ "enrolls": [{ "userId": own, "role": role }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &bob, enroll).await, 403, "{role}");
    }
    assert!(!has_permission(&daemon, &bob, "user-svc:user:create").await);
}

#[tokio::test]
async fn w02_nobody_learns_what_others_have_by_trying_to_take_it() {
    let daemon = Daemon::start().await;
    let (bob, ann, admin) = (daemon.register("bob").await, daemon.register("ann").await, daemon.admin().await);
    let waits = json!({ "enrolls": [{ "contactId": "ann@example.org", "role": "user-svc:admin" }] });
    let waits = daemon.call("PUT", "/user-svc/enrolls", &admin, waits).await.json();
    let by_contact = waits["enrolls"][0]["id"].as_str().unwrap().to_owned();
    let take = async |token: &str, id: &str| {
        status(&daemon, "DELETE", &format!("/user-svc/enroll/{id}"), token, Value::Null).await
    };
    let (ann, boss) = (id_of(&ann), id_of(&admin));
    for (there, not_there) in [
        (format!("unnamed:{ann}:user-svc:user"), format!("unnamed:{boss}:user-svc:user")),
        (format!("unnamed:{boss}:user-svc:admin"), format!("unnamed:{ann}:user-svc:admin")),
        (by_contact, format!("contact:{}", "0".repeat(64))),
    ] {
        assert_eq!(take(&bob, &there).await, take(&bob, &not_there).await, "{there}");
        assert_eq!(take(&admin, &not_there).await, 404);
    }
    assert_eq!(take(&bob, &format!("unnamed:{}:bob:r", id_of(&bob))).await, 404, "it may learn about its own");
}

#[tokio::test]
async fn w04_nobody_claims_the_permission_of_a_service_before_it_comes() {
    let daemon = Daemon::start().await;
    let bob = daemon.register("bob").await;
    for id in FOREIGN {
        let body = json!({ "permissions": [{ "id": "bob:fine" }, { "id": id }] });
        let got = status(&daemon, "PUT", "/user-svc/permissions", &bob, body).await;
        assert!([400, 403].contains(&got), "{id}: {got}");
    }
    let link = json!({ "permissionLinks": [{ "roleId": "user-svc:user", "permissionId": "bob:fine" }] });
    let got = status(&daemon, "PUT", "/user-svc/roles/permissions", &bob, link).await;
    assert_eq!(got, 404, "nothing in the list was saved");
    // The service that registers later saves its own permission, and keeps it.
    let ann = daemon.register("ann").await;
    let own = json!({ "permissions": [{ "id": "ann:x", "name": "Ann's" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permissions", &ann, own.clone()).await, 200);
    assert_eq!(status(&daemon, "PUT", "/user-svc/permissions", &bob, own).await, 403);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/permission/ann:x", &bob, Value::Null).await, 403);
    let builtin = "/user-svc/permission/user-svc:user:view";
    for token in [&bob, &daemon.admin().await] {
        assert_eq!(status(&daemon, "DELETE", builtin, token, Value::Null).await, 403);
    }
}

#[tokio::test]
async fn w05_nobody_makes_or_overwrites_a_role_that_is_not_under_its_own_slug() {
    let daemon = Daemon::start().await;
    let (bob, bobby, admin) = (daemon.register("bob").await, daemon.register("bobby").await, daemon.admin().await);
    for id in FOREIGN {
        let got = status(&daemon, "POST", "/user-svc/role", &bob, json!({ "id": id, "name": "N" })).await;
        assert!([400, 403].contains(&got), "{id}: {got}");
    }
    daemon.call("POST", "/user-svc/role", &bobby, json!({ "id": "bobby:r", "name": "R" })).await;
    for (method, path) in [
        ("DELETE", "/user-svc/role/bobby:r"),
        ("GET", "/user-svc/role/bobby:r/permissions"),
        ("PUT", "/user-svc/role/bobby:r/permissions"),
        ("DELETE", "/user-svc/role/user-svc:user"),
        ("PUT", "/user-svc/role/user-svc:user/permissions"),
        ("DELETE", "/user-svc/permission/user-svc:user:view"),
    ] {
        assert_eq!(status(&daemon, method, path, &bob, Value::Null).await, 403, "{method} {path}");
    }
    for (method, path) in [
        ("DELETE", "/user-svc/role/user-svc:user"),
        ("DELETE", "/user-svc/role/user-svc:admin"),
        ("PUT", "/user-svc/role/user-svc:admin/permissions"),
        ("PUT", "/user-svc/role/bobby:r/permissions"),
        ("DELETE", "/user-svc/permission/user-svc:user:view"),
    ] {
        assert_eq!(status(&daemon, method, path, &admin, Value::Null).await, 403, "an admin: {method} {path}");
    }
    let roles = daemon.call("GET", "/user-svc/roles", &admin, Value::Null).await.json();
    let owner = |id: &str| {
        let role = roles["roles"].as_array().unwrap().iter().find(|role| role["id"] == id);
        role.unwrap()["ownerId"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(owner("bobby:r"), id_of(&bobby));
    assert!(![id_of(&bob), id_of(&bobby)].contains(&owner("user-svc:admin")));
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/bobby:r", &admin, Value::Null).await, 200);
}

#[tokio::test]
async fn w08_setting_the_permissions_of_a_role_replaces_them_and_those_who_have_it_keep_it() {
    let daemon = Daemon::start().await;
    let (shop, ann) = (daemon.register("shop-svc").await, daemon.register("ann").await);
    let permissions = json!({ "permissions": [{ "id": "shop-svc:view" }, { "id": "shop-svc:edit" }] });
    daemon.call("PUT", "/user-svc/permissions", &shop, permissions).await;
    let role = json!({ "id": "shop-svc:clerk", "name": "Clerk", "permissionIds": ["shop-svc:view"] });
    daemon.call("POST", "/user-svc/role", &shop, role).await;
    let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "shop-svc:clerk" }] });
    daemon.call("PUT", "/user-svc/enrolls", &shop, enroll).await;
    assert!(has_permission(&daemon, &ann, "shop-svc:view").await);
    let only = json!({ "permissionIds": ["shop-svc:edit"] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/role/shop-svc:clerk/permissions", &shop, only).await, 200);
    assert!(!has_permission(&daemon, &ann, "shop-svc:view").await, "the previous permission is revoked");
    assert!(has_permission(&daemon, &ann, "shop-svc:edit").await, "accounts keep the role");
    let own = daemon.call("POST", "/user-svc/self", &ann, Value::Null).await.json();
    assert_eq!(own["roles"], json!(["shop-svc:clerk", "user-svc:user"]));
}

#[tokio::test]
async fn w09_who_is_removed_from_an_organization_has_none_of_its_rights_from_then_on() {
    let daemon = Daemon::start().await;
    let (ann, bob, eve) = (daemon.register("ann").await, daemon.register("bob").await, daemon.register("eve").await);
    daemon.call("POST", "/user-svc/organization", &ann, json!({ "id": "org_1" })).await;
    let member = |token: &str| format!("/user-svc/organization/org_1/user/{}", id_of(token));
    let add = json!({ "role": "admin" });
    assert_eq!(status(&daemon, "PUT", &member(&bob), &ann, add).await, 200);
    let members = "/user-svc/organization/org_1/users";
    assert_eq!(status(&daemon, "GET", members, &bob, Value::Null).await, 200);
    let before = token_of(&daemon.login("bob", "pass", "a").await);
    assert_eq!(
        status(&daemon, "DELETE", &member(&bob), &eve, Value::Null).await,
        403,
        "another account cannot remove members"
    );
    assert_eq!(status(&daemon, "DELETE", &member(&bob), &ann, Value::Null).await, 200);
    for token in [&bob, &before] {
        assert_eq!(status(&daemon, "GET", members, token, Value::Null).await, 403);
        assert_eq!(status(&daemon, "PUT", &member(&eve), token, json!({ "role": "user" })).await, 403);
        let own = daemon.call("POST", "/user-svc/self", token, Value::Null).await.json();
        assert_eq!(own["roles"], json!(["user-svc:user"]));
    }
    let after = crate::support::claims(&token_of(&daemon.login("bob", "pass", "a").await));
    assert_eq!(after["ori"], json!(["user-svc:user"]), "nor is it in a new token");
}

#[tokio::test]
async fn w16_who_may_see_nodes_changes_no_definition() {
    let daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let grants = json!({ "grants": [{ "permissionId": "registry-svc:node:view", "slugs": ["ann"] },
        { "permissionId": "registry-svc:node:edit", "slugs": ["ann"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, grants).await, 200);
    assert_eq!(status(&daemon, "POST", "/registry-svc/nodes", &ann, json!({})).await, 200);
    let save = json!({ "definition": { "id": "def-a", "image": { "name": "nginx", "internalPorts": [80] } } });
    assert_eq!(status(&daemon, "PUT", "/registry-svc/definition", &ann, save.clone()).await, 403);
    assert_eq!(status(&daemon, "PUT", "/registry-svc/definition", &admin, save.clone()).await, 201);
    assert_eq!(status(&daemon, "DELETE", "/registry-svc/definition/def-a", &ann, Value::Null).await, 403);
    let grant = json!({ "grants": [{ "permissionId": "registry-svc:definition:edit", "slugs": ["ann"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, grant).await, 200);
    assert_eq!(
        status(&daemon, "PUT", "/registry-svc/definition", &ann, save).await,
        201,
        "the definition permission allows it"
    );
}

#[tokio::test]
async fn w21_nobody_takes_the_permit_of_another_over_or_gives_one_for_every_app() {
    let daemon = Daemon::start().await;
    let (bob, ann) = (daemon.register("bob").await, daemon.register("ann").await);
    let permit = json!({ "permits": [{ "id": "p1", "permission": "ann:x", "slugs": ["ann"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &ann, permit).await, 200);
    // An id of another account, with or without its prefix, becomes an id of bob's own.
    for id in ["p1", "ann:p1"] {
        let permit = json!({ "permits": [{ "id": id, "permission": "bob:x", "slugs": ["bob"] }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &bob, permit).await, 200);
    }
    let permit = json!({ "permits": [{ "permission": "bob:x", "appHost": "*", "slugs": ["bob"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &bob, permit).await, 403);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/p1", &bob, Value::Null).await, 200, "its own permit");
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/p1", &bob, Value::Null).await, 404);
    assert!(has_permission(&daemon, &ann, "ann:x").await && !has_permission(&daemon, &bob, "user-svc:user:view").await);
}

#[tokio::test]
async fn w23_no_get_changes_anything() {
    for row in openorch_api::operations().filter(|row| row.method == Method::Get) {
        assert!(!row.audited && row.effect() == Effect::Read, "{} is a GET and changes something", row.id);
    }
    let daemon = Daemon::with_flags(&["--registry-node-heartbeat-interval", "1h"]).await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    let ann_id = id_of(&ann);
    // Any page can make a browser send a GET, such as the old request that deletes an account.
    let commits = async || {
        let metrics = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
        let line =
            metrics.lines().find(|line| line.starts_with("openorch_store_duration_seconds_count{kind=\"commit\"}"));
        line.unwrap().to_owned()
    };
    let before = commits().await;
    for row in openorch_api::operations() {
        let path = row.path_parameters().fold(row.path.to_owned(), |path, name| {
            path.replace(&format!("{{{name}}}"), if name == "userId" { &ann_id } else { "x" })
        });
        let got = status(&daemon, "GET", &path, &admin, Value::Null).await;
        assert!(row.method == Method::Get || got != 500, "{path}: {got}");
    }
    assert_eq!(commits().await, before, "nothing was written");
    assert_eq!(status(&daemon, "POST", "/user-svc/user/by-token", &ann, Value::Null).await, 200);
}

#[tokio::test]
async fn w177_a_right_in_one_app_does_not_widen_a_grant_for_all_apps() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let (gina, evil) = (daemon.register("gina").await, daemon.register("evil").await);
    let role = json!({ "id": "openorch:granter", "name": "G", "permissionIds": ["user-svc:grant:create"] });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &admin, role).await, 200);
    let everywhere = enroll(&daemon, &admin, &json!(id_of(&gina)), "openorch:granter", "*").await.json();
    let save = async |token: &str, slugs: &[&str]| {
        let grant = json!({ "id": "gina:g", "permissionId": "user-svc:audit:view", "slugs": slugs });
        daemon.call("PUT", "/user-svc/grants", token, json!({ "grants": [grant] })).await
    };
    assert_eq!(save(&gina, &["gina"]).await.status, 200);
    let path = format!("/user-svc/enroll/{}", everywhere["enrolls"][0]["id"].as_str().unwrap());
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&gina)), "openorch:granter", HOST).await.status, 200);
    let in_shop = json!({ "newAppHost": HOST });
    let in_shop = token_of(&daemon.call("PUT", "/user-svc/token/exchange", &gina, in_shop).await);
    let refused = save(&in_shop, &["gina", "evil"]).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (403, &json!("access.permission_missing")));
    assert!(
        !has_permission(&daemon, &evil, "user-svc:audit:view").await
            && has_permission(&daemon, &gina, "user-svc:audit:view").await
    );
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&gina)), "openorch:granter", "*").await.status, 200);
    assert_eq!(save(&in_shop, &["gina", "evil"]).await.status, 200, "with the right in all apps");
}
