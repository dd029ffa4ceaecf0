//! The combined state of the user service, and its reconciliation task.

use std::sync::Arc;

use openorch_chassis::{Identity, Result};

use crate::user::{
    audit::AuditLog,
    authn::{passwords::check::PasswordCounts, state::Authn},
    authz::state::Authz,
    clock_grace::ClockGrace,
    directory::state::Directory,
    shared::{commits::Commits, settings::Registration},
};

/// The user service.
pub struct Users {
    pub(super) commits: Arc<Commits>,
    pub(super) authz: Arc<Authz>,
    pub(super) authn: Arc<Authn>,
    pub(super) directory: Arc<Directory>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) clock_grace: Arc<ClockGrace>,
}

impl Users {
    /// The identity implementation of the daemon.
    pub fn identity(&self) -> Arc<dyn Identity> {
        self.authn.clone()
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        self.directory.registration
    }

    /// Counts the stored passwords by strength.
    pub async fn password_counts(&self) -> Result<PasswordCounts> {
        self.authn.passwords.counts().await
    }

    /// Reconciles rules, keys and accounts after commits of unknown outcome, and completes the deletion of roles. Runs
    /// once a second.
    pub(super) async fn reconcile(users: Arc<Users>) {
        if users.commits.is_indeterminate() {
            users.authn.sessions.cache.clear();
        }
        if let Err(error) = users.authz.reconcile_rules().await {
            tracing::warn!("cannot read the rules from the store: {error:?}");
        }
        if let Err(error) = users.authn.tokens.reconcile().await {
            tracing::warn!("cannot read the signing keys from the store: {error:?}");
        }
        if let Err(error) = users.authn.passwords.default_password.reconcile(&users.authn.passwords.rows).await {
            tracing::warn!("cannot read the admin's password from the store: {error:?}");
        }
        if let Err(error) = users.directory.reconcile().await {
            tracing::warn!("cannot read the accounts from the store: {error:?}");
        }
        users.authz.remove_deleted_roles().await;
    }
}
