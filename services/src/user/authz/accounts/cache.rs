//! The accounts that are used, in memory (decision "Access rules in memory"). The store stays the truth; whoever changes
//! what an account may says so here.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use moka::sync::Cache;
use openorch_chassis::Result;

use crate::user::{authz::accounts::account::Account, shared::versions::Versions};

pub struct AccountCache {
    accounts: Cache<Arc<str>, Arc<Account>>,
    /// Rises whenever an account changes: what was read before it rose is not kept.
    epoch: AtomicU64,
    /// Rises whenever what all accounts may changes.
    rights: AtomicU64,
    /// Held while something read is put in and while something changed is taken out, so that neither slips by the other.
    order: Mutex<Sources>,
}

/// What the accounts in memory were made from.
#[derive(Default)]
struct Sources {
    /// By account: what it may.
    rights: Versions,
    roles: Versions,
}

impl AccountCache {
    pub fn new(entries: u64) -> AccountCache {
        AccountCache {
            accounts: Cache::new(entries),
            epoch: AtomicU64::new(0),
            rights: AtomicU64::new(0),
            order: Mutex::default(),
        }
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

    fn order(&self) -> MutexGuard<'_, Sources> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What all accounts may changed: no account in memory counts any more, nor what was made of one, also where that is
    /// being made.
    pub fn all_rights_changed(&self) {
        let _order = self.order();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.rights.fetch_add(1, Ordering::SeqCst);
        self.accounts.invalidate_all();
    }

    /// Another number means that what all accounts may changed. Asked before what a delegated token says is looked up.
    pub fn rights(&self) -> u64 {
        self.rights.load(Ordering::SeqCst)
    }
}
