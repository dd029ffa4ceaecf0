//! Counters of rate limits, as a generic cell rate algorithm (ITU-T I.371): one number for each counter, which says when it
//! has its whole allowance again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;

/// So many requests in each window; so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub max_requests: u32,
    pub window: Duration,
}

/// Those used most are kept: a flood of keys that are used once does not push them out (TinyLFU, Einziger et al. 2017).
pub struct Counters(Cache<String, Arc<AtomicI64>>);

impl Counters {
    /// At most so many are held.
    pub fn new(max: u64) -> Counters {
        Counters(Cache::new(max))
    }

    /// Counts one, or says that it is one too many. `now` is a time in microseconds; a clock that is set back makes nobody
    /// wait longer than a window.
    pub fn take(&self, key: String, rate: Rate, now: i64) -> bool {
        let window = i64::try_from(rate.window.as_micros()).unwrap_or(i64::MAX / 4);
        let pause = (window / i64::from(rate.max_requests)).max(1);
        let full = pause * i64::from(rate.max_requests);
        let full_at = self.0.get_with(key, || Arc::new(AtomicI64::new(i64::MIN)));
        let mut seen = full_at.load(Ordering::SeqCst);
        loop {
            let known = seen.clamp(now, now + full);
            let is_allowed = known + pause <= now + full;
            // Also where it is refused: a clock that was set back is forgotten by that.
            let next = if is_allowed { known + pause } else { known };
            match full_at.compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return is_allowed,
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_allowed_in_a_window_and_they_come_back_one_by_one() {
        let counters = Counters::new(10);
        let rate = Rate { max_requests: 5, window: Duration::from_secs(60) };
        let allowed = |now: i64| (0..10).filter(|_| counters.take("a".into(), rate, now * 1_000_000)).count();
        assert_eq!((allowed(0), allowed(11), allowed(12), allowed(36)), (5, 0, 1, 2));
        assert_eq!(allowed(10_000), 5, "never more than in one window");
        assert_eq!((allowed(0), allowed(60)), (0, 5), "a clock that was set back");
        let wider = Rate { max_requests: 10, ..rate };
        assert!(counters.take("a".into(), wider, 60_000_000 + 12_000_000), "a rate that was changed counts at once");
    }
}
