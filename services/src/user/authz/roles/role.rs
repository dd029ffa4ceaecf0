//! Roles: sets of permissions that are assigned to accounts.

use std::collections::HashSet;

use openorch_api::{
    Body, Json, Path, Query,
    query::PageRequest,
    user::{
        CreateRoleRequest, CreateRoleResponse, Empty, GetPermissionsByRoleResponse, GetRolesResponse,
        ListPermissionsRequest, ListPermissionsResponse, ROLE_DELETE, RoleId, SetRolePermissionsRequest, errors,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result};
use openorch_store::Batch;

use crate::{
    query::Paging,
    user::authz::{
        ownership::{check_id_prefix, check_link_quota, check_may_link, require_owner_or_permission},
        rows::{PermissionLinkRow, RoleRow},
        rules::{AccessRules, Change},
        state::Authz,
    },
};

/// The remedy if a whole list is too long.
pub const NAME_A_LIMIT: &str = "name a `limit`";
/// Built-in roles, which cannot be deleted.
const BUILT_IN: [&str; 2] = [openorch_api::role::ADMIN, openorch_api::role::USER];

pub async fn list(cx: Cx<Authz>, Query(request): Query<PageRequest>) -> Result<Json<GetRolesResponse>> {
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let rules = cx.rules();
    let rows = rules.roles.values().map(|row| ([row.name.as_str(), row.id.as_str()], row));
    let (rows, next) = paging.page(rows, "roles", NAME_A_LIMIT)?;
    Ok(Json(GetRolesResponse { roles: rows.into_iter().map(|row| (&**row).into()).collect(), next }))
}

pub async fn create(cx: Cx<Authz>, Body(request): Body<CreateRoleRequest>) -> Result<Json<CreateRoleResponse>> {
    let caller = cx.caller()?;
    check_id_prefix(caller, "role", &request.id)?;
    let now = cx.now();
    let mut row = RoleRow {
        id: request.id,
        name: request.name,
        description: request.description,
        owner_id: caller.user_id.to_string(),
        created_at: now,
        updated_at: now,
        going: false,
    };
    let mut saved = None;
    cx.change_rules_of(&cx, |rules| {
        if rules.deleting.contains(row.id.as_str()) {
            return Err(Error::new(
                &errors::ROLE_BEING_DELETED,
                format!(
                    "the role `{}` was deleted and is still being removed from accounts; try again in a moment",
                    row.id
                ),
            ));
        }
        match rules.roles.get(row.id.as_str()) {
            Some(known) if known.owner_id != row.owner_id => {
                return Err(Error::new(
                    &errors::ROLE_OF_ANOTHER,
                    format!("the role `{}` belongs to another account", row.id),
                ));
            }
            Some(known) => row.created_at = known.created_at,
            None => {}
        }
        let mut changes = vec![Change::SaveRole(row.clone())];
        if let Some(wanted) = &request.permission_ids {
            changes.extend(permission_changes(caller, rules, &row.id, wanted)?);
        }
        saved = Some((&row).into());
        Ok((changes, Batch::new()))
    })
    .await?;
    Ok(Json(CreateRoleResponse { role: saved.unwrap_or_default() }))
}

pub async fn delete(cx: Cx<Authz>, Path(id): Path<RoleId>) -> Result<Json<Empty>> {
    if BUILT_IN.contains(&id.0.as_str()) {
        return Err(Error::new(&errors::ROLE_BUILT_IN, format!("cannot delete default role `{}`", id.0)));
    }
    let caller = cx.caller()?;
    cx.change_rules(&cx.request.audit, |rules| {
        require_owner_or_permission(caller, rules, &find_role(rules, &id)?.owner_id, &ROLE_DELETE)?;
        let mut changes = rules.without_role(&id.0);
        changes.extend(rules.without_names(&HashSet::from([id.0.as_str()]), None));
        Ok((changes, Batch::new()))
    })
    .await?;
    cx.remove_deleted_roles().await;
    Ok(Json(Empty {}))
}

pub async fn permissions(
    cx: Cx<Authz>,
    (Path(id), Query(request)): (Path<RoleId>, Query<PageRequest>),
) -> Result<Json<GetPermissionsByRoleResponse>> {
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let rules = cx.rules();
    find_role(&rules, &id)?;
    let has = rules.permissions_of(&id.0).filter_map(|permission| rules.permissions.get(permission));
    let rows = has.map(|row| ([row.name.as_str(), row.id.as_str()], row));
    let (rows, next) = paging.page(rows, "permissions", NAME_A_LIMIT)?;
    Ok(Json(GetPermissionsByRoleResponse { permissions: rows.into_iter().map(|row| (&**row).into()).collect(), next }))
}

/// Only the owner of a role may change it (decision "Owners of roles"). Built-in roles have an owner that cannot sign
/// in, so admins change them; except the admins' own role, since no account could restore its permissions.
pub async fn set_permissions(
    cx: Cx<Authz>,
    (Path(id), Body(request)): (Path<RoleId>, Body<SetRolePermissionsRequest>),
) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    if id.0 == openorch_api::role::ADMIN {
        return Err(Error::new(
            &errors::ROLE_BUILT_IN,
            format!(
                "the permissions of the role `{}` cannot be replaced: add some with PUT /user-svc/roles/permissions",
                id.0
            ),
        ));
    }
    cx.change_rules_of(&cx, |rules| {
        let role = find_role(rules, &id)?;
        let acts_for_owner = caller.is_admin() && BUILT_IN.contains(&id.0.as_str());
        if *role.owner_id != *caller.user_id && !acts_for_owner {
            return Err(Error::new(
                &errors::ROLE_OF_ANOTHER,
                format!("cannot add permission to unowned role `{}`", id.0),
            ));
        }
        Ok((permission_changes(caller, rules, &id.0, &request.permission_ids)?, Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

pub async fn list_permissions(
    cx: Cx<Authz>,
    Body(request): Body<ListPermissionsRequest>,
) -> Result<Json<ListPermissionsResponse>> {
    let caller = cx.caller()?;
    let paging = Paging::new(request.limit, request.after, cx.platform.max_unpaged_list)?;
    let foreign = request.roles.iter().find(|role| caller.roles.binary_search_by(|own| (**own).cmp(role)).is_err());
    if let (Some(role), false) = (foreign, caller.is_admin()) {
        return Err(Error::new(
            &errors::ROLE_NOT_HELD,
            format!("you do not have the role `{role}`; ask for roles of your own"),
        ));
    }
    let rules = cx.rules();
    let roles: HashSet<&str> = match request.roles.is_empty() {
        true => caller.roles.iter().map(|role| &**role).collect(),
        false => request.roles.iter().map(String::as_str).collect(),
    };
    let permissions: HashSet<_> = roles.into_iter().flat_map(|role| rules.permissions_of(role)).collect();
    let ids = permissions.into_iter().map(|id| ([&**id], id));
    let (ids, next) = paging.page(ids, "permissions", "name fewer roles or a `limit`")?;
    Ok(Json(ListPermissionsResponse { permissions: ids.into_iter().map(|id| id.to_string()).collect(), next }))
}

/// The owner of a role, for operations that exempt the owner.
pub fn owner(authz: &Authz, id: &RoleId) -> Result<String> {
    find_role(&authz.rules(), id).map(|row| row.owner_id.clone())
}

fn find_role<'a>(rules: &'a AccessRules, id: &RoleId) -> Result<&'a RoleRow> {
    match rules.roles.get(id.0.as_str()) {
        Some(row) => Ok(row),
        None => Err(Error::new(
            &errors::NO_SUCH_ROLE,
            format!("cannot find role `{}`; GET /user-svc/roles lists them", id.0),
        )),
    }
}

/// The changes that leave a role with exactly these permissions. Only added ones are checked; those it already has may
/// belong to any account.
fn permission_changes(caller: &Caller, rules: &AccessRules, role: &str, wanted: &[String]) -> Result<Vec<Change>> {
    let link = |permission: &str| PermissionLinkRow { permission_id: permission.to_owned(), role_id: role.to_owned() };
    let mut changes = Vec::new();
    for id in wanted.iter().filter(|id| !rules.role_has(role, id)) {
        check_may_link(caller, rules, id)?;
        changes.push(Change::Link(link(id)));
    }
    let wanted: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let removed = rules.permissions_of(role).filter(|id| !wanted.contains(&***id));
    changes.extend(removed.map(|id| Change::Unlink(link(id))));
    check_link_quota(caller, rules, &changes)?;
    Ok(changes)
}
