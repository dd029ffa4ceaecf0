//! What lists of enrolls reveal, and what the deletion of permits may affect.

use serde_json::{Value, json};

use crate::{
    apps::{HOST, enroll, make_app, register},
    contacts::{request_code, start},
    support::{Daemon, has_permission, id_of, status, token_of},
};

async fn create_role(daemon: &Daemon, token: &str, id: &str) {
    assert_eq!(status(daemon, "POST", "/user-svc/role", token, json!({ "id": id, "name": "R" })).await, 200);
}

/// All pages of a list of enrolls, with their `next`.
async fn pages(daemon: &Daemon, token: &str, asked: &Value) -> Vec<Value> {
    let (mut pages, mut body) = (Vec::new(), asked.clone());
    loop {
        let answer = daemon.call("POST", "/user-svc/enrolls", token, body.clone()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text);
        pages.push(answer.json());
        match pages.last().unwrap()["next"].as_str() {
            Some(next) => body["after"] = json!(next),
            None => return pages,
        }
    }
}

/// The entries of all pages.
fn entries(pages: &[Value]) -> Vec<Value> {
    pages.iter().flat_map(|page| page["enrolls"].as_array().cloned().unwrap_or_default()).collect()
}

/// Verifies a contact of the account with a code.
async fn verify_contact(daemon: &Daemon, post: &crate::contacts::MailServer, token: &str, contact: &str) {
    daemon.clock.advance(61);
    let id = request_code(daemon, token, contact).await;
    let body = json!({ "otpId": id, "otpCode": post.last_code().0 });
    assert_eq!(status(daemon, "PUT", "/user-svc/self/contact", token, body).await, 200);
}

#[tokio::test]
async fn w78_a_list_of_enrolls_tells_neither_by_its_order_nor_by_its_next_whose_a_contact_is() {
    let (daemon, post) = start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let (zed, vic, other) =
        (daemon.register("zed").await, daemon.register("vic").await, daemon.register("other").await);
    create_role(&daemon, &zed, "zed:x").await;
    for contact in ["a@example.org", "b@example.org", "vic@example.org", "c@example.org"] {
        let body = json!({ "enrolls": [{ "contactId": contact, "role": "zed:x" }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &zed, body).await, 200);
    }
    for account in [&zed, &other] {
        assert_eq!(enroll(&daemon, &zed, &json!(id_of(account)), "zed:x", "").await.status, 200);
    }
    let contacts = ["a@example.org", "vic@example.org", "unnamed@example.org"];
    let mut asked: Vec<Value> = (1..=7).map(|limit| json!({ "role": "zed:x", "limit": limit })).collect();
    asked.push(json!({ "role": "zed:x" }));
    asked.extend(contacts.map(|contact| json!({ "role": "zed:x", "contactId": contact, "limit": 1 })));
    let all = async || {
        let mut all = Vec::new();
        for asked in &asked {
            all.push(pages(&daemon, &zed, asked).await);
        }
        all
    };
    let before = all().await;
    assert_eq!(entries(&before[0]).len(), 6, "{before:?}");
    assert!(before[..8].iter().all(|pages| entries(pages) == entries(&before[0])));
    verify_contact(&daemon, &post, &vic, "vic@example.org").await;
    assert!(has_role(&daemon, &vic, "zed:x").await, "it has the pending role");
    let after = all().await;
    assert_eq!(before, after, "the answers are the same whether the contact is verified or not");
    let text = serde_json::to_string(&after).unwrap();
    assert!(!text.contains(&id_of(&vic)), "{text}");
    // The account removes the contact, and the role is pending again: one entry as before.
    let gone = status(&daemon, "DELETE", "/user-svc/self/contact/vic@example.org", &vic, Value::Null).await;
    assert_eq!(gone, 200);
    let body = json!({ "enrolls": [{ "contactId": "vic@example.org", "role": "zed:x" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &zed, body).await, 200);
    let ids = |pages: &[Value]| entries(pages).iter().map(|entry| entry["id"].clone()).collect::<Vec<_>>();
    for (before, again) in before.iter().zip(all().await) {
        assert_eq!((ids(before), before.len()), (ids(&again), again.len()));
    }
    // Revoking it once revokes it from the contact and from the account.
    let id = entries(&before[9])[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/user-svc/enroll/{id}");
    assert_eq!(status(&daemon, "DELETE", &path, &zed, Value::Null).await, 200);
    assert_eq!(status(&daemon, "DELETE", &path, &zed, Value::Null).await, 404);
    assert!(!has_role(&daemon, &vic, "zed:x").await);
}

async fn has_role(daemon: &Daemon, token: &str, role: &str) -> bool {
    let own = daemon.call("POST", "/user-svc/self", token, Value::Null).await.json();
    own["roles"].as_array().is_some_and(|roles| roles.contains(&json!(role)))
}

#[tokio::test]
async fn w79_a_page_of_enrolls_shows_nothing_of_rows_that_it_leaves_out() {
    let (daemon, post) = start().await;
    let admin = daemon.admin().await;
    make_app(&daemon, &admin, HOST).await;
    let (zed, vic, other) =
        (daemon.register("zed").await, daemon.register("vic").await, daemon.register("other").await);
    create_role(&daemon, &zed, "zed:x").await;
    create_role(&daemon, &zed, "zed:admin").await;
    verify_contact(&daemon, &post, &vic, "vic@example.org").await;
    for account in [&vic, &other] {
        let body = json!({ "enrolls": [
            { "contactId": "vic@example.org", "role": "zed:x", "appHost": HOST },
            { "userId": id_of(account), "role": "zed:x" }] });
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &zed, body).await, 200);
    }
    for account in [&vic, &other] {
        let found = pages(&daemon, &zed, &json!({ "role": "zed:x", "userId": id_of(account), "limit": 1 })).await;
        assert_eq!((found.len(), entries(&found).len()), (1, 1), "{found:?}");
    }
    // An account that assigns the role in one app does not see its members in another.
    let lead = token_of(&register(&daemon, "lead", "").await);
    assert_eq!(enroll(&daemon, &zed, &json!(id_of(&lead)), "zed:admin", "").await.status, 200);
    for n in 0..3 {
        let hidden = daemon.register(&format!("hidden-{n}")).await;
        assert_eq!(enroll(&daemon, &zed, &json!(id_of(&hidden)), "zed:x", HOST).await.status, 200);
    }
    let found = pages(&daemon, &lead, &json!({ "role": "zed:x", "limit": 1 })).await;
    assert_eq!((found.len(), entries(&found).len()), (2, 2), "{found:?}");
}

#[tokio::test]
async fn w80_deletions_at_once_never_reach_the_permit_of_another() {
    let daemon = Daemon::start().await;
    let (admin, zed, worker) = (daemon.admin().await, daemon.register("zed").await, daemon.register("worker").await);
    let permit = |permission: &str, slug: &str| json!({ "permits": [{ "id": "ops", "permission": permission, "slugs": [slug] }] });
    for _ in 0..5 {
        let theirs = permit("user-svc:user:view", "worker");
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, theirs).await, 200);
        assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &zed, permit("zed:p", "zed")).await, 200);
        let delete = || status(&daemon, "DELETE", "/user-svc/grant/ops", &zed, Value::Null);
        let at_once = tokio::join!(delete(), delete(), delete(), delete(), delete(), delete(), delete(), delete());
        let (a, b, c, d, e, f, g, h) = at_once;
        let mut statuses = [a, b, c, d, e, f, g, h];
        statuses.sort();
        assert_eq!(statuses[0], 200);
        assert!(statuses[1..].iter().all(|status| [403, 404].contains(status)), "{statuses:?}");
        assert!(has_permission(&daemon, &worker, "user-svc:user:view").await);
    }
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/ops", &admin, Value::Null).await, 200);
}

#[tokio::test]
async fn w81_who_saves_grants_in_one_app_deletes_none_of_another() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    for host in [HOST, "y.example.com"] {
        make_app(&daemon, &admin, host).await;
    }
    let granter = token_of(&register(&daemon, "granter", HOST).await);
    let permits = |permits: Value| status(&daemon, "PUT", "/user-svc/permits", &admin, json!({ "permits": permits }));
    let right = json!([{ "permission": "user-svc:grant:create", "slugs": ["granter"], "appHost": HOST }]);
    assert_eq!(permits(right).await, 200);
    let worker = daemon.register("worker").await;
    let rows = json!([
        { "id": "everywhere", "permission": "user-svc:user:view", "slugs": ["worker"], "appHost": "*" },
        { "id": "default-one", "permission": "user-svc:audit:view", "slugs": ["worker"] },
        { "id": "in-y", "permission": "a:b", "slugs": ["worker"], "appHost": "y.example.com" },
        { "id": "here", "permission": "a:b", "slugs": ["worker"], "appHost": HOST },
    ]);
    assert_eq!(permits(rows).await, 200);
    let delete =
        async |id: &str| status(&daemon, "DELETE", &format!("/user-svc/grant/{id}"), &granter, Value::Null).await;
    for (id, expected) in [("everywhere", 404), ("default-one", 404), ("in-y", 404), ("here", 200), ("here", 404)] {
        assert_eq!(delete(id).await, expected, "{id}");
    }
    assert!(
        has_permission(&daemon, &worker, "user-svc:user:view").await
            && has_permission(&daemon, &worker, "user-svc:audit:view").await
    );
    // It may delete a grant that it saved itself.
    let own = json!({ "grants": [{ "id": "mine", "permissionId": "c:d", "slugs": ["worker"] }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/grants", &granter, own).await, 200);
    assert_eq!(delete("mine").await, 200);
}

#[tokio::test]
async fn w94_nobody_overwrites_the_permit_of_an_admin_under_an_id_of_its_own() {
    let daemon = Daemon::start().await;
    let (admin, zed, worker) = (daemon.admin().await, daemon.register("zed").await, daemon.register("worker").await);
    let permit = |id: &str, permission: &str, slug: &str| json!({ "permits": [{ "id": id, "permission": permission, "slugs": [slug] }] });
    let theirs = permit("zed:reset", "user-svc:user:view", "worker");
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &admin, theirs).await, 200);
    for id in ["reset", "zed:reset"] {
        let refused = daemon.call("PUT", "/user-svc/permits", &zed, permit(id, "zed:p", "zed")).await;
        assert!(refused.status == 409 && refused.error().contains("zed:reset"), "{}", refused.text);
        let path = format!("/user-svc/grant/{id}");
        assert_eq!(status(&daemon, "DELETE", &path, &zed, Value::Null).await, 403);
    }
    assert!(has_permission(&daemon, &worker, "user-svc:user:view").await);
    assert_eq!(status(&daemon, "DELETE", "/user-svc/grant/zed:reset", &admin, Value::Null).await, 200);
    assert_eq!(status(&daemon, "PUT", "/user-svc/permits", &zed, permit("reset", "zed:p", "zed")).await, 200);
}

#[tokio::test]
async fn w162_what_came_by_a_contact_has_no_part_in_what_may_be_given_by_id() {
    let (daemon, post) = start().await;
    let (victim, other, eve) =
        (daemon.register("victim").await, daemon.register("other").await, daemon.register("eve").await);
    verify_contact(&daemon, &post, &victim, "x@example.org").await;
    for n in 0..201 {
        create_role(&daemon, &eve, &format!("eve:r{n}")).await;
    }
    let give = async |to: &Value, roles: std::ops::Range<usize>| {
        let enroll = |n: usize| {
            let mut enroll = to.clone();
            enroll["role"] = json!(format!("eve:r{n}"));
            enroll
        };
        let body = json!({ "enrolls": roles.map(enroll).collect::<Vec<_>>() });
        daemon.call("PUT", "/user-svc/enrolls", &eve, body).await
    };
    assert_eq!(give(&json!({ "contactId": "x@example.org" }), 0..100).await.status, 200);
    let mut told = Vec::new();
    for token in [&victim, &other] {
        let by_id = json!({ "userId": id_of(token) });
        let mut of_account = Vec::new();
        // By id: a role that the contact lacks, one that it has, as many as a giver may give, then one more of each
        // kind.
        for roles in [100..101, 0..1, 101..199, 199..200, 1..2] {
            let answer = give(&by_id, roles).await;
            of_account.push((answer.status.as_u16(), answer.json()["code"].clone()));
        }
        told.push(of_account);
    }
    assert_eq!(told[0], told[1]);
    let statuses: Vec<u16> = told[0].iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 403, 403]);
    // The same for organizations, regardless of which account assigned the other roles.
    let founding = json!({ "id": "org_eve" });
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &eve, founding).await, 200);
    for token in [&victim, &other] {
        let add = json!({ "userId": id_of(token) });
        assert_eq!(status(&daemon, "POST", "/user-svc/organization/org_eve/user", &eve, add).await, 403);
    }
}

#[tokio::test]
async fn w162_what_is_given_by_id_takes_no_room_from_what_came_by_a_contact() {
    let (daemon, post) = start().await;
    let (admin, victim, eve) = (daemon.admin().await, daemon.register("victim").await, daemon.register("eve").await);
    verify_contact(&daemon, &post, &victim, "x@example.org").await;
    create_role(&daemon, &eve, "eve:r0").await;
    for n in 0..1001 {
        create_role(&daemon, &admin, &format!("openorch:r{n}")).await;
    }
    let enroll = |n: usize| json!({ "contactId": "x@example.org", "role": format!("openorch:r{n}") });
    let save = async |enrolls: Vec<Value>| {
        status(&daemon, "PUT", "/user-svc/enrolls", &admin, json!({ "enrolls": enrolls })).await
    };
    assert_eq!(save((0..1000).map(enroll).collect()).await, 200);
    assert_ne!(
        save(vec![enroll(1000)]).await,
        200,
        "an admin gets an error when the account has the maximum of roles by contacts"
    );
    let given = json!({ "enrolls": [{ "userId": id_of(&victim), "role": "eve:r0" }] });
    assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", &eve, given).await, 200);
    let by_contact = pages(&daemon, &admin, &json!({ "contactId": "x@example.org", "limit": 500 })).await;
    assert_eq!(entries(&by_contact).len(), 1000, "none was removed");
    let all = pages(&daemon, &admin, &json!({ "userId": id_of(&victim), "limit": 500 })).await;
    assert_eq!(entries(&all).len(), 1002, "including the default role");
}
