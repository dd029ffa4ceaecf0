//! What the policy service stores.

use openorch_api::policy::PolicyInstance;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

pub static POLICIES: Collection = Collection { name: "policySvcInstances", indexes: &[Index::on(&["app"])] };

/// A policy. Its id is its app and its id there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    pub app: String,
    /// Given back as it was sent, so it is kept as it was sent.
    pub instance: PolicyInstance,
}
