//! Asking for entries of the audit log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    audit::{AuditEntry, AuditOutcome},
    form,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAuditRequest {
    /// The slug or id of the account that called.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
    /// From this time on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// 100 where it is left out, 1,000 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub limit: Option<u64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAuditResponse {
    /// The newest first.
    pub entries: Vec<AuditEntry>,
    /// Where more come: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
