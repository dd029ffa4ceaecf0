//! A store with commits of unknown outcome.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use openorch_store::{Batch, BoxFuture, Committed, Layer, Result, Store, StoreError};

/// A store whose next commit is applied but reported as failed; or is delayed until the test applies it; or follows a
/// commit of another writer.
pub struct Unsure {
    pub store: Arc<dyn Store>,
    pub is_unsure: AtomicBool,
    pub is_late: AtomicBool,
    pub late: Mutex<Batch>,
    pub meanwhile: Mutex<Batch>,
}

impl Unsure {
    pub fn before(store: Arc<dyn Store>) -> Arc<Unsure> {
        let (is_unsure, is_late, late, meanwhile) = Default::default();
        Arc::new(Unsure { store, is_unsure, is_late, late, meanwhile })
    }

    /// Applies the delayed commit.
    pub async fn make_late(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        self.store.commit(late).await.unwrap();
    }
}

impl Layer for Unsure {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(async move {
            let meanwhile = std::mem::take(&mut *self.meanwhile.lock().unwrap());
            self.store.commit(meanwhile).await?;
            if self.is_late.swap(false, Ordering::SeqCst) {
                *self.late.lock().unwrap() = batch;
                return Err(StoreError::Unavailable("the connection was lost".into()));
            }
            let committed = self.store.commit(batch).await?;
            match self.is_unsure.swap(false, Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("the connection was lost".into())),
                false => Ok(committed),
            }
        })
    }
}
