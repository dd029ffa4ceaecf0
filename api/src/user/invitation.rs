//! Wire types of invitations (decision "Invitations").

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateInvitationRequest {
    /// Seconds until it ends; seven days when left out, a year at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub expires_in: Option<u64>,
    /// How many accounts it may make; one when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub uses: Option<u32>,
    /// The roles of those accounts; `user-svc:user` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 32>")]
    pub role_ids: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CreateInvitationResponse {
    pub invitation: Invitation,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListInvitationsResponse {
    pub invitations: Vec<Invitation>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Invitation {
    pub id: String,
    /// Shown once, in the answer that makes it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub uses_left: u32,
    pub role_ids: Vec<String>,
    pub created_by: String,
}
