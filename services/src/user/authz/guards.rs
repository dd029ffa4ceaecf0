//! Guards that keep an account's rights unchanged until a commit that depends on them.

use openorch_chassis::Caller;
use openorch_store::{Batch, Filter, Guard};

use crate::user::{
    authz::{
        roles::givable::is_under_own_slug,
        rows::{ROLE_LINKS, RoleLinkRow, app_of},
    },
    shared::rows::{ALL_APPS, DEFAULT_APP, TOMBSTONES, USERS, id_tombstone},
};

/// The assigner still exists, and is still an admin if it acts as one.
pub fn still_gives(giver: &Caller) -> Batch {
    let there = Batch::new().require(Guard::Exists { collection: USERS.name, id: giver.user_id.to_string() });
    still_admin(giver).into_iter().fold(there, Batch::require)
}

/// The account is not being deleted.
pub fn is_not_being_deleted(user_id: &str) -> Guard {
    Guard::Absent { collection: TOMBSTONES.name, id: id_tombstone(user_id) }
}

/// A caller that acts as an admin is still one.
pub fn still_admin(caller: &Caller) -> Option<Guard> {
    let as_admin = RoleLinkRow::id_of(DEFAULT_APP, &caller.user_id, openorch_api::role::ADMIN);
    caller.is_admin().then_some(Guard::Exists { collection: ROLE_LINKS.name, id: as_admin })
}

/// The assigner may still assign a role that is not under its slug: it is still an admin, or still has the `admin` role
/// with the same prefix.
pub fn still_gives_role(giver: &Caller, role_id: &str, app: &str) -> Option<Guard> {
    if giver.is_admin() {
        return still_admin(giver);
    }
    let prefix = role_id.rsplit_once(':').map(|(prefix, _)| prefix).filter(|_| !is_under_own_slug(giver, role_id))?;
    Some(still_has_role(app, &giver.user_id, &format!("{prefix}:admin")))
}

/// An account still has a role, in this app or in all.
pub fn still_has_role(app: &str, user_id: &str, role_id: &str) -> Guard {
    let ids = [app_of(role_id, app), ALL_APPS].map(|app| RoleLinkRow::id_of(app, user_id, role_id));
    Guard::at_least(ROLE_LINKS.name, vec![Filter::is_in("id", ids)], 1)
}
