//! Keeps track of instances, their health and their owners. Routing is not decided here: the registry publishes what it
//! knows through the `Routes` trait, and the gateway decides.

mod definition;
mod gpu;
mod instance;
mod instance_cache;
mod node;
mod probe;
mod rows;
#[cfg(test)]
mod store_tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use openorch_api::{Time, registry as api};
use openorch_chassis::{
    BoxFuture, BuiltService, Error, Module, Platform, Result, ServiceBuilder,
    identity::{AccountDeletionHook, InstancePresence},
    rate_limit::{Rate, RateLimiter},
    routes::UnreachableHook,
    settings,
    settings::{Interval, Settings as _},
};
use openorch_store::{Filter, Query, StoreError, Stored, Table, Write};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

pub use self::node::last_heartbeat;
use self::{
    instance_cache::{CachedInstance, InstanceCache},
    node::SelfNode,
    probe::Command,
    rows::{DefinitionRow, InstanceRow, NodeRow, ServiceRow},
};

settings! {
    /// Settings of the registry: `[registry]`.
    pub struct RegistrySettings in "registry" {
        /// Interval of the probes of an instance.
        probe_interval: Interval = "15s";
        /// Timeout of a probe.
        probe_timeout: Duration = "3s";
        /// Response time of a probe above which an instance is Degraded.
        probe_degraded_after: Duration = "1s";
        /// Time that a new registration is probed at short intervals.
        probe_startup_period: Duration = "15s";
        /// First interval of the probes of a new registration; it doubles up to the maximum.
        probe_startup_backoff: Interval = "50ms";
        /// Maximum interval of the probes of a new registration.
        probe_startup_backoff_max: Interval = "250ms";
        /// Maximum number of concurrent probes.
        probe_concurrency: usize = "256";
        /// Maximum number of concurrent probes of one account's instances, so that hanging instances do not delay the
        /// probes of other accounts.
        probe_concurrency_per_account: usize = "32";
        /// Maximum rate per second of additional probes of one account's instances, as after registrations and
        /// failures.
        probe_rate_per_account: u32 = "100";
        /// Maximum rate of probes of one host, per second.
        probe_rate_per_host: u32 = "1000";
        /// Time that the response to a registration waits for the first probe.
        register_wait: Duration = "100ms";
        /// Missed heartbeat intervals after which an instance that announced a heartbeat is removed.
        heartbeat_missed_max: u32 = "3";
        /// Interval of the heartbeat check.
        heartbeat_check_interval: Interval = "1s";
        /// Interval of the heartbeats of this node.
        node_heartbeat_interval: Interval = "15s";
        /// Maximum number of instances per account; admins have no limit.
        max_instances_per_account: usize = "1000";
        /// Maximum number of instances of all accounts, which are held in memory; admins may exceed it.
        max_instances: usize = "50000";
        /// Id of this node.
        node_id: Option<String> = "made at the first start", as "OPENORCH_NODE_ID";
        /// Availability zone of this node.
        availability_zone: Option<String> = "none", as "OPENORCH_AZ";
        /// Region of this node.
        region: Option<String> = "none", as "OPENORCH_REGION";
    }
}

impl RegistrySettings {
    /// The burst is five seconds of the rate.
    fn probe_rate_of_account(&self) -> Rate {
        Rate { per_second: self.probe_rate_per_account, burst: self.probe_rate_per_account.saturating_mul(5) }
    }

    /// The burst is one second of the rate.
    fn probe_rate_of_host(&self) -> Rate {
        Rate { per_second: self.probe_rate_per_host, burst: self.probe_rate_per_host }
    }
}

/// The state of the registry.
pub struct Registry {
    platform: Platform,
    settings: RegistrySettings,
    instances: Table<InstanceRow>,
    services: Table<ServiceRow>,
    definitions: Table<DefinitionRow>,
    nodes: Table<NodeRow>,
    cache: InstanceCache,
    node: SelfNode,
    command_sender: mpsc::UnboundedSender<Command>,
    /// Instances whose last commit has an unknown outcome, with the Unix time until which it may still be applied.
    indeterminate: Mutex<BTreeMap<String, i64>>,
    /// Limits the log lines about the instances of one account.
    lines: RateLimiter<String>,
    /// Time of the last heartbeat check.
    heartbeats_checked_at: Mutex<Option<Time>>,
    /// Taken by the probing task when it starts.
    command_receiver: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

/// The registry as one of the daemon's services.
pub const MODULE: Module = Module {
    settings: &[RegistrySettings::SECTION],
    collections: rows::ALL,
    start: |platform| Box::pin(async { Ok(service(open(platform).await?)) }),
};

/// Loads the stored instances and publishes them to the gateway, so that the first request after a start is routed.
async fn open(platform: &Platform) -> Result<Arc<Registry>> {
    let settings: RegistrySettings = platform.settings()?;
    let (instances, services) = (platform.table(&rows::INSTANCES), platform.table(&rows::SERVICES));
    let nodes = platform.table(&rows::NODES);
    let live = InstanceCache::new(platform.routes.clone());
    let (entries, owners) = tokio::try_join!(
        load_collection(&instances, |row: Stored<InstanceRow>| CachedInstance::stored(row.value, row.version)),
        load_collection(&services, |row: Stored<ServiceRow>| Some(row.value)),
    )?;
    live.load(entries, owners);
    let node = SelfNode::join(&nodes, platform, &settings).await?;
    let (commands, inbox) = mpsc::unbounded_channel();
    Ok(Arc::new(Registry {
        definitions: platform.table(&rows::DEFINITIONS),
        instances,
        services,
        nodes,
        cache: live,
        node,
        platform: platform.clone(),
        settings,
        command_sender: commands,
        indeterminate: Mutex::default(),
        lines: RateLimiter::new(LOG_RATE_PER_ACCOUNT),
        heartbeats_checked_at: Mutex::default(),
        command_receiver: Mutex::new(Some(inbox)),
    }))
}

/// Maximum rate of log lines at info level about one account's instances. Lines above it are logged at debug, since an
/// account can register and remove the same instance in a loop.
const LOG_RATE_PER_ACCOUNT: Rate = Rate { per_second: 1, burst: 100 };

impl Registry {
    /// Logs what happened to an instance.
    fn log(&self, row: &InstanceRow, text: &str) {
        let (id, slug) = (&row.id, &row.slug);
        match self.lines.try_acquire(row.owner_id.as_str(), self.now().0.as_microsecond()) {
            Ok(()) => tracing::info!(instance.id = %id, instance.slug = %slug, "instance `{id}` of `{slug}` {text}"),
            Err(_) => tracing::debug!(instance.id = %id, instance.slug = %slug, "instance `{id}` of `{slug}` {text}"),
        }
    }
}

/// Converting this many rows takes one thread a few milliseconds.
const ROWS_PER_TASK: usize = 2048;

/// Loads a whole collection. Rows are converted on several threads while the next ones are read, so that a daemon with
/// many instances starts quickly.
async fn load_collection<T, U>(
    table: &Table<T>,
    convert: impl Fn(Stored<T>) -> Option<U> + Copy + Send + 'static,
) -> Result<Vec<U>>
where
    T: Serialize + DeserializeOwned + 'static,
    U: Send + 'static,
{
    let mut rows = table.stream(&Query::all()).await?;
    let mut parts = Vec::new();
    let mut part = Vec::new();
    loop {
        let piece = rows.next().await?;
        let is_last = piece.is_none();
        part.extend(piece.unwrap_or_default());
        if part.len() >= ROWS_PER_TASK || is_last {
            let (table, rows) = (table.clone(), std::mem::take(&mut part));
            parts.push(tokio::task::spawn_blocking(move || {
                let kept = rows.into_iter().filter_map(|row| table.read(row).map(convert).transpose());
                kept.collect::<Result<Vec<U>, StoreError>>()
            }));
        }
        if is_last {
            break;
        }
    }
    let mut whole = Vec::new();
    for part in parts {
        whole.extend(part.await.map_err(Error::internal)??);
    }
    Ok(whole)
}

fn service(registry: Arc<Registry>) -> BuiltService {
    let heartbeat_check = *registry.settings.heartbeat_check_interval;
    ServiceBuilder::new(api::SERVICE.slug, registry)
        .on(api::REGISTER_INSTANCE, instance::register)
        .on_list(api::LIST_INSTANCES, instance::list)
        .on_owned(api::REMOVE_INSTANCE, |cx, path| instance::owner(cx, path), instance::remove)
        .on(api::SAVE_DEFINITION, definition::save)
        .on(api::LIST_DEFINITIONS, definition::list)
        .on(api::DELETE_DEFINITION, definition::delete)
        .on(api::SELF_NODE, node::read_self)
        .on(api::LIST_NODES, node::list)
        .on(api::DELETE_NODE, node::delete)
        .run("probe instances", probe::run)
        .every(Duration::from_secs(1), "reconcile instances", instance::reconcile)
        .every(heartbeat_check, "remove silent instances", instance::remove_silent)
        .run("send node heartbeats", node::heartbeat_loop)
        .on_account_deletion()
        .provides_presence()
        .on_unreachable()
        .build()
}

impl Registry {
    fn command(&self, command: Command) {
        // The probing task ends when the daemon stops; then no probe is needed.
        let _ = self.command_sender.send(command);
    }

    fn now(&self) -> Time {
        self.platform.now()
    }
}

impl UnreachableHook for Registry {
    /// Probes the instance immediately.
    fn unreachable(&self, instance_id: &str) {
        self.command(Command::Recheck { id: instance_id.into() });
    }
}

impl InstancePresence for Registry {
    fn has_live_instance(&self, user_id: &str) -> bool {
        self.cache.has_routable(user_id)
    }
}

impl AccountDeletionHook for Registry {
    fn cascade<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<Write>>> {
        let of = |collection, field: &str| {
            let filters = vec![Filter::equals(field, user_id)];
            Write::DeleteWhere { collection, filters }
        };
        let writes = vec![of(rows::INSTANCES.name, "ownerId"), of(rows::SERVICES.name, "id")];
        Box::pin(async move { Ok(writes) })
    }

    fn deleted(&self, user_id: &str) {
        self.cache.remove_account(user_id);
    }
}

/// The URL of this node if none is configured.
pub fn default_node_url(listen: SocketAddr, is_https: bool, host_name: Option<String>) -> String {
    let host = match host_name {
        Some(name) if listen.ip().is_unspecified() => name,
        _ if listen.is_ipv6() => format!("[{}]", listen.ip()),
        _ => listen.ip().to_string(),
    };
    format!("{}://{host}:{}", if is_https { "https" } else { "http" }, listen.port())
}
