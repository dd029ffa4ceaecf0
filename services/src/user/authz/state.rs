//! The state of authorization: rules, role assignments and the account cache.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use openorch_api::{Time, error::access};
use openorch_chassis::{Caller, Error, Platform, Result};
use openorch_store::{Query, Stored, Table};

use crate::user::{
    authz::{
        accounts::{account::Account, cache::AccountCache},
        rows::{CONTACT_ENROLLS, ContactEnrollRow, ROLE_LINKS, RoleLinkRow},
        rules::{AccessRules, tables::RuleTables, usage::AccessLimits},
    },
    shared::{accounts::Accounts, commits::Commits, settings::UserSettings},
};

pub struct Authz {
    pub platform: Platform,
    pub commits: Arc<Commits>,
    pub accounts: Accounts,
    pub cache: AccountCache,
    rules: ArcSwap<AccessRules>,
    pub rule_tables: RuleTables,
    /// Held while the rules change; true if the last change has an unknown outcome.
    pub change_lock: tokio::sync::Mutex<bool>,
    pub role_links: Table<RoleLinkRow>,
    /// Pending roles for contacts.
    pub contact_enrolls: Table<ContactEnrollRow>,
    pub limits: AccessLimits,
    /// How long a service may cache the result of a permission check.
    pub permission_cache_ttl: Duration,
}

impl Authz {
    pub fn new(
        platform: &Platform,
        commits: Arc<Commits>,
        accounts: Accounts,
        rules: AccessRules,
        settings: &UserSettings,
    ) -> Authz {
        Authz {
            commits,
            accounts,
            cache: AccountCache::new(settings.max_cache_entries),
            rules: ArcSwap::from_pointee(rules),
            rule_tables: RuleTables::new(&platform.store),
            change_lock: tokio::sync::Mutex::new(false),
            role_links: platform.table(&ROLE_LINKS),
            contact_enrolls: platform.table(&CONTACT_ENROLLS),
            limits: AccessLimits::from_settings(settings),
            permission_cache_ttl: settings.permission_cache_ttl,
            platform: platform.clone(),
        }
    }

    /// Registers the metrics of the rules' memory.
    pub fn register_metrics(self: &Arc<Authz>) {
        let (authz, limit) = (Arc::downgrade(self), self.limits.total_bytes as u64);
        let metrics = &self.platform.metrics;
        metrics.gauge("access_rule_bytes", "Estimated memory of the access rules in bytes", move || {
            authz.upgrade().map(|authz| authz.load_rules().bytes() as u64)
        });
        metrics
            .gauge("access_rule_bytes_limit", "Limit on the memory of the access rules in bytes", move || Some(limit));
    }

    pub fn now(&self) -> Time {
        self.platform.now()
    }

    /// The current rules, for a short check.
    pub fn load_rules(&self) -> arc_swap::Guard<Arc<AccessRules>> {
        self.rules.load()
    }

    /// The current rules, for longer use.
    pub fn rules(&self) -> Arc<AccessRules> {
        self.rules.load_full()
    }

    pub fn set_rules(&self, rules: AccessRules) {
        self.rules.store(Arc::new(rules));
    }

    /// Whether a caller has a permission.
    pub fn allows(&self, caller: &Caller, permission: &str) -> bool {
        self.load_rules().allow(caller, permission)
    }

    /// The account with its roles, from memory or the store.
    pub async fn account(&self, user_id: &str) -> Result<Option<Arc<Account>>> {
        self.cache.account(user_id, || self.read_account(user_id)).await
    }

    /// The account of a token.
    pub async fn require_account(&self, user_id: &str) -> Result<Arc<Account>> {
        self.account(user_id)
            .await?
            .ok_or_else(|| Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted"))
    }

    async fn read_account(&self, user_id: &str) -> Result<Option<Account>> {
        // Looked at first: a role that was cleared away since is in neither.
        let rules = self.rules();
        let Some(Stored { value: user, .. }) = self.accounts.users.get(user_id).await? else { return Ok(None) };
        let links = self.role_links.find(&Query::all().equals("userId", user_id)).await?;
        let counts = |link: &RoleLinkRow| !rules.deleting.contains(link.role_id.as_str());
        let links: Vec<RoleLinkRow> = links.into_iter().map(|link| link.value).filter(counts).collect();
        Ok(Some(Account::new(&user, &links)))
    }
}
