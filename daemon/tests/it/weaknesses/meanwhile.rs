//! Changes while a call is in progress: a call writes nothing after its caller has lost the right, the session or the
//! account.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    apps::enroll,
    support::{Answer, Daemon, id_of, status, token_of},
};

const ADMIN: &str = "user-svc:admin";

async fn roles_of(daemon: &Daemon, token: &str) -> Vec<Value> {
    let own = daemon.call("POST", "/user-svc/self", token, Value::Null).await.json();
    own["roles"].as_array().cloned().unwrap_or_default()
}

/// A daemon whose password-hash queue is busy for a while, so that further calls wait in it.
async fn with_busy_hash_queue(setup: impl AsyncFnOnce(&Daemon)) -> (Arc<Daemon>, JoinSet<()>) {
    let daemon =
        Daemon::with_flags(&["--user-password-hash-max-wait", "10m", "--user-password-hash-concurrency", "1"]).await;
    daemon.register("many-svc").await;
    setup(&daemon).await;
    let (daemon, mut sign_ins) = (Arc::new(daemon), JoinSet::new());
    for n in 0..60 {
        let daemon = daemon.clone();
        sign_ins.spawn(async move { drop(daemon.login("many-svc", "pass", &format!("device {n}")).await) });
    }
    // After the first answer the others are in the queue.
    sign_ins.join_next().await;
    (daemon, sign_ins)
}

#[tokio::test]
async fn w84_who_is_no_admin_any_more_when_its_password_is_hashed_makes_no_admin_and_resets_no_password() {
    let tokens = std::sync::OnceLock::new();
    let (daemon, sign_ins) = with_busy_hash_queue(async |daemon| {
        let admin = daemon.admin().await;
        let second = daemon.register("second").await;
        assert_eq!(enroll(daemon, &admin, &json!(id_of(&second)), ADMIN, "").await.status, 200);
        let helper = daemon.register("helper").await;
        let permit = json!({ "permits": [{ "permission": "user-svc:user:passwordReset", "slugs": ["helper"] }] });
        assert_eq!(status(daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
        let rising = id_of(&daemon.register("rising").await);
        tokens.set((admin, second, helper, rising)).unwrap();
    })
    .await;
    let (admin, second, helper, rising) = tokens.get().unwrap();
    let ghost = json!({ "user": { "slug": "ghost", "name": "G" }, "password": "pass", "roleIds": [ADMIN] });
    let reset = json!({ "newPassword": "stolen" });
    let mut waiting = JoinSet::new();
    for (token, path, body) in [
        (second, "/user-svc/user".to_owned(), ghost),
        (second, format!("/user-svc/{}/reset-password", id_of(admin)), reset.clone()),
        (helper, format!("/user-svc/{rising}/reset-password"), reset),
    ] {
        let (daemon, token) = (daemon.clone(), token.clone());
        waiting.spawn(async move { daemon.call("POST", &path, &token, body).await.status.as_u16() });
    }
    // Each call is authorized before this, and waits for its hash.
    for _ in 0..3 {
        assert_eq!(status(&daemon, "POST", "/user-svc/self", second, Value::Null).await, 200);
    }
    let path = format!("/user-svc/enroll/unnamed:{}:{ADMIN}", id_of(second));
    assert_eq!(status(&daemon, "DELETE", &path, admin, Value::Null).await, 200);
    assert_eq!(enroll(&daemon, admin, &json!(rising), ADMIN, "").await.status, 200);
    let statuses = waiting.join_all().await;
    assert_eq!(statuses, [403, 403, 403], "{statuses:?}");
    drop(sign_ins);
    assert_eq!(daemon.login("ghost", "pass", "").await.status, 400);
    assert_eq!(daemon.login("openorch", "stolen", "").await.status, 401);
    assert_eq!(daemon.login("rising", "stolen", "").await.status, 401);
}

#[tokio::test]
async fn w85_a_call_whose_session_ends_before_it_writes_writes_nothing() {
    let tokens = std::sync::OnceLock::new();
    let (daemon, sign_ins) = with_busy_hash_queue(async |daemon| {
        let admin = daemon.admin().await;
        let thief = daemon.admin().await;
        let own = token_of(&daemon.login("openorch", "changeme", "own").await);
        assert_eq!(admin, thief, "the same session");
        tokens.set((thief, own)).unwrap();
    })
    .await;
    let (thief, own) = tokens.get().unwrap();
    let mut waiting = JoinSet::new();
    let ghost = json!({ "user": { "slug": "ghost", "name": "G" }, "password": "pass", "roleIds": [ADMIN] });
    let change = json!({ "currentPassword": "changeme", "newPassword": "stolen" });
    for (path, body) in [("/user-svc/user", ghost), ("/user-svc/change-password", change)] {
        let (daemon, token) = (daemon.clone(), thief.clone());
        waiting.spawn(async move { daemon.call("POST", path, &token, body).await.status.as_u16() });
    }
    for _ in 0..3 {
        assert_eq!(status(&daemon, "POST", "/user-svc/self", thief, Value::Null).await, 200);
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", own, json!({ "device": "test" })).await, 200);
    assert_eq!(status(&daemon, "POST", "/user-svc/self", thief, Value::Null).await, 401);
    let statuses = waiting.join_all().await;
    assert_eq!(statuses, [401, 401], "{statuses:?}");
    drop(sign_ins);
    assert_eq!(daemon.login("ghost", "pass", "").await.status, 400);
    assert_eq!(daemon.login("openorch", "stolen", "").await.status, 401);
    assert_eq!(daemon.login("openorch", "changeme", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w86_no_role_outlives_an_account_that_is_deleted_while_it_is_given_one() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    assert_eq!(
        status(&daemon, "POST", "/user-svc/role", &admin, json!({ "id": "openorch:x", "name": "X" })).await,
        200
    );
    for round in 0..8 {
        let account = daemon.register(&format!("gone-{round}")).await;
        let id = id_of(&account);
        let give = async || {
            for n in 0..8 {
                enroll(&daemon, &admin, &json!(id), if n % 2 == 0 { ADMIN } else { "openorch:x" }, "").await;
            }
        };
        let found = async || {
            for n in 0..3 {
                let body = json!({ "id": format!("org_{round}_{n}") });
                daemon.call("POST", "/user-svc/organization", &account, body).await;
            }
        };
        let path = format!("/user-svc/user/{id}");
        let delete = status(&daemon, "DELETE", &path, &admin, Value::Null);
        let (_, deleted, ..) = tokio::join!(give(), delete, found(), give());
        assert_eq!(deleted, 200);
        let left = daemon.call("POST", "/user-svc/enrolls", &admin, json!({ "userId": id })).await;
        assert!(left.json()["enrolls"].as_array().is_none_or(Vec::is_empty), "round {round}: {}", left.text);
        let organizations = daemon.call("POST", "/user-svc/organizations", &admin, json!({})).await.json();
        let of_round = format!("org_{round}_");
        let left: Vec<&Value> = organizations["organizations"].as_array().into_iter().flatten().collect();
        assert!(left.iter().all(|row| !row["id"].as_str().unwrap().starts_with(&of_round)), "{left:?}");
    }
    let path = format!("/user-svc/enroll/unnamed:{}:{ADMIN}", id_of(&admin));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 409, "it is the last admin");
}

#[tokio::test]
async fn w87_the_id_of_a_deleted_account_is_not_given_again() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let id = id_of(&daemon.register("gone").await);
    let user = |id: &str, slug: &str| json!({ "user": { "id": id, "slug": slug, "name": "N" }, "password": "pass" });
    let create = async |id: &str, slug: &str| daemon.call("POST", "/user-svc/user", &admin, user(id, slug)).await;
    assert_eq!(create(&id, "other").await.status, 409, "the id exists");
    assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{id}"), &admin, Value::Null).await, 200);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/slug/gone", &admin, Value::Null).await, 200);
    for slug in ["phoenix", "gone"] {
        let refused = create(&id, slug).await;
        assert!(refused.status == 409 && refused.error().contains(&id), "{}", refused.text);
    }
    let made = create("usr_chosen", "gone").await;
    assert_eq!(made.status, 200, "{}", made.text);
    let token = token_of(&daemon.login("gone", "pass", "").await);
    assert_eq!(roles_of(&daemon, &token).await, [json!("user-svc:user")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w99_a_long_list_of_roles_is_not_given_by_who_may_give_them_no_more_when_it_is_written() {
    let daemon = Daemon::start().await;
    let (shop, bob, mole) =
        (daemon.register("shop").await, daemon.register("bob").await, daemon.register("mole").await);
    for role in ["shop:admin", "shop:vip"] {
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, json!({ "id": role, "name": "R" })).await, 200);
    }
    assert_eq!(enroll(&daemon, &shop, &json!(id_of(&bob)), "shop:admin", "").await.status, 200);
    let mut enrolls: Vec<Value> =
        (0..999).map(|n| json!({ "contactId": format!("c{n}@example.org"), "role": "shop:vip" })).collect();
    enrolls.push(json!({ "userId": id_of(&mole), "role": "shop:vip" }));
    let body = json!({ "enrolls": enrolls });
    let take = async || {
        for _ in 0..3 {
            assert_eq!(status(&daemon, "POST", "/user-svc/self", &bob, Value::Null).await, 200);
        }
        let path = format!("/user-svc/enroll/unnamed:{}:shop:admin", id_of(&bob));
        status(&daemon, "DELETE", &path, &shop, Value::Null).await
    };
    let (given, taken) = tokio::join!(daemon.call("PUT", "/user-svc/enrolls", &bob, body), take());
    assert_eq!((given.status.as_u16(), taken), (403, 200), "{}", given.text);
    assert_eq!(roles_of(&daemon, &mole).await, [json!("user-svc:user")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w138_who_was_put_out_of_an_organization_makes_no_more_admins_of_it() {
    let daemon = Arc::new(Daemon::start().await);
    let (founder, other) = (daemon.register("founder").await, daemon.register("other").await);
    let mut members = Vec::new();
    for n in 0..30 {
        members.push(id_of(&daemon.register(&format!("member-{n}")).await));
    }
    for round in 0..4 {
        let organization = format!("org_{round}");
        let path = |user: &str| format!("/user-svc/organization/{organization}/user/{user}");
        let founded = json!({ "id": organization });
        assert_eq!(status(&daemon, "POST", "/user-svc/organization", &founder, founded).await, 200);
        let admin = json!({ "role": "admin" });
        assert_eq!(status(&daemon, "PUT", &path(&id_of(&other)), &founder, admin.clone()).await, 200);
        let mut giving = JoinSet::new();
        for member in &members {
            let (daemon, token, path, admin) = (daemon.clone(), other.clone(), path(member), admin.clone());
            giving.spawn(async move { status(&daemon, "PUT", &path, &token, admin).await });
        }
        giving.join_next().await;
        assert_eq!(status(&daemon, "DELETE", &path(&id_of(&other)), &founder, Value::Null).await, 200);
        let list = format!("/user-svc/organization/{organization}/users");
        let count =
            async || daemon.call("GET", &list, &founder, Value::Null).await.json()["members"].as_array().unwrap().len();
        let before = count().await;
        let statuses = giving.join_all().await;
        assert_eq!(count().await, before, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w139_who_has_a_right_no_more_writes_nothing_more_by_it() {
    let daemon = Arc::new(Daemon::start().await);
    let (admin, narrow) = (daemon.admin().await, daemon.register("narrow").await);
    let listed = async || {
        let delegations = daemon.call("GET", "/user-svc/delegations", &admin, Value::Null).await.json();
        delegations["delegations"].as_array().map_or(0, Vec::len)
    };
    let role = json!({ "id": "openorch:delegator", "name": "D", "permissionIds": ["user-svc:delegation:edit"] });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &admin, role).await, 200);
    let role_path = format!("/user-svc/enroll/unnamed:{}:openorch:delegator", id_of(&narrow));
    for (round, by_role) in [(0, false), (1, true), (2, false), (3, true)] {
        let taken = match by_role {
            false => {
                let grant = json!({ "id": "g", "permissionId": "user-svc:delegation:edit", "slugs": ["narrow"] });
                assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, json!({ "grants": [grant] })).await, 200);
                "/user-svc/grant/g"
            }
            true => {
                assert_eq!(enroll(&daemon, &admin, &json!(id_of(&narrow)), "openorch:delegator", "").await.status, 200);
                &role_path
            }
        };
        let mut writing = JoinSet::new();
        for n in 0..60 {
            let (daemon, token) = (daemon.clone(), narrow.clone());
            let delegation = json!({ "slug": format!("svc-{round}-{n}"), "operations": ["readSelf"] });
            writing.spawn(async move { status(&daemon, "PUT", "/user-svc/delegation", &token, delegation).await });
        }
        writing.join_next().await;
        assert_eq!(status(&daemon, "DELETE", taken, &admin, Value::Null).await, 200);
        let before = listed().await;
        let statuses = writing.join_all().await;
        // Access rules change one at a time: one change may be stored but not yet listed.
        assert!(listed().await <= before + 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    }
}

/// Has `narrow` make 60 calls, revokes its right through `taken` after the first one, and checks that `count` does not
/// change after the revocation.
async fn assert_no_writes_after_revocation<C: AsyncFn() -> usize>(
    daemon: &Arc<Daemon>,
    narrow: &str,
    calls: impl Iterator<Item = (&'static str, String, Value)>,
    taken: &str,
    count: C,
) {
    let mut writing = JoinSet::new();
    for (method, path, body) in calls {
        let (daemon, token) = (daemon.clone(), narrow.to_owned());
        writing.spawn(async move { status(&daemon, method, &path, &token, body).await });
    }
    writing.join_next().await;
    assert_eq!(status(daemon, "DELETE", taken, &daemon.admin().await, Value::Null).await, 200);
    let before = count().await;
    let statuses = writing.join_all().await;
    // Access rules change one at a time: one change may be stored but not yet listed.
    assert!(count().await.abs_diff(before) <= 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403, 404].contains(status)), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w144_who_lost_a_right_beside_the_one_that_let_it_in_writes_nothing_more_by_that() {
    let daemon = Arc::new(Daemon::start().await);
    let (admin, narrow) = (daemon.admin().await, daemon.register("narrow").await);
    // Grants for all apps, by an account that may also save them in one app.
    let permit = |id: &str, permission: &str, app: &str| json!({ "permits": [{ "id": id, "permission": permission, "slugs": ["narrow"], "appHost": app }] });
    for (id, app) in [("here", "unnamed"), ("everywhere", "*")] {
        let permit = permit(id, "user-svc:grant:create", app);
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
    }
    let grant =
        |n: usize| json!({ "grants": [{ "id": format!("g{n}"), "permissionId": "narrow:p", "slugs": ["mole"] }] });
    let everywhere = async || {
        let listed = daemon.call("POST", "/user-svc/permits", &admin, json!({ "permission": "narrow:p" })).await.json();
        listed["permits"].as_array().into_iter().flatten().filter(|permit| permit["appId"] == "*").count()
    };
    let calls = (0..60).map(|n| ("PUT", "/user-svc/grants".to_owned(), grant(n)));
    assert_no_writes_after_revocation(&daemon, &narrow, calls, "/user-svc/grant/everywhere", everywhere).await;

    // Roles revoked by an account that has the role `admin` of the same service.
    let shop = daemon.register("shop").await;
    for role in ["shop:admin", "shop:vip"] {
        assert_eq!(status(&daemon, "POST", "/user-svc/role", &shop, json!({ "id": role, "name": "R" })).await, 200);
    }
    assert_eq!(enroll(&daemon, &shop, &json!(id_of(&narrow)), "shop:admin", "").await.status, 200);
    let mut members = Vec::new();
    for n in 0..60 {
        let id = id_of(&daemon.register(&format!("member-{n}")).await);
        assert_eq!(enroll(&daemon, &shop, &json!(id), "shop:vip", "").await.status, 200);
        members.push(id);
    }
    let given = async || {
        let listed = daemon.call("POST", "/user-svc/enrolls", &admin, json!({ "role": "shop:vip" })).await.json();
        listed["enrolls"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(given().await, 60);
    let calls = members.iter().map(|id| ("DELETE", format!("/user-svc/enroll/unnamed:{id}:shop:vip"), Value::Null));
    let taken = format!("/user-svc/enroll/unnamed:{}:shop:admin", id_of(&narrow));
    assert_no_writes_after_revocation(&daemon, &narrow, calls, &taken, given).await;

    // Sessions of other accounts.
    let permit = permit("ends", "user-svc:token:revoke", "unnamed");
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
    let mut ids = Vec::new();
    for n in 0..60 {
        daemon.login("shop", "pass", &format!("d{n}")).await;
    }
    let sessions = async || {
        let path = format!("/user-svc/sessions?userId={}", id_of(&shop));
        daemon.call("GET", &path, &admin, Value::Null).await.json()["sessions"].as_array().unwrap().clone()
    };
    ids.extend(sessions().await.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
    let calls = ids.iter().map(|id| ("DELETE", format!("/user-svc/session/{id}"), Value::Null));
    let count = async || sessions().await.len();
    assert_no_writes_after_revocation(&daemon, &narrow, calls, "/user-svc/grant/ends", count).await;
}

#[tokio::test]
async fn w166_an_account_with_a_role_that_is_deleted_meanwhile_is_refused_and_not_tried_for_long() {
    let tokens = std::sync::OnceLock::new();
    let (daemon, sign_ins) = with_busy_hash_queue(async |daemon| {
        let admin = daemon.admin().await;
        let role = json!({ "id": "openorch:brief", "name": "B" });
        assert_eq!(status(daemon, "POST", "/user-svc/role", &admin, role).await, 200);
        tokens.set(admin).unwrap();
    })
    .await;
    let admin = tokens.get().unwrap();
    let ghost = json!({ "user": { "slug": "ghost", "name": "G" }, "password": "pass", "roleIds": ["openorch:brief"] });
    let making = tokio::spawn({
        let (daemon, admin) = (daemon.clone(), admin.clone());
        async move { daemon.call("POST", "/user-svc/user", &admin, ghost).await }
    });
    for _ in 0..3 {
        assert_eq!(status(&daemon, "POST", "/user-svc/self", admin, Value::Null).await, 200);
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/role/openorch:brief", admin, Value::Null).await, 200);
    let refused = making.await.unwrap();
    assert!(refused.status == 400 && refused.error().contains("no role"), "{}", refused.text);
    drop(sign_ins);
    assert_eq!(daemon.login("ghost", "pass", "").await.status, 400);
}

async fn calls(daemon: &Daemon, token: &str, calls: Vec<Value>) -> Answer {
    daemon.call("POST", "/platform-svc/calls", token, json!({ "calls": calls })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w174_an_account_with_constant_changes_can_be_deleted() {
    let daemon =
        Daemon::with_flags(&["--api-max-writes-per-account", "1000000", "--api-max-writes-burst", "1000000"]).await;
    let daemon = Arc::new(daemon);
    let (eve, pal, admin) = (daemon.register("eve").await, daemon.register("pal").await, daemon.admin().await);
    // Because of its organizations, the deletion takes longer than the next change of the account.
    for part in 0..10 {
        let found = (0..20).map(
            |n| json!({ "operation": "createOrganization", "input": { "id": format!("org-{part}-{n}"), "name": "O" } }),
        );
        assert_eq!(calls(&daemon, &eve, found.collect()).await.status, 200);
    }
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &pal, json!({ "id": "pal:r", "name": "R" })).await, 200);
    let id = id_of(&eve);
    let give = json!({ "operation": "saveEnrolls", "input": { "enrolls": [{ "userId": id, "role": "pal:r" }] } });
    let take = json!({ "operation": "deleteEnroll", "input": { "enrollId": format!("unnamed:{id}:pal:r") } });
    let names = |name: &str| json!({ "operation": "saveSelf", "input": { "name": name } });
    let mut others = JoinSet::new();
    for (token, pair) in [(&eve, [names("a"), names("b")]), (&eve, [names("c"), names("d")]), (&pal, [give, take])] {
        let (daemon, token) = (daemon.clone(), token.clone());
        let batch: Vec<Value> = pair.iter().cycle().take(20).cloned().collect();
        others.spawn(async move { while calls(&daemon, &token, batch.clone()).await.status != 500 {} });
    }
    let has_begun = async || {
        let own = daemon.call("POST", "/user-svc/self", &eve, Value::Null).await.json();
        own["user"]["name"].as_str().is_some_and(|name| ["a", "b", "c", "d"].contains(&name))
    };
    daemon.until("the account changes", has_begun).await;
    let deleted = daemon.call("DELETE", &format!("/user-svc/user/{id}"), &admin, Value::Null).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    others.shutdown().await;
    assert_eq!(status(&daemon, "POST", "/user-svc/self", &eve, Value::Null).await, 401);
    assert_eq!(enroll(&daemon, &pal, &json!(id), "pal:r", "").await.status, 404);
    let left = daemon.call("POST", "/user-svc/organizations", &admin, json!({})).await;
    assert!(!left.text.contains("org-0-0"), "its organizations are gone: {}", left.text);
}
