//! Wire types of invitations (decision "Invitations").

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// Body of `createInvitation`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateInvitationRequest {
    /// Lifetime in seconds: seven days by default, at most one year.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub expires_in: Option<u64>,
    /// How many accounts can be registered with it; one by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub uses: Option<u32>,
    /// The roles of these accounts; `user-svc:user` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 32>")]
    pub role_ids: Option<Vec<String>>,
}

/// Response of `createInvitation`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CreateInvitationResponse {
    /// The invitation with its code.
    pub invitation: Invitation,
}

/// Response of `listInvitations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListInvitationsResponse {
    /// The invitations of this page, without their codes.
    pub invitations: Vec<Invitation>,
    /// Cursor of the next page, to be sent as `after`; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A code with which accounts can be registered while registration is by invitation.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Invitation {
    /// Id of the invitation, `invi_…`.
    pub id: String,
    /// Only returned when the invitation is created.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// When the invitation was created.
    pub created_at: Time,
    /// When the invitation expires.
    pub expires_at: Time,
    /// How many more accounts can be registered with it.
    pub uses_left: u32,
    /// Ids of the roles that these accounts get.
    pub role_ids: Vec<String>,
    /// Slug of the account that created it.
    pub created_by: String,
}
