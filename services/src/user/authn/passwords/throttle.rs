//! Throttling of failed sign-ins: each failure beyond a few doubles the delay of the next attempt. Failures are counted
//! per account and address, per account, and per address. For an address from which the account has signed in before,
//! only its own failures there count, so that guessing elsewhere cannot lock the owner out. These addresses are stored
//! (`known_address.rs`), so that a restart cannot lock the owner out either. Concurrent attempts are limited to the
//! number that may fail; the others wait, so that concurrent guesses gain nothing over sequential ones.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use openorch_api::user::errors;
use openorch_chassis::{Error, Result, forwarded::client_network};
use tokio::sync::Notify;

/// Failures without a delay: per account and address, per account, per address.
const FREE_FOR_PAIR: u32 = 5;
const FREE_FOR_ACCOUNT: u32 = 20;
const FREE_FOR_ADDRESS: u32 = 50;
/// Maximum delay, in seconds; the first is one second, and each doubles the previous.
const MAX_DELAY: i64 = 900;
/// Seconds without a failure after which previous failures are forgotten.
const RESET_AFTER: i64 = 3600;
/// Maximum number of cache entries; the least recently used are evicted first.
const CACHE_CAPACITY: u64 = 50_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pair(String, IpAddr),
    Account(String),
    Address(IpAddr),
}

impl Key {
    fn free_failures(&self) -> u32 {
        match self {
            Key::Pair(..) => FREE_FOR_PAIR,
            Key::Account(_) => FREE_FOR_ACCOUNT,
            Key::Address(_) => FREE_FOR_ADDRESS,
        }
    }
}

/// Recorded failures.
#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last: i64,
}

/// Failed sign-ins and known addresses. Failures are only in memory, so a restart clears them.
pub struct Throttle {
    failures: Cache<Key, Failures>,
    /// Accounts and the addresses from which they have signed in, and when that was last stored, in seconds.
    known_addresses: Cache<(String, IpAddr), i64>,
    /// Accounts whose stored addresses have been loaded.
    loaded: Cache<String, ()>,
    /// Attempts in progress. Locked while an attempt starts or completes, or concurrent attempts would exceed the
    /// limit.
    in_progress: Mutex<HashMap<Key, u32>>,
    /// Notified whenever an attempt ends.
    ended: Notify,
}

/// An attempt in progress. If dropped without a result, it counts as neither success nor failure.
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    keys: Vec<Key>,
    pair: (String, IpAddr),
}

/// All addresses of this machine count as one; other addresses are counted by network.
fn source_network(address: IpAddr) -> IpAddr {
    if address.is_loopback() { Ipv4Addr::LOCALHOST.into() } else { client_network(address) }
}

impl Throttle {
    pub fn new() -> Throttle {
        let loaded = Cache::new(CACHE_CAPACITY);
        // If an address of an account is evicted, its stored addresses are loaded again. Otherwise sign-ins from very many
        // networks would make the known addresses of other accounts count as unknown.
        let to_evict: Cache<String, ()> = loaded.clone();
        let known = Cache::builder()
            .max_capacity(CACHE_CAPACITY)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |pair: Arc<(String, IpAddr)>, _, cause| {
                if cause.was_evicted() {
                    to_evict.invalidate(&pair.0);
                }
            })
            .build();
        Throttle {
            failures: Cache::new(CACHE_CAPACITY),
            known_addresses: known,
            loaded,
            in_progress: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Whether the stored addresses of an account have been loaded.
    pub fn has_loaded(&self, account: &str) -> bool {
        self.loaded.contains_key(account)
    }

    /// Adds the stored addresses of an account, each with the time of storing.
    pub fn load(&self, account: &str, addresses: impl IntoIterator<Item = (IpAddr, i64)>) {
        for (address, at) in addresses {
            self.known_addresses.insert((account.to_owned(), source_network(address)), at);
        }
        self.loaded.insert(account.to_owned(), ());
    }

    /// Whether an account has signed in from an address before.
    pub fn is_known(&self, account: &str, address: IpAddr) -> bool {
        self.known_addresses.contains_key(&(account.to_owned(), source_network(address)))
    }

    /// When an address of an account was last stored; [`i64::MIN`] if never.
    pub fn stored_at(&self, account: &str, address: IpAddr) -> i64 {
        self.known_addresses.get(&(account.to_owned(), source_network(address))).unwrap_or(i64::MIN)
    }

    /// Starts an attempt as soon as the number in progress permits, or fails with the delay. `now` is in seconds. The
    /// number of waiting callers is bounded by the slots of the hashing queue.
    pub async fn begin(&self, user_id: &str, address: IpAddr, now: i64) -> Result<Attempt<'_>> {
        loop {
            let mut ended = pin!(self.ended.notified());
            // From here on, no notification is missed.
            ended.as_mut().enable();
            if let Some(attempt) = self.try_begin(user_id, address, now)? {
                return Ok(attempt);
            }
            ended.await;
        }
    }

    fn try_begin(&self, user_id: &str, address: IpAddr, now: i64) -> Result<Option<Attempt<'_>>> {
        let is_local = address.is_loopback();
        let address = source_network(address);
        let pair = (user_id.to_owned(), address);
        let mut under_way = self.in_progress();
        let mut keys = vec![Key::Pair(user_id.to_owned(), address)];
        if !self.known_addresses.contains_key(&pair) {
            keys.push(Key::Address(address));
            // Guesses from elsewhere must not lock out users on this machine, operators above all.
            if !is_local {
                keys.push(Key::Account(user_id.to_owned()));
            }
        }
        let wait = keys.iter().map(|key| self.delay(key, now)).max().unwrap_or_default();
        if wait > 0 {
            let sentence = format!("too many failed sign-ins; try again in {wait} seconds");
            return Err(Error::new(&errors::TOO_MANY_WRONG_PASSWORDS, sentence).with_retry_after(wait));
        }
        let is_full = |key: &Key| {
            let failed = self.recent_failures(key, now).map_or(0, |known| known.count);
            under_way.get(key).is_some_and(|count| *count >= key.free_failures().saturating_sub(failed).max(1))
        };
        if keys.iter().any(is_full) {
            return Ok(None);
        }
        for key in &keys {
            *under_way.entry(key.clone()).or_default() += 1;
        }
        Ok(Some(Attempt { throttle: self, keys, pair }))
    }

    fn in_progress(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        self.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_failures(&self, key: &Key, now: i64) -> Option<Failures> {
        self.failures.get(key).filter(|known| known.count > 0 && now - known.last < RESET_AFTER)
    }

    /// Seconds until the next attempt is permitted.
    fn delay(&self, key: &Key, now: i64) -> i64 {
        let Some(known) = self.recent_failures(key, now) else { return 0 };
        let Some(beyond) = known.count.checked_sub(key.free_failures()) else { return 0 };
        let delay = (1_i64 << beyond.min(16)).min(MAX_DELAY);
        if known.last > now {
            // If the clock was set back, the delay restarts now instead of lasting until the clock has caught up.
            self.failures.insert(key.clone(), Failures { last: now, ..known });
            return delay;
        }
        (known.last + delay - now).max(0)
    }
}

impl Attempt<'_> {
    /// Records a wrong password.
    pub fn failed(self, now: i64) {
        let _order = self.throttle.in_progress();
        for key in &self.keys {
            let count = self.throttle.recent_failures(key, now).map_or(0, |known| known.count) + 1;
            self.throttle.failures.insert(key.clone(), Failures { count, last: now });
        }
    }

    /// Records a correct password: clears the failures of this account at this address.
    pub fn succeeded(self) {
        let _order = self.throttle.in_progress();
        self.throttle.failures.invalidate(&Key::Pair(self.pair.0.clone(), self.pair.1));
        self.throttle.known_addresses.entry(self.pair.clone()).or_insert(i64::MIN);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut under_way = self.throttle.in_progress();
        for key in &self.keys {
            if let Some(count) = under_way.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    under_way.remove(key);
                }
            }
        }
        drop(under_way);
        self.throttle.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &Throttle, account: &str, address: &str, now: i64) -> bool {
        match throttle.try_begin(account, address.parse().unwrap(), now) {
            Ok(attempt) => {
                attempt.expect("nothing else is under way").failed(now);
                true
            }
            Err(_) => false,
        }
    }

    #[test]
    fn each_failure_beyond_a_few_waits_twice_as_long() {
        let throttle = Throttle::new();
        let mut now = 1_000_000;
        for _ in 0..FREE_FOR_PAIR {
            assert!(fail(&throttle, "a", "192.0.2.1", now));
        }
        for delay in [1, 2, 4, 8] {
            assert!(!fail(&throttle, "a", "192.0.2.1", now + delay - 1), "{delay}");
            now += delay;
            assert!(fail(&throttle, "a", "192.0.2.1", now), "{delay}");
        }
        assert!(!fail(&throttle, "a", "192.0.2.1", now));
        assert!(fail(&throttle, "a", "192.0.2.1", now + MAX_DELAY), "the longest wait");
        let back = now - 5_000;
        assert!(!fail(&throttle, "a", "192.0.2.1", back), "setting the clock back does not end the delay");
        assert!(fail(&throttle, "a", "192.0.2.1", back + MAX_DELAY), "nor does it extend the delay");
        assert!(fail(&throttle, "b", "192.0.2.1", now), "another account");
        assert!(fail(&throttle, "a", "192.0.2.2", now), "another address");
    }

    #[test]
    fn a_change_of_address_or_of_account_does_not_help_for_ever() {
        let (throttle, now) = (Throttle::new(), 1_000_000);
        let by_account = (0..100).filter(|n| fail(&throttle, "a", &format!("192.0.2.{n}"), now)).count();
        assert_eq!(by_account, FREE_FOR_ACCOUNT as usize);
        let by_address = (0..100).filter(|n| fail(&throttle, &format!("u{n}"), "198.51.100.1", now)).count();
        assert_eq!(by_address, FREE_FOR_ADDRESS as usize);
        let by_network =
            (0..100).filter(|n| fail(&throttle, &format!("u{n}"), &format!("2001:db8::{n:x}"), now)).count();
        assert_eq!(by_network, FREE_FOR_ADDRESS as usize, "a /64 is one address");
    }

    #[test]
    fn an_account_is_not_locked_out_at_a_known_address_by_others() {
        let (throttle, now) = (Throttle::new(), 1_000_000);
        let home: IpAddr = "203.0.113.1".parse().unwrap();
        throttle.try_begin("a", home, now).unwrap().unwrap().succeeded();
        for n in 0..200 {
            fail(&throttle, "a", &format!("192.0.2.{n}"), now);
            fail(&throttle, &format!("u{n}"), "203.0.113.1", now);
        }
        assert!(throttle.try_begin("a", home, now).is_ok());
        assert!(throttle.try_begin("a", "192.0.2.250".parse().unwrap(), now).is_err());
        assert!(throttle.try_begin("a", "127.0.0.1".parse().unwrap(), now).is_ok(), "nor are users on this machine");
    }

    #[test]
    fn stored_addresses_that_were_evicted_are_loaded_again() {
        let throttle = Throttle::new();
        throttle.load("a", ["203.0.113.1".parse().unwrap()].map(|home: IpAddr| (home, 1)));
        assert!(throttle.has_loaded("a"));
        for n in 0..CACHE_CAPACITY as u32 + 1000 {
            let elsewhere = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
            throttle.try_begin("b", elsewhere, 1_000_000).unwrap().unwrap().succeeded();
        }
        throttle.known_addresses.run_pending_tasks();
        assert!(!throttle.is_known("a", "203.0.113.1".parse().unwrap()) && !throttle.has_loaded("a"));
    }

    #[tokio::test]
    async fn concurrent_guesses_learn_no_more_than_sequential_ones() {
        let (throttle, now) = (std::sync::Arc::new(Throttle::new()), 1_000_000);
        let home: IpAddr = "203.0.113.1".parse().unwrap();
        let at_once = |right: bool| {
            let mut attempts = tokio::task::JoinSet::new();
            for _ in 0..64 {
                let throttle = throttle.clone();
                attempts.spawn(async move {
                    let Ok(attempt) = throttle.begin("a", home, now).await else { return false };
                    // All start before any is decided.
                    tokio::task::yield_now().await;
                    match right {
                        true => attempt.succeeded(),
                        false => attempt.failed(now),
                    }
                    true
                });
            }
            attempts.join_all()
        };
        let passed = |all: Vec<bool>| all.into_iter().filter(|passed| *passed).count();
        assert_eq!(passed(at_once(true).await), 64, "correct ones wait for their turn");
        assert_eq!(passed(at_once(false).await), FREE_FOR_PAIR as usize);
        assert!(throttle.in_progress().is_empty());
        // A dropped attempt counts for nothing and blocks no other.
        let later = now + MAX_DELAY;
        drop(throttle.try_begin("a", home, later).unwrap().unwrap());
        assert!(throttle.try_begin("a", home, later).unwrap().is_some());
    }
}
