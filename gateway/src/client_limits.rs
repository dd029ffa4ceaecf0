//! Limits on connections and requests per client address, so that no address can occupy all of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use openorch_chassis::{codes::gateway as codes, forwarded::client_network};

use crate::{
    Metrics, Settings,
    refusal::Refusal,
    response_budget::{MemoryQuota, MemoryQuotas},
};

/// The share of a trusted proxy in each limit, in quarters: it serves many clients.
const PROXY_QUARTERS: usize = 3;

/// The usage of all client addresses.
#[derive(Default)]
pub struct ClientLimits {
    by_network: Mutex<HashMap<IpAddr, Arc<Usage>>>,
    /// Clients behind trusted proxies, which have no connections of their own.
    proxied: Mutex<HashMap<IpAddr, Arc<Usage>>>,
}

/// The usage of an address. An IPv6 address counts as its /64.
#[derive(Default)]
struct Usage {
    connections: AtomicUsize,
    /// Requests in progress.
    requests: AtomicU64,
    /// Refused requests whose response is unread.
    refused: AtomicU64,
    /// Requests to services that their client abandoned within the last second.
    abandoned: AtomicU64,
}

/// Keeps the slot of an abandoned request to a service. Each has cost the service a connection, so their rate is limited by
/// address.
pub struct AbandonedRequest(Arc<RequestSlot>);

/// A connection counted in the limit of its address, released on drop.
pub struct ClientSlot {
    clients: Arc<ClientLimits>,
    network: IpAddr,
    usage: Arc<Usage>,
    is_proxy: bool,
    max_connections: usize,
    max_requests: u64,
}

/// The number of connections of an address relative to its limit.
#[derive(Clone)]
pub struct ConnectionUsage {
    pub network: IpAddr,
    usage: Arc<Usage>,
    max: usize,
}

/// A request counted among those in progress or the refused ones, released on drop.
pub struct RequestSlot {
    metrics: Arc<Metrics>,
    /// `None` for an exempt address.
    usage: Option<Arc<Usage>>,
    /// The usage of a client behind a trusted proxy.
    proxied: Option<Arc<Usage>>,
    is_refused: bool,
}

/// The result of admission control.
pub struct Admission {
    /// Held until the response is written: an unread refusal uses memory too.
    pub slot: RequestSlot,
    pub refusal: Option<Refusal>,
    /// Whether the unread refusals have reached the limit on requests, so that the connection must be closed.
    pub is_flood: bool,
}

impl ClientLimits {
    /// Acquires a slot for a connection of this address; `Ok(None)` if the address is exempt. The error is the number of its
    /// connections.
    pub fn acquire(
        self: &Arc<ClientLimits>,
        address: IpAddr,
        settings: &Settings,
    ) -> Result<Option<ClientSlot>, usize> {
        let is_proxy = settings.http.trusted_proxies.contains(address);
        if settings.http.address_limit_exempt.contains(address) && !is_proxy {
            return Ok(None);
        }
        let share = |of_all: usize, of_address: usize| if is_proxy { of_all * PROXY_QUARTERS / 4 } else { of_address };
        let max_connections = share(settings.http.max_connections, settings.http.connections_per_address()).max(1);
        let max_requests = share(settings.http.max_requests, settings.http.requests_per_address()).max(1) as u64;
        let network = client_network(address);
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = by_network.entry(network).or_default();
        // Only modified under the lock.
        let connections = usage.connections.load(Relaxed);
        if connections >= max_connections {
            return Err(connections);
        }
        usage.connections.store(connections + 1, Relaxed);
        let usage = usage.clone();
        Ok(Some(ClientSlot { clients: self.clone(), network, usage, is_proxy, max_connections, max_requests }))
    }
}

impl ClientSlot {
    pub fn connection_usage(&self) -> ConnectionUsage {
        ConnectionUsage { network: self.network, usage: self.usage.clone(), max: self.max_connections }
    }

    /// The quota of this address in the memory of unread responses: a tenth, or three quarters for a trusted proxy.
    fn memory_quota(&self, total: usize) -> MemoryQuota {
        let share = if self.is_proxy { total / 4 * PROXY_QUARTERS } else { total / 10 };
        MemoryQuota { network: self.network, bytes: share.max(MIN_MEMORY_QUOTA), is_proxied: false }
    }
}

/// The smallest quota in the memory of unread responses: enough for one response.
const MIN_MEMORY_QUOTA: usize = 1 << 20;

/// The quotas of a request in the memory of unread responses. A client behind a trusted proxy has the quota of an address
/// within that of the proxy.
pub fn memory_quotas(
    client: Option<&ClientSlot>,
    behind_proxy: Option<IpAddr>,
    total: usize,
    settings: &Settings,
) -> MemoryQuotas {
    let proxied = client.and(behind_proxy.filter(|client| !settings.http.address_limit_exempt.contains(*client)));
    let of_proxied = |address| MemoryQuota {
        network: client_network(address),
        bytes: (total / 10).max(MIN_MEMORY_QUOTA),
        is_proxied: true,
    };
    [client.map(|client| client.memory_quota(total)), proxied.map(of_proxied)]
}

impl ConnectionUsage {
    /// The used part of its limit, in millionths.
    pub fn utilization(&self) -> usize {
        self.usage.connections.load(Relaxed) * self.utilization_per_connection()
    }

    /// The part of one connection.
    pub fn utilization_per_connection(&self) -> usize {
        1_000_000 / self.max
    }
}

/// Admits a request if the limit of its address and the total one are not reached. A refused request only counts among the
/// refused ones, so that refusals to one address do not reduce the capacity of others. `behind_proxy` is the client of a
/// trusted proxy: it has the limit of an address, within that of the proxy.
pub fn admit(
    client: Option<&ClientSlot>,
    behind_proxy: Option<IpAddr>,
    is_builtin: bool,
    metrics: &Arc<Metrics>,
    settings: &Settings,
) -> Admission {
    let usage = client.map(|client| client.usage.clone());
    let proxied = client
        .zip(behind_proxy.filter(|client| !settings.http.address_limit_exempt.contains(*client)))
        .map(|(proxy, client)| proxy.clients.behind_proxy(client));
    let total = settings.http.max_requests as u64;
    // Requests to services may last arbitrarily long. An eighth of the slots is reserved for built-in operations, so that an
    // operator can act; half of these for exempt addresses, since any client may call built-in operations.
    let max = match is_builtin {
        true if client.is_none() => total,
        true => total - total / 16,
        false => (total - total / 8).max(1),
    };
    let shares = [
        proxied.as_ref().map(|proxied| (proxied, settings.http.requests_per_address().max(1) as u64)),
        client.map(|client| (&client.usage, client.max_requests)),
    ];
    let mut acquired = Vec::new();
    // Abandoned requests count against the client behind a proxy, not against the proxy.
    let abandon_usage = shares.iter().flatten().next().filter(|_| !is_builtin);
    let mut refusal = abandon_usage.and_then(|(usage, share)| check_abandon_rate(usage, *share));
    let to_acquire: &[_] = if refusal.is_none() { &shares } else { &[] };
    for (usage, share) in to_acquire.iter().flatten() {
        if !try_increment(&usage.requests, *share) {
            refusal = Some(Refusal::new(
                &codes::ADDRESS_BUSY,
                format!(
                    "the limit of {share} concurrent requests from your network is reached \
                     (OPENORCH_HTTP_MAX_REQUESTS_PER_ADDRESS, or three quarters of OPENORCH_HTTP_MAX_REQUESTS for a trusted \
                     proxy); try again when some have ended"
                ),
            ));
            break;
        }
        acquired.push(*usage);
    }
    if refusal.is_none() && !try_increment(metrics.in_flight.inner(), max) {
        refusal = Some(Refusal::new(
            &codes::BUSY,
            format!(
                "the limit of {max} concurrent requests{} is reached (OPENORCH_HTTP_MAX_REQUESTS); try again in a moment",
                if is_builtin { "" } else { " to services" }
            ),
        ));
    }
    let is_refused = refusal.is_some();
    let mut is_flood = false;
    if is_refused {
        acquired.iter().for_each(|usage| _ = usage.requests.fetch_sub(1, Relaxed));
        if let Some(proxied) = &proxied {
            // Other clients share the proxy's connection, so it is not closed.
            proxied.refused.fetch_add(1, Relaxed);
        }
        if let Some(client) = client {
            is_flood |= client.usage.refused.fetch_add(1, Relaxed) >= client.max_requests;
        }
        is_flood |= metrics.refused_in_flight.inc() >= total;
    }
    Admission { slot: RequestSlot { metrics: metrics.clone(), usage, proxied, is_refused }, refusal, is_flood }
}

/// An address may abandon a twentieth of its limit on concurrent requests within a second.
fn check_abandon_rate(usage: &Usage, share: u64) -> Option<Refusal> {
    let most = (share / 20).max(10);
    (usage.abandoned.load(Relaxed) >= most).then(|| {
        Refusal::new(
            &codes::ADDRESS_BUSY,
            format!(
                "the limit of {most} requests to services abandoned within a second by your network is reached (a twentieth \
                 of OPENORCH_HTTP_MAX_REQUESTS_PER_ADDRESS); try again in a second"
            ),
        )
    })
}

impl AbandonedRequest {
    pub fn of(place: Arc<RequestSlot>) -> AbandonedRequest {
        place.usages().for_each(|usage| _ = usage.abandoned.fetch_add(1, Relaxed));
        AbandonedRequest(place)
    }
}

impl Drop for AbandonedRequest {
    fn drop(&mut self) {
        self.0.usages().for_each(|usage| _ = usage.abandoned.fetch_sub(1, Relaxed));
    }
}

impl RequestSlot {
    fn usages(&self) -> impl Iterator<Item = &Arc<Usage>> {
        self.usage.iter().chain(&self.proxied)
    }
}

impl ClientLimits {
    fn behind_proxy(&self, address: IpAddr) -> Arc<Usage> {
        self.proxied().entry(client_network(address)).or_default().clone()
    }

    /// Removes unused entries. Requests may outlive their connections.
    pub fn sweep(&self) {
        let by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        for mut usages in [by_network, self.proxied()] {
            // New references are only created under this lock, or from an existing one.
            usages.retain(|_, usage| Arc::strong_count(usage) > 1);
        }
    }

    fn proxied(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Usage>>> {
        self.proxied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Increments the counter unless the limit is reached.
fn try_increment(counter: &AtomicU64, max: u64) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1)).is_ok()
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let _changed_under_the_lock = self.clients.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        self.usage.connections.fetch_sub(1, Relaxed);
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        let of = |usage: &Usage| match self.is_refused {
            true => usage.refused.fetch_sub(1, Relaxed),
            false => usage.requests.fetch_sub(1, Relaxed),
        };
        self.usages().for_each(|usage| _ = of(usage));
        match self.is_refused {
            true => self.metrics.refused_in_flight.dec(),
            false => self.metrics.in_flight.dec(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpSettings;

    #[test]
    fn an_address_has_a_share_a_trusted_proxy_a_larger_one_and_an_exempt_one_none() {
        let http = HttpSettings {
            max_connections: 8,
            max_connections_per_address: Some(2),
            max_requests: 100,
            max_requests_per_address: Some(1),
            trusted_proxies: "10.0.0.1".parse().unwrap(),
            address_limit_exempt: "127.0.0.0/8".parse().unwrap(),
            ..HttpSettings::default()
        };
        let settings = Settings { http, ..Settings::default() };
        let clients = Arc::new(ClientLimits::default());
        let enter = |address: &str| clients.acquire(address.parse().unwrap(), &settings);
        for (addresses, most) in
            [(["192.0.2.1", "::ffff:192.0.2.1"], 2), (["2001:db8::1", "2001:db8::2"], 2), (["10.0.0.1", "10.0.0.1"], 6)]
        {
            let mut places: Vec<_> =
                addresses.iter().cycle().take(most).map(|address| enter(address).unwrap()).collect();
            assert!(places.iter().all(Option::is_some));
            assert_eq!(enter(addresses[1]).err(), Some(most), "{addresses:?}");
            places.pop();
            assert!(enter(addresses[0]).is_ok(), "one left");
        }
        assert!((0..100).all(|_| matches!(enter("127.0.0.1"), Ok(None))));
        let place = enter("192.0.2.1").unwrap().unwrap();
        let metrics = Arc::new(Metrics::default());
        let admit = || admit(Some(&place), None, true, &metrics, &settings);
        let first = admit();
        assert!(first.refusal.is_none());
        let refused = admit();
        assert_eq!(refused.refusal.as_ref().map(|refusal| refusal.status().as_u16()), Some(429));
        assert!(!refused.is_flood);
        assert_eq!(metrics.in_flight.get(), 1, "refusals to one address do not reduce the capacity of others");
        assert!(admit().is_flood, "one refusal is unread already");
        drop(first);
        assert!(admit().refusal.is_none());
        drop(refused);
        let goes_on = admit();
        drop(place);
        clients.sweep();
        assert_eq!(clients.by_network.lock().unwrap().len(), 1, "a request without a connection counts");
        drop(goes_on);
        clients.sweep();
        assert!(clients.by_network.lock().unwrap().is_empty());
        assert_eq!((metrics.in_flight.get(), metrics.refused_in_flight.get()), (0, 0));
    }

    #[test]
    fn a_client_behind_a_trusted_proxy_has_the_share_of_an_address_also_where_the_proxy_is_exempt() {
        let http = HttpSettings {
            max_requests: 8,
            max_requests_per_address: Some(2),
            trusted_proxies: "127.0.0.1".parse().unwrap(),
            address_limit_exempt: "127.0.0.0/8".parse().unwrap(),
            ..HttpSettings::default()
        };
        let settings = Settings { http, ..Settings::default() };
        let clients = Arc::new(ClientLimits::default());
        let proxy = clients.acquire("127.0.0.1".parse().unwrap(), &settings).unwrap().expect("a share of its own");
        let metrics = Arc::new(Metrics::default());
        let admit = |client: &str| admit(Some(&proxy), Some(client.parse().unwrap()), true, &metrics, &settings);
        let mut held: Vec<_> = (0..4).map(|_| admit("203.0.113.5")).collect();
        let refused: Vec<bool> = held.iter().map(|one| one.refusal.is_some()).collect();
        assert_eq!(refused, [false, false, true, true]);
        assert!(admit("203.0.113.6").refusal.is_none(), "another client of the same proxy");
        held.extend((0..4).map(|n| admit(&format!("198.51.100.{n}"))));
        assert_eq!(metrics.in_flight.get(), 6);
        assert!(admit("192.0.2.1").refusal.is_some(), "the proxy has three quarters of the total");
        drop(held);
        clients.sweep();
        assert!(clients.proxied().is_empty());
        assert_eq!((metrics.in_flight.get(), metrics.refused_in_flight.get()), (0, 0));
    }
}
