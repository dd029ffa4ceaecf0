//! Audit log entries, written for the operations of all services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;

/// A call that changed something or was refused. Each change has its own entry; a sign-in that reuses a session counts
/// as a change. A call that changes nothing, because it repeats the current state, has no entry. Refusals, and repeated
/// sign-ins to one session, are aggregated: one entry with a growing `count` per actor, operation, target and minute.
/// When there are too many such entries, the rest is counted in one entry per actor and operation, without a target,
/// and beyond that in one entry per operation, without an actor. An entry with the operation `auditLogTrimmed` counts
/// the oldest entries that were removed because the log exceeded its maximum size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEntry {
    /// Id of the entry, `aud_…`.
    pub id: String,
    /// When the call was made; the first call if the entry counts several.
    pub at: Time,
    /// The id of the calling account; empty for an anonymous call.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_id: String,
    /// The slug of the calling account at that time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_slug: String,
    /// The slug of the service that called on behalf of the account with a delegated token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via_service: String,
    /// The IP address of the client; empty in an entry without an actor that counts several calls.
    pub client_ip: String,
    /// The id of the operation, as `oo call` takes it.
    pub operation: String,
    /// The operation that made this call in process, such as a batch; both entries have the same request id. Empty for a
    /// direct call.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent_operation: String,
    /// The targets of the call by id, slug or URL, separated by spaces; a target that contains a space is quoted. In a long
    /// list, targets that give rights over the platform come first, and the end says how many are omitted. A call that is
    /// refused before its body is read, for example for a missing permission, has only the targets from its path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The same targets as a list, without the omitted ones. Entries of older versions have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Whether the call succeeded or was refused.
    pub outcome: AuditOutcome,
    /// The HTTP status of the response.
    pub status: u16,
    /// The request id; of the first call if the entry counts several.
    pub request_id: String,
    /// Number of calls that this entry counts.
    pub count: u64,
}

/// Whether an audited call succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuditOutcome {
    /// The call succeeded.
    #[default]
    Done,
    /// The call was refused; `status` says why.
    Refused,
}
