//! Wire types of organizations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// A group of accounts. Its admins have the role `user-svc:org:{id}:admin`, its other members
/// `user-svc:org:{id}:user`, with literal braces around the id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Organization {
    /// Id of the organization; `org_…` if generated.
    pub id: String,
    /// When the organization was created.
    pub created_at: Time,
    /// When its name or slug was last saved.
    pub updated_at: Time,
    /// Display name; omitted if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Unique name within the app; omitted if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
}

/// Body of `createOrganization`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateOrganizationRequest {
    /// Generated if omitted. Either letters, digits, `_` and `-`, first come, first served; or the same after the caller's
    /// slug and a colon, which only the caller can use.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::organization_id_if_any")]
    pub id: String,
    /// Display name; empty by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    /// A unique name of the organization, in the format of account slugs.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::slug_if_any")]
    pub slug: String,
}

/// Response of `createOrganization`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateOrganizationResponse {
    /// The new organization.
    pub organization: Organization,
}

/// Body of `saveOrganization`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SaveOrganizationRequest {
    /// Id of the organization to create or change. If omitted, the one with this slug is changed; if there is none, an
    /// id is generated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::organization_id_if_any")]
    pub id: String,
    /// Unique name within the app, in the format of account slugs.
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// Display name; empty by default.
    #[serde(default)]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
}

/// Response of `saveOrganization`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveOrganizationResponse {
    /// The organization as it was saved.
    pub organization: Organization,
    /// The caller's session, with a token that includes the new role.
    pub token: super::AuthToken,
}

/// Body of `listOrganizations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsRequest {
    /// Organizations with these ids; all of the caller's app if empty.
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

/// Response of `listOrganizations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsResponse {
    /// The organizations of this page, newest first.
    pub organizations: Vec<Organization>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Body of `addUserToOrganization`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddUserToOrganizationRequest {
    /// Id of the account to add.
    #[schemars(schema_with = "form::given_name::<128>")]
    pub user_id: String,
}

/// Body of `saveMembership`.
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
    /// The account.
    pub user: super::User,
    /// `admin` or `user`.
    pub role: String,
}

/// Response of `listMembers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMembersResponse {
    /// The members of this page.
    pub members: Vec<Member>,
    /// Cursor of the next page, to be sent as `after`; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
