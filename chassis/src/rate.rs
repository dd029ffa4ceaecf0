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
    pub per_second: u32,
    pub burst: u32,
}

/// Maximum number of keys. Beyond it arbitrary keys are evicted, which gives them a full burst again.
const MOST_KEYS: usize = 100_000;
const FIRST_SWEEP: usize = 1024;
const SECOND: i64 = 1_000_000;

/// A rate limiter by key.
pub struct Limiter<K> {
    rate: Rate,
    state: Mutex<State<K>>,
}

struct State<K> {
    /// The time in microseconds when the key has its full burst again.
    full_at: HashMap<K, i64>,
    /// The number of keys at which idle ones are evicted.
    sweep_at: usize,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    pub fn new(rate: Rate) -> Limiter<K> {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Limiter { rate, state: Mutex::new(State { full_at: HashMap::new(), sweep_at: FIRST_SWEEP }) }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Consumes one token, or fails with the time to wait. `now` is in microseconds, always of the same clock; if that is
    /// set back, the wait is at most that of a full burst.
    pub fn take<Q>(&self, key: &Q, now: i64) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.reserve(key, now, Duration::ZERO).map(drop)
    }

    /// Reserves one token, possibly of the future, and returns the delay until it is available. If the delay exceeds
    /// `max_delay`, reserves nothing and returns the delay as the error.
    pub fn reserve<Q>(&self, key: &Q, now: i64, most: Duration) -> Result<Duration, Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
        let pause = (SECOND / i64::from(self.rate.per_second)).max(1);
        let whole = pause.saturating_mul(i64::from(self.rate.burst));
        let latest = now.saturating_add(whole);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.full_at.get(key).copied();
        let next = known.unwrap_or(now).clamp(now, latest.saturating_add(most)) + pause;
        let late = (next - latest).max(0);
        if late > most {
            return Err(Duration::from_micros(late.unsigned_abs()));
        }
        if known.is_none() {
            state.make_room(now);
        }
        match state.full_at.get_mut(key) {
            Some(full_at) => *full_at = next,
            None => drop(state.full_at.insert(key.to_owned(), next)),
        }
        Ok(Duration::from_micros(late.unsigned_abs()))
    }
}

impl<K: Hash + Eq> State<K> {
    /// Evicts keys. The cost is amortized: after a sweep the next one is due when the number of keys has doubled.
    fn make_room(&mut self, now: i64) {
        if self.full_at.len() < self.sweep_at {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        let mut beyond = self.full_at.len().saturating_sub(MOST_KEYS - MOST_KEYS / 8);
        self.full_at.retain(|_, _| {
            let stays = beyond == 0;
            beyond = beyond.saturating_sub(1);
            stays
        });
        self.sweep_at = (self.full_at.len() * 2).clamp(FIRST_SWEEP, MOST_KEYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let limiter: Limiter<String> = Limiter::new(Rate { per_second: 10, burst: 3 });
        let passed = |key: &str, now: i64| (0..20).filter(|_| limiter.take(key, now).is_ok()).count();
        assert_eq!((passed("a", 0), passed("b", 0)), (3, 3));
        assert_eq!(limiter.take("a", 0), Err(Duration::from_millis(100)));
        assert_eq!(passed("a", SECOND / 5), 2);
        assert_eq!(passed("a", SECOND * 60), 3, "no more than the burst, however long the pause");
        assert_eq!(passed("a", -SECOND * 3600), 0);
        assert!(limiter.take("a", -SECOND * 3600).unwrap_err() <= Duration::from_millis(100), "a clock set back");
    }

    #[test]
    fn what_may_wait_is_put_off_to_when_it_may_happen() {
        let limiter: Limiter<String> = Limiter::new(Rate { per_second: 10, burst: 2 });
        let most = Duration::from_millis(250);
        let put_off = (0..6).map(|_| limiter.reserve("a", 0, most).map(|late| late.as_millis()).ok());
        assert_eq!(put_off.collect::<Vec<_>>(), [Some(0), Some(0), Some(100), Some(200), None, None]);
        assert_eq!(limiter.reserve("a", SECOND, most), Ok(Duration::ZERO));
    }

    #[test]
    fn keys_that_used_nothing_lately_are_forgotten() {
        let limiter: Limiter<u64> = Limiter::new(Rate { per_second: 1, burst: 5 });
        for key in 0..200_000 {
            let _ = limiter.take(&key, 0);
        }
        assert!(limiter.state.lock().unwrap().full_at.len() <= MOST_KEYS);
        let _ = limiter.take(&u64::MAX, SECOND * 10);
        assert_eq!(limiter.state.lock().unwrap().full_at.len(), 1);
    }
}
