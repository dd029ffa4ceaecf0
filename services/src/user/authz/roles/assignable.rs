//! Who may assign which role.

use openorch_api::user::errors;
use openorch_chassis::{Caller, Error, Result};

use crate::user::shared::{quote::quote, rows::ALL_APPS};

/// Admins may assign all roles; an account may assign those under its slug in any app; an account with the `admin` role
/// of a prefix may assign the others with this prefix in its app.
pub fn may_assign(caller: &Caller, role: &str, app: &str) -> bool {
    if app == ALL_APPS {
        return caller.is_admin();
    }
    let has_admin_role = |prefix: &str| caller.roles.iter().any(|own| own.strip_suffix(":admin") == Some(prefix));
    let is_beside = *caller.app == *app && role.rsplit_once(':').is_some_and(|(prefix, _)| has_admin_role(prefix));
    caller.is_admin() || is_under_own_slug(caller, role) || is_beside
}

/// A new account may get the roles that its creator may assign, and the initial role of accounts in the creator's app.
pub fn check_initial_roles(caller: &Caller, roles: &[String], app: &str) -> Result<()> {
    let may = |role: &str| (role == openorch_api::role::USER && *caller.app == *app) || may_assign(caller, role, app);
    match roles.iter().find(|role| !may(role)) {
        Some(role) => Err(not_assignable(role)),
        None => Ok(()),
    }
}

pub fn is_under_own_slug(caller: &Caller, role: &str) -> bool {
    role.split_once(':').is_some_and(|(slug, _)| *slug == *caller.slug)
}

pub fn not_assignable(role: &str) -> Error {
    Error::new(
        &errors::ROLE_NOT_GIVABLE,
        format!(
            "you may not assign the role `{}`: only admins, the account of the slug that it starts with, and \
             accounts with the `admin` role of the same prefix may",
            quote(role)
        ),
    )
}
