//! Tests that fold over the table of operations: the daemon behaves as each row declares.

use std::collections::HashSet;

use openorch_api::{Access, Exempt, Operation};
use serde_json::{Value, json};

use crate::support::{Daemon, gzip, token_of};

/// The path of an operation with all parameters set to `value`.
fn path(row: &Operation, value: &str) -> String {
    row.path_parameters().fold(row.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), value))
}

#[test]
fn ids_paths_and_permissions_are_declared_once() {
    let (mut ids, mut paths) = (HashSet::new(), HashSet::new());
    let declared: HashSet<&str> = openorch_api::permissions().map(|permission| permission.id).collect();
    for row in openorch_api::operations() {
        assert!(ids.insert(row.id), "{} twice", row.id);
        for path in std::iter::once(&row.path).chain(row.aliases) {
            assert!(paths.insert((row.method, *path)), "{} {path} twice", row.method.as_str());
        }
        assert!(!row.summary().is_empty(), "{} has no summary", row.id);
        if let Access::Needs(guard) = row.access {
            assert!(declared.contains(guard.permission.id), "{} needs `{}`", row.id, guard.permission.id);
        }
    }
    for service in openorch_api::SERVICES {
        for permission in service.permissions {
            assert!(permission.id.starts_with(&format!("{}:", service.slug)), "{}", permission.id);
        }
    }
}

/// Lists whose ids do not begin with `list`.
const OTHER_LISTS: &[&str] = &["getUsers", "getRoles", "getPermissionsByRole"];

#[test]
fn every_list_that_may_be_long_is_made_beside_the_async_workers() {
    for row in openorch_api::operations() {
        let is_list = row.id.starts_with("list") || OTHER_LISTS.contains(&row.id);
        assert_eq!(row.long_response, is_list, "{}", row.id);
    }
}

#[tokio::test]
async fn every_operation_is_served_and_guarded_ones_refuse_nobody_and_strangers() {
    let daemon = Daemon::start().await;
    // An account without roles: it must not get what a row does not give to everyone.
    let invited = daemon.call("POST", "/user-svc/invitation", &daemon.admin().await, json!({ "roleIds": [] })).await;
    let code = invited.json()["invitation"]["code"].clone();
    let register = json!({ "slug": "stranger", "password": "pass", "invitation": code });
    let stranger = token_of(&daemon.call("POST", "/user-svc/register", "", register).await);
    for row in openorch_api::operations() {
        let path = path(row, "x");
        let nobody = daemon.call(row.method.as_str(), &path, "", Value::Null).await;
        let served = nobody.status != 405 && !nobody.text.contains("no such operation");
        assert!(served, "{} is not served: {}", row.id, nobody.text);
        if !matches!(row.access, Access::Public) {
            assert_eq!(nobody.status, 401, "{} without a token", row.id);
            assert_eq!(nobody.headers["www-authenticate"], "Bearer");
        }
        // An account may do for itself what needs a permission for others: end its own sessions, for example.
        if let Access::Needs(guard) = row.access
            && guard.exempt != Exempt::Account
        {
            let answer = daemon.call(row.method.as_str(), &path, &stranger, Value::Null).await;
            if guard.exempt == Exempt::Owner {
                assert!([403, 404].contains(&answer.status.as_u16()), "{} by another account: {}", row.id, answer.text);
            } else {
                assert_eq!(answer.status, 403, "{} by another account", row.id);
                assert!(answer.error().contains(guard.permission.id), "{}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn no_malformed_input_makes_the_daemon_fail() {
    let daemon = Daemon::start().await;
    let mut admin = daemon.admin().await;
    let deep = "[".repeat(500) + &"]".repeat(500);
    let bodies: [&[u8]; 16] = [
        b"",
        b"null",
        b"{",
        b"[]",
        b"[\"a\",\"b\",\"c\",\"d\"]",
        b"{\"definition\":[\"a\",null,null,[],[],[],[]]}",
        b"1",
        b"\"x\"",
        b"{\"slug\":1}",
        b"{\"url\":[]}",
        b"{\"a\":1,\"a\":2}",
        b"{} x",
        b"\xff\xfe",
        b"{\"name\":\"\\u0000\"}",
        b"{\"definition\":{\"id\":\"\"}}",
        deep.as_bytes(),
    ];
    for row in openorch_api::operations() {
        for value in ["x", "%00", "%ff", "%zz", &"y".repeat(3000), "a%2Fb"] {
            for body in bodies {
                if row.id == openorch_api::user::REVOKE_TOKENS.row.id {
                    // It accepts an empty body, and ends the session that the other attempts need.
                    admin = daemon.admin().await;
                }
                let answer = daemon.send(row.method.as_str(), &path(row, value), &admin, body.to_vec(), &[]).await;
                assert!(answer.status.as_u16() < 500, "{} with {value} and {body:?}: {}", row.id, answer.text);
                if answer.status.as_u16() >= 400 {
                    assert!(!answer.error().is_empty());
                }
            }
            if row.path_parameters().next().is_none() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn bad_input_gets_the_refusal_of_its_kind_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let post = async |body: Vec<u8>, headers: &[(&str, &str)]| {
        daemon.send("POST", "/user-svc/register", "", body, headers).await
    };
    let valid = br#"{"slug":"x-svc","password":"p","unknown":{"a":1}}"#.to_vec();
    assert_eq!(post(br#"{"slug":"a","slug":"b","password":"p"}"#.to_vec(), &[]).await.status, 400);
    assert_eq!(post(br#"{"slug":["a"],"password":"p"}"#.to_vec(), &[]).await.status, 400);
    assert_eq!(post(br#"["Name","array-svc","p"]"#.to_vec(), &[]).await.status, 400);
    assert_eq!(post(br#"{"slug":"dev-svc","password":"p","device":"DEVICE"}"#.to_vec(), &[]).await.status, 200);
    let long = br#"{"slug":"x-svc","password":"p","device":"DEVICE"}"#.to_vec();
    let long = String::from_utf8(long).unwrap().replace("DEVICE", &"d".repeat(200));
    assert_eq!(post(long.into_bytes(), &[]).await.status, 400);
    assert_eq!(post(vec![b'x'; (4 << 20) + 1], &[]).await.status, 413);
    assert_eq!(post(valid.clone(), &[("content-encoding", "gzip")]).await.status, 400);
    assert_eq!(post(valid.clone(), &[("content-encoding", "deflate")]).await.status, 400);
    let zeros = vec![b' '; 17 << 20];
    assert_eq!(post(gzip(&zeros), &[("content-encoding", "gzip")]).await.status, 413);
    assert!(daemon.login("x-svc", "p", "").await.error().contains("Slug not found"));
    assert_eq!(post(gzip(&valid), &[("content-encoding", "gzip")]).await.status, 200);

    let answer = daemon.call("DELETE", "/user-svc/login", "", Value::Null).await;
    assert_eq!((answer.status.as_u16(), answer.headers["allow"].to_str().unwrap()), (405, "POST, OPTIONS"));
    let answer = daemon.call("OPTIONS", "/user-svc/login", "", Value::Null).await;
    assert_eq!((answer.status.as_u16(), answer.headers["access-control-allow-origin"].to_str().unwrap()), (200, "*"));
    for path in ["/user-svc/no-such", "/model-svc/models", "/user%2Dsvc/no-such", "/v1/x"] {
        let answer = daemon.call("GET", path, "", Value::Null).await;
        assert_eq!(answer.status, 404);
        assert!(answer.error().starts_with("no such operation"), "{path}: {}", answer.text);
    }
    assert_eq!(daemon.call("GET", "//user-svc/public-key", "", Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_browser_may_send_and_see_what_the_rows_declare() {
    let daemon = Daemon::start().await;
    let answer = daemon.call("OPTIONS", "/registry-svc/instances", "", Value::Null).await;
    let listed =
        |name: &str| -> Vec<String> { answer.headers[name].to_str().unwrap().split(", ").map(str::to_owned).collect() };
    let (allowed, exposed) = (listed("access-control-allow-headers"), listed("access-control-expose-headers"));
    for row in openorch_api::operations() {
        assert!(row.request_headers.iter().all(|header| allowed.contains(&header.name.to_owned())), "{}", row.id);
        assert!(row.response_headers.iter().all(|header| exposed.contains(&header.name.to_owned())), "{}", row.id);
    }
    for name in ["authorization", "content-type", "openorch-extended"] {
        assert!(allowed.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(exposed, ["etag", "retry-after", "x-request-id"]);
}

#[tokio::test]
async fn a_document_that_the_client_has_is_not_sent_again() {
    let daemon = Daemon::start().await;
    for path in ["/openapi.json", "/docs"] {
        let first = daemon.call("GET", path, "", Value::Null).await;
        let etag = first.headers["etag"].to_str().unwrap().to_owned();
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            let again = daemon.send("GET", path, "", Vec::new(), &[("if-none-match", &known)]).await;
            assert_eq!((again.status.as_u16(), again.text.len()), (304, 0), "{path} {known}");
            assert_eq!(again.headers["etag"], *etag);
        }
        let other = daemon.send("GET", path, "", Vec::new(), &[("if-none-match", "\"other\"")]).await;
        assert_eq!((other.status.as_u16(), &other.text), (200, &first.text), "{path}");
    }
}

#[tokio::test]
async fn documents_and_metrics_are_served() {
    let daemon = Daemon::start().await;
    let page = daemon.call("GET", "/docs", "", Value::Null).await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text.contains("registerInstance") && !page.text.contains("<script"));
    let document = daemon.call("GET", "/openapi.json", "", Value::Null).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let admin = daemon.admin().await;
    let metrics = daemon.call("GET", "/metrics", &admin, Value::Null).await;
    assert!(
        metrics.text.contains(r#"openorch_operation_duration_seconds_count{operation="docs",outcome="success"} 1"#)
    );
}
