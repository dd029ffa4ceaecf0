//! Quotas on the access rules of an account, and on its effects on the names, lists and apps of other accounts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, login, make_app, register},
    support::{Answer, Daemon, claims, has_permission, id_of, status, token_of},
};

async fn save_permits(daemon: &Daemon, token: &str, permits: Value) -> Answer {
    daemon.call("PUT", "/user-svc/permits", token, json!({ "permits": permits })).await
}

async fn make_roles(daemon: &Daemon, token: &str, slug: &str, count: usize) {
    for n in 0..count {
        let role = json!({ "id": format!("{slug}:r{n}"), "name": "R" });
        assert_eq!(status(daemon, "POST", "/user-svc/role", token, role).await, 200);
    }
}

/// All entries of a list, read in pages of two.
async fn all_entries(daemon: &Daemon, token: &str, method: &str, path: &str, body: Value, items: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    for _ in 0..1000 {
        let answer = match method {
            "GET" => {
                let escaped: String = after.bytes().map(|byte| format!("%{byte:02X}")).collect();
                daemon.call("GET", &format!("{path}?limit=2&after={escaped}"), token, Value::Null).await
            }
            _ => {
                let mut body = body.clone();
                (body["limit"], body["after"]) = (json!(2), json!(after));
                daemon.call(method, path, token, body).await
            }
        };
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let page = answer.json();
        let rows = page[items].as_array().cloned().unwrap_or_default();
        assert!(rows.len() <= 2, "{page}");
        all.extend(rows);
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return all,
        }
    }
    panic!("{path} does not end");
}

#[tokio::test]
async fn w47_the_names_in_all_permits_of_an_account_are_bounded() {
    let mut daemon = Daemon::with_flags(&["--user-max-grant-names-per-account", "10"]).await;
    let (shop, admin) = (daemon.register("shop-svc").await, daemon.admin().await);
    let names = |from: usize, to: usize| (from..to).map(|n| format!("s{n}")).collect::<Vec<_>>();
    let permit = |id: &str, slugs: Vec<String>, roles: Vec<String>| json!([{ "id": id, "permission": "shop-svc:x", "slugs": slugs, "roles": roles }]);
    assert_eq!(save_permits(&daemon, &shop, permit("a", names(0, 4), names(0, 2))).await.status, 200);
    assert_eq!(save_permits(&daemon, &shop, permit("b", names(0, 4), vec![])).await.status, 200);
    for (id, slugs) in [("c", names(0, 1)), ("b", names(0, 5))] {
        let refused = save_permits(&daemon, &shop, permit(id, slugs, vec![])).await;
        let told = refused.error();
        assert!(refused.status == 403 && told.contains("10 slugs") && told.contains("_GRANT_NAMES_"), "{told}");
    }
    // Removed names free the quota, even after a restart.
    daemon.restart(&["--user-max-grant-names-per-account", "10"]).await;
    assert_eq!(save_permits(&daemon, &shop, permit("b", names(0, 3), vec![])).await.status, 200);
    assert_eq!(save_permits(&daemon, &shop, permit("c", names(0, 1), vec![])).await.status, 200);
    assert_eq!(save_permits(&daemon, &shop, permit("c", names(0, 2), vec![])).await.status, 403);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/c", &shop, Value::Null).await, 200);
    assert_eq!(save_permits(&daemon, &shop, permit("d", names(0, 1), vec![])).await.status, 200);
    let many = json!([{ "permission": "shop-svc:y", "slugs": names(0, 50) }]);
    assert_eq!(save_permits(&daemon, &admin, many).await.status, 200, "an admin has no quota");
}

#[tokio::test]
async fn w48_the_same_permit_again_is_not_another_one() {
    let daemon = Daemon::start().await;
    let (shop, admin) = (daemon.register("shop-svc").await, daemon.admin().await);
    let wanted = json!([
        { "permission": "shop-svc:x", "slugs": ["b", "a"] },
        { "permission": "shop-svc:x", "slugs": ["a", "b", "a"] },
        { "permission": "shop-svc:x", "slugs": ["a"], "roles": ["b"] },
        { "permission": "shop-svc:y", "slugs": ["a", "b"] },
    ]);
    let list = async || {
        let listed = daemon.call("POST", "/user-svc/permits", &admin, json!({ "slug": "a" })).await.json();
        listed["permits"].as_array().unwrap().len()
    };
    for _ in 0..2 {
        assert_eq!(save_permits(&daemon, &shop, wanted.clone()).await.status, 200);
        assert_eq!(list().await, 3);
    }
    // A permit is not merged with the same permit of another account, which may revoke it.
    assert_eq!(
        save_permits(&daemon, &admin, json!([{ "permission": "shop-svc:x", "slugs": ["a", "b"] }])).await.status,
        200
    );
    assert_eq!(list().await, 4);
}

#[tokio::test]
async fn w49_the_roles_that_an_account_gives_are_bounded_those_that_wait_included() {
    let daemon = Daemon::with_flags(&["--user-max-role-assignments-per-account", "6"]).await;
    let (eve, ann, admin) = (daemon.register("eve").await, daemon.register("ann").await, daemon.admin().await);
    make_roles(&daemon, &eve, "eve", 3).await;
    let waiting = |n: usize| json!({ "contactId": format!("c{n}@example.org"), "role": "eve:r0" });
    let given = |n: usize| json!({ "userId": id_of(&ann), "role": format!("eve:r{n}") });
    let save = async |token: &str, enrolls: Vec<Value>| {
        daemon.call("PUT", "/user-svc/enrolls", token, json!({ "enrolls": enrolls })).await
    };
    let refused = save(&eve, (0..7).map(waiting).collect()).await;
    let told = refused.error();
    assert!(refused.status == 403 && told.contains("at most 6 roles") && told.contains("_ROLE_ASSIGNMENTS_"), "{told}");
    assert_eq!(save(&eve, (0..4).map(waiting).collect()).await.status, 200);
    assert_eq!(save(&eve, vec![given(0)]).await.status, 200);
    assert_eq!(
        save(&eve, (0..4).map(waiting).chain([given(0)]).collect()).await.status,
        200,
        "existing assignments do not count again"
    );
    assert_eq!(save(&eve, vec![given(1), given(2)]).await.status, 403);
    let founding = json!({ "id": "org_eve" });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &eve, founding).await, 200, "the sixth");
    let add = json!({ "userId": id_of(&ann) });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_eve/user", &eve, add.clone()).await, 403);
    assert_eq!(save(&eve, vec![waiting(5)]).await.status, 403);
    assert_eq!(save(&admin, (0..20).map(waiting).collect()).await.status, 200, "an admin has no quota");
    // Assignments that an admin took over, or that eve revokes, free the quota.
    assert_eq!(save(&eve, vec![given(1)]).await.status, 200);
    // Concurrent calls cannot exceed the quota.
    let bob = daemon.register("bob").await;
    make_roles(&daemon, &bob, "bob", 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..12 {
        let body = json!({ "enrolls": [{ "contactId": format!("d{n}@example.org"), "role": "bob:r0" }] });
        let call = reqwest::Client::new().put(format!("{}/user-svc/enrolls", daemon.url)).bearer_auth(&bob);
        calls.spawn(call.body(body.to_string()).send());
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 200).count(), 6);
}

#[tokio::test]
async fn w50_lists_that_grow_with_the_number_of_accounts_are_had_in_pages() {
    let daemon = Daemon::with_flags(&["--api-max-unpaged-list", "6"]).await;
    let admin = daemon.admin().await;
    let (mut tokens, mut links) = (Vec::new(), Vec::new());
    for n in 0..4 {
        let slug = format!("a{n}");
        let token = daemon.register(&slug).await;
        make_roles(&daemon, &token, &slug, 2).await;
        let ids: Vec<String> = (0..3).map(|n| format!("{slug}:p{n}")).collect();
        let saved: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "name": "Same" })).collect();
        assert_eq!(status(&daemon, "PUT", "/user-svc/permissions", &token, json!({ "permissions": saved })).await, 200);
        let to_all: Vec<Value> =
            ids.iter().map(|id| json!({ "roleId": "user-svc:user", "permissionId": id })).collect();
        let body = json!({ "permissionLinks": to_all });
        assert_eq!(status(&daemon, "PUT", "/user-svc/roles/permissions", &token, body).await, 200);
        let given: Vec<Value> = ids.iter().map(|id| json!({ "permission": id, "slugs": [slug] })).collect();
        assert_eq!(save_permits(&daemon, &token, json!(given)).await.status, 200);
        tokens.push(token);
        links.extend(ids);
    }
    for n in 0..7 {
        assert_eq!(status(&daemon, "POST", "/user-svc/invitation", &admin, json!({})).await, 200);
        daemon.register(&format!("b{n}")).await;
        let contact = format!("b{n}@example.org");
        let waits = json!({ "enrolls": [{ "contactId": contact, "role": "user-svc:user" }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, waits).await, 200);
    }
    let of_user = "/user-svc/role/user-svc:user/permissions";
    let own = json!({ "roles": ["user-svc:user"] });
    for (method, path, body, items, token, least) in [
        ("GET", "/user-svc/roles", Value::Null, "roles", &admin, 10),
        ("GET", of_user, Value::Null, "permissions", &admin, 12),
        ("GET", "/user-svc/invitations", Value::Null, "invitations", &admin, 7),
        ("POST", "/user-svc/permissions", own, "permissions", &tokens[0], 12),
        ("POST", "/user-svc/grants", json!({}), "grants", &admin, 12),
        ("POST", "/user-svc/permits", json!({}), "permits", &admin, 12),
        ("POST", "/user-svc/enrolls", json!({ "role": "user-svc:user" }), "enrolls", &admin, 18),
    ] {
        let refused = daemon.call(method, path, token, body.clone()).await;
        assert!(refused.status == 400 && refused.error().contains("`limit`"), "{path}: {}", refused.text);
        let all = all_entries(&daemon, token, method, path, body, items).await;
        let different: BTreeSet<String> =
            all.iter().map(|row| row["id"].as_str().or(row.as_str()).unwrap().to_owned()).collect();
        assert!(different.len() == all.len() && all.len() >= least, "{path}: {} of {least}", all.len());
        if items == "permissions" {
            assert!(links.iter().all(|id| different.contains(id)), "{path}: {different:?}");
        }
    }
    for after in ["[", "[1,2]", "[\"a\"]", "{}"] {
        let body = json!({ "after": after });
        let expected = if after == "[\"a\"]" { 200 } else { 400 };
        assert_eq!(status(&daemon, "POST", "/user-svc/permits", &admin, body).await, expected, "{after}");
    }
    // An organization with many members can be listed, and its members can be deleted.
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &tokens[0], json!({ "id": "org_big" })).await, 200);
    let mut leaver = String::new();
    for n in 0..8 {
        leaver = id_of(&daemon.register(&format!("m{n}")).await);
        let add = json!({ "userId": leaver });
        assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_big/user", &tokens[0], add).await, 200);
    }
    let members = "/user-svc/organization/org_big/users";
    assert_eq!(status(&daemon, "GET", members, &tokens[0], Value::Null).await, 400);
    let all = all_entries(&daemon, &tokens[0], "GET", members, Value::Null, "members").await;
    assert_eq!(all.len(), 9);
    assert_eq!(all.iter().filter(|member| member["role"] == "admin").count(), 1);
    let path = format!("/user-svc/user/{leaver}");
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
}

#[tokio::test]
async fn w51_what_plain_accounts_put_into_an_app_does_not_keep_it() {
    let daemon = Daemon::start().await;
    let (admin, eve, ann) = (daemon.admin().await, daemon.register("eve").await, daemon.register("ann").await);
    let fill = async |host: &str| {
        make_roles(&daemon, &eve, "eve", 1).await;
        let permit = json!([{ "permission": "eve:x", "slugs": ["eve"], "appHost": host }]);
        assert_eq!(save_permits(&daemon, &eve, permit).await.status, 200);
        for whom in
            [json!({ "userId": id_of(&eve) }), json!({ "userId": id_of(&ann) }), json!({ "contactId": "x@y.example" })]
        {
            let mut one = whom;
            (one["role"], one["appHost"]) = (json!("eve:r0"), json!(host));
            assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &eve, json!({ "enrolls": [one] })).await, 200);
        }
    };
    let delete = async |id: &str, query: &str| {
        daemon.call("DELETE", &format!("/user-svc/app/{id}{query}"), &admin, Value::Null).await
    };
    let id = make_app(&daemon, &admin, HOST).await;
    fill(HOST).await;
    let deleted = delete(&id, "").await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    let listed = async |body: Value| daemon.call("POST", "/user-svc/enrolls", &eve, body).await.json();
    assert_eq!(listed(json!({ "role": "eve:r0" })).await["enrolls"], json!([]), "it is deleted with the app");
    let left = daemon.call("POST", "/user-svc/permits", &admin, json!({ "permission": "eve:x" })).await.json();
    assert_eq!(left["permits"], Value::Null);

    // Members and their property prevent the deletion unless it cascades explicitly.
    let id = make_app(&daemon, &admin, HOST).await;
    fill(HOST).await;
    let bob = token_of(&register(&daemon, "bob", HOST).await);
    assert_eq!(
        status(&daemon, "POST", "/user-svc/organization", &bob, json!({ "id": "org_bob", "slug": "bob" })).await,
        200
    );
    let refused = delete(&id, "").await;
    assert!(refused.status == 409 && refused.error().contains("cascade=true"), "{}", refused.text);
    assert_eq!(
        listed(json!({ "role": "eve:r0" })).await["enrolls"].as_array().unwrap().len(),
        3,
        "nothing was changed"
    );
    assert_eq!(status(&daemon, "POST", "/user-svc/self", &bob, Value::Null).await, 200);
    let deleted = delete(&id, "?cascade=true").await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    assert_eq!(status(&daemon, "POST", "/user-svc/self", &bob, Value::Null).await, 401);
    assert_eq!(login(&daemon, "bob", HOST).await.status, 404);
    let home = login(&daemon, "bob", "").await;
    assert_eq!(home.status, 200, "the account stays: {}", home.text);
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &admin, json!({ "id": "org_bob" })).await, 409);
    assert_eq!(delete(&id, "?cascade=true").await.status, 404);
}

#[tokio::test]
async fn w52_nobody_occupies_the_ids_of_others() {
    let daemon = Daemon::start().await;
    let (eve, ann, admin) = (daemon.register("eve").await, daemon.register("ann").await, daemon.admin().await);
    let permit = |slug: &str| json!([{ "id": "orders", "permission": format!("{slug}:x"), "slugs": [slug] }]);
    for (slug, token) in [("eve", &eve), ("ann", &ann)] {
        assert_eq!(save_permits(&daemon, token, permit(slug)).await.status, 200);
        assert!(has_permission(&daemon, token, &format!("{slug}:x")).await);
    }
    // The same id replaces the account's own permit, with or without the prefix.
    for id in ["orders", "ann:orders"] {
        let renewed = json!([{ "id": id, "permission": "ann:y", "slugs": ["ann"] }]);
        assert_eq!(save_permits(&daemon, &ann, renewed).await.status, 200);
        assert!(has_permission(&daemon, &ann, "ann:y").await && !has_permission(&daemon, &ann, "ann:x").await);
    }
    let listed = daemon.call("POST", "/user-svc/permits", &admin, json!({})).await.json();
    let ids: BTreeSet<&str> =
        listed["permits"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["ann:orders", "eve:orders"].into());
    let delete = async |token: &str, id: &str| {
        status(&daemon, "DELETE", &format!("/user-svc/grant/{id}"), token, Value::Null).await
    };
    assert_eq!((delete(&eve, "ann:orders").await, delete(&eve, "none").await), (403, 404));
    assert_eq!((delete(&ann, "orders").await, delete(&admin, "eve:orders").await), (200, 200));
    assert!(!has_permission(&daemon, &ann, "ann:y").await && !has_permission(&daemon, &eve, "eve:x").await);

    // Ids of organizations with an account's slug as prefix are reserved for it; others go to the first.
    let found = async |token: &str, id: &str| {
        status(&daemon, "POST", "/user-svc/organization", token, json!({ "id": id })).await
    };
    assert_eq!((found(&eve, "ann:crew").await, found(&ann, "ann:crew").await), (403, 200));
    assert_eq!((found(&eve, "crew").await, found(&ann, "crew").await), (200, 409));
    assert_eq!((found(&ann, "ann:").await, found(&ann, "ann:a:b").await, found(&ann, ":a").await), (400, 400, 400));
    let members = daemon.call("GET", "/user-svc/organization/ann:crew/users", &ann, Value::Null).await;
    assert_eq!(members.json()["members"].as_array().unwrap().len(), 1, "{}", members.text);
    assert_eq!(enroll(&daemon, &admin, &json!(id_of(&eve)), "user-svc:user", "").await.status, 200);
}

#[tokio::test]
async fn w53_the_rules_of_all_accounts_together_have_a_budget() {
    let daemon = Daemon::with_flags(&["--user-max-access-rule-memory", "200000"]).await;
    let admin = daemon.admin().await;
    let gauge = async |name: &str| {
        let metrics = daemon.call("GET", "/metrics", &admin, Value::Null).await.text;
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(gauge("openorch_access_rule_bytes_limit").await, 200_000);
    let before = gauge("openorch_access_rule_bytes").await;
    let save = async |token: &str, slug: &str, n: usize| {
        let saved: Vec<Value> =
            (0..40).map(|m| json!({ "id": format!("{slug}:p{n}-{m}"), "description": "x".repeat(500) })).collect();
        daemon.call("PUT", "/user-svc/permissions", token, json!({ "permissions": saved })).await
    };
    let mut refused = None;
    for n in 0..10 {
        let (slug, token) = (format!("free-{n}"), daemon.register(&format!("free-{n}")).await);
        let answer = save(&token, &slug, 0).await;
        if answer.status != 200 {
            refused = Some((answer, id_of(&token)));
            break;
        }
    }
    let (refused, _) = refused.expect("the budget is exhausted");
    let told = refused.error();
    assert!(
        refused.status == 429 && told.contains("200000") && told.contains("OPENORCH_USER_MAX_ACCESS_RULE_MEMORY"),
        "{told}"
    );
    assert!(gauge("openorch_access_rule_bytes").await <= 200_000);
    assert_eq!(save(&admin, "openorch", 0).await.status, 200, "an admin can still work");
    // Deleting an account frees its share.
    for n in 0..10 {
        let found =
            daemon.call("POST", "/user-svc/users", &admin, json!({ "search": format!("free-{n}") })).await.json();
        for user in found["users"].as_array().into_iter().flatten() {
            let path = format!("/user-svc/user/{}", user["id"].as_str().unwrap());
            assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
        }
    }
    for m in 0..40 {
        let path = format!("/user-svc/permission/openorch:p0-{m}");
        assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
    }
    assert_eq!(gauge("openorch_access_rule_bytes").await, before, "deleted rules are not counted");
}

#[tokio::test]
async fn w54_the_rules_of_one_account_have_a_budget_in_bytes() {
    let daemon = Daemon::with_flags(&["--user-max-access-rule-memory-per-account", "20000"]).await;
    let (eve, ann) = (daemon.register("eve").await, daemon.register("ann").await);
    let save = async |token: &str, slug: &str, count: usize| {
        let saved: Vec<Value> =
            (0..count).map(|n| json!({ "id": format!("{slug}:p{n}"), "description": "x".repeat(900) })).collect();
        daemon.call("PUT", "/user-svc/permissions", token, json!({ "permissions": saved })).await
    };
    let refused = save(&eve, "eve", 20).await;
    let told = refused.error();
    assert!(refused.status == 403 && told.contains("20000 bytes") && told.contains("_MEMORY_PER_ACCOUNT"), "{told}");
    assert_eq!(
        (save(&eve, "eve", 10).await.status, save(&ann, "ann", 10).await.status),
        (200.try_into().unwrap(), 200.try_into().unwrap())
    );
}

#[tokio::test]
async fn w55_organizations_that_an_account_founds_and_deletes_leave_only_so_much_behind() {
    let daemon = Daemon::start().await;
    let (eve, admin) = (daemon.register("eve").await, daemon.admin().await);
    let found =
        async |n: usize| daemon.call("POST", "/user-svc/organization", &eve, json!({ "id": format!("org_{n}") })).await;
    // Concurrent, to be fast.
    for n in (0..500).step_by(4) {
        let made = tokio::join!(found(n), found(n + 1), found(n + 2), found(n + 3));
        assert!([&made.0, &made.1, &made.2, &made.3].iter().all(|made| made.status == 200), "{}", made.0.text);
    }
    for deleted in 0..2 {
        let refused = found(500).await;
        assert!(refused.status == 403 && refused.error().contains("500 organizations"), "{}", refused.text);
        if deleted == 0 {
            assert_eq!(status(&daemon, "DELETE", "/user-svc/organization/org_7", &eve, Value::Null).await, 200);
        }
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/organization-id/org_7", &admin, Value::Null).await, 200);
    assert_eq!(found(500).await.status, 200);
}

#[tokio::test]
async fn w56_permits_that_are_nearly_alike_take_no_longer_to_save_than_others() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let names: Vec<String> = (0..44).map(|n| format!("a{n:02}")).collect();
    let took = async |from: usize, permission: &dyn Fn(usize) -> String| {
        let one = |n: usize| {
            let slugs: Vec<String> = names.iter().cloned().chain([format!("z{n}")]).collect();
            json!({ "permission": permission(n), "slugs": slugs })
        };
        let wanted = json!((from..from + 1000).map(one).collect::<Vec<_>>());
        let begun = std::time::Instant::now();
        assert_eq!(save_permits(&daemon, &admin, wanted).await.status, 200);
        begun.elapsed()
    };
    let different = |n: usize| format!("openorch:p{n}");
    let alike = |_: usize| "openorch:x".to_owned();
    let other = took(0, &different).await + took(1000, &different).await;
    let same = took(2000, &alike).await + took(3000, &alike).await;
    // Comparing each with each, name by name, would take many times as long.
    assert!(same < 3 * other, "{same:?} for similar ones, {other:?} for others");
}

#[tokio::test]
async fn w91_nobody_fills_the_role_of_another_so_that_its_owner_cannot_give_it_more() {
    let daemon = Daemon::start().await;
    let (shop, evil) = (daemon.register("shop-svc").await, daemon.register("evil").await);
    make_roles(&daemon, &shop, "shop-svc", 1).await;
    let save = async |token: &str, slug: &str| {
        let permissions: Vec<Value> = (0..1000).map(|n| json!({ "id": format!("{slug}:p{n}") })).collect();
        let body = json!({ "permissions": permissions });
        assert_eq!(status(&daemon, "PUT", "/user-svc/permissions", token, body).await, 200);
    };
    let link = async |token: &str, slug: &str, count: usize| {
        let links = (0..count).map(|n| json!({ "roleId": "shop-svc:r0", "permissionId": format!("{slug}:p{n}") }));
        let body = json!({ "permissionLinks": links.collect::<Vec<_>>() });
        daemon.call("PUT", "/user-svc/roles/permissions", token, body).await
    };
    save(&evil, "evil").await;
    save(&shop, "shop-svc").await;
    let refused = link(&evil, "evil", 101).await;
    assert!(refused.status == 403 && refused.error().contains("at most 100"), "{}", refused.text);
    assert_eq!(link(&evil, "evil", 100).await.status, 200, "a service may give permissions to a role of another");
    assert_eq!(link(&shop, "shop-svc", 1000).await.status, 200, "regardless of what others gave the role");
    // Nor a role that every account has, so that its permissions stay listable.
    let links = (0..101).map(|n| json!({ "roleId": "user-svc:user", "permissionId": format!("evil:p{n}") }));
    let body = json!({ "permissionLinks": links.collect::<Vec<_>>() });
    let refused = daemon.call("PUT", "/user-svc/roles/permissions", &evil, body).await;
    assert!(refused.status == 403 && refused.error().contains("at most 100"), "{}", refused.text);
}

#[tokio::test]
async fn w92_a_few_free_accounts_keep_nobody_from_giving_roles() {
    let daemon = Daemon::start().await;
    let good = daemon.register("good").await;
    make_roles(&daemon, &good, "good", 6).await;
    let target = id_of(&daemon.register("target").await);
    let give = async |token: &str, slug: &str, roles: usize, to: Value| {
        let enroll = |n: usize| {
            let mut enroll = to.clone();
            enroll["role"] = json!(format!("{slug}:r{n}"));
            enroll
        };
        let body = json!({ "enrolls": (0..roles).map(enroll).collect::<Vec<_>>() });
        daemon.call("PUT", "/user-svc/enrolls", token, body).await
    };
    let receivers = [json!({ "userId": target }), json!({ "contactId": "new@example.org" })];
    for n in 0..5 {
        let slug = format!("free-{n}");
        let free = daemon.register(&slug).await;
        make_roles(&daemon, &free, &slug, 100).await;
        for to in &receivers {
            assert_eq!(give(&free, &slug, 100, to.clone()).await.status, 200);
        }
    }
    let sixth = daemon.register("sixth").await;
    make_roles(&daemon, &sixth, "sixth", 100).await;
    for to in &receivers {
        let refused = give(&sixth, "sixth", 100, to.clone()).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        assert_eq!(give(&sixth, "sixth", 20, to.clone()).await.status, 200, "the first ones are always allowed");
        assert_eq!(give(&good, "good", 6, to.clone()).await.status, 200, "{to}");
    }
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &good, json!({ "id": "org_good" })).await, 200);
    let add = json!({ "userId": target });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_good/user", &good, add).await, 200);
    let crew = daemon.register("crew").await;
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &crew, json!({ "id": "org_crew" })).await, 200);
    let add = json!({ "userId": target });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_crew/user", &crew, add).await, 200);
}

#[tokio::test]
async fn w93_giving_to_accounts_and_for_contacts_at_once_has_one_limit() {
    let daemon = Daemon::with_flags(&["--user-max-role-assignments-per-account", "10"]).await;
    let zed = daemon.register("zed").await;
    make_roles(&daemon, &zed, "zed", 10).await;
    let target = id_of(&daemon.register("target").await);
    let give = async |n: usize| {
        let role = format!("zed:r{}", n / 2);
        let enroll = match n % 2 {
            0 => json!({ "userId": target, "role": role }),
            _ => json!({ "contactId": format!("c{n}@example.org"), "role": role }),
        };
        status(&daemon, "PUT", "/user-svc/enrolls", &zed, json!({ "enrolls": [enroll] })).await
    };
    let mut given = 0;
    for from in [0, 4, 8, 12, 16] {
        let (a, b, c, d) = tokio::join!(give(from), give(from + 1), give(from + 2), give(from + 3));
        given += [a, b, c, d].iter().filter(|status| **status == 200).count();
    }
    assert_eq!(given, 10);
}

#[tokio::test]
async fn w98_nobody_crowds_the_roles_that_others_gave_out_of_a_token() {
    let daemon = Daemon::start().await;
    let (shop, crowd) = (daemon.register("shop").await, daemon.register("aaa").await);
    daemon.register("victim").await;
    let id = id_of(&token_of(&daemon.login("victim", "pass", "test").await));
    let role = json!({ "id": "shop:customer", "name": "C" });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, role).await, 200);
    assert_eq!(enroll(&daemon, &shop, &json!(id), "shop:customer", "").await.status, 200);
    for n in 0..12 {
        let role = format!("aaa:{n:0>200}");
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &crowd, json!({ "id": role, "name": "R" })).await, 200);
        assert_eq!(enroll(&daemon, &crowd, &json!(id), &role, "").await.status, 200);
        let organization = format!("org-{n:0>55}");
        assert_eq!(status(&daemon, "POST", "/user-svc/organization", &crowd, json!({ "id": organization })).await, 200);
        let path = format!("/user-svc/organization/{organization}/user");
        assert_eq!(status(&daemon, "POST", &path, &crowd, json!({ "userId": id })).await, 200);
    }
    let told = claims(&token_of(&daemon.login("victim", "pass", "test").await))["ori"].clone();
    let told: Vec<&str> = told.as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect();
    assert!(told.contains(&"shop:customer") && told.contains(&"user-svc:user"), "{told:?}");
    assert!(
        told.iter().any(|role| role.starts_with("aaa:")) && told.len() < 26,
        "the remaining roles as far as they fit: {told:?}"
    );
}

#[tokio::test]
async fn w141_instances_of_all_accounts_together_have_a_bound() {
    let daemon = Daemon::with_flags(&["--registry-max-instances", "3"]).await;
    let (ann, bob, admin) = (daemon.register("ann").await, daemon.register("bob").await, daemon.admin().await);
    let put = async |token: &str, n: usize| {
        let answer = daemon.put_instance(token, json!({ "url": format!("http://127.0.0.1:1/{n}") })).await;
        (answer.status.as_u16(), answer.text)
    };
    for n in 0..3 {
        assert_eq!(put([&ann, &bob][n % 2], n).await.0, 201);
    }
    let (status, told) = put(&bob, 3).await;
    assert!(status == 429 && told.contains("OPENORCH_REGISTRY_MAX_INSTANCES"), "{told}");
    assert_eq!((put(&bob, 1).await.0, put(&admin, 4).await.0), (201, 201), "existing instances, and those of an admin");
}

#[tokio::test]
async fn w143_a_session_takes_no_room_for_the_roles_of_its_account() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    for n in 0..200 {
        let role = format!("ann:{}{n:03}", "r".repeat(230));
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &ann, json!({ "id": role, "name": "R" })).await, 200);
        let enroll = json!({ "enrolls": [{ "userId": id_of(&ann), "role": role }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &ann, enroll).await, 200);
    }
    let size = || {
        let files = std::fs::read_dir(daemon.data_dir.path()).unwrap().flatten();
        files.map(|file| file.metadata().map_or(0, |data| data.len())).sum::<u64>()
    };
    let before = size();
    let mut tokens = BTreeSet::new();
    for n in 0..40 {
        let session = daemon.login("ann", "pass", &format!("device-{n}")).await;
        assert_eq!(session.status, 200);
        tokens.insert(session.json()["token"]["id"].to_string());
    }
    assert_eq!(tokens.len(), 40);
    // With roles each session would be 47 KB, and the log contains each written page again.
    let grown = size() - before;
    assert!(grown < 40 * 40_000, "{grown} bytes");
    // A change of roles still takes effect.
    let id = async || daemon.login("ann", "pass", "device-0").await.json()["token"]["id"].clone();
    let (first, again) = (id().await, id().await);
    assert_eq!(first, again);
    let role = format!("/user-svc/enroll/unnamed:{}:ann:{}000", id_of(&ann), "r".repeat(230));
    assert_eq!(status(&daemon, "DELETE", &role, &ann, Value::Null).await, 200);
    assert_ne!(id().await, first);
}
