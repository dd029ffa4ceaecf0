//! Places for connections of clients: one for each, also where it became a tunnel, and some for exempt addresses alone, so
//! that an operator on the machine gets in. Where none is left, connections without a request give way.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::{Metrics, clients::Load, life::Life};

/// Of so many places one is for exempt addresses alone, and so many may wait for one.
const PART: usize = 16;

pub struct Room {
    all: Arc<Semaphore>,
    /// Those of them that any address may have.
    open: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    wanted: Notify,
    metrics: Arc<Metrics>,
}

/// One of `OPENORCH_HTTP_MAX_CONNECTIONS`.
pub struct Place {
    metrics: Arc<Metrics>,
    _all: OwnedSemaphorePermit,
    _open: Option<OwnedSemaphorePermit>,
}

/// A connection that waits for a place.
pub struct Waiting(Arc<Room>);

impl Room {
    pub fn new(most: usize, metrics: Arc<Metrics>) -> Room {
        Room {
            all: Arc::new(Semaphore::new(most)),
            open: Arc::new(Semaphore::new(most - most / PART)),
            waiting: AtomicUsize::new(0),
            most_waiting: (most / PART).max(1),
            wanted: Notify::new(),
            metrics,
        }
    }

    /// A place, if there is one.
    pub fn try_enter(&self, is_exempt: bool) -> Option<Place> {
        let open = match is_exempt {
            true => None,
            false => Some(self.open.clone().try_acquire_owned().ok()?),
        };
        Some(self.place(self.all.clone().try_acquire_owned().ok()?, open))
    }

    /// Leave to wait for a place, unless as many do as may.
    pub fn wait(self: &Arc<Room>) -> Option<Waiting> {
        let most = self.most_waiting;
        let entered = self.waiting.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1));
        self.wanted.notify_one();
        entered.is_ok().then(|| Waiting(self.clone()))
    }

    /// Waits until connections are to give way, and says how many.
    pub async fn wanted(&self) -> usize {
        loop {
            match self.waiting.load(Relaxed) {
                0 => self.wanted.notified().await,
                waiting => return waiting,
            }
        }
    }

    fn place(&self, all: OwnedSemaphorePermit, open: Option<OwnedSemaphorePermit>) -> Place {
        self.metrics.connections.inc();
        Place { metrics: self.metrics.clone(), _all: all, _open: open }
    }
}

impl Waiting {
    /// A place, once there is one.
    pub async fn enter(self, is_exempt: bool) -> Place {
        let room = &self.0;
        let open = match is_exempt {
            true => None,
            false => Some(room.open.clone().acquire_owned().await.expect("it is never closed")),
        };
        room.place(room.all.clone().acquire_owned().await.expect("it is never closed"), open)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// A connection without a request in progress.
pub struct Idle {
    pub life: Arc<Life>,
    /// Since when it waits for one, and then the order in which they came: time passes here in ticks.
    pub since: (u64, u64),
}

/// The connections of one address, those that have waited longest first.
struct Line<'a> {
    load: &'a Load,
    connections: VecDeque<&'a Arc<Life>>,
}

/// Those of these connections that give way, so many at most: the ones that have waited longest, of the address that has
/// the largest part of what it may have. Those of exempt addresses stay.
pub fn that_give_way(mut idle: Vec<Idle>, count: usize) -> Vec<Arc<Life>> {
    idle.sort_by_key(|idle| idle.since);
    let mut lines: HashMap<IpAddr, Line> = HashMap::new();
    for Idle { life, .. } in &idle {
        if let Some(load) = life.load() {
            let line = lines.entry(load.network).or_insert_with(|| Line { load, connections: VecDeque::new() });
            line.connections.push_back(life);
        }
    }
    let mut lines: Vec<Line> = lines.into_values().collect();
    let mut heaviest: BinaryHeap<_> =
        lines.iter().enumerate().map(|(at, line)| (line.load.part(), Reverse(at))).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count
        && let Some((part, Reverse(at))) = heaviest.pop()
    {
        let line = &mut lines[at];
        if let Some(life) = line.connections.pop_front() {
            chosen.push(life.clone());
            heaviest.push((part.saturating_sub(line.load.part_of_one()), Reverse(at)));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HttpSettings, Settings, clients::Clients};

    #[test]
    fn w152_the_address_with_most_gives_way_and_those_that_wait_longest_first() {
        let http = HttpSettings {
            max_connections: 100,
            trusted_proxies: "10.0.0.1".parse().unwrap(),
            ..HttpSettings::default()
        };
        let settings = Settings { http, ..Settings::default() };
        let clients = Arc::new(Clients::default());
        let mut places = Vec::new();
        let mut connect = |address: &str, since: u64| {
            let place = clients.enter(address.parse().unwrap(), &settings).unwrap();
            let life = Arc::new(Life::new(since, place.as_ref().map(|place| place.load())));
            places.push(place);
            Idle { life, since: (since, 0) }
        };
        let connections = [
            ("127.0.0.1", 0),
            ("192.0.2.1", 1),
            ("10.0.0.1", 2),
            ("10.0.0.1", 3),
            ("10.0.0.1", 4),
            ("10.0.0.1", 5),
            ("192.0.2.2", 9),
            ("192.0.2.2", 8),
            ("192.0.2.2", 7),
        ];
        let idle: Vec<Idle> = connections.iter().map(|(address, since)| connect(address, *since)).collect();
        let since: HashMap<_, _> = idle.iter().map(|idle| (Arc::as_ptr(&idle.life), idle.since.0)).collect();
        let chosen = |count| {
            let idle = idle.iter().map(|idle| Idle { life: idle.life.clone(), since: idle.since }).collect();
            let chosen = that_give_way(idle, count);
            chosen.iter().map(|life| since[&Arc::as_ptr(life)]).collect::<Vec<_>>()
        };
        // Three of ten, one of ten, and four of the 75 that a trusted proxy may have.
        assert_eq!(chosen(2), [7, 8]);
        assert_eq!(chosen(4)[..2], [7, 8]);
        let all = chosen(100);
        assert!(all.len() == 8 && !all.contains(&0), "exempt ones stay: {all:?}");
    }

    #[tokio::test]
    async fn w152_some_places_are_for_exempt_addresses_alone() {
        let metrics = Arc::new(Metrics::default());
        let room = Arc::new(Room::new(32, metrics.clone()));
        let held: Vec<_> = std::iter::from_fn(|| room.try_enter(false)).collect();
        assert_eq!(held.len(), 30);
        let waiting = room.wait().unwrap();
        assert_eq!(room.wanted().await, 1);
        let exempt: Vec<_> = std::iter::from_fn(|| room.try_enter(true)).collect();
        assert_eq!((exempt.len(), metrics.connections.get()), (2, 32));
        drop(exempt);
        drop(held);
        let place = waiting.enter(false).await;
        assert_eq!((room.waiting.load(Relaxed), metrics.connections.get()), (0, 1));
        drop(place);
    }
}
