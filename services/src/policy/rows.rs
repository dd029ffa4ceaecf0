//! What the policy service stores.

use openorch_api::policy::PolicyInstance;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

pub static POLICIES: Collection = Collection { name: "policySvcInstances", indexes: &[Index::on(&["app"])] };

/// A policy. The row id combines the app and the policy id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub app: String,
    /// Stored as it was sent, since it is returned unchanged.
    pub instance: PolicyInstance,
}
