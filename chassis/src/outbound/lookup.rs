//! Name resolution of instances. The system's resolver blocks and cannot be cancelled, so an unresponsive name server holds
//! a thread for many seconds. Concurrent lookups are limited per owner, waiting owners are served round-robin, and owners
//! with slow names use at most half of the threads. The result of a lookup is cached, so that the connections of a healthy
//! instance do not wait for a lookup.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout},
};

use super::is_exhausted;

/// Maximum concurrent lookups per purpose.
const MAX_LOOKUPS: usize = 64;
/// Maximum concurrent lookups of one owner per purpose.
const MAX_LOOKUPS_PER_OWNER: usize = 8;
/// From this number of concurrent lookups, each owner is limited to one. Also the maximum number of lookups of owners with
/// slow names.
const CROWDED: usize = MAX_LOOKUPS / 2;
/// A lookup that takes longer is slow: its name server does not respond.
const SLOW_LOOKUP: Duration = Duration::from_secs(1);
/// How long an owner counts as one with slow names after a slow lookup; it is limited to one lookup at a time.
const SLOW_OWNER_PERIOD: Duration = Duration::from_secs(60);
/// How long a caller waits for a lookup to start.
const START_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a lookup waits to start, also after its callers gave up.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long cached addresses are used without another lookup.
const FRESH_PERIOD: Duration = Duration::from_secs(30);
/// How long cached addresses are used while another lookup is slow or waits to start.
const STALE_PERIOD: Duration = Duration::from_secs(600);
/// How long a caller waits for another lookup before it uses cached addresses that are not fresh.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(250);
/// The pause after a slow failed lookup of a name. It doubles up to the maximum.
const MIN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Maximum cached names of one owner and of all owners.
const MAX_NAMES_PER_OWNER: usize = 1000;
const MAX_NAMES: usize = 50_000;

/// Resolves a host; may block for long.
pub type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The system's resolver: `/etc/hosts`, DNS and the like.
pub fn system_resolver() -> Arc<Resolver> {
    Arc::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

/// The purpose of a lookup. Each has a limit of its own.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// A registration or a probe, for which accounts can choose any number of names.
    Check = 0,
    /// A request to an instance, which must not queue behind registrations and probes.
    Request = 1,
}

/// Why there are no addresses.
#[derive(Debug)]
pub enum LookupError {
    /// Too many other lookups are in progress; nothing is known about the name.
    NotStarted,
    Failed(io::Error),
}

type Addresses = Arc<[IpAddr]>;

pub struct Lookups {
    resolver: Arc<Resolver>,
    names: Mutex<NameCache>,
    /// By purpose.
    queues: [Arc<LookupQueue>; 2],
}

/// The state of a lookup in progress.
#[derive(Clone)]
enum Progress {
    Waiting,
    Started,
    NotStarted,
    Done(Result<Addresses, Arc<io::Error>>),
}

impl Lookups {
    pub fn new(resolver: Arc<Resolver>) -> Lookups {
        Lookups { resolver, names: Mutex::default(), queues: [Arc::default(), Arc::default()] }
    }

    /// Resolves a host that `owner` registered; the caller must set a timeout. Returns cached addresses if they are fresh, or
    /// if another lookup of the name takes long.
    pub async fn resolve(
        self: &Arc<Self>,
        host: &str,
        port: u16,
        owner: &str,
        purpose: Purpose,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        let with_port = |addresses: &[IpAddr]| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let (cached, progress) = {
            let (mut names, now) = (self.names(), Instant::now());
            let name = names.entry(owner, host, now);
            name.used = now;
            let cached = name.addresses.as_ref().filter(|cached| now - cached.since < STALE_PERIOD);
            if let Some(fresh) = cached.filter(|cached| !cached.is_doubtful && now - cached.since < FRESH_PERIOD) {
                return Ok(with_port(&fresh.addresses));
            }
            let cached = cached.map(|cached| cached.addresses.clone());
            let pause = name.not_before.and_then(|until| until.checked_duration_since(now));
            match (&name.progress[purpose as usize], pause.filter(|pause| !pause.is_zero())) {
                (Some(progress), _) => (cached, progress.clone()),
                (None, Some(pause)) => return cached.map(|cached| with_port(&cached)).ok_or_else(|| paused(pause)),
                (None, None) => {
                    let (sender, progress) = watch::channel(Progress::Waiting);
                    name.progress[purpose as usize] = Some(progress.clone());
                    tokio::spawn(self.clone().look_up(owner.into(), host.into(), purpose, sender));
                    (cached, progress)
                }
            }
        };
        let outcome = match cached {
            Some(cached) => match timeout(REFRESH_TIMEOUT, outcome(progress)).await {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(LookupError::Failed(error))) if !self.is_cached(host, owner) => Err(LookupError::Failed(error)),
                _ => Ok(cached),
            },
            None => outcome(progress).await,
        };
        outcome.map(|addresses| with_port(&addresses))
    }

    /// Called if no connection to the addresses of this host could be opened: the next caller looks it up again.
    pub fn mark_doubtful(&self, host: &str, owner: &str) {
        let mut names = self.names();
        if let Some(cached) = names.get(owner, host).and_then(|name| name.addresses.as_mut()) {
            cached.is_doubtful = true;
        }
    }

    /// Whether its addresses are still cached; a name server that responds quickly that there is no such name removes them.
    fn is_cached(&self, host: &str, owner: &str) -> bool {
        self.names().get(owner, host).is_some_and(|name| name.addresses.is_some())
    }

    async fn look_up(
        self: Arc<Self>,
        owner: Arc<str>,
        host: Box<str>,
        purpose: Purpose,
        sender: watch::Sender<Progress>,
    ) {
        let permit = self.queues[purpose as usize].acquire(&owner).await;
        let Some(permit) = permit else {
            if let Some(name) = self.names().get(&owner, &host) {
                name.progress[purpose as usize] = None;
            }
            sender.send_replace(Progress::NotStarted);
            return;
        };
        sender.send_replace(Progress::Started);
        let (resolver, name) = (self.resolver.clone(), host.clone());
        let resolved = tokio::task::spawn_blocking(move || resolver(&name)).await.map_err(io::Error::other);
        let took = permit.since.elapsed();
        drop(permit);
        let outcome = resolved.flatten().map(Addresses::from).map_err(Arc::new);
        if let Some(name) = self.names().get(&owner, &host) {
            name.progress[purpose as usize] = None;
            name.record(&outcome, took, Instant::now());
        }
        sender.send_replace(Progress::Done(outcome));
    }

    fn names(&self) -> MutexGuard<'_, NameCache> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a lookup in progress.
async fn outcome(mut progress: watch::Receiver<Progress>) -> Result<Addresses, LookupError> {
    let started = progress.wait_for(|now| !matches!(now, Progress::Waiting));
    if timeout(START_TIMEOUT, started).await.is_err() {
        return Err(LookupError::NotStarted);
    }
    let ended = progress.wait_for(|now| matches!(now, Progress::NotStarted | Progress::Done(_))).await;
    match ended.as_deref() {
        Ok(Progress::Done(Ok(addresses))) => Ok(addresses.clone()),
        Ok(Progress::Done(Err(error))) => Err(LookupError::Failed(copy(error))),
        _ => Err(LookupError::NotStarted),
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn paused(pause: Duration) -> LookupError {
    let text = format!("its name server did not respond in time; it is asked again in {} s", pause.as_secs() + 1);
    LookupError::Failed(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// The cache, by owner and host. A cache shared by all owners would let one of them displace the names of others.
#[derive(Default)]
struct NameCache {
    by_owner: HashMap<Box<str>, HashMap<Box<str>, CachedName>>,
    count: usize,
}

/// What is known about a name of an owner.
struct CachedName {
    addresses: Option<CachedAddresses>,
    /// The lookups in progress, by purpose.
    progress: [Option<watch::Receiver<Progress>>; 2],
    /// The current pause after slow failed lookups, and its end.
    pause: Duration,
    not_before: Option<Instant>,
    used: Instant,
}

struct CachedAddresses {
    addresses: Addresses,
    since: Instant,
    /// Whether a connection to them failed.
    is_doubtful: bool,
}

impl CachedName {
    /// Records the result of a lookup.
    fn record(&mut self, outcome: &Result<Addresses, Arc<io::Error>>, took: Duration, now: Instant) {
        match outcome {
            Ok(addresses) => {
                self.addresses = Some(CachedAddresses { addresses: addresses.clone(), since: now, is_doubtful: false });
                (self.pause, self.not_before) = (Duration::ZERO, None);
            }
            Err(_) if took >= SLOW_LOOKUP => {
                self.pause = (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
                self.not_before = Some(now + self.pause);
            }
            Err(error) if is_exhausted(error) => {}
            // The name server responded that there is no such name.
            Err(_) => self.addresses = None,
        }
    }
}

impl NameCache {
    fn get(&mut self, owner: &str, host: &str) -> Option<&mut CachedName> {
        self.by_owner.get_mut(owner)?.get_mut(host)
    }

    fn entry(&mut self, owner: &str, host: &str, now: Instant) -> &mut CachedName {
        if self.get(owner, host).is_none() {
            self.make_room(owner, now);
            self.count += 1;
        }
        let fresh = || CachedName {
            addresses: None,
            progress: [None, None],
            pause: Duration::ZERO,
            not_before: None,
            used: now,
        };
        self.by_owner.entry(owner.into()).or_default().entry(host.into()).or_insert_with(fresh)
    }

    /// Makes room for another name of this owner.
    fn make_room(&mut self, owner: &str, now: Instant) {
        if let Some(of_owner) = self.by_owner.get_mut(owner).filter(|names| names.len() >= MAX_NAMES_PER_OWNER) {
            let oldest = of_owner.iter().min_by_key(|(_, name)| name.used).map(|(host, _)| host.clone());
            if oldest.is_some_and(|oldest| of_owner.remove(&oldest).is_some()) {
                self.count -= 1;
            }
        }
        if self.count >= MAX_NAMES {
            self.by_owner.retain(|_, names| {
                names.retain(|_, name| now - name.used < STALE_PERIOD);
                !names.is_empty()
            });
            self.count = self.by_owner.values().map(HashMap::len).sum();
        }
        if self.count >= MAX_NAMES {
            // All names of the owner with the most: rarely done, since it makes room for many.
            let largest = self.by_owner.iter().max_by_key(|(_, names)| names.len()).map(|(owner, _)| owner.clone());
            let removed = largest.and_then(|largest| self.by_owner.remove(&largest));
            self.count -= removed.map_or(0, |names| names.len());
        }
    }
}

/// The concurrency limits of one purpose.
#[derive(Default)]
struct LookupQueue(Mutex<QueueState>);

#[derive(Default)]
struct QueueState {
    running: Vec<Running>,
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<Instant>>>,
    /// The owners with waiting lookups in round-robin order, the next one first.
    order: VecDeque<Arc<str>>,
    /// Until when an owner counts as one with slow names.
    slow_until: HashMap<Arc<str>, Instant>,
}

struct Running {
    owner: Arc<str>,
    since: Instant,
}

/// A permit for one lookup, released on drop.
struct LookupPermit {
    queue: Arc<LookupQueue>,
    owner: Arc<str>,
    since: Instant,
}

impl LookupQueue {
    /// Waits for a permit, at most [`QUEUE_TIMEOUT`].
    async fn acquire(self: &Arc<Self>, owner: &Arc<str>) -> Option<LookupPermit> {
        let (sender, mut started) = oneshot::channel();
        self.lock().enter(owner, sender);
        let since = match timeout(QUEUE_TIMEOUT, &mut started).await {
            Ok(since) => since.ok()?,
            Err(_) => {
                started.close();
                // It may have arrived at the last moment.
                started.try_recv().ok()?
            }
        };
        Some(LookupPermit { queue: self.clone(), owner: owner.clone(), since })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LookupPermit {
    fn drop(&mut self) {
        self.queue.lock().leave(&self.owner, self.since, Instant::now());
    }
}

impl QueueState {
    fn enter(&mut self, owner: &Arc<str>, sender: oneshot::Sender<Instant>) {
        let waiting = self.waiting.entry(owner.clone()).or_default();
        if waiting.is_empty() {
            self.order.push_back(owner.clone());
        }
        if waiting.len() >= MAX_NAMES_PER_OWNER {
            waiting.retain(|sender| !sender.is_closed());
        }
        waiting.push_back(sender);
        self.start_next(Instant::now());
    }

    fn leave(&mut self, owner: &Arc<str>, since: Instant, now: Instant) {
        if let Some(at) = self.running.iter().position(|running| running.owner == *owner && running.since == since) {
            self.running.swap_remove(at);
        }
        if now - since >= SLOW_LOOKUP {
            self.slow_until.retain(|_, until| *until > now);
            self.slow_until.insert(owner.clone(), now + SLOW_OWNER_PERIOD);
        }
        self.start_next(now);
    }

    /// Starts waiting lookups as far as the limits permit.
    fn start_next(&mut self, now: Instant) {
        let mut slow = self.running.iter().filter(|running| self.is_slow(&running.owner, now)).count();
        // Until no owner in the order may start one.
        let mut left = self.order.len();
        while left > 0 && self.running.len() < MAX_LOOKUPS {
            let Some(owner) = self.order.pop_front() else { return };
            left -= 1;
            let is_slow = self.is_slow(&owner, now);
            let most = if is_slow || self.running.len() >= CROWDED { 1 } else { MAX_LOOKUPS_PER_OWNER };
            if (is_slow && slow >= CROWDED) || self.running_of(&owner).count() >= most {
                self.order.push_back(owner);
                continue;
            }
            let Some(waiting) = self.waiting.get_mut(&owner) else { continue };
            while let Some(sender) = waiting.pop_front() {
                // Fails if it has waited for too long.
                if sender.send(now).is_ok() {
                    self.running.push(Running { owner: owner.clone(), since: now });
                    slow += usize::from(is_slow);
                    break;
                }
            }
            match waiting.is_empty() {
                true => _ = self.waiting.remove(&owner),
                false => self.order.push_back(owner),
            }
            left = self.order.len();
        }
    }

    fn running_of(&self, owner: &Arc<str>) -> impl Iterator<Item = &Running> {
        self.running.iter().filter(move |running| running.owner == *owner)
    }

    fn is_slow(&self, owner: &Arc<str>, now: Instant) -> bool {
        self.slow_until.get(owner).is_some_and(|until| *until > now)
            || self.running_of(owner).any(|running| now - running.since >= SLOW_LOOKUP)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Condvar, atomic::AtomicUsize, atomic::Ordering},
        time::Duration,
    };

    use tokio::{task::JoinSet, time::advance};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const FOUND: [SocketAddr; 1] = [SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 7)];

    /// A name server that can be silenced: lookups of names that end in `.silent`, or of all names, block until it responds.
    #[derive(Default)]
    struct UnresponsiveServer {
        /// Whether lookups of silent names end, and whether all others begin to block.
        state: Mutex<(bool, bool)>,
        changed: Condvar,
        lookups_made: AtomicUsize,
    }

    impl UnresponsiveServer {
        fn lookups(self: &Arc<Self>) -> Arc<Lookups> {
            let server = self.clone();
            Arc::new(Lookups::new(Arc::new(move |host| {
                server.lookups_made.fetch_add(1, Ordering::SeqCst);
                let is_blocked = |state: &mut (bool, bool)| !state.0 && (state.1 || host.ends_with(".silent"));
                let state = server.changed.wait_while(server.state.lock().unwrap(), is_blocked).unwrap();
                match state.0 && host.ends_with(".silent") {
                    true => Err(io::Error::other("no answer")),
                    false => Ok(vec![FOUND[0].ip()]),
                }
            })))
        }

        /// Blocks all further lookups.
        fn block_all(&self) {
            *self.state.lock().unwrap() = (false, true);
        }

        fn release(&self) {
            *self.state.lock().unwrap() = (true, false);
            self.changed.notify_all();
        }

        async fn until_lookups(&self, count: usize) {
            let lookups_made = async {
                while self.lookups_made.load(Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            };
            // The clock may stand still, so this is bounded by the limit of each test.
            lookups_made.await;
        }
    }

    fn ask(lookups: &Arc<Lookups>, host: String, owner: String) -> impl Future<Output = ()> + Send + 'static {
        let lookups = lookups.clone();
        async move { _ = lookups.resolve(&host, 7, &owner, Purpose::Check).await }
    }

    #[tokio::test]
    async fn names_that_resolve_slowly_take_the_turns_of_their_owner_alone() {
        let server = Arc::new(UnresponsiveServer::default());
        let lookups = server.lookups();
        let mut waiting = JoinSet::new();
        for n in 0..200 {
            waiting.spawn(ask(&lookups, format!("{n}.silent"), "slow".into()));
        }
        server.until_lookups(MAX_LOOKUPS_PER_OWNER).await;
        // The callers give up; the threads do not.
        waiting.shutdown().await;
        for purpose in [Purpose::Check, Purpose::Request] {
            let other = lookups.resolve("quick", 7, "other", purpose);
            assert_eq!(timeout(LONG, other).await.unwrap().unwrap(), FOUND);
        }
        assert_eq!(server.lookups_made.load(Ordering::SeqCst), MAX_LOOKUPS_PER_OWNER + 1, "the second one is cached");
        server.release();
        let again = lookups.resolve("quick", 7, "slow", Purpose::Check);
        timeout(LONG, again).await.expect("the threads should release their permits").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn w180_slow_lookups_use_at_most_half_of_the_threads() {
        let server = Arc::new(UnresponsiveServer::default());
        let lookups = server.lookups();
        let queues = &lookups.queues[Purpose::Check as usize];
        let until = Instant::now() + SLOW_OWNER_PERIOD;
        queues.lock().slow_until.extend((0..100).map(|owner| (format!("slow-{owner}").into(), until)));
        let mut waiting = JoinSet::new();
        for (owner, n) in (0..100).flat_map(|owner| (0..3).map(move |n| (owner, n))) {
            waiting.spawn(ask(&lookups, format!("{n}.silent"), format!("slow-{owner}")));
        }
        server.until_lookups(CROWDED).await;
        assert_eq!(lookups.resolve("quick", 7, "other", Purpose::Check).await.unwrap(), FOUND);
        assert_eq!(queues.lock().running.len(), CROWDED);
        let (late, ()) =
            tokio::join!(lookups.resolve("late.silent", 7, "slow-99", Purpose::Check), advance(START_TIMEOUT));
        assert!(matches!(late, Err(LookupError::NotStarted)), "{late:?}");
        server.release();
    }

    #[tokio::test(start_paused = true)]
    async fn w180_cached_addresses_are_used_while_the_name_server_is_silent() {
        let server = Arc::new(UnresponsiveServer::default());
        let lookups = server.lookups();
        let ask = || lookups.resolve("good", 7, "shop", Purpose::Request);
        assert_eq!(ask().await.unwrap(), FOUND);
        server.block_all();
        assert_eq!(ask().await.unwrap(), FOUND);
        assert_eq!(server.lookups_made.load(Ordering::SeqCst), 1, "fresh addresses need no lookup");
        lookups.mark_doubtful("good", "shop");
        for _ in 0..2 {
            let patience = async {
                server.until_lookups(2).await;
                advance(REFRESH_TIMEOUT).await;
            };
            let (lookups_made, ()) = tokio::join!(ask(), patience);
            assert_eq!(lookups_made.unwrap(), FOUND);
        }
        assert_eq!(server.lookups_made.load(Ordering::SeqCst), 2, "one lookup at a time");
        server.release();
    }

    #[tokio::test(start_paused = true)]
    async fn w180_a_lookup_that_timed_out_is_retried_after_a_pause() {
        let server = Arc::new(UnresponsiveServer::default());
        let lookups = server.lookups();
        let ask = || lookups.resolve("x.silent", 7, "shop", Purpose::Request);
        let (first, ()) = tokio::join!(ask(), async {
            server.until_lookups(1).await;
            advance(SLOW_LOOKUP).await;
            server.release();
        });
        assert!(matches!(first, Err(LookupError::Failed(_))), "{first:?}");
        let Err(LookupError::Failed(second)) = ask().await else { panic!("there is no such name") };
        assert_eq!(second.kind(), io::ErrorKind::TimedOut, "{second}");
        assert_eq!(server.lookups_made.load(Ordering::SeqCst), 1);
        advance(MIN_PAUSE).await;
        let _ = ask().await;
        assert_eq!(server.lookups_made.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn names_of_one_owner_and_of_all_have_a_bound() {
        let (mut names, now) = (NameCache::default(), Instant::now());
        (0..2 * MAX_NAMES_PER_OWNER).for_each(|n| _ = names.entry("many", &n.to_string(), now));
        assert_eq!(names.count, MAX_NAMES_PER_OWNER);
        names.entry("first", "x", now);
        for owner in 0..2 * MAX_NAMES / MAX_NAMES_PER_OWNER {
            (0..MAX_NAMES_PER_OWNER).for_each(|n| _ = names.entry(&owner.to_string(), &n.to_string(), now));
        }
        assert!(names.count <= MAX_NAMES && names.get("first", "x").is_some());
        assert_eq!(names.count, names.by_owner.values().map(HashMap::len).sum::<usize>());
    }
}
