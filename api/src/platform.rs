//! The paths of the daemon itself: what it is, whether it is well, its documents and metrics.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Access, Body, Download, Effect, Events, Html, Json, Query, Row, Samples, SharedJson, Time, error, errors,
    events::Event,
    form,
    header::{ETAG, IF_NONE_MATCH},
    op::Repeat,
    ops, permissions,
};

pub static SERVICE: crate::Service = crate::Service {
    slug: "platform-svc",
    name: "OpenOrch",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: ERRORS,
};

errors! {
    BACKUP_RUNNING 409 "platform.backup_running" "another backup is being made"
        "wait for it";
    NOT_IN_BATCH 400 "platform.not_in_batch" "the operation cannot be called in a batch: operations that answer with a token, answer with something other than JSON, change something without a sign-in, or are the batch itself"
        "call it by itself";
    CALL_SKIPPED 424 "platform.call_skipped" "a call before this one failed, and the batch stops at the first failure"
        "correct that call, then send those that were not made";
}

permissions! {
    METRICS_VIEW "platform-svc:metrics:view" "Read the metrics of the daemon." [ADMIN], OF_ALL_APPS;
    BACKUP_CREATE "platform-svc:backup:create" "Copy all data of the daemon, secrets included." [ADMIN], OF_ALL_APPS;
    REQUEST_MONITOR "platform-svc:request:monitor" "Follow the requests to the daemon and to all services." [ADMIN], OF_ALL_APPS;
}

ops! {
    /// What this is, and where to go next.
    WELCOME "welcome" = GET "/" () -> Json<Welcome>, access: Access::Public;

    /// Whether the process runs.
    HEALTH "health" = GET "/health" () -> Json<Health>, access: Access::Public;

    /// Whether the daemon can serve: its store answers.
    READY "ready" = GET "/ready" () -> Json<Health>,
        access: Access::Public, errors: &[&error::platform::STORE_UNAVAILABLE];

    /// This document.
    OPENAPI "openapi" = GET "/openapi.json" () -> SharedJson,
        access: Access::Public, reads: &[&IF_NONE_MATCH], sets: &[&ETAG];

    /// The operations as a page to read.
    DOCS "docs" = GET "/docs" () -> Html,
        access: Access::Public, reads: &[&IF_NONE_MATCH], sets: &[&ETAG];

    /// All data of the daemon as of one moment, in a file for `openorch restore`.
    ///
    /// The daemon copies its data beside the running work, by the connections that it has, also where the files of its
    /// database were removed; that takes as much free disk as there is data, and nothing comes before the copy is whole.
    /// The file holds all secrets, and the key that decrypts them if the daemon made it for itself: keep it as safe as the
    /// data folder.
    BACKUP "backup" = POST "/platform-svc/backup" () -> Download,
        access: Access::needs(&BACKUP_CREATE), repeat: Some(Repeat::Never),
        audited: true, errors: &[&BACKUP_RUNNING, &error::platform::STORAGE_FULL];

    /// Call up to 20 operations by their ids, one after the other.
    ///
    /// Each call is answered in its place with the status and the body that it has by itself, or with its error and code;
    /// those before it stand, also where a later one fails: a batch is no transaction. Each counts as a call that
    /// writes, unless the caller is an admin or the call ends sessions, is checked for its own rights, and leaves its
    /// own entry in the audit log, which names this operation as its parent. An operation whose answer holds a token or
    /// is no JSON cannot be called here, nor a public one that changes something.
    CALL_OPERATIONS "callOperations" = POST "/platform-svc/calls"
        (Body<CallOperationsRequest>) -> Json<CallOperationsResponse>,
        access: Access::SignedIn, repeat: Some(Repeat::Never),
        errors: &[&NOT_IN_BATCH, &CALL_SKIPPED];

    /// Metrics of operations, the gateway, the store and the process, in the Prometheus text format 0.0.4.
    ///
    /// A service behind the gateway has series of its own from its first request until its account is deleted. Beyond a
    /// thousand services they share those of the service `(other)`; slugs that are no service's share `(unknown)`.
    METRICS "metrics" = GET "/metrics" () -> Samples, access: Access::needs(&METRICS_VIEW);

    /// Follow the requests to the daemon and to all services.
    ///
    /// Each is an event when its answer has ended. Requests that began before the stream are not among them, nor those whose
    /// client left before an answer began. No event has a query, a header field or a part of a body. A client that reads
    /// too slowly misses the oldest, and is told how many. The stream ends with the session, with the permission, and when
    /// the daemon stops; what happens until a client has connected again is not told to it.
    MONITOR_REQUESTS "monitorRequests" = GET "/platform-svc/requests"
        (Query<MonitorRequestsRequest>) -> Events<RequestSeen>, access: Access::needs(&REQUEST_MONITOR);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Welcome {
    pub name: String,
    pub version: String,
    pub docs: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Health {
    pub status: String,
}

/// Calls of a batch, at most.
pub const MAX_CALLS: usize = 20;

/// The operations by their ids, each with whether it can be called in a batch. To be made once: it generates the schemas of
/// all answers.
pub fn batch_operations() -> HashMap<&'static str, (&'static Row, bool)> {
    let fits = |row: &Row| {
        let is_public_change = matches!(row.access, Access::Public) && (row.effect() == Effect::Write || row.audited);
        row.id != CALL_OPERATIONS.row.id && !is_public_change && row.answers_json() && !row.answers_token()
    };
    crate::operations().map(|row| (row.id, (row, fits(row)))).collect()
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallOperationsRequest {
    #[schemars(length(min = 1, max = MAX_CALLS))]
    pub calls: Vec<OperationCall>,
    /// Whether the calls after one that fails are left out.
    #[serde(default)]
    pub stop_on_error: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationCall {
    /// The id of the operation, for example `listInstances`.
    #[schemars(schema_with = "form::given_text::<64>")]
    pub operation: String,
    /// Its input: the keys of its path, its query and its body in one object, as `oo call` takes them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "form::fields")]
    pub input: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CallOperationsResponse {
    /// In the order of the calls.
    pub answers: Vec<OperationAnswer>,
}

/// The answer to one call of a batch: a success, or an error with its code.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationAnswer {
    /// The HTTP status that the call has by itself.
    pub status: u16,
    /// The body of a success, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value")]
    pub body: Option<Box<RawValue>>,
    /// The sentence of a refusal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The code of a refusal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Seconds after which another try may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<i64>,
}

/// Which requests are told; all where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorRequestsRequest {
    /// Those to this service alone, by its slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub service: Option<String>,
    /// Those of this account alone, by its slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub caller: Option<String>,
    /// Those with such an answer alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusClass>,
}

impl MonitorRequestsRequest {
    /// Whether such a request is to be told.
    pub fn asks_for(&self, seen: &RequestSeen) -> bool {
        let is_of = |wanted: &Option<String>, slug: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == slug)
        };
        is_of(&self.service, &seen.service)
            && is_of(&self.caller, &seen.caller)
            && self.status.is_none_or(|class| class.contains(seen.status))
    }
}

/// The first digit of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StatusClass {
    #[serde(rename = "1xx")]
    Informational,
    #[serde(rename = "2xx")]
    Success,
    #[serde(rename = "3xx")]
    Redirection,
    #[serde(rename = "4xx")]
    ClientError,
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// Whether a status is of it.
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

/// A request whose answer has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestSeen {
    /// When it began.
    pub at: Time,
    /// Its id, under which the log has what happened.
    pub request_id: String,
    /// At most 32 bytes of it.
    pub method: String,
    /// As it was sent, without the query; at most 1024 bytes of it.
    pub path: String,
    /// The slug of the service that it was for, built in or behind the gateway; empty where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The id of the built-in operation; empty for a service behind the gateway.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The id of the instance that answered, or was tried last; empty for a built-in operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// The slug of the account that called; empty where nobody was signed in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    pub status: u16,
    /// Milliseconds until the end of the answer.
    pub duration_ms: f64,
}

impl Event for RequestSeen {
    const NAME: &'static str = "request";
}
