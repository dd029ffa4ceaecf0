//! Waits for conditions by polling. After a timeout the test fails with a description of the condition.

use std::time::{Duration, Instant};

/// Longer than any operation on a busy machine, and shorter than the time limit of a test.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the condition holds.
pub async fn eventually(deadline: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually_some(deadline, what, async || holds().await.then_some(())).await;
}

/// Waits until `look` returns a value; returns it.
pub async fn eventually_some<T>(deadline: Duration, what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(start.elapsed() < deadline, "timed out after {deadline:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// [`eventually`] for synchronous tests.
pub fn eventually_sync(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "timed out after {deadline:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits for a future with a timeout.
pub async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done,
        Err(_) => panic!("timed out after {deadline:?}: {what}"),
    }
}
