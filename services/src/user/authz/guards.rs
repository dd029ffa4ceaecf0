//! Guards that keep an account's rights unchanged until a commit that depends on them.

use openorch_chassis::Caller;
use openorch_store::{Batch, Filter, Guard};

use crate::user::{
    authz::{
        roles::assignable::is_under_own_slug,
        rows::{ROLE_LINKS, RoleLinkRow, app_of},
    },
    shared::rows::{ALL_APPS, DEFAULT_APP, TOMBSTONES, USERS, id_tombstone},
};

/// The assigner still exists, and is still an admin if it acts as one.
pub fn assigner_guards(assigner: &Caller) -> Batch {
    let batch = Batch::new().require(Guard::Exists { collection: USERS.name, id: assigner.user_id.to_string() });
    admin_guard(assigner).into_iter().fold(batch, Batch::require)
}

/// The account is not being deleted.
pub fn is_not_being_deleted(user_id: &str) -> Guard {
    Guard::Absent { collection: TOMBSTONES.name, id: id_tombstone(user_id) }
}

/// A caller that acts as an admin is still one.
pub fn admin_guard(caller: &Caller) -> Option<Guard> {
    let as_admin = RoleLinkRow::id_of(DEFAULT_APP, &caller.user_id, openorch_api::role::ADMIN);
    caller.is_admin().then_some(Guard::Exists { collection: ROLE_LINKS.name, id: as_admin })
}

/// The assigner may still assign a role that is not under its slug: it is still an admin, or still has the `admin` role
/// with the same prefix.
pub fn assignment_guard(giver: &Caller, role_id: &str, app: &str) -> Option<Guard> {
    if giver.is_admin() {
        return admin_guard(giver);
    }
    let prefix = role_id.rsplit_once(':').map(|(prefix, _)| prefix).filter(|_| !is_under_own_slug(giver, role_id))?;
    Some(role_guard(app, &giver.user_id, &format!("{prefix}:admin")))
}

/// An account still has a role, in this app or in all.
pub fn role_guard(app: &str, user_id: &str, role_id: &str) -> Guard {
    let ids = [app_of(role_id, app), ALL_APPS].map(|app| RoleLinkRow::id_of(app, user_id, role_id));
    Guard::at_least(ROLE_LINKS.name, vec![Filter::is_in("id", ids)], 1)
}
