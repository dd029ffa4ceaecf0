//! Wire types of organizations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// A group of accounts. Its admins have the role `user-svc:org:{id}:admin`, its other members
/// `user-svc:org:{id}:user`, with literal braces around the id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Organization {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateOrganizationRequest {
    /// Generated if omitted. Either letters, digits, `_` and `-`, first come, first served; or the same after the caller's
    /// slug and a colon, which only the caller can use.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::organization_id_if_any")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    /// A unique name of the organization, in the format of account slugs.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub slug: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateOrganizationResponse {
    pub organization: Organization,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaveOrganizationRequest {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::organization_id_if_any")]
    pub id: String,
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    #[serde(default)]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveOrganizationResponse {
    pub organization: Organization,
    /// The caller's session, with a token that includes the new role.
    pub token: super::AuthToken,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsRequest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Maximum number of entries; 20 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub limit: Option<i64>,
    /// Organizations created before this time; the order is newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_time: Option<Time>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsResponse {
    pub organizations: Vec<Organization>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddUserToOrganizationRequest {
    #[schemars(schema_with = "form::given_name::<128>")]
    pub user_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveMembershipRequest {
    /// `admin` or `user` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["admin", "user", ""]))]
    pub role: Option<String>,
}

/// A member of an organization.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    pub user: super::User,
    /// `admin` or `user`.
    pub role: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMembersResponse {
    pub members: Vec<Member>,
    /// Cursor of the next page, to be sent as `after`; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
