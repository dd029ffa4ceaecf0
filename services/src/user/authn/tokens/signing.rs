//! Signs tokens off the async workers with bounded concurrency. A signature takes about a millisecond, so the first
//! requests of many sessions would otherwise delay all others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openorch_chassis::{Error, Result};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::user::authn::tokens::{
    digest::Digest,
    jwt::{Claims, SigningKey},
};

pub struct Signing {
    permits: Semaphore,
    /// One lock for each token being issued.
    locks: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// Guard that lets one caller at a time issue a token.
pub struct IssueGuard<'a> {
    signing: &'a Signing,
    of: Digest,
    held: Option<OwnedMutexGuard<()>>,
}

impl Signing {
    /// `concurrency` is the maximum number of concurrent signatures.
    pub fn new(concurrency: usize) -> Signing {
        Signing { permits: Semaphore::new(concurrency.max(1)), locks: Mutex::default() }
    }

    pub async fn sign(&self, key: Arc<SigningKey>, claims: Claims) -> Result<String> {
        let _turn = self.permits.acquire().await.map_err(Error::internal)?;
        tokio::task::spawn_blocking(move || key.sign(&claims)).await.map_err(Error::internal)?
    }

    /// Waits until no other caller issues this token. Afterwards, the caller should check whether the token was issued
    /// meanwhile.
    pub async fn lock(&self, of: Digest) -> IssueGuard<'_> {
        let lock = self.locks().entry(of).or_default().clone();
        // Created before waiting, so that the entry is removed if the caller is cancelled.
        let mut alone = IssueGuard { signing: self, of, held: None };
        alone.held = Some(lock.lock_owned().await);
        alone
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IssueGuard<'_> {
    fn drop(&mut self) {
        let mut under_way = self.signing.locks();
        self.held = None;
        // No other caller holds or awaits the lock.
        if under_way.get(&self.of).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            under_way.remove(&self.of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_caller_at_a_time_issues_a_token_and_no_lock_remains() {
        let signing = Arc::new(Signing::new(1));
        let first = signing.lock([1; 32]).await;
        let other = signing.lock([2; 32]).await;
        let waits = {
            let signing = signing.clone();
            tokio::spawn(async move { drop(signing.lock([1; 32]).await) })
        };
        let leaves = {
            let signing = signing.clone();
            tokio::spawn(async move { drop(signing.lock([1; 32]).await) })
        };
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        leaves.abort();
        assert!(leaves.await.is_err());
        drop((first, other));
        waits.await.unwrap();
        assert!(signing.locks().is_empty());
    }
}
