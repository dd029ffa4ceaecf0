//! The cache of all instances: their rows, the results of probes, and the routing state published to the gateway.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use openorch_api::{
    Time,
    registry::{Instance, InstanceExtra, InstanceStatus},
};
use openorch_chassis::{
    outbound::InstanceUrl,
    routes::{Backend, Eligibility, Routes},
};

use super::rows::{InstanceRow, ServiceRow};

/// An instance with its current status.
pub struct CachedInstance {
    pub row: InstanceRow,
    pub version: u64,
    pub url: Arc<InstanceUrl>,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    status: InstanceStatus,
    details: String,
    /// The last successful probe, or the last heartbeat of an instance that announced one.
    last_heartbeat: Time,
    /// The last successful probe or heartbeat of any kind; [`Time::ZERO`] if there was none since the start.
    seen_at: Time,
    /// How long the instance has been silent while the daemon ran: whole check intervals, and the part of one since
    /// `seen_at`.
    silent_for: Duration,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    pub status: InstanceStatus,
    pub details: String,
}

impl CachedInstance {
    /// An instance loaded from the store: its stored status counts until the first probe. `None` if its URL is invalid.
    pub fn stored(row: InstanceRow, version: u64) -> Option<CachedInstance> {
        match InstanceUrl::parse(&row.url) {
            Ok(url) => {
                let state = State {
                    status: row.status,
                    details: row.details.clone(),
                    last_heartbeat: Time::ZERO,
                    seen_at: Time::ZERO,
                    silent_for: Duration::ZERO,
                };
                Some(CachedInstance { row, version, url: Arc::new(url), state: Mutex::new(state) })
            }
            Err(error) => {
                tracing::error!(instance.id = %row.id, "instance `{}` is skipped: {error}", row.id);
                None
            }
        }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn status(&self) -> InstanceStatus {
        self.state().status
    }

    /// Records a registration: a sign of life, and the heartbeat of an instance that announced one.
    pub fn mark_seen(&self, now: Time) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.seen_at, state.silent_for) = (now, Duration::ZERO);
        if self.row.heartbeat_seconds > 0 {
            state.last_heartbeat = now;
        }
    }

    /// Adds the time since the previous heartbeat check and returns how long the instance has been silent. If it was
    /// seen since that check, only the time after that counts.
    pub fn add_silence(&self, passed: Duration, now: Time) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // `seen_at` in the future means that the clock was set back; the whole interval counts.
        let since = Duration::try_from(now.0.duration_since(state.seen_at.0)).unwrap_or(passed);
        state.silent_for += passed.min(since);
        state.silent_for
    }

    /// The routing entry for the gateway.
    fn backend(&self, id: &Arc<str>) -> Backend {
        Backend { instance_id: id.clone(), url: self.url.clone(), eligibility: routable(self.status()) }
    }

    pub fn to_wire(&self, extended: bool) -> Instance {
        let (row, state) = (&self.row, self.state());
        Instance {
            id: row.id.clone(),
            url: row.url.clone(),
            status: state.status,
            deployment_id: row.deployment_id.clone(),
            node_url: row.node_url.clone(),
            last_heartbeat: state.last_heartbeat,
            scheme: row.scheme.clone(),
            host: row.host.clone(),
            ip: row.ip.clone(),
            port: row.port,
            path: row.path.clone(),
            details: state.details,
            slug: row.slug.clone(),
            tags: Vec::new(),
            extra: extended.then(|| InstanceExtra {
                owner_id: row.owner_id.clone(),
                health_path: row.health_path.clone(),
                heartbeat_seconds: row.heartbeat_seconds,
                routable: routable(state.status) != Eligibility::Ineligible,
            }),
        }
    }
}

/// Whether the gateway may choose an instance of this status (decision "Services without an instance").
fn routable(status: InstanceStatus) -> Eligibility {
    match status {
        InstanceStatus::Healthy => Eligibility::Eligible,
        InstanceStatus::Degraded => Eligibility::Fallback,
        InstanceStatus::Unknown | InstanceStatus::Unreachable | InstanceStatus::Error => Eligibility::Ineligible,
    }
}

/// Instances being loaded at start, by id.
type Loaded = Vec<(Arc<str>, Arc<CachedInstance>)>;

/// The instances of one account.
struct AccountInstances {
    slug: Box<str>,
    /// Sorted. Usually one, rarely many.
    ids: Vec<Arc<str>>,
}

#[derive(Default)]
struct Indexes {
    by_id: HashMap<Arc<str>, Arc<CachedInstance>>,
    by_url: HashMap<Box<str>, Arc<str>>,
    by_owner: HashMap<Box<str>, AccountInstances>,
    /// The owner's id by slug, so that lists are ordered without sorting.
    by_slug: BTreeMap<Box<str>, Box<str>>,
}

pub struct InstanceCache {
    tables: RwLock<Indexes>,
    routes: Arc<dyn Routes>,
}

impl InstanceCache {
    pub fn new(routes: Arc<dyn Routes>) -> InstanceCache {
        InstanceCache { tables: RwLock::default(), routes }
    }

    /// Fills the cache at start and, in parallel, passes all instances to the gateway.
    pub fn load(&self, entries: Vec<CachedInstance>, services: Vec<ServiceRow>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.reserve(entries.len(), services.len());
        let mut groups: Vec<(ServiceRow, Loaded)> = Vec::with_capacity(services.len());
        let mut positions: HashMap<String, usize> = HashMap::with_capacity(services.len());
        for service in services {
            positions.insert(service.owner_id.clone(), groups.len());
            groups.push((service, Vec::new()));
        }
        for entry in entries {
            let position = *positions.entry(entry.row.owner_id.clone()).or_insert_with(|| {
                let row = &entry.row;
                groups.push((ServiceRow { owner_id: row.owner_id.clone(), slug: row.slug.clone() }, Vec::new()));
                groups.len() - 1
            });
            groups[position].1.push((entry.row.id.as_str().into(), Arc::new(entry)));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let backends = |of: &Loaded| of.iter().map(|(id, entry)| entry.backend(id)).collect();
                self.routes.load(groups.iter().map(|(row, of)| (row.slug.as_str().into(), backends(of))).collect());
            });
            for (service, of) in &groups {
                let group = tables.group(&service.owner_id, &service.slug);
                group.ids.extend(of.iter().map(|(id, _)| id.clone()));
                group.ids.sort();
                for (id, entry) in of {
                    tables.by_url.insert(entry.row.url.as_str().into(), id.clone());
                    tables.by_id.insert(id.clone(), entry.clone());
                }
            }
        });
    }

    pub fn get(&self, id: &str) -> Option<Arc<CachedInstance>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    pub fn by_url(&self, url: &str) -> Option<Arc<CachedInstance>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_url.get(url).and_then(|id| tables.by_id.get(id)).cloned()
    }

    /// The number of instances.
    pub fn count(&self) -> usize {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_id.len()
    }

    pub fn all(&self) -> Vec<Arc<CachedInstance>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// The instances that pass, ordered by slug and id; with a slug, only those of its account.
    pub fn find(&self, slug: Option<&str>, passes: impl Fn(&CachedInstance) -> bool) -> Vec<Arc<CachedInstance>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let owners: Vec<&Box<str>> = match slug.filter(|slug| !slug.is_empty()) {
            Some(slug) => tables.by_slug.get(slug).into_iter().collect(),
            None => tables.by_slug.values().collect(),
        };
        let ids = owners.into_iter().filter_map(|owner| tables.by_owner.get(owner)).flat_map(|group| &group.ids);
        ids.filter_map(|id| tables.by_id.get(id)).filter(|entry| passes(entry)).cloned().collect()
    }

    pub fn has_routable(&self, owner_id: &str) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = tables.by_owner.get(owner_id) else { return false };
        group
            .ids
            .iter()
            .filter_map(|id| tables.by_id.get(id))
            .any(|entry| routable(entry.status()) != Eligibility::Ineligible)
    }

    /// Inserts a written row. `replaced_ids` are the ids of rows removed by the same batch. A version older than the cached one
    /// is ignored. If the URL is unchanged, the status is kept.
    pub fn put(&self, row: InstanceRow, version: u64, url: InstanceUrl, replaced_ids: &[String], now: Time) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed_owners = BTreeSet::new();
        let mut state = State {
            status: InstanceStatus::Unknown,
            details: String::new(),
            last_heartbeat: if row.heartbeat_seconds > 0 { now } else { Time::ZERO },
            seen_at: now,
            silent_for: Duration::ZERO,
        };
        for id in replaced_ids {
            changed_owners.extend(tables.remove(id).map(|entry| Box::from(entry.row.owner_id.as_str())));
        }
        let known = tables.by_id.get(row.id.as_str()).cloned();
        if known.as_ref().is_some_and(|known| known.version > version) {
            self.publish(&tables, &changed_owners);
            return;
        }
        match known.filter(|known| known.row.url == row.url) {
            Some(known) => {
                let heartbeat = state.last_heartbeat;
                state = State { seen_at: now, silent_for: Duration::ZERO, ..known.state() };
                state.last_heartbeat = state.last_heartbeat.max(heartbeat);
            }
            None => _ = changed_owners.insert(Box::from(row.owner_id.as_str())),
        }
        // The gateway needs no update if neither URL nor status changed.
        if let Some(old) = tables.remove(&row.id).filter(|old| old.row.owner_id != row.owner_id) {
            changed_owners.extend([old.row.owner_id.as_str().into(), row.owner_id.as_str().into()]);
        }
        tables.insert(CachedInstance { row, version, url: Arc::new(url), state: Mutex::new(state) });
        self.publish(&tables, &changed_owners);
    }

    /// Removes instances.
    pub fn remove(&self, ids: &[String]) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let touched = ids.iter().filter_map(|id| Some(tables.remove(id)?.row.owner_id.as_str().into())).collect();
        self.publish(&tables, &touched);
    }

    /// Removes a deleted account with all its instances.
    pub fn remove_account(&self, owner_id: &str) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = tables.by_owner.remove(owner_id) else { return };
        for id in &group.ids {
            tables.remove(id);
        }
        tables.by_slug.remove(&group.slug);
        self.routes.forget(&group.slug);
    }

    /// Applies the result of a probe. Returns the previous status if it changed. The result is ignored if the instance
    /// was moved or replaced during the probe.
    pub fn apply_probe(
        &self,
        probed: &Arc<CachedInstance>,
        finding: &ProbeResult,
        now: Time,
    ) -> Option<InstanceStatus> {
        // The write lock also orders publications: two concurrent probes must not overwrite newer routes with older
        // ones.
        let tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let entry = tables.by_id.get(probed.row.id.as_str()).filter(|entry| entry.row.url == probed.row.url)?;
        let before = {
            let mut state = entry.state.lock().unwrap_or_else(PoisonError::into_inner);
            let before = state.status;
            state.status = finding.status;
            state.details.clone_from(&finding.details);
            if matches!(finding.status, InstanceStatus::Healthy | InstanceStatus::Degraded) {
                state.last_heartbeat = now;
                (state.seen_at, state.silent_for) = (now, Duration::ZERO);
            }
            before
        };
        if routable(before) != routable(finding.status) {
            self.publish(&tables, &BTreeSet::from([Box::from(entry.row.owner_id.as_str())]));
        }
        (before != finding.status).then_some(before)
    }

    /// Replaces the row with a newer version in which only the probe results changed.
    pub fn update_row(&self, row: InstanceRow, version: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = tables.by_id.get(row.id.as_str()).filter(|known| known.version < version) else { return };
        let entry = CachedInstance { url: known.url.clone(), state: Mutex::new(known.state()), row, version };
        tables.insert(entry);
    }

    fn publish(&self, tables: &Indexes, owners: &BTreeSet<Box<str>>) {
        for group in owners.iter().filter_map(|owner| tables.by_owner.get(owner)) {
            self.routes.publish(&group.slug, tables.backends(group));
        }
    }
}

impl Indexes {
    fn group(&mut self, owner_id: &str, slug: &str) -> &mut AccountInstances {
        if !self.by_owner.contains_key(owner_id) {
            self.by_owner.insert(owner_id.into(), AccountInstances { slug: slug.into(), ids: Vec::new() });
            self.by_slug.insert(slug.into(), owner_id.into());
        }
        self.by_owner.get_mut(owner_id).expect("it was inserted if it was missing")
    }

    fn insert(&mut self, entry: CachedInstance) {
        let id: Arc<str> = entry.row.id.as_str().into();
        let ids = &mut self.group(&entry.row.owner_id, &entry.row.slug).ids;
        if let Err(place) = ids.binary_search(&id) {
            ids.insert(place, id.clone());
        }
        self.by_url.insert(entry.row.url.as_str().into(), id.clone());
        self.by_id.insert(id, Arc::new(entry));
    }

    fn remove(&mut self, id: &str) -> Option<Arc<CachedInstance>> {
        let entry = self.by_id.remove(id)?;
        if self.by_url.get(entry.row.url.as_str()).is_some_and(|known| **known == *id) {
            self.by_url.remove(entry.row.url.as_str());
        }
        if let Some(group) = self.by_owner.get_mut(entry.row.owner_id.as_str())
            && let Ok(index) = group.ids.binary_search_by(|known| (**known).cmp(id))
        {
            group.ids.remove(index);
        }
        Some(entry)
    }

    fn backends(&self, group: &AccountInstances) -> Vec<Backend> {
        group.ids.iter().filter_map(|id| Some(self.by_id.get(id)?.backend(id))).collect()
    }

    fn reserve(&mut self, instances: usize, services: usize) {
        self.by_id.reserve(instances);
        self.by_url.reserve(instances);
        self.by_owner.reserve(services);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records how many backends were published each time.
    #[derive(Default)]
    struct Published(Mutex<Vec<usize>>);

    impl Routes for Published {
        fn publish(&self, _: &str, backends: Vec<Backend>) {
            self.0.lock().unwrap().push(backends.len());
        }

        fn forget(&self, _: &str) {}

        fn load(&self, _: Vec<(Box<str>, Vec<Backend>)>) {}
    }

    #[test]
    fn w181_only_changes_of_url_or_status_are_published() {
        let routes = Arc::new(Published::default());
        let cache = InstanceCache::new(routes.clone());
        let put = |id: &str, url: &str, path: &str, version| {
            let row = serde_json::json!({
                "id": id, "url": url, "ownerId": "usr_1", "slug": "a-svc", "status": "Unknown",
                "createdAt": "2026-01-01T00:00:00Z", "healthPath": path
            });
            let url = InstanceUrl::parse(url).unwrap();
            cache.put(serde_json::from_value(row).unwrap(), version, url, &[], Time::ZERO);
            routes.0.lock().unwrap().len()
        };
        assert_eq!(put("a", "http://127.0.0.1:9", "/", 1), 1);
        assert_eq!(put("b", "http://127.0.0.1:8", "/", 2), 2);
        assert_eq!(put("a", "http://127.0.0.1:9", "/health", 3), 2);
        assert_eq!(cache.get("a").unwrap().row.health_path, "/health");
        assert_eq!(put("a", "http://127.0.0.1:7", "/health", 4), 3);
        cache.remove(&["b".into()]);
        assert_eq!(*routes.0.lock().unwrap(), [1, 2, 2, 1]);
    }
}
