//! The queue for password hashes: a bounded pool computes them, so that a storm of sign-ins cannot take all cores. Callers
//! wait in a line for their purpose and their network, and the lines take turns: first those for the purposes, so that
//! strangers keep nobody waiting who signs in from where it did before or on this machine; then wide networks, then those
//! within them, so that who has many of them is one. A burst waits its turn; a caller whose turn would come later than
//! [`HashSettings::max_wait`] is refused and told when to come back, the later the more were refused before it.

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
use openorch_chassis::{Error, Result, forwarded::network};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use crate::user::{
    authn::passwords::hasher::Hasher,
    shared::settings::{UserSettings, half_of_cores},
};

/// Callers that wait for one purpose at most, however short their turns are: each holds a request.
const MAX_WAITING: usize = 4096;
/// What a hash is taken to cost before the first was measured, in microseconds.
const FIRST_COST: u64 = 25_000;
/// The part that the newest hash has in the average cost.
const COST_PART: u64 = 8;
/// The longest time that a refused caller is asked to stay away, in seconds.
const LONGEST_RETRY: i64 = 300;

/// How hashes are computed.
#[derive(Clone, Copy, Debug)]
pub struct HashSettings {
    /// Hashes computed side by side.
    pub concurrency: usize,
    /// The longest that a caller waits for its turn.
    pub max_wait: Duration,
}

impl HashSettings {
    pub fn of(settings: &UserSettings) -> HashSettings {
        HashSettings {
            concurrency: settings.password_hash_concurrency.unwrap_or_else(half_of_cores),
            max_wait: settings.password_hash_max_wait,
        }
    }
}

/// The pool that hashes.
pub struct HashQueue {
    settings: HashSettings,
    turns: Semaphore,
    /// By purpose.
    lines: [Line; PURPOSES],
    hasher: Arc<Hasher>,
    /// What a turn costs on average, in microseconds.
    cost: Arc<AtomicU64>,
}

/// What a hash is for: each purpose has a line of its own.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// For an account that is not there yet.
    Registration,
    /// For an account that is there: its password is checked.
    SignIn,
    /// For an account that has signed in from this network before, or that is signed in: its password is checked or replaced.
    KnownSignIn,
    /// A sign-in from a loopback address; it replaces `SignIn` and `KnownSignIn`.
    LocalSignIn,
}

const PURPOSES: usize = 4;

/// The networks that take turns, in bits of an IPv6 address, the widest first: what a customer is given at most, what it is
/// given often, and the least (RFC 6177). An IPv4 address is alone in each of them.
const WIDTHS: [u32; 3] = [48, 56, 64];
/// The place of the narrowest, which other limits call an address.
const ADDRESS: usize = WIDTHS.len() - 1;

type Networks = [IpAddr; WIDTHS.len()];

/// Those who wait for one purpose.
struct Line {
    waiting: Mutex<Waiting>,
    /// Permits for the callers at the front of this line, one for each hash that may run at once.
    next: Semaphore,
}

#[derive(Default)]
struct Waiting {
    /// Places that are taken.
    all: usize,
    /// By the place of their width in [`WIDTHS`], those within a wider one beside each other.
    by_network: BTreeMap<(usize, IpAddr), Queue>,
    /// Who has not begun to hash, by address and number.
    idle: BTreeMap<(IpAddr, u64), Arc<Notify>>,
    /// The number of the next place.
    next: u64,
}

/// Those from one network.
struct Queue {
    /// Their places, and how many of these have not begun to hash.
    count: usize,
    idle: usize,
    next: Arc<Semaphore>,
    /// Callers that were refused and will come back, of an address; one fewer with each place that is given back.
    refused: usize,
}

/// A place in a line; its holder is served, unless its time is over or it must give way to another address.
pub struct Place<'a> {
    pool: &'a HashQueue,
    line: &'a Line,
    networks: Networks,
    number: u64,
    /// Whose turn it is within each of the networks.
    next: Vec<Arc<Semaphore>>,
    gave_way: Arc<Notify>,
    has_begun: AtomicBool,
    deadline: Instant,
}

impl HashQueue {
    pub fn new(settings: HashSettings) -> HashQueue {
        let settings = HashSettings { concurrency: settings.concurrency.max(1), ..settings };
        let line = || Line { waiting: Mutex::default(), next: Semaphore::new(settings.concurrency) };
        HashQueue {
            turns: Semaphore::new(settings.concurrency),
            lines: std::array::from_fn(|_| line()),
            hasher: Arc::default(),
            cost: Arc::new(FIRST_COST.into()),
            settings,
        }
    }

    /// A place for a caller from this address, if its turn comes in time.
    pub fn place(&self, purpose: Purpose, address: IpAddr) -> Result<Place<'_>> {
        let purpose = match purpose {
            Purpose::SignIn | Purpose::KnownSignIn if address.is_loopback() => Purpose::LocalSignIn,
            purpose => purpose,
        };
        let line = &self.lines[purpose as usize];
        let networks = networks(address);
        let in_others: Vec<usize> = self.lines.iter().map(|line| line.waiting().all).collect();
        let mut waiting = line.waiting();
        let from_here = waiting.count_of(ADDRESS, networks[ADDRESS]);
        let ahead = waiting.ahead(&networks);
        // The lines take turns while there are callers in them.
        let others = in_others.iter().enumerate().filter(|(at, _)| *at != purpose as usize);
        let of_others: usize = others.map(|(_, all)| ahead.min(*all)).sum();
        let wait = self.duration_of(ahead + of_others);
        if let Some(beyond) = wait.checked_sub(self.settings.max_wait).filter(|beyond| !beyond.is_zero()) {
            let refused = waiting.by_network.get_mut(&(ADDRESS, networks[ADDRESS])).map_or(0, |queue| {
                queue.refused += 1;
                queue.refused
            });
            let seconds = retry_after(beyond + self.duration_of(refused));
            return Err(Error::new(
                &errors::TOO_MANY_SIGN_INS,
                format!(
                    "{from_here} sign-ins or registrations from your network wait already; try again in {seconds} s"
                ),
            )
            .after(seconds));
        }
        if waiting.all >= MAX_WAITING && !waiting.make_room(&networks) {
            return Err(self.too_many(ahead));
        }
        let gave_way = Arc::new(Notify::new());
        let (number, next) = waiting.enter(&networks, gave_way.clone(), self.settings.concurrency);
        let deadline = Instant::now() + self.settings.max_wait;
        Ok(Place { pool: self, line, networks, number, next, gave_way, has_begun: AtomicBool::new(false), deadline })
    }

    /// The hash of a new password, in PHC string format.
    pub async fn hash(&self, password: &str, purpose: Purpose, address: IpAddr) -> Result<String> {
        let password = Zeroizing::new(password.to_owned());
        self.place(purpose, address)?.take_turn(move |hasher| hasher.hash(&password)).await?
    }

    /// How long so many turns take.
    fn duration_of(&self, turns: usize) -> Duration {
        let micros = self.cost.load(Ordering::Relaxed) * turns as u64 / self.settings.concurrency as u64;
        Duration::from_micros(micros)
    }

    fn too_many(&self, ahead: usize) -> Error {
        let seconds = retry_after(self.duration_of(ahead));
        Error::new(
            &errors::TOO_MANY_SIGN_INS,
            format!("too many sign-ins or registrations at once; try again in {seconds} s"),
        )
        .after(seconds)
    }
}

fn retry_after(wait: Duration) -> i64 {
    (wait.as_secs() as i64 + 1).min(LONGEST_RETRY)
}

impl Line {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The places of a network.
    fn count_of(&self, width: usize, network: IpAddr) -> usize {
        self.by_network.get(&(width, network)).map_or(0, |queue| queue.count)
    }

    /// The networks of a width that take turns with the one of these: all of the widest, else those in the next wider one.
    fn beside(&self, width: usize, networks: &Networks) -> impl Iterator<Item = (IpAddr, &Queue)> {
        let range = match width.checked_sub(1) {
            None => IpAddr::from([0; 4])..=IpAddr::from([u8::MAX; 16]),
            Some(wider) => within(networks[wider], WIDTHS[wider]),
        };
        let keys = (width, *range.start())..=(width, *range.end());
        self.by_network.range(keys).map(|((_, network), queue)| (*network, queue))
    }

    /// The one of these of which the most have not begun to hash, and how many.
    fn most_crowded(&self, width: usize, networks: &Networks) -> Option<(usize, IpAddr)> {
        self.beside(width, networks).map(|(network, queue)| (queue.idle, network)).max()
    }

    /// Turns of this line that come before that of a newcomer from these networks.
    fn ahead(&self, networks: &Networks) -> usize {
        let own = self.count_of(ADDRESS, networks[ADDRESS]);
        (0..WIDTHS.len()).rev().fold(own, |ahead, width| {
            let others = self.beside(width, networks).filter(|(network, _)| *network != networks[width]);
            ahead + others.map(|(_, queue)| queue.count.min(ahead + 1)).sum::<usize>()
        })
    }

    fn enter(&mut self, networks: &Networks, gives_way: Arc<Notify>, at_once: usize) -> (u64, Vec<Arc<Semaphore>>) {
        let fresh = || Queue { count: 0, idle: 0, next: Arc::new(Semaphore::new(at_once)), refused: 0 };
        let number = self.next;
        let mut next = Vec::new();
        for key in keys(networks) {
            let queue = self.by_network.entry(key).or_insert_with(fresh);
            queue.count += 1;
            queue.idle += 1;
            next.push(queue.next.clone());
        }
        self.idle.insert((networks[ADDRESS], number), gives_way);
        self.all += 1;
        self.next += 1;
        (number, next)
    }

    /// Takes one out of those that have not begun to hash, if it was among them and has not given way.
    fn take_idle(&mut self, networks: &Networks, number: u64) -> Option<Arc<Notify>> {
        let taken = self.idle.remove(&(networks[ADDRESS], number))?;
        for key in keys(networks) {
            if let Some(queue) = self.by_network.get_mut(&key) {
                queue.idle -= 1;
            }
        }
        Some(taken)
    }

    fn leave(&mut self, networks: &Networks) {
        self.all -= 1;
        for key in keys(networks) {
            let Some(queue) = self.by_network.get_mut(&key) else { continue };
            queue.count -= 1;
            queue.refused = queue.refused.saturating_sub(1);
            if queue.count == 0 {
                self.by_network.remove(&key);
            }
        }
    }

    /// Takes the place of the newest of the network that has the most, for a newcomer whose network has still fewer when
    /// it is in: else they would only change places, and one who waits alone would not be safe. Where the newcomer's own
    /// has the most, the same within that.
    fn make_room(&mut self, networks: &Networks) -> bool {
        for (width, own) in networks.iter().enumerate() {
            let Some((most, mut crowded)) = self.most_crowded(width, networks) else { continue };
            if self.count_of(width, *own) + 1 >= most {
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
            let Some(gives_way) = newest.and_then(|newest| self.take_idle(&crowded, newest)) else { return false };
            self.leave(&crowded);
            gives_way.notify_one();
            return true;
        }
        false
    }
}

/// The networks of an address, the widest first.
fn networks(address: IpAddr) -> Networks {
    let address = network(address);
    WIDTHS.map(|bits| *within(address, bits).start())
}

fn keys(networks: &Networks) -> impl Iterator<Item = (usize, IpAddr)> {
    networks.iter().copied().enumerate()
}

/// The addresses of the network of so many bits that an IPv6 address is in; an IPv4 address alone.
fn within(address: IpAddr, bits: u32) -> RangeInclusive<IpAddr> {
    match address {
        IpAddr::V4(_) => address..=address,
        IpAddr::V6(v6) => {
            let rest = u128::MAX >> bits;
            let first = u128::from(v6) & !rest;
            Ipv6Addr::from(first).into()..=Ipv6Addr::from(first | rest).into()
        }
    }
}

impl Place<'_> {
    /// Which of these texts is the password behind the hash, by its place.
    pub async fn find(self, texts: Vec<Zeroizing<String>>, hash: String) -> Result<Option<usize>> {
        self.take_turn(move |hasher| hasher.find(&texts, &hash)).await?
    }

    /// First come, first served: within the address, then among those of each wider network, then among purposes.
    async fn take_turn<T: Send + 'static>(self, work: impl FnOnce(&Hasher) -> T + Send + 'static) -> Result<T> {
        let turn = async {
            let mut of_networks = Vec::new();
            for next in self.next.iter().rev() {
                of_networks.push(next.acquire().await.map_err(Error::internal)?);
            }
            let of_line = self.line.next.acquire().await.map_err(Error::internal)?;
            let turn = self.pool.turns.acquire().await.map_err(Error::internal)?;
            Ok::<_, Error>((of_networks, of_line, turn))
        };
        let _turn = self.keep(turn).await??;
        if self.line.waiting().take_idle(&self.networks, self.number).is_none() {
            return Err(self.refusal());
        }
        self.has_begun.store(true, Ordering::Relaxed);
        let (hasher, cost) = (self.pool.hasher.clone(), self.pool.cost.clone());
        let measured = move || {
            let begun = Instant::now();
            let done = work(&hasher);
            let (took, known) = (begun.elapsed().as_micros() as u64, cost.load(Ordering::Relaxed));
            // Two at once may lose one of their measurements: an average all the same.
            cost.store(known - known / COST_PART + took / COST_PART, Ordering::Relaxed);
            done
        };
        tokio::task::spawn_blocking(measured).await.map_err(Error::internal)
    }

    /// What is waited for in this place, unless its time is over or it must give way.
    pub async fn keep<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.gave_way.notified() => Err(self.refusal()),
            came = timeout_at(self.deadline, what) => came.map_err(|_| self.refusal()),
        }
    }

    fn refusal(&self) -> Error {
        let from_here = self.line.waiting().count_of(ADDRESS, self.networks[ADDRESS]);
        self.pool.too_many(from_here)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting();
        // Who gave way has no place any more.
        if self.has_begun.load(Ordering::Relaxed) || waiting.take_idle(&self.networks, self.number).is_some() {
            waiting.leave(&self.networks);
        }
    }
}

#[cfg(test)]
mod tests;
