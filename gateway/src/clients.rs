//! How many connections and requests one client address may have open, so that none can hold all of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use openorch_chassis::forwarded::network;

use crate::Settings;

/// What a trusted proxy may have of everything, in quarters: many clients stand behind it.
const PROXY_QUARTERS: usize = 3;

/// All addresses with open connections.
#[derive(Default)]
pub struct Clients {
    by_network: Mutex<HashMap<IpAddr, Arc<Usage>>>,
}

/// What one address has open. An IPv6 address counts as its /64.
#[derive(Default)]
struct Usage {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// The place of one connection; it is given back when this is dropped.
pub struct ClientPlace {
    clients: Arc<Clients>,
    network: IpAddr,
    usage: Arc<Usage>,
    max_requests: usize,
}

/// The place of one request; it is given back when this is dropped.
pub struct RequestPlace(Option<Arc<Usage>>);

impl Clients {
    /// A place for a connection from this address: `Ok(None)` where none is needed, since the address is exempt. The error
    /// is how many it has.
    pub fn enter(self: &Arc<Clients>, address: IpAddr, settings: &Settings) -> Result<Option<ClientPlace>, usize> {
        if settings.exempt_addresses.contains(address) {
            return Ok(None);
        }
        let is_proxy = settings.trusted_proxies.contains(address);
        let share = |of_all: usize, of_address: usize| if is_proxy { of_all * PROXY_QUARTERS / 4 } else { of_address };
        let max_connections = share(settings.connections, settings.connections_per_address).max(1);
        let max_requests = share(settings.max_requests, settings.requests_per_address).max(1);
        let network = network(address);
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = by_network.entry(network).or_default();
        // Only changed under the lock.
        let connections = usage.connections.load(Relaxed);
        if connections >= max_connections {
            return Err(connections);
        }
        usage.connections.store(connections + 1, Relaxed);
        Ok(Some(ClientPlace { clients: self.clone(), network, usage: usage.clone(), max_requests }))
    }
}

impl ClientPlace {
    /// A place for a request on this connection, if its address has one left. The error is how many it has.
    pub fn begin(&self) -> Result<RequestPlace, usize> {
        let before = self.usage.requests.fetch_add(1, Relaxed);
        let place = RequestPlace(Some(self.usage.clone()));
        if before >= self.max_requests { Err(before) } else { Ok(place) }
    }
}

impl RequestPlace {
    /// Of a connection whose address is exempt.
    pub const EXEMPT: RequestPlace = RequestPlace(None);
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut by_network = self.clients.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        if self.usage.connections.fetch_sub(1, Relaxed) == 1 {
            by_network.remove(&self.network);
        }
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        if let Some(usage) = &self.0 {
            usage.requests.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openorch_chassis::forwarded::NetworkList;

    #[test]
    fn an_address_has_a_share_a_trusted_proxy_a_larger_one_and_an_exempt_one_none() {
        let settings = Settings {
            connections: 8,
            connections_per_address: 2,
            max_requests: 100,
            requests_per_address: 1,
            trusted_proxies: NetworkList::parse("10.0.0.1").unwrap(),
            exempt_addresses: NetworkList::parse("127.0.0.0/8").unwrap(),
            ..Settings::default()
        };
        let clients = Arc::new(Clients::default());
        let enter = |address: &str| clients.enter(address.parse().unwrap(), &settings);
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
        let request = place.begin().unwrap();
        assert_eq!(place.begin().err(), Some(1));
        drop(request);
        assert!(place.begin().is_ok());
        drop(place);
        assert!(clients.by_network.lock().unwrap().is_empty());
    }
}
