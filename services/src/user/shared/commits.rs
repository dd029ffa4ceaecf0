//! Commits of the user service, and tracking of those with an unknown outcome.

use std::sync::atomic::{AtomicI64, Ordering};

use openorch_chassis::{Platform, audit::CallAudit};
use openorch_store::{Batch, Committed, OPEN_FOR, StoreError};

pub struct Commits {
    platform: Platform,
    /// Unix time until which a commit of unknown outcome may still be applied.
    indeterminate_until: AtomicI64,
}

impl Commits {
    pub fn new(platform: Platform) -> Commits {
        Commits { platform, indeterminate_until: AtomicI64::new(i64::MIN) }
    }

    /// Commits the change of a call and then invalidates caches with `invalidate`. If the outcome is unknown, the caches
    /// are invalidated too, so that they are reloaded.
    pub async fn commit(&self, call: &CallAudit, batch: Batch, forget: impl FnOnce()) -> Result<Committed, StoreError> {
        let outcome = self.platform.commit(call, batch).await;
        forget();
        outcome.inspect_err(|error| self.doubt(error))
    }

    /// A commit of unknown outcome may even be applied later, so for a while caches are reloaded.
    pub fn doubt(&self, error: &StoreError) {
        if error.is_open() {
            let until = self.platform.now().0.as_second() + OPEN_FOR.as_secs() as i64;
            self.indeterminate_until.fetch_max(until, Ordering::SeqCst);
        }
    }

    /// Whether a commit of unknown outcome may still be applied.
    pub fn is_doubtful(&self) -> bool {
        self.indeterminate_until.load(Ordering::SeqCst) >= self.platform.now().0.as_second()
    }
}
