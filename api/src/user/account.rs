//! Wire types of accounts, their sessions and keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Contact, ContactInput, Organization, is_false};
use crate::{Time, form, query};

/// `{}`.
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
    /// What the session is called; sessions that name none share `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The code of an invitation, while registration is by invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub invitation: Option<String>,
    /// The host of the app to register in; `unnamed` where it is left out.
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
    /// A verified contact of the account, instead of the slug; with a code that was sent there, instead of the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// What the session is called, for example `cli@host`; sessions that name none share `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The host of the app to sign in to; `unnamed` where it is left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoginResponse {
    pub token: AuthToken,
}

/// A session and the token that stands for it.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthToken {
    pub id: String,
    /// The app in which its roles count.
    pub app_id: String,
    pub created_at: Time,
    pub updated_at: Time,
    pub user_id: String,
    /// The JSON Web Token to send as `Authorization: Bearer …`.
    pub token: String,
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
    pub device: String,
    /// When the token's text ends (`exp`); the session may live on.
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

/// An account, of a person or a service. Never carries a password hash.
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
    /// Free words by name, such as a team or a place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The id of a file that shows the account.
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
    /// Free words by name; those given take the place of all that were there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::labels")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The id of a file that shows the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub thumbnail_file_id: Option<String>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangePasswordRequest {
    /// The own slug; may be left out.
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
    /// End the session on this device instead of the caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The account whose sessions end; the caller's when left out.
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
    /// Accounts that pass whatever permissions they have.
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
    /// How many sessions the account has, where it was asked for.
    pub token_count: u64,
}

/// Which accounts: by the query object, or by the shorter keys beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetUsersRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<query::Query>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Those who have this contact, or in whose slug or name this is, beginning where a word begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub search: Option<String>,
    /// Those who have this contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<400>")]
    pub contact_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Those after this time, in the order that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_time: Option<Time>,
    /// `asc` or `desc`, the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["asc", "desc", ""]))]
    pub order: Option<String>,
    /// `createdAt`, the usual one, or `updatedAt`.
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
    /// How many pass the filters, where it was asked for.
    pub count: u64,
    /// Where more come: what to send as `jsonAfter` with the same query.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A new account as an admin describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInput {
    /// Given where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::account_id_if_any")]
    pub id: String,
    #[schemars(schema_with = "form::given_name::<256>")]
    pub name: String,
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// One at most.
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
    /// Left out, the account cannot sign in until it is given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: Option<String>,
    /// `user-svc:user` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 32>")]
    pub role_ids: Option<Vec<String>>,
    /// The host of the app in which the roles count; the caller's where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// One at most; may stand here or in the user.
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

/// A session: an account signed in on a device. Its token is not shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    pub id: String,
    pub user_id: String,
    pub app_id: String,
    /// What the session was called at sign-in; programs that name none share `unknown`.
    pub device: String,
    pub created_at: Time,
    /// The last use, to the hour where the daemon was restarted since.
    pub used_at: Time,
    /// Whether it is the one that asks.
    #[serde(skip_serializing_if = "is_false")]
    pub current: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsRequest {
    /// The account; the caller's own where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub user_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsResponse {
    pub sessions: Vec<Session>,
}
