//! Retries of a read followed by a write that conflicts with a concurrent write.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use openorch_api::error::platform;
use tokio::time::Instant;

use crate::{Error, Result};

/// Time after which a write conflict is not retried any more: shorter than clients wait for a response.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
/// Maximum pause before the next attempt.
const MAX_BACKOFF: Duration = Duration::from_millis(100);

/// Retries `attempt` on write conflicts. In each round one of the concurrent writers succeeds; the others wait with
/// exponential backoff and full jitter, so that they do not collide again.
pub async fn retry<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let started = Instant::now();
    let mut backoff = Duration::from_millis(1);
    loop {
        match attempt().await {
            Err(error) if error.is_write_conflict() && started.elapsed() < RETRY_LIMIT => {
                tokio::time::sleep(backoff.mul_f64(random_fraction())).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
            Err(error) if error.is_write_conflict() => {
                return Err(Error::new(
                    &platform::CONTENDED,
                    format!("too many concurrent updates for {} s; try again in a moment", RETRY_LIMIT.as_secs()),
                ));
            }
            outcome => return outcome,
        }
    }
}

/// Between 0 and 1. Not cryptographically secure.
fn random_fraction() -> f64 {
    // Each `RandomState` has a different seed.
    let number = RandomState::new().hash_one(0_u8);
    f64::from((number >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use openorch_store::StoreError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_run_again_until_it_is_won_or_the_time_is_over() {
        let tries = AtomicUsize::new(0);
        let lost = || Error::from(StoreError::Conflict("a concurrent write".into()));
        let won = retry(|| async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                100 => Ok(()),
                _ => Err(lost()),
            }
        });
        assert!(won.await.is_ok());
        let started = Instant::now();
        let error = retry(|| async { Err::<(), _>(lost()) }).await.unwrap_err();
        assert_eq!(error.code, &platform::CONTENDED);
        assert!((RETRY_LIMIT..RETRY_LIMIT + MAX_BACKOFF).contains(&started.elapsed()));
        let other = retry(|| async { Err::<(), _>(Error::new(&platform::CONFLICT, "taken")) }).await.unwrap_err();
        assert_eq!(other.code, &platform::CONFLICT, "a conflict that is not a lost race is not retried");
    }
}
