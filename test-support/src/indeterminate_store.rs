//! A store with commits of unknown outcome.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use openorch_store::{Batch, BoxFuture, Committed, Layer, Result, Store, StoreError};

/// A store whose next commit is applied but reported as failed; or is delayed until the test applies it; or follows a
/// commit of another writer.
pub struct IndeterminateStore {
    pub store: Arc<dyn Store>,
    pub drop_next_acknowledgement: AtomicBool,
    pub delay_next_commit: AtomicBool,
    pub delayed: Mutex<Batch>,
    pub concurrent_write: Mutex<Batch>,
}

impl IndeterminateStore {
    pub fn wrap(store: Arc<dyn Store>) -> Arc<IndeterminateStore> {
        Arc::new(IndeterminateStore {
            store,
            drop_next_acknowledgement: AtomicBool::default(),
            delay_next_commit: AtomicBool::default(),
            delayed: Mutex::default(),
            concurrent_write: Mutex::default(),
        })
    }

    /// Applies the delayed commit.
    pub async fn apply_delayed(&self) {
        let delayed = std::mem::take(&mut *self.delayed.lock().unwrap());
        self.store.commit(delayed).await.unwrap();
    }
}

impl Layer for IndeterminateStore {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn wrap_commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(async move {
            let concurrent = std::mem::take(&mut *self.concurrent_write.lock().unwrap());
            self.store.commit(concurrent).await?;
            if self.delay_next_commit.swap(false, Ordering::SeqCst) {
                *self.delayed.lock().unwrap() = batch;
                return Err(StoreError::Unavailable("the connection was lost".into()));
            }
            let committed = self.store.commit(batch).await?;
            match self.drop_next_acknowledgement.swap(false, Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("the connection was lost".into())),
                false => Ok(committed),
            }
        })
    }
}
