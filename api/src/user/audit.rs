//! Wire types of audit log queries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    audit::{AuditEntry, AuditOutcome},
    form,
};

/// Body of `listAudit`. Entries must match all given filters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAuditRequest {
    /// The slug or id of the calling account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub actor: Option<String>,
    /// The id of an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub operation: Option<String>,
    /// One of the targets, or the whole `target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub target: Option<String>,
    /// The outcome of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
    /// At or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Maximum number of entries: 100 by default, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub limit: Option<u64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

/// Response of `listAudit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAuditResponse {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
