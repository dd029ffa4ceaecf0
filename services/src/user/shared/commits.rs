//! Commits of the user service, and tracking of those with an unknown outcome.

use std::sync::atomic::{AtomicI64, Ordering};

use openorch_chassis::{Platform, audit::CallAudit};
use openorch_store::{Batch, Committed, INDETERMINATE_WINDOW, StoreError};

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
    pub async fn commit(
        &self,
        call: &CallAudit,
        batch: Batch,
        invalidate: impl FnOnce(),
    ) -> Result<Committed, StoreError> {
        let outcome = self.platform.commit(call, batch).await;
        invalidate();
        outcome.inspect_err(|error| self.record_if_indeterminate(error))
    }

    /// A commit of unknown outcome may even be applied later, so for a while caches are reloaded.
    pub fn record_if_indeterminate(&self, error: &StoreError) {
        if error.outcome_unknown() {
            let until = self.platform.now().0.as_second() + INDETERMINATE_WINDOW.as_secs() as i64;
            self.indeterminate_until.fetch_max(until, Ordering::SeqCst);
        }
    }

    /// Whether a commit of unknown outcome may still be applied.
    pub fn is_indeterminate(&self) -> bool {
        self.indeterminate_until.load(Ordering::SeqCst) >= self.platform.now().0.as_second()
    }
}
