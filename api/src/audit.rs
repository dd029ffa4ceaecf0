//! The entries of the audit log, which are written for the operations of all services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;

/// Calls that changed something or were refused. A change has an entry of its own, a sign-in that finds its session
/// counts as one; a call that changes nothing, since it repeats what is there, has none. Refusals, and repeated sign-ins
/// to one session, of one actor, operation and target within a minute are one entry, whose count grows. Where there are
/// too many of those, one entry counts the others of an actor and operation, without a target, and one those of an
/// operation, without an actor too. The entry of the operation `auditLogTrimmed` counts the oldest entries that were
/// removed because the log had too many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEntry {
    pub id: String,
    pub at: Time,
    /// The account that called; empty where nobody was signed in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_id: String,
    /// Its slug at that time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_slug: String,
    /// The slug of the service that called for the account, with a token that was delegated to it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via_service: String,
    pub client_ip: String,
    /// The id of the operation, as `oo call` takes it.
    pub operation: String,
    /// The operation that made this call in process, as one of a batch; both have one request's id. Empty where the call came
    /// by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent_operation: String,
    /// What the call was about, by id, slug or URL; several are parted by spaces, and one with a space in it is quoted.
    /// Of a long list those that give rights over the platform come first, and the end says how many are left out. The
    /// body of a call that is refused before it is read, as for lack of a permission, is not known: the target is what
    /// the path names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The same one by one, but for those that are left out. Entries of older versions have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    pub outcome: AuditOutcome,
    /// The status of the answer.
    pub status: u16,
    /// Of the first of them, where there were several.
    pub request_id: String,
    /// How many calls this tells of.
    pub count: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuditOutcome {
    /// The change was made.
    #[default]
    Done,
    Refused,
}
