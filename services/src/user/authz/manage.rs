//! Who may manage which account. Accounts exist across all apps, while the right to manage them is per app: it is
//! needed in each app of the account. A caller who could take over an account must not gain rights by it.

use std::{collections::HashSet, sync::Arc};

use openorch_api::{
    Permission,
    error::access,
    role,
    user::{DELEGATION_EDIT, errors},
};
use openorch_chassis::{Caller, Error, Result, audit::CallAudit};

use crate::user::{
    authz::{
        roles::{assignable::may_assign, organization::organization_of},
        rules::AccessRules,
        state::Authz,
    },
    shared::rows::{DEFAULT_APP, UserRow},
};

impl Authz {
    /// The caller with its current rights, and a check of the permission: both may have changed while the call waited.
    pub async fn current_caller(&self, caller: &Caller, permission: &Permission) -> Result<Caller> {
        let account = self.require_account(&caller.user_id).await?;
        let Caller { session_id, audience, .. } = caller.clone();
        let now = Caller { session_id, audience, ..account.caller_in(&caller.app) };
        if !self.allows(&now, permission.id) {
            return Err(Error::new(
                &access::PERMISSION_MISSING,
                format!("the account `{}` lacks the permission `{}`; an admin can give it", caller.slug, permission.id),
            ));
        }
        Ok(now)
    }

    /// Requires `permission` in the account's home app and in every other app of which it is a member; see
    /// [`Account::managed_in`](crate::user::authz::accounts::account::Account::managed_in).
    pub async fn require_management(
        &self,
        call: &CallAudit,
        caller: &Caller,
        user: &UserRow,
        permission: &Permission,
    ) -> Result<()> {
        let Some(account) = self.account(&user.id).await?.filter(|_| !caller.is_admin()) else { return Ok(()) };
        let own = self.require_account(&caller.user_id).await?;
        match account.managed_in().find(|app| !self.allows(&own.caller_in(app), permission.id)) {
            None => {
                let rules = self.rules();
                account.managed_in().for_each(|app| {
                    call.require_permission_guards(rules.permission_guards(&own.caller_in(app), permission.id));
                });
                Ok(())
            }
            Some(app) => Err(Error::new(
                &access::PERMISSION_MISSING,
                format!(
                    "`{}` is in the app `{}`, where you lack the permission `{}`: managing an account needs it in every app \
                     that the account is in; ask an admin",
                    user.slug,
                    self.app(app).host,
                    permission.id
                ),
            )),
        }
    }

    /// Requires what [`Authz::require_management`] does, and that the account has no right that the caller lacks: for
    /// operations that let the caller sign in as the account, or take it away.
    ///
    /// Only rights over the platform count: permissions of built-in services, whether by role, grant or permit, and
    /// delegations. Permissions that other services define must not prevent support for their users.
    pub async fn require_takeover(
        &self,
        call: &CallAudit,
        caller: &Caller,
        user: &UserRow,
        permission: &Permission,
    ) -> Result<()> {
        let Some(account) = self.account(&user.id).await?.filter(|_| !caller.is_admin()) else { return Ok(()) };
        if account.roles_in(DEFAULT_APP).iter().any(|role| **role == *role::ADMIN) {
            return Err(Error::new(
                &errors::ADMINS_ONLY,
                format!("`{}` is an admin: only admins may do this", user.slug),
            ));
        }
        self.require_management(call, caller, user, permission).await?;
        let own = self.require_account(&caller.user_id).await?;
        let rules = self.rules();
        let powerful = privileged_roles(&rules);
        // All apps, since an account may assign the roles under its slug in any app, and becomes a member of an app
        // through any organization that adds it.
        let apps = rules.apps.values().map(|row| &*row.id).chain(account.apps()).chain([DEFAULT_APP]);
        for app in apps {
            let (theirs, own) = (with_assignable_roles(account.caller_in(app), &powerful), own.caller_in(app));
            let excess = openorch_api::permissions()
                .filter(|permission| !permission.granted_to.contains(&role::USER))
                .find(|permission| rules.allow(&theirs, permission.id) && !rules.allow(&own, permission.id));
            if let Some(permission) = excess {
                return Err(Error::new(
                    &errors::ACCOUNT_MAY_MORE,
                    format!(
                        "`{}` has the permission `{}`, or could assign itself a role with it, and you lack it; ask an admin",
                        user.slug, permission.id
                    ),
                ));
            }
        }
        // A service with a delegation acts with the rights of all its callers, including admins.
        let is_delegate = rules.is_delegate(&user.slug);
        if is_delegate && !rules.allow(&own.caller_in(DEFAULT_APP), DELEGATION_EDIT.id) {
            return Err(Error::new(
                &errors::ACCOUNT_MAY_MORE,
                format!(
                    "`{}` acts for its callers by a delegation, so this needs the permission `{}`; ask an admin",
                    user.slug, DELEGATION_EDIT.id
                ),
            ));
        }
        Ok(())
    }
}

/// Roles with permissions of built-in services, by link or permit. A permit may name roles that do not exist yet.
fn privileged_roles(rules: &AccessRules) -> HashSet<&str> {
    let built_in: HashSet<&str> = openorch_api::permissions().map(|permission| permission.id).collect();
    let has_one = |role: &str| rules.permissions_of(role).any(|id| built_in.contains(&**id));
    let linked = rules.roles.keys().map(|role| &**role).filter(|role| has_one(role));
    let permits = rules.grants.values().filter(|row| built_in.contains(row.permission_id.as_str()));
    linked.chain(permits.flat_map(|row| row.role_ids.iter().map(String::as_str))).collect()
}

/// The caller with the privileged roles that it could assign to itself, such as those under its slug and of
/// organizations that it administers, to which an admin may have added platform rights.
fn with_assignable_roles(caller: Caller, powerful: &HashSet<&str>) -> Caller {
    let givable =
        powerful.iter().filter(|role| may_assign(&caller, role, &caller.app) || is_of_own_organization(&caller, role));
    let mut roles: Vec<Box<str>> = caller.roles.iter().cloned().chain(givable.map(|role| (**role).into())).collect();
    roles.sort();
    roles.dedup();
    let roles: Arc<[Box<str>]> = roles.into();
    let default_app_roles = match *caller.app == *DEFAULT_APP {
        true => roles.clone(),
        false => caller.default_app_roles.clone(),
    };
    Caller { roles, default_app_roles, ..caller }
}

/// Whether the role belongs to an organization with an id under the caller's slug. A permit may name an organization
/// that does not exist yet, and only this account or an admin can create it.
fn is_of_own_organization(caller: &Caller, role: &str) -> bool {
    let owner = organization_of(role).and_then(|id| id.split_once(':'));
    owner.is_some_and(|(slug, _)| *slug == *caller.slug)
}
