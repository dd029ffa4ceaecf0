//! Ownership of roles and permissions: the ids that an account may use, who may change what, and who may link a
//! permission to a role.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use openorch_api::{Permission, error::access, user::errors};
use openorch_chassis::{Caller, Error, Result};

use crate::user::{
    authz::{
        rows::PermissionRow,
        rules::{AccessRules, Change, usage},
    },
    shared::quote::quote,
};

/// Maximum number of permissions of one account in a role.
pub const MAX_PERMISSIONS: usize = 1000;
/// Maximum number of its permissions that an account may add to a role of another account.
const MAX_IN_FOREIGN_ROLE: usize = 100;

/// Checks an id chosen by the caller: `<its slug>:…`, each part of letters, digits, `_`, `.` and `-`.
pub fn check_id_prefix(caller: &Caller, what: &str, id: &str) -> Result<()> {
    match id.split_once(':') {
        Some((slug, _)) if *slug == *caller.slug => Ok(()),
        _ => Err(Error::new(
            &errors::FOREIGN_PREFIX,
            format!("created {what} id must be prefixed by caller slug: `{id}` must start with `{}:`", caller.slug),
        )),
    }
}

/// Requires the permission unless the caller is the owner. Repeated under the lock of the rules, since rights may have
/// changed while the caller waited.
pub fn require_owner_or_permission(
    caller: &Caller,
    rules: &AccessRules,
    owner_id: &str,
    permission: &Permission,
) -> Result<()> {
    if *owner_id == *caller.user_id || rules.allow(caller, permission.id) {
        return Ok(());
    }
    Err(Error::new(&access::NOT_OWNER, "only the owner and admins may do this"))
}

/// Only the owner of a permission and admins may link it to roles.
pub fn check_may_link(caller: &Caller, rules: &AccessRules, id: &str) -> Result<()> {
    let row = find_permission(rules, id)?;
    if *row.owner_id != *caller.user_id && !caller.is_admin() {
        return Err(Error::new(&errors::PERMISSION_OF_ANOTHER, format!("not an owner of the permission `{id}`")));
    }
    Ok(())
}

pub fn find_permission<'a>(rules: &'a AccessRules, id: &str) -> Result<&'a PermissionRow> {
    let shown = quote(id);
    rules.permissions.get(id).map(AsRef::as_ref).ok_or_else(|| {
        Error::new(
            &errors::NO_SUCH_PERMISSION,
            format!("cannot find permission `{shown}`; its service saves it with PUT /user-svc/permissions"),
        )
    })
}

/// Limits how many of its permissions an account may add to a role. Permissions of other accounts are not counted, or
/// they could prevent the owner from adding any; nor are permissions removed by the same change.
pub fn check_link_quota(caller: &Caller, rules: &AccessRules, changes: &[Change]) -> Result<()> {
    let mut added: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut removed = HashSet::new();
    for change in changes {
        match change {
            Change::Link(link) => _ = added.entry(&link.role_id).or_default().insert(&link.permission_id),
            Change::Unlink(link) => _ = removed.insert((link.role_id.as_str(), link.permission_id.as_str())),
            _ => {}
        }
    }
    if !usage::is_limited(caller) {
        return Ok(());
    }
    for (role, permissions) in &added {
        let is_foreign = rules.roles.get(*role).is_some_and(|row| *row.owner_id != *caller.user_id);
        let (max, subject) = match is_foreign {
            true => (MAX_IN_FOREIGN_ROLE, "another account's role"),
            false => (MAX_PERMISSIONS, "a role"),
        };
        let is_own = |id: &str| rules.permissions.get(id).is_some_and(|row| *row.owner_id == *caller.user_id);
        let remains =
            |id: &&Arc<str>| !permissions.contains(&***id) && !removed.contains(&(*role, &***id)) && is_own(id);
        if rules.permissions_of(role).filter(remains).count() + permissions.len() > max {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!("{subject} may have at most {max} permissions of one account; create another role"),
            ));
        }
    }
    Ok(())
}
