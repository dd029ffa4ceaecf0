//! Fair queueing of long work: lists and heavy writes are served round-robin by network, then by account, and the number of
//! queued calls is limited.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Answer, Daemon, admin_behind_a_proxy, id_of, status};

/// The address of the accounts that keep the daemon busy.
const CROWD: &str = "192.0.2.1";

/// A daemon that trusts loopback as a proxy: calls with `X-Forwarded-For` count as calls of that client.
async fn behind_proxy() -> (Arc<Daemon>, String) {
    let daemon = Daemon::with_flags(&["--trusted-proxies", "127.0.0.0/8"]).await;
    let admin = admin_behind_a_proxy(&daemon).await;
    (Arc::new(daemon), admin)
}

async fn call_from(daemon: &Daemon, address: &str, method: &str, path: &str, token: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    daemon.send(method, path, token, body.into_bytes(), &[("x-forwarded-for", address)]).await
}

async fn make_role(daemon: &Daemon, token: &str, id: &str) {
    assert_eq!(status(daemon, "POST", "/user-svc/role", token, json!({ "id": id, "name": "R" })).await, 200);
}

/// A request that assigns a role to this number of contacts.
fn gives(role: &str, contacts: usize) -> Value {
    let one = |n: usize| json!({ "contactId": format!("c{n}@example.org"), "role": role });
    json!({ "enrolls": (0..contacts).map(one).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w170_accounts_of_one_network_do_not_delay_other_networks() {
    let (daemon, admin) = behind_proxy().await;
    let victim = daemon.register("victim").await;
    make_role(&daemon, &victim, "victim:r").await;
    let (mut saving, done) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for n in 0..40 {
        let token = daemon.register(&format!("crowd-{n}")).await;
        let role = format!("crowd-{n}:r");
        make_role(&daemon, &token, &role).await;
        for _ in 0..3 {
            let (daemon, token, role, done) = (daemon.clone(), token.clone(), role.clone(), done.clone());
            saving.spawn(async move {
                let saved = call_from(&daemon, CROWD, "PUT", "/user-svc/enrolls", &token, gives(&role, 100)).await;
                done.fetch_add(1, Ordering::Relaxed);
                saved.status.as_u16()
            });
        }
    }
    saving.join_next().await;
    let before = done.load(Ordering::Relaxed);
    let given = call_from(&daemon, "192.0.2.2", "PUT", "/user-svc/enrolls", &victim, gives("victim:r", 1)).await;
    assert_eq!(given.status, 200, "{}", given.text);
    let listed = call_from(&daemon, CROWD, "POST", "/user-svc/users", &admin, json!({})).await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let own = call_from(&daemon, CROWD, "POST", "/user-svc/enrolls", &victim, json!({ "role": "victim:r" })).await;
    assert_eq!(own.status, 200, "{}", own.text);
    let meanwhile = done.load(Ordering::Relaxed) - before;
    assert!(meanwhile < 30, "{meanwhile} calls of the crowd were done before");
    assert!(saving.join_all().await.iter().all(|status| *status == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w171_waiting_calls_of_an_account_and_a_network_are_limited() {
    let (daemon, _) = behind_proxy().await;
    let ann = daemon.register("ann").await;
    make_role(&daemon, &ann, "ann:r").await;
    let mut saving = JoinSet::new();
    for n in 0..200 {
        let (daemon, ann) = (daemon.clone(), ann.clone());
        saving.spawn(async move {
            let address = format!("192.0.2.{n}");
            let saved = call_from(&daemon, &address, "PUT", "/user-svc/enrolls", &ann, gives("ann:r", 200)).await;
            match saved.status.as_u16() {
                200 => "done".to_owned(),
                _ => {
                    assert!(saved.headers.contains_key("retry-after"), "{}", saved.text);
                    saved.json()["code"].as_str().unwrap_or_default().to_owned()
                }
            }
        });
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for outcome in saving.join_all().await {
        *counts.entry(outcome).or_default() += 1;
    }
    let (done, refused) = (counts.remove("done"), counts.remove("access.too_many_waiting"));
    assert!(
        done.is_some_and(|done| done >= 64) && refused.is_some() && counts.is_empty(),
        "{done:?}, {refused:?}, {counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn w172_a_removed_member_gets_no_list_that_was_waiting() {
    let (daemon, _) = behind_proxy().await;
    let (owner, mallory) = (daemon.register("owner").await, daemon.register("mallory").await);
    // Turns alternate between the accounts of a network.
    let mut crowd = vec![(mallory.clone(), "mallory:r".to_owned())];
    for n in 0..3 {
        crowd.push((daemon.register(&format!("crowd-{n}")).await, format!("crowd-{n}:r")));
    }
    for (token, role) in &crowd {
        make_role(&daemon, token, role).await;
        assert_eq!(status(&daemon, "PUT", "/user-svc/enrolls", token, gives(role, 1000)).await, 200);
    }
    assert_eq!(status(&daemon, "POST", "/user-svc/organization", &owner, json!({ "id": "org" })).await, 200);
    let member = format!("/user-svc/organization/org/user/{}", id_of(&mallory));
    // Repeated if the list may have been returned before the member was removed.
    for _ in 0..10 {
        let add = json!({ "userId": id_of(&mallory) });
        assert_eq!(status(&daemon, "POST", "/user-svc/organization/org/user", &owner, add).await, 200);
        let (mut own, done) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for n in 0..240 {
            let (daemon, done, (token, role)) = (daemon.clone(), done.clone(), crowd[n % crowd.len()].clone());
            own.spawn(async move {
                call_from(&daemon, CROWD, "POST", "/user-svc/enrolls", &token, json!({ "role": role })).await;
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        own.join_next().await;
        let members = {
            let (daemon, mallory) = (daemon.clone(), mallory.clone());
            let path = "/user-svc/organization/org/users";
            tokio::spawn(async move { call_from(&daemon, CROWD, "GET", path, &mallory, Value::Null).await })
        };
        assert_eq!(status(&daemon, "DELETE", &member, &owner, Value::Null).await, 200);
        // The calls of an account are answered in the order in which they came.
        let still_waits = done.load(Ordering::SeqCst) < 200;
        let members = members.await.unwrap();
        own.join_all().await;
        if still_waits {
            assert_eq!(members.status, 403, "{}", members.text);
            return;
        }
    }
    panic!("each list may have been answered before its caller was put out");
}
