//! The cache of accounts in use (decision "Access rules in memory"). The store is authoritative; code that changes an
//! account's rights must invalidate it here.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use moka::sync::Cache;
use openorch_chassis::Result;

use crate::user::{authz::accounts::account::Account, shared::versions::Versions};

pub struct AccountCache {
    accounts: Cache<Arc<str>, Arc<Account>>,
    /// Incremented whenever an account changes; what was read before is not inserted.
    epoch: AtomicU64,
    /// Incremented whenever the rights of all accounts may have changed.
    rights_epoch: AtomicU64,
    /// Locked during insertions and invalidations, so that an outdated account cannot be inserted concurrently.
    versions: Mutex<AccountVersions>,
}

/// The versions from which cached accounts were loaded.
#[derive(Default)]
struct AccountVersions {
    /// By account.
    rights: Versions,
    roles: Versions,
}

impl AccountCache {
    pub fn new(entries: u64) -> AccountCache {
        AccountCache {
            accounts: Cache::new(entries),
            epoch: AtomicU64::new(0),
            rights_epoch: AtomicU64::new(0),
            versions: Mutex::default(),
        }
    }

    /// The account, loaded with `read` on a miss.
    pub async fn account<F>(&self, id: &str, read: impl FnOnce() -> F) -> Result<Option<Arc<Account>>>
    where
        F: Future<Output = Result<Option<Account>>>,
    {
        if let Some(found) = self.accounts.get(id).filter(|account| account.is_current()) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(Ordering::SeqCst);
        let Some(mut account) = read().await? else { return Ok(None) };
        let mut order = self.versions();
        if self.epoch.load(Ordering::SeqCst) != epoch {
            return Ok(Some(Arc::new(account)));
        }
        let rights = order.rights.stamp(id);
        let roles = account.roles().into_iter().map(|role| order.roles.stamp(role));
        account.loaded_versions = Some([rights].into_iter().chain(roles).collect());
        let account = Arc::new(account);
        self.accounts.insert(id.into(), account.clone());
        Ok(Some(account))
    }

    fn versions(&self) -> MutexGuard<'_, AccountVersions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when the profile changed; rights are unaffected.
    pub fn profile_changed(&self, user_id: &str) {
        let _order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate(user_id);
    }

    /// To be called when the rights of an account changed or it was deleted: delegated tokens from before are not used
    /// anymore.
    pub fn rights_changed(&self, user_id: &str) {
        let order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        order.rights.bump(user_id);
        self.accounts.invalidate(user_id);
    }

    /// To be called when these roles were deleted: invalidates only the accounts that had one.
    pub fn roles_deleted<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        ids.into_iter().for_each(|id| order.roles.bump(id));
    }

    /// Invalidates all accounts and the delegated tokens derived from them, including those being loaded.
    pub fn all_rights_changed(&self) {
        let _order = self.versions();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.rights_epoch.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate_all();
    }

    /// Changes whenever the rights of all accounts may have changed. To be read before the claims of a delegated token
    /// are loaded.
    pub fn rights_epoch(&self) -> u64 {
        self.rights_epoch.load(Ordering::SeqCst)
    }
}
