//! Roles, permissions, grants and enrolls: what each gives and revokes with immediate effect, and who may change them.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, claims, delegated_token, has_permission, id_of, status, token_of};

#[tokio::test]
async fn a_service_gives_its_permissions_to_roles_and_roles_to_accounts() {
    let mut daemon = Daemon::start().await;
    let (shop, ann, admin) = (daemon.register("shop-svc").await, daemon.register("ann").await, daemon.admin().await);
    let permissions = json!({ "permissions": [{ "id": "shop-svc:order:view" }, { "id": "shop-svc:order:edit" }] });
    for _ in 0..2 {
        let saved = daemon.call("PUT", "/user-svc/permissions", &shop, permissions.clone()).await.json();
        assert_eq!(saved["permissions"][0]["ownerId"], id_of(&shop));
    }
    let role = json!({ "id": "shop-svc:clerk", "name": "Clerk", "permissionIds": ["shop-svc:order:view"] });
    let made = daemon.call("POST", "/user-svc/role", &shop, role).await.json();
    assert_eq!((made["role"]["id"].as_str(), made["role"]["name"].as_str()), (Some("shop-svc:clerk"), Some("Clerk")));

    assert!(!has_permission(&daemon, &ann, "shop-svc:order:view").await);
    let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "shop-svc:clerk" }] });
    let enrolled = daemon.call("PUT", "/user-svc/enrolls", &shop, enroll).await.json();
    assert!(
        has_permission(&daemon, &ann, "shop-svc:order:view").await
            && !has_permission(&daemon, &ann, "shop-svc:order:edit").await
    );
    let own = daemon.call("POST", "/user-svc/permissions", &ann, json!({ "roles": ["shop-svc:clerk"] })).await;
    assert_eq!(own.json()["permissions"], json!(["shop-svc:order:view"]));

    let renamed = json!({ "id": "shop-svc:clerk", "name": "Clerk" });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, renamed).await, 200);
    assert!(has_permission(&daemon, &ann, "shop-svc:order:view").await, "omitted fields are unchanged");

    // The whole set is replaced, and accounts keep the role (W8).
    let path = "/user-svc/role/shop-svc%3Aclerk/permissions";
    let only = json!({ "permissionIds": ["shop-svc:order:edit"] });
    assert_eq!(status(&daemon, "PUT", path, &shop, only).await, 200);
    assert!(
        !has_permission(&daemon, &ann, "shop-svc:order:view").await
            && has_permission(&daemon, &ann, "shop-svc:order:edit").await
    );
    let listed = daemon.call("GET", path, &shop, Value::Null).await.json();
    assert_eq!(listed["permissions"].as_array().unwrap().len(), 1);
    let link = json!({ "permissionLinks": [{ "roleId": "user-svc:user", "permissionId": "shop-svc:order:view" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/roles/permissions", &shop, link).await, 200);
    assert!(has_permission(&daemon, &ann, "shop-svc:order:view").await);

    daemon.restart(&[]).await;
    assert!(has_permission(&daemon, &ann, "shop-svc:order:edit").await, "it is stored");
    let roles = daemon.call("GET", "/user-svc/roles", &admin, Value::Null).await.json();
    let ids: Vec<_> = roles["roles"].as_array().unwrap().iter().map(|role| role["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["user-svc:admin", "shop-svc:clerk", "user-svc:user"], "by name");

    // Revoked through the enroll, then the role, then the permission: with immediate effect each time.
    let id = enrolled["enrolls"][0]["id"].as_str().unwrap();
    assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/enroll/{id}"), &shop, Value::Null).await, 200);
    assert!(!has_permission(&daemon, &ann, "shop-svc:order:edit").await);
    let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "shop-svc:clerk" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll.clone()).await, 200);
    assert!(has_permission(&daemon, &ann, "shop-svc:order:edit").await);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/shop-svc:clerk", &shop, Value::Null).await, 200);
    assert!(!has_permission(&daemon, &ann, "shop-svc:order:edit").await);
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll).await, 404);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/permission/shop-svc:order:view", &shop, Value::Null).await, 200);
    assert!(!has_permission(&daemon, &ann, "shop-svc:order:view").await);
}

#[tokio::test]
async fn grants_and_permits_give_by_slug_and_by_role() {
    let daemon = Daemon::start().await;
    let (shop, ann, admin) = (daemon.register("shop-svc").await, daemon.register("ann").await, daemon.admin().await);
    let grant =
        json!({ "grants": [{ "id": "g1", "permissionId": "user-svc:user:view", "slugs": ["ann", "later-svc"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, grant.clone()).await, 200);
    assert!(
        has_permission(&daemon, &ann, "user-svc:user:view").await
            && !has_permission(&daemon, &shop, "user-svc:user:view").await
    );
    assert_eq!(
        status(&daemon, "POST", "/user-svc/users", &ann, Value::Null).await,
        200,
        "it applies to operations too"
    );
    let later = daemon.register("later-svc").await;
    assert!(has_permission(&daemon, &later, "user-svc:user:view").await);
    for (filter, want) in [
        (json!({}), 1),
        (json!({ "slug": "ann" }), 1),
        (json!({ "slug": "bob" }), 0),
        (json!({ "permissionId": "user-svc:user:view" }), 1),
        (json!({ "permissionId": "user-svc:user:edit" }), 0),
    ] {
        let listed = daemon.call("POST", "/user-svc/grants", &admin, filter.clone()).await.json();
        assert_eq!(listed["grants"].as_array().map_or(0, Vec::len), want, "{filter}");
    }
    let fewer = json!({ "grants": [{ "id": "g1", "permissionId": "user-svc:user:view", "slugs": ["later-svc"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, fewer).await, 200);
    assert!(
        !has_permission(&daemon, &ann, "user-svc:user:view").await
            && has_permission(&daemon, &later, "user-svc:user:view").await
    );
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/g1", &admin, Value::Null).await, 200);
    assert!(!has_permission(&daemon, &later, "user-svc:user:view").await);

    let permit = json!({ "permits": [{ "permission": "shop-svc:order:view", "roles": ["user-svc:user"] }] });
    for _ in 0..2 {
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &shop, permit.clone()).await, 200);
    }
    assert!(
        has_permission(&daemon, &ann, "shop-svc:order:view").await
            && !has_permission(&daemon, &admin, "shop-svc:order:view").await
    );
    let listed = daemon.call("POST", "/user-svc/permits", &admin, Value::Null).await.json();
    assert_eq!(listed["permits"].as_array().unwrap().len(), 1, "the same permit is saved once");
    let one = json!({ "permission": "shop-svc:order:view", "slugs": ["bob"] });
    let twice = json!({ "permits": [one, one] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &shop, twice).await, 200);
    let listed = daemon.call("POST", "/user-svc/permits", &admin, json!({ "slug": "bob" })).await.json();
    assert_eq!(listed["permits"].as_array().unwrap().len(), 1, "also within one request");
    let unnamed = daemon.call("PUT", "/user-svc/grants", &admin, json!({ "grants": [{ "slugs": ["bob"] }] })).await;
    assert!(unnamed.status == 400 && unnamed.error() == "`grants[0].permissionId` is required", "{}", unnamed.text);
}

#[tokio::test]
async fn who_has_the_admin_role_of_a_service_gives_its_other_roles_and_no_more() {
    let daemon = Daemon::start().await;
    let (shop, ann, bob) =
        (daemon.register("shop-svc").await, daemon.register("ann").await, daemon.register("bob").await);
    for role in ["shop-svc:admin", "shop-svc:clerk", "shop-svc:deep:one"] {
        daemon.call("POST", "/user-svc/role", &shop, json!({ "id": role, "name": role })).await;
    }
    let enroll = |user: String, role: &str| json!({ "enrolls": [{ "userId": user, "role": role }] });
    let (ann_id, bob_id) = (id_of(&ann), id_of(&bob));
    let save = async |token: &str, body: Value| status(&daemon, "PUT", "/user-svc/enrolls", token, body).await;
    assert_eq!(save(&ann, enroll(bob_id.clone(), "shop-svc:clerk")).await, 403);
    assert_eq!(save(&shop, enroll(ann_id.clone(), "shop-svc:admin")).await, 200);
    assert_eq!(save(&ann, enroll(bob_id.clone(), "shop-svc:clerk")).await, 200);
    assert_eq!(save(&ann, enroll(bob_id.clone(), "shop-svc:deep:one")).await, 403);
    assert_eq!(save(&bob, enroll(bob_id.clone(), "shop-svc:admin")).await, 403);
    assert_eq!(save(&shop, enroll("usr_none".into(), "shop-svc:clerk")).await, 404);
    let list = async |token: &str, body: Value| daemon.call("POST", "/user-svc/enrolls", token, body).await;
    let own = list(&bob, json!({ "userId": bob_id })).await.json();
    assert_eq!(own["enrolls"].as_array().unwrap().len(), 2);
    assert_eq!(list(&bob, json!({ "role": "shop-svc:clerk" })).await.status, 403);
    assert_eq!(list(&bob, json!({ "userId": ann_id })).await.status, 403);
    assert_eq!(list(&shop, json!({ "role": "shop-svc:clerk" })).await.json()["enrolls"][0]["createdBy"], ann_id);
}

#[tokio::test]
async fn the_last_admin_stays_and_two_who_go_at_once_are_not_both_let_go() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let admin_id = id_of(&admin);
    let path = |id: &str| format!("/user-svc/enroll/unnamed:{id}:user-svc:admin");
    let answer = daemon.call("DELETE", &path(&admin_id), &admin, Value::Null).await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.error().contains("last admin"), "{}", answer.text);
    assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{admin_id}"), &admin, Value::Null).await, 409);
    let ann_id = id_of(&ann);
    let enroll = json!({ "enrolls": [{ "userId": ann_id, "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll).await, 200);
    let (admin_path, ann_path) = (path(&admin_id), path(&ann_id));
    let (one, other) = tokio::join!(
        status(&daemon, "DELETE", &ann_path, &admin, Value::Null),
        status(&daemon, "DELETE", &admin_path, &ann, Value::Null),
    );
    let refused = [one, other].iter().filter(|status| **status != 200).count();
    assert_eq!(refused, 1, "{one} and {other}");
}

#[tokio::test]
async fn a_service_is_told_the_roles_that_the_caller_has_now() {
    let daemon = Daemon::start().await;
    let echo = Echo::start().await;
    let (shop, ann) = (daemon.register("shop-svc").await, daemon.register("ann").await);
    daemon.put_instance(&shop, json!({ "url": echo.url })).await;
    daemon.call("POST", "/user-svc/role", &shop, json!({ "id": "shop-svc:clerk", "name": "Clerk" })).await;
    let told = async || claims(&delegated_token(&daemon, "/shop-svc/x", &ann).await)["ori"].clone();
    assert_eq!(told().await, json!(["user-svc:user"]));
    let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": "shop-svc:clerk" }] });
    let saved = daemon.call("PUT", "/user-svc/enrolls", &shop, enroll).await.json();
    assert_eq!(told().await, json!(["shop-svc:clerk", "user-svc:user"]));
    let path = format!("/user-svc/enroll/{}", saved["enrolls"][0]["id"].as_str().unwrap());
    assert_eq!(status(&daemon, "DELETE", &path, &shop, Value::Null).await, 200);
    assert_eq!(told().await, json!(["user-svc:user"]));
}

#[tokio::test]
async fn a_token_stays_short_however_many_roles_its_account_has_and_nobody_crowds_it() {
    let daemon = Daemon::start().await;
    let (shop, ann, admin) = (daemon.register("shop-svc").await, daemon.register("ann").await, daemon.admin().await);
    let roles: Vec<String> = (0..200).map(|n| format!("shop-svc:a-role-with-a-rather-long-name-{n:03}")).collect();
    for role in roles.iter().map(String::as_str).chain(["shop-svc:zzz"]) {
        daemon.call("POST", "/user-svc/role", &shop, json!({ "id": role, "name": role })).await;
    }
    let enroll = |roles: &[String]| {
        let enrolls: Vec<Value> = roles.iter().map(|role| json!({ "userId": id_of(&ann), "role": role })).collect();
        json!({ "enrolls": enrolls })
    };
    let save =
        async |token: &str, roles: &[String]| daemon.call("PUT", "/user-svc/enrolls", token, enroll(roles)).await;
    assert_eq!(save(&admin, &["shop-svc:zzz".into()]).await.status, 200);
    // One giver has a limit, in one call or several; an admin has none.
    for many in [&roles[..], &roles[..101]] {
        let refused = save(&shop, many).await;
        assert!(refused.status == 403 && refused.error().contains("100 roles"), "{}", refused.text);
    }
    assert_eq!(save(&shop, &roles[..60]).await.status, 200);
    assert_eq!(save(&shop, &roles[60..101]).await.status, 403);
    assert_eq!(save(&shop, &roles[60..100]).await.status, 200);
    assert_eq!(save(&shop, &roles[..100]).await.status, 200, "these are already assigned");
    let told = |token: &str| crate::support::claims(token)["ori"].as_array().unwrap().clone();
    let before = told(&token_of(&daemon.login("ann", "pass", "test").await));
    assert!(before.contains(&json!("shop-svc:zzz")) && before.contains(&json!("user-svc:user")), "{before:?}");
    assert_eq!(save(&admin, &roles[100..]).await.status, 200);
    daemon.call("POST", "/user-svc/organization", &ann, json!({ "id": "org_a" })).await;
    let token = token_of(&daemon.login("ann", "pass", "test").await);
    assert!(token.len() < 4096, "{} bytes", token.len());
    assert!(told(&token).contains(&json!("user-svc:user")));
    let own = daemon.call("POST", "/user-svc/self", &token, Value::Null).await.json();
    assert_eq!(own["roles"].as_array().unwrap().len(), 203, "the remaining roles are looked up by session");
    // Adding an account to organizations is limited too.
    for n in 0..=100 {
        let id = format!("org_{n}");
        daemon.call("POST", "/user-svc/organization", &shop, json!({ "id": id })).await;
        let add = json!({ "userId": id_of(&admin) });
        let added = status(&daemon, "POST", &format!("/user-svc/organization/{id}/user"), &shop, add).await;
        assert_eq!(added, if n < 100 { 200 } else { 403 }, "{n}");
    }
}

#[tokio::test]
async fn accounts_that_are_free_do_not_fill_the_room_of_admins_and_of_the_account_itself() {
    let daemon = Daemon::start().await;
    let (ann, cara, admin) = (daemon.register("ann").await, daemon.register("cara").await, daemon.admin().await);
    let give = async |token: &str, roles: &[String]| {
        let enrolls: Vec<Value> = roles.iter().map(|role| json!({ "userId": id_of(&ann), "role": role })).collect();
        daemon.call("PUT", "/user-svc/enrolls", token, json!({ "enrolls": enrolls })).await
    };
    let member = format!("/user-svc/organization/org_crew/user/{}", id_of(&ann));
    daemon.call("POST", "/user-svc/organization", &cara, json!({ "id": "org_crew" })).await;
    assert_eq!(status(&daemon, "PUT", &member, &cara, Value::Null).await, 200);
    for n in 0..5 {
        let slug = format!("free-{n}");
        let token = daemon.register(&slug).await;
        let roles: Vec<String> = (0..100).map(|n| format!("{slug}:r{n}")).collect();
        for role in &roles {
            daemon.call("POST", "/user-svc/role", &token, json!({ "id": role, "name": "R" })).await;
        }
        if n < 4 {
            assert_eq!(give(&token, &roles).await.status, 200);
            continue;
        }
        let refused = give(&token, &roles).await;
        assert!(refused.status == 403 && refused.error().contains("500 roles"), "{}", refused.text);
        assert_eq!(give(&token, &roles[..99]).await.status, 200);
        let refused = give(&token, &roles[99..]).await;
        assert!(refused.status == 403 && refused.error().contains("500 roles"), "{}", refused.text);
        assert_eq!(give(&admin, &roles[99..]).await.status, 200, "admins can still assign roles");
    }
    let refused = daemon.call("POST", "/user-svc/organization", &cara, json!({ "id": "org_next" })).await;
    assert_eq!(refused.status, 200, "{}", refused.text);
    let next = format!("/user-svc/organization/org_next/user/{}", id_of(&ann));
    assert_eq!(status(&daemon, "PUT", &next, &cara, Value::Null).await, 200, "so can accounts that gave it few roles");
    assert_eq!(
        status(&daemon, "PUT", &member, &cara, json!({ "role": "admin" })).await,
        200,
        "an organization that it is in"
    );
    let own = daemon.call("POST", "/user-svc/organization", &ann, json!({ "id": "org_own" })).await;
    assert_eq!(own.status, 200, "{}", own.text);
}

#[tokio::test]
async fn lists_names_and_counts_have_limits_that_are_told() {
    let daemon = Daemon::start().await;
    let shop = daemon.register("shop-svc").await;
    let many: Vec<Value> = (0..1001).map(|n| json!({ "id": format!("shop-svc:p{n}") })).collect();
    let answer = daemon.call("PUT", "/user-svc/permissions", &shop, json!({ "permissions": many })).await;
    assert!(answer.status == 400 && answer.error().contains("1000"), "{}", answer.text);
    let long = "x".repeat(300);
    for body in [
        json!({ "id": format!("shop-svc:{long}"), "name": "N" }),
        json!({ "id": "shop-svc:r", "name": long }),
        json!({ "id": "shop-svc:r", "name": "a\nb" }),
        json!({ "id": "shop-svc:r", "name": "N", "description": "x".repeat(2000) }),
        json!({ "id": "shop-svc:1:2:3:4:5:6:7:8", "name": "N" }),
    ] {
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, body.clone()).await, 400, "{body}");
    }
}

#[tokio::test]
async fn an_admin_who_saves_under_an_id_of_another_gives_nothing_to_that_account() {
    let daemon = Daemon::start().await;
    let (squat, ann, admin) = (daemon.register("squat").await, daemon.register("ann").await, daemon.admin().await);
    let permit = json!({ "permits": [{ "id": "ops", "permission": "squat:x", "slugs": ["squat"], "roles": ["user-svc:user"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &squat, permit.clone()).await, 200);
    let grant = json!({ "grants": [{ "id": "ops", "permissionId": "user-svc:user:view", "slugs": ["ann"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, grant).await, 200);
    assert!(
        has_permission(&daemon, &ann, "user-svc:user:view").await
            && !has_permission(&daemon, &squat, "user-svc:user:view").await
    );
    // The account still manages its own permit, but can neither overwrite nor delete the admin's.
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &squat, permit).await, 200);
    for expected in [200, 403] {
        assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/ops", &squat, Value::Null).await, expected);
    }
    assert!(
        has_permission(&daemon, &ann, "user-svc:user:view").await
            && !has_permission(&daemon, &squat, "user-svc:user:view").await
    );
}

#[tokio::test]
async fn links_whose_names_run_together_are_told_apart_and_their_owner_can_go() {
    let daemon = Daemon::start().await;
    let (kim, admin) = (daemon.register("kim").await, daemon.admin().await);
    let permissions = json!({ "permissions": [{ "id": "kim:a" }, { "id": "kim:a:kim" }] });
    daemon.call("PUT", "/user-svc/permissions", &kim, permissions).await;
    for (role, permission) in [("kim:kim:x", "kim:a"), ("kim:x", "kim:a:kim")] {
        let role = json!({ "id": role, "name": "X", "permissionIds": [permission] });
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &kim, role).await, 200);
    }
    let none = json!({ "permissionIds": [] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/role/kim:x/permissions", &kim, none).await, 200);
    let left = daemon.call("GET", "/user-svc/role/kim:kim:x/permissions", &kim, Value::Null).await.json();
    assert_eq!(left["permissions"][0]["id"], "kim:a");
    let path = format!("/user-svc/user/{}", id_of(&kim));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
}

#[tokio::test]
async fn who_makes_a_role_anew_has_nothing_of_what_the_one_before_had() {
    let daemon = Daemon::start().await;
    let (joe, bob, admin) = (daemon.register("joe").await, daemon.register("bob").await, daemon.admin().await);
    let role = json!({ "id": "joe:ops", "name": "Ops" });
    daemon.call("POST", "/user-svc/role", &joe, role.clone()).await;
    let permit = json!({ "permits": [{ "permission": "bob:read", "roles": ["joe:ops"], "slugs": ["bob"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &bob, permit).await, 200);
    let invitation =
        daemon.call("POST", "/user-svc/invitation", &admin, json!({ "roleIds": ["joe:ops"] })).await.json();
    let path = format!("/user-svc/user/{}", id_of(&joe));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    let body = json!({ "slug": "eve", "password": "pass", "invitation": invitation["invitation"]["code"] });
    let eve = token_of(&daemon.call("POST", "/user-svc/register", "", body).await);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/slug/joe", &admin, Value::Null).await, 200);
    let joe = daemon.register("joe").await;
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &joe, role).await, 200);
    let enroll = json!({ "enrolls": [{ "userId": id_of(&joe), "role": "joe:ops" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &joe, enroll).await, 200);
    assert!(!has_permission(&daemon, &joe, "bob:read").await && has_permission(&daemon, &bob, "bob:read").await);
    let own = daemon.call("POST", "/user-svc/self", &eve, Value::Null).await.json();
    assert_eq!(own["roles"], json!([]));
    // A role of a built-in account would count as an admin who can never sign in.
    let built_in = daemon.call("POST", "/user-svc/users", &admin, json!({ "search": "user-svc" })).await.json();
    let enroll = json!({ "enrolls": [{ "userId": built_in["users"][0]["id"], "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll).await, 403);
}

#[tokio::test]
async fn a_body_that_trickles_in_after_the_rights_are_gone_does_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let daemon = Daemon::start().await;
    let (eve, admin) = (daemon.register("eve").await, daemon.admin().await);
    let eve_id = id_of(&eve);
    let enroll = json!({ "enrolls": [{ "userId": eve_id, "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enroll).await, 200);
    let body =
        json!({ "user": { "name": "Back door", "slug": "back-door" }, "roleIds": ["user-svc:admin"] }).to_string();
    let mut stream = tokio::net::TcpStream::connect(daemon.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /user-svc/user HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {eve}\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The daemon asks for the body after it has authorized the caller.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&asked));
    let path = format!("/user-svc/enroll/unnamed:{eve_id}:user-svc:admin");
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn permissions_of_a_role_and_links_of_an_account_are_bounded() {
    let daemon = Daemon::start().await;
    let shop = daemon.register("shop-svc").await;
    let names = |from: usize, to: usize| (from..to).map(|n| format!("shop-svc:p{n}")).collect::<Vec<_>>();
    for part in [names(0, 1000), names(1000, 1200)] {
        let permissions: Vec<Value> = part.iter().map(|id| json!({ "id": id })).collect();
        let body = json!({ "permissions": permissions });
        assert_eq!(status(&daemon, "PUT", "/user-svc/permissions", &shop, body).await, 200);
    }
    let assign = async |role: &str, ids: Vec<String>| {
        let links: Vec<Value> = ids.iter().map(|id| json!({ "roleId": role, "permissionId": id })).collect();
        daemon.call("PUT", "/user-svc/roles/permissions", &shop, json!({ "permissionLinks": links })).await
    };
    let role = json!({ "id": "shop-svc:r0", "name": "R", "permissionIds": names(0, 1000) });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, role).await, 200);
    let refused = assign("shop-svc:r0", names(1000, 1001)).await;
    assert!(refused.status == 403 && refused.error().contains("1000 permissions"), "{}", refused.text);
    assert_eq!(assign("shop-svc:r0", names(0, 1000)).await.status, 200, "these are already assigned");
    for n in 1..10 {
        let role = json!({ "id": format!("shop-svc:r{n}"), "name": "R", "permissionIds": names(0, 1000) });
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, role).await, 200);
    }
    let refused = assign("user-svc:user", names(0, 1)).await;
    assert!(refused.status == 403 && refused.error().contains("10000"), "{}", refused.text);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/shop-svc:r1", &shop, Value::Null).await, 200);
    assert_eq!(assign("user-svc:user", names(0, 1)).await.status, 200);
}
