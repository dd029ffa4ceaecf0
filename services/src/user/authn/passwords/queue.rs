//! The queue for password hashes: a bounded pool computes them, so that a storm of sign-ins cannot take all cores. Callers
//! wait in a line for their purpose and their address, and the lines take turns: neither a flood of registrations nor one
//! address shuts others out. A burst waits its turn; a caller whose turn would come later than [`HashSettings::max_wait`]
//! is refused and told when to come back, the later the more were refused before it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
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
    registrations: Line,
    sign_ins: Line,
    hasher: Arc<Hasher>,
    /// What a turn costs on average, in microseconds.
    cost: Arc<AtomicU64>,
}

/// What a hash is for: each purpose has a line of its own.
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
    /// Callers that were refused and will come back; one fewer with each place that is given back.
    refused: usize,
}

/// A place in a line; its holder is served, unless its time is over or it must give way to another address.
pub struct Place<'a> {
    pool: &'a HashQueue,
    line: &'a Line,
    address: IpAddr,
    number: u64,
    next: Arc<Semaphore>,
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
            registrations: line(),
            sign_ins: line(),
            hasher: Arc::default(),
            cost: Arc::new(FIRST_COST.into()),
            settings,
        }
    }

    /// A place for a caller from this address, if its turn comes in time.
    pub fn place(&self, purpose: Purpose, address: IpAddr) -> Result<Place<'_>> {
        let (line, other) = match purpose {
            Purpose::Registration => (&self.registrations, &self.sign_ins),
            Purpose::SignIn => (&self.sign_ins, &self.registrations),
        };
        let address = network(address);
        let in_other = other.waiting().all;
        let mut waiting = line.waiting();
        let from_here = waiting.by_address.get(&address).map_or(0, |queue| queue.count);
        let ahead = waiting.ahead(from_here);
        // The two lines take turns while there are callers in both.
        let wait = self.duration_of(ahead + ahead.min(in_other));
        if let Some(beyond) = wait.checked_sub(self.settings.max_wait).filter(|beyond| !beyond.is_zero()) {
            let refused = waiting.by_address.get_mut(&address).map_or(0, |queue| {
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
        if waiting.all >= MAX_WAITING && !waiting.make_room(from_here) {
            return Err(self.too_many(ahead));
        }
        let gave_way = Arc::new(Notify::new());
        let (number, next) = waiting.enter(address, gave_way.clone(), self.settings.concurrency);
        let deadline = Instant::now() + self.settings.max_wait;
        Ok(Place { pool: self, line, address, number, next, gave_way, has_begun: AtomicBool::new(false), deadline })
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
    /// Turns of this line that come before that of a newcomer whose address has so many places: the addresses take turns.
    fn ahead(&self, from_here: usize) -> usize {
        let before = |queue: &Queue| queue.count.min(from_here + 1);
        self.by_address.values().map(before).sum()
    }

    fn enter(&mut self, address: IpAddr, gives_way: Arc<Notify>, at_once: usize) -> (u64, Arc<Semaphore>) {
        let fresh = || Queue { count: 0, idle: BTreeMap::new(), next: Arc::new(Semaphore::new(at_once)), refused: 0 };
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
            queue.refused = queue.refused.saturating_sub(1);
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
    /// Which of these texts is the password behind the hash, by its place.
    pub async fn find(self, texts: Vec<Zeroizing<String>>, hash: String) -> Result<Option<usize>> {
        self.take_turn(move |hasher| hasher.find(&texts, &hash)).await?
    }

    /// First come, first served: within the address, then among addresses, then among purposes.
    async fn take_turn<T: Send + 'static>(self, work: impl FnOnce(&Hasher) -> T + Send + 'static) -> Result<T> {
        let turn = async {
            let of_address = self.next.acquire().await.map_err(Error::internal)?;
            let of_line = self.line.next.acquire().await.map_err(Error::internal)?;
            let turn = self.pool.turns.acquire().await.map_err(Error::internal)?;
            Ok::<_, Error>((of_address, of_line, turn))
        };
        let _turn = self.keep(turn).await??;
        if self.line.waiting().take_idle(self.address, self.number).is_none() {
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
        let from_here = self.line.waiting().by_address.get(&self.address).map_or(0, |queue| queue.count);
        self.pool.too_many(from_here)
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

#[cfg(test)]
mod tests;
