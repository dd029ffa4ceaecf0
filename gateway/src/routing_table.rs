//! The routing table: maps slugs to instances. Every request reads it without a lock; the registry replaces the entries of
//! whole slugs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use openorch_chassis::{
    LogLimit,
    routes::{Backend, Eligibility, Routes},
};

use crate::{
    Settings,
    metrics::{DurationMetrics, ServiceDurations},
    pool::Upstream,
};

/// Publishing copies one shard; with 20,000 services that is about eighty pointers.
const SHARDS: usize = 256;

type Shard = HashMap<Arc<str>, Arc<ServiceRoutes>>;

pub struct RoutingTable {
    shards: Box<[ArcSwap<Shard>]>,
    /// Serializes writers, so that concurrent updates of a shard are not lost.
    writing: Mutex<()>,
    pub(crate) durations: DurationMetrics,
}

/// The instances of a slug, grouped by eligibility.
pub struct ServiceRoutes {
    /// Shared by all versions of the table.
    pub entry: Arc<ServiceEntry>,
    pub healthy: Vec<Arc<Upstream>>,
    pub slow: Vec<Arc<Upstream>>,
    /// Not routable at the moment; their pooled connections are kept in case they recover.
    unroutable: Vec<Arc<Upstream>>,
}

/// A registered service: its removal, metrics and log limit. Requests in progress hold a reference.
pub struct ServiceEntry {
    pub slug: Arc<str>,
    is_removed: AtomicBool,
    pub(crate) durations: ServiceDurations,
    /// Limits log lines about requests that failed with 502 or 503.
    pub(crate) failures: LogLimit,
}

impl ServiceEntry {
    fn new(slug: &str) -> ServiceEntry {
        ServiceEntry {
            slug: slug.into(),
            is_removed: AtomicBool::new(false),
            durations: ServiceDurations::default(),
            failures: LogLimit::once_a_minute(),
        }
    }

    /// Whether the account of the service was deleted.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Relaxed)
    }
}

impl Default for RoutingTable {
    fn default() -> RoutingTable {
        RoutingTable {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            writing: Mutex::default(),
            durations: DurationMetrics::default(),
        }
    }
}

impl RoutingTable {
    pub fn new() -> RoutingTable {
        RoutingTable::default()
    }

    /// `None` for a slug that was never published.
    pub(crate) fn find(&self, slug: &str) -> Option<Arc<ServiceRoutes>> {
        self.shards[shard(slug)].load().get(slug).cloned()
    }

    /// Closes expired connections to instances.
    pub(crate) fn sweep(&self, now: u64, settings: &Settings) {
        self.each_instance(|instance| instance.sweep(now, settings));
    }

    /// Closes all idle connections to instances, to free local resources.
    pub(crate) fn close_idle(&self) {
        self.each_instance(Upstream::close_idle);
    }

    /// All registered services.
    pub(crate) fn services(&self) -> impl Iterator<Item = Arc<ServiceEntry>> {
        self.shards.iter().flat_map(|shard| {
            let shard = shard.load_full();
            shard.values().map(|service| service.entry.clone()).collect::<Vec<_>>()
        })
    }

    fn each_instance(&self, mut work: impl FnMut(&Upstream)) {
        for shard in &self.shards {
            for service in shard.load().values() {
                service.all().for_each(|instance| work(instance));
            }
        }
    }
}

impl Routes for RoutingTable {
    fn publish(&self, slug: &str, backends: Vec<Backend>) {
        let _writing = self.writing.lock().unwrap_or_else(|broken| broken.into_inner());
        let shard = &self.shards[shard(slug)];
        let mut next = Shard::clone(&shard.load());
        let service = ServiceRoutes::new(slug, backends, next.get(slug).map(|old| &**old));
        next.insert(service.entry.slug.clone(), Arc::new(service));
        shard.store(Arc::new(next));
    }

    fn forget(&self, slug: &str) {
        let _writing = self.writing.lock().unwrap_or_else(|broken| broken.into_inner());
        let shard = &self.shards[shard(slug)];
        let mut next = Shard::clone(&shard.load());
        if let Some(service) = next.remove(slug) {
            service.entry.is_removed.store(true, Relaxed);
        }
        shard.store(Arc::new(next));
    }

    fn load(&self, services: Vec<(Box<str>, Vec<Backend>)>) {
        let _writing = self.writing.lock().unwrap_or_else(|broken| broken.into_inner());
        let capacity = services.len() / SHARDS * 5 / 4;
        let mut next: Vec<Shard> = (0..SHARDS).map(|_| Shard::with_capacity(capacity)).collect();
        for (slug, backends) in services {
            let service = ServiceRoutes::new(&slug, backends, self.find(&slug).as_deref());
            next[shard(&slug)].insert(service.entry.slug.clone(), Arc::new(service));
        }
        for (shard, next) in self.shards.iter().zip(next) {
            shard.store(Arc::new(next));
        }
    }
}

impl ServiceRoutes {
    /// Instances whose address did not change keep their connections.
    fn new(slug: &str, backends: Vec<Backend>, old: Option<&ServiceRoutes>) -> ServiceRoutes {
        let presence = match old {
            Some(old) => old.entry.clone(),
            None => Arc::new(ServiceEntry::new(slug)),
        };
        let mut service =
            ServiceRoutes { entry: presence, healthy: Vec::new(), slow: Vec::new(), unroutable: Vec::new() };
        // An account may have many instances, and change them often.
        let known: HashMap<&str, &Arc<Upstream>> =
            old.into_iter().flat_map(ServiceRoutes::all).map(|instance| (&*instance.id, instance)).collect();
        for backend in backends {
            let known = known.get(&*backend.instance_id).filter(|known| known.url == backend.url);
            let instance = match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(Upstream::new(backend.instance_id, backend.url)),
            };
            match backend.eligibility {
                Eligibility::Eligible => service.healthy.push(instance),
                Eligibility::Fallback => service.slow.push(instance),
                Eligibility::Ineligible => service.unroutable.push(instance),
            }
        }
        service
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.healthy.iter().chain(&self.slow).chain(&self.unroutable)
    }
}

/// FNV-1a needs no defence against collisions: a crowded shard costs a writer microseconds.
fn shard(slug: &str) -> usize {
    let hash = slug.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use openorch_chassis::outbound::InstanceUrl;

    use super::*;

    fn backend(id: &str, url: &str, routable: Eligibility) -> Backend {
        Backend { instance_id: id.into(), url: Arc::new(InstanceUrl::parse(url).unwrap()), eligibility: routable }
    }

    #[test]
    fn an_instance_keeps_its_connections_while_it_keeps_its_address() {
        let table = RoutingTable::new();
        assert!(table.find("a").is_none());
        table.publish("a", vec![backend("1", "http://x", Eligibility::Eligible)]);
        let first = table.find("a").unwrap().healthy[0].clone();
        table.publish("a", vec![backend("1", "http://x", Eligibility::Ineligible)]);
        table.publish("b", vec![]);
        table.publish("a", vec![backend("1", "http://x", Eligibility::Fallback)]);
        assert!(Arc::ptr_eq(&first, &table.find("a").unwrap().slow[0]));
        table.load(vec![("a".into(), vec![backend("1", "http://x", Eligibility::Eligible)])]);
        assert!(Arc::ptr_eq(&first, &table.find("a").unwrap().healthy[0]));
        assert!(table.find("b").is_none());
        table.publish("a", vec![backend("1", "http://y", Eligibility::Eligible)]);
        assert!(!Arc::ptr_eq(&first, &table.find("a").unwrap().healthy[0]));
    }

    #[test]
    fn w181_publishing_many_instances_takes_linear_time() {
        // The ids differ at the end. Quadratic time would be 200 million comparisons of such ids.
        let backends = || {
            let one = |n| backend(&format!("{}{n}", "a".repeat(100)), "http://x", Eligibility::Eligible);
            (0..20_000).map(one).collect::<Vec<_>>()
        };
        let table = RoutingTable::new();
        table.publish("a", backends());
        let again = backends();
        let started = std::time::Instant::now();
        table.publish("a", again);
        assert!(started.elapsed() < std::time::Duration::from_secs(3), "{:?}", started.elapsed());
    }

    #[test]
    fn twenty_thousand_services_spread_over_the_shards() {
        let mut counts = [0; SHARDS];
        (0..20_000).for_each(|n| counts[shard(&format!("service-{n}"))] += 1);
        assert!(counts.iter().all(|count| (20..200).contains(count)), "{counts:?}");
    }
}
