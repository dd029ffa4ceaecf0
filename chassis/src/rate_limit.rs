//! Rate limiting by key (an account, an address) with the generic cell rate algorithm (ITU-T I.371). It stores one number per
//! key, and evicts idle keys.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The average rate and the burst size. Zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens added per second.
    pub per_second: u32,
    /// Maximum number of tokens that accumulate.
    pub burst: u32,
}

/// Maximum number of keys. Beyond it arbitrary keys are evicted, which gives them a full burst again.
const MAX_KEYS: usize = 100_000;
const MIN_SWEEP_SIZE: usize = 1024;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// A rate limiter by key.
pub struct RateLimiter<K> {
    rate: Rate,
    state: Mutex<State<K>>,
}

struct State<K> {
    /// The time in microseconds when the key has its full burst again.
    full_at: HashMap<K, i64>,
    /// The number of keys at which idle ones are evicted.
    sweep_at: usize,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// A limiter in which every key has a full burst.
    pub fn new(rate: Rate) -> RateLimiter<K> {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        RateLimiter { rate, state: Mutex::new(State { full_at: HashMap::new(), sweep_at: MIN_SWEEP_SIZE }) }
    }

    /// The rate of each key.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Consumes one token, or fails with the time to wait. `now` is in microseconds, always of the same clock; if that is
    /// set back, the wait is at most that of a full burst.
    pub fn try_acquire<Q>(&self, key: &Q, now: i64) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.reserve(key, now, Duration::ZERO).map(drop)
    }

    /// Reserves one token, possibly of the future, and returns the delay until it is available. If the delay exceeds
    /// `max_delay`, reserves nothing and returns the delay as the error.
    pub fn reserve<Q>(&self, key: &Q, now: i64, max_delay: Duration) -> Result<Duration, Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let most = i64::try_from(max_delay.as_micros()).unwrap_or(i64::MAX);
        let interval = (MICROS_PER_SECOND / i64::from(self.rate.per_second)).max(1);
        let burst_time = interval.saturating_mul(i64::from(self.rate.burst));
        let latest = now.saturating_add(burst_time);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.full_at.get(key).copied();
        let next = known.unwrap_or(now).clamp(now, latest.saturating_add(most)) + interval;
        let delay = (next - latest).max(0);
        if delay > most {
            return Err(Duration::from_micros(delay.unsigned_abs()));
        }
        if known.is_none() {
            state.evict(now);
        }
        match state.full_at.get_mut(key) {
            Some(full_at) => *full_at = next,
            None => drop(state.full_at.insert(key.to_owned(), next)),
        }
        Ok(Duration::from_micros(delay.unsigned_abs()))
    }
}

impl<K: Hash + Eq> State<K> {
    /// Evicts keys. The cost is amortized: after a sweep the next one is due when the number of keys has doubled.
    fn evict(&mut self, now: i64) {
        if self.full_at.len() < self.sweep_at {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        let mut beyond = self.full_at.len().saturating_sub(MAX_KEYS - MAX_KEYS / 8);
        self.full_at.retain(|_, _| {
            let stays = beyond == 0;
            beyond = beyond.saturating_sub(1);
            stays
        });
        self.sweep_at = (self.full_at.len() * 2).clamp(MIN_SWEEP_SIZE, MAX_KEYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let limiter: RateLimiter<String> = RateLimiter::new(Rate { per_second: 10, burst: 3 });
        let passed = |key: &str, now: i64| (0..20).filter(|_| limiter.try_acquire(key, now).is_ok()).count();
        assert_eq!((passed("a", 0), passed("b", 0)), (3, 3));
        assert_eq!(limiter.try_acquire("a", 0), Err(Duration::from_millis(100)));
        assert_eq!(passed("a", MICROS_PER_SECOND / 5), 2);
        assert_eq!(passed("a", MICROS_PER_SECOND * 60), 3, "no more than the burst, however long the pause");
        assert_eq!(passed("a", -MICROS_PER_SECOND * 3600), 0);
        assert!(
            limiter.try_acquire("a", -MICROS_PER_SECOND * 3600).unwrap_err() <= Duration::from_millis(100),
            "a clock set back"
        );
    }

    #[test]
    fn what_may_wait_is_put_off_to_when_it_may_happen() {
        let limiter: RateLimiter<String> = RateLimiter::new(Rate { per_second: 10, burst: 2 });
        let max_delay = Duration::from_millis(250);
        let delays = (0..6).map(|_| limiter.reserve("a", 0, max_delay).map(|late| late.as_millis()).ok());
        assert_eq!(delays.collect::<Vec<_>>(), [Some(0), Some(0), Some(100), Some(200), None, None]);
        assert_eq!(limiter.reserve("a", MICROS_PER_SECOND, max_delay), Ok(Duration::ZERO));
    }

    #[test]
    fn keys_that_used_nothing_lately_are_forgotten() {
        let limiter: RateLimiter<u64> = RateLimiter::new(Rate { per_second: 1, burst: 5 });
        for key in 0..200_000 {
            let _ = limiter.try_acquire(&key, 0);
        }
        assert!(limiter.state.lock().unwrap().full_at.len() <= MAX_KEYS);
        let _ = limiter.try_acquire(&u64::MAX, MICROS_PER_SECOND * 10);
        assert_eq!(limiter.state.lock().unwrap().full_at.len(), 1);
    }
}
