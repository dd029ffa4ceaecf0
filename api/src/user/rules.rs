//! Wire types of roles, permissions and grants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// A set of permissions under one name, to be given to accounts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Role {
    /// `<slug of its owner>:<name>`.
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The account that says what is in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
}

/// A right, named by the service that asks for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Permission {
    /// `<slug of its owner>:<thing>:<verb>`.
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The account that says which roles have it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetRolesResponse {
    /// By name, then id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateRoleRequest {
    /// Starts with the caller's slug and a colon: `my-service:editor`.
    #[schemars(schema_with = "form::owned_id")]
    pub id: String,
    #[serde(default)]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<1024>")]
    pub description: String,
    /// The permissions that it has from now on; each the caller's own, or any for an admin. A role that is there keeps
    /// what it has where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub permission_ids: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateRoleResponse {
    pub role: Role,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetPermissionsByRoleResponse {
    /// By name, then id.
    pub permissions: Vec<Permission>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SetRolePermissionsRequest {
    /// All that the role has from now on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub permission_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionInput {
    /// Starts with the caller's slug and a colon: `my-service:page:view`.
    #[schemars(schema_with = "form::owned_id")]
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<1024>")]
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermissionsRequest {
    #[schemars(length(max = 1000))]
    pub permissions: Vec<PermissionInput>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermissionsResponse {
    pub permissions: Vec<Permission>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionLink {
    #[schemars(schema_with = "form::given_name::<256>")]
    pub role_id: String,
    #[schemars(schema_with = "form::given_name::<256>")]
    pub permission_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AssignPermissionsRequest {
    #[schemars(length(max = 1000))]
    pub permission_links: Vec<PermissionLink>,
}

/// A permission for accounts by slug, whatever their roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<128>")]
    pub id: String,
    #[schemars(schema_with = "form::owned_id")]
    pub permission_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<1000>")]
    pub slugs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveGrantsRequest {
    /// One with a known id takes the place of what was saved under it; one without is given an id.
    #[schemars(length(max = 1000))]
    pub grants: Vec<Grant>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListGrantsRequest {
    /// Those of this permission only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub permission_id: Option<String>,
    /// Those that name this slug only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Most entries of the answer; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListGrantsResponse {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A permission for accounts by slug and for all who have one of some roles: a grant with roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Permit {
    pub app_id: String,
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    pub permission: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slugs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermitInput {
    /// Given where it is left out. Ids are each account's own: that of an account that is no admin is listed with the
    /// account's slug and a colon before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<128>")]
    pub id: String,
    /// The host of the app where it counts: `*` for all, which is for admins; the caller's where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    #[schemars(schema_with = "form::owned_id")]
    pub permission: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<1000>")]
    pub slugs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermitsRequest {
    #[schemars(length(max = 1000))]
    pub permits: Vec<PermitInput>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermitsRequest {
    /// Those of this permission only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub permission: Option<String>,
    /// Those that name this slug only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Most entries of the answer; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermitsResponse {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permits: Vec<Permit>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermissionsRequest {
    /// Roles that the caller has, or any for an admin; all that the caller has where it is left out.
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub roles: Vec<String>,
    /// Most entries of the answer; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermissionsResponse {
    /// What those roles have together, by id.
    pub permissions: Vec<String>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HasPermissionResponse {
    pub authorized: bool,
    pub app_id: String,
    pub app: super::App,
    /// Until when the answer may be kept.
    pub until: Time,
    pub user: super::User,
}

/// What a service may do with the delegated tokens of its callers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delegation {
    /// The service.
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// The ids of the operations that it may call for its callers, who must be allowed to call them themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 500>")]
    pub operations: Vec<String>,
    /// The slugs of the services to which it may hand its callers' tokens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<500>")]
    pub services: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListDelegationsResponse {
    pub delegations: Vec<Delegation>,
}

/// An account has a role, or will have it once it shows that a contact is its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Enroll {
    pub id: String,
    pub app_id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// The contact, where no account has shown yet that it is its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub contact_id: String,
    pub role: String,
    /// The account that gave it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollInput {
    /// The host of the app where it counts: `*` for all, which is for admins; the caller's where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// The account; or else a contact.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub user_id: String,
    /// A contact, such as an e-mail address, of an account that may not be there yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<320>")]
    pub contact_id: String,
    #[schemars(schema_with = "form::given_name::<256>")]
    pub role: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveEnrollsRequest {
    #[schemars(length(max = 1000))]
    pub enrolls: Vec<EnrollInput>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveEnrollsResponse {
    /// What was given, new or not.
    pub enrolls: Vec<Enroll>,
}

/// At least one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListEnrollsRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<400>")]
    pub contact_id: Option<String>,
    /// Most entries of the answer, which may have fewer though more follow; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListEnrollsResponse {
    pub enrolls: Vec<Enroll>,
    /// Where more follow: what to send as `after` with the same question.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
