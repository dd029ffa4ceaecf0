//! Nodes and their load.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// Which nodes to list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListNodesRequest {
    /// The ids of the nodes; all nodes if omitted or empty. Unknown ids are ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<2048, 1000>")]
    pub ids: Vec<String>,
}

/// The requested nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListNodesResponse {
    /// The nodes by URL, in ascending order; an empty list if there are none.
    pub nodes: Vec<Node>,
}

/// The node that handled the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeSelfResponse {
    /// The node with its load at its last heartbeat.
    pub node: Node,
}

/// A machine that runs a daemon. Closed type: the published Go client rejects unknown keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Id of the node, from the settings or generated as `node_…`.
    pub id: String,
    /// The URL at which other machines reach the daemon.
    pub url: String,
    /// The availability zone from the settings; absent if not set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub availability_zone: String,
    /// The region from the settings; absent if not set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// When the load was last measured.
    pub last_heartbeat: Time,
    /// The load of the processor, the memory and the disk at the last heartbeat.
    pub usage: ResourceUsage,
    /// The GPUs of the machine; absent if it has none or `nvidia-smi` is not installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
}

/// The load of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ResourceUsage {
    /// Average over all processors since the previous measurement.
    pub cpu: Usage,
    /// Main memory, in bytes.
    pub memory: Usage,
    /// The disk with the data directory of the daemon, in bytes.
    pub disk: Usage,
}

/// `used` and `total` are in bytes for memory and disk, and in hundredths of a percent for the CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// The part in use; for the CPU, the whole percentage times 100.
    pub used: u64,
    /// The whole; for the CPU always 100. It is 0 if it cannot be measured.
    pub total: u64,
    /// The part in use in percent, from 0 to 100.
    pub percent: f64,
}

/// A GPU as reported by nvidia-smi: memory in MiB, power in watts, temperature in degrees Celsius.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// `<URL of the node>:<index>`.
    pub id: String,
    /// The index of the GPU in the node, from 0.
    pub intra_node_id: u32,
    /// The product name, for example `NVIDIA H200`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The PCI address, for example `00000000:1B:00.0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bus_id: String,
    /// The temperature in degrees Celsius.
    pub temperature: f64,
    /// The performance state, from `P0` (maximum performance) to `P15`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub performance_state: String,
    /// The current power draw in watts.
    pub power_usage: f64,
    /// The power limit in watts; 0 if the GPU reports none.
    pub power_cap: f64,
    /// The memory in use, in MiB.
    pub memory_usage: u32,
    /// The installed memory, in MiB.
    pub memory_total: u32,
    /// The percentage of time in which the GPU was busy, from 0 to 100.
    pub gpu_utilization: f64,
    /// Which processes may compute on the GPU, for example `Default` or `Exclusive_Process`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compute_mode: String,
    /// The highest CUDA version that the driver supports, for example `12.8`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cuda_version: String,
    /// Always absent; published clients know the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub process_details: Vec<Process>,
}

/// A process that uses a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The name of the program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process_name: String,
    /// The GPU memory that the process uses, in MiB.
    pub memory_usage: u32,
}
