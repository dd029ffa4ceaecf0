//! Who may what: roles, permissions and grants. They are held in memory whole (contract decision 8); each change is
//! decided from there, committed, and only then seen by checks, one change after the other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use openorch_api::user::Delegation;
use openorch_chassis::{Caller, Error, Result};
use openorch_store::{Batch, Filter, Query, Store, StoreError, Table, Write};

use super::{
    Users,
    rows::{
        ALL_APPS, APPS, AppRow, CONTACT_ENROLLS, DEFAULT_APP, DELEGATIONS, GRANTS, GrantRow, PERMISSION_LINKS,
        PERMISSIONS, PermissionLinkRow, PermissionRow, ROLE_LINKS, ROLES, RoleRow,
    },
};

const MAX_ID_BYTES: usize = 256;
/// From so many a role that is going is taken in one batch: others write in between.
const CLEARED_AT_ONCE: usize = 2000;
/// How many names an id is made of, at most.
const MAX_ID_PARTS: usize = 8;
/// See [`openorch_api::Permission::of_all_apps`].
static OF_ALL_APPS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    openorch_api::permissions().filter(|permission| permission.of_all_apps).map(|permission| permission.id).collect()
});

/// The rules as checks and lists read them.
#[derive(Clone, Default)]
pub struct Rules {
    pub roles: HashMap<Arc<str>, Arc<RoleRow>>,
    /// Roles that are being deleted: they count for nothing, and their ids are not free yet.
    pub going: HashSet<Arc<str>>,
    pub permissions: HashMap<Arc<str>, Arc<PermissionRow>>,
    pub grants: HashMap<Arc<str>, Arc<GrantRow>>,
    /// By the slug of the service.
    pub delegations: HashMap<Arc<str>, Arc<Delegation>>,
    /// By host.
    pub apps: HashMap<Arc<str>, Arc<AppRow>>,
    by_role: HashMap<Arc<str>, Arc<HashSet<Arc<str>>>>,
    granted: HashMap<Arc<str>, Arc<Granted>>,
}

/// Who has a permission by grants, by the app where they count.
#[derive(Default)]
struct Granted(HashMap<Box<str>, GrantedIn>);

#[derive(Default)]
struct GrantedIn {
    slugs: HashSet<Box<str>>,
    roles: HashSet<Box<str>>,
}

/// A step of a change: what is written, and what checks see once it is.
#[derive(Clone, Debug)]
pub enum Change {
    SaveRole(RoleRow),
    /// A role that is going, with the last of those who had it.
    DeleteRole(String),
    SavePermission(PermissionRow),
    /// From all roles and grants.
    DeletePermission(String),
    Link(PermissionLinkRow),
    Unlink(PermissionLinkRow),
    SaveGrant(GrantRow),
    DeleteGrant(String),
    SaveDelegation(Delegation),
    DeleteDelegation(String),
    SaveApp(AppRow),
    DeleteApp(String),
}

impl Rules {
    /// All that is stored.
    pub async fn read(store: &Arc<dyn Store>) -> Result<Rules, StoreError> {
        let all = Query::all();
        let mut changes = Vec::new();
        let permissions = Table::<PermissionRow>::new(store.clone(), &PERMISSIONS).find(&all).await?;
        changes.extend(permissions.into_iter().map(|row| Change::SavePermission(row.value)));
        let roles = Table::<RoleRow>::new(store.clone(), &ROLES).find(&all).await?;
        changes.extend(roles.into_iter().map(|row| Change::SaveRole(row.value)));
        let links = Table::<PermissionLinkRow>::new(store.clone(), &PERMISSION_LINKS).find(&all).await?;
        changes.extend(links.into_iter().map(|row| Change::Link(row.value)));
        let delegations = Table::<Delegation>::new(store.clone(), &DELEGATIONS).find(&all).await?;
        changes.extend(delegations.into_iter().map(|row| Change::SaveDelegation(row.value)));
        let apps = Table::<AppRow>::new(store.clone(), &APPS).find(&all).await?;
        changes.extend(apps.into_iter().map(|row| Change::SaveApp(row.value)));
        let mut rules = Rules::default();
        rules.apply(changes);
        let grants = Table::<GrantRow>::new(store.clone(), &GRANTS).find(&all).await?;
        for row in grants {
            rules.grants.insert(row.value.id.as_str().into(), Arc::new(row.value));
        }
        rules.index_grants();
        Ok(rules)
    }

    /// Whether the caller's roles, or grants to them or to its slug, give the permission.
    pub fn allow(&self, caller: &Caller, permission: &str) -> bool {
        let allow = |app: &str, roles: &[Box<str>]| {
            let by_role = roles.iter().any(|role| self.role_has(role, permission));
            by_role || self.grant(app, &caller.slug, roles, permission)
        };
        if !allow(&caller.app, &caller.roles) {
            return false;
        }
        // Who may something in one app is not let at what belongs to no app by that.
        matches!(&*caller.app, DEFAULT_APP | ALL_APPS)
            || !OF_ALL_APPS.contains(permission)
            || allow(DEFAULT_APP, &caller.default_app_roles)
    }

    fn grant(&self, app: &str, slug: &str, roles: &[Box<str>], permission: &str) -> bool {
        self.granted.get(permission).is_some_and(|granted| {
            [app, ALL_APPS]
                .into_iter()
                .filter_map(|app| granted.0.get(app))
                .any(|granted| granted.slugs.contains(slug) || roles.iter().any(|role| granted.roles.contains(role)))
        })
    }

    pub fn role_has(&self, role: &str, permission: &str) -> bool {
        self.by_role.get(role).is_some_and(|permissions| permissions.contains(permission))
    }

    /// Whether a service may call this operation for its callers.
    pub fn opens(&self, service: &str, operation: &str) -> bool {
        self.delegations.get(service).is_some_and(|row| row.operations.iter().any(|id| id == operation))
    }

    /// Whether a service may hand its callers' tokens on to another.
    pub fn hands_on(&self, service: &str, to: &str) -> bool {
        self.delegations.get(service).is_some_and(|row| row.services.iter().any(|slug| slug == to))
    }

    /// The permissions of a role, by links alone.
    pub fn permissions_of<'a>(&'a self, role: &str) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.by_role.get(role).into_iter().flat_map(|permissions| permissions.iter())
    }

    /// How often permissions of this account are given to roles.
    pub fn links_of(&self, user_id: &str) -> usize {
        let is_own = |id: &&Arc<str>| self.permissions.get(&**id).is_some_and(|row| row.owner_id == user_id);
        self.by_role.values().map(|permissions| permissions.iter().filter(is_own).count()).sum()
    }

    /// Takes the changes over, in order.
    pub fn apply(&mut self, changes: Vec<Change>) {
        // Sets that several changes touch are copied once.
        let mut regranted = HashSet::new();
        for change in changes {
            match change {
                Change::SaveRole(row) if row.going => {
                    self.roles.remove(row.id.as_str());
                    self.by_role.remove(row.id.as_str());
                    self.going.insert(row.id.as_str().into());
                }
                Change::SaveRole(row) => {
                    self.roles.insert(row.id.as_str().into(), Arc::new(row));
                }
                Change::DeleteRole(id) => {
                    self.going.remove(id.as_str());
                }
                Change::SavePermission(row) => {
                    self.permissions.insert(row.id.as_str().into(), Arc::new(row));
                }
                Change::DeletePermission(id) => {
                    self.permissions.remove(id.as_str());
                }
                Change::Link(link) => {
                    let permission = match self.permissions.get_key_value(link.permission_id.as_str()) {
                        Some((id, _)) => id.clone(),
                        None => link.permission_id.as_str().into(),
                    };
                    Arc::make_mut(self.by_role.entry(link.role_id.as_str().into()).or_default()).insert(permission);
                }
                Change::Unlink(link) => {
                    if let Some(permissions) = self.by_role.get_mut(link.role_id.as_str()) {
                        Arc::make_mut(permissions).remove(link.permission_id.as_str());
                    }
                }
                Change::SaveGrant(row) => {
                    regranted.insert(row.permission_id.clone());
                    let before = self.grants.insert(row.id.as_str().into(), Arc::new(row));
                    regranted.extend(before.map(|row| row.permission_id.clone()));
                }
                Change::DeleteGrant(id) => {
                    regranted.extend(self.grants.remove(id.as_str()).map(|row| row.permission_id.clone()));
                }
                Change::SaveDelegation(row) => {
                    self.delegations.insert(row.slug.as_str().into(), Arc::new(row));
                }
                Change::DeleteDelegation(slug) => {
                    self.delegations.remove(slug.as_str());
                }
                Change::SaveApp(row) => {
                    self.apps.retain(|_, known| known.id != row.id);
                    self.apps.insert(row.host.as_str().into(), Arc::new(row));
                }
                Change::DeleteApp(id) => self.apps.retain(|_, known| known.id != id),
            }
        }
        self.regrant(&regranted);
    }

    /// Finds anew who is granted these permissions.
    fn regrant(&mut self, permissions: &HashSet<String>) {
        let mut fresh: HashMap<&str, Granted> = HashMap::new();
        if !permissions.is_empty() {
            for row in self.grants.values().filter(|row| permissions.contains(&row.permission_id)) {
                fresh.entry(permissions.get(&row.permission_id).map_or("", |id| id)).or_default().add(row);
            }
        }
        for id in permissions {
            match fresh.remove(id.as_str()) {
                Some(granted) => self.granted.insert(id.as_str().into(), Arc::new(granted)),
                None => self.granted.remove(id.as_str()),
            };
        }
    }

    fn index_grants(&mut self) {
        let all = self.grants.values().map(|row| row.permission_id.clone()).collect();
        self.regrant(&all);
    }

    /// What must go when an account goes: its roles and permissions, and the grants it saved.
    pub fn owned_by(&self, user_id: &str) -> Vec<Change> {
        let roles = self.roles.values().filter(|row| row.owner_id == user_id);
        let permissions = self.permissions.values().filter(|row| row.owner_id == user_id);
        let grants = self.grants.values().filter(|row| row.owner_id == user_id);
        let mut changes: Vec<Change> = roles.flat_map(|row| self.without_role(&row.id)).collect();
        changes.extend(permissions.flat_map(|row| self.without_permission(&row.id)));
        changes.extend(grants.map(|row| Change::DeleteGrant(row.id.clone())));
        dedup(changes)
    }

    /// The steps after which a role gives nothing and nobody has it. Very many may have had it: what is stored of that
    /// is taken away bit by bit, see [`Users::clear_roles`].
    pub fn without_role(&self, id: &str) -> Vec<Change> {
        let links = self.permissions_of(id).map(|permission| {
            Change::Unlink(PermissionLinkRow { permission_id: permission.to_string(), role_id: id.to_owned() })
        });
        let role = self.roles.get(id).map(|row| Change::SaveRole(RoleRow { going: true, ..RoleRow::clone(row) }));
        links.chain(role).collect()
    }

    /// The steps after which no grant names these roles or this slug: whoever has the name later begins with nothing.
    pub fn without_names(&self, roles: &HashSet<&str>, slug: Option<&str>) -> Vec<Change> {
        let names_role = |row: &GrantRow| row.role_ids.iter().any(|role| roles.contains(role.as_str()));
        let names_slug = |row: &GrantRow| slug.is_some_and(|slug| row.slugs.iter().any(|named| named == slug));
        let touched = self.grants.values().filter(|row| names_role(row) || names_slug(row));
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

    /// The steps that delete a permission.
    pub fn without_permission(&self, id: &str) -> Vec<Change> {
        let links = self.by_role.iter().filter(|(_, permissions)| permissions.contains(id)).map(|(role, _)| {
            Change::Unlink(PermissionLinkRow { permission_id: id.to_owned(), role_id: role.to_string() })
        });
        let grants = self.grants.values().filter(|row| row.permission_id == id);
        let grants = grants.map(|row| Change::DeleteGrant(row.id.clone()));
        links.chain(grants).chain([Change::DeletePermission(id.to_owned())]).collect()
    }
}

/// A role and a permission of one owner may be linked, and then the link is named by both.
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

impl Granted {
    fn add(&mut self, row: &GrantRow) {
        let granted = self.0.entry(row.app.as_str().into()).or_default();
        granted.slugs.extend(row.slugs.iter().map(|slug| slug.as_str().into()));
        granted.roles.extend(row.role_ids.iter().map(|role| role.as_str().into()));
    }
}

/// The views through which changes are written.
pub struct RuleTables {
    roles: Table<RoleRow>,
    permissions: Table<PermissionRow>,
    links: Table<PermissionLinkRow>,
    grants: Table<GrantRow>,
    delegations: Table<Delegation>,
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

    /// Adds what a change writes.
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
            Change::Unlink(row) => Write::DeleteWhere {
                collection: PERMISSION_LINKS.name,
                filters: vec![
                    Filter::equals("roleId", row.role_id.as_str()),
                    Filter::equals("permissionId", row.permission_id.as_str()),
                ],
            },
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

impl Users {
    /// Changes the rules: `decide` says how from what they are, and what else is written with it. Nothing else changes
    /// them meanwhile.
    pub(super) async fn change_rules(&self, decide: impl FnOnce(&Rules) -> Result<(Vec<Change>, Batch)>) -> Result<()> {
        let mut is_stale = self.rule_changes.lock().await;
        if *is_stale {
            self.memory.set_rules(Rules::read(&self.store).await?);
            self.memory.all_rights_changed();
            *is_stale = false;
        }
        let rules = self.memory.rules();
        let (changes, mut batch) = decide(&rules)?;
        for change in &changes {
            self.rule_tables.write(&mut batch, change)?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let takes_roles = changes.iter().any(|change| matches!(change, Change::SaveRole(row) if row.going));
        match self.store.commit(batch).await {
            Ok(_) => {
                let mut next = Rules::clone(&rules);
                next.apply(changes);
                self.memory.set_rules(next);
                if takes_roles {
                    self.memory.all_rights_changed();
                }
                Ok(())
            }
            Err(error) => {
                // Perhaps it was written all the same: then the next change, and the next look, start from the store.
                *is_stale = error.is_open();
                self.doubt(&error);
                Err(error.into())
            }
        }
    }

    /// Brings rules, keys and what is known of accounts back to what is stored, after a change of which nobody knows
    /// whether it was made, and ends what was begun.
    pub(super) async fn settle(users: Arc<Users>) {
        if users.is_doubtful() {
            *users.rule_changes.lock().await = true;
            users.memory.forget_all();
        }
        if let Err(error) = users.change_rules(|_| Ok((Vec::new(), Batch::new()))).await {
            tracing::warn!("the rules cannot be read from the store: {error:?}");
        }
        let order = users.rule_changes.lock().await;
        if let Err(error) = users.settle_keys().await {
            tracing::warn!("the signing keys cannot be read from the store: {error:?}");
        }
        drop(order);
        if let Err(error) = users.settle_accounts().await {
            tracing::warn!("the accounts cannot be read from the store: {error:?}");
        }
        users.clear_roles().await;
    }

    /// Takes roles that are going from all who have them, and frees their ids. What stays undone is done a second later,
    /// or after the next start.
    pub(super) async fn clear_roles(&self) {
        let going: Vec<Arc<str>> = self.memory.check_rules().going.iter().cloned().collect();
        for id in going {
            if let Err(error) = self.clear_role(&id).await {
                tracing::warn!("the role `{id}` gives nothing any more, and could not be cleared away yet: {error:?}");
            }
        }
    }

    async fn clear_role(&self, id: &str) -> Result<()> {
        for collection in [ROLE_LINKS.name, CONTACT_ENROLLS.name] {
            loop {
                let some = Query::all().equals("roleId", id).limit(CLEARED_AT_ONCE as u64);
                let rows = self.store.find(collection, &some).await?.rows;
                if rows.len() < CLEARED_AT_ONCE {
                    break;
                }
                // By filter: some may go meanwhile.
                let filters = vec![Filter::is_in("id", rows.into_iter().map(|row| row.id))];
                self.store.commit(Write::DeleteWhere { collection, filters }.into()).await?;
            }
        }
        self.change_rules(|rules| {
            let is_there = rules.going.contains(id);
            Ok((is_there.then(|| Change::DeleteRole(id.to_owned())).into_iter().collect(), Batch::new()))
        })
        .await
    }
}

/// An id that the caller may take: `<its slug>:…`, each part of letters, digits, `_`, `.` and `-`.
pub(super) fn own_id(caller: &Caller, what: &str, id: &str) -> Result<()> {
    check_id(what, id)?;
    match id.split_once(':') {
        Some((slug, _)) if *slug == *caller.slug => Ok(()),
        _ => Err(Error::forbidden(format!(
            "created {what} id must be prefixed by caller slug: `{id}` must start with `{}:`",
            caller.slug
        ))),
    }
}

/// What every id of a role or permission looks like.
pub(super) fn check_id(what: &str, id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid(format!("create {what} is missing id")));
    }
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    };
    let parts = id.split(':').count();
    if id.len() > MAX_ID_BYTES || !(2..=MAX_ID_PARTS).contains(&parts) || !id.split(':').all(fits) {
        let shown = shown(id);
        return Err(Error::invalid(format!(
            "`{shown}` is no id of a {what}: it is `<slug>:<name>`, 2 to {MAX_ID_PARTS} parts of letters, digits, `_`, \
             `.` and `-`, at most {MAX_ID_BYTES} bytes"
        )));
    }
    Ok(())
}

/// What an error repeats of a caller's text: not all of a long one, and nothing that steers a terminal.
pub(super) fn shown(text: &str) -> String {
    openorch_api::text::without_hidden(&text.chars().take(MAX_ID_BYTES).collect::<String>())
}

/// A text that people read: of one line, and not long.
pub(super) fn check_text(what: &str, text: &str, limit: usize) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    openorch_api::input::check_name(what, text, limit).map_err(|error| Error::invalid(error.0))
}

/// Refuses lists that nobody means.
pub(super) fn check_count(what: &str, count: usize, most: usize) -> Result<()> {
    if count > most {
        return Err(Error::invalid(format!("there are {count} {what}; at most {most} are taken in one request")));
    }
    Ok(())
}
