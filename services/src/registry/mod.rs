//! Remembers which instances are alive and whose they are. Knows nothing of routing: it tells the gateway what it knows
//! through the `Routes` seam, and the gateway decides.

mod definition;
mod gpu;
mod instance;
mod live;
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
    BoxFuture, Error, Mounted, Result, Service,
    identity::{Belongings, Liveness},
    outbound::Outbound,
    rate::{Limiter, Rate},
    routes::Routes,
    service::Shared,
};
use openorch_store::{Collection, Filter, Query, Store, StoreError, Stored, Table, Write};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

pub use self::node::last_heartbeat;
use self::{
    live::{Entry, Live},
    node::SelfNode,
    probe::Command,
    rows::{InstanceRow, ServiceRow},
};

#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Pause between two probes of an instance.
    pub probe_interval: Duration,
    /// A probe that takes longer has failed.
    pub probe_timeout: Duration,
    /// An instance that takes longer to answer is `Degraded`.
    pub slow_after: Duration,
    /// How long a new registration is probed quickly, and the pauses of that: the first one doubles up to the second.
    pub quick_for: Duration,
    pub quick_pause: Duration,
    pub quick_pause_most: Duration,
    /// How long the answer to a registration waits for the first probe.
    pub register_wait: Duration,
    /// Probes running side by side, and how many of them one account may have: instances that hang must not delay
    /// the probes of others.
    pub probes_at_once: usize,
    pub probes_per_account: usize,
    /// Probes of one account's instances beside the regular ones, and all probes of one host.
    pub extra_probes_of_account: Rate,
    pub probes_of_host: Rate,
    /// An instance that announced a heartbeat is removed after so many silent intervals.
    pub silent_intervals: u32,
    /// Pause between two looks at who is silent; a longer time between them is one in which the daemon did not run.
    pub silence_pause: Duration,
    /// Pause between two heartbeats of the node.
    pub node_interval: Duration,
    /// Instances that one account may have; admins have no limit.
    pub instances_per_account: usize,
    pub node_id: Option<String>,
    /// Under which this daemon is known to others.
    pub node_url: String,
    pub availability_zone: String,
    pub region: String,
    /// Whose free space the node tells.
    pub data_dir: std::path::PathBuf,
}

impl RegistrySettings {
    pub fn new(node_url: String, data_dir: std::path::PathBuf) -> RegistrySettings {
        RegistrySettings {
            probe_interval: Duration::from_secs(15),
            probe_timeout: Duration::from_secs(3),
            slow_after: Duration::from_secs(1),
            quick_for: Duration::from_secs(15),
            quick_pause: Duration::from_millis(50),
            quick_pause_most: Duration::from_millis(250),
            register_wait: Duration::from_millis(100),
            probes_at_once: 256,
            probes_per_account: 32,
            extra_probes_of_account: Rate { per_second: 100, burst: 500 },
            probes_of_host: Rate { per_second: 1_000, burst: 1_000 },
            silent_intervals: 3,
            silence_pause: Duration::from_secs(1),
            node_interval: Duration::from_secs(15),
            instances_per_account: 1000,
            node_id: None,
            node_url,
            availability_zone: String::new(),
            region: String::new(),
            data_dir,
        }
    }
}

/// The state of the registry.
pub struct Registry {
    shared: Shared,
    settings: RegistrySettings,
    store: Arc<dyn Store>,
    instances: Table<InstanceRow>,
    services: Table<ServiceRow>,
    definitions: Table<api::Definition>,
    nodes: Table<api::Node>,
    live: Live,
    outbound: Arc<Outbound>,
    node: SelfNode,
    commands: mpsc::UnboundedSender<Command>,
    /// Instances of which nobody knows what was written, and until when it still may be, in seconds since 1970.
    doubtful: Mutex<BTreeMap<String, i64>>,
    /// Lines of the log about one account's instances.
    lines: Limiter<String>,
    /// When it was last looked who is silent.
    looked_at: Mutex<Option<Time>>,
    /// Taken by the probing task when it starts.
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

/// The collections of this service, to be opened before [`prepare`].
pub fn collections() -> &'static [&'static Collection] {
    rows::ALL
}

/// Reads what is stored and tells the gateway of it, so that the first request after a start is routed.
pub async fn prepare(
    store: Arc<dyn Store>,
    shared: Shared,
    outbound: Arc<Outbound>,
    routes: Arc<dyn Routes>,
    settings: RegistrySettings,
) -> Result<Arc<Registry>> {
    let instances: Table<InstanceRow> = Table::new(store.clone(), &rows::INSTANCES);
    let services: Table<ServiceRow> = Table::new(store.clone(), &rows::SERVICES);
    let nodes: Table<api::Node> = Table::new(store.clone(), &rows::NODES);
    let live = Live::new(routes);
    let (entries, owners) = tokio::try_join!(
        read_whole(&instances, |row| Entry::stored(row.value, row.version)),
        read_whole(&services, |row| Some(row.value)),
    )?;
    live.load(entries, owners);
    let node = SelfNode::join(&nodes, &store, &shared, &settings).await?;
    let (commands, inbox) = mpsc::unbounded_channel();
    Ok(Arc::new(Registry {
        definitions: Table::new(store.clone(), &rows::DEFINITIONS),
        instances,
        services,
        nodes,
        live,
        node,
        store,
        shared,
        settings,
        outbound,
        commands,
        doubtful: Mutex::default(),
        lines: Limiter::new(LINES_OF_ACCOUNT),
        looked_at: Mutex::default(),
        inbox: Mutex::new(Some(inbox)),
    }))
}

/// Lines about one account's instances at the usual level. What is over it is logged at debug, since an account can register
/// and remove the same instance without end.
const LINES_OF_ACCOUNT: Rate = Rate { per_second: 1, burst: 100 };

impl Registry {
    /// Logs what happened to an instance.
    fn log(&self, row: &InstanceRow, text: &str) {
        let (id, slug) = (&row.id, &row.slug);
        match self.lines.take(row.owner_id.as_str(), self.now().0.as_microsecond()) {
            Ok(()) => tracing::info!(instance.id = %id, instance.slug = %slug, "instance `{id}` of `{slug}` {text}"),
            Err(_) => tracing::debug!(instance.id = %id, instance.slug = %slug, "instance `{id}` of `{slug}` {text}"),
        }
    }
}

/// So many rows are a thread's work of some milliseconds.
const ROWS_AT_ONCE: usize = 2048;

/// A whole collection, made into what is kept of it on several threads while the rest is still read: a start with many
/// instances is to be quick.
async fn read_whole<T, U>(
    table: &Table<T>,
    keep: impl Fn(Stored<T>) -> Option<U> + Copy + Send + 'static,
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
        if part.len() >= ROWS_AT_ONCE || is_last {
            let (table, rows) = (table.clone(), std::mem::take(&mut part));
            parts.push(tokio::task::spawn_blocking(move || {
                let kept = rows.into_iter().filter_map(|row| table.read(row).map(keep).transpose());
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

pub fn service(registry: Arc<Registry>) -> Mounted {
    let silence_pause = registry.settings.silence_pause;
    Service::new(api::SERVICE.slug, registry)
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
        .every(Duration::from_secs(1), "settle instances", instance::settle)
        .every(silence_pause, "remove silent instances", instance::remove_silent)
        .run("tell how the node is", node::tell)
        .mount()
}

impl Registry {
    /// Has an instance probed at once: the gateway could not connect to it.
    pub fn suspect(&self, instance_id: &str) {
        self.command(Command::Now { id: instance_id.into() });
    }

    fn command(&self, command: Command) {
        // Nobody listens while the daemon stops; then nothing needs to be probed either.
        let _ = self.commands.send(command);
    }

    fn now(&self) -> Time {
        Time(self.shared.clock.now())
    }
}

impl Liveness for Registry {
    fn has_live_instance(&self, user_id: &str) -> bool {
        self.live.has_routable(user_id)
    }
}

impl Belongings for Registry {
    fn removal<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<Write>>> {
        let of = |collection, field: &str| {
            let filters = vec![Filter::equals(field, user_id)];
            Write::DeleteWhere { collection, filters }
        };
        let writes = vec![of(rows::INSTANCES.name, "ownerId"), of(rows::SERVICES.name, "id")];
        Box::pin(async move { Ok(writes) })
    }

    fn removed(&self, user_id: &str) {
        self.live.forget(user_id);
    }
}

/// The URL under which a daemon is known that was not told one.
pub fn default_node_url(listen: SocketAddr, is_https: bool, host_name: Option<String>) -> String {
    let host = match host_name {
        Some(name) if listen.ip().is_unspecified() => name,
        _ if listen.is_ipv6() => format!("[{}]", listen.ip()),
        _ => listen.ip().to_string(),
    };
    format!("{}://{host}:{}", if is_https { "https" } else { "http" }, listen.port())
}
