//! Administration of accounts, organizations and sessions.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, claims, id_of, token_of};

async fn users(daemon: &Daemon, body: Value) -> Value {
    let answer = daemon.call("POST", "/user-svc/users", &daemon.admin().await, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn slugs(answer: &Value) -> Vec<String> {
    let users = answer["users"].as_array().cloned().unwrap_or_default();
    users.iter().map(|user| user["slug"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_admin_makes_changes_and_deletes_accounts() {
    let mut daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let user = json!({ "user": { "name": "Ann", "slug": "ann", "labels": { "team": "shop" },
        "contacts": [{ "platform": "email", "value": "Ann@Example.org", "verified": true }] },
        "password": "pass", "roleIds": ["user-svc:user"] });
    let made = daemon.call("POST", "/user-svc/user", &admin, user.clone()).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let made = made.json()["user"].clone();
    assert_eq!((&made["labels"]["team"], &made["contacts"][0]["verified"]), (&json!("shop"), &Value::Null));
    let id = made["id"].as_str().unwrap();
    let ann = token_of(&daemon.login("ann", "pass", "test").await);

    let save = json!({ "name": "Ann B." });
    assert_eq!(daemon.call("PUT", &format!("/user-svc/user/{id}"), &admin, save).await.status, 200);
    let own = daemon.call("POST", "/user-svc/user/by-token", &ann, Value::Null).await.json();
    assert_eq!((&own["user"]["name"], &own["user"]["labels"]["team"]), (&json!("Ann B."), &json!("shop")));

    let reset = format!("/user-svc/{id}/reset-password");
    assert_eq!(daemon.call("POST", &reset, &admin, json!({ "newPassword": "other" })).await.status, 200);
    let after = daemon.call("POST", "/user-svc/user/by-token", &ann, Value::Null).await;
    assert_eq!(after.status, 401, "sessions of the old password have ended");
    assert_eq!(daemon.login("ann", "pass", "test").await.status, 401);
    let ann = token_of(&daemon.login("ann", "other", "test").await);

    // Deletion cascades to sessions, roles, permissions and instances, and keeps the slug reserved.
    let echo = Echo::start().await;
    daemon.put_instance(&ann, json!({ "url": echo.url })).await;
    daemon.call("PUT", "/user-svc/permissions", &ann, json!({ "permissions": [{ "id": "ann:x" }] })).await;
    daemon
        .call("POST", "/user-svc/role", &ann, json!({ "id": "ann:r", "name": "R", "permissionIds": ["ann:x"] }))
        .await;
    let permit = json!({ "permits": [{ "permission": "ann:x", "slugs": ["ann", "openorch"] }] });
    daemon.call("PUT", "/user-svc/permits", &ann, permit).await;
    let grant = json!({ "grants": [{ "permissionId": "user-svc:user:view", "slugs": ["ann"] }] });
    daemon.call("PUT", "/user-svc/grants", &admin, grant).await;
    assert_eq!(daemon.call("GET", "/ann/x", "", Value::Null).await.status, 200);
    let path = format!("/user-svc/user/{id}");
    assert_eq!(daemon.call("DELETE", &path, &ann, Value::Null).await.status, 403, "not even its own account");
    assert_eq!(daemon.call("DELETE", &path, &admin, Value::Null).await.status, 200);
    for restarted in [false, true] {
        if restarted {
            daemon.restart(&[]).await;
        }
        assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &ann, Value::Null).await.status, 401);
        assert_eq!(daemon.call("GET", "/ann/x", "", Value::Null).await.status, 404);
        assert!(daemon.login("ann", "other", "test").await.error().contains("Slug not found"));
        let admin = daemon.admin().await;
        let roles = daemon.call("GET", "/user-svc/roles", &admin, Value::Null).await.json();
        assert_eq!(roles["roles"].as_array().unwrap().len(), 2, "only the built-in roles");
        let permits = daemon.call("POST", "/user-svc/permits", &admin, Value::Null).await;
        assert_eq!(permits.json(), json!({}));
        assert!(daemon.instances(&admin).await.is_empty());
    }
    let admin = daemon.admin().await;
    let again = json!({ "slug": "ann", "password": "pass" });
    let refused = daemon.call("POST", "/user-svc/register", "", again.clone()).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert_eq!(daemon.call("DELETE", "/user-svc/slug/ann", &admin, Value::Null).await.status, 200);
    assert_eq!(daemon.call("DELETE", "/user-svc/slug/ann", &admin, Value::Null).await.status, 404);
    let fresh = token_of(&daemon.call("POST", "/user-svc/register", "", again).await);
    let may = daemon.call("POST", "/user-svc/self/has/user-svc:user:view", &fresh, Value::Null).await.json();
    assert_eq!(may["authorized"], false, "a new account with the slug has no rights");
}

#[tokio::test]
async fn what_is_missing_taken_or_built_in_is_refused_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    daemon.register("ann").await;
    let contact = json!([{ "value": "bob@example.org" }]);
    let bob = json!({ "user": { "name": "Bob", "slug": "bob", "id": "usr_bob", "contacts": contact } });
    assert_eq!(daemon.call("POST", "/user-svc/user", &admin, bob).await.status, 200);
    let before = users(&daemon, json!({ "count": true })).await["count"].clone();
    for (body, status, words) in [
        (json!({}), 400, "`user` is required"),
        (json!({ "user": { "slug": "cleo" } }), 400, "`user.name` is required"),
        (json!({ "user": { "name": "Cleo" } }), 400, "`user.slug` is required"),
        (json!({ "user": { "name": "Cleo", "slug": "Cleo" } }), 400, "slug"),
        (json!({ "user": { "name": "Cleo", "slug": "cleo", "id": "a/b" } }), 400, "omit it to have one generated"),
        (json!({ "user": { "name": "Cleo", "slug": "cleo", "id": "usr_bob" } }), 409, "another account"),
        (json!({ "user": { "name": "Ann", "slug": "ann" } }), 409, "slug already exists"),
        (json!({ "user": { "name": "U", "slug": "user-svc" } }), 409, "slug already exists"),
        (
            json!({ "user": { "name": "Cleo", "slug": "cleo" }, "roleIds": ["no:role"] }),
            400,
            "some roles are not found",
        ),
        (
            json!({ "user": { "name": "Cleo", "slug": "cleo" }, "contacts": [{ "value": "a@b" }, { "value": "c@d" }] }),
            400,
            "`contacts` has 2 entries; at most 1 are allowed",
        ),
        (
            json!({ "user": { "name": "Cleo", "slug": "cleo" }, "contacts": [{ "id": "BOB@example.org" }] }),
            409,
            "contact already exists",
        ),
    ] {
        let answer = daemon.call("POST", "/user-svc/user", &admin, body.clone()).await;
        assert!(answer.status.as_u16() == status && answer.error().contains(words), "{body}: {}", answer.text);
    }
    assert_eq!(users(&daemon, json!({ "count": true })).await["count"], before);
    let built_in = users(&daemon, json!({ "search": "user-svc" })).await;
    let id = built_in["users"][0]["id"].as_str().unwrap();
    for (method, path) in
        [("DELETE", format!("/user-svc/user/{id}")), ("POST", format!("/user-svc/{id}/reset-password"))]
    {
        let answer = daemon.call(method, &path, &admin, json!({ "newPassword": "pass" })).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
    }
    for (method, path) in
        [("DELETE", "/user-svc/user/x"), ("PUT", "/user-svc/user/x"), ("POST", "/user-svc/x/reset-password")]
    {
        assert_eq!(daemon.call(method, path, &admin, json!({ "newPassword": "pass" })).await.status, 404);
    }
}

#[tokio::test]
async fn accounts_are_listed_searched_and_paged() {
    let daemon = Daemon::start().await;
    for name in ["ann", "anton", "bob", "cleo"] {
        daemon.register(name).await;
        daemon.clock.advance(1);
    }
    let newest = users(&daemon, json!({ "query": { "limit": 2, "count": true } })).await;
    assert_eq!(slugs(&newest), ["cleo", "bob"], "the newest first");
    assert!(newest["count"].as_u64().unwrap() > 4 && newest["after"] == "0001-01-01T00:00:00Z");
    let next = newest["next"].as_str().unwrap();
    let more = users(&daemon, json!({ "query": { "limit": 2, "jsonAfter": next } })).await;
    assert_eq!(slugs(&more), ["anton", "ann"]);
    for body in [
        json!({ "search": "AN", "order": "asc" }),
        json!({ "query": { "filters": [{ "op": "startsWith", "fields": ["slug", "Name"], "jsonValues": "[\"an\"]" }],
            "orderBys": [{ "field": "slug" }] } }),
    ] {
        assert_eq!(slugs(&users(&daemon, body.clone()).await), ["ann", "anton"], "{body}");
    }
    let admin = daemon.admin().await;
    let named = json!({ "user": { "name": "Ünal Mc'Name 3", "slug": "other-name", "contacts": [{ "value": "u@example.org" }] } });
    assert_eq!(daemon.call("POST", "/user-svc/user", &admin, named).await.status, 200);
    for (search, want) in [
        ("ün", 1),
        ("NAME", 1),
        ("mc'n", 1),
        ("name 3", 1),
        ("other-n", 1),
        ("3", 1),
        ("nal", 0),
        ("U@Example.org", 1),
        ("namex", 0),
        ("%", 0),
        ("ann", 1),
        ("an", 2),
        ("a", 3),
    ] {
        assert_eq!(slugs(&users(&daemon, json!({ "search": search })).await).len(), want, "{search}");
    }
    let one = json!({ "query": { "filters": [{ "op": "equals", "fields": ["slug"], "jsonValues": "[\"bob\"]" }] } });
    let bob = users(&daemon, one).await;
    assert_eq!(slugs(&users(&daemon, json!({ "ids": [bob["users"][0]["id"]] })).await), ["bob"]);
    let admin = daemon.admin().await;
    for body in [
        json!({ "order": "up" }),
        json!({ "orderBy": "password" }),
        json!({ "limit": -1 }),
        json!({ "limit": 1001 }),
        json!({ "query": { "filters": [{ "op": "equals", "fields": ["a' or 1=1"], "jsonValues": "[1]" }] } }),
        json!({ "query": { "filters": [{ "op": "nope", "fields": ["slug"], "jsonValues": "[1]" }] } }),
        json!({ "query": { "jsonAfter": "[" } }),
    ] {
        assert_eq!(daemon.call("POST", "/user-svc/users", &admin, body.clone()).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn an_organization_has_members_whose_rights_end_at_once() {
    let daemon = Daemon::start().await;
    let (ann, bob, eve) = (daemon.register("ann").await, daemon.register("bob").await, daemon.register("eve").await);
    let (ann_id, bob_id, eve_id) = (id_of(&ann), id_of(&bob), id_of(&eve));
    let organization = json!({ "id": "org_1", "name": "One", "slug": "one" });
    let call = async |method: &str, path: &str, token: &str, body: Value| daemon.call(method, path, token, body).await;
    assert_eq!(call("POST", "/user-svc/organization", &ann, organization.clone()).await.status, 200);
    assert_eq!(call("POST", "/user-svc/organization", &bob, organization.clone()).await.status, 409);
    let given = call("POST", "/user-svc/organization", &bob, json!({ "name": "Two" })).await.json();
    assert!(given["organization"]["id"].as_str().unwrap().starts_with("org_"));

    let roles = claims(&token_of(&daemon.login("ann", "pass", "new").await))["ori"].clone();
    assert!(roles.as_array().unwrap().contains(&json!("user-svc:org:{org_1}:admin")), "{roles}");
    let add = json!({ "userId": bob_id });
    assert_eq!(call("POST", "/user-svc/organization/org_1/user", &eve, add.clone()).await.status, 403);
    assert_eq!(call("POST", "/user-svc/organization/org_1/user", &bob, add.clone()).await.status, 403);
    assert_eq!(call("POST", "/user-svc/organization/none/user", &ann, add.clone()).await.status, 404);
    assert_eq!(call("POST", "/user-svc/organization/org_1/user", &ann, json!({ "userId": "x" })).await.status, 404);
    for _ in 0..2 {
        assert_eq!(call("POST", "/user-svc/organization/org_1/user", &ann, add.clone()).await.status, 200);
    }
    let own = call("POST", "/user-svc/user/by-token", &bob, Value::Null).await.json();
    assert!(own["organizations"].as_array().unwrap().iter().any(|one| one["slug"] == "one"), "{own}");
    let members = call("GET", "/user-svc/organization/org_1/users", &bob, Value::Null).await.json();
    let listed: Vec<_> =
        members["members"].as_array().unwrap().iter().map(|m| (&m["user"]["slug"], &m["role"])).collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&(&json!("ann"), &json!("admin"))) && listed.contains(&(&json!("bob"), &json!("user"))));
    assert_eq!(call("GET", "/user-svc/organization/org_1/users", &eve, Value::Null).await.status, 403);

    // W9: removal revokes the rights; the last admin cannot leave.
    let member = |id: &str| format!("/user-svc/organization/org_1/user/{id}");
    assert_eq!(call("DELETE", &member(&ann_id), &bob, Value::Null).await.status, 403);
    assert_eq!(call("DELETE", &member(&ann_id), &ann, Value::Null).await.status, 409);
    assert_eq!(call("PUT", &member(&ann_id), &ann, json!({ "role": "user" })).await.status, 409);
    assert_eq!(call("PUT", &member(&bob_id), &bob, json!({ "role": "admin" })).await.status, 403);
    assert_eq!(call("PUT", &member(&bob_id), &ann, json!({ "role": "owner" })).await.status, 400);
    assert_eq!(call("PUT", &member(&bob_id), &ann, json!({ "role": "admin" })).await.status, 200);
    assert_eq!(call("POST", "/user-svc/organization/org_1/user", &bob, json!({ "userId": eve_id })).await.status, 200);
    assert_eq!(call("DELETE", &member(&ann_id), &ann, Value::Null).await.status, 200, "leaving");
    assert_eq!(call("DELETE", &member(&ann_id), &bob, Value::Null).await.status, 404);
    assert_eq!(call("POST", "/user-svc/organization/org_1/user", &ann, add.clone()).await.status, 403, "at once");

    // Deleting an account deletes an organization of which it is the only member.
    let admin = daemon.admin().await;
    let dan = daemon.register("dan").await;
    call("POST", "/user-svc/organization", &dan, json!({ "id": "org_dan", "slug": "dan" })).await;
    let path = format!("/user-svc/user/{}", id_of(&dan));
    assert_eq!(call("DELETE", &path, &admin, Value::Null).await.status, 200);
    assert_eq!(call("GET", "/user-svc/organization/org_dan/users", &admin, Value::Null).await.status, 404);

    let named = json!({ "slug": "one", "name": "Uno" });
    assert_eq!(call("PUT", "/user-svc/organization", &ann, named.clone()).await.status, 403);
    let saved = call("PUT", "/user-svc/organization", &bob, named).await.json();
    assert_eq!((&saved["organization"]["name"], &saved["organization"]["id"]), (&json!("Uno"), &json!("org_1")));
    let token = saved["token"]["token"].as_str().unwrap();
    assert!(claims(token)["ori"].as_array().unwrap().contains(&json!("user-svc:org:{org_1}:admin")));
    let all = call("POST", "/user-svc/organizations", &daemon.admin().await, json!({ "limit": 1 })).await.json();
    assert_eq!(all["organizations"].as_array().unwrap().len(), 1);
    // All have the same timestamp, because the clock stands still: `afterTime` alone would skip some.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let asked = json!({ "limit": 1, "after": after });
        let page = call("POST", "/user-svc/organizations", &daemon.admin().await, asked).await.json();
        seen.extend(page["organizations"].as_array().unwrap().iter().map(|one| one["id"].clone()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    let whole = call("POST", "/user-svc/organizations", &daemon.admin().await, Value::Null).await.json();
    let whole = whole["organizations"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert!(whole.len() > 1 && seen == whole, "{seen:?} {whole:?}");
    assert_eq!(call("POST", "/user-svc/organizations", &bob, Value::Null).await.status, 403);

    assert_eq!(call("DELETE", "/user-svc/organization/org_1", &eve, Value::Null).await.status, 403);
    assert_eq!(call("DELETE", "/user-svc/organization/org_1", &bob, Value::Null).await.status, 200);
    let own = call("POST", "/user-svc/self", &eve, Value::Null).await.json();
    assert_eq!(own["roles"], json!(["user-svc:user"]));
    let again = call("POST", "/user-svc/organization", &eve, organization).await;
    assert_eq!(
        again.status, 409,
        "its id stays reserved, so that nobody takes over what belongs to it: {}",
        again.text
    );
    let release = "/user-svc/organization-id/org_1";
    assert_eq!(call("DELETE", release, &bob, Value::Null).await.status, 403);
    assert_eq!(call("DELETE", release, &daemon.admin().await, Value::Null).await.status, 200);
    assert_eq!(call("DELETE", release, &daemon.admin().await, Value::Null).await.status, 404);
    assert_eq!(call("POST", "/user-svc/organization", &eve, json!({ "id": "org_1" })).await.status, 200);
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one() {
    let daemon = Daemon::start().await;
    let ann = daemon.register("ann").await;
    let laptop = token_of(&daemon.login("ann", "pass", "laptop").await);
    let eve = daemon.register("eve").await;
    let listed = daemon.call("GET", "/user-svc/sessions", &laptop, Value::Null).await.json();
    let sessions = listed["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert!(!listed.to_string().contains("eyJ"), "the list contains no tokens");
    let own = sessions.iter().find(|one| one["current"] == true).unwrap();
    assert_eq!(own["device"], "laptop");
    let path = format!("/user-svc/session/{}", own["id"].as_str().unwrap());
    assert_eq!(daemon.call("DELETE", &path, &eve, Value::Null).await.status, 404, "not revealed to others");
    let of_ann = format!("/user-svc/sessions?userId={}", id_of(&ann));
    assert_eq!(daemon.call("GET", &of_ann, &eve, Value::Null).await.status, 403);
    let admin = daemon.admin().await;
    assert_eq!(daemon.call("GET", &of_ann, &admin, Value::Null).await.json()["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(daemon.call("DELETE", &path, &ann, Value::Null).await.status, 200);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &laptop, Value::Null).await.status, 401);
    assert_eq!(daemon.call("POST", "/user-svc/user/by-token", &ann, Value::Null).await.status, 200);
    assert_eq!(daemon.call("DELETE", &path, &admin, Value::Null).await.status, 404);
}

#[tokio::test]
async fn what_does_not_fit_is_told_in_words_of_json() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    for (body, sentence) in [
        (json!([]), "the input is a list; an object is expected"),
        (json!({ "limit": 1.5 }), "`limit` is 1.5; a whole number is expected"),
        (json!({ "ids": { "a": 1 } }), "`ids` is an object; a list is expected"),
    ] {
        let answer = daemon.call("POST", "/user-svc/users", &admin, body).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (400, sentence));
    }
    let answer = daemon.call("POST", "/user-svc/invitation", &admin, json!({ "uses": -1 })).await;
    assert!(answer.error() == "`uses` is -1; at least 1 is allowed", "{}", answer.text);
}
