//! The limit on client connections, tunnels included. Some slots are reserved for exempt addresses, so that an operator on
//! the machine can connect. When the limit is reached, idle connections are evicted.

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

/// One in so many slots is reserved for exempt addresses; as many connections may wait for a slot.
const PART: usize = 16;

pub struct Room {
    all: Arc<Semaphore>,
    /// The slots that are not reserved.
    open: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    wanted: Notify,
    metrics: Arc<Metrics>,
}

/// A slot of `OPENORCH_HTTP_MAX_CONNECTIONS`, released on drop.
pub struct Place {
    metrics: Arc<Metrics>,
    _all: OwnedSemaphorePermit,
    _open: Option<OwnedSemaphorePermit>,
}

/// A connection that waits for a slot.
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

    /// A slot, if one is free.
    pub fn try_enter(&self, is_exempt: bool) -> Option<Place> {
        let open = match is_exempt {
            true => None,
            false => Some(self.open.clone().try_acquire_owned().ok()?),
        };
        Some(self.place(self.all.clone().try_acquire_owned().ok()?, open))
    }

    /// Joins the queue for a slot, unless it is full.
    pub fn wait(self: &Arc<Room>) -> Option<Waiting> {
        let most = self.most_waiting;
        let entered = self.waiting.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1));
        self.wanted.notify_one();
        entered.is_ok().then(|| Waiting(self.clone()))
    }

    /// Waits until connections must be evicted, and returns how many.
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
    /// Waits for a slot.
    pub async fn enter(self, is_exempt: bool) -> Place {
        let room = &self.0;
        let open = match is_exempt {
            true => None,
            false => Some(room.open.clone().acquire_owned().await.expect("the semaphore is never closed")),
        };
        room.place(room.all.clone().acquire_owned().await.expect("the semaphore is never closed"), open)
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
    /// Idle since, then the order of arrival, since the clock has a coarse resolution.
    pub since: (u64, u64),
}

/// The idle connections of an address, longest idle first.
struct Line<'a> {
    load: &'a Load,
    connections: VecDeque<&'a Arc<Life>>,
}

/// Selects at most `count` connections to evict: repeatedly the longest idle one of the address that uses the largest part of
/// its limit. Connections of exempt addresses are not evicted.
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
        // The addresses use 3 of 10, 1 of 10, and 4 of the 75 connections of a trusted proxy.
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
