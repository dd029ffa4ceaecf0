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

use crate::{Metrics, client_limits::ConnectionUsage, conn_tracker::ConnState};

/// Divisor: this fraction of the slots is reserved for exempt addresses, and the same number of connections may wait for a
/// slot.
const RESERVED_FRACTION: usize = 16;

pub struct ConnectionLimiter {
    all: Arc<Semaphore>,
    /// The slots that are not reserved.
    unreserved: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    eviction_needed: Notify,
    metrics: Arc<Metrics>,
}

/// A slot of `OPENORCH_HTTP_MAX_CONNECTIONS`, released on drop.
pub struct ConnectionPermit {
    metrics: Arc<Metrics>,
    _all: OwnedSemaphorePermit,
    _open: Option<OwnedSemaphorePermit>,
}

/// A connection that waits for a slot.
pub struct PendingConnection(Arc<ConnectionLimiter>);

impl ConnectionLimiter {
    pub fn new(max_connections: usize, metrics: Arc<Metrics>) -> ConnectionLimiter {
        ConnectionLimiter {
            all: Arc::new(Semaphore::new(max_connections)),
            unreserved: Arc::new(Semaphore::new(max_connections - max_connections / RESERVED_FRACTION)),
            waiting: AtomicUsize::new(0),
            max_waiting: (max_connections / RESERVED_FRACTION).max(1),
            eviction_needed: Notify::new(),
            metrics,
        }
    }

    /// A slot, if one is free.
    pub fn try_acquire(&self, is_exempt: bool) -> Option<ConnectionPermit> {
        let open = match is_exempt {
            true => None,
            false => Some(self.unreserved.clone().try_acquire_owned().ok()?),
        };
        Some(self.permit(self.all.clone().try_acquire_owned().ok()?, open))
    }

    /// Joins the queue for a slot, unless it is full.
    pub fn join_queue(self: &Arc<ConnectionLimiter>) -> Option<PendingConnection> {
        let most = self.max_waiting;
        let entered = self.waiting.fetch_update(Relaxed, Relaxed, |count| (count < most).then_some(count + 1));
        self.eviction_needed.notify_one();
        entered.is_ok().then(|| PendingConnection(self.clone()))
    }

    /// Waits until connections must be evicted, and returns how many.
    pub async fn eviction_demand(&self) -> usize {
        loop {
            match self.waiting.load(Relaxed) {
                0 => self.eviction_needed.notified().await,
                waiting => return waiting,
            }
        }
    }

    fn permit(&self, all: OwnedSemaphorePermit, open: Option<OwnedSemaphorePermit>) -> ConnectionPermit {
        self.metrics.connections.inc();
        ConnectionPermit { metrics: self.metrics.clone(), _all: all, _open: open }
    }
}

impl PendingConnection {
    /// Waits for a slot.
    pub async fn acquire(self, is_exempt: bool) -> ConnectionPermit {
        let room = &self.0;
        let open = match is_exempt {
            true => None,
            false => Some(room.unreserved.clone().acquire_owned().await.expect("the semaphore is never closed")),
        };
        room.permit(room.all.clone().acquire_owned().await.expect("the semaphore is never closed"), open)
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// A connection without a request in progress.
pub struct IdleConnection {
    pub state: Arc<ConnState>,
    /// Idle since, then the order of arrival, since the clock has a coarse resolution.
    pub since: (u64, u64),
}

/// The idle connections of an address, longest idle first.
struct IdleByAddress<'a> {
    load: &'a ConnectionUsage,
    connections: VecDeque<&'a Arc<ConnState>>,
}

/// Selects at most `count` connections to evict: repeatedly the longest idle one of the address that uses the largest part of
/// its limit. Connections of exempt addresses are not evicted.
pub fn select_evictions(mut idle: Vec<IdleConnection>, count: usize) -> Vec<Arc<ConnState>> {
    idle.sort_by_key(|idle| idle.since);
    let mut by_network: HashMap<IpAddr, IdleByAddress> = HashMap::new();
    for IdleConnection { state: life, .. } in &idle {
        if let Some(load) = life.usage() {
            let line =
                by_network.entry(load.network).or_insert_with(|| IdleByAddress { load, connections: VecDeque::new() });
            line.connections.push_back(life);
        }
    }
    let mut lines: Vec<IdleByAddress> = by_network.into_values().collect();
    let mut heaviest: BinaryHeap<_> =
        lines.iter().enumerate().map(|(at, line)| (line.load.utilization(), Reverse(at))).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count
        && let Some((part, Reverse(at))) = heaviest.pop()
    {
        let line = &mut lines[at];
        if let Some(life) = line.connections.pop_front() {
            chosen.push(life.clone());
            heaviest.push((part.saturating_sub(line.load.utilization_per_connection()), Reverse(at)));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HttpSettings, Settings, client_limits::ClientLimits};

    #[test]
    fn w152_the_address_with_most_gives_way_and_those_that_wait_longest_first() {
        let http = HttpSettings {
            max_connections: 100,
            trusted_proxies: "10.0.0.1".parse().unwrap(),
            ..HttpSettings::default()
        };
        let settings = Settings { http, ..Settings::default() };
        let clients = Arc::new(ClientLimits::default());
        let mut places = Vec::new();
        let mut connect = |address: &str, since: u64| {
            let place = clients.acquire(address.parse().unwrap(), &settings).unwrap();
            let life = Arc::new(ConnState::new(since, place.as_ref().map(|place| place.connection_usage())));
            places.push(place);
            IdleConnection { state: life, since: (since, 0) }
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
        let idle: Vec<IdleConnection> = connections.iter().map(|(address, since)| connect(address, *since)).collect();
        let since: HashMap<_, _> = idle.iter().map(|idle| (Arc::as_ptr(&idle.state), idle.since.0)).collect();
        let chosen = |count| {
            let idle =
                idle.iter().map(|idle| IdleConnection { state: idle.state.clone(), since: idle.since }).collect();
            let chosen = select_evictions(idle, count);
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
        let room = Arc::new(ConnectionLimiter::new(32, metrics.clone()));
        let held: Vec<_> = std::iter::from_fn(|| room.try_acquire(false)).collect();
        assert_eq!(held.len(), 30);
        let waiting = room.join_queue().unwrap();
        assert_eq!(room.eviction_demand().await, 1);
        let exempt: Vec<_> = std::iter::from_fn(|| room.try_acquire(true)).collect();
        assert_eq!((exempt.len(), metrics.connections.get()), (2, 32));
        drop(exempt);
        drop(held);
        let place = waiting.acquire(false).await;
        assert_eq!((room.waiting.load(Relaxed), metrics.connections.get()), (0, 1));
        drop(place);
    }
}
