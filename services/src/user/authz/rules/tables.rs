//! The tables of the stored rules, and the writes of each change.

use std::sync::Arc;

use openorch_store::{Batch, Filter, Store, StoreError, Table, Write};

use crate::user::authz::{
    rows::{
        APPS, AppRow, CONTACT_ENROLLS, DELEGATIONS, DelegationRow, GRANTS, GrantRow, PERMISSION_LINKS, PERMISSIONS,
        PermissionLinkRow, PermissionRow, ROLE_LINKS, ROLES, RoleRow,
    },
    rules::Change,
};

/// The tables through which changes are written.
pub struct RuleTables {
    roles: Table<RoleRow>,
    permissions: Table<PermissionRow>,
    links: Table<PermissionLinkRow>,
    grants: Table<GrantRow>,
    delegations: Table<DelegationRow>,
    apps: Table<AppRow>,
}

impl RuleTables {
    pub fn new(store: &Arc<dyn Store>) -> RuleTables {
        RuleTables {
            roles: Table::new(store.clone(), &ROLES),
            permissions: Table::new(store.clone(), &PERMISSIONS),
            links: Table::new(store.clone(), &PERMISSION_LINKS),
            grants: Table::new(store.clone(), &GRANTS),
            delegations: Table::new(store.clone(), &DELEGATIONS),
            apps: Table::new(store.clone(), &APPS),
        }
    }

    /// Adds the writes of a change to the batch.
    pub fn write(&self, batch: &mut Batch, change: &Change) -> Result<(), StoreError> {
        let write = match change {
            Change::SaveRole(row) => self.roles.upsert(&row.id, row)?,
            Change::DeleteRole(id) => {
                for collection in [ROLE_LINKS.name, CONTACT_ENROLLS.name] {
                    let filters = vec![Filter::equals("roleId", id.as_str())];
                    batch.push(Write::DeleteWhere { collection, filters });
                }
                self.roles.delete(id, None)
            }
            Change::SavePermission(row) => self.permissions.upsert(&row.id, row)?,
            Change::DeletePermission(id) => self.permissions.delete(id, None),
            Change::Link(row) => self.links.upsert(row.id(), row)?,
            // A filter tolerates a missing row, and a filter by id needs no scan of all links of the role.
            Change::Unlink(row) => {
                Write::DeleteWhere { collection: PERMISSION_LINKS.name, filters: vec![Filter::equals("id", row.id())] }
            }
            Change::SaveGrant(row) => self.grants.upsert(&row.id, row)?,
            Change::DeleteGrant(id) => self.grants.delete(id, None),
            Change::SaveDelegation(row) => self.delegations.upsert(&row.slug, row)?,
            Change::DeleteDelegation(slug) => self.delegations.delete(slug, None),
            Change::SaveApp(row) => self.apps.upsert(&row.id, row)?,
            Change::DeleteApp(id) => self.apps.delete(id, None),
        };
        batch.push(write);
        Ok(())
    }
}
