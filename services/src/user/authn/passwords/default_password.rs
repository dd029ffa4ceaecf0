//! Whether the admin's password is the one that everybody knows (decision "First admin", decision "Restricted mode"):
//! while it is, the daemon listens on loopback only.

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
    /// Ids of the admin's account, while it is to be looked again whether its password is the default one.
    pending: Mutex<BTreeSet<String>>,
    /// One after the other: the last to look sees the last change.
    order: tokio::sync::Mutex<()>,
}

impl DefaultPassword {
    /// `is_set` is true while the admin's password is the default one.
    pub fn new(is_set: Arc<AtomicBool>) -> DefaultPassword {
        DefaultPassword { is_set, pending: Mutex::default(), order: tokio::sync::Mutex::default() }
    }

    /// The password of the admin may have changed.
    pub async fn changed(&self, admin_id: &str, rows: &Table<PasswordRow>) {
        self.pending().insert(admin_id.to_owned());
        if let Err(error) = self.settle(rows).await {
            tracing::warn!("the admin's password cannot be read from the store: {error:?}");
        }
    }

    /// Looks again, where that failed.
    pub async fn settle(&self, rows: &Table<PasswordRow>) -> Result<()> {
        let _order = self.order.lock().await;
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
