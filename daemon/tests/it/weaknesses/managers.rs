//! Limited rights over accounts: resetting passwords or creating accounts in one app gives no rights elsewhere.

use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, login, make_app, register},
    support::{Daemon, Echo, claims, delegated_token, id_of, status, token_of},
};

/// The token of an account to which an admin gave these permissions only in the app of `host`.
async fn manager(daemon: &Daemon, admin: &str, slug: &str, host: &str, permissions: &[&str]) -> String {
    let token = token_of(&register(daemon, slug, host).await);
    for permission in permissions {
        let host = if host.is_empty() { "unnamed" } else { host };
        let permit = json!({ "permits": [{ "permission": permission, "slugs": [slug], "appHost": host }] });
        assert_eq!(status(daemon, "PUT", "/user-svc/permits", admin, permit).await, 200);
    }
    token
}

async fn reset_password(daemon: &Daemon, token: &str, id: &str) -> u16 {
    let path = format!("/user-svc/{id}/reset-password");
    status(daemon, "POST", &path, token, json!({ "newPassword": "taken" })).await
}

#[tokio::test]
async fn w40_an_account_is_managed_by_who_has_the_right_in_its_home_app_though_it_has_no_role_anywhere() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let rights = ["user-svc:user:passwordReset", "user-svc:user:edit", "user-svc:user:delete", "user-svc:user:create"];
    let there = manager(&daemon, &admin, "help", HOST, &rights).await;
    let here = manager(&daemon, &admin, "desk", "", &rights).await;
    let user = json!({ "user": { "slug": "bare", "name": "Bare" }, "password": "pass", "roleIds": [] });
    let made = daemon.call("POST", "/user-svc/user", &admin, user.clone()).await;
    let bare = made.json()["user"]["id"].as_str().unwrap().to_owned();
    // Another account loses its only role.
    let ann = id_of(&daemon.register("ann").await);
    let path = format!("/user-svc/enroll/unnamed:{ann}:user-svc:user");
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    for id in [&bare, &ann] {
        let path = format!("/user-svc/user/{id}");
        assert_eq!(reset_password(&daemon, &there, id).await, 403);
        assert_eq!(status(&daemon, "PUT", &path, &there, json!({ "name": "Mine" })).await, 403);
        assert_eq!(status(&daemon, "DELETE", &path, &there, Value::Null).await, 403);
        assert_eq!(status(&daemon, "PUT", &path, &here, json!({ "name": "Theirs" })).await, 200);
        assert_eq!(reset_password(&daemon, &here, id).await, 200);
    }
    // The home app of an account is that of the manager who creates it, whichever app the request names.
    make_app(&daemon, &admin, "other.example.com").await;
    let user = json!({ "user": { "slug": "made", "name": "Made" }, "roleIds": [], "appHost": "other.example.com" });
    let made = daemon.call("POST", "/user-svc/user", &there, user).await.json();
    let made = made["user"]["id"].as_str().unwrap();
    assert_eq!((reset_password(&daemon, &here, made).await, reset_password(&daemon, &there, made).await), (403, 200));
}

#[tokio::test]
async fn w41_nobody_makes_an_account_unmanageable_at_home_by_putting_it_into_an_organization_elsewhere() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let help = manager(&daemon, &admin, "help", HOST, &["user-svc:user:passwordReset"]).await;
    let bob = claims(&token_of(&register(&daemon, "bob", HOST).await))["oui"].as_str().unwrap().to_owned();
    let eve = daemon.register("eve").await;
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &eve, json!({ "id": "org_trap" })).await, 200);
    let add = json!({ "userId": bob });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_trap/user", &eve, add).await, 200);
    assert_eq!(reset_password(&daemon, &help, &bob).await, 200);
    // A role that an admin assigns elsewhere does make a difference.
    let desk = manager(&daemon, &admin, "desk", "", &["user-svc:user:passwordReset"]).await;
    assert_eq!(enroll(&daemon, &admin, &json!(bob), "user-svc:user", "").await.status, 200);
    assert_eq!((reset_password(&daemon, &help, &bob).await, reset_password(&daemon, &desk, &bob).await), (403, 403));
    assert_eq!(reset_password(&daemon, &admin, &bob).await, 200);
}

#[tokio::test]
async fn w42_who_may_reset_passwords_does_not_become_a_service_that_acts_for_its_callers() {
    let daemon = Daemon::start().await;
    let (shop, echo) = (daemon.register("shop-svc").await, Echo::start().await);
    let (post, admin) = (daemon.register("post-svc").await, daemon.admin().await);
    daemon.put_instance(&shop, json!({ "url": echo.url })).await;
    let rights = ["user-svc:user:passwordReset", "user-svc:user:delete"];
    let help = manager(&daemon, &admin, "help", "", &rights).await;
    assert_eq!(
        reset_password(&daemon, &help, &id_of(&shop)).await,
        200,
        "a service account can be reset like any other"
    );
    let delegation = json!({ "slug": "shop-svc", "operations": ["saveEnrolls"], "services": ["post-svc"] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, delegation).await, 200);
    // The service that acts for its callers, and the one to which it may pass their tokens.
    for service in [&shop, &post] {
        assert_eq!(reset_password(&daemon, &help, &id_of(service)).await, 403);
        let path = format!("/user-svc/user/{}", id_of(service));
        assert_eq!(status(&daemon, "DELETE", &path, &help, Value::Null).await, 403, "nor can it delete the service");
    }
    // What the attacker would gain: an admin's delegated token.
    let delegated = delegated_token(&daemon, "/shop-svc/x", &admin).await;
    let enrolls = json!({ "enrolls": [{ "userId": id_of(&help), "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &delegated, enrolls).await, 200);
}

#[tokio::test]
async fn w43_grants_and_permits_count_as_rights_whoever_has_them_and_however() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let help = manager(&daemon, &admin, "help", "", &["user-svc:user:passwordReset", "user-svc:user:delete"]).await;
    let role = json!({ "id": "openorch:auditor", "name": "Auditor" });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &admin, role).await, 200);
    let by_role = json!({ "permits": [{ "permission": "user-svc:audit:view", "roles": ["openorch:auditor"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, by_role).await, 200);
    let by_slug = json!({ "grants": [{ "permissionId": "user-svc:grant:create", "slugs": ["by-grant"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, by_slug).await, 200);
    let everywhere = json!({ "permits": [
        { "permission": "user-svc:key:rotate", "slugs": ["by-permit"], "appHost": "*" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, everywhere).await, 200);
    let elsewhere = json!({ "permits": [
        { "permission": "user-svc:token:revoke", "slugs": ["by-app"], "appHost": HOST }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, elsewhere).await, 200);
    for slug in ["by-role", "by-grant", "by-permit", "plain", "by-app"] {
        let id = id_of(&daemon.register(slug).await);
        match slug {
            "by-role" => _ = enroll(&daemon, &admin, &json!(id), "openorch:auditor", "").await,
            // A member of another app only through an organization can use its permit there.
            "by-app" => {
                let there = token_of(&register(&daemon, "founder", HOST).await);
                assert_eq!(login(&daemon, "founder", HOST).await.status, 200);
                daemon.call("POST", "/user-svc/organization", &there, json!({ "id": "org_1" })).await;
                let path = "/user-svc/organization/org_1/user";
                assert_eq!(status(&daemon, "POST", path, &there, json!({ "userId": id })).await, 200);
            }
            _ => {}
        }
        let expected = if slug == "plain" { 200 } else { 403 };
        assert_eq!(reset_password(&daemon, &help, &id).await, expected, "{slug}");
        let path = format!("/user-svc/user/{id}");
        assert_eq!(status(&daemon, "DELETE", &path, &help, Value::Null).await, expected, "{slug}");
    }
}

#[tokio::test]
async fn w57_what_an_account_could_give_itself_counts_as_what_it_has() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let help = manager(&daemon, &admin, "help", "", &["user-svc:user:passwordReset", "user-svc:user:delete"]).await;
    // An admin gives a service's role a platform permission, by a link or by a permit.
    for (slug, way) in [("by-link", "link"), ("by-permit", "permit"), ("without", "nothing")] {
        let owner = daemon.register(slug).await;
        let role = format!("{slug}:ops");
        let made = json!({ "id": role, "name": "Ops" });
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &owner, made).await, 200);
        let link = json!({ "permissionLinks": [{ "permissionId": "user-svc:grant:create", "roleId": role }] });
        let permit = json!({ "permits": [{ "permission": "user-svc:grant:create", "roles": [role] }] });
        let given = match way {
            "link" => status(&daemon, "PUT", "/user-svc/roles/permissions", &admin, link).await,
            "permit" => status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await,
            _ => 200,
        };
        assert_eq!(given, 200, "{slug}");
        let expected = if way == "nothing" { 200 } else { 403 };
        let id = id_of(&owner);
        assert_eq!(reset_password(&daemon, &help, &id).await, expected, "{slug}");
        let path = format!("/user-svc/user/{id}");
        assert_eq!(status(&daemon, "DELETE", &path, &help, Value::Null).await, expected, "{slug}");
    }
}

#[tokio::test]
async fn w82_roles_of_organizations_count_as_what_their_admin_has() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let help = manager(&daemon, &admin, "help", "", &["user-svc:user:passwordReset", "user-svc:user:delete"]).await;
    let permit = |role: &str| json!({ "permits": [{ "permission": "user-svc:delegation:edit", "roles": [role] }] });
    // An organization whose members have more rights than its admin; one named in a permit before it exists; one
    // without rights.
    for (slug, org, role) in [
        ("tina", "acme", "user-svc:org:{acme}:user"),
        ("soon", "other", "user-svc:org:{soon:later}:admin"),
        ("plain", "club", ""),
    ] {
        let founder = daemon.register(slug).await;
        assert_eq!(status(&daemon, "POST", "/user-svc/organization", &founder, json!({ "id": org })).await, 200);
        if !role.is_empty() {
            assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit(role)).await, 200);
        }
        let expected = if role.is_empty() { 200 } else { 403 };
        let id = id_of(&founder);
        assert_eq!(reset_password(&daemon, &help, &id).await, expected, "{slug}");
        let path = format!("/user-svc/user/{id}");
        assert_eq!(status(&daemon, "DELETE", &path, &help, Value::Null).await, expected, "{slug}");
    }
}

#[tokio::test]
async fn w83_a_role_with_rights_in_an_app_counts_though_its_owner_is_not_in_that_app() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let rights = ["user-svc:user:passwordReset", "user-svc:user:delete", "user-svc:user:edit"];
    let help = manager(&daemon, &admin, "help", "", &rights).await;
    let role = async |slug: &str, made: bool| {
        let owner = daemon.register(slug).await;
        if made {
            let role = json!({ "id": format!("{slug}:ops"), "name": "Ops" });
            assert_eq!(status(&daemon, "POST", "/user-svc/role", &owner, role).await, 200);
        }
        id_of(&owner)
    };
    let permit = async |names: Value| {
        let mut permit = json!({ "permission": "user-svc:user:create", "appHost": HOST });
        permit.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, json!({ "permits": [permit] })).await, 200);
    };
    // By its own role there, by a role that it has yet to create, by its slug, by a role that it has in all apps.
    let (by_role, by_future) = (role("by-role", true).await, role("by-future", false).await);
    let (by_slug, by_everywhere) = (role("by-slug", false).await, role("by-all", false).await);
    permit(json!({ "roles": ["by-role:ops"] })).await;
    permit(json!({ "roles": ["by-future:ops"] })).await;
    permit(json!({ "slugs": ["by-slug"] })).await;
    assert_eq!(
        status(&daemon, "POST", "/user-svc/role", &admin, json!({ "id": "openorch:x", "name": "X" })).await,
        200
    );
    permit(json!({ "roles": ["openorch:x"] })).await;
    assert_eq!(enroll(&daemon, &admin, &json!(by_everywhere), "openorch:x", "*").await.status, 200);
    // By a link, which applies in every app, while the manager has the same right only in its own app.
    let by_link = role("by-link", true).await;
    let link = json!({ "permissionLinks": [{ "permissionId": "user-svc:user:edit", "roleId": "by-link:ops" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/roles/permissions", &admin, link).await, 200);
    for (what, id) in
        [("role", by_role), ("future", by_future), ("slug", by_slug), ("everywhere", by_everywhere), ("link", by_link)]
    {
        assert_eq!(reset_password(&daemon, &help, &id).await, 403, "{what}");
        assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{id}"), &help, Value::Null).await, 403, "{what}");
    }
    assert_eq!(reset_password(&daemon, &help, &role("plain", true).await).await, 200);
}
