//! The contract of the daemon's own operations: health, documentation, metrics, backup, batch calls and request
//! monitoring.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Access, Body, Download, Effect, Events, Html, Json, Operation, PrometheusText, Query, SharedJson, Time, error,
    errors,
    events::Event,
    form,
    header::{ETAG, IF_NONE_MATCH},
    op::Idempotency,
    ops, permissions,
};

/// The contract of the daemon's own operations.
pub static SERVICE: crate::Service = crate::Service {
    slug: "platform-svc",
    name: "OpenOrch",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: ERRORS,
};

errors! {
    BACKUP_RUNNING 409 "platform.backup_running" "another backup is in progress"
        "wait until it has finished";
    NOT_IN_BATCH 400 "platform.not_in_batch" "the operation cannot be called in a batch: its response contains a token or is not JSON, it is a public operation that changes something, or it is the batch itself"
        "call it directly";
    CALL_SKIPPED 424 "platform.call_skipped" "a call before this one failed, and the batch stops at the first failure"
        "correct that call, then repeat the skipped ones";
}

permissions! {
    METRICS_VIEW "platform-svc:metrics:view" "Read the metrics of the daemon." [ADMIN], PLATFORM_SCOPED;
    BACKUP_CREATE "platform-svc:backup:create" "Back up all data of the daemon, including secrets." [ADMIN], PLATFORM_SCOPED;
    REQUEST_MONITOR "platform-svc:request:monitor" "Monitor the requests to the daemon and to all services." [ADMIN], PLATFORM_SCOPED;
}

ops! {
    /// Name and version of this daemon, and where its documentation is.
    WELCOME "welcome" = GET "/" () -> Json<Welcome>, access: Access::Public;

    /// Liveness check: the process runs.
    HEALTH "health" = GET "/health" () -> Json<Health>, access: Access::Public;

    /// Readiness check: the store responds.
    READY "ready" = GET "/ready" () -> Json<Health>,
        access: Access::Public, errors: &[&error::platform::STORE_UNAVAILABLE];

    /// The OpenAPI document.
    OPENAPI "openapi" = GET "/openapi.json" () -> SharedJson,
        access: Access::Public, request_headers: &[&IF_NONE_MATCH], response_headers: &[&ETAG];

    /// The API reference as an HTML page.
    DOCS "docs" = GET "/docs" () -> Html,
        access: Access::Public, request_headers: &[&IF_NONE_MATCH], response_headers: &[&ETAG];

    /// Back up all data of the daemon as a consistent snapshot, for `openorch restore`.
    ///
    /// The daemon keeps serving requests meanwhile. It copies the data through its open connections, so this also works if
    /// the database files were removed. The copy needs as much free disk space as there is data, and the download starts
    /// when it is complete. The file contains all secrets, and the encryption key if the daemon generated it: protect it
    /// like the data directory.
    BACKUP "backup" = POST "/platform-svc/backup" () -> Download,
        access: Access::needs(&BACKUP_CREATE), repeat: Some(Idempotency::Never),
        audited: true, errors: &[&BACKUP_RUNNING, &error::platform::STORAGE_FULL];

    /// Call up to 20 operations by id, in order.
    ///
    /// The response has one entry per call, in the same order, with the status and the body of a direct call, or with its
    /// error and code. A batch is not a transaction: calls before a failed one remain in effect. Each call is authorized
    /// separately and has its own entry in the audit log, which names this operation as its parent. Each counts towards
    /// the rate limit for writes, unless the caller is an admin or the call ends sessions. Operations whose response
    /// contains a token or is not JSON cannot be called in a batch, nor can public operations that change something.
    CALL_OPERATIONS "callOperations" = POST "/platform-svc/calls"
        (Body<CallOperationsRequest>) -> Json<CallOperationsResponse>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never),
        errors: &[&NOT_IN_BATCH, &CALL_SKIPPED];

    /// Metrics of operations, the gateway, the store and the process, in the Prometheus text format 0.0.4.
    ///
    /// A service behind the gateway has its own series from its first request until its account is deleted. Services beyond
    /// the first thousand share the series of the service `(other)`; slugs that belong to no service share `(unknown)`.
    METRICS "metrics" = GET "/metrics" () -> PrometheusText, access: Access::needs(&METRICS_VIEW);

    /// Monitor the requests to the daemon and to all services.
    ///
    /// An event is sent when a response has ended. Requests that began before the stream was opened are not included, nor
    /// are those whose client disconnected before the response began. Events contain no query, header fields or body. For
    /// a client that reads too slowly the oldest events are dropped, and it receives their number. The stream ends when
    /// the session ends, the permission is revoked, or the daemon stops; events until a client has reconnected are lost.
    MONITOR_REQUESTS "monitorRequests" = GET "/platform-svc/requests"
        (Query<MonitorRequestsRequest>) -> Events<RequestSeen>, access: Access::needs(&REQUEST_MONITOR);
}

/// What the daemon is, for clients that reach it at `/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Welcome {
    /// The name of the product, `OpenOrch`.
    pub name: String,
    /// The version of the daemon, for example `0.1.0`.
    pub version: String,
    /// The path of the API reference, `/docs`.
    pub docs: String,
}

/// The result of a liveness or readiness check that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Health {
    /// `ok` for liveness, `ready` for readiness.
    pub status: String,
}

/// Maximum number of calls in a batch.
pub const MAX_CALLS: usize = 20;

/// All operations by id, each with whether it can be called in a batch. Generates the output schemas of all operations,
/// so call it once.
pub fn batch_operations() -> HashMap<&'static str, (&'static Operation, bool)> {
    let is_allowed = |row: &Operation| {
        let is_public_change = matches!(row.access, Access::Public) && (row.effect() == Effect::Write || row.audited);
        row.id != CALL_OPERATIONS.row.id && !is_public_change && row.returns_json() && !row.returns_token()
    };
    crate::operations().map(|row| (row.id, (row, is_allowed(row)))).collect()
}

/// The calls of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallOperationsRequest {
    /// The calls, made in this order; from 1 to 20.
    #[schemars(length(min = 1, max = MAX_CALLS))]
    pub calls: Vec<OperationCall>,
    /// Whether to skip the remaining calls after the first failure.
    #[serde(default)]
    pub stop_on_error: bool,
}

/// One call of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationCall {
    /// The id of the operation, for example `listInstances`.
    #[schemars(schema_with = "form::given_text::<64>")]
    pub operation: String,
    /// Its path, query and body parameters in one object, as for `oo call`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "form::fields")]
    pub input: Map<String, Value>,
}

/// The results of a batch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CallOperationsResponse {
    /// In the order of the calls.
    pub answers: Vec<OperationAnswer>,
}

/// The result of one call of a batch: a success, or an error with its code.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationAnswer {
    /// The HTTP status that a direct call would have.
    pub status: u16,
    /// The body of a successful response, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value")]
    pub body: Option<Box<RawValue>>,
    /// The error message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The error code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Seconds to wait before a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<i64>,
}

/// Filters of the monitored requests; without a filter, all requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorRequestsRequest {
    /// Only requests to the service with this slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub service: Option<String>,
    /// Only requests of the account with this slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub caller: Option<String>,
    /// Only requests with this class of status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusClass>,
}

impl MonitorRequestsRequest {
    /// Whether the request passes the filters.
    pub fn matches(&self, seen: &RequestSeen) -> bool {
        let matches_slug = |wanted: &Option<String>, slug: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == slug)
        };
        matches_slug(&self.service, &seen.service)
            && matches_slug(&self.caller, &seen.caller)
            && self.status.is_none_or(|class| class.contains(seen.status))
    }
}

/// The class of an HTTP status: its first digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StatusClass {
    /// 100 to 199: interim responses and protocol switches.
    #[serde(rename = "1xx")]
    Informational,
    /// 200 to 299: success.
    #[serde(rename = "2xx")]
    Success,
    /// 300 to 399: redirects, and 304 for a cached response that is still valid.
    #[serde(rename = "3xx")]
    Redirection,
    /// 400 to 499: the request was refused.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 to 599: the daemon or the service failed.
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// Whether a status belongs to this class.
    pub fn contains(self, status: u16) -> bool {
        let first = match self {
            StatusClass::Informational => 1,
            StatusClass::Success => 2,
            StatusClass::Redirection => 3,
            StatusClass::ClientError => 4,
            StatusClass::ServerError => 5,
        };
        status / 100 == first
    }
}

/// A completed request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestSeen {
    /// When the request began.
    pub at: Time,
    /// The request id, which the daemon's log uses too.
    pub request_id: String,
    /// The HTTP method, truncated to 32 bytes.
    pub method: String,
    /// The path as sent, without the query, truncated to 1024 bytes.
    pub path: String,
    /// The slug of the target service, built-in or behind the gateway; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The id of the built-in operation; empty for a service behind the gateway.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The id of the instance that responded or was tried last; empty for a built-in operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// The slug of the calling account; empty for an anonymous request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    /// The HTTP status of the response.
    pub status: u16,
    /// Milliseconds until the end of the response.
    pub duration_ms: f64,
}

impl Event for RequestSeen {
    const NAME: &'static str = "request";
}
