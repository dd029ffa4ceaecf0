//! The contract of registry-svc: definitions, instances and nodes.

mod definition;
mod node;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{definition::*, node::*};
use crate::{
    Access, Body, Created, Json, NoContent, Path, Query, Time, errors, form, header,
    op::{Effect, Idempotency},
    ops,
    output::LongList,
    path_values, permissions,
    user::{is_false, is_zero},
};

/// The contract of registry-svc.
pub static SERVICE: crate::Service = crate::Service {
    slug: "registry-svc",
    name: "Registry Svc",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: ERRORS,
};

errors! {
    URL_TAKEN 403 "registry.url_taken" "the URL or the id belongs to an instance of another account"
        "remove that instance first as its owner or an admin, or use another URL and id";
    URL_NOT_ALLOWED 400 "registry.url_not_allowed" "the URL resolves to an address that is not allowed for instances"
        "use another URL, or have an operator allow the network in OPENORCH_INSTANCE_NETWORKS";
    TOO_MANY_INSTANCES 429 "registry.too_many_instances" "the account has the maximum number of instances"
        "remove some of them";
    REGISTRY_FULL 429 "registry.registry_full" "the maximum number of instances is registered"
        "have an operator remove some, or raise OPENORCH_REGISTRY_MAX_INSTANCES";
    NO_SUCH_INSTANCE 404 "registry.no_such_instance" "there is no instance with this id"
        "`oo instance ls` lists the registered instances";
    NO_SUCH_DEFINITION 404 "registry.no_such_definition" "there is no definition with this id"
        "`oo definition ls` lists the existing definitions";
    NO_SUCH_NODE 404 "registry.no_such_node" "there is no node with this URL"
        "`oo node ls` lists the known nodes";
}

permissions! {
    INSTANCE_VIEW "registry-svc:instance:view" "See the instances of all services." [ADMIN, USER];
    INSTANCE_CREATE "registry-svc:instance:create" "Create instances for other accounts." [ADMIN], PLATFORM_SCOPED;
    INSTANCE_EDIT "registry-svc:instance:edit" "Register instances of your own service." [ADMIN, USER];
    INSTANCE_DELETE "registry-svc:instance:delete" "Remove the instances of any service." [ADMIN], PLATFORM_SCOPED;
    DEFINITION_VIEW "registry-svc:definition:view" "See definitions." [ADMIN, USER];
    DEFINITION_CREATE "registry-svc:definition:create" "Create definitions." [ADMIN], PLATFORM_SCOPED;
    DEFINITION_EDIT "registry-svc:definition:edit" "Save definitions." [ADMIN], PLATFORM_SCOPED;
    DEFINITION_DELETE "registry-svc:definition:delete" "Remove definitions." [ADMIN], PLATFORM_SCOPED;
    NODE_VIEW "registry-svc:node:view" "See nodes and their load." [ADMIN], PLATFORM_SCOPED;
    NODE_CREATE "registry-svc:node:create" "Create nodes." [ADMIN], PLATFORM_SCOPED;
    NODE_EDIT "registry-svc:node:edit" "Edit nodes." [ADMIN], PLATFORM_SCOPED;
    NODE_DELETE "registry-svc:node:delete" "Remove nodes." [ADMIN], PLATFORM_SCOPED;
    NODE_STREAM "registry-svc:node:stream" "Watch nodes." [ADMIN], PLATFORM_SCOPED;
}

path_values! {
    /// The id of an instance.
    InstanceId at most 128;
    /// The id of a definition.
    DefinitionId at most 128;
    /// The URL of a node, percent-encoded in the path.
    NodeUrl at most 2048;
}

ops! {
    /// Register an instance of the caller's service, or refresh the one at the same URL.
    ///
    /// Requests to `/<slug of the caller>/…` are routed to it as soon as it passes a probe. A heartbeat is a repeat of this
    /// call. The response waits up to 100 ms for the first probe.
    REGISTER_INSTANCE "registerInstance" = PUT "/registry-svc/instance"
        (Body<RegisterInstanceRequest>) -> Created<RegisterInstanceResponse>,
        access: Access::needs(&INSTANCE_EDIT).or_slugs(&["deploy-svc"]), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/id", "/url"],
        request_headers: &[&header::EXTENDED],
        errors: &[&URL_NOT_ALLOWED, &URL_TAKEN, &TOO_MANY_INSTANCES, &REGISTRY_FULL];

    /// List all instances, or those that match every given field.
    LIST_INSTANCES "listInstances" = GET "/registry-svc/instances"
        (Query<ListInstancesRequest>) -> Json<ListInstancesResponse>,
        long_response: true, access: Access::needs(&INSTANCE_VIEW).or_slugs(&["deploy-svc"]),
        request_headers: &[&header::EXTENDED];

    /// Remove an instance, so that no more requests are routed to it. Allowed for its owner and admins.
    REMOVE_INSTANCE "removeInstance" = DELETE "/registry-svc/instance/{id}"
        (Path<InstanceId>) -> NoContent,
        access: Access::needs(&INSTANCE_DELETE).or_slugs(&["deploy-svc"]).or_owner(), repeat: Some(Idempotency::Natural),
        audited: true,
        errors: &[&NO_SUCH_INSTANCE];

    /// Save a service definition under its id.
    SAVE_DEFINITION "saveDefinition" = PUT "/registry-svc/definition"
        (Body<SaveDefinitionRequest>) -> Created<SaveDefinitionResponse>,
        access: Access::needs(&DEFINITION_EDIT), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/definition/id"];

    /// List definitions.
    LIST_DEFINITIONS "listDefinitions" = GET "/registry-svc/definitions"
        () -> Json<ListDefinitionsResponse>,
        long_response: true, access: Access::needs(&DEFINITION_VIEW).or_slugs(&["deploy-svc"]);

    /// Remove a definition.
    DELETE_DEFINITION "deleteDefinition" = DELETE "/registry-svc/definition/{id}"
        (Path<DefinitionId>) -> NoContent,
        access: Access::needs(&DEFINITION_DELETE).or_slugs(&["deploy-svc"]), repeat: Some(Idempotency::Natural),
        audited: true,
        errors: &[&NO_SUCH_DEFINITION];

    /// The node that handles this request, with its load.
    SELF_NODE "selfNode" = GET "/registry-svc/node/self"
        () -> Json<NodeSelfResponse>,
        access: Access::needs(&NODE_VIEW).or_slugs(&["file-svc", "model-svc"]);

    /// List all nodes, or those with the given ids.
    LIST_NODES "listNodes" = POST "/registry-svc/nodes"
        (Body<ListNodesRequest>) -> Json<ListNodesResponse>,
        long_response: true, access: Access::needs(&NODE_VIEW).or_slugs(&["deploy-svc", "file-svc"]), effect: Some(Effect::Read);

    /// Remove a node. A node that is still running is registered again by its next heartbeat.
    DELETE_NODE "deleteNode" = DELETE "/registry-svc/node/{url}"
        (Path<NodeUrl>) -> NoContent,
        access: Access::needs(&NODE_DELETE).or_slugs(&["deploy-svc"]), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_NODE];
}

/// The health of an instance. Requests are routed to `Healthy` instances, or to `Degraded` ones if none is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InstanceStatus {
    /// Registered, not probed yet.
    #[default]
    Unknown,
    /// The last probe succeeded without delay.
    Healthy,
    /// It responds slowly or is draining; `details` says which.
    Degraded,
    /// The last probe failed: no connection, or no success response from the health path; `details` says why.
    Unreachable,
    /// Known to published clients; the daemon never sets it.
    Error,
}

impl InstanceStatus {
    /// The name of the status on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceStatus::Unknown => "Unknown",
            InstanceStatus::Healthy => "Healthy",
            InstanceStatus::Degraded => "Degraded",
            InstanceStatus::Unreachable => "Unreachable",
            InstanceStatus::Error => "Error",
        }
    }
}

/// An instance to register. Of a known instance, omitted fields keep their values; with another URL, the parts of the
/// address that are omitted follow the URL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterInstanceRequest {
    /// Generated if omitted. The same id with another URL moves the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub id: Option<String>,
    /// The URL at which the daemon reaches the instance, for example `http://127.0.0.1:9311`.
    #[schemars(schema_with = "form::given_text::<2048>")]
    pub url: String,
    /// The deployment that the instance belongs to, at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub deployment_id: Option<String>,
    /// The scheme of the address, for information; that of `url` if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub scheme: Option<String>,
    /// The host name of the address, for information; that of `url` if omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub host: Option<String>,
    /// The IP address, for information; the host of `url` if omitted and that is an IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub ip: Option<String>,
    /// The port of the address, for information; that of `url` if omitted or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A path for information, at most 256 characters; requests are routed with their own path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub path: Option<String>,
    /// Probe the instance with HTTP GET on this path (2xx and 3xx are healthy) instead of a TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::health_path")]
    pub health_path: Option<String>,
    /// The heartbeat interval in seconds. The instance is removed after three intervals without a heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86_400))]
    pub heartbeat_seconds: Option<u32>,
}

/// An empty object, unless the request carries `OpenOrch-Extended: 1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterInstanceResponse {
    /// The registered instance; only if the request carries `OpenOrch-Extended: 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<RegisterInstanceExtra>,
}

/// Sent when the request carries `OpenOrch-Extended: 1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterInstanceExtra {
    /// The id of the instance, given or generated.
    pub id: String,
    /// The status after the first probe; `Unknown` if the probe took too long to wait for.
    pub status: InstanceStatus,
}

/// Filters for instances; an omitted or empty field matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListInstancesRequest {
    /// The id of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub id: Option<String>,
    /// The slug of the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub slug: Option<String>,
    /// The scheme of the address, for example `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub scheme: Option<String>,
    /// The host name of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub host: Option<String>,
    /// The IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub ip: Option<String>,
    /// The deployment that the instance belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub deployment_id: Option<String>,
    /// The path that was given at registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<2048>")]
    pub path: Option<String>,
}

/// The matching instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListInstancesResponse {
    /// The instances; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

impl LongList for ListInstancesResponse {
    type Item = Instance;
    const KEY: &'static str = "instances";
}

/// A running instance of a service. Closed type: the published Go client rejects unknown keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// Id of the instance, `inst_…` if it was generated.
    pub id: String,
    /// The URL at which the daemon reaches the instance.
    pub url: String,
    /// The status according to the last probe.
    pub status: InstanceStatus,
    /// The deployment that the instance belongs to; absent if none was given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deployment_id: String,
    /// The URL of the node at which the instance was first registered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_url: String,
    /// The last successful probe, or heartbeat of an instance with a heartbeat interval; the zero time if there was
    /// none since the daemon started.
    pub last_heartbeat: Time,
    /// The scheme of the address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// The host name of the address, or the IP address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The IP address; absent if the host is a name and none was given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// The port of the address.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u16,
    /// The path that was given at registration; absent if there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The reason for the status, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// The slug of the owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Always absent; published clients know the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Further fields; only if the request carries `OpenOrch-Extended: 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<InstanceExtra>,
}

/// Sent when the request carries `OpenOrch-Extended: 1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceExtra {
    /// The id of the account that registered the instance.
    pub owner_id: String,
    /// The path that is probed with HTTP GET; absent if a TCP connection suffices.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub health_path: String,
    /// The heartbeat interval in seconds; absent if the instance sends no heartbeats.
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_seconds: u32,
    /// Whether the gateway currently routes requests to it.
    #[serde(skip_serializing_if = "is_false")]
    pub routable: bool,
}
