//! What checks of tokens and permissions are answered from: the rules whole, accounts and sessions as far as they were
//! used, all bounded (contract decision 8). The store stays the truth; whoever changes it says so here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use moka::sync::Cache;
use openorch_api::user::User;
use openorch_chassis::{Caller, Result};

use crate::user::{
    authn::tokens::jwt::Claims,
    authz::rules::Rules,
    rows::{ALL_APPS, DEFAULT_APP, RoleLinkRow, UserRow},
    versions::{Seen, Versions},
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
    made_from: Option<Box<[Seen]>>,
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
        let is_member =
            |link: &RoleLinkRow| crate::user::directory::organization::organization_of(&link.role_id).is_some();
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
            made_from: None,
        }
    }

    /// Whether it is kept in memory, and what it may is still what it was when it was read.
    fn is_current(&self) -> bool {
        self.made_from.as_ref().is_some_and(|seen| seen.iter().all(Seen::is_current))
    }

    /// The roles that it has in any app.
    fn roles(&self) -> BTreeSet<&str> {
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
    /// Stale once all sessions of its account have ended.
    pub seen: Seen,
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
    /// As they were when the token was made: another session in memory means that something changed.
    pub session: Arc<LiveSession>,
    pub account: Arc<Account>,
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
    order: Mutex<Sources>,
}

/// What the values in memory were made from.
#[derive(Default)]
struct Sources {
    /// By account: its sessions, and what it may.
    sessions: Versions,
    rights: Versions,
    roles: Versions,
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
            order: Mutex::default(),
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
        if let Some(found) = self.accounts.get(id).filter(|account| account.is_current()) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(mut account) = read().await? else { return Ok(None) };
        let mut order = self.order();
        if self.epoch.load(Ordering::SeqCst) != epoch {
            return Ok(Some(Arc::new(account)));
        }
        let rights = order.rights.see(id);
        let roles = account.roles().into_iter().map(|role| order.roles.see(role));
        account.made_from = Some([rights].into_iter().chain(roles).collect());
        let account = Arc::new(account);
        self.accounts.insert(id.into(), account.clone());
        Ok(Some(account))
    }

    /// The session if it lives, read by `read` on first use. One that was exchanged from another lives as long as that.
    pub async fn session<F>(&self, id: &str, read: impl FnOnce() -> F) -> Result<Option<Arc<LiveSession>>>
    where
        F: Future<Output = Result<Option<LiveSession>>>,
    {
        if let Some(found) = self.live_session(id) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(session) = read().await?.map(Arc::new) else { return Ok(None) };
        let _order = self.order();
        if self.epoch.load(Ordering::SeqCst) == epoch {
            self.sessions.insert(id.into(), session.clone());
        }
        Ok(Some(session))
    }

    fn live_session(&self, id: &str) -> Option<Arc<LiveSession>> {
        self.sessions.get(id).filter(|session| session.seen.is_current())
    }

    fn order(&self) -> MutexGuard<'_, Sources> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a session of this account that was read.
    pub fn see_sessions(&self, user_id: &str) -> Seen {
        self.order().sessions.see(user_id)
    }

    /// All sessions of an account ended but the one to keep: the next request with one is refused.
    pub fn sessions_of_account_ended(&self, user_id: &str, keep: Option<&str>) {
        let order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // One that ended before is not kept, whatever is asked.
        let kept = keep.and_then(|id| self.live_session(id)).filter(|session| *session.user_id == *user_id);
        order.sessions.rise(user_id);
        if let Some(kept) = kept {
            kept.seen.renew();
        }
    }

    /// These sessions ended, and with them those that were exchanged from them: the next request with one is refused.
    pub fn sessions_ended(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let _order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        ids.iter().for_each(|id| self.sessions.invalidate(id.as_str()));
    }

    /// What is told of an account changed; who it is and what it may stayed.
    pub fn profile_changed(&self, user_id: &str) {
        let _order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate(user_id);
    }

    /// What an account may do changed, or it went: nothing that was made while it could do more is sent to a service.
    pub fn rights_changed(&self, user_id: &str) {
        let order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        order.rights.rise(user_id);
        self.accounts.invalidate(user_id);
    }

    /// Nobody has these roles any more: the same for all accounts that had one, and for no others.
    pub fn roles_gone<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        ids.into_iter().for_each(|id| order.roles.rise(id));
    }

    /// What all accounts may changed.
    pub fn all_rights_changed(&self) {
        let _order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // Also those delegated tokens count no more that are being made.
        self.rights.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate_all();
        self.delegated.invalidate_all();
    }

    /// Whatever was read is read again.
    pub fn forget_all(&self) {
        self.all_rights_changed();
        let _order = self.order();
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
        let known = self.live_session(&found.session.id)?;
        if let Some(from) = &known.exchanged_from {
            self.live_session(from)?;
        }
        let is_as_made = Arc::ptr_eq(&known, &found.session) && found.account.is_current();
        (found.fresh_until > now && is_as_made && found.rights == self.rights()).then_some(found)
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
        let all = self.sessions.iter().map(|(_, session)| session);
        all.filter(|session| session.seen.is_current() && lags(session)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserRow {
        let time = openorch_api::Time::default();
        let row = serde_json::json!({ "id": id, "slug": id, "name": id, "createdAt": time, "updatedAt": time });
        serde_json::from_value(row).unwrap()
    }

    struct Bench(Memory);

    impl Bench {
        fn new() -> Bench {
            Bench(Memory::new(Rules::default(), 100))
        }

        async fn session(&self, id: &str, exchanged_from: Option<&str>) -> Arc<LiveSession> {
            let session = || LiveSession {
                id: id.into(),
                user_id: "usr_1".into(),
                app: DEFAULT_APP.into(),
                exchanged_from: exchanged_from.map(Into::into),
                created_at: 0,
                used_at: 0.into(),
                noted_at: 0.into(),
                seen: self.0.see_sessions("usr_1"),
            };
            self.0.session(id, async || Ok(Some(session()))).await.unwrap().unwrap()
        }

        async fn account(&self, id: &str, role: &str) -> Arc<Account> {
            let row = user(id);
            let links = [RoleLinkRow::new(DEFAULT_APP, id, role, openorch_api::Time::default())];
            let read = async || Ok(Some(Account::new(&row, &links)));
            self.0.account(id, read).await.unwrap().unwrap()
        }

        fn keep(&self, digest: u8, session: &Arc<LiveSession>, account: &Arc<Account>, rights: u64) {
            let header = HeaderValue::from_static("Bearer x");
            let (session, account) = (session.clone(), account.clone());
            self.0.keep_delegated([digest; 32], Delegated { header, session, account, rights, fresh_until: 10 });
        }

        fn has(&self, digest: u8) -> bool {
            self.0.delegated(&[digest; 32], 5).is_some()
        }
    }

    #[tokio::test]
    async fn a_delegated_token_that_was_begun_before_rights_changed_is_not_sent_on() {
        type Change = fn(&Memory);
        let changes: [(Change, bool); 8] = [
            (|_| {}, true),
            (|memory| memory.profile_changed("usr_1"), true),
            (|memory| memory.rights_changed("usr_2"), true),
            (|memory| memory.roles_gone(["other:role"]), true),
            (|memory| memory.rights_changed("usr_1"), false),
            (|memory| memory.roles_gone(["some:role"]), false),
            (|memory| memory.sessions_of_account_ended("usr_1", None), false),
            (Memory::all_rights_changed, false),
        ];
        for (n, (change, is_sent)) in changes.into_iter().enumerate() {
            let bench = Bench::new();
            let rights = bench.0.rights();
            let (session, account) = (bench.session("ses_1", None).await, bench.account("usr_1", "some:role").await);
            change(&bench.0);
            bench.keep(0, &session, &account, rights);
            assert_eq!(bench.has(0), is_sent, "{n}");
        }
    }

    #[tokio::test]
    async fn an_account_that_was_read_while_something_changed_is_not_kept_and_makes_no_token_that_is() {
        let bench = Bench::new();
        let (session, row) = (bench.session("ses_1", None).await, user("usr_1"));
        let read = async || {
            bench.0.roles_gone(["some:role"]);
            Ok(Some(Account::new(&row, &[])))
        };
        let account = bench.0.account("usr_1", read).await.unwrap().unwrap();
        bench.keep(0, &session, &account, bench.0.rights());
        assert!(!bench.has(0) && !Arc::ptr_eq(&account, &bench.account("usr_1", "some:role").await));
    }

    #[tokio::test]
    async fn a_change_leaves_what_it_does_not_concern_as_it_is_in_memory() {
        let bench = Bench::new();
        let session = bench.session("ses_1", None).await;
        let (account, other) = (bench.account("usr_1", "some:role").await, bench.account("usr_2", "other:role").await);
        bench.0.rights_changed("usr_1");
        bench.0.roles_gone(["some:role"]);
        bench.0.sessions_ended(&["ses_2".into()]);
        bench.0.sessions_of_account_ended("usr_2", None);
        assert!(Arc::ptr_eq(&session, &bench.session("ses_1", None).await), "no session was looked for");
        assert!(Arc::ptr_eq(&other, &bench.account("usr_2", "other:role").await));
        assert!(!Arc::ptr_eq(&account, &bench.account("usr_1", "some:role").await));
    }

    #[tokio::test]
    async fn what_was_exchanged_from_a_session_ends_with_it_also_where_its_delegated_token_is_known() {
        let bench = Bench::new();
        bench.session("ses_1", None).await;
        let (exchanged, account) = (bench.session("ses_2", Some("ses_1")).await, bench.account("usr_1", "a:b").await);
        bench.keep(0, &exchanged, &account, bench.0.rights());
        assert!(bench.has(0));
        bench.0.sessions_ended(&["ses_1".into()]);
        assert!(!bench.has(0));
    }

    #[tokio::test]
    async fn of_all_sessions_of_an_account_the_one_to_keep_stays_and_none_that_ended_comes_back() {
        let bench = Bench::new();
        let (kept, ended) = (bench.session("ses_1", None).await, bench.session("ses_2", None).await);
        bench.0.sessions_of_account_ended("usr_1", Some("ses_1"));
        assert!(Arc::ptr_eq(&kept, &bench.session("ses_1", None).await));
        // As where the account changes its password by the session that has just ended.
        bench.0.sessions_of_account_ended("usr_1", Some("ses_2"));
        let none = async || Ok(None);
        assert!(bench.0.session("ses_2", none).await.unwrap().is_none() && !ended.seen.is_current());
        assert!(bench.0.session("ses_1", none).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn sessions_that_ended_are_not_noted() {
        let bench = Bench::new();
        bench.session("ses_1", None).await.used_at.store(100, Ordering::Relaxed);
        assert_eq!(bench.0.unnoted_uses(50).len(), 1);
        bench.0.sessions_of_account_ended("usr_1", None);
        assert!(bench.0.unnoted_uses(50).is_empty());
    }
}
