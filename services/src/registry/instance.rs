//! Registering, listing and removing instances. A URL belongs to the account that registered it; only that account and
//! admins may change it.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use openorch_api::{
    Body, Created, NoContent, Path, Query as QueryInput,
    output::Items,
    registry::{
        InstanceId, InstanceStatus, ListInstancesRequest, ListInstancesResponse, NO_SUCH_INSTANCE, REGISTRY_FULL,
        RegisterInstanceExtra, RegisterInstanceRequest, RegisterInstanceResponse, TOO_MANY_INSTANCES, URL_NOT_ALLOWED,
        URL_TAKEN,
    },
};
use openorch_chassis::{Caller, Cx, Error, Result, audit::CallAudit, outbound::InstanceUrl, service::retry};
use openorch_store::{Batch, Committed, Filter, Guard, INDETERMINATE_WINDOW, Query, StoreError, Stored};
use tokio::sync::oneshot;

use super::{
    Registry,
    instance_cache::CachedInstance,
    probe::Command,
    rows::{INSTANCES, InstanceRow, ServiceRow},
};

/// The last quarter of all instances is for accounts that have fewer than this many, so that some accounts that have as many
/// as they may do not keep the services of all others out.
const FEW_INSTANCES: u64 = 4;
/// Maximum number of characters of an instance's URL in the log.
const MAX_LOGGED_URL: usize = 200;

pub async fn register(
    cx: Cx<Registry>,
    Body(mut request): Body<RegisterInstanceRequest>,
) -> Result<Created<RegisterInstanceResponse>> {
    request.id = request.id.filter(|id| !id.is_empty());
    let url = InstanceUrl::parse(&request.url)?;
    let caller = cx.caller()?;
    let may_register = cx.platform.outbound.check_registration(&url, &caller.slug).await;
    may_register.map_err(|reason| {
        Error::new(&URL_NOT_ALLOWED, format!("`{url}` cannot be the address of an instance: {reason}"))
    })?;
    let id = match cx.unchanged(&request, &url, caller) {
        Some(entry) => {
            entry.mark_seen(cx.now());
            entry.row.id.clone()
        }
        None => retry(|| cx.save(&cx.request.audit, &request, &url, caller)).await?,
    };
    let status = cx.probe_and_wait(&id).await;
    let extra = cx.request.headers.is_extended().then_some(RegisterInstanceExtra { id, status });
    Ok(Created(RegisterInstanceResponse { extra }))
}

pub async fn list(
    cx: Cx<Registry>,
    QueryInput(filter): QueryInput<ListInstancesRequest>,
) -> Result<Items<ListInstancesResponse>> {
    let found = cx.cache.find(filter.slug.as_deref(), |entry| matches(&entry.row, &filter));
    cx.platform.check_list_length(found.len(), "instances", "ask for those of one `slug`")?;
    let extended = cx.request.headers.is_extended();
    // Only ids: a response that is read slowly must not keep replaced or removed instances in memory.
    let ids: Vec<Box<str>> = found.iter().map(|entry| entry.row.id.as_str().into()).collect();
    let held = ids.iter().map(|id| size_of::<Box<str>>() + id.len()).sum();
    let registry = cx.state.clone();
    Ok(Items::new(ids, held, move |id| {
        let entry = registry.cache.get(&id).filter(|entry| matches(&entry.row, &filter))?;
        Some(entry.to_wire(extended))
    }))
}

/// The user id of the owner of the instance to be removed.
pub fn owner(registry: &Registry, Path(id): &Path<InstanceId>) -> Result<String> {
    registry.cache.get(&id.0).map(|entry| entry.row.owner_id.clone()).ok_or_else(|| no_such_instance(&id.0))
}

pub async fn remove(cx: Cx<Registry>, Path(id): Path<InstanceId>) -> Result<NoContent> {
    let owner_id = owner(&cx, &Path(id.clone()))?;
    let removed = retry(|| async {
        let Some(Stored { version, value, .. }) = cx.instances.get(&id.0).await? else {
            cx.cache.remove(std::slice::from_ref(&id.0));
            return Err(no_such_instance(&id.0));
        };
        // The permission was checked against this owner; if the id changed hands since, it is not removed.
        if value.owner_id != owner_id {
            return Err(Error::new(&URL_TAKEN, format!("instance `{}` was just taken over by another account", id.0)));
        }
        cx.commit(&cx.request.audit, cx.instances.delete(&id.0, Some(version)).into(), [&id.0]).await?;
        Ok(value)
    })
    .await?;
    cx.cache.remove(std::slice::from_ref(&id.0));
    cx.log(&removed, "was removed");
    Ok(NoContent)
}

/// Reloads instances whose last commit has an unknown outcome.
pub async fn reconcile(registry: Arc<Registry>) {
    let (indeterminate, now) = (registry.indeterminate().clone(), registry.now().0.as_second());
    for (id, until) in indeterminate {
        match registry.reload(&id).await {
            Ok(()) if until < now => drop(registry.indeterminate().remove(&id)),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(instance.id = %id, "the instance `{id}` cannot be read from the store: {error:?}")
            }
        }
    }
}

/// Removes instances that announced a heartbeat and missed several in a row (decision "Probes and heartbeats"). Only
/// time in which the daemon ran counts: an unusually long gap between two checks means that the machine slept or its
/// clock was set.
pub async fn remove_silent(registry: Arc<Registry>) {
    let now = registry.now();
    let before = registry.heartbeats_checked_at.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
    let passed = before.and_then(|before| Duration::try_from(now.0.duration_since(before.0)).ok()).unwrap_or_default();
    let passed = passed.min(*registry.settings.heartbeat_check_interval * 2);
    let is_silent = |entry: &Arc<CachedInstance>| {
        let max_silence =
            Duration::from_secs(entry.row.heartbeat_seconds.into()) * registry.settings.heartbeat_missed_max;
        !max_silence.is_zero() && entry.add_silence(passed, now) > max_silence
    };
    for entry in registry.cache.all().into_iter().filter(is_silent) {
        let id = &entry.row.id;
        match registry.commit(&CallAudit::NONE, registry.instances.delete(id, Some(entry.version)).into(), [id]).await {
            Ok(_) => {
                registry.cache.remove(std::slice::from_ref(id));
                registry.log(&entry.row, "missed its heartbeats and was removed");
            }
            Err(error) => {
                tracing::warn!(instance.id = %id, "cannot remove the instance `{id}`, which missed its heartbeats: {error}")
            }
        }
    }
}

impl Registry {
    /// The cached instance, if the request would not change it, so that nothing is written.
    fn unchanged(
        &self,
        request: &RegisterInstanceRequest,
        url: &InstanceUrl,
        caller: &Caller,
    ) -> Option<Arc<CachedInstance>> {
        let entry = self.cache.by_url(url.as_str())?;
        let mut merged = entry.row.clone();
        merged.merge(request, url);
        let same_id = request.id.as_ref().is_none_or(|id| *id == entry.row.id);
        (same_id && *entry.row.owner_id == *caller.user_id && merged == entry.row).then_some(entry)
    }

    /// Stores a registration; returns the id of the instance.
    async fn save(
        &self,
        call: &CallAudit,
        request: &RegisterInstanceRequest,
        url: &InstanceUrl,
        caller: &Caller,
    ) -> Result<String> {
        let at_url = self.instances.find(&Query::all().equals("url", url.as_str())).await?.into_iter().next();
        let with_id = match &request.id {
            Some(id) => self.instances.get(id).await?,
            None => None,
        };
        for existing in at_url.iter().chain(&with_id) {
            check_ownership(&existing.value, caller)?;
        }
        // The requested id wins: a row with the same URL under another id is replaced.
        let replaced = match (&at_url, &request.id) {
            (Some(known), Some(id)) if known.value.id != *id => Some(known.clone()),
            _ => None,
        };
        let base = with_id.clone().or(at_url);
        let mut row = match &base {
            Some(known) => known.value.clone(),
            None => {
                self.check_quota(caller).await?;
                self.new_row(caller)
            }
        };
        if let Some(id) = &request.id {
            row.id.clone_from(id);
        }
        if row.url != url.as_str() {
            row.status = InstanceStatus::Unknown;
            row.details.clear();
        }
        row.merge(request, url);
        let mut batch = Batch::new();
        if let Some(old) = &replaced {
            batch = batch.with(self.instances.delete(&old.value.id, Some(old.version)));
        }
        let in_place = base.as_ref().filter(|known| known.value.id == row.id);
        batch = batch.with(match in_place {
            Some(known) => self.instances.replace(&row.id, &row, Some(known.version))?,
            None => self.instances.create(&row.id, &row)?,
        });
        if base.is_none() && !caller.is_admin() {
            let max = self.settings.max_instances_per_account as u64;
            batch = batch.require(Guard::at_most(INSTANCES.name, owned_by(caller), max));
        }
        let service = ServiceRow { owner_id: row.owner_id.clone(), slug: row.slug.clone() };
        batch = batch.with(self.services.upsert(&service.owner_id, &service)?);
        let replaced_ids: Vec<String> = replaced.into_iter().map(|old| old.value.id).collect();
        let version = self.commit(call, batch, replaced_ids.iter().chain([&row.id])).await?.version;
        let (id, known_url) = (row.id.clone(), row.url.clone());
        // An instance may change itself often, so changes are logged at debug level.
        let shown: String = url.as_str().chars().take(MAX_LOGGED_URL).collect();
        match base.is_none() {
            true => self.log(&row, &format!("was registered at {shown}")),
            false => {
                tracing::debug!(instance.id = %id, instance.slug = %row.slug, "instance `{id}` of `{}` changed at {shown}", row.slug)
            }
        }
        self.cache.put(row, version, InstanceUrl::parse(&known_url)?, &replaced_ids, self.now());
        // A concurrent removal may have updated the cache before this instance was inserted.
        if self.instances.get(&id).await?.is_none() {
            self.cache.remove(std::slice::from_ref(&id));
        }
        Ok(id)
    }

    /// Commits a change of these instances. If the outcome is unknown, they are reloaded until it is settled.
    async fn commit<'a>(
        &self,
        call: &CallAudit,
        batch: Batch,
        ids: impl IntoIterator<Item = &'a String>,
    ) -> Result<Committed, StoreError> {
        self.platform.commit(call, batch).await.inspect_err(|error| {
            if error.outcome_unknown() {
                let until = self.now().0.as_second() + INDETERMINATE_WINDOW.as_secs() as i64;
                self.indeterminate().extend(ids.into_iter().map(|id| (id.clone(), until)));
            }
        })
    }

    fn indeterminate(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.indeterminate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the cached instance up to date with the stored row.
    async fn reload(&self, id: &String) -> Result<()> {
        let Some(Stored { version, value, .. }) = self.instances.get(id).await? else {
            self.cache.remove(std::slice::from_ref(id));
            return Ok(());
        };
        if self.cache.get(id).is_some_and(|known| known.version >= version) {
            return Ok(());
        }
        let url = InstanceUrl::parse(&value.url)?;
        self.cache.put(value, version, url, &[], self.now());
        // As in `save`.
        if self.instances.get(id).await?.is_none() {
            self.cache.remove(std::slice::from_ref(id));
        }
        Ok(())
    }

    /// Counts stored instances, not cached ones: of concurrent registrations the batch admits only those within the
    /// quota, and the others are checked here again.
    async fn check_quota(&self, caller: &Caller) -> Result<()> {
        if caller.is_admin() {
            return Ok(());
        }
        let max = self.settings.max_instances_per_account;
        let own = self.instances.count(&owned_by(caller)).await?;
        if own >= max as u64 {
            return Err(Error::new(
                &TOO_MANY_INSTANCES,
                format!("`{}` has {max} instances, the maximum per account; remove some", caller.slug),
            ));
        }
        // Concurrent registrations may exceed this limit slightly, which is acceptable.
        let max_total = match own < FEW_INSTANCES {
            true => self.settings.max_instances,
            false => self.settings.max_instances / 4 * 3,
        };
        if self.cache.count() >= max_total {
            return Err(Error::new(
                &REGISTRY_FULL,
                format!(
                    "there are {max_total} instances, the maximum for an account that has {own}; have an operator remove some or \
                     raise OPENORCH_REGISTRY_MAX_INSTANCES"
                ),
            ));
        }
        Ok(())
    }

    fn new_row(&self, caller: &Caller) -> InstanceRow {
        InstanceRow {
            id: self.platform.ids.next("inst"),
            url: String::new(),
            owner_id: caller.user_id.to_string(),
            slug: caller.slug.to_string(),
            status: InstanceStatus::Unknown,
            details: String::new(),
            created_at: self.now(),
            deployment_id: String::new(),
            node_url: self.platform.node.url.clone(),
            scheme: String::new(),
            host: String::new(),
            ip: String::new(),
            port: 0,
            path: String::new(),
            health_path: String::new(),
            heartbeat_seconds: 0,
        }
    }

    /// Starts the startup probes and waits briefly for the first result, so that a request right after the registration
    /// succeeds.
    async fn probe_and_wait(&self, id: &str) -> InstanceStatus {
        let (done, first) = oneshot::channel();
        self.command(Command::Startup { id: id.into(), done });
        // On timeout the probes continue in the background.
        let _ = tokio::time::timeout(self.settings.register_wait, first).await;
        self.cache.get(id).map_or(InstanceStatus::Unknown, |entry| entry.status())
    }
}

fn owned_by(caller: &Caller) -> Vec<Filter> {
    vec![Filter::equals("ownerId", &*caller.user_id)]
}

fn check_ownership(existing: &InstanceRow, caller: &Caller) -> Result<()> {
    if *existing.owner_id == *caller.user_id || caller.is_admin() || &*caller.slug == "deploy-svc" {
        return Ok(());
    }
    Err(Error::new(
        &URL_TAKEN,
        format!(
            "caller slug '{}' does not match instance slug '{}': the instance `{}` at {} belongs to `{}`",
            caller.slug, existing.slug, existing.id, existing.url, existing.slug
        ),
    ))
}

fn matches(row: &InstanceRow, filter: &ListInstancesRequest) -> bool {
    let wanted = [
        (&filter.id, &row.id),
        (&filter.slug, &row.slug),
        (&filter.scheme, &row.scheme),
        (&filter.host, &row.host),
        (&filter.ip, &row.ip),
        (&filter.deployment_id, &row.deployment_id),
        (&filter.path, &row.path),
    ];
    wanted.iter().all(|(wanted, have)| wanted.as_ref().is_none_or(|wanted| wanted.is_empty() || wanted == *have))
}

fn no_such_instance(id: &str) -> Error {
    Error::new(&NO_SUCH_INSTANCE, format!("there is no instance `{id}`; `oo instance ls` lists them"))
}
