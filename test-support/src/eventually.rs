//! Waiting for what must come true: looked at again and again, with a bound, after which the test fails and says what it
//! waited for.

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine, and short beside the limit of a test.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Waits until the condition holds.
pub async fn eventually(deadline: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually_some(deadline, what, async || holds().await.then_some(())).await;
}

/// Waits until there is something; answers it.
pub async fn eventually_some<T>(deadline: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`eventually`] where nothing is async.
pub fn eventually_sync(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits for the end of some work.
pub async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {deadline:?} in vain: {what}"),
    }
}
