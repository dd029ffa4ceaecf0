//! What is done again when another writer came between its reading and its batch.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use openorch_api::error::platform;
use tokio::time::Instant;

use crate::{Error, Result};

/// How long a lost race is run again: clients wait longer than this for an answer.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
/// The longest pause before the next attempt.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Runs `attempt` again when another writer came between its reading and its batch. One of all who race wins each round;
/// the others pause, each for a random time out of a span that doubles, so that they do not meet again.
pub async fn retry<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let started = Instant::now();
    let mut span = Duration::from_millis(1);
    loop {
        match attempt().await {
            Err(error) if error.is_lost_race() && started.elapsed() < RETRY_LIMIT => {
                tokio::time::sleep(span.mul_f64(random_part())).await;
                span = (span * 2).min(LONGEST_PAUSE);
            }
            Err(error) if error.is_lost_race() => {
                return Err(Error::new(
                    &platform::CONTENDED,
                    format!("others changed the same thing for {} s; try again in a moment", RETRY_LIMIT.as_secs()),
                ));
            }
            outcome => return outcome,
        }
    }
}

/// From 0 to 1. Not for secrets.
fn random_part() -> f64 {
    // The standard library seeds each of these anew.
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
        let lost = || Error::from(StoreError::Conflict("another was first".into()));
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
        assert!((RETRY_LIMIT..RETRY_LIMIT + LONGEST_PAUSE).contains(&started.elapsed()));
        let other = retry(|| async { Err::<(), _>(Error::new(&platform::CONFLICT, "taken")) }).await.unwrap_err();
        assert_eq!(other.code, &platform::CONFLICT, "what was decided is not decided again");
    }
}
