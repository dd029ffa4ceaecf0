//! Apps: rights in one do not apply in another, and a token for another app requires a role in it.

use serde_json::{Value, json};

use crate::support::{Answer, Daemon, claims, token_of};

pub const HOST: &str = "shop.example.com";

pub async fn make_app(daemon: &Daemon, admin: &str, host: &str) -> String {
    let made = daemon.call("PUT", "/user-svc/app", admin, json!({ "newHost": host })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    made.json()["app"]["id"].as_str().unwrap().to_owned()
}

pub async fn register(daemon: &Daemon, slug: &str, host: &str) -> Answer {
    daemon.call("POST", "/user-svc/register", "", json!({ "slug": slug, "password": "pass", "appHost": host })).await
}

pub async fn login(daemon: &Daemon, slug: &str, host: &str) -> Answer {
    let body = json!({ "slug": slug, "password": "pass", "device": "test", "appHost": host });
    daemon.call("POST", "/user-svc/login", "", body).await
}

async fn read_self(daemon: &Daemon, token: &str) -> Value {
    daemon.call("POST", "/user-svc/self", token, Value::Null).await.json()
}

async fn exchange(daemon: &Daemon, token: &str, body: Value) -> Answer {
    daemon.call("PUT", "/user-svc/token/exchange", token, body).await
}

pub async fn enroll(daemon: &Daemon, token: &str, user_id: &Value, role: &str, host: &str) -> Answer {
    let body = json!({ "enrolls": [{ "userId": user_id, "role": role, "appHost": host }] });
    daemon.call("PUT", "/user-svc/enrolls", token, body).await
}

async fn has_permission(daemon: &Daemon, token: &str, permission: &str) -> bool {
    let path = format!("/user-svc/self/has/{permission}");
    daemon.call("POST", &path, token, Value::Null).await.json()["authorized"] == true
}

#[tokio::test]
async fn an_app_is_made_by_an_admin_and_found_by_its_host() {
    let mut daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let id = make_app(&daemon, &admin, "Shop.Example.com").await;
    let read = async |host: &str| daemon.call("POST", "/user-svc/app", "", json!({ "host": host })).await;
    assert_eq!(read(HOST).await.json()["app"], json!({ "id": id, "host": HOST }));
    assert_eq!(read("unnamed").await.json()["app"], json!({ "id": "unnamed", "host": "unnamed" }));
    assert_eq!(
        (read("").await.status, read("other.example.com").await.status),
        (400.try_into().unwrap(), 404.try_into().unwrap())
    );
    for (body, status) in [
        (json!({ "newHost": HOST }), 409),
        (json!({ "newHost": "a/b" }), 400),
        (json!({ "newHost": "*" }), 400),
        (json!({}), 400),
        (json!({ "id": "unnamed", "newHost": "x.example.com" }), 403),
        (json!({ "id": "app_none", "newHost": "x.example.com" }), 404),
    ] {
        assert_eq!(daemon.call("PUT", "/user-svc/app", &admin, body.clone()).await.status, status, "{body}");
    }
    let list = async |token: &str, body: Value| daemon.call("POST", "/user-svc/apps", token, body).await;
    assert_eq!(list(&ann, Value::Null).await.status, 403);
    assert_eq!(list(&ann, json!({ "host": [HOST] })).await.json()["apps"], json!([{ "id": id, "host": HOST }]));
    assert_eq!(list(&admin, Value::Null).await.json()["apps"].as_array().unwrap().len(), 2);

    for listed in [json!({ "id": id, "host": HOST }), json!({ "id": "unnamed", "host": "unnamed" })] {
        let saved = daemon.call("PUT", "/user-svc/app", &admin, listed.clone()).await;
        assert_eq!(saved.json()["app"], listed, "it can be saved as it was listed");
    }
    let both = json!({ "id": id, "host": HOST, "newHost": "store.example.com" });
    assert_eq!(daemon.call("PUT", "/user-svc/app", &admin, both).await.status, 400);

    let moved = json!({ "id": id, "newHost": "store.example.com" });
    assert_eq!(daemon.call("PUT", "/user-svc/app", &admin, moved).await.status, 200);
    daemon.restart(&[]).await;
    let read = async |host: &str| daemon.call("POST", "/user-svc/app", "", json!({ "host": host })).await;
    assert_eq!(read("store.example.com").await.json()["app"]["id"], json!(id));
    assert_eq!(read(HOST).await.status, 404);
}

#[tokio::test]
async fn an_app_goes_when_nothing_belongs_to_it_and_not_before() {
    let daemon = Daemon::start().await;
    let (admin, ann) = (daemon.admin().await, daemon.register("ann").await);
    let call = async |method: &str, path: &str, token: &str, body: Value| {
        let answer = daemon.call(method, path, token, body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text);
        answer.json()
    };
    let id = make_app(&daemon, &admin, HOST).await;
    let delete = async |token: &str, id: &str| {
        let answer = daemon.call("DELETE", &format!("/user-svc/app/{id}"), token, Value::Null).await;
        (answer.status.as_u16(), answer.text)
    };
    assert_eq!(
        (delete(&ann, &id).await.0, delete(&admin, "unnamed").await.0, delete(&admin, "app_none").await.0),
        (403, 403, 404)
    );
    let login = json!({ "slug": "openorch", "password": "changeme", "device": "test", "appHost": HOST });
    let there = call("POST", "/user-svc/login", "", login).await["token"]["token"].as_str().unwrap().to_owned();
    let crew = call("POST", "/user-svc/organization", &there, json!({ "id": "org_crew" })).await;
    let invited = call("POST", "/user-svc/invitation", &there, json!({})).await;
    let permit = json!({ "permits": [{ "id": "p", "permission": "ann:x", "slugs": ["ann"], "appHost": HOST }] });
    call("PUT", "/user-svc/permits", &admin, permit).await;
    let waits = json!({ "enrolls": [{ "contactId": "bob@example.org", "role": "user-svc:user", "appHost": HOST }] });
    let waits = call("PUT", "/user-svc/enrolls", &admin, waits).await;
    let ways_out = [
        ("1 roles assigned to accounts", format!("organization/{}", crew["organization"]["id"].as_str().unwrap())),
        ("1 pending roles for contacts", format!("enroll/{}", waits["enrolls"][0]["id"].as_str().unwrap())),
        ("1 invitations", format!("invitation/{}", invited["invitation"]["id"].as_str().unwrap())),
        ("1 permits", "grant/p".to_owned()),
        ("1 sessions", "tokens".to_owned()),
    ];
    for (what, way_out) in &ways_out {
        let (status, told) = delete(&admin, &id).await;
        assert!(status == 409 && told.contains(what) && told.contains(HOST), "{told}");
        assert_eq!(told.contains("1 organizations"), way_out.starts_with("organization"), "{told}");
        call("DELETE", &format!("/user-svc/{way_out}"), &there, Value::Null).await;
    }
    assert_eq!((delete(&admin, &id).await.0, delete(&admin, &id).await.0), (200, 404));
    assert_eq!(register(&daemon, "eve", HOST).await.status, 404);
    assert_ne!(make_app(&daemon, &admin, HOST).await, id, "the host is free");
    let entry = call("POST", "/user-svc/audit", &admin, json!({ "operation": "deleteApp", "target": id })).await;
    assert!(entry["entries"].as_array().unwrap().iter().any(|entry| entry["outcome"] == "done"), "{entry}");
}

#[tokio::test]
async fn the_policies_of_an_app_go_with_it() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let id = make_app(&daemon, &admin, HOST).await;
    let login = json!({ "slug": "openorch", "password": "changeme", "device": "test", "appHost": HOST });
    let there = token_of(&daemon.call("POST", "/user-svc/login", "", login).await);
    let blocklist = json!({ "blocklist": { "blockedIPs": ["198.51.100.77"] } });
    let policy = json!({ "templateId": "blocklist", "parameters": blocklist });
    let saved = daemon.call("PUT", "/policy-svc/instance/p", &there, json!({ "instance": policy })).await;
    assert_eq!(saved.status, 200, "{}", saved.text);
    let is_stored = async || {
        let backup = daemon.send_for_bytes("/platform-svc/backup", &admin).await;
        backup.windows(13).any(|bytes| bytes == b"198.51.100.77")
    };
    assert!(is_stored().await);
    let told = daemon.call("DELETE", &format!("/user-svc/app/{id}"), &admin, Value::Null).await;
    assert!(told.status == 409 && told.text.contains("1 policies"), "{}", told.text);
    let gone = daemon.call("DELETE", &format!("/user-svc/app/{id}?cascade=true"), &admin, Value::Null).await;
    assert_eq!(gone.status, 200, "{}", gone.text);
    assert!(!is_stored().await);
}

#[tokio::test]
async fn who_comes_into_an_app_while_it_goes_is_in_it_or_it_is_gone() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    for n in 0..10 {
        let host = format!("shop-{n}.example.com");
        let path = format!("/user-svc/app/{}", make_app(&daemon, &admin, &host).await);
        let slug = format!("ann-{n}");
        let (deleted, came) =
            tokio::join!(daemon.call("DELETE", &path, &admin, Value::Null), register(&daemon, &slug, &host));
        let outcome = (deleted.status.as_u16(), came.status.as_u16());
        assert!([(200, 404), (409, 200)].contains(&outcome), "{outcome:?}: {} {}", deleted.text, came.text);
    }
}

#[tokio::test]
async fn roles_permits_and_organizations_of_an_app_count_in_it_alone() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let id = make_app(&daemon, &admin, HOST).await;
    let shopper = register(&daemon, "ann", HOST).await;
    assert_eq!(shopper.json()["token"]["appId"], json!(id));
    let there = token_of(&shopper);
    assert_eq!(
        (&claims(&there)["app"], &read_self(&daemon, &there).await["roles"]),
        (&json!(id), &json!(["user-svc:user"]))
    );
    // Everybody may sign in to the default app, but has few rights there without a role.
    let here = token_of(&login(&daemon, "ann", "").await);
    assert_eq!((&claims(&here)["app"], &read_self(&daemon, &here).await["roles"]), (&Value::Null, &json!([])));
    let founding = json!({ "slug": "crew", "name": "Crew" });
    let found = async |token: &str| daemon.call("POST", "/user-svc/organization", token, founding.clone()).await;
    assert_eq!(found(&here).await.status, 403);
    let crew = found(&there).await;
    assert_eq!(crew.status, 200, "{}", crew.text);
    assert_eq!(found(&admin).await.status, 200, "its slug is free in another app");
    assert_eq!(read_self(&daemon, &there).await["organizations"].as_array().unwrap().len(), 1);
    assert!(read_self(&daemon, &here).await["organizations"].is_null());
    let bob = daemon.register("bob").await;
    let members = format!("/user-svc/organization/{}/users", crew.json()["organization"]["id"].as_str().unwrap());
    assert_eq!(
        daemon.call("GET", &members, &bob, Value::Null).await.status,
        404,
        "indistinguishable from a missing one"
    );

    // A service chooses the app in which its permit and its role assignment apply.
    let shop = daemon.register("shop-svc").await;
    let permissions = json!({ "permissions": [{ "id": "shop-svc:order:view" }, { "id": "shop-svc:order:edit" }] });
    assert_eq!(daemon.call("PUT", "/user-svc/permissions", &shop, permissions).await.status, 200);
    let permit =
        |host: &str| json!({ "permits": [{ "permission": "shop-svc:order:view", "slugs": ["ann"], "appHost": host }] });
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &shop, permit(HOST)).await.status, 200);
    assert!(
        has_permission(&daemon, &there, "shop-svc:order:view").await
            && !has_permission(&daemon, &here, "shop-svc:order:view").await
    );
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &shop, permit("*")).await.status, 403);
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &shop, permit("none.example.com")).await.status, 404);
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit("*")).await.status, 200);
    assert!(has_permission(&daemon, &here, "shop-svc:order:view").await);

    let role = json!({ "id": "shop-svc:clerk", "name": "Clerk", "permissionIds": ["shop-svc:order:edit"] });
    assert_eq!(daemon.call("POST", "/user-svc/role", &shop, role).await.status, 200);
    let ann = read_self(&daemon, &there).await["user"]["id"].clone();
    let given = enroll(&daemon, &shop, &ann, "shop-svc:clerk", HOST).await;
    assert_eq!(given.json()["enrolls"][0]["appId"], json!(id), "{}", given.text);
    assert!(
        has_permission(&daemon, &there, "shop-svc:order:edit").await
            && !has_permission(&daemon, &here, "shop-svc:order:edit").await
    );
    assert_eq!(enroll(&daemon, &shop, &ann, "shop-svc:clerk", "*").await.status, 403, "only admins may");
    assert_eq!(enroll(&daemon, &admin, &ann, "shop-svc:clerk", "*").await.status, 200);
    assert!(has_permission(&daemon, &here, "shop-svc:order:edit").await);
    // A platform admin is an admin in every app.
    assert_eq!(enroll(&daemon, &admin, &ann, "user-svc:admin", HOST).await.status, 200);
    assert!(read_self(&daemon, &here).await["roles"].as_array().unwrap().contains(&json!("user-svc:admin")));
}

#[tokio::test]
async fn w22_no_token_for_any_app_and_no_app_by_naming_one() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let (ann, other) = (daemon.register("ann").await, "other.example.com");
    let naming = [
        register(&daemon, "eve", other).await,
        login(&daemon, "ann", other).await,
        exchange(&daemon, &ann, json!({ "newAppHost": other })).await,
        exchange(&daemon, &ann, json!({ "newAppId": "app_none" })).await,
        daemon.call("POST", "/user-svc/app", &admin, json!({ "host": other })).await,
        enroll(&daemon, &admin, &read_self(&daemon, &ann).await["user"]["id"], "user-svc:user", other).await,
    ];
    for answer in naming {
        assert_eq!(answer.status, 404, "{}", answer.text);
    }
    let apps = daemon.call("POST", "/user-svc/apps", &admin, Value::Null).await.json();
    assert_eq!(apps["apps"].as_array().unwrap().len(), 2, "naming an app does not create it: {apps}");
    assert_eq!(daemon.call("PUT", "/user-svc/app", &ann, json!({ "newHost": other })).await.status, 403);

    // Without a role there, no token for it.
    assert_eq!(exchange(&daemon, &ann, json!({ "newAppHost": HOST })).await.status, 403);
    assert_eq!(login(&daemon, "ann", HOST).await.status, 403);
    for body in
        [json!({}), json!({ "newAppHost": HOST, "newAppId": "unnamed" }), json!({ "newDevice": "x".repeat(200) })]
    {
        assert_eq!(exchange(&daemon, &ann, body.clone()).await.status, 400, "{body}");
    }
    // Nor without a token, or with a forged one.
    for token in ["", "eyJhbGciOiJub25lIn0.e30."] {
        assert_eq!(exchange(&daemon, token, json!({ "newAppHost": HOST })).await.status, 401);
    }
    assert_eq!(read_self(&daemon, &ann).await["user"]["slug"], json!("ann"), "nothing changed");
}

#[tokio::test]
async fn an_exchanged_token_ends_with_the_one_it_came_from() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let id = make_app(&daemon, &admin, HOST).await;
    daemon.register("ann").await;
    let here = token_of(&daemon.login("ann", "pass", "laptop").await);
    let ann = read_self(&daemon, &here).await["user"]["id"].clone();
    assert_eq!(enroll(&daemon, &admin, &ann, "user-svc:user", HOST).await.status, 200);
    let answer = exchange(&daemon, &here, json!({ "newAppHost": HOST })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.json()["token"]["appId"], &answer.json()["token"]["device"]),
        (&json!(id), &json!("laptop (from unnamed)"))
    );
    let there = token_of(&answer);
    let again = exchange(&daemon, &here, json!({ "newAppId": id })).await;
    assert_eq!(again.json()["token"]["id"], answer.json()["token"]["id"], "the same session again");
    assert_eq!(
        exchange(&daemon, &there, json!({ "newDevice": "more" })).await.status,
        403,
        "exchanges cannot be chained"
    );
    // A session from a sign-in cannot be obtained or replaced by an exchange.
    let signed_in = token_of(&login(&daemon, "ann", HOST).await);
    let onto = json!({ "newAppHost": HOST, "newDevice": "test" });
    assert_eq!(exchange(&daemon, &here, onto).await.status, 409);
    // A sign-in to the device of an exchanged session gets a new session.
    let body = json!({ "slug": "ann", "password": "pass", "device": "laptop (from unnamed)", "appHost": HOST });
    let own_one = token_of(&daemon.call("POST", "/user-svc/login", "", body).await);
    let status = async |token: &str| daemon.call("POST", "/user-svc/self", token, Value::Null).await.status.as_u16();
    assert_eq!((status(&there).await, status(&own_one).await), (401, 200));
    let named = exchange(&daemon, &here, json!({ "newAppHost": HOST, "newDevice": "phone" })).await;
    let there = token_of(&named);
    assert_eq!(status(&there).await, 200);
    let ended = daemon.call("DELETE", "/user-svc/tokens", &here, Value::Null).await;
    assert_eq!(ended.status, 200);
    assert_eq!((status(&here).await, status(&there).await, status(&signed_in).await), (401, 401, 200));
    let sessions = daemon.call("GET", "/user-svc/sessions", &signed_in, Value::Null).await.json();
    let devices: Vec<&Value> = sessions["sessions"].as_array().unwrap().iter().map(|row| &row["device"]).collect();
    assert!(!devices.contains(&&json!("phone")), "{devices:?}");
}

#[tokio::test]
async fn nobody_is_let_into_an_app_by_a_role_of_its_own_nor_stays_in_it_without_one() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let eve = daemon.register("eve").await;
    let id = read_self(&daemon, &eve).await["user"]["id"].clone();
    let role = json!({ "id": "eve:key", "name": "Key" });
    assert_eq!(daemon.call("POST", "/user-svc/role", &eve, role).await.status, 200);
    assert_eq!(enroll(&daemon, &eve, &id, "eve:key", HOST).await.status, 200);
    assert_eq!(login(&daemon, "eve", HOST).await.status, 403);
    assert_eq!(exchange(&daemon, &eve, json!({ "newAppHost": HOST })).await.status, 403);

    let given = enroll(&daemon, &admin, &id, "user-svc:user", HOST).await.json();
    let there = token_of(&login(&daemon, "eve", HOST).await);
    let path = format!("/user-svc/enroll/{}", given["enrolls"][0]["id"].as_str().unwrap());
    assert_eq!(daemon.call("DELETE", &path, &admin, Value::Null).await.status, 200);
    for path in ["/user-svc/self", "/user-svc/refresh-token"] {
        assert_eq!(daemon.call("POST", path, &there, Value::Null).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn who_may_make_accounts_in_an_app_makes_no_admins_and_takes_none_over() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let help = token_of(&register(&daemon, "help", HOST).await);
    for permission in ["user-svc:user:create", "user-svc:user:passwordReset", "user-svc:user:delete"] {
        let permit = json!({ "permits": [{ "permission": permission, "slugs": ["help"], "appHost": HOST }] });
        assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit).await.status, 200);
    }
    let made = async |slug: &str, role: &str, host: &str| {
        let user = json!({ "slug": slug, "name": slug });
        let body = json!({ "user": user, "password": "pass", "roleIds": [role], "appHost": host });
        daemon.call("POST", "/user-svc/user", &help, body).await.status.as_u16()
    };
    assert_eq!(made("front", "user-svc:user", "").await, 200);
    // It may assign its own role in each app, but that does not let anyone into the app.
    make_app(&daemon, &admin, "other.example.com").await;
    let key = json!({ "id": "help:key", "name": "Key" });
    assert_eq!(daemon.call("POST", "/user-svc/role", &help, key).await.status, 200);
    assert_eq!((made("spy", "help:key", "other.example.com").await, made("aide", "help:key", "").await), (200, 200));
    assert_eq!(login(&daemon, "spy", "other.example.com").await.status, 403);
    assert_eq!(login(&daemon, "aide", HOST).await.status, 200);
    assert_eq!((made("back", "user-svc:admin", "").await, made("side", "user-svc:user", "unnamed").await), (403, 403));
    let invitation = json!({ "roleIds": ["user-svc:admin"] });
    assert_eq!(daemon.call("POST", "/user-svc/invitation", &help, invitation).await.status, 403);
    let boss = read_self(&daemon, &admin).await["user"]["id"].as_str().unwrap().to_owned();
    let password = json!({ "newPassword": "taken over" });
    let reset = daemon.call("POST", &format!("/user-svc/{boss}/reset-password"), &help, password).await;
    assert_eq!((reset.status.as_u16(), daemon.login("openorch", "changeme", "").await.status.as_u16()), (403, 200));
    let deleted = daemon.call("DELETE", &format!("/user-svc/user/{boss}"), &help, Value::Null).await;
    assert_eq!(deleted.status, 403);
}

#[tokio::test]
async fn a_stolen_token_cannot_be_multiplied_beyond_what_one_call_ends() {
    let daemon = Daemon::start().await;
    daemon.register("ann").await;
    let stolen = token_of(&daemon.login("ann", "pass", "laptop").await);
    for number in 0..100 {
        let answer = exchange(&daemon, &stolen, json!({ "newDevice": format!("d{number}") })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(exchange(&daemon, &stolen, json!({ "newDevice": "one more" })).await.status, 409);
    assert_eq!(exchange(&daemon, &stolen, json!({ "newDevice": "d7" })).await.status, 200, "an existing one");
    let ann = token_of(&daemon.login("ann", "pass", "phone").await);
    let sessions = async || {
        let listed = daemon.call("GET", "/user-svc/sessions", &ann, Value::Null).await.json();
        listed["sessions"].as_array().unwrap().len()
    };
    assert_eq!(sessions().await, 103);
    let ended = daemon.call("DELETE", "/user-svc/tokens", &ann, json!({ "device": "laptop" })).await;
    assert_eq!((ended.status.as_u16(), sessions().await), (200, 2));
}

#[tokio::test]
async fn who_manages_accounts_of_one_app_reaches_none_of_another_and_comes_to_no_more_by_it() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    make_app(&daemon, &admin, "other.example.com").await;
    let (desk, help) = (daemon.register("desk").await, token_of(&register(&daemon, "help", HOST).await));
    for permission in
        ["user-svc:user:passwordReset", "user-svc:user:edit", "user-svc:user:delete", "user-svc:token:revoke"]
    {
        let permit = json!({ "permits": [{ "permission": permission, "slugs": ["help"], "appHost": HOST }] });
        assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit).await.status, 200);
        let grant = json!({ "grants": [{ "permissionId": permission, "slugs": ["desk"] }] });
        assert_eq!(daemon.call("PUT", "/user-svc/grants", &admin, grant).await.status, 200);
    }
    let mut ids = Vec::new();
    for (slug, host) in [("near", HOST), ("mighty", HOST), ("both", HOST), ("far", "other.example.com")] {
        let token = token_of(&register(&daemon, slug, host).await);
        ids.push(claims(&token)["oui"].clone());
    }
    let role = enroll(&daemon, &admin, &ids[2], "user-svc:user", "other.example.com").await;
    assert_eq!(role.status, 200, "{}", role.text);
    let grant = json!({ "grants": [{ "permissionId": "user-svc:grant:create", "slugs": ["mighty"] }] });
    assert_eq!(daemon.call("PUT", "/user-svc/grants", &admin, grant).await.status, 200);
    let [near, mighty, both, far] = [0, 1, 2, 3].map(|at: usize| ids[at].as_str().unwrap());
    let status = async |token: &str, method: &str, path: String, body: Value| {
        daemon.call(method, &path, token, body).await.status.as_u16()
    };
    let reset = async |token: &str, id: &str| {
        status(token, "POST", format!("/user-svc/{id}/reset-password"), json!({ "newPassword": "pass" })).await
    };
    let edit = async |token: &str, id: &str| {
        status(token, "PUT", format!("/user-svc/user/{id}"), json!({ "name": "Renamed" })).await
    };
    let sessions = async |token: &str, id: &str| {
        let listed = daemon.call("GET", &format!("/user-svc/sessions?userId={id}"), token, Value::Null).await;
        listed.json()["sessions"].as_array().unwrap().len()
    };
    assert_eq!((sessions(&help, far).await, sessions(&desk, far).await), (0, 1));
    let ended = json!({ "userId": far, "allTokens": true });
    assert_eq!(
        status(&help, "DELETE", "/user-svc/tokens".into(), ended).await,
        200,
        "it ends none, because it may not"
    );
    assert_eq!(sessions(&desk, far).await, 1);
    assert_eq!((reset(&help, near).await, edit(&help, near).await), (200, 200));
    for id in [both, far] {
        assert_eq!((reset(&help, id).await, edit(&help, id).await), (403, 403), "{id}");
        assert_eq!(status(&help, "DELETE", format!("/user-svc/user/{id}"), Value::Null).await, 403, "{id}");
        assert_eq!((reset(&desk, id).await, edit(&desk, id).await), (200, 200), "a right in all apps: {id}");
    }
    assert_eq!((reset(&help, mighty).await, reset(&desk, mighty).await, edit(&desk, mighty).await), (403, 403, 200));
    assert_eq!((reset(&admin, mighty).await, sessions(&admin, mighty).await), (200, 0));
}

#[tokio::test]
async fn who_may_save_grants_in_one_app_gives_nothing_in_another() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let there = token_of(&register(&daemon, "help", HOST).await);
    let permit = json!({ "permits": [{ "permission": "user-svc:grant:create", "slugs": ["help"], "appHost": HOST }] });
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit).await.status, 200);
    let here = token_of(&login(&daemon, "help", "").await);
    let view = "user-svc:organization:view";
    let grant = json!({ "grants": [{ "permissionId": view, "slugs": ["help"] }] });
    assert_eq!(daemon.call("PUT", "/user-svc/grants", &here, grant.clone()).await.status, 403);
    assert_eq!(daemon.call("PUT", "/user-svc/grants", &there, grant.clone()).await.status, 200);
    assert_eq!(
        (has_permission(&daemon, &there, view).await, has_permission(&daemon, &here, view).await),
        (true, false)
    );
    // An admin's grant applies in all apps.
    assert_eq!(daemon.call("PUT", "/user-svc/grants", &admin, grant).await.status, 200);
    assert!(has_permission(&daemon, &here, view).await);
}

#[tokio::test]
async fn who_may_something_in_one_app_is_not_let_at_what_is_of_all_of_them() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let there = token_of(&register(&daemon, "help", HOST).await);
    let list = async |token: &str| daemon.call("POST", "/user-svc/users", token, json!({})).await.status.as_u16();
    let permit =
        |app: &str| json!({ "permits": [{ "permission": "user-svc:user:view", "slugs": ["help"], "appHost": app }] });
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit(HOST)).await.status, 200);
    assert_eq!((list(&there).await, has_permission(&daemon, &there, "user-svc:user:view").await), (403, false));
    // Its rights in the default app, or in all apps, apply here too.
    assert_eq!(daemon.call("PUT", "/user-svc/permits", &admin, permit("unnamed")).await.status, 200);
    assert_eq!((list(&there).await, has_permission(&daemon, &there, "user-svc:user:view").await), (200, true));
}
