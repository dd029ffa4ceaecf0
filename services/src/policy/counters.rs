//! Counters of rate limits, as a generic cell rate algorithm (ITU-T I.371): each counter stores one number, the time at
//! which its allowance is fully replenished. Counters belong to the account that asks, so that one account cannot evict
//! another's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};

/// A rate limit: requests per window. The whole allowance may be used in one burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least one.
    pub max_requests: u32,
    pub window: Duration,
}

pub struct Counters {
    state: Mutex<State>,
    max: usize,
}

#[derive(Default)]
struct State {
    by_account: HashMap<Arc<str>, AccountCounters>,
    /// Number of counters of all accounts.
    count: usize,
}

/// By a digest of the key, since callers choose the key and may make it long.
type AccountCounters = HashMap<[u8; 16], Counter>;

#[derive(Clone, Copy)]
struct Counter {
    /// When the allowance is fully replenished, in microseconds.
    replenished_at: i64,
    /// How long replenishing takes from empty, in microseconds.
    replenish_time: i64,
    /// Requests in the full allowance.
    max_requests: u32,
}

impl Counter {
    /// The eviction rank; the highest is evicted last. Counters that refuse rank highest, and among them those that
    /// took the most requests to exhaust. The others rank by the share of the allowance in use, in millionths.
    fn eviction_rank(self, now: i64) -> (bool, i64) {
        let missing = i128::from(self.replenished_at.saturating_sub(now).max(0));
        let pause = i128::from((self.replenish_time / i64::from(self.max_requests.max(1))).max(1));
        match missing + pause > i128::from(self.replenish_time) {
            true => (true, self.max_requests.into()),
            false => (false, (missing * 1_000_000 / i128::from(self.replenish_time.max(1))) as i64),
        }
    }
}

/// Divisor: one account may hold at most a tenth of all counters.
const SHARE: usize = 10;

impl Counters {
    /// Holds at most `max` counters, a tenth of them for one account. Beyond that, the counters with the most allowance
    /// left are evicted first and those that refuse last.
    pub fn new(max: u64) -> Counters {
        Counters { state: Mutex::default(), max: usize::try_from(max).unwrap_or(usize::MAX).max(1) }
    }

    /// The number of counters held.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of the account that asks; false when it exceeds the rate. `key` identifies the counter. `now`
    /// is in microseconds; if the clock is set back, a caller waits at most one window.
    pub fn take(&self, account: &Arc<str>, key: &[&str], rate: Rate, now: i64) -> bool {
        let key = digest(key);
        let window = i64::try_from(rate.window.as_micros()).unwrap_or(i64::MAX / 4);
        let max_requests = rate.max_requests;
        let pause = (window / i64::from(max_requests)).max(1);
        let full = pause * i64::from(max_requests);
        let mut state = self.lock();
        let seen =
            state.by_account.get(account).and_then(|counters| counters.get(&key)).map(|counter| counter.replenished_at);
        let replenished_at = seen.unwrap_or(i64::MIN).clamp(now, now + full);
        let is_allowed = replenished_at + pause <= now + full;
        // Stored even if refused: this also corrects a time from before the clock was set back.
        let next = if is_allowed { replenished_at + pause } else { replenished_at };
        if seen.is_none() {
            state.evict_if_full(account, (self.max / SHARE).max(1), self.max, now);
            state.count += 1;
        }
        state
            .by_account
            .entry(account.clone())
            .or_default()
            .insert(key, Counter { replenished_at: next, replenish_time: full, max_requests });
        is_allowed
    }
}

impl State {
    /// Evicts counters if the account or the whole table is full, so that one more fits.
    fn evict_if_full(&mut self, account: &Arc<str>, max_of_account: usize, max: usize, now: i64) {
        if self.by_account.get(account).is_some_and(|counters| counters.len() >= max_of_account) {
            self.evict_of_account(&account.clone(), now);
        }
        if self.count >= max
            && let Some((largest, _)) = self.by_account.iter().max_by_key(|(_, counters)| counters.len())
        {
            self.evict_of_account(&largest.clone(), now);
        }
    }

    /// Evicts the counters of an account with a full allowance, which hold no information. If they are few, evicts a
    /// tenth of all, those with the most allowance left.
    fn evict_of_account(&mut self, account: &Arc<str>, now: i64) {
        let Some(counters) = self.by_account.get_mut(account) else { return };
        let before = counters.len();
        counters.retain(|_, counter| counter.replenished_at > now);
        let wanted = before - before.div_ceil(10);
        if counters.len() > wanted {
            let mut ranks: Vec<(bool, i64)> = counters.values().map(|counter| counter.eviction_rank(now)).collect();
            let mut excess = counters.len() - wanted;
            let (_, last, _) = ranks.select_nth_unstable(excess - 1);
            let last = *last;
            // Lower ranks first: many counters may have the same rank.
            let mut below = ranks.iter().filter(|rank| **rank < last).count();
            counters.retain(|_, counter| {
                let rank = counter.eviction_rank(now);
                let is_evicted = excess > 0 && (rank < last || (rank == last && excess > below));
                below -= usize::from(is_evicted && rank < last);
                excess -= usize::from(is_evicted);
                !is_evicted
            });
        }
        self.count -= before - counters.len();
        if counters.is_empty() {
            self.by_account.remove(account);
        }
    }
}

fn digest(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { max_requests: 5, window: Duration::from_secs(60) };

    #[test]
    fn the_allowance_of_a_window_is_replenished_one_by_one() {
        let (counters, asks) = (Counters::new(10), Arc::from("shop"));
        let allowed = |now: i64| (0..10).filter(|_| counters.take(&asks, &["a"], RATE, now * 1_000_000)).count();
        assert_eq!((allowed(0), allowed(11), allowed(12), allowed(36)), (5, 0, 1, 2));
        assert_eq!(allowed(10_000), 5, "never more than in one window");
        assert_eq!((allowed(0), allowed(60)), (0, 5), "a clock that was set back");
        let wider = Rate { max_requests: 10, ..RATE };
        assert!(counters.take(&asks, &["a"], wider, 60_000_000 + 12_000_000), "a changed rate applies immediately");
    }

    #[test]
    fn no_account_evicts_the_counters_of_another() {
        let counters = Counters::new(1000);
        let (shop, eve): (Arc<str>, Arc<str>) = ("shop".into(), "eve".into());
        for _ in 0..5 {
            assert!(counters.take(&shop, &["ann"], RATE, 0));
        }
        for number in 0..20_000_i64 {
            counters.take(&eve, &[&number.to_string()], RATE, number);
        }
        for account in 0..1000 {
            let account: Arc<str> = format!("a{account}").into();
            (0..3).for_each(|number| _ = counters.take(&account, &[&number.to_string()], RATE, 20_000));
        }
        assert!(counters.count() <= 1000, "{}", counters.count());
        assert!(!counters.take(&shop, &["ann"], RATE, 20_000), "an exhausted allowance stays exhausted");
        let monthly = Rate { max_requests: 100, window: Duration::from_secs(30 * 24 * 3600) };
        for number in 0..300 {
            counters.take(&shop, &["page", &number.to_string()], monthly, 20_000);
        }
        assert!(!counters.take(&shop, &["ann"], RATE, 20_000), "counters with long windows do not evict it");
        let once = Rate { max_requests: 1, ..monthly };
        for number in 0..300 {
            counters.take(&shop, &["once", &number.to_string()], once, 20_000);
        }
        assert!(!counters.take(&shop, &["ann"], RATE, 20_000), "other exhausted counters do not evict it");
    }
}
