//! An account as needed for checks: its roles in each app, and the apps of which it is a member.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use openorch_api::user::User;
use openorch_chassis::Caller;

use crate::user::{
    authz::{roles::organization::organization_of, rows::RoleLinkRow},
    shared::{
        rows::{ALL_APPS, DEFAULT_APP, UserRow},
        versions::VersionStamp,
    },
};

/// Role ids, sorted.
pub type Roles = Arc<[Box<str>]>;

/// An account as needed for checks.
pub struct Account {
    pub id: Arc<str>,
    pub slug: Arc<str>,
    /// The roles in each app where it has roles specific to that app; roles valid in all apps are included.
    by_app: BTreeMap<Box<str>, Roles>,
    /// The roles in all other apps.
    in_all_apps: Roles,
    /// The apps of which it is a member, or `*`.
    member_of: BTreeSet<Box<str>>,
    /// See [`Account::managed_in`].
    managed_in: BTreeSet<Box<str>>,
    /// The roles, sorted, that it was created with or that an admin assigned.
    pub trusted: Box<[Box<str>]>,
    /// The public profile.
    pub profile: User,
    /// The versions of its rights and roles from which it was loaded. `None` if it was not cached.
    pub loaded_versions: Option<Box<[VersionStamp]>>,
}

impl Account {
    pub fn new(row: &UserRow, links: &[RoleLinkRow]) -> Account {
        let is_everywhere = |link: &RoleLinkRow| link.app == ALL_APPS || link.role_id == openorch_api::role::ADMIN;
        let roles_of = |fits: &dyn Fn(&RoleLinkRow) -> bool| {
            let mut roles: Vec<Box<str>> =
                links.iter().filter(|link| fits(link)).map(|link| link.role_id.as_str().into()).collect();
            roles.sort();
            roles.dedup();
            Roles::from(roles)
        };
        let apps: BTreeSet<&str> =
            links.iter().filter(|link| !is_everywhere(link)).map(|link| link.app.as_str()).collect();
        let by_app = apps.into_iter().map(|app| (app.into(), roles_of(&|link| link.app == app || is_everywhere(link))));
        // Any account may assign roles of its own to any other in any app, so such roles do not make the account a
        // member. Nor does an organization that it founded itself: the account was admitted by something else, which
        // may have been revoked.
        let is_member = |link: &RoleLinkRow| organization_of(&link.role_id).is_some();
        let admits = |link: &&RoleLinkRow| link.is_trusted() || (is_member(link) && link.is_by_other());
        let app_of = |link: &RoleLinkRow| -> Box<str> {
            if is_everywhere(link) { ALL_APPS.into() } else { link.app.as_str().into() }
        };
        // Rows of older versions have no home app: it is the app of the first role, or else the default app.
        let initial_app =
            || links.iter().find(|link| link.created_by.is_empty()).map_or(DEFAULT_APP, |link| &*link.app);
        let home = if row.home_app.is_empty() { initial_app() } else { &*row.home_app };
        let managed_in = links.iter().filter(|link| admits(link) && !link.is_by_other()).map(app_of);
        Account {
            id: row.id.as_str().into(),
            slug: row.slug.as_str().into(),
            by_app: by_app.collect(),
            member_of: links.iter().filter(admits).map(app_of).collect(),
            managed_in: managed_in.chain([home.into()]).collect(),
            in_all_apps: roles_of(&is_everywhere),
            trusted: roles_of(&RoleLinkRow::is_trusted).to_vec().into(),
            profile: row.into(),
            loaded_versions: None,
        }
    }

    /// Whether it is cached and its rights have not changed since it was loaded.
    pub fn is_current(&self) -> bool {
        self.loaded_versions.as_ref().is_some_and(|seen| seen.iter().all(VersionStamp::is_current))
    }

    /// All its roles, in any app.
    pub fn roles(&self) -> BTreeSet<&str> {
        self.by_app.values().chain([&self.in_all_apps]).flat_map(|roles| roles.iter().map(AsRef::as_ref)).collect()
    }

    /// Its roles in an app.
    pub fn roles_in(&self, app: &str) -> &Roles {
        self.by_app.get(app).unwrap_or(&self.in_all_apps)
    }

    /// The apps of which it is a member, `*` for all.
    pub fn apps(&self) -> impl Iterator<Item = &str> {
        self.member_of.iter().map(|app| &**app)
    }

    /// The apps, `*` for all, in each of which a right is needed to manage the account. Never empty, since the home app
    /// is always included. Apps that it joined only because others added it to an organization are excluded, or any
    /// account could make it unmanageable in its home app.
    pub fn managed_in(&self) -> impl Iterator<Item = &str> {
        self.managed_in.iter().map(|app| &**app)
    }

    /// The account as a caller in an app.
    pub fn caller_in(&self, app: &str) -> Caller {
        Caller {
            user_id: self.id.clone(),
            slug: self.slug.clone(),
            session_id: "".into(),
            roles: self.roles_in(app).clone(),
            default_app_roles: self.roles_in(DEFAULT_APP).clone(),
            app: app.into(),
            audience: None,
        }
    }

    /// Whether it may have sessions in an app. In the default app each account may; in others, only those with a role
    /// there that they were created with, that an admin assigned, or that belongs to an organization.
    pub fn is_in(&self, app: &str) -> bool {
        app == DEFAULT_APP || [app, ALL_APPS].into_iter().any(|app| self.member_of.contains(app))
    }
}
