//! Password hashes: Argon2id (RFC 9106) with OWASP's parameters, on a bounded pool so that a storm of sign-ins cannot
//! take all cores, and which passwords are accepted (contract decision 13). Who waits for a hash waits in a line for its
//! purpose and its address, and the lines take turns: neither a flood of registrations nor one address shuts others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use openorch_chassis::{Error, Result};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::throttle::network;

/// Longer ones are refused where no setting says otherwise: no person types them, and each byte costs.
const MAX_BYTES: usize = 1024;
const MIN_CHARACTERS: usize = 8;
/// Callers that wait for a hash at once: in all for one purpose, and of these from one address (an IPv6 one is its /64).
/// Those beyond are told to come back. The share of an address is what a service with many workers signs in with.
const MAX_WAITING: usize = 512;
const MAX_WAITING_FROM_ADDRESS: usize = 128;

/// Memory in KiB, passes, lanes: OWASP's first recommendation for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// The most used passwords of eight characters and more; a short list on purpose, it only has to stop the careless.
const COMMON: &[&str] = &[
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "qwertyui",
    "qwerty123",
    "qwertyuiop",
    "11111111",
    "00000000",
    "88888888",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "welcome1",
    "changeme",
    "changeme1",
    "changeme123",
    "letmein1",
    "admin123",
    "administrator",
    "abcd1234",
    "abc12345",
    "1q2w3e4r",
    "1qaz2wsx",
    "87654321",
    "openorch",
    "openorch1",
    "openorch123",
    "starwars",
    "computer",
    "whatever",
    "dragon123",
    "monkey123",
    "master123",
    "internet",
    "michelle",
    "jennifer",
    "samantha",
];

/// What passwords must be like.
#[derive(Clone, Copy, Debug)]
pub struct PasswordRules {
    /// Fewest characters.
    pub min: usize,
    /// Most bytes.
    pub max_bytes: usize,
    /// Whether the common ones are refused.
    pub refuse_common: bool,
}

impl PasswordRules {
    /// On loopback any password that is not empty, so that existing programs can register with short ones; beyond it at
    /// least eight characters and none of the common ones. `min` and `max_bytes` replace the lengths for both.
    pub fn new(loopback_only: bool, min: Option<usize>, max_bytes: Option<usize>) -> PasswordRules {
        let usual = if loopback_only { 1 } else { MIN_CHARACTERS };
        PasswordRules {
            min: min.unwrap_or(usual).max(1),
            max_bytes: max_bytes.unwrap_or(MAX_BYTES),
            refuse_common: !loopback_only,
        }
    }

    /// Whether this can be anybody's password at all: what cannot is not worth a hash.
    pub fn is_possible(&self, password: &str) -> bool {
        password.len() <= self.max_bytes
    }

    pub fn check(&self, password: &str) -> Result<()> {
        if password.is_empty() {
            return Err(Error::invalid("password is required"));
        }
        if !self.is_possible(password) {
            return Err(Error::invalid(format!("the password is longer than {} bytes", self.max_bytes)));
        }
        if password.chars().count() < self.min {
            return Err(Error::invalid(format!("the password needs at least {} characters", self.min)));
        }
        if self.refuse_common && COMMON.contains(&password.to_lowercase().as_str()) {
            return Err(Error::invalid("the password is one of the most used; choose another"));
        }
        Ok(())
    }
}

/// The hash of a password that nobody knows, with the parameters of all others: what is checked against it takes as long.
pub const HASH_OF_NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dmSNE7/1EQc7g8xNM0PyNA$b+1uHecm2pZiifyNbDx0yXnrH0jkfc8bD1bI4Nrhsyg";

/// The pool that hashes.
pub struct Passwords {
    at_once: usize,
    turns: Semaphore,
    registrations: Line,
    sign_ins: Line,
}

/// What a hash is for: each purpose has places of its own.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// For an account that is not there yet.
    Registration,
    /// For an account that is there: its password is checked or replaced.
    SignIn,
}

/// Those who wait for one purpose.
struct Line {
    waiting: Mutex<Waiting>,
    /// Who is next of all addresses; as many as may hash at once, so that the pool is never idle.
    next: Semaphore,
}

#[derive(Default)]
struct Waiting {
    all: usize,
    by_address: HashMap<IpAddr, Queue>,
}

/// Those from one address.
struct Queue {
    count: usize,
    next: Arc<Semaphore>,
}

/// A place in a line; whoever has it will be served.
pub struct Place<'a> {
    pool: &'a Passwords,
    line: &'a Line,
    address: IpAddr,
    next: Arc<Semaphore>,
}

impl Passwords {
    /// At most `at_once` hashes are computed side by side.
    pub fn new(at_once: usize) -> Passwords {
        let at_once = at_once.max(1);
        let line = || Line { waiting: Mutex::default(), next: Semaphore::new(at_once) };
        Passwords { at_once, turns: Semaphore::new(at_once), registrations: line(), sign_ins: line() }
    }

    /// A place for a caller from this address, if there is one left.
    pub fn place(&self, purpose: Purpose, address: IpAddr) -> Result<Place<'_>> {
        let line = match purpose {
            Purpose::Registration => &self.registrations,
            Purpose::SignIn => &self.sign_ins,
        };
        let address = network(address);
        let mut waiting = line.waiting();
        let from_here = waiting.by_address.get(&address).map_or(0, |queue| queue.count);
        if from_here >= MAX_WAITING_FROM_ADDRESS {
            return Err(Error::limited(format!(
                "{from_here} sign-ins or registrations from your network wait already; try again in a moment"
            )));
        }
        if waiting.all >= MAX_WAITING {
            return Err(Error::limited("too many sign-ins or registrations at once; try again in a moment"));
        }
        waiting.all += 1;
        let fresh = || Queue { count: 0, next: Arc::new(Semaphore::new(self.at_once)) };
        let queue = waiting.by_address.entry(address).or_insert_with(fresh);
        queue.count += 1;
        Ok(Place { pool: self, line, address, next: queue.next.clone() })
    }

    /// The hash of a new password, in PHC string format.
    pub async fn hash(&self, password: String, purpose: Purpose, address: IpAddr) -> Result<String> {
        let password = Zeroizing::new(password);
        self.place(purpose, address)?.take_turn(move || hash_now(&password)).await?
    }
}

impl Line {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Whether this is the password behind the hash.
    pub async fn verify(&self, password: String, hash: String) -> Result<bool> {
        let password = Zeroizing::new(password);
        self.take_turn(move || {
            let parsed = PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            Ok(argon2().verify_password(password.as_bytes(), &parsed).is_ok())
        })
        .await?
    }

    /// First come, first served: within the address, then among addresses, then among purposes.
    async fn take_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _of_address = self.next.acquire().await.map_err(Error::internal)?;
        let _of_line = self.line.next.acquire().await.map_err(Error::internal)?;
        let _turn = self.pool.turns.acquire().await.map_err(Error::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting();
        waiting.all -= 1;
        if let Some(queue) = waiting.by_address.get_mut(&self.address) {
            queue.count -= 1;
            if queue.count == 0 {
                waiting.by_address.remove(&self.address);
            }
        }
    }
}

/// Hashes on the calling thread; for start-up and the offline reset.
pub fn hash_now(password: &str) -> Result<String> {
    let hash = argon2().hash_password(password.as_bytes()).map_err(|error| Error::internal(error.to_string()))?;
    Ok(hash.to_string())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are within the algorithm's range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nobody_costs_what_others_do() {
        let nobody = PasswordHash::new(HASH_OF_NOBODY).unwrap();
        let other = hash_now("a password").unwrap();
        let other = PasswordHash::new(&other).unwrap();
        assert_eq!(
            (nobody.algorithm, nobody.version, nobody.params.to_string()),
            (other.algorithm, other.version, other.params.to_string())
        );
        assert_eq!(nobody.hash.unwrap().len(), other.hash.unwrap().len());
        assert!(argon2().verify_password(b"", &nobody).is_err());
    }

    #[test]
    fn rules_are_looser_on_loopback() {
        let (loopback, wide, long) = (
            PasswordRules::new(true, None, None),
            PasswordRules::new(false, None, None),
            PasswordRules::new(true, Some(12), None),
        );
        for (password, on_loopback, beyond, with_min) in [
            ("", false, false, false),
            ("a", true, false, false),
            ("Password", true, false, false),
            ("correct horse", true, true, true),
            (&"x".repeat(1025), false, false, false),
        ] {
            assert_eq!(loopback.check(password).is_ok(), on_loopback, "{password}");
            assert_eq!(wide.check(password).is_ok(), beyond, "{password}");
            assert_eq!(long.check(password).is_ok(), with_min, "{password}");
        }
    }

    fn places<'a>(pool: &'a Passwords, purpose: Purpose, network: u8, count: usize) -> Vec<Place<'a>> {
        (0..count).map_while(|_| pool.place(purpose, IpAddr::from([192, 0, 2, network])).ok()).collect()
    }

    #[test]
    fn neither_registrations_nor_one_address_take_the_places_of_others() {
        let pool = Passwords::new(1);
        let flood: Vec<_> = (0..100).flat_map(|n| places(&pool, Purpose::Registration, n, 1000)).collect();
        assert_eq!(flood.len(), MAX_WAITING);
        let greedy = places(&pool, Purpose::SignIn, 1, 1000);
        assert_eq!(greedy.len(), MAX_WAITING_FROM_ADDRESS);
        assert_eq!(places(&pool, Purpose::SignIn, 2, 1).len(), 1, "another address");
        let many: Vec<IpAddr> = (0..500).map(|n| format!("2001:db8::{n:x}").parse().unwrap()).collect();
        let network: Vec<_> = many.iter().filter_map(|address| pool.place(Purpose::SignIn, *address).ok()).collect();
        assert_eq!(network.len(), MAX_WAITING_FROM_ADDRESS, "a /64 is one address");
        drop((flood, greedy));
        assert_eq!(places(&pool, Purpose::Registration, 1, 1).len(), 1, "places are given back");
        assert_eq!(pool.sign_ins.waiting().by_address.len(), 1, "and who has none is forgotten");
    }

    #[tokio::test]
    async fn the_lines_take_turns_whoever_came_first() {
        let pool = Arc::new(Passwords::new(1));
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let all_wait = pool.turns.acquire().await.unwrap();
        let mut served = tokio::task::JoinSet::new();
        let crowd = [("registration", Purpose::Registration, 1, 20), ("greedy", Purpose::SignIn, 1, 20)];
        for (name, purpose, network, count) in crowd.into_iter().chain([("late", Purpose::SignIn, 2, 1)]) {
            for _ in 0..count {
                let (pool, order) = (pool.clone(), order.clone());
                served.spawn(async move {
                    let place = pool.place(purpose, IpAddr::from([192, 0, 2, network])).unwrap();
                    place.take_turn(move || order.lock().unwrap().push(name)).await.unwrap();
                });
                // It is in its line before the next comes.
                tokio::task::yield_now().await;
            }
        }
        drop(all_wait);
        served.join_all().await;
        let order = order.lock().unwrap();
        let at = order.iter().position(|name| *name == "late").unwrap();
        assert!(order.len() == 41 && at < 6, "{at}: {order:?}");
    }
}
