//! Nodes: the machines that run a daemon, and their resource usage.

use std::{
    path::Path as FilePath,
    sync::{Arc, Mutex, PoisonError},
};

use openorch_api::{
    Body, Json, NoContent, Path, Time,
    registry::{
        ListNodesRequest, ListNodesResponse, NO_SUCH_NODE, Node, NodeSelfResponse, NodeUrl, ResourceUsage, Usage,
    },
};
use openorch_chassis::{Cx, Error, Platform, Result, service::retry};
use openorch_store::{Batch, Query, Store, Table};
use sysinfo::{CpuRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

use super::{
    Registry, RegistrySettings, gpu,
    rows::{NODES, NodeRow},
};

/// Maximum number of nodes that are read at start to find the newest heartbeat.
const MAX_NODES_READ: u64 = 1000;

/// The node of this daemon, with its last measurement.
pub struct SelfNode {
    state: Mutex<NodeRow>,
    /// `None` if the operating system is not supported.
    system: Mutex<Option<System>>,
}

impl SelfNode {
    /// Uses the configured id, else that of the stored node with the same URL, else a new one.
    pub async fn join(nodes: &Table<NodeRow>, platform: &Platform, settings: &RegistrySettings) -> Result<SelfNode> {
        let url = platform.node.url.as_str();
        let known = nodes.first(&Query::all().equals("url", url)).await?;
        let id = match (settings.node_id.as_ref().filter(|id| !id.is_empty()), &known) {
            (Some(id), _) => id.clone(),
            (None, Some(known)) => known.value.id.clone(),
            (None, None) => platform.ids.next("node"),
        };
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let node = NodeRow {
            id,
            url: url.to_owned(),
            availability_zone: settings.availability_zone.clone().unwrap_or_default(),
            region: settings.region.clone().unwrap_or_default(),
            last_heartbeat: platform.now(),
            ..known.as_ref().map(|known| known.value.clone()).unwrap_or_default()
        };
        if known.as_ref().is_none_or(|known| known.value.id != node.id || known.value.region != node.region) {
            let mut batch = Batch::new();
            if let Some(old) = known.filter(|known| known.value.id != node.id) {
                batch = batch.with(nodes.delete(&old.value.id, None));
            }
            platform.store.commit(batch.with(nodes.upsert(&node.id, &node)?)).await?;
        }
        Ok(SelfNode { state: Mutex::new(node), system: Mutex::new(System::new_with_specifics(kinds).ok()) })
    }

    fn read(&self) -> Node {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// Measures resource usage; CPU usage is the average since the last measurement.
    fn measure(&self, data_dir: &FilePath) -> ResourceUsage {
        let mut usage = ResourceUsage { disk: disk(data_dir), ..ResourceUsage::default() };
        if let Some(system) = &mut *self.system.lock().unwrap_or_else(PoisonError::into_inner) {
            system.refresh_cpu_usage();
            system.refresh_memory();
            let busy = f64::from(system.global_cpu_usage());
            usage.cpu = Usage { used: busy as u64 * 100, total: 100, percent: busy };
            usage.memory = part_of(system.used_memory(), system.total_memory());
        }
        usage
    }
}

/// The disk that holds the directory.
fn disk(directory: &FilePath) -> Usage {
    let Ok(disks) = Disks::new_with_refreshed_list() else { return Usage::default() };
    let holding = disks.iter().filter(|disk| directory.starts_with(disk.mount_point()));
    let nearest = holding.max_by_key(|disk| disk.mount_point().as_os_str().len());
    nearest.map_or_else(Usage::default, |disk| {
        part_of(disk.total_space().saturating_sub(disk.available_space()), disk.total_space())
    })
}

fn part_of(used: u64, total: u64) -> Usage {
    let percent = if total == 0 { 0.0 } else { used as f64 * 100.0 / total as f64 };
    Usage { used, total, percent }
}

pub async fn read_self(cx: Cx<Registry>, (): ()) -> Result<Json<NodeSelfResponse>> {
    Ok(Json(NodeSelfResponse { node: cx.node.read() }))
}

pub async fn list(cx: Cx<Registry>, Body(request): Body<ListNodesRequest>) -> Result<Json<ListNodesResponse>> {
    let own = cx.node.read();
    let found = cx.nodes.find(&Query::all().limit(cx.platform.max_unpaged_list as u64 + 1)).await?;
    cx.platform.check_list_length(found.len(), "nodes", "remove obsolete ones")?;
    let mut nodes: Vec<Node> = found.into_iter().map(|row| row.value.into()).collect();
    nodes.retain(|node| node.id != own.id);
    nodes.push(own);
    nodes.retain(|node| request.ids.is_empty() || request.ids.contains(&node.id));
    nodes.sort_by(|a, b| a.url.cmp(&b.url));
    Ok(Json(ListNodesResponse { nodes }))
}

pub async fn delete(cx: Cx<Registry>, Path(url): Path<NodeUrl>) -> Result<NoContent> {
    let unknown = || Error::new(&NO_SUCH_NODE, format!("there is no node at {}; `oo node ls` lists them", url.0));
    retry(|| async {
        let found = cx.nodes.first(&Query::all().equals("url", url.0.as_str())).await?.ok_or_else(unknown)?;
        cx.platform
            .commit(&cx.request.audit, Batch::new().with(cx.nodes.delete(&found.id, Some(found.version))))
            .await?;
        Ok(())
    })
    .await?;
    Ok(NoContent)
}

/// The newest stored heartbeat of any node: the last time, by its own clock, at which a daemon is known to have been running.
pub async fn last_heartbeat(store: &Arc<dyn Store>) -> Result<Option<Time>> {
    let nodes: Table<NodeRow> = Table::new(store.clone(), &NODES);
    let found = nodes.find(&Query::all().limit(MAX_NODES_READ)).await?;
    Ok(found.into_iter().map(|node| node.value.last_heartbeat).filter(|time| !time.is_zero()).max())
}

/// Measures the node immediately and then at the interval.
pub async fn heartbeat_loop(registry: Arc<Registry>) {
    loop {
        heartbeat(registry.clone()).await;
        tokio::time::sleep(*registry.settings.node_heartbeat_interval).await;
    }
}

/// Measures the node and stores the result.
async fn heartbeat(registry: Arc<Registry>) {
    let gpus = gpu::read(&registry.platform.node.url).await;
    let measuring = registry.clone();
    let measured = tokio::task::spawn_blocking(move || measuring.node.measure(&measuring.platform.node.data_dir)).await;
    let Ok(usage) = measured else { return };
    let node = {
        let mut node = registry.node.state.lock().unwrap_or_else(PoisonError::into_inner);
        node.usage = usage;
        node.gpus = gpus;
        node.last_heartbeat = registry.now();
        node.clone()
    };
    let stored = async {
        registry.platform.store.commit(Batch::new().with(registry.nodes.upsert(&node.id, &node)?)).await?;
        Ok::<(), Error>(())
    };
    if let Err(error) = stored.await {
        tracing::warn!(node.id = %node.id, "cannot store the heartbeat of node `{}`: {error:?}", node.id);
    }
}
