//! What checks of tokens and permissions are answered from: the rules whole, accounts and sessions as far as they were
//! used, all bounded (contract decision 8). The store stays the truth; whoever changes it says so here.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use moka::sync::Cache;
use openorch_api::user::User;
use openorch_chassis::{Caller, Result};

use super::{
    keys::Claims,
    rows::{ALL_APPS, DEFAULT_APP, RoleLinkRow, UserRow},
    rules::Rules,
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
        let is_member = |link: &RoleLinkRow| super::organization::organization_of(&link.role_id).is_some();
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
            profile: row.to_wire(),
        }
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

/// A live session as checks need it.
pub struct LiveSession {
    pub id: Arc<str>,
    pub user_id: Arc<str>,
    pub app: Arc<str>,
    /// The session that it ends with.
    pub exchanged_from: Option<Arc<str>>,
    /// In seconds since 1970.
    pub created_at: i64,
    /// Last use, in seconds since 1970.
    pub used_at: AtomicI64,
    /// The last use that is in the store.
    pub noted_at: AtomicI64,
}

/// A token whose signature is ours. True for ever, so never invalidated.
pub struct Verified {
    pub claims: Claims,
    pub audience: Option<Arc<str>>,
}

/// A delegated token as it is sent on to a service.
#[derive(Clone)]
pub struct Delegated {
    pub header: HeaderValue,
    /// As it was when the token was made: another one in memory means that something changed.
    pub session: Arc<LiveSession>,
    /// [`Memory::rights`] when it was begun.
    pub rights: u64,
    /// In seconds since 1970; from then on a new one is made.
    pub fresh_until: i64,
}

pub type Digest = [u8; 32];

pub struct Memory {
    rules: ArcSwap<Rules>,
    accounts: Cache<Arc<str>, Arc<Account>>,
    sessions: Cache<Arc<str>, Arc<LiveSession>>,
    tokens: Cache<Digest, Arc<Verified>>,
    delegated: Cache<Digest, Delegated>,
    /// Rises whenever a session ends or an account changes: what was read before it rose is not kept.
    epoch: AtomicU64,
    /// Rises whenever what all accounts may changes.
    rights: AtomicU64,
    /// Held while something read is put in and while something changed is taken out, so that neither slips by the other.
    order: Mutex<()>,
}

impl Memory {
    pub fn new(rules: Rules, entries: u64) -> Memory {
        Memory {
            rules: ArcSwap::from_pointee(rules),
            accounts: Cache::new(entries),
            sessions: Cache::new(entries),
            tokens: Cache::new(entries),
            delegated: Cache::new(entries),
            epoch: AtomicU64::new(0),
            rights: AtomicU64::new(0),
            order: Mutex::new(()),
        }
    }

    /// The rules as they are now, for a check.
    pub fn check_rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// The rules as they are now, to be kept for a while.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    pub fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// The account, read by `read` on first use.
    pub async fn account<F>(&self, id: &str, read: impl FnOnce() -> F) -> Result<Option<Arc<Account>>>
    where
        F: Future<Output = Result<Option<Account>>>,
    {
        self.through(&self.accounts, id, read).await
    }

    /// The session if it lives, read by `read` on first use.
    pub async fn session<F>(&self, id: &str, read: impl FnOnce() -> F) -> Result<Option<Arc<LiveSession>>>
    where
        F: Future<Output = Result<Option<LiveSession>>>,
    {
        self.through(&self.sessions, id, read).await
    }

    async fn through<V, F>(
        &self,
        cache: &Cache<Arc<str>, Arc<V>>,
        id: &str,
        read: impl FnOnce() -> F,
    ) -> Result<Option<Arc<V>>>
    where
        V: Send + Sync + 'static,
        F: Future<Output = Result<Option<V>>>,
    {
        if let Some(found) = cache.get(id) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(value) = read().await?.map(Arc::new) else { return Ok(None) };
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch.load(Ordering::SeqCst) == epoch {
            cache.insert(id.into(), value.clone());
        }
        Ok(Some(value))
    }

    /// All sessions of an account ended but the one to keep: the next request with one is refused.
    pub fn sessions_of_account_ended(&self, user_id: &str, keep: Option<&str>) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // Rare, and over what is in memory alone.
        let ended = |session: &LiveSession| *session.user_id == *user_id && Some(&*session.id) != keep;
        for (id, _) in self.sessions.iter().filter(|(_, session)| ended(session)) {
            self.sessions.invalidate(&*id);
        }
    }

    /// These sessions ended, and those that were exchanged from them: the next request with one is refused.
    pub fn sessions_ended(&self, ids: &[String]) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for id in ids {
            self.sessions.invalidate(id.as_str());
        }
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let ended = |session: &LiveSession| session.exchanged_from.as_deref().is_some_and(|from| ids.contains(from));
        for (id, _) in self.sessions.iter().filter(|(_, session)| ended(session)) {
            self.sessions.invalidate(&*id);
        }
    }

    /// What is told of an account changed; who it is and what it may stayed.
    pub fn profile_changed(&self, user_id: &str) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate(user_id);
    }

    /// What an account may do changed, or it went: nothing that was made while it could do more is sent to a service.
    pub fn rights_changed(&self, user_id: &str) {
        self.profile_changed(user_id);
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        // A delegated token counts as long as its session is the very one in memory: another one takes its place, which
        // knows when it was used last.
        for (id, session) in self.sessions.iter().filter(|(_, session)| *session.user_id == *user_id) {
            let again = LiveSession {
                id: session.id.clone(),
                user_id: session.user_id.clone(),
                app: session.app.clone(),
                exchanged_from: session.exchanged_from.clone(),
                created_at: session.created_at,
                used_at: session.used_at.load(Ordering::Relaxed).into(),
                noted_at: session.noted_at.load(Ordering::Relaxed).into(),
            };
            self.sessions.insert((*id).clone(), Arc::new(again));
        }
    }

    /// The same of all accounts.
    pub fn all_rights_changed(&self) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // Also those delegated tokens count no more that are being made.
        self.rights.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate_all();
        self.delegated.invalidate_all();
    }

    /// Whatever was read is read again.
    pub fn forget_all(&self) {
        self.all_rights_changed();
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.sessions.invalidate_all();
    }

    /// Another number means that what all accounts may changed. Asked before what a delegated token says is looked up.
    pub fn rights(&self) -> u64 {
        self.rights.load(Ordering::SeqCst)
    }

    pub fn token(&self, digest: &Digest) -> Option<Arc<Verified>> {
        self.tokens.get(digest)
    }

    pub fn keep_token(&self, digest: Digest, verified: Arc<Verified>) {
        self.tokens.insert(digest, verified);
    }

    /// The delegated token for these, if its session and all rights are as when it was made, and it is fresh at `now`.
    pub fn delegated(&self, digest: &Digest, now: i64) -> Option<Delegated> {
        let found = self.delegated.get(digest)?;
        let known = self.sessions.get(&*found.session.id)?;
        let is_as_made = found.rights == self.rights() && Arc::ptr_eq(&known, &found.session);
        (found.fresh_until > now && is_as_made).then_some(found)
    }

    pub fn keep_delegated(&self, digest: Digest, delegated: Delegated) {
        self.delegated.insert(digest, delegated);
    }

    pub fn known_session(&self, id: &str) -> Option<Arc<LiveSession>> {
        self.sessions.get(id)
    }

    /// The sessions whose last use is `behind` seconds or more from the stored one, also before it: then that was stored
    /// while the clock was wrong.
    pub fn unnoted_uses(&self, behind: i64) -> Vec<Arc<LiveSession>> {
        let lags = |session: &LiveSession| {
            let (used, noted) = (session.used_at.load(Ordering::Relaxed), session.noted_at.load(Ordering::Relaxed));
            used.abs_diff(noted) >= behind.unsigned_abs()
        };
        self.sessions.iter().map(|(_, session)| session).filter(|session| lags(session)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delegated_token_that_was_begun_before_rights_changed_is_not_sent_on() {
        let memory = Memory::new(Rules::default(), 10);
        let session = || LiveSession {
            id: "ses_1".into(),
            user_id: "usr_1".into(),
            app: DEFAULT_APP.into(),
            exchanged_from: None,
            created_at: 0,
            used_at: 0.into(),
            noted_at: 0.into(),
        };
        type Change = fn(&Memory);
        let changes: [(Change, bool); 3] =
            [(|_| {}, true), (|memory| memory.rights_changed("usr_1"), false), (Memory::all_rights_changed, false)];
        for (change, is_sent) in changes {
            let rights = memory.rights();
            let session = memory.session("ses_1", async || Ok(Some(session()))).await.unwrap().unwrap();
            change(&memory);
            let header = HeaderValue::from_static("Bearer x");
            memory.keep_delegated([0; 32], Delegated { header, session, rights, fresh_until: 10 });
            assert_eq!(memory.delegated(&[0; 32], 5).is_some(), is_sent);
        }
    }
}
