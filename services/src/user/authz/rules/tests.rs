//! Changes of the access rules leave everything else unchanged, for checks and in memory.

use std::{collections::HashSet, sync::Arc};

use openorch_api::Time;
use openorch_chassis::Caller;

use crate::user::{
    authz::{
        rows::{AppRow, GrantRow, PermissionLinkRow, PermissionRow, RoleRow},
        rules::{AccessRules, Change},
    },
    shared::rows::ALL_APPS,
};

fn role(id: &str, owner: &str) -> RoleRow {
    let (name, now) = (String::new(), Time::default());
    let (id, description, owner_id) = (id.to_owned(), name.clone(), owner.to_owned());
    RoleRow { id, name, description, owner_id, created_at: now, updated_at: now, going: false }
}

fn permission(id: &str, owner: &str) -> Change {
    let (name, now) = (String::new(), Time::default());
    let (id, description, owner_id) = (id.to_owned(), name.clone(), owner.to_owned());
    Change::SavePermission(PermissionRow { id, name, description, owner_id, created_at: now, updated_at: now })
}

fn link(role: &str, permission: &str) -> PermissionLinkRow {
    PermissionLinkRow { role_id: role.to_owned(), permission_id: permission.to_owned() }
}

fn grant(id: &str, permission: &str, slugs: &[&str], roles: &[&str], owner: &str) -> Change {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let now = Time::default();
    Change::SaveGrant(GrantRow {
        id: id.to_owned(),
        permission_id: permission.to_owned(),
        slugs: owned(slugs),
        role_ids: owned(roles),
        app: ALL_APPS.to_owned(),
        owner_id: owner.to_owned(),
        created_at: now,
        updated_at: now,
    })
}

/// Each account has a role with a permission, and a grant of it to another role and a slug.
fn rules_of_accounts(count: usize) -> AccessRules {
    let mut rules = AccessRules::default();
    for n in 0..count {
        let (owner, own, other) = (format!("usr_{n}"), format!("s{n}:r"), format!("s{}:r", (n + 1) % count));
        let permitted = format!("s{n}:p");
        rules.apply(vec![
            Change::SaveRole(role(&own, &owner)),
            permission(&permitted, &owner),
            Change::Link(link(&own, &permitted)),
            grant(&format!("g{n}"), &permitted, &[&format!("s{n}-friend")], &[&other], &owner),
        ]);
    }
    rules
}

fn allows(rules: &AccessRules, slug: &str, role: &str, permission: &str) -> bool {
    let roles: Arc<[Box<str>]> = [role].into_iter().filter(|role| !role.is_empty()).map(Into::into).collect();
    rules.allow(
        &Caller {
            user_id: "usr".into(),
            slug: slug.into(),
            session_id: "".into(),
            default_app_roles: roles.clone(),
            roles,
            app: "unnamed".into(),
            audience: None,
        },
        permission,
    )
}

#[test]
fn a_change_copies_nothing_of_what_other_accounts_hold() {
    let before = rules_of_accounts(500);
    let mut after = before.clone();
    let role_id = || HashSet::from(["s1:r"]);
    let going = [after.without_role("s1:r"), after.without_names(&role_id(), None)].concat();
    after.apply(vec![Change::SaveRole(role("s0:new", "usr_0")), permission("s0:q", "usr_0")]);
    after.apply(vec![Change::Link(link("s0:new", "s0:q")), grant("g", "s0:q", &["someone"], &["s9:r"], "usr_0")]);
    after.apply(going);
    after.apply(after.without_permission("s2:p"));
    after.apply(after.owned_by("usr_3"));
    // A row has one reference for each map that holds it; a map shared by both counts once.
    let of_others = |n: &usize| *n > 10;
    for n in (0..500).filter(of_others) {
        let (id, permitted, granted) = (format!("s{n}:r"), format!("s{n}:p"), format!("g{n}"));
        let counts = [
            Arc::strong_count(&before.roles[&*id]),
            Arc::strong_count(&before.permissions[&*permitted]),
            Arc::strong_count(&before.grants[&*granted]),
        ];
        assert_eq!(counts, [1; 3], "{n}");
    }
    assert_eq!((before.roles.size(), after.roles.size(), after.deleting.size()), (500, 499, 2));
}

#[test]
fn a_permission_granted_several_times_stays_until_the_last_grant_is_deleted() {
    let mut rules = rules_of_accounts(3);
    let permits = |rules: &AccessRules| (allows(rules, "one", "", "s0:p"), allows(rules, "", "s9:r", "s0:p"));
    rules.apply(vec![grant("a", "s0:p", &["one"], &["s9:r"], "usr_0")]);
    rules.apply(vec![grant("b", "s0:p", &["one", "two"], &["s9:r"], "usr_0")]);
    rules.apply(vec![Change::DeleteGrant("a".into())]);
    assert_eq!(permits(&rules), (true, true));
    // Saving it again replaces its names.
    rules.apply(vec![grant("b", "s0:p", &["two"], &["s9:r"], "usr_0")]);
    assert_eq!(permits(&rules), (false, true));
    rules.apply(vec![Change::DeleteGrant("b".into()), Change::DeleteGrant("b".into())]);
    assert_eq!(permits(&rules), (false, false));
    assert!(allows(&rules, "s0-friend", "", "s0:p"), "the other grant of the permission");
}

#[test]
fn deleting_a_role_a_permission_or_an_account_removes_all_references() {
    let mut rules = rules_of_accounts(5);
    // The grant of the previous account names the role of this one.
    assert!(allows(&rules, "", "s1:r", "s0:p") && allows(&rules, "", "s1:r", "s1:p"));
    let names = HashSet::from(["s1:r"]);
    rules.apply(rules.without_names(&names, None));
    rules.apply(rules.without_role("s1:r"));
    assert!(!allows(&rules, "", "s1:r", "s0:p") && !allows(&rules, "", "s1:r", "s1:p"));
    assert!(allows(&rules, "s0-friend", "", "s0:p"), "the slug of the grant stays");
    rules.apply(rules.without_names(&HashSet::new(), Some("s0-friend")));
    assert!(!rules.grants.contains_key("g0") && rules.grants.contains_key("g2"));

    rules.apply(rules.without_permission("s2:p"));
    assert!(!rules.role_has("s2:r", "s2:p") && !rules.grants.contains_key("g2"));
    assert_eq!(rules.grants_with_prefix("s3:").map(|id| &**id).collect::<Vec<_>>(), ["g3"]);
    assert_eq!(rules.roles_of("usr_3").map(|id| &**id).collect::<Vec<_>>(), ["s3:r"]);
    for n in 0..5 {
        rules.apply(rules.owned_by(&format!("usr_{n}")));
        assert!(rules.usage(&format!("usr_{n}")).is_empty());
    }
    assert_eq!((rules.roles.size(), rules.permissions.size(), rules.grants.size()), (0, 0, 0));
    assert_eq!(rules.bytes(), 0, "no memory is counted for removed rules");
}

#[test]
fn an_app_with_a_changed_host_is_found_only_by_the_new_one() {
    let mut rules = AccessRules::default();
    let row = |host: &str| {
        let (id, now) = ("app_1".to_owned(), Time::default());
        let app = serde_json::json!({ "id": id, "host": host, "createdAt": now, "updatedAt": now });
        Change::SaveApp(serde_json::from_value::<AppRow>(app).unwrap())
    };
    rules.apply(vec![row("a.example"), row("b.example")]);
    assert!(rules.apps.get("a.example").is_none() && rules.apps.get("b.example").is_some());
    rules.apply(vec![Change::DeleteApp("app_1".into())]);
    assert!(rules.apps.is_empty() && rules.app("app_1").is_none());
}
