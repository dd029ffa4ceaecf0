//! Password hashes: Argon2id (RFC 9106) with OWASP's parameters, on a bounded pool so that a storm of sign-ins cannot
//! take all cores, and which passwords are accepted (contract decision 13). Who waits for a hash waits in a line for its
//! purpose and its address, and the lines take turns: neither a flood of registrations nor one address shuts others out.
//! Where all places are taken, the addresses that have the most of them give some up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use openorch_chassis::{Error, Result, forwarded::network};
use tokio::sync::{Notify, Semaphore};
use zeroize::Zeroizing;

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
    /// Places that are taken.
    all: usize,
    by_address: HashMap<IpAddr, Queue>,
    /// How many of each address have not begun to hash, where there are any.
    by_length: BTreeSet<(usize, IpAddr)>,
    /// The number of the next place.
    next: u64,
}

/// Those from one address.
struct Queue {
    /// Their places, and who of them has not begun to hash, by number.
    count: usize,
    idle: BTreeMap<u64, Arc<Notify>>,
    next: Arc<Semaphore>,
}

/// A place in a line; whoever has it will be served, unless it must give way to another address.
pub struct Place<'a> {
    pool: &'a Passwords,
    line: &'a Line,
    address: IpAddr,
    number: u64,
    next: Arc<Semaphore>,
    gave_way: Arc<Notify>,
    has_begun: AtomicBool,
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
        if waiting.all >= MAX_WAITING && !waiting.make_room(from_here) {
            return Err(too_many());
        }
        let gave_way = Arc::new(Notify::new());
        let (number, next) = waiting.enter(address, gave_way.clone(), self.at_once);
        Ok(Place { pool: self, line, address, number, next, gave_way, has_begun: AtomicBool::new(false) })
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

impl Waiting {
    fn enter(&mut self, address: IpAddr, gives_way: Arc<Notify>, at_once: usize) -> (u64, Arc<Semaphore>) {
        let fresh = || Queue { count: 0, idle: BTreeMap::new(), next: Arc::new(Semaphore::new(at_once)) };
        let queue = self.by_address.entry(address).or_insert_with(fresh);
        let number = self.next;
        self.by_length.remove(&(queue.idle.len(), address));
        queue.idle.insert(number, gives_way);
        self.by_length.insert((queue.idle.len(), address));
        queue.count += 1;
        self.all += 1;
        self.next += 1;
        (number, queue.next.clone())
    }

    /// Takes one out of those that have not begun to hash, if it was among them and has not given way.
    fn take_idle(&mut self, address: IpAddr, number: u64) -> Option<Arc<Notify>> {
        let queue = self.by_address.get_mut(&address)?;
        let length = queue.idle.len();
        let taken = queue.idle.remove(&number)?;
        self.by_length.remove(&(length, address));
        if length > 1 {
            self.by_length.insert((length - 1, address));
        }
        Some(taken)
    }

    fn leave(&mut self, address: IpAddr) {
        self.all -= 1;
        if let Some(queue) = self.by_address.get_mut(&address) {
            queue.count -= 1;
            if queue.count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Takes the place of the newest of the address that has the most, for a newcomer whose address has still fewer when
    /// it is in: else they would only change places, and one who waits alone would not be safe.
    fn make_room(&mut self, from_here: usize) -> bool {
        let Some((_, address)) = self.by_length.last().copied().filter(|(most, _)| from_here + 1 < *most) else {
            return false;
        };
        let newest = self.by_address.get(&address).and_then(|queue| queue.idle.keys().next_back().copied());
        let Some(gives_way) = newest.and_then(|newest| self.take_idle(address, newest)) else { return false };
        self.leave(address);
        gives_way.notify_one();
        true
    }
}

impl Place<'_> {
    /// Whether this is the password behind the hash.
    pub async fn verify(self, password: String, hash: String) -> Result<bool> {
        let password = Zeroizing::new(password);
        self.take_turn(move || {
            let parsed = PasswordHash::new(&hash).map_err(|error| Error::internal(error.to_string()))?;
            Ok(argon2().verify_password(password.as_bytes(), &parsed).is_ok())
        })
        .await?
    }

    /// First come, first served: within the address, then among addresses, then among purposes.
    async fn take_turn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let turn = async {
            let of_address = self.next.acquire().await.map_err(Error::internal)?;
            let of_line = self.line.next.acquire().await.map_err(Error::internal)?;
            let turn = self.pool.turns.acquire().await.map_err(Error::internal)?;
            Ok::<_, Error>((of_address, of_line, turn))
        };
        let _turn = self.keep(turn).await??;
        if self.line.waiting().take_idle(self.address, self.number).is_none() {
            return Err(too_many());
        }
        self.has_begun.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }

    /// What is waited for in this place, unless it must give way.
    pub async fn keep<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.gave_way.notified() => Err(too_many()),
            came = what => Ok(came),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting();
        // Who gave way has no place any more.
        if self.has_begun.load(Ordering::Relaxed) || waiting.take_idle(self.address, self.number).is_some() {
            waiting.leave(self.address);
        }
    }
}

fn too_many() -> Error {
    Error::limited("too many sign-ins or registrations at once; try again in a moment")
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
    use openorch_chassis::Kind;

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
        assert_eq!(pool.registrations.waiting().all, MAX_WAITING);
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
    async fn a_newcomer_takes_the_newest_place_of_the_address_that_has_the_most() {
        let pool = Passwords::new(1);
        let place = |network: u8| pool.place(Purpose::SignIn, IpAddr::from([192, 0, 2, network]));
        let mut greedy: Vec<Vec<Place>> = (0..4).map(|n| places(&pool, Purpose::SignIn, n, 1000)).collect();
        assert_eq!(pool.sign_ins.waiting().all, MAX_WAITING);
        let one_more = place(0).err().unwrap().to_string();
        assert!(one_more.contains("from your network"), "{one_more}");
        let honest = place(9).expect("there is room for who comes from elsewhere");
        assert_eq!(pool.sign_ins.waiting().all, MAX_WAITING);
        let newest = greedy[3].pop().unwrap();
        let refused = newest.verify("pass".into(), HASH_OF_NOBODY.into()).await.unwrap_err();
        assert_eq!((refused.kind, refused.to_string()), (Kind::Limited, too_many().to_string()));
        assert_eq!(pool.sign_ins.waiting().all, MAX_WAITING, "it has given its place back already");
        assert!(!greedy[3].pop().unwrap().verify("pass".into(), HASH_OF_NOBODY.into()).await.unwrap());
        drop(place(3).expect("a place was given back"));
        // What was taken evenly is nobody's to take, and who waits alone is safe.
        drop(greedy);
        let many = |n: usize| IpAddr::from([198, 51, (n / 256) as u8, (n % 256) as u8]);
        let alone: Vec<_> = (1..MAX_WAITING).map(|n| pool.place(Purpose::SignIn, many(n)).ok().unwrap()).collect();
        assert_eq!(pool.sign_ins.waiting().all, MAX_WAITING);
        for n in [1, 999] {
            assert_eq!(pool.place(Purpose::SignIn, many(n)).err().unwrap().to_string(), too_many().to_string());
        }
        drop((alone, honest));
        let waiting = pool.sign_ins.waiting();
        assert!(waiting.all == 0 && waiting.by_address.is_empty() && waiting.by_length.is_empty());
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
