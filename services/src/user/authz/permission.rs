//! Permissions, which services define and check.

use openorch_api::{
    Body, Json, Path,
    user::{
        AssignPermissionsRequest, Empty, PERMISSION_DELETE, PermissionId, SavePermissionsRequest,
        SavePermissionsResponse, errors,
    },
};
use openorch_chassis::{Cx, Error, Result};
use openorch_store::Batch;

use crate::user::authz::{
    ownership::{check_id_prefix, check_link_quota, check_may_link, find_permission, require_owner_or_permission},
    rows::{PermissionLinkRow, PermissionRow},
    rules::Change,
    state::Authz,
};

pub async fn save(cx: Cx<Authz>, Body(request): Body<SavePermissionsRequest>) -> Result<Json<SavePermissionsResponse>> {
    let caller = cx.caller()?;
    for input in &request.permissions {
        check_id_prefix(caller, "permission", &input.id)?;
    }
    let now = cx.now();
    let mut saved = Vec::new();
    cx.change_rules_of(&cx, |rules| {
        let mut changes = Vec::new();
        for input in request.permissions {
            let existing = rules.permissions.get(input.id.as_str());
            if existing.is_some_and(|row| *row.owner_id != *caller.user_id) {
                return Err(Error::new(
                    &errors::PERMISSION_OF_ANOTHER,
                    format!("cannot update unowned permission `{}`", input.id),
                ));
            }
            let row = PermissionRow {
                id: input.id,
                name: input.name,
                description: input.description,
                owner_id: caller.user_id.to_string(),
                created_at: existing.map_or(now, |row| row.created_at),
                updated_at: now,
            };
            saved.push((&row).into());
            // A service saves the same permissions at every start.
            if existing.is_none_or(|known| (&known.name, &known.description) != (&row.name, &row.description)) {
                changes.push(Change::SavePermission(row));
            }
        }
        Ok((changes, Batch::new()))
    })
    .await?;
    Ok(Json(SavePermissionsResponse { permissions: saved }))
}

pub async fn delete(cx: Cx<Authz>, Path(id): Path<PermissionId>) -> Result<Json<Empty>> {
    if openorch_api::permissions().any(|permission| permission.id == id.0) {
        return Err(Error::new(
            &errors::PERMISSION_BUILT_IN,
            format!("`{}` belongs to a built-in service and cannot be deleted", id.0),
        ));
    }
    let caller = cx.caller()?;
    cx.change_rules(&cx.request.audit, |rules| {
        require_owner_or_permission(caller, rules, &find_permission(rules, &id.0)?.owner_id, &PERMISSION_DELETE)?;
        Ok((rules.without_permission(&id.0), Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

pub async fn assign(cx: Cx<Authz>, Body(request): Body<AssignPermissionsRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    cx.change_rules_of(&cx, |rules| {
        let mut changes = Vec::new();
        for link in request.permission_links {
            if !rules.roles.contains_key(link.role_id.as_str()) {
                return Err(Error::new(&errors::NO_SUCH_ROLE, format!("cannot find role `{}`", link.role_id)));
            }
            check_may_link(caller, rules, &link.permission_id)?;
            if !rules.role_has(&link.role_id, &link.permission_id) {
                changes
                    .push(Change::Link(PermissionLinkRow { permission_id: link.permission_id, role_id: link.role_id }));
            }
        }
        check_link_quota(caller, rules, &changes)?;
        Ok((changes, Batch::new()))
    })
    .await?;
    Ok(Json(Empty {}))
}

/// The owner of a permission, for operations that exempt the owner.
pub fn owner(authz: &Authz, id: &PermissionId) -> Result<String> {
    find_permission(&authz.rules(), &id.0).map(|row| row.owner_id.clone())
}
