//! Every operation with every kind of caller: access is as the row declares, and no sequence of calls by a plain
//! account extends its rights.

use openorch_api::{Access, Exempt, Operation};
use serde_json::{Value, json};

use crate::support::{Daemon, Echo, claims, delegated_token, token_of};

/// A caller and its rights.
struct Caller {
    name: &'static str,
    token: String,
    /// Its built-in roles; `None` if it is not signed in.
    roles: Option<&'static [&'static str]>,
    /// Whether the token is delegated to a service.
    is_delegated: bool,
    /// Ids of its own resources, by path parameter.
    owns: Vec<(&'static str, String)>,
}

/// The statuses that a row requires for a caller, who owns only what `owns` lists; empty if access is allowed.
fn expected_statuses(row: &Operation, who: &Caller) -> &'static [u16] {
    const REFUSED: &[u16] = &[403];
    // A missing resource has no owner.
    const NOT_FOUND: &[u16] = &[403, 404];
    let Access::Needs(guard) = row.access else {
        return match (row.access, who.roles) {
            (Access::Public, _) => &[],
            (_, None) => &[401],
            _ if who.is_delegated && !row.delegated => REFUSED,
            _ => &[],
        };
    };
    let Some(roles) = who.roles else { return &[401] };
    if who.is_delegated && !row.delegated {
        return REFUSED;
    }
    match guard.permission.granted_to.iter().any(|role| roles.contains(role)) {
        true => &[],
        false => match guard.exempt {
            // For its own account.
            Exempt::Account => &[],
            Exempt::Owner if !who.owns.is_empty() => &[],
            Exempt::Owner => NOT_FOUND,
            Exempt::None => REFUSED,
        },
    }
}

/// Resources of an account, by the path parameter that names each.
async fn create_owned(daemon: &Daemon, token: &str, url: &str) -> Vec<(&'static str, String)> {
    let call = async |method: &str, path: &str, body: Value| {
        let answer = daemon.call(method, path, token, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    };
    call("PUT", "/user-svc/permissions", json!({ "permissions": [{ "id": "owner-svc:p" }] })).await;
    call("POST", "/user-svc/role", json!({ "id": "owner-svc:r", "name": "R" })).await;
    let permit = json!({ "id": "permit", "permission": "owner-svc:p", "roles": ["owner-svc:r"] });
    call("PUT", "/user-svc/permits", json!({ "permits": [permit] })).await;
    daemon.put_instance(token, json!({ "url": url })).await;
    let instances = daemon.instances(token).await;
    let own = instances.iter().find(|instance| instance["slug"] == "owner-svc").unwrap();
    vec![
        ("permissionId", "owner-svc:p".to_owned()),
        ("roleId", "owner-svc:r".to_owned()),
        ("grantId", "permit".to_owned()),
        ("id", own["id"].as_str().unwrap().to_owned()),
    ]
}

#[tokio::test]
async fn every_row_with_every_caller_is_as_the_table_says() {
    let daemon = Daemon::start().await;
    let echo = Echo::start().await;
    let service = daemon.register("shop-svc").await;
    daemon.put_instance(&service, json!({ "url": echo.url })).await;
    let of_owner = Echo::start().await;
    daemon.register("owner-svc").await;
    let user = daemon.register("ann").await;
    daemon.call("POST", "/user-svc/organization", &user, json!({ "id": "org_a" })).await;
    let revoked = token_of(&daemon.login("ann", "pass", "lost").await);
    daemon.call("DELETE", "/user-svc/tokens", &user, json!({ "device": "lost" })).await;
    let delegated = delegated_token(&daemon, "/shop-svc/x", &daemon.admin().await).await;
    const USER: &[&str] = &[openorch_api::role::USER];
    const ADMIN: &[&str] = &[openorch_api::role::ADMIN];
    for row in openorch_api::operations() {
        // New sessions for each row, because some rows end the caller's session.
        let admin = token_of(&daemon.login("openorch", "changeme", row.id).await);
        let plain = token_of(&daemon.login("shop-svc", "pass", row.id).await);
        let of_organization = token_of(&daemon.login("ann", "pass", row.id).await);
        let owner = token_of(&daemon.login("owner-svc", "pass", row.id).await);
        let is_owners = matches!(row.access, Access::Needs(guard) if guard.exempt == Exempt::Owner);
        let owns = if is_owners { create_owned(&daemon, &owner, &of_owner.url).await } else { Vec::new() };
        let who = |name, token: &str, roles| Caller {
            name,
            token: token.to_owned(),
            roles,
            is_delegated: false,
            owns: Vec::new(),
        };
        for who in [
            who("nobody", "", None),
            who("a revoked session", &revoked, None),
            who("a service", &plain, Some(USER)),
            who("an organization's admin", &of_organization, Some(USER)),
            Caller { owns, ..who("an owner", &owner, Some(USER)) },
            Caller { is_delegated: true, ..who("a service for an admin", &delegated, Some(ADMIN)) },
            who("an admin", &admin, Some(ADMIN)),
        ] {
            let named = |name: &str| who.owns.iter().find(|(owned, _)| *owned == name).map_or("x", |(_, id)| id);
            let path = row
                .path_parameters()
                .fold(row.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), named(name)));
            let status = daemon.call(row.method.as_str(), &path, &who.token, Value::Null).await.status.as_u16();
            let want = expected_statuses(row, &who);
            if want.is_empty() {
                assert!(who.owns.is_empty() || (200..300).contains(&status), "{} by {}: {status}", row.id, who.name);
                // Access is allowed; other tests check the outcome. `is-authorized` answers 401 for a negative result.
                let answers_401 = [openorch_api::user::IS_AUTHORIZED.row.id, openorch_api::user::LOGIN.row.id];
                assert!(status != 401 || answers_401.contains(&row.id), "{} by {}: {status}", row.id, who.name);
                let is_guarded = matches!(row.access, Access::Needs(_));
                assert!(
                    !is_guarded || status != 403 || row.errors.iter().any(|code| code.status == 403),
                    "{} by {}: {status}",
                    row.id,
                    who.name
                );
            } else {
                assert!(want.contains(&status), "{} by {}: {status}, not {want:?}", row.id, who.name);
            }
        }
    }
}

/// For a row with a condition, a request of another account about resources of `owner-svc`, whose organization is
/// `org_a`.
fn foreign_request(row: &Operation, owner_id: &str) -> (String, Value) {
    let body = match row.id {
        "savePermits" => json!({ "permits": [{ "permission": "owner-svc:p", "slugs": ["ann"] }] }),
        "saveEnrolls" => json!({ "enrolls": [{ "userId": owner_id, "role": "owner-svc:r" }] }),
        "listEnrolls" => json!({ "role": "owner-svc:r" }),
        "addUserToOrganization" => json!({ "userId": owner_id }),
        "saveMembership" => json!({ "role": "admin" }),
        "listApps" | "deleteEnroll" | "deleteOrganization" | "listMembers" | "removeUserFromOrganization" => {
            Value::Null
        }
        other => panic!("add a request that the condition of `{other}` refuses"),
    };
    let named = |name: &str| match name {
        "organizationId" => "org_a".to_owned(),
        "userId" => owner_id.to_owned(),
        "enrollId" => format!("unnamed:{owner_id}:owner-svc:r"),
        other => panic!("no value for the parameter `{other}`"),
    };
    let path = row
        .path_parameters()
        .fold(row.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), &named(name)));
    (path, body)
}

#[tokio::test]
async fn who_does_not_meet_a_rows_condition_is_refused_with_its_code_and_the_owner_is_not() {
    let daemon = Daemon::start().await;
    let (owner, stranger) = (daemon.register("owner-svc").await, daemon.register("ann").await);
    let owner_id = claims(&owner)["oui"].as_str().unwrap().to_owned();
    let call = async |method: &str, path: &str, body: Value| {
        let answer = daemon.call(method, path, &owner, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    };
    call("PUT", "/user-svc/permissions", json!({ "permissions": [{ "id": "owner-svc:p" }] })).await;
    call("POST", "/user-svc/role", json!({ "id": "owner-svc:r", "name": "R" })).await;
    call("POST", "/user-svc/organization", json!({ "id": "org_a" })).await;
    let conditioned = || openorch_api::operations().filter_map(|row| Some((row, row.condition?)));
    for (row, condition) in conditioned() {
        let (path, body) = foreign_request(row, &owner_id);
        let answer = daemon.call(row.method.as_str(), &path, &stranger, body).await;
        assert_eq!(answer.status.as_u16(), condition.error.status, "{}: {}", row.id, answer.text);
        assert_eq!(answer.json()["code"], condition.error.id, "{}: {}", row.id, answer.text);
    }
    // `deleteOrganization` last, because the others need it.
    let (last, others): (Vec<_>, Vec<_>) = conditioned().partition(|(row, _)| row.id == "deleteOrganization");
    for (row, condition) in others.into_iter().chain(last).filter(|(row, _)| row.id != "listApps") {
        let (path, body) = foreign_request(row, &owner_id);
        let answer = daemon.call(row.method.as_str(), &path, &owner, body).await;
        assert_ne!(answer.json()["code"], condition.error.id, "{}: {}", row.id, answer.text);
    }
}

/// A seeded random number generator (xorshift64*, Vigna 2016), so that a failure can be repeated.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

#[tokio::test]
async fn nothing_that_a_plain_account_does_gives_it_a_permission_that_is_not_its_own() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7_u64);
    let mut dice = Rng(seed);
    let daemon = Daemon::start().await;
    let (bob, ann, admin) = (daemon.register("bob").await, daemon.register("ann").await, daemon.admin().await);
    daemon.call("PUT", "/user-svc/permissions", &ann, json!({ "permissions": [{ "id": "ann:secret" }] })).await;
    let role = json!({ "id": "ann:keeper", "name": "K", "permissionIds": ["ann:secret"] });
    daemon.call("POST", "/user-svc/role", &ann, role).await;
    daemon.call("POST", "/user-svc/organization", &ann, json!({ "id": "org_a", "name": "A" })).await;
    let id = |token: &str| claims(token)["oui"].as_str().unwrap().to_owned();
    let (bob_id, ann_id, admin_id) = (id(&bob), id(&ann), id(&admin));
    let allowed = async |token: &str| {
        let mut allowed = Vec::new();
        for permission in openorch_api::permissions().map(|permission| permission.id).chain(["ann:secret"]) {
            let path = format!("/user-svc/self/has/{permission}");
            if daemon.call("POST", &path, token, Value::Null).await.json()["authorized"] == true {
                allowed.push(permission);
            }
        }
        allowed
    };
    let before = (allowed(&bob).await, allowed(&ann).await, allowed(&admin).await);
    let roles = [
        "user-svc:admin",
        "user-svc:user",
        "ann:keeper",
        "bob:r",
        "bob:admin",
        "bob:q:admin",
        "user-svc:org:{org_a}:admin",
        "user-svc:org:{org_b}:admin",
        "bob",
        "ann:admin",
        ":admin",
        "user-svc",
    ];
    let permissions =
        ["user-svc:user:view", "user-svc:grant:create", "ann:secret", "bob:p", "bob:q", "ann:x", "*", "user-svc:*"];
    let users = [bob_id.as_str(), ann_id.as_str(), admin_id.as_str(), "usr_none"];
    let slugs = ["bob", "ann", "openorch", "user-svc"];
    let organizations = ["org_a", "org_b", "org_c"];
    for step in 0..400 {
        let (role, permission) = (dice.pick(&roles), dice.pick(&permissions));
        let (user, slug, organization) = (dice.pick(&users), dice.pick(&slugs), dice.pick(&organizations));
        let id = dice.pick(&["", "g1", "g2"]);
        let encoded = |text: &str| text.replace('{', "%7B").replace('}', "%7D");
        let (method, path, body) = match dice.below(19) {
            0 => ("PUT", "/user-svc/permissions".into(), json!({ "permissions": [{ "id": permission }] })),
            1 => ("POST", "/user-svc/role".into(), json!({ "id": role, "name": "n", "permissionIds": [permission] })),
            2 => ("POST", "/user-svc/role".into(), json!({ "id": role, "name": "n" })),
            3 => (
                "PUT",
                format!("/user-svc/role/{}/permissions", encoded(role)),
                json!({ "permissionIds": [permission] }),
            ),
            4 => (
                "PUT",
                "/user-svc/roles/permissions".into(),
                json!({ "permissionLinks": [{ "roleId": role, "permissionId": permission }] }),
            ),
            5 => (
                "PUT",
                "/user-svc/grants".into(),
                json!({ "grants": [{ "id": id, "permissionId": permission, "slugs": [slug] }] }),
            ),
            6 => (
                "PUT",
                "/user-svc/permits".into(),
                json!({ "permits": [{ "id": id, "permission": permission, "slugs": [slug], "roles": [role] }] }),
            ),
            7 | 8 => ("PUT", "/user-svc/enrolls".into(), json!({ "enrolls": [{ "userId": user, "role": role }] })),
            9 => ("DELETE", format!("/user-svc/enroll/unnamed:{user}:{}", encoded(role)), Value::Null),
            10 => ("POST", "/user-svc/organization".into(), json!({ "id": organization, "name": "n" })),
            11 => ("PUT", "/user-svc/organization".into(), json!({ "id": organization, "slug": slug, "name": "n" })),
            12 => ("POST", format!("/user-svc/organization/{organization}/user"), json!({ "userId": user })),
            13 => ("PUT", format!("/user-svc/organization/{organization}/user/{user}"), json!({ "role": "admin" })),
            14 => ("DELETE", format!("/user-svc/organization/{organization}/user/{user}"), Value::Null),
            15 => {
                ("POST", "/user-svc/user".into(), json!({ "user": { "name": "n", "slug": slug }, "roleIds": [role] }))
            }
            16 => ("DELETE", format!("/user-svc/user/{user}"), Value::Null),
            17 => ("POST", format!("/user-svc/{user}/reset-password"), json!({ "newPassword": "x" })),
            _ => ("POST", "/user-svc/invitation".into(), json!({ "roleIds": [role] })),
        };
        let answer = daemon.call(method, &path, &bob, body.clone()).await;
        assert!(answer.status.as_u16() < 500, "seed {seed}, step {step}: {method} {path} {body}: {}", answer.text);
        if step % 50 == 49 {
            let after = (allowed(&bob).await, allowed(&ann).await, allowed(&admin).await);
            assert_eq!(before, after, "seed {seed}, by step {step}: {method} {path} {body}");
        }
    }
}
