//! Wire types of roles, permissions, grants, permits, delegations and enrolls.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, form};

/// A named set of permissions that can be given to accounts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Role {
    /// `<slug of its owner>:<name>`.
    pub id: String,
    /// When the role was created.
    pub created_at: Time,
    /// When the role was last saved.
    pub updated_at: Time,
    /// Display name; may be empty.
    pub name: String,
    /// What the role is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The account that defines its permissions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
}

/// A permission, declared by the service that checks it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Permission {
    /// `<slug of its owner>:<thing>:<verb>`.
    pub id: String,
    /// When the permission was created.
    pub created_at: Time,
    /// When the permission was last saved.
    pub updated_at: Time,
    /// Display name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the permission allows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The account that assigns it to roles.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner_id: String,
}

/// Response of `getRoles`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetRolesResponse {
    /// Sorted by name, then id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Body of `createRole`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateRoleRequest {
    /// Starts with the caller's slug and a colon: `my-service:editor`.
    #[schemars(schema_with = "form::owned_id")]
    pub id: String,
    /// Display name; empty by default.
    #[serde(default)]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    /// What the role is for; empty by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<1024>")]
    pub description: String,
    /// The new permissions of the role: the caller's own, or any as an admin. If omitted, an existing role keeps its
    /// permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub permission_ids: Option<Vec<String>>,
}

/// Response of `createRole`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateRoleResponse {
    /// The role as it was saved.
    pub role: Role,
}

/// Response of `getPermissionsByRole`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetPermissionsByRoleResponse {
    /// Sorted by name, then id.
    pub permissions: Vec<Permission>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Body of `setRolePermission`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SetRolePermissionsRequest {
    /// The new permissions of the role; replaces all existing ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub permission_ids: Vec<String>,
}

/// A permission to create or change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionInput {
    /// Starts with the caller's slug and a colon: `my-service:page:view`.
    #[schemars(schema_with = "form::owned_id")]
    pub id: String,
    /// Display name; empty by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: String,
    /// What the permission allows; empty by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<1024>")]
    pub description: String,
}

/// Body of `savePermissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermissionsRequest {
    /// The permissions to save, at most 1,000.
    #[schemars(length(max = 1000))]
    pub permissions: Vec<PermissionInput>,
}

/// Response of `savePermissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermissionsResponse {
    /// The permissions as they were saved.
    pub permissions: Vec<Permission>,
}

/// A permission to add to a role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionLink {
    /// Id of the role.
    #[schemars(schema_with = "form::given_name::<256>")]
    pub role_id: String,
    /// Id of the permission.
    #[schemars(schema_with = "form::given_name::<256>")]
    pub permission_id: String,
}

/// Body of `assignPermissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AssignPermissionsRequest {
    /// The pairs of role and permission, at most 1,000.
    #[schemars(length(max = 1000))]
    pub permission_links: Vec<PermissionLink>,
}

/// A permission for accounts by slug, regardless of their roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Id of the grant; generated, `grn_…`, if omitted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<128>")]
    pub id: String,
    /// Id of the permission that it gives.
    #[schemars(schema_with = "form::owned_id")]
    pub permission_id: String,
    /// Slugs of the accounts that it is given to; they need not be registered yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<1000>")]
    pub slugs: Vec<String>,
}

/// Body of `saveGrants`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveGrantsRequest {
    /// A grant with an existing id replaces that grant; one without an id gets a generated id.
    #[schemars(length(max = 1000))]
    pub grants: Vec<Grant>,
}

/// Body of `listGrants`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListGrantsRequest {
    /// Only those for this permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub permission_id: Option<String>,
    /// Only those that name this slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Maximum number of entries; all if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

/// Response of `listGrants`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListGrantsResponse {
    /// The grants of this page, including permits given to slugs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A permission for accounts by slug and for all accounts with one of some roles: a grant with roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Permit {
    /// Id of the app in which it applies, or `*` for all apps.
    pub app_id: String,
    /// Id of the permit; `grn_…` if generated.
    pub id: String,
    /// When the permit was created.
    pub created_at: Time,
    /// When the permit was last saved.
    pub updated_at: Time,
    /// Id of the permission that it gives.
    pub permission: String,
    /// Slugs of the accounts that it is given to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slugs: Vec<String>,
    /// Ids of the roles that it is given to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// A permit to create or replace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermitInput {
    /// Generated if omitted. Ids are scoped to the account: if the account is not an admin, the id is listed with the
    /// account's slug and a colon as prefix.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<128>")]
    pub id: String,
    /// The host of the app in which it applies, or `*` for all apps (admins only); the caller's app by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// Id of the permission that it gives.
    #[schemars(schema_with = "form::owned_id")]
    pub permission: String,
    /// Slugs of the accounts that it is given to; they need not be registered yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<1000>")]
    pub slugs: Vec<String>,
    /// Ids of the roles that it is given to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::names::<256, 1000>")]
    pub roles: Vec<String>,
}

/// Body of `savePermits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavePermitsRequest {
    /// The permits to save, at most 1,000.
    #[schemars(length(max = 1000))]
    pub permits: Vec<PermitInput>,
}

/// Body of `listPermits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermitsRequest {
    /// Only those for this permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub permission: Option<String>,
    /// Only those that name this slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Maximum number of entries; all if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

/// Response of `listPermits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermitsResponse {
    /// The permits of this page, including grants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permits: Vec<Permit>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Body of `listPermissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermissionsRequest {
    /// Roles that the caller has, or any roles as an admin; all roles of the caller by default.
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub roles: Vec<String>,
    /// Maximum number of entries; all if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

/// Response of `listPermissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListPermissionsResponse {
    /// The union of the permissions of these roles, sorted by id.
    pub permissions: Vec<String>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Response of `hasPermission`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HasPermissionResponse {
    /// Whether the caller has the permission.
    pub authorized: bool,
    /// Id of the app of the caller's session, in which the permission was checked.
    pub app_id: String,
    /// The app of the caller's session.
    pub app: super::App,
    /// Until when the result may be cached.
    pub until: Time,
    /// The account of the caller.
    pub user: super::User,
}

/// What a service may do with the delegated tokens of its callers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delegation {
    /// The slug of the service.
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// The ids of the operations that it may call on behalf of its callers, who must be allowed to call them themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 500>")]
    pub operations: Vec<String>,
    /// The slugs of the services to which it may forward its callers' tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::slugs::<500>")]
    pub services: Vec<String>,
}

/// Response of `listDelegations`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListDelegationsResponse {
    /// The delegations, sorted by slug.
    pub delegations: Vec<Delegation>,
}

/// A role of an account, or a pending role for the account that later verifies a contact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Enroll {
    /// Id of the enroll, to delete it with.
    pub id: String,
    /// Id of the app in which the role applies, or `*` for all apps.
    pub app_id: String,
    /// When the role was given.
    pub created_at: Time,
    /// The same as `createdAt`: an enroll does not change.
    pub updated_at: Time,
    /// Id of the account that has the role; omitted if `contactId` is set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// The contact, if no account has verified it yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub contact_id: String,
    /// Id of the role.
    pub role: String,
    /// The account that gave the role.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
}

/// A role to give to an account or a contact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrollInput {
    /// The host of the app in which it applies, or `*` for all apps (admins only); the caller's app by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// The account; alternatively `contactId`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub user_id: String,
    /// A contact, such as an e-mail address, of an account that may not exist yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<320>")]
    pub contact_id: String,
    /// Id of the role.
    #[schemars(schema_with = "form::given_name::<256>")]
    pub role: String,
}

/// Body of `saveEnrolls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveEnrollsRequest {
    /// The roles to give, at most 1,000.
    #[schemars(length(max = 1000))]
    pub enrolls: Vec<EnrollInput>,
}

/// Response of `saveEnrolls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveEnrollsResponse {
    /// The assigned roles, including those that already existed.
    pub enrolls: Vec<Enroll>,
}

/// At least one filter is required.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListEnrollsRequest {
    /// Only those of this role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub role: Option<String>,
    /// Only those of the account with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub user_id: Option<String>,
    /// Only those given to this contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<400>")]
    pub contact_id: Option<String>,
    /// Maximum number of entries; a page may have fewer entries even if more follow. All if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}

/// Response of `listEnrolls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListEnrollsResponse {
    /// The enrolls of this page.
    pub enrolls: Vec<Enroll>,
    /// Cursor of the next page, to be sent as `after` with the same filters; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}
