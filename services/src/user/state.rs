//! The parts of the user service, put together, and what is done for all of them once a second.

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
    /// What tells the daemon who calls.
    pub fn identity(&self) -> Arc<dyn Identity> {
        self.authn.clone()
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        self.directory.registration
    }

    /// What is known of the strength of the stored passwords.
    pub async fn password_counts(&self) -> Result<PasswordCounts> {
        self.authn.passwords.counts().await
    }

    /// Brings rules, keys and what is known of accounts back to what is stored, after a change of which nobody knows
    /// whether it was made, and ends what was begun.
    pub(super) async fn settle(users: Arc<Users>) {
        if users.commits.is_doubtful() {
            users.authn.sessions.cache.forget_all();
        }
        if let Err(error) = users.authz.settle_rules().await {
            tracing::warn!("the rules cannot be read from the store: {error:?}");
        }
        if let Err(error) = users.authn.tokens.settle().await {
            tracing::warn!("the signing keys cannot be read from the store: {error:?}");
        }
        if let Err(error) = users.authn.passwords.default_password.settle(&users.authn.passwords.rows).await {
            tracing::warn!("the admin's password cannot be read from the store: {error:?}");
        }
        if let Err(error) = users.directory.settle().await {
            tracing::warn!("the accounts cannot be read from the store: {error:?}");
        }
        users.authz.clear_roles().await;
    }
}
