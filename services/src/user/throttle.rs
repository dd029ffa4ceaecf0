//! Throttling of failed sign-ins: each failure beyond a few makes the next attempt wait longer. Counted for an account
//! from one address, for an account, and for an address; where an account has signed in from an address before, only its
//! own failures there count, so that nobody shuts it out by guessing elsewhere.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use moka::sync::Cache;
use openorch_chassis::{Error, Result};

/// Failures without a delay: of one account from one address, of an account, from an address.
const FREE_FOR_PAIR: u32 = 5;
const FREE_FOR_ACCOUNT: u32 = 20;
const FREE_FOR_ADDRESS: u32 = 50;
/// The longest delay, in seconds; the first is one, and each is twice the one before.
const LONGEST: i64 = 900;
/// After so many seconds without a failure all is forgotten.
const FORGOTTEN_AFTER: i64 = 3600;
/// How much is remembered; what was not used for longest goes first.
const REMEMBERED: u64 = 50_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pair(String, IpAddr),
    Account(String),
    Address(IpAddr),
}

impl Key {
    fn free(&self) -> u32 {
        match self {
            Key::Pair(..) => FREE_FOR_PAIR,
            Key::Account(_) => FREE_FOR_ACCOUNT,
            Key::Address(_) => FREE_FOR_ADDRESS,
        }
    }
}

/// Failures that were, and attempts after them of which nobody knows yet.
#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last: i64,
}

/// What is known of failed sign-ins. Lives in memory: a restart forgives.
pub struct Throttle {
    failures: Cache<Key, Failures>,
    /// Accounts and addresses from which they have signed in.
    known: Cache<(String, IpAddr), ()>,
    /// Reading and counting are one step, or many at once would pass.
    order: Mutex<()>,
}

/// An attempt that may be made. It has failed unless it is told otherwise.
pub struct Attempt {
    keys: Vec<Key>,
    pair: (String, IpAddr),
}

impl Throttle {
    pub fn new() -> Throttle {
        Throttle { failures: Cache::new(REMEMBERED), known: Cache::new(REMEMBERED), order: Mutex::default() }
    }

    /// Lets an attempt to sign an account in begin, or says how long to wait. `now` in seconds.
    pub fn begin(&self, user_id: &str, address: IpAddr, now: i64) -> Result<Attempt> {
        let address = network(address);
        let pair = (user_id.to_owned(), address);
        let mut keys = vec![Key::Pair(user_id.to_owned(), address)];
        if !self.known.contains_key(&pair) {
            keys.extend([Key::Account(user_id.to_owned()), Key::Address(address)]);
        }
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = keys.iter().map(|key| self.wait(key, now)).max().unwrap_or_default();
        if wait > 0 {
            return Err(Error::limited(format!("too many failed sign-ins; try again in {wait} seconds")));
        }
        // Attempts made at once wait for each other as soon as one has failed.
        for key in &keys {
            if let Some(known) = self.recent(key, now) {
                self.failures.insert(key.clone(), Failures { count: known.count + 1, last: now });
            }
        }
        Ok(Attempt { keys, pair })
    }

    /// The password was wrong.
    pub fn failed(&self, attempt: Attempt, now: i64) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for key in attempt.keys {
            if self.recent(&key, now).is_none() {
                self.failures.insert(key, Failures { count: 1, last: now });
            }
        }
    }

    /// The password was right: what was guessed before is forgiven to this account at this address.
    pub fn succeeded(&self, attempt: Attempt) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &attempt.keys {
            match key {
                Key::Pair(..) => self.failures.invalidate(key),
                // This attempt was counted beforehand, and was no failure.
                _ => {
                    if let Some(known) = self.failures.get(key) {
                        self.failures.insert(key.clone(), Failures { count: known.count.saturating_sub(1), ..known });
                    }
                }
            }
        }
        self.known.insert(attempt.pair, ());
    }

    fn recent(&self, key: &Key, now: i64) -> Option<Failures> {
        self.failures.get(key).filter(|known| known.count > 0 && now - known.last < FORGOTTEN_AFTER)
    }

    /// Seconds until the next attempt.
    fn wait(&self, key: &Key, now: i64) -> i64 {
        let Some(known) = self.recent(key, now) else { return 0 };
        let Some(beyond) = known.count.checked_sub(key.free()) else { return 0 };
        let delay = (1_i64 << beyond.min(16)).min(LONGEST);
        // A clock that was set back must not make anybody wait longer.
        (known.last.min(now) + delay - now).max(0)
    }
}

/// Whoever has an IPv6 address has at least its /64 (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &Throttle, account: &str, address: &str, now: i64) -> bool {
        match throttle.begin(account, address.parse().unwrap(), now) {
            Ok(attempt) => {
                throttle.failed(attempt, now);
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
        assert!(fail(&throttle, "a", "192.0.2.1", now + LONGEST), "the longest wait");
        assert!(!fail(&throttle, "a", "192.0.2.1", now - 5_000), "a clock set back opens nothing");
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
    fn who_signed_in_here_before_is_not_shut_out_by_others() {
        let (throttle, now) = (Throttle::new(), 1_000_000);
        let home: IpAddr = "203.0.113.1".parse().unwrap();
        throttle.succeeded(throttle.begin("a", home, now).unwrap());
        for n in 0..200 {
            fail(&throttle, "a", &format!("192.0.2.{n}"), now);
            fail(&throttle, &format!("u{n}"), "203.0.113.1", now);
        }
        assert!(throttle.begin("a", home, now).is_ok());
        assert!(throttle.begin("a", "192.0.2.250".parse().unwrap(), now).is_err());
    }
}
