//! The cache of active sessions and their delegated tokens (decision "Access rules in memory"). The store is
//! authoritative; code that ends a session must also remove it here.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use http::HeaderValue;
use moka::sync::Cache;
use openorch_chassis::Result;

use crate::user::{
    authn::tokens::digest::Digest,
    authz::accounts::account::Account,
    shared::versions::{VersionStamp, Versions},
};

/// A session that has not ended, with the fields needed to check it.
pub struct LiveSession {
    pub id: Arc<str>,
    pub user_id: Arc<str>,
    pub app: Arc<str>,
    /// The session with which it ends.
    pub exchanged_from: Option<Arc<str>>,
    /// Unix time.
    pub created_at: i64,
    /// Last use, as Unix time.
    pub used_at: AtomicI64,
    /// The last use according to the store.
    pub stored_used_at: AtomicI64,
    /// Stale once all sessions of the account have ended.
    pub seen: VersionStamp,
}

/// A delegated token as sent to a service.
#[derive(Clone)]
pub struct Delegated {
    pub header: HeaderValue,
    /// As they were when the token was issued. If the cache has other objects now, something changed.
    pub session: Arc<LiveSession>,
    pub account: Arc<Account>,
    /// [`crate::user::authz::accounts::cache::AccountCache::rights_epoch`] from before the token was issued.
    pub rights: u64,
    /// Unix time from which a new token is issued instead.
    pub fresh_until: i64,
}

pub struct SessionCache {
    sessions: Cache<Arc<str>, Arc<LiveSession>>,
    delegated: Cache<Digest, Delegated>,
    /// Incremented whenever a session ends; what was read before is not inserted.
    epoch: AtomicU64,
    /// Versions of the sessions by account. Locked during insertions and invalidations, so that an ended session cannot
    /// be inserted concurrently.
    versions: Mutex<Versions>,
}

impl SessionCache {
    pub fn new(entries: u64) -> SessionCache {
        SessionCache {
            sessions: Cache::new(entries),
            delegated: Cache::new(entries),
            epoch: AtomicU64::new(0),
            versions: Mutex::default(),
        }
    }

    /// The session if it has not ended, loaded with `read` on a miss. A session exchanged from another ends with it.
    pub async fn session<F>(&self, id: &str, read: impl FnOnce() -> F) -> Result<Option<Arc<LiveSession>>>
    where
        F: Future<Output = Result<Option<LiveSession>>>,
    {
        if let Some(found) = self.live_session(id) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(session) = read().await?.map(Arc::new) else { return Ok(None) };
        let _order = self.versions();
        if self.epoch.load(Ordering::SeqCst) == epoch {
            self.sessions.insert(id.into(), session.clone());
        }
        Ok(Some(session))
    }

    fn live_session(&self, id: &str) -> Option<Arc<LiveSession>> {
        self.sessions.get(id).filter(|session| session.seen.is_current())
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the account's sessions, taken before a session is read.
    pub fn session_version(&self, user_id: &str) -> VersionStamp {
        self.versions().stamp(user_id)
    }

    /// Ends all sessions of an account but `keep`: the next request with one is refused.
    pub fn evict_account(&self, user_id: &str, keep: Option<&str>) {
        let order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // A session that has already ended is not kept, even if requested.
        let kept = keep.and_then(|id| self.live_session(id)).filter(|session| *session.user_id == *user_id);
        order.bump(user_id);
        if let Some(kept) = kept {
            kept.seen.renew();
        }
    }

    /// Ends these sessions: the next request with one is refused, or with one exchanged from it.
    pub fn evict(&self, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let _order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        ids.iter().for_each(|id| self.sessions.invalidate(id.as_str()));
    }

    /// Clears the cache.
    pub fn clear(&self) {
        let _order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.sessions.invalidate_all();
        self.delegated.invalidate_all();
    }

    /// The cached delegated token, if its session, account and all rights are unchanged and it is fresh at `now`.
    pub fn delegated(&self, digest: &Digest, now: i64, rights: u64) -> Option<Delegated> {
        let found = self.delegated.get(digest)?;
        let known = self.live_session(&found.session.id)?;
        if let Some(from) = &known.exchanged_from {
            self.live_session(from)?;
        }
        let is_unchanged = Arc::ptr_eq(&known, &found.session) && found.account.is_current();
        (found.fresh_until > now && is_unchanged && found.rights == rights).then_some(found)
    }

    pub fn insert_delegated(&self, digest: Digest, delegated: Delegated) {
        self.delegated.insert(digest, delegated);
    }

    pub fn cached_session(&self, id: &str) -> Option<Arc<LiveSession>> {
        self.sessions.get(id)
    }

    /// Sessions whose last use differs from the stored one by `behind` seconds or more. It may also be earlier, if the
    /// stored one was written while the clock was wrong.
    pub fn unflushed_uses(&self, behind: i64) -> Vec<Arc<LiveSession>> {
        let lags = |session: &LiveSession| {
            let (used, noted) =
                (session.used_at.load(Ordering::Relaxed), session.stored_used_at.load(Ordering::Relaxed));
            used.abs_diff(noted) >= behind.unsigned_abs()
        };
        let all = self.sessions.iter().map(|(_, session)| session);
        all.filter(|session| session.seen.is_current() && lags(session)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::{
        authz::{accounts::cache::AccountCache, rows::RoleLinkRow},
        shared::rows::{DEFAULT_APP, UserRow},
    };

    fn user(id: &str) -> UserRow {
        let time = openorch_api::Time::default();
        let row = serde_json::json!({ "id": id, "slug": id, "name": id, "createdAt": time, "updatedAt": time });
        serde_json::from_value(row).unwrap()
    }

    struct Fixture {
        sessions: SessionCache,
        accounts: AccountCache,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture { sessions: SessionCache::new(100), accounts: AccountCache::new(100) }
        }

        async fn session(&self, id: &str, exchanged_from: Option<&str>) -> Arc<LiveSession> {
            let session = || LiveSession {
                id: id.into(),
                user_id: "usr_1".into(),
                app: DEFAULT_APP.into(),
                exchanged_from: exchanged_from.map(Into::into),
                created_at: 0,
                used_at: 0.into(),
                stored_used_at: 0.into(),
                seen: self.sessions.session_version("usr_1"),
            };
            self.sessions.session(id, async || Ok(Some(session()))).await.unwrap().unwrap()
        }

        async fn account(&self, id: &str, role: &str) -> Arc<Account> {
            let row = user(id);
            let links = [RoleLinkRow::new(DEFAULT_APP, id, role, openorch_api::Time::default())];
            let read = async || Ok(Some(Account::new(&row, &links)));
            self.accounts.account(id, read).await.unwrap().unwrap()
        }

        fn keep(&self, digest: u8, session: &Arc<LiveSession>, account: &Arc<Account>, rights: u64) {
            let header = HeaderValue::from_static("Bearer x");
            let (session, account) = (session.clone(), account.clone());
            self.sessions
                .insert_delegated([digest; 32], Delegated { header, session, account, rights, fresh_until: 10 });
        }

        fn has(&self, digest: u8) -> bool {
            self.sessions.delegated(&[digest; 32], 5, self.accounts.rights_epoch()).is_some()
        }
    }

    #[tokio::test]
    async fn a_delegated_token_issued_before_rights_changed_is_not_used() {
        type Change = fn(&Fixture);
        let changes: [(Change, bool); 8] = [
            (|_| {}, true),
            (|bench| bench.accounts.profile_changed("usr_1"), true),
            (|bench| bench.accounts.rights_changed("usr_2"), true),
            (|bench| bench.accounts.roles_deleted(["other:role"]), true),
            (|bench| bench.accounts.rights_changed("usr_1"), false),
            (|bench| bench.accounts.roles_deleted(["some:role"]), false),
            (|bench| bench.sessions.evict_account("usr_1", None), false),
            (|bench| bench.accounts.all_rights_changed(), false),
        ];
        for (n, (change, is_sent)) in changes.into_iter().enumerate() {
            let bench = Fixture::new();
            let rights = bench.accounts.rights_epoch();
            let (session, account) = (bench.session("ses_1", None).await, bench.account("usr_1", "some:role").await);
            change(&bench);
            bench.keep(0, &session, &account, rights);
            assert_eq!(bench.has(0), is_sent, "{n}");
        }
    }

    #[tokio::test]
    async fn an_account_read_during_a_change_is_not_cached_and_neither_are_its_tokens() {
        let bench = Fixture::new();
        let (session, row) = (bench.session("ses_1", None).await, user("usr_1"));
        let read = async || {
            bench.accounts.roles_deleted(["some:role"]);
            Ok(Some(Account::new(&row, &[])))
        };
        let account = bench.accounts.account("usr_1", read).await.unwrap().unwrap();
        bench.keep(0, &session, &account, bench.accounts.rights_epoch());
        assert!(!bench.has(0) && !Arc::ptr_eq(&account, &bench.account("usr_1", "some:role").await));
    }

    #[tokio::test]
    async fn a_change_does_not_evict_unrelated_entries() {
        let bench = Fixture::new();
        let session = bench.session("ses_1", None).await;
        let (account, other) = (bench.account("usr_1", "some:role").await, bench.account("usr_2", "other:role").await);
        bench.accounts.rights_changed("usr_1");
        bench.accounts.roles_deleted(["some:role"]);
        bench.sessions.evict(&["ses_2".into()]);
        bench.sessions.evict_account("usr_2", None);
        assert!(Arc::ptr_eq(&session, &bench.session("ses_1", None).await), "the session came from the cache");
        assert!(Arc::ptr_eq(&other, &bench.account("usr_2", "other:role").await));
        assert!(!Arc::ptr_eq(&account, &bench.account("usr_1", "some:role").await));
    }

    #[tokio::test]
    async fn a_session_ends_with_the_one_it_was_exchanged_from_even_if_its_delegated_token_is_cached() {
        let bench = Fixture::new();
        bench.session("ses_1", None).await;
        let (exchanged, account) = (bench.session("ses_2", Some("ses_1")).await, bench.account("usr_1", "a:b").await);
        bench.keep(0, &exchanged, &account, bench.accounts.rights_epoch());
        assert!(bench.has(0));
        bench.sessions.evict(&["ses_1".into()]);
        assert!(!bench.has(0));
    }

    #[tokio::test]
    async fn ending_all_sessions_of_an_account_keeps_one_and_revives_none() {
        let bench = Fixture::new();
        let (kept, ended) = (bench.session("ses_1", None).await, bench.session("ses_2", None).await);
        bench.sessions.evict_account("usr_1", Some("ses_1"));
        assert!(Arc::ptr_eq(&kept, &bench.session("ses_1", None).await));
        // The account changes its password with the session that has just ended.
        bench.sessions.evict_account("usr_1", Some("ses_2"));
        let none = async || Ok(None);
        assert!(bench.sessions.session("ses_2", none).await.unwrap().is_none() && !ended.seen.is_current());
        assert!(bench.sessions.session("ses_1", none).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn uses_of_ended_sessions_are_not_flushed() {
        let bench = Fixture::new();
        bench.session("ses_1", None).await.used_at.store(100, Ordering::Relaxed);
        assert_eq!(bench.sessions.unflushed_uses(50).len(), 1);
        bench.sessions.evict_account("usr_1", None);
        assert!(bench.sessions.unflushed_uses(50).is_empty());
    }
}
