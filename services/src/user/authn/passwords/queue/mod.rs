//! The queue for password hashes. A bounded pool computes them, so that a burst of sign-ins cannot use all cores.
//! Callers queue by purpose and network, and scheduling is fair: first among purposes, so that sign-ins from known
//! networks and from this machine do not wait behind strangers; then among wide networks, then among the networks
//! within them, so that the owner of many networks counts as one. Callers whose turn would come later than
//! [`HashSettings::max_wait`] are refused with a retry time, which grows with the number of callers already refused.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openorch_api::user::errors;
use openorch_chassis::{Error, Result, forwarded::client_network};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use crate::user::{
    authn::passwords::hasher::Hasher,
    shared::settings::{UserSettings, half_of_cores},
};

/// Maximum number of waiting callers per purpose, however fast hashes are: each holds a request.
const MAX_WAITING: usize = 4096;
/// Assumed cost of a hash before the first measurement, in microseconds.
const INITIAL_COST: u64 = 25_000;
/// Divisor: the newest measurement has a weight of one eighth in the moving average of the cost.
const COST_SMOOTHING: u64 = 8;
/// Maximum retry time returned to refused callers, in seconds.
const MAX_RETRY_AFTER: i64 = 300;

/// Settings of the queue.
#[derive(Clone, Copy, Debug)]
pub struct HashSettings {
    /// Maximum number of concurrent hashes.
    pub concurrency: usize,
    /// Maximum time that a caller waits for its turn.
    pub max_wait: Duration,
}

impl HashSettings {
    pub fn from_settings(settings: &UserSettings) -> HashSettings {
        HashSettings {
            concurrency: settings.password_hash_concurrency.unwrap_or_else(half_of_cores),
            max_wait: settings.password_hash_max_wait,
        }
    }
}

/// The pool that computes hashes.
pub struct HashQueue {
    settings: HashSettings,
    workers: Semaphore,
    /// By purpose.
    queues: [PurposeQueue; PURPOSES],
    hasher: Arc<Hasher>,
    /// Moving average of the cost of a hash, in microseconds.
    cost: Arc<AtomicU64>,
}

/// The purpose of a hash. Each purpose has its own queue.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// A password of a new account.
    Registration,
    /// A password check of an existing account.
    SignIn,
    /// A check or change of the password of an account that is signed in or has signed in from this network before.
    KnownSignIn,
    /// A sign-in from a loopback address; replaces `SignIn` and `KnownSignIn`.
    LocalSignIn,
}

const PURPOSES: usize = 4;

/// The IPv6 prefix lengths by which networks take turns, widest first: the largest, the common and the smallest
/// assignment to a customer (RFC 6177). An IPv4 address is its own network at each level.
const WIDTHS: [u32; 3] = [48, 56, 64];
/// The index of the narrowest level, which other limits treat as an address.
const NARROWEST: usize = WIDTHS.len() - 1;

type Networks = [IpAddr; WIDTHS.len()];

/// The callers waiting for one purpose.
struct PurposeQueue {
    state: Mutex<QueueState>,
    /// One permit for each hash that may run concurrently, for the callers at the front of this queue.
    next: Semaphore,
}

#[derive(Default)]
struct QueueState {
    /// Slots in use.
    count: usize,
    /// Keyed by the index in [`WIDTHS`] and the network, so that networks within a wider one are adjacent.
    by_network: BTreeMap<(usize, IpAddr), NetworkQueue>,
    /// Callers that have not started hashing, by address and number.
    idle: BTreeMap<(IpAddr, u64), Arc<Notify>>,
    /// The number of the next slot.
    next: u64,
}

/// The callers from one network.
struct NetworkQueue {
    /// Slots in use, and how many of these have not started hashing.
    count: usize,
    idle: usize,
    next: Arc<Semaphore>,
    /// Callers of an address that were refused and will retry; each released slot lowers it by one.
    refused: usize,
}

/// A slot in the queue. Its holder is served unless the deadline passes or the slot is evicted.
pub struct HashSlot<'a> {
    pool: &'a HashQueue,
    line: &'a PurposeQueue,
    networks: Networks,
    number: u64,
    /// The semaphores of the networks, one per level.
    next: Vec<Arc<Semaphore>>,
    evicted: Arc<Notify>,
    has_started: AtomicBool,
    deadline: Instant,
}

impl HashQueue {
    pub fn new(settings: HashSettings) -> HashQueue {
        let settings = HashSettings { concurrency: settings.concurrency.max(1), ..settings };
        let new_queue = || PurposeQueue { state: Mutex::default(), next: Semaphore::new(settings.concurrency) };
        HashQueue {
            workers: Semaphore::new(settings.concurrency),
            queues: std::array::from_fn(|_| new_queue()),
            hasher: Arc::default(),
            cost: Arc::new(INITIAL_COST.into()),
            settings,
        }
    }

    /// Reserves a slot for a caller from this address, if its turn will come in time.
    pub fn reserve(&self, purpose: Purpose, address: IpAddr) -> Result<HashSlot<'_>> {
        let purpose = match purpose {
            Purpose::SignIn | Purpose::KnownSignIn if address.is_loopback() => Purpose::LocalSignIn,
            purpose => purpose,
        };
        let line = &self.queues[purpose as usize];
        let networks = networks(address);
        let in_others: Vec<usize> = self.queues.iter().map(|line| line.state().count).collect();
        let mut waiting = line.state();
        let from_here = waiting.count_of(NARROWEST, networks[NARROWEST]);
        let ahead = waiting.turns_ahead(&networks);
        // The queues of other purposes take turns with this one.
        let others = in_others.iter().enumerate().filter(|(at, _)| *at != purpose as usize);
        let of_others: usize = others.map(|(_, all)| ahead.min(*all)).sum();
        let wait = self.expected_duration(ahead + of_others);
        if let Some(beyond) = wait.checked_sub(self.settings.max_wait).filter(|beyond| !beyond.is_zero()) {
            let refused = waiting.by_network.get_mut(&(NARROWEST, networks[NARROWEST])).map_or(0, |queue| {
                queue.refused += 1;
                queue.refused
            });
            let seconds = retry_after(beyond + self.expected_duration(refused));
            return Err(Error::new(
                &errors::TOO_MANY_SIGN_INS,
                format!(
                    "{from_here} sign-ins or registrations from your network are already waiting; try again in {seconds} s"
                ),
            )
            .with_retry_after(seconds));
        }
        if waiting.count >= MAX_WAITING && !waiting.evict_newest(&networks) {
            return Err(self.too_many(ahead));
        }
        let gave_way = Arc::new(Notify::new());
        let (number, next) = waiting.insert(&networks, gave_way.clone(), self.settings.concurrency);
        let deadline = Instant::now() + self.settings.max_wait;
        Ok(HashSlot {
            pool: self,
            line,
            networks,
            number,
            next,
            evicted: gave_way,
            has_started: AtomicBool::new(false),
            deadline,
        })
    }

    /// Hashes a new password; returns a PHC string.
    pub async fn hash(&self, password: &str, purpose: Purpose, address: IpAddr) -> Result<String> {
        let password = Zeroizing::new(password.to_owned());
        self.reserve(purpose, address)?.run(move |hasher| hasher.hash(&password)).await?
    }

    /// The expected duration of this many hashes.
    fn expected_duration(&self, turns: usize) -> Duration {
        let micros = self.cost.load(Ordering::Relaxed) * turns as u64 / self.settings.concurrency as u64;
        Duration::from_micros(micros)
    }

    fn too_many(&self, ahead: usize) -> Error {
        let seconds = retry_after(self.expected_duration(ahead));
        Error::new(
            &errors::TOO_MANY_SIGN_INS,
            format!("too many concurrent sign-ins or registrations; try again in {seconds} s"),
        )
        .with_retry_after(seconds)
    }
}

fn retry_after(wait: Duration) -> i64 {
    (wait.as_secs() as i64 + 1).min(MAX_RETRY_AFTER)
}

impl PurposeQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    /// The number of slots of a network.
    fn count_of(&self, width: usize, network: IpAddr) -> usize {
        self.by_network.get(&(width, network)).map_or(0, |queue| queue.count)
    }

    /// The networks that take turns at a level: all at the widest, otherwise those within the same next wider network.
    fn siblings(&self, width: usize, networks: &Networks) -> impl Iterator<Item = (IpAddr, &NetworkQueue)> {
        let range = match width.checked_sub(1) {
            None => IpAddr::from([0; 4])..=IpAddr::from([u8::MAX; 16]),
            Some(wider) => network_range(networks[wider], WIDTHS[wider]),
        };
        let keys = (width, *range.start())..=(width, *range.end());
        self.by_network.range(keys).map(|((_, network), queue)| (*network, queue))
    }

    /// The network at this level with the most callers that have not started hashing, and their number.
    fn most_crowded(&self, width: usize, networks: &Networks) -> Option<(usize, IpAddr)> {
        self.siblings(width, networks).map(|(network, queue)| (queue.idle, network)).max()
    }

    /// Turns in this queue before that of a new caller from these networks.
    fn turns_ahead(&self, networks: &Networks) -> usize {
        let own = self.count_of(NARROWEST, networks[NARROWEST]);
        (0..WIDTHS.len()).rev().fold(own, |ahead, width| {
            let others = self.siblings(width, networks).filter(|(network, _)| *network != networks[width]);
            ahead + others.map(|(_, queue)| queue.count.min(ahead + 1)).sum::<usize>()
        })
    }

    fn insert(&mut self, networks: &Networks, evicted: Arc<Notify>, concurrency: usize) -> (u64, Vec<Arc<Semaphore>>) {
        let fresh = || NetworkQueue { count: 0, idle: 0, next: Arc::new(Semaphore::new(concurrency)), refused: 0 };
        let number = self.next;
        let mut next = Vec::new();
        for key in keys(networks) {
            let queue = self.by_network.entry(key).or_insert_with(fresh);
            queue.count += 1;
            queue.idle += 1;
            next.push(queue.next.clone());
        }
        self.idle.insert((networks[NARROWEST], number), evicted);
        self.count += 1;
        self.next += 1;
        (number, next)
    }

    /// Removes a caller from those that have not started hashing; `None` if it had started or was evicted.
    fn remove_idle(&mut self, networks: &Networks, number: u64) -> Option<Arc<Notify>> {
        let taken = self.idle.remove(&(networks[NARROWEST], number))?;
        for key in keys(networks) {
            if let Some(queue) = self.by_network.get_mut(&key) {
                queue.idle -= 1;
            }
        }
        Some(taken)
    }

    fn remove(&mut self, networks: &Networks) {
        self.count -= 1;
        for key in keys(networks) {
            let Some(queue) = self.by_network.get_mut(&key) else { continue };
            queue.count -= 1;
            queue.refused = queue.refused.saturating_sub(1);
            if queue.count == 0 {
                self.by_network.remove(&key);
            }
        }
    }

    /// Evicts the newest caller of the network with the most, if the new caller's network will still have fewer
    /// afterwards: otherwise callers would only evict each other, and a lone caller would not be safe. If the new
    /// caller's own network has the most, the same applies within it.
    fn evict_newest(&mut self, networks: &Networks) -> bool {
        for (width, own) in networks.iter().enumerate() {
            let Some((max, mut crowded)) = self.most_crowded(width, networks) else { continue };
            if self.count_of(width, *own) + 1 >= max {
                continue;
            }
            for narrower in width + 1..WIDTHS.len() {
                let mut wider = *networks;
                wider[narrower - 1] = crowded;
                crowded = self.most_crowded(narrower, &wider).map_or(crowded, |(_, network)| network);
            }
            let newest =
                self.idle.range((crowded, 0)..=(crowded, u64::MAX)).next_back().map(|((_, number), _)| *number);
            let crowded = self::networks(crowded);
            let Some(gives_way) = newest.and_then(|newest| self.remove_idle(&crowded, newest)) else { return false };
            self.remove(&crowded);
            gives_way.notify_one();
            return true;
        }
        false
    }
}

/// The networks of an address, widest first.
fn networks(address: IpAddr) -> Networks {
    let address = client_network(address);
    WIDTHS.map(|bits| *network_range(address, bits).start())
}

fn keys(networks: &Networks) -> impl Iterator<Item = (usize, IpAddr)> {
    networks.iter().copied().enumerate()
}

/// The range of addresses of an IPv6 address's network with this prefix length; an IPv4 address alone.
fn network_range(address: IpAddr, bits: u32) -> RangeInclusive<IpAddr> {
    match address {
        IpAddr::V4(_) => address..=address,
        IpAddr::V6(v6) => {
            let rest = u128::MAX >> bits;
            let first = u128::from(v6) & !rest;
            Ipv6Addr::from(first).into()..=Ipv6Addr::from(first | rest).into()
        }
    }
}

impl HashSlot<'_> {
    /// Checks a hash; returns the index of the text that matches.
    pub async fn find_match(self, texts: Vec<Zeroizing<String>>, hash: String) -> Result<Option<usize>> {
        self.run(move |hasher| hasher.find_match(&texts, &hash)).await?
    }

    /// First come, first served within an address, then fair among the networks at each level, then among purposes.
    async fn run<T: Send + 'static>(self, work: impl FnOnce(&Hasher) -> T + Send + 'static) -> Result<T> {
        let turn = async {
            let mut of_networks = Vec::new();
            for next in self.next.iter().rev() {
                of_networks.push(next.acquire().await.map_err(Error::internal)?);
            }
            let of_line = self.line.next.acquire().await.map_err(Error::internal)?;
            let turn = self.pool.workers.acquire().await.map_err(Error::internal)?;
            Ok::<_, Error>((of_networks, of_line, turn))
        };
        let _turn = self.until_deadline(turn).await??;
        if self.line.state().remove_idle(&self.networks, self.number).is_none() {
            return Err(self.rejection());
        }
        self.has_started.store(true, Ordering::Relaxed);
        let (hasher, cost) = (self.pool.hasher.clone(), self.pool.cost.clone());
        let measured = move || {
            let begun = Instant::now();
            let done = work(&hasher);
            let (took, known) = (begun.elapsed().as_micros() as u64, cost.load(Ordering::Relaxed));
            // Concurrent updates may lose a measurement, which does not matter for an average.
            cost.store(known - known / COST_SMOOTHING + took / COST_SMOOTHING, Ordering::Relaxed);
            done
        };
        tokio::task::spawn_blocking(measured).await.map_err(Error::internal)
    }

    /// Awaits a future until the deadline passes or the slot is evicted.
    pub async fn until_deadline<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.evicted.notified() => Err(self.rejection()),
            came = timeout_at(self.deadline, what) => came.map_err(|_| self.rejection()),
        }
    }

    fn rejection(&self) -> Error {
        let from_here = self.line.state().count_of(NARROWEST, self.networks[NARROWEST]);
        self.pool.too_many(from_here)
    }
}

impl Drop for HashSlot<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.state();
        // An evicted slot was already released.
        if self.has_started.load(Ordering::Relaxed) || waiting.remove_idle(&self.networks, self.number).is_some() {
            waiting.remove(&self.networks);
        }
    }
}

#[cfg(test)]
mod tests;
