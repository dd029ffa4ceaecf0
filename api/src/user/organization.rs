//! Wire types of organizations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// A group of accounts. Its admins have the role `user-svc:org:{id}:admin`, its other members
/// `user-svc:org:{id}:user`, both with literal braces around the id.
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
    /// Given where it is left out: letters, digits, `_` and `-`, which whoever comes first has; or the caller's slug, a
    /// colon and those, which nobody else can take.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::organization_id_if_any")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    /// A name of its own for the organization, of the same form as the slugs of accounts.
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
    /// The caller's session, in whose token the new role is.
    pub token: super::AuthToken,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsRequest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// 20 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub limit: Option<i64>,
    /// Those made before this time: the newest come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_time: Option<Time>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListOrganizationsResponse {
    pub organizations: Vec<Organization>,
    /// Where more come: what to send as `after` with the same question.
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
    /// `admin` or `user`; `user` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["admin", "user", ""]))]
    pub role: Option<String>,
}

/// An account in an organization.
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
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
