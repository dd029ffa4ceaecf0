//! Tracks whether the admin has the well-known default password (decision "First admin", decision "Restricted mode"):
//! while it does, the daemon listens only on loopback.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_chassis::Result;
use openorch_store::Table;

use crate::user::authn::rows::PasswordRow;

pub const DEFAULT_ADMIN_PASSWORD: &str = "changeme";

pub struct DefaultPassword {
    is_set: Arc<AtomicBool>,
    /// Ids of admin accounts whose password must be re-read.
    pending: Mutex<BTreeSet<String>>,
    /// Serializes reads, so that the last one sees the last change.
    read_lock: tokio::sync::Mutex<()>,
}

impl DefaultPassword {
    /// `is_set` is true while the admin's password is the default one.
    pub fn new(is_set: Arc<AtomicBool>) -> DefaultPassword {
        DefaultPassword { is_set, pending: Mutex::default(), read_lock: tokio::sync::Mutex::default() }
    }

    /// To be called after each possible change of the admin's password.
    pub async fn changed(&self, admin_id: &str, rows: &Table<PasswordRow>) {
        self.pending().insert(admin_id.to_owned());
        if let Err(error) = self.reconcile(rows).await {
            tracing::warn!("cannot read the admin's password from the store: {error:?}");
        }
    }

    /// Retries reads that failed.
    pub async fn reconcile(&self, rows: &Table<PasswordRow>) -> Result<()> {
        let _order = self.read_lock.lock().await;
        let pending = self.pending().clone();
        for id in pending {
            let is_default = rows.get(&id).await?.is_some_and(|row| row.value.is_default);
            self.is_set.store(is_default, Ordering::SeqCst);
            self.pending().remove(&id);
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
