//! The state of the directory.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use openorch_api::Time;
use openorch_chassis::{
    Platform,
    identity::{AccountDeletionHook, AppDeletionHook},
    rate_limit::{Rate, RateLimiter},
    service::Hooks,
};
use openorch_store::Table;

use crate::user::{
    authn::state::Authn,
    authz::state::Authz,
    directory::rows::{INVITATIONS, InvitationRow, ORGANIZATIONS, OrganizationRow},
    shared::{
        accounts::Accounts,
        commits::Commits,
        rows::{TOMBSTONES, TombstoneRow},
        settings::Registration,
    },
};

pub struct Directory {
    pub platform: Platform,
    pub commits: Arc<Commits>,
    pub accounts: Accounts,
    pub authz: Arc<Authz>,
    pub authn: Arc<Authn>,
    pub tombstones: Table<TombstoneRow>,
    pub organizations: Table<OrganizationRow>,
    pub invitations: Table<InvitationRow>,
    /// Who may register.
    pub registration: Registration,
    /// Limits registrations by network, in a time in which an hour is a second.
    pub registrations: RateLimiter<IpAddr>,
    /// Hooks of other services for the deletion of an account.
    pub deletion_hooks: Vec<Arc<dyn AccountDeletionHook>>,
    /// Hooks for the deletion of an app.
    pub app_deletion_hooks: Vec<Arc<dyn AppDeletionHook>>,
    /// Accounts whose deletion has an unknown outcome.
    pub pending_deletions: Mutex<BTreeSet<String>>,
    /// Serializes their reconciliation.
    pub reconcile_lock: tokio::sync::Mutex<()>,
}

impl Directory {
    pub fn new(
        commits: Arc<Commits>,
        authn: Arc<Authn>,
        registration: Registration,
        registrations: Rate,
        hooks: Hooks,
    ) -> Directory {
        let platform = authn.platform.clone();
        Directory {
            commits,
            accounts: authn.accounts.clone(),
            authz: authn.authz.clone(),
            authn,
            tombstones: platform.table(&TOMBSTONES),
            organizations: platform.table(&ORGANIZATIONS),
            invitations: platform.table(&INVITATIONS),
            registration,
            registrations: RateLimiter::new(registrations),
            deletion_hooks: hooks.account_deletion,
            app_deletion_hooks: hooks.app_deletion,
            pending_deletions: Mutex::default(),
            reconcile_lock: tokio::sync::Mutex::default(),
            platform,
        }
    }

    pub fn now(&self) -> Time {
        self.platform.now()
    }
}
