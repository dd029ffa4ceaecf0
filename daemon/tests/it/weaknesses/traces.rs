//! Traces of attacks in the audit log, how much one account can write there, and whom guesses lock out.

use serde_json::{Value, json};

use crate::support::{Daemon, Echo, admin_behind_a_proxy, delegated_token, id_of, status, token_of};

async fn audit(daemon: &Daemon, admin: &str, body: Value) -> Vec<Value> {
    let answer = daemon.call("POST", "/user-svc/audit", admin, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn w60_each_target_of_refused_attempts_is_told_also_where_the_permission_was_lacking() {
    let daemon = Daemon::start().await;
    let (eve, admin) = (daemon.register("eve").await, daemon.admin().await);
    for target in ["usr_harmless", "usr_victim"] {
        let path = format!("/user-svc/{target}/reset-password");
        assert_eq!(status(&daemon, "POST", &path, &eve, json!({ "newPassword": "mine" })).await, 403);
        assert_eq!(status(&daemon, "DELETE", &format!("/user-svc/user/{target}"), "", Value::Null).await, 401);
    }
    for slug in ["eve", "openorch"] {
        daemon.login(slug, "guess", "").await;
    }
    for (operation, target, actor) in [
        ("resetPassword", "usr_harmless", "eve"),
        ("resetPassword", "usr_victim", "eve"),
        ("deleteUser", "usr_victim", ""),
        ("login", "eve", ""),
        ("login", "openorch", ""),
    ] {
        let asked = json!({ "operation": operation, "target": target, "outcome": "refused" });
        daemon
            .until(&format!("{operation} {target}"), async || {
                let told = audit(&daemon, &admin, asked.clone()).await;
                told.len() == 1 && told[0]["actorSlug"].as_str().unwrap_or_default() == actor
            })
            .await;
    }
}

#[tokio::test]
async fn w60_a_flood_from_very_many_addresses_hides_no_refusal_of_an_account_or_another_operation() {
    let daemon = Daemon::with_flags(&["--trusted-proxies", "127.0.0.0/8"]).await;
    let (eve, admin) = (daemon.register("eve").await, admin_behind_a_proxy(&daemon).await);
    let refused = json!({ "slug": "nobody", "password": "x" }).to_string().into_bytes();
    let send = async |n: u32| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        daemon.send("POST", "/user-svc/login", "", refused.clone(), &[("x-forwarded-for", &address)]).await.status
    };
    for n in 0..1200 {
        assert_eq!(send(n).await, 400);
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/user/usr_victim", &eve, Value::Null).await, 403);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/user/usr_stranger", "", Value::Null).await, 401);
    let flood = json!({ "operation": "login", "outcome": "refused", "limit": 1000 });
    let all = async || {
        let told = audit(&daemon, &admin, flood.clone()).await;
        let count: u64 = told.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
        let first = told.iter().any(|entry| entry["clientIp"] == "10.0.0.0");
        told.len() < 600 && count == 1200 && first
    };
    daemon.until("all are counted, and the first is recorded", all).await;
    for target in ["usr_victim", "usr_stranger"] {
        let told = audit(&daemon, &admin, json!({ "target": target, "outcome": "refused" })).await;
        assert_eq!((told.len(), &told[0]["count"]), (1, &json!(1)), "{target}");
    }
}

#[tokio::test]
async fn w61_one_account_writes_so_often_and_no_more_and_admins_are_not_held_up() {
    let daemon = Daemon::with_flags(&["--api-max-writes-per-account", "2", "--api-max-writes-burst", "5"]).await;
    let (eve, ann, admin) = (daemon.register("eve").await, daemon.register("ann").await, daemon.admin().await);
    let save = async |token: &str, n: u32| {
        daemon.call("PUT", "/user-svc/self", token, json!({ "name": format!("Name {n}") })).await
    };
    for n in 0..5 {
        assert_eq!(save(&eve, n).await.status, 200);
    }
    let refused = save(&eve, 5).await;
    assert!(
        refused.status == 429 && refused.error().contains("OPENORCH_API_MAX_WRITES_PER_ACCOUNT"),
        "the rate limit applies: {}",
        refused.text
    );
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(status(&daemon, "POST", "/user-svc/self", &eve, Value::Null).await, 200, "reads are not limited");
    assert_eq!(save(&ann, 0).await.status, 200, "other accounts are not affected");
    for n in 0..10 {
        assert_eq!(save(&admin, n).await.status, 200);
    }
    daemon.clock.advance(1);
    let passed = [save(&eve, 6).await, save(&eve, 7).await, save(&eve, 8).await].map(|answer| answer.status.as_u16());
    assert_eq!(passed, [200, 200, 429]);
    // Refused attempts count as well, because they are audited.
    daemon.clock.advance(60);
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(status(&daemon, "DELETE", &format!("/user-svc/user/usr_{n}"), &eve, Value::Null).await);
    }
    assert_eq!(statuses, [403, 403, 403, 403, 403, 429, 429, 429]);
}

#[tokio::test]
async fn w61_a_heartbeat_that_repeats_what_is_there_leaves_no_entry() {
    let daemon = Daemon::start().await;
    let (echo, shop, admin) = (Echo::start().await, daemon.register("shop-svc").await, daemon.admin().await);
    let register = async |heartbeat: u32| {
        let body = json!({ "url": echo.url, "heartbeatSeconds": heartbeat });
        assert_eq!(daemon.put_instance(&shop, body).await.status, 201);
    };
    for _ in 0..50 {
        register(15).await;
    }
    register(20).await;
    // Aggregated entries are written one second later.
    daemon.call("DELETE", "/registry-svc/instance/none", &shop, Value::Null).await;
    let refused = json!({ "operation": "removeInstance" });
    daemon.until("a round of writing", async || !audit(&daemon, &admin, refused.clone()).await.is_empty()).await;
    assert_eq!(audit(&daemon, &admin, json!({ "operation": "registerInstance" })).await.len(), 2, "the two changes");
}

#[tokio::test]
async fn w62_the_audit_log_has_a_bound_and_says_what_went() {
    let daemon = Daemon::with_flags(&["--audit-max-entries", "40"]).await;
    let (eve, admin) = (daemon.register("eve").await, daemon.admin().await);
    let trimmed = json!({ "operation": "auditLogTrimmed" });
    let all = json!({ "limit": 1000 });
    let mut removed = 0;
    for round in 0..3 {
        for n in 0..50 {
            daemon.clock.advance(1);
            daemon.call("PUT", "/user-svc/self", &eve, json!({ "name": format!("Eve {round} {n}") })).await;
        }
        daemon.until("the log is trimmed", async || audit(&daemon, &admin, all.clone()).await.len() <= 41).await;
        let told = audit(&daemon, &admin, trimmed.clone()).await;
        assert_eq!(told.len(), 1, "{told:?}");
        let now = told[0]["count"].as_u64().unwrap();
        assert!(now >= removed + 10, "{told:?}");
        assert!(told[0]["target"].as_str().unwrap().starts_with("entries up to 20"), "{told:?}");
        removed = now;
    }
    let left = audit(&daemon, &admin, all).await;
    assert!(left.iter().filter(|entry| entry["operation"] == "saveSelf").count() >= 35, "the newest stay: {left:?}");
}

#[tokio::test]
async fn w63_a_stranger_who_guesses_shuts_nobody_out_of_its_usual_address_even_after_a_restart() {
    let flags = ["--trusted-proxies", "127.0.0.0/8"];
    let mut daemon = Daemon::with_flags(&flags).await;
    // Strong enough for a sign-in over the network.
    let right = "correct horse battery";
    let registered = daemon.call("POST", "/user-svc/register", "", json!({ "slug": "ann", "password": right })).await;
    assert_eq!(registered.status, 200, "{}", registered.text);
    admin_behind_a_proxy(&daemon).await;
    let login = async |daemon: &Daemon, from: &str, password: &str| {
        let body = json!({ "slug": "ann", "password": password }).to_string().into_bytes();
        daemon.send("POST", "/user-svc/login", "", body, &[("x-forwarded-for", from)]).await
    };
    let home = "203.0.113.7";
    let ann = token_of(&login(&daemon, home, right).await);
    daemon.restart(&flags).await;
    for n in 0..25 {
        login(&daemon, &format!("198.51.100.{n}"), "guess").await;
    }
    assert_eq!(
        login(&daemon, "192.0.2.9", right).await.status,
        429,
        "from elsewhere even the right password is throttled"
    );
    assert_eq!(login(&daemon, home, right).await.status, 200);
    // The known address does not circumvent the limit: guesses from there are throttled as before.
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(login(&daemon, home, "guess").await.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
    // Stored addresses are deleted with the account.
    let admin = token_of(&daemon.login("openorch", "another one", "test").await);
    let path = format!("/user-svc/user/{}", id_of(&ann));
    assert_eq!(status(&daemon, "DELETE", &path, &admin, Value::Null).await, 200);
}

#[tokio::test]
async fn w132_what_a_service_does_with_a_delegated_token_is_told_and_counted_as_the_services() {
    let daemon = Daemon::with_flags(&["--api-max-writes-per-account", "2", "--api-max-writes-burst", "5"]).await;
    let (evil, ann, admin) = (daemon.register("evil-svc").await, daemon.register("ann").await, daemon.admin().await);
    let echo = Echo::start().await;
    assert_eq!(daemon.put_instance(&evil, json!({ "url": echo.url })).await.status, 201);
    let delegated = &delegated_token(&daemon, "/evil-svc/x", &ann).await;

    assert_eq!(status(&daemon, "DELETE", "/user-svc/user/victim", delegated, Value::Null).await, 403);
    daemon
        .until("the attempt is recorded with the service that made it", async || {
            let told = audit(&daemon, &admin, json!({ "target": "victim" })).await;
            told.len() == 1 && told[0]["actorSlug"] == "ann" && told[0]["viaService"] == "evil-svc"
        })
        .await;

    for _ in 0..20 {
        assert_eq!(status(&daemon, "PUT", "/user-svc/self", delegated, json!({ "name": "x" })).await, 403);
    }
    assert_eq!(status(&daemon, "PUT", "/user-svc/self", &ann, json!({ "name": "Ann" })).await, 200);
}

#[tokio::test]
async fn w133_who_has_stolen_a_token_cannot_keep_its_owner_from_ending_it() {
    let daemon = Daemon::with_flags(&["--api-max-writes-per-account", "1", "--api-max-writes-burst", "3"]).await;
    daemon.register("ann").await;
    let ann = token_of(&daemon.login("ann", "pass", "own").await);
    let stolen = token_of(&daemon.login("ann", "pass", "stolen").await);
    let write = async || status(&daemon, "PUT", "/user-svc/self", &stolen, json!({ "name": "x" })).await;
    daemon.until("the write rate is exhausted", async || write().await == 429).await;
    assert_eq!(status(&daemon, "DELETE", "/user-svc/tokens", &ann, json!({ "device": "stolen" })).await, 200);
    assert_eq!(status(&daemon, "PUT", "/user-svc/self", &stolen, json!({ "name": "x" })).await, 401);
}

#[tokio::test]
async fn w89_nobody_hides_what_gives_rights_behind_a_long_list() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    let mole = id_of(&daemon.register("mole").await);
    let decoy = id_of(&daemon.register("decoy").await);
    assert_eq!(
        status(&daemon, "POST", "/user-svc/role", &admin, json!({ "id": "openorch:x", "name": "X" })).await,
        200
    );
    let mut enrolls: Vec<Value> =
        (0..900).map(|n| json!({ "contactId": format!("decoy-{n}@example.org"), "role": "openorch:x" })).collect();
    enrolls.push(json!({ "userId": decoy, "role": "openorch:x" }));
    enrolls.push(json!({ "userId": mole, "role": "user-svc:admin" }));
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, json!({ "enrolls": enrolls })).await, 200);
    let ghost = json!({ "user": { "slug": "ghost", "name": "G" }, "password": "pass", "roleIds": ["user-svc:admin"] });
    assert_eq!(status(&daemon, "POST", "/user-svc/user", &admin, ghost).await, 200);
    let role = json!({ "id": "openorch:x", "name": "X", "permissionIds": ["user-svc:user:delete"] });
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &admin, role).await, 200);
    let operations = [
        "addUserToOrganization",
        "assignPermissions",
        "createOrganization",
        "getRoles",
        "saveEnrolls",
        "resetPassword",
    ];
    let delegation = json!({ "slug": "some-svc", "operations": operations });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &admin, delegation).await, 200);
    let permits = json!({ "permits": [
        { "permission": "a:b", "slugs": ["q1", "q2", "q3", "q4", "q5"], "appHost": "*" },
        { "permission": "user-svc:user:delete", "slugs": ["mole"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permits).await, 200);
    let told = async |operation: &str, target: &str| {
        let found = audit(&daemon, &admin, json!({ "operation": operation, "target": target })).await;
        assert_eq!(found.len(), 1, "{operation} {target}: {found:?}");
        found[0]["target"].as_str().unwrap().to_owned()
    };
    for target in [&*mole, "user-svc:admin"] {
        let text = told("saveEnrolls", target).await;
        assert!(text.starts_with(&format!("{mole} user-svc:admin")) && text.ends_with(" more"), "{text}");
        assert!(text.len() < 1100, "{text}");
    }
    for (operation, target) in [
        ("createUser", "user-svc:admin"),
        ("createUser", "ghost"),
        ("createRole", "user-svc:user:delete"),
        ("saveDelegation", "resetPassword"),
        ("saveDelegation", "saveEnrolls"),
        ("savePermits", "user-svc:user:delete"),
        ("savePermits", "mole"),
        ("savePermits", "q5"),
        ("savePermits", "*"),
    ] {
        told(operation, target).await;
    }
    // The full target text matches too, and results are paged.
    let text = told("saveEnrolls", &mole).await;
    assert_eq!(told("saveEnrolls", &text).await, text);
    let first =
        daemon.call("POST", "/user-svc/audit", &admin, json!({ "target": "openorch:x", "limit": 1 })).await.json();
    let asked = json!({ "target": "openorch:x", "limit": 1, "after": first["next"] });
    let second = audit(&daemon, &admin, asked).await;
    assert!(second.len() == 1 && second[0]["id"] != first["entries"][0]["id"], "{first} {second:?}");
}

#[tokio::test]
async fn w90_a_name_with_a_space_in_it_is_told_as_one() {
    let daemon = Daemon::start().await;
    let (zed, admin) = (daemon.register("zed").await, daemon.admin().await);
    assert_eq!(status(&daemon, "POST", "/user-svc/role", &zed, json!({ "id": "zed:x", "name": "X" })).await, 200);
    let lie = format!("{} user-svc:admin", id_of(&admin));
    let enrolls = json!({ "enrolls": [{ "contactId": lie, "role": "zed:x" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &zed, enrolls).await, 200);
    let found = audit(&daemon, &admin, json!({ "operation": "saveEnrolls", "actor": "zed" })).await;
    assert_eq!(found[0]["target"], format!("\"{lie}\" zed:x"));
    assert!(audit(&daemon, &admin, json!({ "operation": "saveEnrolls", "target": "user-svc:admin" })).await.is_empty());
}

#[tokio::test]
async fn w160_no_byte_of_a_client_makes_it_the_proxy_that_it_comes_through() {
    let daemon = Daemon::with_flags(&["--trusted-proxies", "127.0.0.0/8"]).await;
    let (admin, echo) = (admin_behind_a_proxy(&daemon).await, Echo::start().await);
    let shop = daemon.register("shop-svc").await;
    assert_eq!(daemon.put_instance(&shop, json!({ "url": echo.url })).await.status, 201);
    let guess = json!({ "slug": "openorch", "password": "wrong" }).to_string().into_bytes();
    for headers in [
        [("x-forwarded-for", "\u{e9}, 203.0.113.5")],
        [("forwarded", "for=\u{e9}, for=203.0.113.5")],
        [("x-forwarded-for", "203.0.113.5, \u{e9}")],
    ] {
        for _ in 0..8 {
            daemon.send("POST", "/user-svc/login", "", guess.clone(), &headers).await;
        }
    }
    assert_eq!(daemon.login("openorch", "another one", "host").await.status, 200, "the operator is not locked out");
    let of_client = async |address: &str| {
        let refused = json!({ "operation": "login", "outcome": "refused", "limit": 1000 });
        audit(&daemon, &admin, refused).await.iter().any(|entry| entry["clientIp"] == address)
    };
    daemon.until("the clients are recorded", async || of_client("203.0.113.5").await && of_client("100::").await).await;
    assert!(!of_client("127.0.0.1").await);
    let headers = [("x-forwarded-for", "\u{e9}, 203.0.113.5")];
    let told = daemon.send("GET", "/shop-svc/x", "", Vec::new(), &headers).await.text;
    assert!(told.contains("x-forwarded-for: unknown, 203.0.113.5, 127.0.0.1"), "{told}");
}

#[tokio::test]
async fn w161_an_address_that_carries_that_of_a_proxy_is_not_the_proxy() {
    let daemon = Daemon::with_flags(&["--trusted-proxies", "127.0.0.0/8"]).await;
    admin_behind_a_proxy(&daemon).await;
    let guess = json!({ "slug": "openorch", "password": "wrong" }).to_string().into_bytes();
    for carrier in ["64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.2"] {
        let mut statuses = Vec::new();
        for n in 0..6 {
            let invented = format!("203.0.113.{n}, {carrier}");
            let headers = [("x-forwarded-for", &*invented)];
            let answer = daemon.send("POST", "/user-svc/login", "", guess.clone(), &headers).await;
            statuses.push(answer.status.as_u16());
        }
        assert_eq!(statuses[5], 429, "{carrier}: its forwarded addresses are not trusted: {statuses:?}");
    }
    assert_eq!(daemon.login("openorch", "another one", "host").await.status, 200);
}

#[tokio::test]
async fn w176_changes_of_rights_are_trimmed_last() {
    let daemon = Daemon::with_flags(&["--audit-max-entries", "40"]).await;
    let (eve, mole, admin) = (daemon.register("eve").await, daemon.register("mole").await, daemon.admin().await);
    let enrolls = json!({ "enrolls": [{ "userId": id_of(&mole), "role": "user-svc:admin" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &admin, enrolls).await, 200);
    let all = json!({ "limit": 1000 });
    let given = json!({ "operation": "saveEnrolls", "target": "user-svc:admin" });
    let fill = async |token: &str, round: usize| {
        for n in 0..60 {
            daemon.clock.advance(1);
            let name = json!({ "name": format!("{round} {n}") });
            assert_eq!(status(&daemon, "PUT", "/user-svc/self", token, name).await, 200);
        }
        daemon.until("the log is trimmed", async || audit(&daemon, &admin, all.clone()).await.len() <= 41).await;
    };
    for round in 0..3 {
        fill(&eve, round).await;
        assert_eq!(audit(&daemon, &admin, given.clone()).await.len(), 1);
    }
    // Entries of admins have a bound as well.
    fill(&admin, 3).await;
    fill(&admin, 4).await;
    assert!(audit(&daemon, &admin, given).await.is_empty());
}

#[tokio::test]
async fn w178_a_right_given_among_many_is_found_in_the_log() {
    let daemon = Daemon::start().await;
    let (giver, admin) = (daemon.register("giver").await, daemon.admin().await);
    let may = json!({ "grants": [
        { "permissionId": "user-svc:grant:create", "slugs": ["giver"] },
        { "permissionId": "user-svc:delegation:edit", "slugs": ["giver"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &admin, may).await, 200);
    let behind_decoys = |name: &str| -> Vec<String> {
        (0..300).map(|n| format!("aa-decoy-{n:03}-with-a-long-slug")).chain([name.to_owned()]).collect()
    };
    let slugs = behind_decoys("the-mole");
    let grant = json!({ "grants": [{ "permissionId": "user-svc:audit:view", "slugs": slugs }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &giver, grant.clone()).await, 200);
    let permit = json!({ "permits": [{ "permission": "user-svc:audit:view", "slugs": slugs }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, permit).await, 200);
    let delegation = json!({ "slug": "giver", "operations": ["getRoles"], "services": slugs });
    assert_eq!(status(&daemon, "PUT", "/user-svc/delegation", &giver, delegation).await, 200);
    for operation in ["saveGrants", "savePermits", "saveDelegation"] {
        let found = audit(&daemon, &admin, json!({ "operation": operation, "target": "the-mole" })).await;
        assert_eq!(found.len(), 1, "{operation}");
        let (text, names) = (found[0]["target"].as_str().unwrap(), found[0]["targets"].as_array().unwrap());
        assert!(text.len() < 1100 && text.ends_with(" more") && names.len() < 60, "{operation}: {text}");
    }
    // Refusals, and changes that give no platform-wide right, are logged with fewer names.
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &daemon.register("eve").await, grant).await, 403);
    let own = json!({ "permits": [{ "permission": "giver:x", "slugs": behind_decoys("zz-decoy-300-with-a-long-slug"), "roles": ["user-svc:admin"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &giver, own).await, 200);
    assert!(audit(&daemon, &admin, json!({ "target": "zz-decoy-300-with-a-long-slug" })).await.is_empty());
}
