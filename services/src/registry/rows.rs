//! The stored rows of the registry. Heartbeats are only in memory (decision "Probes and heartbeats").

use openorch_api::{Time, registry as api};
use openorch_chassis::outbound::InstanceUrl;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

pub static INSTANCES: Collection =
    Collection { name: "registrySvcInstances", indexes: &[Index::unique(&["url"]), Index::on(&["ownerId"])] };
/// Accounts that have ever registered an instance, so that a service without instances is distinguished from an unknown
/// one (decision "Services without an instance").
pub static SERVICES: Collection = Collection { name: "registrySvcServices", indexes: &[] };
pub static DEFINITIONS: Collection = Collection { name: "registrySvcDefinitions", indexes: &[] };
pub static NODES: Collection = Collection { name: "registrySvcNodes", indexes: &[Index::unique(&["url"])] };

pub static ALL: &[&Collection] = &[&INSTANCES, &SERVICES, &DEFINITIONS, &NODES];

/// An instance as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRow {
    pub id: String,
    /// Canonical URL.
    pub url: String,
    pub owner_id: String,
    /// The owner's slug.
    pub slug: String,
    /// The last status, which counts after a restart until the first probe.
    pub status: api::InstanceStatus,
    #[serde(default)]
    pub details: String,
    pub created_at: Time,
    #[serde(default)]
    pub deployment_id: String,
    #[serde(default)]
    pub node_url: String,
    #[serde(default)]
    pub scheme: String,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub ip: String,
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub health_path: String,
    #[serde(default)]
    pub heartbeat_seconds: u32,
}

impl InstanceRow {
    /// Applies a registration: omitted fields keep their values, and the parts of the address follow the URL.
    pub fn merge(&mut self, request: &api::RegisterInstanceRequest, url: &InstanceUrl) {
        if self.url != url.as_str() {
            self.url = url.as_str().to_owned();
            self.scheme = url.scheme().to_owned();
            self.host = url.host().to_owned();
            self.port = url.port();
            self.ip = url.host().parse::<std::net::IpAddr>().map(|ip| ip.to_string()).unwrap_or_default();
        }
        let texts = [
            (&mut self.deployment_id, &request.deployment_id),
            (&mut self.scheme, &request.scheme),
            (&mut self.host, &request.host),
            (&mut self.ip, &request.ip),
            (&mut self.path, &request.path),
            (&mut self.health_path, &request.health_path),
        ];
        for (field, given) in texts {
            if let Some(given) = given.as_ref().filter(|given| !given.is_empty()) {
                field.clone_from(given);
            }
        }
        if let Some(port) = request.port.filter(|port| *port != 0) {
            self.port = port;
        }
        if let Some(seconds) = request.heartbeat_seconds {
            self.heartbeat_seconds = seconds;
        }
    }
}

/// A service. The row id is the user id of the owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub owner_id: String,
    pub slug: String,
}

/// A definition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DefinitionRow {
    /// Stored as it was sent, since it is returned unchanged.
    pub definition: api::Definition,
}

impl From<api::Definition> for DefinitionRow {
    fn from(definition: api::Definition) -> DefinitionRow {
        DefinitionRow { definition }
    }
}

impl From<DefinitionRow> for api::Definition {
    fn from(row: DefinitionRow) -> api::Definition {
        row.definition
    }
}

/// A node with its last measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeRow {
    pub id: String,
    pub url: String,
    pub availability_zone: String,
    pub region: String,
    pub last_heartbeat: Time,
    /// In the format of the API; overwritten by each heartbeat.
    pub usage: api::ResourceUsage,
    /// Likewise.
    pub gpus: Vec<api::Gpu>,
}

impl From<NodeRow> for api::Node {
    fn from(row: NodeRow) -> api::Node {
        api::Node {
            id: row.id,
            url: row.url,
            availability_zone: row.availability_zone,
            region: row.region,
            last_heartbeat: row.last_heartbeat,
            usage: row.usage,
            gpus: row.gpus,
        }
    }
}
