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
        rules::{Change, Rules, usage},
    },
    shared::shown::shown,
};

/// Maximum number of permissions of one account in a role.
pub const MAX_PERMISSIONS: usize = 1000;
/// Maximum number of its permissions that an account may add to a role of another account.
const MAX_IN_FOREIGN_ROLE: usize = 100;

/// Checks an id chosen by the caller: `<its slug>:…`, each part of letters, digits, `_`, `.` and `-`.
pub fn own_id(caller: &Caller, what: &str, id: &str) -> Result<()> {
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
pub fn refuse_stranger(caller: &Caller, rules: &Rules, owner_id: &str, permission: &Permission) -> Result<()> {
    if *owner_id == *caller.user_id || rules.allow(caller, permission.id) {
        return Ok(());
    }
    Err(Error::new(&access::NOT_OWNER, "only the owner and admins may do this"))
}

/// Only the owner of a permission and admins may link it to roles.
pub fn may_link(caller: &Caller, rules: &Rules, id: &str) -> Result<()> {
    let row = known_permission(rules, id)?;
    if *row.owner_id != *caller.user_id && !caller.is_admin() {
        return Err(Error::new(&errors::PERMISSION_OF_ANOTHER, format!("not an owner of the permission `{id}`")));
    }
    Ok(())
}

pub fn known_permission<'a>(rules: &'a Rules, id: &str) -> Result<&'a PermissionRow> {
    let shown = shown(id);
    rules.permissions.get(id).map(AsRef::as_ref).ok_or_else(|| {
        Error::new(
            &errors::NO_SUCH_PERMISSION,
            format!("cannot find permission `{shown}`; its service saves it with PUT /user-svc/permissions"),
        )
    })
}

/// Limits how many of its permissions an account may add to a role. Permissions of other accounts are not counted, or
/// they could prevent the owner from adding any; nor are permissions removed by the same change.
pub fn refuse_too_many_links(caller: &Caller, rules: &Rules, changes: &[Change]) -> Result<()> {
    let mut fresh: HashMap<&str, HashSet<&str>> = HashMap::new();
    let mut gone = HashSet::new();
    for change in changes {
        match change {
            Change::Link(link) => _ = fresh.entry(&link.role_id).or_default().insert(&link.permission_id),
            Change::Unlink(link) => _ = gone.insert((link.role_id.as_str(), link.permission_id.as_str())),
            _ => {}
        }
    }
    if !usage::is_limited(caller) {
        return Ok(());
    }
    for (role, permissions) in &fresh {
        let is_foreign = rules.roles.get(*role).is_some_and(|row| *row.owner_id != *caller.user_id);
        let (most, whose) = match is_foreign {
            true => (MAX_IN_FOREIGN_ROLE, "another account's role"),
            false => (MAX_PERMISSIONS, "a role"),
        };
        let is_own = |id: &str| rules.permissions.get(id).is_some_and(|row| *row.owner_id == *caller.user_id);
        let stays = |id: &&Arc<str>| !permissions.contains(&***id) && !gone.contains(&(*role, &***id)) && is_own(id);
        if rules.permissions_of(role).filter(stays).count() + permissions.len() > most {
            return Err(Error::new(
                &errors::QUOTA_REACHED,
                format!("{whose} may have at most {most} permissions of one account; create another role"),
            ));
        }
    }
    Ok(())
}
