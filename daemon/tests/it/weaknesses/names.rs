//! Names that imitate others, or contain terminal control characters.

use serde_json::json;

use crate::support::Daemon;

#[tokio::test]
async fn w70_no_name_has_characters_in_it_that_are_not_seen() {
    let daemon = Daemon::start().await;
    let (ann, admin) = (daemon.register("ann").await, daemon.admin().await);
    daemon.call("POST", "/user-svc/role", &ann, json!({ "id": "ann:guest" })).await;
    daemon.call("PUT", "/user-svc/permissions", &ann, json!({ "permissions": [{ "id": "ann:p" }] })).await;
    for hidden in
        ["\u{202e}", "\u{2066}", "\u{200b}", "\u{200d}", "\u{ad}", "\u{feff}", "\u{9b}", "\u{2028}", "\u{e0041}"]
    {
        let name = format!("a{hidden}b");
        let instance = |field: &str| json!({ "url": "http://127.0.0.1:9", field: name });
        for (method, path, body) in [
            ("POST", "/user-svc/register", json!({ "slug": "eve", "name": name, "password": "pass" })),
            ("POST", "/user-svc/register", json!({ "slug": "eve", "password": "pass", "device": name })),
            ("POST", "/user-svc/register", json!({ "slug": "eve", "password": "pass", "contact": { "value": name } })),
            ("POST", "/user-svc/login", json!({ "slug": "ann", "password": "pass", "device": name })),
            ("PUT", "/user-svc/token/exchange", json!({ "newDevice": name })),
            ("PUT", "/user-svc/self", json!({ "name": name })),
            ("PUT", "/user-svc/self", json!({ "labels": { "x": name } })),
            ("PUT", "/user-svc/self", json!({ "labels": { name.clone(): "x" } })),
            ("PUT", "/user-svc/self", json!({ "thumbnailFileId": name })),
            ("POST", "/user-svc/user", json!({ "user": { "slug": "eve", "name": name } })),
            (
                "POST",
                "/user-svc/user",
                json!({ "user": { "slug": "eve", "name": "E", "contacts": [{ "value": name }] } }),
            ),
            ("POST", "/user-svc/role", json!({ "id": "ann:r", "name": name })),
            ("POST", "/user-svc/role", json!({ "id": "ann:r", "description": name })),
            ("PUT", "/user-svc/permissions", json!({ "permissions": [{ "id": "ann:p", "name": name }] })),
            ("PUT", "/user-svc/permissions", json!({ "permissions": [{ "id": "ann:p", "description": name }] })),
            ("POST", "/user-svc/organization", json!({ "name": name })),
            ("POST", "/user-svc/organization", json!({ "name": "o", "id": name })),
            (
                "PUT",
                "/user-svc/permits",
                json!({ "permits": [{ "id": name, "permission": "ann:p", "slugs": ["ann"] }] }),
            ),
            ("PUT", "/user-svc/permits", json!({ "permits": [{ "permission": "ann:p", "slugs": [name] }] })),
            ("PUT", "/user-svc/grants", json!({ "grants": [{ "permissionId": "ann:p", "slugs": [name] }] })),
            ("PUT", "/user-svc/enrolls", json!({ "enrolls": [{ "contactId": name, "role": "ann:guest" }] })),
            ("PUT", "/user-svc/app", json!({ "host": name })),
            ("PUT", "/registry-svc/instance", instance("id")),
            ("PUT", "/registry-svc/instance", instance("deploymentId")),
            ("PUT", "/registry-svc/instance", instance("host")),
            ("PUT", "/registry-svc/instance", instance("path")),
            ("PUT", "/registry-svc/instance", instance("healthPath")),
            ("PUT", "/registry-svc/definition", json!({ "definition": { "id": name } })),
            ("PUT", "/registry-svc/definition", json!({ "definition": { "id": "d", "image": { "name": name } } })),
        ] {
            let is_admins = ["/registry-svc/definition", "/user-svc/user", "/user-svc/grants", "/user-svc/app"];
            let token = if is_admins.contains(&path) { &admin } else { &ann };
            let answer = daemon.call(method, path, token, body.clone()).await;
            assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        }
    }
    // Characters that some scripts require are allowed.
    for name in ["\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}", "Änne Müller", "\u{6771}\u{4eac}"] {
        assert_eq!(daemon.call("PUT", "/user-svc/self", &ann, json!({ "name": name })).await.status, 200, "{name}");
    }
}
