//! Every response matches the types of the published Go client, which rejects unknown keys (decision "Closed answer
//! types").

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Daemon, Echo};

const FACTS: &str = include_str!("go-client-answers.json");

struct PublishedClient(Value);

impl PublishedClient {
    fn check(&self, operation: &str, text: &str) {
        let expected = &self.0["operations"][operation];
        assert!(expected.is_object(), "`{operation}` is not an operation of the published client");
        let Some(kind) = expected["answer"].as_str() else {
            return assert_eq!(text, "", "{operation} has no response body");
        };
        let answer: Value = serde_json::from_str(text).unwrap();
        self.check_value(kind, &answer, false, operation);
    }

    /// `strict` is inherited by nested types.
    fn check_value(&self, kind: &str, value: &Value, strict: bool, at: &str) {
        if let Some(item) = kind.strip_prefix("[]") {
            for item_value in value.as_array().unwrap_or_else(|| panic!("{at} is a list")) {
                self.check_value(item, item_value, strict, at);
            }
            return;
        }
        match kind {
            "string" => assert!(value.is_string(), "{at}: {value}"),
            "bool" => assert!(value.is_boolean(), "{at}: {value}"),
            "int32" | "int64" => assert!(value.is_i64() || value.is_u64(), "{at}: {value}"),
            "float32" | "float64" => assert!(value.is_number(), "{at}: {value}"),
            _ if kind.starts_with("map[") => assert!(value.is_object(), "{at}: {value}"),
            _ if self.0["enums"][kind].is_array() => {
                assert!(self.0["enums"][kind].as_array().unwrap().contains(value), "{at}: {value}");
            }
            _ => self.check_struct(kind, value, strict, at),
        }
    }

    fn check_struct(&self, kind: &str, value: &Value, strict: bool, at: &str) {
        let known = &self.0["types"][kind];
        assert!(known.is_object(), "{at}: the fixture lacks the type {kind}");
        let strict = strict || known["strict"] == true;
        let fields: BTreeMap<&str, &str> =
            known["fields"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
        let have: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        for (name, field) in &fields {
            let (field, required) = field.strip_suffix(" required").map_or((*field, false), |field| (field, true));
            match value.get(*name) {
                Some(inner) => self.check_value(field, inner, strict, &format!("{at}.{name}")),
                None => assert!(!required, "{at} lacks `{name}`: {value}"),
            }
        }
        if strict {
            let extra: Vec<_> = have.iter().filter(|name| !fields.contains_key(**name)).collect();
            assert!(extra.is_empty(), "{at} has {extra:?}, which {kind} refuses: {value}");
        }
    }
}

#[tokio::test]
async fn every_answer_of_a_published_operation_fits_the_published_client() {
    let facts = PublishedClient(serde_json::from_str(FACTS).unwrap());
    let daemon = Daemon::start().await;
    let service = Echo::start().await;
    let mut checked = BTreeSet::new();
    let body = json!({ "slug": "strict-svc", "name": "Strict", "password": "pass", "contact": { "platform": "email", "value": "a@b.c" } });
    let registered = daemon.call("POST", "/user-svc/register", "", body).await;
    let token = crate::support::token_of(&registered);
    let admin = daemon.admin().await;
    let definition = json!({ "definition": { "id": "d", "repository": { "url": "https://x.y", "ports": [1] }, "ports": [{ "internal": 1, "host": 2 }],
        "envars": [{ "key": "a", "value": "b" }], "apiSpecs": [{ "url": "u", "metadata": { "k": "v" } }] } });
    let calls = [
        ("login", "POST", "/user-svc/login", "", json!({ "slug": "strict-svc", "password": "pass" })),
        ("getPublicKey", "GET", "/user-svc/public-key", "", Value::Null),
        ("readUserByToken", "POST", "/user-svc/user/by-token", &token, Value::Null),
        ("saveSelf", "PUT", "/user-svc/self", &token, json!({ "name": "n" })),
        (
            "isAuthorized",
            "POST",
            "/user-svc/permission/x/is-authorized",
            &token,
            json!({ "grantedSlugs": ["strict-svc"] }),
        ),
        (
            "registerInstance",
            "PUT",
            "/registry-svc/instance",
            &token,
            json!({ "url": service.url, "id": "i", "healthPath": "/h", "heartbeatSeconds": 9 }),
        ),
        (
            "upsertInstance",
            "PUT",
            "/policy-svc/instance/p",
            &admin,
            json!({ "Instance": { "templateId": "blocklist", "parameters": { "blocklist": { "blockedIPs": ["192.0.2.1"] } } } }),
        ),
        ("check", "POST", "/policy-svc/check", &token, json!({ "endpoint": "/x", "userId": "u" })),
        ("listInstances", "GET", "/registry-svc/instances?slug=strict-svc&help=false", &token, Value::Null),
        ("removeInstance", "DELETE", "/registry-svc/instance/i", &token, Value::Null),
        ("saveDefinition", "PUT", "/registry-svc/definition", &admin, definition),
        ("listDefinitions", "GET", "/registry-svc/definitions", &admin, Value::Null),
        ("deleteDefinition", "DELETE", "/registry-svc/definition/d", &admin, Value::Null),
        ("selfNode", "GET", "/registry-svc/node/self", &admin, Value::Null),
        ("listNodes", "POST", "/registry-svc/nodes", &admin, Value::Null),
        (
            "changePassword",
            "POST",
            "/user-svc/change-password",
            &token,
            json!({ "currentPassword": "pass", "newPassword": "b" }),
        ),
    ];
    let organization = "/user-svc/organization/org_o/user";
    let role_permissions = "/user-svc/role/strict-svc%3Ar/permissions";
    let rules = [
        (
            "savePermissions",
            "PUT",
            "/user-svc/permissions",
            &token,
            json!({ "permissions": [{ "id": "strict-svc:p", "name": "P" }] }),
        ),
        (
            "createRole",
            "POST",
            "/user-svc/role",
            &token,
            json!({ "id": "strict-svc:r", "name": "R", "description": "d" }),
        ),
        ("setRolePermission", "PUT", role_permissions, &token, json!({ "permissionIds": ["strict-svc:p"] })),
        ("getPermissionsByRole", "GET", role_permissions, &token, Value::Null),
        ("getRoles", "GET", "/user-svc/roles", &admin, Value::Null),
        (
            "assignPermissions",
            "PUT",
            "/user-svc/roles/permissions",
            &token,
            json!({ "permissionLinks": [{ "roleId": "user-svc:user", "permissionId": "strict-svc:p" }] }),
        ),
        (
            "saveGrants",
            "PUT",
            "/user-svc/grants",
            &admin,
            json!({ "grants": [{ "permissionId": "strict-svc:p", "slugs": ["strict-svc"] }] }),
        ),
        ("listGrants", "POST", "/user-svc/grants", &admin, Value::Null),
        ("deleteRole", "DELETE", "/user-svc/role/strict-svc%3Ar", &token, Value::Null),
        (
            "createUser",
            "POST",
            "/user-svc/user",
            &admin,
            json!({ "user": { "id": "usr_n", "name": "N", "slug": "n", "labels": { "a": "b" } } }),
        ),
        ("getUsers", "POST", "/user-svc/users", &admin, json!({ "query": { "count": true, "limit": 3 } })),
        ("saveUser", "PUT", "/user-svc/user/usr_n", &admin, json!({ "name": "M" })),
        ("resetPassword", "POST", "/user-svc/usr_n/reset-password", &admin, json!({ "newPassword": "c" })),
        (
            "createOrganization",
            "POST",
            "/user-svc/organization",
            &token,
            json!({ "id": "org_o", "name": "O", "slug": "o" }),
        ),
        ("addUserToOrganization", "POST", organization, &token, json!({ "userId": "usr_n" })),
        ("readUserByToken", "POST", "/user-svc/user/by-token", &token, Value::Null),
        ("removeUserFromOrganization", "DELETE", "/user-svc/organization/org_o/user/usr_n", &token, Value::Null),
        ("deleteUser", "DELETE", "/user-svc/user/usr_n", &admin, Value::Null),
    ];
    for (operation, method, path, token, body) in rules {
        let answer = daemon.call(method, path, token, body).await;
        assert!(answer.status.is_success(), "{operation}: {} {}", answer.status, answer.text);
        facts.check(operation, &answer.text);
        checked.insert(operation);
    }
    facts.check("register", &registered.text);
    checked.insert("register");
    for (operation, method, path, token, body) in calls {
        let answer = daemon.call(method, path, token, body).await;
        assert!(answer.status.is_success(), "{operation}: {} {}", answer.status, answer.text);
        facts.check(operation, &answer.text);
        checked.insert(operation);
    }
    let node = daemon.call("GET", "/registry-svc/node/self", &admin, Value::Null).await.json();
    let url = node["node"]["url"].as_str().unwrap().replace(':', "%3A").replace('/', "%2F");
    let answer = daemon.call("DELETE", &format!("/registry-svc/node/{url}"), &admin, Value::Null).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
    facts.check("deleteNode", &answer.text);
    checked.insert("deleteNode");

    let published = facts.0["operations"].as_object().unwrap();
    for row in openorch_api::operations().filter(|row| published.contains_key(row.id)) {
        assert!(checked.contains(row.id), "`{}` is published but was not checked", row.id);
        assert_eq!(published[row.id]["method"], row.method.as_str(), "{}", row.id);
        let names = |path: &str| {
            path.split('/').map(|s| if s.starts_with('{') { "{}".into() } else { s.to_owned() }).collect::<Vec<_>>()
        };
        assert_eq!(names(published[row.id]["path"].as_str().unwrap()), names(row.path), "{}", row.id);
    }
}
