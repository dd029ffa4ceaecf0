//! Wire types of accounts, sessions and signing keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Contact, ContactInput, Organization, is_false};
use crate::{Time, form, query};

/// An empty object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: Option<String>,
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// Name of the session's device; sign-ins without a device share the session `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The code of an invitation, while registration is by invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub invitation: Option<String>,
    /// The host of the app to register in; `unnamed` by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegisterResponse {
    pub token: AuthToken,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoginRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: Option<String>,
    /// A verified contact of the account, instead of the slug; with a code sent to it, instead of the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// Name of the session's device, for example `cli@host`; sign-ins without a device share the session `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The host of the app to sign in to; `unnamed` by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoginResponse {
    pub token: AuthToken,
}

/// A session and its token.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthToken {
    pub id: String,
    /// The app of the session, in which its roles apply.
    pub app_id: String,
    pub created_at: Time,
    pub updated_at: Time,
    pub user_id: String,
    /// The JSON Web Token to send as `Authorization: Bearer …`.
    pub token: String,
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
    pub device: String,
    /// When the token expires (`exp`); the session may last longer.
    pub expires_at: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetPublicKeyResponse {
    /// PEM, `PUBLIC KEY` (SubjectPublicKeyInfo).
    pub public_key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeySet {
    pub keys: Vec<Key>,
}

/// An RSA public key (RFC 7518, section 6.3.1): `n` and `e` in unpadded base64url.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Key {
    pub kid: String,
    pub kty: String,
    pub alg: String,
    #[serde(rename = "use")]
    pub use_: String,
    pub n: String,
    pub e: String,
}

/// An account of a person or a service. Never contains a password hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    /// Arbitrary key-value labels, such as a team or a location.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The id of a thumbnail image file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thumbnail_file_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadUserByTokenResponse {
    pub user: User,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_organization_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveSelfRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: Option<String>,
    /// Key-value labels; replaces all existing labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::labels")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The id of a thumbnail image file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub thumbnail_file_id: Option<String>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangePasswordRequest {
    /// Your slug; optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    #[schemars(schema_with = "form::text::<4096>")]
    pub current_password: String,
    #[schemars(schema_with = "form::text::<4096>")]
    pub new_password: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevokeTokensRequest {
    /// End the session on this device instead of the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The account whose sessions end; the caller by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub user_id: Option<String>,
    /// End all sessions of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_tokens: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IsAuthorizedRequest {
    /// Slugs of accounts that are authorized regardless of their permissions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub granted_slugs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IsAuthorizedResponse {
    pub authorized: bool,
    pub user: User,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadSelfRequest {
    /// Whether to count the account's sessions.
    #[serde(skip_serializing_if = "is_false")]
    pub count_tokens: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadSelfResponse {
    pub user: User,
    /// The ids of the account's roles.
    pub roles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_organization_id: String,
    /// Number of sessions of the account, if requested.
    pub token_count: u64,
}

/// Selects accounts by a query object, or by the simpler fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetUsersRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<query::Query>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Accounts with this contact, or with a word in the slug or name that starts with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub search: Option<String>,
    /// Accounts with this contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<400>")]
    pub contact_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Results after this time, in the chosen order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_time: Option<Time>,
    /// `asc` or `desc` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["asc", "desc", ""]))]
    pub order: Option<String>,
    /// `createdAt` (default) or `updatedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["createdAt", "updatedAt", ""]))]
    pub order_by: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub count: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetUsersResponse {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    pub after: Time,
    /// Total number of matches, if requested.
    pub count: u64,
    /// Cursor of the next page, to be sent as `jsonAfter` with the same query; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// The data of a new account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInput {
    /// Generated if omitted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::account_id_if_any")]
    pub id: String,
    #[schemars(schema_with = "form::given_name::<256>")]
    pub name: String,
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// At most one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub contacts: Vec<ContactInput>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "form::labels")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub thumbnail_file_id: String,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateUserRequest {
    pub user: UserInput,
    /// If omitted, the account cannot sign in until it has a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: Option<String>,
    /// `user-svc:user` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 32>")]
    pub role_ids: Option<Vec<String>>,
    /// The host of the app in which the roles apply; the caller's app by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// At most one; can be given here or in `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub contacts: Vec<ContactInput>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateUserResponse {
    pub user: User,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetPasswordRequest {
    #[schemars(schema_with = "form::text::<4096>")]
    pub new_password: String,
}

/// A session: an account signed in on a device. Does not contain the token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    pub id: String,
    pub user_id: String,
    pub app_id: String,
    /// Name of the device given at sign-in; sign-ins without a device share the session `unknown`.
    pub device: String,
    pub created_at: Time,
    /// The last use; accurate to the hour if the daemon was restarted since.
    pub used_at: Time,
    /// Whether it is the session of this request.
    #[serde(skip_serializing_if = "is_false")]
    pub current: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsRequest {
    /// The account; the caller by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub user_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsResponse {
    pub sessions: Vec<Session>,
}
