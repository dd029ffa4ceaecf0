//! Access rules: roles, permissions, grants, delegations and apps. All are cached in memory (decision "Access rules in
//! memory"). Changes are serialized: each is decided on the cache, committed, and only then visible to checks.

pub mod change;
mod index;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod usage;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
};

use openorch_chassis::Caller;
use openorch_store::{Filter, Guard, Query, Store, StoreError, Table};

use crate::user::{
    authz::{
        guards::role_guard,
        rows::{
            APPS, AppRow, DELEGATIONS, DelegationRow, GRANTS, GrantRow, PERMISSION_LINKS, PERMISSIONS,
            PermissionLinkRow, PermissionRow, ROLES, RoleRow,
        },
        rules::{
            index::{GrantIndex, Ids, Map, PairIndex, get_or_insert},
            usage::Usage,
        },
    },
    shared::rows::{ALL_APPS, DEFAULT_APP},
};

/// See [`openorch_api::Permission::platform_scoped`].
static PLATFORM_SCOPED: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    openorch_api::permissions()
        .filter(|permission| permission.platform_scoped)
        .map(|permission| permission.id)
        .collect()
});

/// A snapshot of the rules for checks and lists. Copies are cheap, and a change costs only what it touches.
#[derive(Clone, Default)]
pub struct AccessRules {
    pub roles: Map<Arc<RoleRow>>,
    /// Roles being deleted: they grant nothing, but their ids are not free yet.
    pub deleting: Ids,
    pub permissions: Map<Arc<PermissionRow>>,
    pub grants: Map<Arc<GrantRow>>,
    /// By the slug of the service.
    pub delegations: Map<Arc<DelegationRow>>,
    /// By host.
    pub apps: Map<Arc<AppRow>>,
    apps_by_id: Map<Arc<AppRow>>,
    /// The permissions linked to a role.
    permissions_by_role: Map<Ids>,
    /// The slugs and roles that have a permission by grants.
    granted: Map<GrantIndex>,
    /// The roles linked to a permission.
    roles_by_permission: PairIndex,
    /// The grants of a permission, and those that name a role or a slug.
    grants_by_permission: PairIndex,
    grants_by_role: PairIndex,
    grants_by_slug: PairIndex,
    /// By owner.
    owned_roles: PairIndex,
    owned_permissions: PairIndex,
    owned_grants: PairIndex,
    /// The resources used by each account, by its id.
    usage: Map<Usage>,
    /// Estimated memory of all roles, permissions, links and grants.
    bytes: usize,
}

/// One change of the rules, applied to the store and then to the cache.
#[derive(Clone, Debug)]
pub enum Change {
    SaveRole(RoleRow),
    /// Deletes a role that is being deleted, with its last assignments.
    DeleteRole(String),
    SavePermission(PermissionRow),
    /// Its links and grants are removed by other changes.
    DeletePermission(String),
    Link(PermissionLinkRow),
    Unlink(PermissionLinkRow),
    SaveGrant(GrantRow),
    DeleteGrant(String),
    SaveDelegation(DelegationRow),
    DeleteDelegation(String),
    SaveApp(AppRow),
    DeleteApp(String),
}

impl AccessRules {
    /// Loads all stored rules.
    pub async fn read(store: &Arc<dyn Store>) -> Result<AccessRules, StoreError> {
        let all = Query::all();
        let mut changes = Vec::new();
        // Permissions first, since a link counts against the owner of its permission.
        let permissions = Table::<PermissionRow>::new(store.clone(), &PERMISSIONS).find(&all).await?;
        changes.extend(permissions.into_iter().map(|row| Change::SavePermission(row.value)));
        let roles = Table::<RoleRow>::new(store.clone(), &ROLES).find(&all).await?;
        changes.extend(roles.into_iter().map(|row| Change::SaveRole(row.value)));
        let links = Table::<PermissionLinkRow>::new(store.clone(), &PERMISSION_LINKS).find(&all).await?;
        changes.extend(links.into_iter().map(|row| Change::Link(row.value)));
        let delegations = Table::<DelegationRow>::new(store.clone(), &DELEGATIONS).find(&all).await?;
        changes.extend(delegations.into_iter().map(|row| Change::SaveDelegation(row.value)));
        let apps = Table::<AppRow>::new(store.clone(), &APPS).find(&all).await?;
        changes.extend(apps.into_iter().map(|row| Change::SaveApp(row.value)));
        let grants = Table::<GrantRow>::new(store.clone(), &GRANTS).find(&all).await?;
        changes.extend(grants.into_iter().map(|row| Change::SaveGrant(row.value)));
        let mut rules = AccessRules::default();
        rules.apply(changes);
        Ok(rules)
    }

    /// The app with this id, except the default one.
    pub fn app(&self, id: &str) -> Option<&Arc<AppRow>> {
        self.apps_by_id.get(id)
    }

    /// The resources used by an account.
    pub fn usage(&self, user_id: &str) -> Usage {
        self.usage.get(user_id).cloned().unwrap_or_default()
    }

    /// Estimated memory of all roles, permissions, links and grants.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the caller has the permission through its roles, or through grants to them or to its slug.
    pub fn allow(&self, caller: &Caller, permission: &str) -> bool {
        let allow = |app: &str, roles: &[Box<str>]| {
            let by_role = roles.iter().any(|role| self.role_has(role, permission));
            by_role || self.is_granted(app, &caller.slug, roles, permission)
        };
        if !allow(&caller.app, &caller.roles) {
            return false;
        }
        // A permission held only in one app does not give access to platform-scoped resources.
        matches!(&*caller.app, DEFAULT_APP | ALL_APPS)
            || !PLATFORM_SCOPED.contains(permission)
            || allow(DEFAULT_APP, &caller.default_app_roles)
    }

    /// Guards that the caller still has the permission: one way by which it has it, in each app that counts.
    pub fn permission_guards(&self, caller: &Caller, permission: &str) -> Vec<Guard> {
        let mut guards = self.permission_guards_in(&caller.app, &caller.roles, caller, permission);
        if !matches!(&*caller.app, DEFAULT_APP | ALL_APPS) && PLATFORM_SCOPED.contains(permission) {
            guards.extend(self.permission_guards_in(DEFAULT_APP, &caller.default_app_roles, caller, permission));
        }
        guards
    }

    fn permission_guards_in(&self, app: &str, roles: &[Box<str>], caller: &Caller, permission: &str) -> Vec<Guard> {
        if let Some(role) = roles.iter().find(|role| self.role_has(role, permission)) {
            let link = PermissionLinkRow { permission_id: permission.to_owned(), role_id: role.to_string() };
            return vec![
                role_guard(app, &caller.user_id, role),
                Guard::Exists { collection: PERMISSION_LINKS.name, id: link.id() },
            ];
        }
        for grant in self.grants_by_permission.get(permission).filter_map(|id| self.grants.get(&**id)) {
            if grant.app != app && grant.app != ALL_APPS {
                continue;
            }
            let by_slug = grant.slugs.iter().any(|slug| *slug == *caller.slug);
            let role = roles.iter().find(|role| grant.role_ids.iter().any(|id| **id == ***role));
            let (names, who) = match (by_slug, role) {
                (true, _) => (Filter::intersects("slugs", [&*caller.slug]), None),
                (false, Some(role)) => (Filter::intersects("roleIds", [&**role]), Some(role)),
                (false, None) => continue,
            };
            let same = [
                Filter::equals("id", grant.id.as_str()),
                Filter::equals("permissionId", permission),
                Filter::is_in("app", [app, ALL_APPS]),
                names,
            ];
            let has_role = who.map(|role| role_guard(app, &caller.user_id, role));
            return has_role.into_iter().chain([Guard::at_least(GRANTS.name, same.into(), 1)]).collect();
        }
        Vec::new()
    }

    fn is_granted(&self, app: &str, slug: &str, roles: &[Box<str>], permission: &str) -> bool {
        self.granted.get(permission).is_some_and(|granted| granted.has(app, slug, roles))
    }

    pub fn role_has(&self, role: &str, permission: &str) -> bool {
        self.permissions_by_role.get(role).is_some_and(|permissions| permissions.contains(permission))
    }

    /// Whether a service may call this operation for its callers.
    pub fn delegation_allows(&self, service: &str, operation: &str) -> bool {
        self.delegations.get(service).is_some_and(|row| row.operations.iter().any(|id| id == operation))
    }

    /// Whether a service may forward its callers' tokens to another.
    pub fn may_forward_to(&self, service: &str, to: &str) -> bool {
        self.delegations.get(service).is_some_and(|row| row.services.iter().any(|slug| slug == to))
    }

    /// Whether an account with this slug may act with the rights of others: it has a delegation, or other services may
    /// forward their callers' tokens to it.
    pub fn is_delegate(&self, slug: &str) -> bool {
        self.delegations.contains_key(slug)
            || self.delegations.values().any(|row| row.services.iter().any(|named| named == slug))
    }

    /// The permissions linked to a role.
    pub fn permissions_of<'a>(&'a self, role: &str) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.permissions_by_role.get(role).into_iter().flat_map(|permissions| permissions.iter())
    }

    /// Applies the changes in order.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::SaveRole(row) => self.save_role(row),
                Change::DeleteRole(id) => _ = self.deleting.remove_mut(id.as_str()),
                Change::SavePermission(row) => self.save_permission(row),
                Change::DeletePermission(id) => self.remove_permission(&id),
                Change::Link(link) => self.link(&link),
                Change::Unlink(link) => self.unlink(&link.role_id, &link.permission_id),
                Change::SaveGrant(row) => self.save_grant(row),
                Change::DeleteGrant(id) => self.remove_grant(&id),
                Change::SaveDelegation(row) => self.delegations.insert_mut(row.slug.as_str().into(), Arc::new(row)),
                Change::DeleteDelegation(slug) => _ = self.delegations.remove_mut(slug.as_str()),
                Change::SaveApp(row) => {
                    self.remove_app(&row.id);
                    let row = Arc::new(row);
                    self.apps_by_id.insert_mut(row.id.as_str().into(), row.clone());
                    self.apps.insert_mut(row.host.as_str().into(), row);
                }
                Change::DeleteApp(id) => self.remove_app(&id),
            }
        }
    }

    fn save_role(&mut self, row: RoleRow) {
        let id: Arc<str> = row.id.as_str().into();
        if let Some(before) = self.roles.get(&id).cloned() {
            self.roles.remove_mut(&id);
            let owner = self.update_usage(&before.owner_id, |usage| usage.remove_role(&before));
            self.owned_roles.remove(&owner, &id);
        }
        if row.going {
            let permissions: Vec<Arc<str>> = self.permissions_of(&id).cloned().collect();
            permissions.iter().for_each(|permission| self.unlink(&id, permission));
            self.deleting.insert_mut(id);
        } else {
            let owner = self.update_usage(&row.owner_id, |usage| usage.add_role(&row));
            self.owned_roles.insert(&owner, &id);
            self.roles.insert_mut(id, Arc::new(row));
        }
    }

    fn save_permission(&mut self, row: PermissionRow) {
        // Added before the old one is removed, so that the usage entry of the owner is not dropped in between.
        let owner = self.update_usage(&row.owner_id, |usage| usage.add_permission(&row));
        self.remove_permission(&row.id);
        let id: Arc<str> = row.id.as_str().into();
        self.owned_permissions.insert(&owner, &id);
        self.permissions.insert_mut(id, Arc::new(row));
    }

    fn remove_permission(&mut self, id: &str) {
        let Some((id, before)) = get_entry(&self.permissions, id) else { return };
        self.permissions.remove_mut(&id);
        let owner = self.update_usage(&before.owner_id, |usage| usage.remove_permission(&before));
        self.owned_permissions.remove(&owner, &id);
    }

    fn link(&mut self, link: &PermissionLinkRow) {
        if self.role_has(&link.role_id, &link.permission_id) {
            return;
        }
        let (role, permission) =
            (shared_key(&self.roles, &link.role_id), shared_key(&self.permissions, &link.permission_id));
        get_or_insert(&mut self.permissions_by_role, &role).insert_mut(permission.clone());
        self.roles_by_permission.insert(&permission, &role);
        self.update_link_usage(&permission, Usage::add_link);
    }

    fn unlink(&mut self, role: &str, permission: &str) {
        if !self.role_has(role, permission) {
            return;
        }
        let (role, permission) = (Arc::from(role), Arc::from(permission));
        let permissions = get_or_insert(&mut self.permissions_by_role, &role);
        permissions.remove_mut(&permission);
        if permissions.is_empty() {
            self.permissions_by_role.remove_mut(&role);
        }
        self.roles_by_permission.remove(&permission, &role);
        self.update_link_usage(&permission, Usage::remove_link);
    }

    /// Updates the usage of an account; returns the id.
    fn update_usage(&mut self, user_id: &str, change: impl FnOnce(&mut Usage)) -> Arc<str> {
        let id = shared_key(&self.usage, user_id);
        let usage = get_or_insert(&mut self.usage, &id);
        let before = usage.bytes();
        change(usage);
        self.bytes = self.bytes - before + usage.bytes();
        if usage.is_empty() {
            self.usage.remove_mut(user_id);
        }
        id
    }

    /// A link counts against the owner of its permission.
    fn update_link_usage(&mut self, permission: &str, change: fn(&mut Usage)) {
        if let Some(owner) = self.permissions.get(permission).map(|row| row.owner_id.clone()) {
            self.update_usage(&owner, change);
        }
    }

    fn save_grant(&mut self, row: GrantRow) {
        self.remove_grant(&row.id);
        let owner = self.update_usage(&row.owner_id, |usage| usage.add_grant(&row));
        let (id, permission) = (Arc::from(row.id.as_str()), shared_key(&self.permissions, &row.permission_id));
        get_or_insert(&mut self.granted, &permission).add(&row);
        self.grants_by_permission.insert(&permission, &id);
        self.owned_grants.insert(&owner, &id);
        row.role_ids.iter().for_each(|role| self.grants_by_role.insert(&role.as_str().into(), &id));
        row.slugs.iter().for_each(|slug| self.grants_by_slug.insert(&slug.as_str().into(), &id));
        self.grants.insert_mut(id, Arc::new(row));
    }

    fn remove_grant(&mut self, id: &str) {
        let Some((id, row)) = get_entry(&self.grants, id) else { return };
        self.grants.remove_mut(&id);
        let owner = self.update_usage(&row.owner_id, |usage| usage.remove_grant(&row));
        let permission = Arc::from(row.permission_id.as_str());
        let granted = get_or_insert(&mut self.granted, &permission);
        granted.remove(&row);
        if granted.is_empty() {
            self.granted.remove_mut(&permission);
        }
        self.grants_by_permission.remove(&permission, &id);
        self.owned_grants.remove(&owner, &id);
        row.role_ids.iter().for_each(|role| self.grants_by_role.remove(&role.as_str().into(), &id));
        row.slugs.iter().for_each(|slug| self.grants_by_slug.remove(&slug.as_str().into(), &id));
    }

    fn remove_app(&mut self, id: &str) {
        if let Some((id, before)) = get_entry(&self.apps_by_id, id) {
            self.apps_by_id.remove_mut(&id);
            self.apps.remove_mut(before.host.as_str());
        }
    }

    /// The ids of an account's roles.
    pub fn roles_of<'a>(&'a self, user_id: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        self.owned_roles.get(user_id)
    }

    /// The ids of grants of permissions that start with this prefix.
    pub fn grants_with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        self.grants_by_permission.with_prefix(prefix).map(|(_, id)| id)
    }

    /// The changes that delete what an account owns: roles, permissions and grants.
    pub fn owned_by(&self, user_id: &str) -> Vec<Change> {
        let mut changes: Vec<Change> = self.roles_of(user_id).flat_map(|id| self.without_role(id)).collect();
        changes.extend(self.owned_permissions.get(user_id).flat_map(|id| self.without_permission(id)));
        changes.extend(self.owned_grants.get(user_id).map(|id| Change::DeleteGrant(id.to_string())));
        dedup(changes)
    }

    /// The changes that revoke a role. Many accounts may have it, so the assignments are deleted in small batches, see
    /// `Authz::remove_deleted_roles`.
    pub fn without_role(&self, id: &str) -> Vec<Change> {
        let links = self.permissions_of(id).map(|permission| {
            Change::Unlink(PermissionLinkRow { permission_id: permission.to_string(), role_id: id.to_owned() })
        });
        let role = self.roles.get(id).map(|row| Change::SaveRole(RoleRow { going: true, ..RoleRow::clone(row) }));
        links.chain(role).collect()
    }

    /// The changes that remove these roles and this slug from grants, so that a later holder of the name does not
    /// inherit them.
    pub fn without_names(&self, roles: &HashSet<&str>, slug: Option<&str>) -> Vec<Change> {
        let by_role = roles.iter().flat_map(|role| self.grants_by_role.get(role));
        let by_slug = slug.into_iter().flat_map(|slug| self.grants_by_slug.get(slug));
        let affected_ids: BTreeSet<&Arc<str>> = by_role.chain(by_slug).collect();
        let touched = affected_ids.into_iter().filter_map(|id| self.grants.get(id));
        touched
            .map(|row| {
                let mut row = GrantRow::clone(row);
                row.role_ids.retain(|role| !roles.contains(role.as_str()));
                row.slugs.retain(|named| Some(named.as_str()) != slug);
                match row.slugs.is_empty() && row.role_ids.is_empty() {
                    true => Change::DeleteGrant(row.id),
                    false => Change::SaveGrant(row),
                }
            })
            .collect()
    }

    /// The changes that delete a permission.
    pub fn without_permission(&self, id: &str) -> Vec<Change> {
        let links = self
            .roles_by_permission
            .get(id)
            .map(|role| Change::Unlink(PermissionLinkRow { permission_id: id.to_owned(), role_id: role.to_string() }));
        let grants = self.grants_by_permission.get(id).map(|id| Change::DeleteGrant(id.to_string()));
        links.chain(grants).chain([Change::DeletePermission(id.to_owned())]).collect()
    }
}

/// A link between a role and a permission of one owner is listed by both.
fn dedup(changes: Vec<Change>) -> Vec<Change> {
    let mut seen = HashSet::new();
    changes
        .into_iter()
        .filter(|change| match change {
            Change::Unlink(link) => seen.insert(("link", link.id())),
            Change::DeleteGrant(id) => seen.insert(("grant", id.clone())),
            _ => true,
        })
        .collect()
}

/// The existing key of the map, or a new one, so that equal strings share memory.
fn shared_key<V>(map: &Map<V>, key: &str) -> Arc<str> {
    map.get_key_value(key).map_or_else(|| key.into(), |(key, _)| key.clone())
}

fn get_entry<V: Clone>(map: &Map<V>, key: &str) -> Option<(Arc<str>, V)> {
    map.get_key_value(key).map(|(key, value)| (key.clone(), value.clone()))
}
