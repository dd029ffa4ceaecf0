//! An account as checks need it: the roles that it has in each app, and the apps that it is in.

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
        versions::Seen,
    },
};

/// Role ids, in order.
pub type Roles = Arc<[Box<str>]>;

/// An account as checks need it.
pub struct Account {
    pub id: Arc<str>,
    pub slug: Arc<str>,
    /// By app, for those in which it has roles of its own; the roles that it has everywhere are among them.
    by_app: BTreeMap<Box<str>, Roles>,
    /// In all other apps.
    everywhere: Roles,
    /// The apps that it is in, or `*`.
    member_of: BTreeSet<Box<str>>,
    /// See [`Account::managed_in`].
    managed_in: BTreeSet<Box<str>>,
    /// Those of all of them, sorted, that it began with or an admin gave.
    pub trusted: Box<[Box<str>]>,
    /// What others are told of it.
    pub profile: User,
    /// What this was made from: its rights and its roles. None where it was not kept in memory.
    pub made_from: Option<Box<[Seen]>>,
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
        // Any account may give a role of its own to any other, in any app: that makes nobody a member. Nor does an
        // organization that it founded itself, since it was let in by something else, which may have been taken from it.
        let is_member = |link: &RoleLinkRow| organization_of(&link.role_id).is_some();
        let admits = |link: &&RoleLinkRow| link.is_trusted() || (is_member(link) && link.is_by_other());
        let app_of = |link: &RoleLinkRow| -> Box<str> {
            if is_everywhere(link) { ALL_APPS.into() } else { link.app.as_str().into() }
        };
        // Rows of older versions do not name a home: it is where the account began with a role, else the default app.
        let began_with = || links.iter().find(|link| link.created_by.is_empty()).map_or(DEFAULT_APP, |link| &*link.app);
        let home = if row.home_app.is_empty() { began_with() } else { &*row.home_app };
        let managed_in = links.iter().filter(|link| admits(link) && !link.is_by_other()).map(app_of);
        Account {
            id: row.id.as_str().into(),
            slug: row.slug.as_str().into(),
            by_app: by_app.collect(),
            member_of: links.iter().filter(admits).map(app_of).collect(),
            managed_in: managed_in.chain([home.into()]).collect(),
            everywhere: roles_of(&is_everywhere),
            trusted: roles_of(&RoleLinkRow::is_trusted).to_vec().into(),
            profile: row.into(),
            made_from: None,
        }
    }

    /// Whether it is kept in memory, and what it may is still what it was when it was read.
    pub fn is_current(&self) -> bool {
        self.made_from.as_ref().is_some_and(|seen| seen.iter().all(Seen::is_current))
    }

    /// The roles that it has in any app.
    pub fn roles(&self) -> BTreeSet<&str> {
        self.by_app.values().chain([&self.everywhere]).flat_map(|roles| roles.iter().map(AsRef::as_ref)).collect()
    }

    /// The roles that it has in an app.
    pub fn roles_in(&self, app: &str) -> &Roles {
        self.by_app.get(app).unwrap_or(&self.everywhere)
    }

    /// The apps that it is in, `*` for all of them.
    pub fn apps(&self) -> impl Iterator<Item = &str> {
        self.member_of.iter().map(|app| &**app)
    }

    /// The apps, `*` for all of them, in each of which a right is needed to manage the account: never none, since its home
    /// app is always among them. An app that it came into only because others put it into an organization there is not,
    /// or anybody could make it unmanageable at home.
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

    /// Whether it may have sessions in an app: in the default one each account may, in others those that have a role there
    /// which they began with, which an admin gave, or which is of an organization.
    pub fn is_in(&self, app: &str) -> bool {
        app == DEFAULT_APP || [app, ALL_APPS].into_iter().any(|app| self.member_of.contains(app))
    }
}
