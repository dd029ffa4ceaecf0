//! Who may what: roles, permissions and grants. They are held in memory whole (contract decision 8); each change is
//! decided from there, committed, and only then seen by checks, one change after the other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
};

use openorch_api::user::Delegation;
use openorch_chassis::{Caller, Error, Result};
use openorch_store::{Query, Store, StoreError, Table};

use super::{
    rows::{
        ALL_APPS, APPS, AppRow, DEFAULT_APP, DELEGATIONS, GRANTS, GrantRow, PERMISSION_LINKS, PERMISSIONS,
        PermissionLinkRow, PermissionRow, ROLES, RoleRow,
    },
    usage::Usage,
};

const MAX_ID_BYTES: usize = 256;
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
    apps_by_id: HashMap<Arc<str>, Arc<AppRow>>,
    by_role: HashMap<Arc<str>, Arc<HashSet<Arc<str>>>>,
    granted: HashMap<Arc<str>, Arc<Granted>>,
    /// The ids of the grants of a permission.
    grants_of: HashMap<Arc<str>, Arc<HashSet<Arc<str>>>>,
    /// What each account holds, by its id.
    usage: HashMap<Arc<str>, Arc<Usage>>,
    /// Estimated memory of all accounts' roles, permissions, links and grants.
    bytes: usize,
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
        // A link is counted as its permission's owner's.
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
        let grants = Table::<GrantRow>::new(store.clone(), &GRANTS).find(&all).await?;
        changes.extend(grants.into_iter().map(|row| Change::SaveGrant(row.value)));
        let mut rules = Rules::default();
        rules.apply(changes);
        Ok(rules)
    }

    /// The app with this id, but for the built-in one.
    pub fn app(&self, id: &str) -> Option<&Arc<AppRow>> {
        self.apps_by_id.get(id)
    }

    /// What an account holds of the rules.
    pub fn usage(&self, user_id: &str) -> Arc<Usage> {
        self.usage.get(user_id).cloned().unwrap_or_default()
    }

    /// Estimated memory of all accounts' roles, permissions, links and grants.
    pub fn bytes(&self) -> usize {
        self.bytes
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

    /// Whether an account with this slug acts with the rights of others: operations are open to it, or other services may
    /// hand the tokens of their callers on to it.
    pub fn is_delegate(&self, slug: &str) -> bool {
        self.delegations.contains_key(slug)
            || self.delegations.values().any(|row| row.services.iter().any(|named| named == slug))
    }

    /// The permissions of a role, by links alone.
    pub fn permissions_of<'a>(&'a self, role: &str) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.by_role.get(role).into_iter().flat_map(|permissions| permissions.iter())
    }

    /// Takes the changes over, in order.
    pub fn apply(&mut self, changes: Vec<Change>) {
        // The index of a permission that several changes touch is made anew once.
        let mut regranted = HashSet::new();
        for change in changes {
            match change {
                Change::SaveRole(row) => {
                    if let Some(before) = self.roles.remove(row.id.as_str()) {
                        self.account(&before.owner_id, |usage| usage.remove_role(&before));
                    }
                    if row.going {
                        for permission in self.by_role.remove(row.id.as_str()).iter().flat_map(|ids| ids.iter()) {
                            self.account_link(permission, Usage::remove_link);
                        }
                        self.going.insert(row.id.as_str().into());
                    } else {
                        self.account(&row.owner_id, |usage| usage.add_role(&row));
                        self.roles.insert(row.id.as_str().into(), Arc::new(row));
                    }
                }
                Change::DeleteRole(id) => {
                    self.going.remove(id.as_str());
                }
                Change::SavePermission(row) => {
                    self.account(&row.owner_id, |usage| usage.add_permission(&row));
                    let row = Arc::new(row);
                    if let Some(before) = self.permissions.insert(row.id.as_str().into(), row) {
                        self.account(&before.owner_id, |usage| usage.remove_permission(&before));
                    }
                }
                Change::DeletePermission(id) => {
                    if let Some(before) = self.permissions.remove(id.as_str()) {
                        self.account(&before.owner_id, |usage| usage.remove_permission(&before));
                    }
                }
                Change::Link(link) => {
                    let permission = match self.permissions.get_key_value(link.permission_id.as_str()) {
                        Some((id, _)) => id.clone(),
                        None => link.permission_id.as_str().into(),
                    };
                    let permissions = self.by_role.entry(link.role_id.as_str().into()).or_default();
                    if Arc::make_mut(permissions).insert(permission) {
                        self.account_link(&link.permission_id, Usage::add_link);
                    }
                }
                Change::Unlink(link) => {
                    let permissions = self.by_role.get_mut(link.role_id.as_str());
                    if permissions.is_some_and(|ids| Arc::make_mut(ids).remove(link.permission_id.as_str())) {
                        self.account_link(&link.permission_id, Usage::remove_link);
                    }
                }
                Change::SaveGrant(row) => {
                    regranted.extend(self.remove_grant(&row.id));
                    regranted.insert(self.add_grant(row));
                }
                Change::DeleteGrant(id) => regranted.extend(self.remove_grant(&id)),
                Change::SaveDelegation(row) => {
                    self.delegations.insert(row.slug.as_str().into(), Arc::new(row));
                }
                Change::DeleteDelegation(slug) => {
                    self.delegations.remove(slug.as_str());
                }
                Change::SaveApp(row) => {
                    let row = Arc::new(row);
                    if let Some(before) = self.apps_by_id.insert(row.id.as_str().into(), row.clone()) {
                        self.apps.remove(before.host.as_str());
                    }
                    self.apps.insert(row.host.as_str().into(), row);
                }
                Change::DeleteApp(id) => {
                    if let Some(before) = self.apps_by_id.remove(id.as_str()) {
                        self.apps.remove(before.host.as_str());
                    }
                }
            }
        }
        regranted.iter().for_each(|permission| self.regrant(permission));
    }

    fn account(&mut self, user_id: &str, change: impl FnOnce(&mut Usage)) {
        let usage = Arc::make_mut(self.usage.entry(user_id.into()).or_default());
        let before = usage.bytes();
        change(usage);
        self.bytes = self.bytes - before + usage.bytes();
        if usage.is_empty() {
            self.usage.remove(user_id);
        }
    }

    /// A link is its permission's owner's.
    fn account_link(&mut self, permission: &str, change: fn(&mut Usage)) {
        if let Some(owner) = self.permissions.get(permission).map(|row| row.owner_id.clone()) {
            self.account(&owner, change);
        }
    }

    /// Answers its permission.
    fn add_grant(&mut self, row: GrantRow) -> Arc<str> {
        self.account(&row.owner_id, |usage| usage.add_grant(&row));
        let (id, permission) = (Arc::from(row.id.as_str()), Arc::from(row.permission_id.as_str()));
        Arc::make_mut(self.grants_of.entry(Arc::clone(&permission)).or_default()).insert(Arc::clone(&id));
        self.grants.insert(id, Arc::new(row));
        permission
    }

    fn remove_grant(&mut self, id: &str) -> Option<Arc<str>> {
        let row = self.grants.remove(id)?;
        self.account(&row.owner_id, |usage| usage.remove_grant(&row));
        if let Some(ids) = self.grants_of.get_mut(row.permission_id.as_str()) {
            Arc::make_mut(ids).remove(id);
        }
        Some(row.permission_id.as_str().into())
    }

    /// Finds anew who is granted this permission.
    fn regrant(&mut self, permission: &Arc<str>) {
        let ids = self.grants_of.get(permission).filter(|ids| !ids.is_empty());
        let Some(ids) = ids else {
            self.grants_of.remove(permission);
            self.granted.remove(permission);
            return;
        };
        let mut granted = Granted::default();
        ids.iter().filter_map(|id| self.grants.get(id)).for_each(|row| granted.add(row));
        self.granted.insert(permission.clone(), Arc::new(granted));
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
        let grants = self.grants_of.get(id).into_iter().flat_map(|ids| ids.iter());
        let grants = grants.map(|id| Change::DeleteGrant(id.to_string()));
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
